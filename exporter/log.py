"""Logging: one chain for our events and other libraries' records, with secrets redacted.

Events are stable names with values: `structlog.get_logger().warning("poll_failed", site=…)`. Records of the
standard library are logged from WARNING up as the event `library_message`. Whatever is logged, including
hostile user names, logging neither raises nor writes a line that looks like another event. A broken pipe
does not raise either.
"""

import json
import logging
import math
import re
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple, TextIO
from urllib.parse import quote, quote_plus

import structlog
from structlog.processors import JSONRenderer, TimeStamper, add_log_level, format_exc_info
from structlog.typing import EventDict, Processor

MASK = "**********"
LEVELS = ("debug", "info", "warning", "error", "critical")
ALIASES = {"warn": "warning"}  # as Prometheus' daemons call it
FORMATS = ("console", "json", "logfmt")

_END = 8192  # characters that are kept of each end of a long value
_MAX_DEPTH = 6
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}")
_PLAIN = re.compile(r"""[^\s"'=\\]+""")
_BARE = re.compile(r"[!#-<>-\[\]-~]+")  # not quoted in logfmt: printable ASCII but for quote, = and \
# `secret=…` in a query, in a query within a query, and in the repr of a mapping.
_QUERY = re.compile(r"""(secret(?:=|%3d|['"]\s*:\s*['"]))[^&\s#'"<>`\\]+""", re.IGNORECASE)


class Concealer:
    """Replaces secrets in texts by a mask, in all forms that they take in URLs and reprs.

    `bound` is the maximum number of forms; the oldest are dropped first. Forms are looked up by their first
    characters, then by length: even with thousands of sites a text costs little more than one look-up per
    character.
    """

    head = 4

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._forms: dict[str, None] = {}  # the oldest first
        self._by_head: dict[str, dict[int, set[str]]] = {}
        self._lock = threading.RLock()  # a garbage collection in between can log, too

    def add(self, secret: str) -> None:
        """Hide this text from now on. Shorter texts than 4 characters are ignored."""
        if len(secret) < self.head:
            return
        data = secret.encode("utf-8", "surrogatepass")
        urls = (quote(data), quote(data, safe=""), quote_plus(data))
        reprs = (repr(secret)[1:-1], repr(data)[2:-1])
        jsons = (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1])
        with self._lock:
            for form in {_escapes_lowered(form) for form in (secret, *urls, *reprs, *jsons)}:
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
        """Return the text with each secret replaced by the mask; the longest match wins."""
        parts, start, at = [], 0, 0
        lowered = _escapes_lowered(text)  # of the same length
        with self._lock:
            while self._forms and at <= len(text) - self.head:
                sizes = self._by_head.get(lowered[at : at + self.head])
                longest = (
                    max((n for n in sizes if lowered[at : at + n] in sizes[n]), default=0) if sizes else 0
                )
                if longest:
                    parts += [text[start:at], MASK]
                    start = at + longest
                at += longest or 1
        return "".join([*parts, text[start:]])


def _escapes_lowered(text: str) -> str:
    """Return the text with the escapes of URLs and JSON in small letters: `%C3` and `%c3` are the same."""
    return _ESCAPE.sub(lambda escape: escape[0].lower(), text)


_concealer = Concealer(bound=65_536)


def conceal(secrets: Iterable[str]) -> None:
    """Hide these texts in everything that is logged from now on, also in the forms of URLs and reprs.

    Texts shorter than 4 characters are ignored, because hiding them would garble the log. Past some 65,000
    forms, the oldest are dropped; a text that is passed again counts as new.
    """
    for secret in secrets:
        _concealer.add(secret)


def redacted(text: str) -> str:
    """Return the text without concealed secrets and without the values of `secret=`."""
    return _QUERY.sub(rf"\g<1>{MASK}", _concealer.hide(text))


def _redact(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Turn everything into plain JSON values without secrets; time, level and name come first."""
    first = [key for key in ("timestamp", "level", "event") if key in event]
    return {_text(key): _value(key, event[key], 0) for key in dict.fromkeys([*first, *event])}


def _value(key: object, value: Any, depth: int) -> Any:
    if isinstance(key, str) and key.lower() == "secret":
        return MASK
    # Exact types only: subclasses print and iterate as they please, so they are shown by their repr.
    kind = type(value)
    if value is None or kind is bool or (kind is float and math.isfinite(value)):
        return value
    if kind is int and abs(value) < 1 << 63:
        return value
    if depth < _MAX_DEPTH and kind is dict:
        return {_text(name): _value(name, item, depth + 1) for name, item in value.items()}
    if depth < _MAX_DEPTH and kind in {list, tuple, set, frozenset}:
        return [_value(None, item, depth + 1) for item in value]
    return _text(value)


def _text(value: object) -> str:
    try:
        if isinstance(value, str):
            text = str.__str__(value)
        elif isinstance(value, BaseException):
            text = f"{type(value).__name__}: {value}"
        elif type(value) is int and abs(value) >= 1 << 63:
            text = hex(value)  # Python refuses to write more than 4300 decimal digits
        else:
            text = repr(value)
    except Exception:  # noqa: BLE001 - a foreign __str__ or __repr__ may do anything
        text = f"<{type(value).__name__} that cannot be shown>"
    # The first cut saves time. The second comes after redaction, because a cut can halve a secret.
    return _cut(redacted(_cut(text, 4 * _END)), _END)


def _cut(text: str, end: int) -> str:
    """Keep both ends of a long text: the last line of a traceback says what happened."""
    if len(text) <= 2 * end:
        return text
    return f"{text[:end]} …{len(text) - 2 * end} characters… {text[-end:]}"


class _ConsoleValue(NamedTuple):
    """A value whose repr is its text on the console; the console renderer prints it unchanged."""

    value: object

    def __repr__(self) -> str:
        plain = isinstance(self.value, str) and _PLAIN.fullmatch(self.value)
        return _escaped(str(self.value) if plain else json.dumps(self.value, ensure_ascii=False))


def _for_console(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Escape every character that moves the cursor or starts a line; indent each line of a traceback."""
    texts: EventDict = {}
    for key, value in event.items():
        if key in {"exception", "stack"}:
            texts[key] = "\n".join(f"    {_escaped(line)}" for line in str(value).split("\n"))
        elif key in {"timestamp", "level", "logger", "event"}:
            texts[key] = _escaped(str(value))
        else:
            texts[_escaped(key)] = _ConsoleValue(value)
    return texts


def _as_logfmt(_logger: object, _method: str, event: EventDict) -> str:
    """Return the event as `key=value` pairs. What is quoted is a JSON string, all of it ASCII."""
    pairs = []
    for key, value in event.items():
        text = value if isinstance(value, str) else json.dumps(value)
        name = re.sub(r"[^\w.-]", "_", key, flags=re.ASCII) or "_"
        pairs.append(f"{name}={text if _BARE.fullmatch(text) else json.dumps(text)}")
    return " ".join(pairs)


def _escaped(text: str) -> str:
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class _Sink:
    """Writes lines to a stream. Never raises, whatever the line holds and whatever happened to the stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._lock = stream, threading.RLock()

    def write(self, line: str) -> None:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        safe = line.encode(encoding, "backslashreplace").decode(encoding)
        # A log reader that went away must not stop the daemon, and there is no other place to report it.
        with self._lock, suppress(OSError, ValueError, RuntimeError):
            self._stream.write(f"{safe}\n")
            self._stream.flush()

    debug = info = warning = error = critical = write


class LibraryHandler(logging.Handler):
    """Logs the records of other libraries as events of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record as the event `library_message`."""
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - the arguments are foreign, and do not always fit the text
            message = _text(record.msg)
        level = LEVELS[min(max(record.levelno // 10, 1), len(LEVELS)) - 1]
        write = getattr(structlog.get_logger(), level)
        write("library_message", logger=record.name, message=message, exc_info=record.exc_info)


def setup(level: str, format: str | None, stream: TextIO) -> None:  # noqa: A002 - as its flag
    """Send our events from `level` up, and other libraries' from WARNING up, to the stream.

    `format` is one of FORMATS, or None: console on a terminal, else JSON. A later call replaces the settings
    of an earlier one. Raises ValueError for an unknown level or format.
    """
    name = ALIASES.get(level.lower(), level.lower())
    if name not in LEVELS:
        raise ValueError(f"no such log level: expected one of {', '.join(LEVELS)}")
    if format not in {*FORMATS, None}:
        raise ValueError(f"no such log format: expected one of {', '.join(FORMATS)}")
    terminal = stream.isatty()
    plain = structlog.dev.plain_traceback
    console = structlog.dev.ConsoleRenderer(colors=terminal, sort_keys=False, exception_formatter=plain)
    renderers: dict[str, list[Processor]] = {
        "console": [_for_console, console],
        "json": [JSONRenderer()],
        "logfmt": [_as_logfmt],
    }
    number = (LEVELS.index(name) + 1) * 10
    sink = _Sink(stream)
    structlog.configure(
        # The traceback is the plain one, because locals would hold secrets.
        processors=[
            *(add_log_level, TimeStamper(fmt="iso", utc=True), format_exc_info, _redact),
            *renderers[format or ("console" if terminal else "json")],
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_names: sink,
        cache_logger_on_first_use=False,  # loggers made at import must follow a later setup
    )
    root = logging.getLogger()
    root.handlers = [*(old for old in root.handlers if not isinstance(old, LibraryHandler)), LibraryHandler()]
    root.setLevel(max(number, logging.WARNING))
    for library in ("httpx", "httpcore"):  # they log whole URLs, and the secret is in the query
        logger = logging.getLogger(library)
        logger.setLevel(logging.CRITICAL + 1)
        logger.propagate = False  # a child logger with its own level ends here
        logger.handlers = [logging.NullHandler()]
