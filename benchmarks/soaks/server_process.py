"""``zegment serve`` in a process of its own, as users start it, and what it takes of a machine."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

PLAIN = "from zegment.cli import main; main()"
"""The command."""

SLOW = """
import time
from zegment.segmenter import Segmenter
plain = Segmenter.segment
def segment(self, image, query, **options):
    words = query.vocabulary.class_names if query.vocabulary else ()
    slow = [word for word in words if word.startswith("wait ")]
    if slow:
        print("running", flush=True)
    for word in slow:
        time.sleep(float(word.removeprefix("wait ")))
    return plain(self, image, query, **options)
Segmenter.segment = segment
from zegment.cli import main
main()
"""
"""The command with a model that takes as long as a word like ``wait 0.5`` says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerProcess:
    """A server that runs.

    Attributes:
        process: Its process; what it prints comes through ``process.stdout``.
        host: Where it listens.
        port: Where it listens.
        storage: What it takes for the folder of temporary files.
        log: Where its standard error goes.
    """

    process: subprocess.Popen[str]
    host: str
    port: int
    storage: Path
    log: Path

    @property
    def memory(self) -> int:
        """Return the resident memory in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024

    @property
    def descriptors(self) -> int:
        """Return how many files and connections are open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    @property
    def folder(self) -> Path:
        """Return where uploads and results are."""
        (found,) = self.storage.glob("zegment-serve-*")
        return found

    @property
    def stored(self) -> tuple[int, int, int]:
        """Return how many files and folders are stored, and the bytes of the files."""
        files = folders = size = 0
        for path in self.storage.rglob("*"):
            try:
                files, folders = files + path.is_file(), folders + path.is_dir()
                size += path.stat().st_size if path.is_file() else 0
            except OSError:  # deleted meanwhile
                continue
        return files, folders, size

    @property
    def complaints(self) -> list[str]:
        """Return what of the log no visitor may bring about: traces of errors."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        traces = re.findall(r"Traceback \(most recent.*?\n(?=[^\s|+])([^\n]*)", text, re.DOTALL)
        return traces or (["an error"] if "Traceback" in text or "ERROR" in text else [])

    def health(self, *, seconds: float = 10.0) -> float:
        """Return how long the server takes to say that it is well, in seconds.

        Raises:
            OSError: If it does not answer in time.
        """
        began = time.perf_counter()
        connection = HTTPConnection(self.host, self.port, timeout=seconds)
        try:
            connection.request("GET", "/health")
            answer = connection.getresponse()
            if answer.status != 200 or answer.read() != b'{"status": "ok"}':
                raise OSError(f"/health answered {answer.status}")
        finally:
            connection.close()
        return time.perf_counter() - began

    def stop(self, *signals: signal.Signals, seconds: float = 60.0) -> tuple[int, str]:
        """Send signals, half a second apart, and return the exit status and what was printed."""
        for number, one in enumerate(signals):
            if number:
                time.sleep(0.5)
            self.process.send_signal(one)
        output, _ = self.process.communicate(timeout=seconds)
        return self.process.returncode, output


@contextmanager
def served(
    storage: Path,
    *options: str,
    program: str = PLAIN,
    environment: Mapping[str, str] | None = None,
    wrapper: Sequence[str] = (),
) -> Iterator[ServerProcess]:
    """Yield a server once it answers; it is killed at the end if it still runs.

    Args:
        storage: For its temporary files, its log and nothing else.
        options: Of the command, beside ``--port 0 --device cpu``.
        program: What Python runs.
        environment: Further variables.
        wrapper: A command in front of Python's.
    """
    storage.mkdir(parents=True, exist_ok=True)
    temporary, log = storage / "temporary", storage / "log.txt"
    temporary.mkdir(exist_ok=True)
    command = [
        *wrapper, sys.executable, "-u", "-c", program, "serve", "--port", "0", "--device", "cpu",
        *options,
    ]  # fmt: skip
    variables = {
        **os.environ, "TMPDIR": str(temporary), "COLUMNS": "200", "ZEGMENT_CACHE": "off",
        "OMP_NUM_THREADS": "1", **(environment or {}),
    }  # fmt: skip
    with (
        log.open("w", encoding="utf-8") as errors,
        subprocess.Popen(  # noqa: S603 - our own command
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=variables
        ) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r" at http://(\[[^]]*\]|[^:]*):(\d+)", line)
            if found is None:
                raise RuntimeError(f"the server did not start: {line}{log.read_text()}")
            process.stdout.readline()  # who can reach it
            host = found[1].strip("[]").replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - not listened at
            server = ServerProcess(
                process=process, host=host, port=int(found[2]), storage=temporary, log=log
            )
            _wait_until_well(server)
            yield server
        finally:
            process.kill()


def _wait_until_well(server: ServerProcess) -> None:
    for _ in range(300):
        try:
            server.health()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("the server does not answer")
