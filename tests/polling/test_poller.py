"""The poll loops: when they poll, what they publish, what they log, how they go on after a crash."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from exporter import log
from exporter.collectors.history import HISTORY
from exporter.collectors.payout import PAYOUT
from exporter.collectors.registry import HISTORY_COLLECTOR, USERS_COLLECTOR
from exporter.collectors.users import BALANCES, TOP_USERS
from tests.collectors.sites import collector_of
from tests.conftest import WALL, parsed
from tests.polling.rig import ANSWERS, Rig, broken, crash, ok, polling, reply, slow_polls
from tests.polling.watching import ANN, NO_BOB, WATCHING, balances

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import httpx

    from exporter.endpoint import Endpoint


def test_all_endpoints_are_polled_at_their_intervals() -> None:
    """In ten minutes payout and top users are polled each minute, history twice, on their grids."""

    async def scene(rig: Rig) -> None:
        await rig.time.run(600)

    rig = polling(parsed(), scene)
    gaps = [b - a for a, b in zip(*[rig.api.times("/stats/payout")[n:] for n in (1, 2)], strict=False)]

    assert [60.0] * len(gaps) == pytest.approx(gaps)
    assert (11, 3, 11) == tuple(len(rig.api.times(path)) for path in ANSWERS)
    assert rig.record(PAYOUT).polls == 11


def test_what_is_planned_is_known_before_the_first_poll() -> None:
    """Each endpoint has its due time, and its histogram at 0, from the start."""

    async def scene(rig: Rig) -> None:
        for endpoint in (PAYOUT, HISTORY, TOP_USERS):
            labels: dict[str, str] = {"endpoint": endpoint}
            assert 1000.0 <= rig.due(endpoint) <= 1002.0
            assert (0, None) == (rig.record(endpoint).polls, rig.record(endpoint).up)
            assert 0 == rig.own.registry.get_sample_value("cryptoloot_poll_duration_seconds_count", labels)

    polling(parsed(), scene)


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


def test_delay_and_duration_of_polls_are_observed() -> None:
    """A poll is late by what passed since it was due, and lasts from its first request to its end."""

    async def scene(rig: Rig) -> None:
        await rig.time.run(5)
        rig.time.step(rig.due(PAYOUT) + 3 - rig.time.mono)
        rig.api.pace = {"/stats/payout": 2.0}
        await rig.time.run(2)

    sample = polling(parsed(poll=slow_polls()), scene).own.registry.get_sample_value
    name = "cryptoloot_poll_duration_seconds_sum"

    assert pytest.approx(3.0) == sample("cryptoloot_poll_delay_seconds_sum")
    assert pytest.approx(2.0) == sample(name, {"endpoint": "/stats/payout"})
    assert sample(name, {"endpoint": "/stats/history"}) == 0.0


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
    assert rig.record(PAYOUT).up is True


def test_retry_after_holds_polls_off() -> None:
    """A 429 that asks for ten minutes gets ten minutes."""

    async def scene(rig: Rig) -> None:
        rig.api.answer = lambda _site, _path: reply(429, headers={"Retry-After": "600"})
        await rig.time.run(601)

    rig = polling(parsed(poll=slow_polls()), scene)
    times = rig.api.times("/stats/payout")

    assert [600] == [round(b - a) for a, b in itertools.pairwise(times)]
    assert rig.record(PAYOUT).failures == {"rate_limited": 2}


def test_one_sites_failure_is_its_own() -> None:
    """A failing endpoint changes neither another endpoint's record nor another site's."""

    async def scene(rig: Rig) -> None:
        rig.api.answer = lambda site, path: reply(500) if (site, path) == ("a", "/user/top") else ok(path)
        await rig.time.run(300)

    rig = polling(parsed("http://127.0.0.1:1", "a", "b"), scene)

    assert rig.record(TOP_USERS, "a").up is False
    assert [True] * 5 == [
        rig.record(endpoint, site).up
        for site in ("a", "b")
        for endpoint in (PAYOUT, HISTORY, TOP_USERS)
        if (site, endpoint) != ("a", TOP_USERS)
    ]


def test_a_hanging_site_holds_half_of_the_slots_at_most() -> None:
    """However many of its calls hang, a site leaves slots for the others, who stay on time."""

    async def scene(rig: Rig) -> None:
        rig.api.pace = dict.fromkeys(ANSWERS, 30.0)
        await rig.time.run(20)
        assert rig.api.most_in_flight <= 4

    rig = polling(parsed("http://127.0.0.1:1", "a", "b", api={"max_concurrency": 4}), scene)

    assert {"a", "b"} == {site for _, site, _ in rig.api.requests}
    assert [2, 2] == [sum(1 for _, polled, _ in rig.api.requests if polled == site) for site in ("a", "b")]


def test_a_crash_is_logged_counted_and_restarted() -> None:
    """An error nobody foresaw costs a second; its text, which may be a user's name, is not logged."""

    async def scene(rig: Rig) -> None:
        rig.api.answer = crash
        await rig.time.run(4)
        rig.api.answer = lambda _site, path: ok(path)
        await rig.time.run(10)

    with capture_logs() as logs:
        rig = polling(parsed(poll=slow_polls()), scene)

    crashes = [entry for entry in logs if entry["event"] == "loop_crashed"]
    assert {"LookupError"} == {entry["error"] for entry in crashes}
    assert len(crashes) == rig.restarts()
    assert "johnd" not in json.dumps(crashes)
    assert rig.record(PAYOUT).up is True


def test_crashes_in_a_row_wait_longer() -> None:
    """The wait doubles from a second to a minute, and a poll that comes to an end starts it again."""

    async def scene(rig: Rig) -> None:
        rig.api.answer = crash
        await rig.time.run(250)
        rig.api.answer = lambda _site, path: ok(path)
        await rig.time.run(130)
        rig.api.answer = crash
        await rig.time.run(60)

    with capture_logs() as logs:
        polling(parsed(poll=slow_polls()), scene)

    delays = [
        entry["restart_in_s"]
        for entry in logs
        if entry["event"] == "loop_crashed" and entry["endpoint"] == "/stats/payout"
    ]
    assert [1, 2, 4, 8, 16, 32, 60, 60, 60] == delays[:9]
    assert [1, 2, 4] == delays[delays.index(1, 1) :][:3]


def test_the_poll_after_a_crash_is_an_interval_away() -> None:
    """A restart polls off the grid: the next poll is not soon after it, but on the grid an interval later."""

    async def scene(rig: Rig) -> None:
        rig.api.answer = crash
        await rig.time.run(60)
        rig.api.answer = lambda _site, path: ok(path)
        await rig.time.run(200)

    config = parsed("http://127.0.0.1:1", *"abcdefgh", poll=slow_polls())
    rig = polling(config, scene)
    times = [[at for at in rig.api.times("/stats/payout", site) if at > 1060] for site in "abcdefgh"]
    gaps = [after - before for polls in times for before, after in itertools.pairwise(polls)]

    assert min(gaps) > 59.999
    assert max(gaps) > 60.5


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


def test_stopping_ends_calls_in_flight() -> None:
    """After `stop` no request is in flight, and no loop is left."""

    async def scene(rig: Rig) -> None:
        rig.api.pace = dict.fromkeys(ANSWERS, 30.0)
        await rig.time.run(2)
        assert rig.api.in_flight == 3
        await rig.poller.stop()
        assert rig.api.in_flight == 0
        assert [] == [task for task in asyncio.all_tasks() if task.get_name().startswith("poll ")]

    assert polling(parsed(), scene).restarts() == 0


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

    events = [
        (entry["event"], entry.get("reason"))
        for entry in logs
        if entry.get("endpoint") == "/stats/payout" and entry["log_level"] in {"warning", "info"}
    ]
    assert [
        ("poll_failed", "http_status"),
        ("poll_failed", "rate_limited"),
        ("poll_recovered", None),
    ] == events


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
        rig = polling(parsed(), scene)

    warnings = [entry for entry in logs if entry["event"] == "history_hashes_unknown"]
    assert [("demo", "/stats/history", "warning")] == [
        (entry["site"], entry["endpoint"], entry["log_level"]) for entry in warnings
    ]
    assert rig.store["demo"].state(HISTORY_COLLECTOR).contradictory


def test_rejected_entries_are_said_once() -> None:
    """Entries that cannot be read are warned about when they begin, with the place of the first, no name."""
    good = {"name": "johnd", "total": 1, "withdrawn": 0, "balance": 0}
    answers = {"bad": [good, good | {"name": "maria", "total": None}], "good": [good]}

    def answering(users: list[dict[str, Any]]) -> Callable[[str, str], httpx.Response]:
        answer = {"success": True, "users": users}
        return lambda _site, path: reply(200, answer) if "top" in path else ok(path)

    async def scene(rig: Rig) -> None:
        for kind in ("bad", "good", "bad"):
            rig.api.answer = answering(answers[kind])
            await rig.time.run(180)

    with capture_logs() as logs:
        rig = polling(parsed(), scene)

    warning = {
        "event": "entries_rejected",
        "log_level": "warning",
        "site": "demo",
        "endpoint": "/user/top",
        "entries": 1,
        "detail": "$.users[1].total: expected a number, got null",
    }
    assert [warning] * 2 == [entry for entry in logs if entry["event"] == "entries_rejected"]
    assert rig.record(TOP_USERS).rejected >= 4


@pytest.mark.parametrize(
    ("path", "endpoint", "answer", "detail"),
    [
        ("/user/top", TOP_USERS, {"users": [{"name": "u1"}]}, "$.users[0]: object missing"),
        (
            "/stats/history",
            HISTORY,
            {"history": [{"synctime": WALL + 9e6, "hashes": 1, "hashrate": 1}]},
            "this machine's clock says ",
        ),
    ],
)
def test_an_answer_of_which_nothing_can_be_read_is_a_failure(
    path: str, endpoint: Endpoint, answer: dict[str, Any], detail: str
) -> None:
    """It is `invalid_response` in the log, the counter and `up`, and it changes nothing of what was known."""

    async def scene(rig: Rig) -> None:
        await rig.time.run(5)
        before = rig.store["demo"].states
        rig.api.answer = lambda _site, asked: reply(
            200, {"success": True, **answer} if asked == path else ANSWERS[asked]
        )
        await rig.time.run(400)
        assert before[collector_of(endpoint)] == rig.store["demo"].states[collector_of(endpoint)]

    with capture_logs() as logs:
        record = polling(parsed(), scene).record(endpoint)

    failed = [entry for entry in logs if entry["event"] == "poll_failed"]
    assert (False, ["invalid_response"]) == (record.up, list(record.failures))
    assert [(endpoint, "invalid_response")] == [(entry["endpoint"], entry["reason"]) for entry in failed[:1]]
    assert detail in failed[0]["detail"]


def test_a_rotated_secret_file_ends_the_back_off(tmp_path: Path) -> None:
    """A secret that changes in its file is tried within ten seconds, without a restart, and never logged."""
    rotated = "a-rotated-secret"
    file = tmp_path / "secret"
    file.write_text("old")
    file.chmod(0o600)
    config = parsed(sites=[{"name": "demo", "secret_file": str(file)}], poll=slow_polls(stale_after="1h"))

    def answer(secret: str, path: str) -> httpx.Response:
        return ok(path) if secret == rotated else reply(200, {"success": False, "error": "invalid_secret"})

    async def scene(rig: Rig) -> None:
        rig.api.answer = answer
        await rig.time.run(5)
        assert rig.record(PAYOUT).failures == {"invalid_secret": 1}
        file.write_text(rotated)
        await rig.time.run(10)
        assert rig.record(PAYOUT).up is True
        before = rig.store["demo"]
        rig.apply()
        assert before is rig.store["demo"]

    polling(config, scene)

    assert log.MASK == log.redacted(rotated)


def test_a_rotated_secret_does_not_shorten_retry_after(tmp_path: Path) -> None:
    """A new secret is tried when the wait that the API asked for is over."""
    file = tmp_path / "secret"
    file.write_text("old")
    file.chmod(0o600)
    config = parsed(sites=[{"name": "demo", "secret_file": str(file)}], poll=slow_polls())

    async def scene(rig: Rig) -> None:
        rig.api.answer = lambda _site, _path: reply(429, headers={"Retry-After": "600"})
        await rig.time.run(5)
        file.write_text("new")
        await rig.time.run(590)

    rig = polling(config, scene)
    assert ["old"] * 3 == [site for _, site, _ in rig.api.requests]


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


def test_one_round_over_the_watched_users_is_one_poll() -> None:
    """Each user is asked for once an interval, one after another; one that is refused fails no poll."""

    async def scene(rig: Rig) -> None:
        balances(rig, ANN, NO_BOB)
        await rig.time.run(2)
        assert 2 == len(rig.api.times("/user/balance"))
        await rig.time.run(310)

    rig = polling(parsed(sites=WATCHING, poll=slow_polls()), scene)
    record, users = rig.record(BALANCES), rig.store["demo"].state(USERS_COLLECTOR)

    assert 2 * record.polls == len(rig.api.times("/user/balance"))
    assert (True, {}) == (record.up, record.failures)
    assert {"unknown_user": record.polls} == users.failures
    assert ["ann"] == list(users.totals)


def test_a_round_that_fails_publishes_nothing() -> None:
    """A failure that is no user's own ends the round: what was read of it does not count."""

    async def scene(rig: Rig) -> None:
        balances(rig, ANN, {"success": False, "error": "internal_error"})
        await rig.time.run(2)

    rig = polling(parsed(sites=WATCHING, poll=slow_polls()), scene)
    users = rig.store["demo"].state(USERS_COLLECTOR)

    assert {"internal_error": 1} == rig.record(BALANCES).failures
    assert users.watched is None
    assert {} == users.totals


def test_a_refused_user_is_said_once() -> None:
    """By its place and never by its name; again only after it was found meanwhile."""
    bob: dict[str, Any] = {**ANN, "name": "bob"}

    async def scene(rig: Rig) -> None:
        balances(rig, ANN, NO_BOB, ANN, NO_BOB, ANN, bob, ANN, NO_BOB)
        await rig.time.run(1000)

    with capture_logs() as logs:
        polling(parsed(sites=WATCHING, poll=slow_polls()), scene)
    warnings = [entry for entry in logs if entry["event"] == "watched_user_refused"]

    assert [("watch_users[1]", "unknown_user")] * 2 == [
        (entry["user"], entry["reason"]) for entry in warnings
    ]
    assert "bob" not in str(logs)
