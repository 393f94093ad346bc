"""The hashrate of a site and its integral."""

from __future__ import annotations

import math
import statistics
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.simulator import DAY, HOUR, Incident
from exporter.simulator.curve import Curve
from tests.simulator.worlds import FULL_HOUR, NOW, a_world


@given(start=st.floats(-40 * HOUR, HOUR), length=st.floats(0, 3 * HOUR), every=st.floats(HOUR, DAY))
def test_hashes_are_the_integral_of_the_hashrate(start: float, length: float, every: float) -> None:
    """A row's hashes are what its hashrate adds up to, whatever drops cut the hour."""
    _, site, _ = a_world(age=30 * HOUR)
    calm = site.row(FULL_HOUR).hashes
    site.incidents.append(Incident("drop", NOW + start, length, every=every, factor=0.1))
    expected = sum(site.hashrate(FULL_HOUR + second + 2.5) * 5 for second in range(0, HOUR, 5))
    row = site.row(FULL_HOUR)

    assert math.isclose(expected, row.hashes, abs_tol=0.01 * calm)
    assert math.isclose(row.hashrate * HOUR, row.hashes, rel_tol=1e-6)


def test_days_and_weeks_have_a_rhythm() -> None:
    """In the mean of eight weeks evenings are busier than mornings, and weekdays busier than weekends."""
    _, site, _ = a_world()
    midnight = FULL_HOUR - 22 * HOUR  # of a Tuesday
    days = [
        [site.row(midnight - day * DAY + hour * HOUR).hashes for hour in range(24)] for day in range(1, 57)
    ]
    weekends = [sum(hours) for day, hours in enumerate(days, 1) if day % 7 in (2, 3)]
    weekdays = [sum(hours) for day, hours in enumerate(days, 1) if day % 7 not in (2, 3)]

    assert sum(hours[18] for hours in days) > 1.5 * sum(hours[6] for hours in days)
    assert statistics.mean(weekdays) > 1.1 * statistics.mean(weekends)


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_a_year_is_as_irregular_as_real_sites(name: str) -> None:
    """Days differ from the same weekdays around them as real ones do; there are holidays and spikes."""
    curve = Curve((1, name), 5_000.0, 0, ())
    hours = [curve.mined((hour + 1) * HOUR) - curve.mined(hour * HOUR) for hour in range(365 * 24)]
    days = [sum(hours[begin : begin + 24]) for begin in range(0, len(hours), 24)]
    around = [[days[at + near] for near in (-14, -7, 7, 14)] for at in range(14, 351)]
    ratios = [day / statistics.median(others) for day, others in zip(days[14:351], around, strict=True)]
    jumps = [later / hour for hour, later in pairwise(hours)]

    assert 0.08 < statistics.pstdev(map(math.log, ratios)) < 0.2
    assert 5 < sum(ratio < 0.75 for ratio in ratios) < 30
    assert 3 < sum(jump > 1.6 for jump in jumps) < 40
    assert 4_000 < sum(hours) / len(hours) / HOUR < 6_000


def test_a_drop_lowers_hashrate_hours_and_users() -> None:
    """A drop multiplies the hashrate within its time: hours and totals have fewer hashes from then on."""
    _, calm, _ = a_world()
    _, site, _ = a_world()
    before = site.rows(NOW)
    site.incidents.append(Incident("drop", FULL_HOUR - 2 * HOUR, HOUR))
    expected = calm.row(FULL_HOUR - 2 * HOUR).hashes * 0.4

    assert math.isclose(expected, site.row(FULL_HOUR - 2 * HOUR).hashes, rel_tol=1e-6)
    assert calm.hashrate(FULL_HOUR - HOUR - 1) * 0.4 == pytest.approx(site.hashrate(FULL_HOUR - HOUR - 1))
    assert before[:-3] == site.rows(NOW)[:-3]
    assert calm.hashrate(FULL_HOUR - HOUR) == site.hashrate(FULL_HOUR - HOUR)
    assert sum(u.total for u in site.users(NOW)) < sum(u.total for u in calm.users(NOW))


def test_overlapping_drops_multiply() -> None:
    """Two drops at once have both factors."""
    _, calm, _ = a_world()
    _, site, _ = a_world(incidents=[Incident("drop", NOW - DAY, 2 * DAY, factor=0.5)] * 2)

    assert math.isclose(calm.row(FULL_HOUR).hashes / 4, site.row(FULL_HOUR).hashes, rel_tol=1e-6)
