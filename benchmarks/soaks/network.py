"""Commands of Zegment that nobody asked to use a network, run where each attempt is written down.

Two witnesses. Inside each Python process an audit hook sees every name that is looked up and every
address that is connected to, sent to or listened at; it writes those down that are not of this
machine, and refuses them. Where ``strace`` can trace, it writes down the same of whatever runs, so
that nothing escapes which another language does.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HOOK = """
import ipaddress, os, sys, traceback

def _of_this_machine(host):
    host = host.decode() if isinstance(host, bytes) else host
    if host in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False

def _is_number(host):
    try:
        ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host or "")
    except ValueError:
        return False
    return True

def _watch(event, args):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        told = args[0]
        leaves = not (_of_this_machine(told) or _is_number(told))  # a number asks nobody
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.bind"):
        socket, told = args[0], args[1]
        leaves = isinstance(told, tuple) and not (
            _of_this_machine(told[0]) and (event != "socket.bind" or told[0])
        )
        if event == "socket.bind" and int(socket.type) == 2 and not told[1]:
            leaves = False  # a free port of a socket that has not listened to anybody yet
    else:
        return
    if leaves:
        stack = "".join(traceback.format_stack(limit=12)[:-1])
        with open(os.environ["SOCKETS_SEEN"], "a", encoding="utf-8") as log:
            log.write(f"{event} {told!r} in {sys.argv[:1]}\\n{stack}\\0")
        raise OSError(101, "no network here: the attempt was written down")

sys.addaudithook(_watch)
"""
"""``sitecustomize.py``, which Python runs as each of its processes starts."""

CLOUD = ("169.254.169.254", "metadata.google.internal")
"""Where Ray asks whether it runs in a cloud, as it starts; it has no switch for that."""

OFF = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "DO_NOT_TRACK",
       "GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY", "RAY_USAGE_STATS_ENABLED",
       "WANDB_MODE", "NO_ALBUMENTATIONS_UPDATE", "ORT_DISABLE_TELEMETRY")  # fmt: skip
"""What users may have set to keep libraries quiet, and what no claim may rest on."""

_INTERNET = re.compile(
    r"\b(?P<call>connect|sendto|sendmsg|sendmmsg|bind)\(.*"
    r'(?:inet_addr\("(?P<four>[^"]+)"\)|inet_pton\(AF_INET6, "(?P<six>[^"]+)")'
)


@dataclass(frozen=True, slots=True)
class Command:
    """A command and the packages that it needs.

    Attributes:
        name: In reports.
        program: Python source; its working directory holds ``photo.png``, ``photos`` and ``set``.
        needs: Modules beside Zegment's own dependencies.
        known: Addresses that it is known to ask, and that are told apart.
    """

    name: str
    program: str
    needs: tuple[str, ...] = ()
    known: tuple[str, ...] = ()


def cli(*commands: str) -> str:
    """Return a program that gives commands to the command line in turn."""
    return (
        "import shlex\nfrom zegment.cli import app\n"
        f"for line in {commands!r}:\n"
        "    app(shlex.split(line), standalone_mode=False)\n"
    )


SCENES = "--set data.train_length=16 --set data.val_length=4 --set data.test_length=4"
TRAIN = f"--set optim.steps=2 --set optim.warmup_steps=1 --set optim.batch_size=2 {SCENES}"

PAGE = """
import json, threading, time, urllib.request
from zegment.segmenter import load
from zegment.serving.server import Server
from zegment.serving.settings import ServeSettings
with Server(load("shapes-clip-zss"), ServeSettings(port=0)).opened() as server:
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    for path in ("/", "/config", "/gradio_api/info"):
        with urllib.request.urlopen(server.address + path) as answer:
            text = answer.read().decode()
    server.stop()
    thread.join(20)
"""

UNASKED = """
from pathlib import Path
from zegment.errors import ZegmentError
from zegment.segmenter import load
Path("runs/street").mkdir(parents=True)
for name in ("no-such-model", "runs/steret", "./runs/none", "../mine", "a/b/c", "ViT-B-16/opena1",
             "shapes-zegcilp", "local-dir:runs", "photo.png"):
    try:
        load(name)
    except ZegmentError:
        continue
    raise SystemExit(f"{name} was found")
"""

NO_WEIGHTS = """
from zegment.models.closed_set import ClosedSetNetwork
for name in ("unet resnet18", "fpn tu-test_resnet", "dpt tu-test_vit"):
    ClosedSetNetwork(*name.split(), weights=None, embed_dim=8)
"""

LOCAL_DATA = """
from zegment.config import DataConfig
from zegment.config.data import SplitFiles
from zegment.data.hub import HubDataset
split = SplitFiles(images="image", masks="mask")
config = DataConfig(source="huggingface", root="set", classes=("sky", "road"), train=split)
HubDataset(config, "train")[0]
"""

COMMANDS = (
    Command("import", "import zegment, zegment.cli, zegment.segmenter, zegment.training"),
    Command("names that are not here", UNASKED),
    Command("predict", cli("predict photo.png --model shapes-clip-zss --classes 'moon, sand' "
                           "--out results --save overlay --format coco --format geojson"),
            ("pycocotools",)),
    Command("train and evaluate", cli(f"train --preset shapes-zegclip {TRAIN} --out run",
                                      "evaluate run --json scores.json")),
    Command("train a student", cli(f"train --preset shapes-clip-zss {TRAIN} --out student")),
    Command("encoders without weights", NO_WEIGHTS),
    Command("export", cli("export shapes-clip-zss --out exported"), ("onnxruntime", "onnxscript")),
    Command("page", PAGE, ("gradio",)),
    Command("data in a folder", LOCAL_DATA, ("datasets",)),
    Command("push --dry-run", cli("push shapes-zegclip me/mine --dry-run")),
    Command("predict --engine ray", cli("predict photos --engine ray --model shapes-clip-zss "
                                        "--classes 'moon, sand' --out masks --actors 1"),
            ("ray.data", "pyarrow", "fsspec", "pycocotools"), known=CLOUD),
    Command("demo --quick", cli("demo --quick --out demo")),
)  # fmt: skip
"""Everything that a user does without naming anything that lies elsewhere."""


def prepare(folder: Path) -> None:
    """Put the pictures and the data set that the commands name into their working directory."""
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    (folder / "photos").mkdir()
    for path in (folder / "photo.png", folder / "photos" / "a.png", folder / "photos" / "b.png"):
        Image.fromarray(picture).save(path)
    if not find_spec("datasets"):
        return
    image, mask = folder / "photo.png", folder / "mask.png"
    Image.fromarray(picture[..., 0] % 2).save(mask)
    rows = {"image": [image.read_bytes()], "mask": [mask.read_bytes()]}
    (folder / "set").mkdir()
    pyarrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    parquet.write_table(pyarrow.table(rows), folder / "set" / "train.parquet")


def environment(folder: Path, log: Path) -> dict[str, str]:
    """Return variables under which each Python process is watched, and no library kept quiet.

    Args:
        folder: Where the hook goes, and what a first user's home would be.
        log: Told of each attempt.
    """
    (folder / "hook").mkdir(parents=True)
    (folder / "hook" / "sitecustomize.py").write_text(HOOK, encoding="utf-8")
    kept = {key: value for key, value in os.environ.items() if key not in OFF}
    path = os.pathsep.join(filter(None, [str(folder / "hook"), kept.get("PYTHONPATH")]))
    home = {"HOME": str(folder), "XDG_CACHE_HOME": str(folder), "HF_HOME": str(folder / "hf")}
    return {**kept, **home, "PYTHONPATH": path, "SOCKETS_SEEN": str(log), "OMP_NUM_THREADS": "1"}


def attempts(
    program: str, *, traced: bool = False, timeout: float = 600
) -> tuple[list[str], str | None]:
    """Run a program and return what it attempted, and the end of its output if it failed.

    Args:
        program: Python source.
        traced: Whether ``strace`` watches too.
        timeout: Seconds after which it is given up.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        work, log, trace = folder / "work", folder / "seen", folder / "trace"
        work.mkdir()
        prepare(work)
        tracer = ["strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=network", "-o", str(trace)]
        run = subprocess.run(  # noqa: S603 - our own programs
            [*(tracer if traced else []), sys.executable, "-c", program],
            env=environment(folder / "home", log), cwd=work, capture_output=True, text=True,
            timeout=timeout, check=False,
        )  # fmt: skip
        seen = log.read_text(encoding="utf-8").split("\0")[:-1] if log.exists() else []
        if traced:
            seen += sorted(left_by_trace(trace.read_text(encoding="utf-8", errors="replace")))
        return seen, None if run.returncode == 0 else (run.stdout + run.stderr)[-2000:]


def left_by_trace(trace: str) -> set[str]:
    """Return the calls of a trace that name an address of another machine, or all of this one."""
    found = set()
    for line in trace.splitlines():
        match = _INTERNET.search(line)
        if match is None:
            continue
        address = match["four"] or match["six"]
        if not address.startswith("127.") and address not in ("::1", "::ffff:127.0.0.1"):
            found.add(f"{match['call']} {address}: {line[:300]}")
    return found


def can_trace() -> bool:
    """Return whether ``strace`` is here and may trace."""
    strace = shutil.which("strace")
    if strace is None:
        return False
    trial = subprocess.run([strace, "-qq", "true"], capture_output=True, check=False)  # noqa: S603
    return trial.returncode == 0


def is_installed(command: Command) -> bool:
    """Return whether the packages that a command needs are here."""
    return all(find_spec(name.partition(".")[0]) for name in command.needs)


def soak(*, amount: float, seed: int) -> dict[str, Any]:
    """Run every command under both witnesses.

    Args:
        amount: 1 runs all; less, the first of them.
        seed: Nothing is drawn, so that it changes nothing.
    """
    started, traced = time.perf_counter(), can_trace()
    commands = [command for command in COMMANDS if is_installed(command)]
    failures, seconds, known = [], {}, 0
    for command in commands[: max(1, round(amount * len(commands)))]:
        begun = time.perf_counter()
        seen, error = attempts(command.program, traced=traced)
        seconds[command.name] = round(time.perf_counter() - begun, 1)
        unknown = [line for line in seen if not any(place in line for place in command.known)]
        known += len(seen) - len(unknown)
        failures += [f"{command.name}: {attempt}" for attempt in unknown]
        failures += [f"{command.name} failed: {error}"] if error else []
    return {
        "commands": len(seconds),
        "left_out": [command.name for command in COMMANDS if command not in commands],
        "known_attempts": known,
        "witnesses": ["audit hook", *(["strace"] if traced else [])],
        "seed": seed,
        "seconds_each": seconds,
        "seconds": round(time.perf_counter() - started, 1),
        "failures": failures,
    }
