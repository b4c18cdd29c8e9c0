"""Names that are no files, or that lead to what never ends; and odd names of good pictures."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import hostile_builders as build
from hostile_scenes import scene

SPARSE = 100 * 2**30

ODD_NAMES = (
    "a b.png", "-rf.png", "--help.png", "%s%n.png", "a'b\"c.png", "$(touch x).png", "a\nb.png",
    "a\x1b[31mred.png", "a\u202egnp.exe.png", "[a-z].png", "*.png", "a?.png", "ä\u0301€.png",
    "a\\b.png", "x.PNG", "x.jpg.png", ".png.png", "~.png", "a;b.png", "[red]a[bold].png",
    "x" * 240 + ".png", "\udcff\udcfe.png",
)  # fmt: skip


def strange_paths(root: Path, rng: Any) -> list[tuple[str, str, Any, int]]:
    """Make them in a folder, and return the tasks of `hostile_doors.by_path`."""
    root.mkdir(parents=True, exist_ok=True)
    pixels = scene(rng)
    good = build.saved(pixels, "PNG")
    tasks: list[tuple[str, str, Any, int]] = []
    for name in ODD_NAMES:
        path = root / name
        path.write_bytes(good)
        tasks.append((str(path), "right", pixels, 0))
    for name, target in (("link.png", "a b.png"), ("link-to-link.png", "link.png")):
        (root / name).symlink_to(target)
        tasks.append((str(root / name), "right", pixels, 0))
    os.mkfifo(root / "pipe.png")
    (root / "folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(root / "socket.png"))  # its name may have 108 bytes
    links = {
        "loop.png": "loop.png", "loop-a.png": "loop-b.png", "loop-b.png": "loop-a.png",
        "dangling.png": "nowhere", "zero.png": "/dev/zero", "null.png": "/dev/null",
        "random.png": "/dev/urandom", "full.png": "/dev/full", "tty.png": "/dev/tty",
        "pipe-link.png": "pipe.png", "memory.png": "/proc/self/mem", "parent.png": "..",
        "input.png": "/dev/stdin",
    }  # fmt: skip
    for name, target in links.items():
        (root / name).symlink_to(target)
    for name, head in {
        "sparse.png": good, "sparse-head.png": good[:60], "sparse-zeros.png": b"",
        "sparse-big.tif": b"II+\0\x08\0\0\0\x10" + bytes(7) + b"\xff" * 8,
        "sparse.jpg": b"\xff\xd8\xff", "sparse.gif": b"GIF89a" + bytes(7),
        "sparse.bmp": build.bmp(9, 9, b""),
    }.items():  # fmt: skip
        with (root / name).open("wb") as stream:
            stream.write(head)
            stream.truncate(SPARSE)
    refused = ["pipe.png", "folder.png", "socket.png", "gone.png", "y" * 300 + ".png", *links]
    refused += [path.name for path in root.glob("sparse*")]
    if os.geteuid() != 0:  # root reads what nobody may
        (root / "locked.png").write_bytes(good)
        (root / "locked.png").chmod(0)
        refused.append("locked.png")
    tasks += [(str(root / name), "refused", None, 0) for name in refused]
    return [*tasks, (f"{root}/nul\0.png", "refused", None, 0)]
