from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from structlog.testing import capture_logs

from exporter.api.client import Client
from exporter.collectors.metrics import ExporterMetrics
from exporter.collectors.snapshot import Store
from exporter.endpoint import Endpoint
from exporter.polling.poller import Poller, Slots
from tests.conftest import WALL, VirtualTime, parsed, settle

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from exporter.config import Config

PAYOUT = {"success": True, "diff": 1, "value": 2, "payout": 3, "payoutPer1MHashes": 4, "synctime": WALL}
ANSWERS: dict[str, dict[str, Any]] = {
    "/stats/payout": PAYOUT,
    "/stats/history": {"success": True, "history": []},
    "/user/top": {"success": True, "users": []},
}


class Api:
    """An API whose answers a test sets, with the time and site of every request."""

    def __init__(self, time: VirtualTime) -> None:
        self.time = time
        self.requests: list[tuple[float, str, str]] = []
        self.answer: Callable[[str, str], httpx.Response] = lambda _site, path: ok(path)
        self.pace = 0.0  # seconds an answer takes
        self.in_flight: list[str] = []
        self.most_in_flight = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        site = request.url.params["secret"].removeprefix("secret-of-")
        self.requests.append((self.time.mono, site, request.url.path))
        self.in_flight.append(site)
        self.most_in_flight = max(self.most_in_flight, len(self.in_flight))
        try:
            if self.pace:
                await self.time.sleep(self.pace)
        finally:
            self.in_flight.remove(site)
        return self.answer(site, request.url.path)

    def times(self, path: str, site: str = "demo") -> list[float]:
        return [at for at, polled, asked in self.requests if asked == path and polled == site]


class Rig:
    """A poller on virtual time against an Api."""

    def __init__(self, config: Config) -> None:
        self.time = VirtualTime()
        self.api = Api(self.time)
        self.store = Store()
        self.own = ExporterMetrics("0", "0")
        self.concealed: list[str] = []
        self.poller = Poller(self.store, self.own, self.time.clock, self.concealed.extend)
        self.client = Client(config.api, "test", httpx.MockTransport(self.api))
        self.config = config

    def apply(self, config: Config | None = None) -> None:
        self.config = config or self.config
        self.poller.apply(self.config, self.client)

    def record(self, endpoint: Endpoint, site: str = "demo") -> Any:
        return self.store[site].polling[endpoint]


def reply(status: int, document: object = None, headers: dict[str, str] | None = None) -> httpx.Response:
    return httpx.Response(status, headers=headers, stream=httpx.ByteStream(json.dumps(document).encode()))


def ok(path: str) -> httpx.Response:
    return reply(200, ANSWERS[path])


def broken(_site: str, _path: str) -> httpx.Response:
    return reply(500)


def polling(config: Config, scene: Callable[[Rig], Coroutine[Any, Any, None]]) -> Rig:
    """Run a scene with a started poller, and stop it."""

    async def play() -> Rig:
        rig = Rig(config)
        rig.apply()
        await scene(rig)
        await rig.poller.stop()
        return rig

    return asyncio.run(play())


def slow_polls(**changes: Any) -> dict[str, Any]:
    """Return a poll section in which only payout is polled often."""
    return {
        "history": {"interval": "1d"},
        "top_users": {"interval": "1d"},
        "payout": {"interval": "1m"} | changes,
    }


def test_all_endpoints_are_polled_at_their_intervals() -> None:
    """In ten minutes payout and top users are polled each minute, history twice, on their grids."""

    async def scene(rig: Rig) -> None:
        await rig.time.run(600)

    rig = polling(parsed(), scene)
    gaps = [b - a for a, b in zip(*[rig.api.times("/stats/payout")[n:] for n in (1, 2)], strict=False)]

    assert [60.0] * len(gaps) == pytest.approx(gaps)
    assert (11, 3, 11) == tuple(len(rig.api.times(path)) for path in ANSWERS)
    assert rig.record(Endpoint.PAYOUT).polls == 11


def test_lateness_shifts_nothing_and_missed_polls_are_not_made_up_for() -> None:
    """A process that stood still for ten minutes polls once, and then on its grid as before."""

    async def scene(rig: Rig) -> None:
        await rig.time.run(120)
        before = len(rig.api.times("/stats/payout"))
        rig.time.step(600)
        await rig.time.run(0)
        assert before + 1 == len(rig.api.times("/stats/payout"))
        await rig.time.run(120)

    times = polling(parsed(), scene).api.times("/stats/payout")
    phases = [(at - times[1]) % 60 for at in times[1:3] + times[-2:]]

    assert [0.0] * 4 == pytest.approx([min(value, 60 - value) for value in phases], abs=1e-6)


def test_failures_back_off_and_a_success_recovers() -> None:
    """While the API fails the gaps grow to the cap; the first success resumes the interval."""

    async def scene(rig: Rig) -> None:
        rig.api.answer = broken
        await rig.time.run(1000)
        rig.api.answer = lambda _site, path: ok(path)
        await rig.time.run(1000)

    rig = polling(parsed(poll=slow_polls()), scene)
    times = rig.api.times("/stats/payout")
    gaps = [round(b - a) for a, b in itertools.pairwise(times)]

    assert gaps[:7] == [60, 120, 150, 150, 150, 150, 150]
    assert gaps[-5:] == [60] * 5
    assert rig.record(Endpoint.PAYOUT).up is True


def test_retry_after_holds_polls_off() -> None:
    """A 429 that asks for ten minutes gets ten minutes."""

    async def scene(rig: Rig) -> None:
        rig.api.answer = lambda _site, _path: reply(429, headers={"Retry-After": "600"})
        await rig.time.run(601)

    rig = polling(parsed(poll=slow_polls()), scene)
    times = rig.api.times("/stats/payout")

    assert [600] == [round(b - a) for a, b in itertools.pairwise(times)]
    assert rig.record(Endpoint.PAYOUT).failures == {"rate_limited": 2}


def test_one_sites_failure_is_its_own() -> None:
    """A failing endpoint changes neither another endpoint's record nor another site's."""

    async def scene(rig: Rig) -> None:
        rig.api.answer = lambda site, path: reply(500) if (site, path) == ("a", "/user/top") else ok(path)
        await rig.time.run(300)

    rig = polling(parsed("http://127.0.0.1:1", "a", "b"), scene)

    assert rig.record(Endpoint.TOP_USERS, "a").up is False
    assert [True] * 5 == [
        rig.record(endpoint, site).up
        for site in ("a", "b")
        for endpoint in (Endpoint.PAYOUT, Endpoint.HISTORY, Endpoint.TOP_USERS)
        if (site, endpoint) != ("a", Endpoint.TOP_USERS)
    ]


def test_a_hanging_site_holds_half_of_the_slots_at_most() -> None:
    """However many of its calls hang, a site leaves slots for the others, who stay on time."""

    async def scene(rig: Rig) -> None:
        rig.api.answer = lambda _site, path: ok(path)
        rig.api.pace = 30.0
        await rig.time.run(20)
        assert rig.api.most_in_flight <= 4

    rig = polling(parsed("http://127.0.0.1:1", "a", "b", api={"max_concurrency": 4}), scene)

    assert {"a", "b"} == {site for _, site, _ in rig.api.requests}
    assert [2, 2] == [sum(1 for _, polled, _ in rig.api.requests if polled == site) for site in ("a", "b")]


def test_a_single_slot_serves_all() -> None:
    """A site may hold at least one slot, and with a single one all still get their turn."""

    async def hold() -> list[str]:
        slots, served = Slots(1), []
        for site in ("a", "b"):
            async with slots.hold(site):
                served.append(site)
        return served

    assert asyncio.run(hold()) == ["a", "b"]


def test_a_crash_is_logged_counted_and_restarted() -> None:
    """An error nobody foresaw costs a second; its text, which may be a user's name, is not logged."""

    async def scene(rig: Rig) -> None:
        def crash(_site: str, path: str) -> httpx.Response:
            raise LookupError("johnd@example.com" + path)

        rig.api.answer = crash
        await rig.time.run(4)
        rig.api.answer = lambda _site, path: ok(path)
        await rig.time.run(10)

    with capture_logs() as logs:
        rig = polling(parsed(poll=slow_polls()), scene)

    crashes = [entry for entry in logs if entry["event"] == "loop_crashed"]
    assert {"LookupError"} == {entry["error"] for entry in crashes}
    assert len(crashes) == rig.own.loop_restarts._value.get()
    assert "johnd" not in json.dumps(crashes)
    assert rig.record(Endpoint.PAYOUT).up is True


def test_a_loop_never_ends_silently() -> None:
    """A loop that somebody else cancelled is started again, and that is logged."""

    async def scene(rig: Rig) -> None:
        await rig.time.run(10)
        for task in asyncio.all_tasks():
            if task.get_name() == "poll demo /stats/payout":
                task.cancel()
        await rig.time.run(130)

    with capture_logs() as logs:
        rig = polling(parsed(poll=slow_polls()), scene)

    assert ["loop_crashed"] == [entry["event"] for entry in logs if entry["log_level"] == "error"]
    assert len(rig.api.times("/stats/payout")) >= 3


def test_failures_are_said_once_and_recovery_too() -> None:
    """A fault is a warning when it begins and when its reason changes, and debug while it lasts."""

    async def scene(rig: Rig) -> None:
        rig.api.answer = broken
        await rig.time.run(500)
        rig.api.answer = lambda _site, _path: reply(429)
        await rig.time.run(500)
        rig.api.answer = lambda _site, path: ok(path)
        await rig.time.run(500)

    with capture_logs() as logs:
        polling(parsed(poll=slow_polls(), sites=[{"name": "demo", "secret": "secret-of-demo"}]), scene)

    said = [
        (entry["event"], entry.get("reason"))
        for entry in logs
        if entry.get("endpoint") == "/stats/payout" and entry["log_level"] in {"warning", "info"}
    ]
    assert [("poll_failed", "http_status"), ("poll_failed", "rate_limited"), ("poll_recovered", None)] == said


def test_hashes_that_make_no_sense_are_said_once() -> None:
    """Rows whose hashes fit neither meaning are warned about once, not every five minutes."""
    row = {"hashes": 5, "hashrate": 1000}
    rows = [row | {"synctime": WALL - 3600 * hour} for hour in range(2, 9)]

    async def scene(rig: Rig) -> None:
        rig.api.answer = lambda _site, path: (
            reply(200, {"success": True, "history": rows}) if "history" in path else ok(path)
        )
        await rig.time.run(1200)

    with capture_logs() as logs:
        polling(parsed(), scene)

    assert 1 == sum(entry["event"] == "history_hashes_unknown" for entry in logs)


def test_a_loop_that_hangs_is_found() -> None:
    """The watchdog names a loop that is overdue by its interval, the time-out and a minute, and no other."""

    async def scene(rig: Rig) -> None:
        await rig.time.run(5)
        assert rig.poller.standing_still(rig.time.now()) == []
        loop = rig.poller._loops["demo", Endpoint.PAYOUT]
        due = loop.due
        task, loop.task = loop.task, None
        assert task is not None
        task.cancel()
        await rig.time.run(due - rig.time.mono + 60 + 10 + 60)
        assert rig.poller.standing_still(rig.time.now()) == []
        await rig.time.run(1)
        assert rig.poller.standing_still(rig.time.now()) == ["demo /stats/payout"]

    polling(parsed(), scene)


def test_a_loop_that_only_crashes_is_found() -> None:
    """Restarting is not turning: a loop that crashes at every poll stands still."""

    async def scene(rig: Rig) -> None:
        def crash(_site: str, _path: str) -> httpx.Response:
            raise LookupError

        rig.api.answer = crash
        await rig.time.run(200)
        assert rig.poller.standing_still(rig.time.now()) == ["demo /stats/payout", "demo /user/top"]

    polling(parsed(), scene)


def test_a_reload_leaves_unchanged_sites_alone() -> None:
    """Unchanged sites keep data and due times; a new one starts, a removed one is forgotten."""
    first = parsed("http://127.0.0.1:1", "a", "b")
    second = parsed("http://127.0.0.1:1", "b", "c")

    async def scene(rig: Rig) -> None:
        await rig.time.run(10)
        due, known = rig.poller._loops["b", Endpoint.PAYOUT].due, rig.store["b"]
        rig.apply(second)
        await settle()
        assert due == rig.poller._loops["b", Endpoint.PAYOUT].due
        assert known is rig.store["b"]
        await rig.time.run(10)

    rig = polling(first, scene)

    assert ["b", "c"] == list(rig.store)
    assert min(rig.api.times("/stats/payout", "c")) >= 1010.0 > max(rig.api.times("/stats/payout", "a"))
    assert all(rig.record(endpoint, "c").up for endpoint in rig.store["c"].polling)


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
        before = rig.record(Endpoint.PAYOUT).polls
        rig.apply(parsed("http://127.0.0.1:2"))
        assert rig.store["demo"].payout is None
        assert before == rig.record(Endpoint.PAYOUT).polls > 0

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


def test_what_is_only_shown_changes_no_poll() -> None:
    """Another currency, or another endpoint's interval, leaves a loop's due time as it is."""

    async def scene(rig: Rig) -> None:
        await rig.time.run(10)
        loop = rig.poller._loops["demo", Endpoint.PAYOUT]
        sites = [{"name": "demo", "secret_env": "SECRET_demo", "currency": "UPX"}]
        rig.apply(parsed(sites=sites, poll={"history": {"interval": "2m"}}))
        assert loop is rig.poller._loops["demo", Endpoint.PAYOUT]

    polling(parsed(), scene)


def test_a_changed_interval_keeps_the_data() -> None:
    """A site whose polls are configured anew keeps what it knows."""

    async def scene(rig: Rig) -> None:
        await rig.time.run(10)
        known = rig.store["demo"].payout
        rig.apply(parsed(poll={"payout": {"interval": "30s"}}))
        assert known is rig.store["demo"].payout
        await rig.time.run(120)
        assert len(rig.api.times("/stats/payout")) >= 5

    polling(parsed(), scene)


def test_a_rotated_secret_file_ends_the_back_off(tmp_path: Path) -> None:
    """A secret that changes in its file is tried within ten seconds, without a restart."""
    file = tmp_path / "secret"
    file.write_text("old")
    file.chmod(0o600)
    config = parsed(sites=[{"name": "demo", "secret_file": str(file)}], poll=slow_polls(stale_after="1h"))

    async def scene(rig: Rig) -> None:
        rig.api.answer = lambda secret, path: (
            ok(path) if secret == "new" else reply(200, {"success": False, "error": "invalid_secret"})
        )
        await rig.time.run(5)
        assert rig.record(Endpoint.PAYOUT).failures == {"invalid_secret": 1}
        file.write_text("new")
        await rig.time.run(10)
        assert rig.record(Endpoint.PAYOUT).up is True
        known = rig.store["demo"].payout
        rig.apply()
        assert known is rig.store["demo"].payout

    assert "new" in polling(config, scene).concealed


def test_a_secret_file_that_vanishes_keeps_the_last_secret(tmp_path: Path) -> None:
    """Polls go on with the secret read last, and a warning says once what is wrong."""
    file = tmp_path / "secret"
    file.write_text("kept")
    file.chmod(0o600)
    config = parsed(sites=[{"name": "demo", "secret_file": str(file)}], poll=slow_polls())

    async def scene(rig: Rig) -> None:
        file.unlink()
        await rig.time.run(300)

    with capture_logs() as logs:
        rig = polling(config, scene)

    assert {"kept"} == {site for _, site, _ in rig.api.requests}
    assert 3 == sum(entry["event"] == "secret_file_unreadable" for entry in logs)


WATCHING = [{"name": "demo", "secret_env": "SECRET_demo", "watch_users": ["ann", "bob"]}]
ANN = {"success": True, "name": "ann", "total": 7, "withdrawn": 1, "balance": 2}
NO_BOB = {"success": False, "error": "unknown_user"}


def balances(rig: Rig, *answers: dict[str, Any]) -> None:
    """Let `/user/balance` give these answers in turn, the last round of two for ever."""
    turns = itertools.chain(answers, itertools.cycle(answers[-2:]))
    rig.api.answer = lambda _site, path: reply(200, next(turns)) if path == "/user/balance" else ok(path)


def test_one_round_over_the_watched_users_is_one_poll() -> None:
    """Each user is asked for once an interval, one after another; one that is refused fails no poll."""

    async def scene(rig: Rig) -> None:
        balances(rig, ANN, NO_BOB)
        await rig.time.run(2)
        assert 2 == len(rig.api.times("/user/balance"))
        await rig.time.run(310)

    rig = polling(parsed(sites=WATCHING, poll=slow_polls()), scene)
    record, known = rig.record(Endpoint.BALANCES), rig.store["demo"]

    assert 2 * record.polls == len(rig.api.times("/user/balance"))
    assert (True, {}) == (record.up, record.failures)
    assert {"unknown_user": record.polls} == known.watched_failures
    assert ["ann"] == list(known.accounts)


def test_a_round_that_fails_publishes_nothing() -> None:
    """A failure that is no user's own ends the round: what was read of it does not count."""

    async def scene(rig: Rig) -> None:
        balances(rig, ANN, {"success": False, "error": "internal_error"})
        await rig.time.run(2)

    rig = polling(parsed(sites=WATCHING, poll=slow_polls()), scene)

    assert {"internal_error": 1} == rig.record(Endpoint.BALANCES).failures
    assert rig.store["demo"].watched is None
    assert {} == rig.store["demo"].accounts


def test_a_refused_user_is_said_once() -> None:
    """By its place and never by its name; again only after it was found meanwhile."""
    bob = {**ANN, "name": "bob"}

    async def scene(rig: Rig) -> None:
        balances(rig, ANN, NO_BOB, ANN, NO_BOB, ANN, bob, ANN, NO_BOB)
        await rig.time.run(1000)

    with capture_logs() as logs:
        polling(parsed(sites=WATCHING, poll=slow_polls()), scene)
    said = [entry for entry in logs if entry["event"] == "watched_user_refused"]

    assert [("watch_users[1]", "unknown_user")] * 2 == [(entry["user"], entry["reason"]) for entry in said]
    assert "bob" not in str(logs)


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

    rig = polling(config, scene)

    assert ("ann",) == rig.store["demo"].watched.value.labels  # type: ignore[union-attr]


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
        assert rig.store["demo"].watched is None

    def watched(rig: Rig) -> tuple[tuple[str, ...], int]:
        reading = rig.store["demo"].watched
        assert reading is not None
        return reading.value.labels, len(reading.value.refused)

    assert polling(config, scene)


def test_one_round_polls_everything_once() -> None:
    """`once` calls each endpoint of each site a single time and leaves nothing running."""

    async def play() -> Rig:
        rig = Rig(parsed("http://127.0.0.1:1", "a", "b"))
        await rig.poller.once(rig.config, rig.client)
        return rig

    rig = asyncio.run(play())

    assert sorted((site, path) for site in "ab" for path in ANSWERS) == sorted(
        (site, path) for _, site, path in rig.api.requests
    )


def test_jobs_are_equal_when_nothing_changed() -> None:
    """Two loads of the same config give equal jobs, which is what a reload compares."""
    assert parsed() == replace(parsed())
