from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.collectors.payout import PAYOUT
from exporter.endpoint import Reason
from exporter.polling.schedule import Schedule, first_due, phase, retry_after_seconds
from tests.conftest import WALL

seconds = st.floats(0.5, 7200)


@given(seconds, st.floats(0, 1), st.floats(0, 1e9), st.floats(0, 3))
def test_due_times_lie_on_the_grid(interval: float, share: float, now: float, late: float) -> None:
    """Due times are phase + k * interval, later than now, and never more than an interval away."""
    schedule = Schedule(interval, 5 * interval, share * interval)
    _, due = schedule.succeeded(now, now + late * interval, off_grid=False)

    periods = (due - schedule.phase) / interval
    assert abs(periods - round(periods)) < 1e-3
    assert now + late * interval < due <= now + late * interval + interval * 1.001


@given(seconds, st.integers(1, 80), st.floats(0.8, 1.2))
def test_back_off_doubles_up_to_its_cap(interval: float, failures: int, jitter: float) -> None:
    """After n failures the delay is 2^(n-1) intervals, capped, then jittered."""
    schedule = Schedule(interval, 5 * interval, 0.0, failures - 1)
    after, due = schedule.failed(Reason.TIMEOUT, 1000.0, 0.0, jitter)

    cap = max(interval, min(5 * interval / 2, 300.0))
    assert failures == after.failures
    assert min(2.0 ** (failures - 1) * interval, cap) * jitter == pytest.approx(due - 1000.0)


def test_a_wrong_secret_goes_to_the_cap_at_once() -> None:
    """invalid_secret waits as long as many failures do: asking again soon cannot help."""
    _, due = Schedule(60, 1200, 0.0).failed(Reason.INVALID_SECRET, 0.0, 0.0, 1.0)

    assert due == 300.0


@pytest.mark.parametrize(("expected", "asked"), [(60.0, 10.0), (500.0, 500.0), (3600.0, 90_000.0)])
def test_retry_after_is_obeyed_up_to_an_hour(expected: float, asked: float) -> None:
    """The later of back-off and Retry-After counts."""
    _, due = Schedule(60, 300, 0.0).failed(Reason.RATE_LIMITED, 0.0, asked, 1.0)

    assert expected == due


def test_the_first_success_goes_back_to_the_grid() -> None:
    """After failures the next poll is the first phase at least one interval after the poll that succeeded."""
    after, due = Schedule(60, 300, 10.0, failures=3).succeeded(75.0, 76.0, off_grid=True)

    assert (0, 190.0) == (after.failures, due)


@pytest.mark.parametrize(
    ("expected", "header"),
    [
        (0.0, None),
        (0.0, ""),
        (0.0, "soon"),
        (0.0, "-5"),
        (0.0, "٣"),
        (120.0, "120"),
        (100.0, "Tue, 14 Nov 2023 22:15:00 GMT"),
        (100.0, "Tue, 14 Nov 2023 22:15:00"),
        (0.0, "Tue, 14 Nov 2023 21:15:00 GMT"),
        (0.0, "Tue, 14 Nov 99999 21:15:00 GMT"),
    ],
)
def test_both_forms_of_retry_after_are_read(expected: float, header: str | None) -> None:
    """Seconds or an HTTP date; nonsense and the past are no wait."""
    assert expected == retry_after_seconds(header, WALL)


@given(st.text(max_size=64))
def test_no_retry_after_is_too_odd(header: str) -> None:
    """Any text gives a wait of zero or more."""
    assert retry_after_seconds(header, WALL) >= 0


def test_phases_spread_over_the_interval() -> None:
    """A thousand sites' phases fill every tenth of the interval."""
    phases = [phase(f"site-{number}", PAYOUT, 60) for number in range(1000)]

    counts = [sum(1 for at in phases if tenth * 6 <= at < (tenth + 1) * 6) for tenth in range(10)]
    assert sum(counts) == 1000
    assert min(counts) > 60


@pytest.mark.parametrize(
    ("expected", "polls", "interval"), [(1.25, 100, 60), (8.5, 3000, 60), (0.5, 100, 0.5)]
)
def test_first_polls_are_spread(expected: float, polls: int, interval: float) -> None:
    """The first polls fill min(interval, 1 s + 2.5 ms * number of polls), the first of them at once."""
    dues = [first_due(place, polls, interval, 100.0) for place in range(polls)]

    assert dues[0] == 100.0
    assert expected * (polls - 1) / polls == pytest.approx(dues[-1] - 100.0)
