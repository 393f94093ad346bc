"""The hashrate of a site and its integral."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.simulator import DAY, HOUR, Incident
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
    """Evenings are busier than mornings, weekdays than weekends."""
    _, site, _ = a_world()
    midnight = FULL_HOUR - 22 * HOUR  # of a Tuesday
    saturday = midnight - 3 * DAY

    assert site.row(midnight + 18 * HOUR).hashes > 1.5 * site.row(midnight + 6 * HOUR).hashes
    assert sum(site.row(midnight + h * HOUR).hashes for h in range(24)) > 1.3 * sum(
        site.row(saturday + h * HOUR).hashes for h in range(24)
    )


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
