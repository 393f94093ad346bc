"""What a site's history exports at each time, as lines of OpenMetrics.

A sample at time t is what the exporter would have exported at t from the rows at hand; where the rows do not
reach, there is none. Times are Unix seconds. Samples lie on a grid of four minutes that does not depend on
when the command runs, so that a second run over the same rows writes the same bytes.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from exporter.clock import Now
from exporter.collectors.expiry import Reading
from exporter.collectors.history import (
    BASELINE,
    DAY_HASHES,
    EXPECTED,
    HASHRATE,
    ROW_HASHES,
    SETTLED_TIMESTAMP,
    SPREAD,
    HistoryState,
)
from exporter.collectors.history_rows import Meaning
from exporter.collectors.metric import Metric
from exporter.collectors.registry import HISTORY_COLLECTOR
from exporter.config import Site
from exporter.pages.text import Format, header, number, series

Interval = tuple[range, Mapping[Metric, float]]  # times of the grid at which a site exports these values
Windows = Sequence[tuple[float, float]]  # ascending; samples are written strictly between the two times

STEP_SECONDS = 240  # seconds: below Prometheus' lookback of five minutes, so that graphs have no holes
DAY_ROWS = 24
METRICS = (HASHRATE, EXPECTED, SPREAD, BASELINE, ROW_HASHES, DAY_HASHES, SETTLED_TIMESTAMP)


class Source(NamedTuple):
    """A site: its config, the history that its poll brought, and the labels of its samples.

    `rejection` says how many rows of the answer could not be read, if any, and why.
    """

    site: Site
    history: HistoryState
    labels: Mapping[str, str]
    rejection: str = ""

    def series(self, metric: Metric) -> str:
        """Return a series of the site, as its sample lines and a query begin."""
        return series(metric.name, self.labels)


def source(site: Site, history: HistoryState, labels: Mapping[str, str], rejection: str = "") -> Source:
    """Return a site's source; `{site}` in a label's value becomes the site's name."""
    labels = {name: value.replace("{site}", site.name) for name, value in labels.items()}
    return Source(site, history, {**labels, "site": site.name}, rejection)


def windows_until(sources: Sequence[Source], end: float) -> dict[str, Windows]:
    """Return windows by series that include everything before a time."""
    return {source.series(metric): [(-math.inf, end)] for source in sources for metric in METRICS}


def exposition(
    sources: Sequence[Source], windows: Mapping[str, Windows], since: float, now: float
) -> Iterator[str]:
    """Yield the lines, family by family, from `since` on; `windows` by series."""
    intervals_by_source = [(source, intervals(source, since, now)) for source in sources]
    for metric in METRICS:
        yield header(metric, Format.OPENMETRICS).decode()
        for source, intervals_ in intervals_by_source:
            name_and_labels = source.series(metric)
            for times, values in intervals_:
                if metric in values:
                    line = f"{name_and_labels} {number(values[metric])} "
                    for at in times:
                        if any(after < at < before for after, before in windows[name_and_labels]):
                            yield f"{line}{at}\n"
    yield Format.OPENMETRICS.end.decode()


def intervals(source: Source, since: float, now: float) -> list[Interval]:
    """Return what a site exports, from `since` on and before `now`."""
    site, rows = source.site, source.history.rows
    result: list[Interval] = []
    at = _next(max(since, rows[0].synctime if rows else now))
    while at < now:
        moment = Now(at, at)
        history = replace(source.history, answer=Reading(rows, moment))  # as if polled at this moment
        view, until, _ = HISTORY_COLLECTOR.visible(site, history, moment)
        values = {family.metric: family.values[0] for family in HISTORY_COLLECTOR.families(site, view)}
        # A day's sum needs all of the day's rows, and of cumulative hashes also the row before.
        if view.settled < DAY_ROWS + (view.meaning == Meaning.CUMULATIVE):
            values.pop(DAY_HASHES, None)
        times = range(at, max(at + STEP_SECONDS, _next(min(until.wall, now))), STEP_SECONDS)
        result.append((times, values))
        at = times.stop
    return result


def _next(time: float) -> int:
    """Return the first time of the grid at or after a time."""
    return math.ceil(time / STEP_SECONDS) * STEP_SECONDS
