"""What the server remembers of visitors, in memory and on disk: nothing, once they have gone."""

import contextlib
import errno
import json
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from zegment.segmenter import load
from zegment.serving.limits import Limits
from zegment.serving.settings import ServeSettings

pytest.importorskip("gradio")

from gradio import route_utils
from live_page import live
from soaks.server_process import ServerProcess
from soaks.server_users import API, User, draw_pictures, upload_form

from zegment.serving import server as server_module
from zegment.serving import storage
from zegment.serving import visitors as visitors_module
from zegment.serving.server import Server
from zegment.serving.storage import Store, stored_files


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(visitors_module, "_SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(visitors_module, "_KEEP_SECONDS", 1.0)
    monkeypatch.setattr(server_module, "_TIDY_EVERY", 1)
    segmenter = load("shapes-clip-zss", device="cpu")
    limits = Limits(max_stored_files=40)
    with live(segmenter, ServeSettings(port=0, limits=limits)) as opened:
        yield opened


def visitors_of(page: Server) -> visitors_module.Visitors:
    assert page._uvicorn is not None
    return page._uvicorn._visitors


def remembered(page: Server) -> set[str]:
    visitors = visitors_of(page)
    queue = visitors._page._queue
    return {
        *visitors._page.state_holder.session_data, *visitors._page.state_holder.time_last_used,
        *queue.pending_messages_per_session, *queue.pending_event_ids_session,
        *queue.event_ids_to_events,
    }  # fmt: skip


def until(condition: Callable[[], bool], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def as_process(page: Server) -> ServerProcess:
    host, port = page.address.removeprefix("http://").split(":")
    unknown = Path(os.devnull)
    return ServerProcess(process=None, host=host, port=int(port), storage=unknown, log=unknown)  # type: ignore[arg-type]


def test_of_visitors_who_have_gone_nothing_is_kept(page: Server) -> None:
    server = as_process(page)
    user = User(server)
    path = user.upload(draw_pictures(1, seed=0)[0])
    for number in range(3):
        assert user.segment(path, f"grass, water {number}")
    body = json.dumps({"data": [{"path": path}, "grass, sand", "none", 0.5]}).encode()
    asked = [user.request("POST", f"{API}/call/segment", body).read() for _ in range(2)]
    unfetched = [json.loads(answer)["event_id"] for answer in asked]
    assert until(lambda: set(unfetched) <= remembered(page))
    assert until(lambda: not remembered(page))
    # Names of files go with the files.
    kept = visitors_of(page)._page.temp_file_sets
    assert any(kept)
    for name in Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*.png"):
        name.unlink()
    assert until(lambda: not any(kept))


def test_an_open_page_is_remembered_and_forgotten_when_it_closes(page: Server) -> None:
    server = as_process(page)
    config = json.loads(User(server).request("GET", "/config").read())
    (event,) = [
        one["id"] for one in config["dependencies"]
        if one["targets"] and one["targets"][0][1] == "change"
    ]  # fmt: skip
    heart = socket.create_connection((server.host, server.port), timeout=10)
    heart.sendall(f"GET {API}/heartbeat/visitor-1 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    came = b""
    while b"ALIVE" not in came:
        came += heart.recv(65536)
    body = {"data": ["helpers"], "fn_index": event, "session_hash": "visitor-1"}
    asked = User(server).request("POST", f"{API}/queue/join", json.dumps(body).encode())
    assert asked.status == 200
    stream = User(server).request("GET", f"{API}/queue/data?session_hash=visitor-1")
    assert "process_completed" in stream.read().decode()
    time.sleep(1.5)
    assert "visitor-1" in remembered(page)
    heart.close()
    assert until(lambda: "visitor-1" not in remembered(page))


def test_asking_again_and_again_does_not_fill_the_disk(page: Server) -> None:
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    store = Store(folder, Limits(max_stored_files=40))
    user = User(as_process(page))
    path = user.upload(draw_pictures(1, seed=0)[0])
    most = 0
    for number in range(40):
        with contextlib.suppress(ValueError):  # the picture itself may have had to go
            user.segment(path, "grass, sand")
        if number % 10 == 9:
            path = user.upload(draw_pictures(1, seed=number)[0])
        most = max(most, len(list(store._files())))
    assert most <= 45


def test_files_are_removed_several_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two, remove = threading.Barrier(2), shutil.rmtree
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def rmtree(path: Path, *, ignore_errors: bool) -> None:
        if path.parent != tmp_path:
            two.wait(10)
        remove(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(storage.shutil, "rmtree", rmtree)
    with stored_files() as folder:
        for number in range(20):
            (folder / f"{number}").mkdir()
            (folder / f"{number}" / "picture.png").touch()
    assert not list(tmp_path.iterdir())


def test_what_nobody_waits_for_does_not_hold_up_the_end(
    page: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, over = threading.Event(), threading.Event()

    def segment(*_: object, **__: object) -> None:
        running.set()
        over.wait(60)

    monkeypatch.setattr(page.segmenter, "segment", segment)
    server = as_process(page)
    user = User(server)
    path = user.upload(draw_pictures(1, seed=0)[0])
    for number in range(8):
        body = json.dumps({"data": [{"path": path}, f"grass, {number}", "none", 0.5]}).encode()
        event = json.loads(user.request("POST", f"{API}/call/segment", body).read())["event_id"]
        with socket.create_connection((server.host, server.port), timeout=10) as listening:
            listening.sendall(
                f"GET {API}/call/segment/{event} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            )
            assert number or running.wait(10)
    page.stop()
    try:
        assert until(lambda: "zegment-serve" not in {t.name for t in threading.enumerate()}, 20)
    finally:
        over.set()


def test_looking_through_what_is_stored_makes_no_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def count(*parts: object) -> Path:
        made.append(parts)
        return Path(*map(str, parts))

    store = Store(tmp_path, Limits())
    for number in range(5):
        (tmp_path / f"folder {number}").mkdir()
        (tmp_path / f"folder {number}" / "file").touch()
    names = [str(path) for path in tmp_path.rglob("file")]
    monkeypatch.setattr(storage, "Path", count)
    monkeypatch.setattr(visitors_module, "Path", count, raising=False)
    store.sweep()
    store.make_room()
    assert visitors_module._missing([*names, "gone"]) == {"gone"}
    assert made == []


def test_the_model_runs_in_one_thread_whoever_asks(
    page: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, segment = set(), page.segmenter.segment

    def note(*args: object, **options: object) -> object:
        threads.add(threading.current_thread())
        return segment(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(page.segmenter, "segment", note)
    server, picture = as_process(page), draw_pictures(1, seed=0)[0]

    def ask(number: int) -> None:
        user = User(server)
        for _ in range(3):
            assert user.segment(user.upload(picture), f"grass, water {number}")
            user.fetch(user.upload(picture))

    with ThreadPoolExecutor(6) as users:
        list(users.map(ask, range(6)))
    assert len(threads) == 1


def test_the_page_is_told_when_an_upload_is_refused_halfway(page: Server) -> None:
    server = as_process(page)
    progress = socket.create_connection((server.host, server.port), timeout=10)
    target = f"{API}/upload_progress?upload_id=one"
    progress.sendall(
        f"GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    )
    body, kind = upload_form(draw_pictures(1, seed=0)[0])
    body = body.removesuffix(b"--\r\n") + b"\r\n" + body  # a second file
    head = (
        f"POST {API}/upload?upload_id=one HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((server.host, server.port), timeout=10) as upload:
        upload.sendall(head.encode() + body[:500])
        time.sleep(0.5)
        upload.sendall(body[500:])
        assert upload.recv(100).startswith(b"HTTP/1.1 413")
    with contextlib.closing(progress):
        assert b"data: " in b"".join(iter(lambda: progress.recv(65536), b""))  # which ends


def test_a_full_disk_is_told_in_one_line(
    page: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    user, picture = User(as_process(page)), draw_pictures(1, seed=0)[0]
    path = user.upload(picture)
    with monkeypatch.context() as full:
        full.setattr(storage.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
        with pytest.raises(ValueError, match=r"507 the disk of the server is full.*try again"):
            user.upload(picture)
        with pytest.raises(ValueError, match=r"error: .*the disk of the server is full"):
            user.segment(path, "grass, sand")
    (line,) = [record.getMessage() for record in caplog.records]  # its owner is told once
    assert "has 1000 bytes left" in line
    assert "Traceback" not in capfd.readouterr().err
    assert user.segment(user.upload(picture), "grass, sand")


def under_way(page: Server) -> list[Path]:
    return [path for path in Path(os.environ["GRADIO_TEMP_DIR"]).iterdir() if path.is_file()]


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("step", ["write", "seek"])
def test_a_disk_that_fills_while_an_upload_comes_refuses_it_and_leaves_nothing_of_it(
    page: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    reason: int, step: str,
) -> None:  # fmt: skip
    async def fail(*_: object) -> None:
        assert under_way(page)
        raise OSError(reason, os.strerror(reason))

    user, picture = User(as_process(page)), draw_pictures(1, seed=0)[0]
    with monkeypatch.context() as full:
        full.setattr(route_utils.GradioUploadFile, step, fail)
        with pytest.raises(ValueError, match=r"^507 the disk of the server is full.*try again"):
            user.upload(picture)
        assert until(lambda: not under_way(page))
    assert "Traceback" not in capfd.readouterr().err
    assert user.segment(user.upload(picture), "grass, sand")


def test_another_error_of_the_disk_is_logged_and_leaves_nothing_of_the_upload(
    page: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object) -> None:
        raise OSError(errno.EIO, "broken at /secret/place")

    user, picture = User(as_process(page)), draw_pictures(1, seed=0)[0]
    with monkeypatch.context() as broken:
        broken.setattr(route_utils.GradioUploadFile, "write", fail)
        with pytest.raises(ValueError, match=r"^500 Internal Server Error$"):
            user.upload(picture)
        assert until(lambda: not under_way(page))
    assert until(lambda: "broken at /secret/place" in caplog.text)
    assert user.upload(picture)


def test_an_upload_that_is_broken_off_leaves_nothing(page: Server) -> None:
    server = as_process(page)
    body, kind = upload_form(draw_pictures(1, seed=0)[0] + bytes(100_000))
    head = (
        f"POST {API}/upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((server.host, server.port), timeout=10) as upload:
        upload.sendall(head.encode() + body[:50_000])
        assert until(lambda: len(under_way(page)) == 1)
    assert until(lambda: not under_way(page))
