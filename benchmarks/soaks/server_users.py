"""Users of the HTTP API, many at a time: upload a picture, ask, fetch the label map, ask again.

Each follows the three steps that the documentation gives for curl, over real sockets, and compares
what comes with what came when nobody else was there: load may make an answer late, never another.
"""

from __future__ import annotations

import io
import json
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import numpy as np
from PIL import Image
from soaks.server_process import ServerProcess

API = "/gradio_api"
WORDS = (
    "grass, water, heart, wood", "heart, sand", "", "circle|disc, square, star, grass",
    "water, brick", "wood, sand, star",
)  # fmt: skip
BACKGROUNDS = ("none", "none", "threshold:0.5", "helpers:sky, wall")

_BOUNDARY = "a-line-between-the-parts"


class FullError(Exception):
    """The queue is full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a user asks for.

    Attributes:
        picture: A file.
        words: Of the request.
        background: Of the request.
    """

    picture: bytes
    words: str
    background: str


def draw_pictures(count: int, *, seed: int) -> list[bytes]:
    """Return files of soft colours, 64 to 256 pixels a side, PNG and JPEG in turn."""
    rng = np.random.default_rng(seed)
    files = []
    for number in range(count):
        width, height = (int(side) for side in rng.integers(64, 257, 2))
        soft = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        stream = io.BytesIO()
        soft.resize((width, height), Image.Resampling.BICUBIC).save(
            stream, "JPEG" if number % 2 else "PNG"
        )
        files.append(stream.getvalue())
    return files


def orders(count: int, *, seed: int) -> list[Order]:
    """Return different orders."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    return [
        Order(picture=picture, words=rng.choice(WORDS), background=rng.choice(BACKGROUNDS))
        for picture in draw_pictures(count, seed=seed)
    ]


class User:
    """One user with a connection of his own.

    Args:
        server: Whom to ask.
    """

    def __init__(self, server: ServerProcess) -> None:
        self._connection = HTTPConnection(server.host, server.port, timeout=120)

    def close(self) -> None:
        self._connection.close()

    def request(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> HTTPResponse:
        """Return the beginning of an answer."""
        headers = {} if body is None else {"Content-Type": kind}
        try:
            self._connection.request(method, path, body, headers)
            return self._connection.getresponse()
        except (ConnectionError, OSError):  # the server closes connections that wait
            self._connection.close()
            self._connection.request(method, path, body, headers)
            return self._connection.getresponse()

    def upload(self, content: bytes, name: str = "picture.png") -> str:
        """Return the path of an uploaded file.

        Raises:
            ValueError: With the status and the answer, if it is refused.
        """
        answer = self.request("POST", f"{API}/upload", *upload_form(content, name))
        text = answer.read().decode()
        if answer.status != 200:
            raise ValueError(f"{answer.status} {text}")
        path: str = json.loads(text)[0]
        return path

    def segment(self, path: str, words: str, background: str = "none") -> list[Any]:
        """Return overlay, label map and legend.

        Raises:
            FullError: If too many wait already.
            ValueError: With what was answered, if that is no result.
        """
        body = json.dumps({"data": [{"path": path}, words, background, 0.55]}).encode()
        asked = self.request("POST", f"{API}/call/segment", body)
        text = asked.read().decode()
        if asked.status == 503:
            raise FullError(text)
        if asked.status != 200:
            raise ValueError(f"{asked.status} {text}")
        stream = self.request("GET", f"{API}/call/segment/{json.loads(text)['event_id']}")
        kind, data = last_event(stream.read().decode())
        if kind != "complete":
            raise ValueError(f"{kind}: {data}")
        return list(json.loads(data))

    def fetch(self, path: str) -> bytes:
        """Return a stored file."""
        answer = self.request("GET", f"{API}/file={path}")
        content = answer.read()
        if answer.status != 200:
            raise ValueError(f"{answer.status} {content[:200]!r}")
        return content

    def order(self, order: Order) -> tuple[bytes, str]:
        """Return the label map and the legend."""
        path = self.upload(order.picture)
        _, labels, legend = self.segment(path, order.words, order.background)
        return self.fetch(labels["path"]), json.dumps(legend, sort_keys=True)


def upload_form(content: bytes, name: str = "picture.png") -> tuple[bytes, str]:
    """Return the form that uploads a file, and its kind."""
    head = f'Content-Disposition: form-data; name="files"; filename="{name}"'
    body = b"--%s\r\n%s\r\n\r\n%s\r\n--%s--\r\n" % (
        _BOUNDARY.encode(), head.encode(), content, _BOUNDARY.encode(),
    )  # fmt: skip
    return body, f"multipart/form-data; boundary={_BOUNDARY}"


def last_event(stream: str) -> tuple[str, str]:
    """Return kind and data of the last event of a stream."""
    kind, _, data = stream.rstrip("\n").rpartition("event: ")[2].partition("\ndata: ")
    return kind, data


@dataclass(slots=True, kw_only=True)
class Load:
    """What users met.

    Attributes:
        seconds: From the beginning of the upload to the whole label map, of each answer.
        full: How often the queue was full.
        failures: What else was wrong.
        lasted: Seconds.
    """

    seconds: list[float] = field(default_factory=list)
    full: int = 0
    failures: list[str] = field(default_factory=list)
    lasted: float = 0.0

    def figures(self) -> dict[str, Any]:
        """Return the figures, ready for JSON; times in seconds."""
        p50, p95, p99 = np.percentile(self.seconds or [float("nan")], [50, 95, 99])
        return {
            "answers": len(self.seconds), "seconds": round(self.lasted, 1),
            "answers_per_second": round(len(self.seconds) / max(self.lasted, 1e-9), 2),
            "p50": round(float(p50), 3), "p95": round(float(p95), 3), "p99": round(float(p99), 3),
            "queue_full": self.full,
        }  # fmt: skip


def answers_alone(server: ServerProcess, asked: Sequence[Order]) -> dict[Order, tuple[bytes, str]]:
    """Return what each order is answered with when nobody else asks."""
    user = User(server)
    answers = {order: user.order(order) for order in asked}
    user.close()
    return answers


def press(
    server: ServerProcess,
    right: dict[Order, tuple[bytes, str]],
    *,
    users: int,
    answers: int,
    seconds: float,
    seed: int,
) -> Load:
    """Let users ask at the same time, each for one thing after the other.

    Whoever is turned away waits between a tenth of a second and a second and tries again.

    Args:
        server: Whom to ask.
        right: What may be asked, and the right answer to each.
        users: How many at a time.
        answers: After so many, of all together, they stop.
        seconds: After so long they stop, too.
        seed: Of who asks for what.
    """
    load, lock, began = Load(), threading.Lock(), time.perf_counter()

    def live(number: int) -> None:
        rng, user = random.Random(f"{seed} {number}"), User(server)  # noqa: S311 - no secret
        while len(load.seconds) < answers and time.perf_counter() - began < seconds:
            order = rng.choice(list(right))
            start = time.perf_counter()
            try:
                wrong = user.order(order) != right[order]
            except FullError:
                with lock:
                    load.full += 1
                time.sleep(rng.uniform(0.1, 1.0))
            except (OSError, ValueError, LookupError) as error:
                with lock:
                    load.failures.append(f"user {number} of {users}, seed {seed}: {error!r}"[:300])
                time.sleep(0.1)
            else:
                with lock:
                    load.seconds.append(time.perf_counter() - start)
                    if wrong:
                        load.failures.append(f"user {number} of {users}: another answer")
        user.close()

    threads = [threading.Thread(target=live, args=(number,)) for number in range(users)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.lasted = time.perf_counter() - began
    return load
