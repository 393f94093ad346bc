"""A YAML file as plain values, with the line of every path. Faults of YAML are reported, not raised."""

import re
from typing import Any

import yaml
from msgspec import UNSET

from exporter.config.problems import Problems, join

_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'" + r'|"(?:[^"\\]|\\.)*"')
_HARMLESS = re.compile(r"\\?.|<[a-z ]+>")  # one character, or a kind of token


def load_yaml(data: bytes, problems: Problems) -> object:
    """Return the document and record the line of every path; UNSET where the YAML is broken."""
    text, line = "", None
    try:
        text = data.decode("utf-8-sig")
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        return None if node is None else _Converter(loader, problems).value(node, "")
    except UnicodeDecodeError as error:
        message, line = "not UTF-8", data.count(b"\n", 0, error.start) + 1
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message, line = f"not valid YAML: {_without_quotes(error)}", mark.line + 1 if mark else None
    except yaml.reader.ReaderError as error:
        message, line = "a character YAML does not allow", text.count("\n", 0, error.position) + 1
    except RecursionError:
        message = "nested too deeply"
    problems.add("", message, line)
    return UNSET


def _without_quotes(error: yaml.MarkedYAMLError) -> str:
    # The parser quotes what it met, and `secret: *abc` is met as the undefined alias 'abc'.
    text = ", ".join(part for part in (error.context, error.problem) if part)
    return _QUOTED.sub(lambda match: match[0] if _HARMLESS.fullmatch(match[0][1:-1]) else "(not shown)", text)


class _Converter:
    """Turns YAML nodes into plain values. Records lines; reports duplicate keys and unreadable scalars."""

    def __init__(self, loader: yaml.SafeLoader, problems: Problems) -> None:
        self.loader, self.problems = loader, problems
        # An alias is the same node again. It is converted once, even where it contains itself.
        self.converted: dict[yaml.Node, Any] = {}

    def value(self, node: yaml.Node, path: str) -> Any:
        if node in self.converted:
            return self.converted[node]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if not isinstance(node, yaml.SequenceNode):
            return self._scalar(node, path)
        items: list[Any] = self.converted.setdefault(node, [])
        for index, item in enumerate(node.value):
            child = f"{path}[{index}]"
            self.problems.lines.setdefault(child, item.start_mark.line + 1)
            items.append(self.value(item, child))
        return items

    def _mapping(self, node: yaml.MappingNode, path: str) -> dict[Any, Any]:
        mapping: dict[Any, Any] = self.converted.setdefault(node, {})
        # SafeLoader silently lets the last of two equal keys win.
        first: dict[tuple[str, str], yaml.Node] = {}
        for key, _ in node.value:
            earlier = first.setdefault((key.tag, str(key.value)), key)
            if earlier is not key:
                message = f"given twice: line {earlier.start_mark.line + 1} has it already"
                self.problems.add(join(path, key.value), message, key.start_mark.line + 1)
        self.loader.flatten_mapping(node)
        for key, item in node.value:
            child = join(path, key.value)
            self.problems.lines.setdefault(child, key.start_mark.line + 1)
            # A list or mapping as a key is unknown like any other key, but Python cannot hash it.
            name = self._scalar(key, child) if isinstance(key, yaml.ScalarNode) else key
            if name is not UNSET:
                mapping[name] = self.value(item, child)
        return mapping

    def _scalar(self, node: yaml.Node, path: str) -> Any:
        try:
            return self.loader.construct_object(node)
        except Exception:  # noqa: BLE001 - PyYAML raises nearly anything on odd tags: `!!int x`, `!!timestamp x`
            self.problems.add(path, "YAML cannot read this value: put it in quotes", node.start_mark.line + 1)
        return UNSET
