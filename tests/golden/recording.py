"""Where recordings are kept, and how two of them are compared."""

from __future__ import annotations

import lzma
from difflib import unified_diff
from itertools import islice
from pathlib import Path

from tests.golden import stage
from tests.golden.scenarios import SCENES

DATA = Path(__file__).with_name("data")
SUFFIX = ".txt.xz"
SHOWN = 60  # lines of differences that a failure shows


def play(name: str) -> str:
    """Return what a run records today."""
    return stage.play(SCENES[name])


def file_of(name: str) -> Path:
    """Return the file of a run: `xz --decompress --stdout` shows it."""
    return DATA / f"{name}{SUFFIX}"


def recorded(name: str) -> str:
    """Return what was recorded of a run, empty where nothing was."""
    file = file_of(name)
    return lzma.decompress(file.read_bytes()).decode() if file.exists() else ""


def write(name: str, text: str) -> None:
    """Keep a recording. The bytes depend on the text alone."""
    DATA.mkdir(exist_ok=True)
    file_of(name).write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))


def differences(before: str, now: str) -> str:
    """Return the sections that differ and their lines, or nothing; the first ones where there are many."""
    if before == now:
        return ""
    old, new = _sections(before), _sections(now)
    titles = [title for title in {**old, **new} if old.get(title) != new.get(title)]
    lines = [
        line
        for title in titles
        for line in unified_diff(
            old.get(title, []), new.get(title, []), f"recorded: {title}", f"now: {title}", lineterm="", n=0
        )
    ]
    summary = [f"{len(titles)} of {len(new)} sections differ, in {len(lines)} lines of differences:"]
    if not titles:
        summary = ["The sections are the same, in another order."]
    rest = [f"... and {len(lines) - SHOWN} more lines"] if len(lines) > SHOWN else []
    return "\n".join([*summary, *(line[:300] for line in islice(lines, SHOWN)), *rest])


def _sections(text: str) -> dict[str, list[str]]:
    """Return the lines of each section by title; a title that is there again gets a number."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.split("\n"):
        if line.startswith("=== "):
            title, number = line[4:], 1
            while title in found:
                number += 1
                title = f"{line[4:]} ({number})"
            lines = found[title] = []
        else:
            lines.append(line)
    return found
