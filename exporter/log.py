"""Logging: one chain for our events and other libraries' records, with secrets redacted on the way.

Events are stable names with values: `structlog.get_logger().warning("poll_failed", site=…)`. Records of the
standard library come in at WARNING and above as the event `library_message`. Whatever is logged, hostile user
names and broken pipes included, logging neither raises nor writes a line that pretends to be another.
"""

from __future__ import annotations

import json
import logging
import math
import re
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO, cast
from urllib.parse import quote, quote_plus

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from structlog.typing import EventDict, Processor

MASK = "**********"
LEVELS = ("debug", "info", "warning", "error", "critical")
FORMATS = ("console", "json")

_SILENT = ("httpx", "httpcore")  # they log whole URLs, and the secret is in the query
_LONGEST = 16_384  # characters of one value
_DEEPEST = 6
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_PLAIN = re.compile(r"""[^\s"'=\\]+""")
# A query, `secret=…`, also within another query, and the same in the repr of a mapping.
_QUERY = re.compile(r"""(secret(?:=|%3d|['"]\s*:\s*['"]))[^&\s#'"<>`\\]+""", re.IGNORECASE)


class _Concealed:
    """The secrets to hide, in the forms they take in URLs and reprs; the ones given last stay, up to a bound.

    Found by their first characters, then by length: even with thousands of sites a text costs little over
    one look-up per character.
    """

    head = 4

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._forms: dict[str, None] = {}  # the oldest first
        self._by_head: dict[str, dict[int, set[str]]] = {}
        self._lock = threading.Lock()

    def add(self, value: str) -> None:
        if len(value) < self.head:
            return
        with self._lock:
            for form in _forms(value):
                self._forget(form)
                self._forms[form] = None
                by_length = self._by_head.setdefault(form[: self.head], {})
                by_length.setdefault(len(form), set()).add(form)
            while len(self._forms) > self._bound:
                self._forget(next(iter(self._forms)))

    def _forget(self, form: str) -> None:
        if form in self._forms:
            del self._forms[form]
            self._by_head[form[: self.head]][len(form)].remove(form)

    def hide(self, text: str) -> str:
        parts, start, at = [], 0, 0
        with self._lock:
            while self._forms and at <= len(text) - self.head:
                length = self._match(text, at)
                if length:
                    parts += [text[start:at], MASK]
                    start = at + length
                at += length or 1
        return "".join([*parts, text[start:]])

    def _match(self, text: str, at: int) -> int:
        """Return the length of the longest form that stands there, or 0."""
        by_length = self._by_head.get(text[at : at + self.head])
        if by_length is None:
            return 0
        return max((each for each, forms in by_length.items() if text[at : at + each] in forms), default=0)


_concealed = _Concealed(bound=65_536)


def conceal(values: Iterable[str]) -> None:
    """Hide these texts in everything logged from now on, also as URLs and reprs write them.

    Values shorter than 4 characters are ignored: hiding them would shred the log. Past some 65,000 forms,
    those given longest ago are dropped; giving one again keeps it.
    """
    for value in values:
        _concealed.add(value)


def _forms(value: str) -> set[str]:
    data = value.encode("utf-8", "surrogatepass")
    return {
        value,
        quote(data),
        quote(data, safe=""),
        quote_plus(data),
        repr(value)[1:-1],
        json.dumps(value)[1:-1],
    }


def redacted(text: str) -> str:
    """Return the text without concealed values and without what follows `secret=`."""
    return _QUERY.sub(rf"\g<1>{MASK}", _concealed.hide(text))


def _ordered(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Begin a line with what people scan it for."""
    first = {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event}
    return {**first, **event}


def _redact(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Make everything plain JSON values without secrets."""
    return {_text(key): _value(key, value, 0) for key, value in event.items()}


def _value(key: object, value: object, depth: int) -> Any:
    if isinstance(key, str) and key.lower() == "secret":
        return MASK
    if _is_plain(value):
        return value
    if depth < _DEEPEST:
        # Subclasses iterate as they please: they are shown by their repr.
        if type(value) is dict:
            return {_text(name): _value(name, item, depth + 1) for name, item in value.items()}
        if type(value) in {list, tuple, set, frozenset}:
            return [_value(None, item, depth + 1) for item in cast("Iterable[object]", value)]
    return _text(value)


def _is_plain(value: object) -> bool:
    """Whether JSON has it as it is: exact types only, for subclasses may print as they please."""
    return (
        value is None
        or value is True
        or value is False
        or (type(value) is int and abs(value) < 1 << 63)
        or (type(value) is float and math.isfinite(value))
    )


def _text(value: object) -> str:
    try:
        text = _said(value)
    except Exception:  # noqa: BLE001 - a foreign __str__ or __repr__ may do anything
        text = f"<{type(value).__name__} that cannot be shown>"
    # Cut before, for speed, and after, for a secret the first cut may have halved.
    return _cut(redacted(_cut(text, 4 * _LONGEST)), _LONGEST)


def _cut(text: str, length: int) -> str:
    """Keep both ends: a traceback says what happened in its last line."""
    half = length // 2
    return (
        text if len(text) <= length else f"{text[:half]} …{len(text) - 2 * half} characters… {text[-half:]}"
    )


def _said(value: object) -> str:
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    if type(value) is int:
        return str(value) if abs(value) < 1 << 63 else hex(value)  # past 4300 digits Python refuses decimals
    return repr(value)


class _Shown:
    """A value whose repr is what the console shall show; the console renderer takes it as it is."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __repr__(self) -> str:
        plain = isinstance(self._value, str) and _PLAIN.fullmatch(self._value)
        return _escaped(str(self._value) if plain else json.dumps(self._value, ensure_ascii=False))


def _for_console(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Leave no character that moves the cursor or begins a line; a traceback is indented, line by line."""
    own = {"timestamp", "level", "logger", "event"}
    shown: EventDict = {}
    for key, value in event.items():
        if key in {"exception", "stack"}:
            shown[key] = "\n".join(f"    {_escaped(line)}" for line in str(value).split("\n"))
        else:
            shown[_escaped(key)] = _escaped(str(value)) if key in own else _Shown(value)
    return shown


def _escaped(text: str) -> str:
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def _chain(form: str, *, colors: bool) -> list[Processor]:
    """Return what every event passes, from its values to a line."""
    last: list[Processor] = [structlog.processors.JSONRenderer()]
    if form == "console":
        plain = structlog.dev.plain_traceback
        console = structlog.dev.ConsoleRenderer(colors=colors, sort_keys=False, exception_formatter=plain)
        last = [_for_console, console]
    return [
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _ordered,
        structlog.processors.format_exc_info,  # the plain traceback: locals would hold secrets
        _redact,
        *last,
    ]


class _Sink:
    """Writes lines, whatever is in them and whatever became of the stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def write(self, line: str) -> None:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        safe = line.encode(encoding, "backslashreplace").decode(encoding)
        # A reader that went away must not take the daemon along; there is nowhere left to tell.
        with self._lock, suppress(OSError, ValueError):
            self._stream.write(f"{safe}\n")
            self._stream.flush()

    debug = info = warning = error = critical = write


class _Bridge(logging.Handler):
    """Sends records of other libraries through our chain."""

    def __init__(self, chain: list[Processor], write: Callable[[str], None]) -> None:
        super().__init__()
        self._chain = chain
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        event: Any = {
            "event": "library_message",
            "level": _level_name(record.levelno),
            "logger": record.name,
            "message": _message(record),
            "exc_info": record.exc_info,
        }
        for process in self._chain:
            event = process(None, event["level"], event)
        self._write(event)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - the arguments are foreign, and do not always fit the text
        return _text(record.msg)


def _level_name(number: int) -> str:
    return LEVELS[min(max(number // 10, 1), len(LEVELS)) - 1]


def setup(level: str, format: str | None, stream: TextIO) -> None:  # noqa: A002 - as its flag
    """Send our events from `level` up, and other libraries' from WARNING up, to the stream.

    `format` is `console`, `json`, or None: console on a terminal. Calling it again replaces what was set.
    Raises ValueError for a level or format there is not.
    """
    if level.lower() not in LEVELS:
        raise ValueError(f"no such log level: expected one of {', '.join(LEVELS)}")
    if format is not None and format not in FORMATS:
        raise ValueError(f"no such log format: expected one of {', '.join(FORMATS)}")
    terminal = stream.isatty()
    chain = _chain(format or ("console" if terminal else "json"), colors=terminal)
    number = (LEVELS.index(level.lower()) + 1) * 10
    sink = _Sink(stream)
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.add_log_level, *chain],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_names: sink,
        cache_logger_on_first_use=False,  # loggers made at import must follow a later setup
    )
    _adopt(_Bridge(chain, sink.write), max(number, logging.WARNING))


def _adopt(bridge: _Bridge, level: int) -> None:
    """Make the bridge our one handler of the standard library's root, and silence who would tell secrets."""
    root = logging.getLogger()
    for handler in [*root.handlers]:
        if isinstance(handler, _Bridge):
            root.removeHandler(handler)
    root.addHandler(bridge)
    root.setLevel(level)
    for name in _SILENT:
        silent = logging.getLogger(name)
        silent.setLevel(logging.CRITICAL + 1)
        silent.propagate = False  # a child logger with a level of its own ends here
        silent.handlers = [logging.NullHandler()]
