"""What may happen to a site, when it happens, and how an incident is written on the command line."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DURATION = re.compile(r"(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?", re.ASCII)
DURATION_UNITS = (604_800, 86_400, 3600, 60, 1, 0.001)  # seconds, in the order of DURATION
KINDS = (
    *("drop", "freeze", "reset", "waver", "hostile"),  # played by simulator/world.py
    *("slow", "outage", "outage-5xx", "outage-html", "outage-cut"),  # these and the rest by simulator/api.py
    *("rate-limit", "wrong-secret", "error"),
)


@dataclass(frozen=True)
class Incident:
    """Something that happens to a site from `start` (Unix seconds) for `length` seconds, again after `every`.

    These change the data:

    - `drop`: the hashrate is multiplied by `factor`
    - `freeze`: every answer is the one of the freeze's start; later answers are as if there had been none
    - `reset`: totals, withdrawn and balances of all users restart from 0 and do not come back, so `length`
      has no effect
    - `waver`: totals come from one of two caches, one behind by `fraction`; which one changes by the second
    - `hostile`: HOSTILE_NAMES are users too, as if they had mined since the site began

    These change the answers, of all paths or of `path` alone:

    - `outage` or `outage-5xx`: 503 with HTML; `outage-html`: the same with 200; `outage-cut`: half the body
    - `slow`: the answer is computed for the time of the request, and sent after `delay` seconds
    - `rate-limit`: 429 with `Retry-After` in `retry_after` seconds, as an HTTP-date when `as_date`
    - `wrong-secret`: `invalid_secret`, whatever the secret; `error`: `code`

    Raises ValueError for an unknown kind. Of several failures at once the first of the site's list answers.
    """

    kind: str
    start: float
    length: float
    every: float = math.inf
    factor: float = 0.4
    fraction: float = 0.001
    delay: float = 30.0
    retry_after: float = 30.0
    as_date: bool = False
    code: str = "internal_error"
    path: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of incident {self.kind!r}: one of {', '.join(KINDS)}")

    def began(self, t: float) -> float:
        """Return the start of the latest occurrence at or before t; infinity before the first."""
        if t < self.start:
            return math.inf
        if self.every == math.inf:
            return self.start
        return self.start + (t - self.start) // self.every * self.every

    def active(self, t: float) -> bool:
        """Tell whether t lies within an occurrence; its end does not."""
        began = self.began(t)
        return began <= t < began + self.length

    def edges(self, begin: float, end: float) -> Iterator[float]:
        """Yield the starts and ends of occurrences strictly between two times."""
        start = min(self.began(begin), max(self.start, begin))
        while start < end:
            yield from (edge for edge in (start, start + self.length) if begin < edge < end)
            start += self.every


def active(incidents: Iterable[Incident], kind: str, t: float) -> Iterator[Incident]:
    """Yield the incidents of a kind that are active at t."""
    return (incident for incident in incidents if incident.kind == kind and incident.active(t))


def parse_incident(text: str, now: float) -> tuple[str, Incident]:
    """Read `SITE:KIND:START:LENGTH` into the site's name and its incident.

    START counts from `now` (Unix seconds) and may be negative (`-2h`). Raises ValueError with what is wrong.
    """
    parts = text.rsplit(":", 3)
    if len(parts) != 4 or not parts[0]:  # noqa: PLR2004 - the four of the docstring
        raise ValueError(f"incident {text!r} is not SITE:KIND:START:LENGTH, as in my-site:outage:30s:5m")
    site, kind, start, length = parts
    try:
        offset = _seconds(start.removeprefix("-"), "START") * (-1 if start.startswith("-") else 1)
        return site, Incident(kind, now + offset, _seconds(length, "LENGTH"))
    except ValueError as error:
        raise ValueError(f"incident {text!r}: {error}") from None


def _seconds(text: str, what: str) -> float:
    match = DURATION.fullmatch(text)
    if text == "0":
        return 0.0
    if not text or not match:
        raise ValueError(f"{what} is no duration: {text!r}; write 30s, 5m, 1h30m or 2d")
    return sum(int(number or 0) * unit for number, unit in zip(match.groups(), DURATION_UNITS, strict=True))
