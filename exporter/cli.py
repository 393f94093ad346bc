"""The command line: commands, flags, and what they print.

This is the only module that prints, except for the samples of `backfill --output -`.

The file is longer than 400 lines because the commands and their flags are one table that is read together.
"""

import argparse
import asyncio
import contextlib
import gc
import itertools
import logging
import math
import os
import re
import signal
import socket
import sys
import time
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn, TextIO
from urllib.parse import urlsplit

import structlog
import uvloop

from exporter import __version__, config, log
from exporter.app import REAL_CLOCK, App, Options, check_files, check_online
from exporter.backfill.command import OutputError, UsageError, write_backfill
from exporter.config import ConfigError
from exporter.config.problems import COUNTED, capped
from exporter.config.sections import POLL_CLASSES
from exporter.config.sharding import ALL_SITES, Share
from exporter.web.listening import AddressError, address_of, listen, raise_open_files
from exporter.web.server import Server
from exporter.web.unix_socket import ask_health

FINE, FAILED, MISUSED = 0, 1, 2
REVISION = "CRYPTOLOOT_EXPORTER_REVISION"  # set by the image's build
DEFAULT_CONFIG = "config.yaml"
DEFAULT_ADDRESS = "0.0.0.0:12758"
DEMO_ADDRESS = "127.0.0.1:12758"
SIMULATOR_ADDRESS = "127.0.0.1:12759"
MILLISECONDS = 1e11  # from here on a number is taken for milliseconds, and rejected
LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0 fine, 1 failed while working, 2 wrong usage or config.

    If the reader of the output has gone (`check | head -1`) it is 1, without a word.
    """
    set_encodings()
    try:
        flags = parser().parse_args(arguments)
        log.setup(getattr(flags, "log_level", "error"), getattr(flags, "log_format", None), sys.stderr)
        if flags.command not in {run, demo, simulate}:
            _take_signals()
        code: int = flags.command(flags)
    except (AddressError, ConfigError, UsageError, OutputError) as error:
        if isinstance(error.__cause__, BrokenPipeError):
            return FAILED
        with contextlib.suppress(OutputError):  # the code says that something is wrong
            _tell(_config_problems(error) if isinstance(error, ConfigError) else str(error))
        return FAILED if isinstance(error, OutputError) else MISUSED
    except KeyboardInterrupt:
        return FINE
    except Exception:  # noqa: BLE001 - every exception is logged without secrets
        # Python would print the traceback as it is, and an exception's text may hold a URL and so a secret.
        structlog.get_logger().critical("crashed", exc_info=True)
        return FAILED
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:  # drop what is left: Python would try again at its end, and then exit with 120
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code


def set_encodings() -> None:
    """Write UTF-8 to stdout, as pages and OpenMetrics are in every locale; no text makes a stream raise."""
    for stream, encoding in ((sys.stdout, "utf-8"), (sys.stderr, None)):
        if isinstance(stream, TextIOWrapper):  # else it is a test's
            stream.reconfigure(encoding=encoding, errors="backslashreplace")


def _config_problems(error: ConfigError) -> str:
    """Return the problems of each source beneath its name."""
    lines = []
    for source, group in itertools.groupby(error.problems, lambda problem: problem.source):
        first, *others = problems = list(group)
        least = "at least " if len(problems) >= COUNTED else ""  # reading has ended there
        head = f"{source}: {least}{len(problems)} problem{'s' if others else ''}"
        if source and (first.path or others):
            lines.append("\n  ".join([head, *capped([problem.text for problem in problems])]))
        else:  # the whole source is the problem, or there is no source
            lines += [first.at(source or first.path), *(problem.text for problem in others)]
    return "\n".join(lines)


def _tell(text: str, end: str = "\n") -> None:
    _print(text, end, sys.stderr)


def _print(text: str, end: str = "\n", stream: TextIO | None = None) -> None:
    """Write to stdout, or to stderr. Raises OutputError."""
    name = "standard output" if stream is None else "standard error"
    try:
        print(text, end=end, file=stream, flush=True)
    except OSError as error:
        advice = "free space there, or redirect it to another place"
        raise OutputError(f"{name} cannot be written: {error.strerror}: {advice}") from error


# --------------------------------------------------------------------------------------------------- commands


def run(flags: Namespace) -> NoReturn:
    """Serve until a signal stops it."""
    options = _options(flags, DEFAULT_ADDRESS, _share(flags.shard, flags.total_shards))
    _run_until_stopped(_serve(App(_source(flags), options)))


def demo(flags: Namespace) -> NoReturn:
    """Serve the metrics of two simulated sites until a signal stops it."""
    from exporter import simulator  # noqa: PLC0415 - run has no use for it

    world = simulator.demo_world(time.time, flags.seed, flags.users)
    options = _options(flags, DEMO_ADDRESS)

    async def serve() -> None:
        (listening,) = listen(["127.0.0.1:0"])
        with listening:
            server = _simulator_server(simulator.app(world))
            api = asyncio.create_task(server.serve([listening]))
            document, secrets = simulator.demo_config(world, address_of(listening), POLL_CLASSES)
            try:
                await _serve(App(lambda: config.parse(document, secrets), options), announce)
            finally:
                server.stop()
                await api

    def announce(addresses: list[str]) -> None:
        for address in addresses:
            local = address.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:")
            _print(f"Two simulated sites: http://{local}/metrics (more: http://{local}/)")

    _run_until_stopped(serve())


def check(flags: Namespace) -> int:
    """Print what a config means; with `--online`, also what its sites export."""
    loaded, warnings = check_files(_source(flags), flags.web_config_file)
    _print(config.masked(loaded), end="")
    for warning in capped(warnings):
        _tell(f"warning: {warning}")
    if not flags.online:
        return FINE
    page, failures, refused = asyncio.run(check_online(loaded))
    _print(page, end="")
    for site, endpoint, reason, detail in failures:
        _tell(f"failed: {site} {endpoint}: {reason}: {detail}")
    for site, place, problem in refused:  # a user who has not mined yet is unknown: this is no failure
        _tell(f"warning: {site} {place}: {problem}")
    return FAILED if failures else FINE


def simulate(flags: Namespace) -> NoReturn:
    """Serve the simulated API until a signal stops it."""
    from exporter import simulator  # noqa: PLC0415 - run has no use for it

    world = simulator.World(flags.seed, time.time)
    try:
        for name, secret in flags.sites or [("demo", "demo-secret")]:
            world.add(name, secret, users=flags.users)
    except ValueError as error:
        raise UsageError(f"--sites: {error}") from error
    names = ", ".join(world.sites)
    for text in flags.incident:
        try:
            name, incident = simulator.parse_incident(text, time.time())
        except ValueError as error:
            raise UsageError(f"--{error}") from error
        if name not in world.sites:
            raise UsageError(f"--incident {text!r}: no such site; there are {names}")
        world.sites[name].incidents.append(incident)

    async def serve() -> None:
        sockets = listen([flags.web_listen_address])
        server = _simulator_server(simulator.app(world))
        _on_stop_signal(server.stop)
        _print(f"The simulated API answers on http://{address_of(sockets[0])} for {names}")
        await server.serve(sockets)

    _run_until_stopped(serve())


def backfill(flags: Namespace) -> int:
    """Write the API's week as OpenMetrics."""
    return FINE if write_backfill(_source(flags)(), flags, REAL_CLOCK, _tell) else FAILED


def health(flags: Namespace) -> int:
    """Ask the local process whether it is healthy."""
    problem = ask_health(flags.web_health_socket)
    if problem:
        _tell(problem)
    return FAILED if problem else FINE


def _source(flags: Namespace) -> Callable[[], config.Config]:
    path = flags.config_file
    return config.source(path or Path(DEFAULT_CONFIG), os.environ, explicit=path is not None)


def _options(flags: Namespace, default_address: str, share: Share = ALL_SITES) -> Options:
    addresses = tuple(flags.web_listen_address or [default_address])
    revision, url = os.environ.get(REVISION, "unknown"), flags.web_external_url or ""
    health_socket, web_config = flags.web_health_socket, flags.web_config_file
    return Options(addresses, flags.web_enable_lifecycle, health_socket, web_config, revision, share, url)


def _share(shard: int | str | None, total: int | None) -> Share:
    """Return the process' share of the sites. Raises UsageError if there is none."""
    if shard is None and total is None:
        return ALL_SITES
    if shard is None or total is None:
        raise UsageError("--shard and --total-shards need each other")
    if shard == "auto":
        ending = re.search(r"\d+$", host := socket.gethostname())
        if not ending:
            raise UsageError(f"--shard=auto: the host name {host} does not end with a number")
        shard = int(ending[0])
    if int(shard) >= total:
        raise UsageError(f"--shard {shard}: of {total} shards, numbered from 0, there is no such one")
    return Share(int(shard), total)


async def _serve(daemon: App, announce: Callable[[list[str]], None] = lambda _: None) -> None:
    """Run the daemon: SIGTERM and SIGINT stop it, SIGHUP reloads its files."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, daemon.reload_soon)
    _on_stop_signal(daemon.stop)
    await daemon.run(announce)


def _on_stop_signal(stop: Callable[[], None]) -> None:
    """Call this on SIGTERM and SIGINT; take the signals that have waited for their handlers."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    _take_signals()


def _take_signals() -> None:
    """Let in what `__main__` has held back, and what may come."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))


def _simulator_server(app: Any) -> Server:
    """Return a server of the simulated API, which logs no error for an answer that an incident cuts off."""
    cut = "ASGI callable returned without completing response"
    logging.getLogger("uvicorn.error").addFilter(lambda record: cut not in record.getMessage())
    return Server(app)


def _run_until_stopped(work: Coroutine[None, None, None]) -> NoReturn:
    """Run on a new event loop, and end the process without closing it.

    Closing would wait for host names being looked up, which nothing can cancel and may take half a minute.
    """
    raise_open_files()
    gc.freeze()  # modules stay in memory: examining them again takes 40 ms, in which no scrape is answered
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)
        os._exit(FINE)


# ------------------------------------------------------------------------------------------------------ flags


class Parser(argparse.ArgumentParser):
    """A parser whose flags are written as their help shows them."""

    def flag(self, form: str, text: str, group: Any = None, **options: Any) -> None:
        """Add a flag to the parser, or to a `group` of it.

        `form` is `--name=VALUE`, or `--name` for a flag with choices or without a value; `text` is its help.
        The value of `--config.file` is kept as `config_file`.
        """
        name, _, value = form.partition("=")
        dest = re.sub(r"\W", "_", name[2:])
        action = (group or self).add_argument(name, dest=dest, help=text, **options)
        action.metavar = value or None

    def _print_message(self, message: str, file: Any = None) -> None:
        """Print usage, help or the version. argparse hides that it cannot be printed."""
        if file is sys.stdout:
            _print(message, end="")
        else:
            super()._print_message(message, file)


def parser() -> Parser:
    """Return the parser; in what it parses, `command` is the function to call."""
    # No abbreviations: they would change their meaning with a new flag.
    about = "Prometheus exporter for the Crypto-Loot HTTP API."
    top = Parser(prog="cryptoloot-exporter", description=about, allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"cryptoloot-exporter {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for name, (call, add_flags, text) in COMMANDS.items():
        subparser = commands.add_parser(name, help=text, allow_abbrev=False)
        subparser.set_defaults(command=call)
        add_flags(subparser)
    return top


CONFIG = f"the config; without the flag {DEFAULT_CONFIG} where it exists, else the environment"
WEB_CONFIG = "TLS, basic authentication and headers, in the format of Prometheus' exporter-toolkit"


def run_flags(run: Parser) -> None:
    """Add the flags of `run`."""
    add = run.flag
    add("--config.file=PATH", CONFIG, type=Path)
    _web_flags(run, DEFAULT_ADDRESS)
    add("--shard=N", "poll this share of the sites, from 0; auto: what ends the host name", type=read_shard)
    add("--total-shards=M", "how many shares there are", type=read_positive)


def demo_flags(demo: Parser) -> None:
    """Add the flags of `demo`."""
    _web_flags(demo, DEMO_ADDRESS)
    _world_flags(demo)


def check_flags(check: Parser) -> None:
    """Add the flags of `check`."""
    check.flag("--config.file=PATH", CONFIG, type=Path)
    check.flag("--web.config.file=PATH", WEB_CONFIG, type=Path)
    _log_flags(check, "error")
    check.flag("--online", "also call each endpoint once", action="store_true")


def simulate_flags(simulate: Parser) -> None:
    """Add the flags of `simulate`."""
    add = simulate.flag
    where = f"where to serve (default: {SIMULATOR_ADDRESS})"
    add("--web.listen-address=HOST:PORT", where, default=SIMULATOR_ADDRESS)
    _log_flags(simulate, "info")
    _world_flags(simulate)
    site = "a site and its secret; repeatable"
    add("--sites=NAME=SECRET", site, action="append", type=read_name_and_secret)
    incident = "START is relative to now and may be negative: demo:drop:-2h:3h; repeatable"
    add("--incident=SITE:KIND:START:LENGTH", incident, action="append", default=[])


def backfill_flags(backfill: Parser) -> None:
    """Add the flags of `backfill`."""
    add = backfill.flag
    add("--config.file=PATH", CONFIG, type=Path)
    _log_flags(backfill, "error")
    add("--output=FILE", "where to write; - is stdout", required=True)
    label = "a label of every sample, as Prometheus gives to what it scrapes (job, instance)"
    label += ": {site} in the value is the site; repeatable"
    add("--label=NAME=VALUE", label, action=_Labels, type=read_label, default={})
    add("--site=NAME", "this site alone; repeatable", action="append", default=[])
    add("--since=TIME", "nothing before this time", type=read_time, default=-math.inf)
    add("--gaps", "with --prometheus: only holes between samples that it has", action="store_true")
    end = backfill.add_mutually_exclusive_group(required=True)
    until = "nothing from this time on: RFC 3339, Unix seconds, or now for a TSDB that has never run"
    add("--until=TIME", until, end, type=read_time)
    url = "nothing from where a series begins in this Prometheus on; a password comes from ~/.netrc"
    add("--prometheus=URL", url, end, type=read_url)


def health_flags(health: Parser) -> None:
    """Add the flags of `health`."""
    health.flag("--web.health-socket=PATH", "its socket", type=Path, required=True)


def _web_flags(parser: Parser, address: str) -> None:
    add = parser.flag
    where = f"where to serve, IPv6 in brackets; repeatable (default: {address})"
    add("--web.listen-address=HOST:PORT", where, action="append")
    add("--web.config.file=PATH", WEB_CONFIG, type=Path)
    url = "how others reach it: what /sd names (default: the Host that is asked)"
    add("--web.external-url=URL", url, type=read_url)
    add("--web.enable-lifecycle", "allow POST /-/reload", action="store_true")
    add("--web.health-socket=PATH", "a Unix socket for the health command", type=Path)
    _log_flags(parser, "info")


def _world_flags(parser: Parser) -> None:
    parser.flag("--seed=SEED", "which simulated world (default: 1)", type=int, default=1)
    parser.flag("--users=USERS", "users of each site (default: 100)", type=read_positive, default=100)


def _log_flags(parser: Parser, level: str) -> None:
    levels, text = ("debug", "info", "warn", "warning", "error"), f"minimum log level (default: {level})"
    parser.flag("--log.level", text, choices=levels, default=level)
    parser.flag("--log.format", "(default: console on a terminal, else json)", choices=log.FORMATS)


def read_shard(text: str) -> int | str:
    """Return the number of a shard, or `auto`."""
    if text != "auto" and not text.isdecimal():
        raise ArgumentTypeError(f"{text!r} is not a number from 0, or auto")
    return text if text == "auto" else int(text)


def read_positive(text: str) -> int:
    """Return a number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def read_name_and_secret(text: str) -> tuple[str, str]:
    """Return the name and the secret of a simulated site."""
    name, _, secret = text.partition("=")
    if not (name and secret):
        raise ArgumentTypeError("expected NAME=SECRET")  # without the text: it may hold a secret
    return name, secret


class _Labels(argparse.Action):
    """Collect labels by name."""

    def __call__(self, parser: Any, flags: Namespace, label: Any, _option: str | None = None) -> None:
        name, value = label
        labels = getattr(flags, self.dest)
        if name in labels:
            parser.error(f"--label {name} is there twice")
        setattr(flags, self.dest, {**labels, name: value})


def read_label(text: str) -> tuple[str, str]:
    """Return a label's name and value."""
    name, _, value = text.partition("=")
    if not (value and LABEL.fullmatch(name)) or name == "site" or not value.isprintable():
        form = "NAME=VALUE with a label of Prometheus' as the name"
        raise ArgumentTypeError(f"{text!r} is not {form}; site is the samples' own")
    return name, value


def read_url(text: str) -> str:
    """Return an http or https URL that has no password."""
    with contextlib.suppress(ValueError):
        url = urlsplit(text)
        host, _ = url.hostname, url.port  # ValueError where the port is none
        if url.scheme in {"http", "https"} and host and not url.username:
            return text
    # Without the text: it may hold a password.
    form = "http://HOST:PORT, or https, with a path where there is one, and without a password"
    raise ArgumentTypeError(f"write {form} (--prometheus takes it from ~/.netrc)")


def read_time(text: str) -> float:
    """Return Unix seconds; `now` is infinity, since there are no samples of the future."""
    if text == "now":
        return math.inf
    with contextlib.suppress(ValueError):
        moment = datetime.fromisoformat(text.upper()) if ":" in text else None
        seconds = moment.timestamp() if moment else float(text)
        if 0 <= seconds < MILLISECONDS and (moment is None or moment.tzinfo):
            return seconds
    raise ArgumentTypeError(f"{text!r} is no time: write 2026-01-31T12:00:00Z, Unix seconds, or now")


COMMANDS: dict[str, tuple[Callable[[Namespace], int], Callable[[Parser], None], str]] = {
    "run": (run, run_flags, "poll the API and serve /metrics"),
    "demo": (demo, demo_flags, "the same against the simulator: no account and no network needed"),
    "check": (check, check_flags, "read the config and print what it means, or every problem"),
    "simulate": (simulate, simulate_flags, "the API simulator alone"),
    "backfill": (backfill, backfill_flags, "the week that the API remembers, as OpenMetrics for promtool"),
    "health": (health, health_flags, "ask the local process over its health socket; exit code 0 or 1"),
}
