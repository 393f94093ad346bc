"""Prometheus' own engine, in promtool, over what the exporter would have exported.

Rows become samples by the exporter's own functions, hour by hour. promtool evaluates the shipped alerts that
judge the hashrate and the recordings that they need, each as shipped; other rules are left out, because they
take time and change nothing. An expectation that holds tells promtool's user nothing, so silence is expected
at every step, and what promtool got instead is read.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from msgspec.structs import replace

from bench.programs import REPOSITORY, path_of
from bench.traffic import HOUR, SETTLED
from exporter import config
from exporter.api.answers import Entries, HistoryRow
from exporter.backfill.samples import METRICS
from exporter.clock import Now
from exporter.collectors.expiry import Reading
from exporter.collectors.history import HISTORY, HistoryState
from exporter.collectors.history_rows import WEEK_ROWS
from exporter.collectors.registry import HISTORY_COLLECTOR

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

RULES = sorted((REPOSITORY / "alerts").glob("*.rules.yml"), reverse=True)  # settings first: rules read them
ALTERNATIVES = REPOSITORY / "bench" / "alternatives.rules.yml"
WARNING, PAGES = "CryptolootHashrateDrop", ("CryptolootHashrateDropCritical", "CryptolootSiteDead")
STEP = 1200  # seconds between samples; a row settles at a quarter past, and is sampled from twenty past on
PER_HOUR = HOUR // STEP
LOOKS = 2  # steps between evaluations: each row is looked at once or twice
UNITS = {"w": 168.0, "d": 24.0, "h": 1.0, "m": 1 / 60}
RANGE = re.compile(r"(?:offset |\[)((?:\d+[wdhm])+)")
FOUND = re.compile(r"time: (\w+),\s+exp: nil\s+got: (.*)")
LABELS = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
SITE = config.parse(
    {"api": {"url": "http://127.0.0.1:1"}, "sites": [{"name": "site", "secret_env": "SECRET"}]},
    {"SECRET": "-"},
).sites[0]

Values = dict[str, float]  # by series, without the labels of the target and the site


class Trace(NamedTuple):
    """A site as Prometheus saw it: values by hour of the settled row, backfilled before `known`.

    Hours are those of the series; hour `first` is moved to the begin of promtool's time.
    """

    name: str
    first: int
    known: int
    hours: Mapping[int, Values]
    judged: int  # the hour of the first row whose alerts are read


class Fired(NamedTuple):
    """The hours of the rows with which a rule set warned and paged, by site."""

    warnings: dict[str, list[int]]
    pages: dict[str, list[int]]


# ----------------------------------------------------------------------------------------------- the exporter


def follow(
    rates: Sequence[float], hours: Iterable[int], state: HistoryState | None = None
) -> Iterator[tuple[int, HistoryState, Values]]:
    """Poll the API each hour, twenty minutes after the hour has ended; yield the state and what is exported.

    Without a state, the exporter has just started.
    """
    state = state or HistoryState()
    for hour in hours:
        now = Now(wall := (hour + 1) * HOUR + float(STEP), wall)
        newest = min(hour + 1, len(rates) - 1)
        rows = [
            HistoryRow(at * HOUR, rates[at] * HOUR, rates[at])
            for at in range(max(0, newest + 1 - WEEK_ROWS), newest + 1)
        ]
        state = HISTORY_COLLECTOR.step(SITE, HISTORY, state, Entries(tuple(rows)), now).state
        yield hour, state, exported(state, now)


def exported(state: HistoryState, now: Now) -> Values:
    """Return the samples of a state, by metric and labels other than the site."""
    view = HISTORY_COLLECTOR.visible(SITE, state, now).view
    values: Values = {}
    for family in HISTORY_COLLECTOR.families(SITE, view):
        for number, value in enumerate(family.values):
            labels = [
                f'{name}="{each if isinstance(each, str) else each[number]}"'
                for name, each in zip(family.metric.labels, family.labels, strict=True)
                if name != "site"
            ]
            values[f"{family.metric.name}{{{','.join(labels)}"] = value
    return values


def backfilled(rates: Sequence[float], installed: int) -> dict[int, Values]:
    """Return what backfilling brings by hour: what would have been exported from the API's week alone."""
    now = Now(wall := (installed + 1) * HOUR + float(STEP), wall)
    ((_, state, _),) = follow(rates, [installed])
    moments = [Now(at := now.wall - hours * HOUR, at) for hours in range(WEEK_ROWS, 0, -1)]
    names = tuple(metric.name for metric in METRICS)
    return {
        int(at.wall // HOUR) - 1: {
            name: value
            for name, value in exported(replace(state, answer=Reading(state.rows, at)), at).items()
            if name.partition("{")[0] in names
        }
        for at in moments
    }


# -------------------------------------------------------------------------------------------------- the rules


class Rules(NamedTuple):
    """A rules file for promtool, the metrics that it reads, and the hours that it looks back."""

    groups: Sequence[Any]
    metrics: frozenset[str]
    hours: int


def shipped(files: Sequence[Path] = RULES) -> Rules:
    """Return the alerts on the hashrate and the recordings that they need, with the alternatives beside."""
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    known = {rule["record"]: rule["expr"] for group in groups for rule in group["rules"] if "record" in rule}
    wanted = {WARNING, *PAGES}
    needed: set[str] = set()
    new = _recordings(
        rule["expr"] for group in groups for rule in group["rules"] if rule.get("alert") in wanted
    )
    while new:
        needed |= new
        new = (_recordings(known[name] for name in new) & known.keys()) - needed
    for group in groups:
        group["rules"] = [
            {key: value for key, value in rule.items() if key != "annotations"}
            for rule in group["rules"]
            if rule.get("alert") in wanted or rule.get("record") in needed
        ]
    groups += yaml.safe_load(ALTERNATIVES.read_text())["groups"]
    text = "\n".join(rule["expr"] for group in groups for rule in group["rules"])
    text = re.sub(r"#.*", "", text)
    metrics = frozenset(re.findall(r"(?<![\w:])cryptoloot_\w+(?![\w:])", text))
    looked = max((_hours(found) for found in RANGE.findall(text)), default=0.0)
    return Rules([group for group in groups if group["rules"]], metrics, int(looked) + 2)


def alternatives() -> list[str]:
    """Return the names of the alternatives, in the order of their file."""
    groups = yaml.safe_load(ALTERNATIVES.read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    return list(dict.fromkeys(rule["labels"]["alternative"] for rule in rules if "alert" in rule))


def _recordings(expressions: Iterable[str]) -> set[str]:
    return {
        name
        for expression in expressions
        for name in re.findall(r"[\w:]+", re.sub(r"#.*", "", expression))
        if ":" in name.strip(":")
    }


def _hours(duration: str) -> float:
    return sum(int(number) * UNITS[unit] for number, unit in re.findall(r"(\d+)([wdhm])", duration))


# --------------------------------------------------------------------------------------------------- promtool


def _series(trace: Trace, rules: Rules) -> Iterator[dict[str, str]]:
    """Yield promtool's input series of a site."""
    target = f'job="cryptoloot",instance="{trace.name}",site="{trace.name}"}}'
    last = max(trace.hours)
    known = (trace.known - trace.first + 1) * PER_HOUR + 1
    length = (last - trace.known + 1) * PER_HOUR
    for lasting in (
        'cryptoloot_site_info{currency="XMR",api_host="api"',
        'cryptoloot_up{endpoint="/stats/history"',
    ):
        yield {"series": f"{lasting},{target}", "values": f"_x{known} 1+0x{length - 1}"}
    names = {name for values in trace.hours.values() for name in values}
    for name in sorted(names):
        metric, _, labels = name.partition("{")
        if metric in rules.metrics:
            moved = (trace.first * HOUR) if "timestamp" in metric else 0
            runs = [f"_x{PER_HOUR + 1}"]
            for hour in range(trace.first, last + 1):
                value = trace.hours.get(hour, {}).get(name)
                runs.append(f"_x{PER_HOUR}" if value is None else f"{value - moved!r}+0x{PER_HOUR - 1}")
            yield {"series": f"{metric}{{{labels}{',' if labels else ''}{target}", "values": " ".join(runs)}


def evaluate(traces: Sequence[Trace], rules: Rules) -> dict[str, Fired]:
    """Let promtool evaluate sites side by side; return what fired by rule set."""
    since = min(trace.judged - trace.first for trace in traces)
    hours = max(max(trace.hours) - trace.first for trace in traces) + 1
    steps = range(0, (hours + 1) * PER_HOUR + 1, LOOKS)
    silence = [
        {"expr": 'ALERTS{alertstate="firing"}', "eval_time": f"{step * STEP}s", "exp_samples": []}
        for step in steps
        if step >= since * PER_HOUR
    ]
    test = {
        "interval": f"{STEP}s",
        "input_series": [series for trace in traces for series in _series(trace, rules)],
        "promql_expr_test": silence,
    }
    with tempfile.TemporaryDirectory(prefix="bench-alerts-") as directory:
        file = Path(directory) / "cut.rules.yml"
        file.write_text(json.dumps({"groups": rules.groups}))
        document = {
            "rule_files": [str(file)],
            "evaluation_interval": f"{STEP * LOOKS}s",
            "group_eval_order": [group["name"] for group in rules.groups],
            "tests": [test],
        }
        (Path(directory) / "test.json").write_text(json.dumps(document))
        ran = subprocess.run(
            [path_of("promtool"), "test", "rules", str(Path(directory) / "test.json")],
            capture_output=True,
            text=True,
            check=False,
        )
    output = ran.stdout + ran.stderr
    matches = FOUND.findall(output)
    if bool(matches) != bool(ran.returncode):
        raise RuntimeError(f"promtool: {output[:2000]}")
    return _fired(matches, {trace.name: trace for trace in traces})


def _fired(matches: Sequence[tuple[str, str]], traces: Mapping[str, Trace]) -> dict[str, Fired]:
    """Return the rows with which alerts fired, in the hours of each site's series."""
    fired: defaultdict[str, Fired] = defaultdict(lambda: Fired({}, {}))
    for moment, got in matches:
        passed = int(_hours(moment) - SETTLED)
        for sample in got.split("}")[:-1]:
            labels = dict(LABELS.findall(sample))
            trace = traces[labels["site"]]
            row = passed + trace.first
            if trace.judged <= row <= max(trace.hours):
                found = fired[labels.get("alternative", "")]
                by_site = found.warnings if labels["severity"] == "warning" else found.pages
                by_site.setdefault(trace.name, []).append(row)
    return dict(fired)
