"""What is computed from an exporter's own page: polls, lateness, stalls, and the model of a site."""

from __future__ import annotations

import pytest

from bench.polls import Event, parse, stall_rows
from bench.report import Spread, Target
from bench.scale import line, size_of
from bench.watch import Totals, Watched, late_rows, summed

EVENTS = """\
stall 105.0 0.020 0.018
stall 115.0 0.031 0.011
collection 115.0 0.025 0.025
stall 119.5 0.012 0.012
stall 120."""


def totals(seconds: float, cpu: float, polls: int, late: int) -> Totals:
    delays = {"1.0": polls - late, "5.0": polls, "+Inf": polls}
    return Totals(seconds, cpu, polls, 0, 0, delays, 100)


def test_a_counter_is_summed_by_a_label() -> None:
    """Over all series of that name alone. Text that names another metric counts nothing."""
    lines = [
        b"# HELP polls_total x",
        b'polls_total{endpoint="/a",site="1"} 2.0',
        b'polls_total{endpoint="/a",site="2"} 3.0',
        b'polls_total{endpoint="/b",site="polls_total{"} 4.0',
        b'polls_total_more{endpoint="/a"} 100.0',
    ]

    assert {"/a": 5, "/b": 4} == summed(lines, "polls_total", "endpoint")
    assert {"": 9} == summed(lines, "polls_total")


def test_a_metric_without_labels_is_read() -> None:
    """Under no label's value, whatever the notation."""
    assert {"": 7} == summed([b"restarts_total 7.0", b"restarts_totals 1.0"], "restarts_total")
    assert {"": 1_760_000_000} == summed([b"reload_seconds 1.76e+09"], "reload_seconds")


def test_late_are_the_polls_above_the_bound() -> None:
    """The histogram's buckets each hold those below; the note has the first bound that holds all."""
    watched = Watched(totals(60, 1, 10, 2), totals(240, 4, 40, 5), [], [], 0, 0)
    whole, later = late_rows("work", watched, None)

    assert Spread.of([5]) == whole.spread
    assert Spread.of([3]) == later.spread
    assert "40 polls, 0 failures, 0 crashes, none more than 5.0 s late" == whole.note


def test_what_the_ticker_wrote_is_read() -> None:
    """A last line that it did not complete is left out."""
    events = parse(EVENTS)

    assert 4 == len(events)
    assert Event("collection", 115.0, 0.025, 0.025) == events[2]


def test_the_longest_stall_counts_in_the_phase_that_it_ends_in() -> None:
    """In milliseconds; the loop's own CPU and full garbage collections are in the note."""
    phases = [("start", 100.0), ("polling", 110.0), ("reload", 120.0), ("end", 130.0)]
    start, polling, reload = stall_rows("work", phases, parse(EVENTS), Target(30, at_most=True))

    assert Spread.of([20]) == start.spread
    assert Spread.of([31]) == polling.spread
    assert polling.note.startswith("10 s; at most 12 ms of the loop's own CPU in a stall; 1 full garbage")
    assert polling.note.endswith("collections of at most 25 ms")
    assert Spread.of([0]) == reload.spread


def test_what_a_process_takes_is_counted_after_the_first_minute() -> None:
    """Polls and CPU by difference; memory is the maximum after a scrape."""
    mebibyte = 1 << 20
    resident = [5.0 * mebibyte, 9.0 * mebibyte, 7.0 * mebibyte]
    watched = Watched(
        totals(60, 10, 100, 0), totals(180, 40, 400, 0), [0.1], resident, 4 * mebibyte, mebibyte
    )

    expected = {
        "polls per minute": 150,
        "cores": 0.25,
        "MiB resident": 9,
        "MiB of text": 4,
        "MiB of gzip": 1,
        "samples": 100,
    }
    assert expected == size_of(watched)


def test_the_model_is_the_line_through_both_sizes() -> None:
    """It gives back both sizes; what is left at no sites is the base."""
    few, many = {"polls": 2.0, "cores": 0.5}, {"polls": 20.0, "cores": 1.4}
    base, site = line(few, many, (1, 10))

    assert pytest.approx({"polls": 2, "cores": 0.1}) == site
    assert pytest.approx({"polls": 0, "cores": 0.4}) == base
