"""A small server that speaks the part of the Hub's protocol that models need, and its cache."""

import base64
import hashlib
import json
import re
import shutil
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import constants, file_download

from zegment.clip_loading import asset


def packaged(name: str) -> Path:
    folder = asset(name)
    assert folder is not None
    return folder


def forget_connections() -> None:
    """Make the client ask its constants again, whichever version it is."""
    if hasattr(huggingface_hub, "close_session"):
        huggingface_hub.close_session()
    else:
        huggingface_hub.utils.reset_sessions()


def go_online(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    for module in (constants, file_download):  # earlier versions have a copy in the second
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    forget_connections()


def sha(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()  # noqa: S324 - as git names its objects


@dataclass
class Repository:
    """Commits of a repository, each with all its files, and the names that they go by."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], ref: str = "main") -> str:
        listing = "".join(f"{name}{sha(content)}" for name, content in sorted(files.items()))
        oid = sha(f"{self.refs.get('main')}{listing}".encode())
        self.commits[oid] = dict(files)
        self.refs[ref] = oid
        return oid

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.refs["main"]]


class Stub:
    """A Hub of a few repositories, which remembers what it was asked."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str]] = []
        self.refuse_writing = False
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def add(self, repo_id: str, files: dict[str, bytes], **options: bool) -> Repository:
        self.repositories[repo_id] = Repository(**options)
        self.repositories[repo_id].commit(files)
        return self.repositories[repo_id]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def fetched(self) -> list[str]:
        return [path for kind, path in self.requests if kind == "GET" and "/resolve/" in path]

    def answer(  # noqa: PLR0911 - one return per kind of answer
        self, kind: str, path: str, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and content for a request."""
        self.requests.append((kind, path))
        if path == "/api/validate-yaml":
            return 200, {}, b"{}"
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        found = re.fullmatch(
            r"(?P<api>/api/models)?/(?P<repo>[^/]+/[^/]+?)(?:/(?P<verb>resolve|revision|tree|"
            r"preupload|commit)/(?P<ref>[^/]+)(?:/(?P<file>.+))?)?",
            path,
        )
        repository = self.repositories.get(found["repo"]) if found else None
        if repository is None:
            return 401, {"X-Error-Code": "RepoNotFound"}, b"{}"
        if repository.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b"{}"
        ref = unquote(found["ref"] or "main")
        oid = repository.refs.get(ref, ref)
        if oid not in repository.commits:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        if found["verb"] in ("preupload", "commit"):
            return self._write(repository, found["repo"], found["verb"], body)
        return self._read(repository, found["repo"], oid, found["verb"], found["file"])

    def _create(self, request: dict) -> tuple[int, dict[str, str], bytes]:
        repo_id = f"{request['organization']}/{request['name']}"
        if repo_id in self.repositories:
            return 409, {}, b"{}"
        private = request.get("visibility") == "private" or bool(request.get("private"))
        self.add(repo_id, {".gitattributes": b"*.bin filter=lfs\n"}, private=private)
        return 200, {}, json.dumps({"url": f"{self.url}/{repo_id}"}).encode()

    def _read(
        self, repository: Repository, repo_id: str, oid: str, verb: str | None, file: str | None
    ) -> tuple[int, dict[str, str], bytes]:
        files = repository.commits[oid]
        if verb == "resolve":
            content = files.get(unquote(file or ""))
            if content is None:
                return 404, {"X-Error-Code": "EntryNotFound"}, b""
            return 200, {"ETag": f'"{sha(content)}"', "X-Repo-Commit": oid}, content
        if verb == "tree":
            rows = [
                {"type": "file", "path": name, "size": len(content), "oid": sha(content)}
                for name, content in files.items()
            ]
            return 200, {}, json.dumps(rows).encode()
        info = {
            "id": repo_id, "modelId": repo_id, "sha": oid, "private": repository.private,
            "tags": [], "downloads": 0, "likes": 0,
            "siblings": [{"rfilename": name} for name in files],
        }  # fmt: skip
        return 200, {}, json.dumps(info).encode()

    def _write(
        self, repository: Repository, repo_id: str, verb: str, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        if self.refuse_writing:
            return 403, {}, b"{}"
        if verb == "preupload":
            rows = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return 200, {}, json.dumps({"files": rows}).encode()
        files = dict(repository.files)
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header" and value["parentCommit"] != repository.refs["main"]:
                return 412, {}, b"{}"
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if entry["key"] == "deletedFile":
                del files[value["path"]]
        oid = repository.commit(files)
        answer = {"commitUrl": f"{self.url}/{repo_id}/commit/{oid}", "commitOid": oid}
        return 200, {}, json.dumps({**answer, "success": True}).encode()

    def _handler(stub) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - the handler has a self too
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def reply(self) -> None:
                if "chunked" in self.headers.get("Transfer-Encoding", ""):
                    body = b""
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                else:
                    body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, headers, content = stub.answer(self.command, urlsplit(self.path).path, body)
                self.send_response(status)
                for key, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_HEAD = do_POST = reply  # noqa: N815 - names of the server's

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def content_of(name: str) -> dict[str, bytes]:
    folder = packaged(name)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def fabricate(cache: Path, repo_id: str, files: dict[str, bytes], oid: str = "a" * 40) -> None:
    """Write a repository as the Hub's client lays it out: blobs, snapshots of links, refs."""
    place = cache / f"models--{repo_id.replace('/', '--')}"
    for name in ("blobs", "refs", f"snapshots/{oid}"):
        (place / name).mkdir(parents=True)
    (place / "refs" / "main").write_text(oid)
    for name, content in files.items():
        (place / "blobs" / sha(content)).write_bytes(content)
        (place / "snapshots" / oid / name).symlink_to(f"../../blobs/{sha(content)}")


def edited(tmp_path: Path, name: str, **tables: dict) -> Path:
    """Return a copy of a packaged checkpoint with changes merged into tables of its header."""
    folder = shutil.copytree(packaged(name), tmp_path / "edited")
    header = json.loads((folder / "config.json").read_text())
    for table, change in tables.items():
        header["config"].setdefault(table, {}).update(change)
    (folder / "config.json").write_text(json.dumps(header))
    return folder
