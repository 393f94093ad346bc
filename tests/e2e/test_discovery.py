"""Sites found through /sd and scraped by /probe; sites shared by several processes."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
import yaml

from exporter.simulator import World
from tests.conftest import REPOSITORY
from tests.e2e.programs import (
    ask,
    exporting,
    free_port,
    inline,
    prometheus,
    running,
    serving,
    until,
    write_config,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

SITES = ("a", "b", "c")
PROBED = {"sites_on_metrics": False}

FENCE = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def world_of(*names: str) -> World:
    world = World(clock=time.time)
    for name in names:
        world.add(name, f"secret-of-{name}", users=3)
    return world


def printed(text: str) -> dict[str, Any]:
    """Return the job that a text says for sites at /probe."""
    documents = [yaml.safe_load(block) for block in FENCE.findall((REPOSITORY / text).read_text())]
    jobs = [job for document in documents for job in document.get("scrape_configs", [])]
    (found,) = (job for job in jobs if "http_sd_configs" in job)
    return dict(found)


def discovering(exporter: int, half: int | None = None) -> dict[str, Any]:
    """Return README's configuration for /probe, in a hurry; with `half`, scaling.md's for one of two."""
    job = printed("README.md" if half is None else "docs/scaling.md")
    job["http_sd_configs"] = [{"url": f"http://127.0.0.1:{exporter}/sd", "refresh_interval": "1s"}]
    job["scrape_interval"] = "1s"
    if half is not None:
        share, keep = job["relabel_configs"]
        job["relabel_configs"] = [share | {"modulus": 2}, keep | {"regex": str(half)}]
    return {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": [job]}


def query(port: int, expression: str) -> list[dict[str, Any]]:
    """Return the vector of an instant query."""
    answer = json.loads(ask(port, f"/api/v1/query?{urlencode({'query': expression})}").body)
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


def scraped(port: int) -> list[tuple[str, str]]:
    """Return the instances and sites of the series that Prometheus scrapes now."""
    return sorted(
        (each["metric"]["instance"], each["metric"]["site"]) for each in query(port, "cryptoloot_site_info")
    )


@pytest.fixture
def probing(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """Run an exporter whose sites are at /probe; yield the API's port and its own."""
    with serving(world_of(*SITES, "d")) as api:
        write_config(tmp_path, api.port, *inline(*SITES), web=PROBED)
        with running(tmp_path, "--web.enable-lifecycle") as (_, port):
            yield api.port, port


def test_prometheus_finds_the_sites(tmp_path: Path, probing: tuple[int, int]) -> None:
    """Each is a target of its own, scraped once; a reload that adds one and takes one away is followed."""
    api, exporter = probing
    with prometheus(tmp_path, discovering(exporter)) as (_, port):
        assert until(lambda: scraped(port) == [(name, name) for name in SITES], 20), scraped(port)
        assert until(lambda: len(query(port, "cryptoloot_hashrate_hashes_per_second")) == 3)

        write_config(tmp_path, api, *inline("b", "c", "d"), web=PROBED)
        assert ask(exporter, "/-/reload", "POST").status == 200
        assert until(lambda: scraped(port) == [(name, name) for name in ("b", "c", "d")], 20), scraped(port)

        assert [] == query(port, "count by (site) (cryptoloot_site_info) > 1")


def test_two_prometheus_share_the_sites(tmp_path: Path, probing: tuple[int, int]) -> None:
    """By hashmod each site is scraped by exactly one of them."""
    _, exporter = probing
    with contextlib.ExitStack() as stack:
        ports = []
        for half in (0, 1):
            directory = tmp_path / str(half)
            directory.mkdir()
            ports.append(stack.enter_context(prometheus(directory, discovering(exporter, half)))[1])
        everything = [(name, name) for name in SITES]
        assert until(lambda: sorted([*scraped(ports[0]), *scraped(ports[1])]) == everything, 20)
        time.sleep(2)  # a scrape more of each: nothing may come twice

        assert everything == sorted([*scraped(ports[0]), *scraped(ports[1])])


def polled(directory: Path, names: list[str], shard: int, total: int) -> set[str | None]:
    """Run a shard on all sites; return which it polled, as the API's log has it, once all of its /sd are."""
    world = world_of(*names)
    with serving(world) as api:
        write_config(directory, api.port, *inline(*names), web=PROBED)
        with running(directory, f"--shard={shard}", f"--total-shards={total}") as (_, port):
            groups = json.loads(ask(port, "/sd").body)
            listed = {group["labels"]["instance"] for group in groups}
            assert until(lambda: {request.site for request in [*world.requests]} >= listed, 20)
            time.sleep(0.5)
            return {request.site for request in [*world.requests]}


def owners(directory: Path, names: list[str], total: int) -> dict[str | None, list[int]]:
    """Return the shards that poll each site."""
    found: dict[str | None, list[int]] = defaultdict(list)
    for shard in range(total):
        place = directory / f"{shard}-of-{total}"
        place.mkdir()
        for site in polled(place, names, shard, total):
            found[site].append(shard)
    return found


def test_shards_poll_each_site_once(tmp_path: Path) -> None:
    """Three shards over 300 sites: each site by exactly one; a fourth takes 20 to 30 % of them."""
    names = [f"site-{number}" for number in range(300)]
    three, four = owners(tmp_path, names, 3), owners(tmp_path, names, 4)
    moved = sum(three[name] != four[name] for name in names)

    assert set(names) == set(three) == set(four)
    assert {1} == {len(shards) for shards in (*three.values(), *four.values())}
    assert 60 <= moved <= 90


def test_a_share_that_there_is_not_is_refused(tmp_path: Path) -> None:
    """Exit code 2, and what is wrong."""
    write_config(tmp_path, free_port(), *inline("a"))
    for flags, says in (
        (["--shard=3", "--total-shards=3"], "numbered from 0"),
        (["--shard=0"], "need each other"),
        (["--shard=x", "--total-shards=2"], "not a number from 0, or auto"),
    ):
        with exporting(tmp_path, "run", *flags) as program:
            assert 2 == program.process.wait(10)
            assert re.search(says, program.err.read_text())
