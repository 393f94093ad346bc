"""The status page and the same as JSON: the polls of each site, and its hashrate of the last week.

`status_document` returns plain data and is a pure function. `render_html` writes it as a page. Neither has
names of users or secrets, and the reasons of failures are our own words. Times are Unix seconds.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlencode

from exporter.clock import NEVER, Now
from exporter.collectors import all_users, history, history_rows, payout, registry
from exporter.collectors.collector import Collector
from exporter.collectors.expectation import drop_ratio, expected_week, unwatched
from exporter.collectors.metric import Metric
from exporter.collectors.registry import collector_visible, polled_endpoints
from exporter.collectors.snapshot import PollRecord
from exporter.config import Poll
from exporter.config.secret import CONTROL
from exporter.endpoint import Endpoint
from exporter.pages.pages import ExportedSite, Pages
from exporter.web import graph, status_format

Document = dict[str, Any]  # plain data, as JSON has it
Ranking = Sequence[tuple[str, ExportedSite]]  # sites with their states

MAX_AGE = 1.0  # seconds that a written status is kept
GZIP_LEVEL = 1  # as the pages of metrics have it
Writer = Callable[[Mapping[str, Any]], bytes]
PER_PAGE, MAX_PER_PAGE = 20, 500  # sites, each with a graph and a table
STATES = ("stale", "failing", "waiting", "fresh")  # the worst first
STATE_OF_LAST_POLL = {None: "waiting", False: "failing", True: "fresh"}  # while its values are exported
HEADLINES: Mapping[Collector[Any, Any], Sequence[Metric]] = {
    registry.HISTORY_COLLECTOR: (
        history.HASHRATE,
        history.EXPECTED,
        history.SPREAD,
        history.BASELINE,
        history.DAY_HASHES,
    ),
    registry.PAYOUT_COLLECTOR: (payout.PER_MILLION,),
    registry.ALL_USERS_COLLECTOR: (all_users.USERS, all_users.BALANCE),
}
TEMPLATE = files("exporter.web").joinpath("status.html").read_text(encoding="utf-8")


class LoadStatus(NamedTuple):
    """How loading the config went: when it last succeeded (Unix seconds), and what was refused since then."""

    loaded_at: float = 0.0
    refused: frozenset[str] = frozenset()  # log events

    @property
    def accepted(self) -> bool:
        """Whether the last load of every file was accepted."""
        return not self.refused

    def with_refusal(self, event: str) -> LoadStatus:
        """Return the status after a load that was refused."""
        return self._replace(refused=self.refused | {event})

    def without_refusal(self, event: str, now: float) -> LoadStatus:
        """Return the status after a load of one file that made a refusal good."""
        refused = self.refused - {event}
        return self._replace(refused=refused) if refused else LoadStatus(now)


class ProcessInfo(NamedTuple):
    """The exporter itself: its build, its config, its share of the sites, its `/metrics` response."""

    version: str
    revision: str
    python_version: str
    started: Now
    load: LoadStatus
    shard: int
    total_shards: int
    full_bytes: int  # of the last /metrics response as uncompressed text; 0 before the first
    full_series: int
    stuck_loops: Sequence[str]
    on_metrics: bool  # whether sites are on /metrics, and not at /probe


class Selection(NamedTuple):
    """Which sites are asked for: those whose name has `text`, and of these the page of this number."""

    text: str = ""
    page: int = 1  # the first one
    per_page: int = PER_PAGE


def parse_selection(query: bytes) -> Selection:
    """Read `site=TEXT&page=NUMBER&per_page=NUMBER`; a number that cannot be read has its default.

    Control characters are replaced: HTML does not allow them, and no site has one in its name.
    """
    fields = parse_qs(query.decode(errors="replace"))

    def number(name: str, default: int) -> int:
        text = fields.get(name, [""])[0]
        return int(text) if re.fullmatch("[0-9]{1,9}", text) else default

    per_page = min(max(number("per_page", PER_PAGE), 1), MAX_PER_PAGE)
    text = CONTROL.sub("\ufffd", fields.get("site", [""])[0])
    return Selection(text, number("page", 1), per_page)


# --------------------------------------------------------------------------------------------------- the data


def ranked_sites(pages: Iterable[ExportedSite], now: Now) -> Ranking:
    """Return all sites with their states, the worst first, then by name."""
    sites = [(worst(endpoint_states(page, now).values()), page) for page in pages]
    return sorted(sites, key=lambda site: (STATES.index(site[0]), site[1].site.name))


def worst(states: Iterable[str]) -> str:
    """Return the worst of some states."""
    return min(states, key=STATES.index)


def endpoint_states(page: ExportedSite, now: Now) -> Mapping[Endpoint, str]:
    """Return the state of each endpoint that is polled for a site.

    - `waiting`: not polled yet
    - `stale`: its values are not exported
    - `failing`: the last poll failed, and the values of an earlier one are exported
    - `fresh`: the last poll succeeded
    """
    site, snapshot, _, _ = page
    visible = [collector_visible(collector, site, snapshot, now) for collector in registry.COLLECTORS]
    stale = frozenset[str]().union(*(of_collector.stale for of_collector in visible))
    states = {}
    for _, endpoint, _ in polled_endpoints(site):
        state = STATE_OF_LAST_POLL[snapshot.record(endpoint).up]
        states[endpoint] = "stale" if endpoint in stale and state != "waiting" else state
    return states


def status_document(process: ProcessInfo, ranking: Ranking, selection: Selection, now: Now) -> Document:
    """Return the status of the exporter and of one page of its sites, the worst of them first.

    `ranking` is what `ranked_sites` returned for this `now`.
    """
    text, page, per_page = selection
    matching = [site for _, site in ranking if text.casefold() in site.site.name.casefold()]
    sites = len(matching)
    pages = max(1, (sites + per_page - 1) // per_page)
    page = min(max(page, 1), pages)
    on_page = matching[(page - 1) * per_page : page * per_page]
    return {
        "version": process.version,
        "revision": process.revision,
        "python_version": process.python_version,
        "now": now.wall,
        "started": process.started.wall,
        "uptime_seconds": round(now.mono - process.started.mono, 3),
        "config": {"loaded": process.load.loaded_at, "last_load_accepted": process.load.accepted},
        "shard": {"number": process.shard, "of": process.total_shards},
        "metrics_page": {"bytes": process.full_bytes, "series": process.full_series},
        "standing_still": list(process.stuck_loops),
        "states": dict.fromkeys(STATES, 0) | Counter(state for state, _ in ranking),
        "selection": {"site": text, "sites": sites, "page": page, "pages": pages, "per_page": per_page},
        "sites": [site_document(site, now, on_metrics=process.on_metrics) for site in on_page],
    }


def site_document(page: ExportedSite, now: Now, *, on_metrics: bool) -> Document:
    """Return the status of one site."""
    site, snapshot, size, series = page
    states = endpoint_states(page, now)
    views = {collector: collector_visible(collector, site, snapshot, now).view for collector in HEADLINES}
    view: history.HistoryView = views[registry.HISTORY_COLLECTOR]
    watched = snapshot.state(registry.USERS_COLLECTOR).watched
    path = "/metrics" if on_metrics else f"/probe?{urlencode({'target': site.name})}"
    return {
        "site": site.name,
        "state": worst(states.values()),
        "currency": site.currency,
        "api_host": site.api.host,
        "page": {"path": path, "bytes": size, "series": series},
        "values": {
            family.metric.name: family.values[0]
            for collector, metrics in HEADLINES.items()
            for family in collector.families(site, views[collector])
            if family.metric in metrics
        },
        "endpoints": [
            endpoint_document(endpoint, poll, snapshot.record(endpoint), states[endpoint], view)
            for _, endpoint, poll in polled_endpoints(site)
        ],
        "refused_users": [
            {"user": f"watch_users[{place}]", "reason": reason}
            for place, reason in (watched.value.refused if watched else ())
        ],
        "drops": {
            "ratio": drop_ratio(view.expectation.spread),
            "spread": view.expectation.spread,
            "unwatched": unwatched(view.expectation),
        },
        "history": history_document(view),
    }


def endpoint_document(
    endpoint: Endpoint, poll: Poll, record: PollRecord, state: str, view: history.HistoryView
) -> Document:
    """Return what the record of an endpoint's polls says; `view` is the history of the site."""
    return {
        "endpoint": endpoint,
        "state": state,
        "last_result": "success" if record.up else record.outages[-1].reason if record.outages else None,
        "last_poll": record.last_poll,
        "last_poll_seconds": None if record.up is None else round(record.took, 3),
        "last_success": record.last_success or None,
        "next_poll": record.next_poll,
        "interval_seconds": poll.interval,
        "stale_after_seconds": poll.stale_after,
        "polls": record.polls,
        "failures": sum(record.failures.values()),
        "rejected_entries": record.rejected,
        "old_rows": endpoint == history.HISTORY and view.old,
        "outages": [outage._asdict() for outage in reversed(record.outages)],
    }


def history_document(view: history.HistoryView) -> list[Document]:
    """Return a week of rows with baseline and expected hashrate as they were then, by two weeks of rows."""
    rows = view.rows[-2 * history_rows.WEEK_ROWS :]
    settled = view.settled - (len(view.rows) - len(rows))
    expected = {hour: round(rate, 3) for hour, rate in expected_week(view.rates).items()}
    return [
        {
            "synctime": row.synctime,
            "hashrate": row.hashrate,
            "baseline": baseline,
            "expected": expected.get(int(row.synctime // history_rows.HOUR)),
            "settled": place < settled,
        }
        for place, (row, baseline) in enumerate(zip(rows, history_rows.baselines(rows), strict=True))
    ][-history_rows.WEEK_ROWS :]


# --------------------------------------------------------------------------------------------------- the page


def to_json(status: Mapping[str, Any]) -> bytes:
    """Return a document as JSON."""
    return json.dumps(status).encode()


def render_html(status: Mapping[str, Any], base: str) -> bytes:
    """Show a document; links begin with `base`, which is empty or ends with a slash."""
    return _renderer()(status=status, base=base).encode()


@cache
def policy() -> bytes:
    """Return the page's Content-Security-Policy: its own style, forms to itself, and nothing else."""
    style = TEMPLATE.partition("<style>")[2].partition("</style>")[0]
    digest = b64encode(hashlib.sha256(style.encode()).digest()).decode()
    rules = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; form-action 'self'"
    return f"{rules}; base-uri 'none'; frame-ancestors 'none'".encode()


@cache
def _renderer() -> Callable[..., str]:
    # Imported when the page is first asked for: without it the exporter starts a fifth faster.
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415

    jinja = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.globals.update(graph=graph.draw, width=graph.WIDTH, height=graph.HEIGHT, default_per_page=PER_PAGE)
    jinja.filters.update(status_format.FILTERS)
    return jinja.from_string(TEMPLATE).render


# -------------------------------------------------------------------------------------------------- the cache


class StatusCache:
    """Writes status pages in a thread, one at a time: thousands of sites take a while.

    A page is kept for a second: clients that reload all the time cost nothing.
    """

    def __init__(self, pages: Pages, now: Callable[[], Now], process_info: Callable[[], ProcessInfo]) -> None:
        self._pages, self._now, self._process_info = pages, now, process_info
        self._lock = asyncio.Lock()
        self._ranked_at = NEVER
        self._ranking: Ranking = ()
        self._bodies: dict[tuple[Selection, Writer, bool], bytes] = {}

    async def body(self, selection: Selection, write: Writer, *, zipped: bool) -> bytes:
        """Return what `write` makes of the status of the selected sites."""
        key = selection, write, zipped
        async with self._lock:
            now = self._now()
            if not 0 <= now.mono - self._ranked_at.mono < MAX_AGE:
                self._ranking = await asyncio.to_thread(ranked_sites, self._pages.overview(), now)
                self._ranked_at, self._bodies = now, {}
            if key not in self._bodies:
                self._bodies[key] = await asyncio.to_thread(self._render, *key, self._process_info())
            return self._bodies[key]

    def _render(self, selection: Selection, write: Writer, zipped: bool, process: ProcessInfo) -> bytes:
        body = write(status_document(process, self._ranking, selection, self._ranked_at))
        return gzip.compress(body, GZIP_LEVEL) if zipped else body
