"""Calls of the API in tests: a request of each endpoint, and what a call brings."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, quote_plus

import httpx

from exporter.api import answers
from exporter.api.client import Client, Request
from exporter.api.errors import InvalidPage, MissingInput, PollError, UnknownUser
from exporter.config.secret import Secret
from exporter.endpoint import Endpoint
from tests.api.raw_server import Reply, Server, closed_port
from tests.conftest import parsed

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Iterator

CANARY = "canary &=+%/ #?é"  # each of these characters means something in a URL
FORMS = ("canary", CANARY, quote(CANARY), quote(CANARY, safe=""), quote_plus(CANARY))
SECRET = Secret(CANARY)
USER_AGENT = "tests/1.0"

PAYOUT = answers.Payout(1, 2, 3, 4, 5)  # what GOOD is decoded to
LIMIT = 1024  # api.max_response_bytes, where a test is about it
SHORT: dict[str, Any] = {"timeout": "200ms"}
SMALL: dict[str, Any] = {"max_response_bytes": LIMIT}

ASK_PAYOUT = Request(Endpoint("/stats/payout"), answers.decode_payout)
ASK_HISTORY = Request(Endpoint("/stats/history"), answers.decode_history)
ASK_TOP_USERS = Request(Endpoint("/user/top"), answers.decode_top_users, {"count": "25", "order": "balance"})
ASK_USER_PAGE = Request(
    Endpoint("/user/list"), answers.decode_user_page, {"count": "32"}, errors=(InvalidPage,)
)
ASK_BALANCE = Request(
    Endpoint("/user/balance"), answers.decode_balance, {"name": "johnd"}, errors=(MissingInput, UnknownUser)
)
REQUESTS: tuple[Request[Any], ...] = (ASK_PAYOUT, ASK_HISTORY, ASK_TOP_USERS, ASK_USER_PAGE, ASK_BALANCE)


@contextlib.asynccontextmanager
async def calling(url: str, **options: Any) -> AsyncIterator[Client]:
    """Open a client with these options of the section `api`, and close it at the end."""
    client = Client(parsed(url, api=options).api, USER_AGENT)
    try:
        yield client
    finally:
        await client.close()


async def outcome(client: Client, request: Request[Any] = ASK_PAYOUT) -> object:
    """Return what a call returns or, if that is a PollError, what it raises."""
    try:
        return await client.call(request, SECRET)
    except PollError as error:
        return error


class Heard(NamedTuple):
    """What a call brought, how many seconds it took, and the server it was made to."""

    result: Any
    seconds: float
    server: Server


def hear(
    *replies: Reply,
    request: Request[Any] = ASK_PAYOUT,
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
                result = await outcome(client, request)
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


def answered(response: httpx.Response, request: Request[Any] = ASK_PAYOUT, **options: Any) -> Any:
    """Return what a call brings that gets this answer, without a network."""
    client, network = canned(**options)
    network.response = response
    return asyncio.run(outcome(client, request))


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
    texts = [text for link in chain(error) for text in (str(link), repr(link), repr(vars(link)))]
    texts += traceback.format_exception(error)
    foreign = [repr(type(link)) for link in chain(error) if not isinstance(link, PollError)]
    return foreign + [text for text in texts if any(form in text for form in FORMS)]
