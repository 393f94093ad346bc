"""The exporter, the simulated API and the peers: started on free loopback ports, ended whatever happens."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.load import HOST, Answer, ask, free_port, until_open

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

REPOSITORY = Path(__file__).resolve().parent.parent
SYSTEM_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"  # Debian's nginx is not for everyone
GRACE = 10.0  # seconds to end in
SETTLING = 120.0  # seconds for the first polls of everything
OURS = "cryptoloot_"
GZIP = b"\x1f\x8b"  # what its members begin with

JSON_EXPORTER = "github.com/prometheus-community/json_exporter@v0.7.0"
JSON_EXPORTER_HOME = Path(sys.prefix) / "bench"
GO_PATIENCE = 180.0  # seconds for fetching and compiling


class Missing(Exception):
    """A peer that is not on this machine; the text says which, and why."""


class Served(NamedTuple):
    """A running program's page."""

    port: int
    pid: int
    path: str = "/metrics"
    headers: tuple[tuple[str, str], ...] = ()  # beside those of every scrape

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.port}{self.path}"


class Page(NamedTuple):
    """A page as the exporter served it."""

    path: str
    type: str
    encoding: str
    body: bytes

    @classmethod
    def of(cls, path: str, answer: Answer) -> Page:
        """Keep an answer under a path."""
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return cls(path, headers["content-type"], headers.get("content-encoding", ""), answer.body)


def found(program: str, package: str) -> str:
    """Return where a program is. Raises Missing, with the package that has it."""
    path = shutil.which(program, path=SYSTEM_PATH)
    if path is None:
        raise Missing(f"{program} is missing: Debian's {package} has it (make bench-tools)")
    return path


@contextlib.contextmanager
def started(directory: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in this directory, what it says in a file there; it is ended at the end."""
    said = directory / f"{Path(command[0]).name}-{free_port()}.log"
    with said.open("wb") as log:
        process = subprocess.Popen(
            command, cwd=directory, env=environ(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield process
    except TimeoutError as error:
        raise RuntimeError(f"{error}; {command[0]} said: {said.read_text()[-2000:]}") from error
    finally:
        ended(process)


def environ() -> dict[str, str]:
    """Return the environment of all subjects: where Python keeps what it compiled, as installed it does."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": str(REPOSITORY)}


def ended(process: subprocess.Popen[bytes]) -> None:
    """End a process, whatever it takes."""
    process.terminate()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def names(count: int) -> list[str]:
    """Return the names of this many sites."""
    return [f"site-{number:04}" for number in range(count)]


@contextlib.contextmanager
def simulator(directory: Path, sites: int, users: int) -> Iterator[int]:
    """Run the simulated API; yield its port."""
    port = free_port()
    accounts = [f"--sites={name}={secret(name)}" for name in names(sites)]
    flags = (f"--web.listen-address={HOST}:{port}", f"--users={users}", *accounts)
    with started(directory, sys.executable, "-m", "exporter", "simulate", *flags):
        until_open(port)
        yield port


def secret(site: str) -> str:
    """Return the secret of a simulated site."""
    return f"secret-of-{site}"


def write_config(directory: Path, api: int, sites: int, poll: Mapping[str, object]) -> Path:
    """Write a config for the simulated API's sites; JSON is YAML."""
    accounts = [{"name": name, "secret": secret(name)} for name in names(sites)]
    document = {"api": {"url": f"http://{HOST}:{api}"}, "sites": accounts, "poll": poll}
    path = directory / f"config-{free_port()}.yaml"
    path.write_text(json.dumps(document))
    return path


def exporter_command(config: Path, port: int, *flags: str) -> tuple[str, ...]:
    """Return the command line of the daemon."""
    where = (f"--config.file={config}", f"--web.listen-address={HOST}:{port}")
    return (sys.executable, "-m", "exporter", "run", *where, *flags)


@contextlib.contextmanager
def exporter(
    directory: Path, config: Path, *flags: str, headers: Mapping[str, str] | None = None
) -> Iterator[Served]:
    """Run the exporter; yield it once it listens."""
    port = free_port()
    with started(directory, *exporter_command(config, port, *flags)) as process:
        until_open(port)
        yield Served(port, process.pid, headers=tuple((headers or {}).items()))


def settled(served: Served, user_series: int) -> Served:
    """Wait until the exporter's page has as many series of users."""
    end = time.monotonic() + SETTLING
    while (page := ask(served.port, served.path, dict(served.headers))).body.count(b'user="') != user_series:
        if time.monotonic() > end:
            raise TimeoutError(f"no {user_series} user series; status {page.status}")
        time.sleep(0.5)
    return served


@contextlib.contextmanager
def nginx(directory: Path, pages: Sequence[Page]) -> Iterator[Served]:
    """Run nginx with one worker and these pages as static files."""
    program = found("nginx", "nginx-light")
    home, port = directory / f"nginx-{free_port()}", free_port()
    home.mkdir()
    locations = "".join(_location(home, number, page) for number, page in enumerate(pages))
    (home / "nginx.conf").write_text(NGINX % (_spare_paths(program), port, locations))
    with started(home, program, "-p", f"{home}/", "-e", "stderr", "-c", "nginx.conf") as process:
        until_open(port)
        yield Served(port, process.pid, pages[0].path)


def _location(home: Path, number: int, page: Page) -> str:
    (home / f"{number}.page").write_bytes(page.body)
    encoding = f"add_header Content-Encoding {page.encoding};" if page.encoding else ""
    alias = f'alias {home}/{number}.page; types {{}} default_type "{page.type}";'
    return f"location = {page.path} {{ {alias} {encoding} }}\n"


def _spare_paths(program: str) -> str:
    """Return directives that keep nginx out of the system's directories, where it was built with them."""
    built = subprocess.run([program, "-V"], capture_output=True, text=True, check=True).stderr
    kinds = (
        kind for kind in ("proxy", "fastcgi", "uwsgi", "scgi") if f"--without-http_{kind}_module" not in built
    )
    return " ".join(f"{kind}_temp_path {kind};" for kind in kinds)


# As root the worker would be www-data, who may not enter our directory.
NGINX = f"""\
daemon off;
{"user root;" if os.geteuid() == 0 else ""}
worker_processes 1;
pid nginx.pid;
events {{}}
http {{
  sendfile on;
  tcp_nopush on;
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path body;
  %s
  server {{
    listen {HOST}:%d;
    %s
  }}
}}
"""


def plain(body: bytes) -> bytes:
    """Return a body that may have come compressed by gzip."""
    return gzip.decompress(body) if body.startswith(GZIP) else body


def families(page: bytes) -> str:
    """Return the families of a text page without those that every exporter adds by itself."""
    ours = (OURS, f"# HELP {OURS}", f"# TYPE {OURS}")
    return "".join(f"{line}\n" for line in page.decode().split("\n") if line.startswith(ours))


@contextlib.contextmanager
def pushgateway(directory: Path, text: str) -> Iterator[Served]:
    """Run the Pushgateway with these families pushed to it."""
    port = free_port()
    program = found("prometheus-pushgateway", "prometheus-pushgateway")
    with started(directory, program, f"--web.listen-address={HOST}:{port}") as process:
        until_open(port)
        answer = ask(port, "/metrics/job/bench", {}, "PUT", text.encode())
        if answer.status != 200:  # noqa: PLR2004 - HTTP's OK
            raise RuntimeError(f"the Pushgateway refuses the page: {answer.body.decode()[:500]}")
        yield Served(port, process.pid)


@contextlib.contextmanager
def node_exporter(directory: Path, text: str) -> Iterator[Served]:
    """Run node_exporter with its textfile collector alone, and these families in a file."""
    home = directory / "textfile"
    home.mkdir()
    (home / "page.prom").write_text(text)
    with textfile_collector(directory, home) as served:
        yield served


@contextlib.contextmanager
def textfile_collector(directory: Path, home: Path) -> Iterator[Served]:
    """Run node_exporter with its textfile collector alone, on the files of `home`."""
    port = free_port()
    program = found("prometheus-node-exporter", "prometheus-node-exporter")
    collector = (
        "--collector.disable-defaults",
        "--collector.textfile",
        f"--collector.textfile.directory={home}",
    )
    flags = (f"--web.listen-address={HOST}:{port}", "--web.disable-exporter-metrics", *collector)
    with started(directory, program, *flags) as process:
        until_open(port)
        yield Served(port, process.pid)


@contextlib.contextmanager
def prometheus_client(directory: Path, text: str) -> Iterator[Served]:
    """Run prometheus-client's own server with a collector of these families."""
    port = free_port()
    page = directory / "collected.prom"
    page.write_text(text)
    with started(directory, sys.executable, "-m", "bench.collector", str(port), str(page)) as process:
        until_open(port)
        yield Served(port, process.pid)


@contextlib.contextmanager
def json_exporter(directory: Path, api: int) -> Iterator[Served]:
    """Run json_exporter, which asks the simulated API for the same users on every scrape."""
    config = directory / "json_exporter.yaml"
    config.write_text(json.dumps(JSON_EXPORTER_CONFIG))
    with json_exporter_with(directory, config) as served:
        target = f"http://{HOST}:{api}/user/top%3Fsecret={secret(names(1)[0])}%26count=1024"
        yield served._replace(path=f"/probe?module=default&target={target}")


@contextlib.contextmanager
def json_exporter_with(directory: Path, config: Path) -> Iterator[Served]:
    """Run json_exporter with a config. Raises Missing."""
    program = _json_exporter()
    port = free_port()
    flags = (f"--config.file={config}", f"--web.listen-address={HOST}:{port}")
    with started(directory, program, *flags) as process:
        until_open(port)
        yield Served(port, process.pid)


JSON_EXPORTER_CONFIG = {
    "modules": {
        "default": {
            "metrics": [
                {
                    "name": "cryptoloot_user",
                    "help": "A user of /user/top.",
                    "type": "object",
                    "path": "{ .users[*] }",
                    "labels": {"site": names(1)[0], "user": "{ .name }"},
                    "values": {
                        "hashes_total": "{ .total }",
                        "withdrawn_coins_total": "{ .withdrawn }",
                        "balance_coins": "{ .balance }",
                    },
                }
            ]
        }
    }
}


def _json_exporter() -> str:
    """Return where json_exporter is, building it where Go is. Raises Missing."""
    program = JSON_EXPORTER_HOME / "json_exporter"
    known = shutil.which("json_exporter") or (str(program) if program.exists() else None)
    if known:
        return known
    go = shutil.which("go")
    if go is None:
        raise Missing("json_exporter is missing: Debian has none, and there is no Go to build it")
    try:
        subprocess.run(
            [go, "install", JSON_EXPORTER],
            env={**os.environ, "GOBIN": str(JSON_EXPORTER_HOME)},
            capture_output=True,
            text=True,
            timeout=GO_PATIENCE,
            check=True,
        )
    except subprocess.TimeoutExpired:
        raise Missing(f"json_exporter is missing: go install took over {GO_PATIENCE:.0f} s") from None
    except subprocess.CalledProcessError as error:
        raise Missing(f"json_exporter is missing: {_reason(error.stderr)}") from None
    return str(program)


def _reason(said: str) -> str:
    """Return why Go did not, from the end of the first line that is no progress."""
    lines = (line for line in said.splitlines() if not line.startswith("go: downloading"))
    return f"go install: {next(lines, 'it failed').rpartition(': ')[2]}"
