"""Days and hours of simulated sites: the exporter's pages, Prometheus' engine, the shipped rules.

Day 0 is a Thursday, so days 2 and 3, 9 and 10 are weekends. The API has a week of rows before it.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from math import pi, sin
from random import Random
from typing import TYPE_CHECKING

import pytest

from exporter.api.answers import User
from tests.alerting import STEP, Recording, Site, episodes, firing, together
from tests.conftest import required

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

pytestmark = pytest.mark.slow  # twelve days of eighteen sites in Prometheus' engine take half a minute

DAY = 24  # hours
DAYS = 12
STEPS_PER_HOUR = 3600 // STEP
HOURS = range(-7 * DAY, DAYS * DAY)
STEPS = range(DAYS * DAY * STEPS_PER_HOUR)

KEPT = 70 * 60 // STEP  # steps that a drop is told on

Fired = dict[tuple[str, str], list[int]]


def rhythm(hour: int, weekend: float) -> float:
    """Return a hashrate with four times as much by day as by night, and less on weekends."""
    weekday = (hour // DAY + 3) % 7
    noise = 0.9 + 0.2 * Random(hour).random()  # noqa: S311 - repeatable on purpose
    return 20_000 * (1 + 0.6 * sin(hour % DAY / DAY * 2 * pi)) * noise * (weekend if weekday >= 5 else 1.0)


def rates(factor: Callable[[int], float | None], weekend: float = 1.0) -> dict[int, float]:
    """Return the rhythm times a factor; hours without a factor are left out by the API."""
    found = ((hour, factor(hour)) for hour in HOURS)
    return {hour: rhythm(hour, weekend) * each for hour, each in found if each is not None}


def drop(begin: int, end: int, left: float | None) -> Callable[[int], float | None]:
    return lambda hour: left if begin <= hour < end else 1.0


def probe(site: str) -> dict[str, str]:
    return {"job": "cryptoloot-sites", "instance": site}


def gap(begin: int, end: int) -> range:
    """Return the steps of these hours."""
    return range(begin * STEPS_PER_HOUR, end * STEPS_PER_HOUR)


DROP = 5 * DAY + 6  # a Tuesday morning
NOON = 7 * DAY + 12  # a Thursday
SHORT = drop(DROP, DROP + 5, 0.4)
SITES = (
    Site("normal", rates(lambda _: 1.0)),
    Site("weekends", rates(lambda _: 1.0, weekend=0.4)),
    Site("drift", rates(lambda hour: 0.99 ** (hour / DAY))),
    Site("lasting", rates(drop(DROP, DROP + 5 * DAY, 0.4))),
    Site("zero", rates(drop(NOON, NOON + 10, 0.0))),
    Site("left-out", rates(drop(NOON, NOON + 10, None))),
    Site("frozen", rates(lambda _: 1.0), frozen=NOON * 3600.0),
    Site("outage", rates(drop(NOON - 2, NOON + 40, 0.4)), failing=range(NOON * 3600, (NOON + 8) * 3600)),
    Site("empty", {}),
    Site("young", {hour: rate for hour, rate in rates(lambda _: 1.0).items() if hour >= 3 * DAY}),
    Site("four-days", {h: r for h, r in rates(drop(6, 24, 0.4)).items() if h >= -4 * DAY}),
    Site("two-days", {h: r for h, r in rates(drop(6, 24, 0.4)).items() if h >= -2 * DAY}),
    # Each a target of its own, as under /probe.
    Site("probed", rates(SHORT), target=probe("probed")),
    Site("probed-well", rates(lambda _: 1.0), target=probe("probed-well")),
    Site("restarted", rates(SHORT), restarts=STEPS[::7], target=probe("restarted")),
    Site("gap", rates(drop(NOON, NOON + 30, 0.4)), lost=gap(NOON - 5, NOON + 5), target=probe("gap")),
)


def settled(hour: int) -> int:
    """Return the first step at which a row is settled: an hour and a quarter after its begin."""
    return -(-(hour * 3600 + 4500) // STEP)


def scraped(sites: Iterable[Site], steps: range, step: int) -> Recording:
    """Record the pages of these sites at all steps."""
    recording = Recording()
    for index, site, page in together(sites, steps, step):
        recording.scrape(index, page, site.target)
    return recording


@pytest.fixture(scope="module")
def fired(tmp_path_factory: pytest.TempPathFactory) -> Fired:
    """Evaluate all sites' days, each half in a process of its own; return the steps at which alerts fired."""
    required("promtool")  # a skip in another process would be an error
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as apart:
        days = [apart.submit(half, number, tmp_path_factory.mktemp("days")) for number in (0, 1)]
        return {about: steps for day in days for about, steps in day.result().items()}


def half(number: int, directory: Path) -> Fired:
    return firing(directory, scraped(SITES[number::2], STEPS, STEP), STEPS)


def alerts(fired: Fired, site: str) -> set[str]:
    return {alert.removeprefix("Cryptoloot") for alert, about in fired if about == site}


def told(fired: Fired, alert: str, site: str) -> list[tuple[int, int]]:
    return episodes(fired.get((f"Cryptoloot{alert}", site), []))


@pytest.mark.parametrize("site", ["normal", "probed-well", "drift", "weekends"])
def test_rhythm_and_drift_are_no_drop(fired: Fired, site: str) -> None:
    """Days and nights, quiet weekends, hours that vary, a percent less each day: silent, on either page.

    The first weekend is silent as well: the API's week has the hours after the same ones a week before.
    """
    assert set() == alerts(fired, site)


@pytest.mark.parametrize("site", ["probed", "restarted"])
def test_a_drop_by_60_percent_warns_with_its_first_row_and_pages_with_its_third(
    fired: Fired, site: str
) -> None:
    """Neither /probe nor an exporter that forgets everything each 140 minutes changes when it is told."""
    (warned,), (paged,) = told(fired, "HashrateDrop", site), told(fired, "HashrateDropCritical", site)

    assert (settled(DROP), settled(DROP + 5) + KEPT) == warned
    assert (settled(DROP + 2), settled(DROP + 5) + KEPT) == paged
    assert {"HashrateDrop", "HashrateDropCritical"} == alerts(fired, site)


def test_a_drop_that_lasts_is_told_for_a_day_and_a_half(fired: Fired) -> None:
    """Without a break, until it is what to expect; its end after five days is no news."""
    ((first, last),) = told(fired, "HashrateDrop", "lasting")

    assert settled(DROP) == first
    assert 30 <= (last - first) / STEPS_PER_HOUR <= 48


def test_zero_pages_with_its_first_row(fired: Fired) -> None:
    """A row that says zero is a dead site at once, until a row says otherwise; the drop is told as well."""
    assert [(settled(NOON), settled(NOON + 10))] == told(fired, "SiteDead", "zero")
    assert {"SiteDead", "HashrateDrop", "HashrateDropCritical"} == alerts(fired, "zero")


def test_rows_left_out_do_not_hide_a_dead_site(fired: Fired) -> None:
    """Where the API leaves out hours without hashes, the age of the newest row pages."""
    overdue = ((NOON - 1) * 3600 + 12_600) // STEP + 1

    assert [(overdue, settled(NOON + 10))] == told(fired, "SiteDead", "left-out")
    assert {"SiteDead", "HashrateMissing"} == alerts(fired, "left-out")


def test_a_frozen_history_pages(fired: Fired) -> None:
    """Polls that succeed and bring no new rows page, for as long as it lasts."""
    overdue = (NOON * 3600 + 12_600) // STEP + 1

    assert [(overdue, STEPS[-1])] == told(fired, "SiteDead", "frozen")
    assert {"SiteDead", "HashrateMissing"} == alerts(fired, "frozen")


def test_an_outage_is_the_apis_and_no_drop(fired: Fired) -> None:
    """While polls fail the endpoint is told; a drop that began before is told on, and again afterwards."""
    before, after = told(fired, "HashrateDrop", "outage")
    outage = NOON * STEPS_PER_HOUR

    assert (settled(NOON - 2), outage + KEPT) == before
    assert outage + 8 * STEPS_PER_HOUR == after[0]
    assert [(outage, outage + 8 * STEPS_PER_HOUR)] == told(fired, "EndpointFailing", "outage")
    assert [] == told(fired, "SiteDead", "outage")


def test_missing_data_neither_hides_nor_fakes(fired: Fired) -> None:
    """After ten hours without a scrape the drop that began meanwhile is told; nothing was made up before."""
    back = (NOON + 5) * STEPS_PER_HOUR

    assert [back] == [first for first, _ in told(fired, "HashrateDrop", "gap")]
    assert [] == told(fired, "SiteDead", "gap")
    assert [] == told(fired, "EndpointFailing", "gap")


def test_an_account_without_history_is_told_as_such(fired: Fired) -> None:
    """An account that never mined has no hashrate, and that is all."""
    assert {"HashrateMissing"} == alerts(fired, "empty")
    assert [(150 * 60 // STEP + 1, STEPS[-1])] == told(fired, "HashrateMissing", "empty")


def test_a_new_account_is_silent_while_it_grows(fired: Fired) -> None:
    """With its first settled row the missing hashrate ends; its days and nights are no drops."""
    assert [settled(3 * DAY) - 1] == [last for _, last in told(fired, "HashrateMissing", "young")]
    assert {"HashrateMissing"} == alerts(fired, "young")


def test_an_account_four_days_old_is_watched_from_the_first_scrape(fired: Fired) -> None:
    """Four days of the API's rows are enough to see a drop on installation's day; two are not."""
    assert settled(6) == told(fired, "HashrateDrop", "four-days")[0][0]
    assert settled(8) == told(fired, "HashrateDropCritical", "four-days")[0][0]
    assert set() == alerts(fired, "two-days")


# ------------------------------------------------------------------------------------------- minute by minute

MINUTES = range(270)
LATE = 180 * 60  # seconds after which something happens
TOP = range(20)
LOSSES = Random(8)  # noqa: S311 - repeatable on purpose
FROM_THE_START = {hour: rate * (0.4 if hour >= 0 else 1.0) for hour, rate in rates(lambda _: 1.0).items()}


def lost() -> frozenset[int]:
    """Return one scrape in eight."""
    return frozenset(minute for minute in MINUTES if LOSSES.random() < 1 / 8)


def steady(now: float) -> tuple[User, ...]:
    return tuple(User(f"user-{place}", 1000.0 * (place + 1) * now, 0.0, 0.0) for place in TOP)


def coming_and_going(now: float) -> tuple[User, ...]:
    """Answer with 20 users of whom each minute one is replaced by another."""
    minute = int(now) // 60
    return tuple(User(f"user-{place}", 1000.0 * now, 0.0, 0.0) for place in range(minute, minute + len(TOP)))


def reset(now: float) -> tuple[User, ...]:
    """Answer with users that all begin anew at some moment."""
    return steady(now if now < LATE else now - LATE)


def slump(now: float) -> tuple[User, ...]:
    """Answer with users that make a third from some moment on."""
    return steady(min(now, LATE) + max(0.0, now - LATE) / 3)


def once_an_hour(now: float) -> tuple[User, ...]:
    """Answer with totals that move with the hour."""
    return steady(now // 3600 * 3600)


MINUTELY = (
    Site("lossy", FROM_THE_START, lost=lost(), target=probe("lossy")),
    Site("lossy-well", rates(lambda _: 1.0), steady, lost=lost(), target=probe("lossy-well")),
    Site("lossy-slump", rates(lambda _: 1.0), slump, lost=lost(), target=probe("lossy-slump")),
    Site("coming-and-going", rates(lambda _: 1.0), coming_and_going),
    Site("reset", rates(lambda _: 1.0), reset),
    Site("once-an-hour", rates(lambda _: 1.0), once_an_hour),
    Site("restarted-live", rates(lambda _: 1.0), steady, restarts=MINUTES[::50], target=probe("r")),
    Site("away-18", rates(lambda _: 1.0), steady, lost=range(170, 188), restarts=[188], target=probe("a")),
    Site("away-10", rates(lambda _: 1.0), steady, lost=range(170, 180), restarts=[180], target=probe("b")),
)


@pytest.fixture(scope="module")
def minutely(tmp_path_factory: pytest.TempPathFactory) -> Fired:
    """Evaluate hours of scrapes each minute; return the minutes at which each alert fired."""
    recording = scraped(MINUTELY, MINUTES, 60)
    return firing(tmp_path_factory.mktemp("minutes"), recording, MINUTES, step=60)


def test_lost_scrapes_do_not_hide_a_drop(minutely: Fired) -> None:
    """With one scrape in eight lost, a drop is told with the scrape that sees it, and without a break."""
    seen = [minute for minute in MINUTES if minute not in MINUTELY[0].lost]
    first, third = (min(minute for minute in seen if minute >= due) for due in (75, 195))

    assert [(first, MINUTES[-1])] == told(minutely, "HashrateDrop", "lossy")
    assert [(third, MINUTES[-1])] == told(minutely, "HashrateDropCritical", "lossy")
    assert {"HashrateDrop", "HashrateDropCritical"} == alerts(minutely, "lossy")
    assert len(MINUTELY[0].lost) > len(MINUTES) / 12


def test_lost_scrapes_fake_nothing(minutely: Fired) -> None:
    """With one scrape in eight lost, a site that is well is silent, and so is its exporter."""
    assert set() == alerts(minutely, "lossy-well")


def test_a_live_drop_is_told_within_twenty_minutes(minutely: Fired) -> None:
    """Users that make a third of what they did, with scrapes lost, are told long before the row."""
    ((first, _),) = told(minutely, "HashrateLiveDrop", "lossy-slump")

    assert 180 < first <= 200
    assert {"HashrateLiveDrop"} == alerts(minutely, "lossy-slump")


@pytest.mark.parametrize("site", ["away-18", "away-10"])
def test_an_exporter_that_was_away_fakes_no_live_drop(minutely: Fired, site: str) -> None:
    """After minutes without a scrape and a fresh start, a quarter of an hour is not yet full; no drop."""
    assert {"ExporterDownForSite"} == alerts(minutely, site)


@pytest.mark.parametrize("site", ["coming-and-going", "reset", "once-an-hour", "restarted-live"])
def test_users_and_restarts_are_no_live_drop(minutely: Fired, site: str) -> None:
    """Users who come and go, a reset of all of them, hourly totals, and a forgetful exporter are silent."""
    assert set() == alerts(minutely, site)
