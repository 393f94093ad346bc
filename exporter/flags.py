"""The command line: which commands there are, and their flags, named as those of the Prometheus daemons."""

from __future__ import annotations

import argparse
import math
import re
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from exporter import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Make = Callable[..., argparse.ArgumentParser]

DEFAULT_CONFIG = "config.yaml"
DEFAULT_ADDRESS = "0.0.0.0:12758"
DEMO_ADDRESS = "127.0.0.1:12758"
SIMULATOR_ADDRESS = "127.0.0.1:12759"
LEVELS = ("debug", "info", "warning", "error")
MILLISECONDS = 1e11  # what is more is no number of seconds that anybody means
LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")


def parser(commands: Mapping[str, Callable[[argparse.Namespace], int]]) -> argparse.ArgumentParser:
    """Return the parser; what it parses has the command of its name as `command`."""
    found = argparse.ArgumentParser(
        prog="cryptoloot-exporter",
        description="Prometheus exporter for the Crypto-Loot HTTP API.",
        allow_abbrev=False,
    )
    found.add_argument("--version", action="version", version=f"cryptoloot-exporter {__version__}")
    make = partial(found.add_subparsers(metavar="COMMAND", required=True).add_parser, allow_abbrev=False)
    for name, add in (
        ("run", _run),
        ("demo", _demo),
        ("check", _check),
        ("simulate", _simulate),
        ("backfill", _backfill),
        ("health", _health),
    ):
        add(partial(make, name)).set_defaults(command=commands[name])
    return found


def _run(make: Make) -> argparse.ArgumentParser:
    run = make(help="poll the API and serve /metrics")
    _config_flag(run)
    _serving_flags(run, DEFAULT_ADDRESS)
    run.add_argument(
        "--shard",
        type=_shard,
        metavar="N",
        help="poll this share of the sites, from 0; auto: what ends the host name",
    )
    run.add_argument("--total-shards", type=_positive, metavar="M", help="how many shares there are")
    return run


def _demo(make: Make) -> argparse.ArgumentParser:
    demo = make(help="the same against the simulator: no account and no network needed")
    _serving_flags(demo, DEMO_ADDRESS)
    _world_flags(demo)
    return demo


def _check(make: Make) -> argparse.ArgumentParser:
    check = make(help="read the config and print what it means, or every problem")
    _config_flag(check)
    _web_config_flag(check)
    _log_flags(check, "error")
    check.add_argument("--online", action="store_true", help="also call each endpoint once")
    return check


def _simulate(make: Make) -> argparse.ArgumentParser:
    simulate = make(help="the API simulator alone")
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
    return simulate


def _backfill(make: Make) -> argparse.ArgumentParser:
    backfill = make(help="the week that the API remembers, as OpenMetrics for promtool")
    _config_flag(backfill)
    _log_flags(backfill, "error")
    add = backfill.add_argument
    add("--output", required=True, metavar="FILE", help="where to write; - is stdout")
    add(
        "--label",
        action=_Labels,
        type=_label,
        default={},
        metavar="NAME=VALUE",
        help="a label of every sample, as Prometheus gives to what it scrapes (job, instance): {site} in the "
        "value is the site; repeatable",
    )
    add("--site", action="append", default=[], metavar="NAME", help="this site alone; repeatable")
    add("--since", type=_time, default=-math.inf, metavar="TIME", help="nothing before this time")
    add("--gaps", action="store_true", help="with --prometheus: only holes between samples that it has")
    end = backfill.add_mutually_exclusive_group(required=True)
    end.add_argument(
        "--until",
        type=_time,
        metavar="TIME",
        help="nothing from this time on: RFC 3339, Unix seconds, or now for a TSDB that has never run",
    )
    end.add_argument(
        "--prometheus",
        type=_url,
        metavar="URL",
        help="nothing from where a series begins in this Prometheus on; a password comes from ~/.netrc",
    )
    return backfill


def _health(make: Make) -> argparse.ArgumentParser:
    health = make(help="ask the local process over its health socket; exit code 0 or 1")
    health.add_argument(
        "--web.health-socket",
        dest="health_socket",
        type=Path,
        required=True,
        metavar="PATH",
        help="its socket",
    )
    return health


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
        "--web.external-url",
        dest="external_url",
        type=_url,
        metavar="URL",
        help="how others reach it: what /sd names (default: the Host that is asked)",
    )
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


def _shard(text: str) -> int | str:
    if text != "auto" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0, or auto")
    return text if text == "auto" else int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def _named(text: str) -> tuple[str, str]:
    name, equals, secret = text.partition("=")
    if not (name and equals and secret):
        raise argparse.ArgumentTypeError("expected NAME=SECRET")  # without the text: it may hold a secret
    return name, secret


class _Labels(argparse.Action):
    """Collect labels by name."""

    def __call__(
        self, parser: argparse.ArgumentParser, flags: argparse.Namespace, values: Any, *_: Any
    ) -> None:
        name, value = values
        labels = getattr(flags, self.dest)
        if name in labels:
            parser.error(f"--label {name} is there twice")
        setattr(flags, self.dest, {**labels, name: value})


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (equals and value and LABEL.fullmatch(name)) or name == "site" or not value.isprintable():
        raise argparse.ArgumentTypeError(
            f"{text!r} is not NAME=VALUE with a label of Prometheus' as the name; site is the samples' own"
        )
    return name, value


def _url(text: str) -> str:
    try:
        url = urlsplit(text)
        fine = url.scheme in {"http", "https"} and url.hostname and (url.port or True) and not url.username
    except ValueError:
        fine = False
    if not fine:
        raise argparse.ArgumentTypeError(  # without the text: it may hold a password
            "write http://HOST:PORT, or https, with a path where there is one, and without a password "
            "(--prometheus takes it from ~/.netrc)"
        )
    return text


def _time(text: str) -> float:
    """Return Unix seconds; `now` is without end, since nothing is told of what is not yet."""
    if text == "now":
        return math.inf
    moment = None
    try:
        moment = datetime.fromisoformat(text.upper()) if ":" in text else None
        found = float(text) if moment is None else moment.timestamp()
    except ValueError:
        found = math.nan
    if not 0 <= found < MILLISECONDS or (moment is not None and moment.tzinfo is None):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time: write 2026-01-31T12:00:00Z, Unix seconds, or now"
        )
    return found
