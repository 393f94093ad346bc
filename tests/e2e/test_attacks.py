"""Attacks over loopback: whatever strangers do, the authorised scrape is answered within a second.

Each attack has a program of its own, and runs in a process of its own for ATTACK_SECONDS, so that neither the
program nor who measures shares an interpreter with it. Several attacks run at a time: what they load is paced
(each says how much), for on two cores an attacker without pause would starve the clock that measures.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.client
import itertools
import json
import math
import multiprocessing
import os
import random
import socket
import ssl
import statistics
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import bcrypt
import pytest

from exporter.web.listening import raise_open_files
from tests.e2e.programs import (
    DEADLINE,
    Program,
    asked,
    basic,
    certify,
    connected,
    exporting,
    free_port,
    replaced,
    trusting,
    until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

pytestmark = pytest.mark.alone

ATTACK_SECONDS = float(os.environ.get("ATTACK_SECONDS", "30"))
SLOWEST = 1.0  # seconds a scrape may take
COST = 10
PASSWORD = "the scraper's own"
RIGHT = basic("scraper", PASSWORD)
MIB = 1024 * 1024
CROWD = 1000
READERS = 400
SETTLED = 50  # files that a program may have open after an attack beyond those before
HEAD = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n"
AUTHORISED = HEAD + f"Authorization: {RIGHT}\r\n\r\n".encode()
SMALLEST = b"GET / HTTP/1.1\r\n\r\n"


# ------------------------------------------------------------------------------------------- attackers


@dataclass
class Tally:
    """What an attacker did and saw; one in a process of its own."""

    port: int
    start: float
    end: float
    made: int = 0
    cut: int = 0  # connections that the program closed
    sent: int = 0
    answers: Counter[str] = field(default_factory=Counter)

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.end

    @contextlib.asynccontextmanager
    async def connection(self, **options: Any) -> AsyncIterator[tuple[asyncio.StreamReader, _Writer]]:
        """Open a connection for a while; that the program closes it is counted, and no failure."""
        writer = None
        try:
            where: dict[str, Any] = {} if "sock" in options else {"host": "127.0.0.1", "port": self.port}
            reader, writer = await asyncio.open_connection(**where, **options)
            self.made += 1
            async with asyncio.timeout(max(0.0, self.end - time.monotonic())):
                yield reader, writer
        except (ConnectionError, asyncio.IncompleteReadError):
            self.cut += 1
        except TimeoutError:
            pass
        finally:
            if writer is not None:
                writer.transport.abort()

    def saw(self, answer: bytes) -> None:
        self.answers[answer[9:12].decode("latin-1") if answer.startswith(b"HTTP/1.1 ") else "none"] += 1


if TYPE_CHECKING:
    _Writer = asyncio.StreamWriter
    Strike = Callable[[Tally, int], Awaitable[None]]


async def silent(tally: Tally, _number: int) -> None:
    """Send nothing until the program hangs up."""
    async with tally.connection() as (reader, _):
        tally.saw(await reader.read(100))
        raise ConnectionResetError


async def dripping(tally: Tally, _number: int) -> None:
    """Send a head, one byte a second."""
    await drip(tally, HEAD * 10)


async def dripping_tls(tally: Tally, _number: int) -> None:
    """Send a TLS hello, one byte a second."""
    await drip(tally, client_hello())


async def drip(tally: Tally, data: bytes) -> None:
    async with tally.connection() as (reader, writer):
        for index in range(len(data)):
            if reader.at_eof():
                raise ConnectionResetError
            writer.write(data[index : index + 1])
            await writer.drain()
            await asyncio.sleep(1)


@functools.cache
def client_hello() -> bytes:
    """Return the first flight of a TLS client."""
    outgoing = ssl.MemoryBIO()
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(
        ssl.MemoryBIO(), outgoing, server_hostname="localhost"
    )
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


async def slow_reader(tally: Tally, _number: int) -> None:
    """Ask for as many pages as may be asked for at once, with the right password, and read none."""
    await unread(tally, AUTHORISED * 16)


async def slow_stranger(tally: Tally, _number: int) -> None:
    """Ask for 5,000 answers without a password, and read none."""
    await unread(tally, SMALLEST * 5000)


async def unread(tally: Tally, requests: bytes) -> None:
    """Send requests and read nothing, on a socket whose window is small: the kernel must not take it all."""
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    narrow.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(narrow, ("127.0.0.1", tally.port))
    except OSError:
        narrow.close()
        return
    async with tally.connection(sock=narrow, limit=1) as (_, writer):
        writer.write(requests)
        tally.sent += len(requests)
        while True:  # who does not read learns by writing that the program has given up
            await asyncio.sleep(2)
            writer.write(b"\r\n")
            await writer.drain()


async def large_head(tally: Tally, number: int) -> None:
    """Send a head of 1 MiB: one field, many fields, or a long path."""
    head = (
        HEAD + b"X: " + b"x" * MIB + b"\r\n\r\n",
        HEAD + b"X: y\r\n" * (MIB // 6) + b"\r\n",
        b"GET /" + b"x" * MIB + b" HTTP/1.1\r\n\r\n",
    )[number % 3]
    await said(tally, head)
    await asyncio.sleep(0.2)


async def garbage(tally: Tally, number: int) -> None:
    """Send requests that are fine, and after them 64 KiB of what is no HTTP."""
    noise = random.Random(number)  # noqa: S311 - repeatable noise
    await said(tally, SMALLEST * noise.randrange(20) + noise.randbytes(65536) + SMALLEST * 100)
    await asyncio.sleep(0.2)


async def said(tally: Tally, data: bytes) -> None:
    async with tally.connection() as (reader, writer):
        writer.write(data)
        tally.sent += len(data)
        tally.saw(await reader.read(100))
        while await reader.read(65536):
            pass
        raise ConnectionResetError


async def pipelining(tally: Tally, _number: int) -> None:
    """Send 256 KiB of requests without a password in one piece, and read the answers."""
    count = 256 * 1024 // len(SMALLEST)
    async with tally.connection(limit=MIB) as (reader, writer):
        while True:
            writer.write(SMALLEST * count)
            tally.sent += count * len(SMALLEST)
            for _ in range(count):
                head = await reader.readuntil(b"\r\n\r\n")
                tally.saw(head)
                await reader.readexactly(length(head))


async def wrong_passwords(tally: Tally, number: int) -> None:
    """Send another wrong password with each request, for one's own user name and for others in turn."""
    rate, workers = 200, 100
    async with tally.connection() as (reader, writer):
        for turn in itertools.count():
            await asyncio.sleep(max(0.0, tally.start + (turn * workers + number) / rate - time.monotonic()))
            user = "scraper" if turn % 2 else f"nobody-{number}-{turn}"
            writer.write(HEAD + f"Authorization: {basic(user, f'{number} {turn}')}\r\n\r\n".encode())
            tally.sent += 1
            head = await reader.readuntil(b"\r\n\r\n")
            tally.saw(head)
            await reader.readexactly(length(head))


def length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])


async def attack(strike: Strike, count: int, tally: Tally) -> None:
    """Strike on so many connections at a time, each again and again until time is up."""

    async def again(number: int) -> None:
        await asyncio.sleep(number / count)  # all within the first second
        while not tally.over:
            before = time.monotonic()
            await strike(tally, number)
            # A connection that ends at once would be opened in a busy loop.
            await asyncio.sleep(max(0.0, before + 0.1 - time.monotonic()))

    await asyncio.gather(*(again(number) for number in range(count)))


def attacking(strike: Strike, count: int, port: int, seconds: float) -> Tally:
    """Attack from this process, to the end."""
    raise_open_files()
    now = time.monotonic()
    tally = Tally(port, now, now + seconds)
    asyncio.run(attack(strike, count, tally))
    return tally


# ------------------------------------------------------------------------------------------- measuring


class Attack(NamedTuple):
    """An attack, on how many connections, and the MiB that the program may grow by while it lasts.

    The program closes its connections after so many seconds; infinity where they do as they should.
    """

    strike: Strike
    connections: int
    growth: int
    closed_after: float
    tls: bool = False
    resalt: bool = False  # change the hash of the scraper's password meanwhile

    @property
    def name(self) -> str:
        return f"{self.strike.__name__}{' tls' if self.tls else ''}"


@dataclass
class Scrapes:
    """What the authorised scraper saw."""

    seconds: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    most: int = 0  # bytes resident


class Target(NamedTuple):
    """A program under attack."""

    program: Program
    port: int
    client: ssl.SSLContext | None
    web: Path

    def resident(self) -> int:
        pages = Path(f"/proc/{self.program.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def files(self) -> int:
        return len(list(Path(f"/proc/{self.program.process.pid}/fd").iterdir()))

    def status(self, path: str) -> int:
        with contextlib.closing(connected(self.port, self.client)) as connection:
            return asked(connection, path, Authorization=RIGHT).status


@contextlib.contextmanager
def target(directory: Path, attacked: Attack) -> Iterator[Target]:
    """Run the demo behind a password, and TLS where the attack is on it."""
    directory.mkdir()
    client = None
    if attacked.tls:
        certify(directory, "ca")
        certify(directory, "server", "ca")
        client = trusting(directory)
    web, port = directory / "web.yaml", free_port()
    salted(web, tls=attacked.tls)
    flags = (f"--web.listen-address=127.0.0.1:{port}", f"--web.config.file={web}")
    with exporting(directory, "demo", *flags) as program:
        made = Target(program, port, client, web)
        assert until(lambda: program.events("listening")), program.err.read_text()
        assert 200 == made.status("/metrics")
        yield made


def salted(web: Path, *, tls: bool) -> None:
    """Write the web config, with the same password under a new salt."""
    pair = {"cert_file": "server.crt", "key_file": "server.key"}
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(COST)).decode()
    tls_section = {"tls_server_config": pair} if tls else {}
    replaced(web, json.dumps({"basic_auth_users": {"scraper": hashed}, **tls_section}))


def scraping(aimed: Target, over: threading.Event) -> Scrapes:
    """Scrape each second, in turn on a connection that is kept and on a fresh one."""
    seen = Scrapes()
    with contextlib.closing(connected(aimed.port, aimed.client)) as kept:
        for number in itertools.count():
            begun = time.monotonic()
            fresh = connected(aimed.port, aimed.client)
            try:
                answer = asked(fresh if number % 2 else kept, "/metrics", Authorization=RIGHT)
                if answer.status != 200 or b"cryptoloot_up{" not in answer.body:
                    seen.failed.append(f"{number}: {answer.status}")
            except (OSError, http.client.HTTPException) as error:
                seen.failed.append(f"{number}: {error!r}")
            finally:
                fresh.close()
            seen.seconds.append(time.monotonic() - begun)
            seen.most = max(seen.most, aimed.resident())
            if over.wait(max(0.0, begun + 1 - time.monotonic())):
                return seen
    raise AssertionError


# The quiet attacks: each opens 200 connections a second, as the program closes those of 5 s ago, and the
# dripping ones send 1,000 bytes a second. A connection costs some 10 KiB, with TLS some 110.
QUIET = (
    Attack(silent, CROWD, 64, 5),
    Attack(dripping, CROWD, 64, 5),
    Attack(silent, CROWD, 160, 5, tls=True),
    Attack(dripping_tls, CROWD, 160, 5, tls=True),
)
# The greedy ones: 400 connections each that are not read; at most 160 heads of 1 MiB and as many pieces of
# garbage a second. An answer takes a while until it stalls; thousands of requests at once are cut off.
UNREAD = (Attack(slow_reader, READERS, 160, 75), Attack(slow_stranger, READERS, 160, 0))
LARGE = (Attack(large_head, 32, 64, 0), Attack(garbage, 32, 64, 0))
# The asking ones: as many pipelined requests as can be sent until the program hangs up; 200 wrong passwords a
# second, of which bcrypt takes all that one core has.
ASKING = (Attack(pipelining, 16, 64, math.inf), Attack(wrong_passwords, 100, 64, math.inf, resalt=True))


@pytest.mark.slow
@pytest.mark.parametrize("attacks", [QUIET, UNREAD + LARGE, ASKING], ids=["quiet", "greedy", "asking"])
def test_scrapes_go_on_under_attack(
    tmp_path: Path, attacks: tuple[Attack, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """No scrape fails and none takes a second; memory is bounded, and afterwards all is as before."""
    spawning = multiprocessing.get_context("spawn")
    with (
        capsys.disabled(),
        contextlib.ExitStack() as programs,
        ProcessPoolExecutor(len(attacks), mp_context=spawning) as attackers,
        ThreadPoolExecutor(2 * len(attacks)) as threads,
    ):
        targets = [programs.enter_context(target(tmp_path / each.name, each)) for each in attacks]
        verdicts = list(threads.map(lambda aimed, each: suffered(aimed, each, attackers), targets, attacks))

    assert [[]] * len(attacks) == verdicts


def suffered(aimed: Target, attacked: Attack, attackers: ProcessPoolExecutor) -> list[str]:
    """Attack a program while it is scraped; print the figures, and return what did not hold."""
    over, files, resident = threading.Event(), aimed.files(), aimed.resident()
    with ThreadPoolExecutor(1) as aside:
        scrapes = aside.submit(scraping, aimed, over)
        try:
            attacker = attackers.submit(
                attacking, attacked.strike, attacked.connections, aimed.port, ATTACK_SECONDS
            )
            if attacked.resalt:
                time.sleep(ATTACK_SECONDS / 2)
                salted(aimed.web, tls=attacked.tls)
            tally = attacker.result(ATTACK_SECONDS + 4 * DEADLINE)
        finally:
            over.set()
        seen = scrapes.result(4 * DEADLINE)
    after = aimed.resident()
    print(  # noqa: T201 - the figures are the point
        f"{attacked.name}: {tally.made} connections, {tally.cut} closed by the program, answers "
        f"{dict(tally.answers)}; {len(seen.seconds)} scrapes, {len(seen.failed)} failed, slowest "
        f"{max(seen.seconds):.3f} s, median {statistics.median(seen.seconds):.4f} s; resident MiB "
        f"{resident / MIB:.0f} before, {seen.most / MIB:.0f} at most, {after / MIB:.0f} after"
    )
    settled = until(lambda: aimed.files() <= files + SETTLED)
    checks = {
        f"failed: {seen.failed[:5]}": not seen.failed,
        f"a scrape took {max(seen.seconds):.3f} s": max(seen.seconds) < SLOWEST,
        f"it grew to {seen.most / MIB:.0f} MiB": seen.most - resident < attacked.growth * MIB,
        f"{aimed.files()} files are open, before {files}": settled,
        "it is not healthy": healthy(aimed),
        "there were no connections to speak of": tally.made >= attacked.connections,
        "a stranger was served": not tally.answers["200"],
        "it closed no connection": tally.cut or attacked.closed_after + 5 > ATTACK_SECONDS,
        "the changed hash was not taken": not attacked.resalt or aimed.program.events("web_config_changed"),
        f"it logged errors: {problems(aimed.program)[:2]}": not problems(aimed.program),
    }
    return [f"{attacked.name}: {wrong}" for wrong, right in checks.items() if not right]


def healthy(aimed: Target) -> bool:
    try:
        return aimed.status("/-/healthy") == 200
    except OSError:
        return False


def problems(program: Program) -> list[str]:
    return [entry["event"] for entry in program.log() if entry["level"] in {"error", "critical"}]
