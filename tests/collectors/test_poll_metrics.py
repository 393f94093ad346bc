from __future__ import annotations

from exporter.api.answers import Payout
from exporter.collectors.payout import PAYOUT
from exporter.collectors.snapshot import Snapshot
from exporter.endpoint import USER_REASONS, Reason
from tests.collectors.sites import EVERYTHING, NOW, a_site, exported, failed, later, polled, rows, with_rows

SITE = a_site()
EVERY = a_site(**EVERYTHING)
POLLED = {"/stats/payout", "/stats/history", "/user/top"}


def test_every_reason_is_counted_from_the_start() -> None:
    """A site that was never polled has each counter at 0, and no `up`."""
    values = exported(SITE, Snapshot())
    reasons = {reason.value for reason in Reason} - {Reason.INVALID_PAGE, *USER_REASONS}

    assert values["polls_total"] == dict.fromkeys(POLLED, 0.0)
    assert values["poll_failures_total"] == {f"{e},{reason}": 0.0 for e in POLLED for reason in reasons}
    assert values["rejected_entries_total"] == {"/stats/history": 0.0, "/user/top": 0.0}
    assert values["up"] == {}
    assert values["last_success_timestamp_seconds"] == dict.fromkeys(POLLED, 0.0)


def test_an_endpoint_has_the_metrics_that_concern_it() -> None:
    """A reason of one endpoint is counted there alone; entries are rejected where an answer is a list."""
    values = exported(EVERY, Snapshot())
    labels = [label.split(",") for label in values["poll_failures_total"]]
    only = {reason: {endpoint for endpoint, r in labels if r == reason} for reason in Reason}

    assert set(values["polls_total"]) == {*POLLED, "/user/list", "/user/balance"}
    assert set(values["rejected_entries_total"]) == {"/stats/history", "/user/top", "/user/list"}
    assert [{"/user/list"}, set(), set()] == [only[r] for r in (Reason.INVALID_PAGE, *USER_REASONS)]
    assert set(values["polls_total"]) == only[Reason.TIMEOUT]


def test_up_follows_the_last_poll() -> None:
    """A failed poll is 0 at once, with its reason counted; values stay until they are stale."""
    snapshot = failed(polled(Snapshot(), SITE, PAYOUT, Payout(1, 2, 3, 4, 5)), PAYOUT, Reason.DNS, later(60))
    values = exported(SITE, snapshot, later(60))

    assert values["up"] == {"/stats/payout": 0.0}
    assert values["poll_failures_total"]["/stats/payout,dns"] == 1
    assert values["network_difficulty"][""] == 1
    assert values["last_success_timestamp_seconds"]["/stats/payout"] == NOW.wall


def test_polls_are_exported_as_recorded() -> None:
    """Count, times of the last poll and of the next one, rejected entries, and the configured interval."""
    snapshot = with_rows(Snapshot(), SITE, (*rows(2), *rows(1, newest=NOW.wall + 7200)))
    values = exported(SITE, snapshot, later(10))

    assert values["polls_total"]["/stats/history"] == 1
    assert values["rejected_entries_total"]["/stats/history"] == 1
    assert values["last_poll_timestamp_seconds"] == {"/stats/history": NOW.wall}
    assert values["next_poll_timestamp_seconds"] == {"/stats/history": NOW.wall + 300}
    assert values["poll_interval_seconds"] == {"/stats/history": 300, "/stats/payout": 60, "/user/top": 60}


def test_the_site_is_described() -> None:
    """Currency and host are config, for dashboards to show amounts with their coin."""
    assert exported(SITE, Snapshot())["site_info"] == {"127.0.0.1:1,XMR": 1.0}
