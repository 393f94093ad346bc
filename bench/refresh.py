"""Scrapes during refresh.

100 sites of 1,024 users refresh without pause, through the exporter's own store, pages and server, in a
process of its own; one client scrapes one site's page, over and over, first while nothing changes. Then
another scrapes the full page, once a second. A ticker wakes up every millisecond on the same event loop,
through all of it: how late it is tells how long anything else holds the loop, the interpreter's lock or the
garbage collector.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from bench import peers
from bench.report import Ratio, Row, Spread, Target

TIMEOUT = 120.0  # seconds, of one round
MILLISECONDS = 1000
P99 = Target(10, at_most=True)
LATE = Target(20, at_most=True)


def measure(rounds: int) -> list[Row]:
    """Run the process once a round."""
    runs = [_run() for _ in range(rounds)]
    idle, busy, late, full, pace = (
        [run[name] for run in runs] for name in ("idle", "busy", "late", "full", "refreshes")
    )
    ratio = Ratio("busy ÷ idle", Spread.of_ratios(busy, idle))
    ticks = "a 1 ms ticker on the event loop, the latest of all ticks"
    scrape = "scrapes of one site's page, p99"
    return [
        Row(scrape, "while all sites refresh", "ms", Spread.of(busy), ratio, P99),
        Row(scrape, "while nothing changes", "ms", Spread.of(idle)),
        Row(ticks, "exporter", "ms late", Spread.of(late), target=LATE),
        Row("beside these", "scrape of the full page, median", "ms", Spread.of(full)),
        Row("beside these", "refreshes of a site", "per second", Spread.of(pace)),
    ]


def _run() -> dict[str, Any]:
    done = subprocess.run(
        (sys.executable, "-m", "bench.refreshing"),
        cwd=peers.REPOSITORY,
        env=peers.environ(),
        stdout=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found
