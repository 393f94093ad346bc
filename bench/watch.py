"""An exporter watched while it polls: scraped as Prometheus does it, with its CPU and memory noted."""

from __future__ import annotations

import contextlib
import gzip
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from bench.load import BadLoad, ask, cpu_seconds, memory
from bench.programs import OK, secret, site_names
from bench.report import Row, Spread

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bench.programs import Served
    from bench.report import Target

SCRAPE_SECONDS = 15.0  # Prometheus' usual interval
FIRST = 60.0  # seconds: the first poll of everything, and what it brings with it
LATE = "1.0"  # seconds, a bucket of the histogram
ENDPOINTS = ("/stats/payout", "/stats/history", "/user/top")
MEBIBYTE = 1 << 20


class Totals(NamedTuple):
    """Counters since the start: the page's own, and the kernel's CPU seconds."""

    seconds: float
    cpu: float
    polls: int
    failures: int
    restarts: int  # of crashed poll loops
    delays: dict[str, int]  # polls by the histogram's upper bounds, each with those below
    samples: int  # on the page

    @property
    def late(self) -> int:
        """How many polls were over a second late."""
        return self.delays["+Inf"] - self.delays[LATE]


class Watched(NamedTuple):
    """What an exporter did and took."""

    first: Totals  # after the first polls
    last: Totals
    scrapes: list[float]  # seconds that each scrape took, also one that timed out
    resident: list[float]  # bytes after each scrape
    text: int  # bytes of the last page
    zipped: int  # bytes of the same as gzip


def warm(api: int, sites: int) -> None:
    """Request everything of each site once: the simulated API computes a site's past at its first request."""

    def request(name: str) -> bool:
        query = f"?secret={secret(name)}"
        return all(ask(api, f"{endpoint}{query}", {}).status == OK for endpoint in ENDPOINTS)

    with ThreadPoolExecutor(4) as threads:
        if not all(threads.map(request, site_names(sites))):
            raise BadLoad("the simulated API did not answer")


def watch(served: Served, start: float, seconds: float, user_series: int) -> Watched:
    """Scrape until so long after `start`, a monotonic time. Raises BadLoad.

    The pages are read afterwards, so that the exporter has the machine while it is watched.
    """
    scrapes, resident, pages = [], [], []
    while (left := start + seconds - time.monotonic()) > 0:
        time.sleep(min(SCRAPE_SECONDS, left))
        begin = time.monotonic()
        with contextlib.suppress(TimeoutError):
            zipped = ask(served.port, "/metrics").body
            pages.append((time.monotonic() - start, cpu_seconds(served.pid), zipped))
        scrapes.append(time.monotonic() - begin)
        resident.append(memory(served.pid))
    early = [page for page in pages if page[0] <= FIRST + SCRAPE_SECONDS / 2] or pages
    text = gzip.decompress(pages[-1][2]) if pages else b""
    if text.count(b'user="') != user_series:
        raise BadLoad("users are missing from the page")
    return Watched(_totals(*early[-1]), _totals(*pages[-1]), scrapes, resident, len(text), len(pages[-1][2]))


def _totals(seconds: float, cpu: float, zipped: bytes) -> Totals:
    lines = gzip.decompress(zipped).split(b"\n")
    return Totals(
        seconds,
        cpu,
        sum(summed(lines, "cryptoloot_polls_total").values()),
        sum(summed(lines, "cryptoloot_poll_failures_total").values()),
        sum(summed(lines, "cryptoloot_exporter_loop_restarts_total").values()),
        summed(lines, "cryptoloot_poll_delay_seconds_bucket", "le"),
        sum(bool(line) and not line.startswith(b"#") for line in lines),
    )


def summed(lines: Iterable[bytes], name: str, label: str = "") -> dict[str, int]:
    """Sum the samples of a metric by one of its labels, or all under "" without one."""
    prefixes, place = (f"{name}{{".encode(), f"{name} ".encode()), f'{label}="'.encode()
    sums: Counter[str] = Counter()
    for line in lines:
        if line.startswith(prefixes):
            series, _, value = line.rpartition(b" ")
            key = series.partition(place)[2].partition(b'"')[0].decode() if label else ""
            sums[key] += int(float(value))
    return dict(sums)


def late_rows(work: str, watched: Watched, whole: Target | None, later: Target | None = None) -> list[Row]:
    """Count the polls that were over a second late: of all, and of those after the first ones."""
    last, since = watched.last, watched.last.late - watched.first.late
    bound = next(bound for bound, count in last.delays.items() if count == last.delays["+Inf"])
    faults = f"{last.failures:,} failures, {last.restarts:,} crashes"
    note = f"{last.delays['+Inf']:,} polls, {faults}, none more than {bound} s late"
    unit = "polls over 1 s late"
    return [
        Row(work, "exporter", unit, Spread.of([last.late]), target=whole, note=note),
        Row(work, f"exporter, after the first {FIRST:.0f} s", unit, Spread.of([since]), target=later),
    ]
