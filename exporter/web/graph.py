"""A week of hourly hashrates as SVG paths: what the status page draws of a site."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from exporter.collectors.history_rows import DAY, HOUR, WEEK_ROWS

HOUR_WIDTH, HEIGHT, HEADROOM = 4, 96, 4
WIDTH = HOUR_WIDTH * WEEK_ROWS
Row = Mapping[str, Any]  # of a document's `history`


def draw(rows: Sequence[Row]) -> dict[str, Any]:
    """Draw the `history` of a document, which has a row.

    `settled`, `filling`, `baseline` and `midnights` are SVG paths: complete hours, the current ones, the
    baseline, the starts of days. `peak` is in hashes per second; `first` and `last` are the times of rows.
    """
    last = rows[-1]["synctime"]
    begin = last - (WEEK_ROWS - 1) * HOUR
    rows = [row for row in rows if row["synctime"] >= begin]
    peak = max(max(row["hashrate"], row["baseline"] or 0.0) for row in rows)

    settled = [row for row in rows if row["settled"]]
    midnight = -begin % DAY / HOUR
    return {
        "settled": _steps(settled, "hashrate", begin, peak),
        "filling": _steps(rows[len(settled) :], "hashrate", begin, peak),
        "baseline": _steps(rows, "baseline", begin, peak, closed=False),
        "midnights": "".join(f"M{_short(HOUR_WIDTH * (midnight + 24 * day))} 0V{HEIGHT}" for day in range(7)),
        "peak": peak,
        "first": rows[0]["synctime"],
        "last": last,
    }


def _steps(rows: Iterable[Row], name: str, begin: float, peak: float, *, closed: bool = True) -> str:
    """Return a path with a level for each hour, broken where hours are missing; closed, it is an area."""
    end = f"V{HEIGHT}z" if closed else ""
    path = ""
    next_hour: float | None = None
    for row in rows:
        if row[name] is None:
            continue
        hour = (row["synctime"] - begin) / HOUR
        level = _short(HEIGHT - (HEIGHT - HEADROOM) * row[name] / peak if peak else HEIGHT)
        if hour != next_hour:
            path += f"{end if path else ''}M{_short(HOUR_WIDTH * hour)} {HEIGHT if closed else level}"
        path += f"V{level}h{HOUR_WIDTH}"
        next_hour = hour + 1
    return path + (end if path else "")


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
