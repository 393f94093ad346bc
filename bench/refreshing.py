"""The process of `bench.refresh`: sites that refresh, a ticker, a server; prints one JSON object."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from typing import TYPE_CHECKING

import uvloop

from bench import answers, peers
from bench.load import HOST
from exporter import config
from exporter.api import answers as model
from exporter.clock import Now
from exporter.collectors import metrics, snapshot
from exporter.collectors.metrics import ExporterMetrics
from exporter.collectors.snapshot import Snapshot, Store
from exporter.endpoint import Endpoint
from exporter.pages.pages import Pages
from exporter.web.access import WebAccess
from exporter.web.listening import listen
from exporter.web.routes import Hooks, Web
from exporter.web.server import Server
from exporter.web.status import Facts

if TYPE_CHECKING:
    from collections.abc import Sequence

SITES, USERS, ANSWERS = 100, 1024, 6
SECONDS = 6.0  # of each phase
TICK = 0.001
FULL_EVERY = 1.0  # seconds between scrapes of the full page
CLIENT = """
import json, sys
from bench.load import SCRAPE, latencies

port, path, seconds, pause = sys.argv[1:]
print(flush=True)
print(json.dumps(latencies(int(port), path, float(seconds), SCRAPE, float(pause))))
"""


def now() -> Now:
    """Return this moment."""
    return Now(time.time(), time.monotonic())


class Refreshed:
    """The sites, their answers, and the pages made of them."""

    def __init__(self, bodies: Sequence[bytes]) -> None:
        self.names = [f"site-{number}" for number in range(SITES)]
        # Names of users differ from site to site; totals, balances and withdrawals are the same ones'.
        marks = [b'"name":"%d-' % number for number in range(SITES)]
        self.bodies = [[body.replace(b'"name":"', mark) for body in bodies] for mark in marks]
        sites = [{"name": name, "secret": f"secret-{name}"} for name in self.names]
        loaded = config.parse({"api": {"url": "http://127.0.0.1:1"}, "sites": sites}, {})
        self.subjects = [metrics.subject(loaded, site) for site in loaded.sites]
        self.store, self.count = Store(), 0
        self.changed, self.rendered = asyncio.Event(), asyncio.Event()
        for name in self.names:
            self.store.publish(name, Snapshot())
        self.pages = Pages(self.store, ExporterMetrics("", ""), self.subjects, self.changed.set)
        facts = Facts("", "", "", now(), 0.0, True, 0, 1, 0, 0, (), True)
        self.web = Web(self.pages, Hooks(now, lambda: facts, list, lambda: True, None), WebAccess(None, b""))

    async def refresh(self) -> None:
        """Take answer after answer, site after site, as the poller does, for ever."""
        while True:
            for number in range(ANSWERS):
                for name, bodies in zip(self.names, self.bodies, strict=True):
                    await self.take(name, bodies[number], fresh=number == 0)

    async def take(self, name: str, body: bytes, *, fresh: bool) -> None:
        """Take one answer; the first of a row begins anew, since totals only grow."""
        users = model.decode_top_users(body)
        await asyncio.sleep(0)
        moment, before = now(), Snapshot() if fresh else self.store[name]
        known = snapshot.with_top_users(before, snapshot.labelled(users, None).entries, moment)
        later = {"at": moment.wall, "rejected": users.rejected, "next_poll": moment.wall + 60}
        self.store.publish(name, snapshot.succeeded(known, Endpoint.TOP_USERS, **later))  # type: ignore[arg-type]
        self.count += 1
        self.rendered.clear()
        await self.rendered.wait()

    async def render(self) -> None:
        """Render what has changed, as the app does."""
        while True:
            await self.changed.wait()
            self.rendered.clear()
            self.changed.clear()
            await self.web.catch_up()
            self.rendered.set()


class Ticker:
    """Wakes up every millisecond, and notes how late it was at most while `watching`."""

    def __init__(self) -> None:
        self.watching, self.latest = False, 0.0

    async def run(self) -> None:
        """Tick for ever."""
        while True:
            watched, begin = self.watching, time.perf_counter()
            await asyncio.sleep(TICK)
            if watched:
                self.latest = max(self.latest, time.perf_counter() - begin - TICK)

    async def scraped(self, port: int, path: str, pause: float) -> list[float]:
        """Let a process of its own scrape a path for SECONDS, and watch; return sorted seconds."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CLIENT, str(port), path, str(SECONDS), str(pause)),
            cwd=peers.REPOSITORY,
            stdout=asyncio.subprocess.PIPE,
        )
        if not process.stdout:
            raise RuntimeError("the client has no output")
        await process.stdout.readline()  # it has started: forking this large process is no part of the work
        self.watching = True
        output = await process.stdout.read()
        self.watching = False
        await process.wait()
        return sorted(json.loads(output))


async def measured() -> dict[str, float]:
    """Measure idle, then busy; times in milliseconds."""
    refreshed, ticker = Refreshed(await answers.top_users("site", USERS, ANSWERS)), Ticker()
    server, sockets = Server(refreshed.web), listen([f"{HOST}:0"])
    port = sockets[0].getsockname()[1]
    tasks = [asyncio.create_task(server.serve(sockets)), asyncio.create_task(refreshed.render())]
    for name, bodies in zip(refreshed.names, refreshed.bodies, strict=True):
        await refreshed.take(name, bodies[0], fresh=True)
    gc.freeze()  # as the command line does it after its start
    refreshed.pages.show(refreshed.subjects, on_metrics=False)
    await asyncio.sleep(1)
    tasks.append(asyncio.create_task(ticker.run()))
    probe = f"/probe?target={refreshed.names[0]}"
    idle = await ticker.scraped(port, probe, 0)
    tasks.append(asyncio.create_task(refreshed.refresh()))
    begun = refreshed.count
    busy = await ticker.scraped(port, probe, 0)
    pace = (refreshed.count - begun) / SECONDS
    refreshed.pages.show(refreshed.subjects, on_metrics=True)
    full = await ticker.scraped(port, "/metrics", FULL_EVERY)
    for task in tasks[1:]:
        task.cancel()
    server.stop()
    await tasks[0]
    times = {
        "idle": part(idle, 0.99),
        "busy": part(busy, 0.99),
        "full": part(full, 0.5),
        "late": ticker.latest,
    }
    return {name: 1000 * seconds for name, seconds in times.items()} | {"refreshes": pace}


def part(ordered: Sequence[float], share: float) -> float:
    """Return the value below which that share of the others is."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


if __name__ == "__main__":
    print(json.dumps(uvloop.run(measured())))
