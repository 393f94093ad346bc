"""The Crypto-Loot HTTP API over httpx: the only outgoing network.

    PollError
    ├── Unreached            no whole answer came
    │   ├── Timeout
    │   ├── DnsFailed
    │   ├── ConnectFailed    also a connection that broke within the answer
    │   └── TlsFailed
    ├── BadStatus            an answer whose HTTP status says no
    │   ├── HttpStatus
    │   ├── RateLimited
    │   └── Redirected
    ├── BadBody              an answer that cannot be read
    │   ├── TooLarge
    │   ├── InvalidJson
    │   └── InvalidResponse
    └── ApiError             the API's own `error`: one leaf for each code (reference: Global Errors)
        ├── InvalidSecret, BadRequest, WrongMethod, NotFound, InternalError, InvalidPage
        ├── UnknownError
        └── UserRefused      of /user/balance: that user's failure, and not the poll's
            └── MissingInput, UnknownUser

Every leaf is one reason of the contract. The secret travels in the query string, and httpx puts the URL into
its exceptions: so none of them is ever chained to ours, and no text of an answer is repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import zlib
from dataclasses import dataclass, field
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, ClassVar, Generic, NamedTuple, TypeVar

import httpx

from exporter.api import answers as model
from exporter.endpoint import Endpoint, Reason

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from exporter.config import Api
    from exporter.config.secret import Secret

T = TypeVar("T")

GZIP = 31  # zlib's wbits for a gzip stream
PIECE = 64 * 1024  # bytes inflated at once: a bomb takes one limit of memory, not three
OFF_LOOP = 256 * 1024  # bytes: decoding more may take many milliseconds, and leaves the event loop
IDLE_SECONDS = 5.0  # a client without a call for longer is closed; httpx keeps connections no longer either
IDLE = 8  # clients kept for calls to come, as many as calls are in flight with few sites
RETRY_AFTER_LENGTH = 64  # characters: longer than both forms


class PollError(Exception):
    """A poll that failed; `retry_after` is the answer's header as it came, if any."""

    reason: ClassVar[Reason]

    def __init__(self, detail: str, retry_after: str | None = None) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class Unreached(PollError):
    """No whole answer came."""


class Timeout(Unreached):
    """The whole call took longer than `api.timeout`."""

    reason = Reason.TIMEOUT


class DnsFailed(Unreached):
    """The host name has no address."""

    reason = Reason.DNS


class ConnectFailed(Unreached):
    """No connection, or one that broke within the answer."""

    reason = Reason.CONNECT


class TlsFailed(Unreached):
    """The TLS handshake failed."""

    reason = Reason.TLS


class BadStatus(PollError):
    """An answer whose HTTP status says no."""


class HttpStatus(BadStatus):
    """A status that is neither 2xx, 3xx nor 429, without an `error` of the API."""

    reason = Reason.HTTP_STATUS


class RateLimited(BadStatus):
    """Status 429."""

    reason = Reason.RATE_LIMITED


class Redirected(BadStatus):
    """A redirect; it is not followed, since it could carry the secret to another host."""

    reason = Reason.REDIRECT


class BadBody(PollError):
    """An answer that cannot be read."""


class TooLarge(BadBody):
    """A body over `api.max_response_bytes`, before or after inflating."""

    reason = Reason.TOO_LARGE


class InvalidJson(BadBody):
    """A body that is not JSON."""

    reason = Reason.INVALID_JSON


class InvalidResponse(BadBody):
    """JSON of the wrong shape, or neither successful nor an error."""

    reason = Reason.INVALID_RESPONSE


class ApiError(PollError):
    """The API's own `error`."""


class InvalidSecret(ApiError):
    """The API does not know the secret."""

    reason = Reason.INVALID_SECRET


class BadRequest(ApiError):
    """The API could not read the request."""

    reason = Reason.BAD_REQUEST


class WrongMethod(ApiError):
    """The API expected POST where GET was sent."""

    reason = Reason.WRONG_METHOD


class NotFound(ApiError):
    """The API has no such endpoint: look at `api.url`."""

    reason = Reason.NOT_FOUND


class InternalError(ApiError):
    """Something went wrong on the API's side."""

    reason = Reason.INTERNAL_ERROR


class InvalidPage(ApiError):
    """Pages of `/user/list` vanished during the walk, and again each time it began anew."""

    reason = Reason.INVALID_PAGE


class UnknownError(ApiError):
    """The API gave a code that the reference does not have there."""

    reason = Reason.UNKNOWN_ERROR


class UserRefused(ApiError):
    """What `/user/balance` says of one user: the others of the poll can be asked for all the same."""


class MissingInput(UserRefused):
    """The API saw no name in the call."""

    reason = Reason.MISSING_INPUT


class UnknownUser(UserRefused):
    """The user has never connected to the pool."""

    reason = Reason.UNKNOWN_USER


_CODES = {
    error.reason.value: error
    for error in (
        *(InvalidSecret, BadRequest, WrongMethod, NotFound, InternalError),
        *(InvalidPage, MissingInput, UnknownUser),
    )
}


@dataclass(frozen=True)
class Request(Generic[T]):
    endpoint: Endpoint
    decode: Callable[[bytes], T]
    parameters: Mapping[str, str] = field(default_factory=dict)
    errors: tuple[type[ApiError], ...] = ()


class Unusable(Exception):
    """A client that cannot be made: the environment's proxies or certificates are not what they should be."""


class _Answer(NamedTuple):
    """What came back; a body that could not be read is empty, and `unread` says why."""

    status: int
    headers: httpx.Headers
    body: bytes
    unread: BadBody | None = None


class Client:
    """Calls of the read endpoints. Every method raises PollError, and nothing else.

    `transport` replaces the network in tests. Raises Unusable when the environment does not let it be made.

    Each call in flight has an httpx client, and so a connection, of its own: the pool of one client looks
    through all its connections several times a request, which with 50 of them took longer than all the rest.
    """

    def __init__(self, api: Api, user_agent: str, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._api = api
        # With when they were handed back; the one used last comes last, and goes first.
        self._idle: list[tuple[float, httpx.AsyncClient]] = []
        self._busy: set[httpx.AsyncClient] = set()
        self._closed = False
        try:
            self._make = partial(_http_client, api, user_agent, _tls_context(api), transport)
            self._idle.append((0.0, self._make()))
        except (ValueError, ImportError, OSError, httpx.InvalidURL) as error:
            problem = type(error).__name__
        else:
            return
        raise Unusable(
            f"no HTTP client can be made ({problem}): look at SSL_CERT_FILE and SSL_CERT_DIR, and with "
            "api.proxy: environment at HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY"
        )

    async def close(self) -> None:
        """Close idle connections; calls in flight fail."""
        self._closed = True
        for http in [*(http for _, http in self._idle), *self._busy]:
            await http.aclose()

    @contextlib.asynccontextmanager
    async def _client(self) -> AsyncIterator[httpx.AsyncClient]:
        if self._closed:
            raise ConnectFailed("the exporter is about to stop")
        http = self._idle.pop()[1] if self._idle else self._make()
        self._busy.add(http)
        try:
            yield http
        finally:
            self._busy.remove(http)
            now = asyncio.get_running_loop().time()
            self._idle.append((now, http))
            # The first is the one unused for longest, and where the server has hung up meanwhile nobody else
            # would notice. While one is closed, other calls may take all that are left.
            while self._idle and (len(self._idle) > IDLE or now - self._idle[0][0] > IDLE_SECONDS):
                await self._idle.pop(0)[1].aclose()

    async def call(self, request: Request[T], secret: Secret) -> T:
        """Call."""
        self._errors = request.errors
        return await self._call(request.endpoint, secret, request.parameters, request.decode)

    async def _call(
        self, endpoint: Endpoint, secret: Secret, parameters: Mapping[str, str], decode: Callable[[bytes], T]
    ) -> T:
        answer = await self._fetch(endpoint, {**parameters, "secret": secret.reveal()})
        if len(answer.body) > OFF_LOOP:
            outcome = await asyncio.to_thread(_decoded, endpoint, answer, decode)
        else:
            outcome = _decoded(endpoint, answer, decode)
        if isinstance(outcome, PollError):
            outcome.retry_after = answer.headers.get("retry-after", "")[:RETRY_AFTER_LENGTH] or None
            raise outcome
        return outcome

    async def _fetch(self, endpoint: Endpoint, parameters: Mapping[str, str]) -> _Answer:
        try:
            async with asyncio.timeout(self._api.timeout):
                async with self._client() as http:
                    return await self._read(await _sent(http, self._api.url + endpoint, parameters))
        except (TimeoutError, httpx.TimeoutException):
            fault: PollError = Timeout(f"no whole answer within {self._api.timeout:g} s")
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            fault = _unreached(error)
        # Raised here, outside the except block: the original, which holds the URL and so the secret, would
        # else be its context.
        raise fault

    async def _read(self, response: httpx.Response) -> _Answer:
        try:
            return _Answer(response.status_code, response.headers, await self._body(response))
        except BadBody as error:  # the status and Retry-After count all the same
            return _Answer(response.status_code, response.headers, b"", error.with_traceback(None))
        finally:
            await response.aclose()

    async def _body(self, response: httpx.Response) -> bytes:
        """Read the body as it comes, and inflate it here: httpx would inflate a chunk without bound."""
        limit = self._api.max_response_bytes
        coding = response.headers.get("content-encoding", "identity").strip().lower()
        if coding not in {"identity", "", "gzip", "x-gzip"}:
            raise InvalidJson("the body has a Content-Encoding that was not asked for")
        inflate = _Inflater(limit) if "gzip" in coding else None
        body, received = bytearray(), 0
        async for chunk in response.aiter_raw():
            received += len(chunk)
            for piece in inflate.feed(chunk) if inflate else (chunk,):
                body += piece
            if received > limit or len(body) > limit:
                raise TooLarge(f"the body has more than {limit} bytes")
        if inflate and not inflate.complete:
            raise InvalidJson("the gzip stream of the body ends early")
        return bytes(body)


def _tls_context(api: Api) -> ssl.SSLContext:
    """Trust certifi's roots, or SSL_CERT_FILE's; nobody where no TLS is spoken: reading roots takes 20 ms."""
    if api.url.startswith("http://") and api.proxy == "none":
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx.create_ssl_context()


def _http_client(
    api: Api, user_agent: str, context: ssl.SSLContext, transport: httpx.AsyncBaseTransport | None
) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=transport,
        headers={"User-Agent": user_agent, "Accept": "application/json", "Accept-Encoding": "gzip"},
        # The whole call has its time-out: httpx' own begin anew with every byte. Only its own for the
        # connection closes the socket of a handshake that hangs, and so has to come first.
        timeout=httpx.Timeout(None, connect=0.9 * api.timeout),
        follow_redirects=False,
        event_hooks={"response": [_forget_location]},
        trust_env=api.proxy == "environment",
        verify=context,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # kept ones would mix up the sites
    )


async def _sent(http: httpx.AsyncClient, url: str, parameters: Mapping[str, str]) -> httpx.Response:
    """Send a request; one on a kept connection that the server has meanwhile closed is sent again."""
    opened: list[str] = []
    extensions = {"trace": partial(_trace, opened)}
    request = http.build_request("GET", url, params=parameters, extensions=extensions)
    try:
        return await http.send(request, stream=True)
    except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
        if opened:
            raise
    return await http.send(request, stream=True)


class _Inflater:
    """A gzip stream of one or more members, inflated to at most `limit` bytes and one more in all."""

    def __init__(self, limit: int) -> None:
        self._left = limit + 1
        self._stream = zlib.decompressobj(GZIP)
        self._started = False

    @property
    def complete(self) -> bool:
        return self._stream.eof or not self._started

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        while chunk and self._left > 0:
            if self._stream.eof:
                self._stream = zlib.decompressobj(GZIP)
            self._started = True
            try:
                piece = self._stream.decompress(chunk, min(self._left, PIECE))
            except zlib.error:
                piece = None
            if piece is None:
                raise InvalidJson("the body is not the gzip stream it says it is")
            yield piece
            self._left -= len(piece)
            chunk = self._stream.unused_data or self._stream.unconsumed_tail


async def _trace(opened: list[str], event: str, _info: object) -> None:
    """Note that a connection is opened for the request; httpcore tells (its trace extension)."""
    if event.startswith("connection."):
        opened.append(event)


async def _forget_location(response: httpx.Response) -> None:
    """Drop what httpx parses though it follows no redirect, and fails over when it is no URL."""
    response.headers.pop("location", None)


def _decoded(endpoint: Endpoint, answer: _Answer, decode: Callable[[bytes], T]) -> T | PollError:
    fault = _refusal(endpoint, answer)
    if fault is None:
        try:
            return decode(answer.body)
        except model.Refused as error:
            fault = _api_error(endpoint, error.code)
        except model.NotJson as error:
            fault = InvalidJson(str(error))
        except model.WrongShape as error:
            fault = InvalidResponse(str(error))
    return fault


def _refusal(endpoint: Endpoint, answer: _Answer) -> PollError | None:
    """Return why an answer is none, in the contract's order: `error`, status, body; None to decode it."""
    status = answer.status
    if 200 <= status < 300:  # noqa: PLR2004 - HTTP's own classes
        return answer.unread
    code = model.error_code(answer.body)
    if code is not None:
        return _api_error(endpoint, code)
    if status == httpx.codes.TOO_MANY_REQUESTS:
        return RateLimited("HTTP status 429")
    if 300 <= status < 400:  # noqa: PLR2004
        return Redirected(f"HTTP status {status}; redirects are not followed, since they carry the secret")
    return HttpStatus(f"HTTP status {status}")


def _api_error(endpoint: Endpoint, code: str) -> PollError:
    error = _CODES.get(code)
    if error is None or (
        error.reason in ("invalid_page", "missing_input", "unknown_user")
        and {"invalid_page": "/user/list"}.get(error.reason, "/user/balance") != endpoint
    ):
        return UnknownError("the API answered with an error code that the reference does not have here")
    return error(f"the API answered {code}")


def _unreached(error: Exception) -> PollError:
    causes = list(_chain(error))
    if any(isinstance(cause, socket.gaierror | httpx.InvalidURL | UnicodeError) for cause in causes):
        return DnsFailed("the host name of api.url cannot be resolved")
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return TlsFailed(f"the server's certificate is refused: {cause.verify_message}")
        if isinstance(cause, ssl.SSLError):
            return TlsFailed(f"the TLS handshake failed: {cause.reason}")
    if isinstance(error, httpx.ProxyError):
        return ConnectFailed("the proxy made no connection")
    if isinstance(error, httpx.ConnectError):
        refused = any(isinstance(cause, ConnectionRefusedError) for cause in causes)
        return ConnectFailed("the connection was refused" if refused else "no connection could be made")
    return ConnectFailed("the connection broke within the answer")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):  # one for each address of the host
            for inner in error.exceptions:
                yield from _chain(inner)
        error = error.__cause__ or error.__context__
