"""The exporter's own metrics."""

from __future__ import annotations

import platform

from exporter.pages.exporter_metrics import DELAY_BUCKETS, DURATION_BUCKETS, OWN_METRICS, OwnMetrics


def test_the_list_is_what_is_exported() -> None:
    """Each own metric is exported as it is listed: name, type and help; the rest is the process's own."""
    own = OwnMetrics("1.2.3", "abc")
    own.poll_duration.labels("/stats/payout")
    exported = {
        family.name + ("_total" if family.type == "counter" else ""): (family.type, family.documentation)
        for family in own.registry.collect()
        if family.name.startswith("cryptoloot_")
    }

    assert {metric.name: (metric.type, metric.help) for metric in OWN_METRICS} == exported


def test_labels_are_those_listed() -> None:
    """Every sample has the labels of its metric, a histogram's buckets `le` as well."""
    own = OwnMetrics("1.2.3", "abc")
    own.poll_duration.labels("/stats/payout")
    listed = {metric.name.removesuffix("_total"): set(metric.labels) for metric in OWN_METRICS}
    labels = [
        (listed[family.name], set(sample.labels) - {"le"})
        for family in own.registry.collect()
        if family.name in listed
        for sample in family.samples
    ]

    assert labels
    assert [expected for expected, _ in labels] == [actual for _, actual in labels]


def test_the_build_is_there_from_the_start() -> None:
    """1, with version, revision and Python's version."""
    labels = {"version": "1.2.3", "revision": "abc", "python_version": platform.python_version()}
    own = OwnMetrics("1.2.3", "abc")

    assert 1.0 == own.registry.get_sample_value("cryptoloot_exporter_build_info", labels)


def test_buckets_hold_the_defaults() -> None:
    """The default time-out is a bucket of the duration, and a second, which is late, one of the delay."""
    assert 10 in DURATION_BUCKETS
    assert 1 in DELAY_BUCKETS


def test_no_sample_says_when_it_was_created() -> None:
    """The contract has no `_created` samples: they would double the counters."""
    own = OwnMetrics("1.2.3", "abc")
    own.poll_duration.labels("/stats/payout")
    names = [sample.name for family in own.registry.collect() for sample in family.samples]

    assert [] == [name for name in names if name.endswith("_created")]
    assert "process_cpu_seconds_total" in names
