"""The exporter's own metrics: its build, its config, its polls and its pages."""

import platform
from typing import Any

import prometheus_client as prometheus

from exporter.collectors.expiry import Expiry
from exporter.collectors.metric import Metric, MetricList

DURATION_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)  # seconds; the default timeout is one of them
DELAY_BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 30, 60)


OWN_METRICS = MetricList("exporter", Expiry.NOT_POLLED, labels="")
POLL_DURATION = OWN_METRICS.histogram(
    "poll_duration_seconds", "How long whole polls took.", labels="endpoint"
)
POLL_DELAY = OWN_METRICS.histogram("poll_delay_seconds", "How late polls began after being due.")
BUILD_INFO = OWN_METRICS.gauge(
    "exporter_build_info", "1, with what this exporter is.", labels="python_version revision version"
)
RELOAD_SUCCESSFUL = OWN_METRICS.gauge(
    "exporter_config_last_reload_successful",
    "1 when the config was last loaded with success, 0 when it was refused and the old one stayed.",
)
RELOAD_TIMESTAMP = OWN_METRICS.gauge(
    "exporter_config_last_reload_success_timestamp_seconds", "When the config was last loaded with success."
)
TLS_HANDSHAKE_FAILURES = OWN_METRICS.counter(
    "exporter_tls_handshake_failures",
    "TLS handshakes of clients that failed, by reason. The log has the client's address.",
    labels="reason",
)
LOOP_RESTARTS = OWN_METRICS.counter("exporter_loop_restarts", "Poll loops that crashed and were restarted.")
PAGE_BYTES = OWN_METRICS.gauge("exporter_page_bytes", "Size of the last full page as uncompressed text.")
SERIES = OWN_METRICS.gauge("exporter_series", "Series on the last full page.")


class OwnMetrics:
    """The exporter's own metrics, in a registry of their own. They are written here and never read back."""

    def __init__(self, version: str, revision: str) -> None:
        prometheus.disable_created_metrics()  # the contract: no `_created` samples
        self.registry = prometheus.CollectorRegistry()
        self.poll_duration = self._add(prometheus.Histogram, POLL_DURATION, buckets=DURATION_BUCKETS)
        self.poll_delay = self._add(prometheus.Histogram, POLL_DELAY, buckets=DELAY_BUCKETS)
        self.tls_handshake_failures = self._add(prometheus.Counter, TLS_HANDSHAKE_FAILURES)
        self.loop_restarts = self._add(prometheus.Counter, LOOP_RESTARTS)
        self.reload_successful = self._add(prometheus.Gauge, RELOAD_SUCCESSFUL)
        self.reload_timestamp = self._add(prometheus.Gauge, RELOAD_TIMESTAMP)
        self.page_bytes = self._add(prometheus.Gauge, PAGE_BYTES)
        self.series = self._add(prometheus.Gauge, SERIES)
        build = self._add(prometheus.Gauge, BUILD_INFO)
        build.labels(version=version, revision=revision, python_version=platform.python_version()).set(1)
        prometheus.ProcessCollector(registry=self.registry)
        prometheus.PlatformCollector(registry=self.registry)
        prometheus.GCCollector(registry=self.registry)

    def _add(self, type_: Any, metric: Metric, **options: Any) -> Any:
        return type_(metric.name, metric.help, metric.labels, registry=self.registry, **options)
