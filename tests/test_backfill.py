"""The backfilled week: what the exporter would have exported at each time, and where it may be written."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import tempfile
import tracemalloc
from collections import defaultdict
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as families

from exporter import backfill
from exporter.api.answers import HistoryRow
from exporter.backfill import EVERY, LOOKBACK, METRICS, Prometheus, Source, Unanswered
from exporter.cli import main
from exporter.clock import Now
from exporter.collectors import history, metrics, snapshot
from exporter.collectors.history import DAY, HOUR, Meaning
from exporter.collectors.snapshot import Snapshot
from tests.conftest import WALL, parsed, required

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NAMES = [metric.name for metric in METRICS]
LABELS = {"job": "cryptoloot", "instance": "{site}"}
OLDEST = WALL // HOUR * HOUR - 4 * DAY  # of the rows that tests draw


def subject(max_row_age: float = 4 * HOUR) -> metrics.Subject:
    config = parsed()
    return replace(metrics.subject(config, config.sites[0]), max_row_age=max_row_age)


def source(rows: Sequence[HistoryRow], now: float = WALL, max_row_age: float = 4 * HOUR) -> Source:
    """Return a source as a poll of these rows leaves it."""
    tidied, _ = history.tidy(rows, now)
    meaning = history.meaning(tidied[: history.settled_count(tidied, now)], Meaning.UNKNOWN)
    known = snapshot.with_history(Snapshot(), tidied, meaning, Now(now, now))
    return backfill.source(subject(max_row_age), known, LABELS)


def week(hours: int = 168, end: float = WALL) -> list[HistoryRow]:
    """Return rows with the rhythm of days, the newest still filling."""
    newest = end // HOUR * HOUR
    rates = [(newest - index * HOUR, 100.0 + index % 24 + index / 1000) for index in reversed(range(hours))]
    return [HistoryRow(begin, rate * HOUR, rate) for begin, rate in rates]


def samples(lines: str) -> dict[str, dict[int, float]]:
    """Return what the lines say, read by prometheus-client: values by time, by metric."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for family in families(lines):
        for sample in family.samples:
            at = int(float(sample.timestamp))
            assert at not in found[sample.name]
            assert not found[sample.name] or at > max(found[sample.name])
            found[sample.name][at] = sample.value
    return dict(found)


def written(site: Source, since: float = -inf, until: float = inf, now: float = WALL) -> str:
    return "".join(backfill.written([site], backfill.before([site], until), since, now))


@st.composite
def histories(draw: st.DrawFn) -> list[HistoryRow]:
    """Return an answer of any quality: gaps, duplicates, corrections, odd hours, no order, either meaning."""
    hours = draw(st.lists(st.integers(0, 100), max_size=60))
    odd = draw(st.sampled_from([0.0, 0.0, 17.0, 899.5]))
    rates = st.one_of(st.just(0.0), st.floats(0.001, 1e7))
    cumulative, total, rows = draw(st.booleans()), 0.0, []
    for hour in sorted(hours):
        rate = draw(rates)
        total += rate * HOUR
        hashes = draw(st.floats(0, 1e12)) if draw(st.integers(0, 9)) == 0 else rate * HOUR
        rows.append(HistoryRow(OLDEST + hour * HOUR + odd, total if cumulative else hashes, rate))
    return draw(st.permutations(rows))


def exported(site: Source, at: float) -> dict[str, float]:
    """Return what the exporter shows after a poll at this time that brings the rows there were."""
    rows = tuple(row for row in site.known.last_rows if row.synctime <= at)
    now = Now(at, at)
    known = snapshot.with_history(Snapshot(), rows, site.known.meaning, now)
    page = {
        family.metric.name: value
        for family in metrics.site_families(site.subject, known, now)
        for _, value in family.samples()
        if family.metric.name in NAMES
    }
    settled = sum(row.synctime + history.SETTLED_AFTER <= at for row in rows)
    if settled < 24 + (site.known.meaning == Meaning.CUMULATIVE):
        page.pop(metrics.DAY_HASHES.name, None)
    return page


# ---------------------------------------------------------------------------------------------------- samples


@pytest.mark.parametrize("examples", [10, pytest.param(60, marks=pytest.mark.slow)])
def test_every_sample_is_what_the_exporter_shows_at_its_time(examples: int) -> None:
    """For every time of the grid, and no other, up to now: of any history the same as the page's."""

    @settings(deadline=None, max_examples=examples)
    @given(histories(), st.sampled_from([3 * HOUR, 4 * HOUR, 30 * HOUR]))
    def check(rows: list[HistoryRow], max_row_age: int) -> None:
        site = source(rows, max_row_age=max_row_age)
        expected = defaultdict[str, dict[int, float]](dict)
        for at in range(int(OLDEST // EVERY * EVERY), int(WALL), EVERY):
            for name, value in exported(site, at).items():
                expected[name][at] = value

        assert dict(expected) == samples(written(site))

    check()


@pytest.mark.slow
@settings(deadline=None, max_examples=8)
@given(histories())
def test_promtool_takes_any_history(rows: list[HistoryRow]) -> None:
    """Prometheus' own reader makes blocks of it, and they have all samples."""
    with tempfile.TemporaryDirectory() as directory:
        assert blocks(Path(directory), written(source(rows)))


def blocks(directory: Path, text: str) -> bool:
    """Whether promtool makes blocks with every sample; where there is none, it makes no block."""
    file = directory / "week.om"
    file.write_text(text)
    data = str(directory / "data")
    command = (required("promtool"), "tsdb", "create-blocks-from", "openmetrics", str(file), data)
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    made = [line.split() for line in ran.stdout.split("\n")[1:] if line]
    count = sum(line[0] != "#" for line in text.split("\n")[:-1])
    return ran.returncode == 0 and count == sum(int(block[4]) for block in made)


def test_blocks_can_be_made_of_it(tmp_path: Path) -> None:
    """`promtool tsdb create-blocks-from openmetrics` reads all samples of all sites."""
    one = source(week())
    other = Source(replace(one.subject, name="two"), one.known, {**one.labels, "site": "two"})
    text = "".join(backfill.written([one, other], backfill.before([one, other], inf), -inf, WALL))

    assert blocks(tmp_path, text)


def test_the_same_rows_are_the_same_bytes() -> None:
    """A later run, with the same rows and until the same time, writes the same."""
    rows, end = week(), WALL - 3 * HOUR

    assert written(source(rows), until=end) == written(source(rows), until=end, now=WALL + 100)


def test_nothing_is_written_outside_the_bounds() -> None:
    """`since` is within, `until` is not, and neither is what is not yet."""
    site = source(week())
    since, until = WALL // EVERY * EVERY - DAY, WALL // EVERY * EVERY - HOUR
    times = list(samples(written(site, since, until))[metrics.HASHRATE.name])

    assert (since, until - EVERY) == (times[0], times[-1])
    assert max(samples(written(site, until=WALL + DAY))[metrics.HASHRATE.name]) < WALL


def test_hours_without_rows_are_holes() -> None:
    """What depends on rows ends with `max_row_age`; the timestamp of the newest settled one goes on."""
    rows = week()
    gone = [row for row in rows if not WALL - 40 * HOUR < row.synctime < WALL - 20 * HOUR]
    found = samples(written(source(gone)))
    hole = range(int((WALL - 30 * HOUR) // EVERY * EVERY), int(WALL - 20 * HOUR), EVERY)

    assert hole
    assert not set(hole) & set(found[metrics.HASHRATE.name])
    assert set(hole) <= set(found[metrics.SETTLED_TIMESTAMP.name])


def test_a_site_without_rows_writes_nothing() -> None:
    """The file is whole, and says nothing."""
    text = written(source([]))

    assert {} == samples(text)
    assert text.endswith("# EOF\n")


def test_labels_are_those_of_the_scrape() -> None:
    """`{site}` is the site; what a value holds is escaped; the site's own label comes with it."""
    labels = {"job": 'a "b"\\', "instance": "{site}:x"}
    site = backfill.source(subject(), source(week(30)).known, labels)
    (family, *_) = families(written(site))

    assert {"job": 'a "b"\\', "instance": "demo:x", "site": "demo"} == family.samples[0].labels


@pytest.mark.slow
def test_a_year_takes_no_more_memory_than_its_rows() -> None:
    """Lines are made as they are read: 52 times the rows, and no list of samples."""
    peaks, counts = [], []
    for hours in (168, 8760):
        site = source(week(hours))
        windows = backfill.before([site], inf)
        tracemalloc.start()
        counts.append(sum(1 for _ in backfill.written([site], windows, -inf, WALL)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    assert counts[1] > 50 * counts[0] > 500_000
    assert peaks[1] - peaks[0] < 16 << 20


# ------------------------------------------------------------------------------------------------- Prometheus


@given(st.lists(st.floats(0, 10_000), max_size=30).map(sorted))
def test_holes_lie_between_samples(held: list[float]) -> None:
    """A hole is wider than Prometheus looks back; none is before the first sample, or after the last."""
    found = backfill.holes(held)

    assert all(other - one > LOOKBACK for one, other in found)
    assert all({one, other} <= set(held) for one, other in found)
    assert not any(one < each < other for one, other in found for each in held)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 3 * DAY), max_size=300).map(sorted))
def test_filling_the_gaps_twice_fills_nothing(held: list[int]) -> None:
    """What is written lies strictly within the holes, and leaves none that more could be written to."""
    site = source(week())
    selector = site.series(metrics.HASHRATE)
    begin = WALL - 5 * DAY
    before = [begin + at for at in held]

    def filled(times: list[float]) -> list[float]:
        windows = backfill.before([site], 0) | {selector: backfill.holes(times)}
        text = "".join(backfill.written([site], windows, -inf, WALL))
        return list(samples(text).get(metrics.HASHRATE.name, {}))

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
    own = {**LABELS, "instance": "demo", "site": "demo"} if labels is None else labels

    def answer(parameters: httpx.QueryParams) -> dict[str, Any]:
        if not parameters:
            return {"data": {"headStats": {"minTime": head * 1000}}}
        asked = all(f'{name}="{own[name]}"' in parameters["query"] for name in own if name in LABELS)
        end, span = float(parameters["time"]), re.findall(r"\[(\d+)(s|d)\]", parameters["query"])[0]
        begin = end - int(span[0]) * (1 if span[1] == "s" else DAY)
        found = [[at, "1"] for at in times if begin <= at <= end]
        other = "instance=" not in parameters["query"]  # whoever has the site at all
        return {"data": {"result": [{"metric": own, "values": found}] if found and (asked or other) else []}}

    return answering(answer)


def windows(prometheus: Prometheus, site: Source, since: float = -inf, *, gaps: bool) -> list[Any]:
    """Return the windows, which are the same for all metrics here."""
    found, _ = asyncio.run(backfill.missing([site], prometheus, since, WALL, gaps=gaps))
    (same,) = {tuple(each) for each in found.values()}
    return list(same)


def test_prometheus_is_asked_day_by_day() -> None:
    """Raw samples, so that their times are exact, from a little before; those at the edges are told once."""
    asked = []

    def answer(parameters: httpx.QueryParams) -> dict[str, Any]:
        asked.append(parameters["query"])
        times = [float(parameters["time"]) - DAY, float(parameters["time"])]
        return {"data": {"result": [{"metric": {}, "values": [[at, "1"] for at in times]}]}}

    site = source(week())
    found = asyncio.run(answering(answer).held(site, metrics.HASHRATE, 2 * DAY, 4 * DAY))
    selector = site.series(metrics.HASHRATE)

    assert [2 * DAY - LOOKBACK, 3 * DAY - LOOKBACK, 3 * DAY, 4 * DAY - LOOKBACK, 4 * DAY] == found
    assert [f"count_over_time({selector}[{30 * DAY}s])", *[f"{selector}[{DAY}s]"] * 3] == asked


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
    with pytest.raises(Unanswered) as caught:
        asyncio.run(answering(answer, status).held(source(week()), metrics.HASHRATE, 0, DAY))

    assert str(caught.value).startswith("Prometheus at prom:9090: no answer to a query")
    assert "secret" not in str(caught.value)


def test_windows_end_where_a_series_begins() -> None:
    """All is free before the first sample, and until now where there is none at all."""
    site = source(week())

    assert [(-inf, WALL - 100)] == windows(having([WALL - 100, WALL - 90]), site, gaps=False)
    assert [(-inf, WALL)] == windows(having([]), site, gaps=False)


def test_what_was_there_before_is_seen() -> None:
    """Where a series has samples before the API's oldest row, or before `since`, nothing is before it."""
    site = source(week())
    old = [WALL - 9 * DAY, WALL - 8 * DAY, WALL - 3 * DAY]
    begin = WALL - 2 * HOUR
    dense = [WALL - index * 60.0 for index in range(600)]

    oldest = site.known.last_rows[0].synctime - LOOKBACK

    assert [(-inf, oldest)] == windows(having(old), site, gaps=False)
    assert [(oldest, WALL - 3 * DAY)] == windows(having(old), site, gaps=True)
    assert [(-inf, begin - LOOKBACK)] == windows(having(dense), site, begin, gaps=False)
    assert [] == windows(having(dense), site, begin, gaps=True)


def test_nothing_is_written_over_the_head() -> None:
    """Windows end where the head begins, holes that reach into it too; those within it are none."""
    site, head = source(week()), WALL - 2 * HOUR
    times = [WALL - 9 * HOUR, WALL - HOUR, WALL - HOUR / 2]

    assert [(times[0], head)] == windows(having(times, head=head), site, gaps=True)


def test_a_head_that_is_not_told_is_three_hours() -> None:
    """As for a server that is like Prometheus and keeps its blocks otherwise."""
    others: list[Any] = [{"data": {"totalSeries": 1}}, [], "no"]
    for other in others:
        assert WALL - 3 * HOUR == asyncio.run(answering(other).head(WALL))


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
    with pytest.raises(Unanswered, match=says):
        windows(having([WALL - 100], labels), source(week()), gaps=False)


# ------------------------------------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--output=x", "one of the arguments --until --prometheus is required"),
        ("--output=x --until=now --prometheus=http://a", "not allowed with argument"),
        (
            "--output=x --until=tomorrow",
            "'tomorrow' is no time: write 2026-01-31T12:00:00Z, Unix seconds, or now",
        ),
        ("--output=x --until=2026-01-31T12:00:00", "is no time"),
        ("--output=x --until=1763900000000", "is no time"),
        ("--output=x --until=now --label=site=a", "site is the samples' own"),
        ("--output=x --until=now --label=a-b=c", "is not NAME=VALUE"),
        ("--output=x --until=now --label=a=\udcff", "is not NAME=VALUE"),
        ("--output=x --until=now --label=a=b --label=a=c", "--label a is there twice"),
        ("--output=x --prometheus=prom:9090", "write http://HOST:PORT"),
        ("--output=x --prometheus=http://me:hunter2@prom", "(--prometheus takes it from ~/.netrc)"),
        ("--output=x --prometheus=http://me:pa/ss@prom", "(--prometheus takes it from ~/.netrc)"),
        ("--output=x --until=now --site=b", "--site b: the config has no such site; it has a"),
        ("--output=x --until=now --gaps", "--gaps needs --prometheus"),
        ("--output=x --since=2026-01-31T12:00:00Z --until=2026-01-31t12:00:00z", "nothing lies between"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: str, says: str
) -> None:
    """Exit code 2, what is wrong, and no part of a password."""
    config = tmp_path / "config.yaml"
    config.write_text("api: {url: 'http://127.0.0.1:1'}\nsites: [{name: a, secret: s}]\n")
    with contextlib.suppress(SystemExit):
        assert 2 == main(["backfill", f"--config.file={config}", *flags.split()])
    told = " ".join(capsys.readouterr().err.split())

    assert says in told
    assert "hunter2" not in told
    assert "pa/ss" not in told
    assert not (tmp_path / "x").exists()
