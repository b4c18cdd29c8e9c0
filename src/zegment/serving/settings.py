"""Where the server listens, and what must be installed for it."""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass, field
from importlib.util import find_spec

from zegment.errors import ConfigError
from zegment.serving.limits import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """Where the server listens and what it accepts.

    Attributes:
        host: Address to listen at; the default is reachable from this machine only.
        port: From 0, which takes any free one, to 65535.
        allowed_hosts: Further names by which the server may be called, say by a proxy in front.
        workers: Requests that run the model at the same time.
        limits: What visitors may ask for.

    Raises:
        ConfigError: If the port or the number of workers is out of range, or an allowed host is
            not a bare name.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    allowed_hosts: tuple[str, ...] = ()
    workers: int = 1
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"the port is {self.port}; expected a number from 0 to 65535")
        if self.workers < 1:
            raise ConfigError(f"workers is {self.workers}; expected at least 1")

        for name in self.allowed_hosts:
            if not name or set(name) & set("/:@ *"):
                raise ConfigError(
                    f"the allowed host is {name!r}; expected a bare name such as example.org, "
                    "without scheme and port"
                )

    @property
    def local_only(self) -> bool:
        """Whether nobody but this machine can reach the server."""
        return self.host in ("localhost", "::1") or self.host.startswith("127.")


def require_gradio() -> None:
    """Check that the page can be made, and keep Gradio from reporting that it is used.

    Raises:
        ConfigError: If Gradio is not installed.
    """
    quiet_gradio()
    if find_spec("gradio") is None:
        raise ConfigError('the page needs Gradio; install it with pip install "zegment[serve]"')


def quiet_gradio() -> None:
    """Keep Gradio from reporting that it is used, and from computing statistics of its requests.

    It reads the first when it is imported. The statistics, of 10 000 requests after each of them,
    would slow down a server that has answered many.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"
    os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(2**62)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: A name or an IPv4 or IPv6 address of this machine.
        port: 0 takes any free one.

    Raises:
        ConfigError: If the address is none of this machine, or the port is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(
            f"{host!r} is no address of this machine ({error}); give --host 127.0.0.1"
        ) from error
    try:
        if os.name == "posix":  # elsewhere the option means that two may share a port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
    except OSError as error:
        listening.close()
        remedy = "choose another with --port, or --port 0 for any free one"
        if error.errno == errno.EADDRNOTAVAIL:
            remedy = "that is no address of this machine; give --host 127.0.0.1"
        raise ConfigError(
            f"cannot listen at {host}, port {port}: {error.strerror}; {remedy}"
        ) from error
    return listening
