"""Secrets: text that is never shown, and the files and variables that hold it.

Reading raises ValueError, whose text and context hold neither the secret nor the file's path.
"""

import errno
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Self

MASK = "**********"
MAX_BYTES = 4096
_LACK = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
SURROGATE = re.compile("[\ud800-\udfff]")
_PLACEHOLDER = re.compile(r"\$\{.*\}|\$\(.*\)|\{\{.*\}\}|\$[A-Za-z_][A-Za-z0-9_]*")


class Lack(ValueError):
    """The system lacks files, memory or threads: no fault of the file that is read, and it may pass."""

    def __init__(self, problem: str) -> None:
        advice = "try again, or raise the limit of open files (ulimit -n)"
        super().__init__(f"{problem}: the system lacks open files, memory or threads: {advice}")


def lacks(error: Exception) -> bool:
    """Whether an exception says that the system lacks something."""
    names_it = isinstance(error, Lack | MemoryError) or str(error) == "can't start new thread"
    return names_it or (isinstance(error, OSError) and error.errno in _LACK)


class Secret:
    """Text that prints as a mask of constant length; only `reveal()` returns the text.

    It is no dataclass and no struct: `asdict` and encoders would read the text from its field.
    """

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

    def __deepcopy__(self, _memo: object = None) -> Self:
        return self

    def __reduce_ex__(self, _protocol: object = None) -> NoReturn:
        raise TypeError("a Secret is not pickled")

    __copy__ = __deepcopy__
    __getstate__ = __reduce_ex__


@dataclass(frozen=True)
class SecretSource:  # noqa: PLW1641 - the dataclass makes a hash, of env and file
    """A secret as read at load, and its source: an environment variable, a file, or the config itself."""

    value: Secret = field(hash=False)
    env: str | None = None
    file: Path | None = None

    def __str__(self) -> str:
        """Say where the secret is from, without a path: pages show it."""
        if self.env:
            return f"the environment variable {self.env}"
        return f"the file {self.file.name}" if self.file else "the config"

    def __eq__(self, other: object) -> bool:
        """Compare what was configured: a file is the same source when its content has changed."""
        if not isinstance(other, SecretSource) or (self.env, self.file) != (other.env, other.file):
            return False
        return self.file is not None or self.value == other.value


class SecretReader:
    """A site's secret as it is now: a file is read again when its mtime, inode or size have changed.

    The constructor reads the file once. `problem` says why the last read failed, or is None. It names the
    file's path, so it is for the log, not for web pages.
    """

    def __init__(self, source: SecretSource) -> None:
        self._file, self._secret = source.file, source.value
        self._stamp: object = "not read yet"
        self.problem: str | None = None
        self.current()

    def current(self) -> Secret:
        """Return the secret; while the file is missing, unreadable or empty, the last good one."""
        # After a failure the stamp is no evidence: chmod repairs a file and changes none of the three values.
        if self._file is not None and (self.problem is not None or self.changed()):
            # If the file is replaced between stamp and read, it is read again needlessly; it is never missed.
            self._stamp = _stamp(self._file)
            try:
                self._secret, _ = read_secret(self._file)
                self.problem = None
            except ValueError as error:
                self.problem = f"{self._file}: the secret file {error}; the last good secret stays in use"
        return self._secret

    def changed(self) -> bool:
        """Whether the file differs from the last read, by one stat; False for other sources."""
        return self._file is not None and _stamp(self._file) != self._stamp


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def secret_variable(name: str, environ: Mapping[str, str]) -> Secret:
    """Return the secret in an environment variable. Raises ValueError."""
    if name not in environ:
        raise ValueError("is not set: set it where the exporter is started")
    return clean(environ[name])


def read_regular(file: Path, limit: int) -> tuple[bytes, os.stat_result]:
    """Return a regular file's content, cut at `limit` + 1 bytes, and its status. Raises ValueError."""
    kind: type[ValueError] = ValueError
    try:
        # Without O_NONBLOCK, a pipe at this path would block the event loop for ever.
        with open(file, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as opened:
            status = os.fstat(opened.fileno())
            if stat.S_ISREG(status.st_mode):
                return opened.read(limit + 1), status
        fault = "is not a regular file"
    except OSError as error:
        kind = Lack if lacks(error) else ValueError
        directory = isinstance(error, IsADirectoryError)
        fault = "is not a regular file" if directory else f"cannot be read: {error.strerror}"
    except ValueError:
        fault = "cannot be read: its path holds characters no path can have"
    raise kind(fault)  # not inside an except block: those exceptions hold the path


def exposed(status: os.stat_result) -> bool:
    """Whether more users can reach a file than need to.

    The group may read a file of root, because the exporter is in that group then. Kubernetes mounts Secrets
    like this, and PostgreSQL accepts such files for its keys.
    """
    return bool(status.st_mode & (0o077 if status.st_uid else 0o037))


def read_secret(file: Path) -> tuple[Secret, os.stat_result]:
    """Return the secret in a file, and the file's status. Raises ValueError."""
    data, status = read_regular(file, MAX_BYTES)
    return clean(data.decode("utf-8-sig", "surrogateescape")), status


def doubt(secret: Secret) -> str:
    """Say why this is probably not the secret that was meant; empty if nothing speaks against it."""
    text = secret.reveal()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return "the secret is in quotes, which count as part of it: remove them, or it will be rejected"
    if _PLACEHOLDER.fullmatch(text):
        return "the secret looks like a variable that nothing has replaced: the exporter replaces none either"
    return ""


def clean(text: str) -> Secret:
    """Strip what editors, `echo` and env files add at the end. Raises ValueError for what is no secret."""
    text = text.rstrip(" \t\r\n")
    if not text:
        raise ValueError("is empty")
    if SURROGATE.search(text):
        raise ValueError("is not UTF-8")
    if len(text.encode()) > MAX_BYTES:
        raise ValueError(f"is longer than {MAX_BYTES} bytes, which no secret is")
    if CONTROL.search(text):
        advice = "keep the secret alone, on one line"
        raise ValueError(f"holds a line break or another control character: {advice}")
    return Secret(text)
