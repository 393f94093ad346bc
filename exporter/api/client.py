"""The client of the Crypto-Loot HTTP API: the daemon's only outgoing network, over httpx.

The secret travels in the query string, and httpx puts the URL into its exceptions. So the errors of this
package are raised outside except blocks: otherwise the exception of httpx would be their context, and its
text would reach logs and tracebacks.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Generic, TypeVar
from urllib.parse import urlencode

import httpx

from exporter.api import errors, faults
from exporter.api.answers import Refused, raise_for_error
from exporter.api.body import read_body
from exporter.api.errors import ApiError
from exporter.api.faults import Answer
from exporter.api.route import Route, route_to
from exporter.config import Api
from exporter.config.problems import ConfigError, Problem
from exporter.config.secret import Secret
from exporter.endpoint import Endpoint

T = TypeVar("T")

THREAD_BYTES = 64 * 1024  # a larger body may take many milliseconds to decode, so a thread decodes it
ERROR_BYTES = 64 * 1024  # of a body with the status of a failure: an `error` of the API is a short one
MAX_URL = 65_536  # characters: httpx builds no longer one
MAX_IDLE = 8  # clients kept for later calls: as many as calls are in flight with few sites
MAX_IDLE_SECONDS = 5.0  # httpx keeps an idle connection no longer
MAX_RETRY_AFTER = 64  # characters: both forms of the header are shorter


@dataclass(frozen=True)
class Request(Generic[T]):
    """A GET of an endpoint, and the decoder of its answer.

    `errors`: the API's errors that only this endpoint answers, in addition to `GLOBAL_ERRORS`.
    """

    endpoint: Endpoint
    decode: Callable[[bytes], T]
    parameters: Mapping[str, str] = field(default_factory=dict)
    errors: tuple[type[ApiError], ...] = ()


class Client:
    """Calls the API.

    `transport` replaces the network in tests. `warnings` are about variables of the environment. Raises
    ConfigError if the certificates or the proxies of the environment cannot be used.

    Each call in flight has an httpx client, and so a connection, of its own. One httpx client would go
    through all its connections several times per request; with 50 of them that took longer than all the rest.
    """

    def __init__(
        self,
        api: Api,
        user_agent: str,
        transport: httpx.AsyncBaseTransport | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._api = api
        self._idle: list[_HttpClient] = []  # the one that was used last comes last
        self._busy: set[_HttpClient] = set()
        self._closed = False
        self._decoding = asyncio.Lock()  # large bodies one at a time: each holds the interpreter for a while
        self._route = route_to(api, environ)
        self.warnings = self._route.warnings
        if api.url.startswith("http:"):  # reading roots takes 20 ms, so not where no TLS is spoken
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        else:
            authority = api.ca_file
            context = ssl.create_default_context(cadata=authority.pem) if authority else default_roots()
        if self._route.proxy and self._route.proxy.url.scheme == "https":
            self._route.proxy.ssl_context = default_roots()
        self._open = partial(_HttpClient, api, user_agent, context, self._route, transport)
        self._idle.append(self._open())

    async def close(self) -> None:
        """Close idle connections; calls in flight fail."""
        self._closed = True
        for http in [*self._idle, *self._busy]:
            await http.aclose()

    async def call(self, request: Request[T], secret: Secret, source: str = "the config") -> T:
        """Send the request and return the decoded answer. Raises PollError and nothing else.

        `source` says where the secret is from, for the error about a wrong one.
        """
        parameters = {**request.parameters, "secret": secret.reveal()}
        url = self._url(request, parameters)
        body: bytes | errors.BadBody | errors.Unreached
        events = _Events()
        try:
            async with (
                asyncio.timeout(self._api.timeout),
                self._lease() as http,
                http.stream("GET", url, extensions={"trace": events}) as response,
            ):
                limit = self._api.max_response_bytes
                body = await read_body(response, limit if response.is_success else min(limit, ERROR_BYTES))
        except errors.BadBody as error:
            # A status that is a failure counts before the body. The traceback would keep the body in memory.
            body = error.with_traceback(None) if response.is_success else b""
        except (TimeoutError, httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            body = faults.unreached(error, self._route, self._api.timeout, events)
        if isinstance(body, errors.Unreached):
            raise body
        try:
            if isinstance(body, errors.BadBody):
                raise body
            location = response.extensions.get("location", "")
            hidden = tuple(parameters.values())
            answer = Answer(response.status_code, body, self._route, location, source, hidden)
            if len(body) > THREAD_BYTES:
                async with self._decoding:
                    return await asyncio.to_thread(_decode, request, answer)
            return _decode(request, answer)
        except errors.PollError as error:
            error.retry_after = response.headers.get("retry-after", "")[:MAX_RETRY_AFTER] or None
            raise error.with_traceback(None)  # noqa: B904 - the same error, without the frames of decoding

    def _url(self, request: Request[T], parameters: Mapping[str, str]) -> str:
        """Return the URL of a request. Raises InvalidResponse for a parameter that fits into none.

        Parameters are names that an answer had, half surrogate pairs included, and the secret.
        """
        url = f"{self._api.url}{request.endpoint}?{urlencode(parameters, errors='surrogatepass')}"
        if len(url) > MAX_URL:
            longest = max(parameters, key=lambda name: len(parameters[name]))
            raise errors.InvalidResponse(
                f"the parameter {longest} is too long for a URL, so nothing was sent"
            )
        return url

    @contextlib.asynccontextmanager
    async def _lease(self) -> AsyncIterator[_HttpClient]:
        """Lend an httpx client that no other call uses."""
        if self._closed:
            raise errors.ConnectFailed("the exporter is about to stop")
        http = self._idle.pop() if self._idle else self._open()
        self._busy.add(http)
        try:
            yield http
        finally:
            self._busy.remove(http)
            http.last_used = asyncio.get_running_loop().time()
            self._idle.append(http)
            expired = http.last_used - MAX_IDLE_SECONDS
            # Nothing else closes an idle connection that the server has closed. Other calls may take all
            # idle clients during an `aclose`.
            while self._idle and (len(self._idle) > MAX_IDLE or self._idle[0].last_used < expired):
                await self._idle.pop(0).aclose()


class _Events(list[str]):
    """The events that httpcore traces for one request."""

    async def __call__(self, event: str, _info: object) -> None:
        self.append(event)


class _HttpClient(httpx.AsyncClient):
    """An httpx client that follows no redirects and keeps no cookies; `last_used` in loop time."""

    last_used = 0.0

    def __init__(
        self,
        api: Api,
        user_agent: str,
        context: ssl.SSLContext,
        route: Route,
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        async def move_location(response: httpx.Response) -> None:
            # httpx parses the header though it follows no redirects, and fails if it is no URL.
            response.extensions["location"] = response.headers.pop("location", "")

        super().__init__(
            transport=transport,
            headers={"User-Agent": user_agent, "Accept": "application/json", "Accept-Encoding": "gzip"},
            # Client.call limits the whole call, since a time-out of httpx starts again with every byte. But
            # only httpx closes the socket of a handshake that hangs: its connect time-out must come first.
            timeout=httpx.Timeout(None, connect=0.9 * api.timeout),
            follow_redirects=False,
            event_hooks={"response": [move_location]},
            trust_env=False,
            proxy=None if transport else route.proxy,
            verify=context,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # sites must not share cookies
        )

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """Send a request, again if the server has closed the kept connection in the meantime."""
        events: _Events = request.extensions["trace"]
        try:
            return await super().send(request, **options)
        except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
            if any(event.startswith("connection.") for event in events):  # so it was no kept connection
                raise
        events.clear()
        return await super().send(request, **options)


def default_roots() -> ssl.SSLContext:
    """Return a context that trusts the roots of SSL_CERT_FILE, else certifi's. Raises ConfigError."""
    try:
        return httpx.create_ssl_context()
    except (OSError, ValueError) as error:
        fault = getattr(error, "strerror", None) or type(error).__name__
    message = f"no HTTP client can be made: SSL_CERT_FILE or SSL_CERT_DIR names no certificates ({fault})"
    raise ConfigError([Problem("api", message)])


def _decode(request: Request[T], answer: Answer) -> T:
    """Return the decoded answer.

    If several things are wrong, raise the first of: the API's `error`, the HTTP status, the body.
    """
    code, success = None, httpx.codes.is_success(answer.status)
    try:
        if success and not faults.is_html(answer.body):
            return request.decode(answer.body)
        raise_for_error(answer.body)
    except Refused as refused:
        code = refused.code
    if code is not None:
        raise faults.refused(code, (*errors.GLOBAL_ERRORS, *request.errors), answer)
    raise faults.not_json(answer) if success else faults.bad_status(answer)
