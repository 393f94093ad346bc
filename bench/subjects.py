"""One site, and everybody who may watch it, side by side: each with a simulated API of its own, all alike."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import quote

from bench import peers
from bench.load import HOST, SCRAPE, ask, cpu_seconds, free_port, until_open
from bench.peers import Missing
from exporter.simulator import Incident, World, app
from exporter.web.listening import address_of, listen
from exporter.web.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

USERS = 128  # as many as are asked for by default
(SITE,) = peers.names(1)
RECIPES = Path(__file__).parent / "recipes"
EXPORTER, SCRIPT, CRON, JSON_EXPORTER = "exporter", "script", "cron and textfile collector", "json_exporter"
HEADERS = {**SCRAPE, "Accept": "text/plain;version=0.0.4"}  # what prometheus-client's parser reads
MODULES = {"payout": "/stats/payout", "history": "/stats/history", "users": "/user/top"}
APART = 0.25  # seconds
ENDING = 10.0  # seconds for a thread


class Api(NamedTuple):
    """A simulated API, and the log of what was asked of it."""

    port: int
    world: World

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{HOST}:{self.port}"

    def calls(self, begin: float, end: float) -> int:
        """Return how many requests came between two Unix times."""
        return sum(begin <= request.time < end for request in list(self.world.requests))

    def suffer(self, *incidents: Incident) -> None:
        """Let these happen from now on, and no others."""
        self.world.sites[SITE].incidents[:] = incidents


class Scrape(NamedTuple):
    """What a scrape got, and how long that took; of several targets, the worst and the slowest."""

    status: int
    seconds: float
    body: bytes


class Subject(NamedTuple):
    """Somebody who watches the site.

    `pid` is the daemon's; `cpu` tells the seconds that all processes of the subject have taken so far.
    """

    port: int
    pid: int
    api: Api
    cpu: Callable[[], float]
    paths: tuple[str, ...] = ("/metrics",)

    def scrape(self) -> Scrape:
        """Ask for each page, on connections of their own, as Prometheus asks."""
        scrapes = [self._scrape(path) for path in self.paths]
        body = b"".join(each.body for each in scrapes)
        return Scrape(max(each.status for each in scrapes), max(each.seconds for each in scrapes), body)

    def _scrape(self, path: str) -> Scrape:
        begin = time.perf_counter()
        answer = ask(self.port, path, HEADERS)
        return Scrape(answer.status, time.perf_counter() - begin, peers.plain(answer.body))


class Field(NamedTuple):
    """Who takes part, and who cannot, and why."""

    running: dict[str, Subject]
    missing: dict[str, str]

    def at_once(self, work: Callable[[Subject], T]) -> dict[str, T]:
        """Do a work with all subjects at the same time; return what came of it, by subject.

        Each begins APART seconds after the one before: else one would wait for another's processor.
        """

        def late(number: int, subject: Subject) -> T:
            time.sleep(APART * number)
            return work(subject)

        with ThreadPoolExecutor(len(self.running)) as pool:
            done = pool.map(late, range(len(self.running)), self.running.values())
            return dict(zip(self.running, done, strict=True))

    def suffer(self, kind: str = "", *, delay: float = 0.0) -> None:
        """Let the same thing happen to every API from now on, nothing where `kind` is empty."""
        incidents = [Incident(kind, time.time(), float("inf"), delay=delay)] if kind else []
        for subject in self.running.values():
            subject.api.suffer(*incidents)


class Cron:
    """Starts a job once a minute, and counts the CPU seconds of its runs, their children's included."""

    def __init__(self, command: tuple[str, ...], environ: dict[str, str], log: Path, minute: float) -> None:
        self.cpu = 0.0
        self._command, self._environ, self._log, self._minute = command, environ, log, minute
        self._ended = threading.Event()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Start it now and then each minute, one run at a time; the last run is waited for."""
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _run(self) -> None:
        due = time.monotonic()
        with self._log.open("wb") as log:
            while not self._ended.wait(max(0.0, due - time.monotonic())):
                process = subprocess.Popen(self._command, env=self._environ, stdout=log, stderr=log)
                _, status, usage = os.wait4(process.pid, 0)  # of the run alone, which Popen does not tell
                process.returncode = os.waitstatus_to_exitcode(status)
                self.cpu += usage.ru_utime + usage.ru_stime
                due = max(due + self._minute, time.monotonic())


@contextlib.contextmanager
def started(minute: float) -> Iterator[Field]:
    """Start all subjects, for whom a minute lasts so many seconds."""
    starts = {EXPORTER: _exporter, SCRIPT: _script, CRON: _cron, JSON_EXPORTER: _json_exporter}
    with contextlib.ExitStack() as stack:
        field = Field({}, {})
        for name, start in starts.items():
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            (directory / "secret").write_text(peers.secret(SITE))
            try:
                field.running[name] = stack.enter_context(
                    start(directory, stack.enter_context(_api()), minute)
                )
            except Missing as missing:
                field.missing[name] = str(missing)
        yield field


@contextlib.contextmanager
def _api() -> Iterator[Api]:
    world = World()
    world.add(SITE, peers.secret(SITE), users=USERS)
    (listening,) = listen([f"{HOST}:0"])
    server = Server(app(world))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    thread.start()
    try:
        yield Api(int(address_of(listening).rpartition(":")[2]), world)
    finally:
        server.stop()
        thread.join(ENDING)
        listening.close()


@contextlib.contextmanager
def _exporter(directory: Path, api: Api, minute: float) -> Iterator[Subject]:
    once, five = (f"{1000 * minutes * minute:.0f}ms" for minutes in (1, 5))
    intervals = {"payout": {"interval": once}, "history": {"interval": five}, "top_users": {"interval": once}}
    config = peers.write_config(directory, api.port, 1, intervals)
    with peers.exporter(directory, config) as served:
        yield Subject(served.port, served.pid, api, lambda: cpu_seconds(served.pid))


@contextlib.contextmanager
def _script(directory: Path, api: Api, _minute: float) -> Iterator[Subject]:
    port = free_port()
    command = ("env", *_environ(directory, api), sys.executable, str(RECIPES / "script.py"), str(port))
    with peers.started(directory, *command) as process:
        until_open(port)
        yield Subject(port, process.pid, api, lambda: cpu_seconds(process.pid))


@contextlib.contextmanager
def _cron(directory: Path, api: Api, minute: float) -> Iterator[Subject]:
    for program in ("curl", "jq"):
        peers.found(program, program)
    home = directory / "textfile"
    home.mkdir()
    environ = dict(pair.split("=", 1) for pair in _environ(directory, api)) | {
        "TEXTFILE_DIRECTORY": str(home)
    }
    cron = Cron((str(RECIPES / "cron.sh"),), {**os.environ, **environ}, directory / "cron.log", minute)
    with peers.textfile_collector(directory, home) as served, cron.running():
        yield Subject(served.port, served.pid, api, lambda: cron.cpu + cpu_seconds(served.pid))


@contextlib.contextmanager
def _json_exporter(directory: Path, api: Api, _minute: float) -> Iterator[Subject]:
    targets = {
        module: quote(f"{api.url}{path}?secret={peers.secret(SITE)}", safe="")
        for module, path in MODULES.items()
    }
    paths = tuple(f"/probe?module={module}&target={target}" for module, target in targets.items())
    with peers.json_exporter_with(directory, RECIPES / "json_exporter.yml") as served:
        yield Subject(served.port, served.pid, api, lambda: cpu_seconds(served.pid), paths)


def _environ(directory: Path, api: Api) -> tuple[str, ...]:
    """Return what the recipes are told, as `NAME=VALUE`."""
    return f"CRYPTOLOOT_API={api.url}", f"CRYPTOLOOT_SECRET_FILE={directory / 'secret'}"
