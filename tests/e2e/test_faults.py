"""The fault matrix: what can go wrong on the way to one endpoint, over real sockets, against what must hold.

Site `a`'s /user/top is led to a server of its own; while a fault lasts, that server, or the way to it, has
the fault. All else is answered by the simulator on another port, as a machine with a right clock would. The
clocks are virtual, the network is not: an outage of five minutes takes as long as its calls take.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import math
import ssl
import subprocess
import tracemalloc
import zlib
from email.utils import formatdate
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import pytest
from structlog.testing import capture_logs

from exporter import simulator
from exporter.app import App, Options
from exporter.collectors.users import TOP_USERS
from exporter.endpoint import Reason
from exporter.simulator import World
from exporter.simulator.api import result
from exporter.web import listening, server
from tests.api.raw_server import HTML, Reply, Server, closed_port, drip, message, reply, zipped
from tests.conftest import PatientTime, fetch, parsed, required

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from pathlib import Path

FAILING = TOP_USERS
LEAVING = (
    "cryptoloot_user_hashes_",
    "cryptoloot_user_withdrawn_",
    "cryptoloot_user_bal",
    "cryptoloot_top_users_",
)
OWN = (*LEAVING, "cryptoloot_user_", "cryptoloot_tracked_user_")  # all that the endpoint tells
UP = f'cryptoloot_up{{endpoint="{FAILING}",site="a"}}'
HOUR = 3600.0
INTERVAL, STALE_AFTER = 60.0, 300.0  # seconds, of /user/top; the defaults
BACKOFF = 1.2 * STALE_AFTER / 2  # seconds: no longer than this does a poll wait that nobody asked to wait
ASKED = 600.0  # seconds in Retry-After
RECOVERY = 900.0  # seconds after which nothing is waited for any more
BOUND = 64 << 20  # bytes of memory at most, server and client together
HUGE = 200  # MiB of a body
PLAIN, TLS = "http://127.0.0.1:{port}", "https://127.0.0.1:{port}"
CLOSED, NOWHERE = "http://127.0.0.1:{closed}", "http://no-such-host.invalid"
GOOD = b'{"success":true,"users":[{"name":"johnd","total":1,"withdrawn":2,"balance":3}]}'


class Fault(NamedTuple):
    """A reason, what the server says, where the way leads instead, and what else is out of order.

    `reply` is made anew for every request; `says` is what the log tells beside the reason.
    """

    reason: Reason
    reply: Callable[[Stage], Reply] = lambda _: reply(HTML, 500)
    way: str = PLAIN
    chain: str = "good"  # the certificate served while the fault lasts
    says: str = ""
    timeout: str = "10s"
    step: float = 0.0  # of the wall clock, in seconds, when the fault begins
    asked: float = 0.0  # seconds of Retry-After


def _many(size: int) -> tuple[bytes, ...]:
    return (bytes(1 << 20),) * size


def _huge(_: Stage) -> Reply:
    return Reply((b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (HUGE << 20), *_many(HUGE)))


@cache
def _bomb() -> bytes:
    """Return so many zeros that they fill a disk, in the space of a picture."""
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(map(packer.compress, _many(HUGE))) + packer.flush()


def _late(stage: Stage) -> Reply:
    date = formatdate(math.ceil(stage.world.clock() + ASKED), usegmt=True)
    return reply(HTML, 429, f"Retry-After: {date}")


def _elsewhere(stage: Stage) -> Reply:
    return reply(HTML, 302, f"Location: http://localhost:{stage.other.port}/elsewhere?secret=secret-of-a")


DRIPPING = Reply((b"HTTP/1.1 200 OK\r\nContent-Length: 800\r\n\r\n", *drip(GOOD * 10).pieces))

FAULTS: dict[str, Fault] = {
    "connection refused": Fault(Reason.CONNECT, way=CLOSED, says="refused"),
    "reset mid-body": Fault(Reason.CONNECT, lambda _: Reply((message(GOOD)[:-9], b":"), "reset")),
    "truncated body": Fault(Reason.CONNECT, lambda _: Reply((message(GOOD)[:-1],))),
    "dripping body": Fault(Reason.TIMEOUT, lambda _: DRIPPING, timeout="1s"),
    "body of 200 MiB": Fault(Reason.TOO_LARGE, _huge),
    "gzip bomb of 200 MiB": Fault(Reason.TOO_LARGE, lambda _: zipped(_bomb())),
    "HTML with 200": Fault(Reason.INVALID_JSON, lambda _: reply(HTML)),
    "JSON of wrong types": Fault(Reason.INVALID_RESPONSE, lambda _: reply(b'{"success":true,"users":{}}')),
    "deep nesting": Fault(
        Reason.INVALID_JSON, lambda _: reply(b'{"success":true,"users":' + b"[" * 1_000_000)
    ),
    "bad UTF-8": Fault(Reason.INVALID_JSON, lambda _: reply(GOOD.replace(b"john", b"j\xffhn"))),
    "3xx to another host": Fault(Reason.REDIRECT, _elsewhere),
    "429, Retry-After in seconds": Fault(
        Reason.RATE_LIMITED, lambda _: reply(HTML, 429, f"Retry-After: {ASKED:g}"), asked=ASKED
    ),
    "429, Retry-After as a date": Fault(Reason.RATE_LIMITED, _late, asked=ASKED),
    "expired certificate": Fault(Reason.TLS, way=TLS, chain="expired", says="certificate has expired"),
    "wrong-name certificate": Fault(Reason.TLS, way=TLS, chain="other", says="IP address mismatch"),
    "DNS failure": Fault(Reason.DNS, way=NOWHERE),
    "outage, clock back by 1 h": Fault(Reason.CONNECT, way=CLOSED, step=-HOUR),
    "outage, clock on by 1 h": Fault(Reason.CONNECT, way=CLOSED, step=HOUR),
}

every_fault = pytest.mark.parametrize("name", FAULTS)
Page = dict[str, float]


class Failing(Server):
    """The server of the endpoint that fails: it says the fault while it lasts, else what the world knows."""

    def __init__(self, stage: Stage, chains: Mapping[str, Path]) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._chains = chains
        super().__init__(reply(), tls=self._context if stage.fault.way == TLS else None)
        self._replies = itertools.chain(iter(stage.answer, None))

    def show(self, chain: str) -> None:
        """Show this certificate in handshakes from now on."""
        self._context.load_cert_chain(self._chains[chain])


class Wire(httpx.AsyncBaseTransport):
    """The real network, but for the one endpoint that is led `way`; and when it was asked for."""

    def __init__(self, time: PatientTime) -> None:
        self._network = httpx.AsyncHTTPTransport(verify=httpx.create_ssl_context())
        self._time = time
        self.way = httpx.URL()
        self.asked: list[float] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == FAILING and request.url.params["secret"] == "secret-of-a":
            self.asked.append(self._time.mono)
            request.url = request.url.copy_with(
                scheme=self.way.scheme, host=self.way.host, port=self.way.port
            )
        return await self._network.handle_async_request(request)

    async def aclose(self) -> None:
        await self._network.aclose()


class Stage:
    """An app on virtual time, two sites, and real servers; `fault` is what happens to one endpoint."""

    app: App

    def __init__(self, fault: Fault, chains: Mapping[str, Path], closed: int) -> None:
        self.fault = fault
        self.lasts = False
        self.time = PatientTime(lambda: self.time.polls_in_progress() > 0)
        right = self.time.offset  # the API's clock is not stepped
        self.world = World(seed=3, clock=lambda: right + self.time.mono)
        for site in ("a", "b"):
            self.world.add(site, f"secret-of-{site}", users=30)
        self.other = Server(reply())
        self.failing = Failing(self, chains)
        self.wire = Wire(self.time)
        self._closed = closed

    def start(self, api: int) -> None:
        """Make the app, for the API on this port."""
        config = parsed(f"http://127.0.0.1:{api}", "a", "b", api={"timeout": self.fault.timeout})
        self.app = App(lambda: config, Options(()), self.time.clock, self.wire)

    def answer(self) -> Reply:
        return self.fault.reply(self) if self.lasts else self.good()

    def good(self) -> Reply:
        site, now = self.world.sites["a"], self.world.clock()
        document = result(site, "GET", FAILING, {"count": "128"}, now)
        # A kept connection would outlive its certificate: what matters here is a new one.
        return reply(json.dumps(document).encode(), end="close" if self.fault.way == TLS else "keep")

    def play(self, *, lasts: bool) -> None:
        """Begin or end the fault."""
        self.lasts = lasts
        fair = TLS if self.fault.way == TLS else PLAIN
        way = self.fault.way if lasts else fair
        self.wire.way = httpx.URL(way.format(port=self.failing.port, closed=self._closed))
        self.failing.show(self.fault.chain if lasts else "good")

    async def page(self) -> Page:
        text = (await fetch(self.app.web, "/metrics")).text
        pairs = (line.rsplit(" ", 1) for line in text.split("\n") if "site=" in line)
        return {series: float(value) for series, value in pairs if "site_info" not in series}


class Outcome(NamedTuple):
    """What was seen: pages before the fault, a second before expiry, a second after it, and at the end."""

    before: Page
    kept: Page
    gone: Page
    after: Page
    recovered: float  # seconds from the fault's end until a poll succeeded; infinite if none did
    gap: float  # seconds from the last request of the fault to the next
    peak: int  # bytes, of all there is in the process
    elsewhere: int  # connections to the host of the redirect
    log: list[Any]


# ------------------------------------------------------------------------------------------------ the scenes


@contextlib.asynccontextmanager
async def simulated(world: World) -> AsyncIterator[int]:
    """Serve the simulated API on loopback; yield its port."""
    (socket,) = listening.listen(["127.0.0.1:0"])
    serving = server.Server(simulator.app(world))
    task = asyncio.create_task(serving.serve([socket]))
    try:
        yield int(socket.getsockname()[1])
    finally:
        serving.stop()
        await task
        socket.close()


async def played(fault: Fault, chains: Mapping[str, Path]) -> Outcome:
    """Let the endpoint work, fail for longer than its values live, and work again."""
    with closed_port() as closed:
        stage = Stage(fault, chains, closed)
        async with simulated(stage.world) as api, stage.failing, stage.other:
            stage.start(api)
            stage.play(lasts=False)
            await stage.app.start()
            try:
                return await scenes(stage)
            finally:
                await stage.app.close()


async def scenes(stage: Stage) -> Outcome:
    time = stage.time
    await time.run(150)
    before, succeeded = await stage.page(), stage.wire.asked[-1]
    time.offset += stage.fault.step
    stage.play(lasts=True)
    with capture_logs() as log, traced() as peak:
        await time.run(succeeded + STALE_AFTER - 1 - time.mono)
        kept = await stage.page()
        await time.run(2)
        gone = await stage.page()
    ended, place = time.mono, len(stage.wire.asked)
    stage.play(lasts=False)
    recovered = math.inf
    while recovered == math.inf and time.mono < ended + RECOVERY:
        await time.run(1)
        after, asked = await stage.page(), stage.wire.asked[-1]
        if asked > ended and after[UP]:
            recovered = asked - ended  # no time passes between a request and the end of its poll
    gap = stage.wire.asked[place] - stage.wire.asked[place - 1]
    return Outcome(before, kept, gone, after, recovered, gap, peak[0], stage.other.connections, log)


@contextlib.contextmanager
def traced() -> Iterator[list[int]]:
    """Measure the most memory that is taken at once beyond what is taken already, in bytes."""
    peak: list[int] = []
    tracemalloc.start()
    try:
        yield peak
        peak.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Make a good certificate, one that has expired and one of another name, and trust all three."""
    directory = tmp_path_factory.mktemp("tls")
    (directory / "index").touch()
    (directory / "ca.cnf").write_text(CA)
    made = {
        "good": certificate(directory, "good", "IP:127.0.0.1", "20200101000000Z", "20991231000000Z"),
        "expired": certificate(directory, "expired", "IP:127.0.0.1", "20200101000000Z", "20200102000000Z"),
        "other": certificate(directory, "other", "DNS:example.com", "20200101000000Z", "20991231000000Z"),
    }
    bundle = directory / "roots.pem"
    bundle.write_text("".join(each.read_text() for each in made.values()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(bundle))
        yield made


CA = """
[ca]
default_ca = this
[this]
database = index
new_certs_dir = .
rand_serial = yes
unique_subject = no
default_md = sha256
copy_extensions = copy
policy = any
[any]
commonName = supplied
"""


def certificate(directory: Path, name: str, names: str, begin: str, end: str) -> Path:
    """Make a self-signed certificate; `openssl ca` alone takes dates in every version."""
    file = directory / f"{name}.pem"
    asking = "req -new -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -out request"
    signing = f"ca -batch -selfsign -notext -config ca.cnf -keyfile {file} -in request"
    for command in (
        f"{asking} -subj /CN={name} -addext subjectAltName={names} -keyout {file}",
        f"{signing} -startdate {begin} -enddate {end} -out signed",
    ):
        subprocess.run(
            [required("openssl"), *command.split()], check=True, capture_output=True, cwd=directory
        )
    file.write_text(file.read_text() + (directory / "signed").read_text())
    return file


@pytest.fixture(scope="module")
def outcome(chains: dict[str, Path]) -> Callable[[Fault], Outcome]:
    """Play a fault, once for all tests."""
    return cache(lambda fault: asyncio.run(played(fault, chains)))


def control(step: float) -> Fault:
    """Return a fault that is none but for the step of the clock."""
    return Fault(Reason.TIMEOUT, Stage.good, step=step)


# ----------------------------------------------------------------------------------------------- the columns


class Cell(NamedTuple):
    """What must be, what was seen, and that in a word or two."""

    expected: object
    seen: object
    text: str


def failures(page: Page, site: str) -> Page:
    return {
        series: value
        for series, value in page.items()
        if series.startswith("cryptoloot_poll_failures_total") and f'site="{site}"' in series and value
    }


def values(page: Page) -> set[str]:
    """Return the series that leave with the endpoint that fails."""
    return {series for series in page if series.startswith(LEAVING) and 'site="a"' in series}


def untouched(page: Page) -> Page:
    """Return what the other endpoints of the site tell."""
    return {
        series: value
        for series, value in page.items()
        if 'site="a"' in series and f'endpoint="{FAILING}"' not in series and not series.startswith(OWN)
    }


def of_other_site(page: Page) -> Page:
    return {series: value for series, value in page.items() if 'site="b"' in series}


def reason_counted(fault: Fault, seen: Outcome, _same: Outcome) -> Cell:
    """Every poll of the fault counts under its reason and no other, and `up` is 0."""
    labels = f'endpoint="{FAILING}",reason="{fault.reason.value}",site="a"'
    polls = f'cryptoloot_polls_total{{endpoint="{FAILING}",site="a"}}'
    failed = seen.gone[polls] - seen.before[polls]
    expected = {f"cryptoloot_poll_failures_total{{{labels}}}": failed}
    up = seen.gone[UP]
    return Cell((expected, 0), (failures(seen.gone, "a"), up), f"{fault.reason.value} x{failed:g}")


def other_endpoints(_fault: Fault, seen: Outcome, same: Outcome) -> Cell:
    """To the last sample, all that the site's other endpoints tell is what it is without the fault."""
    expected, got = untouched(same.kept) | untouched(same.gone), untouched(seen.kept) | untouched(seen.gone)
    return Cell(expected, got, f"{len(got)} as without")


def other_site(_fault: Fault, seen: Outcome, same: Outcome) -> Cell:
    """To the last sample, all that is told of the other site is what it is without the fault."""
    expected = of_other_site(same.kept), of_other_site(same.gone)
    return Cell(
        expected, (of_other_site(seen.kept), of_other_site(seen.gone)), f"{len(expected[0])} as without"
    )


def values_expire(_fault: Fault, seen: Outcome, _same: Outcome) -> Cell:
    """All values are there, unchanged, a second before `stale_after`; none is a second after it."""
    there = {series: seen.before[series] for series in values(seen.before)}
    kept = {series: seen.kept[series] for series in values(seen.kept)}
    return Cell((there, set()), (kept, values(seen.gone)), f"{len(kept)} at {STALE_AFTER:g} s")


def recovery(fault: Fault, seen: Outcome, _same: Outcome) -> Cell:
    """Want the same series back and `up` at 1 after the longest back-off, or what Retry-After asks for."""
    in_time = seen.recovered <= max(BACKOFF, fault.asked)
    got = values(seen.after), seen.after[UP], in_time
    return Cell((values(seen.before), 1, True), got, f"after {seen.recovered:.0f} s")


def memory(_fault: Fault, seen: Outcome, _same: Outcome) -> Cell:
    """All calls and answers together take no more than BOUND at any time."""
    return Cell(True, seen.peak < BOUND, f"{seen.peak / (1 << 20):.1f} MiB")


COLUMNS = (reason_counted, other_endpoints, other_site, values_expire, recovery, memory)


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.__name__)
@every_fault
def test_a_cell_of_the_matrix(
    outcome: Callable[[Fault], Outcome], name: str, column: Callable[[Fault, Outcome, Outcome], Cell]
) -> None:
    """What must hold under a fault holds; the rule is the column's own docstring."""
    fault = FAULTS[name]
    cell = column(fault, outcome(fault), outcome(control(fault.step)))

    assert cell.expected == cell.seen, column.__doc__


def test_the_matrix_has_no_empty_cell(
    outcome: Callable[[Fault], Outcome], capsys: pytest.CaptureFixture[str]
) -> None:
    """Every fault has a word in every column, and the table is printed."""
    rows = {
        name: [column(fault, outcome(fault), outcome(control(fault.step))) for column in COLUMNS]
        for name, fault in FAULTS.items()
    }
    cells = {
        name: [cell.text if cell.expected == cell.seen else "BROKEN" for cell in row]
        for name, row in rows.items()
    }
    with capsys.disabled():
        titles = [column.__name__.replace("_", " ") for column in COLUMNS]
        print(f"\n\n{'fault':28}" + "".join(f"{title:20}" for title in titles))  # noqa: T201 - the matrix
        for name, texts in cells.items():
            print(f"{name:28}" + "".join(f"{text:20}" for text in texts))  # noqa: T201

    assert len(FAULTS) * len(COLUMNS) == len([text for row in cells.values() for text in row if text])


# ------------------------------------------------------------------------------------------ beside the table


def test_the_host_of_a_redirect_sees_nothing(outcome: Callable[[Fault], Outcome]) -> None:
    """Where a redirect leads to, not even a connection arrives."""
    assert 0 == outcome(FAULTS["3xx to another host"]).elsewhere


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.says])
def test_the_log_tells_the_fault(outcome: Callable[[Fault], Outcome], name: str) -> None:
    """One warning says when it begins, and in words what is wrong."""
    fault = FAULTS[name]
    said = [entry for entry in outcome(fault).log if entry["log_level"] == "warning"]

    assert [("poll_failed", fault.reason)] == [(entry["event"], entry["reason"]) for entry in said]
    assert fault.says in said[0]["detail"]


@every_fault
def test_retry_after_is_obeyed(outcome: Callable[[Fault], Outcome], name: str) -> None:
    """No request is sent before the time that Retry-After asks for, and none waits much longer."""
    fault = FAULTS[name]
    gap = outcome(fault).gap

    assert max(fault.asked, 0.8 * INTERVAL) <= gap <= max(fault.asked + 1, BACKOFF)


@pytest.mark.parametrize("step", [-HOUR, HOUR])
def test_a_stepped_clock_alone_is_no_fault(outcome: Callable[[Fault], Outcome], step: float) -> None:
    """No poll fails, is lost or doubled, and no value leaves, because the wall clock is stepped."""
    stepped, steady = outcome(control(step)), outcome(control(0))
    counters = [series for series in steady.gone if "_polls_total" in series]

    assert {**failures(stepped.after, "a"), **failures(stepped.after, "b")} == {}
    assert [steady.gone[series] for series in counters] == [stepped.gone[series] for series in counters]
    assert steady.gone.keys() == stepped.gone.keys()
