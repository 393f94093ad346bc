"""The simulated API as an ASGI app: its endpoints, their answers, and the failures that incidents cause."""

from __future__ import annotations

import gzip
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from email.utils import formatdate
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from exporter.simulator.users import User
from exporter.simulator.world import Request, Site

if TYPE_CHECKING:
    from collections.abc import Awaitable, MutableMapping

    from exporter.simulator.incidents import Incident
    from exporter.simulator.world import World

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Message, Receive, Send], Awaitable[None]]

# The reference lists error codes and no HTTP status: all it promises is a body, so 200 unless a caller
# of `app` says otherwise.
ERROR_STATUS = 200
MAX_FORM_BYTES = 65_536
GZIP_ABOVE = 1024  # bytes
ACCEPTS_GZIP = re.compile(r"(?:^|,)\s*gzip\s*(?:;\s*q=(?!0(?:\.0*)?\s*(?:,|$))[^,]*)?(?:,|$)")

Params = dict[str, str]
Endpoint = Callable[[Site, Params, float], dict[str, Any]]


class Refusal(Exception):
    """An error of the reference; `code` goes into `error`."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


# -------------------------------------------------------------------------------------------------- endpoints


def _balance(site: Site, params: Params, t: float) -> dict[str, Any]:
    name = params.get("name")
    if not name:
        raise Refusal("missing_input")
    user = site.user(name, t)
    if user is None:
        raise Refusal("unknown_user")
    return _user_fields(user)


def _top(site: Site, params: Params, t: float) -> dict[str, Any]:
    order = params.get("order", "total")
    if order not in {"total", "balance", "withdrawn"}:
        raise Refusal("bad_request")
    return {"users": [_user_fields(user) for user in site.top(t, _count(params, 128, 1, 1024), order)]}


def _list(site: Site, params: Params, t: float) -> dict[str, Any]:
    count, page = _count(params, 4096, 32, 8192), params.get("page", "")
    # One user more than requested: their name is the next page's.
    users = list(islice(site.listed(t, page), count + 1))
    if page and (not users or users[0].name != page):
        raise Refusal("invalid_page")
    after = users[count].name if len(users) > count else None
    return {"users": [_user_fields(user) for user in users[:count]], "nextPage": after}


def _payout(site: Site, _params: Params, t: float) -> dict[str, Any]:
    return dict(
        zip(("diff", "value", "payout", "payoutPer1MHashes", "synctime"), site.payout(t), strict=True)
    )


def _history(site: Site, _params: Params, t: float) -> dict[str, Any]:
    return {"history": [row._asdict() for row in site.rows(t)]}


def _coming_soon(_site: Site, _params: Params, _t: float) -> dict[str, Any]:
    # "Feature coming soon": of the documented errors, "could not be found" is the one that says so.
    raise Refusal("not_found")


ENDPOINTS: dict[str, tuple[str, Endpoint]] = {
    "/user/balance": ("GET", _balance),
    "/user/withdraw": ("POST", _coming_soon),
    "/user/top": ("GET", _top),
    "/user/list": ("GET", _list),
    "/user/reset": ("POST", _coming_soon),
    "/user/reset-all": ("POST", _coming_soon),
    "/stats/payout": ("GET", _payout),
    "/stats/history": ("GET", _history),
}


def _count(params: Params, default: int, least: int, most: int) -> int:
    text = params.get("count", str(default))
    if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
        raise Refusal("bad_request")
    return int(text)


def _user_fields(user: User) -> dict[str, str]:
    """Return a user as the example of "/user/balance" has it: all numbers as strings."""
    coins = (f"{amount:.8f}".rstrip("0").rstrip(".") for amount in (user.withdrawn, user.balance))
    return dict(zip(User._fields, (user.name, str(user.total), *coins), strict=True))


# ---------------------------------------------------------------------------------------------------- answers


@dataclass(frozen=True)
class Answer:
    """An HTTP answer before compression; `cut` sends half of its body and closes the connection."""

    status: int
    body: bytes
    type: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    cut: bool = False


def app(world: World, *, error_status: int = ERROR_STATUS) -> App:
    """Return the API as an ASGI application, HTTP alone: run uvicorn with `lifespan="off"` or `"auto"`.

    Errors have the status `error_status`. Bodies over 1 KiB are compressed for clients that accept gzip.
    """

    async def simulator(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the simulator speaks HTTP only, not {scope['type']}")
        answer = await _answer(world, scope, receive, error_status)
        body, headers = answer.body, [(b"content-type", answer.type), *answer.headers]
        accepted = dict(scope["headers"]).get(b"accept-encoding", b"").decode("latin-1")
        if len(body) > GZIP_ABOVE and ACCEPTS_GZIP.search(accepted):
            body = gzip.compress(body, 1, mtime=0)
            headers.append((b"content-encoding", b"gzip"))
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        if answer.cut:
            # To return with the body unfinished makes the server close the connection.
            await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
        else:
            await send({"type": "http.response.body", "body": body})

    return simulator


async def _answer(world: World, scope: Message, receive: Receive, error_status: int) -> Answer:
    """Log the request and return the answer, or that of the first active incident that replaces it."""
    method, path, t = scope["method"], scope["path"], world.clock()
    params = _params(await _form(receive) if method == "POST" else scope["query_string"])
    site = world.find((params or {}).get("secret", ""))
    world.requests.append(
        Request(t, site.name if site else None, path if path in ENDPOINTS else "other", method)
    )
    try:
        answer = Answer(200, json.dumps(result(site, method, path, params, t)).encode())
    except Refusal as refusal:
        answer = _refused(refusal.code, error_status)
    incidents = [i for i in site.incidents if i.active(t) and i.path in {"", path}] if site else []
    for incident in incidents:
        if incident.kind == "slow":
            await world.sleep(incident.delay)
    failures = (_failure(incident, t, answer, error_status) for incident in incidents)
    return next((failure for failure in failures if failure), answer)


async def _form(receive: Receive) -> bytes:
    body, more = b"", True
    while more and len(body) <= MAX_FORM_BYTES:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def _params(raw: bytes) -> Params | None:
    """Decode "GET or POST parameters"; None if malformed. surrogatepass: names may be lone surrogates."""
    if len(raw) > MAX_FORM_BYTES:
        return None
    try:
        return dict(parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="surrogatepass"))
    except UnicodeDecodeError:
        return None


def result(site: Site | None, method: str, path: str, params: Params | None, t: float) -> dict[str, Any]:
    """Return the document of a successful answer. Raises Refusal; the order of the checks is ours."""
    if path not in ENDPOINTS:
        raise Refusal("not_found")
    expected, endpoint = ENDPOINTS[path]
    if method != expected:
        # "Global Errors": wrong_method is a GET where POST was expected; nothing names the reverse.
        raise Refusal("wrong_method" if method == "GET" else "bad_request")
    if params is None:
        raise Refusal("bad_request")
    if site is None:
        raise Refusal("invalid_secret")
    return {"success": True, **endpoint(site, params, t)}


def _failure(incident: Incident, t: float, answer: Answer, error_status: int) -> Answer | None:
    """Return what an active incident makes of an answer, None where it changes no answers."""
    failure = None
    match incident.kind:
        case "outage" | "outage-5xx":
            failure = _html(503, "Service Unavailable")
        case "outage-html":
            failure = _html(200, "Down for maintenance")
        case "outage-cut":
            failure = replace(answer, cut=True)
        case "rate-limit":
            seconds = math.ceil(incident.retry_after)
            after = formatdate(math.ceil(t) + seconds, usegmt=True) if incident.as_date else str(seconds)
            failure = replace(_html(429, "Too Many Requests"), headers=((b"retry-after", after.encode()),))
        case "wrong-secret":
            failure = _refused("invalid_secret", error_status)
        case "error":
            failure = _refused(incident.code, error_status)
    return failure


def _refused(code: str, status: int) -> Answer:
    return Answer(status, json.dumps({"success": False, "error": code}).encode())


def _html(status: int, title: str) -> Answer:
    page = f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>"
    return Answer(status, page.encode(), b"text/html")
