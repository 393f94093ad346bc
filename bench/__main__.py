"""`python -m bench`: measure groups of rows, print their tables, write docs/benchmarks.md."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

from bench import answers, machine, poll, polls, report, scale, scrapes, start, today
from bench.programs import REPOSITORY, Missing
from bench.report import Effort, Group

OUTPUT = REPOSITORY / "docs" / "benchmarks.md"
ALERTS = "## Hashrate alerts on real traffic\n"
GROUPS = {  # by the module's name
    "scrapes": scrapes,
    "poll": poll,
    "answers": answers,
    "polls": polls,
    "start": start,
    "today": today,
    "scale": scale,
}


def _alerts(output: Path) -> str:
    """Return the page's last section, that `python -m bench.alerts` measures on series which are not here."""
    _, heading, section = (output.read_text() if output.exists() else "").partition(ALERTS)
    return f"\n{heading}{section}" if heading else ""


def main() -> int:
    """Measure. The exit code says whether that was possible, not whether targets are met."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--rows", metavar="NAME,...", help=f"only these of {', '.join(GROUPS)} (default: all)"
    )
    parser.add_argument("--rounds", type=int, help="(default: 5, with --quick 1)")
    parser.add_argument("--quick", action="store_true", help="measure a fifth as long")
    parser.add_argument(
        "--output", type=Path, metavar="PATH", help="(default: docs/benchmarks.md after a complete run)"
    )
    flags = parser.parse_args()
    names = flags.rows.split(",") if flags.rows else list(GROUPS)
    if unknown := set(names) - set(GROUPS):
        parser.error(f"--rows: unknown {', '.join(sorted(unknown))}; use some of {', '.join(GROUPS)}")
    effort = Effort(flags.rounds or (1 if flags.quick else 5), flags.quick)
    groups = []
    try:
        for name in names:
            print(f"bench: {name} …", file=sys.stderr, flush=True)
            begin = time.monotonic()
            groups.append(Group(GROUPS[name].__doc__ or name, GROUPS[name].measure(effort)))
            print(f"bench: {name} took {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
    except Missing as missing:
        print(f"bench: {missing}", file=sys.stderr)
        return 1
    print(report.tables(groups), end="")
    output = flags.output or (None if flags.rows or flags.quick else OUTPUT)
    if output:
        command = shlex.join(["python", "-m", "bench", *sys.argv[1:]])
        output.write_text(report.document(groups, machine.facts(), command) + _alerts(output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
