"""uvicorn as this project runs it: on our own sockets, with limits on clients, stopped within two seconds.

`Protocol` and `Server` override methods of uvicorn. pyproject.toml bounds uvicorn to the versions that were
tested, and tests/web/test_server.py checks that every overridden method exists there and is called.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from exporter.web.connections import TRANSITIONS, Connections, DeadlineAction, Event, State
from exporter.web.handshake import ServerContext
from exporter.web.listening import BACKLOG, client_limits, open_files
from exporter.web.tls_listener import Failed, HandshakeLimits, Handshakes, TlsListener

UNSENT = 256 * 1024  # bytes of an answer that may wait without TLS: the page's own bytes, not copies
PIECE = 16 * 1024  # bytes parsed at once: a quarter of a MiB can hold tens of thousands of header fields
GRACE = 1  # seconds a slow reader gets when the process stops
KEEP_ALIVE = 75  # seconds; longer than usual scrape intervals, so that Prometheus keeps its connection
HEAD_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain\r\n"
    b"content-length: 32\r\nconnection: close\r\n\r\nthe request's head is too large\n"
)


class StopParsing(Exception):
    """Ends the parsing of a connection that is closed: what else has arrived could be 900 requests."""


class Limits(NamedTuple):
    """What one client may take: bytes, seconds, connections."""

    head_bytes: int = 16 * 1024
    head_seconds: float = 5.0  # from connecting, or from the head's first byte
    handshake_seconds: float = 5.0
    body_bytes: int = 64 * 1024
    pipelined: int = 16  # requests that wait for the answer to an earlier one
    stall_seconds: float = 30.0  # without a byte of the answer taken
    connections: int = 2000  # or fewer, if the system allows fewer open files
    pause_seconds: float = 1.0  # without accepting TLS clients, when the system is out of files


LIMITS = Limits()


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol, with the deadlines and sizes of `Limits`.

    It has many methods because each is an event of uvicorn, asyncio or the parser.
    """

    def __init__(
        self,
        *args: Any,
        limits: Limits,
        connections: Connections[Protocol],
        admits: Callable[[], bool],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._connections = connections
        self._admits = admits
        self._state = State.NEW
        self._in_head = True  # what the parser reads is part of a head
        self._received = 0  # bytes of the head, or since its end
        self._upgrading = False  # a request has asked for another protocol: what follows may be no HTTP
        self._deadline: asyncio.TimerHandle | None = None
        self._unsent = 0  # bytes of answers at the last check
        self._taken_at = self.loop.time()  # when the client had taken everything, or something more
        self._answering: RequestResponseCycle | None = None  # the request whose answer is being written

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the deadline of the first head; abort connections that the listener does not admit."""
        super().connection_made(transport)
        if self.scheme == "http":
            transport.set_write_buffer_limits(high=UNSENT)
        if not self._admits():
            transport.abort()
            return
        evicted = self._connections.add(self)
        if evicted:
            evicted.transport.abort()
        self._advance(Event.CONNECTED)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers, and end the requests that were not answered."""
        self._connections.remove(self)
        self.pipeline.clear()
        if self._answering is not None:  # uvicorn tells only the request that arrived last
            self._answering.disconnected = True
            self._answering.message_event.set()
        for timer in (self._deadline, self.timeout_keep_alive_task):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def check(self, now: float) -> None:
        """Abort the connection if its client has stopped reading an answer."""
        before, self._unsent = self._unsent, self.transport.get_write_buffer_size()
        if not (before and self._unsent) or self._unsent < before:
            self._taken_at = now
        if now - self._taken_at >= self._limits.stall_seconds:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Feed the parser piece by piece, until there is a reason to close the connection."""
        limits = self._limits
        for start in range(0, len(data), PIECE):
            if self.transport.is_closing():
                return
            piece = data[start : start + PIECE]
            self._received += len(piece)
            if not self._upgrading:
                super().data_received(piece)
            if self.transport.is_closing():
                return
            if self._in_head and self._received > limits.head_bytes:
                self._reject_head()
            elif self._received > limits.head_bytes + limits.body_bytes:
                self.transport.abort()  # a body, chunk extensions or trailers: no route reads them
            else:
                self._advance(Event.HEAD_BYTES if self._in_head else Event.OTHER_BYTES)

    def on_message_begin(self) -> None:
        """Begin a head."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Pass on a request, unless too many wait already or its head, arrived in one piece, is too large."""
        self._in_head = False
        if len(self.pipeline) >= self._limits.pipelined:
            self.transport.abort()
            raise StopParsing
        if self._received > self._limits.head_bytes:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > self._limits.head_bytes:
                self._reject_head()
                raise StopParsing
        self._received = 0
        self._advance(Event.HEAD)
        super().on_headers_complete()
        self.headers = []  # fields after the body (trailers) are collected here, and ignored
        if self.parser.should_upgrade():
            # It is answered as any request. The parser takes the end of its head for the end of HTTP, so its
            # body cannot be told from a next request: it is the last one of its connection.
            self._upgrading, self.cycle.keep_alive = True, False
        if not self.pipeline:
            self._answering = self.cycle

    def on_message_complete(self) -> None:
        """End a request: what follows is the next head."""
        self._received = 0
        super().on_message_complete()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Answer a client that sends no more, and then close. Under TLS the event loop closes at once."""
        super().eof_received()
        if self.scheme == "https" or self._state is not State.BUSY:
            return False
        self.cycle.keep_alive = False
        return True

    def on_response_complete(self) -> None:
        """Go on with the next request, if any."""
        if self.pipeline:
            self._answering = self.pipeline[-1][0]
        else:
            self._advance(Event.ANSWERED)
        super().on_response_complete()

    def resume_writing(self) -> None:
        """Note that the client has taken something."""
        super().resume_writing()
        self._taken_at = self.loop.time()

    def send_400_response(self, msg: str) -> None:
        """Reject what is not HTTP; a connection that is closing has its answer already, or gets none."""
        if not self.transport.is_closing():
            super().send_400_response(msg)
            self._advance(Event.REJECTED)

    def _reject_head(self) -> None:
        self.transport.write(HEAD_TOO_LARGE)
        self.transport.close()
        self._advance(Event.REJECTED)

    def _advance(self, event: Event) -> None:
        before = self._state
        state, deadline = TRANSITIONS[before][event]
        if state is not before:
            self._connections.move(self, before, state)
            self._state = state
        if deadline is DeadlineAction.START and self._deadline is None:
            # A timer of its own: clients that were cut off together would come back together.
            self._deadline = self.loop.call_later(self._limits.head_seconds, self.transport.abort)
        elif deadline is DeadlineAction.STOP and self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class Server(uvicorn.Server):
    """Serves an ASGI app on sockets that listen already; `stop` ends it.

    `context` is None for plain HTTP; `handshake_failed` is told of every TLS handshake that fails.
    """

    def __init__(
        self,
        app: Any,
        *,
        limits: Limits = LIMITS,
        context: ServerContext | None = None,
        handshake_failed: Failed = lambda _why, _peer, _detail: None,
    ) -> None:
        self._app = app
        self._limits = limits
        self._context = context
        self._handshake_failed = handshake_failed
        connections, handshakes = client_limits(limits.connections, open_files())
        self._connections = Connections[Protocol](connections)
        self.handshakes = Handshakes(
            HandshakeLimits(handshakes, limits.handshake_seconds, limits.stall_seconds, limits.pause_seconds)
        )
        self._sockets: list[socket.socket] = []
        self._generation = 0  # of the rules for client certificates
        super().__init__(
            uvicorn.Config(
                self._run_app,
                interface="asgi3",
                http=Protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",  # mistakes of clients must not fill our log
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=2 * GRACE,  # never reached: see shutdown
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the command line: uvicorn would raise SIGTERM again after its own shutdown."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept connections on the sockets."""
        self._sockets = sockets or []
        self.servers = [await self._accept(listening, self._context) for listening in self._sockets]
        self.started = True

    async def on_tick(self, counter: int) -> bool:
        """Check all connections three times a second; uvicorn calls this ten times a second."""
        if counter % 3 == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self._connections):
                connection.check(now)
        return await super().on_tick(counter)

    async def replace_tls(self, context: ServerContext, *, end_connections: bool) -> None:
        """Use another TLS context for connections from now on.

        Raises OSError if a listener cannot be made; the old ones then go on unchanged.

        Open connections keep theirs; with `end_connections` they end after the answer that they wait for.

        A listener whose context is changed in place keeps its old rules for client certificates. So new
        listeners take over on duplicates of the sockets, whose queues they share: no client notices.
        """
        listeners: list[Any] = []
        # It counts once all listeners are there: otherwise the old ones would admit nobody any more.
        generation = self._generation + end_connections
        try:
            for listening in self._sockets:
                listener = await self._accept(listening, context, generation)
                listeners.append(listener)
        except OSError:
            for listener in listeners:
                listener.close()
            raise
        for listener in self.servers:
            listener.close()
        self.servers, self._generation = listeners, generation
        for connection in list(self.server_state.connections) if end_connections else ():
            connection.shutdown()

    async def _accept(
        self, listening: socket.socket, context: ServerContext | None, generation: int = 0
    ) -> Any:
        """Return a listener on a duplicate of the socket, an asyncio.Server or the like."""

        def connect() -> asyncio.Protocol:
            protocol: Any = self.config.http_protocol_class
            connection: asyncio.Protocol = protocol(
                config=self.config,
                server_state=self.server_state,
                app_state=self.lifespan.state,
                limits=self._limits,
                connections=self._connections,
                # A handshake can end after the server was stopped, or after its rules were replaced.
                admits=lambda: not self.should_exit and generation == self._generation,
            )
            return connection

        own = listening.dup()
        try:
            own.setblocking(False)
            if context is None:
                return await asyncio.get_running_loop().create_server(connect, sock=own, backlog=BACKLOG)
            return TlsListener(own, context, connect, self.handshakes, self._handshake_failed)
        except OSError:
            own.close()
            raise

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish the answers that are being written; abort slow readers before uvicorn would cancel tasks."""

        def abort() -> None:
            for connection in list(self.server_state.connections):
                connection.transport.abort()
            for task in self.server_state.tasks:
                task.cancel()

        timer = asyncio.get_running_loop().call_later(GRACE, abort)
        await super().shutdown(sockets)
        timer.cancel()

    async def _run_app(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request; that it is cancelled when the server stops is not an error to log."""
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if not self.should_exit:
                raise

    def stop(self) -> None:
        """Stop accepting connections, finish what is being answered, and return from `serve`."""
        self.should_exit = True
