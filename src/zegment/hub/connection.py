"""Whether the Hugging Face Hub can be reached, asked once instead of waited for again and again.

Its client tries each request for about a minute before it takes what is in the cache. Without a
network that is a long time to say so.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from huggingface_hub import constants

SECONDS = 5.0
"""How long a connection may take to open."""


@contextmanager
def cache_if_unreachable() -> Iterator[None]:
    """Make the Hub's client look in the cache alone, as ``HF_HUB_OFFLINE`` does, if it must."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@cache
def reachable(address: str) -> bool:
    """Return whether a connection can be opened; asked once for each address.

    Behind a proxy nobody can tell beforehand, so the answer is yes.
    """
    parts = urlsplit(address)
    host = parts.hostname or ""
    if parts.scheme in getproxies() and not proxy_bypass(host):
        return True
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((host, port), timeout=SECONDS).close()
    except OSError:
        return False
    return True
