"""What is wrong with a configuration: problems and warnings, each with its place.

No text made here repeats a secret or anything that might be one by mistake: text under a key that takes free
text, and values of unknown keys. The path and the line identify the value.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Problem(NamedTuple):
    """One fault of the configuration: its path (`sites[1].secret_env`), what to do, and the line, from 1."""

    path: str
    message: str
    line: int | None = None

    def __str__(self) -> str:
        place = self.path if self.line is None else f"{self.path} (line {self.line})"
        return f"{place}: {self.message}"


class ConfigError(Exception):
    """A configuration that cannot be used. `problems` is sorted by line; those without a line come last."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line or math.inf))
        super().__init__("\n".join(map(str, self.problems)))


class Problems:
    """The problems and warnings of one document, in the order in which they were reported.

    A problem gets the line of its path or of the nearest path above it. `aliases` maps paths to names that
    users know; the path "" is the document.
    """

    def __init__(self, aliases: Mapping[str, str]) -> None:
        self.aliases = aliases
        self.lines: dict[str, int] = {}
        self.reported: list[Problem] = []
        self.warnings: list[str] = []
        self._faulty_paths: set[str] = set()

    def add(self, path: str, message: str, line: int | None = None) -> None:
        """Report a problem, at the line of its path unless a line is passed."""
        name = self.aliases.get(path, path)
        while path:
            self._faulty_paths.add(path)
            line = line or self.lines.get(path)
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        self.reported.append(Problem(name, message, line))

    def warn(self, path: str, message: str) -> None:
        """Report what is allowed but unwise, or has another effect than it seems."""
        self.warnings.append(f"{self.aliases.get(path, path)}: {message}")

    def has(self, path: str) -> bool:
        """Whether a problem was reported at the path or beneath it."""
        return path in self._faulty_paths


def join(path: str, key: object) -> str:
    """Return the path of a key."""
    # A key that looks like none of ours may be a misplaced secret: `{secret:4f2a…}`, `{4f2a…}`.
    step = key if isinstance(key, str) and re.fullmatch(r"[A-Za-z][A-Za-z_-]{0,31}", key) else "(odd key)"
    return f"{path}.{step}" if path else step


def type_name(value: object) -> str:
    """Name the type of a value, without its content."""
    kinds = {type(None): "nothing", bool: "true or false", str: "text", dict: "a mapping", list: "a list"}
    return "a number" if type(value) in {int, float} else kinds.get(type(value), "something else")


def quoted(value: object) -> str:
    """Show a duration, size, number or word of an enumeration. Not for places that take free text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float) and abs(value) < 1e15:  # noqa: PLR2004 - longer numbers are no typos
        return str(value)
    if isinstance(value, str) and len(value) <= 8 and value.isprintable():  # noqa: PLR2004 - no secret is so short
        return repr(value)
    return type_name(value)
