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
LINGER = 1.0  # seconds for the client to read why it is refused, before its connection is reset
# Gets the reason, the client's address, and what OpenSSL says.
Failed = Callable[[HandshakeReason, str, str], None]


class HandshakeLimits(NamedTuple):
    """How many handshakes may be open at once, and how long each may take.

    `shutdown_seconds` is for the end of a connection, `pause_seconds` for a system that is out of files.
    """

    at_once: int
    seconds: float
    shutdown_seconds: float
    pause_seconds: float


class Handshakes:
    """The open handshakes of all listeners of a server, old and new: the limit of files is one for all."""

    def __init__(self, limits: HandshakeLimits) -> None:
        self.limits = limits
        # A second descriptor of each connection that is not passed on yet, the oldest first, and its task.
        self.open: dict[socket.socket, asyncio.Task[None]] = {}
        self.given_up: set[socket.socket] = set()  # of these

    def free(self) -> int:
        """Return how many more handshakes may start."""
        return self.limits.at_once - len(self.open)

    def give_up(self) -> None:
        """End the oldest quarter of what may be open, unless earlier ones are still closing."""
        quarter = max(1, self.limits.at_once // 4)
        for second in [] if self.given_up else list(self.open)[:quarter]:
            self.given_up.add(second)
            with contextlib.suppress(OSError):  # the client may have gone
                second.shutdown(socket.SHUT_RDWR)

    def ended(self, second: socket.socket) -> None:
        """Close the second descriptor; another handshake may start."""
        del self.open[second]
        self.given_up.discard(second)
        second.close()


class TlsListener:
    """Accepts connections on a listening socket, and serves those that complete a handshake.

    `connect` makes the protocol of a connection. At the limit, the oldest quarter of the server's handshakes
    makes room. New clients wait in the kernel's queue until these have closed.
    """

    def __init__(
        self,
        listening: socket.socket,
        context: ServerContext,
        connect: Callable[[], asyncio.Protocol],
        handshakes: Handshakes,
        failed: Failed,
    ) -> None:
        self._listening, self._context, self._connect = listening, context, connect
        self._handshakes, self._failed = handshakes, failed
        self._loop = asyncio.get_running_loop()
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
        free = self._handshakes.free()
        if free <= 0:
            self._handshakes.give_up()
        for _ in range(min(free, ACCEPTED_AT_ONCE)):
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
            self._handshakes.open[second] = asyncio.create_task(
                self._serve(connection, second, format_address(address))
            )

    def _rest(self) -> None:
        """Accept nobody for a while: out of files, the socket stays readable, to be tried without end."""
        self._handshakes.give_up()
        self._loop.remove_reader(self._listening)
        self.pause = self._loop.call_later(self._handshakes.limits.pause_seconds, self._listen)

    async def _serve(self, connection: socket.socket, second: socket.socket, peer: str) -> None:
        """Shake hands, and pass the connection on or say why not. The event loop closes `connection`."""
        limits = self._handshakes.limits
        try:
            await self._loop.connect_accepted_socket(
                self._connect,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=limits.seconds,
                ssl_shutdown_timeout=limits.shutdown_seconds,
            )
        except HandshakeError as failure:
            self._failed(failure.why, peer, failure.detail)
            with contextlib.suppress(OSError, TimeoutError):
                second.send(failure.answer)
                second.shutdown(socket.SHUT_WR)
                async with asyncio.timeout(LINGER):  # closing at once could discard the answer
                    while await self._loop.sock_recv(second, 65536):
                        pass
        except ConnectionAbortedError:
            self._failed(HandshakeReason.TIMEOUT, peer, "")
        except OSError:
            given_up = second in self._handshakes.given_up
            self._failed(HandshakeReason.TIMEOUT if given_up else HandshakeReason.CLOSED, peer, "")
        finally:
            self._handshakes.ended(second)
