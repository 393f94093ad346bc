"""What a Prometheus has already, and what may be written beside it."""

from __future__ import annotations

import asyncio
import re
from math import inf
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.backfill.prometheus import LOOKBACK, Prometheus, PrometheusError, gaps
from exporter.backfill.samples import Source, exposition, windows_until
from exporter.collectors.history import HASHRATE
from exporter.collectors.history_rows import DAY, HOUR
from tests.api.raw_server import Reply, Server, closed_port
from tests.backfill.sources import LABELS, read, source, week
from tests.conftest import WALL, examples

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@given(st.lists(st.floats(0, 10_000), max_size=30).map(sorted))
def test_holes_lie_between_samples(held: list[float]) -> None:
    """A hole is wider than Prometheus looks back; none is before the first sample, or after the last."""
    windows = gaps(held)

    assert all(other - one > LOOKBACK for one, other in windows)
    assert all({one, other} <= set(held) for one, other in windows)
    assert not any(one < at < other for one, other in windows for at in held)


@examples(1 / 4)
@given(st.lists(st.integers(0, 3 * DAY), max_size=300).map(sorted))
def test_filling_the_gaps_twice_fills_nothing(held: list[int]) -> None:
    """What is written lies strictly within the holes, and leaves none that more could be written to."""
    site = source(week())
    selector = site.series(HASHRATE)
    begin = WALL - 5 * DAY
    before = [begin + at for at in held]

    def filled(times: list[float]) -> list[float]:
        windows = windows_until([site], 0) | {selector: gaps(times)}
        text = "".join(exposition([site], windows, -inf, WALL))
        return list(read(text).get(HASHRATE.name, {}))

    new = filled(before)

    assert not set(new) & set(before)
    assert [] == filled(sorted([*before, *new]))


def answering(answer: Any, status: int = 200) -> Prometheus:
    """Return a Prometheus that answers every query like this, or as a function of its parameters."""

    def respond(request: httpx.Request) -> httpx.Response:
        content = answer(request.url.params) if callable(answer) else answer
        return httpx.Response(status, json=content)

    return Prometheus("http://prom:9090/prometheus", httpx.MockTransport(respond))


def having(
    times: Sequence[float], labels: Mapping[str, str] | None = None, head: float = 2**63 / 1000
) -> Prometheus:
    """Return a Prometheus that has samples of each series of `demo` at these times."""
    labels = {**LABELS, "instance": "demo", "site": "demo"} if labels is None else labels

    def answer(parameters: httpx.QueryParams) -> dict[str, Any]:
        if not parameters:
            return {"data": {"headStats": {"minTime": head * 1000}}}
        selected = all(f'{name}="{labels[name]}"' in parameters["query"] for name in labels if name in LABELS)
        end, span = float(parameters["time"]), re.findall(r"\[(\d+)(s|d)\]", parameters["query"])[0]
        begin = end - int(span[0]) * (1 if span[1] == "s" else DAY)
        values = [[at, "1"] for at in times if begin <= at <= end]
        any_labels = "instance=" not in parameters["query"]  # the query for other labels of the site
        result = [{"metric": labels, "values": values}] if values and (selected or any_labels) else []
        return {"data": {"result": result}}

    return answering(answer)


def missing(prometheus: Prometheus, site: Source, since: float = -inf, *, gaps_only: bool) -> list[Any]:
    """Return the windows, which are the same for all metrics here."""
    windows, _ = asyncio.run(prometheus.missing([site], since, WALL, gaps_only=gaps_only))
    (same,) = {tuple(metric) for metric in windows.values()}
    return list(same)


def test_prometheus_is_asked_day_by_day() -> None:
    """Raw samples, so that their times are exact, from a little before; those at the edges are told once."""
    queries = []

    def answer(parameters: httpx.QueryParams) -> dict[str, Any]:
        queries.append(parameters["query"])
        times = [float(parameters["time"]) - DAY, float(parameters["time"])]
        return {"data": {"result": [{"metric": {}, "values": [[at, "1"] for at in times]}]}}

    site = source(week())
    times = asyncio.run(answering(answer).sample_times(site, HASHRATE, 2 * DAY, 4 * DAY))
    selector = site.series(HASHRATE)

    assert [2 * DAY - LOOKBACK, 3 * DAY - LOOKBACK, 3 * DAY, 4 * DAY - LOOKBACK, 4 * DAY] == times
    assert [f"count_over_time({selector}[{30 * DAY}s])", *[f"{selector}[{DAY}s]"] * 3] == queries


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ({"status": "error", "error": "http://me:secret@prom"}, 400),
        ([], 200),
        ({"data": {"result": [{}]}}, 200),
    ],
)
def test_an_answer_that_is_none_is_told(answer: Any, status: int) -> None:
    """Which Prometheus, and what to try; nothing of what the answer holds."""
    with pytest.raises(PrometheusError) as caught:
        asyncio.run(answering(answer, status).sample_times(source(week()), HASHRATE, 0, DAY))

    assert str(caught.value).startswith("Prometheus at prom:9090: no answer to a query")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("expected", "url"),
    [
        ("127.0.0.1:{closed} refused the connection", "http://127.0.0.1:{closed}/"),
        (
            "the host name no-such-host.invalid of --prometheus cannot be resolved",
            "https://no-such-host.invalid",
        ),
        ("127.0.0.1:{port} does not speak TLS: correct the port or https:// in", "https://127.0.0.1:{port}"),
        ("127.0.0.1:{port} closed the connection without an answer", "http://127.0.0.1:{port}"),
    ],
)
def test_a_prometheus_that_is_not_reached_is_told(expected: str, url: str) -> None:
    """What happened, to which host, and what to correct, in words; no name of a class."""

    async def play(closed: int) -> tuple[str, int]:
        async with Server(Reply((b"HTTP/1.1 2",)), hasty=True) as server:
            prometheus = Prometheus(url.format(closed=closed, port=server.port))
            with pytest.raises(PrometheusError) as caught:
                await prometheus.missing([source(week())], -inf, WALL, gaps_only=False)
            return str(caught.value), server.port

    with closed_port() as closed:
        said, port = asyncio.run(play(closed))

    assert said.startswith("Prometheus cannot be reached: " + expected.format(closed=closed, port=port))


def test_an_answer_with_warnings_is_refused() -> None:
    """A partial answer, as Thanos gives one, would make holes of what is there: nothing is written."""
    answer = {"warnings": ["a store is away: secret"], "data": {"result": []}}
    with pytest.raises(PrometheusError) as caught:
        asyncio.run(answering(answer, 200).sample_times(source(week()), HASHRATE, 0, DAY))

    assert str(caught.value).startswith("Prometheus at prom:9090 answers with warnings")
    assert "secret" not in str(caught.value)


def test_windows_end_where_a_series_begins() -> None:
    """All is free before the first sample, and until now where there is none at all."""
    site = source(week())

    assert [(-inf, WALL - 100)] == missing(having([WALL - 100, WALL - 90]), site, gaps_only=False)
    assert [(-inf, WALL)] == missing(having([]), site, gaps_only=False)


def test_what_was_there_before_is_seen() -> None:
    """Where a series has samples before the API's oldest row, or before `since`, nothing is before it."""
    site = source(week())
    old = [WALL - 9 * DAY, WALL - 8 * DAY, WALL - 3 * DAY]
    begin = WALL - 2 * HOUR
    dense = [WALL - index * 60.0 for index in range(600)]

    oldest = site.history.rows[0].synctime - LOOKBACK

    assert [(-inf, oldest)] == missing(having(old), site, gaps_only=False)
    assert [(oldest, WALL - 3 * DAY)] == missing(having(old), site, gaps_only=True)
    assert [(-inf, begin - LOOKBACK)] == missing(having(dense), site, begin, gaps_only=False)
    assert [] == missing(having(dense), site, begin, gaps_only=True)


def test_nothing_is_written_over_the_head() -> None:
    """Windows end where the head begins, holes that reach into it too; those within it are none."""
    site, head = source(week()), WALL - 2 * HOUR
    times = [WALL - 9 * HOUR, WALL - HOUR, WALL - HOUR / 2]

    assert [(times[0], head)] == missing(having(times, head=head), site, gaps_only=True)


def test_a_head_that_is_not_told_is_three_hours() -> None:
    """As for a server that is like Prometheus and keeps its blocks otherwise."""
    others: list[Any] = [{"data": {"totalSeries": 1}}, [], "no"]
    for other in others:
        assert WALL - 3 * HOUR == asyncio.run(answering(other).head_start(WALL))


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ({**LABELS, "instance": "demo", "site": "demo", "env": "x"}, "more labels than --label names: env"),
        (
            {"job": "other", "instance": "a:1", "site": "demo"},
            "under other labels \\(job=other, instance=a:1\\)",
        ),
    ],
)
def test_a_twin_is_refused(labels: dict[str, str], says: str) -> None:
    """Labels that are not those of the scraped series would make a second one of each."""
    with pytest.raises(PrometheusError, match=says):
        missing(having([WALL - 100], labels), source(week()), gaps_only=False)
