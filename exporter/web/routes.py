"""The ASGI app: one table of paths, and a small function for each of them."""

import json
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from exporter.clock import Now
from exporter.pages.pages import Pages
from exporter.pages.text import Format
from exporter.web import status
from exporter.web.access import WebAccess
from exporter.web.auth import Verdict
from exporter.web.negotiation import preferences
from exporter.web.status import ProcessInfo, StatusCache, Writer

Field = tuple[bytes, bytes]  # of a header

HEADER_LENGTH = 1024  # a longer Accept header is not a scraper's
PIECE = 256 * 1024  # bytes of a body that are sent at once
PLAIN = b"text/plain; charset=utf-8"
CONTENT_TYPES = {format_: format_.value.encode() for format_ in Format}
VARY = (b"vary", b"Accept, Accept-Encoding")
GZIP = (b"content-encoding", b"gzip")
STATUS_FIELDS = (  # browsers must not keep the status, guess its type, or name its address to others
    (b"cache-control", b"no-store"),
    (b"vary", b"Accept-Encoding"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


class Hooks(NamedTuple):
    """What the routes ask the app for."""

    now: Callable[[], Now]
    process_info: Callable[[], ProcessInfo]
    stuck_loops: Callable[[], list[str]]
    ready: Callable[[], bool]
    reload: Callable[[], Awaitable[list[str]]] | None  # None: not enabled


class Request(NamedTuple):
    """ASGI's scope, and the request's headers; of a field that is there twice, the first."""

    scope: Mapping[str, Any]
    headers: Mapping[bytes, bytes]

    def preferences(self) -> tuple[Format, bool]:
        """Return the format that the client prefers, and whether it takes gzip."""
        # They are cut before results are remembered: 16 KiB of somebody's header must not be kept.
        accept, coding = self.headers.get(b"accept", b""), self.headers.get(b"accept-encoding", b"")
        return preferences(accept[:HEADER_LENGTH], coding[:HEADER_LENGTH])


class Response(NamedTuple):
    """An answer; `fields` are the header fields beside the content's type and length."""

    status: int
    content_type: bytes
    body: bytes
    fields: tuple[Field, ...] = ()


class Web:
    """Serves the pages; an ASGI application."""

    def __init__(self, pages: Pages, hooks: Hooks, access: WebAccess, external_url: str = "") -> None:
        self.pages, self.hooks, self.access = pages, hooks, access
        self.external = urlsplit(external_url.rstrip("/"))
        base = f"{self.external.geturl()}/" if self.external.netloc else ""
        # One object, because the cache identifies a page by the function that writes it.
        self.html = partial(status.render_html, base=base)
        self.status_cache = StatusCache(pages, hooks.now, hooks.process_info)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG002 - ASGI's signature
        """Answer one request."""
        if scope["type"] != "http":
            raise ValueError(f"cannot serve {scope['type']}")
        request = Request(scope, dict(reversed(scope["headers"])))
        verdict = await self.access.verdict(request.headers.get(b"authorization"))
        response = await self.respond(request) if verdict is Verdict.ALLOWED else REJECTIONS[verdict]
        length = (b"content-length", b"%d" % len(response.body))
        fields = [(b"content-type", response.content_type), length, *response.fields]
        names = {name for name, _ in fields}  # two content security policies would both be in force
        fields += [(name, value) for name, value in self.access.config.headers if name.lower() not in names]
        await send({"type": "http.response.start", "status": response.status, "headers": fields})
        body: bytes | memoryview = b"" if scope["method"] == "HEAD" else response.body
        while len(body) > PIECE:  # under TLS, what is sent at once is encrypted at once, for each client
            body = memoryview(body)
            await send({"type": "http.response.body", "body": body[:PIECE], "more_body": True})
            body = body[PIECE:]
        await send({"type": "http.response.body", "body": body})

    async def respond(self, request: Request) -> Response:
        """Answer a request that is allowed: by its path's route, 404 or 405."""
        route = ROUTES.get(request.scope["path"])
        if route is None:
            return text(404, "404 Not Found: there is nothing at this path; / shows how the sites fare.")
        if request.scope["method"] not in route.methods:
            allow = (b"allow", ", ".join(route.methods).encode())
            return text(405, f"405 Method Not Allowed: this path takes {' and '.join(route.methods)}.", allow)
        return await route.respond(self, request)


def text(status_code: int, message: str, *fields: Field) -> Response:
    """Return a response of one line."""
    return Response(status_code, PLAIN, f"{message}\n".encode(), fields)


def exposition(body: bytes, format_: Format, *, zipped: bool) -> Response:
    """Return the response to a scrape."""
    return Response(200, CONTENT_TYPES[format_], body, (VARY, GZIP) if zipped else (VARY,))


async def metrics(web: Web, request: Request) -> Response:
    """Answer `/metrics`."""
    format_, zipped = request.preferences()
    return exposition(await web.pages.metrics(format_, zipped=zipped), format_, zipped=zipped)


async def probe(web: Web, request: Request) -> Response:
    """Answer `/probe?target=SITE`."""
    if web.pages.on_metrics:
        return ALL_ON_METRICS
    format_, zipped = request.preferences()
    targets = parse_qs(request.scope["query_string"].decode(errors="replace")).get("target", [])
    body = await web.pages.probe(targets[0], format_, zipped=zipped) if len(targets) == 1 else None
    if body is None:
        return text(400, "400 Bad Request: expected /probe?target=SITE with the name of a site of ours.")
    return exposition(body, format_, zipped=zipped)


async def discovery(web: Web, request: Request) -> Response:
    """Answer `/sd`, for Prometheus' http_sd: one group per site."""
    if web.pages.on_metrics:
        return ALL_ON_METRICS
    host = web.external.netloc or request.headers.get(b"host", b"").decode("latin-1")
    if not host:
        return text(400, "400 Bad Request: expected a Host, or --web.external-url.")
    scheme = web.external.scheme or request.scope.get("scheme", "http")
    labels = {"__scheme__": scheme, "__metrics_path__": f"{web.external.path}/probe"}
    groups = [
        {"targets": [host], "labels": {**labels, "__param_target": name, "instance": name}}
        for name in web.pages.site_names
    ]
    return Response(200, b"application/json", json.dumps(groups).encode())


async def healthy(web: Web, _request: Request) -> Response:
    """Answer `/-/healthy`: whether polling is running."""
    stuck = web.hooks.stuck_loops()
    if not stuck:
        return text(200, "OK: the poll loops turn.")
    return text(503, "\n".join([f"{len(stuck)} poll loops stand still:", *stuck[:20]]))


async def ready(web: Web, _request: Request) -> Response:
    """Answer `/-/ready`: whether the exporter has started."""
    return text(200, "OK: ready.") if web.hooks.ready() else text(503, "Not ready yet.")


async def reload(web: Web, _request: Request) -> Response:
    """Answer `POST /-/reload`: load the config, or list its problems."""
    if web.hooks.reload is None:
        return text(403, "403 Forbidden: reloading over HTTP needs --web.enable-lifecycle.")
    problems = await web.hooks.reload()
    if not problems:
        return text(200, "OK: reloaded.")
    return text(400, "\n".join(["The new config is refused, the old one stays:", *problems]))


async def status_page(web: Web, request: Request) -> Response:
    """Answer `/`: the status for people."""
    response = await status_response(web, request, b"text/html; charset=utf-8", web.html)
    return response._replace(fields=(*response.fields, (b"content-security-policy", status.policy())))


async def status_json(web: Web, request: Request) -> Response:
    """Answer `/api/v1/status`: the status for programs."""
    return await status_response(web, request, b"application/json", status.to_json)


async def status_response(web: Web, request: Request, content_type: bytes, write: Writer) -> Response:
    """Return what `write` makes of the status, compressed if the client takes it."""
    _, zipped = request.preferences()
    selection = status.parse_selection(request.scope["query_string"])
    body = await web.status_cache.body(selection, write, zipped=zipped)
    return Response(200, content_type, body, (*STATUS_FIELDS, *([GZIP] if zipped else [])))


class Route(NamedTuple):
    """The methods of a path, and the function that answers it."""

    methods: tuple[str, ...]
    respond: Callable[[Web, Request], Awaitable[Response]]


GET = ("GET", "HEAD")
ROUTES = {
    "/": Route(GET, status_page),
    "/api/v1/status": Route(GET, status_json),
    "/metrics": Route(GET, metrics),
    "/probe": Route(GET, probe),
    "/sd": Route(GET, discovery),
    "/-/healthy": Route(GET, healthy),
    "/-/ready": Route(GET, ready),
    "/-/reload": Route(("POST",), reload),
}
ALL_ON_METRICS = text(404, "404 Not Found: all sites are on /metrics; see web.sites_on_metrics.")
UNAUTHORIZED = "401 Unauthorized: this exporter wants a user name and a password."
CHALLENGE = (b"www-authenticate", b'Basic realm="cryptoloot-exporter", charset="UTF-8"')
BUSY = "503 Service Unavailable: too many passwords wait to be checked; try again in a second."
REJECTIONS = {
    Verdict.DENIED: text(401, UNAUTHORIZED, CHALLENGE),
    Verdict.BUSY: text(503, BUSY, (b"retry-after", b"1")),
}
