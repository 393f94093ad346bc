"""What is wrong with a file of configuration: problems and warnings as they turn up, each with its place.

No text made here repeats a secret or anything that might be one by mistake: text under a key that takes free
text, values of unknown keys. The path and the line say where.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Problem:
    """One fault of the configuration: its path (`sites[1].secret_env`), what to do, and the line, from 1."""

    path: str
    message: str
    line: int | None = None

    def __str__(self) -> str:
        place = self.path if self.line is None else f"{self.path} (line {self.line})"
        return f"{place}: {self.message}"


class Findings:
    """Problems and warnings as they turn up, each with the line of its path or of the nearest path above.

    `names` says what to call a path that people know by another name; "" is the document.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self.lines: dict[str, int] = {}
        self.problems: list[Problem] = []
        self.warnings: list[str] = []
        self._touched: set[str] = set()

    def add(self, path: str, message: str, line: int | None = None) -> None:
        """Note a problem, at the line of its path unless told another."""
        name = self._names.get(path, path)
        while path:
            self._touched.add(path)
            line = line or self.lines.get(path)
            path = parent(path)
        self.problems.append(Problem(name, message, line))

    def warn(self, path: str, message: str) -> None:
        """Note what is allowed but not what it seems, or unwise."""
        self.warnings.append(f"{self._names.get(path, path)}: {message}")

    def renamed(self, path: str) -> bool:
        """Whether people know the path by another name."""
        return path in self._names

    def has(self, path: str) -> bool:
        """Whether a problem was found at the path or beneath it."""
        return path in self._touched


def parent(path: str) -> str:
    """Return the path above."""
    return path[: max(path.rfind("."), path.rfind("["), 0)]


def join(path: str, key: object) -> str:
    """Return the path of a key."""
    # What looks like none of our keys may be a secret in the wrong place: `{secret:4f2a…}`, `{4f2a…}`.
    step = key if isinstance(key, str) and re.fullmatch(r"[A-Za-z][A-Za-z_-]{0,31}", key) else "(odd key)"
    return f"{path}.{step}" if path else step


def kind(value: object) -> str:
    """Name what a value is without saying what it holds."""
    kinds = {
        type(None): "nothing",
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "text",
        dict: "a mapping",
        list: "a list",
    }
    return kinds.get(type(value), "something else")


def shown(value: object) -> str:
    """Show a duration, size, number or word of an enumeration; never used where free text is expected."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float) and abs(value) < 1e15:  # noqa: PLR2004 - more is no typo, nor worth a line
        return str(value)
    if isinstance(value, str) and len(value) <= 8 and value.isprintable():  # noqa: PLR2004 - no secret is so short
        return repr(value)
    return kind(value)
