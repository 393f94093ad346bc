from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import gzip
import itertools
import json
import socket
import ssl
import struct
import subprocess
import traceback
import tracemalloc
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import parse_qs, quote, quote_plus, urlsplit

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from exporter import __version__
from exporter.api import client as api
from exporter.api.answers import HistoryRow, Payout, User
from exporter.api.client import Client, PollError
from exporter.app import USER_AGENT
from exporter.config.secret import Secret
from exporter.endpoint import Endpoint, Reason
from tests.conftest import parsed, required, settle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

CANARY = "canary &=+%/ #?é"  # each of these characters means something in a URL
FORMS = ("canary", CANARY, quote(CANARY), quote(CANARY, safe=""), quote_plus(CANARY))
SECRET = Secret(CANARY)

GOOD = b'{"success":true,"diff":1,"value":2,"payout":3,"payoutPer1MHashes":4,"synctime":5}'
PAYOUT = Payout(1, 2, 3, 4, 5)
HTML = b"<html><h1>Sorry</h1></html>"
LIMIT = 1024  # api.max_response_bytes, where a test is about it

CALLS: dict[Endpoint, Callable[[Client], Awaitable[object]]] = {
    Endpoint.PAYOUT: lambda client: client.payout(SECRET),
    Endpoint.HISTORY: lambda client: client.history(SECRET),
    Endpoint.TOP_USERS: lambda client: client.top_users(SECRET, count=25, order="balance"),
    Endpoint.ALL_USERS: lambda client: client.user_page(SECRET, count=32, page=""),
    Endpoint.BALANCES: lambda client: client.balance(SECRET, name="johnd"),
}
PROXY_VARIABLES = ["http_proxy", "https_proxy", "all_proxy", "no_proxy"]


# ------------------------------------------------------------------------------------------- a raw server


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


# ------------------------------------------------------------------------------------------------ one call


@contextlib.asynccontextmanager
async def calling(url: str, **options: Any) -> AsyncIterator[Client]:
    """Open a client with these options of the section `api`, and close it."""
    client = Client(parsed(url, api=options).api, USER_AGENT)
    try:
        yield client
    finally:
        await client.close()


async def outcome(client: Client, endpoint: Endpoint = Endpoint.PAYOUT) -> object:
    """Return what a call returns or, if that is a PollError, what it raises."""
    try:
        return await CALLS[endpoint](client)
    except PollError as error:
        return error


class Heard(NamedTuple):
    """What a call brought, how many seconds it took, and the server it was made to."""

    result: Any
    seconds: float
    server: Server


def hear(
    *replies: Reply,
    endpoint: Endpoint = Endpoint.PAYOUT,
    url: str = "http://127.0.0.1:{port}",
    calls: int = 1,
    tls: ssl.SSLContext | None = None,
    hasty: bool = False,
    **options: Any,
) -> Heard:
    """Call a server that gives these replies; the result is that of the last call."""

    async def play(closed: int) -> Heard:
        async with (
            Server(*replies, tls=tls, hasty=hasty) as server,
            calling(url.format(port=server.port, closed=closed), **options) as client,
        ):
            began = asyncio.get_running_loop().time()
            for _ in range(calls):
                result = await outcome(client, endpoint)
            return Heard(result, asyncio.get_running_loop().time() - began, server)

    with closed_port() as closed:
        return asyncio.run(play(closed))


class Canned(httpx.AsyncBaseTransport):
    """A network with one answer, and the request that got it."""

    response: httpx.Response
    request: httpx.Request

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.request = request
        return self.response


@functools.cache  # a client takes 20 ms to make: it loads the roots of TLS
def canned(**options: Any) -> tuple[Client, Canned]:
    network = Canned()
    return Client(parsed(api=options).api, USER_AGENT, network), network


def answered(response: httpx.Response, endpoint: Endpoint = Endpoint.PAYOUT, **options: Any) -> Any:
    """Call without a network: the answer is given."""
    client, network = canned(**options)
    network.response = response
    return asyncio.run(outcome(client, endpoint))


def in_pieces(status: int, body: bytes, size: int = 1 << 16, **headers: str) -> httpx.Response:
    """Return an answer that comes in pieces of so many bytes."""

    async def pieces() -> AsyncIterator[bytes]:
        for place in range(0, len(body), size):
            yield body[place : place + size]

    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, headers=named, content=pieces())


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Walk all that hangs on an exception, suppressed or not."""
    if error is not None:
        yield error
        yield from chain(error.__cause__)
        yield from chain(error.__context__)


def leaks(error: PollError) -> list[str]:
    """Return the texts about an exception that hold the secret, and what is chained to it and is not ours."""
    texts = [text for each in chain(error) for text in (str(each), repr(each), repr(vars(each)))]
    texts += traceback.format_exception(error)
    foreign = [repr(type(each)) for each in chain(error) if not isinstance(each, PollError)]
    return foreign + [text for text in texts if any(form in text for form in FORMS)]


# ------------------------------------------------------------------------------------------- the reasons


class Fault(NamedTuple):
    """A way to fail: the reply, options of `api` (and of `hear`), and the reason it counts under."""

    reason: Reason
    reply: Reply
    options: dict[str, Any] = {}  # noqa: RUF012 - never changed


SHORT: dict[str, Any] = {"timeout": "200ms"}
SMALL: dict[str, Any] = {"max_response_bytes": LIMIT}
NOWHERE = Reply((b"",))
BOMB = gzip.compress(bytes(1 << 20))  # about 1 KiB
assert len(BOMB) < 1100

FAULTS: dict[str, Fault] = {
    "silence": Fault(Reason.TIMEOUT, Reply((), "hang"), SHORT),
    "a head that drips": Fault(Reason.TIMEOUT, drip(message()), SHORT),
    "a body that drips": Fault(
        Reason.TIMEOUT, Reply((b"HTTP/1.1 200 OK\r\nContent-Length: 80\r\n\r\n", *drip(GOOD).pieces)), SHORT
    ),
    "chunks that drip": Fault(Reason.TIMEOUT, chunked(*drip(GOOD).pieces), SHORT),
    "a body that stops": Fault(Reason.TIMEOUT, Reply((message()[:-1],), "hang"), SHORT),
    "interim answers for ever": Fault(Reason.TIMEOUT, Reply((b"HTTP/1.1 102 Wait\r\n\r\n",) * 100), SHORT),
    "a name without address": Fault(
        Reason.DNS, NOWHERE, {"url": "http://no-such-host.invalid", "allow_insecure": True}
    ),
    "a name no resolver takes": Fault(
        Reason.DNS, NOWHERE, {"url": f"http://{'a' * 70}.invalid", "allow_insecure": True}
    ),
    "a name that is not IDNA": Fault(
        Reason.DNS, NOWHERE, {"url": "http://xn--zzzzzz.invalid", "allow_insecure": True}
    ),
    "a closed port": Fault(Reason.CONNECT, NOWHERE, {"url": "http://127.0.0.1:{closed}"}),
    "closed without a word": Fault(Reason.CONNECT, NOWHERE),
    "reset without a word": Fault(Reason.CONNECT, Reply((), "reset")),
    "reset within the head": Fault(Reason.CONNECT, Reply((b"HTTP/1.1 200", b" OK\r\n"), "reset")),
    "reset within the body": Fault(Reason.CONNECT, Reply((message()[:-9], b":"), "reset")),
    "a body that ends early": Fault(Reason.CONNECT, Reply((message()[:-1],))),
    "chunks that end early": Fault(Reason.CONNECT, chunked(GOOD, last=b"")),
    "a chunk of no length": Fault(Reason.CONNECT, chunked(GOOD, last=b"-1\r\n\r\n")),
    "not HTTP": Fault(Reason.CONNECT, Reply((b"SSH-2.0-OpenSSH_9.6\r\n",))),
    "binary": Fault(Reason.CONNECT, Reply((bytes(range(256)),))),
    "status 000": Fault(Reason.CONNECT, reply(GOOD, 0)),
    "two lengths": Fault(Reason.CONNECT, reply(GOOD, 200, "Content-Length: 7")),
    "a giant head": Fault(
        Reason.CONNECT, reply(GOOD, 200, *(f"X-{number}: {'x' * 1000}" for number in range(300)))
    ),
    "a giant line": Fault(Reason.CONNECT, reply(GOOD, 200, "X: " + "x" * 300_000)),
    "TLS with a plain server": Fault(
        Reason.TLS, reply(HTML, 400), {"url": "https://127.0.0.1:{port}", "hasty": True}
    ),
    "a TLS alert": Fault(
        Reason.TLS,
        Reply((b"\x15\x03\x03\x00\x02\x02\x28",)),
        {"url": "https://127.0.0.1:{port}", "hasty": True},
    ),
    "500 with HTML": Fault(Reason.HTTP_STATUS, reply(HTML, 500)),
    "404 with HTML": Fault(Reason.HTTP_STATUS, reply(HTML, 404)),
    "503 without body": Fault(Reason.HTTP_STATUS, reply(b"", 503)),
    "429 with HTML": Fault(Reason.RATE_LIMITED, reply(HTML, 429)),
    "302 without body": Fault(Reason.REDIRECT, reply(b"", 302, "Location: https://127.0.0.1:1/")),
    "302 with HTML": Fault(Reason.REDIRECT, reply(HTML, 302, "Location: /elsewhere")),
    "302 to nowhere": Fault(Reason.REDIRECT, reply(b"", 302)),
    "a length over the limit": Fault(Reason.TOO_LARGE, reply(bytes(LIMIT + 1)), SMALL),
    "chunks over the limit": Fault(Reason.TOO_LARGE, chunked(*[bytes(LIMIT // 2)] * 3), SMALL),
    "gzip over the limit": Fault(Reason.TOO_LARGE, zipped(gzip.compress(bytes(LIMIT + 1))), SMALL),
    "gzip members over the limit": Fault(Reason.TOO_LARGE, zipped(gzip.compress(GOOD) * 99), SMALL),
    "a gzip bomb": Fault(Reason.TOO_LARGE, zipped(BOMB), {"max_response_bytes": 4 * LIMIT}),
    "200 with HTML": Fault(Reason.INVALID_JSON, reply(HTML)),
    "200 without body": Fault(Reason.INVALID_JSON, reply(b"")),
    "204": Fault(Reason.INVALID_JSON, Reply((b"HTTP/1.1 204 No Content\r\n\r\n",))),
    "gzip that ends early": Fault(Reason.INVALID_JSON, zipped(gzip.compress(GOOD)[:-1])),
    "gzip that is none": Fault(Reason.INVALID_JSON, zipped(GOOD)),
    "gzip with a wrong sum": Fault(Reason.INVALID_JSON, zipped(gzip.compress(GOOD)[:-8] + bytes(8))),
    "gzip with garbage behind": Fault(Reason.INVALID_JSON, zipped(gzip.compress(GOOD) + b"garbage")),
    "gzip nobody speaks of": Fault(Reason.INVALID_JSON, reply(gzip.compress(GOOD))),
    "brotli": Fault(Reason.INVALID_JSON, reply(GOOD, 200, "Content-Encoding: br")),
    "two codings": Fault(Reason.INVALID_JSON, reply(GOOD, 200, "Content-Encoding: gzip, br")),
    "bad UTF-8": Fault(Reason.INVALID_JSON, reply(b'{"success":true,"diff":"\xff"}')),
    "deep nesting": Fault(Reason.INVALID_JSON, reply(b'{"a":' + b"[" * 200_000)),
    "NaN": Fault(Reason.INVALID_JSON, reply(b'{"success":true,"diff":NaN}')),
    "a list": Fault(Reason.INVALID_RESPONSE, reply(b"[]")),
    "null": Fault(Reason.INVALID_RESPONSE, reply(b"null")),
    "nothing in it": Fault(Reason.INVALID_RESPONSE, reply(b"{}")),
    "success missing": Fault(Reason.INVALID_RESPONSE, reply(GOOD.replace(b'"success":true,', b""))),
    "success as a number": Fault(Reason.INVALID_RESPONSE, reply(GOOD.replace(b"true", b"1"))),
    "no success and no error": Fault(Reason.INVALID_RESPONSE, reply(GOOD.replace(b"true", b"false"))),
    "an error that is no string": Fault(Reason.INVALID_RESPONSE, refuse({"code": "invalid_secret"})),
    "a field missing": Fault(Reason.INVALID_RESPONSE, reply(GOOD.replace(b"value", b"valeu"))),
    "a field of another type": Fault(Reason.INVALID_RESPONSE, reply(GOOD.replace(b":2", b":[2]"))),
    "a number out of bounds": Fault(Reason.INVALID_RESPONSE, reply(GOOD.replace(b":2", b":1e99"))),
    "no list of users": Fault(
        Reason.INVALID_RESPONSE, reply(b'{"success":true,"users":{}}'), {"endpoint": Endpoint.TOP_USERS}
    ),
    "no list of rows": Fault(
        Reason.INVALID_RESPONSE, reply(b'{"success":true}'), {"endpoint": Endpoint.HISTORY}
    ),
    "invalid_secret": Fault(Reason.INVALID_SECRET, refuse("invalid_secret")),
    "bad_request": Fault(Reason.BAD_REQUEST, refuse("bad_request", 400)),
    "wrong_method": Fault(Reason.WRONG_METHOD, refuse("wrong_method", 405)),
    "not_found": Fault(Reason.NOT_FOUND, refuse("not_found", 404)),
    "internal_error": Fault(Reason.INTERNAL_ERROR, refuse("internal_error", 500)),
    "invalid_page where there are no pages": Fault(Reason.UNKNOWN_ERROR, refuse("invalid_page")),
    "a code of our own": Fault(Reason.UNKNOWN_ERROR, refuse("timeout")),
    "a code of another endpoint": Fault(Reason.UNKNOWN_ERROR, refuse("unknown_user")),
    "invalid_page": Fault(Reason.INVALID_PAGE, refuse("invalid_page"), {"endpoint": Endpoint.ALL_USERS}),
    "missing_input": Fault(Reason.MISSING_INPUT, refuse("missing_input"), {"endpoint": Endpoint.BALANCES}),
    "unknown_user": Fault(Reason.UNKNOWN_USER, refuse("unknown_user", 404), {"endpoint": Endpoint.BALANCES}),
    "a code that repeats the secret": Fault(Reason.UNKNOWN_ERROR, refuse(f"no such secret: {CANARY}")),
    "an empty code": Fault(Reason.UNKNOWN_ERROR, refuse("")),
}

every_fault = pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))


def leaves(parent: type[PollError] = PollError) -> list[type[PollError]]:
    children = parent.__subclasses__()
    return [leaf for child in children for leaf in leaves(child)] if children else [parent]


@every_fault
def test_every_fault_has_its_reason(fault: Fault) -> None:
    """A fault raises the one class of its reason, within a second whatever the server does."""
    heard = hear(fault.reply, **fault.options)

    assert fault.reason is heard.result.reason
    assert type(heard.result) in leaves()
    assert heard.seconds < 1


@every_fault
def test_no_failure_shows_the_secret(fault: Fault) -> None:
    """Neither text, repr, chained exceptions nor the traceback of a failure hold the secret in any form."""
    error = hear(fault.reply, **fault.options).result

    assert isinstance(error, PollError)
    assert [] == leaks(error)


def test_every_reason_is_among_the_faults() -> None:
    """The table above leaves out no reason."""
    assert set(Reason) == {fault.reason for fault in FAULTS.values()}


def test_the_tree_has_one_leaf_for_each_reason() -> None:
    """Every reason has exactly one class, that class is a leaf, and no inner class has a reason."""
    inner = {base for leaf in leaves() for base in leaf.__mro__[1:] if issubclass(base, PollError)}

    assert sorted(Reason) == sorted(leaf.reason for leaf in leaves())
    assert [] == [base for base in inner if hasattr(base, "reason")]
    assert {api.Unreached, api.BadStatus, api.BadBody, api.ApiError, api.UserRefused, PollError} == inner


@pytest.mark.parametrize("endpoint", Endpoint)
@pytest.mark.parametrize(
    ("code", "class_", "owner"),
    [
        ("invalid_page", api.InvalidPage, Endpoint.ALL_USERS),
        ("missing_input", api.MissingInput, Endpoint.BALANCES),
        ("unknown_user", api.UnknownUser, Endpoint.BALANCES),
    ],
)
def test_codes_of_one_endpoint(code: str, class_: type, owner: Endpoint, endpoint: Endpoint) -> None:
    """A code that the reference has at one endpoint alone is that there, and an unknown code elsewhere."""
    body = json.dumps({"success": False, "error": code}).encode()
    error = api._refusal(endpoint, api._Answer(404, httpx.Headers(), body))

    assert (class_ if endpoint is owner else api.UnknownError) is type(error)


@pytest.mark.parametrize("status", [200, 201, 302, 304, 400, 404, 429, 500, 503, 999])
@pytest.mark.parametrize("body", [b'{"success":false}', b"{ }", GOOD])
def test_the_error_in_the_body_wins_over_the_status(body: bytes, status: int) -> None:
    """Whatever the HTTP status says, and even `success`, the API's own word counts."""
    document = json.loads(body) | {"error": "invalid_secret"}
    error = answered(in_pieces(status, json.dumps(document).encode()))

    assert Reason.INVALID_SECRET is error.reason


@pytest.mark.parametrize("body", [GOOD, HTML, b"", b"[]", b'{"error":null}', b'{"error":429}', b"\xff"])
@pytest.mark.parametrize(
    ("expected", "status"),
    [
        (Reason.RATE_LIMITED, 429),
        *((Reason.REDIRECT, status) for status in (300, 301, 302, 303, 304, 307, 308, 399)),
        *((Reason.HTTP_STATUS, status) for status in (400, 401, 403, 404, 410, 500, 502, 503, 530, 999)),
    ],
)
def test_the_status_wins_over_the_body(expected: Reason, status: int, body: bytes) -> None:
    """Without an `error` that is a string, a status other than 2xx decides, even over a good body."""
    assert expected is answered(in_pieces(status, body)).reason


@pytest.mark.parametrize("coding", ["br", "gzip", "deflate", "zstd"])
@pytest.mark.parametrize(
    ("expected", "status"),
    [
        (Reason.RATE_LIMITED, 429),
        (Reason.REDIRECT, 302),
        (Reason.HTTP_STATUS, 503),
        (Reason.INVALID_JSON, 200),
    ],
)
def test_the_status_wins_over_an_unreadable_body(expected: Reason, status: int, coding: str) -> None:
    """429, 3xx and other non-2xx come before `invalid_json`: so do they when the coding cannot be read."""
    assert expected is answered(in_pieces(status, b"\x21\x02\x03", content_encoding=coding)).reason


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "location",
    [
        "http://[::1",
        "mailto:ops@example.com",
        "http://xn--zzzzzz.com/",
        "http://127.0.0.1:99999999/",
        "https://" + "a" * 70_000,
        "http://ex\u2028ample/",
        "//",
        "",
    ],
    ids=range(8),
)
def test_a_redirect_needs_no_readable_location(location: str, status: int) -> None:
    """A redirect is one wherever it leads, and its body is read like any other's."""
    headers = [(b"Location", location.encode())]
    error = answered(httpx.Response(status, headers=headers, stream=httpx.ByteStream(HTML)))
    refused = httpx.ByteStream(b'{"error":"invalid_secret"}')

    assert Reason.REDIRECT is error.reason
    assert Reason.INVALID_SECRET is answered(httpx.Response(status, headers=headers, stream=refused)).reason


@pytest.mark.parametrize("body", [b"", HTML])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(status: int, body: bytes) -> None:
    """The secret goes to no other host: the server that a redirect names sees not even a connection."""

    async def play() -> tuple[object, int, int]:
        async with Server(reply()) as other:
            redirect = reply(body, status, f"Location: http://127.0.0.1:{other.port}/stats/payout")
            async with Server(redirect) as server, calling(f"http://127.0.0.1:{server.port}") as client:
                return await outcome(client), len(server.heads), other.connections

    error, asked, elsewhere = asyncio.run(play())

    assert isinstance(error, api.Redirected)
    assert (1, 0) == (asked, elsewhere)


def test_foreign_text_is_not_repeated() -> None:
    """What a server chooses to say, in a status line, a code or a body, is in no text of ours."""
    said = [reply(b"johnd"), reply(b'{"johnd":1}'), refuse("johnd"), reply(b"", 500, "X: johnd")]
    errors = [hear(each).result for each in said]

    assert [] == [str(error) for error in errors if "johnd" in str(error) + repr(error)]


# ---------------------------------------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a self-signed certificate of 127.0.0.1, its key in the same file."""
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    making = "req -x509 -nodes -days 2 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -subj /CN=loopback"
    naming = f"-addext subjectAltName=IP:127.0.0.1 -keyout {file} -out {file}"
    command = [required("openssl"), *making.split(), *naming.split()]
    subprocess.run(command, check=True, capture_output=True)
    return file


def with_key(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_a_self_signed_certificate_is_refused(certificate: Path) -> None:
    """A certificate that no known root has signed is `tls`; the secret is not sent."""
    heard = hear(reply(), url="https://127.0.0.1:{port}", tls=with_key(certificate))

    assert Reason.TLS is heard.result.reason
    assert "self-signed certificate" in str(heard.result)
    assert [] == leaks(heard.result) + heard.server.heads


def test_a_root_of_the_environment_is_trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SSL_CERT_FILE names roots, as for other programs."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    assert PAYOUT == hear(reply(), url="https://127.0.0.1:{port}", tls=with_key(certificate)).result


def test_a_certificate_of_another_name_is_refused(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trusted certificate must be of the host that api.url names."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    heard = hear(reply(), url="https://localhost:{port}", tls=with_key(certificate))

    assert Reason.TLS is heard.result.reason
    assert [] == leaks(heard.result) + heard.server.heads


def test_a_handshake_that_hangs_leaves_nothing_open() -> None:
    """A handshake that is not answered is `timeout`, and its socket is not left to the garbage collector."""

    async def play() -> tuple[Any, list[bool]]:
        async with (
            Server(Reply((), "hang"), hasty=True) as server,
            calling(f"https://127.0.0.1:{server.port}", **SHORT) as client,
        ):
            error = await outcome(client)
            await asyncio.sleep(0.1)
            return error, server.ended

    with uncollected():
        error, ended = asyncio.run(play())

    assert Reason.TIMEOUT is error.reason
    assert [] == leaks(error)
    assert [True] == ended


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Keep the garbage collector from closing what the code should close; clean up in silence after it."""
    gc.disable()
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()
        gc.enable()


def test_a_broken_tls_connection_is_a_broken_connection(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the handshake a connection that ends within the answer is `connect`, as without TLS."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    broken = Reply((message()[:-9], b":"), "reset")
    error = hear(broken, url="https://127.0.0.1:{port}", tls=with_key(certificate)).result

    assert Reason.CONNECT is error.reason
    assert [] == leaks(error)


# ------------------------------------------------------------------------------------ what a server sees


def test_the_secret_arrives_intact() -> None:
    """Every character of the secret survives the query string."""
    heard = hear(reply())

    assert [{"secret": [CANARY]}] == heard.server.queries


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50))
def test_any_secret_arrives_intact(secret: str) -> None:
    """Any text is sent as it is, once, and nothing else in the query."""
    client, network = canned()
    network.response = in_pieces(200, GOOD)
    asyncio.run(client.payout(Secret(secret)))

    assert {"secret": [secret]} == parse_qs(network.request.url.query.decode(), strict_parsing=True)


@pytest.mark.parametrize("endpoint", CALLS)
def test_a_request_says_who_asks_and_for_what(endpoint: Endpoint) -> None:
    """GET of the endpoint's path, our name and version, gzip and no other coding, and no cookies."""
    heard = hear(reply(), endpoint=endpoint)
    line, *headers = heard.server.heads[0].lower().split("\r\n")

    assert line.startswith(f"get {endpoint}?")
    assert f"user-agent: cryptoloot-exporter/{__version__}" in headers
    assert ["accept-encoding: gzip"] == [header for header in headers if header.startswith("accept-enc")]
    assert [] == [header for header in headers if header.startswith("cookie")]


def test_top_users_are_asked_for_by_count_and_order() -> None:
    """`count` and `order` go to the API as configured."""
    heard = hear(reply(), endpoint=Endpoint.TOP_USERS)

    assert [{"count": ["25"], "order": ["balance"], "secret": [CANARY]}] == heard.server.queries


@pytest.mark.parametrize("prefix", ["/v2", "/a/b%20c", "/v2/"])
def test_the_url_may_have_a_path(prefix: str) -> None:
    """The endpoint's path is put behind that of api.url."""
    heard = hear(reply(), url="http://127.0.0.1:{port}" + prefix)

    assert PAYOUT == heard.result
    assert heard.server.heads[0].startswith(f"GET {prefix.rstrip('/')}/stats/payout?secret=")


def test_cookies_are_not_kept() -> None:
    """A cookie set for one site's call is not sent with the next, which may be another site's."""
    heard = hear(reply(GOOD, 200, "Set-Cookie: session=1; Path=/", end="keep"), calls=3)

    assert PAYOUT == heard.result
    assert [] == [head for head in heard.server.heads if "cookie" in head.lower()]


def test_connections_are_used_again() -> None:
    """Calls in a row share a connection, also over answers that are failures."""
    replies = [reply(HTML, 500, end="keep"), refuse("bad_request")._replace(end="keep"), reply(end="keep")]
    heard = hear(*replies, calls=5)

    assert PAYOUT == heard.result
    assert (1, 5) == (heard.server.connections, len(heard.server.heads))


def test_a_connection_closed_meanwhile_is_no_failure() -> None:
    """A request that a kept connection leaves unanswered is sent again on a new one, and counts as one."""

    async def twice() -> tuple[list[str], int]:
        async with Server(reply(end="keep"), Reply(()), reply()) as server:
            async with calling(f"http://127.0.0.1:{server.port}") as client:
                assert await outcome(client) == await outcome(client)
            return server.heads, server.connections

    heads, connections = asyncio.run(twice())

    assert (3, 2) == (len(heads), connections)


def test_a_new_connection_left_unanswered_is_a_failure() -> None:
    """A server that hangs up on a fresh request is asked once."""

    async def once() -> tuple[object, int]:
        async with Server(Reply(())) as server, calling(f"http://127.0.0.1:{server.port}") as client:
            return await outcome(client), len(server.heads)

    failure, requests = asyncio.run(once())

    assert isinstance(failure, api.ConnectFailed)
    assert requests == 1


def test_a_transport_that_only_breaks_is_given_up() -> None:
    """Where no connection can be seen to open, sending again has an end."""

    def broken(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("broken", request=request)

    client = Client(parsed().api, "test", httpx.MockTransport(broken))

    assert isinstance(asyncio.run(outcome(client)), api.ConnectFailed)


def test_a_closed_client_calls_nobody() -> None:
    """After close a call fails as a poll does, and opens nothing."""

    async def late() -> object:
        client = Client(parsed().api, "test", httpx.MockTransport(lambda _: httpx.Response(200)))
        await client.close()
        return await outcome(client)

    assert isinstance(asyncio.run(late()), api.ConnectFailed)


class Body(httpx.AsyncByteStream):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield GOOD


class Gates(httpx.MockTransport):
    """Answers while one gate is open, and closes while the other is."""

    def __init__(self) -> None:
        self.answering, self.closing = asyncio.Event(), asyncio.Event()
        super().__init__(self._held)

    async def _held(self, _request: httpx.Request) -> httpx.Response:
        await self.answering.wait()
        return httpx.Response(200, stream=Body())

    async def aclose(self) -> None:
        await self.closing.wait()


async def in_flight(client: Client, calls: int) -> list[asyncio.Future[object]]:
    started: list[asyncio.Future[object]] = [asyncio.ensure_future(outcome(client)) for _ in range(calls)]
    await settle()
    return started


def test_clients_are_as_many_as_calls_were_in_flight_and_few_are_kept() -> None:
    """Each call in flight has a client of its own; of those left over, eight stay, the others are closed."""

    async def many() -> tuple[int, int, list[bool]]:
        gates = Gates()
        client = Client(parsed().api, "test", gates)
        calls = await in_flight(client, 20)
        made = set(client._busy)
        gates.answering.set()
        gates.closing.set()
        await asyncio.gather(*calls)
        kept = [http for _, http in client._idle]
        await client.close()
        return len(made), len(kept), [http.is_closed for http in made]

    assert asyncio.run(many()) == (20, 8, [True] * 20)


def test_calls_that_take_all_idle_clients_while_one_is_closed_spoil_no_answer() -> None:
    """Closing takes time, in which others call: none may be left to be looked at when it is done."""

    async def crossed() -> list[object]:
        gates = Gates()
        client = Client(parsed().api, "test", gates)
        before = await in_flight(client, api.IDLE + 1)
        gates.answering.set()
        await settle()
        gates.answering.clear()
        after = await in_flight(client, api.IDLE)
        gates.closing.set()
        await settle()
        gates.answering.set()
        return await asyncio.gather(*before, *after)

    assert [PAYOUT] * (2 * api.IDLE + 1) == asyncio.run(crossed())


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "HTTPS_PROXY"])
def test_an_environment_that_cannot_be_used_is_told(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing certificate file or an odd proxy is an error that names the variables, not a crash."""
    monkeypatch.setenv(variable, "ftp://canary@nowhere")

    with pytest.raises(api.Unusable, match=variable) as error:
        Client(parsed(api={"proxy": "environment"}).api, "test")
    assert "canary" not in repr(error.value)
    assert error.value.__context__ is None


@pytest.mark.parametrize("cut", [Reply((message()[:-1],)), reply(bytes(LIMIT + 1), end="keep")])
def test_a_broken_connection_is_not_used_again(cut: Reply) -> None:
    """What is left of a bad answer never becomes part of the next one."""
    heard = hear(cut, reply(), calls=2, **SMALL)

    assert PAYOUT == heard.result
    assert 2 == heard.server.connections


@pytest.mark.parametrize(("expected", "proxy"), [((1, 0), "none"), ((0, 1), "environment")])
def test_the_proxy_of_the_environment(
    expected: tuple[int, int], proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP_PROXY is heeded with `proxy: environment` and ignored without."""
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)

    async def play() -> tuple[object, int, int]:
        async with Server(reply()) as server, Server(reply()) as between:
            monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{between.port}")
            async with calling(f"http://127.0.0.1:{server.port}", proxy=proxy) as client:
                return await outcome(client), server.connections, between.connections

    assert (PAYOUT, *expected) == asyncio.run(play())


def test_a_refused_proxy_fails_like_any_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that cannot be reached is `connect`, and the secret stays hidden."""
    with closed_port() as closed:
        for name in PROXY_VARIABLES:
            monkeypatch.setenv(name, "" if name == "no_proxy" else f"http://127.0.0.1:{closed}")
        error = hear(reply(), proxy="environment").result

    assert Reason.CONNECT is error.reason
    assert [] == leaks(error)


@pytest.mark.parametrize(("expected", "seconds"), [("120", "120"), (None, ""), ("x" * 64, "x" * 65)])
@pytest.mark.parametrize("failing", ["200 with HTML", "500 with HTML", "429 with HTML", "invalid_secret"])
def test_retry_after_is_passed_on(failing: str, expected: str | None, seconds: str) -> None:
    """Whatever the failure, the header comes along as it is, cut to a sane length; without one it is None."""
    head, _, body = FAULTS[failing].reply.pieces[0].partition(b"\r\n")
    header = f"Retry-After: {seconds}\r\n" if seconds else ""
    error = hear(Reply((head + b"\r\n" + header.encode() + body,))).result

    assert FAULTS[failing].reason is error.reason
    assert expected == error.retry_after


@pytest.mark.parametrize("status", [200, 302, 429, 503])
@pytest.mark.parametrize(("coding", "size"), [("br", 5), ("gzip", 5), ("identity", LIMIT + 1)])
def test_retry_after_is_passed_on_from_unreadable_answers(coding: str, size: int, status: int) -> None:
    """Retry-After is obeyed on any failure, so also when the body is too large or cannot be inflated."""
    answer = in_pieces(status, b"\x21" * size, content_encoding=coding, retry_after="77")

    assert "77" == answered(answer, **SMALL).retry_after


# ------------------------------------------------------------------------------------------ reading bodies


def test_answers_become_values() -> None:
    """Each call returns its endpoint's own type."""
    row = b'{"success":true,"history":[{"synctime":1,"hashes":"2","hashrate":3}]}'
    user = b'{"success":"true","users":[{"name":"a","total":"1","withdrawn":"2","balance":3}]}'

    assert PAYOUT == answered(in_pieces(200, GOOD))
    assert (HistoryRow(1, 2, 3),) == answered(in_pieces(200, row), Endpoint.HISTORY).entries
    assert (User("a", 1, 2, 3),) == answered(in_pieces(200, user), Endpoint.TOP_USERS).entries


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("identity", GOOD),
        ("", GOOD),
        ("gzip", gzip.compress(GOOD)),
        (" X-GZip ", gzip.compress(GOOD)),
        ("gzip", gzip.compress(GOOD[:20]) + gzip.compress(GOOD[20:])),
        ("gzip", gzip.compress(b"") + gzip.compress(GOOD) + gzip.compress(b"")),
        ("gzip", b"".join(gzip.compress(GOOD[place : place + 1]) for place in range(len(GOOD)))),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_bodies_are_inflated(coding: str, body: bytes, size: int) -> None:
    """Plain, gzip and gzip of several members are read, however the network cuts them."""
    assert PAYOUT == answered(in_pieces(200, body, size, content_encoding=coding), max_response_bytes="16KiB")


@pytest.mark.parametrize(
    "answer", [zipped(gzip.compress(GOOD)), chunked(GOOD[:9], GOOD[9:]), drip(message(), 20)]
)
def test_bodies_are_read_off_the_wire(answer: Reply) -> None:
    """A real connection brings the same: gzip, chunks, and a slow answer that ends in time."""
    assert PAYOUT == hear(answer).result


@pytest.mark.parametrize("packed", [False, True])
def test_the_limit_itself_is_allowed(packed: bool) -> None:
    """A body of max_response_bytes, inflated, is read; a byte more is too large."""
    results = []
    for size in (LIMIT, LIMIT + 1):
        body = GOOD.ljust(size)
        answer = in_pieces(200, gzip.compress(body), 50, content_encoding="gzip")
        results.append(answered(answer if packed else in_pieces(200, body, 50), **SMALL))

    assert [PAYOUT, api.TooLarge] == [results[0], type(results[1])]


def test_a_bomb_needs_no_memory() -> None:
    """However far a body would inflate, memory stays near max_response_bytes."""
    bomb = gzip.compress(bytes(64 << 20))
    response = in_pieces(200, bomb, content_encoding="gzip")
    tracemalloc.start()
    error = answered(response, max_response_bytes="128KiB")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert isinstance(error, api.TooLarge)
    assert peak < 4 << 20


def test_an_endless_body_is_cut_off() -> None:
    """A body without end is read up to the limit, not until the time is up."""
    heard = hear(chunked(*[bytes(500)] * 100), timeout="5s", **SMALL)

    assert Reason.TOO_LARGE is heard.result.reason
    assert heard.seconds < 0.5


@given(st.lists(st.binary(max_size=300), max_size=6), st.integers(1, 400), st.integers(0, 1500))
def test_inflating_is_joining(parts: list[bytes], size: int, limit: int) -> None:
    """Members cut anywhere inflate to their contents in a row, to at most a byte more than the limit."""
    packed = b"".join(gzip.compress(part) for part in parts)
    inflater = api._Inflater(limit)
    cuts = (packed[place : place + size] for place in range(0, len(packed), size))
    found = b"".join(piece for cut in cuts for piece in inflater.feed(cut))

    assert b"".join(parts)[: limit + 1] == found
    assert inflater.complete or len(found) > limit


@given(st.integers(0, len(gzip.compress(GOOD)) - 1))
def test_a_cut_gzip_stream_is_never_read(length: int) -> None:
    """A stream that misses as much as its last byte is not taken for a whole answer."""
    answer = in_pieces(200, gzip.compress(GOOD)[:length], content_encoding="gzip")

    assert Reason.INVALID_JSON is answered(answer).reason


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
fields = [*Payout.__struct_encode_fields__, *HistoryRow.__struct_encode_fields__, *User.__struct_fields__]
keys = st.sampled_from(["success", "error", "users", "history", "nextPage", *fields])
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=6),
    max_leaves=30,
)
bodies = (
    st.binary(max_size=200)
    | documents.map(lambda document: json.dumps(document).encode())
    | st.tuples(st.sampled_from([GOOD, b'{"success":true,"users":[]}']), st.integers(0, 80), st.binary()).map(
        lambda made: made[0][: made[1]] + made[2] + made[0][made[1] + 1 :]
    )
)


@given(
    status=st.integers(200, 999),
    body=bodies | bodies.map(gzip.compress),
    coding=st.sampled_from(["identity", "gzip", "br", "\x7f"]),
    retry_after=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=80),
    endpoint=st.sampled_from(list(CALLS)),
)
@example(200, GOOD.replace(b":2", b":" + b"9" * 39), "identity", "", Endpoint.PAYOUT)
@example(200, GOOD.replace(b":2", b":" + b"9" * 5000), "identity", "", Endpoint.PAYOUT)
@example(200, b'{"success":true,"users":[' + b"[" * 100_000, "identity", "", Endpoint.TOP_USERS)
@example(200, b'{"success":true,"error":"\\ud800"}', "identity", "", Endpoint.HISTORY)
def test_any_answer_is_a_value_or_a_poll_error(
    status: int, body: bytes, coding: str, retry_after: str, endpoint: Endpoint
) -> None:
    """Whatever a server sends, a call returns a value or raises PollError, and nothing else."""
    answer = in_pieces(status, body, 64, content_encoding=coding, retry_after=retry_after)
    result = answered(answer, endpoint, max_response_bytes="64KiB")

    assert 200 <= status < 300 or isinstance(result, PollError)
    assert not isinstance(result, PollError) or leaks(result) == []


@settings(max_examples=50)
@given(st.binary(max_size=300), st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", message()[:40]]))
def test_any_bytes_on_the_wire_are_a_value_or_a_poll_error(data: bytes, start: bytes) -> None:
    """The same for bytes that need not even be HTTP."""
    result = hear(Reply((start + data,))).result

    assert isinstance(result, Payout | PollError)
    assert not isinstance(result, PollError) or leaks(result) == []


# ----------------------------------------------------------------------------------------------- the client


def test_closing_fails_the_calls_in_flight() -> None:
    """A call that is waiting when the client is closed fails like one whose connection broke."""

    async def play() -> tuple[object, float]:
        async with Server(Reply((), "hang")) as server, calling(f"http://127.0.0.1:{server.port}") as client:
            began = asyncio.get_running_loop().time()
            waiting = asyncio.create_task(outcome(client))
            await server.asked.wait()
            await client.close()
            return await waiting, asyncio.get_running_loop().time() - began

    error, seconds = asyncio.run(play())

    assert isinstance(error, api.ConnectFailed)
    assert [] == leaks(error)
    assert seconds < 1


def test_a_cancelled_call_is_cancelled() -> None:
    """Cancelling a call is no failure of the API: it stays a cancellation."""

    async def play() -> bool:
        async with Server(Reply((), "hang")) as server, calling(f"http://127.0.0.1:{server.port}") as client:
            waiting = asyncio.create_task(outcome(client))
            await server.asked.wait()
            waiting.cancel()
            await asyncio.wait([waiting])
            return waiting.cancelled()

    assert asyncio.run(play())


def test_calls_do_not_wait_for_one_another() -> None:
    """A call that hangs keeps no other from being answered."""

    async def play() -> tuple[Any, Any]:
        async with (
            Server(Reply((), "hang"), reply()) as server,
            calling(f"http://127.0.0.1:{server.port}", **SHORT, max_concurrency=1) as client,
        ):
            hanging = asyncio.create_task(outcome(client))
            await server.asked.wait()
            return await outcome(client), await hanging

    quick, hung = asyncio.run(play())

    assert (PAYOUT, Reason.TIMEOUT) == (quick, hung.reason)
