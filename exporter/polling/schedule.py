"""When an endpoint is polled: pure functions of seconds on the monotonic clock.

Due times lie on a grid of the endpoint's own; failures back off; what the API asks for is obeyed.
"""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime
from hashlib import sha256
from math import floor

from msgspec import Struct
from msgspec.structs import replace

from exporter.endpoint import Endpoint, Reason

LONGEST_BACKOFF = 300.0  # seconds, unless the interval is longer
LONGEST_RETRY_AFTER = 3600.0  # seconds


class Schedule(Struct, frozen=True, gc=False):
    """When one endpoint of one site is due, in seconds of the monotonic clock.

    While polls succeed, due times are phase + k * interval, so that lateness never shifts them. The phase is
    a hash of site and endpoint, so that a thousand sites spread over the interval.
    """

    interval: float
    stale_after: float
    phase: float
    failures: int = 0
    not_before: float = 0.0  # not before: the API asked for it

    def grid(self, after: float) -> float:
        """Return the first due time later than `after`."""
        point = self.phase + floor((after - self.phase) / self.interval) * self.interval
        while point <= after:  # once; twice when the division rounded down
            point += self.interval
        return point

    def succeeded(self, began: float, now: float, *, off_grid: bool) -> tuple[Schedule, float]:
        """Return the schedule and due time after a poll that began at `began` and succeeded at `now`.

        After a poll that was off the grid, because failures came before, the next is an interval away.
        """
        due = self.grid(now)
        while off_grid and due < began + self.interval:
            due += self.interval
        return replace(self, failures=0, not_before=0.0), due

    def failed(self, reason: Reason, now: float, retry_after: float, jitter: float) -> tuple[Schedule, float]:
        """Return the schedule and due time after a poll that failed at `now`; `jitter` is 0.8..1.2."""
        failures = self.failures + 1
        cap = max(self.interval, min(self.stale_after / 2, LONGEST_BACKOFF))
        # 2 ** 60 intervals are longer than any cap; the exponent is bounded so that it stays a float.
        delay = (
            cap if reason is Reason.INVALID_SECRET else min(self.interval * 2.0 ** min(failures - 1, 60), cap)
        )
        not_before = now + min(retry_after, LONGEST_RETRY_AFTER)
        return replace(self, failures=failures, not_before=not_before), max(now + delay * jitter, not_before)


def phase(site: str, endpoint: Endpoint, interval: float) -> float:
    """Spread the polls evenly over the interval by a hash of who and what."""
    digest = sha256(f"{site}\0{endpoint}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64 * interval


def first_due(place: int, polls: int, interval: float, now: float) -> float:
    """Spread the first polls of new loops, the `place`-th of so many, over a second and a bit."""
    return now + place / polls * min(interval, 1 + 0.0025 * polls)


def retry_after_seconds(header: str | None, wall: float) -> float:
    """Read a Retry-After header, seconds or an HTTP date (RFC 9110, 10.2.3); 0 for none and for nonsense."""
    if header is None:
        return 0.0
    digits = header.strip()
    if digits.isascii() and digits.isdecimal():
        return float(digits)
    try:
        date = parsedate_to_datetime(header)
        return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - wall)
    except (ValueError, OverflowError):  # a date that no calendar has, or one too far away
        return 0.0
