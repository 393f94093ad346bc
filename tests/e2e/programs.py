"""Programs as processes: started in a directory of their own, asked over HTTP, ended whatever happens."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from socketserver import BaseServer
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import exporter
from exporter import simulator
from exporter.collectors.registry import SITE_METRICS
from exporter.simulator import World
from exporter.web.listening import address_of, listen
from exporter.web.server import Server
from tests.conftest import required

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

T = TypeVar("T")
S = TypeVar("S", bound=BaseServer)

DEADLINE = 10.0  # seconds that anything may take before its test fails
SOON = 2.0  # seconds the contract gives a process to end, and the demo to come alive
# Absent until a total moves, which in a minute it may not.
LATER = "cryptoloot_user_totals_change_timestamp_seconds"
# Only with poll.all_users, and with watch_users.
OPTIONAL = {
    metric.name
    for metric in SITE_METRICS
    if metric.name.startswith(("cryptoloot_all_users", "cryptoloot_watched_user"))
}
FAMILIES = {metric.name for metric in SITE_METRICS} - {LATER} - OPTIONAL
PACKAGES = str(Path(exporter.__file__).parent.parent)  # the checkout, or where the wheel was installed


class Answer(NamedTuple):
    """What came over HTTP."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


class Program(NamedTuple):
    """A process of ours, and the files it writes to."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    def said(self) -> str:
        return self.out.read_text()

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.err.read_text().splitlines()]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [entry for entry in self.log() if entry["event"] == name]

    def end(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, bool]:
        """Send the signal; return the exit code, and whether it came as soon as it should."""
        begin = time.monotonic()
        self.process.send_signal(how)
        return self.process.wait(DEADLINE), time.monotonic() - begin <= SOON


@contextlib.contextmanager
def started(
    directory: Path, *command: str, environ: Mapping[str, str] | None = None, **options: Any
) -> Iterator[Program]:
    """Run a command in this directory; it is ended at the end, whatever happened."""
    number = len(list(directory.glob("*.out")))
    out, err = directory / f"{number}.out", directory / f"{number}.err"
    coverage = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE")}
    known = {"PATH": os.environ["PATH"], "PYTHONPATH": PACKAGES, "LC_ALL": "C.UTF-8", **coverage}
    with out.open("wb") as stdout, err.open("wb") as stderr:
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": stdout, "stderr": stderr, **options}
        process = subprocess.Popen(command, cwd=directory, env=known | {**(environ or {})}, **streams)
    try:
        yield Program(process, out, err)
    finally:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(DEADLINE)
        process.kill()  # of no effect where it has ended
        process.wait()


def exporting(
    directory: Path, *arguments: str, environ: Mapping[str, str] | None = None, **options: Any
) -> contextlib.AbstractContextManager[Program]:
    command = (sys.executable, "-m", "exporter", *arguments)
    return started(directory, *command, environ=environ, **options)


@contextlib.contextmanager
def answering(server: S) -> Iterator[S]:
    """Let a server of this process answer from a thread."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class Simulated(NamedTuple):
    """A simulator in this process."""

    world: World
    port: int


@contextlib.contextmanager
def simulated(*sites: str) -> Iterator[Simulated]:
    """Serve a world of these sites."""
    world = World(clock=time.time)
    for site in sites:
        world.add(site, f"secret-of-{site}", users=20)
    with serving(world) as api:
        yield api


@contextlib.contextmanager
def serving(world: World) -> Iterator[Simulated]:
    """Serve a simulated API from a thread of this process, so that its log of requests can be read."""
    (listening,) = listen(["127.0.0.1:0"])
    server = Server(simulator.app(world))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    thread.start()
    try:
        yield Simulated(world, int(address_of(listening).rpartition(":")[2]))
    finally:
        server.stop()
        thread.join(DEADLINE)
        listening.close()


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def until(reached: Callable[[], T], seconds: float = DEADLINE) -> T:
    """Ask again and again; return the first answer that is true, or the last one when time is up."""
    end = time.monotonic() + seconds
    while not (answer := reached()) and time.monotonic() < end:
        time.sleep(0.01)
    return answer


def ask(port: int, path: str, method: str = "GET", **headers: str) -> Answer:
    """Send one request; without a listener the status is 0."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())  # type: ignore[arg-type]  # it maps
    except ConnectionError:
        return Answer(0, {}, b"")
    finally:
        connection.close()


def samples(port: int) -> dict[str, float]:
    """Return the samples of /metrics by series, as text; none without a listener."""
    lines = ask(port, "/metrics").text.split("\n")[:-1]
    return {
        series: float(value)
        for series, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")
    }


def alive(port: int, *sites: str) -> bool:
    """Whether each family with values is there for each of the sites."""
    page = samples(port)
    there = {
        (series.partition("{")[0], site) for series in page for site in sites if f'site="{site}"' in series
    }
    return {(family, site) for family in FAMILIES for site in sites} <= there


def ready(port: int) -> bool:
    return ask(port, "/-/ready").status == 200


def write_config(directory: Path, api: int, *sites: Mapping[str, Any], **sections: Any) -> None:
    document = {"api": {"url": f"http://127.0.0.1:{api}"}, "sites": sites, **sections}
    (directory / "config.yaml").write_text(json.dumps(document, ensure_ascii=False))


def inline(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "secret": f"secret-of-{name}"} for name in names]


@contextlib.contextmanager
def simulating(directory: Path, *arguments: str) -> Iterator[int]:
    """Run the API simulator; yield its port once it answers."""
    port = free_port()
    with exporting(directory, "simulate", f"--web.listen-address=127.0.0.1:{port}", *arguments):
        assert until(lambda: ask(port, "/stats/payout").status == 200), "the simulator does not answer"
        yield port


@contextlib.contextmanager
def running(directory: Path, *arguments: str, **options: Any) -> Iterator[tuple[Program, int]]:
    """Run the daemon on the directory's config.yaml; yield it and its port once it is ready."""
    port = free_port()
    with exporting(
        directory, "run", f"--web.listen-address=127.0.0.1:{port}", *arguments, **options
    ) as program:
        assert until(lambda: ready(port)), program.err.read_text()
        yield program, port


@contextlib.contextmanager
def prometheus(directory: Path, document: Mapping[str, Any], *flags: str) -> Iterator[tuple[Program, int]]:
    """Run Prometheus on a configuration, in which ITSELF is its address; yield it and its port when ready."""
    config, port = directory / "prometheus.yml", free_port()
    config.write_text(json.dumps(document).replace("ITSELF", f"127.0.0.1:{port}"))
    known = (f"--config.file={config}", f"--storage.tsdb.path={directory / 'data'}")
    address = f"--web.listen-address=127.0.0.1:{port}"
    with started(directory, required("prometheus"), *known, address, *flags) as program:
        assert until(lambda: ready(port), 2 * DEADLINE), program.err.read_text()
        yield program, port


def basic(user: str, password: str) -> str:
    """Return the value of an Authorization header."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def replaced(path: Path, content: str) -> None:
    """Put a new file in the place of another, in one step, for its owner alone."""
    new = path.with_name(f"{path.name}.new")
    new.touch(mode=0o600)
    new.write_text(content)
    new.replace(path)


def certify(directory: Path, name: str, ca: str = "", san: str = "IP:127.0.0.1") -> None:
    """Make NAME.crt and NAME.key, by the authority of this name or by its own."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")
    leaf = ("-CA", f"{ca}.crt", "-CAkey", f"{ca}.key", "-addext", "basicConstraints=critical,CA:FALSE")
    naming = ("-subj", f"/CN={name}", "-addext", f"subjectAltName={san}", *(leaf if ca else ()))
    files = ("-keyout", f"{name}.key", "-out", f"{name}.crt")
    command = (required("openssl"), "req", "-x509", "-days", "2", *key, *naming, *files)
    subprocess.run(command, cwd=directory, check=True, capture_output=True, timeout=60)


def trusting(directory: Path, ca: str = "ca", cert: str = "") -> ssl.SSLContext:
    """Return a client that trusts the authority, with a certificate of its own where one is named."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(directory / f"{ca}.crt")
    if cert:
        client.load_cert_chain(directory / f"{cert}.crt", directory / f"{cert}.key")
    return client


def connected(port: int, client: ssl.SSLContext | None = None) -> http.client.HTTPConnection:
    """Return a connection that is opened with its first request; the caller closes it."""
    if client is None:
        return http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    return http.client.HTTPSConnection("127.0.0.1", port, timeout=DEADLINE, context=client)


def asked(connection: http.client.HTTPConnection, path: str, method: str = "GET", **headers: str) -> Answer:
    """Send one request on a connection. Raises OSError where it is refused."""
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return Answer(answer.status, answer.headers, answer.read())  # type: ignore[arg-type]  # it maps
