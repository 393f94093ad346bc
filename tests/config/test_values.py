"""Durations and sizes: what is read, what is rejected, and how they are written."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.config import values


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("30s", 30.0), ("1m30s", 90.0), ("1h", 3600.0), ("1y1w1d", 32_227_200.0)],
)
def test_durations_are_read_as_prometheus_writes_them(text: str, seconds: float) -> None:
    """Units from y to ms, the larger first, each once."""
    assert seconds == values.read_duration(text)


@pytest.mark.parametrize(
    "text",
    ["", "1", "s", "1 s", "1s\n", "30s1m", "1s1s", "-1s", "1.5h", "1S", "\u0661s", "101y", "0s", 1, None],
)
def test_other_durations_are_rejected(text: object) -> None:
    """Anything else, 0 included, raises ValueError with an example or the bound."""
    with pytest.raises(ValueError, match="expected a duration"):
        values.read_duration(text)


@given(st.integers(min_value=1, max_value=int(values.MAX_DURATION * 1000)))
def test_durations_round_trip(milliseconds: int) -> None:
    """What format_duration writes, read_duration reads as the same number."""
    seconds = milliseconds / 1000

    assert seconds == values.read_duration(values.format_duration(seconds))


@given(st.text())
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    """read_duration raises nothing but ValueError."""
    try:
        seconds = values.read_duration(text)
    except ValueError:
        return

    assert seconds > 0


@pytest.mark.parametrize(
    ("seconds", "text"), [(90.0, "1m30s"), (0.0, "0s"), (0.25, "250ms"), (86_401, "1d1s")]
)
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    """The largest units first, units of zero left out."""
    assert text == values.format_duration(seconds)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_impossible_durations_are_not_written(seconds: float) -> None:
    """Negative and non-finite seconds raise ValueError."""
    with pytest.raises(ValueError, match="finite number"):
        values.format_duration(seconds)


@pytest.mark.parametrize(
    ("text", "size"),
    [("16MiB", 16 << 20), ("1GiB", 1 << 30), ("2KiB", 2048), ("7000B", 7000), ("1024", 1024), (5000, 5000)],
)
def test_sizes_are_read_in_binary_units(text: str | int, size: int) -> None:
    """B, KiB, MiB, GiB, or plain bytes."""
    assert size == values.read_size(text)


@pytest.mark.parametrize("text", ["16MB", "16 MiB", "-1", "", "1.5MiB", -1, True, 1.5, None, 1023, "2GiB"])
def test_other_sizes_are_rejected(text: Any) -> None:
    """Decimal units, fractions, signs, other types and sizes out of bounds raise ValueError."""
    with pytest.raises(ValueError, match="expected a size"):
        values.read_size(text)


@pytest.mark.parametrize(
    ("size", "text"), [(16 << 20, "16MiB"), (3 << 30, "3GiB"), (1536, 1536), (2048, "2KiB")]
)
def test_sizes_are_written_for_people(size: int, text: str | int) -> None:
    """The largest unit that divides them; a plain number where none does."""
    assert text == values.format_size(size)
