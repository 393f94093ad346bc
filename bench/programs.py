"""The exporter, the simulated API and the peers: each a process on a free loopback port, always ended."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.load import HOST, ask, free_port, until_open

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

REPOSITORY = Path(__file__).resolve().parent.parent
SEARCH_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"  # Debian's nginx is in /usr/sbin
GRACE = 10.0  # seconds that a process may take to end
FIRST_POLLS = 120.0  # seconds until all users are on the page
EXPORTER = (sys.executable, "-m", "exporter")
PREFIX = "cryptoloot_"
OK = 200


class Missing(Exception):
    """A program is not on this machine; the text says which, and what installs it."""


class Served(NamedTuple):
    """A running program whose /metrics can be scraped, with these header fields beside the usual ones."""

    port: int
    pid: int
    headers: Mapping[str, str] = {}


def path_of(program: str) -> str:
    """Return where a program is. Raises Missing."""
    path = shutil.which(program, path=SEARCH_PATH)
    if path is None:
        raise Missing(f"{program} is missing: make bench-tools installs it")
    return path


def environ() -> dict[str, str]:
    """Return the environment of all processes, which may keep compiled modules as installed programs do."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": str(REPOSITORY)}


@contextlib.contextmanager
def started(
    directory: Path, *command: str, variables: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a directory, with its output in a file there; end it in the end."""
    output = directory / f"{Path(command[0]).name}-{free_port()}.log"
    with output.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env={**environ(), **(variables or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    except TimeoutError as error:
        raise RuntimeError(f"{error}; {command[0]} printed: {output.read_text()[-2000:]}") from error
    finally:
        process.terminate()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def serving(directory: Path, port: int, *command: str) -> Iterator[Served]:
    """Run a command that serves on this port; yield it once it listens."""
    with started(directory, *command) as process:
        until_open(port)
        yield Served(port, process.pid)


def site_names(count: int) -> list[str]:
    """Return the names of this many sites."""
    return [f"site-{number:04}" for number in range(count)]


def secret(site: str) -> str:
    """Return the secret of a simulated site."""
    return f"secret-of-{site}"


@contextlib.contextmanager
def simulator(directory: Path, sites: int, users: int) -> Iterator[int]:
    """Run the simulated API; yield its port."""
    port = free_port()
    accounts = [f"--sites={name}={secret(name)}" for name in site_names(sites)]
    flags = (f"--web.listen-address={HOST}:{port}", f"--users={users}", *accounts)
    with serving(directory, port, *EXPORTER, "simulate", *flags):
        yield port


def write_config(path: Path, api: int, sites: int, poll: Mapping[str, object]) -> Path:
    """Write a config for the simulated API's sites; JSON is YAML."""
    accounts = [{"name": name, "secret": secret(name)} for name in site_names(sites)]
    document = {"api": {"url": f"http://{HOST}:{api}"}, "sites": accounts, "poll": poll}
    path.write_text(json.dumps(document))
    return path


def exporter_flags(config: Path, port: int) -> tuple[str, str, str]:
    """Return the arguments that start the daemon."""
    return "run", f"--config.file={config}", f"--web.listen-address={HOST}:{port}"


@contextlib.contextmanager
def exporter(directory: Path, config: Path, *flags: str, events: Path | None = None) -> Iterator[Served]:
    """Run the exporter; yield it once it listens. With a path for events, `bench.ticking` runs it."""
    port = free_port()
    program = (sys.executable, "-m", "bench.ticking", str(events)) if events else EXPORTER
    with serving(directory, port, *program, *exporter_flags(config, port), *flags) as served:
        yield served


def until_users(served: Served, user_series: int) -> Served:
    """Wait until the exporter's page has this many series of users."""
    end = time.monotonic() + FIRST_POLLS
    while (page := ask(served.port, "/metrics", served.headers)).body.count(b'user="') != user_series:
        if time.monotonic() > end:
            raise TimeoutError(f"no {user_series} user series; status {page.status}")
        time.sleep(0.5)
    return served


@contextlib.contextmanager
def python_peer(name: str, directory: Path, exporter_port: int) -> Iterator[Served]:
    """Run one of `bench.python_peers`, which take the exporter's page as it is now."""
    port = free_port()
    command = (sys.executable, "-m", "bench.python_peers", name, str(port), str(exporter_port))
    with serving(directory, port, *command) as served:
        yield served


@contextlib.contextmanager
def nginx(directory: Path, exporter_port: int) -> Iterator[Served]:
    """Run nginx as one process, with the exporter's answer as a static file."""
    program, port = path_of("nginx"), free_port()
    page = ask(exporter_port, "/metrics")
    (directory / "page").write_bytes(page.body)
    fields = {"type": page.headers["content-type"], "encoding": page.headers["content-encoding"]}
    text = NGINX.format(listen=f"{HOST}:{port}", file=directory / "page", **fields)
    (directory / "nginx.conf").write_text(text)
    flags = ("-p", f"{directory}/", "-e", "stderr", "-c", "nginx.conf")
    with serving(directory, port, program, *flags) as served:
        yield served


NGINX = """\
daemon off;
master_process off;
pid nginx.pid;
events {{}}
http {{
  sendfile on;
  tcp_nopush on;
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  server {{
    listen {listen};
    location = /metrics {{
      alias {file};
      types {{}}
      default_type "{type}";
      add_header Content-Encoding {encoding};
    }}
  }}
}}
"""


@contextlib.contextmanager
def pushgateway(directory: Path, exporter_port: int) -> Iterator[Served]:
    """Run the Pushgateway with the exporter's families pushed to it."""
    port = free_port()
    text = families(ask(exporter_port, "/metrics", {}).body)
    command = (path_of("prometheus-pushgateway"), f"--web.listen-address={HOST}:{port}")
    with serving(directory, port, *command) as served:
        answer = ask(port, "/metrics/job/bench", {}, "PUT", text.encode())
        if answer.status != OK:
            raise RuntimeError(f"the Pushgateway rejects the page: {answer.body.decode()[:500]}")
        yield served


@contextlib.contextmanager
def textfile_collector(directory: Path) -> Iterator[Served]:
    """Run node_exporter with its textfile collector alone, on the files of the directory."""
    port = free_port()
    flags = (
        f"--web.listen-address={HOST}:{port}",
        "--web.disable-exporter-metrics",
        "--collector.disable-defaults",
        "--collector.textfile",
        f"--collector.textfile.directory={directory}",
    )
    with serving(directory, port, path_of("prometheus-node-exporter"), *flags) as served:
        yield served


def families(page: bytes) -> str:
    """Return the families of a text page without those that every exporter has by itself."""
    ours = (PREFIX, f"# HELP {PREFIX}", f"# TYPE {PREFIX}")
    return "".join(f"{line}\n" for line in page.decode().split("\n") if line.startswith(ours))
