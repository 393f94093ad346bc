"""The guarded listener over real sockets: TLS, certificates, passwords, and reloads while it is scraped."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import select
import shutil
import signal
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import bcrypt
import pytest

from tests.e2e.programs import (
    DEADLINE,
    Answer,
    Program,
    ask,
    asked,
    basic,
    certify,
    connected,
    exporting,
    free_port,
    inline,
    replaced,
    running,
    simulated,
    started,
    trusting,
    until,
    write_config,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

COST = 4  # of bcrypt: what is tested here is no attack
PATHS = ("/", "/metrics", "/-/healthy", "/-/ready", "/-/reload", "/nothing-here")
INTERVAL = 1.0  # seconds between polls while reloads rain
POLLED = ("/stats/payout", "/stats/history", "/user/top")


class Guarded(NamedTuple):
    """A program with a web config, and the directory of both."""

    program: Program
    port: int
    directory: Path

    def change(self, event: str = "web_config_changed", **document: Any) -> list[str]:
        """Replace the web config; return the problems that were logged once the event is."""
        before = len(self.program.events(event))
        replaced(self.directory / "web.yaml", json.dumps(document))
        assert until(lambda: len(self.program.events(event)) > before), self.program.err.read_text()
        return list(self.program.events(event)[-1].get("problems", ()))

    def get(self, path: str, cert: str = "", method: str = "GET", **headers: str) -> Answer:
        """Ask on a fresh TLS connection, with a client certificate where one is named."""
        with contextlib.closing(connected(self.port, trusting(self.directory, cert=cert))) as connection:
            return asked(connection, path, method, **headers)

    def refuses(self, cert: str = "") -> bool:
        try:
            self.get("/metrics", cert)
        except (ssl.SSLError, ConnectionError):
            return True
        return False


@contextlib.contextmanager
def guarded(directory: Path, *flags: str, **document: Any) -> Iterator[Guarded]:
    """Run the daemon behind a web config; what it polls does not answer."""
    port = free_port()
    write_config(directory, free_port(), *inline("a"))
    replaced(directory / "web.yaml", json.dumps(document))
    address = (f"--web.listen-address=127.0.0.1:{port}", "--web.config.file=web.yaml")
    with exporting(directory, "run", *address, *flags) as program:
        assert until(lambda: program.events("listening")), program.err.read_text()
        yield Guarded(program, port, directory)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an authority, a server's and a scraper's certificates by it, and a stranger's."""
    directory = tmp_path_factory.mktemp("authority")
    certify(directory, "ca")
    certify(directory, "server", "ca")
    certify(directory, "scraper", "ca", "DNS:scraper.example")
    certify(directory, "stranger")
    return directory


@pytest.fixture
def place(tmp_path: Path, authority: Path) -> Path:
    """Return a directory that has the certificates."""
    shutil.copytree(authority, tmp_path, dirs_exist_ok=True)
    return tmp_path


def tls(**more: Any) -> dict[str, Any]:
    return {"tls_server_config": {"cert_file": "server.crt", "key_file": "server.key", **more}}


def verifying(**more: Any) -> dict[str, Any]:
    return tls(client_ca_file="ca.crt", client_auth_type="RequireAndVerifyClientCert", **more)


def users(**passwords: str) -> dict[str, Any]:
    return {
        "basic_auth_users": {
            user: bcrypt.hashpw(password.encode(), bcrypt.gensalt(COST)).decode()
            for user, password in passwords.items()
        }
    }


# ------------------------------------------------------------------------------------------- certificates


def test_client_certificates_are_demanded_from_now_on(place: Path) -> None:
    """A changed client_auth_type or client_allowed_sans counts for the next connection, without a restart."""
    with guarded(place, **tls()) as it:
        assert 200 == it.get("/metrics").status
        it.change(**verifying())

        assert it.refuses()
        assert it.refuses("stranger")
        assert 200 == it.get("/metrics", "scraper").status
        it.change(**verifying(client_allowed_sans=["other.example"]))
        assert it.refuses("scraper")
        it.change(**verifying(client_allowed_sans=["scraper.example"]))
        assert 200 == it.get("/metrics", "scraper").status
        it.change(**tls())
        assert 200 == it.get("/metrics").status


@pytest.mark.parametrize("certificates", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_certificates_rotate_during_scrapes(place: Path, certificates: int) -> None:
    """Replaced certificates are served in turn, and no scrape fails; a bad one changes nothing."""
    with guarded(place, **tls()) as it, scraping(lambda: serial(it)) as serials:
        for _ in range(certificates):
            known = len(set(serials.seen))
            certify(place, "next", "ca")
            for ending in ("key", "crt"):
                (place / f"next.{ending}").replace(place / f"server.{ending}")
            assert until(partial(more, serials.seen, known))
        replaced(place / "server.crt", "no certificate")
        assert until(lambda: refusal(it, "tls_server_config.cert_file"))
        last = serials.seen[-1]
        time.sleep(0.5)

    assert [] == serials.failed
    assert 1 + certificates == len(set(serials.seen)) == len(list(itertools.groupby(serials.seen)))
    assert last == serials.seen[-1]


def more(seen: list[str], known: int) -> bool:
    return len(set(seen)) > known


def serial(it: Guarded) -> str:
    """Scrape on a fresh connection; return the serial number of the certificate that was served."""
    connection = connected(it.port, trusting(it.directory))
    with contextlib.closing(connection):
        connection.connect()
        opened: Any = connection.sock
        number = opened.getpeercert()["serialNumber"]
        assert 200 == asked(connection, "/metrics").status
    return str(number)


def refusal(it: Guarded, place: str) -> bool:
    refused = it.program.events("web_config_refused")
    return bool(refused) and any(place in problem for problem in refused[-1]["problems"])


class Series:
    """What was seen again and again, and what went wrong."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.failed: list[str] = []


@contextlib.contextmanager
def scraping(scrape: Callable[[], Any], pause: float = 0.02) -> Iterator[Series]:
    """Scrape from a thread of its own until the end."""
    series, over = Series(), threading.Event()

    def go_on() -> None:
        while not over.wait(pause):
            try:
                series.seen.append(scrape())
            except (OSError, http.client.HTTPException, AssertionError, ValueError) as error:
                series.failed.append(repr(error))

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        assert until(lambda: series.seen), series.failed
        yield series
    finally:
        over.set()
        thread.join(2 * DEADLINE)


@pytest.mark.parametrize(
    ("guard", "addresses"), [(False, 1), (True, 1), (True, 3)], ids=["plain", "tls", "tls on three addresses"]
)
def test_idle_connections_never_use_up_the_open_files(place: Path, guard: bool, addresses: int) -> None:
    """With 300 open files and 320 silent connections, and as many idle ones, every scrape is answered."""
    ports = [free_port() for _ in range(addresses)]
    port = ports[0]
    write_config(place, free_port(), *inline("a"))
    replaced(place / "web.yaml", json.dumps(tls() if guard else {}))
    few = ("sh", "-c", 'ulimit -n 300 && exec "$0" "$@"', sys.executable, "-m", "exporter", "run")
    address = (*(f"--web.listen-address=127.0.0.1:{each}" for each in ports), "--web.config.file=web.yaml")
    client = trusting(place) if guard else None
    with started(place, *few, *address) as program, contextlib.ExitStack() as stack:
        assert until(lambda: program.events("listening")), program.err.read_text()
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", each), DEADLINE))
            for each in itertools.islice(itertools.cycle(ports), 320)
        ]
        # Those past the limit make room. In 3 s, before the deadline of a handshake would end them all.
        most = 34 if guard else 136
        assert until(lambda: len(select.select(silent, [], [], 0)[0]) >= len(silent) - most, 3)
        for number in range(340):
            connection = stack.enter_context(contextlib.closing(connected(port, client)))
            answer = asked(connection, "/-/healthy" if number % 20 else "/metrics")
            assert 200 == answer.status


def test_switching_tls_takes_a_restart(place: Path) -> None:
    """TLS on where it was off, and off where it was on, is refused with the reason, and the old way stays."""
    with guarded(place) as it:
        (problem,) = it.change("web_config_refused", **tls())

        assert "restart" in problem
        assert 200 == ask(it.port, "/metrics").status
    with guarded(place, **tls()) as it:
        (problem,) = it.change("web_config_refused")

        assert "restart" in problem
        assert 200 == it.get("/metrics").status


def test_other_protocols_do_no_harm(place: Path) -> None:
    """HTTP to the TLS port gets 400, other bytes and TLS to the plain port nothing; the next is served."""
    request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with guarded(place, **tls()) as it:
        told, *answers = [spoken(it.port, data) for data in (request, b"\0" * 4096, b"\x16\x03\x01")]

        assert told.startswith(b"HTTP/1.1 400 ")
        assert [] == [answer for answer in answers if b"HTTP" in answer]
        assert 200 == it.get("/metrics").status
        assert [] == errors(it.program)
    with guarded(place) as it:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            it.get("/metrics")
        assert 200 == ask(it.port, "/metrics").status
        assert [] == errors(it.program)


def spoken(port: int, data: bytes) -> bytes:
    """Say something, and return what comes back until the program hangs up."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while piece := connection.recv(4096):
                answer += piece
    return answer


def errors(program: Program) -> list[dict[str, Any]]:
    return [entry for entry in program.log() if entry["level"] in {"error", "critical"}]


# ------------------------------------------------------------------------------------------- passwords


def test_passwords_are_asked_for_everywhere(tmp_path: Path) -> None:
    """Every path wants a password, every answer has the headers; a removed user is out; health is open."""
    sock = tmp_path / "health.sock"
    headers = {"http_server_config": {"headers": {"X-Frame-Options": "deny", "X-XSS-Protection": "0"}}}
    right, wrong, other = basic("anna", "one"), basic("anna", "two"), basic("ben", "three")
    flags = ("--web.enable-lifecycle", f"--web.health-socket={sock}")
    both = users(anna="one", ben="three") | headers
    with guarded(tmp_path, *flags, **both) as it:
        strangers = [ask(it.port, path) for path in PATHS]
        mistaken = [ask(it.port, path, Authorization=wrong) for path in PATHS]
        welcome = [ask(it.port, path, Authorization=right) for path in PATHS]

        assert [401] * 2 * len(PATHS) == [answer.status for answer in strangers + mistaken]
        assert [] == [answer for answer in strangers if "Basic " not in answer.headers["www-authenticate"]]
        assert [200, 200, 200, 200, 405, 404] == [answer.status for answer in welcome]
        assert {("deny", "0")} == {
            (answer.headers["x-frame-options"], answer.headers["x-xss-protection"])
            for answer in strangers + mistaken + welcome
        }
        assert 401 == ask(it.port, "/-/reload", "POST").status
        assert [] == it.program.events("reloaded")
        assert 200 == ask(it.port, "/metrics", Authorization=other).status
        it.change(**users(anna="one"))
        assert 401 == ask(it.port, "/metrics", Authorization=other).status
        assert 200 == ask(it.port, "/metrics", Authorization=right).status
        with exporting(tmp_path, "health", f"--web.health-socket={sock}") as asking:
            assert 0 == asking.process.wait(DEADLINE)
        assert [] == leaks(it.program, "one", "two", "three")


def leaks(program: Program, *passwords: str) -> list[str]:
    text = program.err.read_text() + program.said()
    tokens = [basic(user, password)[6:] for user in ("anna", "ben") for password in passwords]
    return [sign for sign in ("$2b$", *tokens) if sign in text]


def test_sighup_takes_the_web_config_too(tmp_path: Path) -> None:
    """After SIGHUP the new password counts; a web config that is bad refuses the whole, with its place."""
    with guarded(tmp_path, **users(anna="one")) as it:
        replaced(tmp_path / "web.yaml", json.dumps(users(anna="two")))
        it.program.process.send_signal(signal.SIGHUP)
        assert until(lambda: it.program.events("reloaded"))

        assert 401 == ask(it.port, "/metrics", Authorization=basic("anna", "one")).status
        assert 200 == ask(it.port, "/metrics", Authorization=basic("anna", "two")).status
        replaced(tmp_path / "web.yaml", json.dumps({"basic_auth_users": {"anna": "plain"}}))
        it.program.process.send_signal(signal.SIGHUP)
        assert until(lambda: it.program.events("reload_failed"))
        (failed,) = it.program.events("reload_failed")
        assert "basic_auth_users.anna" in failed["problems"][0]
        assert 200 == ask(it.port, "/metrics", Authorization=basic("anna", "two")).status


# ------------------------------------------------------------------------------------------- reloads


@pytest.mark.parametrize("reloads", [50, pytest.param(200, marks=pytest.mark.slow)])
def test_reloads_disturb_neither_scrapes_nor_polls(tmp_path: Path, reloads: int) -> None:
    """After reloads, good and bad in turn, no scrape failed, no counter fell, no poll was doubled or lost."""
    with simulated("a", "b") as api:
        polling(tmp_path, api.port, "a", "b")
        with running(tmp_path, "--web.enable-lifecycle") as (program, port):
            begun = time.time()
            with scraping(lambda: counters(ask(port, "/metrics"))) as scrapes:
                for number in range(reloads):
                    # In turn: as before, bad, another client, bad.
                    names = ("a", "a") if number % 2 else ("a", "b")
                    polling(tmp_path, api.port, *names, timeout="9s" if number % 4 == 2 else "10s")
                    reload(program, port, number)
                    time.sleep(0.05)
            requests = list(api.world.requests)
            elapsed = time.time() - begun

    polls: dict[tuple[str, str], list[float]] = {
        (site, path): [each.time for each in requests if (each.site, each.path) == (site, path)]
        for site in ("a", "b")
        for path in POLLED
    }
    gaps = [round(b - a, 2) for times in polls.values() for a, b in itertools.pairwise(times[1:])]
    assert len(gaps) >= len(polls)  # it was long enough to tell
    assert [] == scrapes.failed
    assert [] == [fall for pair in itertools.pairwise(scrapes.seen) for fall in fallen(*pair)]
    assert [] == [gap for gap in gaps if not INTERVAL - 0.3 <= gap <= INTERVAL + 0.5]
    assert [] == [len(times) for times in polls.values() if abs(len(times) - elapsed / INTERVAL) > 2]
    assert len(requests) == sum(len(times) for times in polls.values())


def polling(directory: Path, api: int, *sites: str, timeout: str = "10s") -> None:
    """Write a config; two sites of one name make it a bad one."""
    document = {
        "api": {"url": f"http://127.0.0.1:{api}", "timeout": timeout},
        "sites": inline(*sites),
        "poll": {name: {"interval": f"{INTERVAL:.0f}s"} for name in ("payout", "history", "top_users")},
    }
    replaced(directory / "config.yaml", json.dumps(document))


def reload(program: Program, port: int, number: int) -> None:
    """Reload by SIGHUP and over HTTP in turn, and wait until it is done; the odd ones are refused."""
    if number % 3:
        assert (400 if number % 2 else 200) == ask(port, "/-/reload", "POST").status
        return
    before = outcomes(program)
    program.process.send_signal(signal.SIGHUP)
    assert until(lambda: outcomes(program) != before)
    event = "reload_failed" if number % 2 else "reloaded"
    assert Counter([event]) == outcomes(program) - before


def outcomes(program: Program) -> Counter[str]:
    lines = program.err.read_text().split("\n")[:-1]  # the last one may be half there
    events = (json.loads(line)["event"] for line in lines)
    return Counter(event for event in events if event in {"reloaded", "reload_failed"})


def counters(answer: Answer) -> dict[str, float]:
    """Return the samples of a page that may only grow."""
    assert 200 == answer.status
    lines = answer.text.split("\n")[:-1]
    kinds = {line.split()[2]: line.split()[3] for line in lines if line.startswith("# TYPE ")}
    growing = {name for name, kind in kinds.items() if kind == "counter"}
    growing |= {
        f"{name}_{part}"
        for name, kind in kinds.items()
        if kind == "histogram"
        for part in ("bucket", "count", "sum")
    }
    values = (line.rpartition(" ") for line in lines if line[0] != "#")
    return {series: float(value) for series, _, value in values if series.partition("{")[0] in growing}


def fallen(before: dict[str, float], after: dict[str, float]) -> list[str]:
    """Return the counters that went, or fell."""
    return [series for series, value in before.items() if after.get(series, -1.0) < value]
