"""A week as SVG paths: every hour where it belongs, gaps as gaps, nothing outside the picture."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from exporter.web import graph

HOUR = 3600
MONDAY = 1_700_438_400.0  # 2023-11-20 00:00 UTC
rates = st.floats(0, 1e18)
weeks = st.dictionaries(st.integers(0, 400), st.tuples(rates, st.none() | rates, st.booleans()), min_size=1)


def row(hour: float, rate: float, usual: float | None = None, *, settled: bool = True) -> dict[str, Any]:
    return {
        "synctime": MONDAY + HOUR * hour,
        "hashrate": rate,
        "baseline": usual,
        "settled": settled,
    }


def numbers(path: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", path)]


def test_an_hour_is_a_step() -> None:
    """Two hours, the second half as high: an area from the floor, the newest hour at the right edge."""
    drawn = graph.draw([row(0, 100), row(1, 50, settled=False)])

    assert drawn["settled"] == "M664 96V4h4V96z"
    assert drawn["filling"] == "M668 96V50h4V96z"
    assert (drawn["peak"], drawn["first"], drawn["last"]) == (100, MONDAY, MONDAY + HOUR)


def test_a_missing_hour_is_a_gap() -> None:
    """Nothing is drawn over an hour without a row, of the baseline neither."""
    drawn = graph.draw([row(0, 100, 50), row(2, 100, 50)])

    assert drawn["settled"] == "M660 96V4h4V96zM668 96V4h4V96z"
    assert drawn["baseline"] == "M660 50V50h4M668 50V50h4"


def test_a_site_that_never_mined_is_flat() -> None:
    """All hours at 0 are drawn at the floor."""
    drawn = graph.draw([row(0, 0), row(1, 0)])

    assert drawn["settled"] == "M664 96V96h4V96h4V96z"


def test_midnights_are_utcs() -> None:
    """A line for each day's begin."""
    drawn = graph.draw([row(167, 1)])

    assert drawn["midnights"] == "".join(f"M{96 * day} 0V96" for day in range(7))


@given(weeks)
def test_any_week_fits_into_the_picture(week: dict[int, tuple[float, float | None, bool]]) -> None:
    """Whatever the hours and numbers, no path leaves the picture; what is older than a week is left out."""
    drawn = graph.draw([row(hour, rate, usual, settled=s) for hour, (rate, usual, s) in sorted(week.items())])

    for path in (drawn["settled"], drawn["filling"], drawn["baseline"], drawn["midnights"]):
        assert all(0 <= number <= graph.WIDTH for number in numbers(path))
        assert all(0 <= float(y) <= graph.HEIGHT for y in re.findall(r"V([\d.]+)", path))
    assert drawn["last"] - drawn["first"] < 168 * HOUR
