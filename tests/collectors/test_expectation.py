"""What the last complete hours should have been, by the rows at hand."""

from __future__ import annotations

from math import inf, isfinite, pi, sin
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.api.answers import HistoryRow
from exporter.collectors.expectation import (
    FLOOR,
    HIGHEST_DROP,
    KEPT,
    LOWEST_DROP,
    Expectation,
    Rates,
    drop_ratio,
    expectation,
    expected_week,
    remember,
    unwatched,
)
from exporter.collectors.history_rows import tidy
from tests.alerting import rules

HOUR, DAY, WEEK = 3600, 24, 7 * 24
RATES = st.floats(0, 1e300) | st.just(0.0) | st.floats(50, 150)
SERIES = st.lists(st.tuples(st.integers(0, 200), RATES), max_size=200)


def row(hour: int, rate: float) -> HistoryRow:
    return HistoryRow(hour * HOUR, rate * HOUR, rate)


def of(rows: list[HistoryRow]) -> Expectation:
    """Return what the rows of one answer say."""
    return expectation(remember(Rates(), tidy(rows, inf)[0]))


def site(hours: int, seed: int = 1, noise: float = 0.2, weekend: float = 1.0) -> list[HistoryRow]:
    """Return rows of a site with four times as much by day as by night, from a Thursday on."""
    chance = Random(seed)  # noqa: S311 - repeatable on purpose
    return [
        row(
            hour,
            (weekend if (hour // DAY + 3) % 7 >= 5 else 1.0)
            * (1 + 0.6 * sin(hour % DAY / DAY * 2 * pi))
            * 1000
            * chance.uniform(1 - noise, 1 + noise),
        )
        for hour in range(hours)
    ]


# ----------------------------------------------------------------------------------------------- for any rows


@given(SERIES)
def test_whatever_the_rows_figures_are_finite_and_not_negative(series: list[tuple[int, float]]) -> None:
    """Neither zeros, holes nor huge rates make an infinite, negative or undefined figure."""
    found = of([row(hour, rate) for hour, rate in series])

    figures = [found.expected, found.spread, *found.ratios.values()]
    assert all(isfinite(figure) and figure >= 0 for figure in figures if figure is not None)


@settings(deadline=None)
@given(st.integers(60, 200), st.integers(0, 99), st.randoms())
def test_order_and_duplicates_change_nothing(hours: int, seed: int, chance: Random) -> None:
    """Rows in any order, and some twice, say the same."""
    rows = site(hours, seed)
    mixed = rows + chance.sample(rows, 20)
    chance.shuffle(mixed)

    assert of(rows) == of(mixed)


@settings(deadline=None)
@given(st.integers(60, 200), st.integers(0, 99), st.sampled_from([2**-8, 0.5, 4.0, 2.0**20]))
def test_figures_scale_with_the_site(hours: int, seed: int, factor: float) -> None:
    """A site k times as large is expected to make k times as much, varies as much, and is judged alike."""
    rows = site(hours, seed)
    small, large = of(rows), of([row(hour, factor * each.hashrate) for hour, each in enumerate(rows)])

    assert (None if small.expected is None else factor * small.expected) == large.expected
    assert small[1:] == large[1:]


@pytest.mark.parametrize("hours", [0, 1, 72])
def test_too_few_rows_say_nothing(hours: int) -> None:
    """Before an hour has three earlier days there is no expectation, no ratio and no spread."""
    assert Expectation() == of(site(hours))


@given(SERIES, SERIES)
def test_what_is_remembered_is_what_came_last(
    first: list[tuple[int, float]], second: list[tuple[int, float]]
) -> None:
    """A row of the newer answer counts; before its oldest row the earlier answer does, for 15 days."""
    answers = [
        tidy([row(hour + shift, rate) for hour, rate in series], inf)[0]
        for series, shift in ((first, 0), (second, 200))
    ]
    rates = remember(remember(Rates(), answers[0]), answers[1])

    expected = {int(each.synctime) // HOUR: each.hashrate for answer in answers for each in answer}
    newest = max(expected, default=0)
    assert len(rates.values) <= KEPT
    for hour in range(newest + 2):
        known = hour > newest - KEPT and hour in expected
        assert rates.at(hour) == expected[hour] if known else rates.at(hour) != rates.at(hour)


# --------------------------------------------------------------------------------------------- for real sites


def test_an_even_site_is_expected_to_go_on() -> None:
    """Without noise the expectation is the row itself, and nothing varies."""
    found = of(site(WEEK, noise=0.0))

    assert pytest.approx(site(WEEK, noise=0.0)[-1].hashrate) == found.expected
    assert pytest.approx(0, abs=1e-9) == found.spread
    assert {"1h": pytest.approx(1), "2h": pytest.approx(1), "3h": pytest.approx(1)} == found.ratios


def test_the_spread_is_how_much_hours_vary() -> None:
    """It is a little above the deviation of log hashrate: what hours are compared with varies too."""
    for noise in (0.05, 0.2):
        spreads = [of(site(WEEK, seed, noise)).spread or 0 for seed in range(20)]

        assert 1 < sum(spreads) / len(spreads) / (noise / 3**0.5) < 1.5


def test_a_quiet_day_is_expected_to_stay_quiet() -> None:
    """When the last 24 hours made half of what is usual, so should this one."""
    rows = site(WEEK, noise=0.0)
    quiet = [row(hour, each.hashrate * (0.5 if hour >= WEEK - DAY else 1)) for hour, each in enumerate(rows)]

    assert pytest.approx(quiet[-1].hashrate) == of(quiet).expected


def test_a_drop_is_none_of_its_own_expectation() -> None:
    """The newest hours do not lower what is expected of them; a window has what all its hours made."""
    rows = site(WEEK, noise=0.0)
    dropped = [row(hour, each.hashrate * (0.2 if hour >= WEEK - 2 else 1)) for hour, each in enumerate(rows)]
    found = of(dropped)

    assert pytest.approx(rows[-1].hashrate) == found.expected
    assert pytest.approx(0.2) == found.ratios["1h"] == pytest.approx(found.ratios["2h"])
    assert 0.4 < found.ratios["3h"] < 0.55


def test_a_quiet_weekend_is_no_drop_once_a_week_is_known() -> None:
    """The first hour of a quiet Saturday is expected as the one a week ago, that only the memory knows."""
    saturday = 2 * DAY + 2 * WEEK
    rows = site(saturday + 1, noise=0.0, weekend=0.4)
    rates = Rates()
    for end in range(WEEK, saturday + 2):
        rates = remember(rates, rows[max(0, end - WEEK + 1) : end])

    assert pytest.approx(1.0) == expectation(rates).ratios["1h"]


def test_right_after_a_start_the_hours_after_a_week_ago_tell_a_quiet_weekend() -> None:
    """The API's week misses the same hour a week ago, and has the hours after it."""
    saturday = 2 * DAY + WEEK
    rows = site(saturday + 1, noise=0.0, weekend=0.4)

    assert pytest.approx(1.0) == of(rows[-WEEK + 1 :]).ratios["1h"]


# ------------------------------------------------------------------------------------------- what alerts see


def test_the_line_of_a_drop_is_that_of_the_rules() -> None:
    """The thresholds of the shipped rules are the ones that the status page draws by."""
    name = "site:cryptoloot_hashrate_{}:threshold".format
    shipped = {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}
    of_spread = "clamp(exp(-2.5 * site:cryptoloot_hashrate_spread_ratio:settled), {}, {})"

    assert of_spread.format(LOWEST_DROP, HIGHEST_DROP) in shipped[name("drop_ratio")]
    assert f"{drop_ratio(None)} * group by (site)" in shipped[name("drop_ratio")]
    assert f"{FLOOR} * group by (site)" in shipped[name("floor_hashes_per_second")]


@pytest.mark.parametrize(
    ("expected", "spread"), [(0.55, 0.0), (0.55, 0.239), (pytest.approx(0.472, abs=1e-3), 0.3), (0.3, 2.0)]
)
def test_the_steadier_a_site_the_higher_its_line(expected: float, spread: float) -> None:
    """Two and a half spreads below the expected hashrate, within bounds."""
    assert expected == drop_ratio(spread)


@pytest.mark.parametrize(
    ("expectation", "reason"),
    [
        (Expectation(), "too few days"),
        (Expectation(99.0, 0.1), "hours vary too much below 100 H/s"),
        (Expectation(5000.0, 0.5), "reported below 30%"),
        (Expectation(5000.0, 0.4), ""),
        (Expectation(5000.0), ""),
    ],
)
def test_what_alerts_cannot_see_is_said(expectation: Expectation, reason: str) -> None:
    """A site without an expectation, a very small one, and one whose hours vary too much."""
    said = unwatched(expectation)

    assert reason in said
    assert bool(reason) == bool(said)


@given(SERIES)
def test_a_week_of_expectations_ends_with_the_newest(series: list[tuple[int, float]]) -> None:
    """The last hour's is what is exported, all are finite, and none is older than a week."""
    rates = remember(Rates(), tidy([row(hour, rate) for hour, rate in series], inf)[0])
    week = expected_week(rates)

    assert week.get(rates.newest) == expectation(rates).expected
    assert all(isfinite(rate) and rates.newest - WEEK < hour <= rates.newest for hour, rate in week.items())
