"""Load on loopback, always bounded by time, and what the kernel knows about a process."""

from __future__ import annotations

import contextlib
import http.client
import os
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
# As Prometheus sends them, in every scrape.
OPENMETRICS = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
SCRAPE = {
    "User-Agent": "Prometheus/2.42.0",
    "Accept": OPENMETRICS,
    "Accept-Encoding": "gzip",
    "X-Prometheus-Scrape-Timeout-Seconds": "10",
}


class BadLoad(Exception):
    """Not every request was answered as it should."""


class Answer(NamedTuple):
    """What came over HTTP."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def ask(
    port: int, path: str, headers: Mapping[str, str] = SCRAPE, method: str = "GET", body: bytes | None = None
) -> Answer:
    """Send one request on a connection of its own; without a listener the status is 0."""
    connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE)
    try:
        connection.request(method, path, body, headers=dict(headers))
        answer = connection.getresponse()
        return Answer(answer.status, dict(answer.getheaders()), answer.read())
    except ConnectionError:
        return Answer(0, {}, b"")
    finally:
        connection.close()


def wrk(program: str, url: str, seconds: int, connections: int, headers: Mapping[str, str]) -> float:
    """Ask as fast as answers come, with one thread; return requests per second. Raises BadLoad."""
    fields = [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
    sizes = ["-t1", f"-c{connections}", f"-d{seconds}s", f"--timeout={PATIENCE:.0f}s"]
    command = [program, *sizes, *fields, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + PATIENCE, check=True)
    return requests_per_second(done.stdout)


def requests_per_second(output: str) -> float:
    """Read what wrk prints. Raises BadLoad when it tells of errors."""
    errors = re.search(r"^ *(Socket errors: .*|Non-2xx .*)$", output, re.MULTILINE)
    rate = re.search(r"^Requests/sec: +([0-9.]+)$", output, re.MULTILINE)
    if errors or not rate:
        raise BadLoad(errors.group(1).strip() if errors else "wrk told no rate")
    return float(rate.group(1))


def latencies(
    port: int, path: str, seconds: float, headers: Mapping[str, str], rest: float = 0.0
) -> list[float]:
    """Return how long each of successive scrapes on one connection took, in seconds. Raises BadLoad.

    From the first byte sent to the last one received. wrk would read a large page 8 KiB at a time, and so
    measure itself; it also adds samples that it thinks it missed.
    """
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{lines}\r\n".encode()
    room = memoryview(bytearray(1 << 20))
    taken: list[float] = []
    end = time.monotonic() + seconds
    with socket.create_connection((HOST, port), PATIENCE) as connection:
        while not taken or time.monotonic() < end:
            time.sleep(rest)
            begin = time.perf_counter()
            connection.sendall(request)
            _receive(connection, room)
            taken.append(time.perf_counter() - begin)
    return taken


def _receive(connection: socket.socket, room: memoryview) -> None:
    """Read one answer to its end, into the same memory all the time."""
    got, end = 0, -1
    while end < 0:
        more = connection.recv_into(room[got:])
        got += more
        end = bytes(room[:got]).find(b"\r\n\r\n") if more else got
    head = bytes(room[:end])
    length = re.search(rb"^content-length: *(\d+)", head, re.MULTILINE | re.IGNORECASE)
    if not head.startswith(b"HTTP/1.1 200") or not length:
        raise BadLoad(head.partition(b"\r\n")[0].decode("latin-1"))
    left = int(length.group(1)) - (got - end - 4)
    while left > 0:
        more = connection.recv_into(room)
        if not more:
            raise BadLoad("an answer ended early")
        left -= more


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has taken so far, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int, field: str = "VmRSS") -> float:
    """Return a process' resident memory in bytes, now, or with `VmHWM` at most so far."""
    return memory_in(Path(f"/proc/{pid}/status").read_text(), field)


def memory_in(status: str, field: str) -> float:
    """Read a field of the kernel's status of a process, in bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
    if not found:
        raise BadLoad(f"the kernel tells no {field}")
    return 1024.0 * int(found.group(1))


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
        time.sleep(0.0005)  # less than what is measured, and the other program has the core meanwhile
    raise TimeoutError(f"nobody listens on port {port}")
