from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from exporter.api.answers import Payout
from exporter.collectors.history import HISTORY
from exporter.collectors.payout import PAYOUT
from exporter.collectors.registry import COLLECTORS, PAYOUT_COLLECTOR, USERS_COLLECTOR
from exporter.collectors.snapshot import KEPT_OUTAGES, Outage, PollRecord, Snapshot, Store
from exporter.collectors.users import TOP_USERS
from exporter.endpoint import Reason
from tests.collectors.sites import a_site, failed, polled

if TYPE_CHECKING:
    from exporter.endpoint import Endpoint

DNS, TLS, TIMEOUT = Reason.DNS, Reason.TLS, Reason.TIMEOUT


def succeeded(record: PollRecord, at: float, rejected: int = 0) -> PollRecord:
    return record.succeeded(at=at, took=0.25, rejected=rejected, next_poll=at + 60)


def failure(record: PollRecord, at: float, reason: Reason, detail: str = "") -> PollRecord:
    return record.failed(at=at, took=0.5, reason=reason, detail=detail, next_poll=at + 60)


def test_polls_are_recorded() -> None:
    """A success and a failure are each a poll; a failure has its reason and keeps the last success."""
    record = succeeded(succeeded(PollRecord(next_poll=5.0), 10.0, rejected=2), 70.0, rejected=1)
    record = failure(record, 130.0, DNS, "no such host")
    outage = Outage("dns", "no such host", 130.0, 130.0, 1)

    assert PollRecord(3, {"dns": 1}, 3, False, 130.0, 70.0, 190.0, 0.5, (outage,), 1) == record


@pytest.mark.parametrize(
    ("rejected", "sentence"),
    [(0, ""), (1, "1 entry was not read: $.users[3]: why"), (2, "2 entries were not read: $.users[3]: why")],
)
def test_rejected_entries_are_told(rejected: int, sentence: str) -> None:
    """What was not read of the last answer is known in a sentence, until an answer is read whole."""
    record = PollRecord().succeeded(
        at=1.0, took=1.0, rejected=rejected, next_poll=2.0, fault="$.users[3]: why"
    )

    assert sentence == record.rejection
    assert "" == succeeded(record, 2.0).rejection


def test_a_planned_poll_is_none_yet() -> None:
    """Before its first poll an endpoint is neither up nor down, and nothing is counted."""
    record = Snapshot().record(PAYOUT)

    assert PollRecord(0, {}, 0, up=None, last_poll=None, last_success=0.0, next_poll=None) == record
    assert {PAYOUT: PollRecord(next_poll=5.0)} == (
        Snapshot().with_record(PAYOUT, replace(record, next_poll=5.0)).records
    )


def test_an_endpoint_recovers() -> None:
    """A success after failures is up again and forgets no failure."""
    record = failure(failure(failure(PollRecord(), 1.0, DNS), 2.0, TIMEOUT), 4.0, DNS)
    record = succeeded(record, 8.0)

    assert ({"dns": 2, "timeout": 1}, 4, True, 8.0) == (
        record.failures,
        record.polls,
        record.up,
        record.last_success,
    )


def outages(*reasons: Reason | None) -> list[tuple[str, float, float, int]]:
    """Return what is kept of polls a second apart: failures for these reasons, successes for None."""
    record = PollRecord()
    for at, reason in enumerate(reasons):
        record = failure(record, at, reason) if reason else succeeded(record, at)
    return [(outage.reason, outage.first, outage.last, outage.polls) for outage in record.outages]


def test_failures_in_a_row_are_one_outage() -> None:
    """For one reason and without a success between them; another reason, or a success, starts another."""
    assert [("dns", 0, 1, 2), ("tls", 2, 2, 1), ("tls", 4, 5, 2)] == outages(DNS, DNS, TLS, None, TLS, TLS)


def test_an_outage_keeps_its_last_detail() -> None:
    """What varies from poll to poll does not make many outages of one."""
    record = PollRecord()
    for at in range(50):
        record = failure(record, at, Reason.HTTP_STATUS, f"status {500 + at}")

    assert (Outage("http_status", "status 549", 0, 49, 50),) == record.outages


def test_outages_outlive_successes() -> None:
    """However many polls succeed, the last five outages are kept, the newest last."""
    every = list(Reason)[:8]
    reasons = [reason for first in every for reason in (first, None, None)]

    assert every[3:] == [reason for reason, *_ in outages(*reasons, *[None] * 999)]
    assert 5 == KEPT_OUTAGES


@given(steps=st.lists(st.tuples(st.sampled_from([PAYOUT, HISTORY]), st.sampled_from([None, DNS, TLS]))))
def test_failures_never_exceed_polls(steps: list[tuple[Endpoint, Reason | None]]) -> None:
    """Polls are successes and failures, each endpoint's its own."""
    snapshot = Snapshot()
    for endpoint, reason in steps:
        record = snapshot.record(endpoint)
        record = failure(record, 1.0, reason) if reason else succeeded(record, 1.0)
        snapshot = snapshot.with_record(endpoint, record)

    for endpoint, record in snapshot.records.items():
        assert record.polls == sum(polled_endpoint == endpoint for polled_endpoint, _ in steps)
        assert sum(record.failures.values()) == sum(e == endpoint and r is not None for e, r in steps)


def full() -> Snapshot:
    """Return a snapshot with a payout, and with a record of two endpoints."""
    return failed(polled(Snapshot(), a_site(), PAYOUT, Payout(1, 2, 3, 4, 5)), TOP_USERS, DNS)


def test_a_state_is_its_collectors() -> None:
    """A collector without a state has its initial one; a state replaced is no other collector's."""
    snapshot = full()
    after = snapshot.with_state(PAYOUT_COLLECTOR, None)

    assert [collector.initial for collector in COLLECTORS] == [Snapshot().state(c) for c in COLLECTORS]
    assert (None, snapshot.records) == (after.state(PAYOUT_COLLECTOR), after.records)
    assert USERS_COLLECTOR.initial is after.state(USERS_COLLECTOR)


@pytest.mark.parametrize("endpoint", [PAYOUT, HISTORY, TOP_USERS])
def test_a_failed_poll_leaves_the_states(endpoint: Endpoint) -> None:
    """A failure changes the endpoint's record and nothing else: values stay until they are stale."""
    before = full()
    after = failed(before, endpoint, TIMEOUT)

    assert before.states is after.states
    assert all(
        after.records[other] is record for other, record in before.records.items() if other != endpoint
    )


def test_a_snapshot_does_not_change() -> None:
    """Readers hold a snapshot while polls go on: a step makes a new one and leaves the old as it was."""
    before = full()
    states, records = dict(before.states), dict(before.records)
    failed(polled(before, a_site(), PAYOUT, Payout(9, 9, 9, 9, 9)), TOP_USERS, TIMEOUT)

    assert (states, records) == (before.states, before.records)
    with pytest.raises(AttributeError):
        before.records = {}  # type: ignore[misc]


def test_the_store_publishes() -> None:
    """Every change is reported, by site; what is published is what is returned, by reference."""
    reported: list[str] = []
    store = Store(reported.append)
    first, second = Snapshot(), full()
    store.replace_all({"a": first, "b": first})
    store.publish("b", second)

    assert ["a", "b", "b"] == reported
    assert ["a", "b"] == list(store)
    assert (first, second) == (store["a"], store["b"])


def test_the_store_keeps_exactly_these() -> None:
    """Sites that are gone are forgotten; a mapping that changes later is not the store."""
    store = Store()
    sites = {"a": Snapshot()}
    store.publish("gone", Snapshot())
    store.replace_all(sites)
    sites["b"] = Snapshot()

    assert ["a"] == list(store)
    with pytest.raises(KeyError):
        store["gone"]
