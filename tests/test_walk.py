"""The walk over all users: what it sums up, when it begins anew, when it gives up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.api.answers import Entries, User
from exporter.api.errors import InvalidPage, InvalidResponse, TooLarge
from exporter.collectors.snapshot import AllUsers
from exporter.collectors.walk import RESTARTS, walk

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from exporter.api.answers import Users

PAGES = 10


def page(*totals: float, following: str | None = None, rejected: int = 0) -> Users:
    users = tuple(User(f"u{index}", total, total / 8, total / 4) for index, total in enumerate(totals))
    return Entries(users, rejected, following)


def pages(**found: Users | Exception) -> tuple[list[str], Callable[[str], Awaitable[Users]]]:
    """Return what is asked for, and a list of pages that answers; the first one is `first`."""
    asked: list[str] = []

    async def ask(name: str) -> Users:
        asked.append(name)
        answer = found[name or "first"]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return asked, ask


def walked(ask: Callable[[str], Awaitable[Users]], max_pages: int = PAGES) -> tuple[AllUsers, int]:
    async def go() -> tuple[AllUsers, int]:
        return await walk(ask, max_pages)

    return asyncio.run(go())


@given(st.lists(st.lists(st.integers(0, 2**50), max_size=5), min_size=1, max_size=PAGES))
def test_the_sums_are_those_of_all_pages(totals: list[list[int]]) -> None:
    """However the users are spread over pages, empty ones included."""
    last = len(totals) - 1
    found = {
        f"p{index}" if index else "first": page(*each, following=None if index == last else f"p{index + 1}")
        for index, each in enumerate(totals)
    }
    _, ask = pages(**found)
    every = [total for each in totals for total in each]
    users, rejected = walked(ask)

    assert (len(every), 0) == (users.users, rejected)
    assert pytest.approx((sum(every), sum(every) / 8, sum(every) / 4), rel=1e-12) == users[1:]


def test_entries_that_cannot_be_read_are_counted() -> None:
    """Over all pages."""
    _, ask = pages(first=page(1, following="b", rejected=2), b=page(2, rejected=3))

    assert (AllUsers(2, 3, 3 / 8, 3 / 4), 5) == walked(ask)


def test_a_page_that_vanished_begins_the_walk_anew() -> None:
    """What was read before does not count twice."""
    answers: list[Users | Exception] = [
        page(1, following="b"),
        InvalidPage("gone"),
        page(1, following="c"),
        page(2),
    ]

    async def ask(_name: str) -> Users:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert (AllUsers(2, 3, 3 / 8, 3 / 4), 0) == walked(ask)


def test_a_page_that_keeps_vanishing_fails_the_poll() -> None:
    """After three new beginnings."""
    asked, ask = pages(first=page(1, following="b"), b=InvalidPage("gone"))
    with pytest.raises(InvalidPage):
        walked(ask)

    assert ["", "b"] * (1 + RESTARTS) == asked
    assert 3 == RESTARTS


@pytest.mark.parametrize("back", ["b", "c"])
def test_a_page_that_comes_again_fails_the_poll(back: str) -> None:
    """A list that leads in a circle is no list; it is not asked for twice."""
    asked, ask = pages(first=page(1, following="b"), b=page(1, following="c"), c=page(1, following=back))
    with pytest.raises(InvalidResponse, match="was there before"):
        walked(ask)

    assert ["", "b", "c"] == asked


def test_a_list_without_end_fails_the_poll() -> None:
    """More than `max_pages` are not asked for."""
    asked: list[str] = []

    async def ask(name: str) -> Users:
        asked.append(name)
        return page(1, following=f"{name}x")

    with pytest.raises(TooLarge, match=r"more than 10 pages: see poll\.all_users\.max_pages"):
        walked(ask)

    assert PAGES == len(asked)
