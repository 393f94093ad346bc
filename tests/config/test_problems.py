"""Problems and their places."""

from __future__ import annotations

import errno
import random
import string
from typing import NoReturn

import pytest

from exporter.config.problems import (
    COUNTED,
    SHOWN,
    ConfigError,
    Problem,
    Problems,
    capped,
    join,
    together,
    unexpected,
)


def test_a_problem_has_the_line_of_the_nearest_path() -> None:
    """A path without a line of its own has that of the nearest above it, and none if there is none."""
    problems = Problems("config.yaml")
    problems.lines |= {"sites": 4, "sites[0].name": 6}

    for path in ("sites[0].secret", "sites[0].name", "api", ""):
        problems.add(path, "wrong")

    assert [4, 6, None, None] == [problem.line for problem in problems.reported]
    assert Problem("", "wrong", source="config.yaml") == problems.reported[-1]


def test_a_problem_counts_for_every_path_above_it() -> None:
    """`has` is about the path and whatever is beneath it, not above or beside."""
    problems = Problems("config.yaml")
    problems.add("poll.payout.interval", "wrong")

    paths = ("poll", "poll.payout", "poll.payout.interval.x", "poll.p")

    assert [True, True, False, False] == [problems.has(path) for path in paths]


def test_a_problem_names_its_source_without_directories() -> None:
    """Each problem carries its file; a problem of the file as a whole has the file as its place."""
    within = Problem("sites", "empty", 3, "/etc/exporter/config.yaml")
    whole = Problem("", "not UTF-8", 2, "/etc/exporter/config.yaml")
    neither = Problem("api", "no client")

    assert ("config.yaml: sites (line 3): empty", "sites (line 3): empty") == (str(within), within.text)
    assert {"config.yaml (line 2): not UTF-8"} == {str(whole), whole.text}
    assert ("api: no client", "here (line 2): not UTF-8") == (str(neither), whole.at("here"))


def test_problems_are_sorted_by_source_and_line() -> None:
    """Problems of one file stay together, in the order of its lines."""
    places = [("a.yaml", 9), ("b.yaml", 1), ("a.yaml", None), ("b.yaml", 5), ("a.yaml", 2)]

    error = ConfigError(Problem("x", "wrong", line, source) for source, line in places)

    expected = [("a.yaml", 2), ("a.yaml", 9), ("a.yaml", None), ("b.yaml", 1), ("b.yaml", 5)]
    assert expected == [(problem.source, problem.line) for problem in error.problems]


def refused(*problems: Problem) -> NoReturn:
    raise ConfigError(problems)


def test_loading_together_reports_the_problems_of_all() -> None:
    """Where several files are read, a bad one hides no other bad one."""
    one, two, three = (Problem(path, "wrong") for path in "abc")

    assert [1, 2] == together(lambda: 1, lambda: 2)
    with pytest.raises(ConfigError) as caught:
        together(lambda: refused(one, two), lambda: 1, lambda: refused(three))
    assert (one, two, three) == caught.value.problems


@pytest.mark.parametrize(
    ("count", "more"),
    [
        (0, []),
        (SHOWN, []),
        (SHOWN + 1, ["and 1 more"]),
        (999, ["and 949 more"]),
        (COUNTED, ["and at least 9950 more"]),
    ],
)
def test_lists_of_problems_are_capped_with_a_count(count: int, more: list[str]) -> None:
    """A list of any length is at most 51 texts, of which the last says how many are left out."""
    texts = [str(number) for number in range(count)]

    assert texts[:SHOWN] + more == capped(texts)


def test_reading_ends_with_too_many_problems() -> None:
    """A document that is wrong everywhere is refused before it takes the memory of all its problems."""
    problems = Problems("config.yaml")

    for _ in range(COUNTED - 1):
        problems.add("x", "wrong")

    with pytest.raises(ConfigError) as caught:
        problems.add("x", "wrong")
    assert COUNTED == len(caught.value.problems)


@pytest.mark.parametrize(
    "key",
    [
        "interval",
        "http2",
        "foo_2",
        "web.listen",
        "ipv6-only",
        "tls1.2",
        "X-XSS-Protection",
        "h2c",
        "a1b2c3",
        "secretEnv",
        "SECRET_FILE",
        "1",
        "12345678",
        "1.5",
    ],
)
def test_words_with_digits_and_dots_are_shown(key: str) -> None:
    """An unknown key that is made of words is shown, so that it can be found."""
    assert f"sites[0].{key}" == join("sites[0]", key)


@pytest.mark.parametrize(
    "key", ["secret:4f2a9c", "4f2a9c0d", "canary-4711", "4711471147", "a" * 33, "two words", "", "<<", None]
)
def test_other_keys_are_not_shown(key: object) -> None:
    """A key that may be a misplaced secret, or is no text, is not repeated."""
    assert "(odd key)" == join("", key)


@pytest.mark.parametrize("letters", ["0123456789abcdef", f"{string.ascii_letters}{string.digits}"])
def test_no_random_key_is_shown(letters: str) -> None:
    """A random secret in the place of a key is not repeated."""
    chosen = random.Random(1)  # noqa: S311 - what is random here is an example

    assert {"(odd key)"} == {join("", "".join(chosen.choices(letters, k=32))) for _ in range(1000)}


def test_a_document_that_is_read_again_has_no_problems_of_before() -> None:
    """Where another parser reads the file, no fault, place or warning of the first reading is left."""
    problems = Problems("config.yaml")
    problems.lines["a"] = 7
    problems.add("a.b", "wrong")
    problems.warn("a", "unwise")
    problems.clear()
    problems.add("a", "wrong")

    assert ([None], []) == ([problem.line for problem in problems.reported], problems.warnings)
    assert (True, False) == (problems.has("a"), problems.has("a.b"))


def test_a_warning_has_the_form_of_a_problem() -> None:
    """A warning names file, path and line, as a problem does."""
    problems = Problems("/etc/config.yaml")
    problems.lines["sites[0]"] = 3
    problems.warn("sites[0].secret", "unwise")
    problems.add("sites[0].secret", "unwise")

    assert ["config.yaml: sites[0].secret (line 3): unwise"] == problems.warnings == problems_texts(problems)


def problems_texts(problems: Problems) -> list[str]:
    return [str(problem) for problem in problems.reported]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("canary"),
        OSError(errno.EMFILE, "canary", "canary"),
        RuntimeError("can't start new thread"),
    ],
    ids=repr,
)
def test_what_the_system_lacks_is_no_bug(error: Exception) -> None:
    """Where memory, files or threads are used up, nobody is asked to report a bug."""
    text = unexpected(error)

    assert (True, False, False) == ("the system lacks" in text, "bug" in text, "canary" in text)
