"""One round of polls without a daemon."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx

from exporter import log
from exporter.collectors.history import HISTORY
from exporter.collectors.registry import PAYOUT_COLLECTOR
from exporter.collectors.users import TOP_USERS
from exporter.endpoint import Reason
from exporter.pages.exporter_metrics import OwnMetrics
from exporter.polling.poller import Failure, poll_once
from tests.conftest import VirtualTime, parsed
from tests.polling.rig import ANSWERS, Api, ok, reply

if TYPE_CHECKING:
    from exporter.collectors.snapshot import Store
    from exporter.config import Config

    Once = tuple[Store, list[Failure]]


class Network(httpx.MockTransport):
    """An Api as the outgoing network; it notes whether it was closed."""

    closed = False

    async def aclose(self) -> None:
        self.closed = True


def played(config: Config, answer: Any = None, **options: Any) -> tuple[Once, Api, Network]:
    """Poll once; return what came of it, the requests, and the network."""
    time = VirtualTime()
    api = Api(time)
    api.answer = answer or api.answer
    network = Network(api)
    own = OwnMetrics("0", "0")

    async def play() -> Once:
        return await poll_once(config, own, time.clock, transport=network, **options)

    return asyncio.run(play()), api, network


def test_one_round_polls_everything_once() -> None:
    """Each endpoint of each site is called a single time, and nothing is left running."""
    (store, failures), api, network = played(parsed("http://127.0.0.1:1", "a", "b"))

    assert sorted((site, path) for site in "ab" for path in ANSWERS) == sorted(
        (site, path) for _, site, path in api.requests
    )
    assert (["a", "b"], []) == (list(store), failures)
    assert network.closed


def test_a_round_can_be_of_some_endpoints() -> None:
    """Only the endpoints that are named are called."""
    _, api, _ = played(parsed("http://127.0.0.1:1", "a", "b"), endpoints=[HISTORY])

    assert {("a", "/stats/history"), ("b", "/stats/history")} == {
        (site, path) for _, site, path in api.requests
    }


def test_what_fails_is_named() -> None:
    """A failed poll is reported with its reason and detail; the others' data is there."""

    def answer(site: str, path: str) -> httpx.Response:
        return reply(500) if (site, path) == ("b", "/user/top") else ok(path)

    (store, failures), _, _ = played(parsed("http://127.0.0.1:1", "a", "b"), answer)

    assert [Failure("b", TOP_USERS, Reason.HTTP_STATUS, "HTTP status 500")] == failures
    assert store["b"].state(PAYOUT_COLLECTOR) is not None


def test_secrets_are_hidden_in_the_log() -> None:
    """Site secrets and the key of user names are unreadable in the log by the first call."""
    sites = [{"name": "a", "secret": "canary-once"}]
    config = parsed(sites=sites, users={"names": "hmac", "names_key_env": "KEY_demo"})
    seen: list[str] = []

    def answer(_site: str, path: str) -> httpx.Response:
        seen.append(log.redacted("canary-once, key-of-user-names-of-demo"))
        return ok(path)

    played(config, answer)

    assert {f"{log.MASK}, {log.MASK}"} == set(seen)
