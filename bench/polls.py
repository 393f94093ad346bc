"""A thousand sites.

Polled once at the default intervals from the simulated API, 128 users each, and scraped like Prometheus does
it. Lateness and polls are read from /metrics; CPU is the whole process', from its start and with its scrapes.
The plain client makes the same mix of requests over one httpx.AsyncClient and decodes the answers, CPU of
starting up excluded. Memory is taken after each scrape, and at the end with the pages of both formats made,
plain and gzip. Each site is asked for once before all this: the simulated API makes its world as it is asked,
slower than a thousand sites begin.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench import peers
from bench.load import HOST, SCRAPE, BadLoad, ask, cpu_seconds, memory
from bench.report import Ratio, Row, Spread, Target
from exporter.model import Endpoint

if TYPE_CHECKING:
    from bench.peers import Served

SITES = 1000
USERS = 128  # of each site: as many as are asked for by default
SERIES = 3 * USERS * SITES
SCRAPE_SECONDS = 15.0  # Prometheus' usual choice
LATE = "1.0"  # seconds, as the histogram's bucket has it
BARE_SECONDS = 60  # of asking at the exporter's own pace, in all rounds together
BARE_LIMIT = 600.0  # seconds that one round of it may take
MILLISECONDS = 1000
MEBIBYTE = 1 << 20
PAGES, SPARE = 3, 80 * MEBIBYTE  # memory: so many times the pages' own bytes, and so many bytes besides

DEFAULT_ENDPOINTS = (Endpoint.PAYOUT, Endpoint.HISTORY, Endpoint.TOP_USERS)
FIRST = 60.0  # seconds: the burst of all first polls, and what it brings with it

ON_TIME = Target(0, at_most=True)
CPU = Target(2, at_most=True)
MEMORY = Target(1, at_most=True)
TEXT = {"Accept": "text/plain"}


class Watched(NamedTuple):
    """What the exporter did and took."""

    seconds: float
    polls: dict[str, int]  # by endpoint
    failures: int
    first_delays: dict[str, int]  # polls by the histogram's upper bounds, each with those below
    delays: dict[str, int]  # the same at the end
    cpu: float
    resident: list[float]
    pages: list[int]  # bytes of text and OpenMetrics, plain and gzip


class Bare(NamedTuple):
    """CPU seconds of one request with a plain client, round by round."""

    paced: list[float]
    at_once: list[float]


def measure(rounds: int, minutes: float) -> list[Row]:
    """Watch the exporter for so long, once; then make the same requests with a plain client, in rounds."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with peers.simulator(directory, SITES, USERS) as api:
            _spent(api, dict.fromkeys(DEFAULT_ENDPOINTS, SITES), 0)
            config = peers.write_config(directory, api, SITES, {})
            begin = time.monotonic()
            with peers.exporter(directory, config) as served:
                watched = _watched(served, begin, 60 * minutes)
            bare = _bare(api, rounds, watched)
    return _rows(watched, bare)


def _watched(served: Served, begin: float, seconds: float) -> Watched:
    resident, first = [], {}
    while time.monotonic() < begin + seconds:
        time.sleep(max(0.0, min(SCRAPE_SECONDS, begin + seconds - time.monotonic())))
        page = gzip.decompress(ask(served.port, served.path).body)
        if time.monotonic() <= begin + FIRST + SCRAPE_SECONDS / 2:
            first = _delays(page)
        resident.append(memory(served.pid))
    cpu, elapsed = cpu_seconds(served.pid), time.monotonic() - begin
    if page.count(b'user="') != SERIES:
        raise BadLoad("users are missing from the page")
    encodings: tuple[dict[str, str], ...] = ({}, {"Accept-Encoding": "gzip"})
    formats = (TEXT, {"Accept": SCRAPE["Accept"]})
    pages = [
        len(ask(served.port, served.path, form | coding).body) for form in formats for coding in encodings
    ]
    resident.append(memory(served.pid))  # with all four pages made
    failures = sum(_counts(page, "cryptoloot_poll_failures_total", "endpoint").values())
    polls = _counts(page, "cryptoloot_polls_total", "endpoint")
    return Watched(elapsed, polls, failures, first, _delays(page), cpu, resident, pages)


def _delays(page: bytes) -> dict[str, int]:
    return _counts(page, "cryptoloot_poll_delay_seconds_bucket", "le")


def _counts(page: bytes, name: str, label: str) -> dict[str, int]:
    """Sum the samples of a counter by one of its labels."""
    begin, place = f"{name}{{".encode(), f'{label}="'.encode()
    counted: Counter[str] = Counter()
    for line in page.split(b"\n"):
        if line.startswith(begin):
            series, _, value = line.rpartition(b" ")
            counted[series.partition(place)[2].partition(b'"')[0].decode()] += int(float(value))
    return dict(counted)


def _bare(api: int, rounds: int, watched: Watched) -> Bare:
    """Make the exporter's requests again, at its pace for a while and as fast as they are answered."""
    pace = sum(watched.polls.values()) / watched.seconds
    paced = {
        name: _part(count, BARE_SECONDS / watched.seconds / rounds) for name, count in watched.polls.items()
    }
    at_once = {name: _part(count, 1 / rounds) for name, count in watched.polls.items()}
    bare = Bare([], [])
    for _ in range(rounds):
        bare.paced.append(_spent(api, paced, pace))
        bare.at_once.append(_spent(api, at_once, 0))
    return bare


def _part(count: int, fraction: float) -> int:
    return max(1, round(count * fraction))


def _spent(api: int, requests: dict[str, int], pace: float) -> float:
    secrets = [peers.secret(name) for name in peers.names(SITES)]
    errand = {"url": f"http://{HOST}:{api}", "secrets": secrets, "requests": requests, "pace": pace}
    done = subprocess.run(
        (sys.executable, "-m", "bench.bare"),
        input=json.dumps(errand),
        cwd=peers.REPOSITORY,
        capture_output=True,
        text=True,
        timeout=BARE_LIMIT,
        check=True,
    )
    return float(done.stdout)


def _rows(watched: Watched, bare: Bare) -> list[Row]:
    return [*_lateness(watched), *_cpu(watched, bare), _memory(watched)]


def _work(watched: Watched) -> str:
    minutes = watched.seconds / 60
    return f"{SITES:,} sites, {minutes:.1f} minutes, scraped every {SCRAPE_SECONDS:.0f} s"


def _lateness(watched: Watched) -> list[Row]:
    """Count the polls that began late; the note has the least bound that none exceeds."""
    begun = watched.delays["+Inf"]
    bound = next(bound for bound, count in watched.delays.items() if count == begun)
    note = f"{begun:,} polls, {watched.failures:,} failures, all begun within {bound} s of their time"
    late, first = (delays["+Inf"] - delays[LATE] for delays in (watched.delays, watched.first_delays))
    work, unit = _work(watched), "polls over 1 s late"
    return [
        Row(work, "exporter", unit, Spread.of([late]), target=ON_TIME, note=note),
        Row(work, f"exporter, after the first {FIRST:.0f} s", unit, Spread.of([late - first])),
    ]


def _cpu(watched: Watched, bare: Bare) -> list[Row]:
    cost = watched.cpu / sum(watched.polls.values())
    work, unit = _work(watched), "CPU ms per poll"
    note = f"{watched.cpu:.1f} s of CPU in all"
    rows = [Row(work, "exporter", unit, Spread.of([MILLISECONDS * cost]), note=note)]
    for subject, taken, target in (
        ("plain client at the same pace", bare.paced, CPU),
        ("plain client, 8 in flight", bare.at_once, None),
    ):
        ratio = Ratio(f"exporter ÷ {subject}", Spread.of(cost / spent for spent in taken))
        spread = Spread.of(MILLISECONDS * spent for spent in taken)
        rows.append(Row(work, subject, unit, spread, ratio, target))
    return rows


def _memory(watched: Watched) -> Row:
    """Judge the largest of what was seen after scrapes, by the four pages that were served at the end."""
    bound = PAGES * sum(watched.pages) + SPARE
    ratio = Ratio(f"largest ÷ ({PAGES} times the pages + 80 MiB)", Spread.of([max(watched.resident) / bound]))
    sizes = ", ".join(f"{size / MEBIBYTE:.3g}" for size in watched.pages)
    note = f"pages of {sizes} MiB: text and its gzip, OpenMetrics and its gzip"
    resident = Spread.of(size / MEBIBYTE for size in watched.resident)
    return Row(_work(watched), "exporter", "MiB resident", resident, ratio, MEMORY, note)
