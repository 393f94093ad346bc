"""The only door from the golden runs to the program: adapt this module when modules or names move.

Everything else in this package knows documents, requests and text. A move of code changes the bodies of
these functions and nothing that is recorded.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import threading
from typing import TYPE_CHECKING, Any

import structlog

from exporter import app, cli, config, log, simulator
from exporter.backfill.command import poll_sources
from exporter.backfill.prometheus import Prometheus, PrometheusError
from exporter.backfill.samples import exposition, windows_until
from exporter.clock import Clock, Now
from exporter.config.sharding import ALL_SITES, Share

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
    from typing import TextIO

    import httpx

World = simulator.World
Incident = simulator.Incident
KINDS = simulator.KINDS  # of incidents
demo_world = simulator.demo_world
DEMO_SECRETS = (simulator.HEALTHY_SECRET, simulator.TROUBLED_SECRET)
simulated = simulator.app  # the simulated API of a world, as an ASGI application
App = app.App


def new_app(
    document: Callable[[], object],
    environ: Mapping[str, str],
    clock: tuple[Callable[[], tuple[float, float]], Callable[[float], Awaitable[None]], float],
    transport: httpx.AsyncBaseTransport,
    *,
    external_url: str = "",
    lifecycle: bool = True,
    shard: tuple[int, int] | None = None,
) -> App:
    """Return the daemon; `document` returns the config as YAML would load it, at start and for a reload."""
    options = app.Options(
        ("127.0.0.1:0",),
        lifecycle=lifecycle,
        revision="golden",
        share=Share(*shard) if shard else ALL_SITES,
        external_url=external_url,
    )
    return app.App(lambda: config.parse(document(), environ), options, _clock(*clock), transport)


async def once(
    document: object,
    environ: Mapping[str, str],
    clock: tuple[Callable[[], tuple[float, float]], Callable[[float], Awaitable[None]], float],
    transport: httpx.AsyncBaseTransport,
) -> tuple[str, list[str]]:
    """Return what `check --online` finds: the metrics as text, and what failed, line by line."""
    called = app.check_online(config.parse(document, environ), _clock(*clock), transport)
    page, failures, refused = await called
    return page, [": ".join(problem) for problem in (*failures, *refused)]


async def backfilled(
    document: object,
    environ: Mapping[str, str],
    clock: tuple[Callable[[], tuple[float, float]], Callable[[float], Awaitable[None]], float],
    transport: httpx.AsyncBaseTransport,
    *,
    labels: Mapping[str, str],
    names: Sequence[str] = (),
    since: float = -math.inf,
    until: float = math.inf,
    prometheus: httpx.AsyncBaseTransport | None = None,
    gaps: bool = False,
) -> tuple[str, list[str]]:
    """Return what `backfill` writes and what it reports; `prometheus` stands for `--prometheus`."""
    ticking = _clock(*clock)
    now = ticking.now().wall
    sources, failures = await poll_sources(
        config.parse(document, environ), names, labels, ticking, transport=transport
    )
    told = [": ".join(failure) for failure in failures]
    told += [f"{each.site.name}: hashes are {each.history.meaning}" for each in sources]
    windows: Mapping[str, Any] = windows_until(sources, until)
    if prometheus is not None:
        try:
            asked = Prometheus("http://prometheus:9090", prometheus)
            windows, end = await asked.missing(sources, since, now, gaps_only=gaps)
            told.append(f"until {end}")
        except PrometheusError as error:
            return "", [*told, str(error)]
    return "".join(exposition(sources, windows, since, now)), told


def command(*arguments: str) -> tuple[int, str, str]:
    """Return the exit code, stdout and stderr of a command line."""
    out, err, codes = io.StringIO(), io.StringIO(), []

    def run() -> None:
        try:
            codes.append(cli.main(arguments))
        except SystemExit as ended:  # the parser's own
            codes.append(int(ended.code or 0))

    # In a thread, since a command may run an event loop, and who calls has one.
    thread = threading.Thread(target=run)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _logging_as_before():
        thread.start()
        thread.join()
    return codes[0], out.getvalue(), err.getvalue()


@contextlib.contextmanager
def logged(stream: TextIO) -> Iterator[None]:
    """Send all events to the stream, one JSON object a line, down to debug."""
    with _logging_as_before():
        log.setup("debug", "json", stream)
        yield


@contextlib.contextmanager
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, [*root.handlers]
    try:
        yield
    finally:
        structlog.reset_defaults()
        root.handlers = handlers
        root.setLevel(level)


def _clock(
    now: Callable[[], tuple[float, float]], sleep: Callable[[float], Awaitable[None]], chance: float
) -> Clock:
    return Clock(lambda: Now(*now()), sleep, lambda: chance)
