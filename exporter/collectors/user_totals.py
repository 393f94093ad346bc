"""Users' totals as exported: high-water marks over two endpoints that ignore small decreases.

A total that decreases a little comes from a second cache or from rounding. `rate()` would take it for a
restart of the counter and add the whole total again. So a mark is lowered only after a reset is confirmed:
an answer below half of the mark, then the same endpoint's next answer below half too, and no answer of the
other endpoint at or above half in between.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from itertools import islice

from msgspec import Struct

from exporter.api.answers import User
from exporter.endpoint import Endpoint

ABSENT_USERS = 1024  # how many users outside the last answers keep their marks, per site


class PendingReset(Struct, frozen=True, gc=False):
    """An endpoint's answer below half of a mark, which its next answer confirms or refutes.

    `fields` says for which marks it is pending: total, withdrawn. `counted`: the answer is counted as ignored
    already, because of its other field.
    """

    endpoint: Endpoint
    fields: tuple[bool, ...]
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


class Ruling(Enum):
    """What happens to a new value, and to the pending resets of its field."""

    NEW_MARK = "the value becomes the mark; pending resets are removed, whether confirmed or refuted"
    IGNORED = "the value is an ignored decrease; pending resets are refuted and removed"
    PENDING = "a reset is pending until the endpoint's next answer; the other endpoint's pending resets stay"


def rule(mark: float, value: float, *, pending: bool) -> Ruling:
    """Return what becomes of a value; `pending` says whether its field has a reset of the same endpoint.

    | value lies         | no reset pending | reset pending |
    |--------------------|------------------|---------------|
    | at or above mark   | NEW_MARK         | NEW_MARK      |
    | at or above half   | IGNORED          | IGNORED       |
    | below half         | PENDING          | NEW_MARK      |
    """
    if value >= mark:
        return Ruling.NEW_MARK
    if value * 2 >= mark:
        return Ruling.IGNORED
    return Ruling.NEW_MARK if pending else Ruling.PENDING


def update_totals(
    totals: Mapping[str, UserTotals], endpoint: Endpoint, users: Sequence[User]
) -> tuple[Mapping[str, UserTotals], int]:
    """Apply one answer of an endpoint; return the new totals by label, and how many answers were ignored."""
    seen: dict[str, UserTotals] = {}
    ignored = 0
    alone = frozenset((endpoint,))
    for user in users:
        name, total, withdrawn = user.name, user.total, user.withdrawn
        before = totals.get(name) or UserTotals(total, withdrawn, user.balance, (), alone)
        endpoints = before.endpoints if endpoint in before.endpoints else before.endpoints | alone
        if not before.pending and total >= before.total and withdrawn >= before.withdrawn:
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
    if endpoint not in totals.endpoints:  # and so none of its resets is pending
        return totals, 0
    pending = tuple(reset for reset in totals.pending if reset.endpoint != endpoint)
    ignored = sum(reset.endpoint == endpoint and not reset.counted for reset in totals.pending)
    endpoints = totals.endpoints - {endpoint}
    return UserTotals(totals.total, totals.withdrawn, totals.balance, pending, endpoints), ignored


def _judge(
    before: UserTotals, endpoint: Endpoint, user: User, endpoints: frozenset[Endpoint]
) -> tuple[UserTotals, int]:
    """Apply one user of an answer to the marks."""
    fields = (before.total, user.total), (before.withdrawn, user.withdrawn)
    waiting = next((reset.fields for reset in before.pending if reset.endpoint == endpoint), (False, False))
    rulings = [rule(*field, pending=pending) for field, pending in zip(fields, waiting, strict=True)]
    ignored = Ruling.IGNORED in rulings
    undecided = tuple(ruling is Ruling.PENDING for ruling in rulings)
    count, resets = int(ignored), []
    for reset in before.pending:
        refuted = any(
            was and value * 2 >= mark for was, (mark, value) in zip(reset.fields, fields, strict=True)
        )
        count += refuted and not reset.counted
        still = tuple(was and stays for was, stays in zip(reset.fields, undecided, strict=True))
        if reset.endpoint != endpoint and any(still):
            resets.append(PendingReset(reset.endpoint, still, reset.counted or refuted))
    if any(undecided):
        resets.append(PendingReset(endpoint, undecided, ignored))
    total, withdrawn = (
        value if ruling is Ruling.NEW_MARK else mark
        for (mark, value), ruling in zip(fields, rulings, strict=True)
    )
    return UserTotals(total, withdrawn, user.balance, tuple(resets), endpoints), count
