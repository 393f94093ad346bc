"""A week written by the program, made into blocks by promtool, in real servers beside what they scraped."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import pytest

from exporter.api.answers import HistoryRow
from exporter.backfill.prometheus import LOOKBACK
from exporter.backfill.samples import METRICS, STEP_SECONDS
from exporter.collectors.expectation import Rates, expectation, remember
from exporter.collectors.history_rows import DAY, HOUR, SETTLED_AFTER
from exporter.simulator import World
from tests.conftest import required
from tests.e2e.programs import (
    DEADLINE,
    ask,
    exporting,
    free_port,
    running,
    serving,
    started,
    until,
    write_config,
)
from tests.e2e.test_dashboards import QUERIES
from tests.e2e.week import EXPORTER, QUIET, Stage, Target, blocks, scraped, scraping

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from exporter.simulator import Site

pytestmark = pytest.mark.slow

NAMES = [metric.name for metric in METRICS]
LABELS = [flag for name, value in EXPORTER.items() for flag in ("--label", f"{name}={value}")]
HOLE = (30 * HOUR, 24 * HOUR)  # seconds before now


def backfilled(directory: Path, *flags: str) -> int:
    """Run the command on the directory's config; return how many samples it says to have written."""
    with exporting(directory, "backfill", "--output=week.om", *LABELS, *flags) as program:
        assert 0 == program.process.wait(6 * DEADLINE), program.err.read_text()
        (count,) = re.findall(r"^([\d,]+) samples of", program.err.read_text(), re.MULTILINE)
    return int(count.replace(",", ""))


def raw(stage: Stage, name: str, site: str, span: float) -> dict[float, float]:
    """Return all samples of a series, as they are stored."""
    (found,) = stage.query(f'{name}{{site="{site}"}}[{int(span)}s]')
    return {at: float(value) for at, value in found["values"]}


def expected(site: Site, now: float, at: float) -> dict[str, float]:
    """Return what the world says for a moment, from the rows that the API has now."""
    rows = [row for row in site.rows(now) if row.synctime + SETTLED_AFTER <= at]
    found = {
        "cryptoloot_hashrate_hashes_per_second": rows[-1].hashrate,
        "cryptoloot_history_row_hashes": rows[-1].hashes,
        "cryptoloot_history_settled_row_timestamp_seconds": rows[-1].synctime,
    }
    peers = [row.hashrate for row in rows[:-1] if (rows[-1].synctime - row.synctime) % DAY == 0]
    if len(peers) >= 3:
        found["cryptoloot_baseline_hashrate_hashes_per_second"] = median(peers)
    judged = expectation(remember(Rates(), [HistoryRow(*row) for row in rows]))
    if judged.expected is not None:
        found["cryptoloot_expected_hashrate_hashes_per_second"] = judged.expected
    if judged.spread is not None:
        found["cryptoloot_hashrate_spread_ratio"] = judged.spread
    if len(rows) >= 24:
        found["cryptoloot_history_day_hashes"] = sum(row.hashes for row in rows[-24:])
    return found


def shown(stage: Stage, site: str, at: float) -> dict[str, float]:
    """Return what Prometheus has of a site at a moment, of what is backfilled."""
    selector = f'{{__name__=~"{"|".join(NAMES)}", site="{site}"}}'
    return {each["metric"]["__name__"]: float(each["value"][1]) for each in stage.query(selector, at)}


# --------------------------------------------------------------------------------------- an empty Prometheus


class Seam(NamedTuple):
    """A Prometheus that began with a backfilled week; `now` is when that was written."""

    stage: Stage
    now: float


@pytest.fixture(scope="module")
def seam(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seam]:
    """Backfill a week into a TSDB that has never run, start Prometheus on it, scrape the exporter."""
    directory = tmp_path_factory.mktemp("seam")
    world = World(seed=3, clock=time.time)
    for name in ("shop", "game"):
        world.add(name, f"secret-of-{name}", users=5)
    with contextlib.ExitStack() as stack:
        api = stack.enter_context(serving(world))
        write_config(directory, api.port, **QUIET.sections(world))
        now = time.time()
        assert backfilled(directory, "--until=now") > 20_000
        blocks(directory / "week.om", directory / "data")
        _, exporter = stack.enter_context(running(directory))
        prometheus = stack.enter_context(scraping(directory, exporter, [Target("/metrics", EXPORTER)]))
        stage = Stage(QUIET, world, prometheus, exporter)
        fresh = f"timestamp(cryptoloot_hashrate_hashes_per_second) > {now}"
        assert until(lambda: len(stage.query(fresh)) == 2, 2 * DEADLINE)
        yield Seam(stage, now)


def test_there_is_no_hole(seam: Seam) -> None:
    """From the first settled hour to this second, over the seam: each five minutes have a sample."""
    begin = seam.stage.world.sites["shop"].rows(seam.now)[0].synctime + SETTLED_AFTER + LOOKBACK
    spans = f"count_over_time(cryptoloot_hashrate_hashes_per_second[{LOOKBACK}s])"
    steps = int((time.time() - begin) // LOOKBACK)
    end = begin + steps * LOOKBACK
    whole = f"{steps * LOOKBACK + LOOKBACK // 2}s:{LOOKBACK}s"
    counts = seam.stage.query(f"count_over_time(({spans})[{whole}] @ {end})")

    # A point at either end of the whole span, whether or not a range includes its begin.
    assert [steps + 1] * 2 == [int(each["value"][1]) for each in counts]


def test_no_series_is_there_twice(seam: Seam) -> None:
    """What was backfilled and what is scraped are the same series."""
    week = "&".join(f"match[]={name}" for name in NAMES)
    answer = ask(seam.stage.prometheus, f"/api/v1/series?{week}&start={seam.now - 8 * DAY}&end={time.time()}")
    found = json.loads(answer.body)["data"]

    assert sorted((name, site) for name in NAMES for site in ("game", "shop")) == sorted(
        (each["__name__"], each["site"]) for each in found
    )
    assert all(each.keys() == {"__name__", "site", *EXPORTER} for each in found)


def test_every_moment_is_as_the_world_says(seam: Seam) -> None:
    """At the middle and the edges of hours, over the whole week: what is there, and what is not."""
    first = int((seam.now - 6.9 * DAY) // STEP_SECONDS * STEP_SECONDS)
    for name, site in seam.stage.world.sites.items():
        for at in range(first, int(seam.now), 41 * STEP_SECONDS):
            assert expected(site, seam.now, at) == pytest.approx(shown(seam.stage, name, at), rel=1e-12), at


def test_dashboards_and_rules_read_the_past(seam: Seam) -> None:
    """Panels that need only what is backfilled have data three days ago, and so have rules that look back."""
    past = seam.now - 3 * DAY
    named = [(query, set(re.findall(r"\bcryptoloot_\w+(?![\w:])", query.expression))) for query in QUERIES]
    able = [query for query, names in named if names and names <= set(NAMES)]
    lines = (
        "site:cryptoloot_expected_hashrate_hashes_per_second:settled",
        "site:cryptoloot_hashrate_hashes_per_second:drop_below",
    )

    assert {"Hashrate", "Of expected", "Hashrate of $site", "Hashes per day"} <= {
        query.title for query in able
    }
    assert [] == [query.title for query in able if not query.found(seam.stage, past)]
    for line in lines:
        assert until(lambda line=line: len(seam.stage.query(line)) == 2, 2 * DEADLINE)  # type: ignore[misc]


# ------------------------------------------------------------------------------------------------------- gaps


def test_a_hole_is_filled_and_nothing_else(tmp_path: Path) -> None:
    """Six lost hours are filled, both sides stay as they were, and a second run has nothing to do."""
    world = scraped(tmp_path / "whole.om", QUIET._replace(length=2 * DAY))
    now = time.time()
    lost, found_again = now - HOLE[0], now - HOLE[1]
    with (tmp_path / "whole.om").open() as whole, (tmp_path / "holed.om").open("w") as holed:
        for line in whole:
            if line[0] == "#" or not lost < float(line.rpartition(" ")[2]) < found_again:
                holed.write(line)
    blocks(tmp_path / "holed.om", tmp_path / "data")
    with serving(world) as api:
        write_config(tmp_path, api.port, **QUIET.sections(world))
        before, first = asked(tmp_path, world, "--gaps")
        assert first > 0
        blocks(tmp_path / "week.om", tmp_path / "data")
        after, second = asked(tmp_path, world, "--gaps")
        assert 0 == second
    for series, held in before.items():
        new = {at: value for at, value in after[series].items() if at not in held}
        assert held == {at: value for at, value in after[series].items() if at in held}
        # Strictly between the samples around the hole.
        assert all(max(at for at in held if at <= lost) < at for at in new)
        assert all(at < min(at for at in held if at >= found_again) for at in new)
        times = sorted(after[series])
        assert max(b - a for a, b in pairwise(times)) <= LOOKBACK
        name, site = series
        for at, value in new.items():
            assert pytest.approx(value, rel=1e-12) == expected(world.sites[site], now, at)[name]


def asked(
    directory: Path, world: World, *flags: str
) -> tuple[dict[tuple[str, str], dict[float, float]], int]:
    """Run Prometheus on the directory's data; return all samples it has, and how many the command writes."""
    with scraping(directory, free_port(), []) as prometheus:
        stage = Stage(QUIET, world, prometheus, 0)
        held = {(name, site): raw(stage, name, site, 3 * DAY) for name in NAMES for site in ("shop", "game")}
        return held, backfilled(directory, f"--prometheus=http://127.0.0.1:{prometheus}", *flags)


def test_a_running_prometheus_loses_nothing(tmp_path: Path) -> None:
    """What it has in its head is still there after the blocks came and it was started again."""
    world = World(seed=3, clock=time.time)
    world.add("shop", "secret-of-shop", users=5)
    target = Target("/metrics", EXPORTER)
    with contextlib.ExitStack() as stack:
        api = stack.enter_context(serving(world))
        write_config(tmp_path, api.port, **QUIET.sections(world))
        _, exporter = stack.enter_context(running(tmp_path))
        with scraping(tmp_path, exporter, [target]) as prometheus:
            stage = Stage(QUIET, world, prometheus, exporter)
            assert until(
                lambda: stage.query("count_over_time(cryptoloot_exporter_series[1h]) > 3"), 2 * DEADLINE
            )
            assert backfilled(tmp_path, f"--prometheus=http://127.0.0.1:{prometheus}") > 10_000
            held = raw(stage, "cryptoloot_exporter_series", "", HOUR)
        blocks(tmp_path / "week.om", tmp_path / "data")
        with scraping(tmp_path, exporter, [target]) as prometheus:
            stage = Stage(QUIET, world, prometheus, exporter)

            assert held.keys() <= raw(stage, "cryptoloot_exporter_series", "", HOUR).keys()
            assert expected(world.sites["shop"], time.time(), time.time() - DAY) == shown(
                stage, "shop", time.time() - DAY
            )


def test_a_site_that_is_refused_leaves_the_others(tmp_path: Path) -> None:
    """The others are written, who failed is told without the secret, and the exit code says so."""
    world = World(seed=3, clock=time.time)
    world.add("shop", "secret-of-shop", users=5)
    with serving(world) as api:
        sites = [{"name": "shop", "secret": "secret-of-shop"}, {"name": "game", "secret": "not-its-secret"}]
        write_config(tmp_path, api.port, *sites)
        with exporting(tmp_path, "backfill", "--output=week.om", "--until=now", *LABELS) as program:
            code = program.process.wait(DEADLINE)
            said = program.err.read_text()
        write_config(tmp_path, api.port, sites[1])
        before = (tmp_path / "week.om").read_text()
        with exporting(tmp_path, "backfill", "--output=week.om", "--until=now", *LABELS) as program:
            again = program.process.wait(DEADLINE)

    assert (1, 1) == (code, again)
    assert "failed: game /stats/history: invalid_secret" in said
    assert "not-its-secret" not in said
    assert re.search(r"samples of 1 site$", said, re.MULTILINE)
    assert before == (tmp_path / "week.om").read_text()  # where none answers, nothing is lost
    assert ["week.om"] == [path.name for path in tmp_path.glob("week.om*")]


# -------------------------------------------------------------------------------------------- VictoriaMetrics


def test_victoria_metrics_takes_the_week(tmp_path: Path) -> None:
    """Its import of Prometheus' formats reads the same file; it has the same values."""
    world = World(seed=3, clock=time.time)
    world.add("shop", "secret-of-shop", users=5)
    port = free_port()
    flags = (f"-httpListenAddr=127.0.0.1:{port}", "-storageDataPath=data", "-retentionPeriod=1")
    with serving(world) as api, started(tmp_path, required("victoria-metrics"), *flags) as program:
        assert until(lambda: ask(port, "/health").status == 200), program.err.read_text()
        write_config(tmp_path, api.port, **QUIET.sections(world))
        now = time.time()
        backfilled(tmp_path, "--until=now")
        address = f"http://127.0.0.1:{port}"
        command = (required("curl"), "-sf", "-T", "week.om", f"{address}/api/v1/import/prometheus")
        subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
        assert ask(port, "/internal/force_flush").status == 200
        stage = Stage(QUIET, world, port, 0)
        for at in range(
            int((now - 6.5 * DAY) // STEP_SECONDS * STEP_SECONDS), int(now - HOUR), 191 * STEP_SECONDS
        ):
            assert expected(world.sites["shop"], now, at) == pytest.approx(
                shown(stage, "shop", at), rel=1e-12
            )
