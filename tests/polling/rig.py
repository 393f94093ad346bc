"""A poller on virtual time, against an API whose answers a test sets."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx

from exporter.api.client import Client
from exporter.collectors.snapshot import Store
from exporter.pages.exporter_metrics import OwnMetrics
from exporter.polling.jobs import jobs_of
from exporter.polling.poller import Poller
from exporter.polling.reload_plan import plan
from tests.conftest import WALL, VirtualTime

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from exporter.collectors.snapshot import PollRecord
    from exporter.config import Config
    from exporter.endpoint import Endpoint

FOREVER = 1e9  # seconds: an answer that does not come
ANSWERS: dict[str, dict[str, Any]] = {
    "/stats/payout": {
        "success": True,
        "diff": 1,
        "value": 2,
        "payout": 3,
        "payoutPer1MHashes": 4,
        "synctime": WALL,
    },
    "/stats/history": {"success": True, "history": []},
    "/user/top": {"success": True, "users": []},
}


class Api:
    """An API whose answers a test sets, with the time, site and path of every request."""

    def __init__(self, time: VirtualTime) -> None:
        self.time = time
        self.requests: list[tuple[float, str, str]] = []
        self.answer: Callable[[str, str], httpx.Response] = lambda _site, path: ok(path)
        self.pace: dict[str, float] = {}  # seconds an answer takes, by path
        self.in_flight = 0
        self.most_in_flight = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        site, path = request.url.params["secret"].removeprefix("secret-of-"), request.url.path
        self.requests.append((self.time.mono, site, path))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if path in self.pace:
                await self.time.sleep(self.pace[path])
        finally:
            self.in_flight -= 1
        return self.answer(site, path)

    def times(self, path: str, site: str = "demo") -> list[float]:
        """Return when a site's endpoint was asked."""
        return [at for at, polled, asked in self.requests if asked == path and polled == site]


class Rig:
    """A poller on virtual time against an Api."""

    def __init__(self, config: Config) -> None:
        self.time = VirtualTime()
        self.api = Api(self.time)
        self.store = Store()
        self.own = OwnMetrics("0", "0")
        self.poller = Poller(self.store, self.own, self.time.clock)
        self.client = Client(config.api, "test", httpx.MockTransport(self.api))
        self.config = config

    def apply(self, config: Config | None = None) -> None:
        """Poll what a config says, or reload the one in force."""
        self.config = config or self.config
        self.poller.apply(self.config, self.client, plan(self.poller.jobs, jobs_of(self.config)))

    def record(self, endpoint: Endpoint, site: str = "demo") -> PollRecord:
        """Return the record of an endpoint's polls."""
        return self.store[site].record(endpoint)

    def due(self, endpoint: Endpoint, site: str = "demo") -> float:
        """Return when an endpoint is polled next, in seconds of the monotonic clock, to a microsecond."""
        next_poll = self.record(endpoint, site).next_poll
        assert next_poll is not None
        return next_poll - self.time.offset

    async def run_until(self, mono: float) -> None:
        """Let time pass until so many seconds of the monotonic clock."""
        await self.time.run(mono - self.time.mono)

    def stuck(self) -> list[str]:
        """Return which loops the watchdog takes for stuck."""
        return self.poller.stuck(self.time.now())

    def restarts(self) -> float | None:
        """Return how many crashes the exporter's own metrics count."""
        return self.own.registry.get_sample_value("cryptoloot_exporter_loop_restarts_total")


def reply(status: int, document: object = None, headers: dict[str, str] | None = None) -> httpx.Response:
    """Return an answer of the API."""
    return httpx.Response(status, headers=headers, stream=httpx.ByteStream(json.dumps(document).encode()))


def ok(path: str) -> httpx.Response:
    """Return an answer without a fault."""
    return reply(200, ANSWERS[path])


def broken(_site: str, _path: str) -> httpx.Response:
    """Answer as a server that is down."""
    return reply(500)


def crash(_site: str, path: str) -> httpx.Response:
    """Raise what nobody foresaw, with a user's name in its text."""
    raise LookupError("johnd@example.com" + path)


def polling(config: Config, scene: Callable[[Rig], Coroutine[Any, Any, None]]) -> Rig:
    """Run a scene with a started poller, and stop it."""

    async def play() -> Rig:
        rig = Rig(config)
        rig.apply()
        try:
            await scene(rig)
        finally:
            await rig.poller.stop()
        return rig

    return asyncio.run(play())


def slow_polls(**payout: Any) -> dict[str, Any]:
    """Return a poll section in which only payout is polled often."""
    return {
        "history": {"interval": "1d"},
        "top_users": {"interval": "1d"},
        "payout": {"interval": "1m"} | payout,
    }
