"""One site and three ways to watch it, side by side, each with its own simulated API and the same data."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import threading
import time
from os import sysconf
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import uvicorn

from bench import programs
from bench.load import HOST, SCRAPE, ask, cpu_seconds, free_port, until_open
from exporter.simulator import Incident, World, app

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

USERS = 128  # the default `count`
(SITE,) = programs.site_names(1)
RECIPES = Path(__file__).parent / "recipes"
EXPORTER, SCRIPT, CRON = "exporter", "script", "cron and textfile collector"
HEADERS = {**SCRAPE, "Accept": "text/plain;version=0.0.4", "Accept-Encoding": "identity"}
CROND = 'while :; do "$0" & sleep "$1"; wait; done'  # in place of cron, whose minutes cannot be shortened


class Api(NamedTuple):
    """A simulated API, with the log of its requests."""

    port: int
    world: World

    def calls(self, begin: float, end: float) -> int:
        """Return how many requests came between two Unix times."""
        return sum(begin <= request.time < end for request in list(self.world.requests))


class Scrape(NamedTuple):
    """What a scrape got, and how long it took."""

    status: int
    seconds: float
    body: bytes


class Subject(NamedTuple):
    """One way to watch the site: its daemon, and the CPU seconds of all its processes so far."""

    port: int
    pid: int
    api: Api
    cpu: Callable[[], float]

    def scrape(self) -> Scrape:
        """Scrape on a new connection."""
        begin = time.perf_counter()
        answer = ask(self.port, "/metrics", HEADERS)
        return Scrape(answer.status, time.perf_counter() - begin, answer.body)

    def suffer(self, kind: str = "", *, delay: float = 0.0) -> None:
        """Let the API have this incident from now on, none if `kind` is empty."""
        incidents = [Incident(kind, time.time(), float("inf"), delay=delay)] if kind else []
        self.api.world.sites[SITE].incidents[:] = incidents


@contextlib.contextmanager
def started(minute: float) -> Iterator[dict[str, Subject]]:
    """Start all subjects; a minute of theirs lasts so many seconds."""
    with contextlib.ExitStack() as stack:
        subjects = {}
        for name, start in {EXPORTER: _exporter, SCRIPT: _script, CRON: _cron}.items():
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            (directory / "secret").write_text(programs.secret(SITE))
            api = stack.enter_context(_api())
            subjects[name] = stack.enter_context(start(directory, api, minute))
        yield subjects


@contextlib.contextmanager
def _api() -> Iterator[Api]:
    world, port = World(), free_port()
    world.add(SITE, programs.secret(SITE), users=USERS)
    server = uvicorn.Server(uvicorn.Config(app(world), HOST, port, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until_open(port)
        yield Api(port, world)
    finally:
        server.should_exit = True
        thread.join()


@contextlib.contextmanager
def _exporter(directory: Path, api: Api, minute: float) -> Iterator[Subject]:
    intervals = {"payout": 1, "history": 5, "top_users": 1}
    poll = {name: {"interval": f"{1000 * minutes * minute:.0f}ms"} for name, minutes in intervals.items()}
    config = programs.write_config(directory / "config.yaml", api.port, 1, poll)
    with programs.exporter(directory, config) as served:
        yield Subject(served.port, served.pid, api, lambda: cpu_seconds(served.pid))


@contextlib.contextmanager
def _script(directory: Path, api: Api, _minute: float) -> Iterator[Subject]:
    port = free_port()
    command = (sys.executable, str(RECIPES / "script.py"), str(port))
    with programs.started(directory, *command, variables=_variables(directory, api)) as process:
        until_open(port)
        yield Subject(port, process.pid, api, lambda: cpu_seconds(process.pid))


@contextlib.contextmanager
def _cron(directory: Path, api: Api, minute: float) -> Iterator[Subject]:
    for program in ("curl", "jq"):
        programs.path_of(program)
    variables = {**_variables(directory, api), "TEXTFILE_DIRECTORY": str(directory)}
    command = ("/bin/sh", "-c", CROND, str(RECIPES / "cron.sh"), f"{minute:g}")
    with (
        programs.textfile_collector(directory) as served,
        programs.started(directory, *command, variables=variables) as cron,
    ):
        yield Subject(
            served.port, served.pid, api, lambda: cpu_seconds(served.pid) + _children_cpu_seconds(cron.pid)
        )


def _children_cpu_seconds(pid: int) -> float:
    """Return the CPU time of all children of a process that have ended, and of theirs."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[13]) + int(fields[14])) / sysconf("SC_CLK_TCK")


def _variables(directory: Path, api: Api) -> dict[str, str]:
    return {
        "CRYPTOLOOT_API": f"http://{HOST}:{api.port}",
        "CRYPTOLOOT_SECRET_FILE": str(directory / "secret"),
    }
