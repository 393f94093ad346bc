"""The round over watched users: whom it finds, whose failure is whose."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.api.answers import User, UserBalance
from exporter.api.errors import InvalidSecret, MissingInput, Timeout, UnknownUser, UserRefused
from exporter.collectors.watch import Round, watch

if TYPE_CHECKING:
    from collections.abc import Mapping

MARIA = UserBalance(318801685, 0.02, 0.03689529)  # the reference's example, asked for johnd


def watched(answers: Mapping[str, UserBalance | Exception]) -> Round:
    """Watch these users, each answered so."""

    async def ask(name: str) -> UserBalance:
        answer = answers[name]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return asyncio.run(watch(ask, list(answers)))


def test_a_user_is_called_by_the_name_asked_for() -> None:
    """The reference's own example answers with another name."""
    assert Round((User("johnd", 318801685, 0.02, 0.03689529),), ()) == watched({"johnd": MARIA})


@given(st.lists(st.sampled_from([MARIA, UnknownUser(""), MissingInput("")]), max_size=12))
def test_a_refused_user_is_alone_in_that(answers: list[UserBalance | Exception]) -> None:
    """All others are found, and the places tell who was refused, and why."""
    found = watched({str(place): answer for place, answer in enumerate(answers)})
    there = [str(place) for place, each in enumerate(answers) if each is MARIA]
    refused = [(place, each.reason) for place, each in enumerate(answers) if isinstance(each, UserRefused)]

    assert there == [user.name for user in found.users]
    assert refused == list(found.refused)


@pytest.mark.parametrize("fault", [Timeout(""), InvalidSecret("")], ids=["timeout", "invalid_secret"])
def test_any_other_failure_is_the_polls(fault: Exception) -> None:
    """It ends the round, nothing of it counts, and the place of the user is told."""
    with pytest.raises(type(fault), match=r"^watch_users\[1\]: "):
        watched({"a": MARIA, "b": fault, "c": MARIA})
