"""Starting.

From the start of `run`, with one site, to the first 200 on /metrics: time, and the most memory resident until
then. Against a Python that imports what it stands on and ends. One start of each before is not counted.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from bench import peers
from bench.load import BadLoad, ask, free_port, memory, memory_in, until_open
from bench.report import Ratio, Row, Spread, Target

MOST_TIME = Target(2, at_most=True)
MOST_MEMORY = Target(1.6, at_most=True)
MILLISECONDS = 1000
MEBIBYTE = 1 << 20
OK = 200
TIME = "time to the first 200, and of the imports to the exit"
MEMORY = "most memory until the first 200, and of the imports at the end"
IMPORTS = "import httpx, uvicorn, prometheus_client"
# The peer tells its own memory, as it is at its end.
BARE = f"{IMPORTS}; print(open('/proc/self/status').read())"


class Taken(NamedTuple):
    """Milliseconds and MiB."""

    time: float
    memory: float


def measure(rounds: int) -> list[Row]:
    """Start both in turn, round by round, after one start of each that is not counted."""
    with tempfile.TemporaryDirectory() as name, peers.simulator(Path(name), 1, 100) as api:
        config = peers.write_config(Path(name), api, 1, {})
        both = [(_run(Path(name), config), _imports()) for _ in range(rounds + 1)][1:]
    ours, bare = ([pair[side] for pair in both] for side in (0, 1))
    return [
        *_rows(TIME, "ms", MOST_TIME, [run.time for run in ours], [run.time for run in bare]),
        *_rows(MEMORY, "MiB", MOST_MEMORY, [run.memory for run in ours], [run.memory for run in bare]),
    ]


def _rows(work: str, unit: str, target: Target, ours: list[float], bare: list[float]) -> list[Row]:
    ratio = Ratio("exporter ÷ imports alone", Spread.of_ratios(ours, bare))
    return [
        Row(work, "exporter", unit, Spread.of(ours), ratio, target),
        Row(work, f"python -c '{IMPORTS}'", unit, Spread.of(bare)),
    ]


def _run(directory: Path, config: Path) -> Taken:
    port = free_port()
    begin = time.perf_counter()
    with peers.started(directory, *peers.exporter_command(config, port)) as process:
        until_open(port)
        answer = ask(port, "/metrics")
        took = time.perf_counter() - begin
        if answer.status != OK:
            raise BadLoad(f"the first answer is {answer.status}")
        return Taken(MILLISECONDS * took, memory(process.pid, "VmHWM") / MEBIBYTE)


def _imports() -> Taken:
    begin = time.perf_counter()
    done = subprocess.run(
        (sys.executable, "-c", BARE),
        env=peers.environ(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    took = time.perf_counter() - begin
    return Taken(MILLISECONDS * took, memory_in(done.stdout, "VmRSS") / MEBIBYTE)
