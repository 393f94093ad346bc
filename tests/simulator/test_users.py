"""The users of a site: what they have, when they join, what incidents do to them."""

from __future__ import annotations

from itertools import pairwise

import pytest

from exporter.simulator import DAY, HOSTILE_NAMES, HOUR, Incident
from tests.simulator.worlds import FULL_HOUR, NOW, a_world, get


def test_users_share_the_hashes_of_the_site() -> None:
    """The users' totals add up to a good part of the site's hashes, and grow as those do."""
    _, site, _ = a_world(age=100 * HOUR)
    before, after = (sum(user.total for user in site.users(NOW + later)) for later in (0, HOUR))
    mined = sum(row.hashes for row in site.rows(NOW))

    assert 0.2 * mined < before < 0.8 * mined
    assert before < after < before + 0.8 * 2 * site.row(FULL_HOUR).hashes


def test_totals_move_by_the_second() -> None:
    """A busy user's total is an integer that is higher a few seconds later."""
    _, site, _ = a_world()
    totals = [user.total for later in range(0, 20, 5) if (user := site.user("johnd", NOW + later))]

    assert sorted(set(totals)) == totals
    assert len(totals) == 4


def test_users_join_over_time() -> None:
    """There are fewer users earlier on, and `newcomers` come one each ten minutes."""
    _, site, _ = a_world(newcomers=5)
    later = {user.name for user in site.users(NOW + 1300)} - {user.name for user in site.users(NOW)}

    assert len(site.users(NOW - 30 * DAY)) < len(site.users(NOW)) == 100
    assert len(later) == 2
    assert not [name for name in later if site.user(name, NOW)]
    assert len(site.top(NOW, 1024)) == 100


def test_balances_fall_by_withdrawals_only() -> None:
    """Withdrawn never falls, balance falls only when withdrawn rises by as much, and some users withdraw."""
    _, site, _ = a_world()
    days = [{user.name: user for user in site.users(NOW + day * DAY)} for day in range(20)]
    steps = [(a[name], b[name]) for a, b in pairwise(days) for name in a]

    assert all(a.withdrawn <= b.withdrawn for a, b in steps)
    assert all(a.balance + a.withdrawn <= b.balance + b.withdrawn + 1e-9 for a, b in steps)
    assert all(b.withdrawn > a.withdrawn for a, b in steps if b.balance < a.balance)
    assert [b for a, b in steps if b.balance < a.balance]


def test_names_are_of_many_kinds() -> None:
    """Names are plain, e-mail addresses, wallets and hashes."""
    _, site, _ = a_world()
    names = [user.name for user in site.users(NOW)]

    assert {"johnd", "maria"} < set(names)
    assert [name for name in names if "@example.com" in name]
    assert [name for name in names if len(name) == 95 and name[0] == "4"]
    assert [name for name in names if len(name) == 32 and set(name) <= set("0123456789abcdef")]
    assert [name for name in names if name.isalnum() and len(name) < 12]


@pytest.mark.parametrize("users", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_many_users(users: int) -> None:
    """A page of up to a million users is found by name, and ends where the next one begins."""
    world, site, _ = a_world(users=users)
    first = get(world, "/user/list", count="32")
    second = get(world, "/user/list", count="32", page=first["nextPage"])
    names = [user["name"] for user in first["users"] + second["users"]]

    assert sorted(set(names)) == names
    assert len(names) == 64
    assert [user.name for user, _ in zip(site.listed(NOW), names, strict=False)] == names
    assert len(get(world, "/user/top", count="1024")["users"]) == 1024


def test_a_reset_starts_users_from_zero() -> None:
    """After a reset totals, withdrawn and balances begin again at 0, for good; history goes on."""
    world, site, clock = a_world()
    before = site.user("johnd", NOW)
    rows = site.rows(NOW + 60)
    site.incidents.append(Incident("reset", NOW, 0))
    at_once, later = (get(world, "/user/balance", name="johnd") for clock.now in (NOW, NOW + 60))

    assert (at_once["total"], at_once["withdrawn"], at_once["balance"]) == ("0", "0", "0")
    assert before is not None
    assert 0 < int(later["total"]) < before.total
    assert rows == site.rows(NOW + 60)


def test_a_waver_comes_and_goes() -> None:
    """While totals waver some answers are behind by the fraction, never more, and balances are not."""
    _, calm, _ = a_world()
    _, site, _ = a_world(incidents=[Incident("waver", NOW, HOUR, fraction=0.01)])
    times = [NOW + second for second in range(40)]
    pairs = [(a, b) for t in times if (a := calm.user("johnd", t)) and (b := site.user("johnd", t))]

    assert {1.0, 0.99} == {round(wavering.total / true.total, 6) for true, wavering in pairs}
    assert [(true[2:]) for true, _ in pairs] == [wavering[2:] for _, wavering in pairs]
    assert [1 for (_, a), (_, b) in pairwise(pairs) if b.total < a.total]
    assert calm.users(NOW - 1) == site.users(NOW - 1)


def test_hostile_names() -> None:
    """Hostile names are on the first pages of both lists, twins and all, and gone afterwards."""
    world, site, clock = a_world(incidents=[Incident("hostile", NOW, HOUR)])
    lists = [get(world, path)["users"] for path in ("/user/list", "/user/top")]
    clock.now += HOUR

    for users in lists:
        assert sorted(HOSTILE_NAMES) == sorted(u["name"] for u in users if u["name"] in HOSTILE_NAMES)
    assert HOSTILE_NAMES[0] == ""
    assert not {user.name for user in site.users(clock.now)} & set(HOSTILE_NAMES)
