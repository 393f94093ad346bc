"""Numbers and durations of the status page."""

from __future__ import annotations

import pytest

from exporter.web import status_format


@pytest.mark.parametrize(
    ("expected", "seconds"),
    [("0 s", 0), ("12 ms", 0.012), ("59 s", 59), ("1 min 1 s", 61), ("1 h 2 min", 3700), ("1 d 1 h", 90000)],
)
def test_durations_are_spelled_out(expected: str, seconds: float) -> None:
    """With their two largest units, and below a second in milliseconds."""
    assert expected == status_format.duration(seconds)


@pytest.mark.parametrize(
    ("expected", "value"),
    [("0 ", 0), ("999 ", 999), ("1 k", 999.9), ("12.3 k", 12345), ("1.75 G", 1.749e9), ("1 E", 1e18)],
)
def test_large_numbers_have_three_digits(expected: str, value: float) -> None:
    """And a prefix, the next one before they would be rounded to four."""
    assert expected == status_format.si(value)


@pytest.mark.parametrize(
    ("expected", "amount"),
    [("0", 0), ("2.5", 2.5), ("0.0000934", 0.0000934), ("4e-09", 4e-9), ("-1e-10", -1e-10)],
)
def test_amounts_are_not_rounded_away(expected: str, amount: float) -> None:
    """Eight decimals as the API has them, and what is less with three digits."""
    assert expected == status_format.amount(amount)
