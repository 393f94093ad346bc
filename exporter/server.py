"""uvicorn as this project runs it: on sockets of ours, without signal handlers, gone within two seconds.

Also the health socket, a Unix socket that says in one line whether the process is well.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from typing import TYPE_CHECKING, Any

import uvicorn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

BACKLOG = 1024
GRACE = 1  # seconds a slow reader gets when the process stops
HEALTH_TIMEOUT = 1.0  # seconds for connecting, and again for the answer
HEALTHY = b"ok\n"


class AddressError(Exception):
    """An address that cannot be listened on; the text says which and why."""


def parse_address(text: str) -> tuple[str, int]:
    """Split `host:port`, `:port` or `[IPv6]:port`. Raises AddressError."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not port.isdecimal() or not port.isascii() or int(port) > 65535:  # noqa: PLR2004 - TCP's last port
        raise AddressError(f"{text!r}: expected HOST:PORT, for example 0.0.0.0:12758 or [::]:12758")
    if ":" in host and not bracketed:
        raise AddressError(f"{text!r}: an IPv6 address needs brackets, for example [::1]:12758")
    return host[1:-1] if bracketed else host, int(port)


def listen(addresses: Sequence[str]) -> list[socket.socket]:
    """Open a listening socket for each address, or none at all. Raises AddressError."""
    sockets: list[socket.socket] = []
    problem = None
    for text in addresses:
        try:
            sockets.append(_bound(*parse_address(text)))
        except AddressError as error:
            problem = error
        except OSError as error:
            problem = AddressError(f"cannot listen on {text}: {error.strerror or error}")
    if problem:
        for opened in sockets:
            opened.close()
        raise problem
    return sockets


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host not in {"", "::"}))
        bound.bind(address)
        bound.listen(BACKLOG)
        bound.setblocking(False)
    except BaseException:
        bound.close()
        raise
    return bound


def address_of(listening: socket.socket) -> str:
    """Return a socket's own address as `host:port`, IPv6 in brackets."""
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Server(uvicorn.Server):
    """Serves an ASGI app on sockets that listen already; `stop` ends it."""

    def __init__(self, app: Any) -> None:
        self._app = app
        super().__init__(
            uvicorn.Config(
                self._calmly,
                interface="asgi3",
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",  # what clients do wrong is theirs, and must not fill our log
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=75,  # longer than a usual scrape interval: Prometheus keeps its connection
                timeout_graceful_shutdown=2 * GRACE,  # never reached: see shutdown
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the command line: uvicorn would raise SIGTERM anew after its own shutdown."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what is being answered, and give up on slow readers before uvicorn would cancel tasks."""
        giving_up = asyncio.get_running_loop().call_later(GRACE, self._abort)
        await super().shutdown(sockets)
        giving_up.cancel()

    def _abort(self) -> None:
        connections: Any = list(self.server_state.connections)
        for connection in connections:
            connection.pipeline.clear()
            connection.transport.abort()
        for task in self.server_state.tasks:
            task.cancel()

    async def _calmly(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request; giving it up when the server stops is no error to log."""
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if not self.should_exit:
                raise

    def stop(self) -> None:
        """Stop accepting, finish what is being answered, and return from `serve`."""
        self.should_exit = True


class HealthSocket:
    """A Unix socket that answers every connection with `ok` or with what is wrong, and closes it."""

    def __init__(self, path: Path, problems: Callable[[], list[str]]) -> None:
        self._path = path
        self._problems = problems
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen, mode 0600; a stale socket is replaced. Raises AddressError."""
        _clear(self._path)
        mask = os.umask(0o177)  # the mode from the first moment on, not after a chmod
        try:
            self._server = await asyncio.start_unix_server(self._answer, self._path)
        except OSError as error:
            why = error.strerror or error
            raise AddressError(f"cannot listen on the health socket {self._path}: {why}") from None
        finally:
            os.umask(mask)

    async def stop(self) -> None:
        """Close the socket and remove its file."""
        if self._server:
            self._server.close()
            self._path.unlink(missing_ok=True)

    async def _answer(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        problems = self._problems()
        writer.write("\n".join([*problems[:20], ""]).encode() if problems else HEALTHY)
        writer.close()


def _clear(path: Path) -> None:
    """Remove a socket that nobody listens on; leave everything else alone."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise AddressError(
            f"{path} is in the way of the health socket, and is no socket: choose another path"
        )
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(HEALTH_TIMEOUT)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError:
            pass  # somebody listens, however slowly
    raise AddressError(f"another process listens on the health socket {path}: stop it or choose another path")


def ask_health(path: Path) -> str | None:
    """Ask the process behind a health socket; return what is wrong, None when it is well."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(HEALTH_TIMEOUT)
        try:
            asking.connect(str(path))
            answer = asking.recv(65536)
        except OSError as error:
            return f"no answer from the health socket {path}: {error.strerror or error}"
    return None if answer == HEALTHY else answer.decode("utf-8", "replace").strip() or "no answer"
