"""Pure functions over the rows of `/stats/history`: settled rows, baseline, windows, meaning of `hashes`.

Rows are in the form that `tidy` returns: ascending by `synctime` (Unix seconds, the start of the hour), and
each `synctime` once.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from enum import StrEnum
from itertools import pairwise
from statistics import median

from exporter.api.answers import HistoryRow

HOUR = 3600
DAY = 24 * HOUR
WEEK_ROWS = 7 * 24  # one for each hour: what the API remembers
SETTLED_AFTER = HOUR + 15 * 60  # an hour's row may still be corrected a little after the hour has ended
FUTURE = HOUR  # clocks differ; a row that starts later than this is no clock difference
OLDEST = 8 * DAY  # the API's history is of 7 days: rows that all begin before this have another unit or clock
MIN_BASELINE_SAMPLES = 3  # the median of two is an average: one odd day would move it


class Meaning(StrEnum):
    """What a row's `hashes` turned out to mean; the reference only says "total hashes"."""

    HOURLY = "hourly"
    CUMULATIVE = "cumulative"
    UNKNOWN = "unknown"


def tidy(rows: Iterable[HistoryRow], now: float) -> tuple[tuple[HistoryRow, ...], int]:
    """Sort rows, keep the last of duplicates, drop future ones; return the rows and how many were future."""
    kept: dict[float, HistoryRow] = {}
    future = 0
    for row in rows:
        if row.synctime > now + FUTURE:
            future += 1
        else:
            kept[row.synctime] = row
    return tuple(kept[synctime] for synctime in sorted(kept)), future


def settled_count(rows: Sequence[HistoryRow], now: float) -> int:
    """How many rows, from the oldest, ended at least 15 minutes before `now` and will not change any more."""
    count = len(rows)
    while count and rows[count - 1].synctime + SETTLED_AFTER > now:
        count -= 1
    return count


def baseline(settled: Sequence[HistoryRow]) -> list[float]:
    """Hashrates of the rows that share the newest row's UTC hour on earlier days, oldest first."""
    if not settled:
        return []
    newest = _hour(settled[-1])
    return [row.hashrate for row in settled[:-1] if (newest - _hour(row)) % 24 == 0 and _hour(row) < newest]


def baselines(rows: Sequence[HistoryRow]) -> list[float | None]:
    """For each row the median of those that share its UTC hour on earlier days; None with fewer than 3."""
    medians: list[float | None] = []
    earlier: defaultdict[int, list[HistoryRow]] = defaultdict(list)
    for row in rows:
        peers = earlier[_hour(row) % 24]
        rates = [peer.hashrate for peer in peers if _hour(peer) < _hour(row)]
        medians.append(median(rates) if len(rates) >= MIN_BASELINE_SAMPLES else None)
        peers.append(row)
    return medians


def missing(rows: Sequence[HistoryRow]) -> int:
    """How many hours between the oldest and the newest row have none."""
    if not rows:
        return 0
    return _hour(rows[-1]) - _hour(rows[0]) + 1 - len({_hour(row) for row in rows})


def find_meaning(settled: Sequence[HistoryRow], previous: Meaning) -> Meaning:
    """Find what `hashes` means; `previous` stays if no row has both hashes and a hashrate."""
    if not conclusive(settled):
        return previous
    if _plausible([(row.hashes, row.hashrate) for row in settled]):
        return Meaning.HOURLY
    if any(a.hashes > b.hashes for a, b in pairwise(settled)):
        return Meaning.UNKNOWN
    differences = [(b.hashes - a.hashes, b.hashrate) for a, b in _successive(settled)]
    if previous is Meaning.CUMULATIVE and not any(hashes and rate for hashes, rate in differences):
        return previous  # a site that stopped: its last mining is in the oldest row, whose difference is gone
    return Meaning.CUMULATIVE if _plausible(differences) else Meaning.UNKNOWN


def conclusive(settled: Iterable[HistoryRow]) -> bool:
    """Whether the rows can decide what `hashes` means: one with hashes and a hashrate is enough."""
    return any(row.hashes and row.hashrate for row in settled)


def window_hashes(settled: Sequence[HistoryRow], meaning: Meaning, hours: int) -> float | None:
    """Return the hashes of the last rows, at most `hours` of them; None if the rows cannot tell."""
    if meaning is Meaning.CUMULATIVE:
        # The oldest row of the window has its hour's hashes from the row before it.
        return _increases(_successive(settled[-hours - 1 :]))
    return sum(row.hashes for row in settled[-hours:]) if settled and meaning is Meaning.HOURLY else None


def week_hashes(settled: Sequence[HistoryRow], meaning: Meaning) -> float | None:
    """Return the hashes of all rows, and of gaps if `hashes` is cumulative; None if the rows cannot tell."""
    if meaning is Meaning.CUMULATIVE:
        return _increases(pairwise(settled))
    return window_hashes(settled, meaning, len(settled))


def _increases(pairs: Iterable[tuple[HistoryRow, HistoryRow]]) -> float | None:
    """Hashes that cumulative rows gained from one to the other; None without a pair."""
    differences = [max(0.0, b.hashes - a.hashes) for a, b in pairs]
    return sum(differences) if differences else None


def _hour(row: HistoryRow) -> int:
    return int(row.synctime // HOUR)


def _successive(settled: Sequence[HistoryRow]) -> list[tuple[HistoryRow, HistoryRow]]:
    """Pairs of rows whose hours follow each other: only their difference belongs to one hour."""
    return [(a, b) for a, b in pairwise(settled) if _hour(b) - _hour(a) == 1]


def _plausible(pairs: Iterable[tuple[float, float]]) -> bool:
    """Whether hashes are what their hashrate makes in an hour, by the median of those above 0."""
    ratios = [hashes / (hashrate * HOUR) for hashes, hashrate in pairs if hashes > 0 and hashrate > 0]
    return bool(ratios) and 0.5 <= median(ratios) <= 2  # noqa: PLR2004 - room for rounding, none for another unit
