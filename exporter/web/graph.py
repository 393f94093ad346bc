"""A week of hourly hashrates as SVG paths: what the status page draws of a site."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from exporter.collectors import history

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    Points = Sequence[tuple[float, float]]  # hours from the left, hashes per second

HOUR_WIDTH, HEIGHT, HEADROOM = 4, 96, 4
WIDTH = HOUR_WIDTH * history.WEEK_ROWS


class Graph(NamedTuple):
    """A week of hourly hashrates as SVG paths: settled hours, those still filling, baseline, midnights."""

    settled: str
    filling: str
    baseline: str
    midnights: str
    peak: float  # hashes per second
    first: float
    last: float


def graph(rows: Sequence[Mapping[str, Any]]) -> Graph | None:
    """Draw the `history` of a document; None where there is none."""
    if not rows:
        return None
    last = rows[-1]["synctime"]
    begin = last - (history.WEEK_ROWS - 1) * history.HOUR
    rows = [row for row in rows if row["synctime"] >= begin]
    peak = max(max(row["hashrate"], row["baseline"] or 0.0) for row in rows)

    def points(name: str, chosen: Iterable[Mapping[str, Any]]) -> list[tuple[float, float]]:
        return [
            ((row["synctime"] - begin) / history.HOUR, row[name]) for row in chosen if row[name] is not None
        ]

    settled = [row for row in rows if row["settled"]]
    midnight = -begin % history.DAY / history.HOUR
    days = (midnight + 24 * day for day in range(7))
    return Graph(
        settled=_steps(points("hashrate", settled), peak, closed=True),
        filling=_steps(points("hashrate", rows[len(settled) :]), peak, closed=True),
        baseline=_steps(points("baseline", rows), peak, closed=False),
        midnights="".join(f"M{_short(HOUR_WIDTH * hour)} 0V{HEIGHT}" for hour in days),
        peak=peak,
        first=rows[0]["synctime"],
        last=last,
    )


def _steps(points: Points, peak: float, *, closed: bool) -> str:
    """Return a path with a level for each hour, broken where hours are missing; closed, it is an area."""
    path = []
    for run in _runs(points):
        levels = "".join(f"V{_height(value, peak)}h{HOUR_WIDTH}" for _, value in run)
        left = _short(HOUR_WIDTH * run[0][0])
        start = HEIGHT if closed else _height(run[0][1], peak)
        path.append(f"M{left} {start}{levels}" + (f"V{HEIGHT}z" if closed else ""))
    return "".join(path)


def _runs(points: Points) -> Iterator[list[tuple[float, float]]]:
    run: list[tuple[float, float]] = []
    for point in points:
        if run and point[0] - run[-1][0] != 1:
            yield run
            run = []
        run.append(point)
    if run:
        yield run


def _height(value: float, peak: float) -> str:
    return _short(HEIGHT - (HEIGHT - HEADROOM) * value / peak if peak else HEIGHT)


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
