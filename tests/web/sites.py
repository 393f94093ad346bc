"""Sites whose data a test sets, and a web app that serves them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx

from exporter.api.answers import Entries, HistoryRow, Payout, User
from exporter.clock import Now
from exporter.collectors.history import HISTORY
from exporter.collectors.payout import PAYOUT
from exporter.collectors.registry import COLLECTORS
from exporter.collectors.snapshot import Snapshot, Store
from exporter.collectors.users import TOP_USERS
from exporter.pages.exporter_metrics import OwnMetrics
from exporter.pages.pages import Pages
from exporter.web.access import WebAccess
from exporter.web.routes import Hooks, Web
from exporter.web.status import LoadStatus, ProcessInfo
from tests.conftest import WALL, parsed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.config import Site
    from exporter.endpoint import Endpoint

NOW = Now(WALL, 1000.0)
PROCESS = ProcessInfo(
    version="1.2.3",
    revision="abc",
    python_version="3.11",
    started=Now(WALL - 90, 910.0),
    load=LoadStatus(WALL - 90),
    shard=0,
    total_shards=1,
    full_bytes=2048,
    full_series=17,
    stuck_loops=(),
    on_metrics=True,
)
# /stats/payout has the default stale_after, five minutes, and the other endpoints outlive every test.
LASTING = {"history": {"stale_after": "1d"}, "top_users": {"stale_after": "1d"}}
PAYOUT_ANSWER = Payout(1, 2, 3, 4, 5)


def site(name: str = "a", *, watch_users: tuple[str, ...] = (), **polls: Any) -> Site:
    entry = {"name": name, "secret_env": "SECRET_demo", "watch_users": list(watch_users)}
    config = parsed(sites=[entry], poll={**LASTING, **polls})
    return config.sites[0]


def answered(of: Site, snapshot: Snapshot, endpoint: Endpoint, answer: Any, now: Now = NOW) -> Snapshot:
    """Return a site's data after a successful poll."""
    (collector,) = [collector for collector in COLLECTORS if endpoint in collector.endpoints]
    state = collector.step(of, endpoint, snapshot.state(collector), answer, now).state
    record = snapshot.record(endpoint).succeeded(at=now.wall, took=0.25, rejected=0, next_poll=now.wall + 60)
    return snapshot.with_state(collector, state).with_record(endpoint, record)


def well(of: Site, rows: tuple[HistoryRow, ...] = (), users: tuple[User, ...] = ()) -> Snapshot:
    """Return the data of a site whose endpoints have all answered."""
    snapshot = answered(of, Snapshot(), PAYOUT, PAYOUT_ANSWER)
    snapshot = answered(of, snapshot, HISTORY, Entries(rows))
    return answered(of, snapshot, TOP_USERS, Entries(users))


def broken(
    snapshot: Snapshot, reason: str = "dns", at: float = WALL, endpoint: Endpoint = PAYOUT
) -> Snapshot:
    """Return a site's data after a failed poll, of /stats/payout unless named."""
    record = snapshot.record(endpoint)
    failure: Any = {"reason": reason, "detail": "in words", "next_poll": at + 60}
    return snapshot.with_record(endpoint, record.failed(at=at, took=0.25, **failure))


def web_of(
    sites: Mapping[str, Snapshot] | None = None,
    access: WebAccess | None = None,
    *,
    store: Store | None = None,
    external_url: str = "",
    on_metrics: bool = True,
    **hooks: Any,
) -> Web:
    """Serve sites of these names, or one without data; `store` is what a test changes later."""
    store, sites = store or Store(), sites or {"demo": Snapshot()}
    for name, snapshot in sites.items():
        store.publish(name, snapshot)
    every: dict[str, Any] = {
        "now": lambda: NOW,
        "process_info": lambda: PROCESS,
        "stuck_loops": list,
        "ready": lambda: True,
        "reload": None,
    } | hooks
    pages = Pages(store, OwnMetrics("0", "0"), every["now"])
    pages.show([site(name) for name in sites], on_metrics=on_metrics)
    return Web(pages, Hooks(**every), access or WebAccess(None, b""), external_url)


def ask(web: Web, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    async def once() -> httpx.Response:
        transport = httpx.ASGITransport(app=web)
        async with httpx.AsyncClient(transport=transport, base_url="http://exporter") as client:
            sent = {name.replace("_", "-").title(): value for name, value in headers.items()}
            return await client.request(method, path, headers={"Accept-Encoding": "identity"} | sent)

    return asyncio.run(once())
