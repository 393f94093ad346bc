"""`/stats/history`: a week of hourly rows, of which the last complete hour is what alerts judge."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from statistics import median
from typing import NamedTuple

from msgspec import Struct

from exporter.api.answers import History, HistoryRow, decode_history
from exporter.api.client import Request
from exporter.api.errors import InvalidResponse
from exporter.clock import Now
from exporter.collectors import history_rows
from exporter.collectors.collector import Ask, Collector, EndpointTraits, Step, Visible, WarningEvent
from exporter.collectors.expectation import Expectation, Rates, expectation, remember
from exporter.collectors.expiry import Expiry, Reading, next_moment, unless_stale
from exporter.collectors.history_rows import MIN_BASELINE_SAMPLES, SETTLED_AFTER, Meaning
from exporter.collectors.metric import Family, MetricList
from exporter.config import Poll, Site
from exporter.endpoint import Endpoint

HISTORY = Endpoint("/stats/history")
METRICS = MetricList(HISTORY)
HASHRATE = METRICS.gauge(
    "hashrate_hashes_per_second",
    "hashrate of /stats/history's newest settled row, whose hour ended 15 minutes ago or more.",
    Expiry.ROW,
)
UNSETTLED_HASHRATE = METRICS.gauge(
    "unsettled_hashrate_hashes_per_second",
    "hashrate of /stats/history's newest row, possibly still filling: for graphs, not for alerts.",
    Expiry.ROW,
)
BASELINE = METRICS.gauge(
    "baseline_hashrate_hashes_per_second",
    "Median hashrate of /stats/history's settled rows at the newest one's UTC hour on earlier days; "
    "absent with fewer than 3.",
    Expiry.ROW,
)
EXPECTED = METRICS.gauge(
    "expected_hashrate_hashes_per_second",
    "What the newest settled row's hashrate should have been: the lowest of three forecasts. The first is "
    "the median hashrate of /stats/history at the same UTC hour on 6 earlier days, times how the 24 hours "
    "before compare with theirs (median). The others are the hashrates one and two weeks before, each times "
    "how the 24 hours before compare with those (median); rows are kept in memory for 15 days. Absent with "
    "fewer than 3 earlier days.",
    Expiry.ROW,
)
SPREAD = METRICS.gauge(
    "hashrate_spread_ratio",
    "How much this site's hours vary, as a standard deviation of log hashrate: of settled rows of "
    "/stats/history within 4 hours of the newest one's time of day, each divided by the median of that hour "
    "on the week's other days and by the level of the 24 hours before (interquartile range / 1.349). Absent "
    "with fewer than 20 such rows.",
)
EXPECTED_RATIO = METRICS.gauge(
    "hashrate_expected_ratio",
    "Hashes made in the newest settled rows of /stats/history, 1, 2 or 3 hours of them, divided by those "
    "expected in these hours; absent where an hour has no row or no expectation.",
    Expiry.ROW,
    labels="site window",
)
SAMPLES = METRICS.gauge(
    "baseline_samples", "Rows of /stats/history that the baseline hashrate is the median of."
)
ROW_HASHES = METRICS.gauge(
    "history_row_hashes", "Hashes in the newest settled row's hour: hashes of /stats/history.", Expiry.ROW
)
DAY_HASHES = METRICS.gauge(
    "history_day_hashes",
    "Hashes in the last 24 settled rows, or fewer: hashes of /stats/history.",
    Expiry.ROW,
)
WEEK_HASHES = METRICS.gauge(
    "history_week_hashes",
    "Hashes in all settled rows, a week's when the site is that old: hashes of /stats/history.",
    Expiry.ROW,
)
ROW_TIMESTAMP = METRICS.gauge(
    "history_row_timestamp_seconds", "synctime of /stats/history's newest row.", Expiry.NEVER
)
SETTLED_TIMESTAMP = METRICS.gauge(
    "history_settled_row_timestamp_seconds", "synctime of /stats/history's newest settled row.", Expiry.NEVER
)
ROWS = METRICS.gauge("history_rows", "Rows of /stats/history, without duplicates and future ones.")
MISSING_ROWS = METRICS.gauge(
    "history_missing_rows", "Hours between /stats/history's oldest and newest row without one."
)
HASHES_MODE = METRICS.gauge(
    "history_hashes_mode",
    "1 for what hashes of /stats/history turned out to mean, 0 for the other modes.",
    labels="site mode",
)


class HistoryState(Struct, frozen=True, gc=False):
    """The last answer's rows, the last rows there were, what their `hashes` mean, and what was expected.

    Rows of an earlier answer outlive an empty one: their timestamps say how old the newest known row is.
    `contradictory`: the rows can decide what `hashes` means, and no known meaning fits. `rates` are those of
    complete hours, also of hours that the API has forgotten; `expectation` is what they say.
    """

    answer: Reading[tuple[HistoryRow, ...]] | None = None
    rows: tuple[HistoryRow, ...] = ()
    meaning: Meaning = Meaning.UNKNOWN
    contradictory: bool = False
    rates: Rates = Rates()
    expectation: Expectation = Expectation()


class HistoryView(NamedTuple):
    """The rows as visible; `settled` of them, from the oldest, are complete hours.

    `current` and `empty` are about the last answer: whether it is young enough, whether it had no rows.
    A row is recent while it is younger than `max_row_age`.
    """

    rows: tuple[HistoryRow, ...]
    settled: int
    meaning: Meaning
    current: bool
    empty: bool
    newest_recent: bool
    settled_recent: bool
    expectation: Expectation
    rates: Rates

    @property
    def settled_rows(self) -> tuple[HistoryRow, ...]:
        """The rows of complete hours."""
        return self.rows[: self.settled]

    @property
    def old(self) -> bool:
        """Whether the API answers, and without a recent row: it is stuck, or has lost its rows."""
        return (bool(self.rows) and self.empty) or (self.settled > 0 and not self.settled_recent)


class HistoryCollector(Collector[HistoryState, HistoryView]):
    """The rows of the last answer, and what is computed from them."""

    endpoints = {HISTORY: EndpointTraits(rejects_entries=True)}
    metrics = METRICS
    initial = HistoryState()

    def polled(self, site: Site) -> Mapping[Endpoint, Poll]:
        """Poll always."""
        return {HISTORY: site.polls.history}

    async def poll(self, site: Site, endpoint: Endpoint, ask: Ask) -> History:
        """Ask once."""
        return await ask(Request(endpoint, decode_history))

    def step(
        self, site: Site, endpoint: Endpoint, state: HistoryState, answer: History, now: Now
    ) -> Step[HistoryState]:
        """Keep the rows in order, and find out what `hashes` means; warn once when nothing fits.

        Raises InvalidResponse if more rows are in the future, or unreadable, than not, and if all are older
        than the API remembers.
        """
        rows, future = history_rows.tidy(answer.entries, now.wall)
        fault, count = answer.fault, len(answer.entries)
        if future:
            fault = f"$.history: {future} of {count} rows begin in the future: {_clock(now)}"
        if future and future + answer.rejected > count - future:
            raise InvalidResponse(fault)
        if rows and rows[-1].synctime < now.wall - max(history_rows.OLDEST, site.polls.history.max_row_age):
            newest = (
                f"$.history: the newest row is of {_time(rows[-1].synctime)}, and the API has the last 7 days"
            )
            raise InvalidResponse(f"{newest}: is synctime in Unix seconds? {_clock(now)}")
        settled = rows[: history_rows.settled_count(rows, now.wall)]
        meaning = history_rows.find_meaning(settled, state.meaning)
        kept = rows or state.rows
        complete = kept[: history_rows.settled_count(kept, now.wall)]
        contradictory = meaning is Meaning.UNKNOWN and history_rows.conclusive(complete)
        rates = remember(state.rates, settled)
        judged = state.expectation if rates == state.rates else expectation(rates)
        warning = WarningEvent("history_hashes_unknown", {"endpoint": endpoint})
        return Step(
            HistoryState(Reading(rows, now), kept, meaning, contradictory, rates, judged),
            answer.rejected + future,
            fault,
            (warning,) if contradictory and not state.contradictory else (),
        )

    def visible(self, site: Site, state: HistoryState, now: Now) -> Visible[HistoryView]:
        """Show the answer until it is stale, and each row until it is too old, by the wall clock."""
        rows, until = unless_stale(state.answer, site.polls.history, now)
        settled = history_rows.settled_count(state.rows, now.wall)
        newest, newest_settled = state.rows[-1:], state.rows[max(0, settled - 1) : settled]
        max_age = site.polls.history.max_row_age
        rates = remember(state.rates, state.rows[:settled])
        same = rates == state.rates  # else a row has settled since the last poll
        view = HistoryView(
            state.rows,
            settled,
            state.meaning,
            current=rows is not None,
            empty=state.answer is not None and not state.answer.value,
            newest_recent=any(now.wall - row.synctime <= max_age for row in newest),
            settled_recent=any(now.wall - row.synctime <= max_age for row in newest_settled),
            expectation=state.expectation if same and settled else expectation(rates if settled else Rates()),
            rates=rates,
        )
        moments = [row.synctime + max_age for row in (*newest, *newest_settled)]
        moments += [row.synctime + SETTLED_AFTER for row in state.rows[settled : settled + 1]]
        stale = frozenset({HISTORY}) if rows is None or view.old else frozenset()
        return Visible(view, Now(next_moment(moments, now.wall), until.mono), stale)

    def families(self, site: Site, view: HistoryView) -> Iterator[Family]:
        """Return row timestamps always, the rest while the answer is current."""
        settled = view.settled_rows
        if view.rows:
            yield Family.single(ROW_TIMESTAMP, site, view.rows[-1].synctime)
        if settled:
            yield Family.single(SETTLED_TIMESTAMP, site, settled[-1].synctime)
        if not view.current:
            return
        rows = () if view.empty else view.rows
        yield Family.single(ROWS, site, len(rows))
        yield Family.single(MISSING_ROWS, site, history_rows.missing(rows))
        modes = [mode.value for mode in Meaning]
        yield Family(HASHES_MODE, (modes, site.name), [float(mode is view.meaning) for mode in Meaning])
        if rows and view.newest_recent:
            yield Family.single(UNSETTLED_HASHRATE, site, rows[-1].hashrate)
        if not (rows and settled):
            return
        peers = history_rows.baseline(settled)
        yield Family.single(SAMPLES, site, len(peers))
        yield from _expectation_families(site, view)
        if not view.settled_recent:
            return
        yield Family.single(HASHRATE, site, settled[-1].hashrate)
        if len(peers) >= MIN_BASELINE_SAMPLES:
            yield Family.single(BASELINE, site, median(peers))
        for metric, hashes in (
            (ROW_HASHES, history_rows.window_hashes(settled, view.meaning, 1)),
            (DAY_HASHES, history_rows.window_hashes(settled, view.meaning, 24)),
            (WEEK_HASHES, history_rows.week_hashes(settled, view.meaning)),
        ):
            if hashes is not None:
                yield Family.single(metric, site, hashes)


def _clock(now: Now) -> str:
    """Say what this machine's clock says, which a reader compares with the time that it is."""
    time = _time(now.wall)
    return f"this machine's clock says {time}; if that is wrong, set the clock, else the API's is wrong"


def _time(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g} s"


def _expectation_families(site: Site, view: HistoryView) -> Iterator[Family]:
    """Return what was expected, as far as the rows tell."""
    expected, spread, ratios = view.expectation
    if spread is not None:
        yield Family.single(SPREAD, site, spread)
    if expected is not None and view.settled_recent:
        yield Family.single(EXPECTED, site, expected)
    if ratios and view.settled_recent:
        yield Family(EXPECTED_RATIO, (site.name, list(ratios)), list(ratios.values()))
