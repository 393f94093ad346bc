"""The values of a configuration: durations, sizes, names and URLs, each parsed or rejected with a ValueError.

The text of such an error never repeats free text, which might be a secret by mistake.
"""

import ipaddress
import math
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from msgspec import Meta

from exporter.config.problems import quoted, type_name
from exporter.config.secret import CONTROL, SURROGATE

_DAY = 86_400_000
_MILLISECONDS = {"y": 365 * _DAY, "w": 7 * _DAY, "d": _DAY, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_DURATION = re.compile("".join(f"(?:([0-9]{{1,15}}){unit})?" for unit in _MILLISECONDS))
MAX_DURATION = 100 * 365 * 86_400.0  # seconds; clocks and floats add it without overflow

_BYTES = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}
_SIZE = re.compile(f"([0-9]{{1,15}})({'|'.join(_BYTES)})?")

_NOT_IN_URL = re.compile(rf"[\s\\]|{CONTROL.pattern}")
_HOST = re.compile(r"[a-z0-9._-]+|\[.*\]")


def read_duration(value: object) -> float:
    """Return the seconds of a duration as Prometheus writes them: `30s`, `1m30s`, `500ms`.

    Raises ValueError for anything else, 0 and more than 100 years included.
    """
    if not isinstance(value, str):
        raise ValueError(f"expected a duration with its unit, such as 30s or 1m30s, got {quoted(value)}")  # noqa: TRY004 - schema reports ValueError alone
    match = _DURATION.fullmatch(value)
    if not (value and match):
        raise ValueError(f"expected a duration such as 30s, 1m30s or 1h, got {quoted(value)}")
    counts = zip(match.groups("0"), _MILLISECONDS.values(), strict=True)
    seconds = sum(int(count) * unit for count, unit in counts) / 1000
    if seconds > MAX_DURATION:
        raise ValueError("expected a duration of at most 100 years")
    if not seconds:
        raise ValueError(f"expected a duration above 0, got {quoted(value)}")
    return seconds


def format_duration(seconds: float) -> str:
    """Return seconds as read_duration reads them, to the millisecond: 90.0 is `1m30s`, 0.0 is `0s`.

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


def read_size(value: object) -> int:
    """Return the bytes of `16MiB` (units B, KiB, MiB, GiB) or of a plain number, from 1KiB to 1GiB.

    Raises ValueError for anything else.
    """
    if isinstance(value, str) and (match := _SIZE.fullmatch(value)):
        size = int(match[1]) * _BYTES[match[2] or "B"]
    elif type(value) is int and value >= 0:
        size = value
    else:
        raise ValueError(f"expected a size such as 16MiB, 512KiB or a number of bytes, got {quoted(value)}")
    if not _BYTES["KiB"] <= size <= _BYTES["GiB"]:
        raise ValueError(f"expected a size from 1KiB to 1GiB, got {quoted(value)}")
    return size


def format_size(size: int) -> str | int:
    """Return bytes as read_size reads them, in the largest unit that divides them."""
    unit = next(unit for unit in _BYTES if size % _BYTES[unit] == 0)
    return size if unit == "B" else f"{size // _BYTES[unit]}{unit}"


def read_text(value: object) -> str:
    """Return a text that is not empty. Raises ValueError."""
    if not isinstance(value, str):
        quote = "" if isinstance(value, dict | list) else "; put it in quotes"
        raise ValueError(f"expected text, got {type_name(value)}{quote}")  # noqa: TRY004 - schema reports ValueError alone
    if not value:
        raise ValueError("expected text, got an empty one")
    if SURROGATE.search(value):
        raise ValueError("holds half a surrogate pair, which is no character")
    return value


def read_label(value: object) -> str:
    """Return a text that can be a label of a metric. Raises ValueError."""
    text = read_text(value)
    if len(text.encode()) > 128:  # noqa: PLR2004 - the bound of every label, see contract.md
        raise ValueError("expected at most 128 bytes")
    if CONTROL.search(text):
        raise ValueError("holds a control character or a line break")
    return text


def read_variable(value: object) -> str:
    """Return the name of an environment variable. Raises ValueError."""
    text = read_text(value)
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,127}", text):
        raise ValueError("expected the name of an environment variable, not its value: letters, digits and _")
    return text


def read_names(value: object) -> str:
    """Return how user names are exported. Raises ValueError."""
    word = "off" if value is False else value  # YAML 1.1 reads a bare `off` as false
    if word not in ("plain", "hmac", "off"):
        raise ValueError(f"expected one of plain, hmac, off, got {quoted(value)}")
    return str(word)


def read_url(value: object) -> str:
    """Return a base URL with scheme and host in lower case and no slash at the end. Raises ValueError."""
    text = read_text(value)
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
        name = f"[{ipaddress.IPv6Address(host)}]" if "[" in parts.netloc else host
    except ValueError:
        raise ValueError("not a URL: its host or port cannot be read") from None
    faults = {
        "a URL has no spaces, control characters or backslashes": _NOT_IN_URL.search(text),
        "expected http:// or https://": parts.scheme not in {"http", "https"},
        "remove user and password: the API knows neither, and URLs end up in logs": "@" in parts.netloc,
        "remove what follows ? or #: the exporter makes the query itself": re.search("[?#]", text),
        "expected a host, such as https://api.crypto-loot.com": not host,
        "a host has ASCII letters, digits, dots and dashes (xn--…)": not _HOST.fullmatch(name),
        "port 0 cannot be called": port == 0,
    }
    for message, wrong in faults.items():
        if wrong:
            raise ValueError(message)
    return f"{parts.scheme}://{name}{'' if port is None else f':{port}'}{parts.path.rstrip('/')}"


def _parsed(schema: dict[str, Any], **functions: Callable[[Any], object]) -> Meta:
    """Name the functions that `read` a value and, if it has a unit, `write` it; `schema` is for editors."""
    return Meta(extra=functions, extra_json_schema=schema)


# The type of a value is bool, a Literal, an int with both bounds, or has its parser in `extra`. Patterns and
# examples are for editors: the parsers explain a fault better.
_UNITS = "".join(f"([0-9]+{unit})?" for unit in _MILLISECONDS)
_TIMES = {"pattern": f"^{_UNITS}$", "examples": ["1m30s"]}
Duration = Annotated[str, _parsed(_TIMES, read=read_duration, write=format_duration)]
Size = Annotated[int | str, _parsed({"examples": ["16MiB"]}, read=read_size, write=format_size)]
Text = Annotated[str, _parsed({"minLength": 1}, read=read_text)]
Label = Annotated[str, _parsed({"minLength": 1}, read=read_label)]
Variable = Annotated[str, _parsed({"pattern": "^[A-Za-z_][A-Za-z0-9_]{0,127}$"}, read=read_variable)]
Url = Annotated[str, _parsed({"pattern": "^[Hh][Tt][Tt][Pp][Ss]?://"}, read=read_url)]
Names = Annotated[Literal["plain", "hmac", "off"] | bool, _parsed({}, read=read_names)]
