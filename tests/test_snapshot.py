from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.api.answers import Entries, HistoryRow, Payout, User
from exporter.clock import Now
from exporter.collectors.snapshot import (
    LABEL_BYTES,
    Outage,
    Polling,
    Reading,
    Snapshot,
    Store,
    cleared,
    failed,
    labelled,
    planned,
    succeeded,
    user_label,
    watching,
    with_history,
    with_payout,
    with_top_users,
    with_watched,
)
from exporter.collectors.user_totals import ABSENT_ACCOUNTS, Account, guarded
from exporter.endpoint import Endpoint

TOP, BALANCES, PAYOUT, HISTORY = Endpoint.TOP_USERS, Endpoint.BALANCES, Endpoint.PAYOUT, Endpoint.HISTORY
NOW = Now(1_700_000_000.0, 1000.0)
KEY = b"a key of one's own"
GONE = None  # an endpoint's answer without the user

Accounts = Mapping[str, Account]
Answer = tuple[Endpoint, float | None]
Pair = tuple[Endpoint, tuple[float, float] | None]

endpoints = st.sampled_from([TOP, BALANCES])
totals = st.sampled_from([0, 1, 4, 9, 10, 19, 20, 24, 25, 39, 40, 49, 50, 51, 60, 80, 99, 100, 101, 200]).map(
    float
)
sequences = st.lists(st.tuples(endpoints, st.none() | totals), max_size=14)
names = st.text(st.characters(), min_size=1, max_size=60) | st.text(
    "a\u00e9\u20ac\U0001f600\ud800", max_size=140
)


def a_user(name: str = "maria", total: float = 0, withdrawn: float = 0, balance: float = 0) -> User:
    """Return a user."""
    return User(name, total, withdrawn, balance)


def fed(*answers: Answer) -> tuple[list[float | None], int]:
    """Return what is shown of one user after each answer, and all that was counted."""
    return fed_pairs(*((endpoint, total if total is None else (total, 0.0)) for endpoint, total in answers))


def fed_pairs(*answers: Pair) -> tuple[list[float | None], int]:
    """Return the totals shown after each answer of (total, withdrawn), and all that was counted."""
    accounts: Accounts = {}
    shown: list[float | None] = []
    counted = 0
    for endpoint, pair in answers:
        accounts, held = guarded(accounts, endpoint, (a_user("maria", *pair),) if pair else ())
        shown.append(accounts["maria"].total if "maria" in accounts else None)
        counted += held
    return shown, counted


class Oracle:
    """The guard as the contract words it, by looking back and ahead over one user's whole past."""

    def __init__(self, answers: list[Answer]) -> None:
        self.answers = answers
        self.shown: list[float | None] = []
        for place, (_, value) in enumerate(answers):
            mark = self.mark(place)
            falls = mark is not None and value is not None and value < mark
            self.shown.append(value if value is not None and (not falls or self.confirms(place)) else mark)

    def mark(self, place: int) -> float | None:
        """Return what was shown before this answer."""
        return self.shown[place - 1] if place else None

    def low(self, place: int) -> bool:
        """Whether this answer is below half of what was shown before it."""
        mark, value = self.mark(place), self.answers[place][1]
        return mark is not None and value is not None and value * 2 < mark

    def reset(self, place: int) -> bool:
        """Whether the mark fell with this answer."""
        mark, shown = self.mark(place), self.shown[place]
        return mark is not None and shown is not None and shown < mark

    def confirms(self, place: int) -> bool:
        """Whether the endpoint's last answer was low too and none since has spoken for the mark."""
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

    def held_back(self) -> set[int]:
        """Return the answers that count: held back, and decided not to be part of a reset."""
        return {place for place in range(len(self.answers)) if self.counts(place)}

    def counts(self, place: int) -> bool:
        """Whether this answer was a fall that was not shown, and turned out to be no reset."""
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
        return False  # nobody knows yet


def test_a_total_that_grows_is_shown() -> None:
    """A total only grows: each answer is the new mark, whichever endpoint it comes from."""
    assert ([5, 6, 6, 9], 0) == fed((TOP, 5), (BALANCES, 6), (TOP, 6), (BALANCES, 9))


@pytest.mark.parametrize("fall", [99, 75, 51, 50])
def test_a_small_fall_is_held_back(fall: float) -> None:
    """A fall to half or more is two caches, not a reset: held back and counted, however often it is said."""
    assert ([100, 100, 100, 100], 3) == fed((TOP, 100), (TOP, fall), (TOP, fall), (TOP, fall))


def test_a_confirmed_reset_is_shown() -> None:
    """Below half twice in a row is a reset: the second answer is the mark, and nothing is counted."""
    assert ([100, 100, 12, 13], 0) == fed((TOP, 100), (TOP, 10), (TOP, 12), (TOP, 13))


@pytest.mark.parametrize(("next_answer", "shown", "counted"), [(100, 100, 1), (130, 130, 1), (60, 100, 2)])
def test_a_refuted_reset_counts(next_answer: float, shown: float, counted: int) -> None:
    """Below half once is a mistake: counted once, as is the next answer where it is a fall itself."""
    assert ([100, 100, shown], counted) == fed((TOP, 100), (TOP, 10), (TOP, next_answer))


def test_an_unconfirmed_reset_counts() -> None:
    """A user missing from the endpoint's next answer confirms nothing."""
    assert ([100, 100, 100, 100], 1) == fed((TOP, 100), (TOP, 10), (TOP, GONE), (TOP, 10))


def test_an_undecided_answer_counts_nothing_yet() -> None:
    """Whether an answer below half is held back is known with the endpoint's next answer only."""
    assert ([100, 100], 0) == fed((TOP, 100), (TOP, 10))
    assert ([100, 100, 100], 0) == fed((TOP, 100), (TOP, 10), (BALANCES, GONE))


def test_the_other_endpoint_confirms_nothing() -> None:
    """Two endpoints that are below half once each are two doubts: each waits for its own next answer."""
    assert ([100, 100, 100, 10], 0) == fed((TOP, 100), (TOP, 10), (BALANCES, 10), (TOP, 10))


@pytest.mark.parametrize(("refuting", "counted"), [(100, 1), (60, 2)])
def test_the_other_endpoint_refutes(refuting: float, counted: int) -> None:
    """After the other endpoint has answered above half, the next answer is a first one again."""
    answers = ((TOP, 100), (TOP, 10), (BALANCES, refuting), (TOP, 10))

    assert ([100, 100, 100, 100], counted) == fed(*answers)
    assert ([100, 100, 100, 100, 10], counted) == fed(*answers, (TOP, 10))


def test_a_reset_settles_the_other_endpoints_doubt() -> None:
    """An answer below half of a mark that is reset meanwhile was part of the reset."""
    assert ([100, 100, 100, 10, 10], 0) == fed(
        (TOP, 100), (BALANCES, 10), (TOP, 10), (TOP, 10), (BALANCES, 10)
    )


def test_a_doubt_is_of_its_own_mark() -> None:
    """A low answer from before a reset confirms no second reset."""
    shown, counted = fed((TOP, 100), (BALANCES, 10), (TOP, 10), (TOP, 10), (BALANCES, 2), (BALANCES, 2))

    assert ([100, 100, 100, 10, 10, 2], 0) == (shown, counted)


def test_a_reset_to_zero() -> None:
    """A reset to 0 is the usual one; from 0 nothing falls."""
    assert ([100, 100, 0, 0, 3], 0) == fed((TOP, 100), (TOP, 0), (TOP, 0), (TOP, 0), (TOP, 3))


def test_both_fields_that_fall_count_once() -> None:
    """What is counted is answers, not fields."""
    assert ([100, 100], 1) == fed_pairs((TOP, (100, 10)), (TOP, (90, 9)))
    assert ([100, 100, 100], 1) == fed_pairs((TOP, (100, 10)), (TOP, (1, 1)), (TOP, (100, 10)))
    assert ([100, 100, 100], 1) == fed_pairs((TOP, (100, 10)), (TOP, (1, 9)), (TOP, (100, 10)))
    assert ([100, 100, 1], 1) == fed_pairs((TOP, (100, 10)), (TOP, (1, 1)), (TOP, (1, 10)))


def test_withdrawn_is_guarded_too() -> None:
    """`withdrawn` has a mark of its own; `balance` is shown as it is."""
    accounts, _ = guarded({}, TOP, (a_user(total=100, withdrawn=10, balance=5),))
    accounts, counted = guarded(accounts, TOP, (a_user(total=101, withdrawn=9, balance=-1),))
    account = accounts["maria"]

    assert (101, 10, -1, 1) == (account.total, account.withdrawn, account.balance, counted)


@settings(max_examples=400)
@given(answers=sequences)
def test_the_guard_against_its_wording(answers: list[Answer]) -> None:
    """Any answers of both endpoints give the marks and the count of the contract's own words."""
    oracle = Oracle(answers)

    assert (oracle.shown, len(oracle.held_back())) == fed(*answers)


@settings(max_examples=400)
@given(answers=st.lists(st.tuples(endpoints, st.none() | st.tuples(totals, totals)), max_size=12))
def test_both_fields_against_the_wording(answers: list[Pair]) -> None:
    """The fields are guarded each for itself; an answer counts when it is held back in either."""
    total = Oracle([(endpoint, pair and pair[0]) for endpoint, pair in answers])
    withdrawn = Oracle([(endpoint, pair and pair[1]) for endpoint, pair in answers])

    assert (total.shown, len(total.held_back() | withdrawn.held_back())) == fed_pairs(*answers)


@given(answers=sequences)
def test_what_is_shown_never_falls_alone(answers: list[Answer]) -> None:
    """A mark falls only to an answer below half of it, when that endpoint's last one was too."""
    shown = fed(*answers)[0]
    for place in range(1, len(answers)):
        before, after = shown[place - 1], shown[place]
        if before is not None and after is not None and after < before:
            own = [value for endpoint, value in answers[:place] if endpoint is answers[place][0]]

            assert after == answers[place][1]
            assert own[-1] is not None
            assert max(own[-1], after) * 2 < before


@given(answers=sequences, others=sequences)
def test_users_are_guarded_each_for_itself(answers: list[Answer], others: list[Answer]) -> None:
    """What another user does changes no mark, and counts add up."""
    accounts: Accounts = {}
    counted = 0
    joint = list(zip(answers, [value for _, value in others], strict=False))
    for (endpoint, total), other in joint:
        pair = {"maria": total, "johnd": other}
        users = tuple(a_user(name, value) for name, value in pair.items() if value is not None)
        accounts, held = guarded(accounts, endpoint, users)
        counted += held
    alone = [Oracle([mine for mine, _ in joint]), Oracle([(mine[0], other) for mine, other in joint])]

    assert sum(len(oracle.held_back()) for oracle in alone) == counted
    assert [oracle.shown[-1] if joint else None for oracle in alone] == [
        accounts[name].total if name in accounts else None for name in ("maria", "johnd")
    ]


def test_absent_users_keep_their_marks() -> None:
    """A user who comes back after a while is still guarded by the old mark."""
    assert ([100, 100, 100, 100], 1) == fed((TOP, 100), (TOP, GONE), (TOP, GONE), (TOP, 99))


def test_the_longest_absent_are_forgotten() -> None:
    """Of more absent users than ABSENT_ACCOUNTS, those who left first are forgotten first."""
    crowd = tuple(a_user(f"user-{number}", 100) for number in range(ABSENT_ACCOUNTS))
    accounts: Accounts = guarded({}, TOP, (a_user("first", 100), a_user("second", 100)))[0]
    accounts = guarded(accounts, TOP, (a_user("second", 100),))[0]
    accounts = guarded(accounts, TOP, crowd)[0]
    kept = guarded(accounts, TOP, (a_user("newest", 1),))[0]

    assert {"first", "second"} <= accounts.keys()
    assert not {"first", "second"} & kept.keys()
    assert ABSENT_ACCOUNTS + 1 == len(kept)


def test_users_who_are_present_are_never_forgotten() -> None:
    """Marks of one endpoint's users are not forgotten because the other endpoint's answer has others."""
    watched = tuple(a_user(f"watched-{number}", 100) for number in range(ABSENT_ACCOUNTS + 1))
    accounts: Accounts = guarded({}, BALANCES, watched)[0]
    accounts = guarded(accounts, TOP, (a_user("maria", 1),))[0]
    accounts, counted = guarded(accounts, BALANCES, tuple(a_user(user.name, 99) for user in watched))

    assert ABSENT_ACCOUNTS + 1 == counted
    assert {100} == {accounts[user.name].total for user in watched}


def test_present_users_leave_the_absent_their_room() -> None:
    """ABSENT_ACCOUNTS is for users outside the last answers of both: a full top list forgets nobody."""
    crowd = tuple(a_user(f"user-{number}", 100) for number in range(ABSENT_ACCOUNTS))
    accounts: Accounts = guarded({}, TOP, (a_user("maria", 100), *crowd[1:]))[0]
    accounts = guarded(accounts, TOP, crowd)[0]
    accounts = guarded(accounts, BALANCES, (a_user("watched", 1),))[0]

    assert "maria" in accounts


def top(snapshot: Snapshot, wall: float = NOW.wall, **totals: float) -> Snapshot:
    """Take a `/user/top` answer of users with these totals."""
    users = tuple(a_user(name, total, balance=0.5) for name, total in totals.items())
    return with_top_users(snapshot, users, Now(wall, NOW.mono))


def test_top_users_are_taken() -> None:
    """A `/user/top` answer gives guarded totals in its order, and the sum of the balances."""
    known = top(top(Snapshot(), maria=100, johnd=50), johnd=50, maria=99, anna=1)
    assert known.top_users

    assert [("johnd", 50), ("maria", 100), ("anna", 1)] == list(known.top_users.value.totals.items())
    assert (1.5, NOW, 1) == (known.top_users.value.balance, known.top_users.at, known.regressions)


def test_tracked_hashes_are_increases() -> None:
    """Increases of users in two successive answers add up; the first answer of a process adds nothing."""
    first = top(Snapshot(), maria=100, johnd=50)
    second = top(first, maria=130, johnd=55)

    assert [0, 35] == [first.tracked_hashes, second.tracked_hashes]
    assert 35 == top(second, maria=130, johnd=55).tracked_hashes


def test_a_newcomer_adds_nothing() -> None:
    """A user who enters the list, or comes back to it, brings hashes of another time."""
    gone = top(top(Snapshot(), maria=100, johnd=50), maria=100)
    back = top(gone, maria=100, johnd=90, anna=1000)

    assert 0 == back.tracked_hashes
    assert 12 == top(back, maria=101, johnd=91, anna=1010).tracked_hashes


def test_a_reset_adds_nothing() -> None:
    """A reset takes nothing away and adds nothing; what is hashed after it counts again."""
    known = top(top(top(Snapshot(), maria=100), maria=10), maria=12)

    assert 0 == known.tracked_hashes
    assert 5 == top(known, maria=17).tracked_hashes


def test_a_held_back_fall_adds_nothing_twice() -> None:
    """Tracked are the guarded totals: the way back up to the mark is no work."""
    known = top(top(top(Snapshot(), maria=100), maria=90), maria=100)

    assert 0 == known.tracked_hashes
    assert 1 == top(known, maria=101).tracked_hashes


def test_a_failed_poll_loses_no_tracked_hashes() -> None:
    """Two successive answers are so with failed polls between them."""
    known = failed(top(Snapshot(), maria=100), TOP, at=1.0, reason="timeout", next_poll=2.0)

    assert 7 == top(known, maria=107).tracked_hashes


@given(answers=st.lists(st.dictionaries(st.sampled_from("abc"), totals, max_size=3), max_size=8))
def test_tracked_hashes_never_fall(answers: list[dict[str, float]]) -> None:
    """Tracked hashes are the sum of increases of what is shown, answer by answer: a counter."""
    known, expected = Snapshot(), 0.0
    for answer in answers:
        before = known.top_users.value.totals if known.top_users else {}
        known = top(known, **answer)
        marks = {name: known.accounts[name].total for name in answer.keys() & before.keys()}
        expected += sum(max(0.0, mark - before[name]) for name, mark in marks.items())

        assert expected == known.tracked_hashes


def test_totals_moved() -> None:
    """The time a total moved: absent until one does, then of the last answer in which one did, up or down."""
    first = top(Snapshot(), 10.0, maria=100)
    same = top(first, 20.0, maria=100, johnd=5)
    grown = top(same, 30.0, maria=101, johnd=5)
    held = top(top(grown, 40.0, maria=90, johnd=5), 50.0, maria=10)
    reset = top(held, 60.0, maria=11)

    assert [None, None, 30.0, 30.0, 60.0] == [
        known.totals_moved for known in (first, same, grown, held, reset)
    ]


@pytest.mark.parametrize("name", ["maria", "a" * 128, "\u00e9" * 64, '"} 1\nup 0', "\u202e\x00", "~", " "])
def test_names_that_fit_are_labels(name: str) -> None:
    """A name of up to 128 bytes is its own label, whatever it says."""
    assert name == user_label(name, None)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("a" * 129, "a" * 119),
        ("a" * 300, "a" * 119),
        ("\u00e9" * 65, "\u00e9" * 59),  # 118 bytes: the 60th would end at 120
        ("\U0001f600" * 33, "\U0001f600" * 29),
        ("a" + "\u20ac" * 43, "a" + "\u20ac" * 39),
    ],
    ids=["129 bytes", "300 bytes", "2-byte", "4-byte", "3-byte"],
)
def test_long_names_are_cut(name: str, kept: str) -> None:
    """A longer one is cut at a character to at most 119 bytes, and gets 8 hex digits of its SHA-256."""
    assert f"{kept}~{sha256(name.encode()).hexdigest()[:8]}" == user_label(name, None)


def test_names_that_are_no_text_are_made_text() -> None:
    """A lone surrogate would fail a whole page: it is replaced, and the digest tells such names apart."""
    first, second = user_label("mar\ud800a", None), user_label("mar\udfffa", None)

    assert first != second
    assert f"~{sha256(b'mar' + bytes.fromhex('eda080') + b'a').hexdigest()[:8]}" == first[-9:]
    assert ("mar", "\ufffd") == (first[:3], first[3])


@pytest.mark.parametrize("name", ["maria", "a" * 300, "mar\ud800a", ""])
def test_names_as_hmac(name: str) -> None:
    """With a key the label is the first 16 hex digits of HMAC-SHA-256 of the whole name."""
    expected = hmac.new(KEY, name.encode("utf-8", "surrogatepass"), "sha256").hexdigest()[:16]

    assert expected == user_label(name, KEY)
    assert expected != user_label(name, KEY + b"!")


@given(name=names, key=st.none() | st.binary())
def test_a_label_is_text_of_128_bytes(name: str, key: bytes | None) -> None:
    """Whatever the name, its label is Unicode text of at most 128 bytes, and always the same."""
    label = user_label(name, key)

    assert len(label.encode()) <= LABEL_BYTES
    assert label == user_label(name, key)
    assert label == name or label[-9] == "~" or key is not None


@given(users=st.lists(names, unique=True, max_size=5), key=st.none() | st.binary())
def test_labelled_names_are_unique(users: list[str], key: bytes | None) -> None:
    """Different names stay different, or the later one is a rejected entry: none is lost silently."""
    answer = labelled(Entries(tuple(a_user(name) for name in users), 2, "page"), key)

    assert len(users) + 2 == len(answer.entries) + answer.rejected
    assert len(answer.entries) == len({user.name for user in answer.entries})
    assert "page" == answer.next_page


@pytest.mark.parametrize("impostor_first", [True, False])
def test_an_impostor_is_rejected(impostor_first: bool) -> None:
    """Who is called as another's cut label shares no series: the second of the two is rejected."""
    victim = a_user("a" * 200, 1000, 1, 2)
    impostor = a_user(user_label(victim.name, None), 5)
    users = (impostor, victim) if impostor_first else (victim, impostor)
    answer = labelled(Entries(users, 0, None), None)

    assert [(impostor.name, users[0].total)] == [(user.name, user.total) for user in answer.entries]
    assert 1 == answer.rejected


def test_a_label_keeps_the_numbers() -> None:
    """Naming by label changes the name alone."""
    answer = labelled(Entries((a_user("maria", 1, 2, 3), a_user("b" * 200, 4, 5, 6)), 0, None), KEY)

    assert [(1, 2, 3), (4, 5, 6)] == [(user.total, user.withdrawn, user.balance) for user in answer.entries]
    assert [user_label("maria", KEY), user_label("b" * 200, KEY)] == [user.name for user in answer.entries]


def test_polls_are_recorded() -> None:
    """A success and a failure are each a poll; a failure tells its reason and keeps the last success."""
    known = planned(Snapshot(), PAYOUT, 5.0)
    known = succeeded(known, PAYOUT, at=10.0, rejected=2, next_poll=70.0)
    known = succeeded(known, PAYOUT, at=70.0, rejected=1, next_poll=130.0)
    known = failed(known, PAYOUT, at=130.0, reason="dns", next_poll=190.0, detail="no such host", took=0.5)
    outage = Outage("dns", "no such host", 130.0, 130.0, 1)

    assert Polling(3, {"dns": 1}, 3, False, 130.0, 70.0, 190.0, 0.5, (outage,)) == known.polling[PAYOUT]


def outages(*reasons: str | None) -> list[tuple[str, float, float, int]]:
    """Return what is kept of polls a second apart: failures for these reasons, successes for None."""
    known = Snapshot()
    for at, reason in enumerate(reasons):
        if reason is None:
            known = succeeded(known, PAYOUT, at=at, rejected=0, next_poll=at + 1)
        else:
            known = failed(known, PAYOUT, at=at, reason=reason, next_poll=at + 1)
    kept = known.polling[PAYOUT].outages
    return [(each.reason, each.first, each.last, each.polls) for each in kept]


def test_failures_in_a_row_are_one_outage() -> None:
    """For one reason and without a success between them; another reason, or a success, begins another."""
    assert [("dns", 0, 1, 2), ("tls", 2, 2, 1), ("tls", 4, 5, 2)] == outages(
        "dns", "dns", "tls", None, "tls", "tls"
    )


def test_an_outage_keeps_its_last_detail() -> None:
    """What varies from poll to poll does not make many outages of one."""
    known = Snapshot()
    for at in range(50):
        known = failed(known, PAYOUT, at=at, reason="http_status", detail=f"status {500 + at}", next_poll=at)

    assert (Outage("http_status", "status 549", 0, 49, 50),) == known.polling[PAYOUT].outages


def test_outages_outlive_successes() -> None:
    """However many polls succeed, the last five outages are kept, the newest last."""
    reasons = [reason for number in range(8) for reason in (str(number), None, None)]

    assert ["3", "4", "5", "6", "7"] == [reason for reason, *_ in outages(*reasons, *[None] * 999)]


def test_who_is_not_watched_any_more_is_forgotten() -> None:
    """Their series, why others were refused, and what the guard knew from /user/balance alone."""
    known = with_watched(Snapshot(), (a_user("ann", 5), a_user("bob", 5)), ((2, "unknown_user"),), NOW)
    known = with_top_users(known, (a_user("bob", 5),), NOW)
    one, none = watching(known, {"ann"}), watching(known, set())

    assert one.watched is not None
    assert (("ann",), ()) == (one.watched.value.labels, one.watched.value.refused)
    assert (frozenset({BALANCES}), frozenset({TOP})) == (one.accounts["ann"].by, one.accounts["bob"].by)
    assert none.watched is None
    assert frozenset() == none.accounts["ann"].by


def test_totals_move_when_the_answer_of_top_users_does() -> None:
    """A mark that /user/balance raised meanwhile is no move of /user/top; its hashes count all the same."""
    known = top(Snapshot(), wall=1.0, maria=100)
    known = with_watched(known, (a_user("maria", 120),), (), NOW)
    still = top(known, wall=2.0, maria=100)
    moved = top(still, wall=3.0, maria=130)

    assert (None, 3.0) == (still.totals_moved, moved.totals_moved)
    assert 30 == moved.tracked_hashes


def test_a_planned_poll_is_none_yet() -> None:
    """Before its first poll an endpoint is neither up nor down; its next poll is known."""
    known = planned(Snapshot(), PAYOUT, 5.0)

    assert (
        Polling(0, {}, 0, up=None, last_poll=None, last_success=0.0, next_poll=5.0) == known.polling[PAYOUT]
    )
    assert [PAYOUT] == list(known.polling)


def test_an_endpoint_recovers() -> None:
    """A success after failures is up again and forgets no failure."""
    known = failed(Snapshot(), PAYOUT, at=1.0, reason="dns", next_poll=2.0)
    known = failed(known, PAYOUT, at=2.0, reason="timeout", next_poll=4.0)
    known = failed(known, PAYOUT, at=4.0, reason="dns", next_poll=8.0)
    record = succeeded(known, PAYOUT, at=8.0, rejected=0, next_poll=9.0).polling[PAYOUT]

    assert ({"dns": 2, "timeout": 1}, 4, True, 8.0) == (
        record.failures,
        record.polls,
        record.up,
        record.last_success,
    )


@given(steps=st.lists(st.tuples(st.sampled_from(Endpoint), st.sampled_from(["ok", "plan", "dns", "tls"]))))
def test_failures_never_exceed_polls(steps: list[tuple[Endpoint, str]]) -> None:
    """Polls are successes and failures, each endpoint's its own."""
    known = Snapshot()
    for endpoint, step in steps:
        if step == "ok":
            known = succeeded(known, endpoint, at=1.0, rejected=0, next_poll=2.0)
        else:
            known = (
                planned(known, endpoint, 2.0)
                if step == "plan"
                else failed(known, endpoint, at=1.0, reason=step, next_poll=2.0)
            )

    for endpoint, record in known.polling.items():
        assert sum(record.failures.values()) == sum(s in {"dns", "tls"} for e, s in steps if e is endpoint)
        assert record.polls == sum(s != "plan" for e, s in steps if e is endpoint)


def full() -> Snapshot:
    """Return a snapshot with something of everything."""
    known = top(top(Snapshot(), maria=100, johnd=50), maria=150, johnd=49)
    known = with_payout(known, Payout(1, 2, 3, 4, 5), NOW)
    known = with_history(known, (HistoryRow(0, 3600, 1),), "hourly", NOW)
    return succeeded(known, TOP, at=NOW.wall, rejected=1, next_poll=NOW.wall + 60)


@pytest.mark.parametrize("endpoint", Endpoint)
def test_a_failed_poll_leaves_the_readings(endpoint: Endpoint) -> None:
    """A failure changes the endpoint's record and nothing else: values stay until they are stale."""
    before = full()
    after = failed(before, endpoint, at=1.0, reason="timeout", next_poll=2.0)

    assert {name: value for name, value in vars(before).items() if name != "polling"} == {
        name: value for name, value in vars(after).items() if name != "polling"
    }
    assert all(
        after.polling[other] is record for other, record in before.polling.items() if other != endpoint
    )


def test_a_snapshot_does_not_change() -> None:
    """Readers hold a snapshot while polls go on: a step makes a new one and leaves the old as it was."""
    before = full()
    polls = before.polling[TOP].polls
    failed(top(before, maria=999), TOP, at=1.0, reason="dns", next_poll=2.0)

    assert (polls, {}) == (before.polling[TOP].polls, dict(before.polling[TOP].failures))
    assert 150 == before.accounts["maria"].total
    with pytest.raises(FrozenInstanceError):
        before.regressions = 0  # type: ignore[misc]


def test_cleared_keeps_the_counters() -> None:
    """What was read is another site's now; counters stay, for they may not fall."""
    known = full()

    assert Snapshot(polling=known.polling, tracked_hashes=50, regressions=1) == cleared(known)
    assert 50 == top(cleared(known), maria=1000).tracked_hashes


def test_payout_is_taken() -> None:
    """A `/stats/payout` answer is a reading of its moment."""
    payout = Payout(1, 2, 3, 4, 5)

    assert Reading(payout, NOW) == with_payout(Snapshot(), payout, NOW).payout


def test_last_rows_outlive_an_empty_history() -> None:
    """An empty answer is the history now; the last rows seen stay for the row timestamps."""
    rows = (HistoryRow(0, 3600, 1),)
    first = with_history(Snapshot(), rows, "hourly", NOW)
    second = with_history(first, (), "hourly", Now(NOW.wall + 300, NOW.mono + 300))

    assert ((rows, rows), ((), rows)) == tuple(
        (known.history and known.history.value, known.last_rows) for known in (first, second)
    )
    assert "hourly" == second.meaning


@pytest.mark.parametrize(("age", "expected"), [(0, True), (299.5, True), (300, True), (300.5, False)])
def test_freshness(age: float, expected: bool) -> None:
    """A reading is fresh for exactly `stale_after` seconds of the monotonic clock."""
    reading = Reading(1, Now(1000.0, 50.0))

    assert expected is reading.fresh(300, Now(1000.0 + age, 50.0 + age))


@pytest.mark.parametrize("step", [-1e6, 1e6])
def test_freshness_bears_a_stepped_clock(step: float) -> None:
    """A wall clock set anew neither keeps nor drops a value."""
    reading = Reading(1, Now(1000.0, 50.0))

    assert reading.fresh(300, Now(1000.0 + step, 51.0))
    assert not reading.fresh(300, Now(1000.0 + step, 351.0))


def test_the_store_publishes() -> None:
    """Every change is told of, by site; what is published is what is found, by reference."""
    told: list[str] = []
    store = Store()
    store.tell = told.append
    first, second = Snapshot(), full()
    store.keep({"a": first, "b": first})
    store.publish("b", second)

    assert ["a", "b", "b"] == told
    assert ["a", "b"] == list(store)
    assert (first, second) == (store["a"], store["b"])


def test_the_store_keeps_exactly_these() -> None:
    """Sites that are gone are forgotten; a mapping that changes later is not the store."""
    store = Store()
    sites = {"a": Snapshot()}
    store.publish("gone", Snapshot())
    store.keep(sites)
    sites["b"] = Snapshot()

    assert ["a"] == list(store)
    with pytest.raises(KeyError):
        store["gone"]
