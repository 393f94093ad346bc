"""Time and randomness as arguments: one moment on both clocks, and where they come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Now(NamedTuple):
    """One moment on both clocks: Unix seconds, and seconds of the monotonic clock."""

    wall: float
    mono: float


class Clock(NamedTuple):
    """The outer world's time and chance: both clocks, a sleep of so many seconds, a number of [0, 1)."""

    now: Callable[[], Now]
    sleep: Callable[[float], Awaitable[None]]
    random: Callable[[], float]
