"""What the exporter would have exported at each time."""

from __future__ import annotations

import subprocess
import tempfile
import tracemalloc
from collections import defaultdict
from math import inf
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as families

from exporter.api.answers import HistoryRow
from exporter.backfill import samples
from exporter.backfill.samples import METRICS, STEP_SECONDS, Source, exposition, windows_until
from exporter.clock import Now
from exporter.collectors.expiry import Reading
from exporter.collectors.history import DAY_HASHES, HASHRATE, SETTLED_TIMESTAMP, HistoryState
from exporter.collectors.history_rows import DAY, HOUR, SETTLED_AFTER, Meaning
from exporter.collectors.registry import HISTORY_COLLECTOR
from tests.backfill.sources import a_site, read, source, week, written
from tests.conftest import WALL, examples, required

NAMES = [metric.name for metric in METRICS]
OLDEST = WALL // HOUR * HOUR - 4 * DAY  # of the rows that tests draw


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


def exported(source: Source, at: float) -> dict[str, float]:
    """Return what the exporter shows after a poll at this time that brings the rows there were."""
    rows = tuple(row for row in source.history.rows if row.synctime <= at)
    now = Now(at, at)
    history = HistoryState(Reading(rows, now), rows, source.history.meaning)
    view = HISTORY_COLLECTOR.visible(source.site, history, now).view
    page = {
        family.metric.name: value
        for family in HISTORY_COLLECTOR.families(source.site, view)
        for value in family.values
        if family.metric.name in NAMES
    }
    settled = sum(row.synctime + SETTLED_AFTER <= at for row in rows)
    if settled < 24 + (source.history.meaning == Meaning.CUMULATIVE):
        page.pop(DAY_HASHES.name, None)
    return page


@examples(1 / 8)
@given(histories(), st.sampled_from([3 * HOUR, 4 * HOUR, 30 * HOUR]))
def test_every_sample_is_what_the_exporter_shows_at_its_time(
    rows: list[HistoryRow], max_row_age: int
) -> None:
    """For every time of the grid, and no other, up to now: of any history the same as the page's."""
    site = source(rows, max_row_age=max_row_age)
    expected = defaultdict[str, dict[int, float]](dict)
    for at in range(int(OLDEST // STEP_SECONDS * STEP_SECONDS), int(WALL), STEP_SECONDS):
        for name, value in exported(site, at).items():
            expected[name][at] = value

    assert dict(expected) == read(written(site))


@pytest.mark.slow
@examples(1 / 40)
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
    created = [line.split() for line in ran.stdout.split("\n")[1:] if line]
    count = sum(line[0] != "#" for line in text.split("\n")[:-1])
    return ran.returncode == 0 and count == sum(int(block[4]) for block in created)


@pytest.mark.slow
def test_blocks_can_be_made_of_it(tmp_path: Path) -> None:
    """`promtool tsdb create-blocks-from openmetrics` reads all samples of all sites."""
    one = source(week())
    other = Source(a_site(name="two"), one.history, {**one.labels, "site": "two"})
    text = "".join(exposition([one, other], windows_until([one, other], inf), -inf, WALL))

    assert blocks(tmp_path, text)


def test_the_same_rows_are_the_same_bytes() -> None:
    """A later run, with the same rows and until the same time, writes the same."""
    rows, end = week(), WALL - 3 * HOUR

    assert written(source(rows), until=end) == written(source(rows), until=end, now=WALL + 100)


def test_nothing_is_written_outside_the_bounds() -> None:
    """`since` is within, `until` is not, and neither is what is not yet."""
    site = source(week())
    since, until = WALL // STEP_SECONDS * STEP_SECONDS - DAY, WALL // STEP_SECONDS * STEP_SECONDS - HOUR
    times = list(read(written(site, since, until))[HASHRATE.name])

    assert (since, until - STEP_SECONDS) == (times[0], times[-1])
    assert max(read(written(site, until=WALL + DAY))[HASHRATE.name]) < WALL


def test_hours_without_rows_are_holes() -> None:
    """What depends on rows ends with `max_row_age`; the timestamp of the newest settled one goes on."""
    rows = week()
    gone = [row for row in rows if not WALL - 40 * HOUR < row.synctime < WALL - 20 * HOUR]
    values = read(written(source(gone)))
    hole = range(int((WALL - 30 * HOUR) // STEP_SECONDS * STEP_SECONDS), int(WALL - 20 * HOUR), STEP_SECONDS)

    assert hole
    assert not set(hole) & set(values[HASHRATE.name])
    assert set(hole) <= set(values[SETTLED_TIMESTAMP.name])


def test_a_site_without_rows_writes_nothing() -> None:
    """The file is whole, and says nothing."""
    text = written(source([]))

    assert {} == read(text)
    assert text.endswith("# EOF\n")


def test_labels_are_those_of_the_scrape() -> None:
    """`{site}` is the site; what a value holds is escaped; the site's own label comes with it."""
    labels = {"job": 'a "b"\\', "instance": "{site}:x"}
    site = samples.source(a_site(), source(week(30)).history, labels)
    (family, *_) = families(written(site))

    assert {"job": 'a "b"\\', "instance": "demo:x", "site": "demo"} == family.samples[0].labels


@pytest.mark.slow
def test_samples_are_not_kept_in_memory() -> None:
    """Lines are made as they are read: six times the rows need no more memory than the rows themselves."""
    peaks, counts = [], []
    for hours in (168, 1000):
        site = source(week(hours))
        windows = windows_until([site], inf)
        tracemalloc.start()
        counts.append(sum(1 for _ in exposition([site], windows, -inf, WALL)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    assert counts[1] > 6 * counts[0] > 60_000
    assert peaks[1] - peaks[0] < 2 << 20  # the lines are eight million bytes
