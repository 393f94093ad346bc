"""What tests of backfilling share: rows, sources made of them, and samples read back."""

from __future__ import annotations

from collections import defaultdict
from math import inf
from typing import TYPE_CHECKING

from prometheus_client.openmetrics.parser import text_string_to_metric_families as families

from exporter.api.answers import HistoryRow
from exporter.backfill import samples
from exporter.backfill.samples import exposition, windows_until
from exporter.clock import Now
from exporter.collectors import history_rows
from exporter.collectors.expiry import Reading
from exporter.collectors.history import HistoryState
from exporter.collectors.history_rows import HOUR, Meaning
from tests.conftest import WALL, parsed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.backfill.samples import Source
    from exporter.config import Site

LABELS = {"job": "cryptoloot", "instance": "{site}"}


def a_site(max_row_age: int = 4 * HOUR, name: str = "demo") -> Site:
    (site,) = parsed("http://127.0.0.1:1", name, poll={"history": {"max_row_age": f"{max_row_age}s"}}).sites
    return site


def source(rows: Sequence[HistoryRow], now: float = WALL, max_row_age: int = 4 * HOUR) -> Source:
    """Return the source that a poll of these rows results in."""
    tidied, _ = history_rows.tidy(rows, now)
    meaning = history_rows.find_meaning(tidied[: history_rows.settled_count(tidied, now)], Meaning.UNKNOWN)
    history = HistoryState(Reading(tidied, Now(now, now)), tidied, meaning)
    return samples.source(a_site(max_row_age), history, LABELS)


def week(hours: int = 168, end: float = WALL) -> list[HistoryRow]:
    """Return rows with the rhythm of days, the newest incomplete."""
    newest = end // HOUR * HOUR
    rates = [(newest - index * HOUR, 100.0 + index % 24 + index / 1000) for index in reversed(range(hours))]
    return [HistoryRow(begin, rate * HOUR, rate) for begin, rate in rates]


def read(lines: str) -> dict[str, dict[int, float]]:
    """Return the samples in the lines, read by prometheus-client: values by time, by metric."""
    values: dict[str, dict[int, float]] = defaultdict(dict)
    for family in families(lines):
        for sample in family.samples:
            at = int(float(sample.timestamp))
            assert at not in values[sample.name]
            assert not values[sample.name] or at > max(values[sample.name])
            values[sample.name][at] = sample.value
    return dict(values)


def written(source: Source, since: float = -inf, until: float = inf, now: float = WALL) -> str:
    return "".join(exposition([source], windows_until([source], until), since, now))
