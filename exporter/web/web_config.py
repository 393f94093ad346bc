"""The web configuration file: TLS, users and headers, in the format of Prometheus' exporter-toolkit.

`load` reads the file, and every file that it names, once, and reports every problem at once. `web/tls.py` has
the TLS section. The result holds the PEM itself, so no file is read again when a listener is created.

No problem and no note repeats a hash, a PEM, a path of the file system or text that may be one of them by
mistake, because `/-/reload` answers with problems.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from msgspec import UNSET, Meta, UnsetType

from exporter.config import ConfigError, schema
from exporter.config.problems import Problem, Problems, unexpected
from exporter.config.secret import CONTROL, SURROGATE, Lack, Secret, exposed, lacks, read_regular
from exporter.config.yamlfile import load_yaml
from exporter.web.tls import (
    TLS_CONFIG,
    Tls,
    TlsSection,
    absent_in_tls,
    holds_certificate,
    read_tls,
    setting_path,
)

MAX_BYTES = 1 << 20  # of one file: no chain of certificates comes near
SLOW_COST = 14  # the bcrypt cost from which one check takes about a second

_BCRYPT = re.compile(r"\$2[abxy]\$(0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}", re.ASCII)
_USERS = "basic_auth_users"
_HEADERS = "http_server_config.headers"

_NO_TIME = re.compile(r"[+-]?(0+|(0+(\.0*)?(ns|us|µs|μs|ms|s|m|h))+)")  # what Go reads as a duration of 0
# The headers and their allowed values; an empty tuple allows any value.
ALLOWED_HEADERS: dict[str, tuple[str, ...]] = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}


def _mapping(value: object) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise ValueError("expected a mapping")  # noqa: TRY004 - schema reports ValueError alone
    return value


_Mapping = Annotated[dict[str, str], Meta(extra={"read": _mapping})]


def _no_time(value: object) -> float:
    zero = type(value) is int and value == 0  # of nanoseconds, for Go
    if not (zero or (isinstance(value, str) and _NO_TIME.fullmatch(value))):
        raise ValueError("the exporter limits no rates: set 0s, or remove rate_limit; bcrypt checks queue")
    return 0.0


class HttpSection(schema.Section):
    """HTTP/2, which the exporter does not speak, and the headers of every response."""

    http2: bool = True
    headers: _Mapping | UnsetType = UNSET


class RateSection(schema.Section):
    """The limit of requests. The exporter has none, so only an interval of 0 is valid: no limit."""

    interval: Annotated[Any, Meta(extra={"read": _no_time})] | UnsetType = UNSET
    burst: Annotated[int, Meta(ge=0, le=1_000_000_000)] | UnsetType = UNSET


class WebFile(schema.Section):
    """The web configuration file."""

    tls_server_config: TlsSection | UnsetType = UNSET
    http_server_config: HttpSection | UnsetType = UNSET
    basic_auth_users: _Mapping | UnsetType = UNSET
    rate_limit: RateSection | UnsetType = UNSET


# What identifies the state of each file; None is a missing file. The change time is part of it because chmod,
# which can repair or break a file, changes nothing else.
Stamps = Mapping[Path, tuple[int, ...] | None]
Users = Mapping[str, Secret]  # user to bcrypt hash


@dataclass(frozen=True)
class WebConfig:
    """The file as the program uses it. Equal ones mean the same, whichever file they come from.

    `users` maps users to bcrypt hashes and is empty without authentication. `headers` are ready for ASGI.
    Each of `notes` names a setting that is accepted but unwise, or has another effect than it seems.
    `stamps` has the file and every file that it names, each as it was when it was read.
    """

    tls: Tls | None
    users: Users
    headers: tuple[tuple[bytes, bytes], ...]
    notes: tuple[str, ...] = field(compare=False)
    stamps: Stamps = field(compare=False)


class BadWebConfig(ConfigError):
    """A web configuration that cannot be used. `stamps` is as in WebConfig, for another try."""

    def __init__(self, problems: Iterable[Problem], stamps: Stamps) -> None:
        super().__init__(problems)
        self.stamps = stamps


def load(path: Path) -> WebConfig:
    """Read the file and every file that it names. Relative names start at the file's own directory.

    Raises BadWebConfig, a ConfigError, with every problem; another ConfigError where the system lacks files
    or memory, because the same files may load at the next try.
    """
    loader = _Loader(path)
    try:
        return _load(loader)
    except ConfigError as error:
        problems = error.problems
    except Exception as error:  # noqa: BLE001 - the stamps say when another try makes sense
        problems = (Problem("", unexpected(error), source=str(path)),)
        if lacks(error):
            raise ConfigError(problems) from None
    raise BadWebConfig(problems, loader.stamps)


def _load(loader: "_Loader") -> WebConfig:
    """Read the file that `load` reads. Raises ConfigError."""
    problems = loader.problems
    written: object = None
    try:
        written = load_yaml(loader.read(loader.path), problems, as_written=f"{_HEADERS}.")
    except Lack:
        raise
    except ValueError as error:
        problems.add("", str(error))
    document: dict[str, Any] = schema.read(without_absent(written), WebFile, "", problems) or {}
    sections: dict[Any, Any] = written if isinstance(written, dict) else {}
    http = document.get("http_server_config", {})
    if "http2" in http:
        problems.warn("http_server_config.http2", "has no effect: the exporter speaks HTTP/1.1 alone")
    section = document.get(TLS_CONFIG, {})
    tls = read_tls(section, http.get("http2", True), lambda name: loader.pem(name, section), problems)
    if tls is None and sections.get(TLS_CONFIG):
        problems.warn(TLS_CONFIG, "without cert_file and key_file TLS is off")
    users = read_users(document.get(_USERS, {}), tls, problems)
    if not users and _USERS in sections:
        problems.warn(_USERS, "names nobody: everybody is let in")
    headers = read_headers(http.get("headers", {}), problems)
    if problems.reported:
        raise ConfigError(problems.reported)
    return WebConfig(tls, users, headers, tuple(problems.warnings), loader.stamps)


def without_absent(document: object) -> object:
    """Return the document without what the toolkit takes for absent: known keys and sections without a value.

    `basic_auth_users` keeps all of its entries: a user without a hash is a fault.
    """
    if not isinstance(document, dict):
        return document
    given = _known_with_value(document, WebFile)
    for name, section in (
        (TLS_CONFIG, TlsSection),
        ("http_server_config", HttpSection),
        ("rate_limit", RateSection),
    ):
        if isinstance(values := given.get(name), dict):
            given[name] = _known_with_value(values, section)
    return given


def _known_with_value(values: dict[Any, Any], section: type[schema.Section]) -> dict[Any, Any]:
    absent = absent_in_tls if section is TlsSection else lambda _key, value: value is None
    known = schema.fields(section)
    return {key: value for key, value in values.items() if key not in known or not absent(key, value)}


def current_stamps(config: WebConfig | BadWebConfig) -> Stamps:
    """Look at the files of a configuration. If equal to `config.stamps`, nothing has changed."""
    return {file: _stamp(file) for file in config.stamps}


def _stamp(file: Path) -> tuple[int, ...] | None:
    try:
        status = file.stat()
    except (OSError, ValueError):  # ValueError: the path holds a NUL
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size


class _Loader:
    """One load: reads files, collects problems and notes, and records the stamp of each file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems = Problems(str(path))
        self.stamps: dict[Path, tuple[int, ...] | None] = {}
        self.exposed: dict[Path, bool] = {}  # whether others than the owner can reach a file

    def read(self, file: Path) -> bytes:
        """Return a regular file's content. Raises ValueError, which repeats neither path nor content."""
        # If the file is replaced between stamp and read, it is read again needlessly; it is never missed.
        self.stamps.setdefault(file, _stamp(file))
        data, status = read_regular(file, MAX_BYTES)
        self.exposed[file] = exposed(status)
        if len(data) > MAX_BYTES:
            raise ValueError(f"is larger than {MAX_BYTES} bytes")
        return data

    def pem(self, name: str, values: dict[str, Any]) -> bytes | None:
        """Return the PEM of `name` or `name`_file; None if neither is set or there is a problem."""
        problems, place = self.problems, setting_path(name, values)
        inline, file_name = values.get(name, ""), values.get(f"{name}_file", "")
        if inline and file_name:
            problems.add(f"{TLS_CONFIG}.{name}_file", f"{name} is given too: keep one of them")
        if bool(inline) == bool(file_name):
            return None
        file = self.path if inline else self.path.parent / file_name
        try:
            pem: bytes = inline.encode() or self.read(file)
        except Lack:
            raise
        except ValueError as error:
            hint = "" if Path(file_name).is_absolute() else " (sought from the web config file's directory)"
            problems.add(place, f"the file named here {error}{hint}")
            return None
        if name != "key" and not holds_certificate(pem):
            problems.add(place, "holds no certificate that OpenSSL can read: PEM is expected")
            return None
        if name == "key" and self.exposed[file]:
            message = "others than the owner can reach the file with the key: chmod 600 would stop them"
            problems.warn(place, message)
        return pem


def read_users(values: dict[Any, Any], tls: Tls | None, problems: Problems) -> dict[str, Secret]:
    """Return the users with their hashes."""
    users, costs = {}, set()
    for index, (user, value) in enumerate(values.items()):
        path = _entry(_USERS, user, index, problems)
        bcrypt = _BCRYPT.fullmatch(value) if isinstance(value, str) else None
        if ":" in user or CONTROL.search(user) or SURROGATE.search(user):
            problems.add(path, "a name with a colon or control characters can never log in: use another")
        elif bcrypt is not None:
            users[user] = Secret(bcrypt[0])
            costs.add(int(bcrypt[1]))
        elif value is not UNSET:
            message = "expected a bcrypt hash such as `htpasswd -nBC 10 NAME` prints after the colon"
            problems.add(path, message)
    numbers, slowest = ", ".join(map(str, sorted(costs))), max(costs, default=0)
    if costs and tls is None:
        problems.warn(_USERS, "without TLS, passwords cross the network as plain text")
    if len(costs) > 1:
        message = f"costs differ ({numbers}): the time of an answer can tell that a user exists; use one"
        problems.warn(_USERS, message)
    if slowest >= SLOW_COST:
        problems.warn(_USERS, f"cost {slowest}: a check takes a second or more, and others wait for it")
    return users


def read_headers(values: dict[Any, Any], problems: Problems) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers of every response."""
    headers = []
    for index, (name, value) in enumerate(values.items()):
        path, allowed = _entry(_HEADERS, name, index, problems), ALLOWED_HEADERS.get(name)
        text = "" if value is None else value
        if allowed is None:
            problems.add(path, f"cannot be configured; known here: {', '.join(ALLOWED_HEADERS)}")
        elif text is UNSET:
            continue
        elif not (isinstance(text, str) and text.isascii() and text.isprintable()):
            problems.add(path, "expected text of printable ASCII characters; put it in quotes")
        elif allowed and text not in allowed:
            problems.add(path, f"expected {' or '.join(allowed)}")
        elif text.strip():
            headers.append((name.lower().encode(), text.strip().encode()))
    return tuple(headers)


def _entry(section: str, key: object, index: int, problems: Problems) -> str:
    """Return the path of a mapping's entry, by its number if the key may be a secret."""
    path, by_number = f"{section}.{key}", f"{section}[{index}]"
    if line := problems.hidden_lines.get((section, str(key))):
        problems.lines[by_number] = line
    return path if path in problems.lines else by_number
