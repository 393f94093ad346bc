"""uvicorn as this project runs it: on sockets of ours, with limits on clients, gone within two seconds."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import typing
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping, Sequence

BACKLOG = 1024
UNREAD = 128 * 1024  # bytes the kernel keeps of what a client does not read; left alone, it is 4 MiB each
UNSENT = 256 * 1024  # bytes of an answer that wait without TLS: they are the page's own, not copies
PIECE = 16 * 1024  # bytes parsed at once: a quarter of a MiB can hold thousands of requests
# What a request has that is more than a head, or wants more than an answer.
_ELSEWHERE = frozenset((b"content-length", b"transfer-encoding", b"expect", b"upgrade"))
GRACE = 1  # seconds a slow reader gets when the process stops


class GivenUpError(Exception):
    """Ends the parsing of a connection that is given up: a piece can hold 900 requests more."""


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
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNREAD)
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


def raise_open_files() -> None:
    """Raise the soft limit of open files to the hard one: every connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # a system may name a limit that it does not grant
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@dataclass(frozen=True)
class Limits:
    """What one client may take: bytes, seconds, connections."""

    head_bytes: int = 16 * 1024
    head_seconds: float = 5.0  # from connecting, or from the head's first byte
    handshake_seconds: float = 5.0
    body_bytes: int = 64 * 1024
    pipelined: int = 16  # requests sent before the answer to the one before
    stall_seconds: float = 30.0  # without a byte of the answer taken
    connections: int = 2000


class Crowd:
    """The open connections by what they do, the oldest first: who has to go when there are too many."""

    def __init__(self, limits: Limits) -> None:
        self._most = limits.connections
        self._new: dict[Protocol, None] = {}  # without a whole request so far
        self._idle: dict[Protocol, None] = {}  # between requests
        self._busy: dict[Protocol, None] = {}

    def joined(self, connection: Protocol) -> None:
        """Take in a new connection; past the limit another is closed for it.

        That is the oldest of those without a request, of whichever kind there are more: neither silent ones
        nor kept ones can push out the other. Only where all are busy, it is the oldest of them.
        """
        if len(self._new) + len(self._idle) + len(self._busy) >= self._most:
            more = self._new if len(self._new) >= len(self._idle) else self._idle
            oldest = next(iter(more or self._busy))
            self.left(oldest)
            oldest.transport.abort()
        self._new[connection] = None

    def asked(self, connection: Protocol) -> None:
        """Note a whole request head."""
        self.left(connection)
        self._busy[connection] = None

    def answered(self, connection: Protocol) -> None:
        """Note that the connection waits for its next request."""
        self.left(connection)
        self._idle[connection] = None

    def left(self, connection: Protocol) -> None:
        """Forget a connection."""
        for group in (self._new, self._idle, self._busy):
            group.pop(connection, None)


class Admission(typing.Protocol):
    """Judges a connection by its transport, once TLS is up."""

    def __call__(self, transport: asyncio.Transport, /) -> bool:
        """Whether to serve it."""


class AtOnce(typing.Protocol):
    """Answers a GET without waiting, where it can."""

    def __call__(
        self, target: bytes, headers: Mapping[bytes, bytes], /
    ) -> tuple[bytes, Sequence[bytes]] | None:
        """Return the header fields of a 200, each with its CRLF, and the body's pieces."""


def _never(_target: bytes, _headers: Mapping[bytes, bytes], /) -> None:
    return None


def _all(_transport: asyncio.Transport, /) -> bool:
    return True


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with deadlines and sizes; what is not set here is set by a subclass."""

    limits: ClassVar[Limits]
    crowd: ClassVar[Crowd]
    admits: ClassVar[Admission]
    at_once: ClassVar[AtOnce]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock of the first head; refuse whom the listener does not admit."""
        self._received = 0  # bytes of the head, or since its end
        self._in_head = True
        self._running: RequestResponseCycle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._left, self._since = 0, 0.0  # of the answer, and when some of it was last taken
        super().connection_made(transport)
        if self.scheme == "http":
            transport.set_write_buffer_limits(high=UNSENT)
        if not type(self).admits(transport):
            transport.abort()
            return
        self.crowd.joined(self)
        self._hurry()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all clocks, and answer nothing more of what was asked."""
        self.crowd.left(self)
        self.pipeline.clear()
        if self._running is not None:  # uvicorn tells the request that came last alone
            self._running.disconnected = True
            self._running.message_event.set()
        for timer in (self._deadline, self._stall, self.timeout_keep_alive_task):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def _hurry(self) -> None:
        """Hang up unless a whole head comes in time."""
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.limits.head_seconds, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        """Feed the parser piece by piece, until there is reason to hang up."""
        for start in range(0, len(data), PIECE):
            if self.transport.is_closing():
                return
            self._feed(data[start : start + PIECE])

    def _feed(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_head and self._received > self.limits.head_bytes:
            self._refuse(431, b"the request's head is too large")
        elif self._received > self.limits.head_bytes + self.limits.body_bytes:
            self.transport.abort()  # a body, chunks' extensions or trailers: nobody reads them
        elif self._in_head or self.cycle is None or self.cycle.response_complete:
            self._hurry()  # whatever came has ended the wait for the next request

    def on_message_begin(self) -> None:
        """Begin a head."""
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field of the head; one that trails the body is none of the request's."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """End a head in time; one that came in a single large piece is measured here."""
        self._in_head = False
        if self.transport.is_closing():  # the answer before this one found its client gone
            raise GivenUpError
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if len(self.pipeline) >= self.limits.pipelined:
            self.transport.abort()
            raise GivenUpError
        if self._received > self.limits.head_bytes:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > self.limits.head_bytes:
                self._refuse(431, b"the request's head is too large")
                raise GivenUpError
        self._received = 0
        self.crowd.asked(self)
        if not self._answered_at_once():
            super().on_headers_complete()

    def _answered_at_once(self) -> bool:
        """Answer what is finished without the ASGI app, whose task and messages cost more than the sending.

        Only a plain GET on a connection without TLS whose earlier answers are sent: all else takes its turn.
        """
        free = self.cycle is None or self.cycle.response_complete
        if not free or self.scheme != "http" or self.transport.get_write_buffer_size():
            return False
        if self.parser.get_method() != b"GET" or self.parser.get_http_version() != "1.1":
            return False
        headers = dict(reversed(self.headers))  # of a field that is there twice, the first
        if not (_ELSEWHERE.isdisjoint(headers) and self.parser.should_keep_alive()):
            return False
        answer = type(self).at_once(self.url, headers)
        if answer is None:
            return False
        fields, pieces = answer
        own = b"".join([b"%s: %s\r\n" % field for field in self.server_state.default_headers])
        self.transport.writelines([b"HTTP/1.1 200 OK\r\n%s%s\r\n" % (own, fields), *pieces])
        self.on_response_complete()
        return True

    def on_message_complete(self) -> None:
        """End a request."""
        self._received = 0
        if self.cycle is not None:
            super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """Watch that the answer is taken."""
        more = bool(self.pipeline)
        super().on_response_complete()
        if not more:
            self.crowd.answered(self)
        self._watch()

    def pause_writing(self) -> None:
        """Watch that what is written is taken."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Note that something was taken."""
        super().resume_writing()
        self._since = self.loop.time()

    def _watch(self) -> None:
        self._left = self.transport.get_write_buffer_size()
        if self._left and self._stall is None:
            self._since = self.loop.time()
            self._look_later()

    def _look_later(self) -> None:
        self._stall = self.loop.call_later(self.limits.stall_seconds / 10, self._look)

    def _look(self) -> None:
        before, self._left = self._left, self.transport.get_write_buffer_size()
        self._stall = None
        if self._left < before:
            self._since = self.loop.time()
        if self.loop.time() - self._since >= self.limits.stall_seconds:
            self.transport.abort()
        elif self._left:
            self._look_later()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP; a connection that was given up has its answer already, or none."""
        if not self.transport.is_closing():
            super().send_400_response(msg)
            self._hurry()  # closing waits until the answer is taken

    def _refuse(self, status: int, reason: bytes) -> None:
        head = b"HTTP/1.1 %d %s\r\n" % (status, HTTPStatus(status).phrase.encode())
        fields = b"content-type: text/plain\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(head + fields % (len(reason) + 1) + reason + b"\n")
        self.transport.close()
        self._hurry()


class Server(uvicorn.Server):
    """Serves an ASGI app on sockets that listen already; `stop` ends it.

    `admits` judges a connection by its transport once TLS is up; `context` is None for plain HTTP; `at_once`
    answers before the app is asked.
    """

    def __init__(
        self,
        app: Any,
        *,
        limits: Limits = Limits(),
        context: ssl.SSLContext | None = None,
        admits: Admission = _all,
        at_once: AtOnce = _never,
    ) -> None:
        self._app = app
        self._limits = limits
        self._context = context
        self._admits = admits
        rules = {
            "limits": limits,
            "crowd": Crowd(limits),
            "admits": staticmethod(self._admitted),
            "at_once": staticmethod(at_once),
        }
        super().__init__(
            uvicorn.Config(
                self._calmly,
                interface="asgi3",
                http=type("Connection", (Protocol,), rules),
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

    def _admitted(self, transport: asyncio.Transport, /) -> bool:
        """Whether to serve a connection; none whose handshake ends when the server stops."""
        return not self.should_exit and self._admits(transport)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept on the sockets."""
        self._sockets = sockets or []
        self.servers = [await self._accepting(each.dup(), self._context) for each in self._sockets]
        self.started = True

    async def renew(self, context: ssl.SSLContext, *, anew: bool) -> None:
        """Take another TLS context for connections from now on.

        Those that are open go on as they are; with `anew` they end after the answer that they wait for.
        Raises OSError, and then nothing has changed.

        A context that is swapped within a listener keeps its old rules for client certificates, so new
        listeners take over on duplicates of the sockets, whose queues they share: no client notices.
        """
        made: list[asyncio.Server] = []
        try:
            for each in self._sockets:
                made.append(await self._accepting(each.dup(), context))  # noqa: PERF401 - to close what was made
        except OSError:
            for server in made:
                server.close()
            raise
        for server in self.servers:
            server.close()
        self.servers = made
        for connection in list(self.server_state.connections) if anew else ():
            connection.shutdown()

    async def _accepting(self, listening: socket.socket, context: ssl.SSLContext | None) -> asyncio.Server:
        listening.setblocking(False)
        return await asyncio.get_running_loop().create_server(
            self._connection,
            sock=listening,
            ssl=context,
            backlog=BACKLOG,
            ssl_handshake_timeout=self._limits.handshake_seconds if context else None,
            ssl_shutdown_timeout=GRACE if context else None,
        )

    def _connection(self) -> asyncio.Protocol:
        protocol: Any = self.config.http_protocol_class
        made: asyncio.Protocol = protocol(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what is being answered, and give up on slow readers before uvicorn would cancel tasks."""
        giving_up = asyncio.get_running_loop().call_later(GRACE, self._abort)
        await super().shutdown(sockets)
        giving_up.cancel()

    def _abort(self) -> None:
        for connection in list(self.server_state.connections):
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
