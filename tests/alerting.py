"""The shipped rules as tests see them: what they name, pages as promtool's input, and when alerts fire.

What a page shows comes from the exporter's own functions, and what fires from Prometheus' own engine, in
promtool: nothing of either is restated here. An expectation that holds tells promtool's user nothing, so
`firing` expects nothing at every step and reads what promtool got instead.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from docs.catalogue import CATALOGUE
from exporter.api.answers import Entries, HistoryRow
from exporter.clock import Now
from exporter.collectors.history import HISTORY
from exporter.collectors.history_rows import HOUR
from exporter.collectors.snapshot import Snapshot
from exporter.collectors.users import TOP_USERS
from exporter.endpoint import Reason
from tests.collectors.sites import a_site, failed, families, polled, samples_of, with_rows
from tests.conftest import REPOSITORY, required

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from pathlib import Path

    from exporter.api.answers import User
    from exporter.collectors.metric import Family, Metric
    from exporter.config import Site as SiteConfig

ALERTS = REPOSITORY / "alerts"
RULES = ALERTS / "cryptoloot.rules.yml"
SETTINGS = ALERTS / "cryptoloot.settings.rules.yml"
GROUPS = ["cryptoloot-recordings", "cryptoloot-alerts"]
SETTINGS_GROUP = "cryptoloot-settings"
STEP = 1200  # seconds between samples of hourly data: the widest that every offset of the rules fits
WEEK_ROWS = 168  # that the API remembers
STALE = "stale"  # promtool's word for the marker that a lost scrape leaves
FOUND = re.compile(r"time: (\w+),\s+exp: nil\s+got: (.*)")
LABELS = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
SECONDS = {"y": 31_536_000, "w": 604_800, "d": 86400, "h": 3600, "m": 60, "s": 1}


# --------------------------------------------------------------------------------------------- the rules file


def rules(file: Path = RULES) -> list[dict[str, Any]]:
    """Return all rules of the file, in its order."""
    return [rule for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]


def settings(*names: str) -> dict[str, Any]:
    """Return the settings file with these settings in force, as their examples have them."""
    text = SETTINGS.read_text()
    for name in names:
        text = text.replace(f'## - {{record: "{name}"', f'- {{record: "{name}"')
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def recorded(expression: str) -> set[str]:
    """Return the names of recording rules that an expression reads: those with colons."""
    return {name for name in re.findall(r"[\w:]+", uncommented(expression)) if ":" in name.strip(":")}


def uncommented(expression: str) -> str:
    """Return an expression without its comments; no string of ours has a hash sign."""
    return re.sub(r"#.*", "", expression)


def scraped(expression: str) -> set[str]:
    """Return the names of our own metrics that an expression reads."""
    return set(re.findall(r"(?<![\w:])cryptoloot_\w+(?![\w:])", uncommented(expression)))


def cut(alerts: Collection[str]) -> dict[str, Any]:
    """Return the rules file with these alerts and the recordings that they stand on, each as shipped."""
    document: dict[str, Any] = yaml.safe_load(RULES.read_text())
    known = {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}
    needed: set[str] = set()
    wanted = set().union(*(recorded(rule["expr"]) for rule in rules() if rule.get("alert") in alerts))
    while wanted:
        needed |= wanted
        # Settings are recorded by another file, or by none.
        wanted = set().union(*(recorded(known[name]) for name in wanted if name in known)) - needed
    for group in document["groups"]:
        group["rules"] = [
            rule for rule in group["rules"] if rule.get("alert") in alerts or rule.get("record") in needed
        ]
    return document


# ----------------------------------------------------------------------------------------------- the exporter


@dataclass(frozen=True)
class Site:
    """A site and its API: hashrates by hour since the epoch (hours that are not there are left out).

    Times are seconds since the epoch: `known` is when the exporter is told of the site, `failing` when polls
    fail, `frozen` when the API's answer stops changing. `lost` are the steps whose scrapes are lost,
    `restarts` those before which the exporter forgets everything.
    """

    name: str
    rates: Mapping[int, float]
    users: Callable[[float], tuple[User, ...]] | None = None  # what `/user/top` answers at a time
    known: int = 0
    failing: range = range(0)
    frozen: float = float("inf")
    lost: Collection[int] = ()
    restarts: Collection[int] = ()
    target: Mapping[str, str] = field(default_factory=lambda: {"job": "cryptoloot", "instance": "a:12758"})

    def answer(self, now: float) -> list[HistoryRow]:
        """Return the rows of `/stats/history`, zero-filled by nobody."""
        newest = int(min(now, self.frozen) // HOUR)
        hours = range(newest - WEEK_ROWS + 1, newest + 1)
        return [self.rows[hour] for hour in hours if hour in self.rows]

    @cached_property
    def rows(self) -> dict[int, HistoryRow]:
        """Return the rows of all hours."""
        return {hour: HistoryRow(hour * HOUR, rate * HOUR, rate) for hour, rate in self.rates.items()}


def _pages(site: Site, steps: range, step: int) -> Iterator[tuple[int, Site, list[Family] | None] | None]:
    """Return what a scrape at each step finds, after a poll; no page where the scrape is lost."""
    config = a_site(site.name)
    snapshot = Snapshot()
    for index in steps:
        now = Now(float(index * step), float(index * step))
        if now.wall < site.known:
            yield None
            continue
        snapshot = after_polls(Snapshot() if index in site.restarts else snapshot, config, site, now)
        yield index, site, None if index in site.lost else families(config, snapshot, now)


def together(
    sites: Iterable[Site], steps: range, step: int
) -> Iterator[tuple[int, Site, list[Family] | None]]:
    """Return the pages of all sites, in the order of time."""
    for moment in zip(*(_pages(site, steps, step) for site in sites), strict=True):
        yield from (found for found in moment if found is not None)


def after_polls(snapshot: Snapshot, config: SiteConfig, site: Site, now: Now) -> Snapshot:
    """Poll the history, and the users where there are any."""
    if site.users is not None:
        snapshot = polled(snapshot, config, TOP_USERS, Entries(site.users(now.wall)), now)
    if int(now.wall) in site.failing:
        return failed(snapshot, HISTORY, Reason.TIMEOUT, now)
    return with_rows(snapshot, config, site.answer(now.wall), now)


# --------------------------------------------------------------------------------------------------- promtool


class Run(NamedTuple):
    """A sample that stays the same for a while; without a value, none."""

    value: float | str | None
    steps: int

    def __str__(self) -> str:
        if self.value is None:
            return f"_x{self.steps}"
        if isinstance(self.value, str):
            return " ".join([self.value] * self.steps)
        return f"{self.value!r}+0x{self.steps - 1}"


@cache  # the same ones with every page
def _series(metric: Metric, labels: tuple[str, ...], job: str) -> str:
    own = ",".join(f'{name}="{label}"' for name, label in zip(metric.labels, labels, strict=True))
    return f"{metric.name}{{{own},{job}}}"


class Recording:
    """Samples of those of our metrics that the rules read, as promtool's input series."""

    def __init__(self) -> None:
        self._names = set().union(*(scraped(rule["expr"]) for rule in rules()))
        self._runs: dict[str, list[Run]] = {}
        self._ends: dict[str, int] = {}

    def scrape(
        self, step: int, families: list[Family] | None, target: Mapping[str, str], held: int = 1
    ) -> None:
        """Take a page that stays the same for so many steps; without one, all of the target's series end."""
        job = ",".join(f'{name}="{value}"' for name, value in target.items())
        if step >= self._ends.get(f"up{{{job}}}", 0):  # the first of the target's sites
            self.add(f"up{{{job}}}", step, float(families is not None), held)
        if families is None:
            for series in [each for each in self._runs if each.endswith(f",{job}}}")]:
                if self._ends[series] == step and self._runs[series][-1].value != STALE:
                    self.add(series, step, STALE)
            return
        for family in families:
            if family.metric.name in self._names:
                for labels, value in samples_of(family):
                    self.add(_series(family.metric, labels, job), step, value, held)

    def add(self, series: str, step: int, value: float | str, steps: int = 1) -> None:
        """Add a sample that stays for so many steps; steps that were left out have none."""
        runs = self._runs.setdefault(series, [])
        end = self._ends.get(series, 0)
        if step > end:
            runs.append(Run(None, step - end))
        if runs and runs[-1].value == value:
            runs[-1] = Run(value, runs[-1].steps + steps)
        else:
            runs.append(Run(value, steps))
        self._ends[series] = step + steps

    def series(self) -> list[dict[str, str]]:
        return [{"series": series, "values": " ".join(map(str, runs))} for series, runs in self._runs.items()]


def unit_test(recording: Recording, document: str, steps: range, step: int = STEP) -> dict[str, Any]:
    """Return a promtool test of the rules in file `document`: evaluated at the steps, silence expected."""
    silence = [
        {"expr": 'ALERTS{alertstate="firing"}', "eval_time": f"{index * step}s", "exp_samples": []}
        for index in steps
    ]
    test = {"interval": f"{step}s", "input_series": recording.series(), "promql_expr_test": silence}
    return {
        "rule_files": [document],
        "evaluation_interval": f"{step * steps.step}s",
        "group_eval_order": GROUPS,
        "tests": [test],
    }


def firing(
    directory: Path,
    recording: Recording,
    steps: range,
    *,
    document: Mapping[str, Any] | None = None,
    step: int = STEP,
    deadline: float = 60.0,
) -> dict[tuple[str, str], list[int]]:
    """Let promtool evaluate the rules at the steps; return those at which alerts fired, by alert and site.

    Time begins at 0, so the steps have to be multiples of their distance.
    """
    file = RULES
    if document is not None:
        file = directory / "cut.rules.yml"
        file.write_text(json.dumps(document))
    test = directory / "replay.json"
    test.write_text(json.dumps(unit_test(recording, str(file), steps, step)))
    found = subprocess.run(
        [required("promtool"), "test", "rules", str(test)],
        capture_output=True,
        text=True,
        check=False,
        timeout=deadline,
    )
    fired: dict[tuple[str, str], list[int]] = defaultdict(list)
    matches = FOUND.findall(found.stdout + found.stderr)
    assert bool(matches) == bool(found.returncode), (found.stdout + found.stderr)[:10_000]
    for moment, got in matches:
        for labels in got.split("}")[:-1]:
            alert = dict(LABELS.findall(labels))
            fired[alert["alertname"], alert.get("site", "")].append(seconds(moment) // step)
    return dict(fired)


def seconds(duration: str) -> int:
    """Return a duration as Prometheus writes it, in seconds."""
    return sum(int(number) * SECONDS[unit] for number, unit in re.findall(r"(\d+)([ywdhms])", duration))


def episodes(steps: list[int]) -> list[tuple[int, int]]:
    """Return the first and the last step of each uninterrupted stretch."""
    found: list[tuple[int, int]] = []
    for step in steps:
        if found and found[-1][1] == step - 1:
            found[-1] = (found[-1][0], step)
        else:
            found.append((step, step))
    return found


def catalogued(name: str) -> bool:
    """Whether a name is one of the exporter's: a histogram's samples have its name and a suffix."""
    plain = re.sub(r"_(bucket|sum|count)$", "", name)
    return name in CATALOGUE or (plain in CATALOGUE and CATALOGUE[plain].type == "histogram")
