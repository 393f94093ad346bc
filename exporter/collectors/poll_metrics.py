"""Metrics about a site's config and polls: the same for every endpoint, so no collector owns them."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from exporter.collectors.collector import EndpointTraits
from exporter.collectors.expiry import Expiry
from exporter.collectors.metric import Family, Metric, MetricList
from exporter.collectors.snapshot import PollRecord
from exporter.config import Poll, Site
from exporter.endpoint import COMMON_REASONS, Endpoint, Reason

METRICS = MetricList("polls", Expiry.NEVER, labels="site endpoint")
SITE_INFO = METRICS.gauge(
    "site_info",
    "1 for each configured site, with what its amounts are in.",
    Expiry.NOT_POLLED,
    labels="site currency api_host",
    source="config",
)
UP = METRICS.gauge("up", "1 when the endpoint's last poll succeeded, else 0; absent before the first.")
LAST_SUCCESS = METRICS.gauge(
    "last_success_timestamp_seconds", "When a poll of the endpoint last succeeded; 0 until one does."
)
LAST_POLL = METRICS.gauge("last_poll_timestamp_seconds", "When the endpoint was last polled.")
NEXT_POLL = METRICS.gauge(
    "next_poll_timestamp_seconds", "When the endpoint's next poll is due, back-off included."
)
INTERVAL = METRICS.gauge(
    "poll_interval_seconds", "Configured interval of the endpoint's polls.", Expiry.NOT_POLLED
)
POLLS = METRICS.counter("polls", "Polls of the endpoint, failed ones included.")
FAILURES = METRICS.counter(
    "poll_failures", "Failed polls of the endpoint, each under one reason.", labels="site endpoint reason"
)
REJECTED = METRICS.counter(
    "rejected_entries", "Entries of the endpoint's list that could not be read while the rest could."
)


class PolledEndpoint(NamedTuple):
    """How an endpoint is polled, and the record of its polls."""

    endpoint: Endpoint
    traits: EndpointTraits
    poll: Poll
    record: PollRecord


def families(site: Site, view: tuple[PolledEndpoint, ...]) -> Iterator[Family]:
    """Return the families about a site's polls; every failure reason is there from the start."""

    def by_endpoint(metric: Metric, value: Callable[[PolledEndpoint], float | None]) -> Family:
        values = {polled.endpoint: value(polled) for polled in view}
        exported = {endpoint: float(number) for endpoint, number in values.items() if number is not None}
        return Family(metric, (list(exported), site.name), list(exported.values()))

    yield Family(SITE_INFO, (site.api.host, site.currency, site.name), [1.0])
    yield by_endpoint(UP, lambda polled: polled.record.up)
    yield by_endpoint(LAST_SUCCESS, lambda polled: polled.record.last_success)
    yield by_endpoint(LAST_POLL, lambda polled: polled.record.last_poll)
    yield by_endpoint(NEXT_POLL, lambda polled: polled.record.next_poll)
    yield by_endpoint(INTERVAL, lambda polled: polled.poll.interval)
    yield by_endpoint(POLLS, lambda polled: polled.record.polls)
    yield by_endpoint(
        REJECTED, lambda polled: polled.record.rejected if polled.traits.rejects_entries else None
    )
    failures = [
        (polled.endpoint, reason.value, float(polled.record.failures.get(reason, 0)))
        for polled in view
        for reason in Reason
        if reason in COMMON_REASONS or reason in polled.traits.reasons
    ]
    endpoints, reasons, counts = (list(column) for column in zip(*failures, strict=True))
    yield Family(FAILURES, (endpoints, reasons, site.name), counts)
