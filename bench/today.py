"""What people do today.

One site of 128 users, watched by this exporter, by a script on prometheus-client that calls the API on every
scrape, and by a job of curl and jq that cron starts each minute for node_exporter's textfile collector.
bench/recipes has what one writes for each, and for json_exporter, which is not run here. All run side by
side, each with a simulated API of its own that has the same data. The same 387 values are counted on each
page: difficulty, payout, hashrate, and three of each user; the exporter has more.

While the API is well or slow a minute takes 8 s, so that two Prometheus that scrape every 15 s make one
scrape a second; a round is a minute. CPU is that of all processes, polls and jobs included; memory is the
daemon's alone. For the names and the outage a minute takes 1 s: the exporter's intervals and `stale_after`
keep their proportions. The outage is a 503 on every call, the slow API answers after 3 s of real time. Each
scrape has a new connection. Lines are those that are neither blank, comment nor docstring. Starting a service
is not among them, and node_exporter is taken to be scraped already.
"""

from __future__ import annotations

import ast
import time
from collections import Counter
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

from bench import subjects
from bench.load import memory
from bench.report import Row, Spread
from bench.subjects import CRON, EXPORTER, RECIPES, SCRIPT, USERS
from bench.watch import MEBIBYTE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from prometheus_client.samples import Sample

    from bench.report import Effort
    from bench.subjects import Scrape, Subject

    Subjects = dict[str, Subject]
    Scrapes = dict[str, list[Scrape]]

WELL_MINUTE, ILL_MINUTE = 8.0, 1.0  # seconds that stand for a minute
SCRAPES = 8  # a minute: two Prometheus, every 15 s each
SLOW, SLOW_SCRAPES = 3.0, 4  # seconds after which the API answers, and scrapes of each subject meanwhile
OUTAGE = (1, 6, 30)  # minutes after its start when pages are read: before, between and after expiries
SETTLING, MOVING = 5.0, 3.0  # seconds until hostile names are on every page, and for totals to change
PATIENCE = 60.0  # seconds until all values are on every page
MILLISECONDS = 1000
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
    "json_exporter": ("json_exporter.yml", "json_exporter.prometheus.yml"),
}


def measure(effort: Effort) -> list[Row]:
    """Watch all subjects: well for as many minutes as rounds, then each trouble once."""
    lines = {
        name: [sum(code_lines((RECIPES / file).read_text(), python=file.endswith(".py")) for file in files)]
        for name, files in FILES.items()
    }
    rows = _rows("what one writes and keeps", "lines", lines)
    with subjects.started(WELL_MINUTE) as running:
        _settle(running)
        rows += [*_well(running, effort.rounds), *_slow(running)]
    with subjects.started(ILL_MINUTE) as running:
        _settle(running)
        rows += [*_hostile(running), *_outage(running)]
    return rows


def code_lines(text: str, *, python: bool) -> int:
    """Count the lines that are neither blank, comment nor docstring."""
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(text)) if python else ():
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            if ast.get_docstring(node) is not None:
                docstrings.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    lines = [line.strip() for number, line in enumerate(text.splitlines(), 1) if number not in docstrings]
    return sum(bool(line) and not line.startswith("#") for line in lines)


def samples(page: bytes) -> list[Sample] | None:
    """Return the samples of a page, None if it cannot be parsed."""
    try:
        families = list(text_string_to_metric_families(page.decode()))
    except ValueError:
        return None
    return [sample for family in families for sample in family.samples]


def values(page: bytes) -> int:
    """Count the values of the API on a page, of those that every subject has."""
    return sum(sample.name in {*SITE_VALUES, *USER_VALUES} for sample in samples(page) or ())


def twice(page: bytes) -> int:
    """Count the samples whose name and labels were there before."""
    series = Counter((sample.name, *sorted(sample.labels.items())) for sample in samples(page) or ())
    return series.total() - len(series)


def moved(before: bytes, after: bytes) -> int:
    """Count the users whose total has changed; a user who was not there before is not counted."""
    old, new = (
        {sample.labels["user"]: sample.value for sample in samples(page) or () if sample.name == TOTAL}
        for page in (before, after)
    )
    return sum(user in old and old[user] != total for user, total in new.items())


def down(page: bytes) -> int:
    """Count the endpoints that a page reports as down."""
    return sum(sample.name == UP and not sample.value for sample in samples(page) or ())


def age(page: bytes, now: float) -> float | None:
    """Return the age in seconds of the oldest part of a page, as it reports itself; None if it does not."""
    times = [sample.value for sample in samples(page) or () if sample.name in TIMES]
    return now - min(times) if times else None


def _settle(running: Subjects) -> None:
    """Wait until every page has all values. Raises TimeoutError."""
    end = time.monotonic() + PATIENCE
    for name, subject in running.items():
        while values(subject.scrape().body) != VALUES:
            if time.monotonic() > end:
                raise TimeoutError(f"{name} does not show {VALUES} values")
            time.sleep(ILL_MINUTE)


def _scrape(running: Subjects, times: int, interval: float) -> Scrapes:
    """Scrape all subjects in turn, this often."""
    scrapes: Scrapes = {name: [] for name in running}
    begin = time.time()
    for number in range(times):
        _sleep_until(begin + number * interval)
        for name, subject in running.items():
            scrapes[name].append(subject.scrape())
    _sleep_until(begin + times * interval)
    return scrapes


def _well(running: Subjects, minutes: int) -> list[Row]:
    begin, before = time.time(), {name: subject.cpu() for name, subject in running.items()}
    scrapes = _scrape(running, minutes * SCRAPES, WELL_MINUTE / SCRAPES)
    end, hundreds = begin + minutes * WELL_MINUTE, minutes * SCRAPES / 100
    work = f"the API is well, {minutes} minutes, {SCRAPES} scrapes a minute"
    calls, cpu, resident = {}, {}, {}
    for name, subject in running.items():
        calls[name] = [subject.api.calls(begin, end) / minutes]
        cpu[name] = [(subject.cpu() - before[name]) / hundreds]
        resident[name] = [memory(subject.pid) / MEBIBYTE]
    return [
        *_rows(work, "API calls a minute", calls),
        *_rows(work, "ms a scrape", _times(scrapes)),
        *_rows(work, "values on the page", _counts(scrapes, values)),
        *_rows(work, "CPU s per 100 scrapes", cpu),
        *_rows(work, "MiB resident", resident),
    ]


def _slow(running: Subjects) -> list[Row]:
    _suffer(running, "slow", delay=SLOW)
    scrapes = _scrape(running, SLOW_SCRAPES, SLOW)
    _suffer(running)
    work = f"the API answers after {SLOW:g} s"
    return [*_answers(work, scrapes), *_rows(work, "values on the page", _counts(scrapes, values))]


def _hostile(running: Subjects) -> list[Row]:
    _suffer(running, "hostile")
    time.sleep(SETTLING)
    before = _scrape(running, 1, MOVING)
    scrapes = _scrape(running, 1, 0)
    _suffer(running)
    changes = {name: [moved(before[name][0].body, after[0].body)] for name, after in scrapes.items()}
    work = "users have hostile names"
    return [
        *_answers(work, scrapes),
        *_rows(work, "values on the page", _counts(scrapes, values)),
        *_rows(work, "samples twice", _counts(scrapes, twice)),
        *_rows(work, "users whose total moves", changes),
    ]


def _outage(running: Subjects) -> list[Row]:
    _settle(running)
    _suffer(running, "outage")
    begin, looks = time.time(), []
    for minutes in OUTAGE:
        _sleep_until(begin + minutes * ILL_MINUTE)
        looks.append(_scrape(running, 1, 0))
    work, last = "the API is down", looks[-1]
    rows = _answers(work, {name: [look[name][0] for look in looks] for name in running})
    for minutes, look in zip(OUTAGE, looks, strict=True):
        rows += _rows(work, f"values after {minutes} min", _counts(look, values))
    ages = {name: age(scrapes[0].body, begin + OUTAGE[-1] * ILL_MINUTE) for name, scrapes in last.items()}
    old = {name: [seconds / ILL_MINUTE] for name, seconds in ages.items() if seconds is not None}
    rows += _rows(work, "endpoints said to be down", _counts(last, down))
    return rows + _rows(work, "age that the page tells, min", old)


def _suffer(running: Subjects, kind: str = "", delay: float = 0.0) -> None:
    for subject in running.values():
        subject.suffer(kind, delay=delay)


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.time()))


def _answers(work: str, scrapes: Scrapes) -> list[Row]:
    status = {name: [scrape.status for scrape in answers] for name, answers in scrapes.items()}
    return [*_rows(work, "HTTP status", status), *_rows(work, "ms a scrape", _times(scrapes))]


def _counts(scrapes: Scrapes, count: Callable[[bytes], int]) -> dict[str, list[int]]:
    return {name: [count(scrape.body) for scrape in answers] for name, answers in scrapes.items()}


def _times(scrapes: Scrapes) -> dict[str, list[float]]:
    return {name: [MILLISECONDS * scrape.seconds for scrape in answers] for name, answers in scrapes.items()}


def _rows(work: str, unit: str, figures: Mapping[str, Iterable[float]]) -> list[Row]:
    return [Row(work, name, unit, Spread.of(figure)) for name, figure in figures.items()]
