"""What people do today.

One site of 128 users, watched by this exporter, by a script on prometheus-client that asks the API on every
scrape, by a job of curl and jq that cron starts each minute for node_exporter's textfile collector, and by
json_exporter; bench/recipes has what one writes for each. All run side by side, each with a simulated API of
its own that has the same data. Of what they show, the same 387 values are counted: difficulty, payout,
hashrate, and three of each user; the exporter has more.

While the API is well or slow a minute takes 8 s, so that two Prometheus that scrape every 15 s make one
scrape a second; a round is a minute. CPU is that of all processes, polls and jobs included; memory is the
daemon's alone. For the names and the outage a minute takes 1 s: the exporter's intervals and `stale_after`
keep their proportions. The outage is a 503 on every call, the slow API answers after 3 s of real time. Each
scrape has a connection of its own. Lines are those that are neither blank, comment nor docstring; starting a
service, which cron does without, is not among them, and node_exporter is taken to be scraped already.
"""

from __future__ import annotations

import ast
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from bench import subjects
from bench.load import memory
from bench.report import Row, Spread
from bench.subjects import CRON, EXPORTER, JSON_EXPORTER, RECIPES, SCRIPT, USERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from prometheus_client.samples import Sample

    from bench.subjects import Field, Scrape, Subject

WELL_MINUTE, ILL_MINUTE = 8.0, 1.0  # seconds that stand for a minute
SCRAPES = 8  # a minute: two Prometheus, every 15 s each
SLOW, SLOW_SECONDS = 3.0, 12.0  # how late the API answers, and how long that is watched
OUTAGE = (1, 6, 30)  # minutes after its begin when pages are looked at: before, between and after expiries
SETTLING, MOVING = 5.0, 3.0  # seconds until hostile names have come everywhere, and for totals to move
PATIENCE = 60.0  # seconds until all values are on every page
MILLISECONDS = 1000
MEBIBYTE = 1 << 20
UP = "cryptoloot_up"
TIMES = ("cryptoloot_last_success_timestamp_seconds", "node_textfile_mtime_seconds")
TOTAL = "cryptoloot_user_hashes_total"
SITE_VALUES = (
    "cryptoloot_network_difficulty",
    "cryptoloot_payout_coins_per_million_hashes",
    "cryptoloot_hashrate_hashes_per_second",
)
USER_VALUES = (TOTAL, "cryptoloot_user_withdrawn_coins_total", "cryptoloot_user_balance_coins")
VALUES = len(SITE_VALUES) + USERS * len(USER_VALUES)
FILES = {
    EXPORTER: ("exporter.env", "exporter.prometheus.yml"),
    SCRIPT: ("script.py", "script.prometheus.yml"),
    CRON: ("cron.sh", "crontab"),
    JSON_EXPORTER: ("json_exporter.yml", "json_exporter.prometheus.yml"),
}


class Watched(NamedTuple):
    """What a subject did while it was scraped: calls, CPU seconds, bytes of its daemon at the end."""

    scrapes: list[Scrape]
    calls: int
    cpu: float
    resident: float


def measure(rounds: int) -> list[Row]:
    """Watch all subjects at the same time: well for so many minutes, then in each trouble once."""
    rows = _lines()
    with subjects.started(WELL_MINUTE) as field:
        _settle(field)
        rows += [*_well(field, rounds), *_slow(field)]
    with subjects.started(ILL_MINUTE) as field:
        _settle(field)
        rows += [*_hostile(field), *_outage(field)]
    return rows


def code_lines(text: str, *, python: bool) -> int:
    """Count the lines that are neither blank, comment nor docstring."""
    spoken = _docstring_lines(text) if python else set()
    lines = enumerate(text.splitlines(), 1)
    return sum(
        bool(line.strip()) and not line.lstrip().startswith("#") for n, line in lines if n not in spoken
    )


def samples(page: bytes) -> list[Sample] | None:
    """Return what is on a page, None where it cannot be parsed."""
    try:
        families = list(text_string_to_metric_families(page.decode()))
    except ValueError:
        return None
    return [sample for family in families for sample in family.samples]


def values(page: bytes) -> int:
    """Count the values of the API on a page, of those that every subject has."""
    return sum(sample.name in {*SITE_VALUES, *USER_VALUES} for sample in samples(page) or ())


def twice(page: bytes) -> int:
    """Count the samples that have the name and labels of one before."""
    named = Counter((each.name, *sorted(each.labels.items())) for each in samples(page) or ())
    return named.total() - len(named)


def moved(before: bytes, after: bytes) -> int:
    """Count the users whose total is another than before; newcomers have none before."""
    old, new = (
        {each.labels["user"]: each.value for each in samples(page) or () if each.name == TOTAL}
        for page in (before, after)
    )
    return sum(user in old and old[user] != total for user, total in new.items())


def down(page: bytes) -> int:
    """Count the endpoints that a page says did not answer."""
    return sum(each.name == UP and not each.value for each in samples(page) or ())


def age(page: bytes, now: float) -> float | None:
    """Return how many seconds old at `now` a page says its oldest part is; None where it does not."""
    times = [each.value for each in samples(page) or () if each.name in TIMES]
    return now - min(times) if times else None


def _docstring_lines(text: str) -> set[int]:
    """Return the numbers of the lines that a module's docstrings take."""
    scopes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    first = (node.body[0] for node in ast.walk(ast.parse(text)) if isinstance(node, scopes) and node.body)
    return {
        line
        for node in first
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }


def _lines() -> list[Row]:
    counted = {name: [sum(_written(RECIPES / file) for file in files)] for name, files in FILES.items()}
    return _rows("what one writes and keeps", "lines", counted)


def _written(file: Path) -> int:
    return code_lines(file.read_text(), python=file.suffix == ".py")


def _settle(field: Field) -> None:
    """Wait until every page has all values. Raises TimeoutError."""
    end = time.monotonic() + PATIENCE
    for name, subject in field.running.items():
        while values(subject.scrape().body) != VALUES:
            if time.monotonic() > end:
                raise TimeoutError(f"{name} does not show {VALUES} values")
            time.sleep(ILL_MINUTE)


def _well(field: Field, minutes: int) -> list[Row]:
    watched = field.at_once(lambda subject: _watched(subject, minutes))
    scrapes = {name: each.scrapes for name, each in watched.items()}
    calls = {name: [each.calls / minutes] for name, each in watched.items()}
    work = f"the API is well, {minutes} minutes, {SCRAPES} scrapes a minute"
    return [
        *_rows(work, "API calls a minute", calls),
        *_rows(work, "ms a scrape", _times(scrapes)),
        *_count(work, scrapes),
        *_rows(work, "CPU s per 100 scrapes", {name: [_cpu(each)] for name, each in watched.items()}),
        *_rows(work, "MiB resident", {name: [each.resident / MEBIBYTE] for name, each in watched.items()}),
        *_absent(work, field),
    ]


def _watched(subject: Subject, minutes: int) -> Watched:
    begin, cpu, scrapes = time.time(), subject.cpu(), []
    end = begin + minutes * WELL_MINUTE
    for number in range(minutes * SCRAPES):
        _sleep_until(begin + number * WELL_MINUTE / SCRAPES)
        scrapes.append(subject.scrape())
    _sleep_until(end)
    calls = subject.api.calls(begin, end)
    return Watched(scrapes, calls, subject.cpu() - cpu, memory(subject.pid))


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.time()))


def _cpu(watched: Watched) -> float:
    return 100 * watched.cpu / len(watched.scrapes)


def _slow(field: Field) -> list[Row]:
    field.suffer("slow", delay=SLOW)
    scrapes = field.at_once(_one_after_another)
    field.suffer()
    work = f"the API answers after {SLOW:g} s"
    return [*_seen(work, scrapes), *_count(work, scrapes), *_absent(work, field)]


def _one_after_another(subject: Subject) -> list[Scrape]:
    """Scrape once a second, or as often as answers come."""
    scrapes, end = [], time.time() + SLOW_SECONDS
    while (begin := time.time()) < end:
        scrapes.append(subject.scrape())
        _sleep_until(begin + 1)
    return scrapes


def _hostile(field: Field) -> list[Row]:
    field.suffer("hostile")
    time.sleep(SETTLING)
    before = field.at_once(lambda subject: subject.scrape())
    time.sleep(MOVING)
    after = field.at_once(lambda subject: subject.scrape())
    field.suffer()
    scrapes = {name: [scrape] for name, scrape in after.items()}
    pages = {name: (before[name].body, scrape.body) for name, scrape in after.items()}
    work = "users have hostile names"
    return [
        *_seen(work, scrapes),
        *_count(work, scrapes),
        *_rows(work, "samples twice", {name: [twice(page)] for name, (_, page) in pages.items()}),
        *_rows(work, "users whose total moves", {name: [moved(*both)] for name, both in pages.items()}),
        *_absent(work, field),
    ]


def _outage(field: Field) -> list[Row]:
    _settle(field)
    field.suffer("outage")
    begin, looks = time.time(), []
    for minutes in OUTAGE:
        _sleep_until(begin + minutes * ILL_MINUTE)
        looks.append(field.at_once(lambda subject: subject.scrape()))
    work = "the API is down"
    rows = _seen(work, {name: [look[name] for look in looks] for name in field.running})
    for minutes, look in zip(OUTAGE, looks, strict=True):
        unit = f"values after {minutes} min"
        rows += _rows(work, unit, {name: [values(scrape.body)] for name, scrape in look.items()})
    return [*rows, *_told(work, looks[-1], begin + OUTAGE[-1] * ILL_MINUTE), *_absent(work, field)]


def _told(work: str, look: Mapping[str, Scrape], now: float) -> list[Row]:
    """Return rows of what pages themselves tell of an outage."""
    said = {name: [down(scrape.body)] for name, scrape in look.items()}
    ages = {name: age(scrape.body, now) for name, scrape in look.items()}
    minutes = {name: [seconds / ILL_MINUTE] for name, seconds in ages.items() if seconds is not None}
    return [
        *_rows(work, "endpoints said to be down", said),
        *_rows(work, "age that the page tells, min", minutes),
    ]


def _seen(work: str, scrapes: Mapping[str, list[Scrape]]) -> list[Row]:
    """Return rows of how scrapes were answered."""
    status = {name: [each.status for each in got] for name, got in scrapes.items()}
    return [*_rows(work, "HTTP status", status), *_rows(work, "ms a scrape", _times(scrapes))]


def _count(work: str, scrapes: Mapping[str, list[Scrape]]) -> list[Row]:
    count = {name: [values(each.body) for each in got] for name, got in scrapes.items()}
    return _rows(work, "values on the page", count)


def _times(scrapes: Mapping[str, list[Scrape]]) -> dict[str, list[float]]:
    return {name: [MILLISECONDS * each.seconds for each in got] for name, got in scrapes.items()}


def _absent(work: str, field: Field) -> list[Row]:
    return [Row(work, name, "", None, note=why) for name, why in field.missing.items()]


def _rows(work: str, unit: str, figures: Mapping[str, Iterable[float]]) -> list[Row]:
    return [Row(work, name, unit, Spread.of(measured)) for name, measured in figures.items()]
