"""The composition root: builds the parts from the config, starts, reloads and stops them.

Here, and nowhere else, the parts get the clocks, randomness and the network.
"""

import asyncio
import gc
import os
import platform
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import httpx
import structlog
from msgspec.structs import replace

from exporter import USER_AGENT, __version__, log
from exporter.api.client import Client
from exporter.clock import Clock, Now
from exporter.collectors.expectation import unwatched
from exporter.collectors.history import HISTORY
from exporter.collectors.registry import (
    HISTORY_COLLECTOR,
    USERS_COLLECTOR,
    collector_visible,
    polled_endpoints,
)
from exporter.collectors.snapshot import Store
from exporter.config import Config, ConfigError
from exporter.config.problems import Problem, capped, together, unexpected
from exporter.config.sharding import ALL_SITES, Share
from exporter.pages.exporter_metrics import OwnMetrics
from exporter.pages.pages import Pages
from exporter.pages.text import Format
from exporter.polling.jobs import Job, jobs_of
from exporter.polling.poller import Failure, Poller, poll_once, secrets_of
from exporter.polling.reload_plan import Plan, plan
from exporter.web.access import PreparedWebConfig, WebAccess
from exporter.web.handshake import HandshakeFailures, HandshakeReason
from exporter.web.listening import address_of, listen
from exporter.web.routes import Hooks, Web
from exporter.web.server import Server
from exporter.web.status import LoadStatus, ProcessInfo
from exporter.web.unix_socket import serve_health

logger = structlog.get_logger()

T = TypeVar("T")

WEB_CONFIG_REFUSED = "web_config_refused"
FREEZES = (5.0,) * 4  # seconds between them after a load: then all first polls of thousands of sites are over
WATCH_INTERVAL = 1.0  # seconds between looks at the web config and the files it names
REAL_CLOCK = Clock(lambda: Now(time.time(), time.monotonic()), asyncio.sleep, random.random)


class Options(NamedTuple):
    """What the command line says beside the config; an address is `host:port`."""

    addresses: tuple[str, ...]
    lifecycle: bool = False
    health_socket: Path | None = None
    web_config: Path | None = None
    revision: str = "unknown"
    share: Share = ALL_SITES
    external_url: str = ""


class App:
    """The daemon: starts, reloads and stops all parts. Only here do the parts meet, so it has many methods.

    `load` reads the config and raises ConfigError; `transport` replaces the outgoing network in tests.
    """

    def __init__(
        self,
        load: Callable[[], Config],
        options: Options,
        clock: Clock = REAL_CLOCK,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._load_all = load
        self._options = options
        self._clock = clock
        self._transport = transport
        self._started = clock.now()
        self._store = Store()
        self._own = OwnMetrics(__version__, options.revision)
        self._poller = Poller(self._store, self._own, clock)
        self._pages = Pages(self._store, self._own, clock.now)
        self._access = WebAccess(options.web_config, os.urandom(32))
        # A request that is given up must not stop a reload half-way.
        reload = (lambda: asyncio.shield(self._spawn(self.reload()))) if options.lifecycle else None
        stuck, ready = self._stuck_loops, (lambda: bool(self._server and self._server.started))
        hooks = Hooks(clock.now, self._process_info, stuck, ready, reload)
        self.web = Web(self._pages, hooks, self._access, options.external_url)
        self._server: Server | None = None
        self._config: Config
        self._client: Client | None = None  # None before the start
        self._load_status = LoadStatus()
        self._refusal: list[str] = []  # the problems of the last load that was refused
        self._reloading = asyncio.Lock()
        self._loading: asyncio.Task[Any] | None = None  # of the start
        self._loaded = asyncio.Event()
        self._stopping = False
        self._tasks: set[asyncio.Task[Any]] = set()  # cancelled at the end

    async def run(self, announce: Callable[[list[str]], None] = lambda _: None) -> None:
        """Serve until `stop`; `announce` gets the addresses. Raises ConfigError or AddressError."""
        self._loading = asyncio.create_task(asyncio.to_thread(together, self._load, self._access.prepare))
        await asyncio.wait([self._loading])
        if self._stopping:
            return
        config, prepared = self._loading.result()
        self._access.apply(prepared)
        failures = self._own.tls_handshake_failures
        for reason in HandshakeReason if prepared.context else ():
            failures.labels(reason)  # with TLS, each reason is there from the start
        count, mono = (lambda reason: failures.labels(reason).inc()), (lambda: self._clock.now().mono)
        failed = HandshakeFailures(count, mono)
        self._server = Server(self.web, context=prepared.context, handshake_failed=failed)
        sockets = listen(self._options.addresses)  # first: if that fails, do not poll
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.close)
            for opened in sockets:
                stack.enter_context(opened)
            if self._options.health_socket:
                health = serve_health(self._options.health_socket, self._stuck_loops)
                await stack.enter_async_context(health)
            self._spawn(self._watch())
            await self.start(config)
            addresses = [address_of(opened) for opened in sockets]
            self._log_listening(addresses, config)
            announce(addresses)
            await self._server.serve(sockets)

    async def start(self, config: Config | None = None) -> None:
        """Begin to poll, without a listener, with this config or the one it loads. Raises ConfigError."""
        config = config or self._load()
        logger.info("starting", version=__version__, sites=len(config.sites))
        client = Client(config.api, USER_AGENT, self._transport)
        self._apply(config, client, plan([], jobs_of(config)))
        self._spawn(self._pages.keep_rendered())

    def _load(self) -> Config:
        """Load the config, with the sites of this process' share alone."""
        config = self._load_all()
        log.conceal(secrets_of(config))
        sites = tuple(site for site in config.sites if self._options.share.has(site.name))
        return replace(config, sites=sites)

    def _load_changes(self, jobs: Sequence[Job]) -> tuple[Config, PreparedWebConfig, Plan]:
        """Load both files, and plan how to poll the config instead of these jobs."""
        gc.disable()  # so many new objects would start full collections, which stop every thread
        try:
            config, prepared = together(self._load, self._access.prepare_reload)
            return config, prepared, plan(jobs, jobs_of(config))
        finally:
            gc.enable()

    async def reload(self) -> list[str]:
        """Take changed files; return why not when one is refused, and everything stays as it was."""
        if not self._client:
            return ["not started yet: try again in a second"]
        async with self._reloading:
            try:
                await self._poller.started()
                # Thousands of sites take a second, which scrapes would have to wait for on the event loop.
                config, prepared, changes = await asyncio.to_thread(self._load_changes, self._poller.jobs)
                before, timeout = self._client, self._config.api.timeout
                client = before
                if config.api != self._config.api:  # reading certificates takes as long as a scrape may wait
                    client = await asyncio.to_thread(Client, config.api, USER_AGENT, self._transport)
                await self._renew(prepared)
                self._apply(config, client, changes)
                if client is not before:
                    self._spawn(self._retire(before, timeout))
            except Exception as error:  # noqa: BLE001 - whatever it is, the reload was not taken
                return self._refuse("reload_failed", error)
            logger.info("reloaded", sites=len(config.sites))
            return []

    def reload_soon(self) -> None:
        """Reload in the background, as SIGHUP asks; the log has the problems of a config that is refused.

        During the start this waits for its end: the files may have changed after they were read.
        """

        async def reload() -> None:
            await self._loaded.wait()
            await self.reload()

        self._spawn(reload())

    def stop(self) -> None:
        """Let `run` return: answers are finished, but not for longer than a second."""
        self._stopping = True
        if self._loading:
            self._loading.cancel()  # of no effect once it has ended
        if self._server:
            self._server.stop()

    async def close(self) -> None:
        """End the polls and the connections."""
        self._access.close()
        for task in self._tasks:
            task.cancel()
        await self._poller.stop()
        if self._client:
            await self._client.close()
            logger.info("stopped")

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run it in the background, until `close` at the latest. The event loop alone keeps no task alive."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _apply(self, config: Config, client: Client, changes: Plan) -> None:
        _warn((*config.warnings, *client.warnings))
        self._poller.apply(config, client, changes)
        self._pages.show(config.sites, on_metrics=config.web.sites_on_metrics)
        self._config, self._client = config, client
        self._loaded.set()
        self._set_load_status(LoadStatus(self._clock.now().wall))
        self._spawn(self._freeze())

    async def _freeze(self) -> None:
        """Hide the poll loops from the garbage collector once they run: they stay until the next reload.

        With thousands of sites they are most of what a full collection looks at, while scrapes wait.
        """
        for delay in FREEZES:
            await self._clock.sleep(delay)
            gc.collect(1)  # what is garbage now would stay for ever
            gc.freeze()

    async def _retire(self, client: Client, timeout: float) -> None:  # noqa: ASYNC109 - of calls in flight
        """Close a client after the time-out of its calls: all that are in flight have ended then."""
        await self._clock.sleep(timeout)
        await client.close()

    def _refuse(self, event: str, error: Exception) -> list[str]:
        """Log why a load was refused; return the problems."""
        if not isinstance(error, ConfigError):
            error = ConfigError([Problem("config", unexpected(error))])
        status = self._load_status.with_refusal(event)
        # The watch tries again each second where that may help, and tells the same refusal once.
        if event != WEB_CONFIG_REFUSED or (status, error.texts) != (self._load_status, self._refusal):
            logger.error(event, problems=error.texts)
        self._set_load_status(status)
        self._refusal = error.texts
        return error.texts

    def _set_load_status(self, status: LoadStatus) -> None:
        self._load_status = status
        self._own.reload_successful.set(status.accepted)
        self._own.reload_timestamp.set(status.loaded_at)

    async def _renew(self, prepared: PreparedWebConfig) -> None:
        """Put a web config in force, also on the listeners of a running server. Raises ConfigError."""
        if self._server and not self._server.should_exit:
            await self._access.apply_to(self._server, prepared)
        else:
            self._access.apply(prepared)

    async def _watch(self) -> None:
        """Take changes of the web config, its certificates and keys; a refusal changes nothing."""
        while True:
            await self._clock.sleep(WATCH_INTERVAL)
            if not self._access.changed():
                continue
            async with self._reloading:
                try:
                    await self._renew(await asyncio.to_thread(self._access.prepare_reload))
                except Exception as error:  # noqa: BLE001 - it must not go unnoticed, nor end the watch
                    self._refuse(WEB_CONFIG_REFUSED, error)
                    continue
                now = self._clock.now().wall
                self._set_load_status(self._load_status.without_refusal(WEB_CONFIG_REFUSED, now))
                logger.info("web_config_changed", notes=list(self._access.config.notes))

    def _log_listening(self, addresses: list[str], config: Config) -> None:
        """Log the addresses, and warn of a web config's notes and of user names that anybody can read."""
        access, warnings = self._access, [*self._access.config.notes]
        for address in addresses:
            logger.info("listening", address=address, scheme=access.scheme, guarded=access.restricted)
        local = all(address.startswith(("127.", "[::1]")) for address in addresses)
        if config.users.names == "plain" and not local and not access.restricted:
            problem = "users.names: anybody who reaches the listener reads plain user names"
            warnings.append(f"{problem}: guard it with --web.config.file, or set names to hmac or off")
        _warn(warnings)

    def _stuck_loops(self) -> list[str]:
        return self._poller.stuck(self._clock.now())

    def _process_info(self) -> ProcessInfo:
        return ProcessInfo(
            version=__version__,
            revision=self._options.revision,
            python_version=platform.python_version(),
            started=self._started,
            load=self._load_status,
            shard=self._options.share.shard,
            total_shards=self._options.share.total,
            full_bytes=self._pages.full_bytes,
            full_series=self._pages.full_series,
            stuck_loops=self._stuck_loops(),
            on_metrics=self._pages.on_metrics,
        )


def _warn(problems: Sequence[str]) -> None:
    """Log warnings of the config."""
    for problem in capped(problems):
        logger.warning("config_warning", problem=problem)


def check_files(load: Callable[[], Config], web_config: Path | None) -> tuple[Config, tuple[str, ...]]:
    """Read the config, the environment and the web config as `run` would; return the config and all warnings.

    Raises ConfigError with the problems of both files.
    """
    config, prepared = together(load, WebAccess(web_config, b"").prepare)
    environment = Client(config.api, USER_AGENT).warnings
    return config, (*config.warnings, *environment, *prepared.config.notes)


async def check_online(
    config: Config, clock: Clock = REAL_CLOCK, transport: httpx.AsyncBaseTransport | None = None
) -> tuple[str, list[Failure], list[tuple[str, str, str]]]:
    """Poll each endpoint of each site once. Raises ConfigError when no client can be made.

    Return the page as text, the polls that failed, and warnings, each with a site and a place: users that the
    API refuses, by their place in the config, entries of an endpoint that cannot be read, and why drops of a
    site cannot be judged.
    """
    own = OwnMetrics(__version__, "unknown")
    store, failures = await poll_once(config, own, clock, transport=transport)
    own.reload_successful.set(1)
    own.reload_timestamp.set(clock.now().wall)
    page = await Pages(store, own, clock.now, config.sites).metrics(Format.TEXT, zipped=False)
    refused = [
        (site.name, f"watch_users[{place}]", reason.value)
        for site in config.sites
        if (watched := store[site.name].state(USERS_COLLECTOR).watched)
        for place, reason in watched.value.refused
    ]
    rejected = [
        (site.name, endpoint, rejection)
        for site in config.sites
        for _, endpoint, _ in polled_endpoints(site)
        if (rejection := store[site.name].record(endpoint).rejection)
    ]
    views = [
        (site.name, collector_visible(HISTORY_COLLECTOR, site, store[site.name], clock.now()).view)
        for site in config.sites
    ]
    unjudged = [
        (name, HISTORY, reason)
        for name, view in views
        if view.rows and (reason := unwatched(view.expectation))
    ]
    return page.decode(), failures, [*refused, *rejected, *unjudged]
