"""`python -m bench`: measure the rows asked for, print their tables, write docs/benchmarks.md."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench import latency, machine, poll, polls, refresh, report, scale, scrapes, start, today, walk
from bench.peers import REPOSITORY, Missing
from bench.report import Group

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.report import Row

    Measure = Callable[[int], list[Row]]

OUTPUT = REPOSITORY / "docs" / "benchmarks.md"


def main() -> int:
    """Measure; the exit code tells whether that could be done, not what came out."""
    flags = _flags()
    measures: dict[str, Measure] = {  # by the module's name
        "scrapes": scrapes.measure,
        "latency": latency.measure,
        "poll": poll.measure,
        "refresh": refresh.measure,
        "polls": partial(polls.measure, minutes=flags.polls_minutes),
        "start": start.measure,
        "today": today.measure,
        "walk": walk.measure,
        "scale": partial(scale.measure, minutes=flags.scale_minutes),
    }
    chosen = flags.rows.split(",") if flags.rows else list(measures)
    unknown = set(chosen) - set(measures)
    if unknown:
        print(f"--rows: no {', '.join(sorted(unknown))}; there are {', '.join(measures)}", file=sys.stderr)
        return 2
    try:
        groups = [_measured(name, measures[name], flags.rounds) for name in chosen]
    except Missing as missing:
        print(f"bench: {missing}", file=sys.stderr)
        return 1
    print(report.tables(groups), end="")
    output = flags.output or (None if flags.rows else OUTPUT)
    if output:
        output.write_text(report.document(groups, machine.facts(), _command()))
    return 0


def _measured(name: str, measure: Measure, rounds: int) -> Group:
    print(f"bench: {name} …", file=sys.stderr, flush=True)
    begin = time.monotonic()
    rows = measure(rounds)
    print(f"bench: {name} took {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    return Group(sys.modules[f"bench.{name}"].__doc__ or name, rows)


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rows", metavar="NAME,...", help="some of the groups of rows (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    for rows, minutes in (("polls", 6.0), ("scale", 5.0)):
        parser.add_argument(
            f"--{rows}-minutes",
            type=float,
            default=minutes,
            metavar="MINUTES",
            help=f"how long to poll for {rows} (default: {minutes:g})",
        )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="PATH",
        help="where to write (default: docs/benchmarks.md, of all rows)",
    )
    return parser.parse_args()


def _command() -> str:
    return shlex.join(["python", "-m", "bench", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
