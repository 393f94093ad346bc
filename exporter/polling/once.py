"""One round of polls without a daemon: what `check --online` and `backfill` are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from exporter import USER_AGENT, log
from exporter.api.client import Client
from exporter.collectors.snapshot import Store
from exporter.polling.poller import Failure, Poller

if TYPE_CHECKING:
    from collections.abc import Collection

    import httpx

    from exporter.clock import Clock
    from exporter.config import Config
    from exporter.endpoint import Endpoint
    from exporter.pages.own import OwnMetrics


class Round(NamedTuple):
    """What one round of polls brings: the data of each site, and the polls that failed."""

    store: Store
    failures: list[Failure]


async def poll_once(
    config: Config,
    own: OwnMetrics,
    clock: Clock,
    *,
    endpoints: Collection[Endpoint] = (),
    transport: httpx.AsyncBaseTransport | None = None,
) -> Round:
    """Poll these endpoints, or all, of each site once. Raises ConfigError when no client can be made."""
    log.conceal(secrets_of(config))
    store = Store()
    client = Client(config.api, USER_AGENT, transport)
    try:
        failures = await Poller(store, own, clock, log.conceal).once(config, client, endpoints)
    finally:
        await client.close()
    return Round(store, failures)


def secrets_of(config: Config) -> list[str]:
    """Return every secret of the config, to be hidden in the log."""
    secrets = [site.secret.value.reveal() for site in config.sites]
    return [*secrets, config.users.key.reveal()] if config.users.key else secrets
