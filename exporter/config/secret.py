"""Secrets: text that never shows, and where it comes from.

Reading raises ValueError that says what is wrong and repeats neither the text nor the file's path.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from pathlib import Path

MASK = "**********"
LONGEST = 4096  # bytes

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
SURROGATE = re.compile("[\ud800-\udfff]")


class Secret:
    """Text that shows as a mask of constant length wherever it is printed; `reveal()` is the one way in."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the text itself."""
        return self._value

    def __repr__(self) -> str:
        return MASK

    def __format__(self, _spec: str) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        return self._value == other._value if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, _memo: object) -> Secret:
        return self

    def __getstate__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled")

    def __reduce_ex__(self, _protocol: object) -> NoReturn:
        raise TypeError("a Secret is not pickled")


@dataclass(frozen=True)
class SecretSource:
    """A secret as read at load, and where from: an environment variable, a file, or neither: the config."""

    value: Secret
    env: str | None = None
    file: Path | None = None

    def __eq__(self, other: object) -> bool:
        """Compare what was configured: a file is the same source when its content has changed."""
        return isinstance(other, SecretSource) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[object, ...]:
        return (self.file,) if self.file else (self.env, self.value)


class SecretReader:
    """A site's secret as it is now: a file is read again when its mtime, inode or size have changed.

    It looks once when made. `problem` says why the last look failed, or is None; it names the file's path, so
    it is for the log, not for pages.
    """

    def __init__(self, source: SecretSource) -> None:
        self._file = source.file
        self._secret = source.value
        self._looked: tuple[int, int, int] | None = None
        self.problem: str | None = None
        if self._file is not None:
            self._look(self._file)

    def current(self) -> Secret:
        """Return the secret, the last good one while the file is missing, unreadable or empty."""
        # After a failure the stamp proves nothing: a chmod mends a file and changes none of the three.
        if self._file is not None and (self.problem is not None or self.changed()):
            self._look(self._file)
        return self._secret

    def changed(self) -> bool:
        """Whether the file is another one than at the last look, by one stat; never for other sources."""
        return self._file is not None and _stamp(self._file) != self._looked

    def _look(self, file: Path) -> None:
        # The stamp comes first: a file swapped in between is read once more, never once too few.
        self._looked = _stamp(file)
        try:
            self._secret, _ = read_secret(file)
            self.problem = None
        except ValueError as error:
            self.problem = f"{file}: the secret file {error}; the last good secret stays in use"


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def exposed(status: os.stat_result) -> bool:
    """Whether others than have to can reach a file.

    One of root's may be read by its group, which is the exporter's then: so Kubernetes mounts Secrets, and so
    PostgreSQL takes its keys.
    """
    return bool(status.st_mode & (0o077 if status.st_uid else 0o037))


def read_secret(file: Path) -> tuple[Secret, os.stat_result]:
    """Return a file's secret and whose it is. Raises ValueError."""
    try:
        # A pipe in the secret's place must not block the event loop for ever.
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
        try:
            status = os.fstat(handle)
            data = os.read(handle, LONGEST + 1) if stat.S_ISREG(status.st_mode) else None
        finally:
            os.close(handle)
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except ValueError:
        problem = "cannot be read: its path holds characters no path can have"
    else:
        if data is not None:
            return clean(data.decode("utf-8-sig", "surrogateescape")), status
        problem = "is not a regular file"
    raise ValueError(problem)  # out here: the exceptions above hold the path


def clean(text: str) -> Secret:
    """Strip what editors, `echo` and env files leave at the end; refuse what no secret is with ValueError."""
    text = text.rstrip(" \t\r\n")
    if not text:
        raise ValueError("is empty")
    if SURROGATE.search(text):
        raise ValueError("is not UTF-8")
    if len(text.encode()) > LONGEST:
        raise ValueError(f"is longer than {LONGEST} bytes, which no secret is")
    if CONTROL.search(text):
        raise ValueError(
            "holds a line break or another control character: keep the secret alone, on one line"
        )
    return Secret(text)
