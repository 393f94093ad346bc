"""A server on loopback that answers with given bytes, and the answers it gives."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import json
import socket
import struct
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

GOOD = b'{"success":true,"diff":1,"value":2,"payout":3,"payoutPer1MHashes":4,"synctime":5}'
HTML = b"<html><h1>Sorry</h1></html>"

gzipped = partial(gzip.compress, mtime=0)  # the same bytes in every run, also in the names of tests


class Reply(NamedTuple):
    """Bytes, piece by piece, and what becomes of the connection then: close, keep, hang or reset."""

    pieces: tuple[bytes, ...]
    end: str = "close"


class Server:
    """A server on loopback that gives each request the next reply, and the last one ever after.

    A hasty one says its piece to whatever comes first, such as a TLS handshake.
    """

    def __init__(self, *replies: Reply, tls: ssl.SSLContext | None = None, hasty: bool = False) -> None:
        self.heads: list[str] = []
        self.connections = 0
        self.port = 0
        self.asked = asyncio.Event()
        self._replies = itertools.chain(replies, itertools.repeat(replies[-1]))
        self._tls = tls
        self._hasty = hasty
        self._open: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}

    @property
    def queries(self) -> list[dict[str, list[str]]]:
        targets = [head.split(" ")[1] for head in self.heads]
        return [parse_qs(urlsplit(target).query, strict_parsing=True) for target in targets]

    @property
    def ended(self) -> list[bool]:
        """Whether each connection has come to its end."""
        return [task.done() for task in self._open.values() if task]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._open:
            writer.transport.abort()
        await asyncio.gather(*(task for task in self._open.values() if task))
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open[writer] = asyncio.current_task()
        with contextlib.suppress(OSError, EOFError):
            while await self._answer(reader, writer):
                pass
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if self._hasty:
            await reader.read(1 << 16)
        else:
            self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode("latin-1"))
        self.asked.set()
        pieces, end = next(self._replies)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            if len(pieces) > 1:
                await asyncio.sleep(0.01)
        if end == "hang":
            await reader.read()
        if end == "reset":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        return end == "keep"


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """Reserve a port that refuses connections."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def message(body: bytes = GOOD, status: int = 200, *headers: str) -> bytes:
    """Return a whole HTTP answer."""
    lines = [f"HTTP/1.1 {status} Said", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def reply(body: bytes = GOOD, status: int = 200, *headers: str, end: str = "close") -> Reply:
    return Reply((message(body, status, *headers),), end)


def chunked(*chunks: bytes, last: bytes = b"0\r\n\r\n") -> Reply:
    framed = [b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks]
    return Reply((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *framed, last))


def zipped(body: bytes, *headers: str) -> Reply:
    return reply(body, 200, "Content-Encoding: gzip", *headers)


def drip(data: bytes, size: int = 1) -> Reply:
    return Reply(tuple(data[place : place + size] for place in range(0, len(data), size)))


def refuse(code: object, status: int = 200) -> Reply:
    return reply(json.dumps({"success": False, "error": code}).encode(), status)
