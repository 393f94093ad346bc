"""A YAML file as plain values, with the line of every path; what YAML cannot read is reported, not raised."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml
from msgspec import UNSET

from exporter.config.problems import join

if TYPE_CHECKING:
    from exporter.config.problems import Findings


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
            child = join(path, key.value)
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
                self._found.add(join(path, key.value), message, key.start_mark.line + 1)
