"""The ASGI app: the paths of the contract, each a small function of the request."""

from __future__ import annotations

import asyncio
import gzip
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from exporter.auth import Verdict
from exporter.exposition import Format, accepts_gzip, negotiate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from exporter.exposition import Pages
    from exporter.guard import Guard
    from exporter.snapshot import Now

log = structlog.get_logger()

PLAIN = "text/plain; charset=utf-8"
GZIP_LEVEL = 1  # twice the size of level 9 at a tenth of its time; the next scrape is seconds away
PIECE = 64 * 1024  # bytes written at once
OFF_LOOP = 128 * 1024  # bytes: compressing more takes milliseconds, and leaves the loop


class Response(NamedTuple):
    """An answer: status, content type, body, and headers beside those two."""

    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Hooks(NamedTuple):
    """What the app knows and the pages need."""

    now: Callable[[], Now]
    standing_still: Callable[[], list[str]]
    ready: Callable[[], bool]
    reload: Callable[[], Awaitable[list[str]]] | None  # None: not enabled


class Web:
    """Serves the pages; an ASGI application."""

    def __init__(self, pages: Pages, hooks: Hooks, guard: Guard) -> None:
        self._pages = pages
        self._guard = guard
        self._hooks = hooks
        self._zipped: dict[Format, tuple[bytes, asyncio.Future[bytes]]] = {}
        self._routes: Mapping[str, tuple[str, Callable[[Mapping[bytes, bytes]], Awaitable[Response]]]] = {
            "/": ("GET", self._home),
            "/metrics": ("GET", self._metrics),
            "/-/healthy": ("GET", self._healthy),
            "/-/ready": ("GET", self._ready),
            "/-/reload": ("POST", self._reload),
        }

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG002 - ASGI's signature
        """Answer one request."""
        if scope["type"] != "http":
            raise ValueError(f"cannot serve {scope['type']}")
        headers = dict(reversed(scope["headers"]))  # of a field that is there twice, the first
        verdict = await self._guard.verdict(headers.get(b"authorization"))
        response = await self._answer(scope, headers) if verdict is Verdict.ALLOWED else _TURNED_AWAY[verdict]
        start = [
            (b"content-type", response.content_type.encode()),
            (b"content-length", b"%d" % len(response.body)),
            *response.headers,
            *self._guard.headers,
        ]
        await send({"type": "http.response.start", "status": response.status, "headers": start})
        body = b"" if scope["method"] == "HEAD" else response.body
        # In pieces: what is written at once is encrypted and copied at once, also for who does not read it.
        for begin in range(0, len(body) - PIECE, PIECE):
            piece = body[begin : begin + PIECE]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        rest = max(0, (len(body) - 1) // PIECE * PIECE)
        await send({"type": "http.response.body", "body": body[rest:]})

    async def _answer(self, scope: Any, headers: Mapping[bytes, bytes]) -> Response:
        route = self._routes.get(scope["path"])
        if route is None:
            return _text(404, "404 Not Found: there is nothing at this path; / lists what there is.")
        method, handler = route
        allowed = (method, "HEAD") if method == "GET" else (method,)
        if scope["method"] not in allowed:
            allow = (b"allow", ", ".join(allowed).encode())
            return _text(405, f"405 Method Not Allowed: this path takes {' and '.join(allowed)}.", allow)
        return await handler(headers)

    async def _metrics(self, headers: Mapping[bytes, bytes]) -> Response:
        format_ = negotiate(headers.get(b"accept", b"").decode("latin-1"))
        page = self._pages.page(format_, self._hooks.now())
        vary = (b"vary", b"Accept, Accept-Encoding")
        if not accepts_gzip(headers.get(b"accept-encoding", b"").decode("latin-1")):
            return Response(200, format_.value, page, (vary,))
        zipped = await self._gzip(format_, page)
        return Response(200, format_.value, zipped, (vary, (b"content-encoding", b"gzip")))

    async def _gzip(self, format_: Format, page: bytes) -> bytes:
        """Compress a page once, however many ask for it meanwhile."""
        known = self._zipped.get(format_)
        if known is None or known[0] is not page:
            future = asyncio.ensure_future(_compressed(page))
            self._zipped[format_] = known = (page, future)
        # Shielded: one scraper that goes away must not cancel what the others wait for.
        try:
            return await asyncio.shield(known[1])
        except Exception:
            self._zipped.pop(format_, None)
            raise

    async def _healthy(self, _headers: Mapping[bytes, bytes]) -> Response:
        still = self._hooks.standing_still()
        if not still:
            return _text(200, "OK: the poll loops turn.")
        shown = "\n".join(still[:20])
        return _text(503, f"{len(still)} poll loops stand still:\n{shown}")

    async def _ready(self, _headers: Mapping[bytes, bytes]) -> Response:
        return _text(200, "OK: ready.") if self._hooks.ready() else _text(503, "Not ready yet.")

    async def _reload(self, _headers: Mapping[bytes, bytes]) -> Response:
        if self._hooks.reload is None:
            return _text(403, "403 Forbidden: reloading over HTTP needs --web.enable-lifecycle.")
        problems = await self._hooks.reload()
        if not problems:
            return _text(200, "OK: reloaded.")
        return _text(400, "\n".join(["The new config is refused, the old one stays:", *problems]))

    async def _home(self, _headers: Mapping[bytes, bytes]) -> Response:
        return Response(200, "text/html; charset=utf-8", _HOME)


_TURNED_AWAY = {
    Verdict.DENIED: Response(
        401,
        PLAIN,
        b"401 Unauthorized: this exporter wants a user name and a password.\n",
        ((b"www-authenticate", b'Basic realm="cryptoloot-exporter", charset="UTF-8"'),),
    ),
    Verdict.BUSY: Response(
        503,
        PLAIN,
        b"503 Service Unavailable: too many passwords wait to be checked; try again in a second.\n",
        ((b"retry-after", b"1"),),
    ),
}


async def _compressed(page: bytes) -> bytes:
    if len(page) < OFF_LOOP:
        return gzip.compress(page, GZIP_LEVEL, mtime=0)
    return await asyncio.to_thread(gzip.compress, page, GZIP_LEVEL, mtime=0)


def _text(status: int, text: str, *headers: tuple[bytes, bytes]) -> Response:
    return Response(status, PLAIN, f"{text}\n".encode(), headers)


_HOME = b"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>cryptoloot-exporter</title>
<style>
:root { color-scheme: light dark }
body { font: 1rem/1.6 system-ui, sans-serif; max-width: 40rem; margin: 3rem auto; padding: 0 1rem }
</style>
<h1>cryptoloot-exporter</h1>
<p>Polls the Crypto-Loot HTTP API and serves the last good answers to Prometheus.</p>
<ul>
<li><a href="/metrics">Metrics</a>: what Prometheus scrapes
<li><a href="/-/healthy">Health</a>: whether the poll loops turn
<li><a href="/-/ready">Readiness</a>: whether scrapes are answered
</ul>
"""
