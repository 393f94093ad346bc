"""Every reason of the contract, over the whole program: one endpoint fails, all else goes on."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import parse_qs, quote, quote_plus, urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from exporter.collectors.history import HISTORY
from exporter.collectors.payout import PAYOUT
from exporter.collectors.users import TOP_USERS
from exporter.endpoint import USER_REASONS, Endpoint, Reason
from tests.e2e.programs import PACKAGES, answering

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

TAIL = " &=+%/ #?é"  # characters that mean something in a URL
POLLED = (PAYOUT, HISTORY, TOP_USERS)
FAILING = TOP_USERS
DEADLINE = 20.0  # seconds
HEALTHY = "healthy"
HTML = b"<html><h1>Sorry</h1></html>"

GOOD = {
    PAYOUT: b'{"success":true,"diff":1,"value":2,"payout":3,"payoutPer1MHashes":4,"synctime":5}',
    HISTORY: b'{"success":true,"history":[]}',
    TOP_USERS: b'{"success":true,"users":[]}',
}


def message(body: bytes, status: int = 200, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Said", *headers, "Connection: close", f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def refuse(code: str, status: int = 200) -> bytes:
    return message(json.dumps({"success": False, "error": code}).encode(), status)


# What the server says to a site of this name when it asks for /user/top; None is silence.
FAULTS: dict[Reason, bytes | None] = {
    Reason.TIMEOUT: None,
    Reason.CONNECT: message(GOOD[FAILING])[:-1],
    Reason.HTTP_STATUS: message(HTML, 500),
    Reason.RATE_LIMITED: message(HTML, 429, "Retry-After: 1"),
    Reason.REDIRECT: message(HTML, 302, "Location: http://127.0.0.1:1/elsewhere"),
    Reason.TOO_LARGE: message(gzip.compress(bytes(1 << 20)), 200, "Content-Encoding: gzip"),
    Reason.INVALID_JSON: message(HTML),
    Reason.INVALID_RESPONSE: message(b'{"success":true,"users":"none"}'),
    Reason.INVALID_SECRET: refuse("invalid_secret"),
    Reason.BAD_REQUEST: refuse("bad_request", 400),
    Reason.WRONG_METHOD: refuse("wrong_method", 405),
    Reason.NOT_FOUND: refuse("not_found", 404),
    Reason.INTERNAL_ERROR: refuse("internal_error", 500),
    Reason.UNKNOWN_ERROR: refuse("database_on_fire"),
}
# The ways to fail before a server is asked; PLAIN is a server without TLS, CLOSED a port that refuses.
UNREACHED = {
    Reason.DNS: "http://no-such-host.invalid",
    Reason.TLS: "https://127.0.0.1:PLAIN",
    Reason.CONNECT: "http://127.0.0.1:CLOSED",
}


class Api(socketserver.ThreadingTCPServer):
    """An API that fails for /user/top in the way of the site's name, which its secret tells."""

    request_queue_size = 128  # all sites come within a second

    def __init__(self) -> None:
        self.over = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(socketserver.StreamRequestHandler):
    server: Api
    timeout = DEADLINE

    def handle(self) -> None:
        if cast("io.BufferedReader", self.rfile).peek(1)[:1] != b"G":  # no GET but a TLS handshake
            self.wfile.write(message(HTML, 400))
            return
        line = self.rfile.readline(8192).decode("latin-1").split(" ")
        while self.rfile.readline(8192).strip():
            pass
        target = urlsplit(line[1])
        site = parse_qs(target.query)["secret"][0].removeprefix("canary-").removesuffix(TAIL)
        answer = GOOD[Endpoint(target.path)]
        fault = FAULTS[Reason(site)] if site != HEALTHY and target.path == FAILING else message(answer)
        if fault is None:
            self.server.over.wait(DEADLINE)
        self.wfile.write(fault or b"")


@contextlib.contextmanager
def serving() -> Iterator[Api]:
    with answering(Api()) as api:
        try:
            yield api
        finally:
            api.over.set()


@contextlib.contextmanager
def bound(*, listening: bool = False) -> Iterator[int]:
    """Yield a free port: reserved and refusing connections, or one that is free to listen on."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port = int(opened.getsockname()[1])
        if listening:
            opened.close()
        yield port


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def sample(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((f"cryptoloot_{name}", frozenset(labels.items())))


class Program(NamedTuple):
    """The exporter as a process."""

    process: subprocess.Popen[bytes]
    port: int
    output: Path

    def page(self) -> str:
        """Return /metrics, or nothing while nobody listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()
        except ConnectionError:
            return ""
        finally:
            connection.close()

    def until(self, reached: Callable[[Samples], bool]) -> tuple[str, Samples]:
        """Scrape until the samples are as they should be, or the time is up; return the last page."""
        end = time.monotonic() + DEADLINE
        while True:
            page = self.page()
            samples: Samples = {
                (found.name, frozenset(found.labels.items())): found.value
                for family in text_string_to_metric_families(page)
                for found in family.samples
            }
            if reached(samples) or time.monotonic() > end or self.process.poll() is not None:
                return page, samples
            time.sleep(0.1)

    def end(self) -> tuple[int, str]:
        """Send SIGTERM; return the exit code and all that was written."""
        os.kill(self.process.pid, signal.SIGTERM)
        return self.process.wait(5), self.output.read_text()


@contextlib.contextmanager
def exporting(directory: Path, url: str, sites: list[str]) -> Iterator[Program]:
    """Run the program against this API, all intervals a second, and let it say all it has to say."""
    document: Mapping[str, Any] = {
        "api": {"url": url, "timeout": "2s", "max_response_bytes": "64KiB", "allow_insecure": True},
        "sites": [{"name": site, "secret_env": f"SECRET_{site}"} for site in sites],
        "poll": {name: {"interval": "1s"} for name in ("payout", "history", "top_users")},
    }
    config, output = directory / "config.yaml", directory / "output"
    config.write_text(json.dumps(document))
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": PACKAGES} | {
        f"SECRET_{site}": secret(site) for site in sites
    }
    with bound(listening=True) as port, output.open("wb") as written:
        flags = [f"--config.file={config}", f"--web.listen-address=127.0.0.1:{port}", "--log.level=debug"]
        process = subprocess.Popen(
            [sys.executable, "-m", "exporter", "run", *flags],
            cwd=directory,
            env=environ,
            stdout=written,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Program(process, port, output)
    finally:
        process.kill()  # of no effect where it has ended
        process.wait()


def secret(site: str) -> str:
    return f"canary-{site}{TAIL}"


def leaks(sites: list[str], text: str) -> list[str]:
    """Return the forms of the sites' secrets that the text holds."""
    secrets = [secret(site) for site in sites]
    forms = [form for each in secrets for form in (each, quote(each), quote(each, safe=""), quote_plus(each))]
    return [form for form in [*forms, "canary"] if form in text]


def failures(samples: Samples, site: str) -> dict[tuple[Endpoint, Reason], float]:
    """Return a site's failures that are not 0."""
    found = {
        (endpoint, reason): sample(
            samples, "poll_failures_total", site=site, endpoint=endpoint, reason=reason.value
        )
        for endpoint in POLLED
        for reason in Reason
    }
    return {key: value for key, value in found.items() if value}


def up(samples: Samples, site: str) -> dict[Endpoint, float | None]:
    return {endpoint: sample(samples, "up", site=site, endpoint=endpoint) for endpoint in POLLED}


class Outcome(NamedTuple):
    """What a run of the program has left behind."""

    page: str
    samples: Samples
    code: int
    output: str


def has_polled(samples: Samples, sites: list[str], failing: tuple[Endpoint, ...]) -> bool:
    """Whether all endpoints of all sites have been polled and those that should have failed have."""
    polled = all(None not in up(samples, site).values() for site in sites)
    ended = all(up(samples, site)[endpoint] == 0 for site in sites if site != HEALTHY for endpoint in failing)
    return (
        polled and ended and all(set(up(samples, site).values()) == {1} for site in sites if site == HEALTHY)
    )


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Run the program once with a site for each reason, and a healthy one."""
    sites = [*FAULTS, HEALTHY]
    with (
        serving() as api,
        exporting(
            tmp_path_factory.mktemp("run"), f"http://127.0.0.1:{api.server_address[1]}", sites
        ) as program,
    ):
        page, samples = program.until(lambda samples: has_polled(samples, sites, (FAILING,)))
        return Outcome(page, samples, *program.end())


def test_every_reason_is_played() -> None:
    """Each reason that the program's endpoints can have today has its part in this file."""
    assert set(Reason) - {Reason.INVALID_PAGE, *USER_REASONS} == FAULTS.keys() | UNREACHED.keys()


@pytest.mark.parametrize("reason", FAULTS)
def test_a_failure_counts_under_its_reason_alone(outcome: Outcome, reason: Reason) -> None:
    """The failing endpoint's counter of the reason moves, and no other counter of the site."""
    counted = failures(outcome.samples, reason.value)
    polls = sample(outcome.samples, "polls_total", site=reason.value, endpoint=FAILING)

    assert [(FAILING, reason)] == list(counted)
    assert polls == counted[FAILING, reason]


@pytest.mark.parametrize("reason", FAULTS)
def test_a_failure_touches_no_other_endpoint(outcome: Outcome, reason: Reason) -> None:
    """Only the endpoint that fails is down; the others of its site stay up."""
    assert {PAYOUT: 1, HISTORY: 1, FAILING: 0} == up(outcome.samples, reason.value)


def test_a_failure_touches_no_other_site(outcome: Outcome) -> None:
    """A site beside fourteen that fail is up, and none of its polls has failed."""
    assert dict.fromkeys(POLLED, 1) == up(outcome.samples, HEALTHY)
    assert {} == failures(outcome.samples, HEALTHY)


def test_no_secret_is_written_or_shown(outcome: Outcome) -> None:
    """Neither /metrics nor the log at its most talkative hold a secret, raw or as a URL writes it."""
    assert "poll_failed" in outcome.output
    assert [] == leaks([*FAULTS, HEALTHY], outcome.page + outcome.output)


def test_the_program_ends_well(outcome: Outcome) -> None:
    """SIGTERM ends the program with 0 whatever its calls were waiting for; nothing had crashed."""
    assert 0 == outcome.code
    assert 0 == sample(outcome.samples, "exporter_loop_restarts_total")
    assert "Traceback" not in outcome.output


@pytest.mark.parametrize("reason", UNREACHED)
def test_an_api_that_cannot_be_reached(tmp_path: Path, reason: Reason) -> None:
    """All endpoints fail for the one reason, the page is served all the same, and no secret shows."""
    with serving() as api, bound() as closed:
        plain = str(api.server_address[1])
        url = UNREACHED[reason].replace("PLAIN", plain).replace("CLOSED", str(closed))
        with exporting(tmp_path, url, ["lost"]) as program:
            page, samples = program.until(lambda samples: has_polled(samples, ["lost"], POLLED))
            code, output = program.end()

    assert {(endpoint, reason) for endpoint in POLLED} == failures(samples, "lost").keys()
    assert dict.fromkeys(POLLED, 0) == up(samples, "lost")
    assert [] == leaks(["lost"], page + output)
    assert (0, False) == (code, "Traceback" in output)
