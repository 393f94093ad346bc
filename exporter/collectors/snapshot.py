"""What is known of a site, as immutable data, and the pure steps from one state to the next.

A poll makes a new `Snapshot` and publishes it by reference: readers never see half a change. Freshness is
judged on the monotonic clock, so that a stepped wall clock neither keeps nor drops a value.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field, replace
from hashlib import sha256
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from msgspec import Struct

from exporter.api.answers import Entries, HistoryRow, Payout, User, Users
from exporter.collectors.user_totals import Account, guarded, unconfirmed
from exporter.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from exporter.clock import Now

T = TypeVar("T")

LABEL_BYTES = 128  # longer names are cut: a visitor chooses the name, Prometheus stores it
KEPT_OUTAGES = 5  # of each endpoint


@dataclass(frozen=True)
class Reading(Generic[T]):
    """An answer and when it came."""

    value: T
    at: Now

    def fresh(self, stale_after: float, now: Now) -> bool:
        """Whether the answer is at most `stale_after` seconds old."""
        return now.mono - self.at.mono <= stale_after


class Outage(NamedTuple):
    """Polls in a row that failed for one reason: the last one's detail, Unix times of first and last."""

    reason: str
    detail: str
    first: float
    last: float
    polls: int


@dataclass(frozen=True)
class Polling:
    """The record of one endpoint's polls; times are Unix seconds."""

    polls: int = 0
    failures: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))  # by reason
    rejected: int = 0
    up: bool | None = None
    last_poll: float | None = None
    last_success: float = 0.0
    next_poll: float | None = None
    took: float = 0.0  # seconds, of the last poll
    outages: tuple[Outage, ...] = ()  # the newest last; they outlive any number of successes


class TopUsers(Struct, frozen=True):
    """The last `/user/top` answer: guarded totals by label, in its order, and the sum of balances."""

    totals: Mapping[str, float]
    balance: float


class AllUsers(NamedTuple):
    """The sums over `/user/list`: users, hashes, coins withdrawn, coins owed."""

    users: int
    hashes: float
    withdrawn: float
    balance: float


class Watched(NamedTuple):
    """The last round over `watch_users`: the labels of those found, and why others were not, by place."""

    labels: tuple[str, ...]
    refused: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Snapshot:
    """All that is known of one site."""

    polling: Mapping[Endpoint, Polling] = field(default_factory=lambda: MappingProxyType({}))
    payout: Reading[Payout] | None = None
    history: Reading[tuple[HistoryRow, ...]] | None = None
    last_rows: tuple[HistoryRow, ...] = ()  # of the last answer that had any: row timestamps outlive it
    meaning: str = "unknown"  # of `hashes`, a history.Meaning
    top_users: Reading[TopUsers] | None = None
    all_users: Reading[AllUsers] | None = None
    watched: Reading[Watched] | None = None
    watched_failures: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))  # by reason
    accounts: Mapping[str, Account] = field(default_factory=lambda: MappingProxyType({}))
    tracked_hashes: float = 0.0
    totals_moved: float | None = None  # Unix seconds
    regressions: int = 0

    def reading(self, endpoint: Endpoint) -> Reading[Any] | None:
        """Return the endpoint's last answer."""
        found: Reading[Any] | None = getattr(self, _READINGS[endpoint])
        return found


_READINGS = {
    Endpoint.PAYOUT: "payout",
    Endpoint.HISTORY: "history",
    Endpoint.TOP_USERS: "top_users",
    Endpoint.ALL_USERS: "all_users",
    Endpoint.BALANCES: "watched",
}


class Store:
    """The snapshots by site name; `tell` is called with the name of each site that has changed."""

    def __init__(self) -> None:
        self._sites: dict[str, Snapshot] = {}
        self.tell: Callable[[str], None] = lambda _: None

    def __getitem__(self, site: str) -> Snapshot:
        return self._sites[site]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    def publish(self, site: str, snapshot: Snapshot) -> None:
        """Replace what is known of a site."""
        self._sites[site] = snapshot
        self.tell(site)

    def keep(self, sites: Mapping[str, Snapshot]) -> None:
        """Know exactly these sites from now on."""
        self._sites = dict(sites)
        for site in sites:
            self.tell(site)


def planned(snapshot: Snapshot, endpoint: Endpoint, next_poll: float) -> Snapshot:
    """Note when the endpoint is polled next, in Unix seconds."""
    record = snapshot.polling.get(endpoint, Polling())
    return _recorded(snapshot, endpoint, replace(record, next_poll=next_poll))


def succeeded(
    snapshot: Snapshot, endpoint: Endpoint, *, at: float, rejected: int, next_poll: float, took: float = 0.0
) -> Snapshot:
    """Note a poll that succeeded at Unix time `at` after so many seconds, with so many entries rejected."""
    record = snapshot.polling.get(endpoint, Polling())
    record = replace(
        record,
        polls=record.polls + 1,
        rejected=record.rejected + rejected,
        up=True,
        last_poll=at,
        last_success=at,
        next_poll=next_poll,
        took=took,
    )
    return _recorded(snapshot, endpoint, record)


def failed(
    snapshot: Snapshot,
    endpoint: Endpoint,
    *,
    at: float,
    reason: str,
    next_poll: float,
    detail: str = "",
    took: float = 0.0,
) -> Snapshot:
    """Note a poll that failed at Unix time `at` after so many seconds: values stay until they are stale."""
    record = snapshot.polling.get(endpoint, Polling())
    record = replace(
        record,
        polls=record.polls + 1,
        failures=_counted(record.failures, [reason]),
        up=False,
        last_poll=at,
        next_poll=next_poll,
        took=took,
        outages=_outages(record, Outage(reason, detail, at, at, 1)),
    )
    return _recorded(snapshot, endpoint, record)


def _outages(record: Polling, new: Outage) -> tuple[Outage, ...]:
    """Add a failed poll: to the newest outage where that goes on, else as the first of another."""
    last = record.outages[-1] if record.outages else None
    if last is None or record.up or last.reason != new.reason:
        return (*record.outages, new)[-KEPT_OUTAGES:]
    return (*record.outages[:-1], new._replace(first=last.first, polls=last.polls + 1))


def _counted(counts: Mapping[str, int], reasons: Iterable[str]) -> Mapping[str, int]:
    found = dict(counts)
    for reason in reasons:
        found[reason] = found.get(reason, 0) + 1
    return found


def cleared(snapshot: Snapshot) -> Snapshot:
    """Forget what was read, and keep the counters: they may not fall while the process lives."""
    return Snapshot(
        polling=snapshot.polling,
        watched_failures=snapshot.watched_failures,
        tracked_hashes=snapshot.tracked_hashes,
        regressions=snapshot.regressions,
    )


def with_payout(snapshot: Snapshot, payout: Payout, now: Now) -> Snapshot:
    """Take a `/stats/payout` answer."""
    return replace(snapshot, payout=Reading(payout, now))


def with_history(snapshot: Snapshot, rows: tuple[HistoryRow, ...], meaning: str, now: Now) -> Snapshot:
    """Take tidy rows of `/stats/history` and what their `hashes` mean."""
    return replace(
        snapshot, history=Reading(rows, now), last_rows=rows or snapshot.last_rows, meaning=meaning
    )


def with_all_users(snapshot: Snapshot, users: AllUsers, now: Now) -> Snapshot:
    """Take the sums of a whole walk over `/user/list`."""
    return replace(snapshot, all_users=Reading(users, now))


def with_watched(
    snapshot: Snapshot, users: tuple[User, ...], refused: tuple[tuple[int, str], ...], now: Now
) -> Snapshot:
    """Take a round over `watch_users`: users named by label, and why others are not there, by place."""
    accounts, regressions = guarded(snapshot.accounts, Endpoint.BALANCES, users)
    return replace(
        snapshot,
        watched=Reading(Watched(tuple(user.name for user in users), refused), now),
        watched_failures=_counted(snapshot.watched_failures, (reason for _, reason in refused)),
        accounts=accounts,
        regressions=snapshot.regressions + regressions,
    )


def watching(snapshot: Snapshot, labels: Collection[str]) -> Snapshot:
    """Watch these users from now on: what is known of others is forgotten, and whom the API refused."""
    watched = snapshot.watched
    if watched is not None:
        kept = tuple(label for label in watched.value.labels if label in labels)
        watched = Reading(Watched(kept, ()), watched.at) if labels else None
    accounts = {
        label: account if label in labels else unconfirmed(account, Endpoint.BALANCES)[0]
        for label, account in snapshot.accounts.items()
    }
    return replace(snapshot, watched=watched, accounts=accounts)


def with_top_users(snapshot: Snapshot, users: tuple[User, ...], now: Now) -> Snapshot:
    """Take the users of `/user/top`, named by label; guard their totals and sum up what grew."""
    accounts, regressions = guarded(snapshot.accounts, Endpoint.TOP_USERS, users)
    totals = {user.name: accounts[user.name].total for user in users}
    before = snapshot.top_users.value.totals if snapshot.top_users else {}
    pairs = zip(totals.values(), map(before.get, totals, totals.values()), strict=True)
    moves = [total - known for total, known in pairs if total != known]
    # What /user/balance has moved meanwhile is not of this answer.
    moved = moves and any(
        total != snapshot.accounts[name].total for name, total in totals.items() if name in before
    )
    return replace(
        snapshot,
        top_users=Reading(TopUsers(totals, sum([user.balance for user in users])), now),
        accounts=accounts,
        tracked_hashes=snapshot.tracked_hashes + sum([move for move in moves if move > 0]),
        totals_moved=now.wall if moved else snapshot.totals_moved,
        regressions=snapshot.regressions + regressions,
    )


def labelled(answer: Users, key: bytes | None) -> Users:
    """Name every user by label; of two that would share one, the second is rejected."""
    names = [user.name for user in answer.entries]
    labels = [
        name if key is None and name.isascii() and len(name) <= LABEL_BYTES else user_label(name, key)
        for name in names
    ]
    if labels == names:
        return answer
    named: dict[str, User] = {}
    for label, user in zip(labels, answer.entries, strict=True):
        known = user if label == user.name else User(label, user.total, user.withdrawn, user.balance)
        named.setdefault(label, known)
    collided = len(answer.entries) - len(named)
    return Entries(tuple(named.values()), answer.rejected + collided, answer.next_page)


def user_label(name: str, key: bytes | None) -> str:
    """Return a name as a label: at most 128 bytes, or with a `key` 16 hex digits of its HMAC-SHA-256.

    What does not fit, or is no Unicode text (lone surrogates), is cut or replaced and gets `~` and 8 hex
    digits of the whole name's SHA-256, so that different names stay different.
    """
    raw = name.encode("utf-8", "surrogatepass")
    if key is not None:
        return hmac.digest(key, raw, "sha256").hex()[:16]
    text = raw.decode("utf-8", "replace")
    if text == name and len(raw) <= LABEL_BYTES:
        return name
    suffix = f"~{sha256(raw).hexdigest()[:8]}"
    return text.encode()[: LABEL_BYTES - len(suffix)].decode("utf-8", "ignore") + suffix


def _recorded(snapshot: Snapshot, endpoint: Endpoint, record: Polling) -> Snapshot:
    return replace(snapshot, polling={**snapshot.polling, endpoint: record})
