from __future__ import annotations

import gzip
import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.api.answers import HistoryRow, Payout, User
from exporter.clock import Now
from exporter.collectors import metrics
from exporter.collectors.metrics import GROUPS, ExporterMetrics, Family, Subject
from exporter.collectors.snapshot import (
    Snapshot,
    Store,
    failed,
    planned,
    with_history,
    with_payout,
    with_top_users,
)
from exporter.endpoint import Endpoint
from exporter.pages import pages
from exporter.pages.pages import Compressor, Pages
from exporter.pages.text import Format, render
from tests.conftest import WALL, parsed

if TYPE_CHECKING:
    from collections.abc import Callable

HOUR = 3600.0
NOW = Now(WALL, 1000.0)
SITES = ("a", "b")
PAYOUT = Payout(1, 2, 3, 4, 5)
amounts = st.floats(0, 1e12) | st.integers(0, 10**12).map(float)
users = st.lists(
    st.builds(User, st.sampled_from(["ann", 'b"ob', "c\\d", "é\n"]), amounts, amounts, amounts),
    unique_by=lambda user: user.name,
)
# So many, with names so long, that each family is a step and is compressed on its own.
crowd = st.builds(
    lambda count, total: [User(f"{number:060}", total + number, 1, 2) for number in range(count)],
    st.integers(pages.MANY, pages.MANY + 2),
    amounts,
)
rows = st.lists(
    st.builds(HistoryRow, st.integers(-8, 1).map(lambda hours: WALL + hours * HOUR), amounts, amounts),
    unique_by=lambda row: row.synctime,
).map(lambda found: tuple(sorted(found, key=lambda row: row.synctime)))
steps = st.sampled_from([0.0, 0.5, 1.0, 59.0, 60.0, 300.0, 301.0, 900.0, HOUR, 4 * HOUR]) | st.floats(0, 1e4)


def a_store(*sites: str) -> Store:
    store = Store()
    for site in sites:
        store.publish(site, planned(Snapshot(), Endpoint.PAYOUT, WALL))
    return store


def subjects_of(*sites: str) -> list[Subject]:
    config = parsed("http://127.0.0.1:1", *sites)
    return [metrics.subject(config, site) for site in config.sites]


def pages_of(store: Store, *sites: str) -> Pages:
    return Pages(store, ExporterMetrics("1.2.3", "abc"), subjects_of(*sites))


def text_of(shown: Pages, now: Now) -> bytes:
    return shown.edition(now).page(Format.TEXT).body


def at(seconds: float) -> Now:
    return Now(WALL + seconds, seconds)


def together(subjects: list[Subject], store: Store, now: Now) -> list[Family]:
    """Return the families of all sites, rendered from scratch, as a page has them."""
    found = [
        family for subject in subjects for family in metrics.site_families(subject, store[subject.name], now)
    ]
    return [family for metric in metrics.SITE_METRICS for family in found if family.metric is metric]


def joined(families: list[Family], format_: Format) -> bytes:
    """Render families of which several may be of one metric, each metric with one header."""
    seen: dict[str, bytes] = {}
    for family in families:
        page = render([family], format_).removesuffix(format_.end)
        head, _, samples = page.partition(f"{family.metric.name}{{".encode())
        if page:
            known = seen.get(family.metric.name, head)
            seen[family.metric.name] = known + f"{family.metric.name}{{".encode() + samples
    return b"".join(seen.values())


class TwoSites(RuleBasedStateMachine):
    """Polls, failures and time, in any order; the clock on the wall may be set, forwards or back."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.store = a_store(*SITES)
        self.subjects = subjects_of(*SITES)
        self.pages = pages_of(self.store, *SITES)

    def publish(self, site: str, change: Callable[[Snapshot], Snapshot]) -> None:
        self.store.publish(site, change(self.store[site]))

    @rule(site=st.sampled_from(SITES), value=amounts)
    def payout(self, site: str, value: float) -> None:
        self.publish(site, lambda known: with_payout(known, Payout(value, 2, 3, 4, 5), self.now))

    @rule(site=st.sampled_from(SITES), rows=rows)
    def history(self, site: str, rows: tuple[HistoryRow, ...]) -> None:
        self.publish(site, lambda known: with_history(known, rows, "hourly", self.now))

    @rule(site=st.sampled_from(SITES), users=users | crowd)
    def top_users(self, site: str, users: list[User]) -> None:
        self.publish(site, lambda known: with_top_users(known, tuple(users), self.now))

    @rule(site=st.sampled_from(SITES))
    def failure(self, site: str) -> None:
        record = {"at": self.now.wall, "reason": "dns", "next_poll": self.now.wall + 60}
        self.publish(site, lambda known: failed(known, Endpoint.PAYOUT, **record))  # type: ignore[arg-type]

    @rule(seconds=steps)
    def time(self, seconds: float) -> None:
        self.now = Now(self.now.wall + seconds, self.now.mono + seconds)

    @rule(seconds=steps | steps.map(lambda seconds: -seconds))
    def clock_set(self, seconds: float) -> None:
        self.now = self.now._replace(wall=self.now.wall + seconds)

    @rule(count=st.integers(1, 12))
    def steps(self, count: int) -> None:
        """Begin to render, and leave off anywhere."""
        self.pages.backlog(self.now)
        for _ in range(count):
            self.pages.step(self.now)

    @rule(sites=st.lists(st.sampled_from(SITES), unique=True), slow=st.booleans())
    def show(self, sites: list[str], slow: bool) -> None:
        """Show others, or the same sites otherwise configured."""
        interval = "2m" if slow else "1m"
        poll = {"payout": {"interval": interval}}
        config = parsed("http://127.0.0.1:1", *SITES, poll=poll)
        self.subjects = [metrics.subject(config, site) for site in config.sites if site.name in sites]
        self.pages.show(self.subjects)

    @rule()
    def pages_are_as_if_made_from_scratch(self) -> None:
        for format_ in Format:
            everything = joined(together(self.subjects, self.store, self.now), format_)
            full = self.pages.edition(self.now).page(format_)
            assert full.body.startswith(everything)
            assert full.length == len(full.body)
            for subject in self.subjects:
                edition = self.pages.site(subject.name, self.now)
                assert edition is not None
                alone = joined(together([subject], self.store, self.now), format_) + format_.end
                assert alone == edition.page(format_).body
                assert alone == gzip.decompress(edition.page(format_, zipped=True).body)


TestPagesAreAsIfMadeFromScratch = TwoSites.TestCase
TestPagesAreAsIfMadeFromScratch.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


@given(rows, st.floats(0, 3e4), st.floats(0, 1))
def test_nothing_changes_before_it_is_said_to(
    rows: tuple[HistoryRow, ...], later: float, part: float
) -> None:
    """All views are equal at any moment up to the one that is named."""
    (subject,) = subjects_of("a")
    known = with_history(with_payout(Snapshot(), PAYOUT, at(0)), rows, "hourly", at(500))
    known = with_top_users(known, (User("ann", 1, 2, 3),), at(100))
    now = at(later)
    until = metrics.unchanged_until(subject, known, now)
    left = max(0.0, min(until.wall - now.wall, until.mono - now.mono, 1e5))
    then = Now(now.wall + left * part, now.mono + left * part)

    views = [[group.view(subject, known, moment) for group in GROUPS] for moment in (now, then)]
    assert views[0] == views[1]


def test_a_step_is_one_site_at_most() -> None:
    """However many sites fall behind at once, others have their turn after each of them."""
    names = [f"site{number}" for number in range(30)]
    shown = pages_of(a_store(*names), *names)
    shown.backlog(at(0))
    steps = 0
    while shown.step(at(0)):
        steps += 1
        assert shown.done <= steps

    assert len(names) == shown.done


def of_sites(page: bytes) -> list[bytes]:
    return [line for line in page.splitlines() if b"site=" in line]


class Unwritable(float):
    """A number that cannot be written while `fails` is true."""

    fails = True

    def __repr__(self) -> str:
        if self.fails:
            raise MemoryError
        return super().__repr__()


def test_what_cannot_be_rendered_stays_as_it_was() -> None:
    """A fault in a site's data leaves its page and the others alone, and is tried again ten seconds later."""
    total = Unwritable(1)
    store = a_store("a", "b")
    shown = pages_of(store, "a", "b")
    before = text_of(shown, at(0))
    store.publish("a", with_top_users(store["a"], (User("ann", total, 0, 0),), at(1)))
    after = text_of(shown, at(1))
    store.publish("b", with_payout(store["b"], PAYOUT, at(2)))
    total.fails = False

    assert of_sites(before) == of_sites(after)
    assert b'cryptoloot_network_difficulty{site="b"}' in text_of(shown, at(2))
    assert b'user="ann"' not in text_of(shown, at(10))
    assert b'user="ann"' in text_of(shown, at(11))


def test_a_page_is_made_once() -> None:
    """The same bytes object is handed out until something changes."""
    store = a_store("a", "b")
    shown = pages_of(store, "a", "b")
    first = shown.edition(at(0)).page(Format.TEXT)

    assert first is shown.edition(at(0.5)).page(Format.TEXT)
    store.publish("a", with_payout(store["a"], PAYOUT, at(0.5)))
    assert first is not shown.edition(at(0.5)).page(Format.TEXT)


def test_one_sites_change_leaves_the_others_parts() -> None:
    """A poll renders its own site; another site's edition stays the same object."""
    store = a_store("a", "b")
    shown = pages_of(store, "a", "b")
    before = {site: shown.site(site, at(0)) for site in ("a", "b")}
    store.publish("a", with_payout(store["a"], PAYOUT, at(0)))
    after = {site: shown.site(site, at(0)) for site in ("a", "b")}

    assert before["a"] is not after["a"]
    assert before["b"] is after["b"]


def test_a_family_that_is_equal_is_not_rendered_again() -> None:
    """When totals move and nobody withdraws, the withdrawn coins' part stays the same object."""
    store = a_store("a")
    shown = pages_of(store, "a")
    parts = []
    for total in (1.0, 2.0):
        users = tuple(User(f"user-{n}", n + total, n, n) for n in range(500))
        store.publish("a", with_top_users(store["a"], users, at(0)))
        found = shown.edition(at(0)).sites[0]
        parts.append(dict(zip([metric.name for metric in metrics.SITE_METRICS], found, strict=True)))

    kept = "cryptoloot_user_withdrawn_coins_total"
    assert parts[0][kept] is parts[1][kept]
    assert parts[0]["cryptoloot_user_hashes_total"] is not parts[1]["cryptoloot_user_hashes_total"]


def test_the_exporters_own_metrics_are_a_second_old_at_most() -> None:
    """A page older than a second is made anew, though no site has changed."""
    shown = pages_of(a_store("a"), "a")
    first = shown.edition(at(0))

    assert first is shown.edition(at(0.9))
    assert first is not shown.edition(at(1.0))


def test_values_leave_though_nothing_was_polled() -> None:
    """Time alone takes a stale value off the page."""
    store = a_store("a")
    store.publish("a", with_payout(store["a"], PAYOUT, at(0)))
    shown = pages_of(store, "a")

    assert b"cryptoloot_network_difficulty{" in text_of(shown, at(300.0))
    assert b"cryptoloot_network_difficulty{" not in text_of(shown, at(300.01))


@pytest.mark.parametrize(
    ("format_", "parse"), [(Format.TEXT, parse_text), (Format.OPENMETRICS, parse_openmetrics)]
)
def test_the_page_is_read_by_prometheus_client(format_: Format, parse: object) -> None:
    """prometheus-client's parsers read both formats, and no `_created` sample is there."""
    page = pages_of(a_store("a"), "a").edition(at(0)).page(format_).body.decode()
    names = [sample.name for family in parse(page) for sample in family.samples]  # type: ignore[operator]

    assert "cryptoloot_polls_total" in names
    assert "process_resident_memory_bytes" in names
    assert [name for name in names if name.endswith("_created")] == []


@pytest.mark.parametrize("count", [0, 1, 700, 3000])
def test_a_gzip_page_is_one_member(count: int) -> None:
    """However many parts were compressed before, a reader that stops at the first member has all of it."""
    store = a_store("a", "b")
    for site in ("a", "b"):
        users = tuple(User(f"{site}-{n}", n * 1e5, n, n) for n in range(count))
        store.publish(site, with_top_users(store[site], users, at(0)))
    edition = pages_of(store, "a", "b").edition(at(0))
    reader = zlib.decompressobj(31)
    plain = reader.decompress(edition.page(Format.TEXT, zipped=True).body)

    assert edition.page(Format.TEXT).body == plain
    assert (True, b"") == (reader.eof, reader.unused_data)


@given(st.lists(st.integers(0, 3 * pages.PIECE), max_size=6))
def test_pieces_are_the_page(sizes: list[int]) -> None:
    """Cutting loses nothing, and no piece is longer than two of the usual ones."""
    chunks = [bytes([number]) * size for number, size in enumerate(sizes)]
    pieces = list(pages._pieces(chunks))

    assert b"".join(chunks) == b"".join(pieces)
    assert all(0 < len(piece) <= 2 * pages.PIECE for piece in pieces)


class Breaking:
    """A stream that fails after it has taken something."""

    def __init__(self) -> None:
        self.real = zlib.compressobj(wbits=-15)

    def compress(self, plain: bytes) -> bytes:
        return self.real.compress(plain)

    def flush(self, _mode: int) -> bytes:
        raise MemoryError


def test_a_stream_that_failed_is_not_used_again() -> None:
    """What was half taken never comes out with the next part."""
    streams = iter((Breaking(), zlib.compressobj(wbits=-15)))
    deflated = Compressor(lambda: next(streams))
    with pytest.raises(MemoryError):
        deflated(b"first")

    assert zlib.decompressobj(-15).decompress(deflated(b"second")) == b"second"


def test_size_and_series_are_the_last_pages() -> None:
    """The gauges of page size and series describe the last full text page, whichever format was asked for."""
    store = a_store("a")
    shown = pages_of(store, "a")
    shown.edition(at(0)).page(Format.OPENMETRICS)
    text = text_of(shown, at(0)).decode()
    shown.edition(at(0)).page(Format.OPENMETRICS)
    later = text_of(shown, at(2)).decode()
    samples = [line for line in text.splitlines() if not line.startswith("#")]

    gauges = dict(line.rsplit(" ", 1) for line in later.splitlines() if not line.startswith("#"))
    assert len(text) == float(gauges["cryptoloot_exporter_page_bytes"])
    assert len(samples) == float(gauges["cryptoloot_exporter_series"])


def test_sites_come_and_go() -> None:
    """A page shows the sites it is told to, and forgets the others."""
    shown = pages_of(a_store("a", "b"), "a", "b")
    shown.show(subjects_of("b"))
    page = text_of(shown, at(0))

    assert b'site="b"' in page
    assert b'site="a"' not in page
    assert shown.site("a", at(0)) is None


def test_sites_can_be_kept_off_metrics() -> None:
    """Off /metrics the full page has the exporter's own metrics alone, and its gauges say so."""
    shown = pages_of(a_store("a"), "a")
    shown.show(subjects_of("a"), on_metrics=False)
    page = text_of(shown, at(0)).decode()
    edition = shown.site("a", at(0))

    assert "site=" not in page
    assert f"cryptoloot_exporter_page_bytes {len(page)}.0" in text_of(shown, at(2)).decode()
    assert edition is not None
    assert b'cryptoloot_site_info{api_host="127.0.0.1:1"' in edition.page(Format.TEXT).body
    assert b"process_" not in edition.page(Format.TEXT).body
