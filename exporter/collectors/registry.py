"""The collectors, and what pages and poll loops need of all of them together."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from exporter.collectors import poll_metrics
from exporter.collectors.all_users import AllUsersCollector
from exporter.collectors.collector import Visible
from exporter.collectors.history import HistoryCollector
from exporter.collectors.payout import PayoutCollector
from exporter.collectors.poll_metrics import PolledEndpoint
from exporter.collectors.users import UsersCollector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from exporter.clock import Now
    from exporter.collectors.collector import Collector
    from exporter.collectors.metric import Family
    from exporter.collectors.snapshot import Snapshot
    from exporter.config import Poll, Site
    from exporter.endpoint import Endpoint

PAYOUT_COLLECTOR = PayoutCollector()
HISTORY_COLLECTOR = HistoryCollector()
USERS_COLLECTOR = UsersCollector()
ALL_USERS_COLLECTOR = AllUsersCollector()

# In the order of a scrape. A new collector is one line here.
COLLECTORS: tuple[Collector[Any, Any], ...] = (
    PAYOUT_COLLECTOR,
    HISTORY_COLLECTOR,
    USERS_COLLECTOR,
    ALL_USERS_COLLECTOR,
)
SITE_METRICS = (*(metric for collector in COLLECTORS for metric in collector.metrics), *poll_metrics.METRICS)


def polled_endpoints(site: Site) -> list[tuple[Collector[Any, Any], Endpoint, Poll]]:
    """Return each endpoint that is polled for a site, with its collector and how it is polled.

    A collector's second endpoint comes after the first ones of all collectors.
    """
    endpoints = [
        (place, collector, endpoint, poll)
        for collector in COLLECTORS
        for place, (endpoint, poll) in enumerate(collector.polls(site).items())
    ]
    endpoints.sort(key=lambda entry: entry[0])
    return [(collector, endpoint, poll) for _, collector, endpoint, poll in endpoints]


class Section(NamedTuple):
    """Families that change together: as long as the view is equal, so are they."""

    visible: Callable[[Site, Snapshot, Now], Visible[Any]]
    families: Callable[[Site, Any], Iterable[Family]]


def collector_visible(
    collector: Collector[Any, Any], site: Site, snapshot: Snapshot, now: Now
) -> Visible[Any]:
    """Return what is exported of a collector's state at `now`."""
    return collector.visible(site, snapshot.state(collector), now)


def polls_visible(site: Site, snapshot: Snapshot, _now: Now) -> Visible[tuple[PolledEndpoint, ...]]:
    """Return what is exported of a site's polls; none of it expires."""
    return Visible(
        tuple(
            PolledEndpoint(endpoint, collector.endpoints[endpoint], poll, snapshot.record(endpoint))
            for collector, endpoint, poll in polled_endpoints(site)
        )
    )


SECTIONS = (
    *(Section(partial(collector_visible, collector), collector.families) for collector in COLLECTORS),
    Section(polls_visible, poll_metrics.families),
)
