"""Problems and their places."""

from __future__ import annotations

from exporter.config.problems import Problem, Problems


def test_a_problem_has_the_line_of_the_nearest_path() -> None:
    """A path without a line of its own has that of the nearest above it, and none if there is none."""
    problems = Problems({"": "config.yaml"})
    problems.lines |= {"sites": 4, "sites[0].name": 6}

    for path in ("sites[0].secret", "sites[0].name", "api", ""):
        problems.add(path, "wrong")

    assert [4, 6, None, None] == [problem.line for problem in problems.reported]
    assert Problem("config.yaml", "wrong") == problems.reported[-1]


def test_a_problem_counts_for_every_path_above_it() -> None:
    """`has` is about the path and whatever is beneath it, not above or beside."""
    problems = Problems({})
    problems.add("poll.payout.interval", "wrong")

    paths = ("poll", "poll.payout", "poll.payout.interval.x", "poll.p")

    assert [True, True, False, False] == [problems.has(path) for path in paths]
