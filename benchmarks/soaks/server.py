"""The server under load and under attack, at length: what `tests/test_serve_load.py` does in short.

An hour of one user who asks every two seconds is 1800 requests; they come as fast as the server
answers four users. Before and after come more users at a time than the queue takes, thousands of
requests that are wrong in some way, connections that say nothing, and visitors who hang up.
"""

from __future__ import annotations

import json
import random
import signal
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from soaks.server_attacks import bodies, exchange, half_upload, heads, reset
from soaks.server_process import ServerProcess, served
from soaks.server_users import (
    API,
    Order,
    User,
    answers_alone,
    draw_pictures,
    last_event,
    orders,
    press,
)

HOUR = 1800
"""Requests of one user who asks every two seconds for an hour."""

RAMP = (1, 4, 16, 64)
"""Users at a time."""

#: Growth of memory, in KiB per request, that is none: names of files that are stored for an hour.
_FLAT_KIB = 4.0

Right = dict[Order, tuple[bytes, str]]


def soak(*, amount: float, seed: int) -> dict[str, Any]:
    """Return figures of a server under load and under attack.

    Args:
        amount: 1 for the published size: 20 seconds of each number of users, an hour of requests,
            2000 wrong bodies, 2000 wrong heads, 2000 silent connections, 400 visitors who hang up.
        seed: Of everything that is drawn.
    """
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name, served(Path(name)) as server:
        right = answers_alone(server, orders(12, seed=seed))
        figures: dict[str, Any] = {
            "seed": seed,
            "ramp": [_load(server, right, users, 20 * amount, seed=seed) for users in RAMP],
            "hour": _hour(server, right, max(int(HOUR * amount), 20), seed=seed),
            "bodies": _wrong_bodies(server, max(int(2000 * amount), 10), seed=seed),
            "heads": _wrong_heads(server, max(int(2000 * amount), 10), seed=seed),
            "silent": _silent(server, right, max(int(2000 * amount), 10), seed=seed),
            "hung_up": _hung_up(server, max(int(400 * amount), 4), seed=seed),
            "memory_mib": round(server.memory / 2**20, 1),
        }
        _end(server, figures)
    failures = [text for part in _parts(figures) for text in part.pop("failures", [])]
    return {**figures, "seconds": round(time.perf_counter() - began, 1), "failures": failures}


def _parts(figures: dict[str, Any]) -> list[dict[str, Any]]:
    return [*figures["ramp"], *(part for part in figures.values() if isinstance(part, dict))]


def _load(
    server: ServerProcess, right: Right, users: int, seconds: float, *, seed: int
) -> dict[str, Any]:
    """Return the figures of so many users, and how long the server's health took meanwhile."""
    healths, ended = [], threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            try:
                healths.append(server.health())
            except OSError as error:
                healths.append(float("nan"))
                failures.append(f"health with {users} users: {error!r}")

    failures: list[str] = []
    watcher = threading.Thread(target=watch)
    watcher.start()
    load = press(server, right, users=users, answers=10**9, seconds=seconds, seed=seed)
    ended.set()
    watcher.join()
    return {
        "users": users, **load.figures(),
        "health_p50": round(float(np.median(healths or [np.nan])), 4),
        "health_worst": round(float(np.max(healths or [np.nan])), 4),
        "failures": [*failures, *load.failures],
    }  # fmt: skip


def _hour(server: ServerProcess, right: Right, requests: int, *, seed: int) -> dict[str, Any]:
    """Return how memory and disk grow while so many requests are answered."""
    done, failures, seconds, peak = 0, [], [], 0
    counts, memories = [], []
    began = time.perf_counter()
    while done < requests:
        step = max(requests // 60, 1)
        load = press(server, right, users=4, answers=step, seconds=120, seed=seed + done)
        failures += load.failures or ([] if load.seconds else ["no answer in two minutes"])
        seconds += load.seconds
        done += max(len(load.seconds), 1)
        counts.append(done)
        memories.append(server.memory)
        peak = max(peak, server.stored[0])
    later = slice(len(counts) // 5, None)
    slope = float(np.polyfit(counts[later], memories[later], 1)[0]) / 1024
    if requests >= HOUR and slope > _FLAT_KIB:
        failures.append(f"memory grows by {slope:.1f} KiB per request")
    p50, p95, p99 = np.percentile(seconds or [np.nan], [50, 95, 99])
    return {
        "requests": done, "seconds": round(time.perf_counter() - began, 1),
        "p50": round(float(p50), 3), "p95": round(float(p95), 3), "p99": round(float(p99), 3),
        "memory_first_mib": round(memories[later][0] / 2**20, 1),
        "memory_last_mib": round(memories[-1] / 2**20, 1),
        "memory_kib_per_request": round(slope, 2), "most_files": peak,
        "descriptors": server.descriptors, "failures": failures,
    }  # fmt: skip


def _wrong_bodies(server: ServerProcess, count: int, *, seed: int) -> dict[str, Any]:
    """Return how wrong requests were answered."""
    user, answers, failures = User(server), dict[str, int](), []
    path = user.upload(draw_pictures(1, seed=seed)[0])
    for number, (address, body) in enumerate(bodies(path, count, seed=seed)):
        answer = user.request("POST", address, body)
        kind, text = str(answer.status), answer.read().decode(errors="replace")
        if answer.status == 200 and "/call/" in address:
            stream = user.request("GET", f"{address}/{json.loads(text)['event_id']}")
            kind, text = last_event(stream.read().decode())
        answers[kind] = answers.get(kind, 0) + 1
        if kind.startswith("5") or '"error": null' in text or str(server.storage) in text:
            failures.append(f"body {number} of seed {seed}: {kind} {text[:100]!r}")
    user.close()
    return {"sent": count, "answers": answers, "failures": failures + _complaints(server)}


def _wrong_heads(server: ServerProcess, count: int, *, seed: int) -> dict[str, Any]:
    """Return how bytes were answered that are hardly a request."""
    answers, failures = dict[str, int](), []
    for number, raw in enumerate(heads(count, seed=seed)):
        answer = exchange(server, raw, patience=0.1)
        kind = answer[9:12].decode(errors="replace") or "hung up"
        answers[kind] = answers.get(kind, 0) + 1
        if kind.startswith("5") or b"root:" in answer:
            failures.append(f"head {number} of seed {seed}: {answer[:100]!r}")
    return {"sent": count, "answers": answers, "failures": failures + _complaints(server)}


def _silent(server: ServerProcess, right: Right, count: int, *, seed: int) -> dict[str, Any]:
    """Return what connections cost that say nothing, and whether others are answered meanwhile."""
    before, silent, most = _settled(server, 0, seconds=12), [], 0
    for number in range(count):
        silent.append(socket.create_connection((server.host, server.port), timeout=30))
        if number % 100 == 99 or number == count - 1:
            most = max(most, server.descriptors)
    meanwhile = press(server, right, users=2, answers=4, seconds=60, seed=seed)
    for connection in silent:
        connection.close()
    after = _settled(server, before, seconds=15)
    failures = meanwhile.failures + _complaints(server)
    if after > before:
        failures.append(f"{after} files open, {before} before")
    return {
        "connections": count, "descriptors_before": before, "descriptors_most": most,
        "descriptors_after": after, "answers_meanwhile": len(meanwhile.seconds),
        "failures": failures,
    }  # fmt: skip


def _hung_up(server: ServerProcess, count: int, *, seed: int) -> dict[str, Any]:
    """Return what visitors cost who hang up: in an upload, before the answer, while it comes."""
    rng, user = random.Random(seed), User(server)  # noqa: S311 - no secret
    picture = draw_pictures(1, seed=seed)[0]
    path, before = user.upload(picture), _settled(server, 0, seconds=12)
    for _ in range(count // 2):
        reset(half_upload(server, picture, rng))
    for _ in range(count - count // 2):
        body = json.dumps({"data": [{"path": path}, "grass, sand", "none", 0.5]}).encode()
        asked = user.request("POST", f"{API}/call/segment", body)
        text = asked.read().decode()
        if asked.status == 200 and rng.random() < 0.8:  # the others do not even listen
            left = socket.create_connection((server.host, server.port), timeout=30)
            target = f"{API}/call/segment/{json.loads(text)['event_id']}"
            left.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            time.sleep(rng.choice([0, 0.02, 0.1]))
            reset(left)
    user.close()
    after = _settled(server, before, seconds=15)
    failures = _complaints(server)
    if after > before:
        failures.append(f"{after} files open, {before} before")
    return {"visitors": count, "descriptors_after": after, "failures": failures}


def _settled(server: ServerProcess, most: int, *, seconds: float) -> int:
    """Return how many files are open once that are no more than ``most``, or after some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.descriptors > most:
        time.sleep(0.1)
    return server.descriptors


def _complaints(server: ServerProcess) -> list[str]:
    return [f"log: {text}" for text in server.complaints[:5]]


def _end(server: ServerProcess, figures: dict[str, Any]) -> None:
    """Stop the server, and add how it went."""
    began = time.perf_counter()
    status, _ = server.stop(signal.SIGTERM)
    left = [path.name for path in server.storage.glob("zegment-*")]
    failures = [] if status == 0 and not left else [f"ended with {status}, left {left}"]
    figures["end"] = {"seconds": round(time.perf_counter() - began, 2), "failures": failures}
