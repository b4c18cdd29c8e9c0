"""The server among strangers who mean harm: nothing of it gets out, and nothing of theirs runs."""

import io
import json
import os
import re
import shutil
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("gradio")
if not Path("/proc/self/fd").exists():
    pytest.skip("memory and connections are counted as Linux does", allow_module_level=True)

from soaks.network import HOOK
from soaks.server_attacks import FILE_NAMES, PATHS, bodies, exchange, heads
from soaks.server_process import ServerProcess, served
from soaks.server_users import API, User, draw_pictures, last_event, upload_form

MARKUP = ("<img src=x onerror=window.broken=1>", "</style><script>window.broken=1</script>",
          '"><svg onload=window.broken=1>')  # fmt: skip


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which the server's attempts to reach others are written down."""
    folder = tmp_path_factory.mktemp("watched")
    (folder / "sitecustomize.py").write_text(HOOK, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, watched: Path) -> Iterator[ServerProcess]:
    paths = os.pathsep.join(filter(None, [str(watched), os.environ.get("PYTHONPATH")]))
    variables = {"PYTHONPATH": paths, "SOCKETS_SEEN": str(watched / "seen.txt")}
    with served(tmp_path_factory.mktemp("server"), environment=variables) as started:
        yield started


@pytest.fixture(scope="module")
def user(server: ServerProcess) -> User:
    return User(server)


@pytest.fixture(scope="module")
def path(user: User) -> str:
    return user.upload(draw_pictures(1, seed=0)[0])


@pytest.fixture(scope="module")
def secret(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file outside, with a link to it where uploads are stored."""
    place = tmp_path_factory.mktemp("outside") / "secret.png"
    place.write_bytes(draw_pictures(1, seed=9)[0])
    (server.folder / "link").symlink_to(place)
    (server.folder / "links").symlink_to(place.parent)
    return place


def head_of(server: ServerProcess, target: str, *lines: str) -> bytes:
    """Return what comes for a target, with nothing tidied up on the way."""
    head = "\r\n".join([f"GET {target} HTTP/1.1", "Host: localhost", *lines, "", ""])
    return exchange(server, head.encode(), patience=5)


@pytest.mark.parametrize("seed", [1, 2])
def test_requests_with_anything_in_them_are_answered_and_leave_no_trace(
    server: ServerProcess, user: User, path: str, seed: int
) -> None:
    kinds: Counter[str] = Counter()
    for address, body in bodies(path, 250, seed=seed):
        answer = user.request("POST", address, body)
        text = answer.read().decode()
        assert answer.status < 500, (seed, body[:500])
        if answer.status == 200 and "/call/" in address:
            stream = user.request("GET", f"{address}/{json.loads(text)['event_id']}")
            kind, text = last_event(stream.read().decode())
            assert kind == "complete" or '"error": null' not in text, (seed, body[:500])
            kinds[kind] += 1
        kinds[str(answer.status)] += 1
        assert str(server.storage) not in text
    assert server.complaints == []
    assert set(kinds) >= {"complete", "error", "400", "403", "404", "422"}
    assert server.health() < 5


@pytest.mark.parametrize("seed", [1, 2])
def test_bytes_that_are_hardly_a_request_are_answered_and_leave_no_trace(
    server: ServerProcess, secret: Path, seed: int
) -> None:
    statuses: Counter[bytes] = Counter()
    for raw in heads(150, seed=seed):
        answer = exchange(server, raw, patience=0.1)
        assert b"root:" not in answer
        assert secret.read_bytes()[8:50] not in answer
        if answer:
            statuses[answer[9:10]] += 1
            assert answer[9:10] in (b"1", b"2", b"3", b"4"), (seed, raw[:500], answer[:100])
    assert statuses[b"4"] > 50
    assert server.complaints == []


@pytest.mark.parametrize("target", [*PATHS, "/zegment-files/links/secret.png"])
def test_a_path_leads_to_no_file_but_uploads(
    server: ServerProcess, secret: Path, target: str
) -> None:
    for address in (f"{API}/file={target}", f"/static/{target}", f"/assets/{target}"):
        answer = head_of(server, address.replace(" ", "%20"))
        assert answer[9:12] in (b"403", b"404", b"400"), (address, answer[:200])
        assert b"root:" not in answer
        assert secret.read_bytes()[8:50] not in answer
    assert server.complaints == []


def test_a_link_is_not_followed_by_the_model_either(user: User, path: str, secret: Path) -> None:
    assert secret.exists()
    for alias in ("/zegment-files/link", "/zegment-files/links/secret.png"):
        with pytest.raises(ValueError, match=r"403.*not here"):
            user.segment(alias, "grass")
    assert user.segment(path, "grass, sand")


@pytest.mark.parametrize("name", FILE_NAMES)
def test_names_of_uploads_stay_names(server: ServerProcess, user: User, name: str) -> None:
    picture = draw_pictures(1, seed=4)[0]
    try:
        stored = user.upload(picture, name)
    except ValueError as refused:
        assert re.match(r"4\d\d ", str(refused)), refused  # noqa: PT017 - one of two outcomes
    else:
        folder = server.folder
        place = (folder / stored.removeprefix("/zegment-files/")).resolve()
        assert folder.resolve() == place.parent.parent
        assert not re.search(r"[\x00-\x1f<>\"\\]", place.name)
        _, labels, _ = user.segment(stored, "grass, sand")
        assert re.fullmatch(r"[\w-]+\.labels\.png", Path(labels["path"]).name, re.ASCII)
        head = head_of(server, f"{API}/file={labels['path']}").partition(b"\r\n\r\n")[0]
        assert b"\r\nX-Broken" not in head
    assert server.complaints == []


def test_what_has_no_room_is_refused_in_one_line_and_leaves_no_trace(
    server: ServerProcess, user: User
) -> None:
    import resource  # not on Windows

    large, small = draw_pictures(2, seed=0)
    before = server.descriptors
    hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        assert len(small) < 10_000 < len(large)
        with pytest.raises(ValueError, match=r"^507 the disk of the server is full.*try again"):
            user.upload(large)
        stored = user.upload(small)
        with pytest.raises(ValueError, match=r"^error: .*the disk of the server is full"):
            user.segment(stored, "grass, sand")  # whose overlay is larger
    finally:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
    assert [path for path in server.folder.glob("tmp*") if path.is_file()] == []  # of uploads
    assert server.descriptors <= before + 1
    assert server.complaints == []
    assert user.segment(user.upload(large), "grass, sand")


@pytest.mark.parametrize("target", [f"{API}/upload", f"{API}/call/segment"])
def test_a_body_in_ever_so_many_crumbs_is_refused(server: ServerProcess, target: str) -> None:
    body, kind = upload_form(draw_pictures(1, seed=0)[0])
    if target.endswith("segment"):
        body, kind = json.dumps({"data": ["x" * 30_000]}).encode(), "application/json"
    head = (
        f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
        "Transfer-Encoding: chunked\r\n\r\n"
    )
    crumbs = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    answer = exchange(server, head.encode() + crumbs, patience=10)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400"), answer[:200]
    assert server.complaints == []
    assert server.health() < 5


def test_headers_of_a_request_do_not_come_back(server: ServerProcess, path: str) -> None:
    target = f"{API}/file={path}"
    for line in ("Range: bytes=0-1", "Range: bytes=0-1-2", "Range: bytes=\xb2-3"):
        answer = head_of(server, target, line, "X-Odd: mine", "Cookie: mine=1")
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"mine" not in answer.partition(b"\r\n\r\n")[0]
    for line in ("X-Gradio-Server: http://evil.example:99999", "X-Forwarded-Host: evil.example"):
        answer = head_of(server, "/config", line)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"evil" not in answer
    for host in ('localhost:1"><script>', "localhost:99999999", "localhost/evil", "a b"):
        raw = f"GET /config HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        assert exchange(server, raw, patience=5)[9:12] in (b"421", b"400"), host
    assert server.complaints == []


def test_it_listens_to_its_own_machine_only_and_other_addresses_do_not_reach_it(
    server: ServerProcess,
) -> None:
    assert server.host == "127.0.0.1"
    listening = [
        line.split()[1]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{server.process.pid}/net/{table}").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and line.split()[1].endswith(f":{server.port:04X}")
    ]
    assert listening == [f"0100007F:{server.port:04X}"]
    others = {entry[4][0] for entry in socket.getaddrinfo(socket.gethostname(), None)}
    for other in others - {"127.0.0.1", "127.0.1.1", "::1"}:
        with pytest.raises(OSError, match=r"refused|timed out|unreachable"):
            socket.create_connection((other, server.port), timeout=2)


def test_markup_in_every_field_is_text_on_the_page(server: ServerProcess, tmp_path: Path) -> None:
    tools = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium on the path")
    picture = tmp_path / "<img src=x onerror=window.broken=1>.png"
    picture.write_bytes(draw_pictures(1, seed=5)[0])
    requested, asked = [], []
    with tools.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(20_000)
        page.on("request", lambda request: requested.append(request.url))
        page.on("dialog", lambda dialog: asked.append(dialog.message))
        page.goto(f"http://{server.host}:{server.port}")
        page.wait_for_selector("#zegment-segment")
        page.set_input_files("#zegment-picture input[type=file]", picture)
        page.wait_for_selector("#zegment-picture img")
        page.fill("#zegment-words textarea", ", ".join([*MARKUP, "grass"]))
        page.click("#zegment-background label:nth-of-type(3)")
        page.fill("#zegment-helpers textarea", ", ".join(f"{word} b" for word in MARKUP))
        page.click("#zegment-segment")
        page.wait_for_selector("#zegment-result img")
        notes = "document.getElementById('zegment-notes').innerText"
        page.wait_for_function(f"{notes}.includes('background: ')")
        assert "onerror" in page.evaluate(notes)
        page.locator("#zegment-result img").click()
        page.wait_for_selector("#zegment-pixel b")
        page.fill("#zegment-helpers textarea", f"{MARKUP[0]}, {MARKUP[0]}")
        page.click("#zegment-segment")
        page.wait_for_selector("[data-testid=toast-body]")
        assert "onerror" in page.inner_text("[data-testid=toast-body]")
        assert page.evaluate("window.broken") is None
        assert page.locator("img[src=x]").count() == 0
        framed = browser.new_page()
        framed.set_content(f'<iframe src="http://{server.host}:{server.port}"></iframe>')
        framed.wait_for_timeout(1000)
        assert framed.frames[1].query_selector("#zegment-segment") is None
        browser.close()
    assert asked == []
    ours = f"http://{server.host}:{server.port}/"
    assert [url for url in requested if not url.startswith((ours, "data:", "blob:"))] == []
    assert server.complaints == []


def test_in_the_end_the_server_has_spoken_to_nobody(
    server: ServerProcess, user: User, path: str, watched: Path
) -> None:
    for address in ("http://127.0.0.1:9/", "http://169.254.169.254/", "https://example.com/a.png"):
        body = {"data": [{"path": address, "url": address}, "grass", "none", 0.5]}
        answer = user.request("POST", f"{API}/call/segment", json.dumps(body).encode())
        assert (answer.status, b"not here" in answer.read()) == (403, True)
        assert head_of(server, f"{API}/proxy={address}")[9:12] == b"404"
        assert head_of(server, f"{API}/file={address}")[9:12] == b"403"
    content = user.fetch(user.segment(path, "grass, sand")[1]["path"])
    assert Image.open(io.BytesIO(content)).mode == "P"
    assert not (watched / "seen.txt").exists(), (watched / "seen.txt").read_text()
