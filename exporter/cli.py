"""The command line: commands and flags. It translates, decides nothing, and alone prints."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import re
import signal
import socket
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import uvloop

from exporter import app, backfill, config, log
from exporter.config import ConfigError
from exporter.config.sharding import WHOLE, Share
from exporter.flags import DEFAULT_CONFIG, parser
from exporter.web.health import ask_health
from exporter.web.listening import AddressError, address_of, listen, raise_open_files
from exporter.web.server import Server

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
    from typing import TextIO

    from exporter.simulator import World

FINE, FAILED, MISUSED = 0, 1, 2
REVISION = "CRYPTOLOOT_EXPORTER_REVISION"  # set by the image's build
PROGRESS = 100_000  # samples between two signs of life


class ShareError(Exception):
    """The flags name a share of the sites that there is not."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0 fine, 1 failed while working, 2 wrong usage or config."""
    flags = parser(COMMANDS).parse_args(arguments)
    log.setup(getattr(flags, "log_level", "error"), getattr(flags, "log_format", None), sys.stderr)
    try:
        code = int(flags.command(flags))
        sys.stdout.flush()
    except ConfigError as error:
        return _misused(_told(_config_name(flags), error))
    except (AddressError, ShareError) as error:
        return _misused(str(error))
    except KeyboardInterrupt:
        return FINE
    except BrokenPipeError:  # `check | head`: whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINE
    except Exception:  # noqa: BLE001 - whatever it is, it is told without secrets
        # Python would print the traceback as it is, and an exception's text may hold a URL and so a secret.
        structlog.get_logger().critical("crashed", exc_info=True)
        return FAILED
    return code


def _told(name: str, error: ConfigError) -> str:
    first = error.problems[0]
    if len(error.problems) == 1 and first.path == Path(name).name:  # the file itself is the problem
        return f"{name}: {first.message}"
    noun = "problem" if len(error.problems) == 1 else "problems"
    return "\n".join([f"{name}: {len(error.problems)} {noun}", *(f"  {each}" for each in error.problems)])


def _config_name(flags: argparse.Namespace) -> str:
    path = getattr(flags, "config_file", None)
    return str(path or (DEFAULT_CONFIG if Path(DEFAULT_CONFIG).exists() else "the environment"))


def _load(flags: argparse.Namespace) -> config.Config:
    path = flags.config_file
    return config.load(path or Path(DEFAULT_CONFIG), os.environ, explicit=path is not None)


def _options(flags: argparse.Namespace) -> app.Options:
    addresses = tuple(flags.addresses or [flags.default_address])
    revision = os.environ.get(REVISION, "unknown")
    return app.Options(
        addresses,
        flags.lifecycle,
        flags.health_socket,
        flags.web_config,
        revision,
        _share(getattr(flags, "shard", None), getattr(flags, "total_shards", None)),
        flags.external_url or "",
    )


def _share(shard: int | str | None, total: int | None) -> Share:
    """Return the process' share of the sites. Raises ShareError where there is no such one."""
    if shard is None and total is None:
        return WHOLE
    if shard is None or total is None:
        raise ShareError("--shard and --total-shards need each other")
    if shard == "auto":
        ending = re.search(r"\d+$", host := socket.gethostname())
        if not ending:
            raise ShareError(f"--shard=auto: the host name {host} does not end with a number")
        shard = int(ending[0])
    if int(shard) >= total:
        raise ShareError(f"--shard {shard}: of {total} shards, numbered from 0, there is no such one")
    return Share(int(shard), total)


def _run(flags: argparse.Namespace) -> int:
    return _until_stopped(_daemon(lambda: _load(flags), _options(flags)))


def _check(flags: argparse.Namespace) -> int:
    found = _load(flags)
    notes = app.check_web_config(flags.web_config)
    print(config.masked(found), end="")
    for warning in (*found.warnings, *notes):
        print(f"warning: {warning}", file=sys.stderr)
    if not flags.online:
        return FINE
    once = asyncio.run(app.once(found))
    print(once.page, end="")
    for site, endpoint, reason, detail in once.failures:
        print(f"failed: {site} {endpoint}: {reason}: {detail}", file=sys.stderr)
    for site, user, reason in once.refused:  # who has not mined yet is unknown, and nothing is wrong
        print(f"warning: {site} {user}: {reason}", file=sys.stderr)
    return FAILED if once.failures else FINE


def _simulate(flags: argparse.Namespace) -> int:
    from exporter import simulator  # noqa: PLC0415 - run has no use for it

    world = simulator.World(flags.seed, time.time)
    try:
        for name, secret in flags.sites or [("demo", "demo-secret")]:
            world.add(name, secret, users=flags.users)
    except ValueError as error:
        return _misused(f"--sites: {error}")
    for text in flags.incident:
        try:
            site, incident = simulator.parse_incident(text, time.time())
            world.sites[site].incidents.append(incident)
        except ValueError as error:
            return _misused(f"--{error}")
        except KeyError:
            return _misused(f"--incident {text!r}: no such site; there are {', '.join(world.sites)}")
    return _until_stopped(_simulation(world, flags.address))


def _health(flags: argparse.Namespace) -> int:
    problem = ask_health(flags.health_socket)
    if problem:
        print(problem, file=sys.stderr)
    return FAILED if problem else FINE


def _demo(flags: argparse.Namespace) -> int:
    from exporter import simulator  # noqa: PLC0415 - run has no use for it

    world = simulator.demo_world(time.time, flags.seed, flags.users)
    return _until_stopped(_demonstration(world, _options(flags)))


def _misused(problem: str) -> int:
    print(problem, file=sys.stderr)
    return MISUSED


def _backfill(flags: argparse.Namespace) -> int:
    loaded = _load(flags)
    if problem := _contradiction(flags, {site.name for site in loaded.sites}):
        return _misused(problem)
    if not {"job", "instance"} <= set(flags.label):
        _tell(
            "warning: without --label job=... and --label instance=... these become series of their own, "
            "beside those that Prometheus scrapes"
        )
    now = time.time()
    try:
        sources, windows, failures = asyncio.run(_asked(loaded, flags, now))
        for site, endpoint, reason, detail in failures:
            _tell(f"failed: {site} {endpoint}: {reason}: {detail}")
        if not sources:
            return FAILED
        samples = _write(backfill.written(sources, windows, flags.since, now), flags.output)
    except backfill.Unanswered as error:
        _tell(str(error))
        return FAILED
    except BrokenPipeError:
        raise  # as of any command
    except OSError as error:
        return _misused(f"--output {flags.output}: {error.strerror}")
    _tell(f"{samples:,} samples of {len(sources)} {'site' if len(sources) == 1 else 'sites'}")
    return FAILED if failures else FINE


def _contradiction(flags: argparse.Namespace, known: set[str]) -> str | None:
    """Return what is wrong with flags that are right by themselves."""
    if unknown := sorted(set(flags.site) - known):
        return f"--site {unknown[0]}: the config has no such site; it has {', '.join(sorted(known))}"
    if flags.gaps and flags.prometheus is None:
        return "--gaps needs --prometheus: it says where the gaps are"
    if flags.since >= (math.inf if flags.until is None else flags.until):
        return "--since is not before --until: nothing lies between"
    return None


async def _asked(
    loaded: config.Config, flags: argparse.Namespace, now: float
) -> tuple[list[backfill.Source], Mapping[str, backfill.Windows], list[tuple[str, str, str, str]]]:
    """Ask the API for the rows, and Prometheus for what it has."""
    known, failures = await app.histories(loaded, flags.site)
    missed = {site for site, *_ in failures}
    sources = [
        backfill.source(subject, snapshot, flags.label)
        for subject, snapshot in known
        if subject.name not in missed
    ]
    for each in sources:
        if each.known.last_rows and each.known.meaning == "unknown":
            _tell(
                f"note: what hashes of {each.subject.name} mean is unknown, so no sums of hashes are written"
            )
    if flags.prometheus is None:
        return sources, backfill.before(sources, flags.until), failures
    async with backfill.Prometheus(flags.prometheus) as prometheus:
        windows, end = await backfill.missing(sources, prometheus, flags.since, now, gaps=flags.gaps)
    if end < now:
        _tell(
            f"nothing from {datetime.fromtimestamp(end, UTC):%Y-%m-%dT%H:%M:%SZ} on: blocks must not overlap "
            "Prometheus' head, which begins there (or is taken to, where it does not say); run this again "
            "with --gaps in three hours for what is left"
        )
    return sources, windows, failures


def _write(lines: Iterable[str], output: str) -> int:
    """Write the lines, all or none, and how far it is to a terminal; return how many samples they are."""
    if output == "-":
        return _written(lines, sys.stdout)
    path = Path(output)
    if path.exists() and not path.is_file():  # a pipe, a device
        with path.open("w", encoding="utf-8") as out:
            return _written(lines, out)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as out:
            samples = _written(lines, out)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return samples


def _written(lines: Iterable[str], out: TextIO) -> int:
    samples = 0
    for line in lines:
        out.write(line)
        samples += not line.startswith("#")
        if samples and samples % PROGRESS == 0 and sys.stderr.isatty():
            print(f"{samples:,} samples", end="\r", file=sys.stderr)
    return samples


def _tell(text: str) -> None:
    print(text, file=sys.stderr)


async def _daemon(
    load: Callable[[], config.Config],
    options: app.Options,
    announce: Callable[[list[str]], None] = lambda _: None,
) -> None:
    daemon = app.App(load, options)
    loop = asyncio.get_running_loop()
    reloads: set[asyncio.Task[list[str]]] = set()

    def reload() -> None:
        task = loop.create_task(daemon.reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    for signal_ in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_, daemon.stop)
    loop.add_signal_handler(signal.SIGHUP, reload)
    await daemon.run(announce)


async def _simulation(world: World, address: str) -> None:
    from exporter import simulator  # noqa: PLC0415

    sockets = listen([address])
    server = Server(simulator.app(world))
    loop = asyncio.get_running_loop()
    for signal_ in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_, server.stop)
    print(
        f"The simulated API answers on http://{address_of(sockets[0])} for {', '.join(world.sites)}",
        flush=True,
    )
    await server.serve(sockets)


async def _demonstration(world: World, options: app.Options) -> None:
    from exporter import simulator  # noqa: PLC0415

    api = listen(["127.0.0.1:0"])
    server = Server(simulator.app(world))
    serving = asyncio.create_task(server.serve(api))
    document = {
        "api": {"url": f"http://{address_of(api[0])}"},
        "sites": [{"name": name, "secret_env": name, "watch_users": ["johnd"]} for name in world.sites],
        "poll": {
            **{name: {"interval": "5s"} for name in ("payout", "history", "top_users", "balances")},
            "all_users": {"interval": "5s", "enabled": True},
        },
    }
    secrets = {name: site.secret for name, site in world.sites.items()}
    try:
        await _daemon(lambda: config.parse(document, secrets), options, _announce)
    finally:
        serving.cancel()
        for each in api:
            each.close()


def _announce(addresses: list[str]) -> None:
    for address in addresses:
        shown = address.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:")
        print(f"Two simulated sites: http://{shown}/metrics (more: http://{shown}/)", flush=True)


def _until_stopped(work: Coroutine[None, None, None]) -> int:
    """Run on an event loop of its own, and leave without closing it once it is through.

    Closing would wait for host names being looked up, which nothing can cancel and may take half a minute.
    """
    raise_open_files()
    gc.freeze()  # what is imported by now stays: looking at it again takes 40 ms, and scrapes would wait
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    try:
        runner.run(work)
    except BaseException:
        runner.close()
        raise
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(FINE)


COMMANDS = {
    "run": _run,
    "demo": _demo,
    "check": _check,
    "simulate": _simulate,
    "backfill": _backfill,
    "health": _health,
}
