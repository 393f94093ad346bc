from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from exporter.web.listening import address_of, listen
from exporter.web.server import Limits, Protocol, Server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def hello(scope: Any, _receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"hi"})


async def large(_scope: Any, _receive: Any, send: Any) -> None:
    size = 64 * 1024 * 1024
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
    await send({"type": "http.response.body", "body": bytes(size)})


def test_requests_are_answered_until_stop() -> None:
    """The server answers on its sockets, and `stop` ends it."""

    async def play() -> str:
        server, sockets = Server(hello), listen(["127.0.0.1:0"])
        serving = asyncio.create_task(server.serve(sockets))
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"http://{address_of(sockets[0])}/")
        server.stop()
        await asyncio.wait_for(serving, 2)
        return answer.text

    assert asyncio.run(play()) == "hi"


def test_a_slow_reader_does_not_hold_the_server() -> None:
    """A client that does not read its answer is given up on after a second."""

    async def play() -> float:
        server, sockets = Server(large), listen(["127.0.0.1:0"])
        serving = asyncio.create_task(server.serve(sockets))
        reader, writer = await asyncio.open_connection(*sockets[0].getsockname())
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readline()
        begun = asyncio.get_running_loop().time()
        server.stop()
        await asyncio.wait_for(serving, 5)
        writer.transport.abort()
        return asyncio.get_running_loop().time() - begun

    assert asyncio.run(play()) < 2


# The limits, on small figures: what matters is that they bite, and whom.


async def served(
    limits: Limits, scene: Callable[[tuple[str, int], Server], Awaitable[Any]], app: Any = hello, **more: Any
) -> Any:
    server, sockets = Server(app, limits=limits, **more), listen(["127.0.0.1:0"])
    serving = asyncio.create_task(server.serve(sockets))
    try:
        return await asyncio.wait_for(scene(sockets[0].getsockname(), server), 5)
    finally:
        server.stop()
        await serving


def playing(
    limits: Limits, scene: Callable[[tuple[str, int], Server], Awaitable[Any]], app: Any = hello, **more: Any
) -> Any:
    return asyncio.run(served(limits, scene, app, **more))


async def said(address: tuple[str, int], data: bytes, *, half_close: bool = False) -> bytes:
    """Say something, and return all that comes back until the server hangs up."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(data)
    if half_close:
        writer.write_eof()
    answer = b""
    with contextlib.suppress(ConnectionError):
        answer = await reader.read()
    writer.transport.abort()
    return answer


GET = b"GET / HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize("start", [b"", b"G", GET, b"\r\n\r\n"])
def test_a_head_must_be_complete_in_time(start: bytes) -> None:
    """A connection that has not sent a whole head in time is closed without an answer."""
    limits = Limits(head_seconds=0.05)

    assert playing(limits, lambda address, _: said(address, start)) == b""


def test_the_next_head_has_its_own_deadline() -> None:
    """On a kept connection the clock starts with the next head's first byte, and idling is no fault."""

    async def scene(address: tuple[str, int], _server: Server) -> tuple[bytes, bytes]:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(GET + b"\r\n")
        first = await reader.readuntil(b"hi")
        await asyncio.sleep(0.1)
        writer.write(GET + b"\r\n")
        second = await reader.readuntil(b"hi")
        writer.write(b"G")
        assert await reader.read() == b""
        writer.close()
        return first, second

    first, second = playing(Limits(head_seconds=0.05), scene)
    assert first.startswith(b"HTTP/1.1 200")
    assert second.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "head",
    [
        GET + b"X: " + b"x" * 20_000,
        GET + b"X: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n",
        GET + b"".join(b"X-%d: y\r\n" % number for number in range(2000)) + b"\r\n",
    ],
)
def test_a_head_has_a_size(head: bytes) -> None:
    """A head over 16 KiB is 431 or cut off, whether it comes whole or not."""
    answer = playing(Limits(), lambda address, _: said(address, head))

    assert answer == b"" or answer.startswith(b"HTTP/1.1 431")


def test_a_head_within_the_size_is_served() -> None:
    """A head just under 16 KiB is served."""
    head = GET + b"Connection: close\r\nX: " + b"x" * 16_000 + b"\r\n\r\n"

    assert playing(Limits(), lambda address, _: said(address, head)).startswith(b"HTTP/1.1 200")


def test_pipelined_requests_are_not_one_head() -> None:
    """Requests in one piece are all answered, though together they are larger than a head may be."""
    request = GET + b"X: " + b"x" * 2000 + b"\r\n"
    requests = (request + b"\r\n") * 15 + request + b"Connection: close\r\n\r\n"
    answer = playing(Limits(), lambda address, _: said(address, requests))

    assert answer.count(b"HTTP/1.1 200") == 16


def test_pipelining_has_an_end() -> None:
    """Whoever sends thousands of requests without waiting for answers is cut off."""
    answer = playing(Limits(), lambda address, _: said(address, (GET + b"\r\n") * 10_000))

    assert answer.count(b"HTTP/1.1 200") < 1000


@pytest.mark.parametrize(
    ("parsed", "requests"),
    [
        (1 + Limits().pipelined + 1, (GET + b"\r\n") * 10_000),
        (1, GET + b"X: " + b"x" * 16_370 + b"\r\n\r\n" + (GET + b"\r\n") * 100),
    ],
    ids=["too many", "too large"],
)
def test_nothing_more_is_parsed_of_whoever_is_cut_off(parsed: int, requests: bytes) -> None:
    """Parsing ends with the request that was too many or too large: the next 900 would cost other clients."""
    urls: list[bytes] = []

    async def scene(address: tuple[str, int], server: Server) -> None:
        connection: Any = server.config.http_protocol_class

        class Counted(connection):  # type: ignore[misc]
            def on_url(self, url: bytes) -> None:
                urls.append(url)
                super().on_url(url)

        server.config.http_protocol_class = Counted
        await said(address, requests)

    playing(Limits(), scene)

    assert parsed == len(urls)


def test_a_body_has_a_size() -> None:
    """A body over 64 KiB ends the connection, though it was answered already."""

    async def scene(address: tuple[str, int], _server: Server) -> bool:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n")
        await reader.readuntil(b"hi")
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                writer.write(bytes(65536))
                await writer.drain()
        return writer.is_closing() or reader.at_eof()

    assert playing(Limits(), scene) is True


async def in_pieces(_scope: Any, _receive: Any, send: Any) -> None:
    size = 64 * 1024 * 1024
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
    for left in range(size // 65536, 0, -1):
        await send({"type": "http.response.body", "body": bytes(65536), "more_body": left > 1})


@pytest.mark.parametrize("app", [large, in_pieces])
def test_a_stalled_answer_is_aborted(app: Any) -> None:
    """An answer of which nothing is taken is given up, written at once or waiting to go on."""

    async def scene(address: tuple[str, int], server: Server) -> bool:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(GET + b"\r\n")
        await reader.readline()
        for _ in range(40):
            await asyncio.sleep(0.05)
            if not server.server_state.connections:
                break
        writer.transport.abort()
        return not server.server_state.connections

    assert playing(Limits(stall_seconds=0.1), scene, app) is True


def test_asking_again_is_not_taking() -> None:
    """A client that goes on asking and reads no answer is given up as one that is silent."""
    sizes = iter([400_000])

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        size = next(sizes, 100)  # the first one fills what the kernel keeps, the others find room behind it
        headers = [(b"content-length", b"%d" % size)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": bytes(size)})

    async def scene(address: tuple[str, int], server: Server) -> bool:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(address)
            for _ in range(40):
                with contextlib.suppress(ConnectionError):
                    client.send(GET + b"\r\n")
                await asyncio.sleep(0.05)
                if not server.server_state.connections:
                    break
            return not server.server_state.connections

    assert playing(Limits(stall_seconds=0.5), scene, app) is True


def test_an_answer_that_is_taken_slowly_is_finished() -> None:
    """An answer that is taken bit by bit is none that stalls."""

    async def scene(address: tuple[str, int], _server: Server) -> int:
        reader, writer = await asyncio.open_connection(*address, limit=65536)
        writer.write(GET + b"Connection: close\r\n\r\n")
        size = 0
        while piece := await reader.read(1 << 20):
            size += len(piece)
            await asyncio.sleep(0.002)  # some 500 times, so much longer than a stall
        writer.close()
        return size

    assert playing(Limits(stall_seconds=0.3), scene, large) > 64 * 1024 * 1024


def test_the_oldest_without_a_request_makes_room() -> None:
    """At the limit the oldest silent connection is closed, never the new one, and served ones come last."""

    async def scene(address: tuple[str, int], _server: Server) -> list[bool]:
        kept, keeper = await asyncio.open_connection(*address)
        keeper.write(GET + b"\r\n")
        await kept.readuntil(b"hi")
        silent = [await asyncio.open_connection(*address) for _ in range(9)]
        newest, writer = await asyncio.open_connection(*address)
        writer.write(GET + b"\r\n")
        await newest.readuntil(b"hi")
        keeper.write(GET + b"\r\n")
        await kept.readuntil(b"hi")
        for each in (keeper, writer, *(other for _, other in silent)):
            each.transport.abort()
        return [reader.at_eof() or reader.exception() is not None for reader, _ in silent]

    assert playing(Limits(connections=10), scene) == [True] + [False] * 8


@pytest.mark.parametrize("start", [b"0\r\nX: ", b"1;"])
def test_what_follows_a_head_has_a_size(start: bytes) -> None:
    """Trailers and chunk extensions without end are cut off, though they are no body."""

    async def scene(address: tuple[str, int], _server: Server) -> int:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + start)
        taken = 0
        with contextlib.suppress(ConnectionError):
            while taken < 64 * 1024 * 1024 and not writer.is_closing():
                writer.write(b"a" * 65536)
                await writer.drain()
                taken += 65536
                await asyncio.sleep(0)
        del reader
        return taken

    assert playing(Limits(), scene) < 16 * 1024 * 1024


def test_trailers_are_no_headers() -> None:
    """A field after the body is not taken for one of the request's head."""
    seen: list[list[bytes]] = []

    async def watching(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.05)
        seen.append([name for name, _ in scope["headers"]])
        await hello(scope, receive, send)

    head = b"POST / HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    request = head + b"0\r\nAuthorization: x\r\n\r\n"
    playing(Limits(), lambda address, _: said(address, request), watching)

    assert seen == [[b"connection", b"transfer-encoding"]]


@pytest.mark.parametrize("more", [b"\r\n", b"x"])
def test_a_byte_does_not_keep_a_connection(more: bytes) -> None:
    """After its answer a connection that sends no whole head in time is closed, whatever else it sends."""

    async def scene(address: tuple[str, int], _server: Server) -> bytes:
        reader, writer = await asyncio.open_connection(*address)
        body = b"Content-Length: 60000\r\n" if more == b"x" else b""
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\n" + body + b"\r\n")
        await reader.readuntil(b"hi")
        writer.write(more)
        rest = b""
        with contextlib.suppress(ConnectionError):
            rest = await reader.read()
        writer.close()
        return rest

    assert playing(Limits(head_seconds=0.05), scene) == b""


def test_idle_ones_do_not_push_out_new_ones() -> None:
    """Where more connections idle than are new, the oldest idle one makes room."""

    async def scene(address: tuple[str, int], _server: Server) -> list[bool]:
        idle = []
        for _ in range(9):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(GET + b"\r\n")
            await reader.readuntil(b"hi")
            idle.append((reader, writer))
        new = [await asyncio.open_connection(*address) for _ in range(2)]
        last, asking = new[1]
        asking.write(GET + b"\r\n")
        await last.readuntil(b"hi")
        gone = [reader.at_eof() or reader.exception() is not None for reader, _ in [*idle, new[0]]]
        for _, writer in (*idle, *new):
            writer.transport.abort()
        return gone

    assert playing(Limits(connections=10), scene) == [True] + [False] * 9


async def slow(_scope: Any, _receive: Any, send: Any) -> None:
    """Answer after some turns of the event loop, as a page that is written in a thread."""
    await asyncio.sleep(0.05)
    await hello(_scope, _receive, send)


@pytest.mark.parametrize("requests", [1, 3])
@pytest.mark.parametrize("app", [hello, slow])
def test_a_client_that_sends_no_more_gets_its_answers(app: Any, requests: int) -> None:
    """Whoever closes its side after its requests gets every answer, and then the connection ends."""
    data = (GET + b"\r\n") * requests
    answer = playing(Limits(), lambda address, _: said(address, data, half_close=True), app)

    assert requests == answer.count(b"HTTP/1.1 200")
    assert answer.endswith(b"hi")


@pytest.mark.parametrize("data", [b"", b"GET / HT", GET])
def test_half_a_head_and_no_more_is_the_end(data: bytes) -> None:
    """A client that closes its side before its first request is whole is closed without an answer."""
    assert b"" == playing(Limits(), lambda address, _: said(address, data, half_close=True))


UPGRADE = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
)


@pytest.mark.parametrize("pieces", ["at once", "by bytes"])
@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n", b"hello=world"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n", b"3\r\nabc\r\n0\r\n\r\n"),
        (GET.replace(b"GET", b"DELETE"), GET + b"\r\n"),
    ],
    ids=["body", "chunks", "another request"],
)
@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
def test_an_upgrade_is_answered_in_http_1_and_ends_the_connection(
    protocol: bytes, head: bytes, body: bytes, pieces: str
) -> None:
    """A request that asks for another protocol gets one answer, and then its connection ends."""
    request = head + UPGRADE.replace(b"h2c", protocol) + b"\r\n"
    cuts = {
        "at once": [request + body],
        "by bytes": [bytes([one]) for one in request + body],
    }[pieces]
    sent = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await sent.wait()
        await asyncio.sleep(0.02)  # what was sent arrives
        await hello(scope, receive, send)

    async def scene(address: tuple[str, int], _server: Server) -> bytes:
        reader, writer = await asyncio.open_connection(*address)
        for piece in cuts:
            writer.write(piece)
            await asyncio.sleep(0)
        sent.set()
        answer = await reader.read()
        writer.close()
        return answer

    answer = playing(Limits(), scene, app)

    assert 1 == answer.count(b"HTTP/1.1 ")
    assert answer.startswith(b"HTTP/1.1 200")


# The methods of uvicorn that are overridden: without one of them a limit would silently be gone.

OWN = {"check", "replace_tls", "stop"}


def overridden(ours: type) -> set[str]:
    """Return the public methods of a class of ours that its base class calls."""
    return {name for name in vars(ours) if not name.startswith("_")} - OWN


def test_what_is_overridden_exists_in_uvicorn() -> None:
    """Every method that is overridden is one of uvicorn's: a renamed hook fails here."""
    for ours in (Protocol, Server):
        assert set() == overridden(ours) - set(vars(ours.__base__))


def test_what_is_overridden_is_called() -> None:
    """Two requests with large answers, and garbage, call every overridden method."""
    called: set[str] = set()

    def recording(ours: type) -> Any:
        """Return a subclass that notes which overridden methods are called."""

        def wrapped(name: str) -> Callable[..., Any]:
            def method(self: Any, *args: Any, **kwargs: Any) -> Any:
                called.add(name)
                return getattr(ours, name)(self, *args, **kwargs)

            return method

        return type("Recording", (ours,), {name: wrapped(name) for name in overridden(ours)})

    async def play() -> None:
        server, (listening,) = recording(Server)(large), listen(["127.0.0.1:0"])
        server.config.load()
        server.config.http_protocol_class = recording(Protocol)
        serving = asyncio.create_task(server.serve([listening]))
        await said(listening.getsockname(), GET + b"\r\n" + GET + b"Connection: close\r\n\r\n")
        await said(listening.getsockname(), b"garbage\r\n\r\n")
        await said(listening.getsockname(), GET, half_close=True)
        server.stop()
        await serving

    asyncio.run(play())

    assert overridden(Protocol) | overridden(Server) == called


def test_a_request_whose_client_has_gone_is_told() -> None:
    """When a connection is reset, the request that is answered is told, though others wait behind it."""
    told: list[str] = []

    async def waiting(_scope: Any, receive: Any, _send: Any) -> None:
        await receive()
        told.append((await receive())["type"])

    async def scene(address: tuple[str, int], _server: Server) -> None:
        _, writer = await asyncio.open_connection(*address)
        writer.write((GET + b"\r\n") * 3)
        await asyncio.sleep(0.05)
        reset = struct.pack("ii", 1, 0)  # a plain close looks as one of a client that still reads
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        writer.transport.abort()
        while not told:  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.001)

    playing(Limits(), scene, waiting)

    assert ["http.disconnect"] == told
