"""The command line: commands and flags. It translates, decides nothing, and alone prints."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import uvloop

from exporter import __version__, app, config, log
from exporter.config import ConfigError
from exporter.health import ask_health
from exporter.server import AddressError, Server, address_of, listen, raise_open_files

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from exporter.simulator import World

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
    log.setup(getattr(flags, "log_level", "error"), getattr(flags, "log_format", None), sys.stderr)
    try:
        code = int(flags.command(flags))
        sys.stdout.flush()
    except ConfigError as error:
        return _misused(_told(_config_name(flags), error))
    except AddressError as error:
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cryptoloot-exporter",
        description="Prometheus exporter for the Crypto-Loot HTTP API.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cryptoloot-exporter {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    make = partial(commands.add_parser, allow_abbrev=False)

    run = make("run", help="poll the API and serve /metrics")
    _config_flag(run)
    _serving_flags(run, DEFAULT_ADDRESS)
    run.set_defaults(command=_run)

    demo = make("demo", help="the same against the simulator: no account and no network needed")
    _serving_flags(demo, DEMO_ADDRESS)
    _world_flags(demo)
    demo.set_defaults(command=_demo)

    check = make("check", help="read the config and print what it means, or every problem")
    _config_flag(check)
    _web_config_flag(check)
    _log_flags(check, "error")
    check.add_argument("--online", action="store_true", help="also call each endpoint once")
    check.set_defaults(command=_check)

    simulate = make("simulate", help="the API simulator alone")
    simulate.add_argument(
        "--web.listen-address",
        dest="address",
        metavar="HOST:PORT",
        default=SIMULATOR_ADDRESS,
        help=f"where to serve (default: {SIMULATOR_ADDRESS})",
    )
    _log_flags(simulate)
    _world_flags(simulate)
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


def _web_config_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--web.config.file",
        dest="web_config",
        type=Path,
        metavar="PATH",
        help="TLS, basic authentication and headers, in the format of Prometheus' exporter-toolkit",
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
    _web_config_flag(parser)
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


def _world_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=1, help="which simulated world (default: 1)")
    parser.add_argument("--users", type=_positive, default=100, help="users of each site (default: 100)")


def _log_flags(parser: argparse.ArgumentParser, level: str = "info") -> None:
    parser.add_argument(
        "--log.level",
        dest="log_level",
        choices=LEVELS,
        default=level,
        help=f"least level logged (default: {level})",
    )
    parser.add_argument(
        "--log.format",
        dest="log_format",
        choices=("console", "json"),
        help="(default: console on a terminal, else json)",
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
    path = getattr(flags, "config_file", None)
    return str(path or (DEFAULT_CONFIG if Path(DEFAULT_CONFIG).exists() else "the environment"))


def _load(flags: argparse.Namespace) -> config.Config:
    path = flags.config_file
    return config.load(path or Path(DEFAULT_CONFIG), os.environ, explicit=path is not None)


def _options(flags: argparse.Namespace) -> app.Options:
    addresses = tuple(flags.addresses or [flags.default_address])
    revision = os.environ.get(REVISION, "unknown")
    return app.Options(addresses, flags.lifecycle, flags.health_socket, flags.web_config, revision)


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
        "sites": [{"name": name, "secret_env": name} for name in world.sites],
        "poll": {name: {"interval": "5s"} for name in ("payout", "history", "top_users")},
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
