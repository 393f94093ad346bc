"""A site of a parsed config, its polls one by one through the collectors' interface, and what is exported."""

from __future__ import annotations

import asyncio
from itertools import repeat
from typing import TYPE_CHECKING, Any

from exporter import config
from exporter.api.answers import Entries, HistoryRow
from exporter.clock import Now
from exporter.collectors.history import HISTORY
from exporter.collectors.registry import COLLECTORS, FAMILY_FUNCTIONS, SITE_METRICS, site_visible
from tests.conftest import WALL

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from exporter.api.client import Request
    from exporter.api.errors import PollError
    from exporter.collectors.collector import Collector, Step
    from exporter.collectors.metric import Family
    from exporter.collectors.snapshot import Snapshot
    from exporter.config import Site
    from exporter.endpoint import Endpoint, Reason

HOUR = 3600
LAST_HOUR = WALL - WALL % HOUR  # the full hour before NOW, 13:20 minutes ago
NOW = Now(WALL, 1000.0)
INTERVAL = 300  # seconds until the next poll, of each record that is made here
KEY = "a key of one's own"
EVERYTHING: dict[str, Any] = {"watch_users": ["zoe"], "poll": {"all_users": {"enabled": True}}}  # polled


def later(seconds: float, now: Now = NOW) -> Now:
    """Return the moment so many seconds after `now`, on both clocks."""
    return Now(now.wall + seconds, now.mono + seconds)


def a_site(name: str = "demo", *, watch_users: Sequence[str] = (), **sections: Any) -> Site:
    """Return a site of a config with these sections; every other key has its default."""
    site = {"name": name, "secret_env": "SECRET", "watch_users": [*watch_users]}
    document = {"api": {"url": "http://127.0.0.1:1"}, "sites": [site], **sections}
    return config.parse(document, {"SECRET": "a-secret", "KEY": KEY}).sites[0]


def collector_of(endpoint: Endpoint) -> Collector[Any, Any]:
    """Return the collector of an endpoint."""
    return next(collector for collector in COLLECTORS if endpoint in collector.endpoints)


def answer_of(
    site: Site, endpoint: Endpoint, reply: Callable[[Request[Any]], Any]
) -> tuple[Any, list[Request[Any]]]:
    """Poll once; return the answer and the requests sent. `reply` returns what a request decodes to."""
    requests: list[Request[Any]] = []

    async def ask(request: Request[Any]) -> Any:
        requests.append(request)
        decoded = reply(request)
        if isinstance(decoded, Exception):
            raise decoded
        return decoded

    return asyncio.run(collector_of(endpoint).poll(site, endpoint, ask)), requests


def error_of(
    site: Site, endpoint: Endpoint, reply: Callable[[Request[Any]], Any], expected: type[PollError]
) -> tuple[PollError, list[Request[Any]]]:
    """Poll once and fail; return the error and the requests sent."""
    requests: list[Request[Any]] = []

    def noting(request: Request[Any]) -> Any:
        requests.append(request)
        return reply(request)

    try:
        answer_of(site, endpoint, noting)
    except expected as error:
        return error, requests
    raise AssertionError(f"the poll did not raise {expected.__name__}")


def step(site: Site, endpoint: Endpoint, snapshot: Snapshot, answer: Any, now: Now = NOW) -> Step[Any]:
    """Return what an answer leads to."""
    collector = collector_of(endpoint)
    return collector.step(site, endpoint, snapshot.state(collector), answer, now)


def polled(snapshot: Snapshot, site: Site, endpoint: Endpoint, answer: Any, now: Now = NOW) -> Snapshot:
    """Return the snapshot after a successful poll."""
    after = step(site, endpoint, snapshot, answer, now)
    record = snapshot.record(endpoint).succeeded(
        at=now.wall, took=0.5, rejected=after.rejected, next_poll=now.wall + INTERVAL
    )
    return snapshot.with_state(collector_of(endpoint), after.state).with_record(endpoint, record)


def failed(snapshot: Snapshot, endpoint: Endpoint, reason: Reason, now: Now = NOW) -> Snapshot:
    """Return the snapshot after a failed poll."""
    record = snapshot.record(endpoint).failed(
        at=now.wall, took=0.5, reason=reason, detail="", next_poll=now.wall + INTERVAL
    )
    return snapshot.with_record(endpoint, record)


def families(site: Site, snapshot: Snapshot, now: Now = NOW) -> list[Family]:
    """Return all families of a site at `now`, in the order of a scrape."""
    order = {metric.name: place for place, metric in enumerate(SITE_METRICS)}
    views = [visible.view for visible in site_visible(site, snapshot, now)]
    exported = [
        family for make, view in zip(FAMILY_FUNCTIONS, views, strict=True) for family in make(site, view)
    ]
    return sorted(exported, key=lambda family: order[family.metric.name])


def samples_of(family: Family) -> list[tuple[tuple[str, ...], float]]:
    """Return each sample: its label values, and its value."""
    columns = [repeat(column) if isinstance(column, str) else column for column in family.labels]
    return list(zip(zip(*columns, strict=False), family.values, strict=False))


def exported(site: Site, snapshot: Snapshot, now: Now = NOW) -> dict[str, dict[str, float]]:
    """Return the values at `now`, by metric and labels, without `cryptoloot_` and the site's name."""
    return {
        family.metric.name.removeprefix("cryptoloot_"): {
            ",".join(value for value in values if value != site.name): number
            for values, number in samples_of(family)
        }
        for family in families(site, snapshot, now)
    }


def rows(count: int, hashrate: float = 100.0, newest: float = LAST_HOUR) -> tuple[HistoryRow, ...]:
    """Return so many hourly rows, the newest starts at `newest`; each hour made hashrate * 3600 hashes."""
    starts = [newest - HOUR * back for back in reversed(range(count))]
    return tuple(HistoryRow(start, hashrate * HOUR, hashrate) for start in starts)


def with_rows(snapshot: Snapshot, site: Site, answer: Sequence[HistoryRow], now: Now = NOW) -> Snapshot:
    """Return the snapshot after a poll of the history."""
    return polled(snapshot, site, HISTORY, Entries(tuple(answer)), now)
