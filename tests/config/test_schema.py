"""Reading a document by its types."""

from __future__ import annotations

import msgspec
import yaml

from exporter.config import schema, sections
from exporter.config.problems import Problems
from tests.conftest import REPOSITORY


def test_the_structs_are_the_schema() -> None:
    """The shipped example converts, and a JSON schema that refuses unknown keys comes out of them."""
    document = yaml.safe_load((REPOSITORY / "config.yaml").read_text())

    assert "my-site" == msgspec.convert(document, sections.ConfigFile).sites[0].name
    assert msgspec.json.schema(sections.ConfigFile)["$defs"]["ApiSection"]["additionalProperties"] is False


def test_only_keys_of_the_document_are_read() -> None:
    """Sections are dicts of the document's keys, durations in seconds; a fault is left out and reported."""
    problems = Problems("config.yaml")
    document = {"sites": [{"name": "a", "currency": 1}], "api": {"timeout": "1m", "proxy": "x"}, "web": None}

    values = schema.read(document, sections.ConfigFile, "", problems)

    assert {"sites": [{"name": "a"}], "api": {"timeout": 60.0}, "web": {}} == values
    assert ["sites[0].currency", "api.proxy"] == [problem.path for problem in problems.reported]


def test_defaults_are_as_the_program_uses_them() -> None:
    """The defaults of a section are in seconds; keys whose default depends on others are not among them."""
    assert {"interval": 300.0, "max_row_age": 14_400.0} == schema.defaults(sections.HistorySection)
