"""Handshakes that fail: over real sockets, on both event loops, and what is counted and logged of them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import resource
import socket
import ssl
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import structlog
import uvloop

from exporter.app import App, Options
from exporter.web.handshake import HandshakeFailures, HandshakeReason
from exporter.web.listening import listen
from exporter.web.server import Limits, Server
from exporter.web.tls import Tls, tls_context
from tests.conftest import VirtualTime, fetch, parsed
from tests.web.certificates import pki
from tests.web.test_server import GET, hello
from tests.web.web_files import load, tls_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

__all__ = ["pki"]  # the fixture

LOOPS = pytest.mark.parametrize(
    "loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
Address = tuple[str, int]


class Failure(NamedTuple):
    """What a server is told of a handshake."""

    why: HandshakeReason
    peer: str
    detail: str


def playing(
    loop: Any,
    tls: Tls,
    scene: Callable[[Address, Server], Awaitable[Any]],
    limits: Limits | None = None,
    sockets: list[socket.socket] | None = None,
) -> tuple[Any, list[Failure]]:
    """Serve TLS; return what the scene returns, and the handshakes that failed."""
    sockets = sockets or listen(["127.0.0.1:0"])
    failures: list[Failure] = []

    async def play() -> Any:
        context = tls_context(tls)
        failed = lambda *failure: failures.append(Failure(*failure))  # noqa: E731
        server = Server(hello, limits=limits or Limits(), context=context, handshake_failed=failed)
        serving = asyncio.create_task(server.serve(sockets))
        try:
            async with asyncio.timeout(10):
                return await scene(sockets[0].getsockname(), server)
        finally:
            server.stop()
            await serving

    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(play()), failures


def client(pki: Path, cert: str = "", ciphers: str = "", **settings: Any) -> ssl.SSLContext:
    """Return a client that trusts the test CA; settings are attributes of its context."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ciphers:
        context.set_ciphers(ciphers)
    context.load_verify_locations(pki / "ca.crt")
    if cert:
        context.load_cert_chain(pki / f"{cert}.crt", pki / f"{cert}.key")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for name, value in settings.items():
            setattr(context, name, value)
    return context


def told(address: Address, context: ssl.SSLContext) -> str:
    """Ask as a scraper does; return the answer's first line, or what the client learns of the refusal."""
    with socket.create_connection(address, timeout=5) as plain:
        return told_on(plain, context)


def told_on(plain: socket.socket, context: ssl.SSLContext) -> str:
    """Do the same on a connection."""
    try:
        with context.wrap_socket(plain, server_hostname="localhost") as connection:
            connection.sendall(GET + b"Connection: close\r\n\r\n")
            return connection.recv(1000).partition(b"\r\n")[0].decode()
    except ssl.SSLError as error:
        return error.reason or "closed"
    except OSError:
        return "closed"


async def open_handshakes(server: Server, count: int) -> None:
    """Wait until so many handshakes are open."""
    while len(server.handshakes.open) != count:  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0.001)


VERIFYING = {"client_auth_type": "RequireAndVerifyClientCert", "client_ca_file": "ca.crt"}
OLD = {"maximum_version": ssl.TLSVersion.TLSv1_2}
CAMELLIA = {"ciphers": "CAMELLIA"}


@LOOPS
@pytest.mark.parametrize(
    ("expected", "keys", "cert", "settings"),
    [
        (("no_certificate", "TLSV13_ALERT_CERTIFICATE_REQUIRED"), VERIFYING, "", {}),
        (("no_certificate", "SSLV3_ALERT_HANDSHAKE_FAILURE"), VERIFYING, "", OLD),
        (("bad_certificate", "TLSV1_ALERT_UNKNOWN_CA"), VERIFYING, "alone", {}),
        (("bad_certificate", "TLSV1_ALERT_UNKNOWN_CA"), VERIFYING, "alone", OLD),
        (("unsupported_version", "TLSV1_ALERT_PROTOCOL_VERSION"), {"min_version": "TLS13"}, "", OLD),
        (("no_shared_cipher", "SSLV3_ALERT_HANDSHAKE_FAILURE"), {"max_version": "TLS12"}, "", CAMELLIA),
    ],
)
def test_a_refused_client_is_told_why(
    pki: Path, loop: Any, expected: tuple[str, str], keys: Any, *, cert: str, settings: Any
) -> None:
    """A refused handshake ends with an alert, and the server is told the reason and the client's address."""
    context = client(pki, cert, **settings)

    async def scene(address: Address, _server: Server) -> str:
        return await asyncio.to_thread(told, address, context)

    said, (failure,) = playing(loop, tls_of(pki, **keys), scene)

    assert expected == (failure.why, said)
    assert failure.peer.startswith("127.0.0.1:")
    assert failure.detail


@LOOPS
@pytest.mark.parametrize("settings", [{}, OLD])
def test_a_certificate_without_an_allowed_name_is_a_failed_handshake(
    pki: Path, loop: Any, settings: Any
) -> None:
    """Python can send no alert of its own: the connection closes, but the server is told why."""
    context = client(pki, "scraper", **settings)

    async def scene(address: Address, _server: Server) -> str:
        return await asyncio.to_thread(told, address, context)

    said, (failure,) = playing(loop, tls_of(pki, **VERIFYING, client_allowed_sans=["other"]), scene)

    assert "200" not in said
    assert HandshakeReason.NAME_NOT_ALLOWED is failure.why


@LOOPS
def test_a_client_that_does_not_trust_the_server_is_seen(pki: Path, loop: Any) -> None:
    """A client that rejects the server's certificate says so with an alert, which the server is told."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    async def scene(address: Address, server: Server) -> str:
        said = await asyncio.to_thread(told, address, context)
        await open_handshakes(server, 0)
        return said

    said, (failure,) = playing(loop, tls_of(pki), scene)

    assert ("CERTIFICATE_VERIFY_FAILED", HandshakeReason.CLIENT_ALERT) == (said, failure.why)
    assert failure.detail == "tlsv1 alert unknown ca"


async def plainly(address: Address, data: bytes) -> bytes:
    """Send bytes without TLS; return what comes back."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(data)
    answer = b""
    with contextlib.suppress(ConnectionError):
        answer = await reader.read()
    writer.close()
    return answer


async def files() -> int:
    """Return how many files are open."""
    return len(await asyncio.to_thread(os.listdir, "/proc/self/fd"))


METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "PROPFIND")


@LOOPS
def test_plain_http_is_answered(pki: Path, loop: Any) -> None:
    """Plain HTTP on the TLS port, whatever its method, gets 400 and a sentence, and has its own reason."""
    requests = [f"{method} /metrics HTTP/1.1\r\nHost: x\r\n\r\n".encode() for method in METHODS]

    async def scene(address: Address, _server: Server) -> list[bytes]:
        return [await plainly(address, request) for request in requests]

    answers, failures = playing(loop, tls_of(pki), scene)

    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert answer.endswith(b"\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
    assert [HandshakeReason.PLAIN_HTTP] * len(METHODS) == [failure.why for failure in failures]


@LOOPS
@pytest.mark.parametrize(
    "data", [b"SSH-2.0-OpenSSH_9.6\r\n", bytes(300), b"\x16\x03\x01\xff\xff" + bytes(100)]
)
def test_what_is_no_tls_at_all_is_counted(pki: Path, loop: Any, data: bytes) -> None:
    """Bytes that are neither TLS nor HTTP end the connection, get no HTTP answer, and are told as `other`."""
    answer, failures = playing(loop, tls_of(pki), lambda address, _: plainly(address, data))

    assert b"HTTP" not in answer
    assert [HandshakeReason.OTHER] == [failure.why for failure in failures]


@LOOPS
def test_silence_and_hanging_up_are_told_apart(pki: Path, loop: Any) -> None:
    """A client that says nothing runs into the deadline; one that hangs up is no refusal of anybody."""

    async def scene(address: Address, _server: Server) -> bytes:
        _, gone = await asyncio.open_connection(*address)
        gone.close()
        return await plainly(address, b"")

    answer, failures = playing(loop, tls_of(pki), scene, Limits(handshake_seconds=0.2))

    assert b"" == answer
    assert [HandshakeReason.CLOSED, HandshakeReason.TIMEOUT] == [failure.why for failure in failures]


@LOOPS
def test_the_oldest_handshake_makes_room(pki: Path, loop: Any) -> None:
    """Handshakes have a limit of their own: past it the oldest is given up, and a new client is served."""

    async def scene(address: Address, _server: Server) -> tuple[str, list[bool]]:
        silent = [await asyncio.open_connection(*address) for _ in range(5)]
        said = await asyncio.to_thread(told, address, client(pki))
        await asyncio.sleep(0.05)
        ended = [reader.at_eof() or reader.exception() is not None for reader, _ in silent]
        for _, writer in silent:
            writer.transport.abort()
        return said, ended

    (said, ended), failures = playing(loop, tls_of(pki), scene, Limits(connections=4))

    assert "HTTP/1.1 200 OK" == said
    assert [True, True, False, False, False] == ended
    assert [HandshakeReason.TIMEOUT] * 2 == [failure.why for failure in failures[:2]]


@LOOPS
@pytest.mark.parametrize("reload", [False, True])
def test_handshakes_of_all_listeners_have_one_limit(pki: Path, loop: Any, reload: bool) -> None:
    """The oldest handshake makes room, whichever address it came by, and on which side of a reload."""
    sockets = listen(["127.0.0.1:0", "127.0.0.1:0"])
    first, second = (listening.getsockname() for listening in sockets)
    renewed = tls_context(tls_of(pki, min_version="TLS13"))

    async def scene(_address: Address, server: Server) -> tuple[str, list[bool]]:
        silent = []
        for address in (first, first, second, second):
            silent.append(await asyncio.open_connection(*address))
            await open_handshakes(server, len(silent))
        if reload:
            await server.replace_tls(renewed, end_connections=False)
        said = await asyncio.to_thread(told, second, client(pki))
        await open_handshakes(server, 3)
        await asyncio.sleep(0.05)
        ended = [reader.at_eof() or reader.exception() is not None for reader, _ in silent]
        for _, writer in silent:
            writer.transport.abort()
        return said, ended

    (said, ended), failures = playing(loop, tls_of(pki), scene, Limits(connections=4), sockets)

    assert ("HTTP/1.1 200 OK", [True, False, False, False]) == (said, ended)
    assert HandshakeReason.TIMEOUT == failures[0].why


def test_a_refusal_is_explained_in_debug_mode(pki: Path) -> None:
    """What asyncio checks in debug mode alone, such as sockets that block, is kept to from the start."""
    unhandled: list[Any] = []

    def loop() -> asyncio.AbstractEventLoop:
        made = asyncio.new_event_loop()
        made.set_debug(True)
        made.set_exception_handler(lambda _, context: unhandled.append(context))
        return made

    answer, _ = playing(loop, tls_of(pki), lambda address, _: plainly(address, GET + b"\r\n"))
    gc.collect()  # a task's exception is told when the task goes

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert [] == unhandled


@LOOPS
def test_handshakes_leave_no_file_open(pki: Path, loop: Any) -> None:
    """Whether a handshake succeeds or fails, its connection has no file left when it is over."""

    async def scene(address: Address, _server: Server) -> int:
        before = 0
        for context in (client(pki), client(pki, maximum_version=ssl.TLSVersion.TLSv1_2)) * 4:
            await asyncio.to_thread(told, address, context)
            await plainly(address, GET + b"\r\n")
            before = (
                before or await files()
            )  # after the first: event loops open some files when they need them
        for _ in range(100):  # what is closed is closed in one of the next turns
            if await files() <= before:
                break
            await asyncio.sleep(0.01)
        return await files() - before

    left, failures = playing(loop, tls_of(pki, min_version="TLS13"), scene)

    assert left <= 0
    assert 12 == len(failures)


@LOOPS
def test_out_of_files_is_a_pause(pki: Path, loop: Any) -> None:
    """A connection for which the system has no file waits, and is served when there is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def scene(address: Address, server: Server) -> str:
        await asyncio.to_thread(told, address, client(pki))  # it is served, and its threads are there
        with socket.create_connection(address) as plain:
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
            try:
                while server.servers[0].pause is None:  # type: ignore[attr-defined]  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            plain.settimeout(5)
            return await asyncio.to_thread(told_on, plain, client(pki))

    said, failures = playing(loop, tls_of(pki), scene, Limits(pause_seconds=0.05))

    assert ("HTTP/1.1 200 OK", []) == (said, failures)


@LOOPS
def test_a_last_file_is_a_pause_too(pki: Path, loop: Any) -> None:
    """With one file left, one connection is refused and counted; the others wait, and are served.

    The oldest handshakes make room.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def scene(address: Address, server: Server) -> list[str]:
        await asyncio.to_thread(told, address, client(pki))  # it is served, and its threads are there
        with contextlib.ExitStack() as stack:
            stack.enter_context(socket.create_connection(address))
            await open_handshakes(server, 1)
            waiting = [stack.enter_context(socket.create_connection(address, 5)) for _ in range(3)]
            one = os.dup(waiting[0].fileno())
            os.close(one)  # the lowest number that is free: the limit lets one more file in
            resource.setrlimit(resource.RLIMIT_NOFILE, (one + 1, hard))
            try:
                while server.servers[0].pause is None:  # type: ignore[attr-defined]  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await open_handshakes(server, 0)
            return [await asyncio.to_thread(told_on, plain, client(pki)) for plain in waiting]

    said, failures = playing(loop, tls_of(pki), scene, Limits(pause_seconds=0.3))

    assert [False, True, True] == [answer == "HTTP/1.1 200 OK" for answer in said]
    assert [(HandshakeReason.OTHER, "Too many open files"), (HandshakeReason.TIMEOUT, "")] == [
        (failure.why, failure.detail) for failure in failures
    ]


def test_a_listener_that_cannot_be_made_leaves_no_file_open(
    pki: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the event loop takes no second listener, the first one and both duplicates are closed."""
    sockets = listen(["127.0.0.1:0", "127.0.0.1:0"])
    context = tls_context(tls_of(pki, min_version="TLS13"))

    async def scene(address: Address, server: Server) -> tuple[int, str]:
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(told, address, client(pki))  # it is served, and its threads are there
        while server.server_state.connections:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.001)
        add, calls = loop.add_reader, iter([True, False])

        def add_reader(*args: Any) -> None:
            if not next(calls):
                raise OSError(errno.ENOSPC, "epoll takes no more")
            add(*args)

        before = await files()
        with monkeypatch.context() as patch:
            patch.setattr(loop, "add_reader", add_reader)
            with pytest.raises(OSError, match="epoll"):
                await server.replace_tls(context, end_connections=True)
        left = await files() - before
        return left, await asyncio.to_thread(told, address, client(pki))

    said, failures = playing(asyncio.new_event_loop, tls_of(pki), scene, sockets=sockets)

    assert ((0, "HTTP/1.1 200 OK"), []) == (said, failures)


@LOOPS
def test_a_refused_reload_keeps_the_listeners(pki: Path, loop: Any) -> None:
    """Where no listener can be made for new rules, the old ones go on, and let clients in as before."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    context = tls_context(tls_of(pki, min_version="TLS13"))

    async def scene(address: Address, server: Server) -> str:
        await asyncio.to_thread(told, address, client(pki))  # it is served, and its threads are there
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            with pytest.raises(OSError, match="Errno"):
                await server.replace_tls(context, end_connections=True)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return await asyncio.to_thread(told, address, client(pki))

    said, failures = playing(loop, tls_of(pki), scene)

    assert ("HTTP/1.1 200 OK", []) == (said, failures)


# ---------------------------------------------------------------------------------------- counted and logged


def test_one_line_a_minute_of_each_reason() -> None:
    """Every failure is counted; of each reason one a minute is logged, with how many were not."""
    counted: list[str] = []
    time = VirtualTime()
    failures = HandshakeFailures(counted.append, lambda: time.mono)
    with structlog.testing.capture_logs() as logged:
        for second in range(130):
            for _ in range(3):
                failures(
                    HandshakeReason.NO_CERTIFICATE, f"192.0.2.1:{second}", "peer did not return a certificate"
                )
            failures(HandshakeReason.PLAIN_HTTP, "[2001:db8::1]:9")
            failures(HandshakeReason.CLOSED, "192.0.2.2:7")
            time.step(1)

    lines = [line for line in logged if line["reason"] == "no_certificate"]
    assert 130 * 5 == len(counted)
    assert [(0, "192.0.2.1:0"), (179, "192.0.2.1:60"), (179, "192.0.2.1:120")] == [
        (line["not_logged"], line["peer"]) for line in lines
    ]
    assert "the client sent no certificate: give it one, or change client_auth_type" == lines[0]["problem"]
    assert {"no_certificate": "warning", "plain_http": "warning", "closed": "debug"} == {
        line["reason"]: line["log_level"] for line in logged
    }


def test_a_refused_scraper_is_on_the_page(pki: Path) -> None:
    """With TLS, each reason is a series from the start, and plain HTTP on the port raises its own."""
    load(pki)  # writes web.yaml

    async def play() -> tuple[str, str]:
        time = VirtualTime()
        app = App(parsed, Options(("127.0.0.1:0",), web_config=pki / "web.yaml"), time.clock)
        addresses: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        running = asyncio.create_task(app.run(addresses.set_result))
        (address,) = await addresses
        before = await page(app)
        time.step(2)
        host, _, port = address.rpartition(":")
        await plainly((host, int(port)), GET + b"\r\n")
        after = await page(app)
        app.stop()
        await running
        return before, after

    before, after = asyncio.run(play())
    name = "cryptoloot_exporter_tls_handshake_failures_total"
    for reason in HandshakeReason:
        assert f'{name}{{reason="{reason}"}} 0.0\n' in before
    assert f'{name}{{reason="plain_http"}} 1.0\n' in after
    assert f'{name}{{reason="no_certificate"}} 0.0\n' in after


async def page(app: App) -> str:
    return (await fetch(app.web, "/metrics")).text
