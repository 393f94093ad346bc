"""Polls on time.

One exporter of 1,000 sites, then one of 2,500, at the default intervals, 128 users a site, scraped every 15 s
from the simulated API. Poll delays are read from /metrics. CPU is that of the whole process since its start,
scrapes included. Memory is read after each scrape.

A ticker on the exporter's own event loop wakes up every 5 ms, which takes some 0.6 % of a core. The longest
time between two of its ticks is the longest stall, with up to 5 ms before it: as long may a scrape or a poll
wait for anything else in the process, such as rendering, decoding or a full garbage collection. The machine
too may have given the exporter no processor; the notes have the loop's own CPU in a stall. The start ends
after the first minute, and has the first poll of everything. Last, the 2,500 sites are reloaded twice: the
first time nothing has changed, the second time every site's `/user/top` has another `count`.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench import programs
from bench.load import BadLoad, ask
from bench.report import Row, Spread, Target
from bench.watch import FIRST, MEBIBYTE, SCRAPE_SECONDS, late_rows, summed, warm, watch

if TYPE_CHECKING:
    from bench.programs import Served
    from bench.report import Effort
    from bench.watch import Watched

USERS = 128  # of each site: the default
SECONDS = 240.0  # of polling
RELOAD_SECONDS = 20.0  # from the signal on
RELOADED = "cryptoloot_exporter_config_last_reload_success_timestamp_seconds"
MILLISECONDS = 1000
STALLS = {1000: Target(30, at_most=True), 2500: Target(100, at_most=True)}  # ms, by sites
ON_TIME = Target(0, at_most=True)


class Event(NamedTuple):
    """A stall or a full garbage collection, and the monotonic time when it ended."""

    kind: str
    end: float
    seconds: float
    cpu: float  # seconds of the event loop's thread in this time


def measure(effort: Effort) -> list[Row]:
    """Watch each size once; reload the larger one."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        directory, most = Path(name), max(STALLS)
        with programs.simulator(directory, most, USERS) as api:
            warm(api, most)
            for sites in STALLS:
                path, output = directory / f"{sites}.yaml", directory / f"{sites}.events"
                programs.write_config(path, api, sites, {})
                with programs.exporter(directory, path, events=output) as served:
                    begin = time.monotonic()
                    watched = watch(served, begin, effort.seconds(SECONDS), 3 * USERS * sites)
                    phases = [("start", begin), ("polling", begin + effort.seconds(FIRST))]
                    if sites == most:
                        phases.append(("reload, nothing changed", _reload(served)))
                        programs.write_config(path, api, sites, {"top_users": {"count": USERS - 1}})
                        phases.append(("reload, every site changed", _reload(served)))
                    phases.append(("end", time.monotonic()))
                rows += _rows(sites, watched, phases, parse(output.read_text()))
    return rows


def _reload(served: Served) -> float:
    """Reload the config, and wait; return the monotonic time of the signal. Raises BadLoad."""
    wall, begin = int(time.time()), time.monotonic()
    os.kill(served.pid, signal.SIGHUP)
    time.sleep(RELOAD_SECONDS)
    if summed(ask(served.port, "/metrics", {}).body.split(b"\n"), RELOADED)[""] < wall:
        raise BadLoad("the exporter did not reload its config")
    return begin


def parse(text: str) -> list[Event]:
    """Read what `bench.ticking` wrote, without a last line that it did not complete."""
    lines = [line.split() for line in text.split("\n")[:-1]]
    return [Event(kind, *map(float, figures)) for kind, *figures in lines]


def stall_rows(work: str, phases: list[tuple[str, float]], events: list[Event], target: Target) -> list[Row]:
    """Return the longest stall of each phase, but of the last, which is only the end of the others."""
    rows = []
    for (phase, begin), (_, end) in pairwise(phases):
        within = [event for event in events if begin <= event.end < end]
        stalls = [event for event in within if event.kind == "stall"]
        collections = [event.seconds for event in within if event.kind == "collection"]
        busiest = MILLISECONDS * max((event.cpu for event in stalls), default=0)
        slowest = MILLISECONDS * max(collections, default=0)
        note = (
            f"{end - begin:.0f} s; at most {busiest:.0f} ms of the loop's own CPU in a stall; "
            f"{len(collections)} full garbage collections of at most {slowest:.0f} ms"
        )
        spread = Spread.of([MILLISECONDS * max((event.seconds for event in stalls), default=0)])
        rows.append(Row(work, phase, "ms, the longest stall", spread, target=target, note=note))
    return rows


def _rows(sites: int, watched: Watched, phases: list[tuple[str, float]], events: list[Event]) -> list[Row]:
    last = watched.last
    work = f"{sites:,} sites, {last.seconds / 60:.1f} minutes, scraped every {SCRAPE_SECONDS:.0f} s"
    cost = Spread.of([MILLISECONDS * last.cpu / last.polls])
    resident = Spread.of(size / MEBIBYTE for size in watched.resident)
    sizes = f"a page of {watched.text / MEBIBYTE:.3g} MiB, {watched.zipped / MEBIBYTE:.3g} MiB as gzip"
    return [
        *late_rows(work, watched, ON_TIME if sites == min(STALLS) else None),
        Row(work, "exporter", "CPU ms per poll", cost, note=f"{last.cpu:.1f} s of CPU in all"),
        Row(work, "exporter", "MiB resident", resident, note=sizes),
        *stall_rows(work, phases, events, STALLS[sites]),
    ]
