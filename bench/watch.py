"""An exporter watched while it polls, and scraped as Prometheus does it."""

from __future__ import annotations

import contextlib
import gzip
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from bench.load import SCRAPE, BadLoad, ask, cpu_seconds, memory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bench.peers import Served

SCRAPE_SECONDS = 15.0  # Prometheus' usual choice
FIRST = 60.0  # seconds: the burst of all first polls, and what it brings with it
LATE = "1.0"  # seconds, as the histogram's bucket has it
TEXT = {"Accept": "text/plain"}


class Told(NamedTuple):
    """What was so at a scrape: counted by the page, and CPU by the kernel, since the start."""

    seconds: float
    cpu: float  # seconds
    polls: dict[str, int]  # by endpoint
    failures: int
    restarts: int  # of loops that crashed
    delays: dict[str, int]  # polls by the histogram's upper bounds, each with those below
    samples: int  # on the page

    @property
    def late(self) -> int:
        """How many polls began late."""
        return self.delays["+Inf"] - self.delays[LATE]


class Watched(NamedTuple):
    """What the exporter did and took."""

    first: Told  # when the first polls were over
    last: Told
    scrapes: list[float]  # seconds that each took, also one that was given up
    resident: list[float]  # bytes, after each scrape
    crowded: float  # bytes resident, with all four pages made
    pages: list[int]  # bytes of text and OpenMetrics, each plain and gzip


class _Scrape(NamedTuple):
    begin: float  # seconds after the start
    end: float
    cpu: float  # seconds that the process has taken
    resident: float  # bytes
    zipped: bytes  # none where it took too long


def watched(served: Served, start: float, seconds: float, user_series: int) -> Watched:
    """Scrape an exporter that was started then, by the monotonic clock, for so long. Raises BadLoad.

    Pages are read when it is over: meanwhile the machine is the exporter's.
    """
    scrapes = list(_scrapes(served, start, seconds))
    answered = [each for each in scrapes if each.zipped]
    if not answered or gzip.decompress(answered[-1].zipped).count(b'user="') != user_series:
        raise BadLoad("users are missing from the page")
    first = [each for each in answered if each.begin <= FIRST + SCRAPE_SECONDS / 2] or answered
    pages = _pages(served)
    return Watched(
        _told(first[-1]),
        _told(answered[-1]),
        [each.end - each.begin for each in scrapes],
        [each.resident for each in scrapes],
        memory(served.pid),
        pages,
    )


def _scrapes(served: Served, start: float, seconds: float) -> Iterator[_Scrape]:
    while (left := start + seconds - time.monotonic()) > 0:
        time.sleep(min(SCRAPE_SECONDS, left))
        begin, zipped = time.monotonic(), b""
        with contextlib.suppress(TimeoutError):
            zipped = ask(served.port, served.path).body
        end = time.monotonic()
        yield _Scrape(begin - start, end - start, cpu_seconds(served.pid), memory(served.pid), zipped)


def _pages(served: Served) -> list[int]:
    """Ask for the page in both formats, plain and gzip."""
    codings: tuple[dict[str, str], ...] = ({}, {"Accept-Encoding": "gzip"})
    forms = (TEXT, {"Accept": SCRAPE["Accept"]})
    return [len(ask(served.port, served.path, form | coding).body) for form in forms for coding in codings]


def _told(scrape: _Scrape) -> Told:
    lines = gzip.decompress(scrape.zipped).split(b"\n")
    return Told(
        scrape.end,
        scrape.cpu,
        summed(lines, "cryptoloot_polls_total", "endpoint"),
        sum(summed(lines, "cryptoloot_poll_failures_total", "endpoint").values()),
        sum(summed(lines, "cryptoloot_exporter_loop_restarts_total").values()),
        summed(lines, "cryptoloot_poll_delay_seconds_bucket", "le"),
        sum(bool(line) and not line.startswith(b"#") for line in lines),
    )


def summed(lines: Iterable[bytes], name: str, label: str = "") -> dict[str, int]:
    """Sum the samples of a counter by one of its labels, or under "" where it has none."""
    begins, place = (f"{name}{{".encode(), f"{name} ".encode()), f'{label}="'.encode()
    found: Counter[str] = Counter()
    for line in lines:
        if line.startswith(begins):
            series, _, value = line.rpartition(b" ")
            found[series.partition(place)[2].partition(b'"')[0].decode()] += int(float(value))
    return dict(found)
