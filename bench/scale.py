"""Scaling.

What one site of 25 users costs, at the default intervals and scraped every 15 s as gzip, all on one page: two
exporters, of one site and of 1,000, poll the simulated API beside each other, and what the larger takes more
is divided by the sites that it has more. CPU and polls are counted from the end of the first minute on,
memory is the largest after a scrape. That makes a line, and the line says what 5,000 sites take in one
process: the model. Then one process polls 5,000 sites, and stands beside it. Last, what each of several
shards pays for sites that are not its own: it reads the whole config, and weighs each site for each shard.
"""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench import peers
from bench.bare import warm
from bench.load import BadLoad
from bench.polls import ON_TIME, lateness
from bench.report import Ratio, Row, Spread, Target
from bench.watch import FIRST, SCRAPE_SECONDS, watched
from exporter import config
from exporter.config.sharding import Share

if TYPE_CHECKING:
    from bench.peers import Served
    from bench.watch import Watched

FEW, MANY, CHECKED = 1, 1000, 5000  # sites
USERS = 25  # of each
POLL = {"top_users": {"count": USERS}}
COST_MINUTES = 2.0  # that the few and the many are watched, after the first
READ, SHARDS = 10_000, 200  # sites of the config that is read, and shards of which one reads it
MILLISECONDS, MICROSECONDS = 1000, 1_000_000
KIBIBYTE, MEBIBYTE = 1 << 10, 1 << 20
AS_PLANNED = Target(1.2, at_most=True)


class Size(NamedTuple):
    """What a process does and takes."""

    polls: float  # per minute
    cores: float
    resident: float  # bytes
    text: float  # bytes of its page
    zipped: float  # bytes of the same as gzip
    samples: float

    @classmethod
    def of(cls, seen: Watched) -> Size:
        """Take what was seen after the first minute."""
        seconds = seen.last.seconds - seen.first.seconds
        polls = sum(seen.last.polls.values()) - sum(seen.first.polls.values())
        cores = (seen.last.cpu - seen.first.cpu) / seconds
        text, zipped, *_ = seen.pages
        return cls(60 * polls / seconds, cores, max(seen.resident), text, zipped, seen.last.samples)


@dataclass(frozen=True)
class Model:
    """A process without sites, and what each site adds to it."""

    base: Size
    site: Size

    @classmethod
    def through(cls, few: Size, many: Size, sites: tuple[int, int]) -> Model:
        """Draw the line through two processes with so many sites."""
        more = sites[1] - sites[0]
        site = Size(*((large - small) / more for small, large in zip(few, many, strict=True)))
        return cls(Size(*(small - sites[0] * each for small, each in zip(few, site, strict=True))), site)

    def at(self, sites: int) -> Size:
        """Return what a process with so many sites takes."""
        return Size(*(base + sites * each for base, each in zip(self.base, self.site, strict=True)))


def measure(rounds: int, minutes: float) -> list[Row]:
    """Measure few and many sites, then those that the model is checked by for so long, each once."""
    few, many = _together([FEW, MANY], COST_MINUTES)
    model = Model.through(Size.of(few), Size.of(many), (FEW, MANY))
    (checked,) = _together([CHECKED], minutes)
    return [*_costs(model), *_checked(model.at(CHECKED), checked), *_shares(rounds)]


def _together(sizes: list[int], minutes: float) -> list[Watched]:
    """Watch exporters of so many sites beside each other, for so long after the first minute."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        api = stack.enter_context(peers.simulator(directory, max(sizes), USERS))
        warm(api, max(sizes))
        configs = [peers.write_config(directory, api, sites, POLL) for sites in sizes]
        begin = time.monotonic()
        running = [stack.enter_context(peers.exporter(directory, config)) for config in configs]

        def watch(served: Served, sites: int) -> Watched:
            return watched(served, begin, FIRST + 60 * minutes, 3 * USERS * sites)

        with ThreadPoolExecutor() as threads:
            return list(threads.map(watch, running, sizes))


def _costs(model: Model) -> list[Row]:
    work = f"the model: {FEW} and {MANY:,} sites of {USERS} users, {COST_MINUTES:g} minutes after the first"
    base, site = model.base, model.site
    figures = (
        ("a process without sites", "cores", base.cores),
        ("a process without sites", "MiB resident", base.resident / MEBIBYTE),
        ("a site", "polls per minute", site.polls),
        ("a poll", "ms of CPU", 60 * MILLISECONDS * site.cores / site.polls),
        ("a site", "KiB resident", site.resident / KIBIBYTE),
        ("a site", "KiB of text", site.text / KIBIBYTE),
        ("a site", "KiB of gzip", site.zipped / KIBIBYTE),
        ("a site", "samples", site.samples),
    )
    return [Row(work, subject, unit, Spread.of([figure])) for subject, unit, figure in figures]


def _checked(planned: Size, seen: Watched) -> list[Row]:
    minutes = (seen.last.seconds - seen.first.seconds) / 60
    work = (
        f"{CHECKED:,} sites of {USERS} users, {minutes:.1f} minutes after the first, "
        f"scraped every {SCRAPE_SECONDS:.0f} s"
    )
    taken = Size.of(seen)
    return [
        *_beside(work, "polls per minute", taken.polls, planned.polls),
        *_beside(work, "cores", taken.cores, planned.cores, AS_PLANNED),
        *_beside(work, "MiB resident", taken.resident / MEBIBYTE, planned.resident / MEBIBYTE, AS_PLANNED),
        *_beside(work, "MiB of gzip", taken.zipped / MEBIBYTE, planned.zipped / MEBIBYTE),
        Row(work, "scrape of the whole page", "s", Spread.of(seen.scrapes)),
        *lateness(work, seen, None, ON_TIME),
    ]


def _beside(work: str, unit: str, taken: float, planned: float, target: Target | None = None) -> list[Row]:
    ratio = Ratio(f"{unit}: measured ÷ model", Spread.of([taken / planned]))
    return [
        Row(work, "exporter", unit, Spread.of([taken]), ratio, target),
        Row(work, "model", unit, Spread.of([planned])),
    ]


def _shares(rounds: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        path = peers.write_config(Path(name), 1, READ, {})
        reading, weighing = zip(*(_read(path) for _ in range(rounds)), strict=True)
    work, unit = f"a config of {READ:,} sites, read by one of {SHARDS} shards", "µs of CPU"
    return [
        Row(work, "reading, for each site", unit, Spread.of(reading)),
        Row(work, "weighing, for each site and shard", unit, Spread.of(weighing)),
    ]


def _read(path: Path) -> tuple[float, float]:
    """Read a config as a shard does, and find its share; return what each took, in microseconds of CPU."""
    begin, share = time.process_time(), Share(0, SHARDS)
    sites = config.load(path, {}, explicit=True).sites
    read = time.process_time()
    if len([site for site in sites if share.has(site.name)]) == len(sites):
        raise BadLoad("a shard has all sites")
    weighed = time.process_time()
    return MICROSECONDS * (read - begin) / READ, MICROSECONDS * (weighed - read) / READ / SHARDS
