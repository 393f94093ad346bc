"""The exporter with a ticker on its event loop. Run as `python -m bench.ticking FILE ARGUMENT...`.

It is the program's own command line with these arguments. Each time that a tick comes late, the file gets a
line with the monotonic time, the time since the tick before, and how much of that the loop's thread had a
processor, in seconds: `stall 1234.5 0.012 0.010`. For each full garbage collection it gets `collection`, the
time when it ended, and twice how long it took.
"""

from __future__ import annotations

import gc
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from exporter import cli

if TYPE_CHECKING:
    from typing import TextIO

TICK = 0.005  # seconds
NOTED = 2 * TICK  # shorter gaps are not written
FULL = 2  # the garbage collector's oldest generation


def tick(loop: uvloop.Loop, output: TextIO) -> None:
    """Tick from the moment on that the loop runs."""
    before, cpu_before = time.monotonic(), time.thread_time()

    def wake() -> None:
        nonlocal before, cpu_before
        now, cpu = time.monotonic(), time.thread_time()
        if now - before > NOTED:
            output.write(f"stall {now} {now - before} {cpu - cpu_before}\n")
        before, cpu_before = now, cpu
        loop.call_later(TICK, wake)

    wake()


def note_collections(output: TextIO) -> None:
    """Write a line for each full garbage collection."""
    begin = 0.0

    def note(phase: str, info: dict[str, Any]) -> None:
        nonlocal begin
        if info["generation"] == FULL and phase == "start":
            begin = time.monotonic()
        elif info["generation"] == FULL:
            now = time.monotonic()
            output.write(f"collection {now} {now - begin} {now - begin}\n")

    gc.callbacks.append(note)


def main(path: str, *arguments: str) -> int:
    """Run the program, which takes its event loop from uvloop."""
    new_event_loop = uvloop.new_event_loop
    output = Path(path).open("w", buffering=1)  # noqa: SIM115 - the program ends without coming back here

    def new_ticking_loop() -> uvloop.Loop:
        loop = new_event_loop()
        loop.call_soon(tick, loop, output)
        return loop

    note_collections(output)
    uvloop.new_event_loop = new_ticking_loop
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
