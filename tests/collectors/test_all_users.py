"""The walk over all pages of `/user/list`: the sums, when it starts again, when it fails the poll."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from msgspec.structs import replace

from exporter.api.answers import Entries, User
from exporter.api.errors import InvalidPage, InvalidResponse, TooLarge
from exporter.collectors.all_users import ALL_USERS, RESTARTS, Sums
from exporter.collectors.snapshot import Snapshot
from tests.collectors.sites import NOW, a_site, answer_of, error_of, exported, later, polled, step

if TYPE_CHECKING:
    from collections.abc import Callable

    from exporter.api.answers import Users
    from exporter.api.client import Request

MAX_PAGES = 10
SITE = a_site(poll={"all_users": {"enabled": True, "page_size": 64, "max_pages": MAX_PAGES}})


def page(*totals: float, following: str | None = None, rejected: int = 0) -> Users:
    users = tuple(User(f"u{index}", total, total / 8, total / 4) for index, total in enumerate(totals))
    return Entries(users, rejected, following)


def name_of(request: Request[Any]) -> str:
    """Return which page is asked for; the first one is `first`."""
    return request.parameters.get("page", "first")


def pages(**answers: Users | Exception) -> Callable[[Request[Any]], Users | Exception]:
    """Return a list of pages that answers by name."""
    return lambda request: answers[name_of(request)]


def walked(reply: Callable[[Request[Any]], Users | Exception]) -> Sums:
    answer, _ = answer_of(SITE, ALL_USERS, reply)
    assert isinstance(answer, Sums)
    return answer


def test_it_is_polled_where_the_config_asks_for_it() -> None:
    """A walk is long, so it is off unless enabled; then its gauges are there until they are stale."""
    snapshot = polled(Snapshot(), SITE, ALL_USERS, Sums(2, 30.0, 4.0, 5.0, 1, "a fault"))
    values = {
        "all_users": 2,
        "all_users_hashes": 30,
        "all_users_withdrawn_coins": 4,
        "all_users_balance_coins": 5,
    }
    moments = [exported(SITE, snapshot, later(seconds)) for seconds in (0, 5 * 900, 5 * 900 + 1)]
    moments.append(exported(a_site(), snapshot, NOW))

    assert [values, values, {}, {}] == [
        {name: numbers[""] for name, numbers in moment.items() if name.startswith("all_users")}
        for moment in moments
    ]


def test_a_walk_asks_for_page_after_page() -> None:
    """Each page by the name that the one before has; only the walk's own error code may come back."""
    _, requests = answer_of(SITE, ALL_USERS, pages(first=page(1, following="b"), b=page(2)))

    assert [{"count": "64"}, {"count": "64", "page": "b"}] == [request.parameters for request in requests]
    assert {(ALL_USERS, (InvalidPage,))} == {(request.endpoint, request.errors) for request in requests}


@given(st.lists(st.lists(st.integers(0, 2**50), max_size=5), min_size=1, max_size=MAX_PAGES))
def test_the_sums_are_those_of_all_pages(totals: list[list[int]]) -> None:
    """However the users are spread over pages, empty ones included."""
    last = len(totals) - 1
    answers = {
        f"p{index}" if index else "first": page(
            *of_page, following=None if index == last else f"p{index + 1}"
        )
        for index, of_page in enumerate(totals)
    }
    every = [total for of_page in totals for total in of_page]
    sums = walked(pages(**answers))

    assert (len(every), 0) == (sums.users, sums.rejected)
    assert pytest.approx((sum(every), sum(every) / 8, sum(every) / 4), rel=1e-12) == sums[1:4]


def test_entries_that_cannot_be_read_are_counted() -> None:
    """Over all pages; the sums are those of the others, and how many they are without is counted and told."""
    first = replace(page(1, following="b", rejected=2), fault="first")
    sums = walked(pages(first=first, b=replace(page(2, rejected=3), fault="second")))
    after = step(SITE, ALL_USERS, Snapshot(), sums)

    assert Sums(2, 3, 3 / 8, 3 / 4, 5, "first") == sums
    assert (5, "first") == (after.rejected, after.fault)


@pytest.mark.parametrize(("users", "rejected", "fails"), [(64, 0, True), (60, 4, True), (63, 0, False)])
def test_a_full_page_must_say_what_follows(users: int, rejected: int, fails: bool) -> None:
    """Without nextPage, a full page may be the first of many: its sums are not shown as all users'."""
    answer = replace(page(*range(users), rejected=rejected), next_page=UNSET)
    if fails:
        error, _ = error_of(SITE, ALL_USERS, pages(first=answer), InvalidResponse)
        assert str(error).startswith("$.nextPage: missing on a full page")
    else:
        assert users == walked(pages(first=answer)).users


def test_a_page_that_vanished_starts_the_walk_again() -> None:
    """What was read before does not count twice."""
    answers: list[Users | Exception] = [
        page(1, following="b"),
        InvalidPage("gone"),
        page(1, following="c"),
        page(2),
    ]

    assert Sums(2, 3, 3 / 8, 3 / 4, 0) == walked(lambda _: answers.pop(0))


def test_a_page_that_keeps_vanishing_fails_the_poll() -> None:
    """After three new starts."""
    reply = pages(first=page(1, following="b"), b=InvalidPage("gone"))
    _, requests = error_of(SITE, ALL_USERS, reply, InvalidPage)

    assert ["first", "b"] * (1 + RESTARTS) == [name_of(request) for request in requests]
    assert 3 == RESTARTS


@pytest.mark.parametrize("back", ["b", "c"])
def test_a_page_that_comes_again_fails_the_poll(back: str) -> None:
    """A list that leads in a circle is no list; no page is asked for twice."""
    reply = pages(first=page(1, following="b"), b=page(1, following="c"), c=page(1, following=back))
    error, requests = error_of(SITE, ALL_USERS, reply, InvalidResponse)

    assert "nextPage names a page that was there before" == str(error)
    assert ["first", "b", "c"] == [name_of(request) for request in requests]


def test_a_list_without_end_fails_the_poll() -> None:
    """More than `max_pages` are not asked for."""
    error, requests = error_of(
        SITE, ALL_USERS, lambda request: page(1, following=f"{name_of(request)}x"), TooLarge
    )

    assert "the list has more than 10 pages: see poll.all_users.max_pages" == str(error)
    assert MAX_PAGES == len(requests)
