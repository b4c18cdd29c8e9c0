"""No command uses a network that was not asked for, and no library behind it either."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import soak
from soaks.network import COMMANDS, attempts, environment, is_installed, left_by_trace

from zegment.export.graph import import_onnxruntime
from zegment.large_scale.cluster import connected

SHORT = {
    "import",
    "names that are not here",
    "predict",
    "train and evaluate",
    "encoders without weights",
    "page",
    "data in a folder",
    "push --dry-run",
}
"""Together in one process; the others need processes of their own, and minutes."""


def test_every_long_version_is_a_part_of_the_soak() -> None:
    folder = Path(soak.__file__).parent / "soaks"
    parts = {path.stem for path in folder.glob("*.py") if "\ndef soak(" in path.read_text()}
    assert set(soak.PARTS) == parts


def test_no_command_looks_anything_up_or_connects_anywhere() -> None:
    commands = [c for c in COMMANDS if c.name in SHORT and is_installed(c)]
    assert len(commands) >= 5
    seen, error = attempts("\n".join(command.program for command in commands))
    assert error is None, error
    assert seen == [], "\n".join(seen)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ("socket.create_connection(('192.0.2.1', 80), timeout=1)", "socket.connect"),
        ("socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))", "socket.sendto"),
        ("socket.getaddrinfo('example.invalid', 443)", "socket.getaddrinfo"),
        ("socket.gethostbyname('example.invalid')", "socket.gethostbyname"),
        ("socket.create_server(('0.0.0.0', 0))", "socket.bind"),
        ("socket.create_server(('', 0))", "socket.bind"),
        ("__import__('urllib.request').request.urlopen('http://example.invalid')", "getaddrinfo"),
    ],
)
def test_the_witness_sees_attempts_though_libraries_swallow_their_failure(call, told) -> None:
    program = f"import socket\ntry:\n    {call}\nexcept OSError:\n    pass\n"
    seen, error = attempts(program)
    assert error is None, error
    assert len(seen) == 1
    assert told in seen[0]


def test_the_witness_follows_into_other_processes_and_knows_this_machine() -> None:
    child = "import socket; socket.getaddrinfo('example.invalid', 1)"
    program = (
        "import socket, subprocess, sys\n"
        "with socket.create_server(('127.0.0.1', 0)) as s:\n"
        "    socket.create_connection(s.getsockname()).close()\n"
        f"subprocess.run([sys.executable, '-c', {child!r}], stderr=subprocess.DEVNULL)\n"
    )
    seen, error = attempts(program)
    assert error is None, error
    assert len(seen) == 1


def test_what_was_asked_for_does_go_to_the_hub() -> None:
    """Otherwise the first test could not fail."""
    program = (
        "from zegment.errors import ZegmentError\nfrom zegment.segmenter import load\n"
        "try:\n    load('hf-hub:me/mine')\nexcept ZegmentError as error:\n"
        "    assert 'no network' in str(error), error\n"
    )
    seen, error = attempts(program)
    assert error is None, error
    assert "huggingface.co" in seen[0]


def test_addresses_are_read_from_a_trace() -> None:
    trace = """
7 connect(3, {sa_family=AF_INET, sin_port=htons(443), sin_addr=inet_addr("18.1.2.3")}, 16) = -1
7 connect(3, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("127.0.0.1")}, 16) = 0
7 connect(3, {sa_family=AF_UNIX, sun_path="/run/nscd/socket"}, 110) = -1 ENOENT
8 bind(4, {sa_family=AF_INET6, sin6_port=htons(0), inet_pton(AF_INET6, "::", &sin6_addr)}, 28) = 0
8 sendto(4, "x", 1, 0, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("8.8.8.8")}, 16)
"""
    found = sorted(line.partition(":")[0] for line in left_by_trace(trace))
    assert [line.split()[0] for line in found] == ["bind", "connect", "sendto"]


@pytest.mark.parametrize(("wanted", "told"), [(None, "1"), ("0", "0")])
def test_onnxruntime_s_telemetry_is_off_unless_the_user_wants_it(
    monkeypatch: pytest.MonkeyPatch, wanted: str | None, told: str
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "")  # so that it is put back afterwards
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    if wanted is not None:
        monkeypatch.setenv("ORT_DISABLE_TELEMETRY", wanted)
    called = []
    monkeypatch.setattr(onnxruntime, "disable_telemetry_events", lambda: called.append("off"))
    assert import_onnxruntime() is onnxruntime
    assert os.environ["ORT_DISABLE_TELEMETRY"] == told
    assert called == (["off"] if wanted is None else [])


def test_onnxruntime_leaves_nothing_in_the_home_of_its_user(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    program = (
        "from zegment.export.graph import import_onnxruntime\n"
        "import_onnxruntime().InferenceSession\n"
        "from onnxruntime.quantization import quantize_dynamic\n"
    )
    home = tmp_path / "home"
    variables = environment(home, tmp_path / "seen")
    subprocess.run([sys.executable, "-c", program], env=variables, cwd=tmp_path, check=True)
    left = {str(path.relative_to(home)) for path in home.rglob("*")}
    assert {path for path in left if "Microsoft" in path or "onnx" in path} == set()


@pytest.mark.parametrize(("wanted", "told"), [(None, "0"), ("1", "1")])
def test_ray_s_usage_statistics_are_off_unless_the_user_wants_them(
    monkeypatch: pytest.MonkeyPatch, wanted: str | None, told: str
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "")  # so that it is put back afterwards
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED")
    if wanted is not None:
        monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", wanted)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    with connected():
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == told
