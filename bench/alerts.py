"""`python -m bench.alerts`: the shipped hashrate alerts on real traffic, what they miss and what is false.

Each CSV file of a directory (`utc,value`, a row per hour) becomes a busy and a small site. The exporter's own
functions make the samples, Prometheus' engine evaluates the shipped rules and what operators write instead.
Counted are, after three weeks: episodes of warnings and pages in a month, and how many of the drops that were
made at random moments were reported while they lasted; and warnings in the first week after an installation
with backfilling.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from bench import engine, traffic
from bench.engine import Fired, Trace
from bench.programs import Missing
from bench.traffic import KINDS, SETTLED, WARM_UP, kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.engine import Rules, Values
    from bench.traffic import Drop, Site
    from exporter.collectors.history import HistoryState

SIZES = (5000, 300)  # hashes per second in the mean
DROPS, QUICK_DROPS = 50, 10  # of each kind
INSTALLATIONS, QUICK_INSTALLATIONS = 12, 4
WEEK = 7 * 24  # hours
CHUNK = 4 * WEEK  # hours of a series that are evaluated together
BEFORE = 6  # hours before a drop from which on rules are evaluated
MINUTES = 5 / 60  # hours from the settling of a row until an alert has it: a poll, a scrape, an evaluation
SHIPPED = ""  # the name of the shipped rules among the rule sets


class Task(NamedTuple):
    """A site to judge, and how thoroughly."""

    name: str
    values: Sequence[float]
    size: int
    seed: int
    drops: int
    installations: int


class Known(NamedTuple):
    """What the exporter held and exported in each hour of the undisturbed series."""

    states: Mapping[int, HistoryState]
    values: Mapping[int, Values]


# --------------------------------------------------------------------------------------------------- one site


def judged(task: Task) -> dict[str, dict[str, Any]]:
    """Return what each rule set makes of a site."""
    site = traffic.site(task.name, task.values, task.size, task.seed)
    rules = engine.shipped()
    followed = list(engine.follow(site.rates, range(len(site.rates) - 1)))
    known = Known(
        {hour: state for hour, state, _ in followed}, {hour: values for hour, _, values in followed}
    )
    names = [SHIPPED, *engine.alternatives()]
    undisturbed = _undisturbed(site, known, rules)
    first_weeks = _first_weeks(site, rules, task.installations)
    drops = traffic.drops(site, task.drops, task.seed)
    told = _told(site, known, rules, drops)
    return {
        name: {
            **_false(undisturbed.get(name), max(1, len(site.rates) - WARM_UP)),
            "first_week": _first_week(first_weeks.get(name), task.installations),
            "detected": _detected(drops, told.get(name)),
        }
        for name in names
    }


def _undisturbed(site: Site, known: Known, rules: Rules) -> dict[str, Fired]:
    """Evaluate the series as it was, in chunks side by side."""
    lead = rules.hours + 24
    chunks = []
    for start in range(WARM_UP, len(site.rates), CHUNK):
        first = max(0, start - lead)
        hours = range(first, min(start + CHUNK, len(site.rates) - 1))
        if hours.stop > start:
            part = {hour: known.values[hour] for hour in hours}
            chunks.append(Trace(f"chunk{start}", first, first, part, start))
    return engine.evaluate(chunks, rules)


def _first_weeks(site: Site, rules: Rules, count: int) -> dict[str, Fired]:
    """Evaluate the week after installations at even distances: the API's week is backfilled before."""
    last = len(site.rates) - 1 - WEEK
    traces = []
    for number in range(count if last > WEEK else 0):
        start = WEEK + number * (last - WEEK) // max(1, count - 1)
        run = {hour: values for hour, _, values in engine.follow(site.rates, range(start, start + WEEK))}
        backfilled = engine.backfilled(site.rates, start)
        traces.append(Trace(f"installed{start}", start - WEEK, start, {**backfilled, **run}, start))
    return engine.evaluate(traces, rules) if traces else {}


def _told(site: Site, known: Known, rules: Rules, drops: Sequence[Drop]) -> dict[str, Fired]:
    """Evaluate the drops of each length side by side, each in a copy of the series."""
    traces = []
    for number, drop in enumerate(drops):
        rows = drop.rows()
        rates = list(site.rates)
        rates[rows.start : rows.stop] = site.during(drop)
        first = max(0, rows.start - rules.hours - BEFORE)
        before = {hour: known.values[hour] for hour in range(first, rows.start)}
        state = known.states[rows.start - 1]
        during = {
            hour: values for hour, _, values in engine.follow(rates, range(rows.start, rows.stop + 1), state)
        }
        traces.append(
            Trace(str(number), first, rows.start - BEFORE, {**before, **during}, rows.start - BEFORE)
        )
    by_rules: defaultdict[str, Fired] = defaultdict(lambda: Fired({}, {}))
    by_length = sorted(traces, key=lambda trace: drops[int(trace.name)].hours)
    for _, batch in groupby(by_length, key=lambda trace: drops[int(trace.name)].hours):
        for name, fired in engine.evaluate(list(batch), rules).items():
            by_rules[name].warnings.update(fired.warnings)
            by_rules[name].pages.update(fired.pages)
    return dict(by_rules)


# -------------------------------------------------------------------------------------------------- judgement


def _moments(rows: Sequence[int]) -> list[float]:
    """Return when alerts had these rows, in hours."""
    return [row + SETTLED + MINUTES for row in rows]


def _false(fired: Fired | None, hours: int) -> dict[str, float]:
    """Return the episodes of an undisturbed series per month."""

    def episodes(by_chunk: Mapping[str, Sequence[int]]) -> float:
        rows = {row for rows in by_chunk.values() for row in rows if row >= WARM_UP}
        return traffic.per_month(len(traffic.episodes(_moments(sorted(rows)))), hours)

    fired = fired or Fired({}, {})
    return {"warnings_per_month": episodes(fired.warnings), "pages_per_month": episodes(fired.pages)}


def _first_week(fired: Fired | None, installations: int) -> dict[str, float]:
    """Return the episodes of the mean first week."""

    def mean(by_site: Mapping[str, Sequence[int]]) -> float:
        return sum(len(traffic.episodes(_moments(rows))) for rows in by_site.values()) / max(1, installations)

    fired = fired or Fired({}, {})
    return {"warnings": mean(fired.warnings), "pages": mean(fired.pages)}


def _detected(drops: Sequence[Drop], fired: Fired | None) -> dict[str, dict[str, float | None]]:
    """Return by kind of drop which share was told, and how late."""
    fired = fired or Fired({}, {})
    delays: defaultdict[str, list[tuple[float | None, float | None]]] = defaultdict(list)
    for number, drop in enumerate(drops):
        warned, paged = (
            traffic.delay(drop, _moments(by_site.get(str(number), [])))
            for by_site in (fired.warnings, fired.pages)
        )
        delays[drop.kind].append((warned, paged))
    return {
        kind: traffic.detection([warned for warned, _ in both], [paged for _, paged in both])._asdict()
        for kind, both in delays.items()
    }


# ----------------------------------------------------------------------------------------------------- report


def report(directory: Path, *, seed: int, quick: bool) -> dict[str, Any]:
    """Judge all series of a directory."""
    drops, installations = (QUICK_DROPS, QUICK_INSTALLATIONS) if quick else (DROPS, INSTALLATIONS)
    tasks = [
        Task(name, values, size, seed, drops, installations)
        for name, values in traffic.load(directory).items()
        for size in SIZES
    ]
    tasks.sort(
        key=lambda task: -len(task.values)
    )  # the longest first, so that no process is left alone with it
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        verdicts = list(processes.map(judged, tasks, chunksize=1))
    by_set: dict[str, dict[str, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
    for task, verdict in sorted(
        zip(tasks, verdicts, strict=True), key=lambda both: (both[0].name, -both[0].size)
    ):
        for name, figures in verdict.items():
            by_set[name][task.name][str(task.size)] = figures
    shipped = by_set.pop(SHIPPED, {})
    return {"series": shipped, "alternatives": {name: {"series": series} for name, series in by_set.items()}}


def table(title: str, series: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a rule set's figures as Markdown: false alarms, and what was detected in the mean."""
    lines = [
        f"## {title}",
        "",
        "Warnings / pages per site and month; in brackets warnings in the first week.",
        "",
    ]
    lines += [f"| series | {' | '.join(f'{size:,} H/s' for size in SIZES)} |", "|---|---|---|"]
    for name, by_size in [*series.items(), ("**mean**", _mean(series))]:
        cells = " | ".join(
            f"{figures['warnings_per_month']:.1f} / {figures['pages_per_month']:.1f}"
            f" ({figures['first_week']['warnings']:.1f})"
            for figures in (by_size[str(size)] for size in SIZES)
        )
        lines.append(f"| {name} | {cells} |")
    lines += [
        "",
        "Share of drops that were warned of / paged, and the median delay of the warning; mean of all.",
        "",
    ]
    lines += [f"| drop | {' | '.join(f'{size:,} H/s' for size in SIZES)} |", "|---|---|---|"]
    mean = _mean(series)
    for drop in (kind(*both) for both in KINDS):
        cells = " | ".join(_detection(mean[str(size)]["detected"].get(drop)) for size in SIZES)
        lines.append(f"| {drop} | {cells} |")
    return "\n".join([*lines, ""])


def _detection(figures: Mapping[str, float | None] | None) -> str:
    if figures is None:
        return "-"
    delay = figures["delay_hours"]
    return f"{figures['warned']:.2f} / {figures['paged']:.2f}{'' if delay is None else f', {delay:.1f} h'}"


def _mean(series: Mapping[str, Any]) -> Any:
    """Return the mean of figures in nested mappings of the same shape; None is left out."""

    def mean(values: list[Any]) -> Any:
        present = [value for value in values if value is not None]
        if present and isinstance(present[0], dict):
            keys = list(dict.fromkeys(key for value in present for key in value))
            return {key: mean([value.get(key) for value in present]) for key in keys}
        return fmean(present) if present else None

    return mean(list(series.values()))


def main() -> int:
    """Judge, print the tables, write the figures. The exit code says whether that was possible."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.alerts", description=(__doc__ or "").partition("\n")[2]
    )
    parser.add_argument(
        "--series", type=Path, metavar="DIR", required=True, help="directory of utc,value CSV files"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--seed", type=int, default=1, help="of noise and drops (default: 1)")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_DROPS} drops of each kind, not {DROPS}")
    flags = parser.parse_args()
    if not list(flags.series.glob("*.csv")):
        parser.error(f"--series: {flags.series} has no CSV files")
    try:
        figures = report(flags.series, seed=flags.seed, quick=flags.quick)
    except Missing as missing:
        print(f"bench: {missing}", file=sys.stderr)
        return 1
    print(table("Shipped rules", figures["series"]))
    for name, alternative in figures["alternatives"].items():
        print(table(name.capitalize(), alternative["series"]))
    if flags.output:
        flags.output.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
