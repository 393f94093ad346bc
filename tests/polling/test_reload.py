"""What a reload of the config does to loops that are running, and to the data of the sites."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from exporter.collectors.history import HISTORY
from exporter.collectors.payout import PAYOUT
from exporter.collectors.registry import PAYOUT_COLLECTOR, USERS_COLLECTOR
from exporter.collectors.users import TOP_USERS
from tests.conftest import parsed, settle
from tests.polling.rig import ANSWERS, Rig, broken, polling, reply, slow_polls
from tests.polling.watching import ANN, NO_BOB, WATCHING, balances


def test_a_reload_leaves_unchanged_sites_alone() -> None:
    """Unchanged sites keep data and due times; a new one starts, a removed one is forgotten."""
    first = parsed("http://127.0.0.1:1", "a", "b")
    second = parsed("http://127.0.0.1:1", "b", "c")

    async def scene(rig: Rig) -> None:
        await rig.time.run(10)
        before, due = rig.store["b"], rig.due(PAYOUT, "b")
        rig.apply(second)
        await settle()
        assert before is rig.store["b"]
        await rig.time.run(10)
        assert before is rig.store["b"]
        await rig.run_until(due + 0.5)
        assert pytest.approx(due) == rig.api.times("/stats/payout", "b")[-1]

    rig = polling(first, scene)

    assert ["b", "c"] == list(rig.store)
    assert min(rig.api.times("/stats/payout", "c")) >= 1010.0 > max(rig.api.times("/stats/payout", "a"))
    assert all(rig.record(endpoint, "c").up for endpoint in (PAYOUT, HISTORY, TOP_USERS))


def test_a_reload_polls_backed_off_sites_soon() -> None:
    """A site in back-off is polled within one interval of a reload."""

    async def scene(rig: Rig) -> None:
        rig.api.answer = broken
        await rig.time.run(1000)
        rig.apply()
        before = len(rig.api.times("/stats/payout"))
        await rig.time.run(60)
        assert len(rig.api.times("/stats/payout")) > before

    polling(parsed(poll=slow_polls(stale_after="1h")), scene)


def test_a_reload_lets_a_poll_in_flight_end() -> None:
    """A call that is on its way when a reload comes is neither repeated nor lost."""

    async def scene(rig: Rig) -> None:
        rig.api.answer = broken
        await rig.time.run(70)
        rig.api.pace = {"/stats/payout": 5.0}
        await rig.run_until(rig.due(PAYOUT) + 1)
        polls, requests = rig.record(PAYOUT).polls, len(rig.api.times("/stats/payout"))
        rig.apply()
        await rig.time.run(5)
        assert (polls + 1, requests) == (rig.record(PAYOUT).polls, len(rig.api.times("/stats/payout")))

    assert polling(parsed(poll=slow_polls()), scene).restarts() == 0


def test_a_reload_does_not_shorten_retry_after() -> None:
    """What the API asked for holds over a reload."""

    async def scene(rig: Rig) -> None:
        rig.api.answer = lambda _site, _path: reply(503, headers={"Retry-After": "900"})
        await rig.time.run(10)
        rig.apply()
        await rig.time.run(880)
        assert len(rig.api.times("/stats/payout")) == 1

    polling(parsed(), scene)


def test_another_source_forgets_data_and_keeps_counters() -> None:
    """With another URL the old answers belong to somebody else; what the exporter counted goes on."""

    async def scene(rig: Rig) -> None:
        await rig.time.run(10)
        before = rig.record(PAYOUT).polls
        rig.apply(parsed("http://127.0.0.1:2"))
        assert rig.store["demo"].state(PAYOUT_COLLECTOR) is None
        assert before == rig.record(PAYOUT).polls > 0

    polling(parsed(), scene)


def test_a_changed_site_keeps_what_the_api_asked_for() -> None:
    """A site whose count of users changes still waits as long as Retry-After said."""

    async def scene(rig: Rig) -> None:
        rig.api.answer = lambda _site, _path: reply(429, headers={"Retry-After": "900"})
        await rig.time.run(10)
        rig.apply(parsed(poll={"top_users": {"count": 5}}))
        await rig.time.run(880)
        assert len(rig.api.times("/user/top")) == 1

    polling(parsed(), scene)


def test_a_changed_site_goes_on_with_its_back_off() -> None:
    """A site whose polls are configured anew while it fails backs off as before, without a new warning."""

    async def scene(rig: Rig) -> None:
        rig.api.answer = broken
        await rig.time.run(600)
        before = len(rig.api.times("/stats/payout"))
        rig.apply(parsed(poll=slow_polls(stale_after="299s")))
        await rig.time.run(300)
        first, second = rig.api.times("/stats/payout")[before:][:2]
        assert pytest.approx(149.5) == second - first

    with capture_logs() as logs:
        polling(parsed(poll=slow_polls()), scene)

    warnings = [entry for entry in logs if entry["log_level"] == "warning"]
    assert ["/stats/payout"] == [e["endpoint"] for e in warnings if e["endpoint"] == "/stats/payout"]


def test_requests_in_flight_hold_their_slots_over_a_reload() -> None:
    """A reload gives no site more slots than there are."""

    async def scene(rig: Rig) -> None:
        rig.api.pace = dict.fromkeys(ANSWERS, 30.0)
        await rig.time.run(2)
        rig.apply(parsed("http://127.0.0.1:1", "a", "b", "c", api={"max_concurrency": 2}))
        await rig.time.run(20)
        assert rig.api.most_in_flight == 2

    polling(parsed("http://127.0.0.1:1", "a", "b", api={"max_concurrency": 2}), scene)


def test_another_source_does_not_wait_for_the_old_one() -> None:
    """With another URL neither back-off nor Retry-After of the old server counts."""

    async def scene(rig: Rig) -> None:
        rig.api.answer = lambda _site, _path: reply(429, headers={"Retry-After": "900"})
        await rig.time.run(10)
        rig.apply(parsed("http://127.0.0.1:2"))
        await rig.time.run(5)
        assert len(rig.api.times("/user/top")) == 2

    polling(parsed(), scene)


def test_what_is_only_shown_changes_no_poll() -> None:
    """Another currency, or another endpoint's interval, leaves a loop's due time as it is."""

    async def scene(rig: Rig) -> None:
        await rig.time.run(10)
        due, before = rig.due(PAYOUT), len(rig.api.times("/stats/payout"))
        sites = [{"name": "demo", "secret_env": "SECRET_demo", "currency": "UPX"}]
        rig.apply(parsed(sites=sites, poll={"history": {"interval": "2m"}}))
        assert due == rig.due(PAYOUT)
        await rig.run_until(due + 0.5)
        assert pytest.approx([due]) == rig.api.times("/stats/payout")[before:]

    polling(parsed(), scene)


def test_a_changed_interval_keeps_the_data() -> None:
    """A site whose polls are configured anew keeps what it knows."""

    async def scene(rig: Rig) -> None:
        await rig.time.run(10)
        before = rig.store["demo"].state(PAYOUT_COLLECTOR)
        rig.apply(parsed(poll={"payout": {"interval": "30s"}}))
        assert before is rig.store["demo"].state(PAYOUT_COLLECTOR) is not None
        await rig.time.run(120)
        assert len(rig.api.times("/stats/payout")) >= 5

    polling(parsed(), scene)


def test_another_list_of_users_is_polled_at_once() -> None:
    """A reload that changes `watch_users` starts that loop anew, and no other."""
    config = parsed(sites=WATCHING, poll=slow_polls())
    other = parsed(sites=[{**WATCHING[0], "watch_users": ["ann"]}], poll=slow_polls())

    async def scene(rig: Rig) -> None:
        balances(rig, ANN)
        await rig.time.run(60)
        before = len(rig.api.requests)
        rig.apply(other)
        await rig.time.run(2)
        paths = [path for _, _, path in rig.api.requests[before:]]
        assert ["/user/balance"] == [path for path in paths if path != "/stats/payout"]

    assert (("ann",), 0) == watched(polling(config, scene))


def test_a_reload_forgets_who_is_not_watched_any_more() -> None:
    """At once, though the API is down by then: their labels, and whom it had refused."""
    config = parsed(sites=WATCHING, poll=slow_polls())
    other = parsed(sites=[{**WATCHING[0], "watch_users": ["eve"]}], poll=slow_polls())
    nobody = parsed(poll=slow_polls())

    async def scene(rig: Rig) -> None:
        balances(rig, ANN, NO_BOB)
        await rig.time.run(60)
        rig.api.answer = broken
        rig.apply()
        assert (("ann",), 1) == watched(rig)
        rig.apply(other)
        await rig.time.run(60)
        assert ((), 0) == watched(rig)
        rig.apply(nobody)
        assert rig.store["demo"].state(USERS_COLLECTOR).watched is None

    assert polling(config, scene)


def watched(rig: Rig) -> tuple[tuple[str, ...], int]:
    """Return the labels of the watched users, and how many of them the API refused."""
    reading = rig.store["demo"].state(USERS_COLLECTOR).watched
    assert reading is not None
    return reading.value.labels, len(reading.value.refused)


def test_configs_are_equal_when_nothing_changed() -> None:
    """Two loads of the same config are equal, which is what a reload compares."""
    assert parsed() == replace(parsed())
