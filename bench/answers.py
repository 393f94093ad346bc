"""Bad answers.

Six sites get the same bad answer of the API at once, as large as `api.max_response_bytes` allows by default,
compressed with gzip. A ticker on the same event loop wakes up every millisecond. Its longest gap is how long
a scrape waits. This group calls the exporter's client, without a network.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import time
from typing import TYPE_CHECKING, Any

import httpx

from bench.hostile import HOSTILE
from bench.report import Row, Spread, Target
from exporter import config
from exporter.api.answers import decode_top_users, decode_user_page
from exporter.api.client import Client, Request
from exporter.api.errors import PollError
from exporter.collectors.all_users import ALL_USERS
from exporter.collectors.users import TOP_USERS

if TYPE_CHECKING:
    from bench.report import Effort

SITES = 6
TICK = 0.001  # seconds
MILLISECONDS = 1000
ON_TIME = Target(100, at_most=True)
REQUESTS: tuple[Request[Any], ...] = (
    Request(TOP_USERS, decode_top_users, {"count": "128"}),
    Request(ALL_USERS, decode_user_page, {"count": "4096"}),
)


def measure(effort: Effort) -> list[Row]:
    """Measure each kind of bad answer so many times."""
    secret = {"name": "my-site", "secret_env": "SECRET"}
    loaded = config.parse({"sites": [secret]}, {"SECRET": "secret-of-my-site"})
    work = f"a bad answer of {loaded.api.max_response_bytes >> 20} MiB for {SITES} sites at once"
    rows = []
    for kind, body in HOSTILE.items():
        packed = gzip.compress(body(loaded.api.max_response_bytes), 1)
        gaps = [asyncio.run(_longest_gap(loaded, packed)) for _ in range(effort.rounds)]
        spread = Spread.of(MILLISECONDS * gap for gap in gaps)
        rows.append(Row(work, kind, "ms, the longest gap", spread, target=ON_TIME))
    return rows


async def _longest_gap(loaded: config.Config, packed: bytes) -> float:
    """Call for all sites with this answer; return the longest time between two ticks, in seconds."""

    def answer(_: httpx.Request) -> httpx.Response:
        headers = {"content-encoding": "gzip", "content-type": "application/json"}
        return httpx.Response(200, headers=headers, stream=httpx.ByteStream(packed))

    client = Client(loaded.api, "bench", httpx.MockTransport(answer))
    secret = loaded.sites[0].secret.value

    async def call(request: Request[Any]) -> None:
        with contextlib.suppress(PollError):  # most of these answers are invalid
            await client.call(request, secret)

    calls = [asyncio.create_task(call(REQUESTS[number % 2])) for number in range(SITES)]
    before, longest = time.monotonic(), 0.0
    while not all(task.done() for task in calls):
        await asyncio.sleep(TICK)
        now = time.monotonic()
        before, longest = now, max(longest, now - before)
    await client.close()
    return longest
