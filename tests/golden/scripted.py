"""A scripted API: each site gives the answers that a scene wrote for it, and plain ones for the rest."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

from tests.golden.stage import Reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.golden.stage import Call, Time

    Answer = Reply | dict[str, Any] | Callable[[Call, float], Any]

HOUR = 3600
JSON = (b"content-type", b"application/json")


def raw(body: bytes | str, *fields: tuple[bytes, bytes], status: int = 200, cut: bool = False) -> Reply:
    """Return an answer with this very body."""
    return Reply(status, fields or (JSON,), body.encode() if isinstance(body, str) else body, cut)


def refused(code: Any, status: int = 200, *fields: tuple[bytes, bytes]) -> Reply:
    """Return an error of the API."""
    return raw(json.dumps({"success": False, "error": code}), JSON, *fields, status=status)


def zipped(body: bytes) -> Reply:
    """Return an answer that says it is gzip, whatever the body is."""
    return raw(body, JSON, (b"content-encoding", b"gzip"))


def payout(now: float, **changes: Any) -> dict[str, Any]:
    """Return `/stats/payout`; a change to None removes the field."""
    fields = {
        "diff": 45e9,
        "value": 4.6,
        "payout": 0.8,
        "payoutPer1MHashes": 8.2e-05,
        "synctime": now // 120 * 120,
    }
    fields |= changes
    return {"success": True, **{key: value for key, value in fields.items() if value is not None}}


def hours(now: float, count: int = 168, rate: float = 1000.0) -> list[dict[str, Any]]:
    """Return the rows of the last hours, ascending, the newest one incomplete."""
    newest = now // HOUR * HOUR
    rows = []
    for place in reversed(range(count)):
        begin = newest - place * HOUR
        each = rate + begin // HOUR % 24
        rows.append({"synctime": begin, "hashes": each * min(HOUR, now - begin), "hashrate": each})
    return rows


def cumulated(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with the hashes of all rows up to each."""
    total, found = 0.0, []
    for row in rows:
        total += row["hashes"]
        found.append({**row, "hashes": total})
    return found


def history(rows: list[Any]) -> dict[str, Any]:
    """Return `/stats/history`."""
    return {"success": True, "history": rows}


def user(name: Any, total: Any = 1000, withdrawn: Any = 0.5, balance: Any = 0.25) -> dict[str, Any]:
    """Return a user as all endpoints show one."""
    return {"name": name, "total": total, "withdrawn": withdrawn, "balance": balance}


def users(*found: Any, **more: Any) -> dict[str, Any]:
    """Return `/user/top` or a page of `/user/list`."""
    return {"success": True, "users": list(found), **more}


def plain(call: Call, now: float) -> dict[str, Any]:
    """Return what an API answers where nothing is odd."""
    match call.path:
        case "/stats/payout":
            return payout(now)
        case "/stats/history":
            return history(hours(now, 30))
        case "/user/balance":
            return {"success": True, **user(call.query["name"], now // 60)}
        case _:
            return users(user("anna", now // 60, 1, 0.5), user("ben", now // 120))


class Script:
    """Answers by site and path; a site is known by its secret `secret-of-SITE`.

    An answer is a reply, a document, or a function of the call and the Unix time that returns either.
    """

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], Answer] = {}

    def __call__(self, time: Time) -> Callable[[Call], Any]:
        """Return the API."""

        async def api(call: Call) -> Reply:
            site = call.query["secret"].removeprefix("secret-of-")
            answer: Any = self.answers.get((site, call.path), plain)
            if callable(answer):
                answer = answer(call, time.wall)
            if isinstance(answer, Reply):
                return answer
            body = json.dumps(answer).encode()
            if call.accepts_gzip and len(body) > 4096:
                return zipped(gzip.compress(body, mtime=0))
            return raw(body)

        return api
