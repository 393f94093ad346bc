"""What holds for every collector, whatever it collects: the promises that pages and poll loops build on."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.api.answers import Entries, HistoryRow, Payout, User
from exporter.api.errors import PollError
from exporter.clock import NEVER, Now
from exporter.collectors.all_users import ALL_USERS, Sums
from exporter.collectors.expiry import ROUNDING, Expiry
from exporter.collectors.history import HISTORY
from exporter.collectors.metric import Family, MetricList
from exporter.collectors.payout import PAYOUT
from exporter.collectors.registry import COLLECTORS
from exporter.collectors.users import BALANCES, TOP_USERS, WatchedAnswer
from exporter.endpoint import Reason
from tests.collectors.sites import EVERYTHING, HOUR, LAST_HOUR, NOW, a_site, later, rows, samples_of

if TYPE_CHECKING:
    from exporter.collectors.collector import Collector
    from exporter.config import Site
    from exporter.endpoint import Endpoint

DAY = 24 * HOUR
SITE = a_site(**EVERYTHING)
ENDPOINTS = {"payout", "history", "top_users", "balances", "all_users"}
PATIENT = a_site(
    watch_users=["zoe"],
    poll={
        name: {"stale_after": "99h", **({"enabled": True} if name == "all_users" else {})}
        for name in ENDPOINTS
    },
)
EXPIRING = (Expiry.STALE, Expiry.ROW)

amounts = st.integers(0, 1000).map(float)
users = st.lists(
    st.builds(User, st.sampled_from(["a", "b", "zoe"]), amounts, amounts, amounts),
    unique_by=lambda user: user.name,
    max_size=3,
).map(tuple)
hourly_rows = st.builds(
    lambda hour, seconds, rate: HistoryRow(LAST_HOUR + hour * HOUR + seconds, rate * HOUR, rate),
    st.integers(-30, 1),
    st.sampled_from([0.0, 0.0, 0.5, 1800.0]),
    amounts,
)
refused = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([Reason.UNKNOWN_USER])), max_size=2).map(
    tuple
)
answers: dict[Endpoint, st.SearchStrategy[Any]] = {
    PAYOUT: st.builds(Payout, amounts, amounts, amounts, amounts, amounts),
    HISTORY: st.lists(hourly_rows, max_size=30).map(lambda entries: Entries(tuple(entries))),
    TOP_USERS: users.map(Entries),
    BALANCES: st.builds(WatchedAnswer, users, refused),
    ALL_USERS: st.builds(Sums, st.integers(0, 9), amounts, amounts, amounts),
}
seconds = st.floats(0, 2 * DAY) | st.sampled_from([0.0, 300.0, 1500.0, 4500.0, 4.0 * HOUR])

every_collector = pytest.mark.parametrize(
    "collector", COLLECTORS, ids=lambda collector: type(collector).__name__
)


class Moment(NamedTuple):
    """A state of a collector after some polls, the site's config, and a moment to look at it."""

    site: Site
    state: Any
    now: Now


@st.composite
def moments(draw: st.DrawFn, collector: Collector[Any, Any]) -> Moment:
    """Draw a state that a few polls lead to, and a moment after them."""
    site, state, now = draw(st.sampled_from([SITE, PATIENT])), collector.initial, NOW
    for endpoint in draw(st.lists(st.sampled_from([*collector.endpoints]), max_size=4)):
        now = later(draw(seconds), now)
        with contextlib.suppress(PollError):  # an answer that is a failure after all changes nothing
            state = collector.step(site, endpoint, state, draw(answers[endpoint]), now).state
    return Moment(site, state, later(draw(seconds), now))


def families(collector: Collector[Any, Any], site: Site, state: Any, now: Now) -> list[Family]:
    return list(collector.families(site, collector.visible(site, state, now).view))


def names(collector: Collector[Any, Any], site: Site, state: Any, now: Now) -> set[str]:
    """Return the names of the metrics that have samples."""
    return {family.metric.name for family in families(collector, site, state, now) if family.values}


FULL: dict[Endpoint, list[Any]] = {
    PAYOUT: [Payout(1, 2, 3, 4, 5)],
    HISTORY: [Entries(rows(168))],
    TOP_USERS: [
        Entries((User("a", 10, 1, 1),)),
        Entries((User("a", 20, 1, 1),)),
        Entries((User("a", 19, 1, 1),)),
    ],
    BALANCES: [WatchedAnswer((User("zoe", 1, 1, 1),), ((0, Reason.UNKNOWN_USER),))],
    ALL_USERS: [Sums(1, 2.0, 3.0, 4.0)],
}


def full(collector: Collector[Any, Any], site: Site = SITE) -> Any:
    """Return a state after polls that brought something of everything, all at NOW."""
    state = collector.initial
    for endpoint in collector.endpoints:
        for answer in FULL[endpoint]:
            state = collector.step(site, endpoint, state, answer, NOW).state
    return state


# ------------------------------------------------------------------------------------------------------- time


def test_the_examples_cover_every_endpoint() -> None:
    """A new endpoint needs its random answers (`answers`) and full ones (`FULL`) for the tests below."""
    endpoints = {endpoint for collector in COLLECTORS for endpoint in collector.endpoints}

    assert endpoints == answers.keys() == FULL.keys()


@every_collector
@given(data=st.data())
def test_nothing_changes_before_until(collector: Collector[Any, Any], data: st.DataObject) -> None:
    """As long as neither clock has passed `until`, and nothing is polled, what is visible stays the same."""
    site, state, now = data.draw(moments(collector))
    visible = collector.visible(site, state, now)
    part = st.floats(0, 1) | st.just(1.0)
    ahead = Now(*(min(30 * DAY, max(0.0, until - at)) for until, at in zip(visible.until, now, strict=True)))
    after = Now(now.wall + data.draw(part) * ahead.wall, now.mono + data.draw(part) * ahead.mono)

    assert visible.view == collector.visible(site, state, after).view
    assert visible.stale == collector.visible(site, state, after).stale


@every_collector
@given(data=st.data())
def test_time_ends_what_is_visible(collector: Collector[Any, Any], data: st.DataObject) -> None:
    """From one `until` to the next time goes on, and after the last one nothing that expires is left."""
    site, state, now = data.draw(moments(collector))
    for _ in range(100):
        until = collector.visible(site, state, now).until
        ahead = min(until.wall - now.wall, until.mono - now.mono)
        assert ahead > -2 * ROUNDING
        if until == NEVER:
            break
        now = later(max(0.0, ahead) + 2 * ROUNDING, now)

    assert NEVER == until
    assert [] == [
        family.metric.name
        for family in families(collector, site, state, now)
        if family.metric.expiry in EXPIRING and family.values
    ]


@every_collector
def test_a_metric_expires_as_its_help_says(collector: Collector[Any, Any]) -> None:
    """Once all answers are stale, what is left is exactly what says of itself that it does not expire."""
    fresh = {metric.name for metric in collector.metrics}
    last = later(max(poll.stale_after for poll in collector.polled(SITE).values()) + 1)

    assert fresh == names(collector, SITE, full(collector), NOW)
    assert names(collector, SITE, full(collector), last) == {
        metric.name for metric in collector.metrics if metric.expiry not in EXPIRING
    }


@every_collector
def test_rows_expire_as_their_help_says(collector: Collector[Any, Any]) -> None:
    """While answers are current, the age of rows removes exactly the metrics that say so."""
    state, old = full(collector, PATIENT), later(6 * HOUR)

    assert names(collector, PATIENT, state, old) == {
        metric.name for metric in collector.metrics if metric.expiry is not Expiry.ROW
    }


@every_collector
def test_stale_endpoints_are_the_polled_ones_without_a_current_answer(collector: Collector[Any, Any]) -> None:
    """All before the first poll, none after it, and all again once the answers are too old."""
    polls = collector.polled(SITE)
    last = later(max(poll.stale_after for poll in polls.values()) + 1)

    assert [polls.keys(), set(), polls.keys()] == [
        collector.visible(SITE, state, now).stale
        for state, now in ((collector.initial, NOW), (full(collector), NOW), (full(collector), last))
    ]


@every_collector
def test_an_endpoint_that_is_not_polled_any_more_exports_nothing_that_expires(
    collector: Collector[Any, Any],
) -> None:
    """It is not stale either: nobody waits for its answer."""
    plain = a_site()
    gone = {
        metric.name
        for endpoint in collector.polled(SITE).keys() - collector.polled(plain).keys()
        for metric in collector.metrics
        if metric.source.startswith(endpoint) and metric.expiry in EXPIRING
    }
    visible = collector.visible(plain, full(collector), NOW)

    assert set() == visible.stale
    assert set() == gone & {family.metric.name for family in collector.families(plain, visible.view)}


# --------------------------------------------------------------------------------------------------- families


@every_collector
@given(data=st.data())
def test_families_are_a_function_of_the_view(collector: Collector[Any, Any], data: st.DataObject) -> None:
    """The same view gives the same families every time; to look changes nothing."""
    site, state, now = data.draw(moments(collector))
    view = collector.visible(site, state, now).view
    first = list(collector.families(site, view))

    assert first == list(collector.families(site, view))
    assert first == families(collector, site, state, now)


@every_collector
@given(data=st.data())
def test_families_are_well_formed(collector: Collector[Any, Any], data: st.DataObject) -> None:
    """Each is of a metric of the collector, comes once, and has a value of each label for each sample."""
    site, state, now = data.draw(moments(collector))
    exported = families(collector, site, state, now)
    metrics = [family.metric for family in exported]

    assert len(metrics) == len({metric.name for metric in metrics})
    assert all(metric in collector.metrics for metric in metrics)
    for metric, labels, values in exported:
        assert len(metric.labels) == len(labels)
        assert all(isinstance(label, str) or len(label) == len(values) for label in labels)
        assert site.name == labels[metric.labels.index("site")]
        assert all(isinstance(value, float) for value in values)


@every_collector
@given(data=st.data())
def test_a_step_leaves_the_state_before_it_alone(collector: Collector[Any, Any], data: st.DataObject) -> None:
    """Readers hold the old state while polls go on."""
    site, state, now = data.draw(moments(collector))
    before = families(collector, site, state, now)
    for endpoint in collector.endpoints:
        with contextlib.suppress(PollError):
            collector.step(site, endpoint, state, data.draw(answers[endpoint]), now)
    collector.for_other_source(state)
    collector.reconfigured(a_site(), state)

    assert before == families(collector, site, state, now)


@every_collector
def test_before_the_first_poll_there_are_counters_alone(collector: Collector[Any, Any]) -> None:
    """They are at 0; a gauge without an answer would be a false value."""
    exported = families(collector, SITE, collector.initial, NOW)

    assert {"counter"} >= {family.metric.type for family in exported}
    assert {0.0} >= {value for family in exported for value in family.values}


# ---------------------------------------------------------------------------------------------------- reloads


@every_collector
def test_cleared_keeps_counters_and_nothing_else(collector: Collector[Any, Any]) -> None:
    """Counters may not decrease while the process lives; everything else belongs to the other source."""
    before = families(collector, SITE, full(collector), NOW)
    kept = [f for f in before if f.metric.type == "counter" and f.metric.expiry is Expiry.NEVER]

    assert kept == families(collector, SITE, collector.for_other_source(full(collector)), NOW)


@every_collector
def test_the_same_config_changes_no_state(collector: Collector[Any, Any]) -> None:
    """A reload without a change costs nothing: the state is the same object."""
    for state in (collector.initial, full(collector)):
        assert state is collector.reconfigured(a_site(**EVERYTHING), state)


@every_collector
def test_only_its_own_endpoints_are_polled(collector: Collector[Any, Any]) -> None:
    """Whatever the config, and a poll depends on nothing that changes from one load to the next."""
    for site in (SITE, PATIENT, a_site()):
        assert collector.polled(site).keys() <= collector.endpoints.keys()
    assert collector.polled(SITE).keys() == collector.endpoints.keys()
    assert [collector.depends_on(SITE, endpoint) for endpoint in collector.endpoints] == [
        collector.depends_on(a_site(**EVERYTHING), endpoint) for endpoint in collector.endpoints
    ]


# ------------------------------------------------------------------------------------------- what is shared


def test_samples_are_the_rows_of_the_columns() -> None:
    """A label that is one text is the same in all samples."""
    metric = MetricList("polls").gauge("x", "X.", labels="site user")
    family = Family(metric, ("demo", ["a", "b"]), [1.0, 2.0])

    assert [(("demo", "a"), 1.0), (("demo", "b"), 2.0)] == samples_of(family)
    assert [(("demo",), 3.0)] == samples_of(Family.single(metric, SITE, 3))


def test_a_list_of_metrics_defines_them() -> None:
    """Names, types, sorted labels, and what its HELP says about expiry are written in one place."""
    metrics = MetricList("/x")
    gauge = metrics.gauge("b", "B.", Expiry.NOT_POLLED, labels="site zone endpoint", source="config")
    counter = metrics.counter("a", "A.")

    assert [gauge, counter] == metrics
    assert ["config", "/x"] == [metric.source for metric in metrics]
    assert ("cryptoloot_b", "gauge", ("endpoint", "site", "zone"), "B.") == (
        gauge.name,
        gauge.type,
        gauge.labels,
        gauge.help,
    )
    assert ("cryptoloot_a_total", "counter", ("site",), f"A.{Expiry.STALE.value}") == (
        counter.name,
        counter.type,
        counter.labels,
        counter.help,
    )
