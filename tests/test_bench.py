"""The pure parts of the benchmarks: what programs, the kernel and pages tell, verdicts, the model, tables."""

from __future__ import annotations

import gzip
import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from bench import peers, today
from bench.load import BadLoad, memory_in, requests_per_second
from bench.peers import families
from bench.recipes import script
from bench.report import Group, Ratio, Row, Spread, Target, document, figures, number, targets
from bench.scale import Model, Size
from bench.subjects import MODULES, RECIPES, SITE, Api
from bench.watch import Told, Watched, summed
from exporter.simulator import HOSTILE_NAMES, Request, World
from tests.conftest import required

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from prometheus_client import Metric

WRK = """\
Running 3s test @ http://127.0.0.1:9091/metrics
  1 threads and 8 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    44.05ms   15.33ms  96.52ms   71.85%
    Req/Sec   181.93     43.60   232.00     80.00%
  546 requests in 3.01s, 22.62MB read
{errors}Requests/sec:    181.51
Transfer/sec:      7.52MB
"""


def test_a_rate_is_read_from_what_wrk_prints() -> None:
    """The figure behind Requests/sec, not the one of its threads."""
    assert requests_per_second(WRK.format(errors="")) == 181.51


@pytest.mark.parametrize(
    "errors",
    ["  Socket errors: connect 0, read 3, write 0, timeout 1\n", "  Non-2xx or 3xx responses: 12\n"],
)
def test_a_load_with_errors_has_no_rate(errors: str) -> None:
    """Refusals are quick: a rate that contains them measures nothing."""
    with pytest.raises(BadLoad, match=errors.strip()):
        requests_per_second(WRK.format(errors=errors))


def test_a_load_that_tells_no_rate_is_bad() -> None:
    """Without its last lines, wrk has not measured."""
    with pytest.raises(BadLoad, match="no rate"):
        requests_per_second("Running 3s test\n")


def test_memory_is_read_in_bytes() -> None:
    """The kernel tells kB, and names its fields from the line's begin."""
    assert memory_in("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n", "VmRSS") == 1024 * 1024


def test_what_every_exporter_adds_by_itself_is_left_out() -> None:
    """Families of ours stay whole, values that name ours in a label go with their family."""
    page = b'# HELP cryptoloot_up 1\n# TYPE cryptoloot_up gauge\ncryptoloot_up{site="a"} 1.0\n'
    others = b'# HELP python_info cryptoloot_\n# TYPE python_info gauge\npython_info{a="cryptoloot_"} 1.0\n'

    assert page.decode() == families(others + page)


def test_a_spread_has_the_ends_and_the_middle() -> None:
    """Between two in the middle lies the median."""
    assert Spread(1, 2.5, 9) == Spread.of([9, 2, 1, 3])


def test_ratios_are_taken_round_by_round() -> None:
    """What slowed a round slowed both: the ratio of the medians would be 1.5 here."""
    assert Spread(1, 2, 3) == Spread.of_ratios([10, 40, 30], [10, 20, 10])


@pytest.mark.parametrize(
    ("target", "figure", "verdict"),
    [
        (Target(0.55), 0.55, "met"),
        (Target(0.55), 0.5, "**missed by 9.1%**"),
        (Target(2, at_most=True), 2.0, "met"),
        (Target(2, at_most=True), 2.5, "**missed by 25.0%**"),
        (Target(0, at_most=True), 0.0, "met"),
        (Target(0, at_most=True), 3.0, "**missed by 3**"),
    ],
)
def test_a_target_is_met_or_missed_by_so_much(target: Target, figure: float, verdict: str) -> None:
    """By how much is a share of the bound, where it has one; reaching it is enough."""
    row = Row("work", "subject", "unit", Spread.of([figure]), target=target)

    assert verdict == target.verdict(row.judged)
    assert row.met is (verdict == "met")


def test_the_ratio_is_judged_where_there_is_one() -> None:
    """The figure itself may be anything."""
    row = Row("work", "nginx", "scrapes/s", Spread.of([9]), Ratio("a ÷ b", Spread.of([0.6])), Target(0.55))

    assert row.met is True


def test_a_missing_peer_is_named_and_leaves_its_target_open() -> None:
    """Neither met nor missed, and the reason beneath the table."""
    row = Row("work", "nginx", "scrapes/s", None, target=Target(0.55), note="nginx is not here")

    assert row.met is None
    assert "not measured" in targets([row])
    assert "missing" in figures([row])
    assert "\n- nginx: nginx is not here\n" in figures([row])


@pytest.mark.parametrize(
    ("value", "text"), [(59_512.3, "59,512"), (0.5678, "0.568"), (12.34, "12.3"), (0.0, "0")]
)
def test_numbers_have_the_digits_that_count(value: float, text: str) -> None:
    """Three, or all before the point."""
    assert text == number(value)


def test_the_page_has_machine_command_verdicts_and_figures() -> None:
    """Each work has a table of its own, under how it was measured."""
    ratio = Ratio("ours ÷ theirs", Spread(0.5, 0.6, 0.7))
    rows = [
        Row("first", "them", "ms", Spread.of([1, 2, 3]), ratio, Target(0.55)),
        Row("second", "a|b", "ms", None),
    ]
    page = document([Group("Title.\n\nHow.\n", rows)], {"Python": "3.11"}, "python -m bench")

    assert "\n    python -m bench\n\n- Python: 3.11\n\n## Targets\n" in page
    assert "| first | ours ÷ theirs | ≥ 0.55 | 0.6 (0.5 to 0.7) | met     |\n" in page
    assert "\n## Title\n\nHow.\n\nFirst:\n\n| subject | unit | min | median | max | ratio" in page
    assert "| them    | ms   | 1   | 2      | 3   | ours ÷ theirs: 0.6 (0.5 to 0.7) |\n" in page
    assert "\nSecond:\n" in page
    assert "| a\\|b    | ms   |" in page


def test_a_missing_peers_reason_names_no_address() -> None:
    """What Go says is cut to its end: where it looked is nobody's business."""
    said = "go: downloading a v1\ngo: a@v1: reading https://example.org/a/@v/list: 403 Forbidden\n\tmore"

    assert peers._reason(said) == "go install: 403 Forbidden"


def test_a_counter_is_summed_by_a_label() -> None:
    """Over all series of that name alone; text that names another metric counts nothing."""
    lines = [
        b"# HELP polls_total x",
        b'polls_total{endpoint="/a",site="1"} 2.0',
        b'polls_total{endpoint="/a",site="2"} 3.0',
        b'polls_total{endpoint="/b",site="polls_total{"} 4.0',
        b'polls_total_more{endpoint="/a"} 100.0',
    ]

    assert {"/a": 5, "/b": 4} == summed(lines, "polls_total", "endpoint")


def test_a_counter_without_labels_is_read() -> None:
    """Under no label's value."""
    assert {"": 7} == summed([b"restarts_total 7.0", b"restarts_totals 1.0"], "restarts_total")


def told(seconds: float, cpu: float, polls: int, late: int) -> Told:
    return Told(seconds, cpu, {"/a": polls, "/b": polls}, 0, 0, {"1.0": polls - late, "+Inf": polls}, 100)


def test_late_are_the_polls_above_the_bound() -> None:
    """The histogram's buckets each hold those below."""
    assert 3 == told(60, 1, 10, 3).late


def test_what_a_process_takes_is_counted_after_the_first_minute() -> None:
    """Polls and CPU by difference; memory is the largest after a scrape, the pages are of the text format."""
    seen = Watched(told(60, 10, 100, 0), told(180, 40, 400, 0), [0.1], [5, 9, 7], 99, [1000, 10, 1100, 11])

    assert Size(polls=300, cores=0.25, resident=9, text=1000, zipped=10, samples=100) == Size.of(seen)


def test_the_model_is_the_line_through_both_sizes() -> None:
    """It gives back what it was drawn through, and goes on beyond."""
    few, many = Size(2, 0.5, 100, 10, 1, 20), Size(20, 1.4, 1000, 100, 10, 200)
    model = Model.through(few, many, (1, 10))

    assert pytest.approx(few) == model.at(1)
    assert pytest.approx(many) == model.at(10)
    assert pytest.approx((200, 10.4, 10_000, 1000, 100, 2000)) == model.at(100)
    assert pytest.approx((0, 0.4, 0, 0, 0, 0)) == model.base


# --------------------------------------------------------------------------------------- what people do today

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


def test_calls_are_counted_from_begin_to_end() -> None:
    """The begin lies within, the end does not."""
    api = Api(1, World())
    api.world.requests.extend(Request(float(t), SITE, "/user/top", "GET") for t in (1, 2, 3, 4))

    assert 2 == api.calls(2, 4)


def test_a_compressed_answer_is_inflated() -> None:
    """Whoever compresses is measured with it, and read like the others."""
    assert PAGE == peers.plain(gzip.compress(PAGE)) == peers.plain(PAGE)


class Once(Collector):
    """Families made beforehand."""

    def __init__(self, made: Iterable[Metric]) -> None:
        self.made = list(made)

    def collect(self) -> Iterable[Metric]:
        return self.made


def scripted(*users: str) -> bytes:
    """Return the script's page of these users."""
    registry = CollectorRegistry()
    fields = {"total": "1", "withdrawn": "0.02", "balance": "0.5"}
    registry.register(Once(script.users({"users": [{"name": name, **fields} for name in users]})))
    return generate_latest(registry)


@pytest.mark.parametrize("name", [name for name in HOSTILE_NAMES if "\ud800" not in name])
def test_the_script_bears_most_hostile_names(name: str) -> None:
    """It is no straw man: prometheus-client escapes what needs it."""
    found = today.samples(scripted(name))

    assert found
    assert {name} == {sample.labels["user"] for sample in found}


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


def test_json_exporters_modules_are_those_that_are_asked_for() -> None:
    """A probe of a module that its config lacks would be refused."""
    config = yaml.safe_load((RECIPES / "json_exporter.yml").read_text())
    prometheus = yaml.safe_load((RECIPES / "json_exporter.prometheus.yml").read_text())
    (job,) = prometheus["scrape_configs"]

    assert list(MODULES) == list(config["modules"])
    assert list(MODULES) == [each["labels"]["__param_module"] for each in job["static_configs"]]


def test_every_recipe_is_counted() -> None:
    """No file lies there that one would have to write and that is not measured."""
    written = {path.name for path in RECIPES.iterdir() if path.name not in {"__init__.py", "__pycache__"}}

    assert written == {file for files in today.FILES.values() for file in files}
