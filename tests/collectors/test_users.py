"""The top users and the watched ones: whom is asked for, what is one series, what is summed up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.api.answers import Entries, User, UserBalance, decode_balance, decode_top_users
from exporter.api.client import Request
from exporter.api.errors import InvalidSecret, MissingInput, Timeout, UnknownUser, UserRefused
from exporter.collectors.collector import WarningEvent
from exporter.collectors.registry import USERS_COLLECTOR
from exporter.collectors.snapshot import Snapshot
from exporter.collectors.user_labels import user_label
from exporter.collectors.users import BALANCES, TOP_USERS, UsersState, WatchedAnswer
from exporter.endpoint import Reason
from tests.collectors.sites import (
    KEY,
    NOW,
    a_site,
    answer_of,
    error_of,
    exported,
    failed,
    later,
    polled,
    step,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from exporter.api.answers import Users
    from exporter.clock import Now

MARIA = UserBalance(318801685, 0.02, 0.03689529)  # the reference's example, which is asked for johnd
UNKNOWN = Reason.UNKNOWN_USER
SITE = a_site()
WATCHING = a_site(watch_users=["b", "z"])

totals = st.sampled_from([0, 4, 9, 10, 20, 24, 49, 50, 51, 99, 100, 101, 200]).map(float)


def top(*users: User) -> Users:
    return Entries(users)


def watched(*users: User, refused: tuple[tuple[int, Reason], ...] = ()) -> WatchedAnswer:
    return WatchedAnswer(users, refused)


def with_totals(snapshot: Snapshot, wall: float = NOW.wall, **totals: float) -> Snapshot:
    """Return the snapshot after a `/user/top` answer of users with these totals."""
    users = [User(name, total, 0, 0.5) for name, total in totals.items()]
    return polled(snapshot, SITE, TOP_USERS, top(*users), NOW._replace(wall=wall))


def state(snapshot: Snapshot) -> UsersState:
    return snapshot.state(USERS_COLLECTOR)


# ------------------------------------------------------------------------------------------------------ polls


def test_more_top_users_than_asked_for_are_rejected() -> None:
    """The first ones stay, as many as the config says; the others are counted and told."""
    site = a_site(poll={"top_users": {"count": 2}})
    answer, _ = answer_of(site, TOP_USERS, lambda _: Entries(tuple(User(name, 1, 0, 1) for name in "abc")))

    assert (("a", "b"), 1) == (tuple(user.name for user in answer.entries), answer.rejected)
    assert "$.users: more users than the 2 that were asked for" == answer.fault


def test_top_users_are_one_request() -> None:
    """As many as the config says, in its order."""
    site = a_site(poll={"top_users": {"count": 7, "order": "balance"}})
    answer, requests = answer_of(site, TOP_USERS, lambda _: top(User("a", 1, 2, 3)))

    assert top(User("a", 1, 2, 3)) == answer
    assert [Request(TOP_USERS, decode_top_users, {"count": "7", "order": "balance"})] == requests


def by_name(answers: Mapping[str, UserBalance | Exception]) -> Callable[[Request[Any]], Any]:
    """Return an API with these watched users."""
    return lambda request: answers[request.parameters["name"]]


def watched_answer(answers: Mapping[str, UserBalance | Exception]) -> WatchedAnswer:
    answer, _ = answer_of(a_site(watch_users=[*answers]), BALANCES, by_name(answers))
    assert isinstance(answer, WatchedAnswer)
    return answer


def test_each_watched_user_is_asked_for() -> None:
    """One after another, in the config's order; a refusal of the user may come back."""
    _, requests = answer_of(WATCHING, BALANCES, lambda _: MARIA)
    errors = (MissingInput, UnknownUser)

    assert [Request(BALANCES, decode_balance, {"name": name}, errors) for name in ("b", "z")] == requests


def test_a_user_is_called_by_the_name_asked_for() -> None:
    """The reference's own example answers with another name."""
    expected = WatchedAnswer((User("johnd", 318801685, 0.02, 0.03689529),), ())

    assert expected == watched_answer({"johnd": MARIA})


@given(st.lists(st.sampled_from([MARIA, UnknownUser(""), MissingInput("")]), min_size=1, max_size=12))
def test_a_refused_user_is_alone_in_that(answers: list[UserBalance | Exception]) -> None:
    """All others are read, and the places say who was refused, and why."""
    answer = watched_answer({f"u{place}": user for place, user in enumerate(answers)})
    present = [f"u{place}" for place, user in enumerate(answers) if user is MARIA]
    refused = [(place, error.reason) for place, error in enumerate(answers) if isinstance(error, UserRefused)]

    assert present == [user.name for user in answer.users]
    assert refused == list(answer.refused)


@pytest.mark.parametrize("fault", [Timeout("late"), InvalidSecret("late")], ids=["timeout", "invalid_secret"])
def test_any_other_failure_is_the_polls(fault: Timeout | InvalidSecret) -> None:
    """It ends the poll, nothing of it counts, and the place of the user is in the error."""
    site = a_site(watch_users=["a", "b", "c"])
    error, requests = error_of(site, BALANCES, by_name({"a": MARIA, "b": fault}), type(fault))

    assert "watch_users[1]: late" == str(error)
    assert 2 == len(requests)


# ----------------------------------------------------------------------------------------------------- series


def test_users_are_series() -> None:
    """Each user of the last answer has three series; the sums are those of the answer."""
    snapshot = polled(Snapshot(), SITE, TOP_USERS, top(User("a", 10, 1, 2), User("b", 5, 0, 3)))
    values = exported(SITE, snapshot)

    assert values["user_hashes_total"] == {"a": 10, "b": 5}
    assert values["user_withdrawn_coins_total"] == {"a": 1, "b": 0}
    assert values["user_balance_coins"] == {"a": 2, "b": 3}
    assert (values["top_users_returned"][""], values["top_users_balance_coins"][""]) == (2, 5)


def test_a_watched_user_is_one_series() -> None:
    """Who is both watched and in the top list is there once; who is watched alone too, and in no sum."""
    snapshot = polled(Snapshot(), WATCHING, TOP_USERS, top(User("a", 10, 1, 2), User("b", 5, 0, 3)))
    snapshot = polled(snapshot, WATCHING, BALANCES, watched(User("b", 6, 0, 4), User("z", 1, 0, 9)))
    values = exported(WATCHING, snapshot)

    assert values["user_hashes_total"] == {"a": 10, "b": 6, "z": 1}
    assert values["user_balance_coins"] == {"a": 2, "b": 4, "z": 9}
    assert (values["top_users_returned"][""], values["top_users_balance_coins"][""]) == (2, 5)


def test_watched_users_have_their_own_age() -> None:
    """They stay while /user/top is stale, and go with /user/balance, or when nobody is watched any more."""
    snapshot = polled(Snapshot(), WATCHING, BALANCES, watched(User("z", 1, 0, 9)))
    snapshot = polled(snapshot, WATCHING, TOP_USERS, top(User("a", 10, 1, 2)))

    assert {"a", "z"} == set(exported(WATCHING, snapshot, later(300))["user_hashes_total"])
    assert {"z"} == set(exported(WATCHING, snapshot, later(1500))["user_hashes_total"])
    assert "user_hashes_total" not in exported(WATCHING, snapshot, later(1501))
    assert {"a"} == set(exported(SITE, snapshot)["user_hashes_total"])


def test_each_endpoint_is_stale_by_itself() -> None:
    """The sums are those of /user/top alone: without a current answer of it there are none."""
    snapshot = polled(Snapshot(), WATCHING, TOP_USERS, top(User("a", 10, 1, 2)))
    snapshot = polled(snapshot, WATCHING, BALANCES, watched(User("z", 1, 0, 9)))
    moments = [later(300), later(301), later(1501)]

    assert [set(), {TOP_USERS}, {TOP_USERS, BALANCES}] == [
        USERS_COLLECTOR.visible(WATCHING, state(snapshot), now).stale for now in moments
    ]
    assert [True, False, False] == ["top_users_returned" in exported(WATCHING, snapshot, m) for m in moments]
    assert {TOP_USERS} == USERS_COLLECTOR.visible(SITE, UsersState(), NOW).stale


def test_names_are_hashed_where_the_config_says_so() -> None:
    """With `hmac` a user's label is the hash, of both endpoints the same."""
    site = a_site(watch_users=["maria"], users={"names": "hmac", "names_key_env": "KEY"})
    snapshot = polled(Snapshot(), site, TOP_USERS, top(User("maria", 10, 1, 2)))
    snapshot = polled(snapshot, site, BALANCES, watched(User("maria", 11, 1, 2)))

    assert {user_label("maria", KEY.encode()): 11} == exported(site, snapshot)["user_hashes_total"]


def test_without_names_there_are_only_sums() -> None:
    """names: off exports no user, and still the sums, and how much hashes grew."""
    site = a_site(users={"names": "off"})
    values = exported(site, polled(Snapshot(), site, TOP_USERS, top(User("a", 10, 1, 2))))

    assert {name for name in values if name.startswith("user_")} == {"user_regressions_total"}
    assert values["top_users_returned"][""] == 1
    assert values["tracked_user_hashes_total"][""] == 0


def test_a_second_user_of_one_label_is_rejected() -> None:
    """It counts as a rejected entry, whichever endpoint it comes from."""
    twins = User("a" * 200, 1, 0, 0), User(user_label("a" * 200, None), 5, 0, 0)

    assert 4 == step(SITE, TOP_USERS, Snapshot(), Entries(twins, 3)).rejected
    assert 1 == step(WATCHING, BALANCES, Snapshot(), watched(*twins)).rejected


# ------------------------------------------------------------------------------------------- refused users


def test_refused_users_are_counted_where_some_are_watched() -> None:
    """Each reason is at 0 from the start, and grows with every poll that has such a user."""
    snapshot = polled(Snapshot(), WATCHING, BALANCES, watched(refused=((0, UNKNOWN), (2, UNKNOWN))))
    snapshot = polled(snapshot, WATCHING, BALANCES, watched(refused=((0, UNKNOWN),)))
    name = "watched_user_failures_total"

    assert name not in exported(SITE, snapshot)
    assert {"missing_input": 0, "unknown_user": 0} == exported(WATCHING, Snapshot())[name]
    assert {"missing_input": 0, "unknown_user": 3} == exported(WATCHING, snapshot)[name]


def test_a_refused_user_is_warned_about_once() -> None:
    """By the place and never by the name; again after another reason, and after a success in between."""
    missing = Reason.MISSING_INPUT
    snapshot, warnings = Snapshot(), []
    for refused in (((1, UNKNOWN),), ((1, UNKNOWN),), ((1, missing),), (), ((1, missing), (0, UNKNOWN))):
        answer = watched(refused=refused)
        warnings.append(step(WATCHING, BALANCES, snapshot, answer).warnings)
        snapshot = polled(snapshot, WATCHING, BALANCES, answer)

    def line(place: int, reason: Reason) -> WarningEvent:
        return WarningEvent("watched_user_refused", {"user": f"watch_users[{place}]", "reason": reason.value})

    assert [
        (line(1, UNKNOWN),),
        (),
        (line(1, missing),),
        (),
        (line(1, missing), line(0, UNKNOWN)),
    ] == warnings


# ------------------------------------------------------------------------------------------ what is summed up


def test_top_users_are_kept() -> None:
    """A `/user/top` answer gives marks in its order, and the sum of the balances."""
    snapshot = with_totals(with_totals(Snapshot(), maria=100, johnd=50), johnd=50, maria=99, anna=1)
    reading = state(snapshot).top
    assert reading

    assert [("johnd", 50), ("maria", 100), ("anna", 1)] == list(reading.value.totals.items())
    assert (1.5, NOW, 1) == (reading.value.balance, reading.at, state(snapshot).ignored)


def test_ignored_decreases_of_both_endpoints_are_counted() -> None:
    """What is counted is answers, whichever endpoint they are of."""
    snapshot = polled(Snapshot(), WATCHING, TOP_USERS, top(User("b", 100, 0, 0)))
    snapshot = polled(snapshot, WATCHING, BALANCES, watched(User("b", 99, 0, 0)))
    snapshot = polled(snapshot, WATCHING, TOP_USERS, top(User("b", 99, 0, 0)))

    assert {"": 2} == exported(WATCHING, snapshot)["user_regressions_total"]


def tracked(snapshot: Snapshot) -> float:
    return exported(SITE, snapshot)["tracked_user_hashes_total"][""]


def test_tracked_hashes_are_increases() -> None:
    """Increases of users in two successive answers add up; the first answer of a process adds nothing."""
    first = with_totals(Snapshot(), maria=100, johnd=50)
    second = with_totals(first, maria=130, johnd=55)

    assert [0, 35] == [tracked(first), tracked(second)]
    assert 35 == tracked(with_totals(second, maria=130, johnd=55))


def test_a_newcomer_adds_nothing() -> None:
    """A user who enters the list, or comes back to it, brings hashes of another time."""
    gone = with_totals(with_totals(Snapshot(), maria=100, johnd=50), maria=100)
    back = with_totals(gone, maria=100, johnd=90, anna=1000)

    assert 0 == tracked(back)
    assert 12 == tracked(with_totals(back, maria=101, johnd=91, anna=1010))


def test_a_reset_adds_nothing() -> None:
    """A reset takes nothing away and adds nothing; what is hashed after it counts again."""
    snapshot = with_totals(with_totals(with_totals(Snapshot(), maria=100), maria=10), maria=12)

    assert 0 == tracked(snapshot)
    assert 5 == tracked(with_totals(snapshot, maria=17))


def test_an_ignored_decrease_adds_nothing_twice() -> None:
    """Tracked are the marks: the way back up to the mark is no work."""
    snapshot = with_totals(with_totals(with_totals(Snapshot(), maria=100), maria=90), maria=100)

    assert 0 == tracked(snapshot)
    assert 1 == tracked(with_totals(snapshot, maria=101))


def test_a_failed_poll_loses_no_tracked_hashes() -> None:
    """Two successive answers are so with failed polls between them."""
    snapshot = failed(with_totals(Snapshot(), maria=100), TOP_USERS, Reason.TIMEOUT)

    assert 7 == tracked(with_totals(snapshot, maria=107))


@given(answers=st.lists(st.dictionaries(st.sampled_from("abc"), totals, max_size=3), max_size=8))
def test_tracked_hashes_never_decrease(answers: list[dict[str, float]]) -> None:
    """Tracked hashes are the sum of increases of the marks, answer by answer: a counter."""
    snapshot, expected = Snapshot(), 0.0
    for answer in answers:
        reading = state(snapshot).top
        before = reading.value.totals if reading else {}
        snapshot = with_totals(snapshot, **answer)
        marks = {name: state(snapshot).totals[name].total for name in answer.keys() & before.keys()}
        expected += sum(max(0.0, mark - before[name]) for name, mark in marks.items())

        assert expected == tracked(snapshot)


def changed(snapshot: Snapshot) -> float | None:
    return exported(SITE, snapshot).get("user_totals_change_timestamp_seconds", {}).get("")


def test_when_totals_changed() -> None:
    """Absent until a total changes, then the time of the last answer in which one did, up or down."""
    first = with_totals(Snapshot(), 10.0, maria=100)
    same = with_totals(first, 20.0, maria=100, johnd=5)
    grown = with_totals(same, 30.0, maria=101, johnd=5)
    ignored = with_totals(with_totals(grown, 40.0, maria=90, johnd=5), 50.0, maria=10)
    reset = with_totals(ignored, 60.0, maria=11)

    assert [None, None, 30.0, 30.0, 60.0] == [changed(s) for s in (first, same, grown, ignored, reset)]


def test_totals_change_when_the_answer_of_top_users_does() -> None:
    """A mark that /user/balance raised in between is no change of /user/top; its hashes still count."""
    snapshot = with_totals(Snapshot(), 1.0, maria=100)
    snapshot = polled(snapshot, WATCHING, BALANCES, watched(User("maria", 120, 0, 0)))
    same = with_totals(snapshot, 2.0, maria=100)
    grown = with_totals(same, 3.0, maria=130)

    assert [None, 3.0] == [changed(same), changed(grown)]
    assert 30 == tracked(grown)


# ---------------------------------------------------------------------------------------------------- reloads


def test_the_watched_users_are_part_of_a_poll() -> None:
    """Another list starts the loop of /user/balance again, and no other."""
    assert [("b", "z"), ()] == [
        USERS_COLLECTOR.depends_on(WATCHING, endpoint) for endpoint in (BALANCES, TOP_USERS)
    ]


def two_watched(now: Now = NOW) -> Snapshot:
    """Return a snapshot with ann and bob, watched beside one whom the API refused; bob is a top user too."""
    site = a_site(watch_users=["ann", "bob", "eve"])
    answer = watched(User("ann", 5, 0, 0), User("bob", 5, 0, 0), refused=((2, UNKNOWN),))
    return polled(polled(Snapshot(), site, BALANCES, answer, now), site, TOP_USERS, top(User("bob", 5, 0, 0)))


def test_who_is_not_watched_any_more_is_forgotten() -> None:
    """Their series, why others were refused, and the marks that came from /user/balance alone."""
    before = state(two_watched())
    one = USERS_COLLECTOR.reconfigured(a_site(watch_users=["ann"]), before)
    none = USERS_COLLECTOR.reconfigured(SITE, before)

    assert one.watched is not None
    assert (("ann",), ()) == (one.watched.value.labels, one.watched.value.refused)
    assert (frozenset({BALANCES}), frozenset({TOP_USERS})) == (
        one.totals["ann"].endpoints,
        one.totals["bob"].endpoints,
    )
    assert none.watched is None
    assert frozenset() == none.totals["ann"].endpoints


def test_the_same_watched_users_are_kept() -> None:
    """A reload that changes something else forgets nobody, and no user refused before."""
    before = state(two_watched())

    assert before is USERS_COLLECTOR.reconfigured(a_site(watch_users=["ann", "bob", "eve"]), before)
    assert UsersState() == USERS_COLLECTOR.reconfigured(WATCHING, UsersState())


def test_cleared_keeps_the_counters() -> None:
    """What was read is another source's now; counters stay, since they may not decrease."""
    snapshot = with_totals(with_totals(Snapshot(), maria=100, johnd=50), maria=150, johnd=49)
    cleared = USERS_COLLECTOR.for_other_source(state(snapshot))
    after = with_totals(snapshot.with_state(USERS_COLLECTOR, cleared), maria=1000)

    assert UsersState(tracked_hashes=50, ignored=1) == cleared
    assert 50 == tracked(after)
