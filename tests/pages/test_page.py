"""One exposition at one moment."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.collectors.registry import SITE_METRICS
from exporter.pages.pages import Page, help_bytes
from exporter.pages.text import Format, header

site_texts = st.tuples(
    *(st.none() | st.just(f"{metric.name} 1\n".encode()) for metric in SITE_METRICS[:4])
).map(lambda texts: (*texts, *(None,) * (len(SITE_METRICS) - 4)))
OWN = b"# HELP own_total Own.\n# TYPE own_total counter\nown_total 1.0\n"
OWN_OPENMETRICS = b"# HELP own Own.\n# TYPE own counter\nown_total 1.0\n# EOF\n"


@given(st.lists(site_texts, max_size=3))
def test_each_family_has_one_header(sites: list[tuple[bytes | None, ...]]) -> None:
    """A family that some site has comes once, its header before the samples of all sites."""
    body = Page(sites).finish(Format.TEXT, zipped=False)

    expected = b""
    for place, metric in enumerate(SITE_METRICS):
        samples = b"".join(texts[place] or b"" for texts in sites)
        expected += header(metric, Format.TEXT) + samples if samples else b""
    assert expected == body


@given(st.lists(site_texts, max_size=3))
def test_the_size_is_known_before_the_page_is_finished(sites: list[tuple[bytes | None, ...]]) -> None:
    """Headers and samples together are what the finished text has."""
    size = help_bytes(sites) + sum(len(text) for texts in sites for text in texts if text)

    assert size == len(Page(sites).finish(Format.TEXT, zipped=False))


@pytest.mark.parametrize(("expected", "format_"), [(OWN, Format.TEXT), (OWN_OPENMETRICS, Format.OPENMETRICS)])
def test_own_metrics_come_last(expected: bytes, format_: Format) -> None:
    """A page without a site has the exporter's own metrics, and what ends its format."""
    assert expected == Page([], OWN).finish(format_, zipped=False)


def test_a_page_is_finished_once() -> None:
    """Its bytes are made when they are first asked for, and stay the same object."""
    page = Page([], OWN)
    before = page.is_finished(Format.TEXT, zipped=True)
    body = page.finish(Format.TEXT, zipped=True)

    assert (False, True) == (before, page.is_finished(Format.TEXT, zipped=True))
    assert body is page.finish(Format.TEXT, zipped=True)
    assert not page.is_finished(Format.OPENMETRICS, zipped=True)
    assert page.finish(Format.TEXT, zipped=False) == gzip.decompress(body)


def test_later_pages_have_higher_numbers() -> None:
    """A number tells which of two pages is newer."""
    assert Page([], OWN).number < Page([], OWN).number


def test_gzip_is_the_same_for_the_same_page() -> None:
    """The bytes hold no time: two processes with the same data answer the same."""
    bodies = {Page([], OWN).finish(Format.TEXT, zipped=True) for _ in range(2)}

    assert 1 == len(bodies)
    assert b"\0\0\0\0" == bodies.pop()[4:8]
