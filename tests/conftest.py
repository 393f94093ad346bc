"""What tests share: virtual time, configs, servers on loopback that answer what a test wants."""

from __future__ import annotations

import asyncio
import heapq
import logging
import os
import shutil
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import structlog
from hypothesis import settings

from exporter import config
from exporter.clock import Clock, Now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

# A property that holds is no failure on a busy machine, however long an example takes there.
settings.register_profile("quick", deadline=None, max_examples=30)
settings.register_profile("thorough", deadline=None, max_examples=300)
settings.load_profile("quick")

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"
WALL = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC


def examples(times: float, **options: Any) -> settings:
    """Return the profile's settings with so many times its examples: fewer where one takes long."""
    return settings(max_examples=max(1, round(times * settings().max_examples)), **options)


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """Undo what a command does to logging: later tests on this process would capture no events."""
    root = logging.getLogger()
    level, handlers = root.level, [*root.handlers]
    yield
    structlog.reset_defaults()
    root.handlers = handlers
    root.setLevel(level)


class VirtualTime:
    """Clocks and a sleep that take no time: `run` wakes sleepers in order and lets the loop settle."""

    def __init__(self, wall: float = WALL, chance: float = 0.5) -> None:
        self.mono = 1000.0
        self.offset = wall - self.mono
        self.chance = chance
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()

    @property
    def clock(self) -> Clock:
        return Clock(self.now, self.sleep, lambda: self.chance)

    @property
    def wall(self) -> float:
        return self.mono + self.offset

    def now(self) -> Now:
        return Now(self.wall, self.mono)

    async def sleep(self, seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.mono + max(0.0, seconds), next(self._order), future))
        await future

    def step(self, seconds: float) -> None:
        """Move both clocks without waking anybody: a process that was stopped."""
        self.mono += seconds

    async def run(self, seconds: float) -> None:
        """Let so much time pass."""
        end = self.mono + seconds
        await self.quiet()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, future = heapq.heappop(self._sleepers)
            if future.done():
                continue
            self.mono = max(self.mono, due)
            future.set_result(None)
            await self.quiet()
        self.mono = max(self.mono, end)

    async def quiet(self) -> None:
        """Let the work of the moment be done before time goes on."""
        await settle()


class PatientTime(VirtualTime):
    """Virtual time for work over real sockets: none passes while anybody is `busy`."""

    def __init__(self, busy: Callable[[], bool], deadline: float = 30.0) -> None:
        super().__init__()
        self._busy = busy
        self._deadline = deadline  # seconds of real time that the work of a moment may take
        self._asleep: set[asyncio.Task[Any] | None] = set()

    async def sleep(self, seconds: float) -> None:
        task = asyncio.current_task()
        self._asleep.add(task)
        try:
            await super().sleep(seconds)
        finally:
            self._asleep.discard(task)

    def polls_in_progress(self) -> int:
        """Return how many poll loops do not sleep until their next poll."""
        return sum(task.get_name().startswith("poll ") for task in asyncio.all_tasks() - self._asleep)

    async def quiet(self) -> None:
        await settle(5)
        async with asyncio.timeout(self._deadline):
            while self._busy():  # noqa: ASYNC110 - what is looked at has no event of its own
                await asyncio.sleep(0)


async def settle(turns: int = 50) -> None:
    """Let the event loop do what it can without time passing: work of so many turns at most."""
    for _ in range(turns):
        await asyncio.sleep(0)


def parsed(url: str = "http://127.0.0.1:1", *names: str, **sections: Any) -> config.Config:
    """Return a config of sites (`demo` unless named), each with the secret `secret-of-NAME`.

    The variable KEY_NAME has a key for names of users.
    """
    sites = [{"name": name, "secret_env": f"SECRET_{name}"} for name in names or ("demo",)]
    environ = {f"SECRET_{name}": f"secret-of-{name}" for name in names or ("demo",)}
    environ |= {f"KEY_{name}": f"key-of-user-names-of-{name}" for name in names or ("demo",)}
    sections.setdefault("sites", sites)
    api = {"url": url, **sections.pop("api", {})}
    return config.parse({"api": api, **sections}, environ)


async def fetch(web: Any, path: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
    """Return what an ASGI app answers to GET."""
    transport = httpx.ASGITransport(app=web)
    async with httpx.AsyncClient(transport=transport, base_url="http://exporter") as client:
        return await client.get(path, headers=headers)


def required(tool: str, target: str = "tools") -> str:
    """Return a tool's path; where it is missing, skip with the reason, or fail where REQUIRE_TOOLS is set.

    PROMETHEUS is the path of another Prometheus than the installed one; its promtool is beside it.
    """
    other = os.environ.get("PROMETHEUS")
    beside = Path(other).parent if other and tool in {"prometheus", "promtool"} else None
    path = shutil.which(tool, path=beside)
    if path is not None:
        return path
    reason = f"{tool} is not installed: `make {target}` installs it"
    if os.environ.get("REQUIRE_TOOLS"):
        pytest.fail(reason)
    pytest.skip(reason)
