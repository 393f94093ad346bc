"""What people do today: what is counted on their pages, and the recipes that are measured."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from bench import today
from bench.recipes import script
from bench.subjects import RECIPES, SITE, Api
from exporter.simulator import HOSTILE_NAMES, Request, World
from tests.conftest import required

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from prometheus_client import Metric

PAGE = b"""\
# TYPE cryptoloot_up gauge
cryptoloot_up{endpoint="/user/top"} 0
cryptoloot_up{endpoint="/stats/payout"} 1
cryptoloot_network_difficulty 5
# TYPE cryptoloot_user_hashes counter
cryptoloot_user_hashes_total{user="anna"} 1
cryptoloot_user_hashes_total{user="ben"} 1
cryptoloot_other 7
"""


def test_lines_of_code_are_those_that_do_something() -> None:
    """Of Python neither docstrings count; a text in an expression of its own kind does."""
    python = (
        '"""A module\n\nof two lines."""\n\n# why\nx = """\na"""\ndef f():\n    """Do."""\n    return x\n'
    )

    assert 4 == today.code_lines(python, python=True)
    assert 2 == today.code_lines("#!/bin/sh\n\n  # why\na \\\n  b\n", python=False)


def test_values_are_those_that_every_subject_has() -> None:
    """Three of the site and three of each user: what only some of them show is not counted."""
    assert 3 == today.values(PAGE)
    assert 387 == today.VALUES


def test_a_page_that_cannot_be_parsed_has_no_values() -> None:
    """One broken line spoils it all, as it would for Prometheus."""
    broken = PAGE + b'cryptoloot_user_hashes_total{user="a\n"} 1\n'

    assert today.samples(broken) is None
    assert 0 == today.values(broken)


def test_a_sample_twice_is_counted_once_too_often() -> None:
    """By name and labels, whatever the value."""
    assert 0 == today.twice(PAGE)
    assert 1 == today.twice(PAGE + b'cryptoloot_user_hashes_total{user="ben"} 9\n')


def test_a_total_moves_where_it_was_another() -> None:
    """One that stands still is not counted, nor one that was not there."""
    later = PAGE.replace(b'"ben"} 1', b'"ben"} 2') + b'cryptoloot_user_hashes_total{user="new"} 3\n'

    assert 1 == today.moved(PAGE, later)
    assert 0 == today.moved(b"", later)


def test_endpoints_are_down_where_the_page_says_so() -> None:
    """By cryptoloot_up, which the script calls as we do."""
    assert 1 == today.down(PAGE)


def test_a_page_is_as_old_as_what_is_oldest_on_it() -> None:
    """By our timestamps or those of files; without either, nobody can tell."""
    files = b'node_textfile_mtime_seconds{file="a"} 70\nnode_textfile_mtime_seconds{file="b"} 90\n'

    assert 30 == today.age(files, 100)
    assert today.age(PAGE, 100) is None


def test_calls_are_counted_from_start_to_end() -> None:
    """The start is included, the end is not."""
    api = Api(1, World())
    api.world.requests.extend(Request(float(t), SITE, "/user/top", "GET") for t in (1, 2, 3, 4))

    assert 2 == api.calls(2, 4)


class Families(Collector):
    """These families."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self.families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self.families


def scripted(*users: str) -> bytes:
    """Return the script's page of these users."""
    registry = CollectorRegistry()
    fields = {"total": "1", "withdrawn": "0.02", "balance": "0.5"}
    registry.register(Families(script.users({"users": [{"name": name, **fields} for name in users]})))
    return generate_latest(registry)


@pytest.mark.parametrize("name", [name for name in HOSTILE_NAMES if "\ud800" not in name])
def test_the_script_bears_most_hostile_names(name: str) -> None:
    """It is no straw man: prometheus-client escapes what needs it."""
    samples = today.samples(scripted(name))

    assert samples
    assert {name} == {sample.labels["user"] for sample in samples}


def test_one_lone_surrogate_takes_the_scripts_page() -> None:
    """What docs/comparison.md says of it: all other users go with the one."""
    with pytest.raises(UnicodeEncodeError):
        scripted("anna", "lone\ud800surrogate")


def test_the_script_serves_a_name_twice() -> None:
    """What docs/comparison.md says of it: three samples that Prometheus has already."""
    assert 3 == today.twice(scripted("twin", "twin"))


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.prometheus.yml")), ids=lambda file: file.name)
def test_prometheus_takes_the_recipes(file: Path) -> None:
    """What one writes in its config is something that its own tool takes."""
    command = (required("promtool"), "check", "config", "--syntax-only", str(file))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert 0 == done.returncode, done.stderr


def test_json_exporters_targets_name_its_modules() -> None:
    """A probe of a module that its config lacks would be an error."""
    config = yaml.safe_load((RECIPES / "json_exporter.yml").read_text())
    prometheus = yaml.safe_load((RECIPES / "json_exporter.prometheus.yml").read_text())
    (job,) = prometheus["scrape_configs"]

    assert list(config["modules"]) == [target["labels"]["__param_module"] for target in job["static_configs"]]


def test_every_recipe_is_counted() -> None:
    """No file lies there that one would have to write and that is not measured."""
    written = {path.name for path in RECIPES.iterdir() if path.name not in {"__init__.py", "__pycache__"}}

    assert written == {file for files in today.FILES.values() for file in files}
