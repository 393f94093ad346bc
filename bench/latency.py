"""How a scrape's latency grows with the page.

One and 100 sites of 1,024 users, against nginx serving the same bytes as static files. One client, one
connection, from the first byte sent to the last received. API values stay as they are meanwhile; the
exporter's own metrics change once a second and with them the page, so of successive scrapes some, and those
after a rest all, include making it anew.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bench import peers
from bench.load import SCRAPE, ask, latencies
from bench.peers import Missing, Page
from bench.report import Ratio, Row, Spread, Target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.peers import Served

USERS = 1024
SITES = (1, 100)
SECONDS = 2.0  # of each round, page and subject
REST = 1.2  # seconds: longer than the exporter's own metrics stay as they are
GROWTH = Target(1.5, at_most=True)
ENCODINGS = {"gzip": SCRAPE, "identity": {**SCRAPE, "Accept-Encoding": "identity"}}
# Values do not change while this is measured; the exporter's own metrics do, once a second.
CALM = {
    "payout": {"interval": "1h"},
    "history": {"interval": "1h"},
    "top_users": {"interval": "1h", "count": USERS},
}
MILLISECONDS = 1000
EXPORTER, NGINX = "exporter", "nginx"
Key = tuple[str, int]  # a subject, and how many sites
Taken = dict[Key, list[float]]


def measure(rounds: int) -> list[Row]:
    """Measure both pages of both subjects in turn, round by round."""
    rows = []
    with _started() as (subjects, missing):
        for encoding, headers in ENCODINGS.items():
            steady: Taken = {key: [] for key in subjects}
            rested: Taken = {key: [] for key in subjects}
            for _ in range(rounds):
                for key, served in subjects.items():
                    path = f"{served.path}{encoding}" if key[0] == NGINX else served.path
                    taken = latencies(served.port, path, SECONDS, headers)
                    steady[key].append(statistics.median(taken))
                    rested[key] += latencies(served.port, path, 0, headers, REST)
            rows += _rows(f"latency of successive scrapes (medians), {encoding}", steady, GROWTH, missing)
            rows += _rows(
                f"latency of single scrapes, {REST} s after the one before, {encoding}", rested, None, missing
            )
    return rows


def _rows(work: str, taken: Taken, target: Target | None, missing: str) -> list[Row]:
    rows = [
        Row(work, f"{subject}, {_series(sites)}", "ms", Spread.of(MILLISECONDS * value for value in values))
        for (subject, sites), values in taken.items()
    ]
    if missing:
        return [*rows, Row(work, f"{NGINX}'s growth", "times", None, target=target, note=missing)]
    ours, nginx = _growth(taken, EXPORTER), _growth(taken, NGINX)
    ratio = Ratio("exporter's growth ÷ nginx's", Spread.of_ratios(ours, nginx))
    rows.append(Row(work, f"{EXPORTER}'s growth", "times", Spread.of(ours), ratio, target))
    rows.append(Row(work, f"{NGINX}'s growth", "times", Spread.of(nginx)))
    return rows


def _series(sites: int) -> str:
    return f"{3 * USERS * sites:,} series"


def _growth(taken: Taken, subject: str) -> list[float]:
    small, large = (taken[subject, sites] for sites in SITES)
    return [after / before for before, after in zip(small, large, strict=True)]


@contextlib.contextmanager
def _started() -> Iterator[tuple[dict[Key, Served], str]]:
    """Yield the subjects by size, and why there is no nginx."""
    missing = ""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        api = stack.enter_context(peers.simulator(directory, max(SITES), USERS))
        subjects: dict[Key, Served] = {}
        for sites in SITES:
            config = peers.write_config(directory, api, sites, CALM)
            ours = stack.enter_context(peers.exporter(directory, config))
            subjects[EXPORTER, sites] = peers.settled(ours, 3 * USERS * sites)
            pages = [
                Page.of(f"/{name}", ask(ours.port, "/metrics", asked)) for name, asked in ENCODINGS.items()
            ]
            try:
                nginx = stack.enter_context(peers.nginx(directory, pages))
            except Missing as error:
                missing = str(error)
            else:
                subjects[NGINX, sites] = nginx._replace(path="/")
        yield subjects, missing
