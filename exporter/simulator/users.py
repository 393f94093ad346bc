"""The users of a site: their names, when they join and withdraw, and what they have at a time."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from exporter.simulator.curve import HOUR, noises

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.simulator.curve import Curve

NEWCOMER_EVERY = 600  # seconds between two newcomers
UNITS = 100_000_000  # coins have eight decimals, as in the example of "/user/balance"
MIN_WITHDRAWAL = UNITS // 50  # 0.02 coins, the only withdrawal the reference shows
USERS_SHARE = 0.8  # of a site's hashes; the rest is mined without a user name
HOSTILE_SHARE = 0.1  # enough for each hostile user to be among the top ones
HOSTILE_NAMES = (
    "",
    'quote"d',
    "it's",
    "two\nlines\r\n",
    "back\\slash\\",
    "<script>alert(1)</script>",
    'x"} 1\ncryptoloot_up 0',
    "n" * 300,
    "\N{MONEY-MOUTH FACE}\N{RIGHT-TO-LEFT OVERRIDE}",
    "lone\ud800surrogate",
    "twin",
    "twin",
    "nul\0",
)
FIRST = ("anna", "ben", "chloe", "dmitri", "elif", "farid", "grace", "hiro")
LAST = ("ivanov", "jansen", "kim", "lopez", "meyer", "novak", "okafor", "patel")
BASE58 = (b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz" * 5)[:256]  # for bytes.translate


class User(NamedTuple):
    """A user of the "Users" section: accepted hashes, coins withdrawn, coins left."""

    name: str
    total: int
    withdrawn: float
    balance: float


class Person(NamedTuple):
    """What never changes about a user: share of the site's hashes, when they joined, their withdrawals."""

    share: float
    joined: float
    every: float
    first: float

    def last_withdrawal(self, t: float) -> float:
        """Return the time of the last withdrawal at or before t; before `joined` if there was none."""
        return self.first + (t - self.first) // self.every * self.every if t >= self.first else -math.inf


@dataclass(frozen=True)
class Ledger:
    """What is the same for all users of a site at one time; an answer needs one."""

    curve: Curve
    now: float
    since: float  # the last reset, or the site's start
    lag: float  # share by which the answering cache is behind
    units_per_hash: float
    hostile: bool  # whether HOSTILE_NAMES are users

    @cached_property
    def mined_by_now(self) -> float:
        """Hashes of the site from its start to now."""
        return self.curve.mined(self.now)

    @cached_property
    def mined_by_reset(self) -> float:
        """Hashes of the site from its start to the last reset."""
        return self.curve.mined(self.since)

    def user(self, name: str, person: Person) -> User:
        """Return the user at this time; all 0 for one who has yet to join.

        Coins are credited at one rate, that of the site's start, so that a balance falls by withdrawals only.
        """
        begin = max(self.curve.mined(person.joined), self.mined_by_reset)
        total = max(0, int(person.share * (self.mined_by_now - begin)))
        units = int(total * self.units_per_hash)
        last = person.last_withdrawal(self.now)
        withdrawn = int(max(0, int(person.share * (self.curve.mined(last) - begin))) * self.units_per_hash)
        withdrawn = withdrawn if withdrawn >= MIN_WITHDRAWAL else 0
        return User(name, total - int(total * self.lag), withdrawn / UNITS, (units - withdrawn) / UNITS)

    def bound(self, share: float, order: str) -> float:
        """Return what `order` cannot exceed for a user of at most this share."""
        total = share * (self.mined_by_now - self.mined_by_reset)
        units = total * self.units_per_hash
        if order == "total":
            return total
        return 0.0 if order == "withdrawn" and units < MIN_WITHDRAWAL else units / UNITS


@dataclass(frozen=True)
class Population:
    """The users of a site, by index: shares of the site's hashes follow Zipf's law.

    `members` had joined by `created`, at hours of their own; `newcomers` join after it.
    """

    seed: int
    site: str
    born: int
    created: float
    members: int
    newcomers: int

    def listed(self, ledger: Ledger, page: str = "") -> Iterator[User]:
        """Yield the users with hashes, alphabetical from the name `page` on; only what is read is computed.

        Alphabetical is by code point. The names are sorted once per site, at first use: seconds for a
        million users.
        """
        begin = bisect_left(self._order, page, key=self._names.__getitem__)
        indexes = (self._order[at] for at in range(begin, len(self._order)))
        usual = (ledger.user(self._names[index], self._person(index)) for index in indexes)
        hostile = sorted(user for user in self._hostile(ledger) if user.name >= page)
        merged = heapq.merge(usual, hostile, key=lambda user: user.name)
        return (user for user in merged if user.total > 0)

    def find(self, ledger: Ledger, name: str) -> User | None:
        """Return one user, also one without hashes; None if the name never connected by then."""
        at = bisect_left(self._order, name, key=self._names.__getitem__)
        if at < len(self._order) and self._names[self._order[at]] == name:
            person = self._person(self._order[at])
            return ledger.user(name, person) if person.joined <= ledger.now else None
        return next((user for user in self._hostile(ledger) if user.name == name), None)

    def top(self, ledger: Ledger, count: int, order: str) -> list[User]:
        """Return the `count` best by `order`: exactly ordered, also with a million users.

        What a user can have at most falls with the index: the search ends where that is no more than what
        the last of the best has.
        """
        best: list[tuple[float, int, User]] = []
        for place, (bound, user) in enumerate(self._candidates(ledger, order)):
            if len(best) == count and bound <= best[0][0]:
                break
            entry = (float(getattr(user, order)), -place, user)
            heapq.heappush(best, entry) if len(best) < count else heapq.heappushpop(best, entry)
        return [user for *_, user in sorted(best, key=lambda entry: entry[:2], reverse=True)]

    def _candidates(self, ledger: Ledger, order: str) -> Iterator[tuple[float, User]]:
        """Yield users with a bound of their value and of all that follow."""
        yield from ((math.inf, user) for user in self._hostile(ledger))
        for index in range(self._size):
            person = self._person(index)
            if person.joined <= ledger.now:
                user = ledger.user(_name(self.seed, index), person)
                yield ledger.bound(self._greatest_share(index), order), user

    def _hostile(self, ledger: Ledger) -> list[User]:
        person = Person(HOSTILE_SHARE / len(HOSTILE_NAMES), self.born, math.inf, math.inf)
        return [ledger.user(name, person) for name in HOSTILE_NAMES if ledger.hostile]

    def _person(self, index: int) -> Person:
        diligence, joins, pace, first = noises(self.seed, self.site, "user", index)
        age = self.created // HOUR - self.born // HOUR
        # Whole hours where it is free to choose: the curve has those ready.
        joined: float = self.born + int(joins**2 * age) * HOUR
        if index >= self.members:
            joined = self.created + (index - self.members + 1) * NEWCOMER_EVERY
        every = math.inf if pace > 2 / 3 else int(72 + 400 * pace) * HOUR  # a third never withdraws
        start = math.inf if every == math.inf else self.born + int(first * every / HOUR) * HOUR
        return Person(self._greatest_share(index) * (0.5 + diligence / 2), joined, every, start)

    def _greatest_share(self, index: int) -> float:
        harmonic = math.log(max(self._size, 1)) + 0.5772 + 0.5  # not less than the harmonic number
        return USERS_SHARE / (index + 1) / harmonic

    @property
    def _size(self) -> int:
        return self.members + self.newcomers

    @cached_property
    def _names(self) -> list[str]:
        return [_name(self.seed, index) for index in range(self._size)]

    @cached_property
    def _order(self) -> list[int]:
        return sorted(range(self._size), key=self._names.__getitem__)


def _name(seed: int, index: int) -> str:
    """Return the name of a user: "/user/balance" speaks of names, md5 hashes and e-mail addresses.

    Wallet addresses are our addition; the first two names are those of that section's example.
    """
    if index < 2:  # noqa: PLR2004 - as many as the example has
        return ("johnd", "maria")[index]
    raw = blake2b(f"{seed}:{index}".encode()).digest()
    first, last = FIRST[raw[1] % len(FIRST)], LAST[raw[2] % len(LAST)]
    match raw[0] % 4:
        case 0:
            return f"{first}{index}"
        case 1:
            return f"{first}.{last}{index}@example.com"
        case 2:
            return "4" + (raw + raw[:30]).translate(BASE58).decode()
        case _:
            return raw[:16].hex()
