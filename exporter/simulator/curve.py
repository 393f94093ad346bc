"""A site's hashrate over time, and the repeatable randomness that it and its users are made of."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from itertools import chain, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.simulator.incidents import Incident

HOUR = 3600
DAY = 24 * HOUR
# How a site varies, after four real series of hourly traffic (taxis, tweets, pedestrians, a web site). A day
# differs from other days of its kind by 10 to 14 % (standard deviation of the logarithm), and by half as the
# day before did. An hour differs from its day's shape by 5 to 39 %. A month's level drifts by 5 to 10 %. 0.6
# to 1.6 days a month are below three quarters of what is usual. A day of a weekend has 0.5 to 1.2 of a
# weekday.
WEEKEND = 0.8  # of a weekday's hashrate
HOURS, DAYS, LEVEL = 0.11, 0.08, 0.08  # standard deviations of the logarithm
LEVEL_STEP = 14 * DAY  # seconds from one level to the next
HOLIDAY, HOLIDAYS = 0.65, 1 / 30  # of a usual day's hashrate; the share of such days
SPIKES = 1 / 15  # the share of days with a spike of one to three hours


def noises(*key: object) -> tuple[float, float, float, float]:
    """Return four numbers in [0, 1) that depend on the key alone, in this and every other process."""
    a, b, c, d = struct.unpack("<4Q", blake2b(repr(key).encode(), digest_size=32).digest())
    return a / 2**64, b / 2**64, c / 2**64, d / 2**64


@dataclass(frozen=True)
class Curve:
    """A site's hashrate over time, and its exact integral.

    Within an hour it is a level (weekday, holidays, spikes, and the noise of hours, days and months) times a
    sum of sine waves (the day, and two fast ones that keep live values moving): both have closed forms, so
    hashes always agree with hashrates.
    """

    key: tuple[int, str]
    base: float
    born: int
    drops: tuple[Incident, ...]
    _mined: list[float] = field(default_factory=lambda: [0.0], compare=False)

    def rate(self, t: float) -> float:
        """Return hashes per second at t; 0 before the site began."""
        if t < self.born:
            return 0.0
        waves = 1 + sum(size * math.sin(speed * t + phase) for size, speed, phase in self._waves)
        return self._level(t) * waves * self._factor(t)

    def mined(self, t: float) -> float:
        """Return all hashes from the site's start to t. Whole hours are computed once and kept."""
        if t <= self.born:
            return 0.0
        hours, rest = divmod(t - self.born, HOUR)
        while len(self._mined) <= hours:
            end = self.born + len(self._mined) * HOUR
            self._mined.append(self._mined[-1] + self._within_hour(end - HOUR, end))
        return self._mined[int(hours)] + (self._within_hour(t - rest, t) if rest else 0.0)

    @cached_property
    def _waves(self) -> tuple[tuple[float, float, float], ...]:
        """Amplitude, radians per second, phase."""
        slow, fast, faster, _ = noises(*self.key, "waves")
        shapes = ((0.45, DAY, 0.6 + slow / 20), (0.04, 1740, fast), (0.02, 420, faster))
        return tuple((size, math.tau / period, math.tau * phase) for size, period, phase in shapes)

    def _level(self, t: float) -> float:
        hour, day = int(t // HOUR), int(t // DAY)
        weekend = (day + 3) % 7 >= 5  # noqa: PLR2004 - 1970-01-01 was a Thursday, Monday is 0
        step, way = divmod(t // HOUR * HOUR, LEVEL_STEP)
        before, after = self._normal("level", int(step)), self._normal("level", int(step) + 1)
        # The mean of two neighbours: what one hour or day has, the next has by half.
        logarithm = (
            LEVEL * (before + (after - before) * way / LEVEL_STEP)
            + DAYS * (self._normal("day", day) + self._normal("day", day + 1)) / math.sqrt(2)
            + HOURS * (self._normal("hour", hour) + self._normal("hour", hour + 1)) / math.sqrt(2)
        )
        holiday, spike, begin, size = noises(*self.key, "event", day)
        rate = self.base * math.exp(logarithm) * (WEEKEND if weekend else 1.0)
        rate *= HOLIDAY if holiday < HOLIDAYS else 1.0
        in_spike = spike < SPIKES and 0 <= hour % 24 - int(24 * begin) <= 2 * size
        return rate * (1.5 + 1.5 * size) if in_spike else rate

    def _normal(self, what: str, number: int) -> float:
        a, b, *_ = noises(*self.key, what, number)
        return math.sqrt(-2 * math.log(1 - a)) * math.cos(math.tau * b)

    def _factor(self, t: float) -> float:
        return math.prod(drop.factor for drop in self.drops if drop.active(t))

    def _within_hour(self, begin: float, end: float) -> float:
        edges = sorted({begin, end, *chain.from_iterable(drop.edges(begin, end) for drop in self.drops)})
        parts = (
            (self._primitive(b) - self._primitive(a)) * self._factor((a + b) / 2) for a, b in pairwise(edges)
        )
        return self._level(begin) * sum(parts)

    def _primitive(self, t: float) -> float:
        return t - sum(size / speed * math.cos(speed * t + phase) for size, speed, phase in self._waves)
