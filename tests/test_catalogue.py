from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from docs.catalogue import CATALOGUE
from exporter.collectors.registry import SITE_METRICS
from exporter.pages.exporter_metrics import OWN_METRICS
from tests.conftest import SHARED

if TYPE_CHECKING:
    from pathlib import Path

# In the contract, and not exported yet: a metric that is built leaves this set, or the next test fails.
PLANNED = {
    "cryptoloot_exporter_scrapes_total",
}
# Beside the contract: what several hours together say, so that a page needs no recorded history.
ADDED = {"cryptoloot_hashrate_expected_ratio"}


def test_the_catalogue_is_the_contracts() -> None:
    """Every metric of the contract is in the catalogue, and nothing else but what is listed here is."""
    contract: Path = SHARED / "design" / "contract.md"
    if not contract.exists():
        pytest.skip("the design files are not beside the repository")
    table = contract.read_text().split("## Metrics")[1]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `cryptoloot")]
    named: set[str] = set()
    for cell in cells:
        whole, *more = re.findall(r"`(\w+)`", cell)
        # `_balance_coins` stands for the first name with its last word replaced.
        named |= {whole, *(name if name[0] != "_" else "cryptoloot_all_users" + name for name in more)}

    assert (named - PLANNED) | ADDED == set(CATALOGUE)


def test_a_name_is_one_metric() -> None:
    """Of a site or the exporter's own, which have no label `site`: none hides another."""
    assert len(CATALOGUE) == len(SITE_METRICS) + len(OWN_METRICS)
    assert [True] * len(SITE_METRICS) + [False] * len(OWN_METRICS) == [
        "site" in metric.labels for metric in CATALOGUE.values()
    ]


def test_names_follow_the_conventions() -> None:
    """Counters end in _total and nothing else does; labels are sorted, as they are rendered."""
    for metric in CATALOGUE.values():
        assert (metric.type == "counter") == metric.name.endswith("_total")
        assert list(metric.labels) == sorted(metric.labels)
