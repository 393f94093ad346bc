"""YAML files as plain values."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from exporter.config import yamlfile
from exporter.config.problems import Problems


@given(st.binary() | st.text("abc:-&*!?{}[]<>'\"# \n\t\\0%|,").map(str.encode))
def test_any_bytes_are_a_document_or_a_problem(data: bytes) -> None:
    """Whatever the bytes of the file, reading them yields a document or at least one problem."""
    problems = Problems({"": "config.yaml"})

    document = yamlfile.load_yaml(data, problems)

    assert document is not UNSET or problems.reported
