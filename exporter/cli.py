"""The command line: commands and flags. It parses, calls and prints, and is the only module that prints.

It is longer than 400 lines because it has six commands and the name, form and help text of each flag.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import math
import os
import re
import signal
import socket
import sys
import time
from argparse import ArgumentError, ArgumentTypeError
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import structlog
import uvloop

from exporter import __version__, app, config, log
from exporter.backfill import command
from exporter.config import ConfigError
from exporter.config.sharding import WHOLE, Share
from exporter.web.health import ask_health
from exporter.web.listening import AddressError, address_of, listen, raise_open_files
from exporter.web.server import Server

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Coroutine, Sequence

FINE, FAILED, MISUSED = 0, 1, 2
REVISION = "CRYPTOLOOT_EXPORTER_REVISION"  # set by the image's build
DEFAULT_CONFIG = "config.yaml"
DEFAULT_ADDRESS = "0.0.0.0:12758"
DEMO_ADDRESS = "127.0.0.1:12758"
SIMULATOR_ADDRESS = "127.0.0.1:12759"
MILLISECONDS = 1e11  # from here on a number is taken for milliseconds, and rejected
LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0 fine, 1 failed while working, 2 wrong usage or config."""
    flags = parser().parse_args(arguments)
    log.setup(getattr(flags, "log_level", "error"), getattr(flags, "log_format", None), sys.stderr)
    try:
        code = int(flags.command(flags))
        sys.stdout.flush()
    except ConfigError as error:
        _tell(_config_problems(flags, error))
        return MISUSED
    except (AddressError, ArgumentError) as error:
        _tell(str(error))
        return MISUSED
    except KeyboardInterrupt:
        return FINE
    except BrokenPipeError:  # `check | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINE
    except Exception:  # noqa: BLE001 - every exception is logged without secrets
        # Python would print the traceback as it is, and an exception's text may hold a URL and so a secret.
        structlog.get_logger().critical("crashed", exc_info=True)
        return FAILED
    return code


def _config_problems(flags: Namespace, error: ConfigError) -> str:
    path = getattr(flags, "config_file", None)
    name = str(path or (DEFAULT_CONFIG if Path(DEFAULT_CONFIG).exists() else "the environment"))
    first = error.problems[0]
    if len(error.problems) == 1 and first.path == Path(name).name:  # the file itself is the problem
        return f"{name}: {first.message}"
    noun = "problem" if len(error.problems) == 1 else "problems"
    return "\n".join(
        [f"{name}: {len(error.problems)} {noun}", *(f"  {problem}" for problem in error.problems)]
    )


def _tell(text: str, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr)


# --------------------------------------------------------------------------------------------------- commands


def run(flags: Namespace) -> int:
    """Serve until a signal stops it."""
    share = _share(flags.shard, flags.total_shards)
    return _until_stopped(_serve(lambda: _load(flags), _options(flags, DEFAULT_ADDRESS, share)))


def demo(flags: Namespace) -> int:
    """Serve the metrics of two simulated sites until a signal stops it."""
    from exporter import simulator  # noqa: PLC0415 - run has no use for it

    world = simulator.demo_world(time.time, flags.seed, flags.users)
    options = _options(flags, DEMO_ADDRESS)

    async def serve() -> None:
        sockets = listen(["127.0.0.1:0"])
        serving = asyncio.create_task(Server(simulator.app(world)).serve(sockets))
        document = {
            "api": {"url": f"http://{address_of(sockets[0])}"},
            "sites": [{"name": name, "secret_env": name, "watch_users": ["johnd"]} for name in world.sites],
            "poll": {
                **{name: {"interval": "5s"} for name in ("payout", "history", "top_users", "balances")},
                "all_users": {"interval": "5s", "enabled": True},
            },
        }
        secrets = {name: site.secret for name, site in world.sites.items()}
        try:
            await _serve(lambda: config.parse(document, secrets), options, announce)
        finally:
            serving.cancel()
            for listener in sockets:
                listener.close()

    def announce(addresses: list[str]) -> None:
        for address in addresses:
            local = address.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:")
            print(f"Two simulated sites: http://{local}/metrics (more: http://{local}/)", flush=True)

    return _until_stopped(serve())


def check(flags: Namespace) -> int:
    """Print what a config means; with `--online`, also what its sites export."""
    loaded = _load(flags)
    notes = app.check_web_config(flags.web_config_file)
    print(config.masked(loaded), end="")
    for warning in (*loaded.warnings, *notes):
        _tell(f"warning: {warning}")
    if not flags.online:
        return FINE
    page, failures, refused = asyncio.run(app.check_online(loaded))
    print(page, end="")
    for site, endpoint, reason, detail in failures:
        _tell(f"failed: {site} {endpoint}: {reason}: {detail}")
    for site, place, problem in refused:  # a user who has not mined yet is unknown: this is no failure
        _tell(f"warning: {site} {place}: {problem}")
    return FAILED if failures else FINE


def simulate(flags: Namespace) -> int:
    """Serve the simulated API until a signal stops it."""
    from exporter import simulator  # noqa: PLC0415 - run has no use for it

    world = simulator.World(flags.seed, time.time)
    try:
        for name, secret in flags.sites or [("demo", "demo-secret")]:
            world.add(name, secret, users=flags.users)
    except ValueError as error:
        raise ArgumentError(None, f"--sites: {error}") from error
    for text in flags.incident:
        try:
            site, incident = simulator.parse_incident(text, time.time())
            world.sites[site].incidents.append(incident)
        except ValueError as error:
            raise ArgumentError(None, f"--{error}") from error
        except KeyError as error:
            names = ", ".join(world.sites)
            raise ArgumentError(None, f"--incident {text!r}: no such site; there are {names}") from error

    async def serve() -> None:
        sockets = listen([flags.web_listen_address])
        server = Server(simulator.app(world))
        _on_stop_signal(server.stop)
        names = ", ".join(world.sites)
        print(f"The simulated API answers on http://{address_of(sockets[0])} for {names}", flush=True)
        await server.serve(sockets)

    return _until_stopped(serve())


def backfill(flags: Namespace) -> int:
    """Write the API's week as OpenMetrics."""
    until = math.inf if flags.until is None else flags.until
    options = command.Options(
        flags.output, flags.label, flags.site, flags.since, until, flags.prometheus, flags.gaps
    )
    complete = command.backfill(_load(flags), options, app.REAL, app.USER_AGENT, _tell)
    return FINE if complete else FAILED


def health(flags: Namespace) -> int:
    """Ask the local process whether it is healthy."""
    problem = ask_health(flags.web_health_socket)
    if problem:
        _tell(problem)
    return FAILED if problem else FINE


def _load(flags: Namespace) -> config.Config:
    path = flags.config_file
    return config.load(path or Path(DEFAULT_CONFIG), os.environ, explicit=path is not None)


def _options(flags: Namespace, default_address: str, share: Share = WHOLE) -> app.Options:
    return app.Options(
        tuple(flags.web_listen_address or [default_address]),
        flags.web_enable_lifecycle,
        flags.web_health_socket,
        flags.web_config_file,
        os.environ.get(REVISION, "unknown"),
        share,
        flags.web_external_url or "",
    )


def _share(shard: int | str | None, total: int | None) -> Share:
    """Return the process' share of the sites. Raises ArgumentError where there is no such one."""
    if shard is None and total is None:
        return WHOLE
    if shard is None or total is None:
        raise ArgumentError(None, "--shard and --total-shards need each other")
    if shard == "auto":
        ending = re.search(r"\d+$", host := socket.gethostname())
        if not ending:
            raise ArgumentError(None, f"--shard=auto: the host name {host} does not end with a number")
        shard = int(ending[0])
    if int(shard) >= total:
        raise ArgumentError(
            None, f"--shard {shard}: of {total} shards, numbered from 0, there is no such one"
        )
    return Share(int(shard), total)


async def _serve(
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

    _on_stop_signal(daemon.stop)
    loop.add_signal_handler(signal.SIGHUP, reload)
    await daemon.run(announce)


def _on_stop_signal(stop: Callable[[], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)


def _until_stopped(work: Coroutine[None, None, None]) -> int:
    """Run on a new event loop, and end the process without closing it.

    Closing would wait for host names being looked up, which nothing can cancel and may take half a minute.
    """
    raise_open_files()
    gc.freeze()  # modules stay in memory: examining them again takes 40 ms, in which no scrape is answered
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    try:
        runner.run(work)
    except BaseException:
        runner.close()
        raise
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(FINE)


# ------------------------------------------------------------------------------------------------------ flags


class Parser(argparse.ArgumentParser):
    """A parser that keeps the value of `--config.file` as `config_file`."""

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        """Add a flag, as argparse does."""
        return super().add_argument(*names, **{"dest": re.sub(r"\W", "_", names[-1].strip("-")), **options})


def parser() -> Parser:
    """Return the parser; in what it parses, `command` is the function to call."""
    # No abbreviations: they would change their meaning with a new flag.
    top = Parser(
        prog="cryptoloot-exporter",
        description="Prometheus exporter for the Crypto-Loot HTTP API.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"cryptoloot-exporter {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for name, (call, add_flags, text) in COMMANDS.items():
        subparser = commands.add_parser(name, help=text, allow_abbrev=False)
        subparser.set_defaults(command=call)
        add_flags(subparser)
    return top


def run_flags(run: Parser) -> None:
    """Add the flags of `run`."""
    _config_flag(run)
    _web_flags(run, DEFAULT_ADDRESS)
    run.add_argument(
        "--shard",
        type=read_shard,
        metavar="N",
        help="poll this share of the sites, from 0; auto: what ends the host name",
    )
    run.add_argument("--total-shards", type=read_positive, metavar="M", help="how many shares there are")


def demo_flags(demo: Parser) -> None:
    """Add the flags of `demo`."""
    _web_flags(demo, DEMO_ADDRESS)
    _world_flags(demo)


def check_flags(check: Parser) -> None:
    """Add the flags of `check`."""
    _config_flag(check)
    _web_config_flag(check)
    _log_flags(check, "error")
    check.add_argument("--online", action="store_true", help="also call each endpoint once")


def simulate_flags(simulate: Parser) -> None:
    """Add the flags of `simulate`."""
    where = f"where to serve (default: {SIMULATOR_ADDRESS})"
    simulate.add_argument("--web.listen-address", metavar="HOST:PORT", default=SIMULATOR_ADDRESS, help=where)
    _log_flags(simulate, "info")
    _world_flags(simulate)
    simulate.add_argument(
        "--sites",
        action="append",
        metavar="NAME=SECRET",
        type=read_name_and_secret,
        help="a site and its secret; repeatable",
    )
    simulate.add_argument(
        "--incident",
        action="append",
        default=[],
        metavar="SITE:KIND:START:LENGTH",
        help="START is relative to now and may be negative: demo:drop:-2h:3h; repeatable",
    )


def backfill_flags(backfill: Parser) -> None:
    """Add the flags of `backfill`."""
    _config_flag(backfill)
    _log_flags(backfill, "error")
    add = backfill.add_argument
    add("--output", required=True, metavar="FILE", help="where to write; - is stdout")
    add(
        "--label",
        action=_Labels,
        type=read_label,
        default={},
        metavar="NAME=VALUE",
        help="a label of every sample, as Prometheus gives to what it scrapes (job, instance): {site} in the "
        "value is the site; repeatable",
    )
    add("--site", action="append", default=[], metavar="NAME", help="this site alone; repeatable")
    add("--since", type=read_time, default=-math.inf, metavar="TIME", help="nothing before this time")
    add("--gaps", action="store_true", help="with --prometheus: only holes between samples that it has")
    end = backfill.add_mutually_exclusive_group(required=True)
    end.add_argument(
        "--until",
        type=read_time,
        metavar="TIME",
        help="nothing from this time on: RFC 3339, Unix seconds, or now for a TSDB that has never run",
    )
    end.add_argument(
        "--prometheus",
        type=read_url,
        metavar="URL",
        help="nothing from where a series begins in this Prometheus on; a password comes from ~/.netrc",
    )


def health_flags(health: Parser) -> None:
    """Add the flags of `health`."""
    health.add_argument("--web.health-socket", type=Path, required=True, metavar="PATH", help="its socket")


def _config_flag(parser: Parser) -> None:
    text = f"the config; without the flag {DEFAULT_CONFIG} where it exists, else the environment"
    parser.add_argument("--config.file", type=Path, metavar="PATH", help=text)


def _web_config_flag(parser: Parser) -> None:
    text = "TLS, basic authentication and headers, in the format of Prometheus' exporter-toolkit"
    parser.add_argument("--web.config.file", type=Path, metavar="PATH", help=text)


def _web_flags(parser: Parser, address: str) -> None:
    add = parser.add_argument
    where = f"where to serve, IPv6 in brackets; repeatable (default: {address})"
    add("--web.listen-address", action="append", metavar="HOST:PORT", help=where)
    _web_config_flag(parser)
    url = "how others reach it: what /sd names (default: the Host that is asked)"
    add("--web.external-url", type=read_url, metavar="URL", help=url)
    add("--web.enable-lifecycle", action="store_true", help="allow POST /-/reload")
    add("--web.health-socket", type=Path, metavar="PATH", help="a Unix socket for the health command")
    _log_flags(parser, "info")


def _world_flags(parser: Parser) -> None:
    parser.add_argument("--seed", type=int, default=1, help="which simulated world (default: 1)")
    parser.add_argument("--users", type=read_positive, default=100, help="users of each site (default: 100)")


def _log_flags(parser: Parser, level: str) -> None:
    levels, text = ("debug", "info", "warning", "error"), f"least level logged (default: {level})"
    parser.add_argument("--log.level", choices=levels, default=level, help=text)
    text = "(default: console on a terminal, else json)"
    parser.add_argument("--log.format", choices=("console", "json"), help=text)


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
        raise ArgumentTypeError(
            f"{text!r} is not NAME=VALUE with a label of Prometheus' as the name; site is the samples' own"
        )
    return name, value


def read_url(text: str) -> str:
    """Return an http or https URL that has no password."""
    with contextlib.suppress(ValueError):
        url = urlsplit(text)
        host, _ = url.hostname, url.port  # ValueError where the port is none
        if url.scheme in {"http", "https"} and host and not url.username:
            return text
    raise ArgumentTypeError(  # without the text: it may hold a password
        "write http://HOST:PORT, or https, with a path where there is one, and without a password "
        "(--prometheus takes it from ~/.netrc)"
    )


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
