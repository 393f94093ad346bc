"""config.yaml as it came: its lines, its sections, and each leaf read or reported.

`load_yaml` notes the line of every path. `read` walks the structs over the document leaf by leaf, because
msgspec alone stops at the first fault. Neither raises for what people write: it all goes into `Findings`.

No text made here repeats a secret or anything that might be one by mistake: text under a key that takes free
text, values of unknown keys, what a broken line of YAML holds. The path and the line say where.

The file is longer than others because findings, walk, formats and sections have one user, config, and one
rule, the paragraph above.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

import msgspec
import yaml
from msgspec import UNSET, Meta, Struct, UnsetType

from exporter.secret import CONTROL, SURROGATE

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
            path = _parent(path)
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


def _parent(path: str) -> str:
    return path[: max(path.rfind("."), path.rfind("["), 0)]


def _join(path: str, key: object) -> str:
    # What looks like none of our keys may be a secret in the wrong place: `{secret:4f2a…}`, `{4f2a…}`.
    step = key if isinstance(key, str) and re.fullmatch(r"[A-Za-z][A-Za-z_-]{0,31}", key) else "(odd key)"
    return f"{path}.{step}" if path else step


def _kind(value: object) -> str:
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


def _shown(value: object) -> str:
    """Show a duration, size, number or word of an enumeration; never used where free text is expected."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float) and abs(value) < 1e15:  # noqa: PLR2004 - more is no typo, nor worth a line
        return str(value)
    if isinstance(value, str) and len(value) <= 8 and value.isprintable():  # noqa: PLR2004 - no secret is so short
        return repr(value)
    return _kind(value)


_MILLISECONDS = {
    "y": 31_536_000_000,
    "w": 604_800_000,
    "d": 86_400_000,
    "h": 3_600_000,
    "m": 60_000,
    "s": 1_000,
    "ms": 1,
}
_DURATION = re.compile("".join(f"(?:([0-9]{{1,15}}){unit})?" for unit in _MILLISECONDS))
LONGEST = 100 * 365 * 86_400.0  # seconds: well within what clocks and floats can add up

_BYTES = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}
_SIZE = re.compile(f"([0-9]{{1,15}})({'|'.join(_BYTES)})?")


def parse_duration(text: str) -> float:
    """Return the seconds of a duration as Prometheus writes them: `30s`, `1m30s`, `500ms`; `0s` is 0.

    Raises ValueError, with the text if it is short, for anything else and beyond 100 years.
    """
    match = _DURATION.fullmatch(text)
    if not (text and match):
        raise ValueError(f"expected a duration such as 30s, 1m30s or 1h, got {_shown(text)}")
    counts = zip(match.groups("0"), _MILLISECONDS.values(), strict=True)
    seconds = sum(int(count) * unit for count, unit in counts) / 1000
    if seconds > LONGEST:
        raise ValueError("expected a duration of at most 100 years")
    return seconds


def format_duration(seconds: float) -> str:
    """Return seconds as parse_duration reads them, to the millisecond: 90.0 is `1m30s`, 0.0 is `0s`.

    Raises ValueError for negative and non-finite numbers.
    """
    if not 0 <= seconds < math.inf:
        raise ValueError("a duration is a finite number of seconds, 0 or more")
    left = round(seconds * 1000)
    parts = []
    for unit in ("d", "h", "m", "s", "ms"):
        count, left = divmod(left, _MILLISECONDS[unit])
        parts += [f"{count}{unit}"] if count else []
    return "".join(parts) or "0s"


def parse_size(value: object) -> int:
    """Return the bytes of `16MiB` (units B, KiB, MiB, GiB) or of a plain number. Raises ValueError."""
    if type(value) is int and value >= 0:
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"expected a size such as 16MiB, 512KiB or a number of bytes, got {_shown(value)}")
    return int(match[1]) * _BYTES[match[2] or "B"]


def format_size(size: int) -> str | int:
    """Return bytes as parse_size reads them, in the largest unit that divides them."""
    unit = next(unit for unit in _BYTES if size % _BYTES[unit] == 0)
    return size if unit == "B" else f"{size // _BYTES[unit]}{unit}"


def _duration(value: object) -> float:
    if not isinstance(value, str):
        raise ValueError(f"expected a duration with its unit, such as 30s or 1m30s, got {_shown(value)}")  # noqa: TRY004 - one kind of fault for _leaf
    seconds = parse_duration(value)
    if not seconds:
        raise ValueError(f"expected a duration above 0, got {_shown(value)}")
    return seconds


def _size(value: object) -> int:
    size = parse_size(value)
    if not _BYTES["KiB"] <= size <= _BYTES["GiB"]:
        raise ValueError(f"expected a size from 1KiB to 1GiB, got {_shown(value)}")
    return size


def _text(value: object) -> str:
    if not isinstance(value, str):
        quote = "" if isinstance(value, dict | list) else "; put it in quotes"
        raise ValueError(f"expected text, got {_kind(value)}{quote}")  # noqa: TRY004 - one kind of fault for _leaf
    if not value:
        raise ValueError("expected text, got an empty one")
    if SURROGATE.search(value):
        raise ValueError("holds half a surrogate pair, which is no character")
    return value


def _label(value: object) -> str:
    text = _text(value)
    if len(text.encode()) > 128:  # noqa: PLR2004 - the bound of every label, see contract.md
        raise ValueError("expected at most 128 bytes")
    if CONTROL.search(text):
        raise ValueError("holds a control character or a line break")
    return text


def _variable(value: object) -> str:
    text = _text(value)
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", text):
        raise ValueError("expected the name of an environment variable, not its value: letters, digits and _")
    return text


def _names(value: object) -> str:
    if value is False:  # YAML 1.1 reads a bare `off` so
        return "off"
    if value not in ("plain", "hmac", "off"):
        raise ValueError(f"expected one of plain, hmac, off, got {_shown(value)}")
    return str(value)


def _url(value: object) -> str:
    """Return a base URL, scheme and host in small letters, without a slash at the end."""
    text = _text(value)
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
        name = f"[{ipaddress.IPv6Address(host)}]" if "[" in parts.netloc else host
    except ValueError:
        raise ValueError("not a URL: its host or port cannot be read") from None
    faults = {
        "a URL has no spaces, control characters or backslashes": (
            re.search(r"[\s\\]", text) or CONTROL.search(text)
        ),
        "expected http:// or https://": parts.scheme not in {"http", "https"},
        "remove user and password: the API knows neither, and URLs end up in logs": "@" in parts.netloc,
        "remove what follows ? or #: the exporter makes the query itself": re.search("[?#]", text),
        "expected a host, such as https://api.crypto-loot.com": not host,
        "a host has ASCII letters, digits, dots and dashes (xn--…)": (
            not re.fullmatch(r"[a-z0-9._-]+|\[.*\]", name)
        ),
        "port 0 cannot be called": port == 0,
    }
    for message, wrong in faults.items():
        if wrong:
            raise ValueError(message)
    return f"{parts.scheme}://{name}{'' if port is None else f':{port}'}{parts.path.rstrip('/')}"


# A leaf is bool, a Literal, an int with both bounds, or names the function that reads it.
Duration = Annotated[str, Meta(extra={"read": _duration})]
Size = Annotated[int | str, Meta(extra={"read": _size})]
Text = Annotated[str, Meta(extra={"read": _text})]
Label = Annotated[str, Meta(extra={"read": _label})]
Variable = Annotated[str, Meta(extra={"read": _variable})]
Url = Annotated[str, Meta(extra={"read": _url})]
Names = Annotated[Literal["plain", "hmac", "off"] | bool, Meta(extra={"read": _names})]


class Section(Struct, kw_only=True, forbid_unknown_fields=True):
    """A mapping of the file; keys it does not know are problems. UNSET is a key that has no default here."""


class ApiSection(Section):
    """The server and how it is called."""

    url: Url = "https://api.crypto-loot.com"
    timeout: Duration = "10s"
    max_concurrency: Annotated[int, Meta(ge=1, le=64)] | UnsetType = UNSET
    max_response_bytes: Size = "16MiB"
    allow_insecure: bool = False
    proxy: Literal["none", "environment"] = "none"


class PollSection(Section):
    """How one endpoint is polled."""

    stale_after: Duration | UnsetType = UNSET


class PayoutSection(PollSection):
    """/stats/payout."""

    interval: Duration = "1m"


class HistorySection(PollSection):
    """/stats/history, and the age where a row's values leave."""

    interval: Duration = "5m"
    max_row_age: Duration = "4h"


class TopUsersSection(PollSection):
    """/user/top."""

    interval: Duration = "1m"
    count: Annotated[int, Meta(ge=1, le=1024)] = 128
    order: Literal["total", "balance", "withdrawn"] = "total"


class AllUsersSection(PollSection):
    """/user/list, page by page."""

    enabled: bool = False
    interval: Duration = "15m"
    page_size: Annotated[int, Meta(ge=32, le=8192)] = 4096
    max_pages: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000


class BalancesSection(PollSection):
    """/user/balance of each of `watch_users`."""

    interval: Duration = "5m"


class PollsSection(Section):
    """How each endpoint is polled."""

    payout: PayoutSection | UnsetType = UNSET
    history: HistorySection | UnsetType = UNSET
    top_users: TopUsersSection | UnsetType = UNSET
    all_users: AllUsersSection | UnsetType = UNSET
    balances: BalancesSection | UnsetType = UNSET


class SiteSection(Section):
    """One site, its secret, and its overrides of the section `poll`."""

    name: Annotated[
        str, Meta(description="the `site` label, unique, at most 128 bytes", extra={"read": _label})
    ]
    secret_env: Variable | UnsetType = UNSET
    secret_file: Text | UnsetType = UNSET
    secret: Text | UnsetType = UNSET
    currency: Label = "XMR"
    watch_users: list[Text] | UnsetType = UNSET
    poll: PollsSection | UnsetType = UNSET


class UsersSection(Section):
    """What is shown of user names."""

    names: Names = "plain"
    names_key_env: Variable | UnsetType = UNSET
    names_key_file: Text | UnsetType = UNSET


class WebSection(Section):
    """What is served where."""

    sites_on_metrics: bool = True


class ConfigFile(Section):
    """config.yaml of cryptoloot-exporter."""

    sites: Annotated[
        list[SiteSection],
        Meta(min_length=1, description="the sites to poll, at least one, each with a name and a secret"),
    ]
    api: ApiSection | UnsetType = UNSET
    poll: PollsSection | UnsetType = UNSET
    users: UsersSection | UnsetType = UNSET
    web: WebSection | UnsetType = UNSET


@cache
def _fields(struct: type[Section]) -> dict[str, msgspec.structs.FieldInfo]:
    return {field.name: field for field in msgspec.structs.fields(struct)}


@cache
def defaults(struct: type[Section]) -> dict[str, Any]:
    """Return the leaves of a section that have a default, as we use them."""
    fields = _fields(struct).values()
    given = [field for field in fields if not field.required and field.default is not UNSET]
    return {field.name: _leaf(field.default, field.type) for field in given}


def read(value: object, type_: Any, path: str, found: Findings) -> Any:
    """Return the value as we use it: sections as dicts of the keys given, UNSET in place of a fault.

    Durations come in seconds, sizes in bytes; nothing under the key of a section or list is as if absent.
    """
    if value is UNSET:  # a fault of YAML, told already
        return UNSET
    base, meta = _unwrap(type_)
    if isinstance(base, type) and issubclass(base, Section):
        return _section(value, base, path, found)
    if get_origin(base) is list:
        return _list(value, get_args(base)[0], meta, path, found)
    if value is None:
        found.add(path, "nothing is given: give a value or remove the key")
        return UNSET
    try:
        return _leaf(value, type_)
    except ValueError as error:
        found.add(path, str(error))
        return UNSET


def _unwrap(type_: Any) -> tuple[Any, Meta]:
    """Return the type within `| UnsetType` and Annotated, and its metadata."""
    if UnsetType in get_args(type_):
        type_ = get_args(type_)[0]
    return get_args(type_)[:2] if get_origin(type_) is Annotated else (type_, Meta())


def _section(value: object, struct: type[Section], path: str, found: Findings) -> Any:
    entries = {} if value is None else value
    if not isinstance(entries, dict):
        found.add(path, f"expected a mapping, got {_kind(value)}")
        return UNSET
    fields, given = _fields(struct), {}
    for key, item in entries.items():
        if key in fields:
            given[key] = read(item, fields[key].type, _join(path, key), found)
        else:
            near = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(fields)}"
            found.add(_join(path, key), f"unknown key; {hint}")
    for name, field in fields.items():
        if field.required and name not in entries:
            found.add(_join(path, name), f"missing: {_unwrap(field.type)[1].description}")
    return {key: item for key, item in given.items() if item is not UNSET}


def _list(value: object, type_: Any, meta: Meta, path: str, found: Findings) -> Any:
    entries = [] if value is None else value
    if not isinstance(entries, list):
        found.add(path, f"expected a list, got {_kind(value)}")
        return UNSET
    if not entries and meta.min_length:
        found.add(path, f"empty: {meta.description}")
    return [read(entry, type_, f"{path}[{index}]", found) for index, entry in enumerate(entries)]


def _leaf(value: object, type_: Any) -> Any:
    """Return a leaf as we use it. Raises ValueError, which never repeats free text."""
    base, meta = _unwrap(type_)
    if meta.extra:
        return meta.extra["read"](value)
    try:
        return msgspec.convert(value, type_)
    except msgspec.ValidationError:
        shown = _shown(value)
    if get_origin(base) is Literal:
        raise ValueError(f"expected one of {', '.join(get_args(base))}, got {shown}")
    expected = "true or false" if base is bool else f"a whole number from {meta.ge} to {meta.le}"
    raise ValueError(f"expected {expected}, got {_kind(value) if isinstance(value, str) else shown}")


def load_yaml(data: bytes, found: Findings) -> object:
    """Return the document, having noted the line of every path; UNSET where YAML itself is broken."""
    text, line = "", None
    try:
        text = data.decode("utf-8-sig")
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        return None if node is None else _Walk(loader, found).value(node, "")
    except UnicodeDecodeError as error:
        message, line = "not UTF-8", data.count(b"\n", 0, error.start) + 1
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message, line = _yaml_fault(error), mark.line + 1 if mark else None
    except yaml.reader.ReaderError as error:
        message, line = "a character YAML does not allow", text.count("\n", 0, error.position) + 1
    except RecursionError:
        message = "nested too deeply"
    found.add("", message, line)
    return UNSET


def _yaml_fault(error: yaml.MarkedYAMLError) -> str:
    # The parser quotes what it met, and `secret: *abc` is met as the undefined alias 'abc'.
    said = ", ".join(part for part in (error.context, error.problem) if part)
    return "not valid YAML: " + _QUOTED.sub(
        lambda match: match[0] if _HARMLESS.fullmatch(match[0][1:-1]) else "(not shown)", said
    )


_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'" + r'|"(?:[^"\\]|\\.)*"')
_HARMLESS = re.compile(r"\\?.|<[a-z ]+>")  # one character, or a kind of token


class _Walk:
    """Turns YAML nodes into plain values, noting lines, duplicate keys and scalars that cannot be read."""

    def __init__(self, loader: yaml.SafeLoader, found: Findings) -> None:
        self._loader = loader
        self._found = found
        # An alias is the same node again: walked once, however often it is named, and within itself.
        self._known: dict[yaml.Node, Any] = {}

    def value(self, node: yaml.Node, path: str) -> Any:
        if node in self._known:
            return self._known[node]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return self._sequence(node, path)
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: str) -> dict[Any, Any]:
        mapping: dict[Any, Any] = self._known.setdefault(node, {})
        self._check_duplicates(node, path)
        self._loader.flatten_mapping(node)
        for key, item in node.value:
            child = _join(path, key.value)
            self._found.lines.setdefault(child, key.start_mark.line + 1)
            # A list or mapping as a key is as unknown as any other, but cannot be one in Python.
            name = self._scalar(key, child) if isinstance(key, yaml.ScalarNode) else key
            if name is not UNSET:
                mapping[name] = self.value(item, child)
        return mapping

    def _sequence(self, node: yaml.SequenceNode, path: str) -> list[Any]:
        sequence: list[Any] = self._known.setdefault(node, [])
        for index, item in enumerate(node.value):
            child = f"{path}[{index}]"
            self._found.lines.setdefault(child, item.start_mark.line + 1)
            sequence.append(self.value(item, child))
        return sequence

    def _scalar(self, node: yaml.Node, path: str) -> Any:
        try:
            return self._loader.construct_object(node)
        except Exception:  # noqa: BLE001 - PyYAML raises nearly anything on odd tags: `!!int x`, `!!timestamp x`
            self._found.add(path, "YAML cannot read this value: put it in quotes", node.start_mark.line + 1)
        return UNSET

    def _check_duplicates(self, node: yaml.MappingNode, path: str) -> None:
        """SafeLoader lets the last of two equal keys win, silently."""
        first: dict[tuple[str, str], yaml.Node] = {}
        for key, _ in node.value:
            earlier = first.setdefault((key.tag, str(key.value)), key)
            if earlier is not key:
                message = f"given twice: line {earlier.start_mark.line + 1} has it already"
                self._found.add(_join(path, key.value), message, key.start_mark.line + 1)
