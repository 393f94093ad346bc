"""Spreads, verdicts and the page that they make."""

from __future__ import annotations

import pytest

from bench.report import Effort, Group, Ratio, Row, Spread, Target, document, number, targets


def test_a_spread_has_the_ends_and_the_middle() -> None:
    """Between two in the middle lies the median."""
    assert Spread(1, 2.5, 9) == Spread.of([9, 2, 1, 3])


def test_ratios_are_taken_round_by_round() -> None:
    """What slowed a round slowed both: the ratio of the medians would be 1.5 here."""
    assert Spread(1, 2, 3) == Spread.of_ratios([10, 40, 30], [10, 20, 10])


@pytest.mark.parametrize(
    ("target", "figure", "verdict"),
    [
        (Target(0.55), 0.55, "met"),
        (Target(0.55), 0.5, "**missed by 9.1%**"),
        (Target(2, at_most=True), 2.0, "met"),
        (Target(2, at_most=True), 2.5, "**missed by 25.0%**"),
        (Target(0, at_most=True), 0.0, "met"),
        (Target(0, at_most=True), 3.0, "**missed by 3**"),
    ],
)
def test_a_target_is_met_or_missed_by_so_much(target: Target, figure: float, verdict: str) -> None:
    """By how much is a share of the bound, unless that is 0. Reaching the bound is enough."""
    row = Row("work", "subject", "unit", Spread.of([figure]), target=target)

    assert verdict == target.verdict(row.judged)


def test_the_ratio_is_judged_where_there_is_one() -> None:
    """The figure itself may be anything."""
    row = Row("work", "nginx", "scrapes/s", Spread.of([9]), Ratio("a ÷ b", Spread.of([0.6])), Target(0.55))

    assert "| work | a ÷ b | ≥ 0.55 | 0.6      | met     |\n" in targets([row])


@pytest.mark.parametrize(
    ("value", "text"), [(59_512.3, "59,512"), (0.5678, "0.568"), (12.34, "12.3"), (0.0, "0")]
)
def test_numbers_have_the_digits_that_count(value: float, text: str) -> None:
    """Three, or all before the point."""
    assert text == number(value)


def test_the_page_has_machine_command_verdicts_and_figures() -> None:
    """Each work has a table of its own, below how it was measured, with its notes."""
    ratio = Ratio("ours ÷ theirs", Spread(0.5, 0.6, 0.7))
    rows = [
        Row("first", "them", "ms", Spread.of([1, 2, 3]), ratio, Target(0.55)),
        Row("second", "a|b", "ms", Spread.of([4]), note="by hand"),
    ]
    page = document([Group("Title.\n\nHow.\n", rows)], {"Python": "3.11"}, "python -m bench")

    assert "\n    python -m bench\n\n- Python: 3.11\n\n## Targets\n" in page
    assert "| first | ours ÷ theirs | ≥ 0.55 | 0.6 (0.5 to 0.7) | met     |\n" in page
    assert "\n## Title\n\nHow.\n\nFirst:\n\n| subject | unit | min | median | max | ratio" in page
    assert "| them    | ms   | 1   | 2      | 3   | ours ÷ theirs: 0.6 (0.5 to 0.7) |\n" in page
    assert "\nSecond:\n" in page
    assert "| a\\|b    | ms   | 4" in page
    assert "\n- a|b: by hand\n" in page


def test_a_quick_run_measures_a_fifth_as_long() -> None:
    """A complete one measures as long as the group says."""
    assert 60 == Effort(1, quick=True).seconds(300)
    assert 300 == Effort().seconds(300)
