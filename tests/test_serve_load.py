"""The server with many visitors, with visitors who leave in the middle, and when it has to end."""

import contextlib
import json
import random
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("gradio")
if not Path("/proc/self/fd").exists():
    pytest.skip("memory and connections are counted as Linux does", allow_module_level=True)

from soaks.server_attacks import half_upload, reset
from soaks.server_process import SLOW, ServerProcess, served
from soaks.server_users import (
    API,
    Load,
    Order,
    User,
    answers_alone,
    draw_pictures,
    last_event,
    orders,
    press,
)

FILES = 256
"""How many files and connections the server may have open."""


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(storage: Path) -> Iterator[ServerProcess]:
    limited = ["prlimit", f"--nofile={FILES}"] if shutil.which("prlimit") else []
    with served(storage, "--queue", "3", program=SLOW, wrapper=limited) as started:
        yield started


@pytest.fixture(scope="module")
def right(server: ServerProcess) -> dict[Order, tuple[bytes, str]]:
    return answers_alone(server, orders(5, seed=1))


def ask(user: User, path: str, words: str) -> str:
    """Return the name of an event that the server will see to."""
    body = json.dumps({"data": [{"path": path}, words, "none", 0.5]}).encode()
    answer = user.request("POST", f"{API}/call/segment", body)
    return str(json.loads(answer.read())["event_id"])


def listen(server: ServerProcess, event: str) -> socket.socket:
    """Return a connection through which the answer to an event will come."""
    connection = socket.create_connection((server.host, server.port), timeout=30)
    head = (
        f"GET {API}/call/segment/{event} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    connection.sendall(head.encode())
    return connection


def whole(connection: socket.socket) -> str:
    with contextlib.closing(connection):
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def settled(server: ServerProcess, most: int) -> int:
    """Return how many files are open once that are no more than ``most``, or after some seconds."""
    for _ in range(80):
        if server.descriptors <= most:
            break
        time.sleep(0.1)
    return server.descriptors


@pytest.mark.parametrize("users", [1, 3, 16])
def test_users_at_the_same_time_get_what_each_would_get_alone(
    server: ServerProcess, right: dict[Order, tuple[bytes, str]], users: int
) -> None:
    load = press(server, right, users=users, answers=3 * users, seconds=60, seed=users)
    assert load.failures == []
    assert len(load.seconds) >= 3 * users
    assert (load.full > 0) == (users == 16)  # three may wait, also while none is answered
    assert server.complaints == []


def test_it_says_that_it_is_well_while_it_is_busy(
    server: ServerProcess, right: dict[Order, tuple[bytes, str]]
) -> None:
    loads: list[Load] = []

    def work() -> None:
        loads.append(press(server, right, users=8, answers=20, seconds=60, seed=8))

    users = threading.Thread(target=work)
    users.start()
    asked = []
    while users.is_alive():
        asked.append(server.health())
        time.sleep(0.02)
    assert len(asked) > 10
    assert sorted(asked)[len(asked) // 2] < 0.5
    assert loads[0].failures == []


def test_connections_that_say_nothing_neither_lock_others_out_nor_stay(
    server: ServerProcess, right: dict[Order, tuple[bytes, str]]
) -> None:
    before = server.descriptors
    silent = []
    for number in range(2 * FILES):
        silent.append(socket.create_connection((server.host, server.port), timeout=10))
        if number % 2:
            with contextlib.suppress(OSError):  # given up in favour of a later one
                silent[-1].sendall(b"GET /health HTTP/1.1\r\nHo")
    assert server.descriptors < FILES
    assert server.health() < 10
    assert press(server, right, users=2, answers=2, seconds=30, seed=2).failures == []
    for connection in silent:
        connection.close()
    assert settled(server, before) <= before
    assert server.complaints == []


def test_uploads_and_answers_that_nobody_waits_for_leave_no_connection(
    server: ServerProcess,
) -> None:
    rng = random.Random(3)  # noqa: S311 - no secret
    user, picture = User(server), draw_pictures(1, seed=3)[0]
    path = user.upload(picture)
    before = server.descriptors
    for _ in range(30):
        reset(half_upload(server, picture, rng))
    for number in range(12):
        event = ask(user, path, f"grass, wait 0.0{number}")
        left = listen(server, event)
        time.sleep(rng.choice([0, 0, 0.05, 0.1]))
        reset(left)
        time.sleep(0.1)
    assert settled(server, before) <= before
    assert server.complaints == []
    assert last_event(whole(listen(server, ask(user, path, "grass, sand"))))[0] == "complete"


@pytest.fixture(scope="module")
def following(server: ServerProcess, storage: Path) -> Iterator[tuple[Path, ServerProcess]]:
    """Yield what a killed server left behind, and the server that was started then."""
    User(server).upload(draw_pictures(1, seed=0)[0])
    left = server.folder
    server.process.kill()
    server.process.wait(10)
    assert len(list(left.rglob("*.png"))) > 4
    with served(storage, program=SLOW) as started:
        yield left, started


def test_what_a_killed_server_leaves_behind_goes_when_the_next_one_starts(
    following: tuple[Path, ServerProcess],
) -> None:
    left, server = following
    assert not left.exists()
    assert server.folder.exists()


def test_sigterm_lets_finish_what_runs_and_tells_those_who_wait(
    following: tuple[Path, ServerProcess],
) -> None:
    server = following[1]
    user = User(server)
    path = user.upload(draw_pictures(1, seed=0)[0])
    first, second = (ask(user, path, words) for words in ("grass, wait 2", "sand, wait 0"))
    assert server.process.stdout is not None
    assert server.process.stdout.readline() == "running\n"
    running, waiting = listen(server, first), listen(server, second)
    time.sleep(0.3)
    status, output = server.stop(signal.SIGTERM)
    assert "event: complete" in whole(running)
    told = whole(waiting)
    assert "event: error" in told
    assert "the server is stopping; try again later" in told
    assert (status, output) == (0, "stopped\n")
    assert list(server.storage.glob("zegment-*")) == []
    assert server.complaints == []


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with served(tmp_path, program=SLOW) as server:
        user = User(server)
        event = ask(user, user.upload(draw_pictures(1, seed=0)[0]), "grass, wait 30")
        assert server.process.stdout is not None
        assert server.process.stdout.readline() == "running\n"
        waiting = listen(server, event)
        began = time.monotonic()
        assert server.stop(signal.SIGTERM, signal.SIGINT) == (0, "stopped\n")
        assert time.monotonic() - began < 5
        waiting.close()
        assert list(server.storage.glob("zegment-*")) == []
        assert "Ctrl+C again" in server.log.read_text()
