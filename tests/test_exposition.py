from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.collectors import metrics
from exporter.collectors.metrics import Family
from exporter.pages.text import Format, lines, render

labels = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
values = st.floats(-1e18, 1e18) | st.integers(-(10**18), 10**18).map(float)
points = st.lists(st.tuples(labels, values), unique_by=lambda point: point[0], min_size=1)
failures = st.lists(st.tuples(labels, labels, values), unique_by=lambda point: point[:2], min_size=1)


def by_user(metric: metrics.Metric, site: str, points: list[tuple[str, float]]) -> Family:
    return Family(metric, (site, [user for user, _ in points]), [value for _, value in points])


def by_reason(site: str, points: list[tuple[str, str, float]]) -> Family:
    endpoints, reasons, counts = zip(*points, strict=True)
    return Family(metrics.FAILURES, (endpoints, reasons, site), counts)


class Collected:
    """A registry that yields the families as prometheus-client's own."""

    def __init__(self, families: list[Family]) -> None:
        self.families = families

    def collect(self) -> list[Metric]:
        return [theirs(family) for family in self.families]


def theirs(family: Family) -> Metric:
    metric = family.metric
    kind = CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily
    made = kind(metric.name, metric.help, labels=metric.labels)
    for label_values, value in family.samples():
        made.add_metric(label_values, value)
    return made


def registry(families: list[Family]) -> CollectorRegistry:
    collected = CollectorRegistry(auto_describe=False)
    collected.register(Collected(families))
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
        Family(metrics.DIFFICULTY, (site,), [difficulty]),
        by_user(metrics.USER_BALANCE, site, balances),
        by_user(metrics.USER_HASHES, site, hashes),
        by_reason(site, failed),
    ]

    assert generate_latest(registry(families)) == render(families, Format.TEXT)
    assert generate_openmetrics(registry(families)) == render(families, Format.OPENMETRICS)


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
    family = Family(metrics.DIFFICULTY, ("a",), [value])

    assert expected == lines(family).split()[1]
    assert render([family], Format.TEXT) == generate_latest(registry([family]))


@given(labels, points)
def test_every_label_is_read_back(site: str, samples: list[tuple[str, float]]) -> None:
    """Any Unicode label value comes out of prometheus-client's text parser as it went in."""
    page = render([by_user(metrics.USER_BALANCE, site, samples)], Format.TEXT).decode()
    (family,) = parse_text(page)

    expected = [({"site": site, "user": user}, value) for user, value in samples]
    assert expected == [(sample.labels, sample.value) for sample in family.samples]
