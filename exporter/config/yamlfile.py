"""A YAML file as plain values, with the line of every path. Faults of YAML are reported, not raised.

The values are built from the parser's events. PyYAML's own composer and constructor would build all that
aliases and merge keys (`<<`) stand for before anything can be counted, raise nearly anything on odd input,
and let the last of two equal keys win. libyaml parses where PyYAML has it, much faster than Python does.
Between two events other threads have their turn.
"""

import re
from typing import Any, NoReturn

import yaml
from msgspec import UNSET

from exporter.config.problems import HIDDEN, ConfigError, Problems, join

MAX_BYTES = 2 << 20  # 10,000 sites are 1 MiB. While a long comment is parsed, other threads wait
MAX_VALUES = 200_000  # with each alias counted as all that it stands for; 10,000 sites have 100,000
MAX_DEPTH = 32  # config.yaml has 6 levels
MAX_DIRECTIVES = 100  # libyaml compares each with all others
EXPLAINED = 16 << 10  # characters: a file that a person has written
MAX_NUMBER = 64  # characters; longer ones are text, because Python takes long to read or to write them

_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
_TEXT = f"{_TAG}str"
_SCALARS = {f"{_TAG}{kind}" for kind in ("null", "bool", "int", "float", "timestamp", "binary")}
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'" + r'|"(?:[^"\\]|\\.)*"')
_HARMLESS = re.compile(r"\\?.|<[a-z ]+>")  # one character, or a kind of token
_DIRECTIVE = re.compile("%(?<![^\r\n\x85\u2028\u2029]%)")  # at the start of a line
# JSON in ASCII writes a character beyond the 16-bit ones as two escapes, which YAML does not know as one.
_PAIR = re.compile(r"\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")


class Refused(Exception):
    """A document that is not read, and the line that is the reason."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


def load_yaml(data: bytes, problems: Problems, as_written: str = "") -> object:
    """Return the document and record the line of every path; UNSET where the YAML is broken or too much.

    Values beneath the path `as_written` are text, also where YAML reads a number, a date or a truth value.
    """
    try:
        text = _decoded(data)
        try:
            return parse(_PARSER, text, problems, as_written)
        except yaml.MarkedYAMLError:
            if len(text) > EXPLAINED:
                raise
        # PyYAML's own parser is slow, but it takes `{key:}`, and explains better what it does not take.
        problems.clear()
        return parse(yaml.SafeLoader, text, problems, as_written)
    except Refused as error:
        message, line = str(error), error.line
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        why = ", ".join(part for part in (error.context, error.problem) if part)
        # The parser in Python quotes what it met, which may be a part of a secret.
        why = _QUOTED.sub(lambda part: part[0] if _HARMLESS.fullmatch(part[0][1:-1]) else "(not shown)", why)
        message, line = f"not valid YAML: {why}", mark.line + 1 if mark else None
    problems.clear()
    problems.add("", message, line)
    return UNSET


def parse(parser: Any, text: str, problems: Problems, as_written: str = "") -> object:
    """Return the document. Raises Refused, MarkedYAMLError and, for too many problems, ConfigError."""
    loader = parser(text)
    try:
        return _Reader(loader, problems, as_written).document()
    except (ConfigError, Refused, yaml.MarkedYAMLError):
        raise
    except Exception:  # noqa: BLE001 - PyYAML's own parser raises nearly anything: "\UFFFFFFFF", `%YAML 1.999…`
        line = getattr(loader, "line", None)
    unreadable = "not valid YAML: an escape or a directive that cannot be read"
    raise Refused(unreadable, None if line is None else line + 1)


def _decoded(data: bytes) -> str:
    """Return the text of a file. Raises Refused."""
    if len(data) > MAX_BYTES:
        raise Refused(f"larger than {MAX_BYTES >> 20} MiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused("not UTF-8", data.count(b"\n", 0, error.start) + 1) from None
    if odd := yaml.reader.Reader.NON_PRINTABLE.search(text):
        raise Refused("a character YAML does not allow", text.count("\n", 0, odd.start()) + 1)
    if len(_DIRECTIVE.findall(text)) > MAX_DIRECTIVES:
        raise Refused(f"more than {MAX_DIRECTIVES} lines begin with %")
    return _PAIR.sub(_character, text)


def _character(pair: re.Match[str]) -> str:
    """Return the escape of the character that a surrogate pair stands for."""
    start = pair.start()
    while start and pair.string[start - 1] == "\\":
        start -= 1
    if (pair.start() - start) % 2:  # its backslash is escaped
        return pair[0]
    high, low = int(pair[1], 16), int(pair[2], 16)
    return f"\\U{0x10000 + ((high & 0x3FF) << 10) + (low & 0x3FF):08x}"


class _Reader:
    """Turns the events of a parser into plain values. Records lines; reports what cannot be read."""

    def __init__(self, loader: Any, problems: Problems, as_written: str) -> None:
        self._next, self._loader, self._problems = loader.get_event, loader, problems
        self._as_written = as_written
        self._values = 0  # so far, with each alias counted as all that it stands for
        self._anchors: dict[str, tuple[Any, int]] = {}  # the value of each, and how many values that is
        self._scalars: dict[tuple[Any, ...], Any] = {}  # by tag, text and style: most texts are there again

    def document(self) -> Any:
        """Return the only document of the stream, None if there is none."""
        self._next()  # the start of the stream
        if isinstance(self._next(), yaml.StreamEndEvent):
            return None
        value = self._value(self._next(), "", 0)
        self._next()  # the end of the document
        if not isinstance(event := self._next(), yaml.StreamEndEvent):
            _refuse("a second document begins: keep one", event)
        return value

    def _value(self, event: Any, path: str, depth: int) -> Any:
        if isinstance(event, yaml.AliasEvent):
            # A value is known once it is complete, so no value contains itself.
            if event.anchor not in self._anchors:
                _refuse("this alias (`*…`) needs a complete value with its anchor (`&…`) above it", event)
            value, values = self._anchors[event.anchor]
            self._count(values, event)
            return value
        before = self._values
        self._count(1, event)
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event, path)
        elif depth == MAX_DEPTH:
            _refuse(f"nested too deeply: more than {MAX_DEPTH} levels", event)
        elif isinstance(event, yaml.MappingStartEvent):
            value = self._mapping(path, depth + 1)
        else:
            value = []
            while not isinstance(item := self._next(), yaml.SequenceEndEvent):
                child = f"{path}[{len(value)}]"
                self._problems.lines.setdefault(child, item.start_mark.line + 1)
                value.append(self._value(item, child, depth + 1))
        if event.anchor:
            self._anchors[event.anchor] = value, self._values - before
        return value

    def _count(self, values: int, event: Any) -> None:
        self._values += values
        if self._values > MAX_VALUES:
            _refuse(
                f"more than {MAX_VALUES:,} values, where an alias counts as all that it stands for", event
            )

    def _mapping(self, path: str, depth: int) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        merged: list[tuple[Any, int]] = []  # with the line of `<<`
        first: dict[str, int] = {}  # the line of each key
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            line = event.start_mark.line + 1
            # As in Go, a key is the text in the file: `1`, `on` and `2026-01-01` are names like any other.
            written = event.value if isinstance(event, yaml.ScalarEvent) else None
            child = join(path, written)
            self._problems.lines.setdefault(child, line)
            if written == "<<" and event.implicit[0]:
                merged.append((self._value(self._next(), child, depth), line))
                continue
            if written is None:  # an alias may stand for a text
                written = self._value(event, child, depth)
            else:
                self._count(1, event)
                if event.anchor:
                    self._anchors[event.anchor] = written, 1
            value = self._value(self._next(), child, depth)
            if not isinstance(written, str):
                self._problems.add(child, "a key is text, not a list, a mapping or an alias of one", line)
            elif getattr(event, "tag", None) not in {None, "!", _TEXT}:
                self._problems.add(child, "a key has no tag (`!…` before it): remove the tag", line)
            elif written in mapping:
                self._problems.add(child, f"a duplicate of the key on line {first[written]}: keep one", line)
            else:
                mapping[written], first[written] = value, line
                if child.endswith(HIDDEN):
                    self._problems.hidden_lines[path, written] = line
        self._merge(mapping, merged, path)
        return mapping

    def _merge(self, mapping: dict[str, Any], merged: list[tuple[Any, int]], path: str) -> None:
        """Add the keys of `<<` that the mapping does not have. Of two that are merged, the first counts."""
        for value, line in merged:
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, dict):
                    for key, item in each.items():
                        if key not in mapping:
                            mapping[key] = item
                            self._problems.lines.setdefault(join(path, key), line)
                elif each is not UNSET:
                    message = "`<<` merges a mapping, or a list of mappings"
                    self._problems.add(join(path, "<<"), message, line)

    def _scalar(self, event: Any, path: str) -> Any:
        key = event.tag, event.value, event.implicit
        if key not in self._scalars:
            self._scalars[key] = self._read_scalar(event)
        value = self._scalars[key]
        if self._as_written and path.startswith(self._as_written) and event.implicit[0] and value is not None:
            return event.value
        if value is UNSET:
            fault = "looks like a date or a number, but cannot be read: put it in quotes"
            if event.tag:
                fault = "has a tag (`!…` before it) that does not fit: remove the tag, or put all in quotes"
            self._problems.add(path, fault, event.start_mark.line + 1)
        return value

    def _read_scalar(self, event: Any) -> Any:
        tag, long = event.tag, len(event.value) > MAX_NUMBER
        if tag is None or tag == "!":
            tag = _TEXT if long else self._loader.resolve(yaml.ScalarNode, event.value, event.implicit)
        if tag == _TEXT:
            return event.value
        if tag not in _SCALARS or long:
            return UNSET
        try:
            node = yaml.ScalarNode(tag, event.value, event.start_mark)
            return self._loader.yaml_constructors[tag](self._loader, node)
        except Exception:  # noqa: BLE001 - PyYAML raises nearly anything on odd tags: `!!int x`
            return UNSET


def _refuse(problem: str, event: Any) -> NoReturn:
    raise Refused(problem, event.start_mark.line + 1)
