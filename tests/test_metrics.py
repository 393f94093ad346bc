from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from exporter.api.answers import HistoryRow, Payout, User
from exporter.clock import Now
from exporter.collectors import history, metrics, snapshot
from exporter.collectors.history import Meaning
from exporter.collectors.metrics import CATALOGUE, Subject, site_families
from exporter.collectors.snapshot import Snapshot
from exporter.endpoint import USER_REASONS, Endpoint, Reason
from tests.conftest import SHARED, WALL, parsed

if TYPE_CHECKING:
    from pathlib import Path

HOUR = 3600
TOP = WALL - WALL % HOUR  # the full hour before now, 13:20 minutes ago
NOW = Now(WALL, 1000.0)


def a_subject(**changes: object) -> Subject:
    config = parsed()
    return replace(metrics.subject(config, config.sites[0]), **changes)  # type: ignore[arg-type]


def rows(count: int, hashrate: float = 100.0, newest: float = TOP) -> tuple[HistoryRow, ...]:
    """Return so many hourly rows, the newest beginning at `newest`; each hour made hashrate * 3600 hashes."""
    begins = [newest - HOUR * back for back in reversed(range(count))]
    return tuple(HistoryRow(begin, hashrate * HOUR, hashrate) for begin in begins)


def with_rows(known: tuple[HistoryRow, ...], meaning: Meaning = Meaning.HOURLY) -> Snapshot:
    return snapshot.with_history(Snapshot(), known, meaning, NOW)


def shown(known: Snapshot, after: float = 0.0, site: Subject | None = None) -> dict[str, dict[str, float]]:
    """Return the values on the page so many seconds later, by metric and labels, the site's name left out."""
    families = site_families(site or a_subject(), known, Now(NOW.wall + after, NOW.mono + after))
    return {
        family.metric.name.removeprefix("cryptoloot_"): {
            ",".join(value for value in values if value != "demo"): number
            for values, number in family.samples()
        }
        for family in families
    }


def value(known: Snapshot, name: str, after: float = 0.0) -> float | None:
    return shown(known, after).get(name, {}).get("")


# In the contract, and not exported yet: a metric that is built leaves this set, or the next test fails.
PLANNED = {
    "cryptoloot_expected_hashrate_hashes_per_second",
    "cryptoloot_hashrate_spread_ratio",
    "cryptoloot_exporter_scrapes_total",
    "cryptoloot_exporter_tls_handshake_failures_total",
}


def test_the_catalogue_is_the_contracts() -> None:
    """Every metric of the contract is in the catalogue, and nothing else is."""
    contract: Path = SHARED / "design" / "contract.md"
    if not contract.exists():
        pytest.skip("the design files are not beside the repository")
    table = contract.read_text().split("## Metrics")[1]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `cryptoloot")]
    named: set[str] = set()
    for cell in cells:
        whole, *more = re.findall(r"`(\w+)`", cell)
        # `_balance_coins` stands for the first name with its last word replaced.
        named |= {whole, *(name if name[0] != "_" else "cryptoloot_all_users" + name for name in more)}

    assert named - PLANNED == set(CATALOGUE)


def test_every_help_says_where_a_value_is_from() -> None:
    """Site metrics name the API's endpoint or the config, and that values are polled and cached."""
    for metric in metrics.SITE_METRICS:
        about_polls = "endpoint" in metric.labels or metric.name == "cryptoloot_site_info"

        assert about_polls or re.search(r"/(stats|user)/\w+", metric.help), metric.name
        assert about_polls or "Polled and cached" in metric.help, metric.name


def test_names_follow_the_conventions() -> None:
    """Counters end in _total and nothing else does; labels are sorted, as they are rendered."""
    for metric in CATALOGUE.values():
        assert (metric.type == "counter") == metric.name.endswith("_total")
        assert list(metric.labels) == sorted(metric.labels)


def test_families_keep_the_catalogues_order() -> None:
    """A site's families come in the catalogue's order, each once."""
    known = snapshot.with_payout(with_rows(rows(168)), Payout(1, 2, 3, 4, 5), NOW)
    names = [family.metric.name for family in site_families(a_subject(), known, NOW)]

    assert [name for name in CATALOGUE if name in names] == names


def test_payout_is_shown_as_reported() -> None:
    """Every field of /stats/payout has its gauge, unscaled; it leaves when stale, and the synctime stays."""
    known = snapshot.with_payout(Snapshot(), Payout(1, 2, 3, 4, 5), NOW)
    names = (
        "network_difficulty",
        "payout_value",
        "payout_raw",
        "payout_coins_per_million_hashes",
        "payout_sync_timestamp_seconds",
    )

    assert [1, 2, 3, 4, 5] == [value(known, name) for name in names]
    assert [1, 2, 3, 4, 5] == [value(known, name, after=300) for name in names]
    assert [None, None, None, None, 5] == [value(known, name, after=301) for name in names]


def test_the_settled_row_is_the_hashrate() -> None:
    """The newest row that ended 15 minutes ago or more is the hashrate; the newest of all is unsettled."""
    known = with_rows((*rows(3, 100.0, TOP - HOUR), HistoryRow(TOP, 50 * HOUR, 70.0)))

    assert value(known, "hashrate_hashes_per_second") == 100.0
    assert value(known, "unsettled_hashrate_hashes_per_second") == 70.0
    assert TOP == value(known, "history_row_timestamp_seconds")
    assert TOP - 2 * HOUR == value(known, "history_settled_row_timestamp_seconds")


def test_a_row_settles_while_nothing_is_polled() -> None:
    """What is settled is judged when the page is made: time alone makes the next row the hashrate."""
    known = with_rows((*rows(3, 100.0, TOP - HOUR), HistoryRow(TOP, 50 * HOUR, 70.0)))
    site = a_subject(stale_after={**a_subject().stale_after, Endpoint.HISTORY: 99 * HOUR})
    settles = TOP + 75 * 60 - NOW.wall

    assert TOP - HOUR == shown(known, settles - 1, site)["history_settled_row_timestamp_seconds"][""]
    assert TOP == shown(known, settles, site)["history_settled_row_timestamp_seconds"][""]


def test_old_rows_leave_though_polls_succeed() -> None:
    """R: rows older than max_row_age are not shown as now, however fresh the answer; timestamps stay."""
    known = with_rows(rows(10, newest=TOP - 5 * HOUR))
    page = shown(known)

    assert "hashrate_hashes_per_second" not in page
    assert "unsettled_hashrate_hashes_per_second" not in page
    assert "history_week_hashes" not in page
    assert page["history_rows"][""] == 10
    assert TOP - 5 * HOUR == page["history_row_timestamp_seconds"][""]


def test_row_age_counts_to_the_second() -> None:
    """A settled row of exactly max_row_age is shown, one second later it is not."""
    known = with_rows(rows(10, newest=TOP - HOUR))
    site = a_subject(
        stale_after={**a_subject().stale_after, Endpoint.HISTORY: 99 * HOUR}, max_row_age=4 * HOUR
    )
    leaves = TOP - HOUR + 4 * HOUR - NOW.wall

    assert "hashrate_hashes_per_second" in shown(known, leaves, site)
    assert "hashrate_hashes_per_second" not in shown(known, leaves + 1, site)


@pytest.mark.parametrize(
    ("days", "samples", "baseline"), [(2, 1, None), (3, 2, None), (4, 3, 100.0), (7, 6, 100.0)]
)
def test_the_baseline_needs_three_days(days: int, samples: int, baseline: float | None) -> None:
    """The median over the same hour of earlier days is there from the third such row on."""
    known = with_rows(rows(24 * days + 2))

    assert samples == value(known, "baseline_samples")
    assert baseline == value(known, "baseline_hashrate_hashes_per_second")


def test_a_young_site_has_no_baseline_samples_yet() -> None:
    """Zero samples with a settled row, and no gauge at all without one."""
    assert value(with_rows(rows(3)), "baseline_samples") == 0
    assert value(with_rows(rows(2)), "baseline_samples") is None


def test_hashes_are_summed_over_settled_rows() -> None:
    """Row, day and week are sums of settled rows; a site younger than a day has fewer."""
    known = with_rows(rows(30, 100.0))

    assert value(known, "history_row_hashes") == 100 * HOUR
    assert value(known, "history_day_hashes") == 24 * 100 * HOUR
    assert value(known, "history_week_hashes") == 28 * 100 * HOUR


def test_hashes_of_unknown_meaning_are_not_shown() -> None:
    """Without a known meaning the sums stay away, and the mode says so."""
    page = shown(with_rows(rows(30), Meaning.UNKNOWN))

    assert page["history_hashes_mode"] == {"hourly": 0.0, "cumulative": 0.0, "unknown": 1.0}
    assert {name for name in page if name.endswith("_hashes")} == set()


def test_an_empty_history_is_no_failure() -> None:
    """A site without rows shows zero rows; timestamps of rows seen earlier stay."""
    empty = shown(snapshot.with_history(with_rows(rows(5)), (), Meaning.HOURLY, NOW))

    assert (0.0, 0.0) == (empty["history_rows"][""], empty["history_missing_rows"][""])
    assert TOP == empty["history_row_timestamp_seconds"][""]
    assert "hashrate_hashes_per_second" not in empty
    assert "baseline_samples" not in empty


def test_users_are_series() -> None:
    """Each user of the last answer has three series; the sums are those of the answer."""
    known = snapshot.with_top_users(Snapshot(), (User("a", 10, 1, 2), User("b", 5, 0, 3)), NOW)
    page = shown(known)

    assert page["user_hashes_total"] == {"a": 10, "b": 5}
    assert page["user_withdrawn_coins_total"] == {"a": 1, "b": 0}
    assert page["user_balance_coins"] == {"a": 2, "b": 3}
    assert (page["top_users_returned"][""], page["top_users_balance_coins"][""]) == (2, 5)


def watching() -> Subject:
    """Return a site that watches users."""
    site = a_subject()
    return replace(
        site,
        intervals={**site.intervals, Endpoint.BALANCES: 300.0},
        stale_after={**site.stale_after, Endpoint.BALANCES: 1500.0},
    )


def test_a_watched_user_is_one_series() -> None:
    """Who is both watched and in the top list is there once; who is watched alone too, and in no sum."""
    known = snapshot.with_top_users(Snapshot(), (User("a", 10, 1, 2), User("b", 5, 0, 3)), NOW)
    known = snapshot.with_watched(known, (User("b", 6, 0, 4), User("z", 1, 0, 9)), (), NOW)
    page = shown(known, site=watching())

    assert page["user_hashes_total"] == {"a": 10, "b": 6, "z": 1}
    assert page["user_balance_coins"] == {"a": 2, "b": 4, "z": 9}
    assert (page["top_users_returned"][""], page["top_users_balance_coins"][""]) == (2, 5)


def test_watched_users_have_their_own_age() -> None:
    """They stay while /user/top is stale, and leave with /user/balance, or when nobody watches any more."""
    known = snapshot.with_watched(Snapshot(), (User("z", 1, 0, 9),), (), NOW)
    known = snapshot.with_top_users(known, (User("a", 10, 1, 2),), NOW)

    assert {"a", "z"} == set(shown(known, 300, watching())["user_hashes_total"])
    assert {"z"} == set(shown(known, 1500, watching())["user_hashes_total"])
    assert "user_hashes_total" not in shown(known, 1501, watching())
    assert {"a"} == set(shown(known)["user_hashes_total"])


def test_refused_users_are_counted_where_some_are_watched() -> None:
    """Each reason is at 0 from the start, and grows with every round that has such a user."""
    known = snapshot.with_watched(Snapshot(), (), ((0, "unknown_user"), (2, "unknown_user")), NOW)
    known = snapshot.with_watched(known, (), ((0, "unknown_user"),), NOW)

    assert "watched_user_failures_total" not in shown(known)
    assert {"missing_input": 0, "unknown_user": 0} == (
        shown(Snapshot(), site=watching())["watched_user_failures_total"]
    )
    assert {"missing_input": 0, "unknown_user": 3} == (
        shown(known, site=watching())["watched_user_failures_total"]
    )


def test_without_names_there_are_only_sums() -> None:
    """names: off shows no user, and still sums, and how much hashes grew."""
    known = snapshot.with_top_users(Snapshot(), (User("a", 10, 1, 2),), NOW)
    page = shown(known, site=a_subject(per_user=False))

    assert {name for name in page if name.startswith("user_")} == {"user_regressions_total"}
    assert page["top_users_returned"][""] == 1
    assert page["tracked_user_hashes_total"][""] == 0


def test_every_reason_is_counted_from_the_start() -> None:
    """A site that was never polled has each counter at 0, and no `up`."""
    page = shown(Snapshot())
    others = {Reason.INVALID_PAGE, *USER_REASONS}
    reasons = [reason for reason in Reason if reason not in others]

    assert {"/stats/payout", "/stats/history", "/user/top"} == set(page["polls_total"])
    assert {0.0} == set(page["poll_failures_total"].values())
    assert 3 * len(reasons) == len(page["poll_failures_total"])
    assert {"/stats/history", "/user/top"} == set(page["rejected_entries_total"])
    assert page["up"] == {}
    assert {0.0} == set(page["last_success_timestamp_seconds"].values())


def test_up_follows_the_last_poll() -> None:
    """A failed poll is 0 at once, with its reason counted; values stay until they are stale."""
    known = snapshot.with_payout(Snapshot(), Payout(1, 2, 3, 4, 5), NOW)
    known = snapshot.succeeded(known, Endpoint.PAYOUT, at=WALL, rejected=0, next_poll=WALL + 60)
    known = snapshot.failed(known, Endpoint.PAYOUT, at=WALL + 60, reason="dns", next_poll=WALL + 120)
    page = shown(known, after=60)

    assert page["up"] == {"/stats/payout": 0.0}
    assert page["poll_failures_total"]["/stats/payout,dns"] == 1
    assert page["network_difficulty"][""] == 1
    assert page["last_success_timestamp_seconds"]["/stats/payout"] == WALL


def test_the_site_is_described() -> None:
    """Currency and host are config, for dashboards to show amounts with their coin."""
    assert shown(Snapshot())["site_info"] == {"127.0.0.1:1,XMR": 1.0}


def test_views_are_equal_while_the_page_is() -> None:
    """A view does not change between two moments at which the page is the same."""
    known = snapshot.with_payout(with_rows(rows(100)), Payout(1, 2, 3, 4, 5), NOW)
    later = Now(NOW.wall + 1, NOW.mono + 1)

    for group in metrics.GROUPS:
        assert group.view(a_subject(), known, NOW) == group.view(a_subject(), known, later)


def test_settled_boundary_is_the_histories() -> None:
    """Metrics and history agree on what is settled."""
    known = rows(5)

    settled = known[: history.settled_count(known, NOW.wall)]
    assert settled[-1].synctime == value(with_rows(known), "history_settled_row_timestamp_seconds")
