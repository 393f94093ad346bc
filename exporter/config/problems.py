"""What is wrong with a configuration: problems and warnings, each with its place.

No text made here repeats a secret or anything that might be one by mistake: text under a key that takes free
text, and values of unknown keys. The path and the line identify the value.
"""

import math
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from exporter.config.secret import Lack, lacks

SHOWN = 50  # of one list of problems or warnings: more than people make by hand
COUNTED = 10_000  # problems of one document: then reading ends

_WORD = "(?:[A-Z]?[a-z]+(?:[A-Z][a-z]{2,})*|[A-Z]+)"
_WORDS = re.compile(
    rf"{_WORD}[0-9]{{0,3}}(?:[._-]{_WORD}?[0-9]{{0,3}})*|[A-Za-z][A-Za-z0-9._-]{{0,7}}|[0-9.]{{1,8}}"
)
HIDDEN = "(odd key)"  # in place of a key that is not shown


class Problem(NamedTuple):
    """One fault: its path (`sites[1].secret_env`; empty: the whole source), what to do, the line, from 1.

    `source` is the file as the user named it, or `the environment`; empty where the fault is of neither.
    """

    path: str
    message: str
    line: int | None = None
    source: str = ""

    def __str__(self) -> str:
        return f"{self._name}: {self.text}" if self.path and self.source else self.text

    @property
    def text(self) -> str:
        """The problem without its source, unless the source is all that it is about."""
        return self.at(self.path or self._name)

    def at(self, place: str) -> str:
        """Return the problem as one of this place."""
        line = "" if self.line is None else f" (line {self.line})"
        return f"{place}{line}: {self.message}"

    @property
    def _name(self) -> str:
        # Without directories, because `/-/reload` answers with problems.
        return Path(self.source).name or self.source


class ConfigError(Exception):
    """A configuration that cannot be used.

    `problems` is sorted by source, then by line; those without a line come last.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        reported = list(problems)
        sources = list(dict.fromkeys(problem.source for problem in reported))
        self.problems = tuple(
            sorted(reported, key=lambda problem: (sources.index(problem.source), problem.line or math.inf))
        )
        super().__init__("\n".join(self.texts))

    @property
    def texts(self) -> list[str]:
        """The problems as the log and `/-/reload` have them."""
        return capped(self.problems)


class Problems:
    """The problems and warnings of one document, in the order in which they were reported.

    A problem gets the line of its path or of the nearest path above it. `source` is as in Problem; `aliases`
    maps paths to names that users know.
    """

    def __init__(self, source: str, aliases: Mapping[str, str] = MappingProxyType({})) -> None:
        self.source = source
        self.aliases = aliases
        self.clear()

    def clear(self) -> None:
        """Forget everything: the document is read again."""
        self.lines: dict[str, int] = {}
        self.hidden_lines: dict[
            tuple[str, str], int
        ] = {}  # of keys that are not shown: by path above and key
        self.reported: list[Problem] = []
        self.warnings: list[str] = []
        self._faulty_paths: set[str] = set()

    def add(self, path: str, message: str, line: int | None = None) -> None:
        """Report a problem, at the line of its path unless a line is passed.

        Raises ConfigError if it is one too many.
        """
        self.reported.append(self._problem(path, message, line))
        self._faulty_paths.update(_upwards(path))
        if len(self.reported) >= COUNTED:
            raise ConfigError(self.reported)

    def warn(self, path: str, message: str) -> None:
        """Report what is allowed but unwise, or has another effect than it seems."""
        self.warnings.append(str(self._problem(path, message)))

    def _problem(self, path: str, message: str, line: int | None = None) -> Problem:
        line = line or next((self.lines[above] for above in _upwards(path) if above in self.lines), None)
        return Problem(self.aliases.get(path, path), message, line, self.source)

    def has(self, path: str) -> bool:
        """Whether a problem was reported at the path or beneath it."""
        return path in self._faulty_paths


def _upwards(path: str) -> Iterator[str]:
    """Yield a path and the paths above it, the nearest first."""
    while path:
        yield path
        path = path[: max(path.rfind("."), path.rfind("["), 0)]


def capped(problems: Sequence[object]) -> list[str]:
    """Return their texts; in place of those past the 50th, how many they are.

    Thousands of sites that share a mistake have thousands of problems. Nobody reads them, and logging them
    delays scrapes.
    """
    texts, more = [str(problem) for problem in problems[:SHOWN]], len(problems) - SHOWN
    least = "at least " if len(problems) >= COUNTED else ""  # reading has ended there
    return [*texts, f"and {least}{more} more"] if more > 0 else texts


def together(*loads: Callable[[], Any]) -> list[Any]:
    """Return what each function returns. Raises ConfigError with the problems of all that raise one."""
    results: list[Any] = []
    problems: list[Problem] = []
    for load in loads:
        try:
            results.append(load())
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return results


def unexpected(error: Exception) -> str:
    """Name an exception that no file should raise, and its place; not its text, which may hold a secret.

    Where the system lacks something, say that instead.
    """
    if lacks(error):
        return str(error if isinstance(error, Lack) else Lack("cannot be loaded"))
    *_, frame = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frame.filename).name}:{frame.lineno}"
    return f"cannot be loaded: {type(error).__name__} at {place}. This is a bug of the exporter: report it"


def join(path: str, key: object) -> str:
    """Return the path of a key."""
    # A key that looks like none of ours may be a misplaced secret: `{secret:4f2a…}`, `{4f2a…}`. So it must be
    # made of words with few digits at their ends (`http2`, `web.listen`), or be too short for a secret (`1`).
    shown = isinstance(key, str) and len(key) <= 32 and _WORDS.fullmatch(key)  # noqa: PLR2004 - as our longest
    step = key if shown else HIDDEN
    return f"{path}.{step}" if path else str(step)


def type_name(value: object) -> str:
    """Name the type of a value, without its content."""
    kinds = {type(None): "nothing", bool: "a boolean", str: "text", dict: "a mapping", list: "a list"}
    kinds |= {int: "a number", float: "a number", date: "a date", datetime: "a date", bytes: "binary data"}
    return kinds.get(type(value), "something else")


def quoted(value: object) -> str:
    """Show a duration, size, number or word of an enumeration. Not for places that take free text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float) and abs(value) < 1e15:  # noqa: PLR2004 - longer numbers are no typos
        return str(value)
    if isinstance(value, str) and len(value) <= 8 and value.isprintable():  # noqa: PLR2004 - no secret is so short
        return repr(value)
    return type_name(value)
