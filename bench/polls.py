"""A thousand sites.

Polled once at the default intervals from the simulated API, 128 users each, and scraped like Prometheus does
it. Lateness and polls are read from /metrics; CPU is the whole process', from its start and with its scrapes.
The plain client makes the same mix of requests over one httpx.AsyncClient and decodes the answers, CPU of
starting up excluded. Memory is taken after each scrape, and at the end with the pages of both formats made,
plain and gzip. Each site is asked for once before all this: the simulated API makes its world as it is asked,
slower than a thousand sites begin.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench import peers
from bench.bare import Errand, apart, warm
from bench.report import Ratio, Row, Spread, Target
from bench.watch import FIRST, SCRAPE_SECONDS, watched

if TYPE_CHECKING:
    from bench.watch import Watched

SITES = 1000
USERS = 128  # of each site: as many as are asked for by default
SERIES = 3 * USERS * SITES
BARE_SECONDS = 60  # of asking at the exporter's own pace, in all rounds together
MILLISECONDS = 1000
MEBIBYTE = 1 << 20
PAGES, SPARE = 3, 80 * MEBIBYTE  # memory: so many times the pages' own bytes, and so many bytes besides

ON_TIME = Target(0, at_most=True)
CPU = Target(2, at_most=True)
MEMORY = Target(1, at_most=True)


class Bare(NamedTuple):
    """CPU seconds of one request with a plain client, round by round."""

    paced: list[float]
    at_once: list[float]


def measure(rounds: int, minutes: float) -> list[Row]:
    """Watch the exporter for so long, once; then make the same requests with a plain client, in rounds."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with peers.simulator(directory, SITES, USERS) as api:
            warm(api, SITES)
            config = peers.write_config(directory, api, SITES, {})
            begin = time.monotonic()
            with peers.exporter(directory, config) as served:
                seen = watched(served, begin, 60 * minutes, SERIES)
            bare = _bare(api, rounds, seen)
    return [*lateness(_work(seen), seen, ON_TIME), *_cpu(seen, bare), _memory(seen)]


def _bare(api: int, rounds: int, seen: Watched) -> Bare:
    """Make the exporter's requests again, at its pace for a while and as fast as they are answered."""
    pace = sum(seen.last.polls.values()) / seen.last.seconds
    paced = _parts(seen.last.polls, BARE_SECONDS / seen.last.seconds / rounds)
    at_once = _parts(seen.last.polls, 1 / rounds)
    bare = Bare([], [])
    for _ in range(rounds):
        bare.paced.append(apart(Errand.to(api, SITES, paced, pace)))
        bare.at_once.append(apart(Errand.to(api, SITES, at_once)))
    return bare


def _parts(polls: dict[str, int], fraction: float) -> dict[str, int]:
    return {name: max(1, round(count * fraction)) for name, count in polls.items()}


def _work(seen: Watched) -> str:
    return f"{SITES:,} sites, {seen.last.seconds / 60:.1f} minutes, scraped every {SCRAPE_SECONDS:.0f} s"


def lateness(work: str, seen: Watched, whole: Target | None, later: Target | None = None) -> list[Row]:
    """Count the polls that began late; the note has the least bound that none exceeds.

    One target is for all polls, the other for those after the first ones.
    """
    delays, begun = seen.last.delays, seen.last.delays["+Inf"]
    bound = next(bound for bound, count in delays.items() if count == begun)
    faults = f"{seen.last.failures:,} failures, {seen.last.restarts:,} crashes"
    note = f"{begun:,} polls, {faults}, all begun within {bound} s of their time"
    unit, since = "polls over 1 s late", seen.last.late - seen.first.late
    return [
        Row(work, "exporter", unit, Spread.of([seen.last.late]), target=whole, note=note),
        Row(work, f"exporter, after the first {FIRST:.0f} s", unit, Spread.of([since]), target=later),
    ]


def _cpu(seen: Watched, bare: Bare) -> list[Row]:
    cost = seen.last.cpu / sum(seen.last.polls.values())
    work, unit = _work(seen), "CPU ms per poll"
    note = f"{seen.last.cpu:.1f} s of CPU in all"
    rows = [Row(work, "exporter", unit, Spread.of([MILLISECONDS * cost]), note=note)]
    for subject, taken, target in (
        ("plain client at the same pace", bare.paced, CPU),
        ("plain client, 8 in flight", bare.at_once, None),
    ):
        ratio = Ratio(f"exporter ÷ {subject}", Spread.of(cost / spent for spent in taken))
        spread = Spread.of(MILLISECONDS * spent for spent in taken)
        rows.append(Row(work, subject, unit, spread, ratio, target))
    return rows


def _memory(seen: Watched) -> Row:
    """Judge the largest of what was seen after scrapes, by the four pages that were served at the end."""
    bound = PAGES * sum(seen.pages) + SPARE
    taken = [*seen.resident, seen.crowded]
    ratio = Ratio(f"largest ÷ ({PAGES} times the pages + 80 MiB)", Spread.of([max(taken) / bound]))
    sizes = ", ".join(f"{size / MEBIBYTE:.3g}" for size in seen.pages)
    note = f"pages of {sizes} MiB: text and its gzip, OpenMetrics and its gzip"
    resident = Spread.of(size / MEBIBYTE for size in taken)
    return Row(_work(seen), "exporter", "MiB resident", resident, ratio, MEMORY, note)
