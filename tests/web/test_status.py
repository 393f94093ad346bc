"""The status: what state a site is in, what is kept of its failures, which sites come first."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.api.answers import HistoryRow, Payout, User
from exporter.clock import Now
from exporter.collectors import metrics, snapshot
from exporter.collectors.history import Meaning
from exporter.collectors.snapshot import Snapshot
from exporter.endpoint import Endpoint
from exporter.pages.pages import Shown
from exporter.web import status
from exporter.web.status import Facts, Wanted
from tests.conftest import WALL, parsed

NOW = Now(WALL, 1000.0)
HOUR = 3600
TOP = WALL - WALL % HOUR
PAYOUT, HISTORY = Endpoint.PAYOUT, Endpoint.HISTORY
FACTS = Facts("1.2.3", "abc", "3.11", Now(WALL - 90, 910.0), WALL - 90, True, 0, 1, 2048, 17, (), True)
VOID = {"meta", "link", "path", "input", "br"}
OPTIONAL = {"th", "td", "tr", "li"}  # their ends may be left out


def later(seconds: float) -> Now:
    return Now(NOW.wall + seconds, NOW.mono + seconds)


def well(endpoint: Endpoint = PAYOUT, known: Snapshot | None = None) -> Snapshot:
    known = snapshot.with_payout(known or Snapshot(), Payout(1, 2, 3, 4, 5), NOW)
    return snapshot.succeeded(known, endpoint, at=WALL, rejected=0, next_poll=WALL + 60, took=0.25)


def broken(known: Snapshot, reason: str = "dns", at: float = WALL) -> Snapshot:
    return snapshot.failed(known, PAYOUT, at=at, reason=reason, detail="in words", next_poll=at + 60)


def shown(name: str, known: Snapshot, *endpoints: Endpoint) -> Shown:
    """Return a site of this name, polled at these endpoints, or at /stats/payout alone."""
    config = parsed()
    site = metrics.subject(config, config.sites[0])
    intervals = {each: site.intervals.get(each, 60.0) for each in endpoints or (PAYOUT,)}
    stale_after = {each: 5 * interval for each, interval in intervals.items()}
    return Shown(replace(site, name=name, intervals=intervals, stale_after=stale_after), known, 100, 3)


def document(*sites: Shown, which: Wanted = Wanted(), now: Now = NOW, **facts: Any) -> dict[str, Any]:  # noqa: B008
    return status.document(FACTS._replace(**facts), status.ranking(sites, now), which, now)


def page(*sites: Shown, **options: Any) -> str:
    return status.html(document(*sites, **options), "").decode()


def names(*sites: Shown, **options: Any) -> list[str]:
    return [site["site"] for site in document(*sites, **options)["sites"]]


@pytest.mark.parametrize(
    ("state", "known", "after"),
    [
        ("waiting", Snapshot(), 0),
        ("fresh", well(), 0),
        ("fresh", well(), 300),
        ("failing", broken(well()), 300),
        ("stale", broken(well()), 301),
        ("stale", well(), 301),
        ("stale", broken(Snapshot()), 0),
    ],
)
def test_the_state_of_an_endpoint(state: str, known: Snapshot, after: float) -> None:
    """Waiting before the first poll; failing while old values are shown; stale when none are."""
    site = document(shown("a", known), now=later(after))["sites"][0]

    assert state == site["state"] == site["endpoints"][0]["state"]


@pytest.mark.parametrize(("state", "newest"), [("fresh", TOP - HOUR), ("stale", TOP - 5 * HOUR)])
def test_old_rows_are_stale(state: str, newest: float) -> None:
    """A history that is polled with success, and whose newest settled row is too old, is stale."""
    rows = tuple(HistoryRow(newest - HOUR * back, HOUR, 1.0) for back in reversed(range(3)))
    known = snapshot.with_history(well(HISTORY), rows, Meaning.HOURLY, NOW)
    (endpoint,) = document(shown("a", known, HISTORY))["sites"][0]["endpoints"]

    assert (state, state == "stale") == (endpoint["state"], endpoint["old_rows"])


def test_a_history_that_was_forgotten_is_stale() -> None:
    """An empty answer after one with rows: nothing is shown as now, and the graph is of what was known."""
    rows = (HistoryRow(TOP - 2 * HOUR, HOUR, 1.0),)
    empty = snapshot.with_history(well(HISTORY), (), Meaning.HOURLY, NOW)
    full = snapshot.with_history(well(HISTORY), rows, Meaning.HOURLY, NOW)
    forgotten = snapshot.with_history(full, (), Meaning.HOURLY, NOW)
    states = [document(shown("a", known, HISTORY))["sites"][0]["state"] for known in (empty, full, forgotten)]

    assert ["fresh", "fresh", "stale"] == states
    assert "as last known" in page(shown("a", forgotten, HISTORY))
    assert "as last known" not in page(shown("a", full, HISTORY))


def test_a_site_is_as_its_worst_endpoint() -> None:
    """And all sites are counted by their states, those on other pages too."""
    mixed = broken(well(HISTORY))
    found = document(shown("a", mixed, PAYOUT, HISTORY), shown("b", well()), which=Wanted("b"))

    assert {"stale": 1, "failing": 0, "waiting": 0, "fresh": 1} == found["states"]
    assert ["b"] == [site["site"] for site in found["sites"]]


def test_the_worst_come_first() -> None:
    """Then by name."""
    sites = [shown("a", well()), shown("d", broken(Snapshot())), shown("c", Snapshot()), shown("b", well())]

    assert ["d", "c", "a", "b"] == names(*sites)


def test_sites_are_shown_by_the_page() -> None:
    """Twenty a page; a page that there is not is the nearest one."""
    sites = [shown(f"site-{number:02}", well()) for number in range(45)]

    assert names(*sites) == names(*sites, which=Wanted(page=0))
    assert ["site-40", "site-44"] == names(*sites, which=Wanted(page=3))[::4]
    assert names(*sites, which=Wanted(page=3)) == names(*sites, which=Wanted(page=99))
    assert 'href="?page=2"' in page(*sites)
    assert ["site-07", "site-13"] == names(*sites, which=Wanted(page=2, per_page=7))[::6]
    assert 'href="?site=site&amp;per_page=7&amp;page=3"' in page(*sites, which=Wanted("site", 2, 7))


@pytest.mark.parametrize(
    ("expected", "query"),
    [
        (Wanted("", 1), b""),
        (Wanted("a b", 2), b"site=a+b&page=2"),
        (Wanted("", 1), b"page=-1"),
        (Wanted("", 1), b"page=1e9&other=1"),
        (Wanted("\ufffd", 1), b"site=%ff&page=99999999999999999999"),
        (Wanted("", 1, 500), b"per_page=9999"),
        (Wanted("", 1, 1), b"per_page=0"),
        (Wanted("", 1, 20), b"per_page=%c2%b2&page=%c2%b2"),
    ],
)
def test_what_is_wanted(expected: Wanted, query: bytes) -> None:
    """What cannot be read is as if it had not been given."""
    assert expected == status.wanted(query)


@given(st.binary())
def test_any_query_is_read(query: bytes) -> None:
    """Nothing that stands behind a question mark raises."""
    assert status.wanted(query).page >= 0


def test_what_an_endpoint_says() -> None:
    """Last result, when, how long, what is next, and the outages, the newest first."""
    known = broken(broken(well(), "tls"), "dns", WALL + 60)
    (endpoint,) = document(shown("a", known), now=later(60))["sites"][0]["endpoints"]
    outages = [(each["reason"], each["detail"], each["polls"]) for each in endpoint["outages"]]

    assert ("dns", WALL + 60, WALL, WALL + 120) == tuple(
        endpoint[key] for key in ("last_result", "last_poll", "last_success", "next_poll")
    )
    assert (3, 2) == (endpoint["polls"], endpoint["failures"])
    assert [("dns", "in words", 1), ("tls", "in words", 1)] == outages


def test_outages_are_told_after_they_are_over() -> None:
    """A success is the last result, and the failures before it are still there."""
    text = page(shown("a", well(known=broken(well(), "tls"))))

    assert "success" in text
    assert "<strong>tls</strong>: in words" in text


def test_refused_users_are_told_by_place() -> None:
    """Their names are nobody's business; without `watch_users` nothing is said."""
    known = snapshot.with_watched(well(), (User("johnd", 1, 0, 0),), ((1, "unknown_user"),), NOW)

    assert "watch_users[1] (unknown_user)" in page(shown("a", known, PAYOUT, Endpoint.BALANCES))
    assert "watch_users" not in page(shown("a", known))
    assert "johnd" not in page(shown("a", known, PAYOUT, Endpoint.BALANCES))


def test_the_process_is_described() -> None:
    """Version, uptime, size of the page, the shard; what stands still and a refused config stand out."""
    bad = page(config_accepted=False, standing_still=["a /user/top"], shard=2, total_shards=3)
    good = page(page_bytes=0)

    assert [True] * 4 == [text in bad for text in ("1.2.3", "1 min 30 s", "2 KiB", "2 of 3")]
    assert "1 stand still" in bad
    assert "a /user/top" in bad
    assert "was refused" in bad
    assert "not scraped yet" in good
    assert "was refused" not in good


def test_links_begin_with_the_external_url() -> None:
    """Those to other pages; the form and further pages of this one stay where it was opened."""
    found = document(*[shown(f"site-{number:02}", well()) for number in range(21)], on_metrics=False)
    text = status.html(found, "https://host/path/").decode()

    assert 'href="https://host/path/metrics"' in text
    assert 'href="https://host/path/probe?target=site-00"' in text
    assert "<form>" in text
    assert 'href="?page=2"' in text
    assert b'href="metrics"' in status.html(found, "")


def test_a_process_without_sites_says_why() -> None:
    """A shard's share can be empty, and that is not a name that nobody has."""
    assert "share of them is empty" in page()
    assert "No site has such a name" in page(shown("a", well()), which=Wanted("b"))


class Page(HTMLParser):
    """What a browser would make of a page: its elements, its text, and whether all that opens closes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.said: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not [name for name, _ in attrs if name.startswith("on") or name == "style"]
        self.tags.append(tag)
        if tag not in VOID | OPTIONAL:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag not in OPTIONAL:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said.append(data)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.text(), st.text(max_size=9))
def test_no_text_is_markup(name: str, reason: str, wanted: str) -> None:
    """Whatever a site is called, whatever is asked for: the same elements, and the name as text."""
    known, plain = broken(well(), reason), broken(well())
    texts = [
        page(shown(name, known), shown("b", well()), which=Wanted(site))
        for name, known, site in ((name, known, ""), ("a", plain, ""))
    ]
    odd, usual = (Page(text) for text in texts)

    assert sorted(usual.tags) == sorted(odd.tags)
    assert [] == odd.open
    assert name in "".join(odd.said)
    assert "script" not in Page(page(shown("a", plain), which=Wanted(wanted))).tags


rates = st.floats(0, 1e18)
weeks = st.dictionaries(st.integers(-3, 500), rates, max_size=200)


@given(weeks, st.sets(st.sampled_from(Endpoint)), st.booleans(), st.floats(0, 1e6))
def test_whatever_is_known_is_shown(
    week: dict[int, float], polled: set[Endpoint], failing: bool, after: float
) -> None:
    """Any history, any endpoints answered or not, at any time: a page and a document, never an exception."""
    rows = tuple(HistoryRow(TOP - HOUR * back, week[back], week[back]) for back in sorted(week, reverse=True))
    known = snapshot.with_history(Snapshot(), rows, Meaning.HOURLY, NOW) if HISTORY in polled else Snapshot()
    if PAYOUT in polled:
        known = snapshot.with_payout(known, Payout(1, 0, 0, 1e-12, 0), NOW)
    if Endpoint.ALL_USERS in polled:
        known = snapshot.with_all_users(known, snapshot.AllUsers(1, 1.0, 0.0, -1e-9), NOW)
    if Endpoint.BALANCES in polled:
        known = snapshot.with_watched(known, (), ((0, "unknown_user"),), NOW)
    for endpoint in polled:
        known = snapshot.succeeded(known, endpoint, at=WALL, rejected=0, next_poll=WALL + 60)
    site = shown("a", broken(known) if failing else known, *Endpoint)

    assert [] == Page(page(site, now=later(after))).open
    assert json.dumps(document(site, now=later(after)), allow_nan=False)


def test_the_document_is_json() -> None:
    """All of it, a week of hours included, and the page shows it."""
    rows = tuple(HistoryRow(TOP - HOUR * back, HOUR * 5, 5.0) for back in reversed(range(168)))
    known = snapshot.with_history(well(HISTORY), rows, Meaning.HOURLY, NOW)
    found = document(shown("a", known, PAYOUT, HISTORY))

    assert found == json.loads(json.dumps(found))
    assert 168 == len(found["sites"][0]["history"])
    assert 5.0 == found["sites"][0]["values"]["cryptoloot_hashrate_hashes_per_second"]
    assert "100 % of usual" in page(shown("a", known, PAYOUT, HISTORY))


@pytest.mark.parametrize(
    ("expected", "seconds"),
    [("0 s", 0), ("12 ms", 0.012), ("59 s", 59), ("1 min 1 s", 61), ("1 h 2 min", 3700), ("1 d 1 h", 90000)],
)
def test_durations_are_spelled_out(expected: str, seconds: float) -> None:
    """With their two largest units, and below a second in milliseconds."""
    assert expected == status._spell(seconds)


@pytest.mark.parametrize(
    ("expected", "value"),
    [("0 ", 0), ("999 ", 999), ("1 k", 999.9), ("12.3 k", 12345), ("1.75 G", 1.749e9), ("1 E", 1e18)],
)
def test_large_numbers_have_three_digits(expected: str, value: float) -> None:
    """And a prefix, the next one before they would be rounded to four."""
    assert expected == status._si(value)


@pytest.mark.parametrize(
    ("expected", "amount"),
    [("0", 0), ("2.5", 2.5), ("0.0000934", 0.0000934), ("4e-09", 4e-9), ("-1e-10", -1e-10)],
)
def test_amounts_are_not_rounded_away(expected: str, amount: float) -> None:
    """Eight decimals as the API has them, and what is less with three digits."""
    assert expected == status._coins(amount)
