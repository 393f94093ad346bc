"""The shipped rules in a real Prometheus, the shipped routes in a real Alertmanager, a webhook at the end.

Nobody's clock is touched: the simulated site had its drop in its last settled hours. All intervals and waits
of the two files are a sixtieth of what is shipped (`hurried`), a minute there is a second here; expressions,
with their windows and offsets, are as shipped.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import yaml

from exporter.simulator import HOUR, Incident
from tests.alerting import ALERTS, RULES, settings
from tests.conftest import required
from tests.e2e.programs import (
    answering,
    ask,
    free_port,
    inline,
    prometheus,
    ready,
    running,
    simulated,
    started,
    until,
    write_config,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from exporter.simulator import World

pytestmark = pytest.mark.slow

SITE, OTHER = "dropped", "steady"
HURRY = 60
QUIET = 8.0  # seconds: longer than a group of alerts waits to be told anew
PATIENCE = 120.0  # seconds that a message may take
DURATION = re.compile(r"^(\d+)(s|m|h|d)$")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DURATIONS = {"interval", "for", "keep_firing_for", "group_wait", "group_interval", "repeat_interval"}


def hurried(document: Any) -> Any:
    """Return rules or routes with every interval and wait a sixtieth of what it was."""
    if isinstance(document, list):
        return [hurried(each) for each in document]
    if not isinstance(document, dict):
        return document
    return {key: sooner(value) if key in DURATIONS else hurried(value) for key, value in document.items()}


def sooner(duration: str) -> str:
    number, unit = DURATION.fullmatch(duration).groups()  # type: ignore[union-attr]
    return f"{max(1000, 1000 * int(number) * SECONDS[unit] // HURRY)}ms"


class Inbox(ThreadingHTTPServer):
    """A webhook: keeps what Alertmanager posts, with the receiver it was for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Posted)
        self.messages: list[dict[str, Any]] = []

    def told(self, alert: str, site: str, status: str, since: int = 0) -> dict[str, Any] | None:
        """Return the alert of this name, site and status from the first message that has it."""
        found = (
            {**each, "receiver": message["receiver"]}
            for message in self.messages[since:]
            for each in message["alerts"]
            if (each["labels"]["alertname"], each["labels"].get("site"), each["status"])
            == (alert, site, status)
        )
        return next(found, None)


class Posted(BaseHTTPRequestHandler):
    server: Inbox

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.messages.append(json.loads(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Say nothing."""


class Chain(NamedTuple):
    """All of it: the simulated world, the webhook, and Alertmanager's port."""

    world: World
    inbox: Inbox
    alertmanager: int

    def inhibited(self, alert: str, site: str) -> bool:
        """Whether Alertmanager has such an alert and holds it back because of another."""
        found = json.loads(ask(self.alertmanager, "/api/v2/alerts").body)
        mine = [each for each in found if each["labels"].get("site") == site]
        return any(each["status"]["inhibitedBy"] for each in mine if each["labels"]["alertname"] == alert)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Run API, exporter, Prometheus and Alertmanager, and a webhook at their end."""
    directory = tmp_path_factory.mktemp("alerts")
    quick = {"interval": "1s", "stale_after": "5s"}
    with contextlib.ExitStack() as stack:
        inbox = stack.enter_context(answering(Inbox()))
        api = stack.enter_context(simulated(SITE, OTHER))
        begin = time.time() // HOUR * HOUR - 5 * HOUR
        api.world.sites[SITE].incidents.append(Incident("drop", begin, 12 * HOUR, factor=0.2))
        polls = dict.fromkeys(("payout", "history", "top_users"), quick)
        write_config(directory, api.port, *inline(SITE, OTHER), poll=polls)
        _, exporter = stack.enter_context(running(directory))
        alertmanager = stack.enter_context(routing(directory, inbox.server_port))
        stack.enter_context(ruling(directory, exporter, alertmanager))
        yield Chain(api.world, inbox, alertmanager)


@contextlib.contextmanager
def routing(directory: Path, webhook: int) -> Iterator[int]:
    """Run Alertmanager on the shipped example, its webhooks at our port."""
    shipped = (ALERTS / "alertmanager.example.yml").read_text()
    document = hurried(yaml.safe_load(shipped.replace("127.0.0.1:9095", f"127.0.0.1:{webhook}")))
    config, port = directory / "alertmanager.yml", free_port()
    config.write_text(json.dumps(document))
    flags = [
        f"--config.file={config}",
        f"--storage.path={directory / 'alertmanager'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    with started(directory, required("prometheus-alertmanager"), *flags) as program:
        assert until(lambda: ready(port)), program.err.read_text()
        yield port


@contextlib.contextmanager
def ruling(directory: Path, exporter: int, alertmanager: int) -> Iterator[int]:
    """Run Prometheus on the shipped rules and settings, with links, under the job name that they expect."""
    documents = {"rules": yaml.safe_load(RULES.read_text()), "settings": settings("cryptoloot:links:setting")}
    for name, document in documents.items():
        (directory / f"{name}.json").write_text(json.dumps(hurried(document)))
    document = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(directory / "rules.json"), str(directory / "settings.json")],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}]},
        "scrape_configs": [
            {"job_name": "cryptoloot", "static_configs": [{"targets": [f"127.0.0.1:{exporter}"]}]}
        ],
    }
    with prometheus(directory, document, "--rules.alert.resend-delay=1s") as (_, port):
        yield port


def arrives(found: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
    message = until(found, PATIENCE)
    assert message is not None
    return message


def test_a_drop_reaches_the_webhook_an_outage_holds_it_back_and_all_resolves(chain: Chain) -> None:
    """The right site, with its annotations, to the right receiver; the API's outage is its own message."""
    drop = arrives(lambda: chain.inbox.told("CryptolootHashrateDrop", SITE, "firing"))
    assert drop["receiver"] == "chat"
    assert drop["labels"]["severity"] == "warning"
    summary = drop["annotations"]["summary"]
    assert re.fullmatch(f"Hashrate of {SITE} is at \\d[\\d.]*% of what is expected", summary)
    assert "https://docs.example/runbook.md#cryptoloothashratedrop" == drop["annotations"]["runbook_url"]
    assert f"https://grafana.example/d/cryptoloot-site?var-site={SITE}" == drop["annotations"]["dashboard"]
    assert chain.inbox.told("CryptolootHashrateDrop", OTHER, "firing") is None

    site = chain.world.sites[SITE]
    site.incidents.append(Incident("outage", time.time(), 3600))
    failing = arrives(lambda: chain.inbox.told("CryptolootEndpointFailing", SITE, "firing"))
    assert failing["labels"]["endpoint"].startswith("/")
    assert until(lambda: chain.inhibited("CryptolootHashrateDrop", SITE), PATIENCE)
    count = len(chain.inbox.messages)
    time.sleep(QUIET)
    assert chain.inhibited("CryptolootHashrateDrop", SITE)
    assert chain.inbox.told("CryptolootHashrateDrop", SITE, "firing", count) is None

    del site.incidents[:]
    arrives(lambda: chain.inbox.told("CryptolootEndpointFailing", SITE, "resolved"))
    arrives(lambda: chain.inbox.told("CryptolootHashrateDrop", SITE, "resolved"))
    assert chain.inbox.told("CryptolootEndpointFailing", OTHER, "firing") is None
