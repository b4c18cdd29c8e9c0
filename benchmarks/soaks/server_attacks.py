"""What comes to a server that strangers can reach, drawn from a seed; and what may answer it.

Whatever is sent, the answer is a status of success or of the sender's mistake, never of the
server's; the server is well afterwards, and its log has no trace of an error.
"""

from __future__ import annotations

import json
import random
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

from soaks.server_process import ServerProcess
from soaks.server_users import API, upload_form

PATHS = (
    "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "/etc/passwd",
    "//etc/passwd", "%2fetc%2fpasswd", "/proc/self/environ", "file:///etc/passwd",
    "http://127.0.0.1:1/", "http://169.254.169.254/latest/meta-data/", "https://example.com/",
    "/zegment-files/../../etc/passwd", "/zegment-files/..%2f..%2fetc/passwd",
    "/zegment-files//etc/passwd", "/zegment-files/%00", "/zegment-files/" + "a" * 300,
    "/zegment-files/" + "a/" * 2000, "/zegment-files/.", "/zegment-files/", "/zegment-files/link",
    "C:\\Windows\\win.ini", "\\\\server\\share", "~root/.ssh/id_rsa", "%ff%fe", "%ed%a0%80",
)  # fmt: skip
"""Files that nobody may have, as addresses name them; ``link`` leads out of the folder."""

FILE_NAMES = (
    "<img src=x onerror=window.broken=1>.png", 'a" ; filename="b.png', "a'b.png", "\u202egnp.exe",
    "a\u2028b.png", "é" * 120 + ".png", "x" * 251 + ".png", "x" * 2000 + ".png", "../../up.png",
    "/etc/cron.d/a.png", "..\\..\\a.png", "..", ".", ".png", "con.png", "nul", "a\x00b.png",
    "a%0d%0aX-Broken: 1.png", "a;b.png", "$(id).png", "`id`.png", "{{7*7}}.png", "%s%n.png", " ",
    "-rf", "a.png/", "\U0001f41b.png", "a\tb.png",
)  # fmt: skip
"""Names of uploads: markup, control, other directions, paths, too long."""

WORDS = (
    "<img src=x onerror=window.broken=1>", "<script>window.broken=1</script>, grass",
    "</style><script>window.broken=1</script>", '"><svg onload=window.broken=1>, sand',
    "javascript:window.broken=1, grass", "{{constructor.constructor('window.broken=1')()}}",
    "grass\u0000", "grass\u001b[31m, sand", "\u202egrass", "e\u0301" * 40, "\ufeff", "\u200b",
    "\U0001f41b, \U0001f33f", "ﷺ" * 90, "Z" + "\u0300" * 99, "[1, 2]", "a|", "|", ",,,", "a, a",
    "\ud800", "a" * 100_000, ", ".join(map(str, range(201))), ",".join(map(str, range(20_000))),
    "%s %n %x", "${jndi:ldap://127.0.0.1:1/a}", "'; DROP TABLE classes; --", "../../etc/passwd",
    "\n" * 500, "=cmd|' /C calc'!A0", "\r\nX-Broken: 1", "null", "NaN", "-1", "🏳️‍🌈|flag",
    "sand\u2028grass",
)  # fmt: skip
"""Class names: markup, control, half characters, formulas, far too many."""

BACKGROUNDS = (
    "none", "threshold:nan", "threshold:inf", "threshold:-1", "threshold:1e999", "threshold:",
    "threshold:" + "9" * 5000, "helpers:", "helpers:<b onclick=window.broken=1>",
    "helpers:" + "a," * 300, "/etc/passwd", "policy.json", "none:x", "\x00", "NONE",
    "helpers:" + "x" * 101,
)  # fmt: skip

NUMBERS = (
    "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 4000, "9" * 5000, "1e-400", "-0",
    "0x10", "true", "null", "1.5", "[]", "{}", '"0.5"', "[[[[]]]]",
)  # fmt: skip


def nested(depth: int, *, brackets: str = "[]") -> str:
    """Return JSON so deep."""
    opening, closing = ('{"a":', "}") if brackets == "{}" else brackets
    return opening * depth + "1" + closing * depth


def bodies(path: str, count: int, *, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield addresses and bodies of requests: right ones with something wrong in them.

    Args:
        path: Of an uploaded picture.
        count: How many.
        seed: Of the mistakes.
    """
    rng = random.Random(seed)  # noqa: S311 - no secret
    for _ in range(count):
        yield rng.choice(_MISTAKES)(path, rng)


def _values(path: str, rng: random.Random) -> list[str]:
    """Return the four values as JSON."""
    return [
        json.dumps({"path": path}), json.dumps(rng.choice(WORDS)),
        json.dumps(rng.choice(BACKGROUNDS)), rng.choice(NUMBERS),
    ]  # fmt: skip


def _wrong_values(path: str, rng: random.Random) -> tuple[str, bytes]:
    """Return a request to the API whose values are drawn from those that mean harm."""
    values = _values(path, rng)
    return f"{API}/call/segment", _json(f'{{"data": [{", ".join(values)}]}}')


def _wrong_words(path: str, rng: random.Random) -> tuple[str, bytes]:
    values = _values(path, rng)
    values[3] = "0.5"
    if rng.random() < 0.5:
        values[2] = '"none"'
    return f"{API}/call/segment", _json(f'{{"data": [{", ".join(values)}]}}')


def _wrong_types(path: str, rng: random.Random) -> tuple[str, bytes]:
    values = _values(path, rng)
    for place in rng.sample(range(4), rng.randint(1, 3)):
        values[place] = rng.choice([*NUMBERS, *_values(path, rng), nested(rng.randint(1, 40))])
    values = values[: rng.choice([4, 4, 4, 0, 3])] + values[: rng.choice([0, 0, 0, 1, 400])]
    return f"{API}/call/segment", _json(f'{{"data": [{", ".join(values)}]}}')


def _wrong_file(path: str, rng: random.Random) -> tuple[str, bytes]:
    places: list[Any] = [*PATHS, "", "\x00", "\ud800", 7, None, [], {"path": path}, "zegment-files"]
    file = {"path": rng.choice(places), "meta": {"_type": "gradio.FileData"}}
    if rng.random() < 0.5:
        file["url"] = rng.choice(["http://127.0.0.1:1/", "file:///etc/passwd", "data:,a", None])
    value: Any = rng.choice([file, [file], {"a": file}, {"path": file}])
    return f"{API}/call/segment", _json(json.dumps({"data": [value, "grass", "none", 0.5]}))


def _page_event(path: str, rng: random.Random) -> tuple[str, bytes]:
    """Return a request as the page makes them, for any event, with anything in it."""
    odd = [*NUMBERS, '"a"', nested(rng.choice([5, 50, 300])), json.dumps("x" * 5000), '"\\ud800"']
    keys = ("session_hash", "fn_index", "trigger_id", "event_data", "batched", "simple_format",
            "event_id", "oauth_token", "request", "batch_trigger_ids")  # fmt: skip
    parts = {"session_hash": '"abc"', "fn_index": str(rng.randint(-1, 20))}
    for key in rng.sample(keys, rng.randint(0, 4)):
        parts[key] = rng.choice(odd)
    found = [["0.5", "[1]"], ["0.5", "[99]"], ["0"], ['"none"']]
    values = rng.choice([[], _values(path, rng), *found])
    parts["data"] = f"[{', '.join(values)}]"
    if rng.random() < 0.3:
        parts["event_data"] = rng.choice(['{"index": [1, 2]}', f'{{"index": [{"9" * 400}, 1]}}'])
    text = ", ".join(f'"{key}": {value}' for key, value in parts.items())
    address = rng.choice(["queue/join", "queue/join", "run/predict", "cancel", "reset"])
    return f"{API}/{address}", _json(f"{{{text}}}")


def _no_json(path: str, rng: random.Random) -> tuple[str, bytes]:
    good = json.dumps({"data": [{"path": path}, "grass", "none", 0.5]}).encode()
    place = rng.randrange(len(good))
    kind = rng.randrange(5)
    if kind == 0:
        return f"{API}/call/segment", good[:place]
    if kind == 1:
        return f"{API}/call/segment", bytes([*good[:place], rng.randrange(256), *good[place + 1 :]])
    if kind == 2:
        return f"{API}/call/segment", rng.randbytes(rng.randrange(400))
    if kind == 3:
        return f"{API}/call/segment", nested(rng.choice([100, 1000, 60_000])).encode()
    return f"{API}/call/segment", nested(rng.choice([100, 1000, 30_000]), brackets="{}").encode()


_MISTAKES: tuple[Callable[[str, random.Random], tuple[str, bytes]], ...] = (
    _wrong_values, _wrong_words, _wrong_words, _wrong_types, _wrong_file, _page_event, _page_event,
    _no_json,
)  # fmt: skip


def _json(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


_TARGETS = (
    "/", "/config", "/health", f"{API}/info", f"{API}/heartbeat/a", f"{API}/upload",
    f"{API}/queue/data?session_hash=a", f"{API}/call/segment", f"{API}/call/segment/a",
    f"{API}/upload_progress?upload_id=a", f"{API}/queue/join", "*", "http://127.0.0.1:1/", "",
    f"{API}/proxy=http://127.0.0.1:1/", f"{API}/file/etc/passwd", f"{API}/deep_link",
    f"{API}/component_server", f"{API}/call/v2/segment", f"{API}/custom_component/1/a/b/c",
    "/static/../../../../etc/passwd", "/assets/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "/login",
    "/theme.css", "/svelte/../../etc/passwd", "/monitoring/summary", "/static/" + "a" * 3000,
    *(f"{API}/file={path}" for path in PATHS),
)  # fmt: skip

_LINES = (
    "Host: evil.example", 'Host: 127.0.0.1:1"><script>', "Host: a\r\n b", "Content-Length: -1",
    "Content-Length: 99999999999999999999", "Content-Length: 5\r\nContent-Length: 6",
    "Transfer-Encoding: chunked", "Transfer-Encoding: gzip, chunked", "Expect: 100-continue",
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: a\r\n"
    "Sec-WebSocket-Version: 13", "Origin: null", "Origin: http://evil.example",
    "Range: bytes=0-1-2", "Range: bytes=0-1", "Range: bytes=5-1", "Range: bytes=\xb2-\xb3",
    "Accept-Encoding: br, gzip", "X-Gradio-Server: http://evil.example:99999",
    "X-Gradio-Server: http://[", "Cookie: a=" + "b" * 4000, "X-Forwarded-Host: evil.example",
    "X-Forwarded-Proto: https, http", "Content-Type: text/html",
    "Content-Type: multipart/form-data", "Content-Type: application/json; charset=utf-7",
    "Content-Type: multipart/form-data; boundary=" + "x" * 300, "A: " + "b" * 70_000,
    "A\x00: b", ": b", "A : b",
)  # fmt: skip

_TAILS = (
    "", "0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", "zz\r\n", "5\r\nhel", "GET / HTTP/1.1\r\n\r\n",
    "{}",
)  # fmt: skip

_METHODS = ("GET",) * 6 + ("POST",) * 6 + ("HEAD", "OPTIONS", "PUT", "TRACE", "\xff", "G T")
_VERSIONS = ("HTTP/1.1",) * 12 + ("HTTP/1.0", "HTTP/2", "HTTP/9.9", "")


def heads(count: int, *, seed: int) -> Iterator[bytes]:
    """Yield bytes that should be requests: right ones with something wrong in them.

    Args:
        count: How many.
        seed: Of the mistakes.
    """
    rng = random.Random(seed)  # noqa: S311 - no secret
    for _ in range(count):
        lines = rng.sample(_LINES, rng.randint(0, 2))
        if not any(line.startswith("Host") for line in lines):
            lines.append("Host: 127.0.0.1")
        begin = f"{rng.choice(_METHODS)} {rng.choice(_TARGETS)} {rng.choice(_VERSIONS)}"
        head = "\r\n".join([begin, *lines, "Connection: close", "", ""])
        raw = (head + rng.choice(_TAILS)).encode("latin-1")
        yield _damaged(raw, rng) if rng.random() < 0.1 else raw


def _damaged(raw: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(raw))
    return rng.choice([raw[:place], raw[:place] + rng.randbytes(4) + raw[place:], raw + raw])


def exchange(server: ServerProcess, raw: bytes, *, patience: float = 0.3) -> bytes:
    """Return the beginning of what the server answers to bytes; nothing if it hangs up or waits.

    Args:
        server: Whom to ask.
        raw: What is sent.
        patience: Seconds after which it is told that nothing more comes.
    """
    with socket.create_connection((server.host, server.port), timeout=patience) as connection:
        try:
            connection.sendall(raw)
            return connection.recv(65536)
        except TimeoutError:
            connection.settimeout(10)
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(65536)
        except ConnectionError:
            return b""


def reset(connection: socket.socket) -> None:
    """End a connection as a crashed program does: at once, with a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def half_upload(server: ServerProcess, content: bytes, rng: random.Random) -> socket.socket:
    """Return a connection through which a part of an upload went."""
    body, kind = upload_form(content)
    head = (
        f"POST {API}/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    raw = head.encode() + body
    connection = socket.create_connection((server.host, server.port), timeout=10)
    connection.sendall(raw[: rng.randrange(1, len(raw) + 1)])
    return connection
