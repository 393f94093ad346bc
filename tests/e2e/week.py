"""Seven days in a minute: the exporter polls the simulated API on virtual time, and its pages become a TSDB.

Everything is the program's own: the polls, the snapshot, the pages as they are scraped. Only time is not, and
Prometheus, which cannot be told that a week has passed: its promtool makes blocks of the pages instead. Then
all goes on in real time: the same world, served; the exporter, polling it; Prometheus, scraping that.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import subprocess
import time
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, urlencode

import httpx
import structlog
import yaml

from exporter import simulator
from exporter.app import App, Options
from exporter.simulator import DAY, HOUR, Incident, World
from tests.alerting import RULES, recorded, rules, settings, uncommented
from tests.conftest import VirtualTime, parsed, required
from tests.e2e.programs import ask, prometheus, running, serving, write_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

WEEK = 7 * DAY
EVERY = 120  # seconds between scrapes: two of them within Prometheus' lookback
POLLS = {name: {"interval": "2m"} for name in ("payout", "top_users")}
ACCEPT = {"Accept": "application/openmetrics-text; version=1.0.0", "Accept-Encoding": "identity"}
SAMPLE = re.compile(r"^([a-zA-Z_]\w*)(?:\{(.*)\})? (\S+)$\n", re.MULTILINE)
EXPORTER = {"job": "cryptoloot", "instance": "exporter:12758"}


class Target(NamedTuple):
    """A path that Prometheus scrapes, and the labels it gives to what it finds there."""

    path: str
    labels: Mapping[str, str]


class Scene(NamedTuple):
    """Who mines, what happens to them, and how the exporter shows it."""

    populate: Callable[[World, float], None]  # a world, and when the week ends
    sites_on_metrics: bool = True
    length: float = WEEK  # seconds

    def sections(self, world: World) -> dict[str, Any]:
        """Return the sections of the exporter's config; the currency is told by the site's name."""
        sites = [
            {"name": site.name, "secret": site.secret, "currency": "UPX" if site.name == "forum" else "XMR"}
            for site in world.sites.values()
        ]
        # What is owed to all users is known in one form, that to the top users in the other.
        walks = {"all_users": {"enabled": not self.sites_on_metrics}}
        return {
            "sites": sites,
            "poll": {**POLLS, **walks},
            "web": {"sites_on_metrics": self.sites_on_metrics},
        }

    def targets(self, world: World) -> list[Target]:
        """Return what Prometheus scrapes, and what it calls it: as README.md says for either form."""
        probes = [
            Target(f"/probe?target={name}", {"job": "cryptoloot-sites", "instance": name})
            for name in world.sites
        ]
        # A second exporter that polls the same site: no sum may have it twice.
        twin = Target("/probe?target=shop", {"job": "cryptoloot-sites", "instance": "twin"})
        return [Target("/metrics", EXPORTER), *(() if self.sites_on_metrics else (*probes, twin))]


def all_well(world: World, end: float) -> None:
    """Add three sites without a worry, one of them too young to have a baseline."""
    world.add("shop", "secret-of-shop", users=25, hashrate=26_000)
    world.add("game", "secret-of-game", users=12, hashrate=9_000)
    world.add("forum", "secret-of-forum", users=8, hashrate=2_500, age=world.clock() - end + 40 * HOUR)


def much_wrong(world: World, end: float) -> None:
    """Add the same and two more: what may happen to a site has happened, or does so when the week ends."""
    all_well(world, end)
    world.add("blog", "secret-of-blog", users=6, hashrate=1_800)
    world.add("arcade", "secret-of-arcade", users=6, hashrate=4_000)
    incidents = {
        "game": [
            Incident("outage", end - 4 * DAY, 3 * HOUR),
            Incident("waver", end - 9 * HOUR, HOUR, fraction=0.01),
            Incident("drop", end - 5 * HOUR, 12 * HOUR, factor=0.3),
        ],
        "forum": [Incident("hostile", end - DAY, 2 * DAY)],
        "blog": [
            Incident("rate-limit", end - 8 * HOUR, HOUR),
            Incident("outage", end - HOUR, DAY, path="/stats/history"),
        ],
        "arcade": [Incident("drop", end - 6 * HOUR, 12 * HOUR, factor=0.0)],
    }
    for name, found in incidents.items():
        world.sites[name].incidents += found


QUIET = Scene(all_well)
INCIDENTS = Scene(much_wrong, sites_on_metrics=False)


class Stage(NamedTuple):
    """A week that goes on: its world, and where Prometheus and the exporter are."""

    scene: Scene
    world: World
    prometheus: int
    exporter: int

    def query(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """Return the vector of an instant query."""
        moment = {} if at is None else {"time": at}
        answer = ask(self.prometheus, f"/api/v1/query?{urlencode({'query': expression, **moment})}")
        found = json.loads(answer.body)
        assert "success" == found["status"], (expression, found)
        result: list[dict[str, Any]] = found["data"]["result"]
        return result


@contextlib.contextmanager
def staged(directory: Path, scene: Scene) -> Iterator[Stage]:
    """Play a week of the scene, then let it go on."""
    world = scraped(directory / "week.om", scene)
    blocks(directory / "week.om", directory / "data")
    with contextlib.ExitStack() as stack:
        api = stack.enter_context(serving(world))
        write_config(directory, api.port, **scene.sections(world))
        _, exporter = stack.enter_context(running(directory))
        prometheus = stack.enter_context(scraping(directory, exporter, scene.targets(world)))
        yield Stage(scene, world, prometheus, exporter)


def scraped(file: Path, scene: Scene) -> World:
    """Scrape the scene's targets until virtual time has caught up with real time."""
    virtual = VirtualTime(time.time() - scene.length)
    world = World(seed=7, clock=lambda: virtual.wall, sleep=virtual.sleep)
    scene.populate(world, time.time())
    config = parsed(**scene.sections(world))
    transport = httpx.ASGITransport(app=simulator.app(world))
    app = App(lambda: config, Options(()), virtual.clock, transport)

    async def record() -> None:
        await app.start()
        transport = httpx.ASGITransport(app=app.web)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://exporter", headers=ACCEPT
        ) as client:
            with file.open("w") as out:
                while virtual.wall + EVERY <= time.time():  # what is not yet, Prometheus would wait for
                    await virtual.run(EVERY)
                    for target in scene.targets(world):
                        page = (await client.get(target.path)).raise_for_status().text
                        out.write(stamped(page, target.labels, virtual.wall))
                out.write("# EOF\n")
        await app.close()

    with silent():
        asyncio.run(record())
    world.clock, world.sleep = time.time, asyncio.sleep
    return world


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Log nothing of all this: it takes longer than the polls."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.reset_defaults()


def stamped(page: str, labels: Mapping[str, str], at: float) -> str:
    """Return the samples of a page with the labels of their target, and the time they were scraped at."""
    own = ",".join(f'{name}="{value}"' for name, value in labels.items())

    def stamp(sample: re.Match[str]) -> str:
        name, theirs, value = sample.groups()
        return f"{name}{{{own}{',' if theirs else ''}{theirs or ''}}} {value} {at:.3f}\n"

    return "".join(stamp(sample) for sample in SAMPLE.finditer(page))


def blocks(file: Path, data: Path) -> None:
    """Let promtool make a TSDB of what was written."""
    command = ("tsdb", "create-blocks-from", "openmetrics", "--quiet", "--max-block-duration=48h")
    subprocess.run([required("promtool"), *command, file, data], check=True, capture_output=True, timeout=300)


def rehearsed(directory: Path, stage: Stage) -> None:
    """Record the line of the drops for the last three days, as Prometheus with these rules would have."""
    line = "site:cryptoloot_hashrate_hashes_per_second:drop_below"
    group = {"name": "past", "rules": [{"record": line, "expr": expanded(line)}]}
    (directory / "past.yml").write_text(json.dumps({"groups": [group]}))
    source = ("--url", f"http://127.0.0.1:{stage.prometheus}", "--output-dir", str(directory / "data"))
    span = ("--start", str(int(time.time() - 3 * DAY)), "--end", str(int(time.time())), "--eval-interval=1m")
    command = (required("promtool"), "tsdb", "create-blocks-from", "rules", *source, *span, "past.yml")
    subprocess.run(command, cwd=directory, check=True, capture_output=True, timeout=300)


def expanded(expression: str) -> str:
    """Return an expression with the recordings it reads written out."""
    known = {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}

    def written_out(found: re.Match[str]) -> str:
        return f"({expanded(known[found[0]])})" if found[0] in known else found[0]  # settings are absent

    names = "|".join(sorted(recorded(expression), key=len, reverse=True))
    return re.sub(names, written_out, uncommented(expression)) if names else expression


@contextlib.contextmanager
def scraping(directory: Path, exporter: int, targets: list[Target]) -> Iterator[int]:
    """Run Prometheus on the blocks, with the shipped rules, each second evaluated; yield its port."""
    jobs = [
        {
            "job_name": str(number),
            "metrics_path": target.path.partition("?")[0],
            "params": parse_qs(target.path.partition("?")[2]),
            "static_configs": [{"targets": [f"127.0.0.1:{exporter}"], "labels": dict(target.labels)}],
        }
        for number, target in enumerate(targets)
    ]
    # A stranger, of whom no dashboard may tell.
    jobs.append({"job_name": "stranger", "static_configs": [{"targets": ["ITSELF"]}]})
    documents = (yaml.safe_load(RULES.read_text()), settings("cryptoloot:links:setting"))
    groups = [group for document in documents for group in document["groups"]]
    rules = {"groups": [{**group, "interval": "1s"} for group in groups]}
    (directory / "rules.yml").write_text(json.dumps(rules))
    document = {
        "global": {"scrape_interval": "2s", "scrape_timeout": "2s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": jobs,
    }
    with prometheus(directory, document, "--storage.tsdb.retention.time=30d") as (_, port):
        yield port
