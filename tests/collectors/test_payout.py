from __future__ import annotations

from exporter.api.answers import Payout, decode_payout
from exporter.api.client import Request
from exporter.collectors.payout import PAYOUT
from exporter.collectors.registry import PAYOUT_COLLECTOR
from exporter.collectors.snapshot import Snapshot
from tests.collectors.sites import NOW, a_site, answer_of, exported, later, polled

ANSWER = Payout(1, 2, 3, 4, 5)


def test_one_request_is_one_poll() -> None:
    """The endpoint is asked once, without parameters."""
    answer, requests = answer_of(a_site(), PAYOUT, lambda _: ANSWER)

    assert ANSWER == answer
    assert [Request(PAYOUT, decode_payout)] == requests


def test_payout_is_exported_as_reported() -> None:
    """Every field has its gauge, unscaled. Stale ones are removed, the time of the computation stays."""
    site = a_site()
    snapshot = polled(Snapshot(), site, PAYOUT, ANSWER)
    fresh = {
        "network_difficulty": 1,
        "payout_value": 2,
        "payout_raw": 3,
        "payout_coins_per_million_hashes": 4,
        "payout_sync_timestamp_seconds": 5,
    }
    moments = [exported(site, snapshot, later(seconds)) for seconds in (0, 300, 301)]

    assert [fresh, fresh, {"payout_sync_timestamp_seconds": 5}] == [
        {name: values[""] for name, values in moment.items() if name in fresh} for moment in moments
    ]


def test_the_answer_is_kept_with_its_moment() -> None:
    """The state is the last answer alone: a later one replaces it."""
    site = a_site()
    first = PAYOUT_COLLECTOR.step(site, PAYOUT, None, Payout(9, 9, 9, 9, 9), NOW).state
    second = PAYOUT_COLLECTOR.step(site, PAYOUT, first, ANSWER, later(60))

    assert second.state is not None
    assert (ANSWER, later(60), 0) == (second.state.value, second.state.at, second.rejected)
