"""Which format a scrape prefers, and whether it takes gzip."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.pages.text import Format
from exporter.web.negotiation import accepts_gzip, negotiate

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
    "text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)


@pytest.mark.parametrize(
    ("expected", "accept"),
    [
        (Format.OPENMETRICS, PROMETHEUS),
        (Format.OPENMETRICS, PROMETHEUS_3),
        (Format.OPENMETRICS, "application/openmetrics-text"),
        (Format.OPENMETRICS, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        (Format.OPENMETRICS, "APPLICATION/OpenMetrics-Text;Version=1.0.0"),
        (Format.OPENMETRICS, "text/plain;q=0.5,application/*"),
        (Format.OPENMETRICS, "application/openmetrics-text;q=0.9,text/plain;version=0.0.4;q=0.8"),
        (Format.OPENMETRICS, "text/*;q=0, */*"),
        (Format.TEXT, "application/openmetrics-text;q=0.8,text/plain;version=0.0.4;q=0.9"),
        (Format.TEXT, "application/openmetrics-text;q=0"),
        (Format.TEXT, "application/openmetrics-text;q=0,*/*"),
        (Format.TEXT, "application/openmetrics-text;version=2.0.0"),
        (Format.TEXT, "application/openmetrics-text;version=abc"),
        (Format.TEXT, "application/openmetrics-text;q=2"),
        (Format.TEXT, "application/openmetrics-text;q=nan"),
        (Format.TEXT, "text/html,application/xhtml+xml,*/*;q=0.8"),
        (Format.TEXT, "*/*"),
        (Format.TEXT, ""),
        (Format.TEXT, ";;;,=,q=,"),
        (Format.TEXT, "image/png"),
    ],
)
def test_the_preferred_format_is_chosen(expected: Format, accept: str) -> None:
    """The highest q-value wins, unknown versions and garbage do not count, and text answers every doubt."""
    assert expected is negotiate(accept)


@pytest.mark.parametrize(
    ("expected", "accept"),
    [
        (True, "gzip"),
        (True, "deflate, GZIP;q=0.5, br"),
        (True, "x-gzip"),
        (True, "*"),
        (True, "gzip;q=0.5, identity;q=0.5"),
        (False, ""),
        (False, "gzip;q=0"),
        (False, "gzip;q=0.000"),
        (False, "*, gzip;q=0"),
        (False, "gzip;q=0.3, identity;q=0.6"),
        (False, "gzip;q=high"),
        (False, "br"),
    ],
)
def test_gzip_is_used_when_it_is_welcome(expected: bool, accept: str) -> None:
    """An explicit refusal, or a preference for identity, is obeyed."""
    assert expected is accepts_gzip(accept)


@given(st.text())
def test_no_header_is_too_odd(header: str) -> None:
    """Any Accept or Accept-Encoding header gives an answer."""
    assert negotiate(header) in Format
    assert accepts_gzip(header) in {True, False}
