"""Listening sockets: addresses as text, sockets bound to them, the limit of open files."""

import contextlib
import errno
import resource
import socket
from collections.abc import Callable, Sequence
from typing import Any

Opener = Callable[[str, int], socket.socket]  # opens a listening socket at a host and a port

# The kernel has no IPv6, or no interface has an IPv6 address.
IPV6_OFF = {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}
BACKLOG = 1024
SEND_BUFFER = 128 * 1024  # bytes the kernel keeps of what a client does not read; its default is up to 4 MiB
LAST_PORT = 65535
OTHER_FILES = 96  # that are no clients' connections: 64 calls to the API, listeners, files of the config
FLAG = "--web.listen-address"
ADVICE: dict[int | None, str] = {
    errno.EADDRINUSE: "choose another port, or stop the process that listens there",
    errno.EACCES: "choose a port from 1024, or allow CAP_NET_BIND_SERVICE",
}


class AddressError(Exception):
    """The exporter cannot listen on an address; the text says which and why."""


def parse_address(text: str) -> tuple[str, int]:
    """Split `host:port`, `:port` or `[IPv6]:port`. Raises AddressError."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not port.isdecimal() or not port.isascii() or int(port) > LAST_PORT:
        raise AddressError(f"{FLAG}: {text!r}: expected HOST:PORT, for example 0.0.0.0:12758 or [::]:12758")
    if ":" in host and not bracketed:
        raise AddressError(f"{FLAG}: {text!r}: an IPv6 address needs brackets, for example [::1]:12758")
    return host[1:-1] if bracketed else host, int(port)


def open_listening(host: str, port: int) -> socket.socket:
    """Open a listening socket; `::` is for IPv4 too. Raises OSError or UnicodeError."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError:
        listening.close()
        raise
    listening.setblocking(False)
    return listening


def listen(addresses: Sequence[str], open_socket: Opener = open_listening) -> list[socket.socket]:
    """Open a listening socket for each address, or none at all. Raises AddressError."""
    sockets = []
    with contextlib.ExitStack() as opened:
        for text in addresses:
            host, port = parse_address(text)
            try:
                listening = opened.enter_context(_listen_on(host, port, open_socket))
            except (OSError, UnicodeError) as error:
                why = getattr(error, "strerror", None) or error
                advice = ADVICE.get(getattr(error, "errno", None), "choose another address")
                raise AddressError(f"{FLAG}: cannot listen on {text}: {why}: {advice}") from None
            sockets.append(listening)
        opened.pop_all()  # all are open: leave them so
    return sockets


def _listen_on(host: str, port: int, open_socket: Opener) -> socket.socket:
    """Open a listening socket. Without a host it takes IPv6 and IPv4, or IPv4 alone where IPv6 is off."""
    if host:
        return open_socket(host, port)
    try:
        return open_socket("::", port)
    except OSError as error:
        if error.errno not in IPV6_OFF:
            raise
    return open_socket("0.0.0.0", port)  # noqa: S104 - what the operator asks for


def address_of(listening: socket.socket) -> str:
    """Return the address of a socket as `host:port`, IPv6 in brackets."""
    return format_address(listening.getsockname())


def format_address(address: Any) -> str:
    """Return what the socket module calls an address as `host:port`, IPv6 in brackets."""
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def raise_open_files() -> None:
    """Raise the soft limit of open files to the hard limit: every connection is one file."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # a system may state a limit that it does not grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def open_files() -> int:
    """Return how many files this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def client_limits(most: int, files: int) -> tuple[int, int]:
    """Return how many connections and how many TLS handshakes may be open: each at most `most`.

    Connections get two thirds of the files that other work does not need. The last third is for handshakes,
    which need two files each, and for connections that are not closed yet.
    """
    if files == resource.RLIM_INFINITY:
        return most, most
    left = max(files - OTHER_FILES, files // 2)
    connections = min(most, left * 2 // 3)
    return connections, min(most, (left - connections) // 2)
