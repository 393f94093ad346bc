"""Users' totals as they are shown: high-water marks over two endpoints, held against falls that are no reset.

A total that falls a little is two caches or a rounding, and `rate()` would add the whole of it again.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from exporter.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from exporter.api.answers import User

ABSENT_ACCOUNTS = 1024  # how many users outside the last answers keep their high-water marks, per site
_ALONE = {endpoint: frozenset((endpoint,)) for endpoint in Endpoint}


class Doubt(Struct, frozen=True, gc=False):
    """An endpoint's answer below half of a mark, waiting for that endpoint's next answer."""

    endpoint: Endpoint
    total: bool
    withdrawn: bool
    counted: bool  # as a regression, because of the other field


class Account(Struct, frozen=True, gc=False):
    """A user as shown: high-water marks of `total` (hashes) and `withdrawn` (coins), the last `balance`."""

    total: float
    withdrawn: float
    balance: float
    doubts: tuple[Doubt, ...] = ()
    by: frozenset[Endpoint] = frozenset()  # the endpoints whose last answer has the user


def guarded(
    accounts: Mapping[str, Account], endpoint: Endpoint, users: tuple[User, ...]
) -> tuple[Mapping[str, Account], int]:
    """Apply one answer of an endpoint to the accounts; return them and how many answers were held back.

    A total falls only when an answer below half of its mark is confirmed by the same endpoint's next answer
    while the other endpoint has not answered above half since.
    """
    seen: dict[str, Account] = {}
    regressions = 0
    alone = _ALONE[endpoint]
    for user in users:
        name, total, withdrawn = user.name, user.total, user.withdrawn
        known = accounts.get(name)
        by = alone if known is None or known.by is alone else known.by | alone
        if known is None or (not known.doubts and total >= known.total and withdrawn >= known.withdrawn):
            seen[name] = Account(total, withdrawn, user.balance, (), by)
        else:
            seen[name], held = _judged(known, endpoint, user, by)
            regressions += held
    if accounts.keys() <= seen.keys():
        return seen, regressions
    absent: dict[str, Account] = {}
    elsewhere: dict[str, Account] = {}
    for name, account in accounts.items():
        if name not in seen:
            left, held = unconfirmed(account, endpoint)
            (elsewhere if left.by else absent)[name] = left
            regressions += held
    kept = dict(islice(absent.items(), max(0, len(absent) - ABSENT_ACCOUNTS), None))
    return kept | elsewhere | seen, regressions


def _judged(known: Account, endpoint: Endpoint, user: User, by: frozenset[Endpoint]) -> tuple[Account, int]:
    own = [doubt for doubt in known.doubts if doubt.endpoint is endpoint]
    total = _field(known.total, user.total, confirmed=any(doubt.total for doubt in own))
    withdrawn = _field(known.withdrawn, user.withdrawn, confirmed=any(doubt.withdrawn for doubt in own))
    held = total.held or withdrawn.held
    regressions = int(held)
    doubts = []
    for doubt in known.doubts:
        refuted = (doubt.total and not total.low) or (doubt.withdrawn and not withdrawn.low)
        regressions += refuted and not doubt.counted
        left = Doubt(
            doubt.endpoint,
            total=doubt.total and total.doubted,
            withdrawn=doubt.withdrawn and withdrawn.doubted,
            counted=doubt.counted or refuted,
        )
        if doubt.endpoint is not endpoint and (left.total or left.withdrawn):
            doubts.append(left)
    if total.doubted or withdrawn.doubted:
        doubts.append(Doubt(endpoint, total.doubted, withdrawn.doubted, counted=held))
    return Account(total.mark, withdrawn.mark, user.balance, tuple(doubts), by), regressions


class _Field(NamedTuple):
    mark: float
    low: bool = False  # below half of the mark
    doubted: bool = False  # low, and not yet confirmed
    held: bool = False  # a fall that is no reset: shown as the mark


def _field(mark: float, value: float, *, confirmed: bool) -> _Field:
    if value >= mark:
        return _Field(value)
    if value * 2 >= mark:
        return _Field(mark, held=True)
    return _Field(value, low=True) if confirmed else _Field(mark, low=True, doubted=True)


def unconfirmed(account: Account, endpoint: Endpoint) -> tuple[Account, int]:
    """Decide the doubts of an endpoint whose answer does not have the user any more."""
    own = [doubt for doubt in account.doubts if doubt.endpoint is endpoint]
    if not own and endpoint not in account.by:
        return account, 0
    others = tuple(doubt for doubt in account.doubts if doubt.endpoint is not endpoint)
    left = Account(account.total, account.withdrawn, account.balance, others, account.by - {endpoint})
    return left, sum(not doubt.counted for doubt in own)
