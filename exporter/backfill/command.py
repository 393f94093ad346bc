"""The backfill command: check its options, ask the API and Prometheus, write the file."""

from __future__ import annotations

import asyncio
import sys
from argparse import ArgumentError
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

from msgspec.structs import replace

from exporter import __version__
from exporter.backfill.prometheus import Prometheus, PrometheusError
from exporter.backfill.samples import exposition, source, windows_until
from exporter.collectors.history import HISTORY
from exporter.collectors.history_rows import Meaning
from exporter.collectors.registry import HISTORY_COLLECTOR
from exporter.pages.own import OwnMetrics
from exporter.polling.poller import poll_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import httpx

    from exporter.backfill.samples import Source, Windows
    from exporter.clock import Clock
    from exporter.config import Config
    from exporter.polling.poller import Failure

PROGRESS = 100_000  # samples between two reports of progress on a terminal


class Options(NamedTuple):
    """What the command line asks for. Times are Unix seconds, infinite where there is no bound."""

    output: str
    labels: Mapping[str, str]
    sites: Sequence[str]
    since: float
    until: float
    prometheus: str | None
    gaps: bool


def backfill(
    config: Config, options: Options, clock: Clock, user_agent: str, tell: Callable[..., None]
) -> bool:
    """Write the file; return whether every site answered. `tell` prints to stderr.

    Raises ArgumentError where options contradict each other or the file cannot be written.
    """
    _check(options, {site.name for site in config.sites})
    if not {"job", "instance"} <= options.labels.keys():
        tell(
            "warning: without --label job=... and --label instance=... these become series of their own, "
            "beside those that Prometheus scrapes"
        )
    now = clock.now().wall
    sources, failures = asyncio.run(poll_sources(config, options.sites, options.labels, clock, user_agent))
    for site, history, _ in sources:
        if history.rows and history.meaning is Meaning.UNKNOWN:
            tell(f"note: what hashes of {site.name} mean is unknown, so no sums of hashes are written")
    try:
        windows = asyncio.run(_windows(sources, options, now, tell))
    except PrometheusError as error:
        tell(str(error))
        return False
    for name, endpoint, reason, detail in failures:
        tell(f"failed: {name} {endpoint}: {reason}: {detail}")
    if sources:
        lines = exposition(sources, windows, options.since, now)
        try:
            samples = _write(lines, options.output, tell)
        except BrokenPipeError:
            raise  # the reader has seen enough, which is no mistake
        except OSError as error:
            raise ArgumentError(None, f"--output {options.output}: {error.strerror}") from error
        tell(f"{samples:,} samples of {len(sources)} {'site' if len(sources) == 1 else 'sites'}")
    return not failures


def _check(options: Options, names: set[str]) -> None:
    """Raise ArgumentError for options that are valid by themselves and not together."""
    if unknown := sorted(set(options.sites) - names):
        raise ArgumentError(
            None, f"--site {unknown[0]}: the config has no such site; it has {', '.join(sorted(names))}"
        )
    if options.gaps and options.prometheus is None:
        raise ArgumentError(None, "--gaps needs --prometheus: it says where the gaps are")
    if options.since >= options.until:
        raise ArgumentError(None, "--since is not before --until: nothing lies between")


async def poll_sources(
    config: Config,
    names: Sequence[str],
    labels: Mapping[str, str],
    clock: Clock,
    user_agent: str,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
) -> tuple[list[Source], list[Failure]]:
    """Poll the history of these sites, or of all; return the sources that answered, and what failed."""
    config = replace(config, sites=tuple(site for site in config.sites if not names or site.name in names))
    own = OwnMetrics(__version__, "unknown")
    store, failures = await poll_once(
        config, own, clock, user_agent=user_agent, endpoints=[HISTORY], transport=transport
    )
    failed = {failure.site for failure in failures}
    answered = [site for site in config.sites if site.name not in failed]
    sources = [source(site, store[site.name].state(HISTORY_COLLECTOR), labels) for site in answered]
    return sources, failures


async def _windows(
    sources: Sequence[Source], options: Options, now: float, tell: Callable[..., None]
) -> Mapping[str, Windows]:
    """Return where samples are to be written: before a time, or where Prometheus has none."""
    if options.prometheus is None:
        return windows_until(sources, options.until)
    async with Prometheus(options.prometheus) as prometheus:
        windows, end = await prometheus.missing(sources, options.since, now, gaps_only=options.gaps)
    if end < now:
        tell(
            f"nothing from {datetime.fromtimestamp(end, UTC):%Y-%m-%dT%H:%M:%SZ} on: blocks must not overlap "
            "Prometheus' head, which begins there (or is taken to, where it does not say); run this again "
            "with --gaps in three hours for what is left"
        )
    return windows


def _write(lines: Iterable[str], output: str, tell: Callable[..., None]) -> int:
    """Write all lines, or leave a file as it was; return how many samples they are."""
    if output == "-":
        return _copy(lines, sys.stdout, tell)
    path = Path(output)
    if path.exists() and not path.is_file():  # a pipe, a device
        with path.open("w", encoding="utf-8") as file:
            return _copy(lines, file, tell)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            samples = _copy(lines, file, tell)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return samples


def _copy(lines: Iterable[str], file: TextIO, tell: Callable[..., None]) -> int:
    samples = 0
    for line in lines:
        file.write(line)
        samples += not line.startswith("#")
        if samples and samples % PROGRESS == 0 and sys.stderr.isatty():
            tell(f"{samples:,} samples", end="\r")
    return samples
