"""Users' totals as exported: high-water marks over two endpoints that ignore small decreases.

A total that decreases a little comes from a second cache or from rounding. `rate()` would take it for a
restart of the counter and add the whole total again. So a mark is lowered only after a reset is confirmed:
an answer below half of the mark, then the same endpoint's next answer below half too, and no answer of the
other endpoint at or above half in between.
"""

from __future__ import annotations

from enum import Enum
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from exporter.api.answers import User
    from exporter.endpoint import Endpoint

ABSENT_USERS = 1024  # how many users outside the last answers keep their marks, per site


class PendingReset(Struct, frozen=True, gc=False):
    """An endpoint's answer below half of a mark, which its next answer confirms or refutes.

    `fields` says for which marks it is pending: total, withdrawn. `counted`: the answer is counted as ignored
    already, because of its other field.
    """

    endpoint: Endpoint
    fields: tuple[bool, bool]
    counted: bool


class UserTotals(Struct, frozen=True, gc=False):
    """A user as exported: marks of `total` (hashes) and `withdrawn` (coins), and the last `balance`.

    `endpoints` are those whose last answer has the user.
    """

    total: float
    withdrawn: float
    balance: float
    pending: tuple[PendingReset, ...] = ()
    endpoints: frozenset[Endpoint] = frozenset()


class Position(Enum):
    """Where an answer's value lies."""

    AT_MARK = "at the mark or above"
    HALF = "at least half of the mark"
    LOW = "below half of the mark"


class Ruling(NamedTuple):
    """What a value leads to: does it become the mark, is it ignored, what becomes of pending resets.

    Pending resets of the field, of both endpoints, are dropped unless `pending`: then one of this endpoint is
    added. Those that are dropped are refuted, or confirmed when the value is low.
    """

    becomes_mark: bool
    ignored: bool = False
    pending: bool = False


# By where the value lies, and whether a reset of the same endpoint is pending for the field.
RULINGS = {
    (Position.AT_MARK, False): Ruling(becomes_mark=True),
    (Position.AT_MARK, True): Ruling(becomes_mark=True),
    (Position.HALF, False): Ruling(becomes_mark=False, ignored=True),
    (Position.HALF, True): Ruling(becomes_mark=False, ignored=True),
    (Position.LOW, False): Ruling(becomes_mark=False, pending=True),
    (Position.LOW, True): Ruling(becomes_mark=True),
}


def update_totals(
    totals: Mapping[str, UserTotals], endpoint: Endpoint, users: Sequence[User]
) -> tuple[Mapping[str, UserTotals], int]:
    """Apply one answer of an endpoint; return the new totals by label, and how many answers were ignored."""
    seen: dict[str, UserTotals] = {}
    ignored = 0
    alone = _alone(endpoint)
    for user in users:
        name, total, withdrawn = user.name, user.total, user.withdrawn
        before = totals.get(name)
        endpoints = alone if before is None or before.endpoints is alone else before.endpoints | alone
        if before is None or (not before.pending and total >= before.total and withdrawn >= before.withdrawn):
            seen[name] = UserTotals(total, withdrawn, user.balance, (), endpoints)
        else:
            seen[name], count = _judge(before, endpoint, user, endpoints)
            ignored += count
    if totals.keys() <= seen.keys():
        return seen, ignored
    absent: dict[str, UserTotals] = {}
    elsewhere: dict[str, UserTotals] = {}
    for name, before in totals.items():
        if name not in seen:
            after, count = without_endpoint(before, endpoint)
            (elsewhere if after.endpoints else absent)[name] = after
            ignored += count
    kept = dict(islice(absent.items(), max(0, len(absent) - ABSENT_USERS), None))
    return kept | elsewhere | seen, ignored


def without_endpoint(totals: UserTotals, endpoint: Endpoint) -> tuple[UserTotals, int]:
    """Return a user's totals after an answer of the endpoint without the user, and how many were ignored.

    A pending reset of that endpoint can no longer be confirmed.
    """
    dropped = [reset for reset in totals.pending if reset.endpoint == endpoint]
    if not dropped and endpoint not in totals.endpoints:
        return totals, 0
    pending = tuple(reset for reset in totals.pending if reset.endpoint != endpoint)
    endpoints = totals.endpoints - {endpoint}
    after = UserTotals(totals.total, totals.withdrawn, totals.balance, pending, endpoints)
    return after, sum(not reset.counted for reset in dropped)


def _judge(
    before: UserTotals, endpoint: Endpoint, user: User, endpoints: frozenset[Endpoint]
) -> tuple[UserTotals, int]:
    """Apply one user of an answer to the marks."""
    fields = (before.total, user.total), (before.withdrawn, user.withdrawn)
    own = next((reset.fields for reset in before.pending if reset.endpoint == endpoint), (False, False))
    positions = [_position(mark, value) for mark, value in fields]
    rulings = [RULINGS[key] for key in zip(positions, own, strict=True)]
    ignored = any(ruling.ignored for ruling in rulings)
    count = int(ignored)
    pending = []
    for reset in before.pending:
        refuted = any(
            waiting and position is not Position.LOW
            for waiting, position in zip(reset.fields, positions, strict=True)
        )
        count += refuted and not reset.counted
        total, withdrawn = (a and ruling.pending for a, ruling in zip(reset.fields, rulings, strict=True))
        if reset.endpoint != endpoint and (total or withdrawn):
            pending.append(PendingReset(reset.endpoint, (total, withdrawn), reset.counted or refuted))
    total, withdrawn = (ruling.pending for ruling in rulings)
    if total or withdrawn:
        pending.append(PendingReset(endpoint, (total, withdrawn), ignored))
    marks = [
        value if ruling.becomes_mark else mark for (mark, value), ruling in zip(fields, rulings, strict=True)
    ]
    return UserTotals(marks[0], marks[1], user.balance, tuple(pending), endpoints), count


def _position(mark: float, value: float) -> Position:
    if value >= mark:
        return Position.AT_MARK
    return Position.HALF if value * 2 >= mark else Position.LOW


@cache
def _alone(endpoint: Endpoint) -> frozenset[Endpoint]:
    """Return the same set each time: comparing it by identity is what most users of an answer need."""
    return frozenset((endpoint,))
