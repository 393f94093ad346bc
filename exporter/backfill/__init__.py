"""The week that the API remembers, as OpenMetrics with timestamps: promtool makes blocks of it.

A sample at time t is what the exporter would have exported at t from the rows at hand; where they do not
reach, there is none. Times are Unix seconds. Samples lie on a grid of four minutes, the same whenever it is
asked, so that a second run over the same rows writes the same bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import netrc
from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

import httpx
import msgspec

from exporter.clock import Now
from exporter.collectors import history, metrics, snapshot
from exporter.collectors.history import Meaning
from exporter.collectors.snapshot import Snapshot
from exporter.pages.text import Format, header, number, series

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from exporter.api.answers import HistoryRow
    from exporter.collectors.metrics import Metric, Subject

    Windows = Sequence[tuple[float, float]]  # ascending; what lies strictly between the two times of each

T = TypeVar("T")

EVERY = 240  # seconds: below Prometheus' lookback of five minutes, so that graphs have no holes
LOOKBACK = 300  # seconds without a sample after which a graph has one
HEAD = 3 * 3600  # seconds that Prometheus keeps in its head at most, while it is well
EARLIER = 30 * 86_400  # seconds before the API's oldest row in which a series may have been there
CHUNK = 86_400  # seconds that Prometheus is asked for at once
TIMEOUT = 60.0  # seconds that an answer of Prometheus may take
DAY_ROWS = 24
NEAR = DAY_ROWS + 1  # rows that sums and differences stand on
METRICS = (
    metrics.HASHRATE,
    metrics.BASELINE,
    metrics.ROW_HASHES,
    metrics.DAY_HASHES,
    metrics.SETTLED_TIMESTAMP,
)


class Unanswered(Exception):
    """Prometheus could not be asked; the text says why, and nothing of what the URL may hold."""


class Source(NamedTuple):
    """A site: what the config says of it, what its poll brought, and the labels of its samples."""

    subject: Subject
    known: Snapshot
    labels: Mapping[str, str]

    def series(self, metric: Metric) -> str:
        """Return a series of the site, as its sample lines and a query begin."""
        return series(metric.name, self.labels)


class Stretch(NamedTuple):
    """Times of the grid at which a site shows the same: from `first` to `last`, both included."""

    first: int
    last: int
    values: Mapping[Metric, float]


def source(subject: Subject, known: Snapshot, labels: Mapping[str, str]) -> Source:
    """Return a site's source; `{site}` in a label's value is the site."""
    own = {name: value.replace("{site}", subject.name) for name, value in labels.items()}
    return Source(subject, known, {**own, "site": subject.name})


def written(
    sources: Sequence[Source], windows: Mapping[str, Windows], since: float, now: float
) -> Iterator[str]:
    """Return the lines, family by family, from `since` on; `windows` by series."""
    found = [(each, stretches(each, since, now)) for each in sources]
    for metric in METRICS:
        yield header(metric, Format.OPENMETRICS).decode()
        for each, shown in found:
            begin = each.series(metric)
            for stretch in shown:
                if metric in stretch.values:
                    value = number(stretch.values[metric])
                    for at in _times(stretch, windows[begin]):
                        yield f"{begin} {value} {at}\n"
    yield Format.OPENMETRICS.end.decode()


# ---------------------------------------------------------------------------------------------------- samples


def stretches(site: Source, since: float, now: float) -> list[Stretch]:
    """Return what a site showed, from `since` on and before `now`."""
    rows = site.known.last_rows
    found: list[Stretch] = []
    state: tuple[int, bool] | None = None
    settled = 0
    peers: defaultdict[int, list[HistoryRow]] = defaultdict(list)  # by hour of the day: those of the baseline
    begin = max(since, rows[0].synctime) if rows else now
    for at in _grid(math.nextafter(begin, -math.inf), now):
        while settled < len(rows) and rows[settled].synctime + history.SETTLED_AFTER <= at:
            peers[_hour(rows[settled])].append(rows[settled])
            settled += 1
        recent = settled > 0 and at - rows[settled - 1].synctime <= site.subject.max_row_age
        if (settled, recent) == state:
            found[-1] = found[-1]._replace(last=at)
        else:
            state = settled, recent
            near = rows[max(0, settled - NEAR) : settled]
            far = [row for row in peers[_hour(near[-1])] if row.synctime < near[0].synctime] if near else []
            found.append(Stretch(at, at, shown(site, (*far, *near), at, whole=settled)))
    return found


def shown(site: Source, rows: tuple[HistoryRow, ...], at: float, whole: int) -> dict[Metric, float]:
    """Return what the site's page showed at a time, of these of the `whole` number of settled rows at hand.

    No value stands on others than those of a day, the row before, and the same hour of all days.
    """
    now = Now(at, at)
    known = snapshot.with_history(Snapshot(), rows, site.known.meaning, now)
    view = metrics.history_view(site.subject, known, now)
    page = {family.metric: family.values[0] for family in metrics.history_families(site.subject, view)}
    # A day is told where all of it is at hand; of cumulative hashes, with the row before.
    if whole < DAY_ROWS + (view.meaning == Meaning.CUMULATIVE):
        page.pop(metrics.DAY_HASHES, None)
    return {metric: page[metric] for metric in METRICS if metric in page}


def _hour(row: HistoryRow) -> int:
    return int(row.synctime // history.HOUR % 24)


def _times(stretch: Stretch, windows: Windows) -> Iterator[int]:
    """Return the times of a stretch that lie within a window."""
    for after, before in windows:
        yield from _grid(max(after, stretch.first - EVERY), min(before, stretch.last + EVERY))


def _grid(after: float, before: float) -> range:
    """Return the times of the grid strictly between two times."""
    return range(math.floor(after / EVERY + 1) * EVERY, math.ceil(before / EVERY) * EVERY, EVERY)


# ------------------------------------------------------------------------------------------------- Prometheus


def before(sources: Sequence[Source], end: float) -> dict[str, Windows]:
    """Return the windows of all series where everything before a time is to be written."""
    return {each.series(metric): [(-math.inf, end)] for each in sources for metric in METRICS}


async def missing(
    sources: Sequence[Source], prometheus: Prometheus, since: float, now: float, *, gaps: bool
) -> tuple[dict[str, Windows], float]:
    """Return the windows that Prometheus has nothing in, and where they end at the latest.

    These are before a series begins, or only its `gaps`; and before the head. Raises Unanswered.
    """
    end = await prometheus.head(now)
    found: dict[str, Windows] = {}
    for each in sources:
        oldest = min((row.synctime for row in each.known.last_rows), default=now)
        times = [prometheus.held(each, metric, max(since, oldest), now) for metric in METRICS]
        held = dict(zip(METRICS, await asyncio.gather(*times), strict=True))
        if not any(held.values()):
            await prometheus.refuse_others(each, now)
        for metric in METRICS:
            free = holes(held[metric]) if gaps else [(-math.inf, min(held[metric], default=now))]
            found[each.series(metric)] = [(after, min(to, end)) for after, to in free if after < min(to, end)]
    return found, end


def holes(held: Sequence[float]) -> Windows:
    """Return the windows between samples that are further from each other than a graph bridges."""
    return [(one, other) for one, other in pairwise(held) if other - one > LOOKBACK]


class _Series(msgspec.Struct):
    metric: dict[str, str]
    values: list[tuple[float, str]] = []


class _Result(msgspec.Struct):
    result: list[_Series]


class _Answer(msgspec.Struct):
    data: _Result


class _Head(msgspec.Struct):
    minTime: float  # noqa: N815 - Prometheus' name


class _Stats(msgspec.Struct):
    headStats: _Head  # noqa: N815


class _Status(msgspec.Struct):
    data: _Stats


class Prometheus:
    """A Prometheus, or what answers like it, at a URL; `transport` replaces the network in tests."""

    def __init__(self, url: str, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._http = httpx.AsyncClient(base_url=url, transport=transport, timeout=TIMEOUT, trust_env=False)
        self._host = self._http.base_url.netloc.decode()
        with contextlib.suppress(OSError, netrc.NetrcParseError):  # most have none, and need none
            self._http.auth = httpx.NetRCAuth()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def head(self, now: float) -> float:
        """Return where its head begins: what it has not made blocks of yet. Raises Unanswered.

        A block must not overlap it: after a restart Prometheus would drop from its log what is older than
        the newest block's end, of all series. Who does not tell where it begins has three hours at most.
        """
        found, _ = await self._got(_Status, "/api/v1/status/tsdb")
        return min(now, found.data.headStats.minTime / 1000) if found else now - HEAD

    async def held(self, site: Source, metric: Metric, since: float, now: float) -> list[float]:
        """Return the times of its samples of a series, ascending, from a little before `since` on.

        Where there are earlier ones, they count as one that is that little before.
        Raises Unanswered, also where it is not one series of the same labels.
        """
        selector = site.series(metric)
        begin = since - LOOKBACK
        earlier = await self._vector(f"count_over_time({selector}[{EARLIER}s])", begin)
        recent = [
            one
            for at in range(math.ceil((now - begin) / CHUNK))
            for one in await self._vector(f"{selector}[{CHUNK}s]", min(begin + (at + 1) * CHUNK, now))
        ]
        for one in (*earlier, *recent):
            if more := sorted(one.metric.keys() - site.labels.keys() - {"__name__"}):
                raise Unanswered(
                    f"Prometheus at {self._host} has {site.subject.name} with more labels than --label "
                    f"names: {', '.join(more)}"
                )
        times = {at for one in recent for at, _ in one.values if at > begin}
        return sorted(times | ({begin} if earlier else set()))

    async def refuse_others(self, site: Source, now: float) -> None:
        """Raise Unanswered where it has the site under labels other than these: there would be two of it."""
        selector = series(metrics.SETTLED_TIMESTAMP.name, {"site": site.subject.name})
        for one in await self._vector(f"last_over_time({selector}[1d])", now):
            there = ", ".join(f"{name}={one.metric.get(name, '')}" for name in ("job", "instance"))
            raise Unanswered(
                f"Prometheus at {self._host} has {site.subject.name} under other labels ({there}): give them "
                "by --label, or there will be two of it"
            )

    async def _vector(self, expression: str, at: float) -> list[_Series]:
        found, status = await self._got(_Answer, "/api/v1/query", query=expression, time=str(at))
        if found:
            return found.data.result
        raise Unanswered(
            f"Prometheus at {self._host}: no answer to a query, status {status}; is a path missing, as in "
            "http://host/prometheus?"
        )

    async def _got(self, kind: type[T], path: str, **parameters: str) -> tuple[T | None, int]:
        """Return an answer, None where it is not of this kind, and its status. Raises Unanswered."""
        try:
            answer = await self._http.get(path, params=parameters)
            return msgspec.json.decode(answer.content, type=kind), answer.status_code
        except httpx.HTTPError as error:
            problem = type(error).__name__
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return None, answer.status_code
        raise Unanswered(f"Prometheus at {self._host} cannot be reached: {problem}")
