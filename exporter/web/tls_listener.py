"""A listener that shakes hands before it passes a connection on, so that a failed handshake is noticed.

It stands where `asyncio.Server` stands for plain HTTP, which drops a client whose handshake fails silently.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import NamedTuple

from exporter.web.handshake import HandshakeError, HandshakeReason, ServerContext
from exporter.web.listening import format_address

ACCEPTED_AT_ONCE = 64  # connections per turn of the event loop
PAUSE = 1.0  # seconds without accepting, when the system is out of files
LINGER = 1.0  # seconds for the client to read why it is refused, before its connection is reset
# Gets the reason, the client's address, and what OpenSSL says.
Failed = Callable[[HandshakeReason, str, str], None]


class HandshakeLimits(NamedTuple):
    """How many handshakes may be open at once, how long each may take, and the end of a connection."""

    at_once: int
    seconds: float
    shutdown_seconds: float


class TlsListener:
    """Accepts connections on a listening socket, and serves those that complete a handshake.

    `connect` makes the protocol of a connection. At the limit, the oldest quarter of the handshakes makes
    room. New clients wait in the kernel's queue until these have closed.
    """

    def __init__(
        self,
        listening: socket.socket,
        context: ServerContext,
        connect: Callable[[], asyncio.Protocol],
        limits: HandshakeLimits,
        failed: Failed,
    ) -> None:
        self._listening, self._context, self._connect = listening, context, connect
        self._limits, self._failed = limits, failed
        self._loop = asyncio.get_running_loop()
        # A second descriptor of each connection that is not passed on yet, the oldest first, and its task.
        self.handshakes: dict[socket.socket, asyncio.Task[None]] = {}
        self._given_up: set[socket.socket] = set()  # of these
        self.pause: asyncio.TimerHandle | None = None
        self._listen()

    def close(self) -> None:
        """Accept no more connections; handshakes that have begun go on."""
        if self.pause is not None:
            self.pause.cancel()
        self._loop.remove_reader(self._listening)
        self._listening.close()

    async def wait_closed(self) -> None:
        """Return at once: `close` has closed everything. uvicorn waits for its listeners."""

    def _listen(self) -> None:
        self.pause = None
        self._loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        room = self._limits.at_once - len(self.handshakes)
        if room <= 0:
            self._give_up()
        for _ in range(min(room, ACCEPTED_AT_ONCE)):
            try:
                connection, address = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                self._rest()
                return
            connection.setblocking(False)
            try:
                second = connection.dup()
            except OSError as error:
                connection.close()
                self._failed(HandshakeReason.OTHER, format_address(address), str(error.strerror))
                self._rest()
                return
            self.handshakes[second] = asyncio.create_task(
                self._serve(connection, second, format_address(address))
            )

    def _rest(self) -> None:
        """Accept nobody for a while: out of files, the socket stays readable, to be tried without end."""
        self._loop.remove_reader(self._listening)
        self.pause = self._loop.call_later(PAUSE, self._listen)
        self._give_up()

    def _give_up(self) -> None:
        """End the oldest quarter of the handshakes, unless earlier ones are still closing."""
        quarter = max(1, self._limits.at_once // 4)
        for second in [] if self._given_up else list(self.handshakes)[:quarter]:
            self._given_up.add(second)
            with contextlib.suppress(OSError):  # the client may have gone
                second.shutdown(socket.SHUT_RDWR)

    async def _serve(self, connection: socket.socket, second: socket.socket, peer: str) -> None:
        """Shake hands, and pass the connection on or say why not. The event loop closes `connection`."""
        try:
            await self._loop.connect_accepted_socket(
                self._connect,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=self._limits.seconds,
                ssl_shutdown_timeout=self._limits.shutdown_seconds,
            )
        except HandshakeError as failure:
            self._failed(failure.why, peer, failure.detail)
            await self._explain(second, failure.answer)
        except ConnectionAbortedError:
            self._failed(HandshakeReason.TIMEOUT, peer, "")
        except OSError:
            why = HandshakeReason.TIMEOUT if second in self._given_up else HandshakeReason.CLOSED
            self._failed(why, peer, "")
        finally:
            del self.handshakes[second]
            self._given_up.discard(second)
            second.close()

    async def _explain(self, second: socket.socket, answer: bytes) -> None:
        """Send what the client should know, and wait for it to hang up: closing could discard the answer."""
        with contextlib.suppress(OSError, TimeoutError):
            second.send(answer)
            second.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(LINGER):
                while await self._loop.sock_recv(second, 65536):
                    pass
