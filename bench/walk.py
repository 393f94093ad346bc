"""All users.

One walk over `/user/list` of a site with 1,000,000 simulated users, 8,192 a page: from the first request to
the sums, as the poller does it, through the exporter's own client. Against the same pages fetched and decoded
bare: plain httpx, and msgspec into plain structures, of which none is kept. CPU of the process that walks,
all its threads; the simulated API is a process of its own. It makes each page when it is asked for it, which
takes ten times as long as either, and so there are at most three rounds. One walk before them, that is not
counted, lets it sort its names.
"""

from __future__ import annotations

import asyncio
import math
import tempfile
import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import msgspec
import uvloop

from bench import answers, peers
from bench.load import HOST, BadLoad
from bench.report import Ratio, Row, Spread, Target
from exporter import config
from exporter.api.client import Client
from exporter.collectors.walk import walk
from exporter.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from exporter.config.secret import Secret

USERS, PAGE_SIZE = 1_000_000, 8192
PAGES = math.ceil(USERS / PAGE_SIZE)
MOST_ROUNDS = 3
MILLISECONDS = 1000
CPU = Target(2, at_most=True)

_decoder = msgspec.json.Decoder(answers.Page, strict=False)


def measure(rounds: int) -> list[Row]:
    """Walk both ways in turn, round by round."""
    with (
        tempfile.TemporaryDirectory() as name,
        peers.simulator(Path(name), 1, USERS) as api,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        ours, bare = runner.run(_measured(f"http://{HOST}:{api}", min(rounds, MOST_ROUNDS)))
    return [
        _row("exporter", ours, Ratio("exporter ÷ bare", Spread.of_ratios(ours, bare)), CPU),
        _row("httpx + msgspec", bare),
    ]


def _row(subject: str, taken: list[float], ratio: Ratio | None = None, target: Target | None = None) -> Row:
    spread = Spread.of(taken)
    note = f"{PAGES} pages of {MILLISECONDS * spread.median / PAGES:.3g} ms each"
    return Row(f"a walk over {USERS:,} users", subject, "s of CPU", spread, ratio, target, note)


async def _measured(url: str, rounds: int) -> tuple[list[float], list[float]]:
    """Return the CPU seconds of each walk: the exporter's, the bare ones."""
    site = peers.names(1)[0]
    document = {"api": {"url": url}, "sites": [{"name": site, "secret": peers.secret(site)}]}
    loaded = config.parse(document, {})
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx.AsyncClient())
        client = Client(loaded.api, "bench")
        stack.push_async_callback(client.close)
        ours = partial(_ours, client, loaded.sites[0].secret.value)
        bare = partial(_bare, http, url + Endpoint.ALL_USERS, peers.secret(site))
        await ours()
        taken = [(await _spent(ours), await _spent(bare)) for _ in range(rounds)]
    return [own for own, _ in taken], [other for _, other in taken]


async def _spent(walked: Callable[[], Awaitable[int]]) -> float:
    begin = time.process_time()
    users = await walked()
    spent = time.process_time() - begin
    if math.ceil(users / PAGE_SIZE) != PAGES:
        raise BadLoad(f"the walk ended after {users:,} users")
    return spent


async def _ours(client: Client, secret: Secret) -> int:
    found, _ = await walk(lambda page: client.user_page(secret, count=PAGE_SIZE, page=page), PAGES)
    return found.users


async def _bare(http: httpx.AsyncClient, url: str, secret: str) -> int:
    users, parameters = 0, {"secret": secret, "count": str(PAGE_SIZE)}
    while True:
        answer = await http.get(url, params=parameters)
        page = _decoder.decode(answer.content)
        users += len(page.users)
        if page.next_page is None:
            return users
        parameters["page"] = page.next_page
