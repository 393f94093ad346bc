"""The exporter's own metrics: its build, its config, its polls and its pages."""

from __future__ import annotations

import platform
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from exporter.collectors.metric import Expiry, Metric

DURATION_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)  # seconds; the default timeout is one of them
DELAY_BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 30, 60)


def _own(name: str, type_: str, text: str, *labels: str) -> Metric:
    return Metric(f"cryptoloot_{name}", type_, labels, text, "exporter", Expiry.CONFIG)


POLL_DURATION = _own("poll_duration_seconds", "histogram", "How long whole polls took.", "endpoint")
POLL_DELAY = _own("poll_delay_seconds", "histogram", "How late polls began after being due.")
BUILD_INFO = _own(
    "exporter_build_info",
    "gauge",
    "1, with what this exporter is.",
    "python_version",
    "revision",
    "version",
)
RELOAD_SUCCESSFUL = _own(
    "exporter_config_last_reload_successful",
    "gauge",
    "1 when the config was last loaded with success, 0 when it was refused and the old one stayed.",
)
RELOAD_TIMESTAMP = _own(
    "exporter_config_last_reload_success_timestamp_seconds",
    "gauge",
    "When the config was last loaded with success.",
)
LOOP_RESTARTS = _own("exporter_loop_restarts_total", "counter", "Poll loops that crashed and were restarted.")
PAGE_BYTES = _own("exporter_page_bytes", "gauge", "Size of the last full page as uncompressed text.")
SERIES = _own("exporter_series", "gauge", "Series on the last full page.")
OWN_METRICS = (
    POLL_DURATION,
    POLL_DELAY,
    BUILD_INFO,
    RELOAD_SUCCESSFUL,
    RELOAD_TIMESTAMP,
    LOOP_RESTARTS,
    PAGE_BYTES,
    SERIES,
)


class OwnMetrics:
    """The exporter's own metrics, in a registry of their own. They are written here and never read back."""

    def __init__(self, version: str, revision: str) -> None:
        disable_created_metrics()  # the contract: no `_created` samples
        self.registry = CollectorRegistry()
        self.poll_duration = self._add(Histogram, POLL_DURATION, buckets=DURATION_BUCKETS)
        self.poll_delay = self._add(Histogram, POLL_DELAY, buckets=DELAY_BUCKETS)
        self.loop_restarts = self._add(Counter, LOOP_RESTARTS)
        self.reload_successful = self._add(Gauge, RELOAD_SUCCESSFUL)
        self.reload_timestamp = self._add(Gauge, RELOAD_TIMESTAMP)
        self.page_bytes = self._add(Gauge, PAGE_BYTES)
        self.series = self._add(Gauge, SERIES)
        build = self._add(Gauge, BUILD_INFO)
        build.labels(version=version, revision=revision, python_version=platform.python_version()).set(1)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def _add(self, type_: Any, metric: Metric, **options: Any) -> Any:
        return type_(metric.name, metric.help, metric.labels, registry=self.registry, **options)
