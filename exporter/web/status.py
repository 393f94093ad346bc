"""The status page and the same as JSON: how each site's polls fare, and how the week went.

`document` is plain data, a pure function of what is known; `html` shows it. Neither has users' names or
secrets, and reasons of failures are our own words. Times are Unix seconds.
"""

from __future__ import annotations

import hashlib
import math
import re
from base64 import b64encode
from collections import Counter
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, urlencode

from exporter.collectors import history, metrics
from exporter.collectors.snapshot import Polling
from exporter.endpoint import Endpoint
from exporter.web import graph

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from jinja2 import Template

    from exporter.api.answers import HistoryRow
    from exporter.clock import Now
    from exporter.collectors.metrics import Metric, Subject
    from exporter.collectors.snapshot import Snapshot
    from exporter.pages.pages import Shown

SITES, MOST_SITES = 20, 500  # on one page, a graph and a table each: unless asked for more, and at most
STATES = ("stale", "failing", "waiting", "fresh")  # the worst first
HEADLINES = (
    metrics.HASHRATE,
    metrics.BASELINE,
    metrics.DAY_HASHES,
    metrics.PER_MILLION,
    metrics.ALL_USERS,
    metrics.ALL_BALANCE,
)


class Facts(NamedTuple):
    """What is to be said of the process itself."""

    version: str
    revision: str
    python_version: str
    started: Now
    config_loaded: float
    config_accepted: bool  # the last time it was loaded
    shard: int
    total_shards: int
    page_bytes: int  # of the last full page, text, uncompressed
    series: int
    standing_still: Sequence[str]
    on_metrics: bool  # whether sites are on /metrics, and not at /probe


class Wanted(NamedTuple):
    """Which sites are asked for: those whose name has this text, and of these a page, from 1, of so many."""

    text: str = ""
    page: int = 1
    per_page: int = SITES


def wanted(query: bytes) -> Wanted:
    """Read `site=TEXT&page=NUMBER&per_page=NUMBER`; what is no number is as if it were not there."""
    given = parse_qs(query.decode(errors="replace"))

    def number(name: str, default: int) -> int:
        text = given.get(name, [""])[0]
        return int(text) if re.fullmatch("[0-9]{1,9}", text) else default

    per_page = min(max(number("per_page", SITES), 1), MOST_SITES)
    return Wanted(given.get("site", [""])[0], number("page", 1), per_page)


class Ranking(NamedTuple):
    """All sites with their states, the worst first, then by name; and how many sites have each state."""

    sites: Sequence[tuple[str, Shown]]
    states: Mapping[str, int]


# --------------------------------------------------------------------------------------------------- the data


def ranking(shown: Iterable[Shown], now: Now) -> Ranking:
    """Judge all sites."""
    sites = [(site_state(each.subject, each.snapshot, now), each) for each in shown]
    sites.sort(key=lambda site: (STATES.index(site[0]), site[1].subject.name))
    return Ranking(sites, dict.fromkeys(STATES, 0) | Counter(state for state, _ in sites))


def document(facts: Facts, ranked: Ranking, which: Wanted, now: Now) -> dict[str, Any]:
    """Return the status of the process and of one page of its sites, the worst of them first."""
    text = which.text.casefold()
    found = [each for _, each in ranked.sites if text in each.subject.name.casefold()]
    pages = max(1, math.ceil(len(found) / which.per_page))
    page = min(max(which.page, 1), pages)
    begin = (page - 1) * which.per_page
    return {
        "version": facts.version,
        "revision": facts.revision,
        "python_version": facts.python_version,
        "now": now.wall,
        "started": facts.started.wall,
        "uptime_seconds": round(now.mono - facts.started.mono, 3),
        "config": {"loaded": facts.config_loaded, "last_load_accepted": facts.config_accepted},
        "shard": {"number": facts.shard, "of": facts.total_shards},
        "metrics_page": {"bytes": facts.page_bytes, "series": facts.series},
        "standing_still": list(facts.standing_still),
        "states": ranked.states,
        "selection": {
            "site": which.text,
            "sites": len(found),
            "page": page,
            "pages": pages,
            "per_page": which.per_page,
        },
        "sites": [_site(each, facts, now) for each in found[begin : begin + which.per_page]],
    }


def site_state(site: Subject, known: Snapshot, now: Now) -> str:
    """Return the worst of the states of a site's endpoints."""
    found = {state(site, known, endpoint, now) for endpoint in site.intervals}
    return next(each for each in STATES if each in found)


def state(site: Subject, known: Snapshot, endpoint: Endpoint, now: Now) -> str:
    """Return how an endpoint fares.

    - `waiting`: it was not polled yet
    - `stale`: its values have left the page, or none ever came
    - `failing`: the last poll failed, and the values of an earlier one are still shown
    - `fresh`: all is well
    """
    record, reading = known.polling.get(endpoint), known.reading(endpoint)
    if record is None or record.up is None:
        return "waiting"
    if reading is None or not reading.fresh(site.stale_after[endpoint], now):
        return "stale"
    if endpoint is Endpoint.HISTORY and _old(site, known, now):
        return "stale"
    return "fresh" if record.up else "failing"


def _old(site: Subject, known: Snapshot, now: Now) -> bool:
    """Whether polls succeed, and the API has no row that is recent: it stands still, or has forgotten all."""
    if known.history and known.last_rows and not known.history.value:
        return True
    settled = history.settled_count(known.last_rows, now.wall)
    return settled > 0 and now.wall - known.last_rows[settled - 1].synctime > site.max_row_age


def _site(shown: Shown, facts: Facts, now: Now) -> dict[str, Any]:
    site, known = shown.subject, shown.snapshot
    watched = known.watched.value.refused if known.watched and Endpoint.BALANCES in site.intervals else ()
    path = "/metrics" if facts.on_metrics else f"/probe?{urlencode({'target': site.name})}"
    return {
        "site": site.name,
        "state": site_state(site, known, now),
        "currency": site.currency,
        "api_host": site.api_host,
        "page": {"path": path, "bytes": shown.page_bytes, "series": shown.series},
        "values": _values(site, known, now),
        "endpoints": [_endpoint(site, known, endpoint, now) for endpoint in site.intervals],
        "refused_users": [{"user": f"watch_users[{place}]", "reason": reason} for place, reason in watched],
        "history": _rows(known.last_rows, now),
    }


def _values(site: Subject, known: Snapshot, now: Now) -> dict[str, float]:
    """Return what the page shows of a site at a glance, by metric."""
    families = (
        *metrics.payout_families(site, metrics.payout_view(site, known, now)),
        *metrics.history_families(site, metrics.history_view(site, known, now)),
        *metrics.all_users_families(site, metrics.all_users_view(site, known, now)),
    )
    values: dict[Metric, float] = {family.metric: family.values[0] for family in families}
    return {metric.name: values[metric] for metric in HEADLINES if metric in values}


def _endpoint(site: Subject, known: Snapshot, endpoint: Endpoint, now: Now) -> dict[str, Any]:
    record = known.polling.get(endpoint, Polling())
    last = record.outages[-1] if record.outages and record.up is False else None
    return {
        "endpoint": endpoint.value,
        "state": state(site, known, endpoint, now),
        "last_result": None if record.up is None else last.reason if last else "success",
        "last_poll": record.last_poll,
        "last_poll_seconds": None if record.up is None else round(record.took, 3),
        "last_success": record.last_success or None,
        "next_poll": record.next_poll,
        "interval_seconds": site.intervals[endpoint],
        "stale_after_seconds": site.stale_after[endpoint],
        "polls": record.polls,
        "failures": sum(record.failures.values()),
        "rejected_entries": record.rejected,
        "old_rows": endpoint is Endpoint.HISTORY and _old(site, known, now),
        "outages": [outage._asdict() for outage in reversed(record.outages)],
    }


def _rows(rows: Sequence[HistoryRow], now: Now) -> list[dict[str, Any]]:
    """Return a week of rows; for baselines a week more is looked at, and not ten thousand rows."""
    rows = rows[-2 * history.WEEK_ROWS :]
    settled = history.settled_count(rows, now.wall)
    return [
        {"synctime": row.synctime, "hashrate": row.hashrate, "baseline": usual, "settled": place < settled}
        for place, (row, usual) in enumerate(zip(rows, history.baselines(rows), strict=True))
    ][-history.WEEK_ROWS :]


# --------------------------------------------------------------------------------------------------- the page


def html(status: Mapping[str, Any], base: str) -> bytes:
    """Show a document; links begin with `base`, which is empty or ends with a slash."""
    template, _ = _template()
    return template.render(status=status, base=base).encode()


def policy() -> bytes:
    """Return the page's Content-Security-Policy: its own style, forms to itself, and nothing else."""
    return _template()[1]


@cache
def _template() -> tuple[Template, bytes]:
    # Imported when the page is first asked for: the start is a fifth faster without.
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415

    source = files("exporter.web").joinpath("status.html").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(graph=graph.graph, query=_query, width=graph.WIDTH, height=graph.HEIGHT)
    environment.filters.update(spell=_spell, age=_age, utc=_utc, day=_day, iso=_iso)
    environment.filters.update(si=_si, size=_size, coins=_coins)
    style = source.partition("<style>")[2].partition("</style>")[0]
    digest = b64encode(hashlib.sha256(style.encode()).digest()).decode()
    rules = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; form-action 'self'"
    return environment.from_string(source), f"{rules}; base-uri 'none'; frame-ancestors 'none'".encode()


def _query(selection: Mapping[str, Any], page: int) -> str:
    """Return the query of another page of the same selection."""
    usual = {"site": "", "per_page": SITES}
    given = {name: selection[name] for name in usual if selection[name] != usual[name]}
    return "?" + urlencode({**given, "page": page})


_SPANS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def _spell(seconds: float) -> str:
    """Write a duration with its two largest units: `2 h 5 min`; below a minute in seconds."""
    if seconds < 1:
        return f"{max(seconds, 0) * 1000:.0f} ms" if seconds >= 0.0005 else "0 s"  # noqa: PLR2004
    largest = next((place for place, (span, _) in enumerate(_SPANS) if seconds >= span), len(_SPANS) - 1)
    span = _SPANS[min(largest + 1, len(_SPANS) - 1)][0]
    left, parts = round(seconds / span) * span, []
    for span, unit in _SPANS[largest : largest + 2]:
        count, left = divmod(left, span)
        parts.append(f"{count:.0f} {unit}" if count else "")
    return " ".join(filter(None, parts))


def _age(seconds: float) -> str:
    return _spell(max(0, round(seconds)))


def _coins(amount: float) -> str:
    """Write an amount with the API's eight decimals (reference: /user/balance's example), or with more."""
    if 0 < abs(amount) < 1e-7:  # noqa: PLR2004 - what eight decimals would round to a digit or two
        return f"{amount:.3g}"
    return f"{amount:.8f}".rstrip("0").rstrip(".")


def _day(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%a %d %b %H:%M} UTC"


def _utc(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _iso(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _si(value: float) -> str:
    """Write a number with three digits and a prefix: `12.3 k`."""
    for power, prefix in ((21, "Z"), (18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 0.9995 * 10**power:  # what three digits would round up to it, too
            return f"{value / 10**power:.3g} {prefix}"
    return f"{value:.3g} "


def _size(count: float) -> str:
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 0.9995 * 2**power:
            return f"{count / 2**power:.3g} {unit}"
    return f"{count:.0f} B"
