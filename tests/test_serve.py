"""The server: HTTP API, limits, and what does not get in or out."""

import contextlib
import io
import json
import os
import re
import socket
import subprocess
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from zegment.data.shapes import draw_scenes
from zegment.errors import ConfigError, ImageError, VocabularyError
from zegment.segmenter import Segmenter, load
from zegment.serving.limits import Limits, parse_policy, parse_words, read_upload
from zegment.serving.settings import ServeSettings, listen

pytest.importorskip("gradio")

import httpx
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from live_page import live

from zegment.serving.rendering import describe_pixel, legend_html, paint_result, shown_size
from zegment.serving.results import Finished, ResultGoneError, ResultStore, safe_stem
from zegment.serving.server import Server
from zegment.serving.storage import Store, VisitorFiles

DOCS = Path(__file__).parent.parent / "docs" / "serving.md"
LIMITS = Limits(max_pixels=128 * 128, max_upload_bytes=100_000, max_waiting=3, upload_seconds=1.5)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return load("shapes-clip-zss", device="cpu")


@pytest.fixture(scope="module")
def server(segmenter: Segmenter) -> Iterator[Server]:
    with live(segmenter, ServeSettings(port=0, limits=LIMITS)) as opened:
        yield opened


@pytest.fixture(scope="module")
def client(server: Server) -> Client:
    return Client(server.address, verbose=False)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("scenes")
    paths = [folder / f"scene {i}.png" for i in range(2)]
    for path, image in zip(paths, draw_scenes(7, [1, 2]).images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def ask(client: Client, path: Path, words: str, background: str = "none") -> tuple[Any, ...]:
    return client.predict(handle_file(path), words, background, 0.55, api_name="/segment")


def upload(server: Server, name: str, content: bytes) -> httpx.Response:
    return httpx.post(f"{server.address}/gradio_api/upload", files={"files": (name, content)})


def call(server: Server, *data: object) -> httpx.Response:
    """Ask without the client, and return the stream of the answer."""
    base = f"{server.address}/gradio_api/call/segment"
    asked = httpx.post(base, json={"data": [*data]})
    if asked.status_code != 200:
        return asked
    return httpx.get(f"{base}/{asked.json()['event_id']}", timeout=30)


def png(*shape: int) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 9, shape, np.uint8)
    Image.fromarray(noise).save(stream, "PNG")
    return stream.getvalue()


# The HTTP API.


def test_api_returns_the_segmenters_labels_and_shares(
    client: Client, segmenter: Segmenter, scenes: list[Path]
) -> None:
    overlay, labels, legend = ask(client, scenes[0], "grass, water, heart, wood")
    expected = segmenter(scenes[0], ["grass", "water", "heart", "wood"])
    np.testing.assert_array_equal(np.array(Image.open(labels)), expected.labels)
    assert Image.open(overlay).size == (96, 96)
    assert [entry["name"] for entry in legend["classes"][:-1]] == list(expected.class_names)
    shares = {entry["name"]: entry["share"] for entry in legend["classes"][:-1]}
    assert shares == pytest.approx(expected.share())
    assert (legend["width"], legend["height"], legend["background"]) == (96, 96, "none")


def test_background_policy_reaches_the_model(
    client: Client, segmenter: Segmenter, scenes: list[Path]
) -> None:
    _, labels, legend = ask(client, scenes[0], "heart, grass", "threshold:0.9")
    expected = segmenter(scenes[0], ["heart", "grass"], background="threshold:0.9")
    assert (expected.labels == -1).any()
    stored = np.where(expected.labels == -1, 255, expected.labels)
    np.testing.assert_array_equal(np.array(Image.open(labels)), stored)
    assert legend["classes"][-1] == {
        "id": 255, "name": "unknown", "colour": None,
        "share": pytest.approx((expected.labels == -1).mean()),
    }  # fmt: skip


def test_without_words_the_models_own_classes_are_asked_for(
    client: Client, segmenter: Segmenter, scenes: list[Path]
) -> None:
    legend = ask(client, scenes[0], "")[2]
    assert segmenter.vocabulary is not None
    names = [entry["name"] for entry in legend["classes"][:-1]]
    assert names == list(segmenter.vocabulary.class_names)


def test_visitors_at_the_same_time_get_their_own_results(
    server: Server, segmenter: Segmenter, scenes: list[Path]
) -> None:
    words = ["grass, water, wood", "heart, sand"]
    clients = [Client(server.address, verbose=False) for _ in words]
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(ask, *each) for each in zip(clients, scenes, words, strict=True)]
        answers = [job.result() for job in jobs]
    for path, text, (_, labels, _) in zip(scenes, words, answers, strict=True):
        expected = segmenter(path, text.split(", "))
        np.testing.assert_array_equal(np.array(Image.open(labels)), expected.labels)


def test_documented_programs_run(
    server: Server, scenes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    text = DOCS.read_text(encoding="utf-8").replace("http://127.0.0.1:7860", server.address)
    Image.open(scenes[0]).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(program, "serving.md", "exec"), names)  # noqa: S102 - it is our own page
    assert names["label_map"].shape == (96, 96)
    assert "heart" in capsys.readouterr().out
    (script,) = re.findall(r"```sh\n(SERVER=.*?)```", text, re.DOTALL)
    with contextlib.suppress(FileNotFoundError):  # no curl, no test of it
        subprocess.run(["curl", "--version"], check=True, capture_output=True)  # noqa: S607
        ran = subprocess.run(["sh", "-c", script], check=True, capture_output=True, text=True)  # noqa: S607
        assert "event: complete" in ran.stdout
        assert "photo.labels.png" in ran.stdout


def test_only_segment_is_offered_to_programs(server: Server) -> None:
    offered = httpx.get(f"{server.address}/gradio_api/info").json()
    assert list(offered["named_endpoints"]) == ["/segment"]
    assert offered["unnamed_endpoints"] == {}
    config = httpx.get(f"{server.address}/config").json()
    public = [d["api_name"] for d in config["dependencies"] if d["api_visibility"] != "private"]
    assert public == ["segment"]


# What is refused.


@pytest.mark.parametrize(
    ("words", "background", "message"),
    [
        (
            ", ".join(f"word {i}" for i in range(201)),
            "none",
            "the words are 201 words; at most 200",
        ),
        ("cat", f"helpers:{','.join(f'a{i}' for i in range(201))}", "of the background are 201"),
        ("a" * 101, "none", "101 characters"),
        ("," * 30_000, "none", "30000 characters"),
        ("cat, dog, cat", "none", "cat"),
        ("cat", "threshold:2", "'2'; expected a number from 0 to 1"),
        ("cat", "threshold:nan", "expected a number from 0 to 1"),
        ("cat", "/etc/policy.json", "expected none, threshold"),
    ],
)
def test_bad_words_and_backgrounds_are_refused_with_a_remedy(
    client: Client, scenes: list[Path], words: str, background: str, message: str
) -> None:
    with pytest.raises(AppError, match=re.escape(message)):
        ask(client, scenes[0], words, background)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("text.png", b"this is no picture at all", "not a picture"),
        ("page.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
        ("print.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        ("empty.png", b"", "empty"),
    ],
    ids=["text", "svg", "eps", "empty"],
)
def test_files_that_are_no_pictures_are_not_stored(
    server: Server, name: str, content: bytes, message: str
) -> None:
    folder = Path(os.environ["GRADIO_TEMP_DIR"])
    before = set(folder.rglob("*"))
    refused = upload(server, name, content)
    assert refused.status_code == 415
    assert message in refused.text
    assert not refused.text.startswith("{")  # the page shows it as it comes
    assert set(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("large.png", png(129, 128), "128 x 129 = 16512 pixels; at most 16384"),
        ("cut.png", png(60, 60)[:300], "cannot be decoded"),
    ],
    ids=["large", "cut"],
)
def test_bad_pictures_are_refused(server: Server, name: str, content: bytes, message: str) -> None:
    (path,) = upload(server, name, content).json()
    answer = call(server, {"path": path}, "cat", "none", 0.5)
    assert "event: error" in answer.text
    assert message in answer.text
    assert "zegment-files" not in answer.text
    assert tempfile.gettempdir() not in answer.text


def test_a_format_that_is_not_taken_is_named(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.new("RGB", (4, 4)).save(path, "PPM")
    with pytest.raises(ImageError, match="PNG, JPEG, WebP, TIFF, BMP or GIF"):
        read_upload(path, Limits())


def test_pixels_are_counted_before_they_are_decoded(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.png"
    # The head of a file of many pixels, none of which is there.
    whole = bytearray(png(2, 2))
    for side, message in (
        (40_000, "far too many pixels; at most 16000000"),
        (5_000, "= 25000000 pixels; at most 16000000"),
    ):
        whole[16:24] = side.to_bytes(4, "big") * 2
        whole[29:33] = zlib.crc32(whole[12:29]).to_bytes(4, "big")
        bomb.write_bytes(whole)
        with pytest.raises(ImageError, match=message):
            read_upload(bomb, Limits())


@pytest.mark.parametrize("size", [(65_536, 2), (2, 65_536)])
def test_a_strip_that_is_too_long_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("L", size).save(tmp_path / "strip.png")
    with pytest.raises(ImageError, match="at most 65535 on a side are accepted; cut it"):
        read_upload(tmp_path / "strip.png", Limits())
    assert read_upload(tmp_path / "strip.png", Limits(max_side=65_536)).shape[:2] == size[::-1]


@pytest.mark.parametrize("before", [b"", b"\xff\xff", b"\xff\x01", b"\xff\xfe\0\x04\xff\xd9"])
def test_a_jpeg_that_goes_over_its_pixels_again_and_again_is_refused(
    tmp_path: Path, before: bytes
) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), (9, 90, 30)).save(stream, "JPEG", progressive=True)
    whole = stream.getvalue()
    end = whole.rindex(b"\xff\xd9")
    scan = before + whole[whole.rindex(b"\xff\xda") : end]
    path = tmp_path / "picture.jpg"
    path.write_bytes(whole)
    plain = read_upload(path, Limits())
    # What cameras put behind the picture is none of it.
    path.write_bytes(whole[:end] + 50 * scan + whole[end:] + 200 * scan)
    assert (read_upload(path, Limits()) == plain).all()
    path.write_bytes(whole[:end] + 200 * scan + whole[end:])
    with pytest.raises(ImageError, match="goes over its pixels more than 100 times"):
        read_upload(path, Limits())


def test_oversized_uploads_are_refused(server: Server) -> None:
    assert upload(server, "big.png", b"x" * 200_000).status_code == 413

    def endless() -> Iterator[bytes]:  # without a length that could be checked in advance
        yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
        yield png(4, 4)
        for _ in range(100):
            yield b"x" * 10_000

    kind = {"content-type": "multipart/form-data; boundary=b"}
    url = f"{server.address}/gradio_api/upload"
    with contextlib.suppress(httpx.TransportError):  # hung up on while sending, as it should be
        assert httpx.post(url, content=endless(), headers=kind).status_code == 413
    assert upload(server, "big.png", b"x" * 200_000).text.endswith("at most 0.11 MiB are accepted")
    big = httpx.post(f"{server.address}/gradio_api/call/segment", json={"data": ["x" * 300_000]})
    assert big.status_code == 413


def test_slow_and_aborted_uploads_leave_the_server_well(server: Server) -> None:
    host, port = server.address.removeprefix("http://").split(":")
    head = (
        f"POST /gradio_api/upload HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5000\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nhalf'
    )
    with socket.create_connection((host, int(port))) as aborted:
        aborted.sendall(head.encode())
    with socket.create_connection((host, int(port)), timeout=10) as slow:
        slow.sendall(head.encode())
        assert slow.recv(100).startswith(b"HTTP/1.1 408")
    assert httpx.get(f"{server.address}/health").json() == {"status": "ok"}


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/zegment-files/../../etc/passwd",
        "/zegment-files//etc/passwd",
        "/zegment-files/a/../../../etc/passwd",
        "http://127.0.0.1:9/secret",
        "C:\\secret.txt",
        "",
    ],
)
def test_no_other_file_of_the_server_can_be_named(server: Server, path: str) -> None:
    assert call(server, {"path": path}, "cat", "none", 0.5).status_code == 403
    nested = {"path": path, "url": "data:image/png;base64,AAAA"}
    assert call(server, [nested], "cat", "none", 0.5).status_code == 422
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw:  # nothing tidied up
        raw.sendall(f"GET /gradio_api/file={path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert raw.recv(100).startswith((b"HTTP/1.1 403", b"HTTP/1.1 307"))


def test_a_data_url_is_not_decoded(server: Server, scenes: list[Path]) -> None:
    (path,) = upload(server, "a.png", scenes[0].read_bytes()).json()
    url = "data:image/png;base64,AAAA"
    answer = call(server, {"path": path, "url": url}, "grass, heart", "none", 0.5)
    assert "event: complete" in answer.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/proxy=http://127.0.0.1:9/"),
        ("GET", "/gradio_api/file/etc/passwd"),
        ("GET", "/monitoring"),
        ("GET", "/gradio_api/runs"),
        ("GET", "/docs"),
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/login"),
        ("DELETE", "/"),
    ],
)
def test_nothing_else_of_gradio_is_reachable(server: Server, method: str, path: str) -> None:
    assert httpx.request(method, server.address + path).status_code == 404


def test_paths_of_the_server_do_not_occur_in_any_answer(server: Server, scenes: list[Path]) -> None:
    up = upload(server, "../../up.png", scenes[0].read_bytes())
    answers = [
        up,
        call(server, {"path": up.json()[0]}, "grass, heart", "none", 0.5),
        call(server, {"path": "/zegment-files/none.png"}, "grass", "none", 0.5),
        call(server, {"path": up.json()[0]}, None, 3, "x"),
        call(server, "no picture"),
        *(httpx.get(server.address + path) for path in (
            "/", "/config", "/gradio_api/info", "/gradio_api/openapi.json", "/theme.css",
            "/gradio_api/file=/zegment-files/none.png", "/gradio_api/upload_progress",
        )),
    ]  # fmt: skip
    folders = (tempfile.gettempdir(), Path.home(), Path.cwd(), os.environ["GRADIO_TEMP_DIR"])
    for answer in answers:
        for secret in [*(f"{folder}/" for folder in folders), "site-packages", "Traceback"]:
            assert secret not in answer.text, (answer.url, secret)


def test_unexpected_errors_are_not_told_to_visitors(
    server: Server, scenes: list[Path], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("broken at /secret/place")

    monkeypatch.setattr(server.segmenter, "segment", fail)
    (path,) = upload(server, "a.png", scenes[0].read_bytes()).json()
    answer = call(server, {"path": path}, "grass", "none", 0.5)
    assert "event: error" in answer.text
    assert "secret" not in answer.text
    assert "broken at /secret/place" in capsys.readouterr().err


def test_a_full_queue_turns_visitors_away_and_recovers(
    server: Server, scenes: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    free, segment = threading.Event(), server.segmenter.segment

    def wait(*args: Any, **kwargs: Any) -> Any:
        free.wait(20)
        return segment(*args, **kwargs)

    monkeypatch.setattr(server.segmenter, "segment", wait)
    (path,) = upload(server, "a.png", scenes[0].read_bytes()).json()
    base = f"{server.address}/gradio_api/call/segment"
    body = {"data": [{"path": path}, "grass", "none", 0.5]}
    try:
        asked = []
        for _ in range(6):
            asked.append(httpx.post(base, json=body))
            time.sleep(0.2)  # the first leaves the queue for the model
    finally:
        free.set()
    codes = [answer.status_code for answer in asked]
    assert codes[0] == 200
    (full, *_) = [answer for answer in asked if answer.status_code != 200]
    assert full.json() == {
        "detail": "3 requests are waiting already, as many as may; try again in a minute"
    }
    for answer in asked:
        if answer.status_code == 200:
            event = answer.json()["event_id"]
            assert "event: complete" in httpx.get(f"{base}/{event}", timeout=30).text


# The parts.


def test_words_never_name_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("hidden")
    vocabulary = parse_words(str(secret), Limits())
    assert vocabulary is not None
    assert vocabulary.class_names == (str(secret),)
    with pytest.raises(ConfigError, match="expected none"):
        parse_policy(str(tmp_path / "policy.json"), Limits())


def test_words_may_stand_on_lines_and_have_synonyms() -> None:
    vocabulary = parse_words("cat,\nsofa|couch\r\n dog ,", Limits())
    assert vocabulary is not None
    assert vocabulary.class_names == ("cat", "sofa", "dog")
    assert vocabulary.synonyms[1] == ("couch",)
    assert parse_words(" , \n", Limits()) is None
    with pytest.raises(VocabularyError, match="3 words"):
        parse_words("a|b|c", Limits(max_words=2))


def test_limits_and_settings_refuse_impossible_values() -> None:
    with pytest.raises(ConfigError, match="max_pixels is 0"):
        Limits(max_pixels=0)
    with pytest.raises(ConfigError, match="port is 70000"):
        ServeSettings(port=70000)
    assert ServeSettings().local_only
    assert not ServeSettings(host="0.0.0.0").local_only  # noqa: S104 - not listened at


def test_a_taken_port_is_an_error_that_says_so() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}.*--port"):
            listen("127.0.0.1", port)
    with pytest.raises(ConfigError, match="no address of this machine"):
        listen("192.0.2.1", 0)


def test_kept_results_are_bounded_and_the_newest_stays(
    segmenter: Segmenter, scenes: list[Path]
) -> None:
    finished = Finished(result=segmenter(scenes[0], ["heart", "grass"]), stem="a")
    store = ResultStore(2 * finished.nbytes)
    for visitor in ("one", "two"):
        store.put(visitor, finished)
    store.get("one")
    store.put("three", finished)
    assert len(store) == 2
    assert store.get("one") is finished
    with pytest.raises(ResultGoneError, match="press Segment again"):
        store.get("two")
    tight = ResultStore(1)
    tight.put("one", finished)
    tight.put("two", finished)
    assert tight.get("two") is finished
    tight.drop("two")
    assert len(tight) == 0


def test_clicked_pixels_are_found_at_every_size(segmenter: Segmenter, tmp_path: Path) -> None:
    for size, corner in (((1500, 40), (39, 1499)), ((3, 2), (1, 2)), ((96, 96), (95, 95))):
        image = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
        result = segmenter(image, ["heart", "<b>grass</b>"])
        height, width = shown_size(*size)
        assert f"x {corner[0]}, y {corner[1]}" in describe_pixel(result, width - 1, height - 1)
        assert "x 0, y 0" in describe_pixel(result, 0, 0)
        view = paint_result(result, opacity=1, shown=[0, 1])
        assert view.size == (width, height)
        assert "<b>grass" not in legend_html(result, "x") + describe_pixel(result, 0, 0)


def test_hidden_classes_show_the_picture(segmenter: Segmenter, scenes: list[Path]) -> None:
    result = segmenter(scenes[0], ["grass", "water"])
    hidden = paint_result(result, opacity=1, shown=[])
    bare = Image.fromarray(result.image).resize(hidden.size, Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(np.array(hidden), np.array(bare))
    assert paint_result(result, opacity=1, shown=[0, 1]).tobytes() != hidden.tobytes()


def test_sweeping_deletes_old_files_only(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "empty").mkdir()
    lasting = tmp_path / "deep" / "lasting"
    lasting.write_text("lasting")
    store = Store(tmp_path, Limits(keep_seconds=60, upload_seconds=20))
    with store.swept():
        old, new = tmp_path / "deep" / "old", tmp_path / "deep" / "new"
        broken_off, arriving = tmp_path / "tmp1", tmp_path / "tmp2"
        for path in (old, new, broken_off, arriving):
            path.write_text(path.name)
        for path in (old, lasting, tmp_path / "empty"):
            os.utime(path, (0, 0))
        os.utime(broken_off, (time.time() - 30,) * 2)
        store.sweep()
    kept = {path.name for path in tmp_path.rglob("*")}
    assert kept == {"deep", "new", "lasting", "tmp2"}


def test_a_visitors_old_files_give_way_to_new_ones(tmp_path: Path) -> None:
    files = VisitorFiles(Store(tmp_path, Limits()))
    made = [files.new_folder("one", "shown") for _ in range(5)]
    other = files.new_folder("two", "shown")
    assert [folder.exists() for folder in made] == [False, False, True, True, True]
    files.drop("one")
    assert list(tmp_path.iterdir()) == [other]


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("my photo.jpg", "my-photo"),
        ("../../etc/passwd", "passwd"),
        ("<script>.png", "script"),
        ("日本.png", "picture"),
        ("x" * 300, "x" * 60),
    ],
)
def test_downloads_have_safe_names(name: str, stem: str) -> None:
    assert safe_stem(name) == stem


def test_legend_is_valid_json_with_escaped_names_left_alone(
    client: Client, scenes: list[Path]
) -> None:
    legend = ask(client, scenes[0], "<script>alert(1)</script>, grass")[2]
    assert legend["classes"][0]["name"] == "<script>alert(1)</script>"
    json.dumps(legend)
