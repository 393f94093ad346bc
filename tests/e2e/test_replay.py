"""A simulated year of sites, Prometheus' own engine, the shipped rules: how often these are wrong.

Rows become pages by the exporter's own functions, pages become series, and promtool evaluates the shipped
alerts and the recordings they stand on, each expression, `for` and `keep_firing_for` as shipped: other rules
are left out, because a year of them takes too long. A page is sampled every 20 minutes and evaluated
every 40; that the moment of looking within the hour makes no difference is shown in tests/test_scenarios.py.

The thresholds were chosen with the seeds in FIXED. Three more are drawn for each run, or taken from
REPLAY_SEEDS (`REPLAY_SEEDS=5,6,7`), where a run is to be repeated.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import cached_property
from math import ceil, pi, sin
from random import Random, SystemRandom
from typing import TYPE_CHECKING, NamedTuple

import pytest

from exporter.api.answers import HistoryRow
from exporter.clock import Now
from exporter.collectors import poll_metrics
from exporter.collectors.history_rows import HOUR, SETTLED_AFTER
from exporter.collectors.registry import HISTORY_COLLECTOR, polls_visible
from exporter.collectors.snapshot import Snapshot
from tests.alerting import STEP, WEEK_ROWS, Recording, cut, episodes, firing
from tests.collectors.sites import a_site, with_rows

if TYPE_CHECKING:
    from pathlib import Path

FIXED = (11, 23, 47)
WEEKENDS = (0.4, 0.7, 1.0)
DAY = 24  # hours
YEAR = 365 * DAY
QUARTER = 91 * DAY
KNOWN = 7 * DAY  # when the exporter and Prometheus begin: the API has its week
COUNTED = KNOWN + 14 * DAY  # from here on Prometheus has two weeks
DROPS = 50
# Of 50. The target is 48: a drop each week means that some lie a week or two after another, and the lowest
# forecast takes these for the site's rhythm.
TOLD, TOLD_OF_DRAWN = 47, 46
SLOT = (YEAR - COUNTED) // DROPS  # hours: each drop has its own
PER_HOUR = HOUR // STEP
LOOKS = range(0, YEAR * PER_HOUR, 2)  # each 40 minutes: every row is looked at, once or twice
DEADLINE = 600.0  # seconds, several times what it takes
WARNING, PAGES = "CryptolootHashrateDrop", ("CryptolootHashrateDropCritical", "CryptolootSiteDead")
MONTHS = (YEAR - COUNTED) / (YEAR / 12)


class Drop(NamedTuple):
    """So much of the hashrate is left from `begin` to `end`, in hours since the epoch."""

    begin: float
    end: float
    left: float

    def within(self, hour: int) -> float:
        """Return how much of an hour is in the drop."""
        return max(0.0, min(self.end, hour + 1) - max(self.begin, hour))


@dataclass(frozen=True)
class Year:
    """A site's year: four times as much by day as by night, quiet weekends, a trend, noise, drops."""

    seed: int
    weekend: float

    @property
    def name(self) -> str:
        return f"{self.seed}-{self.weekend:.0%}"

    def _chance(self, what: str) -> Random:
        return Random(f"{self.seed} {self.weekend} {what}")  # noqa: S311 - repeatable on purpose

    @cached_property
    def drops(self) -> list[Drop]:
        """Return drops by 50 to 100 % for 4 to 24 hours, each in a stretch of its own."""
        chance = self._chance("drops")
        found = []
        for slot in range(COUNTED, COUNTED + DROPS * SLOT, SLOT):
            length = chance.uniform(4, 24)
            begin = slot + chance.uniform(0, SLOT - length - 6)
            found.append(Drop(begin, begin + length, chance.uniform(0, 0.5)))
        return found

    @cached_property
    def rates(self) -> list[float]:
        """Return the hashrate of each hour."""
        trend, noise = self._chance("trend"), self._chance("noise")
        level, found, step = 20_000.0, [], 1.0
        for hour in range(YEAR):
            if hour % QUARTER == 0:
                step = trend.choice((1.3, 0.7)) ** (1 / QUARTER)
            level *= step
            weekend = self.weekend if (hour // DAY + 3) % 7 >= 5 else 1.0  # the epoch was a Thursday
            rhythm = 1 + 0.6 * sin(hour % DAY / DAY * 2 * pi)
            found.append(level * rhythm * weekend * noise.uniform(0.8, 1.2))
        for drop in self.drops:
            for hour in range(int(drop.begin), ceil(drop.end)):
                found[hour] *= 1 - drop.within(hour) * (1 - drop.left)
        return found


class Verdict(NamedTuple):
    """What the alerts made of a year."""

    early: int  # false warnings before Prometheus has two weeks
    warnings: int  # false ones afterwards
    pages: int
    warned: int  # drops, while they lasted
    paged: int
    latest: float  # minutes from the begin of a drop to its warning

    def __str__(self) -> str:
        return (
            f"{self.warnings:8d} {self.warnings / MONTHS:9.2f} {self.early:12d} {self.pages:12d}"
            f" {self.warned:8d}/{DROPS} {self.paged:5d}/{DROPS} {self.latest:10.0f} min"
        )


def record(recording: Recording, year: Year) -> None:
    """Record the pages of a year. What the rules read of them changes when a row settles."""
    site = a_site(year.name)
    rows = [HistoryRow(hour * HOUR, rate * HOUR, rate) for hour, rate in enumerate(year.rates)]
    target = {"job": "cryptoloot", "instance": year.name}
    snapshot = with_rows(Snapshot(), site, (), Now(KNOWN * HOUR, 0))
    lasting = poll_metrics.families(site, polls_visible(site, snapshot).view)
    recording.scrape(KNOWN * PER_HOUR + 1, list(lasting), target, held=(YEAR - KNOWN) * PER_HOUR)
    for hour in range(KNOWN, YEAR):
        step = hour * PER_HOUR + 1  # twenty past: at a quarter past the row of the hour before settles
        now = Now(wall := float(step * STEP), wall)
        snapshot = with_rows(snapshot, site, rows[hour + 1 - WEEK_ROWS : hour + 1], now)
        view = HISTORY_COLLECTOR.visible(site, snapshot.state(HISTORY_COLLECTOR), now).view
        recording.scrape(step, list(HISTORY_COLLECTOR.families(site, view)), target, held=PER_HOUR)


def row(step: int) -> int:
    """Return the hour whose row is the newest settled one at a step."""
    return (step * STEP - SETTLED_AFTER) // HOUR


def judged(year: Year, fired: dict[tuple[str, str], list[int]]) -> Verdict:
    """Hold the rows at which alerts fired to what happened."""
    dropped = {hour for drop in year.drops for hour in range(int(drop.begin), ceil(drop.end))}
    rows = {
        alert: sorted({row(step) for step in fired.get((alert, year.name), [])})
        for alert in (WARNING, *PAGES)
    }
    false = {alert: [first for first, _ in episodes(rows[alert]) if first not in dropped] for alert in rows}
    warned = [seen(drop, rows[WARNING]) for drop in year.drops]
    paged = [seen(drop, rows[PAGES[0]]) for drop in year.drops]
    return Verdict(
        early=sum(first < COUNTED for first in false[WARNING]),
        warnings=sum(first >= COUNTED for first in false[WARNING]),
        pages=sum(first >= COUNTED for alert in PAGES for first in false[alert]),
        warned=sum(delay is not None for delay in warned),
        paged=sum(delay is not None for delay in paged),
        latest=max((delay for delay in warned if delay is not None), default=0.0),
    )


def seen(drop: Drop, rows: list[int]) -> float | None:
    """Return the minutes after which a drop was told, if by the settling of its last hour.

    An alert that was there before the drop does not count.
    """
    told = [first for first, _ in episodes(rows) if int(drop.begin) <= first < ceil(drop.end)]
    return (told[0] + SETTLED_AFTER / HOUR - drop.begin) * 60 if told else None


HEAD = "seed weekend   warnings   a month   warming up  false pages      warned    paged   latest warning"


@pytest.mark.slow
def test_a_year_of_sites(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At most one false warning a month and one false page a year per site; of 50 drops 47 told in time.

    Every site of the fixed seeds is held to that, with drops counted by seed, 150 each, against the same
    share: at a site with a drop every week it happens that the same hour was in a drop one or two weeks ago,
    and some of these are taken for its rhythm. The lower of both weeks counts, because that spares real sites
    every second false warning. The drawn seeds are held to it
    together: nine years of chance have a worst one, which is printed with the others.
    """
    drawn = os.environ.get("REPLAY_SEEDS") or ",".join(str(SystemRandom().randrange(10**6)) for _ in FIXED)
    years = [Year(seed, weekend) for seed in (*FIXED, *map(int, drawn.split(","))) for weekend in WEEKENDS]
    recording = Recording()
    for year in years:
        record(recording, year)
    fired = firing(tmp_path, recording, LOOKS, document=cut({WARNING, *PAGES}), deadline=DEADLINE)
    verdicts = {year: judged(year, fired) for year in years}

    title = (
        f"{FIXED} are fixed, {drawn} drawn; {MONTHS:.1f} months are counted, after two weeks of warming up"
    )
    with capsys.disabled():  # the figures are what this is for, also where all is well
        sys.stdout.write(
            "\n".join(["", title, HEAD, *(f"{year.name:>12s} {verdicts[year]}" for year in years), ""])
        )
    fixed = {year: found for year, found in verdicts.items() if year.seed in FIXED}
    others = [found for year, found in verdicts.items() if year.seed not in FIXED]
    warned = {seed: sum(found.warned for year, found in fixed.items() if year.seed == seed) for seed in FIXED}
    assert [] == [year.name for year, found in fixed.items() if found.warnings / MONTHS > 1]
    assert [] == [year.name for year, found in fixed.items() if found.pages > 1]
    assert [] == [seed for seed, count in warned.items() if count < TOLD * len(WEEKENDS)]
    assert sum(found.warnings for found in others) <= MONTHS * len(others)
    assert sum(found.pages for found in others) <= len(others)
    assert sum(found.warned for found in others) >= TOLD_OF_DRAWN * len(others)
