"""Measured figures as rows, targets judged by them, and both as tables."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


@dataclass(frozen=True)
class Spread:
    """What several rounds of one measurement came to."""

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
        """Return the spread of the ratios, round by round: what disturbed a round disturbed both."""
        return cls.of(value / other for value, other in zip(values, others, strict=True))

    def __str__(self) -> str:
        if self.least == self.most:
            return number(self.median)
        return f"{number(self.median)} ({number(self.least)} to {number(self.most)})"


@dataclass(frozen=True)
class Ratio:
    """One figure by another; the name says which."""

    name: str
    spread: Spread


@dataclass(frozen=True)
class Target:
    """What a figure has to reach, or stay below; judged by the median."""

    bound: float
    at_most: bool = False

    def __str__(self) -> str:
        return f"{'≤' if self.at_most else '≥'} {self.bound:g}"

    def met(self, figure: Spread) -> bool:
        """Whether the figure reaches it."""
        return figure.median <= self.bound if self.at_most else figure.median >= self.bound

    def verdict(self, figure: Spread | None) -> str:
        """Return whether it is met, and if not, by how much of the bound it is missed."""
        if figure is None:
            return "not measured"
        if self.met(figure):
            return "met"
        gap = abs(figure.median - self.bound)
        return f"**missed by {gap / self.bound:.1%}**" if self.bound else f"**missed by {number(gap)}**"


@dataclass(frozen=True)
class Row:
    """One subject at one work.

    The target is for the ratio where there is one, else for the figure itself. Without a figure, what was to
    be measured is missing, and `note` says why.
    """

    work: str
    subject: str
    unit: str
    spread: Spread | None
    ratio: Ratio | None = None
    target: Target | None = None
    note: str = ""

    @property
    def judged(self) -> Spread | None:
        """What the target is for."""
        return self.ratio.spread if self.ratio else self.spread

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none, or nothing was measured."""
        return self.target.met(self.judged) if self.target and self.judged else None


class Group(NamedTuple):
    """The rows that were measured together, and how: the docstring of the module that did."""

    about: str
    rows: Sequence[Row]

    @property
    def title(self) -> str:
        """The docstring's first line."""
        return self.about.partition("\n")[0].rstrip(".")

    @property
    def text(self) -> str:
        """The rest of it."""
        return self.about.partition("\n")[2].strip()


def number(value: float) -> str:
    """Return three digits that count, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three digits


def figures(rows: Sequence[Row]) -> str:
    """Return a table for each work, and its notes beneath."""
    works = dict.fromkeys(row.work for row in rows)
    return "\n".join(_figures(work, [row for row in rows if row.work == work]) for work in works)


def _figures(work: str, rows: Sequence[Row]) -> str:
    head = ("subject", "unit", "min", "median", "max", "ratio")
    notes = "".join(f"- {row.subject}: {row.note}\n" for row in rows if row.note)
    lines = table(head, [(row.subject, row.unit, *_measured(row)) for row in rows])
    return f"{work[:1].upper()}{work[1:]}:\n\n{lines}" + (f"\n{notes}" if notes else "")


def _measured(row: Row) -> tuple[str, str, str, str]:
    if row.spread is None:
        return "", "missing", "", ""
    least, median, most = (number(value) for value in (row.spread.least, row.spread.median, row.spread.most))
    return least, median, most, f"{row.ratio.name}: {row.ratio.spread}" if row.ratio else ""


def targets(rows: Iterable[Row]) -> str:
    """Return the table of the rows with a target."""
    head = ("work", "what", "target", "measured", "verdict")
    return table(head, [_judged(row, row.target) for row in rows if row.target])


def _judged(row: Row, target: Target) -> tuple[str, ...]:
    what = row.ratio.name if row.ratio else f"{row.subject}, {row.unit}"
    return row.work, what, str(target), str(row.judged or ""), target.verdict(row.judged)


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table that reads well in a terminal too."""
    cells = [[cell.replace("|", "\\|") for cell in line] for line in (head, *lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in cells]
    padded.insert(1, ["-" * width for width in widths])
    return "".join(f"| {' | '.join(line)} |\n" for line in padded)


def tables(groups: Sequence[Group]) -> str:
    """Return the targets of all groups, and each group's figures under its description."""
    judged = targets(row for group in groups for row in group.rows)
    parts = (f"## {group.title}\n\n{group.text}\n\n{figures(group.rows)}" for group in groups)
    return "\n".join([f"## Targets\n\n{judged}", *parts])


def document(groups: Sequence[Group], machine: Mapping[str, str], command: str) -> str:
    """Return the whole page."""
    facts = "".join(f"- {name}: {fact}\n" for name, fact in machine.items())
    return f"{INTRODUCTION}\n    {command}\n\n{facts}\n{tables(groups)}"


INTRODUCTION = """\
# Benchmarks

Written by `make bench`: measured on one machine over loopback, subjects side by side and in turn, round by
round. Ratios are taken within each round; where a figure stands before brackets, it is the median, and the
brackets hold the smallest and the largest. Targets are judged by the median. [bench/](../bench) has the code
of each group of rows.
"""
