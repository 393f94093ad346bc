"""Readings expire on the monotonic clock, and each result says until when it holds."""

import pytest

from exporter.clock import NEVER, Now
from exporter.collectors.expiry import ROUNDING, Reading, next_moment, unless_stale
from tests.collectors.sites import NOW, a_site, later

POLL = a_site().polls.payout


@pytest.mark.parametrize(("age", "expected"), [(0, True), (299.5, True), (300, True), (300.5, False)])
def test_a_reading_is_current_for_stale_after(age: float, expected: bool) -> None:
    """For exactly `stale_after` seconds of the monotonic clock, and a moment before that it says so."""
    value, until = unless_stale(Reading(1, NOW), POLL, later(age))

    assert expected is (value is not None)
    assert (NOW.mono + 300 - ROUNDING if expected else float("inf")) == until.mono
    assert float("inf") == until.wall


@pytest.mark.parametrize("wall", [-1e6, 1e6])
def test_a_stepped_wall_clock_makes_nothing_stale(wall: float) -> None:
    """A wall clock that is set neither keeps nor drops a value."""
    reading = Reading(1, NOW)
    moments = [Now(NOW.wall + wall, NOW.mono + elapsed) for elapsed in (1, 301)]

    assert [1, None] == [unless_stale(reading, POLL, now)[0] for now in moments]


def test_without_a_reading_nothing_is_current() -> None:
    """And nothing is when the endpoint is not polled; time changes neither."""
    assert (None, NEVER) == unless_stale(None, POLL, NOW)
    assert (None, NEVER) == unless_stale(Reading(1, NOW), None, NOW)


def test_the_next_moment_comes_a_little_early() -> None:
    """The first that is not past; one just past, within the rounding of floats, is looked at again."""
    assert 20 - ROUNDING == next_moment([30, 10, 20], 15)
    assert 15 - ROUNDING == next_moment([15], 15 + ROUNDING / 2)
    assert float("inf") == next_moment([10], 15) == next_moment([], 15)
