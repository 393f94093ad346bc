"""The ASGI app: the paths of the contract, each a small function of the request."""

from __future__ import annotations

import asyncio
import gzip
import json
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from exporter.pages.pages import Page
from exporter.pages.text import Format
from exporter.web import status
from exporter.web.auth import Verdict
from exporter.web.negotiation import accepts_gzip, negotiate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from exporter.clock import Now
    from exporter.pages.pages import Edition, Pages
    from exporter.web.access import WebAccess
    from exporter.web.status import Facts, Ranking, Wanted

    _Handler = Callable[[Any, Mapping[bytes, bytes]], Awaitable["Response"]]  # of ASGI's scope, of headers

HEADER_LENGTH = 1024  # an Accept header longer than this is no scraper's
PLAIN = b"text/plain; charset=utf-8"
REPORT_MAX_AGE = 1.0  # seconds
ZIP_LEVEL = 1  # as pages are
OFF_LOOP = 1024 * 1024  # bytes: putting a larger page together takes milliseconds, and leaves the loop


class Response(NamedTuple):
    """An answer: status, content type, body in pieces with its length, headers beside those two."""

    status: int
    content_type: bytes
    body: Page
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Hooks(NamedTuple):
    """What the app knows and the pages need."""

    now: Callable[[], Now]
    facts: Callable[[], Facts]
    standing_still: Callable[[], list[str]]
    ready: Callable[[], bool]
    reload: Callable[[], Awaitable[list[str]]] | None  # None: not enabled


class Making:
    """Puts a large page together off the loop: one at a time, and none for those who can have another's."""

    def __init__(self, format_: Format, *, zipped: bool) -> None:
        self._format, self._zipped = format_, zipped
        self._lock = asyncio.Lock()
        self._made: tuple[int, Page] | None = None
        self._waiting = 0

    async def page(self, number: int, latest: Callable[[], Edition]) -> Page:
        """Return a page of the edition of this number, or of a later one."""
        self._waiting += 1
        try:
            async with self._lock:
                if self._made is None or self._made[0] < number:
                    edition = latest()
                    page = await asyncio.to_thread(edition.page, self._format, zipped=self._zipped)
                    self._made = edition.number, page
                return self._made[1]
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._made = None  # the edition in force has it


class Reports:
    """Writes the status off the loop, since thousands of sites take a while: one at a time, for all who ask.

    What was judged and written is as good for a second: whoever reloads in a hurry costs nothing.
    """

    def __init__(self, pages: Pages, hooks: Hooks) -> None:
        self._pages, self._hooks = pages, hooks
        self._lock = asyncio.Lock()
        self._now: Now | None = None
        self._ranking: Ranking
        self._written: dict[tuple[Wanted, Callable[[Any], bytes], bool], bytes] = {}

    async def report(self, which: Wanted, write: Callable[[Any], bytes], *, zipped: bool) -> bytes:
        """Return what `write` makes of the status of the sites that are wanted."""
        async with self._lock:
            now = self._hooks.now()
            if self._now is None or not 0 <= now.mono - self._now.mono < REPORT_MAX_AGE:
                self._ranking = await asyncio.to_thread(status.ranking, self._pages.shown(), now)
                self._now = now
                self._written.clear()
            key = which, write, zipped
            if key not in self._written:
                document = partial(status.document, self._hooks.facts(), self._ranking, which, self._now)
                self._written[key] = await asyncio.to_thread(
                    lambda: gzip.compress(write(document()), ZIP_LEVEL) if zipped else write(document())
                )
            return self._written[key]


class Web:
    """Serves the pages; an ASGI application."""

    def __init__(self, pages: Pages, hooks: Hooks, access: WebAccess, external_url: str = "") -> None:
        self._pages = pages
        self._external = urlsplit(external_url.rstrip("/"))
        self._access = access
        self._hooks = hooks
        self._making: dict[tuple[str, Format, bool], Making] = {}
        self._reports = Reports(pages, hooks)
        self._routes: Mapping[str, tuple[str, _Handler]] = {
            "/": ("GET", self._status_page),
            "/api/v1/status": ("GET", self._status_document),
            "/metrics": ("GET", self._metrics),
            "/probe": ("GET", self._probe),
            "/sd": ("GET", self._discovered),
            "/-/healthy": ("GET", self._healthy),
            "/-/ready": ("GET", self._ready),
            "/-/reload": ("POST", self._reload),
        }

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG002 - ASGI's signature
        """Answer one request."""
        if scope["type"] != "http":
            raise ValueError(f"cannot serve {scope['type']}")
        headers = dict(reversed(scope["headers"]))  # of a field that is there twice, the first
        verdict = await self._access.verdict(headers.get(b"authorization"))
        response = await self._answer(scope, headers) if verdict is Verdict.ALLOWED else _TURNED_AWAY[verdict]
        start = {"type": "http.response.start", "status": response.status, "headers": self._fields(response)}
        await send(start)
        *pieces, last = (b"",) if scope["method"] == "HEAD" else response.body.pieces
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": last})

    async def catch_up(self) -> None:
        """Render the sites that have changed until now; between two steps others have their turn."""
        # What was begun before may be old when it is done: it is finished first, and then all are looked at.
        await self._render(int(self._pages.in_work))
        await self._render(self._pages.backlog(self._hooks.now()))

    async def _render(self, sites: int) -> None:
        pages = self._pages
        goal = pages.done + sites
        while pages.done < goal and pages.step(self._hooks.now()):  # noqa: ASYNC110 - it does not wait: it works
            await asyncio.sleep(0)

    async def _answer(self, scope: Any, headers: Mapping[bytes, bytes]) -> Response:
        route = self._routes.get(scope["path"])
        if route is None:
            return _text(404, "404 Not Found: there is nothing at this path; / shows how the sites fare.")
        method, handler = route
        allowed = (method, "HEAD") if method == "GET" else (method,)
        if scope["method"] not in allowed:
            allow = (b"allow", ", ".join(allowed).encode())
            return _text(405, f"405 Method Not Allowed: this path takes {' and '.join(allowed)}.", allow)
        return await handler(scope, headers)

    async def _metrics(self, _scope: Any, headers: Mapping[bytes, bytes]) -> Response:
        if self._pages.on_metrics:
            await self.catch_up()
        return await self._answered("", lambda: self._pages.current(self._hooks.now()), headers)

    async def _probe(self, scope: Any, headers: Mapping[bytes, bytes]) -> Response:
        if self._pages.on_metrics:
            return _ALL_ON_METRICS
        name = _target(scope["query_string"])
        edition = self._pages.site(name, self._hooks.now()) if name else None
        if not name or edition is None:
            return _text(400, "400 Bad Request: expected /probe?target=SITE with the name of a site of ours.")
        return await self._answered(
            name, lambda: self._pages.site(name, self._hooks.now()) or edition, headers
        )

    async def _discovered(self, scope: Any, headers: Mapping[bytes, bytes]) -> Response:
        if self._pages.on_metrics:
            return _ALL_ON_METRICS
        host = self._external.netloc or headers.get(b"host", b"").decode("latin-1")
        if not host:
            return _text(400, "400 Bad Request: expected a Host, or --web.external-url.")
        labels = {
            "__scheme__": self._external.scheme or scope.get("scheme", "http"),
            "__metrics_path__": f"{self._external.path}/probe",
        }
        groups = [
            {"targets": [host], "labels": {**labels, "__param_target": name, "instance": name}}
            for name in self._pages.names
        ]
        return Response(200, b"application/json", _whole(json.dumps(groups).encode()))

    async def _answered(
        self, name: str, latest: Callable[[], Edition], headers: Mapping[bytes, bytes]
    ) -> Response:
        (format_, zipped), edition = _wanted(headers), latest()
        page = edition.made(format_, zipped=zipped)
        if page is None and edition.size < OFF_LOOP:
            page = edition.page(format_, zipped=zipped)
        elif page is None:
            making = self._making.setdefault((name, format_, zipped), Making(format_, zipped=zipped))
            page = await making.page(edition.number, latest)
        return _page(page, format_, zipped=zipped)

    def _fields(self, response: Response) -> list[tuple[bytes, bytes]]:
        own = [
            (b"content-type", response.content_type),
            (b"content-length", b"%d" % response.body.length),
            *response.headers,
        ]
        # Of a field that both have, the page's own holds: two policies would be both in force.
        names = {name for name, _ in own}
        return [
            *own,
            *((name, value) for name, value in self._access.config.headers if name.lower() not in names),
        ]

    async def _healthy(self, _scope: Any, _headers: Mapping[bytes, bytes]) -> Response:
        still = self._hooks.standing_still()
        if not still:
            return _text(200, "OK: the poll loops turn.")
        shown = "\n".join(still[:20])
        return _text(503, f"{len(still)} poll loops stand still:\n{shown}")

    async def _ready(self, _scope: Any, _headers: Mapping[bytes, bytes]) -> Response:
        return _text(200, "OK: ready.") if self._hooks.ready() else _text(503, "Not ready yet.")

    async def _reload(self, _scope: Any, _headers: Mapping[bytes, bytes]) -> Response:
        if self._hooks.reload is None:
            return _text(403, "403 Forbidden: reloading over HTTP needs --web.enable-lifecycle.")
        problems = await self._hooks.reload()
        if not problems:
            return _text(200, "OK: reloaded.")
        return _text(400, "\n".join(["The new config is refused, the old one stays:", *problems]))

    async def _status_page(self, scope: Any, headers: Mapping[bytes, bytes]) -> Response:
        answer = await self._reported(scope, headers, b"text/html; charset=utf-8", self._html)
        return answer._replace(headers=(*answer.headers, (b"content-security-policy", status.policy())))

    async def _status_document(self, scope: Any, headers: Mapping[bytes, bytes]) -> Response:
        return await self._reported(scope, headers, b"application/json", _json)

    async def _reported(
        self, scope: Any, headers: Mapping[bytes, bytes], type_: bytes, write: Callable[[Any], bytes]
    ) -> Response:
        zipped = _wanted(headers)[1]
        body = await self._reports.report(status.wanted(scope["query_string"]), write, zipped=zipped)
        coding = ((b"content-encoding", b"gzip"),) if zipped else ()
        return Response(200, type_, _whole(body), (*_PRIVATE, *coding))

    def _html(self, document: Mapping[str, Any]) -> bytes:
        return status.html(document, f"{self._external.geturl()}/" if self._external.netloc else "")


def _wanted(headers: Mapping[bytes, bytes]) -> tuple[Format, bool]:
    """Return the format a scraper prefers, and whether compressed."""
    accept, coding = headers.get(b"accept", b""), headers.get(b"accept-encoding", b"")
    # Cut before, not after, they are remembered: whoever sends 16 KiB shall not have them kept.
    format_ = negotiate(accept[:HEADER_LENGTH].decode("latin-1"))
    return format_, accepts_gzip(coding[:HEADER_LENGTH].decode("latin-1"))


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document).encode()


def _target(query: bytes) -> str | None:
    targets = parse_qs(query.decode(errors="replace")).get("target", [])
    return targets[0] if len(targets) == 1 else None


def _page(page: Page, format_: Format, *, zipped: bool) -> Response:
    return Response(200, _TYPES[format_], page, _ZIPPED if zipped else _AS_IS)


def _text(code: int, text: str, *headers: tuple[bytes, bytes]) -> Response:
    return Response(code, PLAIN, _whole(f"{text}\n".encode()), headers)


def _whole(body: bytes) -> Page:
    return Page((body,), len(body))


_ALL_ON_METRICS = _text(404, "404 Not Found: all sites are on /metrics; see web.sites_on_metrics.")
_TYPES = {format_: format_.value.encode() for format_ in Format}
_VARY = (b"vary", b"Accept, Accept-Encoding")
_PRIVATE = (  # what browsers may do with the status: keep, guess and tell nothing
    (b"cache-control", b"no-store"),
    (b"vary", b"Accept-Encoding"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)
_AS_IS, _ZIPPED = (_VARY,), (_VARY, (b"content-encoding", b"gzip"))
_TURNED_AWAY = {
    Verdict.DENIED: _text(
        401,
        "401 Unauthorized: this exporter wants a user name and a password.",
        (b"www-authenticate", b'Basic realm="cryptoloot-exporter", charset="UTF-8"'),
    ),
    Verdict.BUSY: _text(
        503,
        "503 Service Unavailable: too many passwords wait to be checked; try again in a second.",
        (b"retry-after", b"1"),
    ),
}
