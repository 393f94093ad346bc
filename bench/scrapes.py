"""Scrapes.

One site of 1,024 users, scraped with the header of Prometheus, gzip included. The bare uvicorn (httptools,
uvloop) sends the very bytes and header fields of the exporter's answer from an ASGI app of two lines. nginx
(one process, sendfile, no access log) sends the same bytes from a file. Pushgateway and prometheus-client's
own server have the same families. The exporter with passwords (bcrypt, cost 10) gets the right password each
time.

Two loads: wrk with one thread and 8 open connections, which asks as fast as answers come, and one scrape
every 1.2 s on one open connection, which is what a dozen Prometheus servers together do. CPU is that of the
whole process divided by its scrapes. In the second load, the CPU of as long a time without scrapes is
subtracted first. The exporter's own metrics change each second, so that each of these scrapes includes
rendering them and compressing the page. This is the CPU that an operator pays, so the target is for it.
Polls are an hour apart here; the group `One poll` has what a poll takes.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import bcrypt

from bench import programs
from bench.load import HOST, PATIENCE, SCRAPE, BadLoad, cpu_seconds, wrk
from bench.report import Ratio, Row, Spread, Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from bench.programs import Served
    from bench.report import Effort

    Figures = dict[str, list[float]]  # one a round, by subject

USERS = 1024
SERIES = 3 * USERS
SECONDS, CONNECTIONS = 3.0, 8  # of wrk, each round and subject
SLOW_SECONDS = 8.0  # of the second load, and as long without, each round
INTERVAL = 1.2  # seconds between its scrapes: longer than the exporter's own metrics stay as they are
POLL = {
    "payout": {"interval": "1h"},
    "history": {"interval": "1h"},
    "top_users": {"interval": "1h", "count": USERS},
}
USER, PASSWORD = "prometheus", "correct horse battery staple"  # for this benchmark alone
SETTLING = 1.0  # seconds after wrk, whose last requests may still be worked on
MILLISECONDS = 1000
EXPORTER, GUARDED = "exporter", "exporter with passwords"
PEERS: dict[str, tuple[Callable[[Path, int], AbstractContextManager[Served]], Target | None]] = {
    "bare uvicorn": (partial(programs.python_peer, "uvicorn"), Target(0.75)),
    "nginx": (programs.nginx, None),
    "Pushgateway": (programs.pushgateway, Target(20)),
    "prometheus-client's server": (partial(programs.python_peer, "prometheus-client"), Target(20)),
}
CPU = Target(1, at_most=True)  # ms


def measure(effort: Effort) -> list[Row]:
    """Measure all subjects in turn, round by round, under both loads."""
    program = programs.path_of("wrk")
    with _started() as subjects:
        rates: Figures = {name: [] for name in subjects}
        fast: Figures = {name: [] for name in subjects}
        slow: Figures = {name: [] for name in subjects}
        for _ in range(effort.rounds):
            for name, served in subjects.items():
                url, before = f"http://{HOST}:{served.port}/metrics", cpu_seconds(served.pid)
                headers = {**SCRAPE, **served.headers}
                load = wrk(program, url, effort.seconds(SECONDS), CONNECTIONS, headers)
                rates[name].append(load.per_second)
                fast[name].append((cpu_seconds(served.pid) - before) / load.requests)
            for name, cost in _slow_load(subjects, round(effort.seconds(SLOW_SECONDS) / INTERVAL)).items():
                slow[name].append(cost)
    work = f"{SERIES:,} user series, gzip"
    return [
        *_rate_rows(f"scrapes, {work}, {CONNECTIONS} connections", rates),
        *_cpu_rows(f"CPU of a scrape, {work}, {CONNECTIONS} connections", fast),
        *_cpu_rows(f"CPU of a scrape, {work}, every {INTERVAL} s", slow, CPU),
    ]


@contextlib.contextmanager
def _started() -> Iterator[dict[str, Served]]:
    with contextlib.ExitStack() as stack:

        def directory() -> Path:
            return Path(stack.enter_context(tempfile.TemporaryDirectory()))

        home = directory()
        api = stack.enter_context(programs.simulator(home, 1, USERS))
        config = programs.write_config(home / "config.yaml", api, 1, POLL)
        exporter = programs.until_users(stack.enter_context(programs.exporter(home, config)), SERIES)
        hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(10)).decode()
        (home / "web.yaml").write_text(f'basic_auth_users: {{{USER}: "{hashed}"}}\n')
        flag = f"--web.config.file={home / 'web.yaml'}"
        password = {"Authorization": f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"}
        guarded = stack.enter_context(programs.exporter(home, config, flag))._replace(headers=password)
        subjects = {EXPORTER: exporter, GUARDED: programs.until_users(guarded, SERIES)}
        for name, (peer, _) in PEERS.items():
            subjects[name] = stack.enter_context(peer(directory(), exporter.port))
        yield subjects


def _slow_load(subjects: dict[str, Served], scrapes: int) -> dict[str, float]:
    """Return the CPU seconds of one scrape by subject, without what the subject does anyway."""
    time.sleep(SETTLING)
    start = {name: cpu_seconds(served.pid) for name, served in subjects.items()}
    time.sleep(scrapes * INTERVAL)
    idle = {name: cpu_seconds(served.pid) for name, served in subjects.items()}
    with contextlib.ExitStack() as stack:
        connections = {
            name: stack.enter_context(
                contextlib.closing(http.client.HTTPConnection(HOST, served.port, timeout=PATIENCE))
            )
            for name, served in subjects.items()
        }
        begin = time.monotonic()
        for number in range(scrapes * len(subjects)):
            time.sleep(max(0.0, begin + number * INTERVAL / len(subjects) - time.monotonic()))
            name = list(subjects)[number % len(subjects)]
            connections[name].request("GET", "/metrics", headers={**SCRAPE, **subjects[name].headers})
            answer = connections[name].getresponse()
            answer.read()
            if answer.status != programs.OK:
                raise BadLoad(f"{name} answered {answer.status}")
        time.sleep(max(0.0, begin + scrapes * INTERVAL - time.monotonic()))
    end = {name: cpu_seconds(served.pid) for name, served in subjects.items()}
    return {name: (end[name] - idle[name] - (idle[name] - start[name])) / scrapes for name in subjects}


def _rate_rows(work: str, rates: Figures) -> list[Row]:
    rows = [Row(work, EXPORTER, "scrapes/s", Spread.of(rates[EXPORTER]))]
    cost = Ratio("exporter with passwords ÷ without", Spread.of_ratios(rates[GUARDED], rates[EXPORTER]))
    rows.append(Row(work, GUARDED, "scrapes/s", Spread.of(rates[GUARDED]), cost))
    for name, (_, target) in PEERS.items():
        ratio = Ratio(f"exporter ÷ {name}", Spread.of_ratios(rates[EXPORTER], rates[name]))
        rows.append(Row(work, name, "scrapes/s", Spread.of(rates[name]), ratio, target))
    return rows


def _cpu_rows(work: str, costs: Figures, target: Target | None = None) -> list[Row]:
    return [
        Row(
            work,
            name,
            "ms of CPU",
            Spread.of(MILLISECONDS * cost for cost in values),
            target=target if name == EXPORTER else None,
        )
        for name, values in costs.items()
    ]
