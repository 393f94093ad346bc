"""Scrapes per second.

One site of 1,024 users, with the headers that Prometheus sends, by wrk with one thread and connections kept
open; the exporter polls as always meanwhile. nginx (one worker, sendfile, no access log) serves the very
bytes of the exporter's answer; Pushgateway, prometheus-client's own server and node_exporter's textfile
collector serve the same families; json_exporter fetches the same users on every scrape. The exporter with
passwords (bcrypt, cost 10) gets the right one each time.
"""

from __future__ import annotations

import base64
import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import bcrypt

from bench import peers
from bench.load import SCRAPE, ask, wrk
from bench.peers import Missing, Page, Served
from bench.report import Ratio, Row, Spread, Target

if TYPE_CHECKING:
    from collections.abc import Iterator

USERS = 1024
SERIES = 3 * USERS
SECONDS = 3  # of each round and subject
CONNECTIONS = (1, 8)
USER, PASSWORD = "prometheus", "correct horse battery staple"  # opens nothing but this benchmark
EXPORTER, GUARDED, NGINX = "exporter", "exporter with passwords", "nginx"

# The targets are for several connections: with one, half of what is measured is the load's own waiting.
TARGETS = {
    NGINX: Target(0.55),
    "Pushgateway": Target(100),
    "prometheus-client's server": Target(300),
    "node_exporter's textfile": Target(300),
}
GUARDED_TARGET = Target(0.45)


class Field(NamedTuple):
    """Who takes part, and who cannot."""

    running: dict[str, Served]
    missing: dict[str, str]


def measure(rounds: int) -> list[Row]:
    """Measure all subjects in turn, round by round."""
    program = peers.found("wrk", "wrk")
    with _started() as field:
        rows = []
        for connections in CONNECTIONS:
            rates: dict[str, list[float]] = {name: [] for name in field.running}
            for _ in range(rounds):
                for name, served in field.running.items():
                    headers = {**SCRAPE, **dict(served.headers)}
                    rates[name].append(wrk(program, served.url, SECONDS, connections, headers))
            rows += _rows(connections, rates, field.missing)
    return rows


def _rows(connections: int, rates: dict[str, list[float]], missing: dict[str, str]) -> list[Row]:
    noun = "connection" if connections == 1 else "connections"
    work = f"scrapes, {SERIES:,} user series, gzip, {connections} {noun}"
    judged = connections == CONNECTIONS[-1]
    rows = []
    for name, values in rates.items():
        ratio, target = None, None
        if name == GUARDED and NGINX in rates:
            ratio = Ratio("exporter with passwords ÷ nginx without", Spread.of_ratios(values, rates[NGINX]))
            target = GUARDED_TARGET
        elif name not in {EXPORTER, GUARDED}:
            ratio = Ratio(f"exporter ÷ {name}", Spread.of_ratios(rates[EXPORTER], values))
            target = TARGETS.get(name)
        rows.append(Row(work, name, "scrapes/s", Spread.of(values), ratio, target if judged else None))
    absent = (
        Row(work, name, "scrapes/s", None, target=TARGETS.get(name) if judged else None, note=why)
        for name, why in missing.items()
    )
    return [*rows, *absent]


@contextlib.contextmanager
def _started() -> Iterator[Field]:
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        api = stack.enter_context(peers.simulator(directory, 1, USERS))
        config = peers.write_config(directory, api, 1, {"top_users": {"count": USERS}})
        exporter = peers.settled(stack.enter_context(peers.exporter(directory, config)), SERIES)
        flag, password = _password(directory)
        guarded = stack.enter_context(peers.exporter(directory, config, flag, headers=password))
        field = Field({EXPORTER: exporter, GUARDED: peers.settled(guarded, SERIES)}, {})
        page = Page.of("/metrics", ask(exporter.port, "/metrics"))
        text = peers.families(ask(exporter.port, "/metrics", {}).body)
        others = {
            NGINX: peers.nginx(directory, [page]),
            "Pushgateway": peers.pushgateway(directory, text),
            "prometheus-client's server": peers.prometheus_client(directory, text),
            "node_exporter's textfile": peers.node_exporter(directory, text),
            "json_exporter": peers.json_exporter(directory, api),
        }
        for name, peer in others.items():
            try:
                field.running[name] = stack.enter_context(peer)
            except Missing as missing:
                field.missing[name] = str(missing)
        yield field


def _password(directory: Path) -> tuple[str, dict[str, str]]:
    """Return the flag that asks for a password, and the header that has it."""
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(10)).decode()
    path = directory / "web.yaml"
    path.write_text(f'basic_auth_users: {{{USER}: "{hashed}"}}\n')
    encoded = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    return f"--web.config.file={path}", {"Authorization": f"Basic {encoded}"}
