"""Reading a document by its types: what a leaf means, and any bytes read or reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from exporter.config import schema, sections, yamlfile
from exporter.config import values as leaves
from exporter.config.problems import Findings, Problem

EXAMPLE = Path(__file__).parent.parent / "config.yaml"


def test_the_structs_are_the_schema() -> None:
    """The shipped example converts, and a JSON schema that refuses unknown keys comes out of them."""
    document = yaml.safe_load(EXAMPLE.read_text())

    assert "my-site" == msgspec.convert(document, sections.ConfigFile).sites[0].name
    assert msgspec.json.schema(sections.ConfigFile)["$defs"]["ApiSection"]["additionalProperties"] is False


def test_only_given_keys_are_read() -> None:
    """Sections are dicts of the keys given, durations in seconds; what is at fault is left out and found."""
    found = Findings({})
    document = {"sites": [{"name": "a", "currency": 1}], "api": {"timeout": "1m", "proxy": "x"}, "web": None}

    given_ = schema.read(document, sections.ConfigFile, "", found)

    assert {"sites": [{"name": "a"}], "api": {"timeout": 60.0}, "web": {}} == given_
    assert ["sites[0].currency", "api.proxy"] == [problem.path for problem in found.problems]


def test_defaults_are_leaves_as_we_use_them() -> None:
    """The defaults of a section are in seconds; keys whose default depends on others are not among them."""
    assert {"interval": 300.0, "max_row_age": 14_400.0} == schema.defaults(sections.HistorySection)


def test_a_problem_has_the_line_of_the_nearest_known_path() -> None:
    """A path without a line of its own has that of the nearest above it, and none if there is none."""
    found = Findings({"": "config.yaml"})
    found.lines |= {"sites": 4, "sites[0].name": 6}

    for path in ("sites[0].secret", "sites[0].name", "api", ""):
        found.add(path, "wrong")

    assert [4, 6, None, None] == [problem.line for problem in found.problems]
    assert Problem("config.yaml", "wrong") == found.problems[-1]


def test_a_problem_touches_all_above_it() -> None:
    """`has` is about the path and whatever is beneath it, not above or beside."""
    found = Findings({})
    found.add("poll.payout.interval", "wrong")

    touched = {path: found.has(path) for path in ("poll", "poll.payout", "poll.payout.interval.x", "poll.p")}

    assert [True, True, False, False] == list(touched.values())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("30s", 30.0), ("1m30s", 90.0), ("1h", 3600.0), ("1y1w1d", 32_227_200.0), ("0s", 0.0)],
)
def test_durations_are_read_as_prometheus_writes_them(text: str, seconds: float) -> None:
    """Units from y to ms, the larger first, each once."""
    assert seconds == leaves.parse_duration(text)


@pytest.mark.parametrize(
    "text", ["", "1", "s", "1 s", "1s\n", "30s1m", "1s1s", "-1s", "1.5h", "1S", "\u0661s", "101y"]
)
def test_other_durations_are_refused(text: str) -> None:
    """Anything else raises ValueError, with an example or the bound."""
    with pytest.raises(ValueError, match="expected a duration"):
        leaves.parse_duration(text)


@given(st.integers(min_value=0, max_value=int(leaves.LONGEST * 1000)))
def test_durations_round_trip(milliseconds: int) -> None:
    """What format_duration writes, parse_duration reads as the same number."""
    seconds = milliseconds / 1000

    assert seconds == leaves.parse_duration(leaves.format_duration(seconds))


@given(st.text())
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    """parse_duration raises nothing but ValueError."""
    try:
        seconds = leaves.parse_duration(text)
    except ValueError:
        return

    assert seconds >= 0


@pytest.mark.parametrize(
    ("seconds", "text"), [(90.0, "1m30s"), (0.0, "0s"), (0.25, "250ms"), (86_401, "1d1s")]
)
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    """The largest units first, units of zero left out."""
    assert text == leaves.format_duration(seconds)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_impossible_durations_are_not_written(seconds: float) -> None:
    """Negative and non-finite seconds raise ValueError."""
    with pytest.raises(ValueError, match="finite number"):
        leaves.format_duration(seconds)


@pytest.mark.parametrize(
    ("text", "size"),
    [("16MiB", 16 << 20), ("1GiB", 1 << 30), ("2KiB", 2048), ("7B", 7), ("1000", 1000), (5, 5)],
)
def test_sizes_are_read_in_binary_units(text: str | int, size: int) -> None:
    """B, KiB, MiB, GiB, or plain bytes."""
    assert size == leaves.parse_size(text)


@pytest.mark.parametrize("text", ["16MB", "16 MiB", "-1", "", "1.5MiB", -1, True, 1.5, None])
def test_other_sizes_are_refused(text: Any) -> None:
    """Decimal units, fractions, signs and other types raise ValueError."""
    with pytest.raises(ValueError, match="expected a size"):
        leaves.parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"), [(16 << 20, "16MiB"), (3 << 30, "3GiB"), (1536, 1536), (2048, "2KiB")]
)
def test_sizes_are_written_for_people(size: int, text: str | int) -> None:
    """The largest unit that divides them; a plain number where none does."""
    assert text == leaves.format_size(size)


@given(st.binary() | st.text("abc:-&*!?{}[]<>'\"# \n\t\\0%|,").map(str.encode))
def test_any_bytes_are_a_document_or_a_problem(data: bytes) -> None:
    """Whatever the bytes of the file, reading them yields a document or at least one problem."""
    found = Findings({"": "config.yaml"})

    document = yamlfile.load_yaml(data, found)

    assert document is not UNSET or found.problems
