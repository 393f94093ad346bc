"""The command line: commands and flags. It translates, decides nothing, and alone prints."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import uvloop

from exporter import __version__, app, config, log
from exporter.config import ConfigError
from exporter.server import AddressError, Server, address_of, ask_health, listen

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from exporter.simulator import World

T = TypeVar("T")

FINE, FAILED, MISUSED = 0, 1, 2
DEFAULT_CONFIG = "config.yaml"
DEFAULT_ADDRESS = "0.0.0.0:12758"
DEMO_ADDRESS = "127.0.0.1:12758"
SIMULATOR_ADDRESS = "127.0.0.1:12759"
REVISION = "CRYPTOLOOT_EXPORTER_REVISION"  # set by the image's build
LEVELS = ("debug", "info", "warning", "error")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0 fine, 1 failed while working, 2 wrong usage or config."""
    flags = _parser().parse_args(arguments)
    if "log_level" in flags:
        log.setup(flags.log_level, flags.log_format, sys.stderr)
    try:
        return int(flags.command(flags))
    except ConfigError as error:
        print(f"{_config_name(flags)}: {len(error.problems)} problem(s)", file=sys.stderr)
        for problem in error.problems:
            print(f"  {problem}", file=sys.stderr)
        return MISUSED
    except AddressError as error:
        print(error, file=sys.stderr)
        return MISUSED
    except KeyboardInterrupt:
        return FINE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cryptoloot-exporter",
        description="Prometheus exporter for the Crypto-Loot HTTP API.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cryptoloot-exporter {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    make = partial(
        commands.add_parser, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )

    run = make("run", help="poll the API and serve /metrics")
    _config_flag(run)
    _serving_flags(run, DEFAULT_ADDRESS)
    run.set_defaults(command=_run)

    demo = make("demo", help="the same against the simulator: no account and no network needed")
    _serving_flags(demo, DEMO_ADDRESS)
    demo.add_argument("--seed", type=int, default=1, help="which simulated world")
    demo.add_argument("--users", type=_positive, default=100, help="users of each simulated site")
    demo.set_defaults(command=_demo)

    check = make("check", help="read the config and print what it means, or every problem")
    _config_flag(check)
    _log_flags(check)
    check.add_argument("--online", action="store_true", help="also call each endpoint once")
    check.set_defaults(command=_check)

    simulate = make("simulate", help="the API simulator alone")
    simulate.add_argument(
        "--web.listen-address", dest="addresses", metavar="HOST:PORT", default=SIMULATOR_ADDRESS, help="where"
    )
    _log_flags(simulate)
    simulate.add_argument("--seed", type=int, default=1, help="which simulated world")
    simulate.add_argument("--users", type=_positive, default=100, help="users of each site")
    simulate.add_argument(
        "--sites",
        action="append",
        metavar="NAME=SECRET",
        type=_named,
        help="a site and its secret; repeatable",
    )
    simulate.add_argument(
        "--incident",
        action="append",
        default=[],
        metavar="SITE:KIND:START:LENGTH",
        help="START is relative to now and may be negative: demo:drop:-2h:3h; repeatable",
    )
    simulate.set_defaults(command=_simulate)

    health = make("health", help="ask the local process over its health socket; exit code 0 or 1")
    health.add_argument(
        "--web.health-socket",
        dest="health_socket",
        type=Path,
        required=True,
        metavar="PATH",
        help="its socket",
    )
    health.set_defaults(command=_health)
    return parser


def _config_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config.file",
        dest="config_file",
        type=Path,
        metavar="PATH",
        help=f"the config; without the flag {DEFAULT_CONFIG} where it exists, else the environment",
    )


def _serving_flags(parser: argparse.ArgumentParser, address: str) -> None:
    parser.add_argument(
        "--web.listen-address",
        dest="addresses",
        action="append",
        metavar="HOST:PORT",
        help=f"where to serve, IPv6 in brackets; repeatable (default: {address})",
    )
    parser.set_defaults(default_address=address)
    parser.add_argument(
        "--web.enable-lifecycle", dest="lifecycle", action="store_true", help="allow POST /-/reload"
    )
    parser.add_argument(
        "--web.health-socket",
        dest="health_socket",
        type=Path,
        metavar="PATH",
        help="a Unix socket for the health command",
    )
    _log_flags(parser)


def _log_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log.level", dest="log_level", choices=LEVELS, default="info", help="least level logged"
    )
    parser.add_argument(
        "--log.format",
        dest="log_format",
        choices=("console", "json"),
        help="console on a terminal, else json, unless given",
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def _named(text: str) -> tuple[str, str]:
    name, equals, secret = text.partition("=")
    if not (name and equals and secret):
        raise argparse.ArgumentTypeError("expected NAME=SECRET")  # without the text: it may hold a secret
    return name, secret


def _config_name(flags: argparse.Namespace) -> str:
    return str(getattr(flags, "config_file", None) or DEFAULT_CONFIG)


def _load(flags: argparse.Namespace) -> config.Config:
    path = flags.config_file
    return config.load(path or Path(DEFAULT_CONFIG), os.environ, explicit=path is not None)


def _options(flags: argparse.Namespace) -> app.Options:
    addresses = tuple(flags.addresses or [flags.default_address])
    revision = os.environ.get(REVISION, "unknown")
    return app.Options(addresses, flags.lifecycle, flags.health_socket, revision)


def _run(flags: argparse.Namespace) -> int:
    return _served(_daemon(lambda: _load(flags), _options(flags)))


def _check(flags: argparse.Namespace) -> int:
    found = _load(flags)
    print(config.masked(found), end="")
    for warning in found.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if not flags.online:
        return FINE
    once = _served(app.once(found))
    print(once.page, end="")
    for site, endpoint, reason in once.failures:
        print(f"failed: {site} {endpoint}: {reason}", file=sys.stderr)
    return FAILED if once.failures else FINE


def _simulate(flags: argparse.Namespace) -> int:
    from exporter import simulator  # noqa: PLC0415 - run has no use for it

    world = simulator.World(flags.seed, time.time)
    for name, secret in flags.sites or [("demo", "demo-secret")]:
        world.add(name, secret, users=flags.users)
    for text in flags.incident:
        try:
            site, incident = simulator.parse_incident(text, time.time())
            world.sites[site].incidents.append(incident)
        except ValueError as error:
            return _misused(f"--incident {error}")
        except KeyError:
            return _misused(f"--incident {text}: no such site; there are {', '.join(world.sites)}")
    return _served(_simulation(world, flags.addresses))


def _health(flags: argparse.Namespace) -> int:
    problem = ask_health(flags.health_socket)
    if problem:
        print(problem, file=sys.stderr)
    return FAILED if problem else FINE


def _demo(flags: argparse.Namespace) -> int:
    from exporter import simulator  # noqa: PLC0415 - run has no use for it

    return _served(_demonstration(simulator.demo_world(time.time, flags.seed, flags.users), _options(flags)))


def _misused(problem: str) -> int:
    print(problem, file=sys.stderr)
    return MISUSED


async def _daemon(load: Callable[[], config.Config], options: app.Options) -> int:
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
    await daemon.run()
    return FINE


async def _simulation(world: World, address: str) -> int:
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
    return FINE


async def _demonstration(world: World, options: app.Options) -> int:
    from exporter import simulator  # noqa: PLC0415

    api = listen(["127.0.0.1:0"])
    server = Server(simulator.app(world))
    serving = asyncio.create_task(server.serve(api))
    document = {
        "api": {"url": f"http://{address_of(api[0])}"},
        "sites": [{"name": name, "secret_env": name} for name in world.sites],
        "poll": {name: {"interval": "5s"} for name in ("payout", "history", "top_users")},
    }
    secrets = {name: site.secret for name, site in world.sites.items()}
    for address in options.addresses:
        print(
            f"Metrics of two simulated sites: http://{address}/metrics   more at http://{address}/",
            flush=True,
        )
    try:
        return await _daemon(lambda: config.parse(document, secrets), options)
    finally:
        server.stop()
        await serving


def _served(work: Coroutine[None, None, T]) -> T:
    """Run on an event loop of its own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
