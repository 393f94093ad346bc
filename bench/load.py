"""Requests over loopback, always bounded in time, and what the kernel knows about a process."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

HOST = "127.0.0.1"
PATIENCE = 30.0  # seconds that one answer may take
SCRAPE = {  # the request header of every scrape by Prometheus
    "User-Agent": "Prometheus/2.42.0",
    "Accept": (
        "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
        "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
    ),
    "Accept-Encoding": "gzip",
    "X-Prometheus-Scrape-Timeout-Seconds": "10",
}


class BadLoad(Exception):
    """A measurement is void: not everything was answered as it should be."""


class Answer(NamedTuple):
    """An HTTP answer; the names of its header fields are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Load(NamedTuple):
    """What wrk counted."""

    requests: int
    per_second: float


def ask(
    port: int, path: str, headers: Mapping[str, str] = SCRAPE, method: str = "GET", body: bytes | None = None
) -> Answer:
    """Send one request on a new connection. The status is 0 if nobody listens."""
    connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE)
    try:
        connection.request(method, path, body, headers=dict(headers))
        answer = connection.getresponse()
        fields = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, fields, answer.read())
    except ConnectionError:
        return Answer(0, {}, b"")
    finally:
        connection.close()


def wrk(program: str, url: str, seconds: float, connections: int, headers: Mapping[str, str]) -> Load:
    """Request as fast as answers come, with one thread. Raises BadLoad."""
    fields = [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
    sizes = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", f"--timeout={PATIENCE:.0f}s"]
    command = [program, *sizes, *fields, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + PATIENCE, check=True)
    return parse_wrk(done.stdout)


def parse_wrk(output: str) -> Load:
    """Read what wrk printed. Raises BadLoad if it counted errors."""
    errors = re.search(r"^ *(Socket errors: .*|Non-2xx .*)$", output, re.MULTILINE)
    requests = re.search(r"^ *([0-9]+) requests in ", output, re.MULTILINE)
    rate = re.search(r"^Requests/sec: +([0-9.]+)$", output, re.MULTILINE)
    if errors or not requests or not rate:
        raise BadLoad(errors.group(1).strip() if errors else "wrk printed no rate")
    return Load(int(requests.group(1)), float(rate.group(1)))


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and all its threads so far, to the nanosecond."""
    return time.clock_gettime((~pid << 3) | 2)  # Linux's clock id of another process: CPUCLOCK_SCHED is 2


def memory(pid: int, field: str = "VmRSS") -> float:
    """Return a process' resident memory in bytes; `VmHWM` is its maximum so far."""
    return parse_memory(Path(f"/proc/{pid}/status").read_text(), field)


def parse_memory(status: str, field: str) -> float:
    """Read a field of the kernel's status of a process, in bytes."""
    line = re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
    if not line:
        raise BadLoad(f"the kernel reports no {field}")
    return 1024.0 * int(line.group(1))


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as opened:
        opened.bind((HOST, 0))
        return int(opened.getsockname()[1])


def until_open(port: int, seconds: float = PATIENCE) -> None:
    """Try to connect until somebody listens. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection((HOST, port), PATIENCE):
            return
        time.sleep(0.0005)  # short against a start, and long enough to leave the core to the other program
    raise TimeoutError(f"nobody listens on port {port}")
