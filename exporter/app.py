"""The composition root: builds the parts from the config, starts, reloads and stops them.

Here, and nowhere else, the parts get the clocks, randomness and the network.
"""

from __future__ import annotations

import asyncio
import os
import platform
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import structlog
from msgspec.structs import replace

from exporter import __version__, log
from exporter.api.client import Client
from exporter.clock import Clock, Now
from exporter.collectors.registry import USERS_COLLECTOR
from exporter.collectors.snapshot import Store
from exporter.config import ConfigError
from exporter.config.sharding import WHOLE, Share
from exporter.pages.own import OwnMetrics
from exporter.pages.pages import Pages
from exporter.pages.text import Format
from exporter.polling.poller import Poller, poll_once, secrets_of
from exporter.web.access import WebAccess
from exporter.web.health import HealthSocket
from exporter.web.listening import address_of, listen
from exporter.web.routes import Hooks, Web
from exporter.web.server import Server
from exporter.web.status import LoadStatus, ProcessInfo

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import httpx

    from exporter.config import Config
    from exporter.polling.poller import Failure
    from exporter.web.access import PreparedWebConfig

logger = structlog.get_logger()

WEB_CONFIG_REFUSED = "web_config_refused"
WATCH = 1.0  # seconds between looks at the web config and the files it names
USER_AGENT = f"cryptoloot-exporter/{__version__}"
REAL = Clock(lambda: Now(time.time(), time.monotonic()), asyncio.sleep, random.random)


@dataclass(frozen=True)
class Options:
    """What the command line says beside the config; an address is `host:port`."""

    addresses: tuple[str, ...]
    lifecycle: bool = False
    health_socket: Path | None = None
    web_config: Path | None = None
    revision: str = "unknown"
    share: Share = WHOLE
    external_url: str = ""


class App:
    """The daemon.

    `load` reads the config and raises ConfigError; `transport` replaces the outgoing network in tests.
    """

    def __init__(
        self,
        load: Callable[[], Config],
        options: Options,
        clock: Clock = REAL,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._load_all = load
        self._options = options
        self._clock = clock
        self._transport = transport
        self._store = Store()
        self._own = OwnMetrics(__version__, options.revision)
        self._poller = Poller(self._store, self._own, clock)
        self._pages = Pages(self._store, self._own, clock.now)
        self._reloading = asyncio.Lock()
        self._load_status = LoadStatus()
        self._retired: set[asyncio.Task[None]] = set()
        self._rendering: asyncio.Task[None] | None = None
        self._access = WebAccess(options.web_config, os.urandom(32))
        self._started = clock.now()
        hooks = Hooks(clock.now, self._process_info, self._stuck_loops, self._ready, self._hook())
        self.web = Web(self._pages, hooks, self._access, options.external_url)
        self._server: Server | None = None
        self._health = (
            HealthSocket(options.health_socket, self._stuck_loops) if options.health_socket else None
        )
        self._config: Config
        self._client: Client | None = None

    async def run(self, announce: Callable[[list[str]], None] = lambda _: None) -> None:
        """Serve until `stop`; `announce` is told the addresses. Raises ConfigError or AddressError."""
        config, prepared = self._load(), self._access.prepare()
        self._access.apply(prepared)
        self._server = Server(self.web, context=prepared.context, admits=self._access.admits)
        sockets = listen(self._options.addresses)  # before any poll: what cannot be served need not be asked
        watching = asyncio.create_task(self._watch())
        try:
            if self._health:
                await self._health.start()
            self._begin(config)
            addresses = [address_of(opened) for opened in sockets]
            self._say_how(addresses, config)
            announce(addresses)
            await self._server.serve(sockets)
        finally:
            watching.cancel()
            for opened in sockets:
                opened.close()
            if self._health:
                await self._health.stop()
            await self.close()

    async def start(self) -> None:
        """Load the config and begin to poll, without a listener. Raises ConfigError."""
        self._begin(self._load())

    def _begin(self, config: Config) -> None:
        logger.info("starting", version=__version__, sites=len(config.sites))
        self._apply(config, Client(config.api, USER_AGENT, self._transport))
        self._rendering = asyncio.create_task(self._pages.keep_rendered())

    def _load(self) -> Config:
        """Load the config, with the sites of this process' share alone."""
        config = self._load_all()
        return replace(
            config, sites=tuple(site for site in config.sites if self._options.share.has(site.name))
        )

    async def reload(self) -> list[str]:
        """Take changed files; return why not when one is refused, and everything stays as it was."""
        if not self._client:
            return ["not started yet: try again in a second"]
        async with self._reloading:
            try:
                config, prepared = self._load(), self._access.prepare_reload()
                same = self._client if config.api == self._config.api else None
                client = same or Client(config.api, USER_AGENT, self._transport)
                await self._renew(prepared)
            except ConfigError as error:
                return self._refuse("reload_failed", error)
            if self._client and client is not self._client:
                self._retire(self._client, self._config.api.timeout)
            self._apply(config, client)
            logger.info("reloaded", sites=len(config.sites))
            return []

    async def reload_web_config(self) -> list[str]:
        """Take a changed web config; return why not when it is refused, and the old one stays."""
        async with self._reloading:
            try:
                await self._renew(self._access.prepare_reload())
            except ConfigError as error:
                return self._refuse(WEB_CONFIG_REFUSED, error)
            status = self._load_status.without_refusal(WEB_CONFIG_REFUSED, self._clock.now().wall)
            self._set_load_status(status)
            logger.info("web_config_changed", notes=list(self._access.config.notes))
            return []

    def stop(self) -> None:
        """Let `run` return: answers are finished, but not for longer than a second."""
        if self._server:
            self._server.stop()

    async def close(self) -> None:
        """End the polls and the connections."""
        self._access.close()
        if self._rendering:
            self._rendering.cancel()
        await self._poller.stop()
        for task in self._retired:
            task.cancel()
        if self._client:
            await self._client.close()
            logger.info("stopped")

    def _apply(self, config: Config, client: Client) -> None:
        log.conceal(secrets_of(config))
        for warning in config.warnings:
            logger.warning("config_warning", problem=warning)
        self._config, self._client = config, client
        self._poller.apply(config, client)
        self._pages.show(config.sites, on_metrics=config.web.sites_on_metrics)
        self._set_load_status(LoadStatus(self._clock.now().wall))

    def _retire(self, client: Client, timeout: float) -> None:
        """Close a client when the calls in flight on it have ended, at the latest after their time-out."""

        async def retire() -> None:
            await self._clock.sleep(timeout)
            await client.close()

        task = asyncio.create_task(retire())
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)

    def _refuse(self, event: str, error: ConfigError) -> list[str]:
        """Log why a load was refused; return the problems."""
        problems = [str(problem) for problem in error.problems]
        self._set_load_status(self._load_status.with_refusal(event))
        logger.error(event, problems=problems)
        return problems

    def _set_load_status(self, status: LoadStatus) -> None:
        self._load_status = status
        self._own.reload_successful.set(status.accepted)
        self._own.reload_timestamp.set(status.loaded_at)

    async def _renew(self, prepared: PreparedWebConfig) -> None:
        if self._server and not self._server.should_exit:
            await self._access.apply_to(self._server, prepared)
        else:
            self._access.apply(prepared)

    async def _watch(self) -> None:
        """Take changes of the web config, its certificates and keys as they are made."""
        while True:
            await self._clock.sleep(WATCH)
            try:
                if self._access.changed():
                    await self.reload_web_config()
            except Exception as error:  # noqa: BLE001 - a certificate that is not renewed must not go unnoticed
                self._set_load_status(self._load_status.with_refusal(WEB_CONFIG_REFUSED))
                logger.error("web_config_failed", error=type(error).__name__)  # noqa: TRY400 - may hold PEM

    def _say_how(self, addresses: list[str], config: Config) -> None:
        """Log where and how it listens, and what strangers could read there."""
        for address in addresses:
            logger.info(
                "listening", address=address, scheme=self._access.scheme, guarded=self._access.restricted
            )
        for note in self._access.config.notes:
            logger.warning("config_warning", problem=note)
        public = [address for address in addresses if not address.startswith(("127.", "[::1]"))]
        if public and config.users.names == "plain" and not self._access.restricted:
            problem = "users.names: anybody who reaches the listener reads plain user names: guard it with "
            logger.warning(
                "config_warning", problem=f"{problem}--web.config.file, or set names to hmac or off"
            )

    def _ready(self) -> bool:
        return self._server is not None and self._server.started

    def _stuck_loops(self) -> list[str]:
        return self._poller.stuck(self._clock.now())

    def _process_info(self) -> ProcessInfo:
        share = self._options.share
        return ProcessInfo(
            version=__version__,
            revision=self._options.revision,
            python_version=platform.python_version(),
            started=self._started,
            load=self._load_status,
            shard=share.shard,
            total_shards=share.total,
            full_bytes=self._pages.full_bytes,
            full_series=self._pages.full_series,
            stuck_loops=self._stuck_loops(),
            on_metrics=self._pages.on_metrics,
        )

    def _hook(self) -> Callable[[], Awaitable[list[str]]] | None:
        # A request that is given up must not stop a reload half-way.
        return (lambda: asyncio.shield(self.reload())) if self._options.lifecycle else None


def check_web_config(path: Path | None) -> tuple[str, ...]:
    """Read a web config as `run` would, and return its notes. Raises ConfigError."""
    return WebAccess(path, b"").prepare().config.notes


class Check(NamedTuple):
    """What one round of polls brings: the page as text, what failed, and users that the API refuses.

    Of a refused user site, place in the config and reason.
    """

    page: str
    failures: list[Failure]
    refused: list[tuple[str, str, str]]


async def check_online(
    config: Config, clock: Clock = REAL, transport: httpx.AsyncBaseTransport | None = None
) -> Check:
    """Poll each endpoint of each site once. Raises ConfigError when no client can be made."""
    own = OwnMetrics(__version__, "unknown")
    store, failures = await poll_once(config, own, clock, user_agent=USER_AGENT, transport=transport)
    now = clock.now()
    own.reload_successful.set(1)
    own.reload_timestamp.set(now.wall)
    page = await Pages(store, own, clock.now, config.sites).metrics(Format.TEXT, zipped=False)
    refused = [
        (site.name, f"watch_users[{place}]", reason.value)
        for site in config.sites
        if (watched := store[site.name].state(USERS_COLLECTOR).watched)
        for place, reason in watched.value.refused
    ]
    return Check(page.decode(), failures, refused)
