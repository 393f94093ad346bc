"""Sites over time: rows, payouts, secrets, the request log, the demo."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from exporter.simulator import (
    DAY,
    HEALTHY_SECRET,
    HOUR,
    KINDS,
    TROUBLED_SECRET,
    Incident,
    Request,
    Site,
    World,
    demo_world,
)
from tests.simulator.worlds import FULL_HOUR, NOW, SECRET, Clock, a_world, answers, call, get, refusal


def test_difficulty_drifts() -> None:
    """The difficulty changes within a day, by less than a tenth."""
    _, site, _ = a_world()
    today, tomorrow = site.payout(NOW).diff, site.payout(NOW + DAY).diff

    assert today != tomorrow
    assert math.isclose(today, tomorrow, rel_tol=0.1)


def test_same_seed_and_time_same_answers() -> None:
    """An answer depends on seed, time and incidents, not on what was asked before."""
    (fresh, _, _), (busy, _, clock) = a_world(), a_world()
    for clock.now in (NOW + 5 * DAY, NOW - DAY, NOW + 7.5, NOW):
        asked = answers(busy)

    assert answers(fresh) == asked


def test_another_seed_is_another_world() -> None:
    """Seeds change rates, names and shares."""
    first, second = (World(seed, Clock()).add("site", SECRET) for seed in (1, 2))

    assert first.rows(NOW) != second.rows(NOW)
    assert {user.name for user in first.users(NOW)} != {user.name for user in second.users(NOW)}


def test_the_row_that_begins_now() -> None:
    """At a full hour the new row has no hashes yet, and the hashrate of the moment."""
    _, site, _ = a_world()
    row = site.rows(FULL_HOUR)[-1]

    assert row[:2] == (FULL_HOUR, 0)
    assert row.hashrate == round(site.hashrate(FULL_HOUR), 3)


def test_cumulative_hashes() -> None:
    """With `cumulative` a row has all hashes of the site up to its end: differences are the hourly rows."""
    _, hourly, _ = a_world()
    _, cumulative, _ = a_world(cumulative=True)
    expected = [row.hashes for row in hourly.rows(NOW)][1:]

    assert expected == [b.hashes - a.hashes for a, b in pairwise(cumulative.rows(NOW))]
    assert [row.hashrate for row in hourly.rows(NOW)] == [row.hashrate for row in cumulative.rows(NOW)]


@pytest.mark.parametrize("cumulative", [False, True])
def test_empty_hours_are_zero_filled_or_left_out(cumulative: bool) -> None:
    """An hour without hashes is a row, or with `skip_empty` none."""
    incidents = [Incident("drop", FULL_HOUR - 10 * HOUR, 3 * HOUR, factor=0)]
    _, filled, _ = a_world(incidents=incidents, cumulative=cumulative)
    _, skipping, _ = a_world(incidents=incidents, cumulative=cumulative, skip_empty=True)
    empty = [row for row in filled.rows(NOW) if not row.hashrate]

    assert [FULL_HOUR - hours * HOUR for hours in (10, 9, 8)] == [row.synctime for row in empty]
    assert [row for row in filled.rows(NOW) if row.hashrate] == skipping.rows(NOW)


def test_a_young_site() -> None:
    """A site has no rows and no hashes from before it began, at the full hour before now - age."""
    _, site, _ = a_world(age=3 * HOUR)

    assert [FULL_HOUR - hours * HOUR for hours in (3, 2, 1, 0)] == [row.synctime for row in site.rows(NOW)]
    assert site.rows(NOW - 5 * HOUR) == []
    assert site.hashrate(NOW - 5 * HOUR) == 0


def test_a_freeze_shows_its_start() -> None:
    """During a freeze every answer is that of its start; afterwards all is as if it had never been."""
    world, site, clock = a_world()
    expected = answers(world)
    site.incidents += [Incident("freeze", NOW, HOUR), Incident("freeze", NOW + HOUR - 60, HOUR)]
    clock.now = NOW + 1.9 * HOUR
    frozen = answers(world)
    clock.now = NOW + 2 * HOUR
    thawed = answers(world)
    site.incidents.clear()

    assert expected == frozen
    assert answers(world) == thawed != frozen


def test_names_and_secrets_of_sites_are_unique() -> None:
    """A site is found by its secret: two sites cannot share one, nor a name."""
    world, *_ = a_world()

    with pytest.raises(ValueError, match="'other': another site has this name or secret"):
        world.add("other", SECRET)
    with pytest.raises(ValueError, match="'site': another site has this name or secret"):
        world.add("site", "another")


def test_a_secret_rotates() -> None:
    """A changed secret opens the site at once, the old one no more."""
    world, site, _ = a_world()
    site.secret = "new"

    assert refusal("invalid_secret") == get(world, "/stats/payout")
    assert get(world, "/stats/payout", secret="new")["success"]


def test_the_log_keeps_no_secrets() -> None:
    """The log says when, which site, path and method; a foreign path could hold a secret and is not kept."""
    world, site, _ = a_world()
    get(world, "/stats/payout")
    get(world, f"/{SECRET}", secret="wrong")
    call(world, "POST", "/user/reset", data={"secret": SECRET})

    assert [
        Request(NOW, "site", "/stats/payout", "GET"),
        Request(NOW, None, "other", "GET"),
        Request(NOW, "site", "/user/reset", "POST"),
    ] == list(world.requests)
    assert world.requests.maxlen == 10_000
    assert SECRET not in repr((world.requests, site))


def kinds(site: Site, t: float) -> set[str]:
    return {incident.kind for incident in site.incidents if incident.active(t)}


def test_demo_world() -> None:
    """The demo has a healthy and a troubled site with a whole week, both calm for two minutes."""
    world = demo_world(Clock(), seed=3, users=50)
    healthy, troubled = world.find(HEALTHY_SECRET), world.find(TROUBLED_SECRET)
    assert healthy is not None
    assert troubled is not None

    assert list(world.sites) == ["healthy", "troubled"]
    assert (healthy.incidents, len(healthy.rows(NOW)), len(troubled.rows(NOW))) == ([], 168, 168)
    assert not set().union(*(kinds(troubled, NOW + second) for second in range(-HOUR, 120)))
    assert set(KINDS) - {"outage", "reset"} == set().union(
        *(kinds(troubled, NOW + 120 + second) for second in range(1200))
    )
    assert kinds(troubled, NOW + 300) == kinds(troubled, NOW + 300 + 12 * DAY)
    assert troubled.users(NOW + HOUR) == []
