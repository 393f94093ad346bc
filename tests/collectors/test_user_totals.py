"""The rule for totals that decrease: its table, examples, and a model of the contract's wording."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.api.answers import User
from exporter.collectors.user_totals import (
    ABSENT_USERS,
    Ruling,
    UserTotals,
    rule,
    update_totals,
    without_endpoint,
)
from exporter.collectors.users import BALANCES, TOP_USERS
from exporter.endpoint import Endpoint
from tests.conftest import examples

TOP = TOP_USERS
GONE = None  # an endpoint's answer without the user

Totals = Mapping[str, UserTotals]
Answer = tuple[Endpoint, float | None]
Pair = tuple[Endpoint, tuple[float, float] | None]

endpoints = st.sampled_from([TOP, BALANCES])
totals = st.sampled_from([0, 1, 4, 9, 10, 19, 20, 24, 25, 39, 40, 49, 50, 51, 60, 80, 99, 100, 101, 200]).map(
    float
)
sequences = st.lists(st.tuples(endpoints, st.none() | totals), max_size=14)


def a_user(name: str = "maria", total: float = 0, withdrawn: float = 0, balance: float = 0) -> User:
    return User(name, total, withdrawn, balance)


def fed(*answers: Answer) -> tuple[list[float | None], int]:
    """Return the mark of one user after each answer, and all that was counted."""
    return fed_pairs(*((endpoint, total if total is None else (total, 0.0)) for endpoint, total in answers))


def fed_pairs(*answers: Pair) -> tuple[list[float | None], int]:
    """Return the marks of the total after each answer of (total, withdrawn), and all that was counted."""
    users: Totals = {}
    marks: list[float | None] = []
    counted = 0
    for endpoint, pair in answers:
        users, ignored = update_totals(users, endpoint, (a_user("maria", *pair),) if pair else ())
        marks.append(users["maria"].total if "maria" in users else None)
        counted += ignored
    return marks, counted


class Model:
    """The rule as the contract words it: it looks back and ahead over all answers about one user."""

    def __init__(self, answers: list[Answer]) -> None:
        self.answers = answers
        self.marks: list[float | None] = []
        for place, (_, value) in enumerate(answers):
            mark = self.mark(place)
            decreases = mark is not None and value is not None and value < mark
            becomes_mark = value is not None and (not decreases or self.confirms(place))
            self.marks.append(value if becomes_mark else mark)

    def mark(self, place: int) -> float | None:
        """Return the mark before this answer."""
        return self.marks[place - 1] if place else None

    def low(self, place: int) -> bool:
        """Whether this answer is below half of the mark before it."""
        mark, value = self.mark(place), self.answers[place][1]
        return mark is not None and value is not None and value * 2 < mark

    def reset(self, place: int) -> bool:
        """Whether this answer lowered the mark."""
        before, after = self.mark(place), self.marks[place]
        return before is not None and after is not None and after < before

    def confirms(self, place: int) -> bool:
        """Whether the endpoint's last answer was low too, and no answer since was at half or more."""
        endpoint = self.answers[place][0]
        for earlier in reversed(range(place)):
            asked, value = self.answers[earlier]
            if value is None and asked is not endpoint:
                continue
            if not self.low(earlier) or self.reset(earlier):
                return False
            if asked is endpoint:
                return self.low(place)
        return False

    def ignored(self) -> set[int]:
        """Return the places of the answers that count as ignored decreases."""
        return {place for place in range(len(self.answers)) if self.counts(place)}

    def counts(self, place: int) -> bool:
        """Whether this answer was a decrease that did not lower the mark, and turned out to be no reset."""
        mark, (endpoint, value) = self.mark(place), self.answers[place]
        if mark is None or value is None or value >= mark or self.reset(place):
            return False
        if not self.low(place):
            return True
        for later in range(place + 1, len(self.answers)):
            if self.reset(later):
                return False
            if self.answers[later][1] is None:
                if self.answers[later][0] is endpoint:
                    return True
            elif not self.low(later):
                return True
        return False  # not decided yet


@pytest.mark.parametrize(
    ("value", "ruling", "ruling_if_pending"),
    [
        (101, Ruling.NEW_MARK, Ruling.NEW_MARK),
        (100, Ruling.NEW_MARK, Ruling.NEW_MARK),
        (99, Ruling.IGNORED, Ruling.IGNORED),
        (50, Ruling.IGNORED, Ruling.IGNORED),
        (49.5, Ruling.PENDING, Ruling.NEW_MARK),
        (0, Ruling.PENDING, Ruling.NEW_MARK),
    ],
)
def test_the_table(value: float, ruling: Ruling, ruling_if_pending: Ruling) -> None:
    """A value becomes the mark at the mark or above, and below half when a reset is pending."""
    assert (ruling, ruling_if_pending) == tuple(
        rule(100, value, pending=pending) for pending in (False, True)
    )


@pytest.mark.parametrize("other_field", [False, True], ids=["alone", "other field too"])
@pytest.mark.parametrize("waiting", [False, True], ids=["nothing pending", "pending"])
@pytest.mark.parametrize("value", [101, 100, 99, 50, 49.5, 0])
def test_an_answer_is_ruled_by_the_table(value: float, waiting: bool, other_field: bool) -> None:
    """Where a value lies and whether a reset is pending decide the mark, the count and what is pending."""
    withdrawn = 10.0
    users, _ = update_totals({}, TOP, (a_user(total=100, withdrawn=withdrawn),))
    if waiting:
        users, _ = update_totals(users, TOP, (a_user(total=1, withdrawn=withdrawn),))
    users, counted = update_totals(
        users, TOP, (a_user(total=value, withdrawn=9 if other_field else withdrawn),)
    )
    after, ruling = users["maria"], rule(100, value, pending=waiting)
    refuted = waiting and value >= 50

    assert (value if ruling is Ruling.NEW_MARK else 100) == after.total
    assert (ruling is Ruling.IGNORED or other_field) + refuted == counted
    assert ([(True, False)] if ruling is Ruling.PENDING else []) == [reset.fields for reset in after.pending]


def test_a_total_that_grows_is_exported() -> None:
    """Each answer that is no decrease is the new mark, whichever endpoint it comes from."""
    assert ([5, 6, 6, 9], 0) == fed((TOP, 5), (BALANCES, 6), (TOP, 6), (BALANCES, 9))


@pytest.mark.parametrize("value", [99, 75, 51, 50])
def test_a_small_decrease_is_ignored(value: float) -> None:
    """A decrease to half or more is a second cache, not a reset: ignored and counted each time."""
    assert ([100, 100, 100, 100], 3) == fed((TOP, 100), (TOP, value), (TOP, value), (TOP, value))


def test_a_confirmed_reset_lowers_the_mark() -> None:
    """Below half twice in a row is a reset: the second answer is the mark, and nothing is counted."""
    assert ([100, 100, 12, 13], 0) == fed((TOP, 100), (TOP, 10), (TOP, 12), (TOP, 13))


@pytest.mark.parametrize(("next_answer", "mark", "counted"), [(100, 100, 1), (130, 130, 1), (60, 100, 2)])
def test_a_refuted_reset_counts(next_answer: float, mark: float, counted: int) -> None:
    """Below half once is a mistake: counted once, as is the next answer where it is a decrease itself."""
    assert ([100, 100, mark], counted) == fed((TOP, 100), (TOP, 10), (TOP, next_answer))


def test_an_unconfirmed_reset_counts() -> None:
    """A user missing from the endpoint's next answer confirms nothing."""
    assert ([100, 100, 100, 100], 1) == fed((TOP, 100), (TOP, 10), (TOP, GONE), (TOP, 10))


def test_a_pending_reset_counts_nothing_yet() -> None:
    """Whether an answer below half is ignored is decided by the endpoint's next answer only."""
    assert ([100, 100], 0) == fed((TOP, 100), (TOP, 10))
    assert ([100, 100, 100], 0) == fed((TOP, 100), (TOP, 10), (BALANCES, GONE))


def test_the_other_endpoint_confirms_nothing() -> None:
    """Two endpoints below half once each are two pending resets: each waits for its own next answer."""
    assert ([100, 100, 100, 10], 0) == fed((TOP, 100), (TOP, 10), (BALANCES, 10), (TOP, 10))


@pytest.mark.parametrize(("refuting", "counted"), [(100, 1), (60, 2)])
def test_the_other_endpoint_refutes(refuting: float, counted: int) -> None:
    """After an answer of the other endpoint at half or more, the next answer is a first one again."""
    answers = ((TOP, 100), (TOP, 10), (BALANCES, refuting), (TOP, 10))

    assert ([100, 100, 100, 100], counted) == fed(*answers)
    assert ([100, 100, 100, 100, 10], counted) == fed(*answers, (TOP, 10))


def test_a_reset_settles_the_other_endpoints_pending_one() -> None:
    """An answer below half of a mark that is then reset was part of the reset."""
    assert ([100, 100, 100, 10, 10], 0) == fed(
        (TOP, 100), (BALANCES, 10), (TOP, 10), (TOP, 10), (BALANCES, 10)
    )


def test_a_pending_reset_is_of_its_own_mark() -> None:
    """A low answer from before a reset confirms no second reset."""
    marks, counted = fed((TOP, 100), (BALANCES, 10), (TOP, 10), (TOP, 10), (BALANCES, 2), (BALANCES, 2))

    assert ([100, 100, 100, 10, 10, 2], 0) == (marks, counted)


def test_a_reset_to_zero() -> None:
    """A reset to 0 is the usual one; nothing is a decrease from 0."""
    assert ([100, 100, 0, 0, 3], 0) == fed((TOP, 100), (TOP, 0), (TOP, 0), (TOP, 0), (TOP, 3))


def test_both_fields_that_decrease_count_once() -> None:
    """What is counted is answers, not fields."""
    assert ([100, 100], 1) == fed_pairs((TOP, (100, 10)), (TOP, (90, 9)))
    assert ([100, 100, 100], 1) == fed_pairs((TOP, (100, 10)), (TOP, (1, 1)), (TOP, (100, 10)))
    assert ([100, 100, 100], 1) == fed_pairs((TOP, (100, 10)), (TOP, (1, 9)), (TOP, (100, 10)))
    assert ([100, 100, 1], 1) == fed_pairs((TOP, (100, 10)), (TOP, (1, 1)), (TOP, (1, 10)))


def test_withdrawn_has_the_same_rule() -> None:
    """`withdrawn` has a mark of its own; `balance` is exported as it is."""
    users, _ = update_totals({}, TOP, (a_user(total=100, withdrawn=10, balance=5),))
    users, counted = update_totals(users, TOP, (a_user(total=101, withdrawn=9, balance=-1),))
    maria = users["maria"]

    assert (101, 10, -1, 1) == (maria.total, maria.withdrawn, maria.balance, counted)


@examples(8)
@given(answers=sequences)
def test_the_rule_against_its_wording(answers: list[Answer]) -> None:
    """Any answers of both endpoints give the marks and the count of the contract's own words."""
    model = Model(answers)

    assert (model.marks, len(model.ignored())) == fed(*answers)


@examples(8)
@given(answers=st.lists(st.tuples(endpoints, st.none() | st.tuples(totals, totals)), max_size=12))
def test_both_fields_against_the_wording(answers: list[Pair]) -> None:
    """Each field follows the rule by itself; an answer counts when either field is an ignored decrease."""
    total = Model([(endpoint, pair and pair[0]) for endpoint, pair in answers])
    withdrawn = Model([(endpoint, pair and pair[1]) for endpoint, pair in answers])

    assert (total.marks, len(total.ignored() | withdrawn.ignored())) == fed_pairs(*answers)


@given(answers=sequences)
def test_a_mark_decreases_only_in_a_reset(answers: list[Answer]) -> None:
    """A mark decreases only to an answer below half of it, when that endpoint's last one was too."""
    marks = fed(*answers)[0]
    for place in range(1, len(answers)):
        before, after = marks[place - 1], marks[place]
        if before is not None and after is not None and after < before:
            earlier = [value for endpoint, value in answers[:place] if endpoint is answers[place][0]]

            assert after == answers[place][1]
            assert earlier[-1] is not None
            assert max(earlier[-1], after) * 2 < before


@given(answers=sequences, others=sequences)
def test_the_rule_is_for_each_user(answers: list[Answer], others: list[Answer]) -> None:
    """What another user's total does changes no mark, and counts add up."""
    marks: Totals = {}
    counted = 0
    joint = list(zip(answers, [value for _, value in others], strict=False))
    for (endpoint, total), other in joint:
        pair = {"maria": total, "johnd": other}
        users = tuple(a_user(name, value) for name, value in pair.items() if value is not None)
        marks, ignored = update_totals(marks, endpoint, users)
        counted += ignored
    alone = [Model([answer for answer, _ in joint]), Model([(answer[0], other) for answer, other in joint])]

    assert sum(len(model.ignored()) for model in alone) == counted
    assert [model.marks[-1] if joint else None for model in alone] == [
        marks[name].total if name in marks else None for name in ("maria", "johnd")
    ]


def test_absent_users_keep_their_marks() -> None:
    """The old mark still holds for a user who comes back after a while."""
    assert ([100, 100, 100, 100], 1) == fed((TOP, 100), (TOP, GONE), (TOP, GONE), (TOP, 99))


def test_the_longest_absent_are_forgotten() -> None:
    """Of more absent users than ABSENT_USERS, those who left first are forgotten first."""
    many = tuple(a_user(f"user-{number}", 100) for number in range(ABSENT_USERS))
    marks: Totals = update_totals({}, TOP, (a_user("first", 100), a_user("second", 100)))[0]
    marks = update_totals(marks, TOP, (a_user("second", 100),))[0]
    marks = update_totals(marks, TOP, many)[0]
    kept = update_totals(marks, TOP, (a_user("newest", 1),))[0]

    assert {"first", "second"} <= marks.keys()
    assert not {"first", "second"} & kept.keys()
    assert ABSENT_USERS + 1 == len(kept)


def test_users_who_are_present_are_never_forgotten() -> None:
    """Marks of one endpoint's users are not forgotten because the other endpoint's answer has others."""
    watched = tuple(a_user(f"watched-{number}", 100) for number in range(ABSENT_USERS + 1))
    marks: Totals = update_totals({}, BALANCES, watched)[0]
    marks = update_totals(marks, TOP, (a_user("maria", 1),))[0]
    marks, counted = update_totals(marks, BALANCES, tuple(a_user(user.name, 99) for user in watched))

    assert ABSENT_USERS + 1 == counted
    assert {100} == {marks[user.name].total for user in watched}


def test_present_users_take_no_place_of_the_absent() -> None:
    """ABSENT_USERS is for users outside the last answers of both: a full top list forgets nobody."""
    many = tuple(a_user(f"user-{number}", 100) for number in range(ABSENT_USERS))
    marks: Totals = update_totals({}, TOP, (a_user("maria", 100), *many[1:]))[0]
    marks = update_totals(marks, TOP, many)[0]
    marks = update_totals(marks, BALANCES, (a_user("watched", 1),))[0]

    assert "maria" in marks


def test_an_endpoint_forgets_a_user() -> None:
    """Only its own pending reset goes, which counts as ignored unless the answer is counted already."""
    users: Totals = {}
    for endpoint, total, withdrawn in ((TOP, 100, 10), (BALANCES, 1, 10), (TOP, 1, 9)):
        users, _ = update_totals(users, endpoint, (a_user(total=total, withdrawn=withdrawn),))
    maria = users["maria"]
    without_top, of_top = without_endpoint(maria, TOP)
    without_balances, of_balances = without_endpoint(maria, BALANCES)

    assert [(BALANCES, 0), (TOP, 1)] == [
        (without_top.pending[0].endpoint, of_top),
        (without_balances.pending[0].endpoint, of_balances),
    ]
    assert [{BALANCES}, {TOP}] == [without_top.endpoints, without_balances.endpoints]
    assert (without_top, 0) == without_endpoint(without_top, TOP)
