"""The pages in force: what they show at any moment, and how little is rendered again."""

from __future__ import annotations

import asyncio
import gc
import gzip
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from structlog.testing import capture_logs

from exporter.api.answers import Entries, HistoryRow, Payout, User
from exporter.clock import Now
from exporter.collectors.all_users import ALL_USERS, Sums
from exporter.collectors.history import HISTORY
from exporter.collectors.payout import PAYOUT
from exporter.collectors.registry import SITE_METRICS
from exporter.collectors.users import BALANCES, TOP_USERS, WatchedAnswer
from exporter.endpoint import Reason
from exporter.pages import pages
from exporter.pages.text import Format
from tests.collectors.sites import families
from tests.conftest import WALL, examples
from tests.pages.exposed import Exposed, at, exposition, sites_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from exporter.collectors.metric import Family
    from exporter.collectors.snapshot import Store
    from exporter.config import Site

HOUR = 3600.0
NAMES = ("a", "b")
SOME_PAYOUT = Payout(1, 2, 3, 4, 5)
WATCHED = ("ann", "eve")
amounts = st.floats(0, 1e12) | st.integers(0, 10**12).map(float)
users = st.lists(
    st.builds(User, st.sampled_from(["ann", 'b"ob', "c\\d", "é\n"]), amounts, amounts, amounts),
    unique_by=lambda user: user.name,
).map(tuple)
watched_users = st.lists(
    st.builds(User, st.sampled_from(WATCHED), amounts, amounts, amounts), unique_by=lambda user: user.name
).map(tuple)
rows = st.lists(
    st.builds(HistoryRow, st.integers(-8, 1).map(lambda hours: WALL + hours * HOUR), amounts, amounts),
    unique_by=lambda row: row.synctime,
).map(tuple)
steps = st.sampled_from([0.0, 0.5, 1.0, 59.0, 60.0, 300.0, 301.0, 900.0, HOUR, 4 * HOUR]) | st.floats(0, 1e4)
sites_shown = st.lists(st.sampled_from(NAMES), unique=True)


def from_scratch(sites: Iterable[Site], store: Store, now: Now) -> list[Family]:
    """Return the families of all sites, made of nothing but their data, as a page has them."""
    every = [family for site in sites for family in families(site, store[site.name], now)]
    return [family for metric in SITE_METRICS for family in every if family.metric is metric]


def joined(every: list[Family], format_: Format) -> bytes:
    """Render families of which several may be of one metric, each metric with one header."""
    texts: dict[str, bytes] = {}
    for family in every:
        page = exposition([family], format_).removesuffix(format_.end)
        head, _, samples = page.partition(f"{family.metric.name}{{".encode())
        if page:
            before = texts.get(family.metric.name, head)
            texts[family.metric.name] = before + f"{family.metric.name}{{".encode() + samples
    return b"".join(texts.values())


def configured(names: Iterable[str], **sections: Any) -> list[Site]:
    """Return the sites of these names, which watch users and are polled for everything."""
    listed = [{"name": name, "secret": f"of-{name}", "watch_users": list(WATCHED)} for name in names]
    return list(sites_of(sites=listed, poll={"all_users": {"enabled": True}, **sections})) if listed else []


class TwoSites(RuleBasedStateMachine):
    """Polls, failures, reloads and time, in any order; the wall clock may be set, forwards or back."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.exposed = Exposed(*NAMES)
        self.shown = configured(NAMES)
        self.exposed.sites = {site.name: site for site in self.shown}
        self.exposed.pages.show(self.shown)

    def teardown(self) -> None:
        self.runner.close()

    @rule(name=st.sampled_from(NAMES), value=amounts)
    def payout(self, name: str, value: float) -> None:
        self.exposed.answer(name, PAYOUT, Payout(value, 2, 3, 4, 5))

    @rule(name=st.sampled_from(NAMES), rows=rows)
    def history(self, name: str, rows: tuple[HistoryRow, ...]) -> None:
        self.exposed.answer(name, HISTORY, Entries(rows))

    @rule(name=st.sampled_from(NAMES), users=users, rejected=st.integers(0, 2))
    def top_users(self, name: str, users: tuple[User, ...], rejected: int) -> None:
        self.exposed.answer(name, TOP_USERS, Entries(users, rejected))

    @rule(name=st.sampled_from(NAMES), users=watched_users)
    def balances(self, name: str, users: tuple[User, ...]) -> None:
        there = {user.name for user in users}
        refused = [(place, Reason.UNKNOWN_USER) for place, user in enumerate(WATCHED) if user not in there]
        self.exposed.answer(name, BALANCES, WatchedAnswer(users, tuple(refused)))

    @rule(name=st.sampled_from(NAMES), total=amounts)
    def all_users(self, name: str, total: float) -> None:
        self.exposed.answer(name, ALL_USERS, Sums(3, total, 1.0, 2.0))

    @rule(name=st.sampled_from(NAMES), endpoint=st.sampled_from([PAYOUT, ALL_USERS]))
    def failure(self, name: str, endpoint: Any) -> None:
        self.exposed.fail(name, endpoint, Reason.DNS)

    @rule(seconds=steps)
    def time(self, seconds: float) -> None:
        now = self.exposed.now
        self.exposed.now = Now(now.wall + seconds, now.mono + seconds)

    @rule(seconds=steps | steps.map(lambda seconds: -seconds))
    def clock_set(self, seconds: float) -> None:
        now = self.exposed.now
        self.exposed.now = now._replace(wall=now.wall + seconds)

    @rule(turns=st.integers(1, 3))
    def render(self, turns: int) -> None:
        """Begin to render what is outdated, and leave off anywhere."""

        async def leave_off() -> None:
            task = asyncio.create_task(self.exposed.pages.render_outdated())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()

        self.runner.run(leave_off())

    @rule(names=sites_shown, interval=st.sampled_from(["1m", "2m"]), age=st.sampled_from(["4h", "6h"]))
    def reload(self, names: list[str], interval: str, age: str) -> None:
        """Show others, or the same sites otherwise configured."""
        polls = {"payout": {"interval": interval}, "history": {"max_row_age": age}}
        self.shown = configured(names, **polls)
        self.exposed.sites |= {site.name: site for site in self.shown}
        self.exposed.pages.show(self.shown)

    @rule(format_=st.sampled_from(Format))
    def pages_are_as_if_made_from_scratch(self, format_: Format) -> None:
        self.runner.run(self.compare(format_))

    async def compare(self, format_: Format) -> None:
        store, now, exposed = self.exposed.store, self.exposed.now, self.exposed.pages
        full = await exposed.metrics(format_, zipped=False)
        everything = joined(from_scratch(self.shown, store, now), format_)
        assert full.startswith(everything)
        assert b"site=" not in full.removeprefix(everything)
        assert full == gzip.decompress(await exposed.metrics(format_, zipped=True))
        for site in self.shown:
            alone = joined(from_scratch([site], store, now), format_) + format_.end
            assert alone == await exposed.probe(site.name, format_, zipped=False)
            zipped = await exposed.probe(site.name, format_, zipped=True)
            assert alone == gzip.decompress(zipped or b"")


TestPagesAreAsIfMadeFromScratch = TwoSites.TestCase
TestPagesAreAsIfMadeFromScratch.settings = examples(1, stateful_step_count=20)


def test_a_turn_of_the_event_loop_renders_one_site_at_most() -> None:
    """However many sites are outdated at once, others have their turn after each of them."""
    names = [f"site{number}" for number in range(30)]
    exposed = Exposed(*names)

    async def turns() -> list[int]:
        counts = []
        task = asyncio.create_task(exposed.pages.render_outdated())
        while not task.done():
            await asyncio.sleep(0)
            counts.append(len(exposed.rendered()))
        return counts

    counts = asyncio.run(turns())
    assert [*range(1, 31)] == sorted({*counts})
    assert all(after - before <= 1 for before, after in zip([0, *counts], counts, strict=False))


def test_what_polls_bring_is_rendered_before_it_is_asked_for() -> None:
    """While `keep_rendered` runs, a change is rendered without a scrape."""
    exposed = Exposed("a", "b")

    async def render() -> tuple[list[str], int, int]:
        task = asyncio.create_task(exposed.pages.keep_rendered())
        for _ in range(5):
            await asyncio.sleep(0)
        rendered, before = exposed.rendered(), exposed.pages.overview()[1].bytes
        exposed.answer("b", PAYOUT, SOME_PAYOUT)
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        return rendered, before, exposed.pages.overview()[1].bytes

    rendered, before, after = asyncio.run(render())
    assert ["a", "b"] == rendered
    assert before < after


def test_a_probe_renders_its_own_site() -> None:
    """`/probe` of one site waits for no other."""
    exposed = Exposed("a", "b")
    exposed.probe("a")

    assert ["a"] == exposed.rendered()


def of_sites(page: bytes) -> list[bytes]:
    return [line for line in page.splitlines() if b"site=" in line]


class Written(float):
    """A number that counts how often it is written, and cannot be while `fails` is true."""

    fails = False
    count = 0

    def __repr__(self) -> str:
        if self.fails:
            raise MemoryError("johnd@example.com")
        type(self).count += 1
        return super().__repr__()


def test_what_cannot_be_rendered_stays_as_it_was() -> None:
    """A fault in a site's data leaves its page and the others alone, and is tried again ten seconds later."""
    total = Written(1)
    total.fails = True
    exposed = Exposed("a", "b")
    before = exposed.metrics(0)
    exposed.now = at(1)
    exposed.answer("a", TOP_USERS, Entries((User("ann", total, 0, 0),)))
    with capture_logs() as logs:
        after = exposed.metrics(1)
    exposed.now = at(2)
    exposed.answer("b", PAYOUT, SOME_PAYOUT)
    total.fails = False

    assert of_sites(before) == of_sites(after)
    assert b'cryptoloot_network_difficulty{site="b"}' in exposed.metrics(2)
    assert b'user="ann"' not in exposed.metrics(10)
    assert b'user="ann"' in exposed.metrics(11)
    assert [("render_failed", "a", "MemoryError")] == [(e["event"], e["site"], e["error"]) for e in logs]
    assert "johnd" not in str(logs)


def test_a_page_is_made_once() -> None:
    """The same bytes object is handed out until something changes."""
    exposed = Exposed("a", "b")
    first, zipped = exposed.metrics(0), exposed.metrics(0, zipped=True)

    assert first is exposed.metrics(0.5)
    assert zipped is exposed.metrics(0.5, zipped=True)
    exposed.answer("a", PAYOUT, SOME_PAYOUT)
    assert first is not exposed.metrics(0.5)


def test_one_sites_change_leaves_the_others_pages() -> None:
    """A poll renders its own site; another site's page stays the same object."""
    exposed = Exposed("a", "b")
    before = {name: exposed.probe(name) for name in NAMES}
    exposed.answer("a", PAYOUT, SOME_PAYOUT)
    after = {name: exposed.probe(name) for name in NAMES}

    assert before["a"] is not after["a"]
    assert before["b"] is after["b"]


def test_what_is_equal_is_not_rendered_again() -> None:
    """A poll renders what its own collector exports: users are not written again when the payout changes."""
    exposed = Exposed("a")
    Written.count = 0
    exposed.answer("a", TOP_USERS, Entries((User("ann", Written(1), 0, 0),)))
    exposed.metrics(0)
    exposed.answer("a", PAYOUT, SOME_PAYOUT)
    page = exposed.metrics(1)

    assert b'cryptoloot_network_difficulty{site="a"} 1.0' in page
    assert b'cryptoloot_user_hashes_total{site="a",user="ann"} 1.0' in page
    assert 1 == Written.count


def test_the_exporters_own_metrics_are_a_second_old_at_most() -> None:
    """A page older than a second is made anew, though no site has changed."""
    exposed = Exposed("a")
    first = exposed.metrics(0)
    exposed.own.loop_restarts.inc()

    assert first is exposed.metrics(0.9)
    assert b"cryptoloot_exporter_loop_restarts_total 1.0" in exposed.metrics(1.0)


def test_values_leave_though_nothing_was_polled() -> None:
    """Time alone takes a stale value off the page."""
    exposed = Exposed("a")
    exposed.answer("a", PAYOUT, SOME_PAYOUT)

    assert b"cryptoloot_network_difficulty{" in exposed.metrics(300.0)
    assert b"cryptoloot_network_difficulty{" not in exposed.metrics(300.01)


def test_a_clock_that_is_set_back_takes_values_back() -> None:
    """A row that was settled fills again when the wall clock goes back, before its page was due to change."""
    exposed = Exposed("a")
    exposed.answer("a", HISTORY, Entries((HistoryRow(WALL - 2 * HOUR, 1.0, 2.0),)))
    settled = b"cryptoloot_history_settled_row_timestamp_seconds{"
    before, probe = exposed.metrics(0), exposed.probe("a")
    exposed.now = Now(WALL - HOUR, exposed.now.mono)

    assert settled in before
    assert settled in (probe or b"")
    assert settled not in (exposed.probe("a") or b"")
    assert settled not in exposed.metrics()


@pytest.mark.parametrize(
    ("format_", "parse"), [(Format.TEXT, parse_text), (Format.OPENMETRICS, parse_openmetrics)]
)
def test_the_page_is_read_by_prometheus_client(
    format_: Format, parse: Callable[[str], Iterable[Any]]
) -> None:
    """prometheus-client's parsers read both formats, and no `_created` sample is there."""
    page = Exposed("a").metrics(0, format_).decode()
    names = [sample.name for family in parse(page) for sample in family.samples]

    assert "cryptoloot_polls_total" in names
    assert "process_resident_memory_bytes" in names
    assert [name for name in names if name.endswith("_created")] == []


@pytest.mark.parametrize("count", [0, 1, 700, 3000])
def test_a_gzip_page_is_one_member(count: int) -> None:
    """A reader that stops at the first member has all of it."""
    exposed = Exposed("a", "b")
    for name in NAMES:
        users = tuple(User(f"{name}-{number}", number * 1e5, number, number) for number in range(count))
        exposed.answer(name, TOP_USERS, Entries(users))
    reader = zlib.decompressobj(31)
    plain = reader.decompress(exposed.metrics(0, zipped=True))

    assert exposed.metrics(0) == plain
    assert (True, b"") == (reader.eof, reader.unused_data)


class Manual(ThreadPoolExecutor):
    """Threads that do nothing until a test says so."""

    def __init__(self) -> None:
        super().__init__(1)
        self.calls: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.calls.append((future, lambda: fn(*args, **kwargs)))
        return future

    async def finish(self, call: int) -> None:
        """Do what was handed over in a call, and let those who wait for it go on."""
        future, work = self.calls[call]
        future.set_result(work())
        await turns()


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def large() -> Exposed:
    """Return pages that are large enough to be finished in a thread."""
    names = [f"site{number}" for number in range(5)]
    exposed = Exposed(*names)
    users = tuple(User(f"{number:0100}", number, number, number) for number in range(1024))
    for name in names:
        exposed.answer(name, TOP_USERS, Entries(users))
    return exposed


def test_a_large_page_is_finished_in_a_thread_and_once_for_all_who_wait() -> None:
    """Ten scrapes at a time cost one, and the event loop does not stand still for it."""
    exposed = large()

    async def scrape() -> tuple[list[bytes], int]:
        threads = Manual()
        asyncio.get_running_loop().set_default_executor(threads)
        scrapes = [asyncio.create_task(exposed.pages.metrics(Format.TEXT, zipped=True)) for _ in range(10)]
        await turns()
        assert not any(task.done() for task in scrapes)
        await threads.finish(0)
        return await asyncio.gather(*scrapes), len(threads.calls)

    bodies, calls = asyncio.run(scrape())
    assert 1 == calls
    assert exposed.pages.full_bytes >= pages.THREAD_ABOVE
    assert {id(bodies[0])} == {id(body) for body in bodies}
    assert gzip.decompress(bodies[0]).endswith(exposed.metrics()[-1000:])


def test_a_scrape_gets_what_was_known_when_it_came() -> None:
    """One that comes after a change does not get the page that is being finished, but the next one."""
    exposed = large()

    async def scrape() -> tuple[list[bytes], int]:
        threads = Manual()
        asyncio.get_running_loop().set_default_executor(threads)
        scrapes = [asyncio.create_task(exposed.pages.metrics(Format.TEXT, zipped=False)) for _ in range(2)]
        await turns()
        exposed.answer("site0", PAYOUT, SOME_PAYOUT)
        scrapes.append(asyncio.create_task(exposed.pages.metrics(Format.TEXT, zipped=False)))
        await turns()
        await threads.finish(0)
        await threads.finish(1)
        return await asyncio.gather(*scrapes), len(threads.calls)

    (first, second, third), calls = asyncio.run(scrape())
    assert 2 == calls
    assert first is second
    assert (False, True) == (b"cryptoloot_payout_value{" in first, b"cryptoloot_payout_value{" in third)


def test_a_small_page_needs_no_thread() -> None:
    """A page of a few sites is finished at once: a thread costs more than it."""
    exposed = Exposed("a", "b")

    async def scrape() -> int:
        threads = Manual()
        asyncio.get_running_loop().set_default_executor(threads)
        await exposed.pages.metrics(Format.TEXT, zipped=True)
        return len(threads.calls)

    assert 0 == asyncio.run(scrape())


def samples(page: bytes) -> dict[str, float]:
    lines = [line.rsplit(" ", 1) for line in page.decode().splitlines() if not line.startswith("#")]
    return {series: float(value) for series, value in lines}


@pytest.mark.parametrize("on_metrics", [True, False])
def test_size_and_series_are_the_last_pages(on_metrics: bool) -> None:
    """The gauges of page size and series describe the last full text page, whichever format was asked for."""
    exposed = Exposed("a")
    exposed.pages.show(list(exposed.sites.values()), on_metrics=on_metrics)
    exposed.metrics(0, Format.OPENMETRICS)
    text = exposed.metrics(0)
    exposed.metrics(0, Format.OPENMETRICS)
    later = samples(exposed.metrics(2))

    assert len(text) == later["cryptoloot_exporter_page_bytes"]
    assert len(samples(text)) == later["cryptoloot_exporter_series"]
    assert (exposed.pages.full_bytes, exposed.pages.full_series) == (len(exposed.metrics(2)), len(later))


def test_the_first_page_knows_its_size() -> None:
    """Right after the start the gauges are not 0."""
    page = Exposed("a").metrics(0)

    assert len(samples(page)) == samples(page)["cryptoloot_exporter_series"]
    assert pytest.approx(len(page), abs=20) == samples(page)["cryptoloot_exporter_page_bytes"]


def test_the_overview_has_every_site_with_its_size() -> None:
    """Size and number of a site's samples are those of its page; its data is there at once."""
    exposed = Exposed("a", "b")
    exposed.metrics(0)
    exposed.answer("a", PAYOUT, SOME_PAYOUT)
    page = exposed.probe("a") or b""
    first, second = exposed.pages.overview()
    lines = of_sites(page)

    assert (exposed.sites["a"], exposed.store["a"]) == (first.site, first.snapshot)
    assert (sum(len(line) + 1 for line in lines), len(lines)) == (first.bytes, first.series)
    assert "b" == second.site.name


def test_sites_come_and_go() -> None:
    """A page shows the sites it is told to, and forgets the others."""
    exposed = Exposed("a", "b")
    exposed.pages.show([exposed.sites["b"]])
    exposed.answer("a", PAYOUT, SOME_PAYOUT)
    page = exposed.metrics(0)

    assert b'site="b"' in page
    assert b'site="a"' not in page
    assert exposed.probe("a") is None
    assert ["b"] == exposed.pages.site_names


def test_a_reload_renders_what_has_changed() -> None:
    """A site whose config is the same keeps its page; one whose currency has changed gets another."""
    exposed = Exposed("a", "b")
    before = {name: exposed.probe(name) for name in NAMES}
    other = [{"name": "a", "secret_env": "SECRET_a", "currency": "UPX"}]
    exposed.pages.show([*sites_of("a", sites=other), *sites_of("b")])

    assert b'currency="UPX"' in (exposed.probe("a") or b"")
    assert before["b"] is exposed.probe("b")


def test_a_scrape_during_a_reload_keeps_its_series() -> None:
    """A reload that changes every site does not empty a scrape that it overtakes; not even a large one."""
    names = [f"site{number}" for number in range(5)]
    exposed = large()
    exposed.metrics(0)
    changed = sites_of(*names, api={"timeout": "11s"})

    async def scrape() -> bytes:
        threads = Manual()
        asyncio.get_running_loop().set_default_executor(threads)
        exposed.answer("site0", PAYOUT, SOME_PAYOUT)
        first = asyncio.create_task(exposed.pages.metrics(Format.TEXT, zipped=False))
        second = asyncio.create_task(exposed.pages.metrics(Format.TEXT, zipped=False))
        await turns()
        exposed.answer("site1", PAYOUT, SOME_PAYOUT)
        third = asyncio.create_task(exposed.pages.metrics(Format.TEXT, zipped=False))
        await turns()
        exposed.pages.show(changed)
        await threads.finish(0)
        await threads.finish(1)
        await asyncio.gather(first, second)
        return await third

    page = asyncio.run(scrape())
    assert 5 * 1024 == page.count(b"\ncryptoloot_user_hashes_total{")


def test_names_are_gone_with_the_reload_that_takes_them() -> None:
    """Where the rules for names change, a site's samples are not kept until it is rendered again."""
    exposed = Exposed("a")
    exposed.answer("a", TOP_USERS, Entries((User("ann", 1, 1, 1),)))
    assert b'user="ann"' in exposed.metrics(0)
    exposed.pages.show(sites_of("a", users={"names": "off"}))

    assert [0] == [page.bytes for page in exposed.pages.overview()]
    assert b'user="ann"' not in exposed.metrics()


def test_large_pages_are_not_kept_beside_the_one_in_force() -> None:
    """Once nobody waits for a thread, nothing holds a page with sites that a reload has removed."""
    exposed = large()
    exposed.metrics(0)
    exposed.pages.show([])
    exposed.store.replace_all({})
    held: list[Any] = [exposed.pages]
    for _ in range(5):  # from the object to its attributes, to what they hold, and to what that holds
        held += gc.get_referents(*held)

    assert pages.THREAD_ABOVE > max(len(each) for each in held if isinstance(each, bytes))


def test_sites_can_be_kept_off_metrics() -> None:
    """Off /metrics the full page has the exporter's own metrics alone; each site has its own page."""
    exposed = Exposed("a")
    exposed.pages.show(list(exposed.sites.values()), on_metrics=False)
    page = exposed.metrics(0)

    assert b"site=" not in page
    assert [] == exposed.rendered()
    assert b'cryptoloot_site_info{api_host="127.0.0.1:1"' in (exposed.probe("a") or b"")
    assert b"process_" not in (exposed.probe("a") or b"")
    assert page is exposed.metrics(0)
