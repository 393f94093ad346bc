"""Every way in which a call of the API fails, with the reason it counts under."""

from __future__ import annotations

from typing import Any, NamedTuple

from exporter.endpoint import Reason
from tests.api.calls import (
    ASK_BALANCE,
    ASK_HISTORY,
    ASK_TOP_USERS,
    ASK_USER_PAGE,
    CANARY,
    LIMIT,
    SHORT,
    SMALL,
)
from tests.api.raw_server import GOOD, HTML, Reply, chunked, drip, gzipped, message, refuse, reply, zipped


class Fault(NamedTuple):
    """A way to fail: the reply, options of `api` (and of `hear`), and the reason it counts under."""

    reason: Reason
    reply: Reply
    options: dict[str, Any] = {}  # noqa: RUF012 - never changed


NOWHERE = Reply((b"",))
BOMB = gzipped(bytes(1 << 20))  # about 1 KiB
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
    "gzip over the limit": Fault(Reason.TOO_LARGE, zipped(gzipped(bytes(LIMIT + 1))), SMALL),
    "gzip members over the limit": Fault(Reason.TOO_LARGE, zipped(gzipped(GOOD) * 99), SMALL),
    "a gzip bomb": Fault(Reason.TOO_LARGE, zipped(BOMB), {"max_response_bytes": 4 * LIMIT}),
    "200 with HTML": Fault(Reason.INVALID_JSON, reply(HTML)),
    "200 without body": Fault(Reason.INVALID_JSON, reply(b"")),
    "204": Fault(Reason.INVALID_JSON, Reply((b"HTTP/1.1 204 No Content\r\n\r\n",))),
    "gzip that ends early": Fault(Reason.INVALID_JSON, zipped(gzipped(GOOD)[:-1])),
    "gzip that is none": Fault(Reason.INVALID_JSON, zipped(GOOD)),
    "gzip with a wrong sum": Fault(Reason.INVALID_JSON, zipped(gzipped(GOOD)[:-8] + bytes(8))),
    "gzip with garbage behind": Fault(Reason.INVALID_JSON, zipped(gzipped(GOOD) + b"garbage")),
    "gzip nobody speaks of": Fault(Reason.INVALID_JSON, reply(gzipped(GOOD))),
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
        Reason.INVALID_RESPONSE, reply(b'{"success":true,"users":{}}'), {"request": ASK_TOP_USERS}
    ),
    "no list of rows": Fault(Reason.INVALID_RESPONSE, reply(b'{"success":true}'), {"request": ASK_HISTORY}),
    "invalid_secret": Fault(Reason.INVALID_SECRET, refuse("invalid_secret")),
    "bad_request": Fault(Reason.BAD_REQUEST, refuse("bad_request", 400)),
    "wrong_method": Fault(Reason.WRONG_METHOD, refuse("wrong_method", 405)),
    "not_found": Fault(Reason.NOT_FOUND, refuse("not_found", 404)),
    "internal_error": Fault(Reason.INTERNAL_ERROR, refuse("internal_error", 500)),
    "invalid_page where there are no pages": Fault(Reason.UNKNOWN_ERROR, refuse("invalid_page")),
    "a code of our own": Fault(Reason.UNKNOWN_ERROR, refuse("timeout")),
    "a code of another endpoint": Fault(Reason.UNKNOWN_ERROR, refuse("unknown_user")),
    "invalid_page": Fault(Reason.INVALID_PAGE, refuse("invalid_page"), {"request": ASK_USER_PAGE}),
    "missing_input": Fault(Reason.MISSING_INPUT, refuse("missing_input"), {"request": ASK_BALANCE}),
    "unknown_user": Fault(Reason.UNKNOWN_USER, refuse("unknown_user", 404), {"request": ASK_BALANCE}),
    "a code that repeats the secret": Fault(Reason.UNKNOWN_ERROR, refuse(f"no such secret: {CANARY}")),
    "an empty code": Fault(Reason.UNKNOWN_ERROR, refuse("")),
}
