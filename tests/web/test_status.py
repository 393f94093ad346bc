"""The status: what state a site is in, what is kept of its failures, which sites come first."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec import structs

from exporter.api.answers import Entries, HistoryRow, User
from exporter.clock import Now
from exporter.collectors.all_users import ALL_USERS, Sums
from exporter.collectors.history import HISTORY
from exporter.collectors.payout import PAYOUT
from exporter.collectors.snapshot import Snapshot
from exporter.collectors.users import BALANCES, TOP_USERS, WatchedAnswer
from exporter.config.secret import CONTROL
from exporter.endpoint import Reason
from exporter.pages.pages import ExportedSite
from exporter.web import status
from exporter.web.status import LoadStatus, Selection
from tests.conftest import WALL
from tests.web.sites import NOW, PAYOUT_ANSWER, PROCESS, answered, broken, site, well

if TYPE_CHECKING:
    from exporter.endpoint import Endpoint

HOUR = 3600
TOP = WALL - WALL % HOUR
SITE = site()
EVERY = Selection()
WELL = well(SITE)
VOID = {"meta", "link", "path", "input", "br"}
OPTIONAL = {"th", "td", "tr", "li"}  # their ends may be left out


def later(seconds: float) -> Now:
    return Now(NOW.wall + seconds, NOW.mono + seconds)


def shown(name: str, snapshot: Snapshot, **options: Any) -> ExportedSite:
    """Return a site of this name."""
    return ExportedSite(structs.replace(site(**options), name=name), snapshot, 100, 3)


def document(*sites: ExportedSite, which: Selection = EVERY, now: Now = NOW, **facts: Any) -> dict[str, Any]:
    return status.status_document(PROCESS._replace(**facts), status.ranked_sites(sites, now), which, now)


def page(*sites: ExportedSite, **options: Any) -> str:
    return status.render_html(document(*sites, **options), "").decode()


def names(*sites: ExportedSite, **options: Any) -> list[str]:
    return [each["site"] for each in document(*sites, **options)["sites"]]


def hours(newest: float, count: int = 3, hashes: float = HOUR, rate: float = 1.0) -> tuple[HistoryRow, ...]:
    """Return hourly rows, the oldest first."""
    return tuple(HistoryRow(newest - HOUR * back, hashes, rate) for back in reversed(range(count)))


@pytest.mark.parametrize(
    ("state", "known", "after"),
    [
        ("waiting", Snapshot(), 0),
        ("fresh", WELL, 0),
        ("fresh", WELL, 300),
        ("failing", broken(WELL), 300),
        ("stale", broken(WELL), 301),
        ("stale", WELL, 301),
        ("stale", broken(Snapshot()), 0),
    ],
)
def test_the_state_of_an_endpoint(state: str, known: Snapshot, after: float) -> None:
    """Waiting before the first poll; failing while old values are shown; stale when none are."""
    (found,) = document(shown("a", known), now=later(after))["sites"]

    assert state == found["state"] == found["endpoints"][0]["state"]


@pytest.mark.parametrize(("state", "newest"), [("fresh", TOP - HOUR), ("stale", TOP - 5 * HOUR)])
def test_old_rows_are_stale(state: str, newest: float) -> None:
    """A history that is polled with success, and whose newest settled row is too old, is stale."""
    endpoint = document(shown("a", well(SITE, hours(newest))))["sites"][0]["endpoints"][1]

    assert (state, state == "stale") == (endpoint["state"], endpoint["old_rows"])


def test_a_history_that_was_forgotten_is_stale() -> None:
    """An empty answer after one with rows: nothing is shown as now, and the graph is of what was known."""
    full = well(SITE, hours(TOP - 2 * HOUR, 1))
    forgotten = answered(SITE, full, HISTORY, Entries(()))
    states = [document(shown("a", known))["sites"][0]["state"] for known in (WELL, full, forgotten)]

    assert ["fresh", "fresh", "stale"] == states
    assert "as last known" in page(shown("a", forgotten))
    assert "as last known" not in page(shown("a", full))


def test_a_site_is_as_its_worst_endpoint() -> None:
    """And all sites are counted by their states, those on other pages too."""
    mixed = broken(answered(SITE, Snapshot(), HISTORY, Entries(())))
    found = document(shown("a", mixed), shown("b", WELL), which=Selection("b"))

    assert {"stale": 1, "failing": 0, "waiting": 0, "fresh": 1} == found["states"]
    assert ["b"] == [each["site"] for each in found["sites"]]


def test_the_worst_come_first() -> None:
    """Then by name."""
    sites = [shown("a", WELL), shown("d", broken(Snapshot())), shown("c", Snapshot()), shown("b", WELL)]

    assert ["d", "c", "a", "b"] == names(*sites)


def test_sites_are_shown_by_the_page() -> None:
    """Twenty a page; a page that there is not is the nearest one."""
    sites = [shown(f"site-{number:02}", WELL) for number in range(45)]

    assert names(*sites) == names(*sites, which=Selection(page=0))
    assert ["site-40", "site-44"] == names(*sites, which=Selection(page=3))[::4]
    assert names(*sites, which=Selection(page=3)) == names(*sites, which=Selection(page=99))
    assert 'href="?page=2"' in page(*sites)
    assert ["site-07", "site-13"] == names(*sites, which=Selection(page=2, per_page=7))[::6]
    assert 'href="?site=site&amp;per_page=7&amp;page=3"' in page(*sites, which=Selection("site", 2, 7))


@pytest.mark.parametrize(
    ("expected", "query"),
    [
        (Selection("", 1), b""),
        (Selection("a b", 2), b"site=a+b&page=2"),
        (Selection("", 1), b"page=-1"),
        (Selection("", 1), b"page=1e9&other=1"),
        (Selection("\ufffd", 1), b"site=%ff&page=99999999999999999999"),
        (Selection("", 1, 500), b"per_page=9999"),
        (Selection("", 1, 1), b"per_page=0"),
        (Selection("", 1, 20), b"per_page=%c2%b2&page=%c2%b2"),
    ],
)
def test_what_is_selected(expected: Selection, query: bytes) -> None:
    """What cannot be read is as if it had not been given."""
    assert expected == status.parse_selection(query)


@given(st.binary())
def test_any_query_is_read(query: bytes) -> None:
    """Nothing that stands behind a question mark raises."""
    assert status.parse_selection(query).page >= 0


def test_what_an_endpoint_says() -> None:
    """Last result, when, how long, what is next, and the outages, the newest first."""
    known = broken(broken(WELL, "tls"), "dns", WALL + 60)
    endpoint, *_ = document(shown("a", known), now=later(60))["sites"][0]["endpoints"]
    outages = [(each["reason"], each["detail"], each["polls"]) for each in endpoint["outages"]]

    assert ("dns", WALL + 60, WALL, WALL + 120) == tuple(
        endpoint[key] for key in ("last_result", "last_poll", "last_success", "next_poll")
    )
    assert (3, 2) == (endpoint["polls"], endpoint["failures"])
    assert [("dns", "in words", 1), ("tls", "in words", 1)] == outages


def test_outages_are_told_after_they_are_over() -> None:
    """A success is the last result, and the failures before it are still there."""
    text = page(shown("a", answered(SITE, broken(WELL, "tls"), PAYOUT, PAYOUT_ANSWER)))

    assert "success" in text
    assert "<strong>tls</strong>: in words" in text


def test_refused_users_are_told_by_place() -> None:
    """Their names are nobody's business; without `watch_users` nothing is said."""
    watching = site(watch_users=("johnd", "maria"))
    answer = WatchedAnswer((User("johnd", 1, 0, 0),), ((1, Reason.UNKNOWN_USER),))
    text = page(ExportedSite(watching, answered(watching, WELL, BALANCES, answer), 100, 3))

    assert "watch_users[1] (unknown_user)" in text
    assert "watch_users" not in page(shown("a", WELL))
    assert "johnd" not in text


def test_the_process_is_described() -> None:
    """Version, uptime, size of the page, the shard; what stands still and a refused config stand out."""
    load = LoadStatus(WALL - 90).with_refusal("reload_failed")
    bad = page(load=load, stuck_loops=["a /user/top"], shard=2, total_shards=3)
    good = page(full_bytes=0)

    assert [True] * 4 == [text in bad for text in ("1.2.3", "1 min 30 s", "2 KiB", "2 of 3")]
    assert "1 stand still" in bad
    assert "a /user/top" in bad
    assert "was refused" in bad
    assert "not scraped yet" in good
    assert "was refused" not in good


def test_links_begin_with_the_external_url() -> None:
    """Those to other pages; the form and further pages of this one stay where it was opened."""
    found = document(*[shown(f"site-{number:02}", WELL) for number in range(21)], on_metrics=False)
    text = status.render_html(found, "https://host/path/").decode()

    assert 'href="https://host/path/metrics"' in text
    assert 'href="https://host/path/probe?target=site-00"' in text
    assert "<form>" in text
    assert 'href="?page=2"' in text
    assert b'href="metrics"' in status.render_html(found, "")


def test_a_process_without_sites_says_why() -> None:
    """A shard's share can be empty, and that is not a name that nobody has."""
    assert "share of them is empty" in page()
    assert "No site has such a name" in page(shown("a", WELL), which=Selection("b"))


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
    known, plain = broken(WELL, reason), broken(WELL)
    texts = [
        page(shown(name, known), shown("b", WELL), which=Selection(site))
        for name, known, site in ((name, known, ""), ("a", plain, ""))
    ]
    odd, usual = (Page(text) for text in texts)

    assert sorted(usual.tags) == sorted(odd.tags)
    assert [] == odd.open
    assert name in "".join(odd.said)
    assert "script" not in Page(page(shown("a", plain), which=Selection(wanted))).tags


rates = st.floats(0, 1e18)
weeks = st.dictionaries(st.integers(-3, 500), rates, max_size=200)
WATCHING = site(watch_users=("johnd",), all_users={"enabled": True})
ANSWERS: dict[Endpoint, Any] = {
    PAYOUT: PAYOUT_ANSWER,
    TOP_USERS: Entries((User("johnd", 1, 0, 0),)),
    ALL_USERS: Sums(1, 1.0, 0.0, -1e-9),
    BALANCES: WatchedAnswer((), ((0, Reason.UNKNOWN_USER),)),
}


@given(weeks, st.sets(st.sampled_from([HISTORY, *ANSWERS])), st.booleans(), st.floats(0, 1e6))
def test_whatever_is_known_is_shown(
    week: dict[int, float], polled: set[Endpoint], failing: bool, after: float
) -> None:
    """Any history, any endpoints answered or not, at any time: a page and a document, never an exception."""
    # Without a row of the last week, or with most of them in the future, there is no answer to show.
    past = [back for back in week if back >= 0]
    assume(not week or (past and min(past) < 190 and 2 * len(past) >= len(week)))
    rows = tuple(HistoryRow(TOP - HOUR * back, week[back], week[back]) for back in sorted(week, reverse=True))
    known = Snapshot()
    for endpoint, answer in {HISTORY: Entries(rows), **ANSWERS}.items():
        if endpoint in polled:
            known = answered(WATCHING, known, endpoint, answer)
    found = ExportedSite(WATCHING, broken(known) if failing else known, 100, 3)

    assert [] == Page(page(found, now=later(after))).open
    assert json.dumps(document(found, now=later(after)), allow_nan=False)


def test_a_site_without_a_row_has_no_graph() -> None:
    """Nothing is drawn of nothing."""
    assert "<svg" in page(shown("a", well(SITE, hours(TOP, 1))))
    assert "<svg" not in page(shown("a", WELL))


def test_the_document_is_json() -> None:
    """All of it, a week of hours included, and the page shows it."""
    known = well(SITE, hours(TOP, 168, HOUR * 5, 5.0))
    found = document(shown("a", known))

    assert found == json.loads(json.dumps(found))
    assert 168 == len(found["sites"][0]["history"])
    assert 5.0 == found["sites"][0]["values"]["cryptoloot_hashrate_hashes_per_second"]
    assert "100 % of expected" in page(shown("a", known))


@given(
    st.binary(max_size=30) | st.sampled_from([b"site=%00", b"site=%C2%85x", b"site=%E2%80%A8", b"site=\x7f"])
)
def test_the_query_puts_no_control_character_into_the_page(query: bytes) -> None:
    """Whatever is asked for, the page that repeats it has no control character but its own line breaks."""
    for sent in (query, b"site=" + query):
        text = page(shown("a", WELL), which=status.parse_selection(sent))
        assert [] == [character for character in text if CONTROL.match(character) and character != "\n"]
