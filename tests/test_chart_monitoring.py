"""What the Helm chart tells Prometheus, its operator and Grafana: targets, labels, rules, dashboards."""

from __future__ import annotations

import json
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from docs.catalogue import CATALOGUE
from tests.alerting import GROUPS, RULES, SETTINGS_GROUP
from tests.charting import PORT, SETS, found, only, rendered, workload
from tests.conftest import REPOSITORY, required

if TYPE_CHECKING:
    from pathlib import Path

SCRAPED = ["sharded", "guarded", "everything"]  # the sets of values with monitors
LARGEST = 262_144  # bytes of a Kubernetes annotation, where `kubectl apply` keeps a copy of what it applied

# ----------------------------------------------------------------------------------------- the operator's API

# Prometheus Operator's kinds are not among Kubernetes' schemas. What the chart may write of them, by the API
# of version 0.70, where ScrapeConfig first had what it takes to get in; ... is any value.
REFERENCE = {"name": ..., "key": ...}
SOURCE = {"secret": REFERENCE, "configMap": REFERENCE}
TLS = {"ca": SOURCE, "cert": SOURCE, "keySecret": REFERENCE, "serverName": ...}
CLIENT = {"tlsConfig": TLS, "basicAuth": {"username": REFERENCE, "password": REFERENCE}}
RELABELING = dict.fromkeys(("action", "regex", "replacement", "sourceLabels", "targetLabel"), ...)
RULE = dict.fromkeys(("alert", "record", "expr", "for", "keep_firing_for", "labels", "annotations"), ...)
OPERATORS: dict[str, tuple[str, Any]] = {
    "ServiceMonitor": (
        "monitoring.coreos.com/v1",
        {
            "selector": {"matchLabels": ...},
            "endpoints": [
                {"port": ..., "path": ..., "scheme": ..., "interval": ..., "scrapeTimeout": ...}
                | {"relabelings": [RELABELING]}
                | CLIENT
            ],
        },
    ),
    "ScrapeConfig": (
        "monitoring.coreos.com/v1alpha1",
        {"httpSDConfigs": [{"url": ..., "refreshInterval": ...} | CLIENT]}
        | {"scrapeInterval": ..., "scrapeTimeout": ..., "relabelings": [RELABELING]}
        | CLIENT,
    ),
    "PrometheusRule": (
        "monitoring.coreos.com/v1",
        {"groups": [{"name": ..., "interval": ..., "rules": [RULE]}]},
    ),
}


def strange(value: Any, shape: Any, path: str) -> list[str]:
    """Return the paths of what a shape does not have."""
    if shape is ...:
        return [path] if value is None else []
    if type(value) is not type(shape):
        return [path]
    if isinstance(shape, list):
        return [wrong for each in value for wrong in strange(each, shape[0], f"{path}[]")]
    return [
        wrong
        for key, each in value.items()
        for wrong in (strange(each, shape[key], f"{path}.{key}") if key in shape else [f"{path}.{key}"])
    ]


@pytest.mark.parametrize("values", SETS)
def test_the_operator_knows_every_key(values: str) -> None:
    """Monitors and rules have the versions and the keys of Prometheus Operator's API, and nothing empty."""
    for document in found(values, *OPERATORS):
        version, shape = OPERATORS[document["kind"]]
        assert version == document["apiVersion"]
        assert [] == strange(document["spec"], shape, document["kind"])


# --------------------------------------------------------------------------------------- what Prometheus says


@pytest.mark.parametrize("values", SCRAPED)
def test_no_label_of_a_target_hides_a_samples_own(values: str) -> None:
    """Of the labels that the operator gives a target, those that a metric of ours has are dropped."""
    given = {"namespace", "service", "pod", "container", "endpoint", "job", "instance"}
    (endpoint,) = only(values, "ServiceMonitor")["spec"]["endpoints"]
    steps = endpoint["relabelings"]
    for document in found(values, "ScrapeConfig"):
        steps = steps + document["spec"]["relabelings"]
    given |= {step["targetLabel"] for step in steps if "targetLabel" in step}
    dropped = [step["regex"] for step in steps if step.get("action") == "labeldrop"]
    kept = {label for label in given if not any(re.fullmatch(regex, label) for regex in dropped)}

    assert set() == kept & {label for metric in CATALOGUE.values() for label in metric.labels}


@pytest.mark.parametrize("values", SCRAPED)
def test_jobs_are_those_that_the_rules_look_for(values: str) -> None:
    """The `job` of each monitor matches the one expression of the rules that says how jobs are called."""
    (pattern,) = re.findall(r'up\{job=~"(.*?)"\}', RULES.read_text())
    monitors = found(values, "ServiceMonitor", "ScrapeConfig")
    steps = [
        step
        for each in monitors
        for step in (each["spec"].get("relabelings") or each["spec"]["endpoints"][0]["relabelings"])
    ]
    jobs = [step["replacement"] for step in steps if step.get("targetLabel") == "job"]

    assert len(monitors) == len(jobs)
    assert [] == [job for job in jobs if not re.fullmatch(pattern, job)]


@pytest.mark.parametrize(("values", "scheme"), [("sharded", "http"), ("everything", "https")])
def test_every_shard_is_asked_for_its_sites(values: str, scheme: str) -> None:
    """The ScrapeConfig asks /sd of each pod, by the name that the headless Service gives it."""
    name, service = workload(values)["metadata"]["name"], only(values, "Service")["metadata"]["name"]
    asked = only(values, "ScrapeConfig")["spec"]["httpSDConfigs"]

    assert [f"{scheme}://{name}-{shard}.{service}.mining.svc:{PORT}/sd" for shard in range(3)] == [
        each["url"] for each in asked
    ]


def test_prometheus_gets_in() -> None:
    """With TLS and passwords, targets and /sd have the same way in, and the certificate is the Service's."""
    references = {
        "username": {"name": "scrape", "key": "user"},
        "password": {"name": "scrape", "key": "password"},
    }
    authority = {"secret": {"name": "web-tls", "key": "ca.crt"}}
    (endpoint,) = only("guarded", "ServiceMonitor")["spec"]["endpoints"]
    spec = only("everything", "ScrapeConfig")["spec"]
    service = only("guarded", "Service")["metadata"]["name"]

    assert "https" == endpoint["scheme"]
    assert {"ca": authority, "serverName": f"{service}.mining.svc"} == endpoint["tlsConfig"]
    assert {"ca": authority, "serverName": "loot-headless.mining.svc"} == spec["tlsConfig"]
    assert [references] * 2 == [endpoint["basicAuth"], spec["basicAuth"]]
    for asked in spec["httpSDConfigs"]:
        assert (spec["tlsConfig"], references) == (asked["tlsConfig"], asked["basicAuth"])


def test_the_policy_lets_the_api_be_called() -> None:
    """Egress is DNS, the port of the API's URL, and what was added; ingress the port, from who was named."""
    ports = {}
    for values in ("guarded", "everything"):
        spec = only(values, "NetworkPolicy")["spec"]
        ports[values] = [[port["port"] for port in rule["ports"]] for rule in spec["egress"]]
        (ingress,) = spec["ingress"]
        assert [{"port": "metrics"}] == ingress["ports"]
        assert [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}] == (
            ingress["from"]
        )

    assert {"guarded": [[53, 53], [443]], "everything": [[53, 53], [8443], [3128]]} == ports


# --------------------------------------------------------------------------------------- rules and dashboards


def test_rules_are_those_that_are_shipped() -> None:
    """Unless links or thresholds are given, the PrometheusRule is the file, its templates untouched."""
    documents = rendered("default", "--set", "monitoring.rules.enabled=true")
    (rule,) = [each for each in documents if each["kind"] == "PrometheusRule"]

    assert yaml.safe_load(RULES.read_text()) == rule["spec"]


def test_promtool_takes_the_rules_of_the_chart(tmp_path: Path) -> None:
    """With links and thresholds of one's own, sites that differ have their number, the others the default."""
    spec = only("everything", "PrometheusRule")["spec"]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(spec))
    sites = ("shop", '$1 "odd"', "game")
    series = [{"series": f"cryptoloot_site_info{{site={json.dumps(site)}}}", "values": "1"} for site in sites]
    ratio = "site:cryptoloot_hashrate_drop_ratio:threshold"
    tests = [
        {
            "expr": ratio,
            "eval_time": "0",
            "exp_samples": [
                {"labels": f"{ratio}{{site={json.dumps(site)}}}", "value": value}
                for site, value in zip(sites, (0.5, 0.4, 0.53), strict=True)
            ],
        }
    ]
    document = {
        "rule_files": [str(tmp_path / "rules.yml")],
        "group_eval_order": [SETTINGS_GROUP, *GROUPS],
        "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": tests}],
    }
    (tmp_path / "test.yml").write_text(json.dumps(document))
    command = (required("promtool"), "test", "rules", str(tmp_path / "test.yml"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert 0 == done.returncode, done.stdout + done.stderr
    (links,) = [rule for rule in spec["groups"][0]["rules"] if rule["record"] == "cryptoloot:links:setting"]
    assert {
        "dashboards": "https://grafana.example",
        "runbook": "https://runbooks.example/cryptoloot.md",
    } == links["labels"]


def test_dashboards_are_those_that_are_shipped() -> None:
    """Each has a ConfigMap of its own that the sidecar finds, and `kubectl apply` can keep a copy of."""
    maps = [
        each for each in found("everything", "ConfigMap") if "grafana_dashboard" in each["metadata"]["labels"]
    ]
    boards = {path.name: path.read_text() for path in (REPOSITORY / "dashboards").glob("*.json")}

    assert boards == {name: text for each in maps for name, text in each["data"].items()}
    assert [1] * len(boards) == [len(each["data"]) for each in maps]
    assert [] == [each["metadata"]["name"] for each in maps if len(json.dumps(each)) >= LARGEST]
    assert {"Crypto-Loot"} == {each["metadata"]["annotations"]["grafana_folder"] for each in maps}
