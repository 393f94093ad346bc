"""Real traffic as sites: scaling, noise, drops, and how alerts are judged."""

from __future__ import annotations

from random import Random
from statistics import fmean
from typing import TYPE_CHECKING

import pytest

from bench import traffic
from bench.traffic import WARM_UP, Drop

if TYPE_CHECKING:
    from pathlib import Path

VALUES = [float(10 + hour % 24) for hour in range(WARM_UP + 400)]


def test_a_file_is_a_series_without_holes(tmp_path: Path) -> None:
    """Rows may be out of order, and an hour that is left out is 0."""
    (tmp_path / "a.csv").write_text("utc,value\n2023-01-01 03:00:00,4\n2023-01-01 00:00:00,1.5\n")

    assert {"a": [1.5, 0.0, 0.0, 4.0]} == traffic.load(tmp_path)


def test_a_busy_site_follows_the_series_and_a_small_one_its_visitors() -> None:
    """Scaling keeps the shape; noise keeps the mean and has the spread of few visits, by the seed alone."""
    busy, small = (traffic.site("a", VALUES, size, seed=1) for size in (5000, 300))

    assert pytest.approx(5000) == fmean(busy.rates)
    assert pytest.approx(busy.rates[30] / busy.rates[20]) == VALUES[30] / VALUES[20]
    assert pytest.approx(300, rel=0.02) == fmean(small.rates)
    assert pytest.approx(3 / 180, rel=0.2) == fmean(
        (rate / meant - 1) ** 2 * meant / 300 for rate, meant in zip(small.rates, small.meant, strict=True)
    )
    assert small == traffic.site("a", VALUES, 300, seed=1)
    assert small.rates != traffic.site("a", VALUES, 300, seed=2).rates


def test_counts_are_poisson() -> None:
    """Mean and variance are alike, also where exp(-mean) is 0."""
    chance = Random(3)  # noqa: S311 - repeatable on purpose
    for mean in (0.0, 2.5, 1200.0):
        counts = [traffic.poisson(mean, chance) for _ in range(2000)]

        assert pytest.approx(mean, rel=0.05) == fmean(counts)
        assert pytest.approx(mean, rel=0.15) == fmean((count - mean) ** 2 for count in counts)


def test_a_drop_takes_its_share_of_each_hour() -> None:
    """The first and the last hour lose what lies within the drop."""
    drop = Drop(10.25, 2, 0.5)

    assert [0.625, 0.5, 0.875] == [drop.left(hour) for hour in drop.rows()]
    assert "-50% 2h" == drop.kind


def test_drops_lie_after_the_warm_up_and_within_the_series() -> None:
    """Each kind has as many, at moments that the seed decides; a series too short for a kind has none."""
    site = traffic.site("a", VALUES, 5000, seed=1)
    drops = traffic.drops(site, 3, seed=1)

    assert 3 * len(traffic.KINDS) == len(drops)
    assert all(drop.start >= WARM_UP and drop.end < len(VALUES) - 1 for drop in drops)
    assert drops == traffic.drops(site, 3, seed=1)
    assert drops != traffic.drops(site, 3, seed=2)
    assert "-50% 120h" not in {
        drop.kind for drop in traffic.drops(traffic.site("a", VALUES[: WARM_UP + 100], 5000, 1), 3, 1)
    }


def test_moments_at_most_two_hours_apart_are_one_episode() -> None:
    """The order does not matter; a gap of more than two hours ends an episode."""
    assert [(1.25, 5.25), (7.5, 7.5)] == traffic.episodes([7.5, 1.25, 3.25, 5.25])
    assert 2.0 == traffic.per_month(4, 1460)


@pytest.mark.parametrize(
    ("moments", "delay"),
    [
        ([], None),
        ([100.25, 101.25], 0.25),
        ([98.5, 101.25], None),  # fires in the two hours before: an alert that was there says nothing
        ([97.5, 101.25], 1.25),
        ([104.25], 4.25),  # the row of the last hour, 103, settles a quarter past
        ([104.75], None),
    ],
)
def test_a_drop_is_told_within_it_and_by_an_alert_that_was_silent(
    moments: list[float], delay: float | None
) -> None:
    """The delay counts from the drop's start; what fires before, or only after it, does not count."""
    assert delay == traffic.delay(Drop(100.0, 4, 0.5), moments)


def test_detection_has_shares_and_the_median_of_those_told() -> None:
    """Drops that were not told count in the shares, not in the delay."""
    assert (0.75, 0.5, 2.0) == traffic.detection([1.0, None, 2.0, 3.0], [None, None, 1.0, 1.0])
    assert (0.0, 0.0, None) == traffic.detection([None], [None])
