"""Starting.

From the start of `run`, with one site, to the first 200 on /metrics: the time, and the most memory resident
until then. Beside it a Python that imports the libraries underneath and exits. One start of each comes first
and is not counted.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench import programs
from bench.load import BadLoad, ask, free_port, memory, parse_memory
from bench.report import Ratio, Row, Spread, Target
from bench.watch import MEBIBYTE

if TYPE_CHECKING:
    from bench.report import Effort

MILLISECONDS = 1000
IMPORTS = "import httpx, uvicorn, prometheus_client"
WORKS = (
    ("time to the first 200, and of the imports to the exit", "ms", Target(2, at_most=True)),
    ("most memory until the first 200, and of the imports at the end", "MiB", Target(1.6, at_most=True)),
)


def measure(effort: Effort) -> list[Row]:
    """Start both in turn, round by round."""
    with tempfile.TemporaryDirectory() as name, programs.simulator(Path(name), 1, 100) as api:
        config = programs.write_config(Path(name) / "config.yaml", api, 1, {})
        runs = [(_exporter(Path(name), config), _imports()) for _ in range(effort.rounds + 1)][1:]
    rows = []
    for number, (work, unit, target) in enumerate(WORKS):
        ours, bare = ([run[side][number] for run in runs] for side in (0, 1))
        ratio = Ratio("exporter ÷ imports alone", Spread.of_ratios(ours, bare))
        rows.append(Row(work, "exporter", unit, Spread.of(ours), ratio, target))
        rows.append(Row(work, f"python -c '{IMPORTS}'", unit, Spread.of(bare)))
    return rows


def _exporter(directory: Path, config: Path) -> tuple[float, float]:
    """Return milliseconds and MiB."""
    port, begin = free_port(), time.perf_counter()
    command = (*programs.EXPORTER, *programs.exporter_flags(config, port))
    with programs.serving(directory, port, *command) as served:
        answer = ask(port, "/metrics")
        taken = time.perf_counter() - begin
        if answer.status != programs.OK:
            raise BadLoad(f"the first answer is {answer.status}")
        return MILLISECONDS * taken, memory(served.pid, "VmHWM") / MEBIBYTE


def _imports() -> tuple[float, float]:
    """Return the same of a Python that prints its own memory at its end."""
    begin = time.perf_counter()
    done = subprocess.run(
        (sys.executable, "-c", f"{IMPORTS}; print(open('/proc/self/status').read())"),
        env=programs.environ(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    taken = time.perf_counter() - begin
    return MILLISECONDS * taken, parse_memory(done.stdout, "VmRSS") / MEBIBYTE
