from __future__ import annotations

from collections import Counter

import pytest

from exporter.api.answers import Payout
from exporter.clock import NEVER
from exporter.collectors import poll_metrics
from exporter.collectors.expiry import Expiry
from exporter.collectors.payout import PAYOUT
from exporter.collectors.registry import (
    COLLECTORS,
    FAMILY_FUNCTIONS,
    SITE_METRICS,
    polled_endpoints,
    polls_visible,
    site_visible,
)
from exporter.collectors.snapshot import Snapshot
from tests.collectors.sites import EVERYTHING, NOW, a_site, families, later, polled, rows, with_rows
from tests.config.documents import parse, site

SITE = a_site(**EVERYTHING)


def test_what_is_one_collectors_is_no_others() -> None:
    """A metric and an endpoint belong to one collector each."""
    endpoints = [endpoint for collector in COLLECTORS for endpoint in collector.endpoints]

    assert {1} == set(Counter(metric.name for metric in SITE_METRICS).values())
    assert {1} == set(Counter(endpoints).values())


def test_a_site_has_the_metrics_of_all() -> None:
    """In the order of a scrape: collector by collector, and last what is about polls."""
    expected = [metric for collector in COLLECTORS for metric in collector.metrics]

    assert [*expected, *poll_metrics.METRICS] == list(SITE_METRICS)


def test_every_help_says_where_a_value_is_from() -> None:
    """Metrics of a collector name the API's endpoint, and that values are polled and cached."""
    for collector in COLLECTORS:
        for metric in collector.metrics:
            assert metric.source in collector.endpoints, metric.name
            assert metric.source in metric.help, metric.name
            assert "Polled and cached" in metric.help, metric.name


def test_every_help_says_when_it_expires() -> None:
    """In the words of its expiry, and in no others; only what is config says nothing."""
    for metric in SITE_METRICS:
        others = {expiry for expiry in Expiry if expiry.value and expiry.value in metric.help}

        assert metric.help.endswith(metric.expiry.value)
        assert others == ({metric.expiry} if metric.expiry.value else set())


def test_watched_users_are_polled_and_nobody_else() -> None:
    """A site that names users to watch polls /user/balance; an empty list is none."""
    loaded = parse([site(watch_users=["ann", "bob"]), site("b", watch_users=[])])

    polled = [[endpoint for _, endpoint, _ in polled_endpoints(loaded_site)] for loaded_site in loaded.sites]
    assert [True, False] == ["/user/balance" in endpoints for endpoints in polled]
    assert () == loaded.warnings


@pytest.mark.parametrize("enabled", [False, True])
def test_what_is_enabled_is_polled(enabled: bool) -> None:
    """Payout, history and top users are polled, all users where that is enabled; a site may differ."""
    all_users = {"all_users": {"enabled": enabled}}
    loaded = parse([site(poll=all_users)], poll={"all_users": {"enabled": not enabled}}).sites[0]

    polls = loaded.polls
    assert enabled == polls.all_users.enabled
    expected = {
        "/stats/payout": polls.payout,
        "/stats/history": polls.history,
        "/user/top": polls.top_users,
        **({"/user/list": polls.all_users} if enabled else {}),
    }
    assert expected == {endpoint: poll for _, endpoint, poll in polled_endpoints(loaded)}


def test_endpoints_are_in_one_order() -> None:
    """The second endpoint of a collector comes after the first ones of all."""
    assert ["/stats/payout", "/stats/history", "/user/top", "/user/list", "/user/balance"] == [
        endpoint for _, endpoint, _ in polled_endpoints(SITE)
    ]
    assert ["/stats/payout", "/stats/history", "/user/top"] == [e for _, e, _ in polled_endpoints(a_site())]


def test_an_endpoint_comes_with_its_collector_and_how_it_is_polled() -> None:
    """What a poll loop needs to know."""
    for collector, endpoint, poll in polled_endpoints(SITE):
        assert collector.polled(SITE)[endpoint] is poll


def test_each_family_is_exported_once() -> None:
    """Pages have one place for each metric of a site: a second family of the same would be lost."""
    snapshot = polled(with_rows(Snapshot(), SITE, rows(168)), SITE, PAYOUT, Payout(1, 2, 3, 4, 5))
    names = [family.metric.name for family in families(SITE, snapshot)]

    assert len(names) == len(set(names))
    assert [metric.name for metric in SITE_METRICS if metric.name in names] == names


def test_views_are_equal_while_the_page_is() -> None:
    """A view does not change between two moments at which the page is the same."""
    snapshot = polled(with_rows(Snapshot(), SITE, rows(100)), SITE, PAYOUT, Payout(1, 2, 3, 4, 5))

    views, a_second_later = (
        [visible.view for visible in site_visible(SITE, snapshot, now)] for now in (NOW, later(1))
    )
    assert len(FAMILY_FUNCTIONS) == len(views)
    assert views == a_second_later


def test_nothing_about_polls_expires() -> None:
    """The record of polls stays, however long ago the last one was."""
    snapshot = polled(Snapshot(), SITE, PAYOUT, Payout(1, 2, 3, 4, 5))
    expected = polls_visible(SITE, snapshot)

    assert (NEVER, frozenset()) == expected[1:]
    assert [expected] * 2 == [site_visible(SITE, snapshot, now)[-1] for now in (NOW, later(1e6))]
