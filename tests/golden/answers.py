"""Golden runs of odd answers: shapes, transfers, totals, histories, clocks, crashes."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import ssl
from typing import TYPE_CHECKING, Any

import httpx

from tests.golden.scripted import (
    HOUR,
    JSON,
    Script,
    cumulated,
    history,
    hours,
    payout,
    plain,
    raw,
    refused,
    user,
    users,
    zipped,
)
from tests.golden.sites import SCENES, Simulated, config, scene, scripted, started
from tests.golden.stage import WALL, Call, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.golden.sites import Scene


MINUTE = 60
LONG_NAME = "n" * 300
ODD_NAMES = (
    'quote"d',
    "it's",
    "two\nlines\r\n",
    "back\\slash\\",
    'x"} 1\ncryptoloot_up 0',
    LONG_NAME,
    "n" * 128,  # the longest that is no too long one, in bytes
    "n" * 129,
    "\u00e9" * 64,
    "\u00e9" * 64 + "n",
    "\u00e9" * 100,
    "\N{MONEY-MOUTH FACE}\N{RIGHT-TO-LEFT OVERRIDE}",
    "lone\ud800surrogate",
    "nul\0",
    " ",
    "~",
)


def _answers(path: str, answers: dict[str, Any], *, moments: Iterable[float] = (5, 70, 130)) -> Scene:
    """Return a scene in which each answer is that of a site of its own."""

    async def play() -> str:
        script = Script()
        script.answers |= {(name, path): answer for name, answer in answers.items()}
        watching = {name: {"watch_users": ["anna", "ben"]} for name in answers} if "balance" in path else {}
        polls = {"all_users": {"enabled": True, "interval": "1m"}} if "list" in path else {}
        polls |= {"balances": {"interval": "1m"}, "history": {"interval": "1m"}}
        api = {"max_response_bytes": "64KiB", "max_concurrency": 64}
        found = await started(config(*answers, poll=polls, api=api, **watching), scripted(script))
        for moment in moments:
            await found.until(moment)
            await found.metrics()
        await found.status(query={"per_page": "100"})
        return await found.close(requests=False)

    return play


SHAPES: dict[str, Any] = {
    "empty": raw(""),
    "text": raw("hello"),
    "list": raw("[]"),
    "null": raw("null"),
    "nan": raw('{"success": true, "diff": NaN}'),
    "no-success": raw("{}"),
    "success-text": raw('{"success": "true"}'),
    "success-one": raw('{"success": 1}'),
    "success-false": raw('{"success": false}'),
    "error-number": raw('{"success": false, "error": 5}'),
    "error-empty": raw('{"success": false, "error": ""}'),
    "error-beside": raw('{"success": true, "error": "internal_error"}'),
    "error-empty-beside": raw('{"success": true, "error": ""}'),
    "not-utf8": raw(b'{"success": true, "x": "\xff"}'),
    "bom": raw(b"\xef\xbb\xbf" + json.dumps(payout(WALL)).encode()),
    "deep": raw('{"success": true, "x": ' + "[" * 9000 + "]" * 9000 + "}"),
    "huge-number": raw('{"success": true, "diff": ' + "9" * 5000 + "}"),
}
TRANSFERS: dict[str, Any] = {
    "html": raw("<html>", (b"content-type", b"text/html")),
    "status-404": raw("<html>", status=404),
    "status-500": raw("{}", status=500),
    "status-503-later": raw("", (b"retry-after", b"120"), status=503),
    "status-error": refused("internal_error", 500),
    "status-401-secret": refused("invalid_secret", 401),
    "status-204": raw("", status=204),
    "status-201": lambda _, now: raw(json.dumps(payout(now)), status=201),
    "limited": raw("", status=429),
    "limited-seconds": raw("", (b"retry-after", b"100"), status=429),
    "limited-long": raw("", (b"retry-after", b"99999999999"), status=429),
    "limited-date": raw("", (b"retry-after", b"Tue, 14 Nov 2023 22:16:40 GMT"), status=429),
    "limited-past": raw("", (b"retry-after", b"Mon, 13 Nov 2023 22:16:40 GMT"), status=429),
    "limited-nonsense": raw("", (b"retry-after", b"soon"), status=429),
    "limited-negative": raw("", (b"retry-after", b"-5"), status=429),
    "limited-error": refused("bad_request", 429, (b"retry-after", b"100")),
    "success-later": lambda _, now: raw(json.dumps(payout(now)), (b"retry-after", b"1000")),
    "redirect": raw("", (b"location", b"https://example.org/"), status=302),
    "redirect-no-url": raw("", (b"location", b"http://["), status=301),
    "not-modified": raw("", status=304),
    "cut": raw(json.dumps(payout(WALL)), cut=True),
    "gzip": zipped(gzip.compress(json.dumps(payout(WALL)).encode(), mtime=0)),
    "gzip-members": zipped(gzip.compress(b'{"success": ', mtime=0) + gzip.compress(b"false}", mtime=0)),
    "gzip-not": zipped(b"{}"),
    "gzip-short": zipped(gzip.compress(json.dumps(payout(WALL)).encode(), mtime=0)[:-9]),
    "gzip-bomb": zipped(gzip.compress(b" " * 70_000, mtime=0)),
    "deflate": raw("{}", JSON, (b"content-encoding", b"deflate")),
    "identity": lambda _, now: raw(json.dumps(payout(now)), JSON, (b"content-encoding", b"identity")),
    "too-large": raw(" " * 70_000),
    "too-large-500": raw(" " * 70_000, status=500),
    "just-fits": raw(json.dumps(payout(WALL)).ljust(65_536)),
    "one-too-many": raw(json.dumps(payout(WALL)).ljust(65_537)),
}
SCENES["answers-shapes"] = _answers("/stats/payout", SHAPES)
SCENES["answers-transfers"] = _answers("/stats/payout", TRANSFERS, moments=(5, 130, 300))
SCENES["answers-payout"] = _answers(
    "/stats/payout",
    {
        "strings": payout(WALL, diff="45000000000", value="4.5", payout="1e-3", synctime="1700000000"),
        "fractions": payout(WALL, diff=0.1, value=1e-8, payout=1e18, synctime=1.5),
        "zero": payout(WALL, diff=0, value=0, payout=0, payoutPer1MHashes=0, synctime=0),
        "missing": payout(WALL, diff=None),
        "extra": payout(WALL, more=[{}]),
        "boolean": payout(WALL, diff=True),
        "negative": payout(WALL, value=-1),
        "too-much": payout(WALL, value=1.1e18),
        "infinity": payout(WALL, value="Infinity"),
        "not-a-number": payout(WALL, value="nan"),
        "words": payout(WALL, value="four"),
        "nothing": payout(WALL, value=""),
        "milliseconds": payout(WALL, synctime=WALL * 1000),
        "list": payout(WALL, value=[4.6]),
        "surrogate": payout(WALL, value="\ud800"),
    },
)


def _handshake_error() -> ssl.SSLError:
    error = ssl.SSLError(1, "x")
    error.reason = "WRONG_VERSION_NUMBER"
    return error


def _certificate_error() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "x")
    error.verify_message = "certificate has expired"
    return error


ROWS = hours(WALL, 30)
SCENES["answers-history"] = _answers(
    "/stats/history",
    {
        "empty": history([]),
        "null": {"success": True, "history": None},
        "missing": {"success": True},
        "object": {"success": True, "history": {}},
        "strings": history([{key: str(value) for key, value in row.items()} for row in ROWS]),
        "no-row": history([{}, 5, None, "row", []]),
        "some-rows": history([*ROWS, {}, {"synctime": -1, "hashes": 1, "hashrate": 1}]),
        "backwards": history(ROWS[::-1]),
        "duplicates": history([*ROWS, {**ROWS[5], "hashrate": 7}, *ROWS[-3:]]),
        "gaps": history(ROWS[:5] + ROWS[9:20] + ROWS[26:]),
        "future": history(
            [*ROWS, *({**ROWS[-1], "synctime": WALL + ahead} for ahead in (3599, 3605, 90000))]
        ),
        "all-future": history([{**row, "synctime": row["synctime"] + 90 * HOUR} for row in ROWS]),
        "old": history([{**row, "synctime": row["synctime"] - 5 * HOUR} for row in ROWS]),
        "one-row": history(ROWS[-1:]),
        "two-rows": history(ROWS[-2:]),
        "three-days": history(hours(WALL, 73)),
        "four-days": history(hours(WALL, 98)),
        "half-hours": history([{**row, "synctime": row["synctime"] + 1800} for row in ROWS]),
        "zeros": history([{**row, "hashes": 0, "hashrate": 0} for row in ROWS]),
        "no-hashes": history([{**row, "hashes": 0} for row in ROWS]),
        "cumulative": history(cumulated(ROWS)),
        "cumulative-gaps": history(cumulated(ROWS)[:5] + cumulated(ROWS)[9:20] + cumulated(ROWS)[26:]),
        "cumulative-two": history(cumulated(ROWS)[-3:]),
        "unknown": history([{**row, "hashes": row["hashes"] * 60} for row in ROWS]),
        "unknown-falling": history([{**row, "hashes": 3e9 - row["synctime"]} for row in ROWS]),
        "too-many": history([{"synctime": 1, "hashes": 1, "hashrate": 1}] * 1000),
    },
)
SCENES["answers-users"] = _answers(
    "/user/top",
    {
        "empty": users(),
        "null": {"success": True, "users": None},
        "missing": {"success": True},
        "strings": users(user("anna", "1000", "0.5", "-0.00000001")),
        "no-user": users({}, 5, None, "anna", [], user("")),
        "some-users": users(
            user("anna"), {}, user(""), user(5), user("ben", total=-1), user("carl", balance=None)
        ),
        "duplicates": users(user("anna", 1), user("ben", 2), user("anna", 3)),
        "odd-names": users(*(user(name, place) for place, name in enumerate(ODD_NAMES))),
        "long-twins": users(user(LONG_NAME + "a", 1), user(LONG_NAME + "b", 2)),
        "numbers": users(
            user("a", 0.1, 1e-8, -1e18), user("b", 1e18, 1e18, 1e18), user("c", 1.1e18), user("d", 0)
        ),
        "extra": users({**user("anna"), "email": "anna@example.org"}, more=1),
        "many": users(*(user(f"user-{place:03}", place) for place in range(300))),
    },
)
SCENES["answers-balance"] = _answers(
    "/user/balance",
    {
        "found": lambda call, now: {"success": True, **user(call.query["name"], now)},
        "other-name": {"success": True, **user("maria")},
        "no-name": {"success": True, "total": "5", "withdrawn": "1.5", "balance": "-0.1"},
        "unknown": refused("unknown_user"),
        "missing": refused("missing_input", 400),
        "ben-unknown": lambda call, now: (
            refused("unknown_user") if call.query["name"] == "ben" else plain(call, now)
        ),
        "ben-failing": lambda call, now: (
            raw("", status=500) if call.query["name"] == "ben" else plain(call, now)
        ),
        "comes-and-goes": lambda call, now: plain(call, now) if now % 120 < 60 else refused("unknown_user"),
        "changing": lambda _, now: refused("missing_input" if now % 120 < 60 else "unknown_user"),
        "wrong": {"success": True, "total": -5},
        "secret": refused("invalid_secret"),
        "page": refused("invalid_page"),
    },
    moments=(5, 70, 130, 190, 400),
)


def _unreached(error: Exception, cause: Exception | None = None) -> Callable[..., Any]:
    """Return an answer that never comes, as the HTTP client reports it."""

    def answer(_call: Call, _now: float) -> Any:
        raise error from cause

    return answer


SCENES["answers-unreached"] = _answers(
    "/stats/payout",
    {
        "refused": _unreached(httpx.ConnectError("x"), ConnectionRefusedError(111, "refused")),
        "no-route": _unreached(httpx.ConnectError("x"), OSError(113, "no route")),
        "no-name": _unreached(httpx.ConnectError("x"), socket.gaierror(-2, "not known")),
        "certificate": _unreached(httpx.ConnectError("x"), _certificate_error()),
        "handshake": _unreached(httpx.ConnectError("x"), _handshake_error()),
        "group": _unreached(
            httpx.ConnectError("x"), ExceptionGroup("", [OSError(), ConnectionRefusedError()])
        ),
        "broken": _unreached(httpx.ReadError("x")),
        "not-http": _unreached(httpx.RemoteProtocolError("x")),
        "proxy": _unreached(httpx.ProxyError("x")),
        "connect-time": _unreached(httpx.ConnectTimeout("x")),
        "system": _unreached(OSError("secret=x")),
    },
)


@scene
async def totals() -> str:
    """Let totals of users fall a little, reset, confirm and refute, on both endpoints, and come and go."""
    script = Script()
    steps: list[tuple[str, Any, Any]] = [  # anna and ben in /user/top; anna in /user/balance
        ("start", (1000, 500), 1000),
        ("growing", (1100, 600), 1200),
        ("a little less", (1050, 590), 1100),
        ("half", (600, 300), 600),
        ("less than half", (100, 100), 1300),
        ("more again", (1400, 50), 1400),
        ("reset", (10, 60), 10),
        ("confirmed", (20, 70), 20),
        ("ben is gone", (30, None), 30),
        ("ben is back with less", (40, 65), 40),
        ("anna is gone", (None, 80), 1),
        ("anna is back", (50, 5), 2),
        ("ben is gone again", (60, None), 60),
        ("both", (70, 90), 70),
        ("nobody", (None, None), None),
        ("both again", (80, 100), 80),
    ]
    document = config("a", a={"watch_users": ["anna"]}, poll={"balances": {"interval": "1m"}})
    play = await started(document, scripted(script))
    for title, top, watched in steps:
        found = [
            user(name, total, total / 100, total / 10)
            for name, total in zip(("anna", "ben"), top, strict=True)
            if total is not None
        ]
        script.answers["a", "/user/top"] = users(*found)
        known = watched is not None
        script.answers["a", "/user/balance"] = (
            {"success": True, **user("anna", watched, watched / 100, 1)} if known else refused("unknown_user")
        )
        play.note(f"step: {title}")
        await play.run(60)
        await play.metrics()
    return await play.close()


@scene
async def history_turns() -> str:
    """Let a history change its mind: empty, unknown, cumulative, stopped, back; each time what stays."""
    script = Script()
    play = await started(config("a", poll={"history": {"interval": "1m"}}), scripted(script))
    rows = hours(WALL, 40)
    stopped = [{**row, "hashrate": 0, "hashes": rows[0]["hashes"]} for row in rows]
    for title, answer in (
        ("hourly", history(rows)),
        ("empty", history([])),
        ("future", history([{**row, "synctime": row["synctime"] + 90 * HOUR} for row in rows])),
        ("unknown", history([{**row, "hashes": row["hashes"] * 60} for row in rows])),
        ("unknown still", history([{**row, "hashes": row["hashes"] * 61} for row in rows])),
        ("zeros", history([{**row, "hashes": 0, "hashrate": 0} for row in rows])),
        ("cumulative", history(cumulated(rows))),
        ("stopped", history([{**stopped[0], "hashrate": 5.0}, *stopped[1:]])),
        ("hourly again", history(rows)),
        ("unknown again", history([{**row, "hashes": row["hashes"] * 60} for row in rows])),
    ):
        script.answers["a", "/stats/history"] = answer
        play.note(f"step: {title}")
        await play.run(70)
        await play.look()
    return await play.close()


@scene
async def clocks() -> str:
    """Set the wall clock forward and back, and stop the process for an hour."""
    play = await started(config("a"), Simulated("a"))
    await play.until(100)
    for seconds in (3 * HOUR, -5 * HOUR, 2 * HOUR):
        play.time.set_wall(seconds)
        play.note(f"wall clock {seconds:+}")
        await play.look()
        await play.run(130)
        await play.look()
    play.time.step(HOUR)
    play.note("stopped for an hour")
    await play.look()
    await play.run(70)
    await play.look()
    return await play.close()


@scene
async def hanging() -> str:
    """Let calls hang, crash and break: loops restart, the health tells what stands still."""
    script = Script()
    play = await started(config("a", "b", poll={"payout": {"interval": "30s"}}), scripted(script))
    await play.until(70)

    async def crash(_call: Call) -> Reply:
        raise ZeroDivisionError("a fault of the program, with secret=text")

    good, play.wire.api = play.wire.api, crash
    for seconds in (35, 35, 200, 400):
        await play.run(seconds)
        await play.look()
    play.wire.api = good
    await play.run(130)
    await play.look()

    async def hang(call: Call) -> Reply:
        await asyncio.sleep(HOUR)
        return await good(call)

    play.wire.api = hang
    await play.run(200)
    await play.look()
    return await play.close()
