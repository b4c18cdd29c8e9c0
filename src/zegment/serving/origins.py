"""Who may speak to the server: by which name it was called, and from whose page.

A browser runs the scripts of every page that its user opens. Without these checks such a script
could send requests to a server that only listens to its own machine: directly, which the header
``Origin`` tells, or under a name that its owner lets point to 127.0.0.1, which ``Host`` tells.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from zegment.serving.refusal import Message, Refusal

#: Headers that go: what anybody can say of a proxy or of another page; and ranges, which Gradio
#: answers by sending the request's own headers back.
_UNTRUSTED: Final = (
    b"forwarded", b"x-forwarded-", b"x-real-ip", b"x-gradio-server", b"origin", b"access-control-",
    b"range",
)  # fmt: skip

#: A name or an address, and perhaps a port: what the links of an answer may begin with.
_HOST: Final = re.compile(r"([A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origins:
    """The names by which the server may be called.

    Attributes:
        local_only: Whether it listens to its own machine only.
        names: Further names; where there are some, no others but those of the machine itself.
    """

    local_only: bool
    names: tuple[str, ...] = ()

    def admit(self, scope: Message) -> Message:
        """Return the request without headers that anybody can make up.

        What a proxy says of itself goes, but for the scheme, which only decides how the links of
        this answer begin. ``Origin`` goes, so that no answer allows other pages to read it.

        Raises:
            Refusal: If it was sent to a name that is not the server's, or by a foreign page.
        """
        headers = scope["headers"]
        host = _last(headers, b"host")
        name = _hostname(f"//{host}") if _HOST.fullmatch(host) else ""
        if not name or not self._is_ours(name):
            raise Refusal(
                421,
                f"this server is not called {(name or host)[:80]!r}; "
                "start it with --allowed-host NAME",
            )
        for key, value in headers:
            if key.lower() == b"origin" and not self._is_own(value.decode("latin-1"), host):
                raise Refusal(403, "this request comes from another page; open the server's own")
        kept = [
            (key, value)
            for key, value in headers
            if not key.lower().startswith(_UNTRUSTED)
            or (key.lower() == b"x-forwarded-proto" and value in (b"http", b"https"))
        ]
        return {**scope, "headers": kept}

    def _is_ours(self, name: str) -> bool:
        if name in self.names or (not self.local_only and not self.names):
            return True
        return is_loopback(name)

    def _is_own(self, origin: str, host: str) -> bool:
        scheme, _, rest = origin.lower().partition("://")
        if scheme not in ("http", "https"):  # also "null", of pages without an address
            return False
        return rest == host.lower() or _hostname(origin) in self.names


def is_loopback(name: str) -> bool:
    """Return whether a name or address means this machine to itself."""
    if name == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _last(headers: list[tuple[bytes, bytes]], name: bytes) -> str:
    return next((v.decode("latin-1") for k, v in reversed(headers) if k.lower() == name), "")


def _hostname(address: str) -> str:
    """Return the name in an address, or nothing if that cannot be read."""
    try:
        return (urlsplit(address).hostname or "").rstrip(".")
    except ValueError:
        return ""
