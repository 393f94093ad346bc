"""The shipped rules, their promtool tests, the Alertmanager example, and the runbook, held to each other."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from docs.catalogue import CATALOGUE
from exporter.collectors.history_rows import Meaning
from exporter.collectors.registry import COLLECTORS
from exporter.endpoint import Reason
from tests.alerting import (
    ALERTS,
    GROUPS,
    RULES,
    SETTINGS,
    SETTINGS_GROUP,
    catalogued,
    recorded,
    rules,
    scraped,
    uncommented,
)
from tests.conftest import REPOSITORY, required

RUNBOOK = REPOSITORY / "docs" / "runbook.md"
ALERTMANAGER = ALERTS / "alertmanager.example.yml"
TESTS = sorted((ALERTS / "tests").glob("*.yml"))
LONG = {"live.test", "payout.test", "sites.test"}  # seconds of promtool
ALERTING = [rule for rule in rules() if "alert" in rule]
RECORDING = [rule for rule in rules() if "record" in rule]
THRESHOLDS = [rule["record"] for rule in RECORDING if rule["record"].endswith(":threshold")]
SETTABLE = set(re.findall(r'- {record: "([\w:]+)"', SETTINGS.read_text()))
PAGING = {
    "CryptolootExporterDown",
    "CryptolootInvalidSecret",
    "CryptolootSiteDead",
    "CryptolootHashrateDropCritical",
}
TARGET = {"job", "instance"}  # what Prometheus adds to every sample
VALUES: dict[str, set[str]] = {
    "endpoint": {endpoint for collector in COLLECTORS for endpoint in collector.endpoints},
    "reason": {*Reason},
    "mode": {*Meaning},
}
SELECTOR = re.compile(r"(?<![\w:])(cryptoloot_\w+)(?![\w:])(?:\{(.*?)\})?")
MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"(.*?)"')
GROUPING = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right) \(([^)]*)\)")
QUERY = re.compile(r"```promql\n(.*?)```", re.DOTALL)


def told(*command: str) -> str:
    """Run a tool that must succeed; return what it says."""
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert 0 == ran.returncode, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


# -------------------------------------------------------------------------------------------------- the tools


def test_promtool_takes_the_rules(tmp_path: Any) -> None:
    """`promtool check rules` finds every rule and every setting, and nothing to complain of."""
    (tmp_path / "set.yml").write_text(SETTINGS.read_text().replace("## - ", "- "))

    for file, count in ((RULES, len(rules())), (SETTINGS, 1), (tmp_path / "set.yml", len(THRESHOLDS) + 2)):
        assert f"SUCCESS: {count} rules found" in told(required("promtool"), "check", "rules", str(file))


@pytest.mark.parametrize(
    "file",
    [pytest.param(file, id=file.stem, marks=[pytest.mark.slow] * (file.stem in LONG)) for file in TESTS],
)
def test_the_rules_do_what_their_tests_say(file: Any) -> None:
    """`promtool test rules` passes each file of tests."""
    assert "SUCCESS" in told(required("promtool"), "test", "rules", str(file))


def test_pint_has_nothing_to_say() -> None:
    """Where pint is installed, it passes the rules offline; no package brings it, so no run demands it."""
    pint = shutil.which("pint", path=f"{os.environ['PATH']}:{REPOSITORY}/.venv-tools/bin")
    if pint is None:
        pytest.skip("pint is not installed: `make pint` tries to, with go")
    said = told(pint, "--offline", "--no-color", "--config", str(ALERTS / "pint.hcl"), "lint", str(RULES))

    assert "Problems found" not in said


def test_amtool_takes_the_example() -> None:
    """`amtool check-config` finds the receivers and the inhibitions."""
    said = told(required("amtool"), "check-config", str(ALERTMANAGER))

    assert "3 inhibit rules" in said
    assert "3 receivers" in said


@pytest.mark.parametrize("rule", ALERTING, ids=lambda rule: rule["alert"])
def test_every_alert_finds_its_receiver(rule: dict[str, Any]) -> None:
    """Severity says who hears of an alert."""
    by_severity = {"critical": "pager", "warning": "chat", "info": "digest"}
    labels = (f"alertname={rule['alert']}", f"severity={rule['labels']['severity']}", "site=shop")
    receiver = by_severity[rule["labels"]["severity"]]
    command = ("config", "routes", "test", f"--config.file={ALERTMANAGER}", f"--verify.receivers={receiver}")

    assert receiver == told(required("amtool"), *command, *labels).split("\n")[0]


def test_only_blindness_inhibits() -> None:
    """A site's hashrate alerts alone are silenced, by its exporter down or its history failing alone."""
    document = yaml.safe_load(ALERTMANAGER.read_text())
    sources = [set(rule["source_matchers"]) for rule in document["inhibit_rules"]]
    silenced = [silent(rule["target_matchers"]) for rule in document["inhibit_rules"]]
    hashrate = {rule["alert"] for rule in ALERTING if "Hashrate" in rule["alert"]}

    assert [
        {'alertname="CryptolootExporterDown"'},
        {'alertname="CryptolootExporterDownForSite"'},
        {'alertname="CryptolootEndpointFailing"', 'endpoint="/stats/history"'},
    ] == sources
    assert [{"CryptolootExporterDownForSite"}, hashrate, hashrate] == silenced
    assert [None, ["site"], ["site"]] == [rule.get("equal") for rule in document["inhibit_rules"]]


def silent(matchers: list[str]) -> set[str]:
    """Return the alerts that a matcher of their name takes."""
    (pattern,) = re.findall(r'^alertname=~?"(.*)"$', "\n".join(matchers))
    return {rule["alert"] for rule in ALERTING if re.fullmatch(pattern, rule["alert"])}


# ---------------------------------------------------------------------------------------------- the catalogue


def labels_of(name: str) -> set[str]:
    return {"le"} | set(CATALOGUE[name].labels) if name in CATALOGUE else {"le"}


def foreign(expression: str) -> list[str]:
    """Return what an expression names that the exporter does not export."""
    wrong = [name for name in scraped(expression) if not catalogued(name)]
    for name, matchers in SELECTOR.findall(uncommented(expression)):
        for label, operator, value in MATCHER.findall(matchers):
            known = label in labels_of(name) | TARGET
            if not known or (operator == "=" and value not in VALUES.get(label, {value})):
                wrong.append(f"{name}{{{label}{operator}{value}}}")
    every = set().union(*(metric.labels for metric in CATALOGUE.values())) | TARGET
    grouped = ", ".join(GROUPING.findall(uncommented(expression))).replace(" ", "").split(",")
    return wrong + sorted(set(grouped) - every - {""})


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_rules_name_what_the_exporter_exports(rule: dict[str, Any]) -> None:
    """Every metric, label and value of ours in a rule is in the catalogue, every recording in the file."""
    texts = rule.get("annotations", {}).get("description", "")

    for text in (rule["expr"], texts):
        assert [] == foreign(text)
        assert set() == recorded(text) - {each["record"] for each in RECORDING} - SETTABLE


@pytest.mark.parametrize(
    "wrong",
    [
        "cryptoloot_hashrate",
        "max by (user_agent) (cryptoloot_up)",
        'cryptoloot_up{user="x"}',
        'cryptoloot_up{endpoint="/stats/payouts"}',
        'rate(cryptoloot_poll_failures_total{reason="bad_secret"}[5m])',
    ],
)
def test_what_the_exporter_does_not_export_is_found(wrong: str) -> None:
    """The check above sees a wrong name, label and value."""
    assert 1 == len(foreign(wrong))


def test_recordings_say_level_metric_operations() -> None:
    """A recording's name has three parts, and each is read by a rule or meant for people."""
    for_people = {
        "site:cryptoloot_earnings_coins_per_day:estimated",
        "site:cryptoloot_hashrate_hashes_per_second:drop_below",  # dashboards draw it
    }
    texts = "".join(json.dumps(rule) for rule in rules())

    assert [] == [rule["record"] for rule in RECORDING if rule["record"].count(":") != 2]
    unread = {rule["record"] for rule in RECORDING if texts.count(rule["record"]) < 2}
    assert for_people == unread


# ----------------------------------------------------------------------------------------------------- alerts


def test_four_alerts_page() -> None:
    """Critical are the four that somebody has to act on now."""
    assert PAGING == {rule["alert"] for rule in ALERTING if rule["labels"]["severity"] == "critical"}
    assert {"critical", "warning", "info"} == {rule["labels"]["severity"] for rule in ALERTING}


@pytest.mark.parametrize("rule", ALERTING, ids=lambda rule: rule["alert"])
def test_alerts_say_what_where_and_what_to_do(rule: dict[str, Any]) -> None:
    """No label but severity is added, and links are empty unless the settings have their base URLs."""
    link = '{{ with query "cryptoloot:links:info" }}{{ with . | first | label "%s" }}{{ . }}'
    texts = rule["annotations"]

    assert {"severity"} == set(rule["labels"])
    assert {"summary", "description", "runbook_url", "dashboard"} == set(texts)
    assert f"{link % 'runbook'}#{rule['alert'].lower()}{{{{ end }}}}{{{{ end }}}}" == texts["runbook_url"]
    path = re.split(r"[?{]", texts["dashboard"].removeprefix(link % "dashboards"))[0]
    assert path in {"/d/cryptoloot-sites", "/d/cryptoloot-site", "/d/cryptoloot-exporter"}


@pytest.mark.parametrize("rule", ALERTING, ids=lambda rule: rule["alert"])
def test_every_alert_is_tested_both_ways(rule: dict[str, Any]) -> None:
    """The tests for promtool see each alert with its texts, and see it silent."""
    tests = [
        test
        for file in TESTS
        for group in yaml.safe_load(file.read_text())["tests"]
        for test in group.get("alert_rule_test", [])
        if test["alertname"] == rule["alert"]
    ]

    assert any(test.get("exp_alerts") for test in tests)
    assert any(not test.get("exp_alerts") for test in tests)


def test_every_alert_has_a_runbook_entry() -> None:
    """The runbook has one entry per alert and no other, each complete and with a query."""
    entries = re.split(r"\n### ", RUNBOOK.read_text().replace("\n## ", "\n### ## "))[1:]
    entries = [entry for entry in entries if not entry.startswith("## ")]

    assert sorted(rule["alert"] for rule in ALERTING) == sorted(entry.split("\n")[0] for entry in entries)
    parts = ("**Means.**", "**Look at.**", "```promql", "**Do.**", "**Noise when**", "**Late by**")
    assert [] == [(entry.split("\n")[0], part) for entry in entries for part in parts if part not in entry]


def test_the_runbooks_queries_are_valid(tmp_path: Any) -> None:
    """Every query parses and names what is exported or recorded."""
    queries = QUERY.findall(RUNBOOK.read_text())
    document = {"groups": [{"name": "q", "rules": [{"record": "a:b:c", "expr": each} for each in queries]}]}
    (tmp_path / "queries.yml").write_text(json.dumps(document))
    told(required("promtool"), "check", "rules", "--lint=none", str(tmp_path / "queries.yml"))

    assert [] == [wrong for query in queries for wrong in foreign(query)]
    named = set().union(*(recorded(query) for query in queries)) - {"site:", ":threshold"}
    assert set() == named - {rule["record"] for rule in RECORDING}


# ------------------------------------------------------------------------------------------------- thresholds


@pytest.mark.parametrize("name", THRESHOLDS)
def test_a_threshold_is_changed_with_one_line(name: str, tmp_path: Any) -> None:
    """The settings' line, its ## taken away, changes one site, and leaves the default to the other."""
    setting, text = name.replace(":threshold", ":setting"), SETTINGS.read_text()
    (line,) = [line for line in text.splitlines() if f'"{setting}"' in line]
    (tmp_path / "changed.yml").write_text(text.replace(line, line.replace("## ", "")))
    sites = [
        {"series": f'cryptoloot_site_info{{site="{site}"}}', "values": "1"} for site in ("my-site", "shop")
    ]
    queries = {
        f'sum({name}{{site="my-site"}})': [number(line)],
        f'count({name}{{site="shop"}} == {number(line)})': [],
        f"count({name})": [2.0],
    }
    expected = [
        {"expr": query, "eval_time": "0", "exp_samples": [{"value": value, "labels": ""} for value in values]}
        for query, values in queries.items()
    ]
    tests = [{"interval": "1m", "input_series": sites, "promql_expr_test": expected}]
    document = {
        "rule_files": [str(RULES), str(tmp_path / "changed.yml")],
        "evaluation_interval": "1m",
        "group_eval_order": [SETTINGS_GROUP, *GROUPS],
        "tests": tests,
    }
    (tmp_path / "test.json").write_text(json.dumps(document))

    assert "SUCCESS" in told(required("promtool"), "test", "rules", str(tmp_path / "test.json"))


def test_links_and_jobs_are_changed_with_one_line(tmp_path: Any) -> None:
    """With base URLs the alerts have links; a job of another name is watched beside the usual ones."""
    text = SETTINGS.read_text().replace("## - ", "- ").replace("cryptoloot.*", "my-job")
    (tmp_path / "set.yml").write_text(text)
    down = {
        "exp_labels": {"severity": "critical", "job": "my-job", "instance": "a"},
        "exp_annotations": {
            "summary": "Target a of cryptoloot-exporter is down",
            "description": "Prometheus has not been able to scrape a (job my-job) for five minutes. "
            "Sites that only this exporter polls are not watched meanwhile.",
            "runbook_url": "https://docs.example/runbook.md#cryptolootexporterdown",
            "dashboard": "https://grafana.example/d/cryptoloot-exporter",
        },
    }
    series = [
        {"series": 'up{job="my-job", instance="a"}', "values": "0x9"},
        {"series": 'up{job="cryptoloot", instance="b"}', "values": "1x9"},
        {"series": "cryptoloot_exporter_build_info", "values": "1x9"},
    ]
    alerts = [{"eval_time": "8m", "alertname": "CryptolootExporterDown", "exp_alerts": [down]}]
    document = {
        "rule_files": [str(RULES), str(tmp_path / "set.yml")],
        "evaluation_interval": "1m",
        "group_eval_order": [SETTINGS_GROUP, *GROUPS],
        "tests": [{"interval": "1m", "input_series": series, "alert_rule_test": alerts}],
    }
    (tmp_path / "test.json").write_text(json.dumps(document))

    assert "SUCCESS" in told(required("promtool"), "test", "rules", str(tmp_path / "test.json"))


def number(line: str) -> float:
    """Return the number of an override: its vector."""
    factors = re.findall(r"vector\((.*?)\)", line)[0].split("*")
    product = 1.0
    for factor in factors:
        product *= float(factor)
    return product
