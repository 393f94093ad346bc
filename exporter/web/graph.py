"""A week of hourly hashrates as SVG paths: what the status page draws of a site."""

from collections.abc import Iterable, Mapping, Sequence
from math import exp
from typing import Any

from exporter.collectors.history_rows import DAY, HOUR, WEEK_ROWS

HOUR_WIDTH, HEIGHT, HEADROOM = 4, 96, 4
WIDTH = HOUR_WIDTH * WEEK_ROWS
MAX_SPREAD = 5.0  # then the band is the whole picture
Row = Mapping[str, Any]  # of a document's `history`


def draw(rows: Sequence[Row], drops: Mapping[str, Any]) -> dict[str, Any]:
    """Draw the `history` and the `drops` of a document; there is a row.

    SVG paths: `settled` are complete hours, `dropped` those of them below the line of the alerts, `filling`
    the current ones, `midnights` the starts of days, `expected` a line, and `band` the range of two spreads
    around it (fill it by evenodd). `peak` is in hashes per second; `first` and `last` are times of rows.
    """
    last = rows[-1]["synctime"]
    begin = last - (WEEK_ROWS - 1) * HOUR
    rows = [row for row in rows if row["synctime"] >= begin]
    peak = max(max(row["hashrate"], row["expected"] or 0.0) for row in rows)
    settled = [row for row in rows if row["settled"]]
    judged = [row for row in settled if row["expected"] is not None]
    dropped = [row for row in judged if row["hashrate"] < drops["ratio"] * row["expected"]]
    factor = exp(2 * min(drops["spread"] or 0.0, MAX_SPREAD))
    edges = [
        {**row, "high": min(row["expected"] * factor, peak), "low": row["expected"] / factor}
        for row in judged
    ]
    midnight = -begin % DAY / HOUR
    return {
        "settled": _steps(settled, "hashrate", begin, peak),
        "filling": _steps(rows[len(settled) :], "hashrate", begin, peak),
        "dropped": _steps(dropped, "hashrate", begin, peak),
        "expected": _steps(judged, "expected", begin, peak, closed=False),
        "band": _steps(edges, "high", begin, peak) + _steps(edges, "low", begin, peak),
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
