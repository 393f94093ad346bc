from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from statistics import median
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.api.answers import HistoryRow
from exporter.collectors.history_rows import (
    DAY,
    HOUR,
    Meaning,
    baseline,
    baselines,
    conclusive,
    find_meaning,
    missing,
    settled_count,
    tidy,
    week_hashes,
    window_hashes,
)

if TYPE_CHECKING:
    from collections.abc import Callable

NOON = 1_699_963_200.0  # 2023-11-14 12:00:00 UTC
row_hashes, day_hashes = partial(window_hashes, hours=1), partial(window_hashes, hours=24)
HOURLY, CUMULATIVE, UNKNOWN = Meaning.HOURLY, Meaning.CUMULATIVE, Meaning.UNKNOWN

amounts = st.integers(0, 10**12).map(float)
aligned_rows = st.builds(
    HistoryRow, st.integers(-30, 4).map(lambda hour: NOON + hour * HOUR), amounts, amounts
)
any_rows = st.builds(HistoryRow, st.floats(0, 1e11), st.floats(0, 1e18), st.floats(0, 1e18))
histories = st.lists(aligned_rows | any_rows, max_size=40)


@dataclass(frozen=True)
class Hour:
    """An hour before noon (0 is noon's own row), its hashes, and the hashrate reported with them."""

    before: int
    hashes: float
    hashrate: float | None = None

    def row(self) -> HistoryRow:
        """Return the row; the hashrate is that of an hourly row unless given."""
        rate = self.hashes / HOUR if self.hashrate is None else self.hashrate
        return HistoryRow(NOON - self.before * HOUR, self.hashes, rate)


def rows_of(*hours: Hour) -> tuple[HistoryRow, ...]:
    """Return the rows of these hours."""
    return tuple(hour.row() for hour in hours)


def hourly(*hashes: float) -> tuple[HistoryRow, ...]:
    """Return gapless hourly rows, the last one at noon."""
    return tuple(Hour(len(hashes) - 1 - place, value).row() for place, value in enumerate(hashes))


def summed(rows: tuple[HistoryRow, ...], start: float = 0.0) -> tuple[HistoryRow, ...]:
    """Return the same hours as a site would report whose `hashes` never fall."""
    totals = accumulate((row.hashes for row in rows), initial=start)
    next(totals)
    return tuple(
        HistoryRow(row.synctime, total, row.hashrate) for row, total in zip(rows, totals, strict=True)
    )


def without(rows: tuple[HistoryRow, ...], *before: int) -> tuple[HistoryRow, ...]:
    """Return the rows without those of so many hours before noon."""
    gaps = {NOON - hours * HOUR for hours in before}
    return tuple(row for row in rows if row.synctime not in gaps)


def test_tidy_sorts() -> None:
    """Rows come out ascending, whatever their order in the answer."""
    early, late = hourly(1, 2)

    assert ((early, late), 0) == tidy([late, early], NOON)


def test_tidy_keeps_the_last_duplicate() -> None:
    """Of rows with one synctime the last is the newest word; duplicates are no rejected entries."""
    first, last = Hour(0, 1).row(), Hour(0, 2).row()

    assert ((last,), 0) == tidy([first, last], NOON)
    assert ((first,), 0) == tidy([last, first], NOON)


@pytest.mark.parametrize(
    ("ahead", "kept", "future"),
    [(-1, 1, 0), (0, 1, 0), (3599, 1, 0), (3600, 1, 0), (3600.5, 0, 1), (7200, 0, 1)],
)
def test_tidy_drops_the_future(ahead: float, kept: int, future: int) -> None:
    """A row that starts more than an hour ahead is dropped and counted; exactly an hour is kept."""
    rows, dropped = tidy([HistoryRow(NOON + ahead, 1, 1)], NOON)

    assert (kept, future) == (len(rows), dropped)


def test_future_rows_are_counted_each() -> None:
    """Each future row counts, duplicates of one another included: each is an entry of the answer."""
    future = HistoryRow(NOON + DAY, 1, 1)

    assert ((Hour(0, 1).row(),), 2) == tidy([future, Hour(0, 1).row(), future], NOON)


def test_tidy_of_nothing() -> None:
    """A new site has an empty list."""
    assert ((), 0) == tidy([], NOON)


@given(rows=histories)
def test_tidy_is_idempotent(rows: list[HistoryRow]) -> None:
    """What is tidy stays as it is: ascending, one per synctime, none of them future."""
    tidied, _ = tidy(rows, NOON)
    times = [row.synctime for row in tidied]

    assert (tidied, 0) == tidy(tidied, NOON)
    assert sorted(set(times)) == times
    assert all(time <= NOON + HOUR for time in times)


@given(rows=histories, data=st.data())
def test_tidy_does_not_depend_on_order(rows: list[HistoryRow], data: st.DataObject) -> None:
    """The order of the answer says nothing, but which duplicate comes last."""
    unique = list({row.synctime: row for row in rows}.values())
    shuffled = data.draw(st.permutations(unique))

    assert tidy(unique, NOON) == tidy(shuffled, NOON)
    assert tidy(rows, NOON)[0] == tidy(unique, NOON)[0]


@given(rows=histories)
def test_tidy_loses_nothing_else(rows: list[HistoryRow]) -> None:
    """Every row is kept, future, or has a later one of its synctime."""
    tidied, future = tidy(rows, NOON)
    present = {row.synctime for row in rows if row.synctime <= NOON + HOUR}

    assert len(present) == len(tidied)
    assert future == sum(row.synctime > NOON + HOUR for row in rows)


@pytest.mark.parametrize(
    ("minutes", "expected"), [(0, 0), (60, 0), (74, 0), (74.99, 0), (75, 1), (75.01, 1), (600, 1)]
)
def test_settled_boundary(minutes: float, expected: int) -> None:
    """A row is settled from 75 minutes after its synctime on: its hour is over for 15."""
    assert expected == settled_count(hourly(1), NOON + minutes * 60)


def test_settled_are_the_oldest() -> None:
    """The newest row is still filling; the one before settles a quarter past the hour."""
    rows = hourly(1, 2, 3, 4)

    assert [2, 3, 3, 4] == [settled_count(rows, NOON + minutes * 60) for minutes in (0, 15, 74, 75)]
    assert 0 == settled_count((), NOON)


@given(rows=histories, now=st.floats(0, 1e11))
def test_settled_is_a_prefix(rows: list[HistoryRow], now: float) -> None:
    """All rows before the count are settled, none after it is."""
    tidied, _ = tidy(rows, now)
    count = settled_count(tidied, now)

    assert [row.synctime + 4500 <= now for row in tidied] == [place < count for place in range(len(tidied))]


def test_baseline_is_of_the_same_hour() -> None:
    """The baseline has the rows of the newest row's UTC hour on earlier days, oldest first, and no others."""
    rows = hourly(*range(168))

    assert [row.hashrate for row in rows[23:167:24]] == baseline(rows)
    assert 6 == len(baseline(rows))


@pytest.mark.parametrize(("days", "expected"), [(0, 0), (1, 1), (2, 2), (3, 3), (6, 6)])
def test_baseline_of_a_young_site(days: int, expected: int) -> None:
    """Every full day before the newest row is one sample; a site younger than a day has none."""
    rows = hourly(*[1.0] * (24 * days + 1))

    assert expected == len(baseline(rows))
    assert [] == baseline(rows[:0])


def test_baseline_with_gaps() -> None:
    """A missing row is one sample less and shifts no other."""
    rows = without(hourly(*range(73)), 24, 30)

    assert [rows[0].hashrate, rows[24].hashrate] == baseline(rows)


def test_baseline_of_unaligned_rows() -> None:
    """What counts is the UTC hour, not the minute: a day before may be 23.5 or 24.5 hours ago."""
    stamps = [NOON - 2 * DAY + 59 * 60, NOON - DAY - 1, NOON - DAY + 2, NOON - DAY + HOUR, NOON + 1800]
    rows = tuple(HistoryRow(stamp, 0, place) for place, stamp in enumerate(stamps))

    assert [0, 2] == baseline(rows)


def test_baseline_leaves_the_day_itself_out() -> None:
    """Another row of the newest row's own hour is no earlier day."""
    rows = (Hour(24, 5, hashrate=7).row(), Hour(0, 5).row(), HistoryRow(NOON + 1800, 5, 5))

    assert [7] == baseline(rows)


@given(rows=histories)
def test_baseline_against_its_definition(rows: list[HistoryRow]) -> None:
    """Same hour of the day, earlier day: nothing more and nothing less."""
    tidied, _ = tidy(rows, NOON)
    last = tidied[-1].synctime if tidied else 0.0
    expected = [
        row.hashrate
        for row in tidied
        if row.synctime // DAY < last // DAY and row.synctime % DAY // HOUR == last % DAY // HOUR
    ]

    assert expected == baseline(tidied)


@given(rows=histories)
def test_baselines_are_the_baseline_as_it_was(rows: list[HistoryRow]) -> None:
    """For each row, the median that was exported when it was the newest settled one; None where none was."""
    tidied, _ = tidy(rows, NOON)
    peers = [baseline(tidied[: place + 1]) for place in range(len(tidied))]

    assert [median(rates) if len(rates) >= 3 else None for rates in peers] == baselines(tidied)


@pytest.mark.parametrize(
    ("gaps", "expected"), [((), 0), ((1,), 1), ((1, 2, 5), 3), ((0,), 0), ((9,), 0), ((0, 1, 9), 0)]
)
def test_missing(gaps: tuple[int, ...], expected: int) -> None:
    """Hours without a row count only between the oldest row and the newest."""
    assert expected == missing(without(hourly(*[1.0] * 10), *gaps))


def test_missing_of_few_rows() -> None:
    """Neither no row nor one row has anything between; two of one hour are no hole either."""
    assert [0, 0] == [missing(()), missing(hourly(1))]
    assert 1 == missing(
        (HistoryRow(NOON, 1, 1), HistoryRow(NOON + 9, 1, 1), HistoryRow(NOON + 2 * HOUR, 1, 1))
    )


@given(count=st.integers(2, 60), data=st.data())
def test_missing_counts_what_was_taken_out(count: int, data: st.DataObject) -> None:
    """Of gapless rows, each taken out of the middle is one missing."""
    taken = data.draw(st.sets(st.integers(1, count - 2) if count > 2 else st.nothing()))

    assert len(taken) == missing(without(hourly(*[1.0] * count), *taken))


@pytest.mark.parametrize(
    ("ratio", "expected"), [(0.49, UNKNOWN), (0.5, HOURLY), (1, HOURLY), (2, HOURLY), (2.01, UNKNOWN)]
)
def test_meaning_hourly(ratio: float, expected: Meaning) -> None:
    """Hashes are hourly when the median of hashes over hashrate x 3600 is within 0.5..2."""
    rows = rows_of(*(Hour(before, ratio * 36_000, hashrate=10) for before in (2, 1, 0)))

    assert expected == find_meaning(rows, UNKNOWN)


def test_meaning_goes_by_the_median() -> None:
    """One mad row among many does not change what `hashes` means, nor do rows of 0."""
    rows = (*hourly(0, 3600, 7200, 0, 0, 3600, 3600), HistoryRow(NOON + HOUR, 1e15, 1))

    assert HOURLY == find_meaning(rows, UNKNOWN)


def test_meaning_cumulative() -> None:
    """Rows that never decrease and whose differences fit their hashrate are cumulative."""
    rows = summed(hourly(3600, 7200, 0, 3600), start=1e9)

    assert CUMULATIVE == find_meaning(rows, UNKNOWN)
    assert CUMULATIVE == find_meaning(rows, HOURLY)


def test_meaning_cumulative_with_gaps() -> None:
    """A difference over a gap fits no hour's hashrate: it is left out of the test."""
    rows = summed(hourly(*[3600.0] * 100), start=1e9)
    pairs = without(rows, *(before for before in range(100) if before % 10 > 1))

    assert CUMULATIVE == find_meaning(pairs, UNKNOWN)


@pytest.mark.parametrize(
    "hashes",
    [(1e9, 1e9 + 3600, 1e9 + 3599), (1e9, 1e9 + 360_000, 1e9 + 720_000), (1e9, 1e9, 1e9), (1e9,)],
    ids=["one falls", "too fast", "no growth", "one row"],
)
def test_meaning_unknown(hashes: tuple[float, ...]) -> None:
    """What is neither is unknown, whatever it was before: a wrong number is worse than none."""
    rows = rows_of(*(Hour(-place, value, hashrate=1) for place, value in enumerate(hashes)))

    assert [UNKNOWN, UNKNOWN] == [find_meaning(rows, previous) for previous in (HOURLY, UNKNOWN)]


@pytest.mark.parametrize("previous", Meaning)
@pytest.mark.parametrize(
    "rows",
    [(), hourly(0), hourly(0, 0, 0), rows_of(*(Hour(before, 1e9, hashrate=0) for before in (2, 1, 0)))],
    ids=["none", "one", "zeros", "dead cumulative"],
)
def test_a_dead_site_keeps_its_meaning(rows: tuple[HistoryRow, ...], previous: Meaning) -> None:
    """Without a row that has hashes and a hashrate nothing can be decided: the last meaning stays."""
    assert not conclusive(rows)
    assert previous == find_meaning(rows, previous)


@pytest.mark.parametrize("rows", [hourly(*[3600.0] * 5), summed(hourly(*[3600.0] * 5), start=1e9)])
def test_a_dying_site_keeps_its_meaning(rows: tuple[HistoryRow, ...]) -> None:
    """The meaning holds through every hour in which a site's last mining leaves the history."""
    cumulative = rows[-1].hashes > 1e9
    dead = tuple(HistoryRow(NOON + h * HOUR, rows[-1].hashes * cumulative, 0) for h in range(1, 12))
    meanings = [find_meaning(rows, UNKNOWN)]
    for hour in range(12):
        meanings.append(find_meaning((rows + dead)[hour : hour + 5], meanings[-1]))

    assert [CUMULATIVE if cumulative else HOURLY] * 13 == meanings


def test_conclusive() -> None:
    """One row with hashes and a hashrate is enough to decide."""
    assert conclusive(hourly(0, 0, 3600))
    assert not conclusive(rows_of(Hour(1, 3600, hashrate=0), Hour(0, 0, hashrate=5)))


def test_hashes_of_hourly_rows() -> None:
    """Row, day and week are the newest row, the sum of 24 and the sum of all."""
    rows = hourly(*range(1, 169))

    assert 168 == row_hashes(rows, HOURLY)
    assert sum(range(145, 169)) == day_hashes(rows, HOURLY)
    assert sum(range(1, 169)) == week_hashes(rows, HOURLY)


def test_hashes_of_hourly_rows_with_gaps() -> None:
    """A day is the last 24 rows, also where hours between them are missing."""
    rows = without(hourly(*range(1, 49)), 1, 30)

    assert 48 == row_hashes(rows, HOURLY)
    assert sum(range(24, 49)) - 47 == day_hashes(rows, HOURLY)
    assert sum(range(1, 49)) - 47 - 18 == week_hashes(rows, HOURLY)


def test_hashes_of_a_young_hourly_site() -> None:
    """One row is enough for all three; no row is none of them."""
    rows = hourly(7)

    assert [7, 7, 7] == [figure(rows, HOURLY) for figure in (row_hashes, day_hashes, week_hashes)]
    assert [None] * 3 == [figure((), HOURLY) for figure in (row_hashes, day_hashes, week_hashes)]


def test_hashes_of_cumulative_rows() -> None:
    """In cumulative mode differences are used; before the oldest row nothing is known."""
    rows = summed(hourly(*range(1, 169)), start=1e9)

    assert 168 == row_hashes(rows, CUMULATIVE)
    assert sum(range(145, 169)) == day_hashes(rows, CUMULATIVE)
    assert sum(range(2, 169)) == week_hashes(rows, CUMULATIVE)


def test_hashes_of_cumulative_rows_with_a_gap() -> None:
    """A difference over a gap counts in the week's sum and is no row's and no day's."""
    rows = without(summed(hourly(*range(1, 49))), 2)

    assert 48 == row_hashes(rows, CUMULATIVE)
    assert sum(range(24, 49)) - 46 - 47 == day_hashes(rows, CUMULATIVE)
    assert sum(range(2, 49)) == week_hashes(rows, CUMULATIVE)


def test_no_row_before_the_newest() -> None:
    """Right after a gap the newest cumulative row's hour is unknown, not 0; the day is what else is known."""
    rows = without(summed(hourly(1, 2, 4, 8)), 1)

    assert None is row_hashes(rows, CUMULATIVE)
    assert 2 == day_hashes(rows, CUMULATIVE)
    assert 14 == week_hashes(rows, CUMULATIVE)


def test_cumulative_rows_that_all_stand_alone() -> None:
    """With a gap before every row no row and no day is known; the week still is."""
    rows = without(summed(hourly(1, 2, 4, 8, 16)), 1, 3)

    assert None is row_hashes(rows, CUMULATIVE)
    assert None is day_hashes(rows, CUMULATIVE)
    assert 30 == week_hashes(rows, CUMULATIVE)


@pytest.mark.parametrize("figure", [row_hashes, day_hashes, week_hashes])
def test_one_cumulative_row_says_nothing(figure: Callable[..., float | None]) -> None:
    """A difference needs two rows: one row is no figure at all, and not 0."""
    assert None is figure(hourly(7), CUMULATIVE)


def test_a_dead_cumulative_site_mines_nothing() -> None:
    """Rows that stand still are hours without hashes: 0 is known then."""
    rows = rows_of(*(Hour(before, 1e9, hashrate=0) for before in (2, 1, 0)))

    assert [0, 0, 0] == [figure(rows, CUMULATIVE) for figure in (row_hashes, day_hashes, week_hashes)]


def test_hashes_never_fall_below_zero() -> None:
    """A site that was reset while its meaning is kept has no negative hashes."""
    rows = rows_of(Hour(1, 1e9, hashrate=0), Hour(0, 0))

    assert [0, 0, 0] == [figure(rows, CUMULATIVE) for figure in (row_hashes, day_hashes, week_hashes)]


@given(rows=histories)
def test_unknown_is_no_figure(rows: list[HistoryRow]) -> None:
    """While the meaning is unknown there are no figures, whatever the rows."""
    figures = [figure(rows, UNKNOWN) for figure in (row_hashes, day_hashes, week_hashes)]

    assert [None, None, None] == figures


@given(rows=st.lists(aligned_rows, min_size=1, max_size=40))
def test_a_week_is_no_less_than_a_day(rows: list[HistoryRow]) -> None:
    """Of hourly rows, week >= day >= row >= 0."""
    tidied, _ = tidy(rows, NOON + 4 * HOUR)
    row, day, week = (figure(tidied, HOURLY) for figure in (row_hashes, day_hashes, week_hashes))

    assert None not in (row, day, week)
    assert sorted([0.0, row or 0.0, day or 0.0, week or 0.0]) == [0.0, row, day, week]


@given(hashes=st.lists(amounts, min_size=25, max_size=168), start=amounts)
def test_cumulative_and_hourly_agree(hashes: list[float], start: float) -> None:
    """The same gapless history, summed up, gives the same row and the same day."""
    rows = hourly(*hashes)
    totals = summed(rows, start)

    assert row_hashes(rows, HOURLY) == row_hashes(totals, CUMULATIVE)
    assert day_hashes(rows, HOURLY) == day_hashes(totals, CUMULATIVE)
    assert week_hashes(rows[1:], HOURLY) == week_hashes(totals, CUMULATIVE)


@given(
    hashes=st.lists(st.integers(1, 10**9).map(float), min_size=6, max_size=60),
    start=st.sampled_from([1e13, 1e15]),
)
def test_the_meaning_is_found(hashes: list[float], start: float) -> None:
    """Hourly rows are found to be hourly; summed up over a long past, they are found to be cumulative."""
    rows = hourly(*hashes)

    assert HOURLY == find_meaning(rows, UNKNOWN)
    assert CUMULATIVE == find_meaning(summed(rows, start), UNKNOWN)


@given(rows=histories, previous=st.sampled_from(Meaning))
def test_hourly_against_its_definition(rows: list[HistoryRow], previous: Meaning) -> None:
    """Hourly is exactly a median within 0.5..2 over the rows with hashes and hashrate above 0."""
    tidied, _ = tidy(rows, NOON)
    ratios = [row.hashes / (row.hashrate * 3600) for row in tidied if row.hashes > 0 and row.hashrate > 0]
    result = find_meaning(tidied, previous)

    assert conclusive(tidied) == bool(ratios)
    assert result == previous if not ratios else (result is HOURLY) == (0.5 <= median(ratios) <= 2)
