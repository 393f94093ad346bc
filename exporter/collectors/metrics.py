"""The catalogue of metrics as data, and a site's snapshot as families of samples.

A site's families come in groups that change together. Each group has a view, the part of a snapshot that is
visible at a given moment, and its families, a function of that view alone: as long as the view is equal, so
is the page.

The file is long because the catalogue is: one place for every name, label and HELP text.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from itertools import repeat
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

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

from exporter.clock import Now
from exporter.collectors import history
from exporter.collectors.history import Meaning
from exporter.collectors.snapshot import AllUsers, Polling, Snapshot, TopUsers
from exporter.endpoint import USER_REASONS, Endpoint, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from exporter.api.answers import HistoryRow, Payout
    from exporter.collectors.user_totals import Account
    from exporter.config import Config, Site

CLOSE = 0.001  # seconds
LISTS = (Endpoint.HISTORY, Endpoint.TOP_USERS, Endpoint.ALL_USERS)
REASONS = {
    endpoint: tuple(reason for reason in Reason if reason.concerns(endpoint) and reason not in USER_REASONS)
    for endpoint in Endpoint
}
DURATION_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)  # seconds; the default timeout is one of them
DELAY_BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.5, 1, 5, 30, 60)


@dataclass(frozen=True)
class Metric:
    """One family: its name as scraped, its type, its labels in the order of the samples', its HELP."""

    name: str
    type: str
    labels: tuple[str, ...]
    help: str


class Family(NamedTuple):
    """A metric and its samples in columns: for each label one value for all samples, or a list of theirs."""

    metric: Metric
    labels: tuple[str | Sequence[str], ...]
    values: Sequence[float]

    def samples(self) -> Iterator[tuple[tuple[str, ...], float]]:
        """Go through the samples: the values of the labels, and the sample's."""
        columns = [repeat(column) if isinstance(column, str) else column for column in self.labels]
        return zip(zip(*columns, strict=False), self.values, strict=False)


CATALOGUE: dict[str, Metric] = {}


def _metric(type_: str, name: str, labels: str, text: str) -> Metric:
    metric = CATALOGUE[name] = Metric(name, type_, tuple(sorted(labels.split())), text)
    return metric


def _gauge(name: str, labels: str, text: str) -> Metric:
    return _metric("gauge", f"cryptoloot_{name}", labels, text)


def _counter(name: str, labels: str, text: str) -> Metric:
    return _metric("counter", f"cryptoloot_{name}_total", labels, text)


# Every HELP names the API field and says that values are polled: who reads a page has nothing else at hand.
_P = "Polled and cached, not fetched on scrape"
_E = f"{_P}; absent when the last success is older than stale_after."
_R = f"{_P}; absent when the last success is older than stale_after, or the row than max_row_age."
_P += "."

# /stats/payout
DIFFICULTY = _gauge("network_difficulty", "site", f"Network difficulty: diff of /stats/payout. {_E}")
PAYOUT_VALUE = _gauge(
    "payout_value",
    "site",
    f"value of /stats/payout as reported; unit undocumented, probably the block reward. {_E}",
)
PAYOUT_RAW = _gauge(
    "payout_raw",
    "site",
    f"payout of /stats/payout as reported; unit undocumented, probably the share paid out. {_E}",
)
PER_MILLION = _gauge(
    "payout_coins_per_million_hashes",
    "site",
    f"Coins paid per million hashes: payoutPer1MHashes of /stats/payout. {_E}",
)
PAYOUT_SYNC = _gauge(
    "payout_sync_timestamp_seconds", "site", f"When the payout was computed: synctime of /stats/payout. {_P}"
)

# /stats/history
HASHRATE = _gauge(
    "hashrate_hashes_per_second",
    "site",
    f"hashrate of /stats/history's newest settled row, whose hour ended 15 minutes ago or more. {_R}",
)
UNSETTLED_HASHRATE = _gauge(
    "unsettled_hashrate_hashes_per_second",
    "site",
    f"hashrate of /stats/history's newest row, possibly still filling: for graphs, not for alerts. {_R}",
)
BASELINE = _gauge(
    "baseline_hashrate_hashes_per_second",
    "site",
    "Median hashrate of /stats/history's settled rows at the newest one's UTC hour on earlier days; "
    f"absent with fewer than 3. {_R}",
)
BASELINE_SAMPLES = _gauge(
    "baseline_samples", "site", f"Rows of /stats/history that the baseline hashrate is the median of. {_E}"
)
ROW_HASHES = _gauge(
    "history_row_hashes", "site", f"Hashes in the newest settled row's hour: hashes of /stats/history. {_R}"
)
DAY_HASHES = _gauge(
    "history_day_hashes",
    "site",
    f"Hashes in the last 24 settled rows, or fewer: hashes of /stats/history. {_R}",
)
WEEK_HASHES = _gauge(
    "history_week_hashes",
    "site",
    f"Hashes in all settled rows, a week's when the site is that old: hashes of /stats/history. {_R}",
)
ROW_TIMESTAMP = _gauge(
    "history_row_timestamp_seconds", "site", f"synctime of /stats/history's newest row. {_P}"
)
SETTLED_TIMESTAMP = _gauge(
    "history_settled_row_timestamp_seconds", "site", f"synctime of /stats/history's newest settled row. {_P}"
)
ROWS = _gauge("history_rows", "site", f"Rows of /stats/history, without duplicates and future ones. {_E}")
MISSING_ROWS = _gauge(
    "history_missing_rows", "site", f"Hours between /stats/history's oldest and newest row without one. {_E}"
)
HASHES_MODE = _gauge(
    "history_hashes_mode",
    "site mode",
    f"1 for what hashes of /stats/history turned out to mean, 0 for the other modes. {_E}",
)

# /user/top and /user/balance
USER_HASHES = _counter(
    "user_hashes",
    "site user",
    "A user's accepted hashes: total of /user/top or /user/balance, guarded against falls that are no "
    f"reset. {_E}",
)
USER_WITHDRAWN = _counter(
    "user_withdrawn_coins",
    "site user",
    "Coins a user withdrew: withdrawn of /user/top or /user/balance, guarded against falls that are no "
    f"reset. {_E}",
)
USER_BALANCE = _gauge(
    "user_balance_coins", "site user", f"Coins owed to a user: balance of /user/top or /user/balance. {_E}"
)
WATCHED_FAILURES = _counter(
    "watched_user_failures",
    "site reason",
    f"Watched users whom /user/balance refused, each under one reason. {_P}",
)
TOP_USERS = _gauge(
    "top_users_returned", "site", f"Users of the last /user/top answer that could be read. {_E}"
)
TOP_BALANCE = _gauge(
    "top_users_balance_coins", "site", f"Coins owed to the users returned: sum of balance of /user/top. {_E}"
)
TRACKED_HASHES = _counter(
    "tracked_user_hashes",
    "site",
    "Increases of total of users present in two successive /user/top answers, summed up since the start. "
    + _P,
)
TOTALS_MOVED = _gauge(
    "user_totals_change_timestamp_seconds",
    "site",
    f"When a total of /user/top last moved; absent until one does. {_P}",
)
REGRESSIONS = _counter(
    "user_regressions",
    "site",
    "Answers whose fall of total or withdrawn of /user/top or /user/balance the guard held back; "
    f"a reset is none. {_P}",
)

# /user/list
ALL_USERS = _gauge("all_users", "site", f"Users of the last walk over all pages of /user/list. {_E}")
ALL_HASHES = _gauge(
    "all_users_hashes", "site", f"Accepted hashes of all users: sum of total of /user/list. {_E}"
)
ALL_BALANCE = _gauge(
    "all_users_balance_coins", "site", f"Coins owed to all users: sum of balance of /user/list. {_E}"
)
ALL_WITHDRAWN = _gauge(
    "all_users_withdrawn_coins", "site", f"Coins all users withdrew: sum of withdrawn of /user/list. {_E}"
)

# config and polls
SITE_INFO = _gauge(
    "site_info", "site currency api_host", "1 for each configured site, with what its amounts are in."
)
UP = _gauge(
    "up", "site endpoint", f"1 when the endpoint's last poll succeeded, else 0; absent before the first. {_P}"
)
LAST_SUCCESS = _gauge(
    "last_success_timestamp_seconds",
    "site endpoint",
    f"When a poll of the endpoint last succeeded; 0 until one does. {_P}",
)
LAST_POLL = _gauge("last_poll_timestamp_seconds", "site endpoint", f"When the endpoint was last polled. {_P}")
NEXT_POLL = _gauge(
    "next_poll_timestamp_seconds",
    "site endpoint",
    f"When the endpoint's next poll is due, back-off included. {_P}",
)
INTERVAL = _gauge("poll_interval_seconds", "site endpoint", "Configured interval of the endpoint's polls.")
POLLS = _counter("polls", "site endpoint", f"Polls of the endpoint, failed ones included. {_P}")
FAILURES = _counter(
    "poll_failures", "site endpoint reason", f"Failed polls of the endpoint, each under one reason. {_P}"
)
REJECTED = _counter(
    "rejected_entries",
    "site endpoint",
    f"Entries of the endpoint's list that could not be read while the rest could. {_P}",
)
SITE_METRICS = tuple(CATALOGUE.values())

# the exporter itself
POLL_DURATION = _metric(
    "histogram", "cryptoloot_poll_duration_seconds", "endpoint", "How long whole polls took."
)
POLL_DELAY = _metric(
    "histogram", "cryptoloot_poll_delay_seconds", "", "How late polls began after being due."
)
BUILD_INFO = _gauge(
    "exporter_build_info", "version revision python_version", "1, with what this exporter is."
)
RELOAD_SUCCESSFUL = _gauge(
    "exporter_config_last_reload_successful",
    "",
    "1 when the config was last loaded with success, 0 when it was refused and the old one stayed.",
)
RELOAD_TIMESTAMP = _gauge(
    "exporter_config_last_reload_success_timestamp_seconds",
    "",
    "When the config was last loaded with success.",
)
LOOP_RESTARTS = _counter("exporter_loop_restarts", "", "Poll loops that crashed and were restarted.")
PAGE_BYTES = _gauge("exporter_page_bytes", "", "Size of the last full page as uncompressed text.")
SERIES = _gauge("exporter_series", "", "Series on the last full page.")


@dataclass(frozen=True)
class Subject:
    """What the config says of a site, as far as its page shows it. Durations in seconds."""

    name: str
    currency: str
    api_host: str
    per_user: bool
    intervals: Mapping[Endpoint, float]
    stale_after: Mapping[Endpoint, float]
    max_row_age: float


def subject(config: Config, site: Site) -> Subject:
    """Return what the page shows of a site's config."""
    polls = site.active_polls()
    return Subject(
        name=site.name,
        currency=site.currency,
        api_host=config.api.host,
        per_user=config.users.names != "off",
        intervals={endpoint: poll.interval for endpoint, poll in polls.items()},
        stale_after={endpoint: poll.stale_after for endpoint, poll in polls.items()},
        max_row_age=site.polls.history.max_row_age,
    )


class Group(NamedTuple):
    """Families that change together: `families(subject, view(subject, snapshot, now))`."""

    view: Callable[[Subject, Snapshot, Now], Any]
    families: Callable[[Subject, Any], Iterable[Family]]


def _fresh(site: Subject, snapshot: Snapshot, endpoint: Endpoint, now: Now) -> Any:
    """Return what was last read of an endpoint; None when it is stale, or not polled any more."""
    reading, stale_after = snapshot.reading(endpoint), site.stale_after.get(endpoint)
    fresh = reading is not None and stale_after is not None and reading.fresh(stale_after, now)
    return reading.value if reading is not None and fresh else None


class PayoutView(NamedTuple):
    """The payout as visible: None when stale; the `synctime` stays."""

    payout: Payout | None
    synctime: float | None


def payout_view(site: Subject, snapshot: Snapshot, now: Now) -> PayoutView:
    """See what the page shows of `/stats/payout`."""
    synctime = snapshot.payout.value.synctime if snapshot.payout else None
    return PayoutView(_fresh(site, snapshot, Endpoint.PAYOUT, now), synctime)


def payout_families(site: Subject, view: PayoutView) -> Iterator[Family]:
    """Return the families of `/stats/payout`."""
    if view.payout is not None:
        yield _one(DIFFICULTY, site, view.payout.diff)
        yield _one(PAYOUT_VALUE, site, view.payout.value)
        yield _one(PAYOUT_RAW, site, view.payout.payout)
        yield _one(PER_MILLION, site, view.payout.payout_per_million)
    if view.synctime is not None:
        yield _one(PAYOUT_SYNC, site, view.synctime)


class HistoryView(NamedTuple):
    """The history as visible: rows (None when stale), how many are settled, which of the newest recent."""

    rows: tuple[HistoryRow, ...] | None
    settled: int
    meaning: str
    newest_recent: bool
    settled_recent: bool
    newest_synctime: float | None
    settled_synctime: float | None


def history_view(site: Subject, snapshot: Snapshot, now: Now) -> HistoryView:
    """See what the page shows of `/stats/history`; row ages are judged on the wall clock."""
    rows = _fresh(site, snapshot, Endpoint.HISTORY, now)
    newest = snapshot.last_rows[-1].synctime if snapshot.last_rows else None
    settled = history.settled_count(snapshot.last_rows, now.wall)
    newest_settled = snapshot.last_rows[settled - 1].synctime if settled else None
    return HistoryView(
        rows=rows,
        settled=settled if rows else 0,
        meaning=snapshot.meaning,
        newest_recent=newest is not None and now.wall - newest <= site.max_row_age,
        settled_recent=newest_settled is not None and now.wall - newest_settled <= site.max_row_age,
        newest_synctime=newest,
        settled_synctime=newest_settled,
    )


def history_families(site: Subject, view: HistoryView) -> Iterator[Family]:
    """Return the families of `/stats/history`."""
    if view.newest_synctime is not None:
        yield _one(ROW_TIMESTAMP, site, view.newest_synctime)
    if view.settled_synctime is not None:
        yield _one(SETTLED_TIMESTAMP, site, view.settled_synctime)
    if view.rows is None:
        return
    yield _one(ROWS, site, len(view.rows))
    yield _one(MISSING_ROWS, site, history.missing(view.rows))
    modes = [mode.value for mode in Meaning]
    yield Family(HASHES_MODE, (modes, site.name), [float(mode == view.meaning) for mode in Meaning])
    if view.rows and view.newest_recent:
        yield _one(UNSETTLED_HASHRATE, site, view.rows[-1].hashrate)
    if view.settled:
        yield from _settled_families(site, view.rows[: view.settled], view)


def _settled_families(site: Subject, settled: tuple[HistoryRow, ...], view: HistoryView) -> Iterator[Family]:
    peers = history.baseline(settled)
    yield _one(BASELINE_SAMPLES, site, len(peers))
    if not view.settled_recent:
        return
    yield _one(HASHRATE, site, settled[-1].hashrate)
    if len(peers) >= history.BASELINE_SAMPLES:
        yield _one(BASELINE, site, median(peers))
    means = Meaning(view.meaning)
    for metric, hashes in (
        (ROW_HASHES, history.row_hashes(settled, means)),
        (DAY_HASHES, history.day_hashes(settled, means)),
        (WEEK_HASHES, history.week_hashes(settled, means)),
    ):
        if hashes is not None:
            yield _one(metric, site, hashes)


class UsersView(NamedTuple):
    """The users as visible: the last answers (none when stale), their accounts, and what outlives them."""

    top: TopUsers | None
    watched: tuple[str, ...]  # labels
    accounts: Mapping[str, Account]
    tracked: float
    moved: float | None
    regressions: int


def users_view(site: Subject, snapshot: Snapshot, now: Now) -> UsersView:
    """See what the page shows of `/user/top` and `/user/balance`."""
    watched = _fresh(site, snapshot, Endpoint.BALANCES, now)
    return UsersView(
        top=_fresh(site, snapshot, Endpoint.TOP_USERS, now),
        watched=watched.labels if watched else (),
        accounts=snapshot.accounts,
        tracked=snapshot.tracked_hashes,
        moved=snapshot.totals_moved,
        regressions=snapshot.regressions,
    )


def users_families(site: Subject, view: UsersView) -> Iterator[Family]:
    """Return the families of `/user/top` and `/user/balance`; a user of both is one series."""
    top = view.top.totals if view.top is not None else {}
    if view.top is not None:
        yield _one(TOP_USERS, site, len(top))
        yield _one(TOP_BALANCE, site, view.top.balance)
    users = [*top, *(label for label in view.watched if label not in top)]
    if users and site.per_user:
        labels = site.name, users
        shown = [view.accounts[label] for label in users]
        yield Family(USER_HASHES, labels, [account.total for account in shown])
        yield Family(USER_WITHDRAWN, labels, [account.withdrawn for account in shown])
        yield Family(USER_BALANCE, labels, [account.balance for account in shown])
    yield _one(TRACKED_HASHES, site, view.tracked)
    yield _one(REGRESSIONS, site, view.regressions)
    if view.moved is not None:
        yield _one(TOTALS_MOVED, site, view.moved)


def all_users_view(site: Subject, snapshot: Snapshot, now: Now) -> AllUsers | None:
    """See what the page shows of `/user/list`."""
    found: AllUsers | None = _fresh(site, snapshot, Endpoint.ALL_USERS, now)
    return found


def all_users_families(site: Subject, view: AllUsers | None) -> Iterator[Family]:
    """Return the families of `/user/list`."""
    if view is not None:
        yield _one(ALL_USERS, site, view.users)
        yield _one(ALL_HASHES, site, view.hashes)
        yield _one(ALL_BALANCE, site, view.balance)
        yield _one(ALL_WITHDRAWN, site, view.withdrawn)


def watched_view(site: Subject, snapshot: Snapshot, now: Now) -> Mapping[str, int] | None:  # noqa: ARG001
    """See the failures of watched users by reason; None where none are watched."""
    return snapshot.watched_failures if Endpoint.BALANCES in site.intervals else None


def watched_families(site: Subject, view: Mapping[str, int] | None) -> Iterator[Family]:
    """Return the family of `/user/balance` alone: each reason is there from the start."""
    if view is not None:
        reasons = [reason.value for reason in USER_REASONS]
        counts = [float(view.get(reason, 0)) for reason in reasons]
        yield Family(WATCHED_FAILURES, (reasons, site.name), counts)


def polling_view(site: Subject, snapshot: Snapshot, now: Now) -> tuple[tuple[Endpoint, Polling], ...]:  # noqa: ARG001
    """See what the page shows of a site's polls; none of it expires."""
    return tuple((endpoint, snapshot.polling.get(endpoint, Polling())) for endpoint in site.intervals)


def polling_families(site: Subject, view: tuple[tuple[Endpoint, Polling], ...]) -> Iterator[Family]:
    """Return the families about a site's polls."""
    endpoints = [endpoint.value for endpoint, _ in view], site.name
    yield Family(SITE_INFO, (site.api_host, site.currency, site.name), [1.0])
    yield Family(INTERVAL, endpoints, [float(site.intervals[endpoint]) for endpoint, _ in view])
    yield Family(LAST_SUCCESS, endpoints, [float(record.last_success) for _, record in view])
    yield Family(POLLS, endpoints, [float(record.polls) for _, record in view])
    yield _by_endpoint(UP, site, ((endpoint, record.up) for endpoint, record in view))
    yield _by_endpoint(LAST_POLL, site, ((endpoint, record.last_poll) for endpoint, record in view))
    yield _by_endpoint(NEXT_POLL, site, ((endpoint, record.next_poll) for endpoint, record in view))
    yield _by_endpoint(REJECTED, site, ((e, record.rejected) for e, record in view if e in LISTS))


def failures_view(site: Subject, snapshot: Snapshot, now: Now) -> tuple[Mapping[str, int], ...]:  # noqa: ARG001
    """See the failures of a site's polls by endpoint."""
    return tuple(snapshot.polling.get(endpoint, Polling()).failures for endpoint in site.intervals)


def failures_families(site: Subject, view: tuple[Mapping[str, int], ...]) -> Iterator[Family]:
    """Return the family of failures, long and seldom changed: every reason is there from the start."""
    rows = [
        (endpoint, reason, failures.get(reason, 0))
        for endpoint, failures in zip(site.intervals, view, strict=True)
        for reason in REASONS[endpoint]
    ]
    labels = [endpoint.value for endpoint, _, _ in rows], [reason.value for _, reason, _ in rows], site.name
    yield Family(FAILURES, labels, [float(count) for _, _, count in rows])


GROUPS = (
    Group(payout_view, payout_families),
    Group(history_view, history_families),
    Group(users_view, users_families),
    Group(all_users_view, all_users_families),
    Group(watched_view, watched_families),
    Group(polling_view, polling_families),
    Group(failures_view, failures_families),
)


def unchanged_until(site: Subject, snapshot: Snapshot, now: Now) -> Now:
    """Return how long all views stay equal while nothing is polled: up to this moment on either clock.

    A wall clock that is set back can change them too.
    """
    stale = [
        reading.at.mono + stale_after
        for endpoint, stale_after in site.stale_after.items()
        if (reading := snapshot.reading(endpoint)) is not None
    ]
    rows = snapshot.last_rows
    settled = history.settled_count(rows, now.wall)
    ages = [row.synctime + site.max_row_age for row in rows[-1:] + rows[settled - 1 : settled]]
    settles = [row.synctime + history.SETTLED_AFTER for row in rows[settled : settled + 1]]
    return Now(_next([*ages, *settles], now.wall), _next(stale, now.mono))


def _next(moments: Iterable[float], now: float) -> float:
    """Return the first moment that is not past; a little early, since sums of floats are rounded."""
    return min((moment - CLOSE for moment in moments if moment + CLOSE > now), default=float("inf"))


def site_families(site: Subject, snapshot: Snapshot, now: Now) -> list[Family]:
    """Return all families of a site as they are at `now`, in the catalogue's order."""
    families = [
        family for group in GROUPS for family in group.families(site, group.view(site, snapshot, now))
    ]
    order = {metric.name: place for place, metric in enumerate(SITE_METRICS)}
    return sorted(families, key=lambda family: order[family.metric.name])


def _one(metric: Metric, site: Subject, value: float) -> Family:
    return Family(metric, (site.name,), [float(value)])


def _by_endpoint(metric: Metric, site: Subject, values: Iterable[tuple[Endpoint, float | None]]) -> Family:
    known = [(endpoint, value) for endpoint, value in values if value is not None]
    endpoints = [endpoint.value for endpoint, _ in known]
    return Family(metric, (endpoints, site.name), [float(value) for _, value in known])


class ExporterMetrics:
    """The exporter's own metrics, in a registry of their own."""

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

    def loaded(self, now: float) -> None:
        """Note that the config was loaded at Unix time `now`."""
        self.reload_successful.set(1)
        self.reload_timestamp.set(now)
