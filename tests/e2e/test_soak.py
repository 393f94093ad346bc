"""A week in minutes: real polls and scrapes over loopback sockets, on injected clocks, with incidents on.

What a process left alone for years must not do is grow, leak or lose: that is measured here, and printed.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
from collections import Counter, deque
from collections.abc import Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from exporter import log, simulator
from exporter.app import App, Options
from exporter.simulator import DAY, HOUR, Incident, World, demo_world
from exporter.web import listening, server
from tests.conftest import PatientTime, parsed

if TYPE_CHECKING:
    from exporter.config import Config

pytestmark = pytest.mark.alone

WEEK = 7 * DAY
POLLS = 10_000  # at least, of each site
INTERVALS = {"payout": "90s", "history": "5m", "top_users": "90s"}  # some 15,000 polls a week
TIMEOUT = "2s"  # of real time
SILENCE = 10 * HOUR  # seconds of delay that no client waits for
ROUNDS = 200  # how often the process is measured: every 50 minutes
WARM = ROUNDS // 10
GROWTH = 8 << 10  # KiB of memory at most, after the warm-up
SPREAD = 20  # open files, tasks, and entries of a container, at most above what there were after the warm-up
MODULES = ("exporter.", "tests.conftest")  # the program, and the clock on which it sleeps
SIMULATOR = "exporter.simulator"
OF_SIMULATOR = "ASGI callable returned without completing response."  # its server, when it cuts an answer
REASONS = {
    *("timeout", "connect", "http_status", "rate_limited"),
    *("invalid_json", "invalid_secret", "internal_error"),
}
NAMES = {"healthy": 'gesund \N{OX} "quote" \\back\\', "troubled": "gest\u00f6rt\u202ed<b>'"}


class Sample(NamedTuple):
    """The process at one time."""

    polls: int
    memory: int  # KiB
    files: int
    tasks: int


class Week:
    """An app and its API in one process, and what is seen of them."""

    def __init__(self) -> None:
        self.slowed = 0
        self.complaints: list[dict[str, Any]] = []
        self.scrapes: Counter[int] = Counter()
        self.samples: list[Sample] = []
        self.page: list[Any] = []  # the samples of the last scrape
        self.warm_sizes: dict[str, int] = {}  # of containers, after the warm-up
        self.largest_sizes: dict[str, int] = {}  # of containers, at any time after it
        self.time = PatientTime(lambda: self.time.polls_in_progress() > self.slowed)
        self.world = self._world()
        self.app: App

    def _world(self) -> World:
        world = demo_world(lambda: self.time.wall, 5, 200, self._slow)
        world.requests = deque(maxlen=100)  # the simulator's own log shall not grow in our memory
        silent = Incident(
            "slow", world.clock() + 2 * HOUR, 120, every=DAY, delay=SILENCE, path="/stats/payout"
        )
        # Totals begin anew every four hours: the two caches must differ by more than a poll brings.
        waver = Incident("waver", world.clock() + HOUR / 2, 600, every=2 * HOUR, fraction=0.1)
        world.sites["troubled"].incidents += [silent, waver]
        return world

    async def _slow(self, seconds: float) -> None:
        """Let the API sleep on virtual time; the program's time-outs, which are real, do not count it."""
        waited_for = seconds < SILENCE
        self.slowed += waited_for
        try:
            await self.time.sleep(seconds)
        finally:
            self.slowed -= waited_for

    def config(self, api: int) -> Config:
        sites = [{"name": NAMES[name], "secret": site.secret} for name, site in self.world.sites.items()]
        polls = {name: {"interval": interval} for name, interval in INTERVALS.items()}
        return parsed(f"http://127.0.0.1:{api}", sites=sites, poll=polls, api={"timeout": TIMEOUT})

    async def pass_by(self, client: httpx.AsyncClient, url: str) -> None:
        """Let the week pass; scrape every ten minutes, measure in each round."""
        scrapes = 5
        for _ in range(ROUNDS):
            for _ in range(scrapes):
                await self.time.run(WEEK / ROUNDS / scrapes)
                answer = await client.get(url)
                self.scrapes[answer.status_code] += 1
            families = text_string_to_metric_families(answer.text)
            self.page = [sample for family in families for sample in family.samples]
            self.samples.append(self.measured())

    def measured(self) -> Sample:
        gc.collect()
        if len(self.samples) >= WARM:
            sizes = container_sizes()
            self.warm_sizes = self.warm_sizes or sizes
            for name, size in sizes.items():
                self.largest_sizes[name] = max(size, self.largest_sizes.get(name, 0))
        status = Path("/proc/self/status").read_text()
        memory = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
        files = len([*Path("/proc/self/fd").iterdir()])
        tasks = len(asyncio.all_tasks())
        return Sample(sum(self.polls().values()), int(memory), files, tasks)

    def total(self, metric: str, by: str = "site") -> Counter[str]:
        """Return what the last scrape says of a counter of the exporter, by the values of this label."""
        total = Counter[str]()
        for sample in self.page:
            if sample.name == f"cryptoloot_{metric}":
                total[sample.labels.get(by, "")] += int(sample.value)
        return total

    def polls(self) -> dict[str, int]:
        """Return how often each site was polled."""
        polls = self.total("polls_total")
        return {site: polls[name] for site, name in NAMES.items()}

    def failures(self) -> dict[str, int]:
        """Return how many polls failed, by site."""
        failures = self.total("poll_failures_total")
        return {site: failures[name] for site, name in NAMES.items()}


def container_sizes() -> dict[str, int]:
    """Return how many entries the largest container in each attribute of the program's objects has."""
    sizes: dict[str, int] = {}
    for thing in gc.get_objects():
        module = str(type(thing).__module__)
        if module.startswith(MODULES) and not module.startswith(SIMULATOR):
            for name, value in getattr(thing, "__dict__", {}).items():
                if isinstance(value, Sized) and not isinstance(value, str | bytes):
                    attribute = f"{type(thing).__name__}.{name}"
                    sizes[attribute] = max(sizes.get(attribute, 0), len(value))
    return sizes


async def lived() -> Week:
    """Live through the week."""
    week = Week()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: week.complaints.append(context))
    (socket,) = listening.listen(["127.0.0.1:0"])
    simulating = server.Server(simulator.app(week.world))
    serving = asyncio.create_task(simulating.serve([socket]))
    config = week.config(socket.getsockname()[1])
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    week.app = App(lambda: config, Options(("127.0.0.1:0",)), week.time.clock)
    running = asyncio.create_task(week.app.run(lambda addresses: address.set_result(addresses[0])))
    try:
        async with httpx.AsyncClient(timeout=30) as client:
            await week.pass_by(client, f"http://{await address}/metrics")
    finally:
        week.app.stop()
        await running
        simulating.stop()
        await serving
        socket.close()
    return week


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> tuple[Week, list[dict[str, Any]]]:
    """Live through the week once, with a log that takes ASCII alone; return the week and the log."""
    root = logging.getLogger()
    level, handlers = root.level, [*root.handlers]
    file = tmp_path_factory.mktemp("soak") / "log"
    root.handlers = []  # pytest's own would keep every record, in the memory that is measured
    with file.open("w", encoding="ascii") as stream:
        log.setup("debug", "json", stream)
        try:
            week = asyncio.run(lived())
        finally:
            structlog.reset_defaults()
            root.handlers = handlers
            root.setLevel(level)
    return week, [json.loads(line) for line in file.read_bytes().split(b"\n")[:-1]]


def slope(samples: list[Sample]) -> float:
    """Return KiB of memory per 1,000 polls, by least squares."""
    polls = [sample.polls / 1000 for sample in samples]
    memory = [float(sample.memory) for sample in samples]
    middle, mean = sum(polls) / len(polls), sum(memory) / len(memory)
    over = sum((x - middle) * (y - mean) for x, y in zip(polls, memory, strict=True))
    return over / sum((x - middle) ** 2 for x in polls)


Record = tuple[Week, list[dict[str, Any]]]


@pytest.mark.slow
def test_the_week_was_eventful(record: Record, capsys: pytest.CaptureFixture[str]) -> None:
    """Both sites have their polls, the troubled one every kind of failure, the healthy one none."""
    week, lines = record
    after, last = week.samples[WARM:], week.samples[-1]
    large = {name: size for name, size in sorted(week.largest_sizes.items()) if size > SPREAD}
    reasons = week.total("poll_failures_total", "reason")
    with capsys.disabled():
        print(  # noqa: T201 - the figures
            f"\n\na week: {week.polls()} polls, {week.failures()} failed, {len(lines)} log lines, "
            f"{dict(week.scrapes)} scrapes\n"
            f"memory: {slope(after):+.1f} KiB per 1,000 polls; KiB after each tenth of the week: "
            f"{[sample.memory for sample in week.samples[WARM::WARM]] + [last.memory]}\n"
            f"open files: {min(s.files for s in after)} to {max(s.files for s in after)}, "
            f"tasks: {min(s.tasks for s in after)} to {max(s.tasks for s in after)}\n"
            f"entries of the largest of {len(week.largest_sizes)} containers: {large}"
        )

    assert POLLS <= min(week.polls().values())
    assert 0 == week.failures()["healthy"]
    assert REASONS == {reason for reason, count in reasons.items() if count}
    assert week.total("user_regressions_total")[NAMES["troubled"]] > 0


@pytest.mark.slow
def test_memory_stays(record: Record) -> None:
    """After the first tenth the process grows by less than GROWTH, to its end and at any time between."""
    _, *after = record[0].samples[WARM - 1 :]

    assert max(sample.memory for sample in after) - after[0].memory < GROWTH


@pytest.mark.slow
def test_files_and_tasks_stay(record: Record) -> None:
    """Open files, tasks and all that is remembered between polls are bounded, and do not grow."""
    week, _ = record
    after = week.samples[WARM:]
    half, warm = len(after) // 2, week.warm_sizes

    assert max(s.files for s in after) <= after[0].files + SPREAD
    assert max(s.tasks for s in after) <= after[0].tasks + SPREAD
    assert max(s.files for s in after[half:]) <= max(s.files for s in after[:half]) + 2
    assert max(s.tasks for s in after[half:]) <= max(s.tasks for s in after[:half]) + 2
    grown = {name: size for name, size in week.largest_sizes.items() if size > warm.get(name, 0) + SPREAD}
    assert {} == grown


@pytest.mark.slow
def test_nothing_was_unhandled(record: Record) -> None:
    """No loop crashed, nothing reached the event loop's handler, and no scrape failed."""
    week, lines = record

    assert [] == week.complaints
    assert [0] == [*week.total("exporter_loop_restarts_total").values()]
    assert [] == [line for line in lines if line["event"] == "loop_crashed"]
    assert {OF_SIMULATOR} >= {line["message"] for line in lines if line["event"] == "library_message"}
    assert [200] == list(week.scrapes)


@pytest.mark.slow
def test_no_log_line_was_lost(record: Record) -> None:
    """Each poll is one line of JSON, whatever the site's name; each failure too."""
    week, lines = record
    polls, failures = Counter(week.polls()), week.failures()
    told = {
        event: Counter(line["site"] for line in lines if line["event"] == event)
        for event in ("poll_succeeded", "poll_failed")
    }

    for site, name in NAMES.items():
        assert polls[site] - failures[site] == told["poll_succeeded"][name]
        assert failures[site] == told["poll_failed"][name]
