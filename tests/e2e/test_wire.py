"""From wire to metric: every read endpoint, and every error that the reference documents."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from exporter.collectors.all_users import ALL_USERS
from exporter.collectors.registry import COLLECTORS
from exporter.collectors.users import BALANCES
from exporter.simulator import Incident, World
from tests.e2e.programs import Program, running, samples, serving, until, write_config

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from exporter.endpoint import Endpoint
    from exporter.simulator import User

GLOBAL = ("invalid_secret", "bad_request", "wrong_method", "not_found", "internal_error")
ENDPOINTS = [endpoint for collector in COLLECTORS for endpoint in collector.endpoints]
NOBODY = "nobody of this name"
FOREVER = 86_400.0
# Site, endpoint, error: each of Global Errors at each endpoint, and the one that /user/list has besides.
ERRORS = [
    *(
        (f"{endpoint[1:].replace('/', '-')}-{code}", endpoint, code)
        for endpoint in ENDPOINTS
        for code in GLOBAL
    ),
    ("list-page", ALL_USERS, "invalid_page"),
]


class Wire:
    """A world, an exporter that has polled all of it, and what its page says."""

    def __init__(self, world: World, program: Program, page: Mapping[str, float]) -> None:
        self.world = world
        self.program = program
        self._page = page

    def value(self, name: str, site: str, **labels: str) -> float | None:
        """Return a sample of a site."""
        pairs = ",".join(f'{key}="{value}"' for key, value in sorted({**labels, "site": site}.items()))
        return self._page.get(f"cryptoloot_{name}{{{pairs}}}")

    def failures(self, site: str, endpoint: str) -> dict[str, float]:
        """Return the reasons that polls of the endpoint failed for."""
        begin = f'cryptoloot_poll_failures_total{{endpoint="{endpoint}",reason="'
        return {
            series.removeprefix(begin).partition('"')[0]: count
            for series, count in self._page.items()
            if series.startswith(begin) and series.endswith(f'site="{site}"}}') and count
        }


def some_user(world: World) -> User:
    """Return the last of the users of the site that is well, by total: one not among the top three."""
    site = world.sites["well"]
    return site.top(world.clock(), 1024, "total")[-1]


def site(name: str, *users: str) -> dict[str, Any]:
    return {"name": name, "secret": f"secret-of-{name}", "watch_users": list(users)}


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """Poll a site that is well, one for each error, and one with users that the API does not know."""
    now = time.time()
    world = World(clock=lambda: now)  # it stands still, so that its answers can be asked for again
    for name in ("well", "unknown", "missing", *(name for name, *_ in ERRORS)):
        world.add(name, f"secret-of-{name}", users=9)
    for name, endpoint, code in (*ERRORS, ("missing", BALANCES, "missing_input")):
        incident = Incident("error", now - 1, FOREVER, code=code, path=endpoint)
        world.sites[name].incidents.append(incident)
    known = some_user(world).name
    names = [name for name, *_ in ERRORS]
    sites = [
        site("well", known),
        site("unknown", NOBODY, known),
        site("missing", known),
        *map(site, names, names),
    ]
    directory = tmp_path_factory.mktemp("wire")
    polls = {"all_users": {"enabled": True}, "top_users": {"count": 3}}
    with serving(world) as api:
        write_config(directory, api.port, *sites, poll=polls)
        with running(directory) as (program, port):
            polled = [
                f'cryptoloot_up{{endpoint="{endpoint}",site="{each["name"]}"}}'
                for each in sites
                for endpoint in ENDPOINTS
            ]
            assert until(lambda: set(polled) <= samples(port).keys()), program.err.read_text()
            yield Wire(world, program, samples(port))


def test_every_endpoint_answers(wire: Wire) -> None:
    """A site that is well is up at every read endpoint, and nothing fails."""
    for endpoint in ENDPOINTS:
        assert 1 == wire.value("up", "well", endpoint=endpoint)
        assert {} == wire.failures("well", endpoint)


def test_payout_and_history(wire: Wire) -> None:
    """What `/stats/payout` and `/stats/history` say is on the page."""
    site, now = wire.world.sites["well"], wire.world.clock()
    payout, newest = site.payout(now), site.rows(now)[-1]
    settled = [row for row in site.rows(now) if row.synctime + 75 * 60 <= now]

    assert payout.diff == wire.value("network_difficulty", "well")
    assert payout.value == wire.value("payout_value", "well")
    assert payout.payout == wire.value("payout_raw", "well")
    assert payout.payout_per_million == wire.value("payout_coins_per_million_hashes", "well")
    assert payout.synctime == wire.value("payout_sync_timestamp_seconds", "well")
    assert newest.hashrate == wire.value("unsettled_hashrate_hashes_per_second", "well")
    assert newest.synctime == wire.value("history_row_timestamp_seconds", "well")
    assert settled[-1].hashrate == wire.value("hashrate_hashes_per_second", "well")
    assert settled[-1].hashes == wire.value("history_row_hashes", "well")
    assert sum(row.hashes for row in settled) == wire.value("history_week_hashes", "well")


def test_top_users_and_all_users(wire: Wire) -> None:
    """What `/user/top` and `/user/list` say is on the page."""
    site, now = wire.world.sites["well"], wire.world.clock()
    top, everybody = site.top(now, 3, "total"), site.users(now)

    assert [each.total for each in top] == [
        wire.value("user_hashes_total", "well", user=each.name) for each in top
    ]
    assert 3 == wire.value("top_users_returned", "well")
    assert len(everybody) == wire.value("all_users", "well")
    assert sum(each.total for each in everybody) == wire.value("all_users_hashes", "well")
    owed, withdrawn = (sum(getattr(each, name) for each in everybody) for name in ("balance", "withdrawn"))
    assert pytest.approx(owed) == wire.value("all_users_balance_coins", "well")
    assert pytest.approx(withdrawn) == wire.value("all_users_withdrawn_coins", "well")
    assert owed != pytest.approx(withdrawn)
    for each in top:
        assert each.balance == wire.value("user_balance_coins", "well", user=each.name)
        assert each.withdrawn == wire.value("user_withdrawn_coins_total", "well", user=each.name)


def test_balances(wire: Wire) -> None:
    """What `/user/balance` says of a user that is not among the top ones is on the page."""
    user = some_user(wire.world)

    assert user.total == wire.value("user_hashes_total", "well", user=user.name)
    assert user.withdrawn == wire.value("user_withdrawn_coins_total", "well", user=user.name)
    assert user.balance == wire.value("user_balance_coins", "well", user=user.name)
    assert 0 == wire.value("watched_user_failures_total", "well", reason="unknown_user")


@pytest.mark.parametrize(("name", "endpoint", "code"), ERRORS, ids=[name for name, *_ in ERRORS])
def test_every_error_is_a_failed_poll(wire: Wire, name: str, endpoint: Endpoint, code: str) -> None:
    """It is down at that endpoint for that reason, and up at the others."""
    assert {code} == wire.failures(name, endpoint).keys()
    up = {polled: wire.value("up", name, endpoint=polled) for polled in ENDPOINTS}
    assert {polled: float(polled != endpoint) for polled in ENDPOINTS} == up


@pytest.mark.parametrize(("site", "reason"), [("unknown", "unknown_user"), ("missing", "missing_input")])
def test_an_error_of_one_user_fails_no_poll(wire: Wire, site: str, reason: str) -> None:
    """It is counted as that user's; the endpoint is up, and the log says which user, and not the name."""
    refused = [event for event in wire.program.events("watched_user_refused") if event["site"] == site]

    assert 1 == wire.value("up", site, endpoint="/user/balance")
    polls = wire.value("polls_total", site, endpoint="/user/balance")
    assert polls == wire.value("watched_user_failures_total", site, reason=reason)
    assert [("watch_users[0]", reason)] == [(event["user"], event["reason"]) for event in refused]
    assert NOBODY not in wire.program.err.read_text()


def test_the_users_beside_one_that_is_refused_are_shown(wire: Wire) -> None:
    """Of the site with an unknown user, the other one has its series."""
    user = some_user(wire.world).name

    assert wire.value("user_hashes_total", "unknown", user=user) is not None
    assert wire.value("user_hashes_total", "unknown", user=NOBODY) is None
