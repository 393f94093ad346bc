"""Expiry: how long an answer is exported, and what a metric's HELP says about it.

`visible` of each collector calls `unless_stale`, which is the only code that compares an age with
`stale_after`.
"""

from collections.abc import Iterable
from enum import Enum
from typing import Generic, TypeVar

from msgspec import Struct

from exporter.clock import NEVER, Now
from exporter.config import Poll

T = TypeVar("T")
Value_co = TypeVar("Value_co", covariant=True)

ROUNDING = 0.001  # seconds: sums of floats are rounded, so a moment is looked at a little before it comes


class Expiry(Enum):
    """When a metric's samples are removed, as every HELP says it: a reader has nothing else at hand."""

    NOT_POLLED = ""
    NEVER = " Polled and cached, not fetched on scrape."
    STALE = (
        " Polled and cached, not fetched on scrape; absent when the last success is older than stale_after."
    )
    ROW = (
        " Polled and cached, not fetched on scrape; absent when the last success is older than stale_after, "
        "or the row than max_row_age."
    )


class Reading(Struct, Generic[Value_co], frozen=True, gc=False):
    """An answer, and when it came."""

    value: Value_co
    at: Now


def unless_stale(reading: Reading[T] | None, poll: Poll | None, now: Now) -> tuple[T | None, Now]:
    """Return a reading's value unless it is stale, and until when that stays true.

    The value is None when there is no reading, when it is older than `stale_after`, and when the endpoint is
    not polled any more (`poll` is None). Age is judged on the monotonic clock: a stepped wall clock changes
    nothing.
    """
    if reading is None or poll is None:
        return None, NEVER
    value = reading.value if now.mono - reading.at.mono <= poll.stale_after else None
    return value, Now(NEVER.wall, next_moment([reading.at.mono + poll.stale_after], now.mono))


def next_moment(moments: Iterable[float], now: float) -> float:
    """Return the first of the moments that is not past, a little early; infinity when all are past."""
    return min((moment - ROUNDING for moment in moments if moment + ROUNDING > now), default=NEVER.mono)
