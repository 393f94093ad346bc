from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from exporter.api.answers import Entries, HistoryRow, decode_history
from exporter.api.client import Request
from exporter.api.errors import InvalidResponse
from exporter.clock import Now
from exporter.collectors import history_rows
from exporter.collectors.collector import WarningEvent
from exporter.collectors.expiry import ROUNDING
from exporter.collectors.history import HISTORY, HistoryView
from exporter.collectors.history_rows import Meaning
from exporter.collectors.registry import HISTORY_COLLECTOR
from exporter.collectors.snapshot import Snapshot
from tests.collectors.sites import (
    HOUR,
    LAST_HOUR,
    NOW,
    a_site,
    answer_of,
    exported,
    later,
    rows,
    step,
    with_rows,
)

if TYPE_CHECKING:
    from exporter.config import Site

SITE = a_site()
CLOCK_TIME = f"{datetime.fromtimestamp(NOW.wall, UTC):%Y-%m-%dT%H:%M:%SZ}"
PATIENT = a_site(poll={"history": {"stale_after": "99h"}})  # only the age of rows removes anything


def a_snapshot(*answer: HistoryRow) -> Snapshot:
    return with_rows(Snapshot(), SITE, answer)


def value(snapshot: Snapshot, name: str, after: float = 0.0, site: Site = SITE) -> float | None:
    return exported(site, snapshot, later(after)).get(name, {}).get("")


def view(snapshot: Snapshot, after: float = 0.0, site: Site = SITE) -> HistoryView:
    return HISTORY_COLLECTOR.visible(site, snapshot.state(HISTORY_COLLECTOR), later(after)).view


def nonsense(count: int) -> tuple[HistoryRow, ...]:
    """Return rows whose hashes fit no meaning."""
    return tuple(HistoryRow(row.synctime, 1e12 / (1 + place), 1.0) for place, row in enumerate(rows(count)))


def test_one_request_is_one_poll() -> None:
    """The endpoint is asked once, without parameters."""
    answer, requests = answer_of(SITE, HISTORY, lambda _: Entries(rows(2)))

    assert Entries(rows(2)) == answer
    assert [Request(HISTORY, decode_history)] == requests


def test_an_answer_is_put_in_order() -> None:
    """Rows are kept ascending; unreadable ones and those of the future count as rejected."""
    future = HistoryRow(NOW.wall + 2 * HOUR, 1, 1)
    after = step(SITE, HISTORY, Snapshot(), Entries((*reversed(rows(3)), future), 2, None, "a fault"))

    assert (rows(3), 3) == (after.state.rows, after.rejected)
    assert "a fault" == step(SITE, HISTORY, Snapshot(), Entries(rows(3), 2, None, "a fault")).fault


CLOCK = "this machine's clock says {}; if that is wrong, set the clock, else the API's is wrong"


def test_rows_of_the_future_name_the_clock() -> None:
    """A clock that is behind, or an API's that is ahead, is told where it costs rows."""
    after = step(SITE, HISTORY, Snapshot(), Entries(rows(5, newest=LAST_HOUR + 3 * HOUR)))

    assert 2 == after.rejected
    assert f"$.history: 2 of 5 rows begin in the future: {CLOCK.format(CLOCK_TIME)}" == after.fault


@pytest.mark.parametrize("before", [Snapshot(), a_snapshot(*rows(5))], ids=["at the start", "later"])
def test_only_rows_of_the_future_are_a_failure(before: Snapshot) -> None:
    """An answer whose rows all lie in the future is no success: a clock is wrong, say 1970 before NTP."""
    start = Now(100.0, 5.0)

    with pytest.raises(InvalidResponse) as caught:
        step(SITE, HISTORY, before, Entries(rows(168)), start)
    assert f"$.history: 168 of 168 rows begin in the future: {CLOCK.format('1970-01-01T00:01:40Z')}" == str(
        caught.value
    )


def test_more_rows_of_the_future_than_others_are_a_failure() -> None:
    """What remains of a week is not shown as the week."""
    with pytest.raises(InvalidResponse, match=r"3 of 5 rows begin in the future"):
        step(SITE, HISTORY, Snapshot(), Entries(rows(5, newest=LAST_HOUR + 4 * HOUR)))


@pytest.mark.parametrize(
    "newest", [0, LAST_HOUR // 3600, LAST_HOUR - 300 * 24 * HOUR, LAST_HOUR - 193 * HOUR]
)
def test_only_rows_from_before_the_week_are_a_failure(newest: float) -> None:
    """The API has the last 7 days: a newest row of 8 days ago has another unit, or comes by another clock."""
    with pytest.raises(
        InvalidResponse,
        match=r"newest row is of \d{4}-.*7 days: is synctime in Unix seconds\? this machine's clock",
    ):
        step(SITE, HISTORY, Snapshot(), Entries(rows(5, newest=newest)))


@pytest.mark.parametrize("wall", [-1e300, -1e15])
def test_no_clock_is_too_odd_to_be_told(wall: float) -> None:
    """A time that no calendar has is told in seconds."""
    with pytest.raises(InvalidResponse, match=re.escape(f"this machine's clock says {wall:g} s; if")):
        step(SITE, HISTORY, Snapshot(), Entries(rows(3)), Now(wall, 5.0))


def test_the_settled_row_is_the_hashrate() -> None:
    """The newest row that ended 15 minutes ago or more is the hashrate; the newest of all is unsettled."""
    snapshot = a_snapshot(*rows(3, 100.0, LAST_HOUR - HOUR), HistoryRow(LAST_HOUR, 50 * HOUR, 70.0))

    assert value(snapshot, "hashrate_hashes_per_second") == 100.0
    assert value(snapshot, "unsettled_hashrate_hashes_per_second") == 70.0
    assert LAST_HOUR == value(snapshot, "history_row_timestamp_seconds")
    assert LAST_HOUR - 2 * HOUR == value(snapshot, "history_settled_row_timestamp_seconds")


def test_a_row_settles_while_nothing_is_polled() -> None:
    """What is settled is judged when the page is made: time alone makes the next row the hashrate."""
    snapshot = a_snapshot(*rows(3, 100.0, LAST_HOUR - HOUR), HistoryRow(LAST_HOUR, 50 * HOUR, 70.0))
    settles = LAST_HOUR + 75 * 60 - NOW.wall
    name = "history_settled_row_timestamp_seconds"

    assert LAST_HOUR - HOUR == value(snapshot, name, settles - 1, PATIENT)
    assert LAST_HOUR == value(snapshot, name, settles, PATIENT)


def test_old_rows_are_removed_though_polls_succeed() -> None:
    """R: rows older than max_row_age are not exported as now, however fresh the answer; timestamps stay."""
    values = exported(SITE, a_snapshot(*rows(10, newest=LAST_HOUR - 5 * HOUR)))

    assert "hashrate_hashes_per_second" not in values
    assert "unsettled_hashrate_hashes_per_second" not in values
    assert "history_week_hashes" not in values
    assert values["history_rows"][""] == 10
    assert LAST_HOUR - 5 * HOUR == values["history_row_timestamp_seconds"][""]


def test_row_age_counts_to_the_second() -> None:
    """A settled row of exactly max_row_age is exported, one second later it is not."""
    snapshot = a_snapshot(*rows(10, newest=LAST_HOUR - HOUR))
    too_old = LAST_HOUR - HOUR + 4 * HOUR - NOW.wall

    assert value(snapshot, "hashrate_hashes_per_second", too_old, PATIENT) is not None
    assert value(snapshot, "hashrate_hashes_per_second", too_old + 1, PATIENT) is None


@pytest.mark.parametrize(
    ("days", "samples", "baseline"), [(2, 1, None), (3, 2, None), (4, 3, 100.0), (7, 6, 100.0)]
)
def test_the_baseline_needs_three_days(days: int, samples: int, baseline: float | None) -> None:
    """The median over the same hour of earlier days is there from the third such row on."""
    snapshot = a_snapshot(*rows(24 * days + 2))

    assert samples == value(snapshot, "baseline_samples")
    assert baseline == value(snapshot, "baseline_hashrate_hashes_per_second")


EXPECTED = {"expected_hashrate_hashes_per_second", "hashrate_spread_ratio", "hashrate_expected_ratio"}


def test_what_was_expected_is_exported_with_its_spread_and_windows() -> None:
    """An even week expects an even hour, in each window; two days of rows say nothing."""
    values = exported(SITE, a_snapshot(*rows(168)))

    assert {"": 100.0} == values["expected_hashrate_hashes_per_second"]
    assert {"": 0.0} == values["hashrate_spread_ratio"]
    assert [1.0, 1.0, 1.0] == list(values["hashrate_expected_ratio"].values())
    assert set() == EXPECTED & set(exported(SITE, a_snapshot(*rows(48))))


def test_what_was_expected_is_removed_with_its_row() -> None:
    """R: without a recent row there is no expectation; the spread stays until the answer is stale."""
    old = exported(SITE, a_snapshot(*rows(168, newest=LAST_HOUR - 5 * HOUR)))

    assert {"hashrate_spread_ratio"} == EXPECTED & set(old)
    assert set() == EXPECTED & set(exported(SITE, a_snapshot(*rows(168)), later(99 * HOUR)))


def test_rows_that_the_api_forgets_are_remembered() -> None:
    """With the answers of two weeks the same hour a week ago is known: as low as then is no drop."""
    low = LAST_HOUR - 2 * HOUR  # the newest settled row
    snapshot = Snapshot()
    for week in (2, 1, 0):
        newest = LAST_HOUR - week * 168 * HOUR
        answer = [
            replace(row, hashrate=40.0) if (low - row.synctime) % (168 * HOUR) == 0 else row
            for row in rows(168, newest=newest)
        ]
        snapshot = with_rows(snapshot, SITE, answer, later(newest - LAST_HOUR))

    assert 40.0 == value(snapshot, "expected_hashrate_hashes_per_second")
    assert 100.0 == value(a_snapshot(*answer), "expected_hashrate_hashes_per_second")


def test_a_row_that_settles_between_polls_is_judged_at_once() -> None:
    """What is expected is that of the newest settled row, whether a poll has come since or not."""
    answer = rows(168)
    changed = (*answer[:-1], replace(answer[-1], hashrate=50.0))
    settles = LAST_HOUR + 4500 - NOW.wall
    ratios = [
        exported(PATIENT, a_snapshot(*changed), later(after))["hashrate_expected_ratio"].values()
        for after in (settles - 1, settles)
    ]

    assert [[1.0, 1.0, 1.0], [0.5, 0.75, 250 / 300]] == [list(each) for each in ratios]


def test_a_young_site_has_no_baseline_samples_yet() -> None:
    """Zero samples with a settled row, and no gauge at all without one."""
    assert value(a_snapshot(*rows(3)), "baseline_samples") == 0
    assert value(a_snapshot(*rows(2)), "baseline_samples") is None


def test_hashes_are_summed_over_settled_rows() -> None:
    """Row, day and week are sums of settled rows; a site younger than a day has fewer."""
    snapshot = a_snapshot(*rows(30, 100.0))

    assert value(snapshot, "history_row_hashes") == 100 * HOUR
    assert value(snapshot, "history_day_hashes") == 24 * 100 * HOUR
    assert value(snapshot, "history_week_hashes") == 28 * 100 * HOUR


def test_hashes_of_cumulative_rows_are_differences() -> None:
    """What `hashes` means is found from the rows, and the mode says it."""
    answer = [HistoryRow(row.synctime, 1e9 + n * row.hashes, row.hashrate) for n, row in enumerate(rows(30))]
    values = exported(SITE, a_snapshot(*answer))

    assert values["history_hashes_mode"] == {"hourly": 0.0, "cumulative": 1.0, "unknown": 0.0}
    assert [100 * HOUR, 24 * 100 * HOUR, 27 * 100 * HOUR] == [
        values[f"history_{window}_hashes"][""] for window in ("row", "day", "week")
    ]


def test_hashes_of_unknown_meaning_are_not_exported() -> None:
    """Without a known meaning there are no sums, and the mode says so."""
    values = exported(SITE, a_snapshot(*nonsense(30)))

    assert values["history_hashes_mode"] == {"hourly": 0.0, "cumulative": 0.0, "unknown": 1.0}
    assert {name for name in values if name.endswith("_hashes")} == set()


def test_a_known_meaning_is_kept() -> None:
    """Rows that do not say what `hashes` means leave it as it was."""
    snapshot = with_rows(a_snapshot(*rows(5)), SITE, rows(5, hashrate=0.0))

    assert view(snapshot).meaning is Meaning.HOURLY
    assert value(snapshot, "history_week_hashes") == 0.0


def test_contradictory_rows_are_warned_about_once() -> None:
    """Hashes that fit no meaning are one warning, and another one only after they made sense."""
    snapshot, warnings = Snapshot(), []
    for answer in (nonsense(5), nonsense(5), (), rows(5), nonsense(5)):
        warnings.append(step(SITE, HISTORY, snapshot, Entries(answer)).warnings)
        snapshot = with_rows(snapshot, SITE, answer)
    warning = WarningEvent("history_hashes_unknown", {"endpoint": "/stats/history"})

    assert [(warning,), (), (), (), (warning,)] == warnings


def test_a_site_without_hashes_is_not_contradictory() -> None:
    """Rows of zeros, and no rows, say nothing about `hashes`: there is nothing to warn of."""
    for answer in ((), rows(5, hashrate=0.0), rows(1)):
        after = step(SITE, HISTORY, Snapshot(), Entries(answer))

        assert () == after.warnings
        assert Meaning.UNKNOWN is after.state.meaning


def test_an_empty_history_is_no_failure() -> None:
    """A site without rows has zero rows; timestamps of rows seen earlier stay."""
    values = exported(SITE, with_rows(a_snapshot(*rows(5)), SITE, ()))

    assert (0.0, 0.0) == (values["history_rows"][""], values["history_missing_rows"][""])
    assert LAST_HOUR == values["history_row_timestamp_seconds"][""]
    assert "hashrate_hashes_per_second" not in values
    assert "baseline_samples" not in values


def test_last_rows_outlive_an_empty_answer() -> None:
    """An empty answer is the history now; the last rows stay for the row timestamps, with their meaning."""
    first = a_snapshot(*rows(5)).state(HISTORY_COLLECTOR)
    second = with_rows(a_snapshot(*rows(5)), SITE, (), later(300)).state(HISTORY_COLLECTOR)

    assert first.answer is not None
    assert second.answer is not None
    assert ((rows(5), rows(5)), ((), rows(5))) == tuple(
        (state.answer.value, state.rows) for state in (first, second) if state.answer
    )
    assert (later(300), Meaning.HOURLY) == (second.answer.at, second.meaning)


def test_gaps_are_missing_rows() -> None:
    """Hours without a row between the oldest and the newest are counted."""
    answer = rows(10)

    assert value(a_snapshot(*answer[:3], *answer[5:]), "history_missing_rows") == 2


def test_metrics_and_rows_agree_on_what_is_settled() -> None:
    """The view has the rows of complete hours, as backfill and the status page read them."""
    answer = rows(5)
    settled = answer[: history_rows.settled_count(answer, NOW.wall)]

    assert settled == view(a_snapshot(*answer)).settled_rows
    assert settled[-1].synctime == value(a_snapshot(*answer), "history_settled_row_timestamp_seconds")


def test_rows_that_are_gone_or_stuck_are_old() -> None:
    """An answer without the rows there were, or without a recent complete hour, says nothing about now."""
    stuck = a_snapshot(*rows(5, newest=LAST_HOUR - 5 * HOUR))
    snapshots = [a_snapshot(*rows(5)), a_snapshot(), a_snapshot(*rows(1)), with_rows(stuck, SITE, ()), stuck]

    assert [False, False, False, True, True] == [view(snapshot).old for snapshot in snapshots]


def test_the_endpoint_is_stale_without_a_current_recent_answer() -> None:
    """Never polled, polled too long ago, or answered without a recent row: it is stale."""
    stuck = a_snapshot(*rows(5, newest=LAST_HOUR - 5 * HOUR))
    moments = [
        (Snapshot(), 0.0),
        (a_snapshot(*rows(5)), 1500.0),
        (a_snapshot(*rows(5)), 1501.0),
        (stuck, 0.0),
    ]

    assert [{HISTORY}, set(), {HISTORY}, {HISTORY}] == [
        HISTORY_COLLECTOR.visible(SITE, snapshot.state(HISTORY_COLLECTOR), later(after)).stale
        for snapshot, after in moments
    ]


@pytest.mark.parametrize(
    ("hours", "until"),
    [
        ([-2, -1, 0], 15 * 60),  # the row of the last hour settles
        ([-2, 0], 75 * 60),  # the newest row settles before any row is too old
        ([-3, 0], 1 * HOUR),  # the settled row is too old before the newest one settles
        ([-5, 0], 75 * 60),  # the settled row is too old already
        ([-2], 2 * HOUR),
        ([-5], float("inf")),
    ],
)
def test_rows_settle_and_grow_old(hours: list[int], until: float) -> None:
    """Until a row settles, or the newest row or settled row is older than max_row_age, nothing changes."""
    answer = [HistoryRow(LAST_HOUR + hour * HOUR, 1, 1) for hour in hours]
    state = a_snapshot(*answer).state(HISTORY_COLLECTOR)

    assert LAST_HOUR + until - ROUNDING == HISTORY_COLLECTOR.visible(SITE, state, NOW).until.wall


def test_another_source_forgets_the_rows() -> None:
    """With them what their hashes mean: the next source may mean something else."""
    state = a_snapshot(*rows(5)).state(HISTORY_COLLECTOR)

    assert HISTORY_COLLECTOR.initial == HISTORY_COLLECTOR.for_other_source(state)
