"""What is known of a site, as immutable data: the state of each collector, and the record of its polls.

A poll makes a new `Snapshot` and publishes it by reference, so readers never see half a change. What is
kept for a site has no reference cycles, so the garbage collector need not look at it (`gc=False`): with many
sites a full collection would take longer than a scrape may wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from exporter.collectors.collector import Collector
from exporter.endpoint import Endpoint, Reason

State = TypeVar("State")

KEPT_OUTAGES = 5  # of each endpoint


class Outage(NamedTuple):
    """Polls in a row that failed for one reason: the last one's detail, Unix times of first and last."""

    reason: str
    detail: str
    first: float
    last: float
    polls: int


class PollRecord(Struct, frozen=True, gc=False):
    """The record of one endpoint's polls; times are Unix seconds."""

    polls: int = 0
    failures: Mapping[str, int] = {}  # by reason
    rejected: int = 0  # entries
    up: bool | None = None
    last_poll: float | None = None
    last_success: float = 0.0
    next_poll: float | None = None
    took: float = 0.0  # seconds, of the last poll
    outages: tuple[Outage, ...] = ()  # the newest last; they outlive any number of successes
    last_rejected: int = 0  # entries, of the last poll that succeeded
    fault: str = ""  # what is wrong with the first of those

    @property
    def rejection(self) -> str:
        """How many entries of the last answer were rejected, and why, in a sentence; empty if none was."""
        count = "1 entry was" if self.last_rejected == 1 else f"{self.last_rejected} entries were"
        return f"{count} not read: {self.fault}" if self.last_rejected else ""

    def succeeded(
        self, *, at: float, took: float, rejected: int, next_poll: float, fault: str = ""
    ) -> PollRecord:
        """Return the record after a poll that succeeded at Unix time `at`, with so many rejected entries."""
        record = replace(self, polls=self.polls + 1, last_poll=at, took=took, next_poll=next_poll)
        record = replace(record, last_rejected=rejected, fault=fault)
        return replace(record, up=True, last_success=at, rejected=self.rejected + rejected)

    def failed(self, *, at: float, took: float, reason: Reason, detail: str, next_poll: float) -> PollRecord:
        """Return the record after a poll that failed at Unix time `at`.

        If the previous poll failed for the same reason, the outage grows; otherwise a new one starts.
        """
        last = self.outages[-1] if self.outages else None
        if last is None or self.up or last.reason != reason:
            outages = (*self.outages, Outage(reason, detail, at, at, 1))[-KEPT_OUTAGES:]
        else:
            outages = (*self.outages[:-1], Outage(reason, detail, last.first, at, last.polls + 1))
        failures = {**self.failures, reason: self.failures.get(reason, 0) + 1}
        record = replace(self, polls=self.polls + 1, last_poll=at, took=took, next_poll=next_poll)
        return replace(record, up=False, failures=failures, outages=outages)


class Snapshot(Struct, frozen=True, gc=False):
    """All that is known of one site: states by collector, poll records by endpoint."""

    states: Mapping[Collector[Any, Any], Any] = {}
    records: Mapping[Endpoint, PollRecord] = {}

    def state(self, collector: Collector[State, Any]) -> State:
        """Return a collector's state."""
        state: State = self.states.get(collector, collector.initial)
        return state

    def with_state(self, collector: Collector[State, Any], state: State) -> Snapshot:
        """Return the snapshot with another state of a collector."""
        return replace(self, states={**self.states, collector: state})

    def record(self, endpoint: Endpoint) -> PollRecord:
        """Return the record of an endpoint's polls, an empty one before the first is planned."""
        return self.records.get(endpoint, PollRecord())

    def with_record(self, endpoint: Endpoint, record: PollRecord) -> Snapshot:
        """Return the snapshot with another record of an endpoint's polls."""
        return replace(self, records={**self.records, endpoint: record})


class Store:
    """The snapshots by site name; `on_change` is called with the name of each site that has changed."""

    def __init__(self, on_change: Callable[[str], None] = lambda _: None) -> None:
        self._sites: dict[str, Snapshot] = {}
        self.on_change = on_change

    def __getitem__(self, site: str) -> Snapshot:
        return self._sites[site]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    def publish(self, site: str, snapshot: Snapshot) -> None:
        """Replace what is known of a site."""
        self._sites[site] = snapshot
        self.on_change(site)

    def replace_all(self, sites: Mapping[str, Snapshot]) -> None:
        """Know exactly these sites from now on."""
        self._sites = dict(sites)
        for site in sites:
            self.on_change(site)
