"""The collectors, and what pages and poll loops need of all of them together."""

from collections.abc import Callable, Iterable
from typing import Any

from exporter.clock import Now
from exporter.collectors import poll_metrics
from exporter.collectors.all_users import AllUsersCollector
from exporter.collectors.collector import Collector, Visible
from exporter.collectors.history import HistoryCollector
from exporter.collectors.metric import Family
from exporter.collectors.payout import PayoutCollector
from exporter.collectors.poll_metrics import PolledEndpoint
from exporter.collectors.snapshot import Snapshot
from exporter.collectors.users import UsersCollector
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
    polls = [(collector, *poll) for collector in COLLECTORS for poll in collector.polled(site).items()]
    return sorted(polls, key=lambda entry: list(entry[0].endpoints).index(entry[1]))


def collector_visible(
    collector: Collector[Any, Any], site: Site, snapshot: Snapshot, now: Now
) -> Visible[Any]:
    """Return what is exported of a collector's state at `now`."""
    return collector.visible(site, snapshot.state(collector), now)


def polls_visible(site: Site, snapshot: Snapshot) -> Visible[tuple[PolledEndpoint, ...]]:
    """Return what is exported of a site's polls; none of it expires."""
    view = tuple(
        PolledEndpoint(endpoint, collector.endpoints[endpoint], poll, snapshot.record(endpoint))
        for collector, endpoint, poll in polled_endpoints(site)
    )
    return Visible(view)


def site_visible(site: Site, snapshot: Snapshot, now: Now) -> list[Visible[Any]]:
    """Return what is exported of a site at `now`: of each collector, and last of its polls."""
    collected = [collector_visible(collector, site, snapshot, now) for collector in COLLECTORS]
    return [*collected, polls_visible(site, snapshot)]


# What makes families of each view of `site_visible`. As long as a view is equal, so are its families.
FAMILY_FUNCTIONS: tuple[Callable[[Site, Any], Iterable[Family]], ...] = (
    *(collector.families for collector in COLLECTORS),
    poll_metrics.families,
)
