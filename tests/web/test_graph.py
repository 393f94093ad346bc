"""A week as SVG paths: every hour where it belongs, gaps as gaps, nothing outside the picture."""

from __future__ import annotations

import re
from math import log
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from exporter.web import graph

HOUR = 3600
DROPS = {"ratio": 0.5, "spread": 0.0}
MONDAY = 1_700_438_400.0  # 2023-11-20 00:00 UTC
rates = st.floats(0, 1e18)
weeks = st.dictionaries(st.integers(0, 400), st.tuples(rates, st.none() | rates, st.booleans()), min_size=1)


def row(hour: float, rate: float, usual: float | None = None, *, settled: bool = True) -> dict[str, Any]:
    return {
        "synctime": MONDAY + HOUR * hour,
        "hashrate": rate,
        "baseline": None,
        "expected": usual,
        "settled": settled,
    }


def numbers(path: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", path)]


def test_an_hour_is_a_step() -> None:
    """Two hours, the second half as high: an area from the floor, the newest hour at the right edge."""
    drawn = graph.draw([row(0, 100), row(1, 50, settled=False)], DROPS)

    assert drawn["settled"] == "M664 96V4h4V96z"
    assert drawn["filling"] == "M668 96V50h4V96z"
    assert (drawn["peak"], drawn["first"], drawn["last"]) == (100, MONDAY, MONDAY + HOUR)


def test_a_missing_hour_is_a_gap() -> None:
    """Nothing is drawn over an hour without a row, of the expected line neither."""
    drawn = graph.draw([row(0, 100, 50), row(2, 100, 50)], DROPS)

    assert drawn["settled"] == "M660 96V4h4V96zM668 96V4h4V96z"
    assert drawn["expected"] == "M660 50V50h4M668 50V50h4"


def test_a_site_that_never_mined_is_flat() -> None:
    """All hours at 0 are drawn at the floor."""
    drawn = graph.draw([row(0, 0), row(1, 0)], DROPS)

    assert drawn["settled"] == "M664 96V96h4V96h4V96z"


def test_midnights_are_utcs() -> None:
    """A line for each day's begin."""
    drawn = graph.draw([row(167, 1)], DROPS)

    assert drawn["midnights"] == "".join(f"M{96 * day} 0V96" for day in range(7))


def test_a_drop_and_the_usual_range_are_seen() -> None:
    """An hour below the line is drawn once more, and the band lies between the expected line's multiples."""
    drawn = graph.draw([row(0, 100, 50), row(1, 20, 50)], {"ratio": 0.5, "spread": log(2) / 2})

    assert drawn["dropped"] == "M668 96V77.6h4V96z"
    assert drawn["expected"] == "M664 50V50h4V50h4"
    assert drawn["band"] == "M664 96V4h4V4h4V96zM664 96V73h4V73h4V96z"


@given(weeks, st.none() | st.floats(0, 1e300), st.floats(0, 1))
def test_any_week_fits_into_the_picture(
    week: dict[int, tuple[float, float | None, bool]], spread: float | None, ratio: float
) -> None:
    """Whatever the hours and numbers, no path leaves the picture; what is older than a week is left out."""
    drawn = graph.draw(
        [row(hour, rate, usual, settled=s) for hour, (rate, usual, s) in sorted(week.items())],
        {"ratio": ratio, "spread": spread},
    )

    for name in ("settled", "dropped", "filling", "expected", "band", "midnights"):
        path = drawn[name]
        assert all(0 <= number <= graph.WIDTH for number in numbers(path))
        assert all(0 <= float(y) <= graph.HEIGHT for y in re.findall(r"V([\d.]+)", path))
    assert drawn["last"] - drawn["first"] < 168 * HOUR
