"""The shipped dashboards, held to their code, to the catalogue, and to the house's rules for panels."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import promql_parser
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards import boards, panels
from dashboards.__main__ import main, written
from docs.catalogue import CATALOGUE
from exporter.pages.exporter_metrics import OwnMetrics
from tests.alerting import catalogued, rules
from tests.conftest import REPOSITORY, required

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HERE = REPOSITORY / "dashboards"
BOARDS = {path.stem: json.loads(path.read_text()) for path in sorted(HERE.glob("*.json"))}
MATCHERS = {'job=~"$job"', 'instance=~"$instance"'}
OF_SITE = 'site=~"$site"'
RECORDINGS = {rule["record"] for rule in rules() if "record" in rule}
# Prometheus' own, and its labels.
ALERTS = {"ALERTS": {"alertname", "alertstate", "severity", "site"}}
# What Grafana puts in for its variables, as far as PromQL's syntax is concerned.
VALUES = {
    "$__interval_ms": "60000",
    "$__rate_interval": "5m",
    "$__interval": "1m",
    "$__range": "1d",
    "$top": "10",
}
HOURLY = re.compile(r"cryptoloot_((baseline_|unsettled_)?hashrate|history_(row|day|week)_hashes)")
COLORS = {
    *(panels.GOOD, panels.WARNING, panels.BAD, panels.UNKNOWN),
    *(panels.MAIN, panels.SECOND, panels.NEUTRAL, "transparent"),
}


class Target(NamedTuple):
    """A query and where it stands."""

    board: str
    panel: dict[str, Any]
    expression: str

    def __str__(self) -> str:
        return f"{self.board}-{self.panel['title']}"


def drawn(board: str) -> list[dict[str, Any]]:
    """Return a dashboard's panels; a row is a heading."""
    return [panel for panel in BOARDS[board]["panels"] if panel["type"] != "row"]


PANELS = [(board, panel) for board in BOARDS for panel in drawn(board)]
TARGETS = [Target(board, panel, target["expr"]) for board, panel in PANELS for target in panel["targets"]]
MARKS = [
    Target(name, {"title": f"annotation {mark['name']}"}, mark["expr"])
    for name, board in BOARDS.items()
    for mark in board["annotations"]["list"]
]
every_panel = pytest.mark.parametrize(
    "panel", [panel for _, panel in PANELS], ids=[f"{board}-{panel['title']}" for board, panel in PANELS]
)
every_graph = pytest.mark.parametrize(
    "panel", [panel for _, panel in PANELS if panel["type"] == "timeseries"], ids=lambda panel: panel["title"]
)
every_query = pytest.mark.parametrize("target", [*TARGETS, *MARKS], ids=str)


def filled(expression: str) -> str:
    """Return a query as PromQL: with values instead of the variables that are no strings."""
    return re.sub(r"\$(__)?[a-z_]+", lambda found: VALUES.get(found[0], found[0]), expression)


class Selected(NamedTuple):
    """A selector of a query, and the function that it is the range of."""

    name: str
    matchers: set[str]
    labels: set[str]
    function: str


def selectors(node: Any, function: str = "") -> Iterator[Selected]:
    """Return all selectors of a parsed query."""
    if isinstance(node, promql_parser.VectorSelector):
        matchers = node.matchers.matchers
        name = node.name or next(each.value for each in matchers if each.name == "__name__")
        yield Selected(name, {str(each) for each in matchers}, {each.name for each in matchers}, function)
    elif isinstance(node, promql_parser.MatrixSelector):
        yield from selectors(node.vector_selector, function)
    elif isinstance(node, promql_parser.Call):
        for argument in node.args:
            over = node.func.name if isinstance(argument, promql_parser.MatrixSelector) else ""
            yield from selectors(argument, over)
    else:
        for part in ("expr", "param", "lhs", "rhs"):
            if isinstance(child := getattr(node, part, None), promql_parser.Expr):
                yield from selectors(child)


def grouped(node: Any) -> Iterator[str]:
    """Return the labels that a query groups or matches by."""
    text = str(node)
    for labels in re.findall(r"\b(?:by|on|ignoring|without|group_left|group_right) ?\(([^)]*)\)", text):
        yield from (label.strip() for label in labels.split(",") if label.strip())


def process_metrics() -> set[str]:
    """Return the names that prometheus-client exports of every process."""
    return {
        sample.name
        for family in OwnMetrics("0", "0").registry.collect()
        for sample in family.samples
        if sample.name.startswith(("process_", "python_"))
    }


def labels_of(name: str) -> set[str]:
    plain = re.sub(r"_(bucket|sum|count)$", "", name) if name not in CATALOGUE else name
    own = set(CATALOGUE[plain].labels) if plain in CATALOGUE else set()
    return own | ({"le"} if name.endswith("_bucket") else set())


# ------------------------------------------------------------------------------------------------------ files


def test_the_files_are_what_the_code_writes() -> None:
    """`python -m dashboards --check` finds no file that differs, and none too many."""
    assert 0 == main(["--check"])
    assert {path.stem for path in written()} == set(BOARDS)


def test_a_file_that_differs_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--check` fails where a file is missing or was edited, changes nothing, and writing mends it."""
    assert 1 == main(["--check"], tmp_path)
    assert [] == [*tmp_path.iterdir()]
    assert 0 == main([], tmp_path)
    assert 0 == main(["--check"], tmp_path)

    edited = tmp_path / "cryptoloot-site.json"
    edited.write_text(edited.read_text().replace('"refresh": "1m"', '"refresh": "1s"'))
    capsys.readouterr()

    assert 1 == main(["--check"], tmp_path)
    assert (
        "cryptoloot-site.json: differs from the code: run python -m dashboards\n" == capsys.readouterr().out
    )
    assert '"refresh": "1s"' in edited.read_text()


@pytest.mark.parametrize("board", BOARDS)
def test_the_types_of_grafana_take_the_file(board: str) -> None:
    """What the SDK's types read from a file, they write again; they know of no annotation's texts."""
    shipped = BOARDS[board]
    again = json.loads(JSONEncoder().encode(Dashboard.from_json(shipped)))
    for mark, read in zip(shipped["annotations"]["list"], again["annotations"]["list"], strict=True):
        read.update({key: mark[key] for key in ("titleFormat", "textFormat")})

    assert shipped == again


@pytest.mark.parametrize("board", BOARDS)
def test_anybody_can_import_it(board: str) -> None:
    """No `__inputs`, the variable's data source everywhere, uid and file of one name, ids and titles once."""
    shipped = BOARDS[board]
    text = json.dumps(shipped)
    sources = re.findall(r'"datasource": (\{.*?"\})', text)
    ids = [panel["id"] for panel in shipped["panels"]]
    titles = [panel["title"] for panel in shipped["panels"]]

    assert "__inputs" not in text
    assert "__requires" not in text
    assert {'{"type": "prometheus", "uid": "${datasource}"}'} == set(sources)
    assert board == shipped["uid"]
    assert "id" not in shipped
    assert len(ids) == len(set(ids))
    assert len(titles) == len(set(titles))


@pytest.mark.parametrize("board", BOARDS)
def test_the_variables_are_there(board: str) -> None:
    """Data source, job, instance and site, several or all of them; and how many of those that are many."""
    variables = {each["name"]: each for each in BOARDS[board]["templating"]["list"]}
    many = {"top"} if "$top" in json.dumps(drawn(board)) else set()

    assert {"datasource", "job", "instance", "site", "runbook"} | many == set(variables)
    assert "prometheus" == variables["datasource"]["query"]
    for name in ("job", "instance", "site"):
        assert (True, True) == (variables[name]["multi"], variables[name]["includeAll"])
    # All jobs are those found, by name: `.+` would be everybody's.
    assert [None, ".+", ".+"] == [variables[name].get("allValue") for name in ("job", "instance", "site")]


@pytest.mark.parametrize("board", BOARDS)
def test_the_dashboards_lead_to_each_other(board: str) -> None:
    """Links at the top by tag, and to the runbook that the rules name; links in cells lead to dashboards."""
    shipped = BOARDS[board]
    (others, runbook) = shipped["links"]

    assert ("dashboards", [boards.TAG]) == (others["type"], others["tags"])
    assert boards.TAG in shipped["tags"]
    assert "${runbook}" == runbook["url"]
    assert set(re.findall(r"/d/([\w-]+)", json.dumps(shipped))) <= set(BOARDS)


@pytest.mark.parametrize("board", BOARDS)
def test_panels_do_not_overlap(board: str) -> None:
    """The grid is 24 wide; every line of panels fills it."""
    places = [panel["gridPos"] for panel in BOARDS[board]["panels"]]

    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)
    width = dict.fromkeys((place["y"] for place in places), 0)
    for place in places:
        width[place["y"]] += place["w"]
    assert {24} == set(width.values())


def test_the_runbook_has_an_anchor_for_each_alert() -> None:
    """Grafana cannot write a name in small letters, as anchors of headings are: the runbook has both."""
    runbook = (REPOSITORY / "docs" / "runbook.md").read_text()

    assert {rule["alert"] for rule in rules() if "alert" in rule} == set(
        re.findall(r'<a id="(\w+)"></a>', runbook)
    )
    assert boards.TO_RUNBOOK.endswith("#${__data.fields.Alert}")


def test_grafana_is_provisioned() -> None:
    """The provisioning files name a Prometheus, and a folder for the files."""
    (source,) = yaml.safe_load((HERE / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    (folder,) = yaml.safe_load((HERE / "provisioning/dashboards/cryptoloot.yml").read_text())["providers"]

    assert "prometheus" == source["type"]
    assert ("file", "/var/lib/grafana/dashboards/cryptoloot") == (folder["type"], folder["options"]["path"])


# ----------------------------------------------------------------------------------------------------- panels


@every_panel
def test_a_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    """Title, a text that says when to worry, unit, decimals, a word where there is nothing, queries."""
    field = panel["fieldConfig"]["defaults"]

    assert panel["title"]
    assert panel["description"].endswith(".")
    assert "worry" in panel["description"].lower()
    assert field["unit"]
    assert field["decimals"] >= 0
    assert field["noValue"]
    assert [chr(ord("A") + index) for index, _ in enumerate(panel["targets"])] == [
        target["refId"] for target in panel["targets"]
    ]


@every_panel
def test_a_panel_asks_the_chosen_source(panel: dict[str, Any]) -> None:
    """Panel and queries name the variable, and each query is for one moment or for the range."""
    source = {"type": "prometheus", "uid": "${datasource}"}

    assert source == panel["datasource"]
    for target in panel["targets"]:
        assert source == target["datasource"]
        assert target["instant"] != target["range"]


@every_panel
def test_what_is_said_of_a_field_finds_it(panel: dict[str, Any]) -> None:
    """Overrides name a column of the table or a legend, links a column."""
    shown = {target.get("legendFormat", "") for target in panel["targets"]}
    for step in panel.get("transformations", []):
        shown |= set(step["options"].get("renameByName", {}).values())
    named = {override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]}

    assert named <= shown
    assert set(re.findall(r"__data\.fields\.(\w+)", json.dumps(panel))) <= shown


@every_panel
def test_colours_have_meanings(panel: dict[str, Any]) -> None:
    """Every colour is one of the house's; Grafana's palette is for names that nobody knows beforehand."""
    text = json.dumps(panel["fieldConfig"])
    modes = set(re.findall(r'"mode": "(fixed|thresholds|palette[\w-]*|continuous[\w-]*|shades)"', text))

    assert set(re.findall(r'"(?:color|fixedColor)": "([^"]*)"', text)) <= COLORS
    assert modes <= {"fixed", "thresholds", "palette-classic"}


@every_graph
def test_hourly_values_are_drawn_as_steps(panel: dict[str, Any]) -> None:
    """A line between two hours would tell of values that nobody reported."""
    hourly = any(HOURLY.search(target["expr"]) for target in panel["targets"])
    shape = panel["fieldConfig"]["defaults"]["custom"]["lineInterpolation"]

    assert ("stepAfter" if hourly else "linear") == shape


# ---------------------------------------------------------------------------------------------------- queries


@every_query
def test_queries_choose_what_the_variables_say(target: Target) -> None:
    """Every selector of ours has `job` and `instance`, and `site` where the metric has it."""
    for found in selectors(promql_parser.parse(filled(target.expression))):
        if found.name in RECORDINGS | set(ALERTS):
            # Recordings are by site, without the target; so are alerts, some of which have no site.
            of_site = {OF_SITE} if found.name != "ALERTS" else {OF_SITE, 'site=~"$site|"'}
            assert found.name == "cryptoloot:links:info" or found.matchers & of_site, found
        else:
            wanted = MATCHERS | ({OF_SITE} if "site" in labels_of(found.name) else set())
            assert wanted <= found.matchers, found


@every_query
def test_queries_name_what_is_exported(target: Target) -> None:
    """Every metric and label is in the catalogue, in the rules, or Prometheus' own."""
    parsed = promql_parser.parse(filled(target.expression))
    known = RECORDINGS | set(ALERTS) | process_metrics() | {"up"}
    labels = set().union(*(metric.labels for metric in CATALOGUE.values()), *ALERTS.values())

    for found in selectors(parsed):
        assert found.name in known or catalogued(found.name)
        own = ALERTS.get(found.name, labels_of(found.name) | {"job", "instance"})
        assert found.name in RECORDINGS or found.labels - {"__name__"} <= own, found
    assert set(grouped(parsed)) <= labels | {"job", "instance", "le"}


@every_query
def test_counters_are_read_by_their_growth(target: Target) -> None:
    """A counter by itself says how long a process has been running; so do a histogram's buckets."""
    for found in selectors(promql_parser.parse(filled(target.expression))):
        kind = CATALOGUE[found.name].type if found.name in CATALOGUE else ""
        counter = kind == "counter" or found.name.endswith(("_total", "_bucket", "_sum", "_count"))
        assert not counter or found.function in {"rate", "increase"}, found


@every_query
def test_no_site_counts_twice(target: Target) -> None:
    """A sum or a count of a site's gauge is over its maximum: two exporters may poll the same site."""
    for aggregation in aggregations(promql_parser.parse(filled(target.expression))):
        if isinstance(aggregation.expr, promql_parser.VectorSelector) and str(aggregation.op) in {
            "sum",
            "count",
        }:
            assert "site" not in labels_of(aggregation.expr.name or "")


def aggregations(node: Any) -> Iterator[Any]:
    """Return all aggregations of a parsed query."""
    found: list[Any] = []
    promql_parser.walk(
        node, lambda each: found.append(each) if isinstance(each, promql_parser.AggregateExpr) else None
    )
    yield from found


@every_query
def test_rates_are_over_what_grafana_says(target: Target) -> None:
    """`$__rate_interval` in graphs, which has two scrapes at least; single numbers are over a fixed time."""
    panel = target.panel
    ranges = re.findall(r"(?:rate|increase)\([^\[]*\[([^\]]*)\]", target.expression)
    graph = panel.get("type") in {"timeseries", "state-timeline"}
    assert "$__interval" not in "".join(ranges)

    assert set(ranges) <= ({"$__rate_interval", "$__range"} if graph else {"1h", "1d", "$__range"})


def test_promtool_parses_every_query(tmp_path: Path) -> None:
    """Prometheus' own parser takes them all: as recording rules, which it reads without a server."""
    found = [
        {"record": f"test:{number}", "expr": filled(target.expression)}
        for number, target in enumerate([*TARGETS, *MARKS])
    ]
    file = tmp_path / "queries.rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "queries", "rules": found}]}))
    command = (required("promtool"), "check", "rules", str(file))
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert f"{len(found)} rules found" in ran.stdout, ran.stdout + ran.stderr
    assert 0 == ran.returncode


@pytest.mark.parametrize("board", BOARDS)
def test_the_linter_has_nothing_to_say(board: str) -> None:
    """Where dashboard-linter is installed, it passes with the exclusions of dashboards/.lint alone."""
    linter = shutil.which("dashboard-linter", path=f"{REPOSITORY}/.venv-tools/bin") or shutil.which(
        "dashboard-linter"
    )
    if linter is None:
        pytest.skip("dashboard-linter is not installed: `make dashboard-linter` tries to, with go")
    command = (linter, "lint", "--strict", f"--config={HERE / '.lint'}", str(HERE / f"{board}.json"))
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert 0 == ran.returncode, ran.stdout + ran.stderr
