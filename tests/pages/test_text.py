"""Families as text, byte for byte as prometheus-client writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.collectors.metric import Family
from exporter.collectors.payout import DIFFICULTY
from exporter.collectors.poll_metrics import FAILURES
from exporter.collectors.users import USER_BALANCE, USER_HASHES
from exporter.pages.exporter_metrics import OwnMetrics
from exporter.pages.text import Format, lines, number, series, to_openmetrics
from tests.collectors.sites import samples_of
from tests.pages.exposed import exposition

if TYPE_CHECKING:
    from exporter.collectors.metric import Metric as OurMetric

labels = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
values = st.floats(-1e18, 1e18) | st.integers(-(10**18), 10**18).map(float)
points = st.lists(st.tuples(labels, values), unique_by=lambda point: point[0], min_size=1)
failures = st.lists(st.tuples(labels, labels, values), unique_by=lambda point: point[:2], min_size=1)


def by_user(metric: OurMetric, site: str, points: list[tuple[str, float]]) -> Family:
    return Family(metric, (site, [user for user, _ in points]), [value for _, value in points])


def by_reason(site: str, points: list[tuple[str, str, float]]) -> Family:
    endpoints, reasons, counts = zip(*points, strict=True)
    return Family(FAILURES, (endpoints, reasons, site), counts)


class Collected:
    """A collector of a registry that yields these families of prometheus-client."""

    def __init__(self, families: list[Metric]) -> None:
        self.families = families

    def collect(self) -> list[Metric]:
        return self.families


def client_family(family: Family) -> Metric:
    metric = family.metric
    kind = CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily
    converted = kind(metric.name, metric.help, labels=metric.labels)
    for label_values, value in samples_of(family):
        converted.add_metric(label_values, value)
    return converted


def registry(families: list[Family]) -> CollectorRegistry:
    collected = CollectorRegistry(auto_describe=False)
    collected.register(Collected([client_family(family) for family in families]))
    return collected


@given(labels, points, points, failures, values)
def test_the_bytes_are_prometheus_clients(
    site: str,
    hashes: list[tuple[str, float]],
    balances: list[tuple[str, float]],
    failed: list[tuple[str, str, float]],
    difficulty: float,
) -> None:
    """Both formats are, byte for byte, what prometheus-client renders of the same families."""
    families = [
        Family(DIFFICULTY, (site,), [difficulty]),
        by_user(USER_BALANCE, site, balances),
        by_user(USER_HASHES, site, hashes),
        by_reason(site, failed),
    ]

    assert generate_latest(registry(families)) == exposition(families, Format.TEXT)
    assert generate_openmetrics(registry(families)) == exposition(families, Format.OPENMETRICS)


@pytest.mark.parametrize(
    ("expected", "value"),
    [
        (b"0.0", 0.0),
        (b"-0.0", -0.0),
        (b"999999.9", 999999.9),
        (b"1e+06", 1e6),
        (b"1.5e+06", 1.5e6),
        (b"1.0000001e+06", 1000000.1),
        (b"3.18801685e+08", 318801685.0),
        (b"9.999999999999998e+15", 9999999999999998.0),
        (b"1e+16", 1e16),
        (b"1e+18", 1e18),
        (b"-2000000.0", -2e6),
    ],
)
def test_numbers_are_written_as_prometheus_client_does(expected: bytes, value: float) -> None:
    """From a million on there is an exponent; none below zero, which prometheus-client leaves to Python."""
    family = Family(DIFFICULTY, ("a",), [value])

    assert expected == lines(family).split()[1]
    assert exposition([family], Format.TEXT) == generate_latest(registry([family]))


@given(labels, points)
def test_every_label_is_read_back(site: str, samples: list[tuple[str, float]]) -> None:
    """Any Unicode label value comes out of prometheus-client's text parser as it went in."""
    page = exposition([by_user(USER_BALANCE, site, samples)], Format.TEXT).decode()
    (family,) = parse_text(page)

    expected = [({"site": site, "user": user}, value) for user, value in samples]
    assert expected == [(sample.labels, sample.value) for sample in family.samples]


@given(labels, points)
def test_a_single_line_is_as_on_a_page(site: str, samples: list[tuple[str, float]]) -> None:
    """A series and a number that are written one by one are the bytes of a page's line."""
    expected = lines(by_user(USER_BALANCE, site, samples)).decode()

    written = [(series(USER_BALANCE.name, {"site": site, "user": user}), value) for user, value in samples]
    assert expected == "".join(f"{name} {number(value)}\n" for name, value in written)


def test_a_family_without_samples_is_no_family() -> None:
    """Neither HELP nor TYPE of it is on a page."""
    assert b"" == exposition([Family(DIFFICULTY, ([],), [])], Format.TEXT)
    assert b"# EOF\n" == exposition([Family(DIFFICULTY, ([],), [])], Format.OPENMETRICS)


def test_own_metrics_are_openmetrics_as_prometheus_client_writes_them() -> None:
    """The text of the exporter's own registry becomes what prometheus-client's OpenMetrics is."""
    collected = [*OwnMetrics("1.2.3", 'a"b').registry.collect()]  # once: the process' metrics change
    own = CollectorRegistry(auto_describe=False)
    own.register(Collected(collected))
    converted = to_openmetrics(generate_latest(own))

    assert generate_openmetrics(own) == converted + Format.OPENMETRICS.end
    assert b"# TYPE process_cpu_seconds counter" in converted
