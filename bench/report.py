"""Measured figures as rows, verdicts on their targets, and both as Markdown tables."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

INTRODUCTION = """\
# Benchmarks

`make bench` writes this page. Everything runs on one machine over loopback. Subjects are measured in turn,
round by round, and ratios are taken within a round, so that a disturbance hits both sides. A figure before
brackets is the median of the rounds, the brackets hold the minimum and the maximum. Targets are judged by the
median. [bench/](../bench) has one module for each group of rows.
"""


class Effort(NamedTuple):
    """How much to measure."""

    rounds: int = 5
    quick: bool = False  # a fifth of every duration, to see that everything runs

    def seconds(self, full: float) -> float:
        """Return how long to measure what takes `full` seconds in a complete run."""
        return full / 5 if self.quick else full


@dataclass(frozen=True)
class Spread:
    """Minimum, median and maximum of several rounds."""

    least: float
    median: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Return the spread of one value or more."""
        ordered = sorted(values)
        return cls(ordered[0], statistics.median(ordered), ordered[-1])

    @classmethod
    def of_ratios(cls, values: Iterable[float], others: Iterable[float]) -> Spread:
        """Return the spread of the ratios, taken round by round."""
        return cls.of(value / other for value, other in zip(values, others, strict=True))

    def __str__(self) -> str:
        if self.least == self.most:
            return number(self.median)
        return f"{number(self.median)} ({number(self.least)} to {number(self.most)})"


@dataclass(frozen=True)
class Ratio:
    """One figure divided by another; the name says which."""

    name: str
    spread: Spread


@dataclass(frozen=True)
class Target:
    """A bound for a figure's median."""

    bound: float
    at_most: bool = False

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.bound:g}"

    def verdict(self, figure: Spread) -> str:
        """Return whether the target is met, and if not, by how much of the bound it is missed."""
        gap = figure.median - self.bound if self.at_most else self.bound - figure.median
        if gap <= 0:
            return "met"
        return f"**missed by {gap / self.bound:.1%}**" if self.bound else f"**missed by {number(gap)}**"


@dataclass(frozen=True)
class Row:
    """One subject at one work. The target is for the ratio if there is one, else for the figure itself."""

    work: str
    subject: str
    unit: str
    spread: Spread
    ratio: Ratio | None = None
    target: Target | None = None
    note: str = ""

    @property
    def judged(self) -> Spread:
        """The figure that the target is for."""
        return self.ratio.spread if self.ratio else self.spread


class Group(NamedTuple):
    """Rows that one module measured. Its docstring is their title and says how they were measured."""

    about: str
    rows: Sequence[Row]


def number(value: float) -> str:
    """Return three significant digits, or all digits before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three digits


def figures(rows: Sequence[Row]) -> str:
    """Return a table for each work, with its notes below."""
    tables = []
    for work in dict.fromkeys(row.work for row in rows):
        lines = []
        for row in (row for row in rows if row.work == work):
            spread = [number(value) for value in (row.spread.least, row.spread.median, row.spread.most)]
            ratio = f"{row.ratio.name}: {row.ratio.spread}" if row.ratio else ""
            lines.append((row.subject, row.unit, *spread, ratio))
        notes = "".join(f"- {row.subject}: {row.note}\n" for row in rows if row.work == work and row.note)
        body = table(("subject", "unit", "min", "median", "max", "ratio"), lines)
        tables.append(f"{work[:1].upper()}{work[1:]}:\n\n{body}" + (f"\n{notes}" if notes else ""))
    return "\n".join(tables)


def targets(rows: Iterable[Row]) -> str:
    """Return the table of the rows that have a target."""
    lines = []
    for row in rows:
        if row.target:
            what = row.ratio.name if row.ratio else f"{row.subject}, {row.unit}"
            verdict = row.target.verdict(row.judged)
            lines.append((row.work, what, str(row.target), str(row.judged), verdict))
    return table(("work", "what", "target", "measured", "verdict"), lines)


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table that reads well in a terminal too."""
    cells = [[cell.replace("|", "\\|") for cell in line] for line in (head, *lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in cells]
    padded.insert(1, ["-" * width for width in widths])
    return "".join(f"| {' | '.join(line)} |\n" for line in padded)


def tables(groups: Sequence[Group]) -> str:
    """Return the targets of all groups, then each group's figures below its description."""
    parts = [f"## Targets\n\n{targets(row for group in groups for row in group.rows)}"]
    for group in groups:
        title, _, text = group.about.partition("\n")
        parts.append(f"## {title.rstrip('.')}\n\n{text.strip()}\n\n{figures(group.rows)}")
    return "\n".join(parts)


def document(groups: Sequence[Group], machine: Mapping[str, str], command: str) -> str:
    """Return the whole page."""
    facts = "".join(f"- {name}: {fact}\n" for name, fact in machine.items())
    return f"{INTRODUCTION}\n    {command}\n\n{facts}\n{tables(groups)}"
