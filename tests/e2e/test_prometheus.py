"""A real Prometheus scrapes the program; its promtool and client libraries read the pages."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as text_families

from tests.conftest import required
from tests.e2e.programs import (
    DEADLINE,
    FAMILIES,
    Program,
    alive,
    answering,
    ask,
    exporting,
    free_port,
    prometheus,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SITES = ("healthy", "troubled")
TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
ALARMS = ("append failed", "error on ingesting", "duplicate", "out of order", "out-of-order", "out of bounds")
HARMLESS = ("level=debug", "level=info")  # Prometheus 3 writes levels in capitals


class Scraper(NamedTuple):
    """A Prometheus: its process and where its API is."""

    program: Program
    port: int

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the vector of an instant query."""
        answer = ask(self.port, f"/api/v1/query?{urlencode({'query': expression})}")
        result: list[dict[str, Any]] = json.loads(answer.body)["data"]["result"]
        return result

    def values(self, expression: str) -> list[float]:
        return [float(found["value"][1]) for found in self.query(expression)]

    def families(self) -> set[tuple[str, str]]:
        """Return the names that have samples now, each with the site."""
        found = self.query('count by (__name__, site) ({site!=""})')
        return {(each["metric"]["__name__"], each["metric"]["site"]) for each in found}

    def alarms(self) -> list[str]:
        """Return the lines of the log that are warnings, or speak of samples that were not taken."""
        lines = [line.lower() for line in self.program.err.read_text().splitlines() if "level=" in line]
        return [
            line
            for line in lines
            if not any(level in line for level in HARMLESS) or any(sign in line for sign in ALARMS)
        ]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Run the demo for this file; yield its port once all its values are there."""
    port = free_port()
    with exporting(tmp_path_factory.mktemp("demo"), "demo", f"--web.listen-address=127.0.0.1:{port}"):
        assert until(lambda: alive(port, *SITES))
        yield port


@contextlib.contextmanager
def scraping(directory: Path, *targets: int) -> Iterator[Scraper]:
    """Run Prometheus on these ports of the loopback, each scraped every second."""
    jobs = [
        {"job_name": f"port-{target}", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
        for target in targets
    ]
    document = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": jobs}
    with prometheus(directory, document, "--log.level=debug") as (program, port):
        yield Scraper(program, port)


class Recorder(ThreadingHTTPServer):
    """A target without metrics that keeps the Accept header of who scrapes it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Recording)
        self.accepts: list[str] = []


class Recording(BaseHTTPRequestHandler):
    server: Recorder

    def do_GET(self) -> None:
        self.server.accepts.append(self.headers["Accept"])
        self.send_response(200)
        self.send_header("Content-Type", OPENMETRICS)
        self.end_headers()
        self.wfile.write(b"# EOF\n")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Say nothing."""


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    with answering(Recorder()) as listening:
        yield listening


@pytest.fixture(scope="module")
def scraper(tmp_path_factory: pytest.TempPathFactory, demo: int, recorder: Recorder) -> Iterator[Scraper]:
    """Run one Prometheus for this file, on the demo and the recorder: its first scrape takes five seconds."""
    with scraping(tmp_path_factory.mktemp("prometheus"), demo, recorder.server_port) as running:
        yield running


# ------------------------------------------------------------------------------------------------- Prometheus


def check_scrapes(scraper: Scraper, target: int, seconds: float) -> None:
    """Let Prometheus scrape for so long; assert that it took everything, every time."""
    wanted = {(family, site) for family in FAMILIES for site in SITES}
    assert until(lambda: wanted <= scraper.families())
    time.sleep(seconds)

    job = f'{{job="port-{target}"}}'
    span = f"{job}[{round(seconds)}s]"
    assert set() == wanted - scraper.families()
    assert [1] == scraper.values(f"min_over_time(up{span})")
    assert scraper.values(f"count_over_time(up{span})")[0] >= seconds - 2
    assert scraper.values(f"min_over_time(scrape_samples_scraped{span})")[0] > 2 * len(FAMILIES)
    assert [0] == scraper.values(
        f"max_over_time((scrape_samples_scraped{job} - scrape_samples_post_metric_relabeling{job})"
        f"[{round(seconds)}s:1s])"
    )
    assert [] == scraper.alarms()


@pytest.mark.slow
def test_prometheus_takes_everything(scraper: Scraper, demo: int) -> None:
    """Prometheus has every value family of both sites, and its log at its most talkative no complaint."""
    check_scrapes(scraper, demo, 6)

    rates = scraper.values("cryptoloot_hashrate_hashes_per_second > 0")
    assert len(SITES) == len(set(rates))
    assert [0, 0] == scraper.values("sum by (site) (cryptoloot_poll_failures_total)")


@pytest.mark.slow
def test_prometheus_takes_everything_for_a_minute(tmp_path: Path) -> None:
    """Over a minute no scrape fails and no sample is refused, while values change and counters grow."""
    target = free_port()
    with (
        exporting(tmp_path, "demo", f"--web.listen-address=127.0.0.1:{target}"),
        scraping(tmp_path, target) as scraper,
    ):
        check_scrapes(scraper, target, 60)

        assert [0, 0] == scraper.values("sum by (site) (resets(cryptoloot_polls_total[1m]))")
        assert min(scraper.values("increase(cryptoloot_polls_total[50s])")) >= 8
        assert min(scraper.values("sum by (site) (increase(cryptoloot_user_hashes_total[50s]))")) > 0


@pytest.mark.usefixtures("scraper")
def test_prometheus_gets_openmetrics(recorder: Recorder, demo: int) -> None:
    """The Accept header that this Prometheus sends is answered with OpenMetrics."""
    assert until(lambda: recorder.accepts)
    answer = ask(demo, "/metrics", Accept=recorder.accepts[0])

    assert OPENMETRICS == answer.headers["content-type"]
    assert answer.body.endswith(b"\n# EOF\n")


# ------------------------------------------------------------------------------------------------- readers


def test_promtool_has_nothing_to_say(demo: int) -> None:
    """`promtool check metrics` passes the text page without a word."""
    page = ask(demo, "/metrics").body
    checked = subprocess.run(
        [required("promtool"), "check", "metrics"],
        input=page,
        capture_output=True,
        check=False,
        timeout=DEADLINE,
    )

    assert (0, b"", b"") == (checked.returncode, checked.stdout, checked.stderr)


def test_the_clients_own_parsers_read_both_formats(demo: int) -> None:
    """prometheus-client reads both live pages, and finds the same value families of both sites."""
    text, openmetrics = (ask(demo, "/metrics", Accept=accept) for accept in (TEXT, OPENMETRICS))
    parsed = [text_families(text.text), openmetrics_families(openmetrics.text)]
    found = [
        {
            (sample.name, sample.labels["site"])
            for family in families
            for sample in family.samples
            if "site" in sample.labels
        }
        for families in parsed
    ]

    assert (TEXT, OPENMETRICS) == (text.headers["content-type"], openmetrics.headers["content-type"])
    assert found[0] == found[1]
    assert set() == {(family, site) for family in FAMILIES for site in SITES} - found[0]


def test_no_created_samples_and_no_timestamps(demo: int) -> None:
    """A sample line is series and value, nothing after it, and none is a `_created` one."""
    for accept in (TEXT, OPENMETRICS):
        families = text_families if accept is TEXT else openmetrics_families
        found = [
            each for family in families(ask(demo, "/metrics", Accept=accept).text) for each in family.samples
        ]

        assert found
        assert [] == [sample for sample in found if sample.name.endswith("_created")]
        assert {None} == {sample.timestamp for sample in found}
