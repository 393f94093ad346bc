"""What the last complete hours of a site should have been, by the rows at hand: pure functions.

Hashrate follows a site's visitors, so an hour is judged by the same hour of other days. These are corrected
by the level: how the 24 hours before compare with their own other days, because a whole day can be quiet. The
same hour one and two weeks ago, corrected likewise, is a second forecast, and the lowest one counts: quiet
weekends are no drops. The API forgets a row after a week, so the rates of 15 days are kept in memory.
"""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import exp, inf, isfinite, isnan, log, nan
from typing import NamedTuple

from exporter.api.answers import HistoryRow

HOUR = 3600
DAY, WEEK = 24, 7 * 24  # hours
KEPT = 15 * DAY  # hours: two weeks, and the day whose level a forecast from two weeks ago is corrected by
OTHER_DAYS, MIN_OTHER_DAYS = 6, 3  # the median of two is an average: one odd day would move it
MIN_LEVEL_HOURS = 6  # with fewer, the level says nothing yet
AFTER = 8  # hours
AROUND = 4  # hours: the spread is that of the same time of day, because nights vary more than days
MIN_SPREAD_HOURS = 20  # of at most six days with nine hours each
QUARTILES = 1.349  # standard deviations between the quartiles of a normal distribution
WINDOWS = {"1h": 1, "2h": 2, "3h": 3}
# As in alerts/cryptoloot.rules.yml: when an hour is a drop, and from which expected hashrate on (hashes per
# second) drops are judged.
DROP_SPREADS, LOWEST_DROP, HIGHEST_DROP, USUAL_DROP = 2.5, 0.3, 0.55, 0.53
FLOOR = 100


class Rates(NamedTuple):
    """Hashrates of the hours up to `newest` (since the epoch), oldest first; NaN for an hour without row."""

    newest: int = 0
    values: "array[float]" = array("d")

    def at(self, hour: int) -> float:
        """Return the hashrate of an hour, NaN where none is known."""
        place = hour - self.newest + len(self.values) - 1
        return self.values[place] if 0 <= place < len(self.values) else nan

    def __eq__(self, other: object) -> bool:
        """Whether the other has the same hours and rates: NaN equals nothing, and bytes do."""
        return isinstance(other, Rates) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[int, bytes]:
        return self.newest, self.values.tobytes()


class Expectation(NamedTuple):
    """What the newest hour should have been, how much hours vary around that, and what was made of it.

    `spread` is a standard deviation of log hashrate. `ratios` are hashes made ÷ hashes expected in the newest
    hours, by window. What the rows do not tell is None, or no ratio.
    """

    expected: float | None = None
    spread: float | None = None
    ratios: Mapping[str, float] = {}


def remember(earlier: Rates, rows: Sequence[HistoryRow]) -> Rates:
    """Return the rates of ascending rows, and of what was known of the 15 days before the oldest."""
    if not rows:
        return earlier
    oldest, newest = int(rows[0].synctime // HOUR), int(rows[-1].synctime // HOUR)
    first = newest - KEPT + 1
    start = max(first, min(oldest, earlier.newest - len(earlier.values) + 1 if earlier.values else oldest))
    values = array("d", (earlier.at(hour) if hour < oldest else nan for hour in range(start, newest + 1)))
    for row in rows:
        hour = int(row.synctime // HOUR)
        if hour >= start:
            values[hour - start] = row.hashrate
    return Rates(newest, values)


def expectation(rates: Rates) -> Expectation:
    """Return what is to be expected of the newest hour, and what was made of it."""
    if not rates.values:
        return Expectation()
    expected = [_expected(rates, rates.newest - back) for back in range(max(WINDOWS.values()))]
    ratios = {}
    for window, hours in WINDOWS.items():
        made = sum(rates.at(rates.newest - back) for back in range(hours))
        ratio = _divided(made, sum(expected[:hours]))
        if isfinite(ratio):
            ratios[window] = ratio
    return Expectation(expected[0] if isfinite(expected[0]) else None, _spread(rates), ratios)


@lru_cache(maxsize=1024)  # a week takes 20 ms, and changes once an hour
def expected_week(rates: Rates) -> Mapping[int, float]:
    """Return what was expected of each hour of the last week (since the epoch), as far as it is known."""
    hours = range(rates.newest - WEEK + 1, rates.newest + 1) if rates.values else ()
    return {hour: rate for hour in hours if not isnan(rate := _expected(rates, hour))}


def drop_ratio(spread: float | None) -> float:
    """Return the share of the expected hashrate below which an hour is a drop, as the alert rules judge."""
    if spread is None:
        return USUAL_DROP
    return min(max(exp(-DROP_SPREADS * spread), LOWEST_DROP), HIGHEST_DROP)


def unwatched(expectation: Expectation) -> str:
    """Say why drops of a site cannot be judged, or only large ones; empty where they are."""
    if expectation.expected is None:
        return "too few days to tell what is usual: watched for zero and for missing rows only"
    if expectation.expected < FLOOR:
        return f"hours vary too much below {FLOOR} H/s: drops are not reported, missing rows are"
    if expectation.spread is not None and exp(-DROP_SPREADS * expectation.spread) < LOWEST_DROP:
        return f"hours vary too much for smaller drops: reported below {LOWEST_DROP:.0%} of what is expected"
    return ""


def _expected(rates: Rates, hour: int) -> float:
    """Return the lowest forecast of an hour; NaN without enough other days."""
    before = range(hour - DAY, hour)
    forecasts = [_usual(rates, hour) * _level((rates.at(at), _usual(rates, at)) for at in before)]
    for weeks in (WEEK, 2 * WEEK):
        pairs = [(rates.at(at), rates.at(at - weeks)) for at in before]
        if sum(not isnan(_divided(*pair)) for pair in pairs) >= MIN_LEVEL_HOURS:
            forecasts.append(rates.at(hour - weeks) * _level(pairs))
    if len(forecasts) == 1:
        forecasts.append(_usual(rates, hour) * _after_a_week(rates, hour))
    return nan if isnan(forecasts[0]) else min(each for each in forecasts if not isnan(each))


def _after_a_week(rates: Rates, hour: int) -> float:
    """Return how the hours after the same hour a week ago compare with their next days; NaN if too few do.

    This is for the first hours of a process, when the API's week just misses the same hour a week ago.
    """
    after = range(hour - WEEK + 1, hour - WEEK + 1 + AFTER)
    next_days = [[rates.at(at + days * DAY) for days in range(1, OTHER_DAYS + 1)] for at in after]
    ratios = [
        _divided(rates.at(at), _median(days, MIN_OTHER_DAYS))
        for at, days in zip(after, next_days, strict=True)
    ]
    return _median(ratios, MIN_LEVEL_HOURS)


def _usual(rates: Rates, hour: int) -> float:
    """Return the median of an hour's earlier days; NaN with fewer than three."""
    return _median([rates.at(hour - days * DAY) for days in range(1, OTHER_DAYS + 1)], MIN_OTHER_DAYS)


def _level(pairs: Iterable[tuple[float, float]]) -> float:
    """Return the median ratio of hours to what they are compared with; 1 where too few can be compared."""
    level = _median([_divided(*pair) for pair in pairs], MIN_LEVEL_HOURS)
    return 1.0 if isnan(level) else level


def _spread(rates: Rates) -> float | None:
    """Return the spread of the last week's hours around level and time of day, near the newest hour's.

    Each hour is compared with the same hour of the week's other days, earlier and later ones.
    """
    first = rates.newest - WEEK + 1
    week = [rates.at(hour) for hour in range(first, rates.newest + 1)]
    relative = [
        _divided(rate, _median([*week[place % DAY : place : DAY], *week[place + DAY :: DAY]], MIN_OTHER_DAYS))
        for place, rate in enumerate(week)
    ]
    deviations = []
    for days in range(1, OTHER_DAYS + 1):
        middle = len(week) - 1 - days * DAY
        for place in range(middle - AROUND, middle + AROUND + 1):
            deviation = _divided(relative[place], _median(relative[max(0, place - DAY) : place], DAY // 2))
            if deviation > 0 and isfinite(deviation):
                deviations.append(log(deviation))
    if len(deviations) < MIN_SPREAD_HOURS:
        return None
    deviations.sort()
    return (deviations[3 * len(deviations) // 4] - deviations[len(deviations) // 4]) / QUARTILES


def _median(values: Sequence[float], least: int) -> float:
    """Return the median of the values that are numbers; NaN with fewer than `least`."""
    numbers = sorted(value for value in values if value == value)  # noqa: PLR0124 - NaN is not itself
    if len(numbers) < least:
        return nan
    half = len(numbers) // 2
    return numbers[half] if len(numbers) % 2 else numbers[half - 1] / 2 + numbers[half] / 2


def _divided(rate: float, other: float) -> float:
    """Return a ratio; NaN without the one or the other, where the other is 0, and out of a float's range."""
    ratio = rate / other if other > 0 else nan
    return nan if ratio == inf else ratio
