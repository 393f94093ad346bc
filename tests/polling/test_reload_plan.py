"""What is polled, and what a reload of the config does to the poll loops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from exporter.api.answers import Payout
from exporter.clock import Now
from exporter.collectors.all_users import ALL_USERS
from exporter.collectors.expiry import Reading
from exporter.collectors.history import HISTORY
from exporter.collectors.payout import PAYOUT
from exporter.collectors.registry import PAYOUT_COLLECTOR, USERS_COLLECTOR
from exporter.collectors.snapshot import PollRecord, Snapshot, Store
from exporter.collectors.users import BALANCES, TOP_USERS, UsersState
from exporter.polling.jobs import jobs_of
from exporter.polling.reload_plan import Kept, Plan, kept_snapshot, plan
from tests.conftest import WALL, parsed

if TYPE_CHECKING:
    from exporter.config import Config

USUAL = (PAYOUT, HISTORY, TOP_USERS)
URL = "http://127.0.0.1:1"


def site(name: str, **options: Any) -> dict[str, Any]:
    return {"name": name, "secret": f"secret-of-{name}", **options}


def config(*sites: dict[str, Any], url: str = URL, **sections: Any) -> Config:
    return parsed(url, sites=list(sites), **sections)


def names_key(key: str) -> dict[str, Any]:
    """Return sections that name users by a hash; `parsed` has a key for each site it names."""
    return {"users": {"names": "hmac", "names_key_env": f"KEY_{key}"}}


class Case(NamedTuple):
    """Two configs, and what the plan says of each job: `key: word`, in the plan's order."""

    old: Config
    new: Config
    expected: dict[str, str]
    kept: dict[str, Kept]


def words(changes: Plan) -> dict[str, str]:
    """Return what happens to each loop."""
    started = {job.key: "adopt" if job.key in changes.adopt else "start" for job in changes.start}
    kept = {job.key: "keep" for job in changes.keep}
    ended = {key: "stop" for key in sorted(changes.stop) if key not in started}
    return {f"{name} {endpoint}": word for (name, endpoint), word in (started | kept | ended).items()}


def every(word: str, name: str, *endpoints: str) -> dict[str, str]:
    return {f"{name} {endpoint}": word for endpoint in endpoints or USUAL}


A, B = site("a"), site("b")
WATCHING = site("a", watch_users=["ann", "bob"])
CASES = {
    "nothing changed": Case(config(A), config(A), every("keep", "a"), {"a": Kept.ALL}),
    "added site": Case(
        config(A),
        config(A, B),
        every("start", "b") | every("keep", "a"),
        {"a": Kept.ALL, "b": Kept.NOTHING},
    ),
    "removed site": Case(config(A, B), config(B), every("keep", "b") | every("stop", "a"), {"b": Kept.ALL}),
    "renamed site": Case(
        config(A),
        config(site("c") | {"secret": "secret-of-a"}),
        every("start", "c") | every("stop", "a"),
        {"c": Kept.NOTHING},
    ),
    "sites in another order": Case(
        config(A, B),
        config(B, A),
        every("keep", "b") | every("keep", "a"),
        {"b": Kept.ALL, "a": Kept.ALL},
    ),
    "changed interval": Case(
        config(A),
        config(A, poll={"payout": {"interval": "30s"}}),
        every("adopt", "a", PAYOUT) | every("keep", "a", HISTORY, TOP_USERS),
        {"a": Kept.ALL},
    ),
    "changed stale_after": Case(
        config(A),
        config(A, poll={"history": {"stale_after": "2h"}}),
        every("adopt", "a", HISTORY) | every("keep", "a", PAYOUT, TOP_USERS),
        {"a": Kept.ALL},
    ),
    "changed count of users": Case(
        config(A),
        config(A, poll={"top_users": {"count": 5}}),
        every("adopt", "a", TOP_USERS) | every("keep", "a", PAYOUT, HISTORY),
        {"a": Kept.ALL},
    ),
    "changed secret": Case(
        config(A, B),
        config(A | {"secret": "other"}, B),
        every("start", "a") | every("keep", "b"),
        {"a": Kept.COUNTERS, "b": Kept.ALL},
    ),
    "changed URL": Case(
        config(A), config(A, url="http://127.0.0.1:2"), every("start", "a"), {"a": Kept.COUNTERS}
    ),
    "changed names key": Case(
        parsed(URL, "a", "b", **names_key("a")),
        parsed(URL, "a", "b", **names_key("b")),
        every("start", "a") | every("start", "b"),
        {"a": Kept.COUNTERS, "b": Kept.COUNTERS},
    ),
    "changed watch list": Case(
        config(WATCHING),
        config(WATCHING | {"watch_users": ["ann"]}),
        every("adopt", "a", BALANCES) | every("keep", "a"),
        {"a": Kept.ALL},
    ),
    "first watched user": Case(
        config(A), config(WATCHING), every("start", "a", BALANCES) | every("keep", "a"), {"a": Kept.ALL}
    ),
    "last watched user": Case(
        config(WATCHING), config(A), every("keep", "a") | every("stop", "a", BALANCES), {"a": Kept.ALL}
    ),
    "endpoint switched on": Case(
        config(A),
        config(A, poll={"all_users": {"enabled": True}}),
        every("start", "a", ALL_USERS) | every("keep", "a"),
        {"a": Kept.ALL},
    ),
    "changed currency": Case(config(A), config(A | {"currency": "UPX"}), every("keep", "a"), {"a": Kept.ALL}),
    "names off": Case(config(A), config(A, users={"names": "off"}), every("keep", "a"), {"a": Kept.ALL}),
    "changed time-out": Case(
        config(A), config(A, api={"timeout": "3s"}), every("keep", "a"), {"a": Kept.ALL}
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_reload_changes_what_has_to_change(case: Case) -> None:
    """A job that is the same keeps its loop; one of the same source passes on what the API asked for."""
    changes = plan(jobs_of(case.old), jobs_of(case.new))

    assert case.expected == words(changes)
    assert case.kept == changes.kept


def test_a_loop_that_starts_again_is_stopped_before() -> None:
    """Every old loop that is not kept is stopped, also where its job gets another one."""
    changes = plan(jobs_of(config(A, B)), jobs_of(config(A | {"secret": "other"})))

    assert {(name, endpoint) for name in "ab" for endpoint in USUAL} == changes.stop


def test_loops_start_in_the_order_of_the_config() -> None:
    """New loops start site by site, a site's endpoints in the order of the collectors."""
    busy = site("b", watch_users=["ann"], poll={"all_users": {"enabled": True}})
    changes = plan(jobs_of(config(A)), jobs_of(config(site("c"), busy, A)))

    assert [job.key for job in changes.start] == [
        *(("c", endpoint) for endpoint in USUAL),
        *(("b", endpoint) for endpoint in (*USUAL, ALL_USERS, BALANCES)),
    ]


def test_a_process_starts_every_job() -> None:
    """Without earlier jobs every job starts, and no site has data."""
    changes = plan([], jobs_of(config(A, B)))

    assert every("start", "a") | every("start", "b") == words(changes)
    assert {"a": Kept.NOTHING, "b": Kept.NOTHING} == changes.kept


def test_a_kept_loop_gets_the_site_of_the_new_config() -> None:
    """What a poll does not depend on, such as the currency, is read from the new config all the same."""
    new = config(A | {"currency": "UPX"})
    changes = plan(jobs_of(config(A)), jobs_of(new))

    assert [new.sites[0]] * len(USUAL) == [job.site for job in changes.keep]


def test_a_sites_data_is_carried_over() -> None:
    """The same source keeps everything, another source counters alone, a new site starts with nothing."""
    (one,) = config(A).sites
    record = PollRecord(polls=7, up=True)
    users = UsersState(tracked_hashes=5.0, ignored=2, totals_changed=WALL)
    payout = Reading(Payout(1, 2, 3, 4, 5), Now(WALL, 0.0))
    snapshot = Snapshot().with_record(PAYOUT, record)
    snapshot = snapshot.with_state(USERS_COLLECTOR, users).with_state(PAYOUT_COLLECTOR, payout)
    store = Store()
    store.publish("a", snapshot)
    cleared = kept_snapshot(store, one, Kept.COUNTERS)

    assert kept_snapshot(store, one, Kept.ALL) is snapshot
    assert (record, None) == (cleared.record(PAYOUT), cleared.state(PAYOUT_COLLECTOR))
    assert UsersState(tracked_hashes=5.0, ignored=2) == cleared.state(USERS_COLLECTOR)
    assert Snapshot() == kept_snapshot(store, one, Kept.NOTHING)
