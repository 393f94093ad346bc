"""One poll.

From the bytes of a `/user/top` answer with 1,024 users to the page that Prometheus scrapes: decoded, checked,
added to the users' totals, rendered, and compressed once, as OpenMetrics with gzip. Beside it the least that
this takes: msgspec's decoding, the same lines as joined f-strings, and one gzip at the same level. CPU of the
process, mean of a round of polls; the answers are the simulated API's, a minute apart. Unlike the other
groups, this one calls the exporter's functions.
"""

from __future__ import annotations

import asyncio
import gzip
import time
from typing import TYPE_CHECKING, TypeVar

import httpx
import msgspec

from bench.report import Ratio, Row, Spread, Target
from exporter import config
from exporter.clock import Now
from exporter.collectors.registry import USERS_COLLECTOR
from exporter.collectors.snapshot import Snapshot, Store
from exporter.collectors.users import TOP_USERS
from exporter.pages.exporter_metrics import OwnMetrics
from exporter.pages.pages import GZIP_LEVEL, Pages
from exporter.pages.text import Format
from exporter.simulator import World, app

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from bench.report import Effort
    from exporter.api.client import Request

SITE = "my-site"
USERS = 1024
POLLS = 60  # of each round
START = 1_760_000_000.0  # Unix seconds; any time would do
MINUTE = 60.0
MILLISECONDS = 1000
CPU = Target(1.5, at_most=True)


class User(msgspec.Struct):
    """A user in plain types, unchecked."""

    name: str
    total: float
    withdrawn: float
    balance: float


class Users(msgspec.Struct):
    """An answer of `/user/top`."""

    users: list[User]


T = TypeVar("T")

DECODER = msgspec.json.Decoder(Users, strict=False)


def measure(effort: Effort) -> list[Row]:
    """Work on the same answers both ways, in turn; a first round of each is not counted."""
    ours, bare = asyncio.run(_measure(effort.rounds))
    ratio = Ratio("exporter ÷ bare", Spread.of_ratios(ours, bare))
    work, unit = "a poll of 1,024 users", "ms of CPU"
    return [
        Row(work, "exporter", unit, Spread.of(ours), ratio, CPU),
        Row(work, "msgspec + f-strings + gzip", unit, Spread.of(bare)),
    ]


async def _measure(rounds: int) -> tuple[list[float], list[float]]:
    bodies = await _answers(POLLS * (rounds + 1))
    ours, bare, poll = [], [], _exporter()
    for number in range(rounds + 1):
        part = bodies[number * POLLS :][:POLLS]
        ours.append(await _cpu(poll, part))
        bare.append(await _cpu(_bare, part))
    return ours[1:], bare[1:]


async def _answers(count: int) -> list[bytes]:
    """Return this many answers of the simulated API. Totals and balances grow, and some users withdraw."""
    now = START
    world = World(clock=lambda: now)
    world.add(SITE, "secret", users=USERS)
    bodies = []
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app(world)), base_url="http://api") as api:
        for _ in range(count):
            answer = await api.get("/user/top", params={"secret": "secret", "count": USERS})
            bodies.append(answer.content)
            now += MINUTE
    return bodies


async def _cpu(work: Callable[[bytes], Awaitable[bytes | None]], bodies: Sequence[bytes]) -> float:
    begin = time.process_time()
    for body in bodies:
        await work(body)
    return MILLISECONDS * (time.process_time() - begin) / len(bodies)


def _exporter() -> Callable[[bytes], Awaitable[bytes | None]]:
    """Return what the exporter does with an answer and for the scrape after it, a minute later each time."""
    document = {"api": {"url": "http://127.0.0.1:1"}, "sites": [{"name": SITE, "secret": "secret"}]}
    (site,) = config.parse(document, {}).sites
    collector, store, now = USERS_COLLECTOR, Store(), Now(START, 0.0)
    store.publish(SITE, Snapshot())
    pages = Pages(store, OwnMetrics("", ""), lambda: now, [site])

    async def poll(body: bytes) -> bytes | None:
        nonlocal now

        async def ask(request: Request[T]) -> T:
            return request.decode(body)

        now = Now(now.wall + MINUTE, now.mono + MINUTE)
        answer = await collector.poll(site, TOP_USERS, ask)
        snapshot = store[SITE]
        step = collector.step(site, TOP_USERS, snapshot.state(collector), answer, now)
        record = snapshot.record(TOP_USERS).succeeded(
            at=now.wall, took=0.1, rejected=step.rejected, next_poll=now.wall + MINUTE
        )
        snapshot = snapshot.with_state(collector, step.state).with_record(TOP_USERS, record)
        store.publish(SITE, snapshot)
        return await pages.probe(SITE, Format.OPENMETRICS, zipped=True)

    return poll


async def _bare(body: bytes) -> bytes:
    users = DECODER.decode(body).users
    hashes, withdrawn, balance = (
        f'cryptoloot_user_{name}{{site="{SITE}",user="'
        for name in ("hashes_total", "withdrawn_coins_total", "balance_coins")
    )
    lines = [f'{hashes}{user.name}"}} {user.total}\n' for user in users]
    lines += [f'{withdrawn}{user.name}"}} {user.withdrawn}\n' for user in users]
    lines += [f'{balance}{user.name}"}} {user.balance}\n' for user in users]
    return gzip.compress("".join(lines).encode(), GZIP_LEVEL)
