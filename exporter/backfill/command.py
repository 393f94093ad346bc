"""The backfill command: check its flags, ask the API and Prometheus, write the file."""

import asyncio
import math
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import httpx
from msgspec.structs import replace

from exporter import __version__
from exporter.backfill.prometheus import Prometheus, PrometheusError
from exporter.backfill.samples import Source, Windows, exposition, source, windows_until
from exporter.clock import Clock
from exporter.collectors.history import HISTORY
from exporter.collectors.history_rows import Meaning
from exporter.collectors.registry import HISTORY_COLLECTOR
from exporter.config import Config
from exporter.pages.exporter_metrics import OwnMetrics
from exporter.polling.poller import Failure, poll_once

Tell = Callable[..., None]  # prints a text to stderr; `end` is what ends it, as print has it

PROGRESS = 100_000  # samples between two reports of progress on a terminal


class UsageError(Exception):
    """Flags that contradict each other, the config, or the system; the text names the flag."""


class OutputError(Exception):
    """A file or standard stream that is open cannot be written; the text says which and why."""


def write_backfill(config: Config, flags: Namespace, clock: Clock, tell: Tell) -> bool:
    """Write the file; return whether every site, and Prometheus if it was asked, answered.

    `tell` prints to stderr. `flags` are the command's flags as parsed, with times in Unix seconds. `until` is
    None with `prometheus`. Raises UsageError where flags contradict each other or the file cannot be opened,
    OutputError where it cannot be written.
    """
    _check(flags, {site.name for site in config.sites})
    if not {"job", "instance"} <= flags.label.keys():
        problem = "without --label job=... and --label instance=... these become series of their own"
        tell(f"warning: {problem}, beside those that Prometheus scrapes")
    now = clock.now().wall
    sources, failures = asyncio.run(poll_sources(config, flags.site, flags.label, clock))
    for site, history, _, rejection in sources:
        if rejection:
            tell(f"warning: {site.name} {HISTORY}: {rejection}")
        if history.rows and history.meaning is Meaning.UNKNOWN:
            tell(f"note: what hashes of {site.name} mean is unknown, so no sums of hashes are written")
    try:
        windows = _windows(sources, flags, now, tell)
    except PrometheusError as error:
        tell(str(error))
        return False
    for name, endpoint, reason, detail in failures:
        tell(f"failed: {name} {endpoint}: {reason}: {detail}")
    if sources:
        try:
            samples = write_lines(exposition(sources, windows, flags.since, now), flags.output, tell)
        except OSError as error:
            problem = f"--output {flags.output}: {error.strerror}"
            if error.filename is None:  # the file is open, or it is stdout
                raise OutputError(f"{problem}: free space there") from error
            raise UsageError(f"{problem}: name another file") from error
        tell(f"{samples:,} samples of {len(sources)} site{'s' if len(sources) > 1 else ''}")
    return not failures


def _check(flags: Namespace, names: set[str]) -> None:
    """Raise UsageError for flags that are valid by themselves and not together."""
    if unknown := sorted(set(flags.site) - names):
        known = ", ".join(sorted(names))
        raise UsageError(f"--site {unknown[0]}: the config has no such site; it has {known}")
    if flags.output == "-" and sys.__stdout__ is None:
        raise UsageError("--output -: stdout is closed: open it, or name a file")
    if flags.gaps and flags.prometheus is None:
        raise UsageError("--gaps needs --prometheus: it says where the gaps are")
    if flags.since >= (math.inf if flags.until is None else flags.until):
        raise UsageError("--since is not before --until: nothing lies between")


async def poll_sources(
    config: Config,
    names: Sequence[str],
    labels: Mapping[str, str],
    clock: Clock,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
) -> tuple[list[Source], list[Failure]]:
    """Poll the history of these sites, or of all; return the sources that answered, and what failed."""
    config = replace(config, sites=tuple(site for site in config.sites if not names or site.name in names))
    own = OwnMetrics(__version__, "unknown")  # nobody reads them
    store, failures = await poll_once(config, own, clock, endpoints=[HISTORY], transport=transport)
    failed = {failure.site for failure in failures}
    answered = [site for site in config.sites if site.name not in failed]
    snapshots = [(site, store[site.name]) for site in answered]
    return [
        source(site, snapshot.state(HISTORY_COLLECTOR), labels, snapshot.record(HISTORY).rejection)
        for site, snapshot in snapshots
    ], failures


def _windows(sources: Sequence[Source], flags: Namespace, now: float, tell: Tell) -> Mapping[str, Windows]:
    """Return where samples are to be written: before a time, or where Prometheus has none."""
    if flags.prometheus is None:
        return windows_until(sources, flags.until)
    prometheus = Prometheus(flags.prometheus)
    windows, end = asyncio.run(prometheus.missing(sources, flags.since, now, gaps_only=flags.gaps))
    if end < now:
        nothing = f"nothing from {datetime.fromtimestamp(end, UTC):%Y-%m-%dT%H:%M:%SZ} on"
        head = "Prometheus' head, which begins there (or is taken to, where it does not say)"
        advice = "run this again with --gaps in three hours for what is left"
        tell(f"{nothing}: blocks must not overlap {head}; {advice}")
    return windows


def write_lines(lines: Iterable[str], output: str, tell: Tell) -> int:
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


def _copy(lines: Iterable[str], file: TextIO, tell: Tell) -> int:
    samples = 0
    for line in lines:
        file.write(line)
        samples += not line.startswith("#")
        if samples and samples % PROGRESS == 0 and sys.stderr.isatty():
            tell(f"{samples:,} samples", end="\r")
    file.flush()
    return samples
