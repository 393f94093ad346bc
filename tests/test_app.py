"""The daemon on virtual time: what it shows of a simulated API, and what a reload changes."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from exporter import __version__, simulator
from exporter.app import App, Options, check_online
from exporter.collectors.users import TOP_USERS
from exporter.config import ConfigError
from exporter.config.problems import SHOWN, Problem
from exporter.config.sharding import Share
from exporter.endpoint import Reason
from exporter.polling.poller import Failure
from exporter.simulator import Incident, World
from tests.conftest import VirtualTime, fetch, parsed, settle

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from exporter.config import Config

HOUR = 3600
SITES = ("a", "b")


class Network(httpx.ASGITransport):
    """The simulator as the outgoing network; it counts the connections that were closed."""

    closed = 0

    async def aclose(self) -> None:
        self.closed += 1


class Stage:
    """An app on virtual time, polling the simulator in the same process."""

    def __init__(self, config: Config, **options: Any) -> None:
        self.time = VirtualTime()
        self.world = World(seed=3, clock=lambda: self.time.wall, sleep=self.time.sleep)
        for site in SITES:
            self.world.add(site, f"secret-of-{site}", users=30)
        self.config: Config | Exception = config
        self.network = Network(app=simulator.app(self.world))
        self.app = App(self.load, Options(("127.0.0.1:0",), **options), self.time.clock, self.network)

    def load(self) -> Config:
        if isinstance(self.config, Exception):
            raise self.config
        return self.config

    async def get(self, path: str) -> httpx.Response:
        return await fetch(self.app.web, path)

    async def page(self) -> dict[str, float]:
        text = (await self.get("/metrics")).text
        pairs = (line.rsplit(" ", 1) for line in text.split("\n")[:-1] if line[0] != "#")
        return {series: float(value) for series, value in pairs}

    async def series(self, name: str, site: str) -> float | None:
        return (await self.page()).get(f'cryptoloot_{name}{{site="{site}"}}')


def two_sites(**sections: Any) -> Config:
    return parsed("http://127.0.0.1:1", *SITES, **sections)


def played(config: Config, scene: Callable[[Stage], Coroutine[Any, Any, None]]) -> Stage:
    async def play() -> Stage:
        stage = Stage(config)
        await stage.app.start()
        await scene(stage)
        await stage.app.close()
        return stage

    return asyncio.run(play())


def test_the_page_says_what_the_world_says() -> None:
    """Payout, hashrate and a user's total on the page are those of the simulated world at the poll."""

    async def scene(stage: Stage) -> None:
        await stage.time.run(2)
        page, site, now = await stage.page(), stage.world.sites["a"], stage.time.wall
        settled = [row for row in site.rows(now) if row.synctime + 75 * 60 <= now]
        polled = page['cryptoloot_last_success_timestamp_seconds{endpoint="/user/top",site="a"}']

        assert site.payout(now).diff == page['cryptoloot_network_difficulty{site="a"}']
        assert settled[-1].hashrate == page['cryptoloot_hashrate_hashes_per_second{site="a"}']
        assert sum(row.hashes for row in settled) == page['cryptoloot_history_week_hashes{site="a"}']
        top = site.top(polled, 128)
        assert top[0].total == page[f'cryptoloot_user_hashes_total{{site="a",user="{top[0].name}"}}']

    played(two_sites(), scene)


def test_every_call_names_the_program() -> None:
    """The API sees the program's name and version, and nothing else, as the user agent."""
    agents = set()

    def answer(request: httpx.Request) -> httpx.Response:
        agents.add(request.headers["User-Agent"])
        return httpx.Response(500, stream=httpx.ByteStream(b""))

    asyncio.run(check_online(two_sites(), VirtualTime().clock, httpx.MockTransport(answer)))

    assert {f"cryptoloot-exporter/{__version__}"} == agents


def test_values_leave_when_stale_and_come_back() -> None:
    """An outage's values leave after stale_after; up, counters and timestamps stay; all return afterwards."""

    async def scene(stage: Stage) -> None:
        await stage.time.run(5)
        outage = Incident("outage-5xx", stage.time.wall, HOUR)
        stage.world.sites["a"].incidents.append(outage)
        await stage.time.run(200)
        assert await stage.series("network_difficulty", "a") is not None
        await stage.time.run(200)
        page = await stage.page()
        assert await stage.series("network_difficulty", "a") is None
        assert page['cryptoloot_up{endpoint="/stats/payout",site="a"}'] == 0
        assert page['cryptoloot_payout_sync_timestamp_seconds{site="a"}'] > 0
        assert (
            page['cryptoloot_poll_failures_total{endpoint="/stats/payout",reason="http_status",site="a"}'] > 0
        )
        await stage.time.run(1 + HOUR + 200)
        assert await stage.series("network_difficulty", "a") is not None
        assert await stage.series("hashrate_hashes_per_second", "a") is not None

    played(two_sites(), scene)


def test_an_outage_is_one_sites() -> None:
    """One site's outage or hanging changes nothing on the other."""
    pages = []

    def scene(*incidents: Incident) -> Callable[[Stage], Coroutine[Any, Any, None]]:
        async def play(stage: Stage) -> None:
            stage.world.sites["a"].incidents += incidents
            await stage.time.run(1000)
            pages.append({k: value for k, value in (await stage.page()).items() if 'site="b"' in k})

        return play

    quiet = two_sites(api={"timeout": "5s"})
    played(quiet, scene())
    played(quiet, scene(Incident("outage-html", VirtualTime().wall, 9 * HOUR)))

    assert pages[0] == pages[1]


def test_frozen_rows_leave_though_polls_succeed() -> None:
    """A history that stands still is not "now" any more after max_row_age, and its timestamp tells."""

    async def scene(stage: Stage) -> None:
        await stage.time.run(5)
        stage.world.sites["a"].incidents.append(Incident("freeze", stage.time.wall, 20 * HOUR))
        before = await stage.series("history_settled_row_timestamp_seconds", "a")
        await stage.time.run(6 * HOUR)
        page = await stage.page()
        assert page['cryptoloot_up{endpoint="/stats/history",site="a"}'] == 1
        assert await stage.series("hashrate_hashes_per_second", "a") is None
        assert await stage.series("hashrate_hashes_per_second", "b") is not None
        frozen = await stage.series("history_settled_row_timestamp_seconds", "a")
        assert before is not None
        assert frozen is not None
        assert frozen == before + 2 * HOUR  # the row that was filling when the data froze

    rarely = {"interval": "1h"}  # the history alone matters
    played(two_sites(poll={"payout": rarely, "top_users": rarely}), scene)


def test_totals_that_waver_are_held() -> None:
    """Two caches behind the API never make a counter fall; a reset does, once it is confirmed."""
    name = 'cryptoloot_user_hashes_total{site="a",user="%s"}'

    async def scene(stage: Stage) -> None:
        site = stage.world.sites["a"]
        site.incidents.append(Incident("waver", stage.time.wall, HOUR))
        seen = []
        user = name % site.top(stage.time.wall, 1)[0].name
        for _ in range(30):
            await stage.time.run(61)
            seen.append((await stage.page())[user])
        assert seen == sorted(seen)
        assert (await stage.series("user_regressions_total", "a") or 0) > 0
        site.incidents.append(Incident("reset", stage.time.wall, 1))
        await stage.time.run(200)
        assert (await stage.page())[user] < seen[-1] / 2

    played(two_sites(), scene)


def test_hostile_names_are_only_names() -> None:
    """Whatever visitors call themselves, the page parses and the site's other users are there."""

    async def scene(stage: Stage) -> None:
        stage.world.sites["a"].incidents.append(Incident("hostile", stage.time.wall, HOUR))
        await stage.time.run(70)
        page = await stage.page()
        assert (page['cryptoloot_rejected_entries_total{endpoint="/user/top",site="a"}']) > 0
        assert page['cryptoloot_top_users_returned{site="a"}'] > 30

    played(two_sites(), scene)


def test_a_bad_reload_changes_nothing() -> None:
    """A refused config leaves sites, data and polls as they are, and says so; a good one then counts."""

    async def scene(stage: Stage) -> None:
        await stage.time.run(5)
        good = stage.config
        stage.config = ConfigError([Problem("sites", "empty", 3, "/etc/config.yaml")])
        before = await stage.series("network_difficulty", "a")
        problems = await stage.app.reload()
        await stage.time.run(2)
        page = await stage.page()
        assert problems == ["config.yaml: sites (line 3): empty"]
        assert page["cryptoloot_exporter_config_last_reload_successful"] == 0
        assert before == await stage.series("network_difficulty", "a")
        stage.config = good
        assert await stage.app.reload() == []
        await stage.time.run(2)
        assert (await stage.page())["cryptoloot_exporter_config_last_reload_successful"] == 1

    with capture_logs() as logs:
        played(two_sites(), scene)

    assert [["config.yaml: sites (line 3): empty"]] == [
        entry["problems"] for entry in logs if entry["event"] == "reload_failed"
    ]


def test_a_reload_adds_and_removes_sites() -> None:
    """After a reload the page has the sites of the new config, those that stayed with their data."""

    async def scene(stage: Stage) -> None:
        await stage.time.run(5)
        stage.config = parsed("http://127.0.0.1:1", "b")
        await stage.app.reload()
        assert await stage.series("network_difficulty", "a") is None
        assert await stage.series("network_difficulty", "b") is not None
        stage.config = two_sites()
        await stage.app.reload()
        await stage.time.run(5)
        assert await stage.series("network_difficulty", "a") is not None

    played(two_sites(), scene)


def test_changed_api_settings_take_a_new_client() -> None:
    """A reload with another time-out polls on through a new client, and the old one is closed in time."""

    async def scene(stage: Stage) -> None:
        await stage.time.run(5)
        stage.config = two_sites(api={"timeout": "3s"})
        await stage.app.reload()
        await stage.time.run(9)
        assert stage.network.closed == 0
        await stage.time.run(2)
        assert stage.network.closed > 0
        await stage.time.run(110)
        assert (await stage.page())['cryptoloot_up{endpoint="/stats/payout",site="a"}'] == 1

    played(two_sites(), scene)


def test_the_same_api_settings_keep_the_client() -> None:
    """A reload that changes sites alone closes no connection."""

    async def scene(stage: Stage) -> None:
        await stage.time.run(5)
        stage.config = parsed("http://127.0.0.1:1", "b")
        await stage.app.reload()
        await stage.time.run(60)
        assert stage.network.closed == 0

    assert played(two_sites(), scene).network.closed > 0


def test_closing_does_not_wait_for_a_retired_client() -> None:
    """A process that stops right after a reload stops at once, and leaves no task behind."""

    async def scene(stage: Stage) -> None:
        stage.config = two_sites(api={"timeout": "3s"})
        await stage.app.reload()
        await settle()
        now = stage.time.mono
        await stage.app.close()
        await settle()
        assert now == stage.time.mono
        assert [asyncio.current_task()] == list(asyncio.all_tasks())

    assert played(two_sites(), scene).network.closed > 0


def test_a_reload_before_the_start_is_refused() -> None:
    """A signal that comes before the config was loaded changes nothing."""
    stage = Stage(two_sites())

    assert ["not started yet: try again in a second"] == asyncio.run(stage.app.reload())


def test_a_reload_asked_for_during_the_start_comes_after_it() -> None:
    """SIGHUP while the config is being read is not lost: the file may have changed after it was read."""

    async def play() -> list[Any]:
        stage = Stage(two_sites())
        with capture_logs() as logs:
            stage.app.reload_soon()
            await settle()
            await stage.app.start()
            # The config is loaded in a thread.
            while not any(entry["event"] == "reloaded" for entry in logs):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await stage.app.close()
        return [entry["event"] for entry in logs]

    events = asyncio.run(play())
    assert events.index("starting") < events.index("reloaded")


def test_a_stop_during_the_load_ends_the_start() -> None:
    """SIGTERM while the config is being read ends `run` at once, before anything listens or polls."""
    reading, read = threading.Event(), threading.Event()

    def load() -> Config:
        reading.set()
        read.wait(10)
        return two_sites()

    async def play() -> list[Any]:
        app = App(load, Options(("127.0.0.1:0",)))
        with capture_logs() as logs:
            running = asyncio.create_task(app.run())
            await asyncio.to_thread(reading.wait, 10)
            app.stop()
            await asyncio.wait_for(running, 5)
        read.set()
        return logs

    assert [] == asyncio.run(play())


def test_a_process_has_its_share_of_the_sites() -> None:
    """With --shard the sites of the other processes are neither polled nor shown, also after a reload."""
    shares = []

    async def play(share: Share) -> None:
        stage = Stage(two_sites(), share=share)
        await stage.app.start()
        await stage.app.reload()
        await stage.time.run(5)
        page = await stage.page()
        await stage.app.close()
        shares.append({name for name in SITES if f'cryptoloot_network_difficulty{{site="{name}"}}' in page})

    for shard in range(4):
        asyncio.run(play(Share(shard, 4)))

    assert sorted(SITES) == sorted(name for names in shares for name in names)


def test_what_was_loaded_is_on_the_page() -> None:
    """When the config was last loaded, and whether the last load was accepted, all readers see alike."""

    async def scene(stage: Stage) -> None:
        started = stage.time.wall
        await stage.time.run(10)
        stage.config = ConfigError([Problem("sites", "empty", 3, "/etc/config.yaml")])
        await stage.app.reload()
        await stage.time.run(2)
        page, status = await stage.page(), (await stage.get("/api/v1/status")).json()
        loaded = "cryptoloot_exporter_config_last_reload_success_timestamp_seconds"
        assert {"loaded": started, "last_load_accepted": False} == status["config"]
        assert started == page[loaded]
        assert page["cryptoloot_exporter_config_last_reload_successful"] == 0

    played(two_sites(), scene)


def test_inline_secrets_are_warned_about() -> None:
    """What the config does not recommend is logged at start, without the secret."""
    config = parsed(sites=[{"name": "a", "secret": "canary-canary"}])

    async def scene(stage: Stage) -> None:
        await stage.time.run(1)

    with capture_logs() as logs:
        played(config, scene)

    assert any(entry["event"] == "config_warning" for entry in logs)
    assert "canary" not in repr(logs)


def test_an_unreadable_entry_of_no_proxy_is_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter starts, and the log names the entry that it ignores."""
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "fd00::/200,[::1]")

    async def scene(_: Stage) -> None:
        pass

    with capture_logs() as logs:
        played(two_sites(api={"proxy": "environment"}), scene)

    (warning,) = (entry["problem"] for entry in logs if entry["event"] == "config_warning")
    assert "'fd00::/200'" in warning


def test_warnings_of_many_sites_are_counted() -> None:
    """Some are logged, then how many more there are: a log line for each of 2,500 sites delays scrapes."""

    async def play() -> list[str]:
        stage = Stage(
            replace(two_sites(), warnings=tuple(f"warning {number}" for number in range(SHOWN + 5)))
        )
        with capture_logs() as logs:
            await stage.app.start()
        await stage.app.close()
        return [entry["problem"] for entry in logs if entry["event"] == "config_warning"]

    problems = asyncio.run(play())

    assert [f"warning {number}" for number in range(SHOWN)] == problems[:SHOWN]
    assert ["and 5 more"] == problems[SHOWN:]


def test_once_calls_everything_and_tells_what_failed() -> None:
    """One round gives the page, and each endpoint that failed with its reason."""

    async def play() -> Any:
        stage = Stage(two_sites())
        stage.world.sites["b"].incidents.append(
            Incident("error", stage.time.wall, HOUR, code="internal_error", path="/user/top")
        )
        return await check_online(
            two_sites(), stage.time.clock, httpx.ASGITransport(app=simulator.app(stage.world))
        )

    page, failures, _ = asyncio.run(play())

    detail = "the API answered internal_error"
    assert [Failure("b", TOP_USERS, Reason.INTERNAL_ERROR, detail)] == failures
    assert 'cryptoloot_network_difficulty{site="b"}' in page


@pytest.mark.parametrize(
    "error", [ValueError("canary"), OverflowError("canary"), RecursionError(), OSError(2, "canary")]
)
def test_any_exception_in_a_reload_is_a_refusal(error: Exception) -> None:
    """A fault of ours refuses the reload as a fault of the file does. Its place is told once."""
    answers: list[list[str]] = []

    async def scene(stage: Stage) -> None:
        await stage.time.run(5)
        before, good = await stage.series("network_difficulty", "a"), stage.config
        stage.config = error
        answers.append(await stage.app.reload())
        await stage.time.run(2)
        assert (await stage.page())["cryptoloot_exporter_config_last_reload_successful"] == 0
        assert before == await stage.series("network_difficulty", "a")
        stage.config = good
        assert await stage.app.reload() == []
        await stage.time.run(2)
        assert (await stage.page())["cryptoloot_exporter_config_last_reload_successful"] == 1

    with capture_logs() as logs:
        played(two_sites(), scene)

    ((problem,),) = answers
    assert [[problem]] == [entry["problems"] for entry in logs if entry["event"] == "reload_failed"]
    assert f"{type(error).__name__} at test_app.py:" in problem
    assert "canary" not in f"{problem} {logs}"


def test_a_reload_with_a_thousand_problems_tells_some_and_their_number() -> None:
    """The answer and the log have the first problems, and how many more there are."""
    answers: list[list[str]] = []

    async def scene(stage: Stage) -> None:
        await stage.time.run(1)
        stage.config = ConfigError(
            Problem(f"sites[{number}]", "wrong", number, "c") for number in range(1, 1001)
        )
        answers.append(await stage.app.reload())

    with capture_logs() as logs:
        played(two_sites(), scene)

    (answer,) = answers
    assert ["c: sites[1] (line 1): wrong", "and 950 more"] == [answer[0], answer[-1]]
    assert [answer] == [entry["problems"] for entry in logs if entry["event"] == "reload_failed"]
