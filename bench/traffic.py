"""Real hourly traffic as sites: scaled, with the noise of few visitors and with drops; how alerts are judged.

A series is one value per hour. Everything here is a pure function of its arguments, chance included: a
`Random` is made from a text that names the series, the size and the purpose.
"""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from math import ceil, exp
from random import Random
from statistics import fmean, median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path

HOUR = 3600
SMALL = 1000  # H/s: below this, a site's hours vary with the number of its visitors
HASHES_PER_VISIT = 6000
DISPERSION = 2  # squared coefficient of variation of one visit's hashes
MONTH = 730  # hours
WARM_UP = 21 * 24  # hours that are not judged: Prometheus and the exporter get to know the site
SETTLED = 1.25  # hours after its start when an hour's row is settled
APART = 2  # hours: episodes at most so far apart are one
QUIET = 2  # hours before a drop in which the alert must not fire


class Drop(NamedTuple):
    """A share `depth` of the hashrate is gone from `start` for `hours`; hours since the series' start."""

    start: float
    hours: int
    depth: float

    @property
    def end(self) -> float:
        """Return when the hashrate is back."""
        return self.start + self.hours

    @property
    def kind(self) -> str:
        """Return what such drops are called in tables."""
        return kind(self.depth, self.hours)

    def rows(self) -> range:
        """Return the hours that the drop touches."""
        return range(int(self.start), ceil(self.end))

    def left(self, hour: int) -> float:
        """Return which share of an hour's hashes is left."""
        within = max(0.0, min(self.end, hour + 1) - max(self.start, hour))
        return 1 - self.depth * within


DEPTHS = (0.5, 0.7, 1.0)
LENGTHS = (2, 4, 24)
KINDS = (*((depth, hours) for hours in LENGTHS for depth in DEPTHS), (0.5, 120))


def kind(depth: float, hours: int) -> str:
    """Return the name of drops of a depth and a length: `-50% 4h`."""
    return f"-{depth:.0%} {hours}h"


def load(directory: Path) -> dict[str, list[float]]:
    """Return the values of each CSV file by its name; an hour that a file leaves out is 0."""
    return {file.stem: _values(file) for file in sorted(directory.glob("*.csv"))}


def _values(file: Path) -> list[float]:
    with file.open(newline="") as lines:
        by_hour = {_hour(row["utc"]): float(row["value"]) for row in csv.DictReader(lines)}
    return [by_hour.get(hour, 0.0) for hour in range(min(by_hour), max(by_hour) + 1)]


def _hour(utc: str) -> int:
    time = datetime.fromisoformat(utc)
    return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()) // HOUR


def scaled(values: Sequence[float], mean: float) -> list[float]:
    """Return hashrates that follow the values and have this mean."""
    factor = mean / fmean(values)
    return [value * factor for value in values]


def counted(rate: float, chance: Random) -> float:
    """Return the hashrate of an hour in which a random number of visitors make random numbers of hashes."""
    visits = poisson(rate * HOUR / HASHES_PER_VISIT, chance)
    if not visits:
        return 0.0
    return chance.gammavariate(visits / DISPERSION, DISPERSION * HASHES_PER_VISIT) / HOUR


def poisson(mean: float, chance: Random) -> int:
    """Return a random count; a large mean is split, because exp(-mean) would be 0."""
    count, rest = 0, mean
    while rest > 0:
        part, rest = min(rest, 500.0), rest - 500.0
        bound, product = exp(-part), chance.random()
        while product > bound:
            count += 1
            product *= chance.random()
    return count


class Site(NamedTuple):
    """A series at a size: the hashrate of each hour as it was meant to be, and as it turned out."""

    name: str
    size: int
    meant: Sequence[float]
    rates: Sequence[float]

    def during(self, drop: Drop) -> list[float]:
        """Return the hashrates of the hours that a drop touches, the rest of these hours being as it was."""
        chance = _chance(self.name, self.size, drop)
        rates = [self.meant[hour] * drop.left(hour) for hour in drop.rows()]
        return [counted(rate, chance) for rate in rates] if self.size < SMALL else rates


def site(name: str, values: Sequence[float], size: int, seed: int) -> Site:
    """Return a series as a site of a mean hashrate; a small one has the noise of its visitors."""
    meant = scaled(values, size)
    chance = _chance(name, size, seed)
    return Site(name, size, meant, [counted(rate, chance) for rate in meant] if size < SMALL else meant)


def drops(site: Site, each: int, seed: int) -> list[Drop]:
    """Return so many drops of each kind at random moments after the warm-up, the whole drop in the series."""
    found = []
    for depth, hours in KINDS:
        chance = _chance(site.name, site.size, seed, depth, hours)
        last = len(site.rates) - hours - APART - 1
        found += [
            Drop(chance.uniform(WARM_UP, last), hours, depth) for _ in range(each if last > WARM_UP else 0)
        ]
    return found


def _chance(*what: object) -> Random:
    return Random(" ".join(map(str, what)))  # noqa: S311 - repeatable on purpose


# -------------------------------------------------------------------------------------------------- judgement


def episodes(moments: Iterable[float], apart: float = APART) -> list[tuple[float, float]]:
    """Return the first and the last moment of each episode: moments at most so far apart are one."""
    found: list[tuple[float, float]] = []
    for moment in sorted(moments):
        if found and moment - found[-1][1] <= apart:
            found[-1] = (found[-1][0], moment)
        else:
            found.append((moment, moment))
    return found


def per_month(count: float, hours: float) -> float:
    """Return how often a month of 730 hours has what so many hours had `count` times."""
    return count * MONTH / hours


def delay(drop: Drop, moments: Collection[float]) -> float | None:
    """Return the hours from a drop's start until the alert starts; None where that is not told.

    A drop is not told where the alert fires in the two hours before it, nor where the alert starts after the
    row of the drop's last hour has settled.
    """
    if any(drop.start - QUIET <= moment < drop.start for moment in moments):
        return None
    told = [moment for moment in moments if drop.start <= moment <= ceil(drop.end) - 1 + SETTLED + LOOK]
    return min(told) - drop.start if told else None


LOOK = 0.25  # hours from a row's settling within which each evaluation has looked at it


class Detection(NamedTuple):
    """How drops of a kind were told: shares of them, and the median delay of the warning in hours."""

    warned: float
    paged: float
    delay_hours: float | None


def detection(warned: Sequence[float | None], paged: Sequence[float | None]) -> Detection:
    """Summarize the delays of the warnings and of the pages."""
    delays = [each for each in warned if each is not None]
    return Detection(_share(warned), _share(paged), median(delays) if delays else None)


def _share(delays: Sequence[float | None]) -> float:
    return sum(each is not None for each in delays) / len(delays)
