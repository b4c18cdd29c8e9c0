"""What strangers, foreign pages and broken programs get from the server: one line, and no room."""

import contextlib
import io
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zegment.errors import ConfigError
from zegment.segmenter import load
from zegment.serving.limits import Limits
from zegment.serving.settings import ServeSettings

pytest.importorskip("gradio")

import httpx
from live_page import live

from zegment.results import UNKNOWN
from zegment.serving.connections import ImpatientProtocol
from zegment.serving.downloads import legend_table, write_overlay
from zegment.serving.origins import Origins
from zegment.serving.refusal import Refusal
from zegment.serving.results import Finished
from zegment.serving.server import Server
from zegment.serving.storage import Store, remove_abandoned

LIMITS = Limits(max_pixels=128 * 128, max_upload_bytes=100_000, max_stored_files=12)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    settings = ServeSettings(port=0, limits=LIMITS, allowed_hosts=("pictures.example",))
    with live(load("shapes-clip-zss", device="cpu"), settings) as opened:
        yield opened


def png(fill: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), (fill, 90, 30)).save(stream, "PNG")
    return stream.getvalue()


def upload(server: Server, *contents: bytes, **options: Any) -> httpx.Response:
    files = [("files", (f"{k}.png", content)) for k, content in enumerate(contents)]
    return httpx.post(f"{server.address}/gradio_api/upload", files=files, **options)


def call(server: Server, data: object, **options: Any) -> httpx.Response:
    url = f"{server.address}/gradio_api/call/segment"
    return httpx.post(url, json={"data": data}, **options)


# Values that an event does not take.


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (1, None, "words is null; expected a text"),
        (2, None, "background is null; expected a text"),
        (2, {"path": "x"}, "background is an object; expected a text"),
        (1, ["cat"], "words is a list; expected a text"),
        (3, None, "opacity is null; expected a number from 0 to 1"),
        (3, "a", "opacity is 'a'; expected a number from 0 to 1"),
        (3, [1], "opacity is a list"),
        (3, 1.5, "opacity is 1.5"),
        (3, True, "opacity is True"),
        (0, "photo.png", "image is 'photo.png'; expected a file"),
        (0, ["photo.png"], "image is a list; expected a file"),
        (0, 7, "image is 7; expected a file"),
    ],
)
def test_values_of_a_wrong_type_are_answered_with_the_fields_name(
    server: Server, capfd: pytest.CaptureFixture[str], place: int, value: object, message: str
) -> None:
    data: list[object] = [{"path": upload(server, png()).json()[0]}, "cat", "none", 0.5]
    data[place] = value
    answer = call(server, data)
    assert answer.status_code == 422
    assert message in answer.json()["detail"]
    assert tempfile.gettempdir() not in answer.text
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "data has 0 values; expected 4: image, words, background, opacity"),
        ([None] * 5, "data has 5 values"),
        ("cat", "no list of values"),
        (None, "no list of values"),
    ],
)
def test_a_wrong_number_of_values_is_told(server: Server, data: object, message: str) -> None:
    answer = call(server, data)
    assert answer.status_code == 422
    assert message in answer.json()["detail"]


def test_events_of_the_page_take_no_other_values_and_do_not_pass_the_queue(
    server: Server,
) -> None:
    config = httpx.get(f"{server.address}/config").json()
    base = f"{server.address}/gradio_api"
    for event in config["dependencies"]:
        wrong = [{"path": "/etc/passwd"}] * (len(event["inputs"]) + 1)
        body = {"data": wrong, "fn_index": event["id"], "session_hash": "a"}
        assert httpx.post(f"{base}/queue/join", json=body).status_code in (404, 422)
        if event["queue"]:
            assert httpx.post(f"{base}/run/predict", json=body).status_code in (404, 422)
            body["data"] = []
            assert httpx.post(f"{base}/run/predict", json=body).status_code in (404, 422)
    body = {"data": [], "fn_index": 999, "session_hash": "a"}
    assert httpx.post(f"{base}/queue/join", json=body).status_code == 404
    scripts = [event["id"] for event in config["dependencies"] if not event["backend_fn"]]
    assert scripts
    for number in scripts:
        body = {"data": [], "fn_index": number, "session_hash": "a"}
        assert httpx.post(f"{base}/queue/join", json=body).status_code == 404


def test_an_unknown_event_leaves_no_traceback(
    server: Server, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.ERROR):
        for path in ("call/segment/none", "queue/data?session_hash=none"):
            answer = httpx.get(f"{server.address}/gradio_api/{path}")
            assert "404" in answer.text
    assert "Traceback" not in caplog.text + capfd.readouterr().err
    assert not caplog.records


# Uploads.


def test_an_upload_holds_one_file_with_a_name(
    server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    several = upload(server, png(1), png(2))
    assert several.status_code == 413
    assert "one picture per request" in several.text
    many = upload(server, *[b"x"] * 100)
    assert many.status_code in (413, 415)
    url = f"{server.address}/gradio_api/upload"
    kind = {"content-type": "multipart/form-data; boundary=b"}
    for head, message in (("", "no name"), ('; filename=""', "no name")):
        body = f'--b\r\nContent-Disposition: form-data; name="files"{head}\r\n\r\n'.encode()
        answer = httpx.post(url, content=body + png() + b"\r\n--b--\r\n", headers=kind)
        assert answer.status_code == 400
        assert message in answer.text
    assert httpx.post(url, content=b"x").status_code == 400
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ('name="file"; filename="a.png"', "whose field is files"),
        ('name="filesX"; filename="a.png"', "whose field is files"),
        ('name="other"; filename=" name=files"', "whose field is files"),
        ("name=\"files\"; filename*=utf-8''a.png", "the file has no name"),
        ('name="files"; other="filename=a.png"', "the file has no name"),
        (
            'name="files"; filename="a.png"\r\nContent-Disposition: form-data; name="x"',
            "whose field is files",
        ),
    ],
)
def test_what_a_form_only_seems_to_hold_is_refused(
    server: Server, caplog: pytest.LogCaptureFixture, head: str, message: str
) -> None:
    url = f"{server.address}/gradio_api/upload"
    kind = {"content-type": "multipart/form-data; boundary=b"}
    body = f"--b\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode()
    answer = httpx.post(url, content=body + png() + b"\r\n--b--\r\n", headers=kind)
    assert answer.status_code == 400
    assert message in answer.text
    assert not caplog.records


def test_a_form_without_an_end_is_refused(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    url = f"{server.address}/gradio_api/upload"
    kind = {"content-type": "multipart/form-data; boundary=b"}
    head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    for body in (head + png(), head + png() + b"\r\n--"):
        answer = httpx.post(url, content=body, headers=kind)
        assert answer.status_code == 400
        assert "the form has no end" in answer.text
    assert httpx.post(url, content=b"x" + head + png(), headers=kind).status_code == 400
    assert not caplog.records


def test_a_picture_that_arrives_byte_by_byte_is_stored_whole(server: Server) -> None:
    content = png(7)
    body = (
        b'--bo\r\nContent-Disposition: form-data; name="files"; filename="a b.png"\r\n\r\n'
        + content
        + b"\r\n--bo--\r\n"
    )
    url = f"{server.address}/gradio_api/upload"
    kind = {"content-type": "multipart/form-data; boundary=bo"}
    pieces = (body[k : k + 1] for k in range(len(body)))
    (path,) = httpx.post(url, content=pieces, headers=kind).json()
    assert httpx.get(f"{server.address}/gradio_api/file={path}").content == content


def test_a_full_store_forgets_the_oldest_and_takes_the_next(server: Server) -> None:
    examples = set(Path(os.environ["GRADIO_TEMP_DIR"]).rglob("shapes-*.png"))
    paths = []
    for fill in range(20):
        answer = upload(server, png(fill))
        assert answer.status_code == 200
        paths += answer.json()
    codes = [httpx.get(f"{server.address}/gradio_api/file={path}").status_code for path in paths]
    assert codes[-1] == 200
    assert codes[0] != 200
    assert examples
    assert all(path.exists() for path in examples)


def test_nobody_can_guess_where_the_upload_or_result_of_another_lies(server: Server) -> None:
    uploads = [upload(server, png()).json()[0] for _ in range(2)]
    assert uploads[0] != uploads[1]
    results = []
    for path in uploads:
        asked = call(server, [{"path": path}, "grass, water", "none", 0.5]).json()["event_id"]
        url = f"{server.address}/gradio_api/call/segment/{asked}"
        results += re.findall(r'"path": "([^"]+)"', httpx.get(url, timeout=30).text)
    assert len(results) == 4
    folders = {Path(path).parent.name for path in (*uploads, *results)}
    assert len(folders) == 4  # overlay and label map of one result lie together
    assert min(map(len, folders)) >= 43  # 256 bits


def test_room_is_made_by_size(tmp_path: Path) -> None:
    store = Store(tmp_path, Limits(max_upload_bytes=100, max_stored_bytes=250))
    for name, age in (("old", 30), ("middle", 20), ("new", 10)):
        (tmp_path / name).write_bytes(b"x" * 70)
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    store.make_room()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["middle", "new"]


@pytest.mark.skipif(os.name != "posix", reason="only there can a process lock a folder")
def test_folders_of_killed_servers_are_removed_and_others_are_not(tmp_path: Path) -> None:
    program = (
        "from zegment.serving.storage import stored_files\n"
        "with stored_files() as folder:\n    print(folder, flush=True)\n    input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        (folder / "upload.png").write_bytes(png())
        young = tmp_path / "zegment-starting-young"
        young.mkdir()
        remove_abandoned(tmp_path)
        assert (folder / "upload.png").exists()
        process.kill()
    remove_abandoned(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [young.name]


# Names and origins.


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:1", 200),
        ("127.0.0.1", 200),
        ("[::1]:7860", 200),
        ("pictures.example", 200),
        ("rebound.example:7860", 421),
        ("localhost.rebound.example", 421),
        ("127.0.0.1.rebound.example", 421),
        ("[::", 421),
    ],
)
def test_only_the_servers_own_names_are_answered(server: Server, host: str, status: int) -> None:
    answer = httpx.get(server.address, headers={"host": host})
    assert answer.status_code == status
    assert (status == 200) or "--allowed-host" in answer.json()["detail"]


def test_where_everybody_may_listen_any_name_will_do_unless_some_are_given() -> None:
    scope = {"headers": [(b"host", b"any.example")]}
    Origins(local_only=False).admit(scope)
    for origins in (
        Origins(local_only=True),
        Origins(local_only=False, names=("mine.example",)),
    ):
        with pytest.raises(Refusal, match=r"not called 'any\.example'"):
            origins.admit(scope)
    with pytest.raises(ConfigError, match="expected a bare name"):
        ServeSettings(allowed_hosts=("https://mine.example",))


def test_headers_of_a_proxy_are_not_believed(server: Server) -> None:
    foreign = {"x-forwarded-host": "evil.example", "forwarded": "host=evil.example"}
    for path in ("/", "/config", "/gradio_api/info"):
        assert "evil.example" not in httpx.get(server.address + path, headers=foreign).text


@pytest.mark.parametrize(
    "origin", ["null", "https://evil.example", "http://127.0.0.1:9", "http://localhost"]
)
def test_foreign_pages_can_neither_ask_nor_read(server: Server, origin: str) -> None:
    headers = {"origin": origin}
    answers = [
        upload(server, png(), headers=headers),
        call(server, [None, "", "none", 0.5], headers=headers),
        httpx.get(f"{server.address}/config", headers=headers),
    ]
    preflight = httpx.options(
        f"{server.address}/gradio_api/upload",
        headers={**headers, "access-control-request-method": "POST"},
    )
    for answer in [*answers, preflight]:
        assert answer.status_code == 403
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_the_own_page_may_ask(server: Server) -> None:
    own = {"origin": server.address}
    answer = upload(server, png(), headers=own)
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]
    proxied = {"origin": "https://pictures.example"}
    assert upload(server, png(), headers=proxied).status_code == 200


@pytest.mark.parametrize("header", [{"host": "rebound.example"}, {"origin": "https://a.example"}])
def test_whether_it_is_well_is_told_to_everybody_and_nothing_else(
    server: Server, header: dict[str, str]
) -> None:
    answer = httpx.get(f"{server.address}/health", headers=header)
    assert (answer.status_code, answer.text) == (200, '{"status": "ok"}')
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert httpx.get(f"{server.address}/health/x", headers=header).status_code in (403, 421)


# Connections and the end.


def test_a_head_that_does_not_arrive_is_not_waited_for(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImpatientProtocol, "head_seconds", 0.5)
    host, port = server.address.removeprefix("http://").split(":")
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for first, then in ((b"", b""), (b"", b"GET / HT"), (whole, b"GET / HT")):
        with socket.create_connection((host, int(port)), timeout=5) as slow:
            if first:
                slow.sendall(first)
                assert slow.recv(4096).startswith(b"HTTP/1.1 200")
            slow.sendall(then)
            began = time.monotonic()
            while slow.recv(4096):  # until it is hung up
                pass
            assert time.monotonic() - began < 3


SLOW = """
import time, typer
from zegment.serving import server
server.STOP_SECONDS = 1
from zegment.segmenter import Segmenter
def segment(*_, **__):
    print("running", flush=True)
    time.sleep(60)
Segmenter.segment = segment
from zegment.commands.serve import serve
typer.run(serve)
"""


def test_sigterm_ends_it_while_the_model_runs(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-u", "-c", SLOW, "--port", "0", "--device", "cpu"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[-1]
            process.stdout.readline()
            for _ in range(100):
                with contextlib.suppress(httpx.TransportError):
                    httpx.get(f"{address}/health")
                    break
                time.sleep(0.1)
            files = {"files": ("a.png", png())}
            (path,) = httpx.post(f"{address}/gradio_api/upload", files=files).json()
            url = f"{address}/gradio_api/call/segment"
            body = {"data": [{"path": path}, "grass, heart", "none", 0.5]}
            event = httpx.post(url, json=body).json()["event_id"]
            where = httpx.URL(address)
            # By hand: the first byte of the answer comes with a heartbeat, after many seconds.
            with socket.create_connection((where.host, where.port), timeout=5) as listening:
                request = f"GET /gradio_api/call/segment/{event} HTTP/1.1\r\nHost: {where.host}"
                listening.sendall(f"{request}\r\n\r\n".encode())
                assert process.stdout.readline().strip() == "running"
                began = time.monotonic()
                process.send_signal(signal.SIGTERM)
                output, problems = process.communicate(timeout=15)
            assert time.monotonic() - began < 5
            assert (process.returncode, output.strip()) == (0, "stopped")
            assert "Traceback" not in problems, problems[-3000:]
            assert not list(tmp_path.glob("zegment-serve-*"))
        finally:
            process.kill()


# Results.


def test_the_overlay_to_take_home_leaves_out_what_is_hidden(tmp_path: Path) -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    image[:20] = 255
    result = load("shapes-clip-zss", device="cpu")(image, ["grass", "water", "heart", "wood"])
    labels = np.zeros((40, 40), np.int32)
    labels[:20] = 2
    object.__setattr__(result, "labels", labels)
    finished = Finished(result=result, stem="a")

    def written(shown: list[int] | None) -> np.ndarray[Any, Any]:
        path = write_overlay(finished, tmp_path, opacity=1, legend=False, shown=shown)
        return np.array(Image.open(path))

    colours = result.colours
    assert (written([0, 2])[5, 5] == colours[2]).all()
    assert (written([0, 2]) == written(None)).all()
    assert (written([0])[5, 5] == 255).all()
    assert (written([0])[35, 35] == colours[0]).all()
    assert (written([])[35, 35] == 0).all()


def test_a_class_called_unknown_is_not_taken_for_the_unknown() -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    result = load("shapes-clip-zss", device="cpu")(image, ["unknown", "grass"])
    assert UNKNOWN not in result.labels
    names = [row["name"] for row in legend_table(Finished(result=result, stem="a"))["classes"]]
    assert names == ["unknown", "grass", "unknown (none of the words)"]
