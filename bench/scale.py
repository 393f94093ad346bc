"""Scaling.

What one site of 25 users costs, at the default intervals and scraped every 15 s as gzip, all on one page. Two
exporters, of one site and of 1,000, poll the simulated API at the same time, and what the larger takes more
is divided by the sites that it has more. CPU and polls are counted after the first minute, memory is the
maximum after a scrape. This gives a line, the model, and the model says what one process with 5,000 sites
takes. Then one process polls 5,000 sites and is compared with it. A shard's cost for sites that are not its
own comes next: it reads the whole config, and weighs each site for each shard. Last, one site of 1,000,000
users with `all_users` enabled, 8,192 users a page: the exporter's CPU from the time when it listens until the
sums are on the page, and how much of it is one page's.
"""

from __future__ import annotations

import math
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from bench import programs
from bench.load import BadLoad, ask, cpu_seconds
from bench.report import Ratio, Row, Spread, Target
from bench.watch import FIRST, MEBIBYTE, SCRAPE_SECONDS, late_rows, warm, watch
from exporter import config
from exporter.config.sharding import Share

if TYPE_CHECKING:
    from bench.programs import Served
    from bench.report import Effort
    from bench.watch import Watched

    Size = dict[str, float]

FEW, MANY, CHECKED = 1, 1000, 5000  # sites
USERS = 25  # of each
POLL = {"top_users": {"count": USERS}}
COST_SECONDS, CHECKED_SECONDS = 120.0, 150.0  # after the first minute
READ, SHARDS = 10_000, 200  # sites of the config that is read, and shards of which one reads it
ALL_USERS, PAGE_SIZE = 1_000_000, 8192
WALK_PATIENCE = 120.0  # seconds
MILLISECONDS, MICROSECONDS = 1000, 1_000_000
AS_PLANNED = Target(1.2, at_most=True)
ON_TIME = Target(0, at_most=True)


def measure(effort: Effort) -> list[Row]:
    """Measure few and many sites, then those that the model is checked by, then a shard, then all users."""
    seconds = effort.seconds(COST_SECONDS)
    few, many = _watch_together([FEW, MANY], seconds)
    base, site = line(size_of(few), size_of(many), (FEW, MANY))
    (checked,) = _watch_together([CHECKED], effort.seconds(CHECKED_SECONDS))
    model = {unit: base[unit] + CHECKED * site[unit] for unit in base}
    return [
        *_model_rows(base, site, seconds),
        *_checked_rows(model, checked),
        *_shard_rows(effort.rounds),
        _walk_row(),
    ]


def _watch_together(sizes: list[int], seconds: float) -> list[Watched]:
    """Watch exporters of so many sites at the same time, for so long after the first minute."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        api = stack.enter_context(programs.simulator(directory, max(sizes), USERS))
        warm(api, max(sizes))
        configs = [programs.write_config(directory / f"{sites}.yaml", api, sites, POLL) for sites in sizes]
        begin = time.monotonic()
        running = [stack.enter_context(programs.exporter(directory, path)) for path in configs]

        def watch_one(served: Served, sites: int) -> Watched:
            return watch(served, begin, FIRST + seconds, 3 * USERS * sites)

        with ThreadPoolExecutor() as threads:
            return list(threads.map(watch_one, running, sizes))


def size_of(watched: Watched) -> Size:
    """Return what a process did and took after its first minute, by unit."""
    first, last = watched.first, watched.last
    seconds = last.seconds - first.seconds
    return {
        "polls per minute": 60 * (last.polls - first.polls) / seconds,
        "cores": (last.cpu - first.cpu) / seconds,
        "MiB resident": max(watched.resident) / MEBIBYTE,
        "MiB of text": watched.text / MEBIBYTE,
        "MiB of gzip": watched.zipped / MEBIBYTE,
        "samples": last.samples,
    }


def line(few: Size, many: Size, sites: tuple[int, int]) -> tuple[Size, Size]:
    """Return what a process without sites takes and what each site adds, from two with so many sites."""
    site = {unit: (many[unit] - few[unit]) / (sites[1] - sites[0]) for unit in few}
    return {unit: few[unit] - sites[0] * site[unit] for unit in few}, site


def _model_rows(base: Size, site: Size, seconds: float) -> list[Row]:
    work = f"the model: {FEW} and {MANY:,} sites of {USERS} users, {seconds / 60:g} minutes after the first"
    figures = [("a process without sites", unit, base[unit]) for unit in ("cores", "MiB resident")]
    figures.append(("a poll", "ms of CPU", 60 * MILLISECONDS * site["cores"] / site["polls per minute"]))
    figures += [("a site", unit, site[unit]) for unit in ("polls per minute", "samples")]
    figures += [
        ("a site", unit.replace("MiB", "KiB"), 1024 * site[unit])
        for unit in ("MiB resident", "MiB of text", "MiB of gzip")
    ]
    return [Row(work, subject, unit, Spread.of([figure])) for subject, unit, figure in figures]


def _checked_rows(model: Size, watched: Watched) -> list[Row]:
    minutes, measured = (watched.last.seconds - watched.first.seconds) / 60, size_of(watched)
    every = f"scraped every {SCRAPE_SECONDS:.0f} s"
    work = f"{CHECKED:,} sites of {USERS} users, {minutes:.1f} minutes after the first, {every}"
    rows = []
    for unit in ("polls per minute", "cores", "MiB resident", "MiB of gzip"):
        target = AS_PLANNED if unit in {"cores", "MiB resident"} else None
        ratio = Ratio(f"{unit}: measured ÷ model", Spread.of([measured[unit] / model[unit]]))
        rows.append(Row(work, "exporter", unit, Spread.of([measured[unit]]), ratio, target))
        rows.append(Row(work, "model", unit, Spread.of([model[unit]])))
    rows.append(Row(work, "scrape of the whole page", "s", Spread.of(watched.scrapes)))
    return [*rows, *late_rows(work, watched, None, ON_TIME)]


def _shard_rows(rounds: int) -> list[Row]:
    """Read a config as a shard does, and compute its share of the sites."""
    reading, weighing, share = [], [], Share(0, SHARDS)
    with tempfile.TemporaryDirectory() as name:
        path = programs.write_config(Path(name) / "config.yaml", 1, READ, {})
        for _ in range(rounds):
            begin = time.process_time()
            sites = config.load(path, {}).sites
            read = time.process_time()
            if len([site for site in sites if share.has(site.name)]) == len(sites):
                raise BadLoad("a shard has all sites")
            reading.append(MICROSECONDS * (read - begin) / READ)
            weighing.append(MICROSECONDS * (time.process_time() - read) / READ / SHARDS)
    work, unit = f"a config of {READ:,} sites, read by one of {SHARDS} shards", "µs of CPU"
    return [
        Row(work, "reading, for each site", unit, Spread.of(reading)),
        Row(work, "weighing, for each site and shard", unit, Spread.of(weighing)),
    ]


def _walk_row() -> Row:
    all_users = {"all_users": {"enabled": True, "page_size": PAGE_SIZE}}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with programs.simulator(directory, 1, ALL_USERS) as api:
            path = programs.write_config(directory / "config.yaml", api, 1, all_users)
            with programs.exporter(directory, path) as served:
                start, end = cpu_seconds(served.pid), time.monotonic() + WALK_PATIENCE
                while b"\ncryptoloot_all_users{" not in ask(served.port, "/metrics", {}).body:
                    if time.monotonic() > end:
                        raise BadLoad("the walk did not end")
                    time.sleep(1)
                spent = cpu_seconds(served.pid) - start
    pages = math.ceil(ALL_USERS / PAGE_SIZE)
    note = f"{pages} pages of {MILLISECONDS * spent / pages:.3g} ms each"
    return Row(f"a walk over {ALL_USERS:,} users", "exporter", "s of CPU", Spread.of([spent]), note=note)
