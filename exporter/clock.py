"""Time and randomness as arguments: one moment on both clocks, and where they come from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple


class Now(NamedTuple):
    """One moment on both clocks: Unix seconds, and seconds of the monotonic clock."""

    wall: float
    mono: float

    def earlier(self, other: Now) -> Now:
        """Return the earlier moment on each clock."""
        return Now(min(self.wall, other.wall), min(self.mono, other.mono))


NEVER = Now(float("inf"), float("inf"))


class Clock(NamedTuple):
    """Where time and randomness come from: both clocks, a sleep in seconds, a number in [0, 1)."""

    now: Callable[[], Now]
    sleep: Callable[[float], Awaitable[None]]
    random: Callable[[], float]
