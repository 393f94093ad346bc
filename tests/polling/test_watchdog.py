"""Which loops the watchdog takes for stuck."""

from __future__ import annotations

import json
from itertools import count
from typing import TYPE_CHECKING

from exporter.collectors.payout import PAYOUT
from tests.conftest import parsed
from tests.polling.rig import ANSWERS, FOREVER, Rig, crash, ok, polling, reply, slow_polls

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

INTERVAL, TIMEOUT, STUCK_AFTER = 60.0, 10.0, 60.0
WALKING = {**slow_polls(interval="1d"), "all_users": {"enabled": True, "interval": "1m"}}
WALK = "demo /user/list"


def endless(pages: int = 10**6) -> Callable[[str, str], httpx.Response]:
    """Return answers in which `/user/list` has so many pages, and then crashes."""
    numbers = count(1)

    def answer(site: str, path: str) -> httpx.Response:
        if path != "/user/list":
            return ok(path)
        number = next(numbers)
        if number % pages == 0:
            return crash(site, path)
        return reply(200, {"success": True, "users": [], "nextPage": f"p{number}"})

    return answer


def test_a_loop_that_hangs_is_found() -> None:
    """The watchdog names a loop that is overdue by its interval, the time-out and a minute, and no other."""

    async def scene(rig: Rig) -> None:
        await rig.time.run(5)
        assert rig.stuck() == []
        rig.api.pace = {"/stats/payout": FOREVER}
        await rig.run_until(rig.due(PAYOUT) + INTERVAL + TIMEOUT + STUCK_AFTER - 0.5)
        assert rig.stuck() == []
        await rig.time.run(1)
        assert rig.stuck() == ["demo /stats/payout"]

    polling(parsed(), scene)


def test_a_changed_time_out_counts_for_polls_under_way() -> None:
    """After a reload a loop that goes on is given the new time-out."""

    async def scene(rig: Rig) -> None:
        await rig.time.run(5)
        rig.api.pace = {"/stats/payout": FOREVER}
        rig.apply(parsed(api={"timeout": "100s"}))
        await rig.run_until(rig.due(PAYOUT) + INTERVAL + 100 + STUCK_AFTER - 0.5)
        assert rig.stuck() == []
        await rig.time.run(1)
        assert rig.stuck() == ["demo /stats/payout"]

    polling(parsed(), scene)


def test_a_backed_off_loop_that_hangs_after_a_reload_is_found() -> None:
    """A reload that polls sooner expects progress sooner."""

    async def scene(rig: Rig) -> None:
        rig.api.answer = lambda _site, _path: reply(500)
        await rig.time.run(2000)
        rig.apply()
        rig.api.pace = {"/stats/payout": FOREVER}
        soon = rig.due(PAYOUT)
        assert soon < rig.time.mono + INTERVAL
        await rig.run_until(soon + INTERVAL + TIMEOUT + STUCK_AFTER + 0.5)
        assert rig.stuck() == ["demo /stats/payout"]

    polling(parsed(poll=slow_polls(stale_after="1h")), scene)


def test_a_loop_that_only_crashes_is_found() -> None:
    """Restarting is not turning: a loop that crashes at every poll stands still."""

    async def scene(rig: Rig) -> None:
        rig.api.answer = crash
        await rig.time.run(200)
        assert rig.stuck() == ["demo /stats/payout", "demo /user/top"]

    polling(parsed(), scene)


def test_a_failing_api_is_no_stuck_loop() -> None:
    """Polls that fail come to an end: back-off, however long, is no reason to alarm."""

    async def scene(rig: Rig) -> None:
        rig.api.answer = lambda _site, _path: reply(429, headers={"Retry-After": "3600"})
        for _ in range(100):
            await rig.time.run(100)
            assert rig.stuck() == []

    polling(parsed(), scene)


def test_a_process_that_stood_still_is_fine_again_when_its_polls_end() -> None:
    """A request that is sent is no sign of life; the end of the poll is."""

    async def scene(rig: Rig) -> None:
        await rig.time.run(5)
        rig.api.pace = {"/stats/payout": 2.0}
        rig.time.step(3600)
        await rig.time.run(1)
        assert rig.stuck() == ["demo /stats/payout"]
        await rig.time.run(1)
        assert rig.stuck() == []

    polling(parsed(), scene)


def test_a_walk_is_fine_while_it_goes_on() -> None:
    """Each page of a walk moves the time by which progress is expected; a page that hangs is found."""

    async def scene(rig: Rig) -> None:
        rig.api.answer, rig.api.pace = endless(), {"/user/list": 100.0}
        for _ in range(50):
            await rig.time.run(100)
            assert rig.stuck() == []
        rig.api.pace = {"/user/list": FOREVER}
        await rig.time.run(100)
        last = rig.api.times("/user/list")[-1]
        await rig.run_until(last + INTERVAL + TIMEOUT + STUCK_AFTER - 0.5)
        assert rig.stuck() == []
        await rig.time.run(1)
        assert rig.stuck() == [WALK]

    rig = polling(parsed(poll=WALKING), scene)
    assert len(rig.api.times("/user/list")) > 50


def test_a_walk_that_crashes_makes_no_progress() -> None:
    """Pages of a walk that crashes do not count: a loop that crashes on its third page for ever is found."""

    async def scene(rig: Rig) -> None:
        rig.api.answer = endless(3)
        await rig.time.run(200)
        assert rig.stuck() == [WALK]

    polling(parsed(poll=WALKING), scene)


def test_a_loop_in_the_queue_for_a_slot_is_fine_while_others_finish() -> None:
    """With one slot for all, who waits long is not stuck as long as polls come to an end; then all are."""
    sites = [f"site{number}" for number in range(10)]

    async def scene(rig: Rig) -> None:
        rig.api.pace = dict.fromkeys(ANSWERS, 30.0)
        for _ in range(60):
            await rig.time.run(30)
            assert rig.stuck() == []
        rig.api.pace = dict.fromkeys(ANSWERS, FOREVER)
        await rig.time.run(2 * (INTERVAL + TIMEOUT + STUCK_AFTER))
        assert {f"{site} /stats/payout" for site in sites} <= {*rig.stuck()}

    polling(parsed("http://127.0.0.1:1", *sites, api={"max_concurrency": 1}), scene)


def test_stuck_loops_are_named_and_nobody_else() -> None:
    """A name has the site and the endpoint, as the log has them; after `stop` there is none."""

    async def scene(rig: Rig) -> None:
        rig.api.pace = {"/user/top": FOREVER}
        await rig.time.run(200)
        assert rig.stuck() == ["b é /user/top"]
        await rig.poller.stop()
        assert rig.stuck() == []

    config = parsed(sites=[{"name": "b é", "secret": "secret-of-b"}])
    assert json.dumps(polling(config, scene).stuck()) == "[]"
