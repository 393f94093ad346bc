"""Every query of every panel against a real Prometheus that holds a week of the simulated API.

Two weeks, in fact: a quiet one, scraped on `/metrics`, and one of incidents, scraped by `/probe`. Both go on
while they are asked, scraped from a running exporter.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from math import isnan
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode

import pytest

from exporter.collectors.history_rows import HOUR, SETTLED_AFTER
from exporter.simulator import DAY
from tests.conftest import SHARED
from tests.e2e.programs import DEADLINE, ask, until
from tests.e2e.week import INCIDENTS, QUIET, Stage, staged
from tests.test_dashboards import BOARDS, HERE, drawn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from exporter.simulator import Row

pytestmark = pytest.mark.slow

SCENES = {"quiet": QUIET, "incidents": INCIDENTS}
VALUES = {"job": "cryptoloot|cryptoloot-sites", "instance": ".+", "site": ".+", "top": "10"}
ARRIVED_AFTER = 10  # seconds from the start of a scrape until it is stored
SHOWN_AFTER = 300  # seconds from when an hour has settled until it is scraped
STEP = 120  # seconds between points, and between scrapes
# What is empty when all is well, by its dashboard, title and letter.
WELL = {
    ("cryptoloot-sites", "Alerts now", "A"): "no alert fires",
    ("cryptoloot-sites", "All sites", "G"): "the same, by site",
    ("cryptoloot-site", "Failed polls by reason", "A"): "no poll fails",
    ("cryptoloot-exporter", "Failures per minute, by reason", "A"): "no poll fails",
    ("cryptoloot-exporter", "Failing now", "A"): "every endpoint answers",
    ("cryptoloot-exporter", "Held back and rejected", "A"): "every entry can be read",
    ("cryptoloot-exporter", "Held back and rejected", "B"): "no total falls",
}
# What is owed is told of all users or of the top users: the incidents have poll.all_users.
OWED = [(board, "Owed to users") for board in ("cryptoloot-site", "cryptoloot-sites")]
OF_ALL, OF_TOP = ({(*panel, letter): "the other one is there" for panel in OWED} for letter in "AB")


def empty(stage: Stage) -> dict[tuple[str, str, str], str]:
    """Return the queries that may find nothing, and why."""
    return OF_TOP if stage.scene is INCIDENTS else {**OF_ALL, **WELL}


# Where each site has a panel of its own.
YOUNG = {("cryptoloot-site", "Hashrate of forum", ""): "it has too few days for a baseline and a line"}


class Query(NamedTuple):
    """A panel's query: where it stands, and whether it is asked for one moment or for a range."""

    board: str
    title: str
    letter: str
    expression: str
    instant: bool
    step: int = STEP

    def found(self, stage: Stage, now: float, **chosen: str) -> list[dict[str, Any]]:
        """Return what it finds, with numbers in it: series without any, or with NaN alone, are none."""
        expression = self.expression
        times = {
            "__interval_ms": str(self.step * 1000),
            "__interval": f"{self.step}s",
            "__rate_interval": f"{max(self.step + STEP, 4 * STEP)}s",  # as Grafana has it
            "__range": f"{DAY}s",
        }
        for name, value in {**times, **VALUES, **chosen}.items():
            expression = expression.replace(f"${name}", value)
        span = {"time": now} if self.instant else {"start": now - DAY, "end": now, "step": self.step}
        path = "query" if self.instant else "query_range"
        answer = ask(stage.prometheus, f"/api/v1/{path}?{urlencode({'query': expression, **span})}")
        document = json.loads(answer.body)
        assert "success" == document["status"], (self, document)
        return [
            each for each in document["data"]["result"] if any(not isnan(value) for value in numbers(each))
        ]


def numbers(series: dict[str, Any]) -> list[float]:
    pairs = series.get("values") or [series["value"]]
    return [float(value) for _, value in pairs]


def step(panel: dict[str, Any]) -> int:
    """Return the seconds between two points of a panel; some want fewer of them."""
    return max(STEP, 60 * int(panel.get("interval", "0m").removesuffix("m")))


QUERIES = [
    Query(board, panel["title"], target["refId"], target["expr"], target["instant"], step(panel))
    for board in BOARDS
    for panel in drawn(board)
    for target in panel["targets"]
]


def query(board: str, title: str, letter: str = "A") -> Query:
    """Return a panel's query."""
    return next(each for each in QUERIES if (each.board, each.title, each.letter) == (board, title, letter))


@pytest.fixture(scope="module", params=SCENES)
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Play a week; wait until the exporter was scraped and the rules were evaluated."""
    with staged(tmp_path_factory.mktemp(request.param), SCENES[request.param]) as found:
        assert until(lambda: found.query("up{job='cryptoloot'} == 1"), DEADLINE)
        assert until(
            lambda: found.query("site:cryptoloot_hashrate_hashes_per_second:drop_below"), 2 * DEADLINE
        )
        if SCENES[request.param] is INCIDENTS:
            assert until(lambda: found.query("ALERTS{alertname='CryptolootEndpointFailing'}"), 6 * DEADLINE)
        yield found


def test_every_query_finds_something(stage: Stage) -> None:
    """With incidents all of them do, when all is well all but those that show what is not well."""
    now = time.time()
    nothing = {(each.board, each.title, each.letter) for each in QUERIES if not each.found(stage, now)}

    assert set(empty(stage)) == nothing


def test_annotations_are_marks_in_time(stage: Stage) -> None:
    """The exporter's restart is one, where live scrapes begin; alerts are some, where any fire."""
    for board in BOARDS.values():
        alerts, restarts = (
            Query("", mark["name"], "", mark["expr"], instant=False).found(stage, time.time())
            for mark in board["annotations"]["list"]
        )

        assert 1 == len(restarts)
        assert bool(alerts) == (stage.scene is INCIDENTS)


def moments() -> list[float]:
    """Return now, and times of the last week when it is clear which hour is the newest settled one."""
    begin = time.time() // HOUR * HOUR - 6 * DAY + HOUR / 2
    now = time.time() - ARRIVED_AFTER
    since = (now - SETTLED_AFTER) % HOUR  # the newest hour settled
    if since < SHOWN_AFTER:
        now -= since + 1
    return [begin, begin + 2.5 * DAY, begin + 5 * DAY + 7 * HOUR, now]


def settled(stage: Stage, site: str, at: float) -> Row:
    """Return the newest settled row that the world has of a site."""
    polled = last(stage, site, "/stats/history", at)
    return [row for row in stage.world.sites[site].rows(polled) if row.synctime + SETTLED_AFTER <= at][-1]


def last(stage: Stage, site: str, endpoint: str, at: float) -> float:
    """Return when an endpoint was last polled with success."""
    return max(successes(stage, site, endpoint, at))


def successes(stage: Stage, site: str, endpoint: str, at: float) -> list[float]:
    """Return when each exporter last polled an endpoint with success."""
    selector = f'cryptoloot_last_success_timestamp_seconds{{site="{site}",endpoint="{endpoint}"}} > 0'
    return [float(found["value"][1]) for found in stage.query(selector, at)]


def shown(stage: Stage, title: str, at: float, site: str) -> list[dict[str, Any]]:
    """Return what a panel of the site's dashboard shows at a time."""
    return query("cryptoloot-site", title).found(stage, at, site=site)


def test_the_hashrate_shown_is_the_worlds(stage: Stage) -> None:
    """A site's hashrate, and the sum of all."""
    for at in moments():
        (found,) = shown(stage, "Hashrate", at, "shop")
        (whole,) = query("cryptoloot-sites", "Hashrate").found(stage, at)
        known = [
            site
            for site in stage.world.sites
            if stage.query(f'cryptoloot_hashrate_hashes_per_second{{site="{site}"}}', at)
        ]

        assert pytest.approx(settled(stage, "shop", at).hashrate, rel=1e-9) == float(found["value"][1])
        assert pytest.approx(sum(settled(stage, site, at).hashrate for site in known)) == float(
            whole["value"][1]
        )


def test_the_earnings_shown_are_the_worlds(stage: Stage) -> None:
    """The settled hashrate over a day, at the payout of the last poll, in the site's currency."""
    for at in moments():
        (found,) = shown(stage, "Earnings per day", at, "shop")
        # What is noted is the end of a poll; the API answered a moment earlier, maybe with an older payout.
        # Two exporters may poll the site, and the panel shows the payout of either.
        ends = successes(stage, "shop", "/stats/payout", at)
        payouts = [stage.world.sites["shop"].payout(end - before) for end in ends for before in (0, 1)]
        hashes = settled(stage, "shop", at).hashrate * 86400
        expected = [pytest.approx(hashes / 1e6 * payout.payout_per_million, rel=1e-6) for payout in payouts]

        assert "XMR" == found["metric"]["currency"]
        assert float(found["value"][1]) in expected


def test_the_balances_shown_are_the_worlds(stage: Stage) -> None:
    """Each user's balance at the time of the last poll; on a wire, that is a moment before it ended."""
    for at in moments():
        polled = last(stage, "shop", "/user/top", at)
        found = {
            each["metric"]["user"]: float(each["value"][1]) for each in shown(stage, "Balances", at, "shop")
        }
        users = {user.name: user.balance for user in stage.world.sites["shop"].users(polled)}

        assert 10 == len(found)
        assert found == {name: pytest.approx(users[name], rel=1e-4, abs=1e-7) for name in found}


# --------------------------------------------------------------------------------------------------- pictures


@pytest.fixture(scope="module")
def preview(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the program that draws dashboards, in a directory of its own."""
    source = SHARED / "dashboard-preview"
    if not source.exists():
        pytest.skip("dashboard-preview is not beside the repository")
    if not (shutil.which("npm") and shutil.which("chromium")):
        pytest.skip("npm and chromium draw the pictures, and one of them is not installed")
    built: Path = shutil.copytree(source, tmp_path_factory.mktemp("preview") / "it")
    for command in (("npm", "ci"), ("npm", "run", "build")):
        subprocess.run(command, cwd=built, check=True, capture_output=True, timeout=300)
    return built


@pytest.mark.parametrize("board", BOARDS)
def test_the_dashboards_can_be_drawn(stage: Stage, preview: Path, board: str) -> None:
    """Grafana's own components draw every panel, without an error, with data in all but those named above."""
    may_be = [*empty(stage), *YOUNG]
    command = [
        *("node", "preview.mjs", "--out", f"{board}.png", "--dashboard", str(HERE / f"{board}.json")),
        *("--prometheus", f"http://127.0.0.1:{stage.prometheus}", "--scrape-interval", "2m"),
        *(flag for found, title, _ in may_be for flag in ("--allow-empty", title) if found == board),
    ]
    ran = subprocess.run(command, cwd=preview, capture_output=True, text=True, check=False, timeout=180)

    assert 0 == ran.returncode, (json.loads(ran.stdout)["problems"] if ran.stdout else "", ran.stderr)
