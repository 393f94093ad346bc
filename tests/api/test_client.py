"""Calls: what a server sees of them, which connections they use, what they return or raise."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import ssl
import subprocess
import threading
import warnings
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exporter.api import errors
from exporter.api.answers import HistoryRow, Payout, User
from exporter.api.client import MAX_IDLE, THREAD_BYTES, Client, Request
from exporter.api.errors import PollError
from exporter.config import ConfigError
from exporter.config.secret import Secret, SecretSource
from exporter.endpoint import Reason
from tests.api.calls import (
    ASK_HISTORY,
    ASK_PAYOUT,
    ASK_TOP_USERS,
    CANARY,
    LIMIT,
    PAYOUT,
    REQUESTS,
    SECRET,
    SHORT,
    SMALL,
    USER_AGENT,
    answered,
    calling,
    canned,
    hear,
    in_pieces,
    leaks,
    outcome,
)
from tests.api.faults import FAULTS
from tests.api.raw_server import GOOD, HTML, Reply, Server, closed_port, gzipped, message, refuse, reply
from tests.conftest import parsed, required, settle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

PROXY_VARIABLES = ["http_proxy", "https_proxy", "all_proxy", "no_proxy"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a self-signed certificate of 127.0.0.1, its key in the same file."""
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    self_signed(file)
    return file


def self_signed(file: Path) -> None:
    making = "req -x509 -nodes -days 2 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -subj /CN=loopback"
    naming = f"-addext subjectAltName=IP:127.0.0.1 -keyout {file} -out {file}"
    command = [required("openssl"), *making.split(), *naming.split()]
    subprocess.run(command, check=True, capture_output=True)


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

    async def play() -> tuple[Any, int, list[bool]]:
        async with (
            Server(Reply((), "hang"), hasty=True) as server,
            calling(f"https://127.0.0.1:{server.port}", timeout="1s") as client,
        ):
            error = await outcome(client)
            await asyncio.sleep(0.1)
            return error, server.port, server.ended

    with uncollected():
        error, port, ended = asyncio.run(play())

    assert Reason.TIMEOUT is error.reason
    assert str(error).startswith(f"no connection to 127.0.0.1:{port} within 1 s")
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


def test_the_secret_arrives_intact() -> None:
    """Every character of the secret survives the query string."""
    heard = hear(reply())

    assert [{"secret": [CANARY]}] == heard.server.queries


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50))
def test_any_secret_arrives_intact(secret: str) -> None:
    """Any text is sent as it is, once, and nothing else in the query."""
    client, network = canned()
    network.response = in_pieces(200, GOOD)
    asyncio.run(client.call(ASK_PAYOUT, Secret(secret)))

    assert {"secret": [secret]} == parse_qs(network.request.url.query.decode(), strict_parsing=True)


@pytest.mark.parametrize("request_", REQUESTS, ids=[request.endpoint for request in REQUESTS])
def test_a_request_says_who_asks_and_for_what(request_: Request[object]) -> None:
    """GET of the endpoint's path, the client's name, gzip and no other coding, and no cookies."""
    heard = hear(reply(), request=request_)
    line, *headers = heard.server.heads[0].lower().split("\r\n")

    assert line.startswith(f"get {request_.endpoint}?")
    assert f"user-agent: {USER_AGENT}" in headers
    assert ["accept-encoding: gzip"] == [header for header in headers if header.startswith("accept-enc")]
    assert [] == [header for header in headers if header.startswith("cookie")]


def test_parameters_arrive() -> None:
    """The parameters of a request stand in the query string, beside the secret."""
    heard = hear(reply(), request=ASK_TOP_USERS)

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

    assert isinstance(failure, errors.ConnectFailed)
    assert requests == 1


def test_a_transport_that_only_breaks_is_given_up() -> None:
    """Where no connection can be seen to open, sending again has an end."""

    def broken(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("broken", request=request)

    client = Client(parsed().api, "test", httpx.MockTransport(broken))

    assert isinstance(asyncio.run(outcome(client)), errors.ConnectFailed)


def test_a_closed_client_calls_nobody() -> None:
    """After close a call fails as a poll does, and opens nothing."""

    async def late() -> object:
        client = Client(parsed().api, "test", httpx.MockTransport(lambda _: httpx.Response(200)))
        await client.close()
        return await outcome(client)

    assert isinstance(asyncio.run(late()), errors.ConnectFailed)


class Body(httpx.AsyncByteStream):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield GOOD


class Gates(httpx.MockTransport):
    """Answers while one gate is open, and closes while the other is."""

    def __init__(self) -> None:
        self.answering, self.closing = asyncio.Event(), asyncio.Event()
        self.closed = 0  # clients
        super().__init__(self._held)

    async def _held(self, _request: httpx.Request) -> httpx.Response:
        await self.answering.wait()
        return httpx.Response(200, stream=Body())

    async def aclose(self) -> None:
        await self.closing.wait()
        self.closed += 1


async def in_flight(client: Client, calls: int) -> list[asyncio.Future[object]]:
    started: list[asyncio.Future[object]] = [asyncio.ensure_future(outcome(client)) for _ in range(calls)]
    await settle()
    return started


def test_clients_are_as_many_as_calls_were_in_flight_and_few_are_kept() -> None:
    """Each call in flight has a client of its own; of those left over, eight stay, the others are closed."""

    async def many() -> tuple[int, int]:
        gates = Gates()
        client = Client(parsed().api, "test", gates)
        calls = await in_flight(client, 20)
        gates.answering.set()
        gates.closing.set()
        await asyncio.gather(*calls)
        left_over = gates.closed
        await client.close()
        return left_over, gates.closed

    assert asyncio.run(many()) == (20 - MAX_IDLE, 20)


def test_calls_that_take_all_idle_clients_while_one_is_closed_spoil_no_answer() -> None:
    """Closing takes time, in which others call: none may be left to be looked at when it is done."""

    async def crossed() -> list[object]:
        gates = Gates()
        client = Client(parsed().api, "test", gates)
        before = await in_flight(client, MAX_IDLE + 1)
        gates.answering.set()
        await settle()
        gates.answering.clear()
        after = await in_flight(client, MAX_IDLE)
        gates.closing.set()
        await settle()
        gates.answering.set()
        return await asyncio.gather(*before, *after)

    assert [PAYOUT] * (2 * MAX_IDLE + 1) == asyncio.run(crossed())


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "HTTPS_PROXY"])
def test_an_environment_that_cannot_be_used_is_told(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing certificate file or an odd proxy is an error that names the variable, not a crash."""
    monkeypatch.setenv(variable, "ftp://canary@nowhere")

    with pytest.raises(ConfigError, match=rf"^api(\.proxy)?: .*{variable}") as error:
        Client(parsed("https://api.invalid", api={"proxy": "environment"}).api, "test")
    assert "canary" not in repr(error.value)
    assert error.value.__context__ is None


@pytest.mark.parametrize(
    "cut", [Reply((message()[:-1],)), reply(bytes(LIMIT + 1), end="keep")], ids=["short", "too large"]
)
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


TUNNELLED, FORWARDED = "https://api.invalid", "http://api.invalid"


CREDENTIALS = "write http://USER:PASSWORD@HOST:PORT into"
REFUSED = "the proxy {proxy} refused the way to api.invalid:443 with HTTP status"
TUNNEL = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.mark.parametrize(
    ("expected", "url", "answer"),
    [
        (f"{REFUSED} 407: {CREDENTIALS} HTTPS_PROXY", TUNNELLED, reply(HTML, 407)),
        (f"{REFUSED} 403: allow this host at the proxy, or name it in NO_PROXY", TUNNELLED, reply(b"", 403)),
        (f"{REFUSED} 502: the proxy does not reach this host", TUNNELLED, reply(b"", 502)),
        ("the proxy {proxy} closed the connection without an answer", TUNNELLED, Reply((b"",))),
        ("no whole answer from the proxy {proxy} within", TUNNELLED, Reply((), "hang")),
        (
            "the proxy {proxy} does not answer in HTTP: correct the port",
            TUNNELLED,
            Reply((b"\x15\x03\x03\r\n",)),
        ),
        # Once there is a tunnel, the failure is the server's.
        ("api.invalid:443 through the proxy {proxy} does not speak TLS", TUNNELLED, Reply((TUNNEL, HTML))),
        (
            f"HTTP status 407 through the proxy {{proxy}}: {CREDENTIALS} HTTP_PROXY",
            FORWARDED,
            reply(b"", 407),
        ),
        ("HTTP status 502 through the proxy {proxy}", FORWARDED, reply(b"", 502)),
        (
            "no whole answer from api.invalid:80 through the proxy {proxy} within",
            FORWARDED,
            Reply((), "hang"),
        ),
        (
            "api.invalid:80 through the proxy {proxy} closed the connection without an",
            FORWARDED,
            Reply((b"",)),
        ),
        (
            "the proxy {proxy} does not answer in HTTP: correct the port or http(s):// in HTTP_PROXY",
            FORWARDED,
            Reply((b"\x15\x03\x03\r\n",)),
        ),
        (
            "api.invalid:443 through the proxy {proxy} broke off the TLS handshake",
            TUNNELLED,
            Reply((TUNNEL,)),
        ),
    ],
)
def test_a_fault_of_the_proxy_names_the_proxy(expected: str, url: str, answer: Reply) -> None:
    """What the proxy does, or may have done, is told as the proxy's: its host, the status, what to do.

    It sees the host of the API, and of a tunnel not the secret; its own password is in no text.
    """
    error, port, heads = through_proxy("http", url, answer)

    assert str(error).startswith(expected.format(proxy=f"127.0.0.1:{port}"))
    assert [] == leaks(error)
    assert [] == [head for head in heads if url == TUNNELLED and "canary" in head]


def test_a_proxy_that_speaks_no_tls_is_named() -> None:
    """https:// in the variable of a plain proxy is told as that, and not as a fault of the API."""
    error, port, _ = through_proxy("https", TUNNELLED, reply(HTML, 400), hasty=True)

    fault = "does not speak TLS: correct the port or https:// in HTTPS_PROXY"
    assert (Reason.TLS, f"the proxy 127.0.0.1:{port} {fault}") == (error.reason, str(error))


def through_proxy(scheme: str, url: str, answer: Reply, *, hasty: bool = False) -> tuple[Any, int, list[str]]:
    """Call the API through a proxy that answers like this; return the outcome, the port and what it saw."""

    async def play() -> tuple[Any, int, list[str]]:
        async with Server(answer, hasty=hasty) as between:
            value = f"{scheme}://user:canary@127.0.0.1:{between.port}"
            options = {"proxy": "environment", "allow_insecure": True, "timeout": "500ms"}
            environ = {"HTTPS_PROXY": value, "HTTP_PROXY": value}
            client = Client(parsed(url, api=options).api, USER_AGENT, None, environ)
            try:
                return await outcome(client), between.port, between.heads
            finally:
                await client.close()

    return asyncio.run(play())


@pytest.mark.parametrize("url", [TUNNELLED, FORWARDED])
def test_a_proxy_that_cannot_be_reached_is_named(url: str) -> None:
    """A refused port and a name without address are told with the proxy's name and its variable."""
    options = parsed(url, api={"proxy": "environment", "allow_insecure": True}).api
    with closed_port() as closed:
        refused, unknown = (
            asyncio.run(outcome(Client(options, USER_AGENT, None, {"ALL_PROXY": proxy})))
            for proxy in (f"http://127.0.0.1:{closed}", "no-such-proxy.invalid:3128")
        )

    assert f"the proxy 127.0.0.1:{closed} refused the connection" == str(refused)
    assert "the host name no-such-proxy.invalid of ALL_PROXY cannot be resolved" == str(unknown)


def test_invalid_secret_says_which_secret(tmp_path: Path) -> None:
    """The environment variable, or the file without its directory, and never the value."""
    file = tmp_path / "canary-of-directory" / "shop.secret"
    sources = [SecretSource(SECRET, env="SHOP_SECRET"), SecretSource(SECRET, file=file), SecretSource(SECRET)]

    async def call(source: SecretSource) -> object:
        try:
            return await client.call(ASK_PAYOUT, source.value, str(source))
        except PollError as error:
            return str(error)

    said = []
    for source in sources:
        client, network = canned()
        network.response = in_pieces(401, b'{"error":"invalid_secret"}')
        said.append(asyncio.run(call(source)))

    unknown = "the API answered invalid_secret: it does not know the secret from"
    places = ("the environment variable SHOP_SECRET", "the file shop.secret", "the config")
    assert [f"{unknown} {place}" for place in places] == said


def test_an_authority_of_ones_own_is_trusted(certificate: Path) -> None:
    """`api.ca_file` names the roots for api.url; without it the failure says so."""
    url = "https://127.0.0.1:{port}"

    assert PAYOUT == hear(reply(), url=url, tls=with_key(certificate), ca_file=str(certificate)).result
    assert str(hear(reply(), url=url, tls=with_key(certificate)).result).endswith(
        "is refused: self-signed certificate: name its authority in api.ca_file"
    )


def test_an_authority_of_ones_own_replaces_the_others(
    certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `api.ca_file` the roots of SSL_CERT_FILE are not trusted: only the own ones are."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    other = tmp_path / "other.pem"
    self_signed(other)
    heard = hear(reply(), url="https://127.0.0.1:{port}", tls=with_key(certificate), ca_file=str(other))

    assert Reason.TLS is heard.result.reason


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


def test_answers_become_values() -> None:
    """Each call returns its endpoint's own type."""
    row = b'{"success":true,"history":[{"synctime":1,"hashes":"2","hashrate":3}]}'
    user = b'{"success":"true","users":[{"name":"a","total":"1","withdrawn":"2","balance":3}]}'

    assert PAYOUT == answered(in_pieces(200, GOOD))
    assert (HistoryRow(1, 2, 3),) == answered(in_pieces(200, row), ASK_HISTORY).entries
    assert (User("a", 1, 2, 3),) == answered(in_pieces(200, user), ASK_TOP_USERS).entries


@pytest.mark.parametrize(("expected", "size"), [(True, THREAD_BYTES), (False, THREAD_BYTES + 1)])
def test_large_answers_are_decoded_in_a_thread(expected: bool, size: int) -> None:
    """What takes many milliseconds to decode does not hold up the event loop."""
    request = Request(ASK_PAYOUT.endpoint, lambda _: threading.current_thread() is threading.main_thread())

    assert expected is answered(in_pieces(200, GOOD.ljust(size)), request)


def test_a_large_answer_fails_like_a_small_one() -> None:
    """A failure in the thread has its reason and Retry-After, and the secret stays hidden."""
    answer = in_pieces(200, HTML.ljust(THREAD_BYTES + 1), retry_after="7")
    error = answered(answer)

    assert (Reason.INVALID_JSON, "7") == (error.reason, error.retry_after)
    assert [] == leaks(error)


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
        lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] + 1 :]
    )
)


@given(
    status=st.integers(200, 999),
    body=bodies | bodies.map(gzipped),
    coding=st.sampled_from(["identity", "gzip", "br", "\x7f"]),
    retry_after=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=80),
    request=st.sampled_from(REQUESTS),
)
@example(200, GOOD.replace(b":2", b":" + b"9" * 39), "identity", "", ASK_PAYOUT)
@example(200, GOOD.replace(b":2", b":" + b"9" * 5000), "identity", "", ASK_PAYOUT)
@example(200, b'{"success":true,"users":[' + b"[" * 100_000, "identity", "", ASK_TOP_USERS)
@example(200, b'{"success":true,"error":"\\ud800"}', "identity", "", ASK_HISTORY)
def test_any_answer_is_a_value_or_a_poll_error(
    status: int, body: bytes, coding: str, retry_after: str, request: Request[object]
) -> None:
    """Whatever a server sends, a call returns a value or raises PollError, and nothing else."""
    answer = in_pieces(status, body, 64, content_encoding=coding, retry_after=retry_after)
    result = answered(answer, request, max_response_bytes="64KiB")

    assert 200 <= status < 300 or isinstance(result, PollError)
    assert not isinstance(result, PollError) or leaks(result) == []


@given(st.binary(max_size=300), st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", message()[:40]]))
def test_any_bytes_on_the_wire_are_a_value_or_a_poll_error(data: bytes, start: bytes) -> None:
    """The same for bytes that need not even be HTTP."""
    result = hear(Reply((start + data,))).result

    assert isinstance(result, Payout | PollError)
    assert not isinstance(result, PollError) or leaks(result) == []


@pytest.mark.parametrize("name", ["\ud800", "a\udfffb", "\udc00\ud800", "é \ud83d&=#"], ids=ascii)
def test_half_a_surrogate_pair_is_sent(name: str) -> None:
    """The next page may be named by a visitor whose name is no text: it is asked for, as the bytes it has."""
    client, network = canned()
    network.response = in_pieces(200, GOOD)
    request = Request(ASK_PAYOUT.endpoint, ASK_PAYOUT.decode, {"page": name})
    query = parse_qs(asyncio.run(sent(client, network, request)), strict_parsing=True, errors="surrogatepass")

    assert {"page": [name], "secret": [CANARY]} == query


async def sent(client: Client, network: Any, request: Request[Any]) -> str:
    """Return the query of what a call sends."""
    assert PAYOUT == await outcome(client, request)
    query: str = network.request.url.query.decode()
    return query


@pytest.mark.parametrize("name", ["a" * 70_000, "é" * 11_000])
def test_a_name_too_long_for_a_url_is_invalid(name: str) -> None:
    """A request that cannot be built is no failure to reach the host: the answer that named it is invalid."""
    request = Request(ASK_PAYOUT.endpoint, ASK_PAYOUT.decode, {"count": "32", "page": name})
    error = answered(in_pieces(200, GOOD), request)

    assert Reason.INVALID_RESPONSE is error.reason
    assert "the parameter page is too long for a URL, so nothing was sent" == str(error)


@given(st.dictionaries(st.sampled_from(["page", "name"]), st.text(st.characters(), max_size=30)))
def test_building_a_request_never_fails_to_resolve(parameters: dict[str, str]) -> None:
    """Whatever stands in its parameters, a request is sent."""
    assert PAYOUT == answered(
        in_pieces(200, GOOD), Request(ASK_PAYOUT.endpoint, ASK_PAYOUT.decode, parameters)
    )


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

    assert isinstance(error, errors.ConnectFailed)
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
