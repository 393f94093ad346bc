"""YAML files as plain values."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from exporter import config
from exporter.config import ConfigError, yamlfile
from exporter.config.problems import Problems

if TYPE_CHECKING:
    from pathlib import Path

PARSERS = pytest.mark.parametrize("parser", [yaml.SafeLoader, yaml.CSafeLoader], ids=["python", "libyaml"])
LETTERS = "abcdefghi"


def load(data: bytes | str) -> tuple[Any, list[str]]:
    """Return the document, and the problems."""
    problems = Problems("config.yaml")
    document = yamlfile.load_yaml(data.encode() if isinstance(data, str) else data, problems)
    return document, [str(problem) for problem in problems.reported]


def outcome(parser: Any, text: str) -> list[str]:
    """Return what one parser makes of a text, as it would be told."""
    problems = Problems("config.yaml")
    try:
        yamlfile.parse(parser, text, problems)
    except yamlfile.Refused as error:
        return [f"{error} (line {error.line})"]
    except yaml.MarkedYAMLError as error:
        return [f"{error.problem} (line {error.problem_mark.line + 1})"]  # type: ignore[union-attr]
    return [str(problem) for problem in problems.reported]


@given(st.binary() | st.text("abc:-&*!?{}[]<>'\"# \n\t\\0%|,").map(str.encode))
def test_any_bytes_are_a_document_or_a_problem(data: bytes) -> None:
    """Whatever the bytes of the file, reading them yields a document or at least one problem."""
    document, problems = load(data)

    assert document is not UNSET or problems


@PARSERS
@given(text=st.text("abux:-&*!?{}[]<>'\"# \n\t\\0F%|,."))
def test_a_parser_raises_nothing_but_faults_of_yaml(parser: Any, text: str) -> None:
    """Whatever the text, each parser yields a document, or a fault that is told with its line."""
    assert [] == [problem for problem in outcome(parser, text) if "(line " not in problem]


@PARSERS
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('a: 1\nx: "\\U00110000"', 2),
        ('a: 1\nx: "\\UFFFFFFFF"', 2),
        ("a: 1\n!!seq x : 1", 2),
        ("a: 1\n!!map x : 1", 2),
        ("a: 1\nx: !!set y", 2),
        (f"%YAML 1.{'9' * 5000}\n---\na: 1", 1),
        (f"a: 1\nx: !!int {'9' * 5000}", 2),
        ("a: 1\nx: !!timestamp y", 2),
        ("a: 1\nx: !!binary ü", 2),
        ("a: 1\n? [x]\n: 1", 2),
        ("a: 1\n? {x: 1}\n: 1", 2),
        ("a: 1\n<<: x", 2),
        ("a: 1\n<<: [x]", 2),
        ("a: &a\n  b: *a", 2),
        ("a: 1\nx: *b", 2),
    ],
)
def test_what_yaml_cannot_mean_is_a_problem_with_its_line(parser: Any, text: str, line: int) -> None:
    """An escape, number, tag, directive, key or alias that makes PyYAML raise anything is a problem."""
    (problem,) = outcome(parser, text)

    assert f"(line {line})" in problem


def nested(node: str) -> str:
    """Return nine levels of nodes, each of which has the one above nine times."""
    return "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{name}: &{name} {node.replace('%', ', '.join(9 * [f'*{above}']))}\n"
        for above, name in pairwise(LETTERS)
    )


BOMBS = {
    "nested aliases": nested("[%]"),
    "nested aliases in mappings": nested("{x: [%]}"),
    "nested aliases as a key": nested("[%]") + "? *i\n: 1\n",
    "nested merge keys": nested("{<<: [%]}").replace("[x, x, x, x, x, x, x, x, x]", "{x: 1}"),
    "aliased sites": "sites:\n- &a {" + ", ".join(f"k{n}: 1" for n in range(240)) + "}\n" + "- *a\n" * 1000,
    "an alias of itself": "sites: &a [*a, *a, *a]",
    "deep lists": "[" * 50_000,
    "deep mappings": "{a: " * 50_000,
    "deep block lists": "- " * 50_000,
    "deep keys": "? " * 50_000,
    "many values": f"a: [{'1,' * 500_000}]",
    "many keys": "".join(f"key{number}: 1\n" for number in range(150_000)),
    "one key many times": "a: 1\n" * 20_000,
    "many wrong sites": "sites:\n" + "- 1\n" * 150_000,
    "many directives": "".join(f"%TAG !{number}! x\n" for number in range(50_000)) + "---\na: 1\n",
    "a number of many parts": "a: 1" + ":1" * 500_000,
    "a large file": "#" * (yamlfile.MAX_BYTES + 1),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_it_grows(name: str, tmp_path: Path) -> None:
    """A file that is more than a config can be is rejected. Expanded, it would take minutes."""
    path = tmp_path / "config.yaml"
    path.write_text(BOMBS[name])

    with pytest.raises(ConfigError):
        config.load(path, {})


@PARSERS
@pytest.mark.parametrize("number", ["9" * 5000, f"0x{'f' * 5000}", f"1{':1' * 5000}", f"1{'0' * 5000}.5"])
def test_a_number_of_many_digits_is_text(parser: Any, number: str) -> None:
    """Python refuses to write such a number, so nobody has to."""
    assert {number: [number]} == yamlfile.parse(parser, f"? {number}\n: [{number}]", Problems("x"))


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.text("ab <>=~-0'\"\\\n\U0001f600é", max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc<=", max_size=2), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(PLAIN, PLAIN, st.booleans())
def test_what_yaml_means_is_what_pyyaml_says(one: Any, other: Any, flow: bool) -> None:
    """A document with aliases has the values that PyYAML itself gives it."""
    text = yaml.safe_dump({"a": one, "b": [one, other, one], "c": other}, default_flow_style=flow)

    assert (yaml.safe_load(text), []) == load(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{<<: {a: 1, b: 2}, b: 3}", {"a": 1, "b": 3}),
        ("{b: 3, <<: {a: 1, b: 2}}", {"a": 1, "b": 3}),
        ("{<<: [{a: 1}, {a: 2, b: 2}], c: 3}", {"a": 1, "b": 2, "c": 3}),
        ("{x: &x {<<: {a: 1}, b: 2}, y: {<<: *x, a: 3}}", {"x": {"a": 1, "b": 2}, "y": {"a": 3, "b": 2}}),
        ("{'<<': 1}", {"<<": 1}),
        ("{a:, b: }", {"a": None, "b": None}),
        ("", None),
    ],
)
def test_merge_keys_and_empty_values_mean_what_yaml_says(text: str, expected: object) -> None:
    """A key of the mapping wins over a merged one, the first merged one over later ones."""
    assert (expected, []) == load(text)


@pytest.mark.parametrize("key", ["1", "0x10", "1.50", "on", "~", "2026-01-01", "2026-13-45", "=", "''"])
def test_a_key_is_its_text(key: str) -> None:
    """A key is what stands in the file, whatever YAML would read there: two spellings are two keys."""
    text = key.strip("'")

    assert ({text: 1, "True": 2}, []) == load(f"? {key}\n: 1\nTrue: 2\n")
    assert ["(line 2): a duplicate of the key on line 1: keep one"] == [
        problem[problem.index("(line") :] for problem in load(f"? {key}\n? {key}\n")[1]
    ]


@pytest.mark.parametrize(
    "written", ["0xff", "1.50", "1_0", "yes", "2026-01-01", "2026-13-45", "9" * 5000, "x"]
)
def test_values_are_text_where_they_are_meant_as_written(written: str) -> None:
    """Beneath the path a plain value is the text in the file; elsewhere, or with a tag, it is YAML's."""
    document = f"a: {{b: {written}, c: ~, d: !!int 0xff}}\nab: 0xff\n"

    loaded = yamlfile.load_yaml(document.encode(), Problems("x"), as_written="a.")
    assert {"a": {"b": written, "c": None, "d": 255}, "ab": 255} == loaded


def test_a_broken_file_has_one_problem() -> None:
    """What was found before the file broke off is not told: it may be a consequence."""
    expected = "while parsing a flow node, expected the node content, but found '<stream end>'"

    assert [f"config.yaml (line 2): not valid YAML: {expected}"] == load("a: 1\na: [")[1]


def test_the_line_of_a_fault_is_told_in_large_files_too() -> None:
    """A file that is too large for a second look by PyYAML's own parser has libyaml's words and line."""
    text = "# comment\n" * (yamlfile.EXPLAINED // 10 + 1)

    (problem,) = load(f"{text}a: [")[1]

    assert f"(line {text.count(chr(10)) + 2}): not valid YAML: while parsing a flow" in problem


@given(st.text())
def test_json_in_ascii_is_taken(text: str) -> None:
    """A config in JSON means its texts, whether characters beyond the 16-bit ones are escaped or not."""
    text = text.replace("\x7f", "")  # JSON writes it as it is, and YAML does not allow it

    assert ({"a": text, "b\\": [text]}, []) == load(json.dumps({"a": text, "b\\": [text]}))


@given(st.text("\\udD8eE3290"))
def test_escapes_of_json_are_joined_only_where_json_does(text: str) -> None:
    """Backslashes that are escaped themselves begin no escape, as in JSON."""
    try:
        expected = json.loads(f'"{text}"')
        expected.encode()
    except ValueError:  # not JSON, or half a surrogate pair
        return

    assert (expected, []) == load(f'"{text}"')
