"""Without a network the Hub's client looks in the cache at once."""

import socket
import subprocess
import sys
import time

import pytest
from huggingface_hub import constants

from zegment.hub.connection import cache_if_unreachable, reachable


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("zegment.hub.connection.getproxies", dict)
    reachable.cache_clear()
    yield
    reachable.cache_clear()


def test_a_listening_address_is_reachable_and_a_closed_one_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert reachable(f"http://127.0.0.1:{port}")
    reachable.cache_clear()
    assert not reachable(f"http://127.0.0.1:{port}")
    assert not reachable("https://no-such-host.invalid")


def test_behind_a_proxy_the_client_finds_out_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zegment.hub.connection.getproxies", lambda: {"https": "http://proxy:1"})
    assert reachable("https://no-such-host.invalid")


@pytest.mark.parametrize("set_by_user", [True, False])
def test_the_client_is_offline_within_and_as_it_was_after(monkeypatch, set_by_user) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", set_by_user)
    monkeypatch.setattr(constants, "ENDPOINT", "https://no-such-host.invalid")
    with cache_if_unreachable():
        assert constants.HF_HUB_OFFLINE
    assert set_by_user == constants.HF_HUB_OFFLINE


def test_a_missing_network_is_told_within_seconds(tmp_path) -> None:
    script = (
        "import os, sys; os.environ.update(HF_ENDPOINT='http://127.0.0.1:9', HF_HUB_OFFLINE='0', "
        f"HF_HOME={str(tmp_path)!r})\n"
        "import zegment, time\n"
        "from zegment.errors import ModelNotFoundError\n"
        "for name in ('ViT-B-16/openai', 'user/repo', 'hf-hub:user/repo'):\n"
        "    started = time.perf_counter()\n"
        "    try:\n"
        "        zegment.load(name)\n"
        "    except ModelNotFoundError as error:\n"
        "        assert 'no network' in str(error), error\n"
        "        print(name, time.perf_counter() - started)\n"
    )
    started = time.perf_counter()
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.stdout.count("\n") == 3, run.stdout + run.stderr
    # Building the untrained network takes a second or two; a client that waits takes a minute.
    assert time.perf_counter() - started < 45
