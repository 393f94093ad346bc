"""The Crypto-Loot HTTP API, played locally: written from the API's reference alone, and from nothing of ours.

A `World` has sites, found by their secrets. Every answer is a pure function of the seed, the world's clock
and the incidents of the site: whatever was asked before changes nothing (what is kept between requests is
only computed once). Times are Unix seconds, rates hashes per second, amounts coins.

Where the reference is silent, the choice is stated beside the code that makes it. Section names in
docstrings ("Global Errors", "/user/list", ...) are those of the reference.

One file in spite of its length: it is the other side of the wire, and what it shares with us is nothing.
"""

from __future__ import annotations

import asyncio
import gzip
import heapq
import json
import math
import re
import struct
import time
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from functools import cached_property
from hashlib import blake2b
from itertools import chain, islice, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    Sleep = Callable[[float], Awaitable[None]]
    App = Callable[[Message, Receive, Send], Awaitable[None]]

HOUR = 3600
DAY = 24 * HOUR
WEEK_ROWS = 168  # "/stats/history": hourly, for the last 7 days
SETTLING = 120  # seconds between two looks at the network, hence the age of a payout's `synctime`
NEWCOMER_EVERY = 600  # seconds between two newcomers
# The reference lists error codes and no HTTP status: all it promises is a body, so 200 unless a caller
# of `app` says otherwise.
ERROR_STATUS = 200
LOG_LENGTH = 10_000
MAX_FORM_BYTES = 65_536
GZIP_ABOVE = 1024  # bytes
ACCEPTS_GZIP = re.compile(r"(?:^|,)\s*gzip\s*(?:;\s*q=(?!0(?:\.0*)?\s*(?:,|$))[^,]*)?(?:,|$)")
UNITS = 100_000_000  # coins have eight decimals, as in the example of "/user/balance"
MIN_WITHDRAWAL = UNITS // 50  # 0.02 coins, the only withdrawal the reference shows
USERS_SHARE = 0.8  # of a site's hashes; the rest is mined without a user name
HOSTILE_SHARE = 0.1  # enough for each hostile user to be among the top ones
WEEKEND = 0.6
HEALTHY_SECRET = "demo-healthy"  # noqa: S105 - opens nothing but this simulator
TROUBLED_SECRET = "s3cr&t/+=%"  # noqa: S105 - as above, and breaks clients that forget to encode it
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
DURATION = re.compile(r"(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?(?:(\d+)ms)?", re.ASCII)
DURATION_UNITS = (7 * DAY, DAY, HOUR, 60, 1, 0.001)


class Row(NamedTuple):
    """A row of "/stats/history": the hour's begin, its hashes, their average per second."""

    synctime: int
    hashes: int
    hashrate: float


class Payout(NamedTuple):
    """The answer of "/stats/payout"; `payout` is taken to be the share paid out, `value` the block reward."""

    diff: int
    value: float
    payout: float
    payout_per_million: float
    synctime: int


class User(NamedTuple):
    """A user of the "Users" section: accepted hashes, coins withdrawn, coins left."""

    name: str
    total: int
    withdrawn: float
    balance: float


class Request(NamedTuple):
    """One request as logged: never with its parameters; a path outside the reference is logged as `other`."""

    time: float
    site: str | None
    path: str
    method: str


@dataclass(frozen=True)
class Incident:
    """Something that happens to a site from `start` (Unix seconds) for `length` seconds, again after `every`.

    What is in the data:

    - `drop`: the hashrate is multiplied by `factor`
    - `freeze`: every answer is the one of the freeze's start; afterwards all is as if it had never been
    - `reset`: totals, withdrawn and balances of all users restart from 0; for good, `length` means nothing
    - `waver`: totals come from one of two caches, one behind by `fraction`; which one changes by the second
    - `hostile`: HOSTILE_NAMES are users too, and have been since the site began

    What is in the answers, of all paths or of `path` alone:

    - `outage` or `outage-5xx`: 503 with HTML; `outage-html`: the same with 200; `outage-cut`: half the body
    - `slow`: the answer of the request's time comes after `delay` seconds
    - `rate-limit`: 429 with `Retry-After` in `retry_after` seconds, as an HTTP-date when `as_date`
    - `wrong-secret`: `invalid_secret`, whatever the secret; `error`: `code`

    Raises ValueError for an unknown kind. Of several failures at once the first of the site's list answers.
    """

    kind: str
    start: float
    length: float
    every: float = math.inf
    factor: float = 0.4
    fraction: float = 0.001
    delay: float = 30.0
    retry_after: float = 30.0
    as_date: bool = False
    code: str = "internal_error"
    path: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of incident {self.kind!r}: one of {', '.join(KINDS)}")

    def began(self, t: float) -> float:
        """Return the start of the latest occurrence at or before t; infinity before the first."""
        if t < self.start:
            return math.inf
        return (
            self.start if self.every == math.inf else self.start + (t - self.start) // self.every * self.every
        )

    def active(self, t: float) -> bool:
        """Tell whether t lies within an occurrence; its end does not."""
        began = self.began(t)
        return began <= t < began + self.length

    def edges(self, begin: float, end: float) -> Iterator[float]:
        """Yield the starts and ends of occurrences strictly between two times."""
        start = min(self.began(begin), max(self.start, begin))
        while start < end:
            yield from (edge for edge in (start, start + self.length) if begin < edge < end)
            start += self.every


def _noises(*key: object) -> tuple[float, float, float, float]:
    """Return four numbers in [0, 1) that depend on the key alone, in this and every other process."""
    a, b, c, d = struct.unpack("<4Q", blake2b(repr(key).encode(), digest_size=32).digest())
    return a / 2**64, b / 2**64, c / 2**64, d / 2**64


@dataclass(frozen=True)
class Curve:
    """A site's hashrate over time, and its exact integral.

    Within an hour it is a level (weekday, the hour's own noise) times a sum of sine waves (the day, and two
    fast ones that keep live values moving): both have closed forms, so hashes always agree with hashrates.
    """

    key: tuple[int, str]
    base: float
    born: int
    drops: tuple[Incident, ...]
    _mined: list[float] = field(default_factory=lambda: [0.0], compare=False)

    @cached_property
    def _waves(self) -> tuple[tuple[float, float, float], ...]:
        """Amplitude, radians per second, phase."""
        slow, fast, faster, _ = _noises(*self.key, "waves")
        shapes = ((0.45, DAY, 0.6 + slow / 20), (0.04, 1740, fast), (0.02, 420, faster))
        return tuple((size, math.tau / period, math.tau * phase) for size, period, phase in shapes)

    def _level(self, t: float) -> float:
        weekday = (t // DAY + 3) % 7  # 1970-01-01 was a Thursday, Monday is 0
        noise, *_ = _noises(*self.key, "hour", int(t // HOUR))
        return self.base * (WEEKEND if weekday >= 5 else 1.0) * (0.9 + 0.2 * noise)  # noqa: PLR2004 - Saturday

    def _factor(self, t: float) -> float:
        return math.prod(drop.factor for drop in self.drops if drop.active(t))

    def rate(self, t: float) -> float:
        """Return hashes per second at t; 0 before the site began."""
        if t < self.born:
            return 0.0
        waves = 1 + sum(size * math.sin(speed * t + phase) for size, speed, phase in self._waves)
        return self._level(t) * waves * self._factor(t)

    def _primitive(self, t: float) -> float:
        return t - sum(size / speed * math.cos(speed * t + phase) for size, speed, phase in self._waves)

    def _within_hour(self, begin: float, end: float) -> float:
        edges = sorted({begin, end, *chain.from_iterable(drop.edges(begin, end) for drop in self.drops)})
        parts = (
            (self._primitive(b) - self._primitive(a)) * self._factor((a + b) / 2) for a, b in pairwise(edges)
        )
        return self._level(begin) * sum(parts)

    def mined(self, t: float) -> float:
        """Return all hashes from the site's begin to t. Whole hours are computed once and kept."""
        if t <= self.born:
            return 0.0
        hours, rest = divmod(t - self.born, HOUR)
        while len(self._mined) <= hours:
            end = self.born + len(self._mined) * HOUR
            self._mined.append(self._mined[-1] + self._within_hour(end - HOUR, end))
        return self._mined[int(hours)] + (self._within_hour(t - rest, t) if rest else 0.0)


class _Person(NamedTuple):
    """What never changes about a user: share of the site's hashes, when they joined, their withdrawals."""

    share: float
    joined: float
    every: float
    first: float

    def last_withdrawal(self, t: float) -> float:
        """Return the time of the last withdrawal at or before t; before `joined` if there was none."""
        return self.first + (t - self.first) // self.every * self.every if t >= self.first else -math.inf


@dataclass(frozen=True)
class _Ledger:
    """What is the same for all users of a site at one time: made once per answer."""

    curve: Curve
    now: float
    since: float  # the last reset, or the site's begin
    lag: float  # share by which the answering cache is behind
    units_per_hash: float

    @cached_property
    def _now(self) -> float:
        return self.curve.mined(self.now)

    @cached_property
    def _since(self) -> float:
        return self.curve.mined(self.since)

    def user(self, name: str, person: _Person) -> User:
        """Return the user at this time; all 0 for one who has yet to join.

        Coins are credited at one rate, that of the site's begin, so that a balance falls by withdrawals only.
        """
        begin = max(self.curve.mined(person.joined), self._since)
        total = max(0, int(person.share * (self._now - begin)))
        units = int(total * self.units_per_hash)
        last = person.last_withdrawal(self.now)
        withdrawn = int(max(0, int(person.share * (self.curve.mined(last) - begin))) * self.units_per_hash)
        withdrawn = withdrawn if withdrawn >= MIN_WITHDRAWAL else 0
        return User(name, total - int(total * self.lag), withdrawn / UNITS, (units - withdrawn) / UNITS)

    def bound(self, share: float, order: str) -> float:
        """Return what `order` cannot exceed for a user of at most this share."""
        total = share * (self._now - self._since)
        units = total * self.units_per_hash
        if order == "total":
            return total
        return 0.0 if order == "withdrawn" and units < MIN_WITHDRAWAL else units / UNITS


@dataclass
class Site:
    """One site of the world. `incidents` and `secret` may be changed at any time, the rest is fixed.

    - `users` had joined by `created`, at hours of their own; `newcomers` join after it, one each ten minutes
    - `hashrate`: about the average of a weekday; `born`: a whole hour, no row of "/stats/history" is older
    - `cumulative`: `hashes` of a row are all hashes of the site up to its end. The reference says "total
      hashes" of an hourly history, which can be read as this or as the hour's own
    - `skip_empty`: hours without hashes are left out instead of zero-filled; a `drop` to 0 makes such hours
    """

    name: str
    secret: str = field(repr=False)
    seed: int
    average: float
    born: int
    created: float
    users_by_now: int
    newcomers: int = 0
    cumulative: bool = False
    skip_empty: bool = False
    incidents: list[Incident] = field(default_factory=list)
    _last_curve: Curve | None = field(default=None, repr=False)

    def seen(self, t: float) -> float:
        """Return the time that answers at t show: t itself, or the start of a freeze."""
        while (shown := min((freeze.began(t) for freeze in self._active("freeze", t)), default=t)) < t:
            t = shown
        return t

    def hashrate(self, t: float) -> float:
        """Return the true hashes per second at t, drops included; a freeze hides it from answers only."""
        return self._curve.rate(t)

    def row(self, hour_start: float) -> Row:
        """Return the finished row of the hour that begins at `hour_start`."""
        start = int(hour_start // HOUR * HOUR)
        return self._row(start, start + HOUR)

    def rows(self, t: float) -> list[Row]:
        """Return the answer of "/stats/history" at t: ascending, at most 168, the last one still filling."""
        t = self.seen(t)
        last = int(t // HOUR * HOUR)
        starts = range(max(self.born, last - (WEEK_ROWS - 1) * HOUR), last + 1, HOUR)
        mined = self._curve.mined
        kept = (h for h in starts if not self.skip_empty or round(mined(min(h + HOUR, t))) > round(mined(h)))
        return [self._row(start, min(start + HOUR, t)) for start in kept]

    def payout(self, t: float) -> Payout:
        """Return the answer of "/stats/payout" at t.

        The network is the same for all sites. payoutPer1MHashes is the share paid out of what a million
        hashes find on average: payout * value * 1e6 / diff.
        """
        synctime = int(self.seen(t) // SETTLING * SETTLING)
        phase, share, reward, _ = _noises(self.seed, "network")
        month, week = (math.sin(math.tau * (synctime / days / DAY + phase)) for days in (31, 6))
        diff = int(4.5e10 * (1 + 0.12 * month + 0.02 * week))
        value, payout = round(4.6 + 0.4 * reward, 6), round(0.8 + 0.15 * share, 3)
        return Payout(diff, value, payout, payout * value * 1e6 / diff, synctime)

    def users(self, t: float) -> list[User]:
        """Return all pages of "/user/list" at t: alphabetical, those with hashes."""
        return list(self.listed(t))

    def listed(self, t: float, page: str = "") -> Iterator[User]:
        """Yield the users of "/user/list" at t from the name `page` on; only what is consumed is computed.

        Alphabetical is by code point. The names are sorted once per site, at first use: seconds for a
        million users.
        """
        ledger = self._ledger(t)
        begin = bisect_left(self._order, page, key=self._names.__getitem__)
        indexes = (self._order[at] for at in range(begin, len(self._order)))
        own = (ledger.user(self._names[index], self._person(index)) for index in indexes)
        hostile = sorted(user for user in self._hostile(ledger) if user.name >= page)
        merged = heapq.merge(own, hostile, key=lambda user: user.name)
        return (user for user in merged if user.total > 0)

    def user(self, name: str, t: float) -> User | None:
        """Return one user at t, also one without hashes; None if the name never connected by then."""
        ledger = self._ledger(t)
        at = bisect_left(self._order, name, key=self._names.__getitem__)
        if at < len(self._order) and self._names[self._order[at]] == name:
            person = self._person(self._order[at])
            return ledger.user(name, person) if person.joined <= ledger.now else None
        return next((user for user in self._hostile(ledger) if user.name == name), None)

    def top(self, t: float, count: int, order: str = "total") -> list[User]:
        """Return the answer of "/user/top" at t: exactly ordered, also with a million users.

        Shares follow Zipf's law by index, so what a user can have at most falls with the index: the search
        ends where that is no more than what the last of the best has.
        """
        ledger = self._ledger(t)
        best: list[tuple[float, int, User]] = []
        for place, (bound, user) in enumerate(self._candidates(ledger, order)):
            if len(best) == count and bound <= best[0][0]:
                break
            entry = (float(getattr(user, order)), -place, user)
            heapq.heappush(best, entry) if len(best) < count else heapq.heappushpop(best, entry)
        return [user for *_, user in sorted(best, key=lambda entry: entry[:2], reverse=True)]

    def _candidates(self, ledger: _Ledger, order: str) -> Iterator[tuple[float, User]]:
        """Yield users with a bound of their value and of all that follow."""
        yield from ((math.inf, user) for user in self._hostile(ledger))
        for index in range(self._all_users):
            person = self._person(index)
            if person.joined <= ledger.now:
                user = ledger.user(_name(self.seed, index), person)
                yield ledger.bound(self._most(index), order), user

    def _active(self, kind: str, t: float) -> Iterator[Incident]:
        return (incident for incident in self.incidents if incident.kind == kind and incident.active(t))

    @property
    def _curve(self) -> Curve:
        drops = tuple(incident for incident in self.incidents if incident.kind == "drop")
        if self._last_curve is None or self._last_curve.drops != drops:
            self._last_curve = Curve((self.seed, self.name), self.average, self.born, drops)
        return self._last_curve

    def _row(self, start: int, end: float) -> Row:
        curve = self._curve
        before, after = curve.mined(start), curve.mined(end)
        rate = (after - before) / (end - start) if end > start else curve.rate(start)
        # Rounded sums, not rounded hours: the hours add up to the cumulative hashes exactly.
        return Row(start, round(after) - (0 if self.cumulative else round(before)), round(rate, 3))

    @property
    def _all_users(self) -> int:
        return self.users_by_now + self.newcomers

    @cached_property
    def _names(self) -> list[str]:
        return [_name(self.seed, index) for index in range(self._all_users)]

    @cached_property
    def _order(self) -> list[int]:
        return sorted(range(self._all_users), key=self._names.__getitem__)

    @cached_property
    def _zipf(self) -> float:
        return math.log(max(self._all_users, 1)) + 0.5772 + 0.5  # not less than the harmonic number

    def _most(self, index: int) -> float:
        return USERS_SHARE / (index + 1) / self._zipf

    def _person(self, index: int) -> _Person:
        diligence, joins, pace, first = _noises(self.seed, self.name, "user", index)
        age = self.created // HOUR - self.born // HOUR
        # Whole hours where it is free to choose: the curve has those ready.
        joined: float = self.born + int(joins**2 * age) * HOUR
        if index >= self.users_by_now:
            joined = self.created + (index - self.users_by_now + 1) * NEWCOMER_EVERY
        every = math.inf if pace > 2 / 3 else int(72 + 400 * pace) * HOUR  # a third never withdraws
        start = math.inf if every == math.inf else self.born + int(first * every / HOUR) * HOUR
        return _Person(self._most(index) * (0.5 + diligence / 2), joined, every, start)

    def _hostile(self, ledger: _Ledger) -> list[User]:
        person = _Person(HOSTILE_SHARE / len(HOSTILE_NAMES), self.born, math.inf, math.inf)
        active = any(self._active("hostile", ledger.now))
        return [ledger.user(name, person) for name in HOSTILE_NAMES if active]

    def _ledger(self, t: float) -> _Ledger:
        t = self.seen(t)
        resets = (incident.began(t) for incident in self.incidents if incident.kind == "reset")
        since = max((began for began in resets if began <= t), default=float(self.born))
        behind = _noises(self.seed, self.name, "waver", int(t))[0] < 0.5  # noqa: PLR2004 - two caches
        lag = max((waver.fraction for waver in self._active("waver", t)), default=0.0) if behind else 0.0
        rate = self.payout(self.born).payout_per_million / 1e6 * UNITS
        return _Ledger(self._curve, t, since, lag, rate)


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


class World:
    """Sites by name, a clock (Unix seconds) that all answers are computed for, and a log of `requests`.

    The log keeps the last 10,000 `Request`s and no secrets. `sleep` is awaited by `slow` incidents only.
    """

    def __init__(
        self, seed: int = 1, clock: Callable[[], float] = time.time, sleep: Sleep = asyncio.sleep
    ) -> None:
        self.seed = seed
        self.clock = clock
        self.sleep = sleep
        self.sites: dict[str, Site] = {}
        self.requests: deque[Request] = deque(maxlen=LOG_LENGTH)

    def add(
        self,
        name: str,
        secret: str,
        *,
        users: int = 100,
        newcomers: int = 0,
        hashrate: float = 20_000.0,
        age: float = 60 * DAY,
        cumulative: bool = False,
        skip_empty: bool = False,
        incidents: Iterable[Incident] = (),
    ) -> Site:
        """Add a site that began `age` seconds ago (at the full hour before), and return it.

        Options as in `Site`. Raises ValueError when another site has the name or the secret.
        """
        if name in self.sites or self.find(secret):
            raise ValueError(f"site {name!r}: another site has this name or secret")
        now = self.clock()
        born = int((now - age) // HOUR * HOUR)
        self.sites[name] = site = Site(
            name,
            secret,
            self.seed,
            hashrate,
            born,
            now,
            users,
            newcomers,
            cumulative,
            skip_empty,
            list(incidents),
        )
        return site

    def find(self, secret: str) -> Site | None:
        """Return the site with this secret."""
        return next((site for site in self.sites.values() if site.secret == secret), None)


class _Refusal(Exception):
    """An error of the reference; `code` goes into `error`."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


Params = dict[str, str]


def _count(params: Params, default: int, least: int, most: int) -> int:
    text = params.get("count", str(default))
    if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
        raise _Refusal("bad_request")
    return int(text)


def _user_fields(user: User) -> dict[str, str]:
    """Return a user as the example of "/user/balance" has it: all numbers as strings."""
    coins = (f"{amount:.8f}".rstrip("0").rstrip(".") for amount in (user.withdrawn, user.balance))
    return dict(zip(User._fields, (user.name, str(user.total), *coins), strict=True))


def _balance(site: Site, params: Params, t: float) -> dict[str, Any]:
    name = params.get("name")
    if not name:
        raise _Refusal("missing_input")
    user = site.user(name, t)
    if user is None:
        raise _Refusal("unknown_user")
    return _user_fields(user)


def _top(site: Site, params: Params, t: float) -> dict[str, Any]:
    order = params.get("order", "total")
    if order not in {"total", "balance", "withdrawn"}:
        raise _Refusal("bad_request")
    return {"users": [_user_fields(user) for user in site.top(t, _count(params, 128, 1, 1024), order)]}


def _list(site: Site, params: Params, t: float) -> dict[str, Any]:
    count, page = _count(params, 4096, 32, 8192), params.get("page", "")
    # One user more than asked for: their name is the next page's.
    users = list(islice(site.listed(t, page), count + 1))
    if page and (not users or users[0].name != page):
        raise _Refusal("invalid_page")
    after = users[count].name if len(users) > count else None
    return {"users": [_user_fields(user) for user in users[:count]], "nextPage": after}


def _payout(site: Site, _params: Params, t: float) -> dict[str, Any]:
    return dict(
        zip(("diff", "value", "payout", "payoutPer1MHashes", "synctime"), site.payout(t), strict=True)
    )


def _history(site: Site, _params: Params, t: float) -> dict[str, Any]:
    return {"history": [row._asdict() for row in site.rows(t)]}


def _coming_soon(_site: Site, _params: Params, _t: float) -> dict[str, Any]:
    # "Feature coming soon": of the documented errors, "could not be found" is the one that says so.
    raise _Refusal("not_found")


ENDPOINTS: dict[str, tuple[str, Callable[[Site, Params, float], dict[str, Any]]]] = {
    "/user/balance": ("GET", _balance),
    "/user/withdraw": ("POST", _coming_soon),
    "/user/top": ("GET", _top),
    "/user/list": ("GET", _list),
    "/user/reset": ("POST", _coming_soon),
    "/user/reset-all": ("POST", _coming_soon),
    "/stats/payout": ("GET", _payout),
    "/stats/history": ("GET", _history),
}


@dataclass(frozen=True)
class _Answer:
    status: int
    body: bytes
    type: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    cut: bool = False


def _refused(code: str, status: int) -> _Answer:
    return _Answer(status, json.dumps({"success": False, "error": code}).encode())


def _html(status: int, title: str) -> _Answer:
    page = f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>"
    return _Answer(status, page.encode(), b"text/html")


def _rate_limited(incident: Incident, t: float) -> _Answer:
    seconds = math.ceil(incident.retry_after)
    after = formatdate(math.ceil(t) + seconds, usegmt=True) if incident.as_date else str(seconds)
    return replace(_html(429, "Too Many Requests"), headers=((b"retry-after", after.encode()),))


FAILURES: dict[str, Callable[[Incident, float, _Answer, int], _Answer]] = {
    "outage": lambda _incident, _t, _answer, _status: _html(503, "Service Unavailable"),
    "outage-5xx": lambda _incident, _t, _answer, _status: _html(503, "Service Unavailable"),
    "outage-html": lambda _incident, _t, _answer, _status: _html(200, "Down for maintenance"),
    "outage-cut": lambda _incident, _t, answer, _status: replace(answer, cut=True),
    "rate-limit": lambda incident, t, _answer, _status: _rate_limited(incident, t),
    "wrong-secret": lambda _incident, _t, _answer, status: _refused("invalid_secret", status),
    "error": lambda incident, _t, _answer, status: _refused(incident.code, status),
}
KINDS = ("drop", "freeze", "reset", "waver", "hostile", "slow", *FAILURES)


def _result(site: Site | None, method: str, path: str, params: Params | None, t: float) -> dict[str, Any]:
    """Return the successful answer or raise _Refusal; the order of the checks is ours."""
    if path not in ENDPOINTS:
        raise _Refusal("not_found")
    expected, endpoint = ENDPOINTS[path]
    if method != expected:
        # "Global Errors": wrong_method is a GET where POST was expected; nothing names the reverse.
        raise _Refusal("wrong_method" if method == "GET" else "bad_request")
    if params is None:
        raise _Refusal("bad_request")
    if site is None:
        raise _Refusal("invalid_secret")
    return {"success": True, **endpoint(site, params, t)}


async def _form(receive: Receive) -> bytes:
    body, more = b"", True
    while more and len(body) <= MAX_FORM_BYTES:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def _params(raw: bytes) -> Params | None:
    """Decode "GET or POST parameters"; None if malformed. surrogatepass: names may be lone surrogates."""
    if len(raw) > MAX_FORM_BYTES:
        return None
    try:
        return dict(parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="surrogatepass"))
    except UnicodeDecodeError:
        return None


async def _answer(world: World, scope: Message, receive: Receive, error_status: int) -> _Answer:
    method, path, t = scope["method"], scope["path"], world.clock()
    params = _params(await _form(receive) if method == "POST" else scope["query_string"])
    site = world.find((params or {}).get("secret", ""))
    world.requests.append(
        Request(t, site.name if site else None, path if path in ENDPOINTS else "other", method)
    )
    try:
        answer = _Answer(200, json.dumps(_result(site, method, path, params, t)).encode())
    except _Refusal as refusal:
        answer = _refused(refusal.code, error_status)
    incidents = [i for i in site.incidents if i.active(t) and i.path in {"", path}] if site else []
    for incident in incidents:
        if incident.kind == "slow":
            await world.sleep(incident.delay)
    failures = (FAILURES[i.kind](i, t, answer, error_status) for i in incidents if i.kind in FAILURES)
    return next(failures, answer)


def app(world: World, *, error_status: int = ERROR_STATUS) -> App:
    """Return the API as an ASGI application, HTTP alone: run uvicorn with `lifespan="off"` or `"auto"`.

    Errors go out with `error_status`. Bodies over 1 KiB are compressed for clients that accept gzip.
    """

    async def simulator(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the simulator speaks HTTP only, not {scope['type']}")
        answer = await _answer(world, scope, receive, error_status)
        body, headers = answer.body, [(b"content-type", answer.type), *answer.headers]
        accepted = dict(scope["headers"]).get(b"accept-encoding", b"").decode("latin-1")
        if len(body) > GZIP_ABOVE and ACCEPTS_GZIP.search(accepted):
            body = gzip.compress(body, 1, mtime=0)
            headers.append((b"content-encoding", b"gzip"))
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        if answer.cut:
            # To return with the body unfinished makes the server close the connection.
            await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
        else:
            await send({"type": "http.response.body", "body": body})

    return simulator


def _seconds(text: str, what: str) -> float:
    match = DURATION.fullmatch(text)
    if text == "0":
        return 0.0
    if not text or not match:
        raise ValueError(f"{what} is no duration: {text!r}; write 30s, 5m, 1h30m or 2d")
    return sum(int(number or 0) * unit for number, unit in zip(match.groups(), DURATION_UNITS, strict=True))


def parse_incident(text: str, now: float) -> tuple[str, Incident]:
    """Read `SITE:KIND:START:LENGTH` into the site's name and its incident.

    START counts from `now` (Unix seconds) and may be negative (`-2h`). Raises ValueError with what is wrong.
    """
    parts = text.rsplit(":", 3)
    if len(parts) != 4 or not parts[0]:  # noqa: PLR2004 - the four of the docstring
        raise ValueError(f"incident {text!r} is not SITE:KIND:START:LENGTH, as in my-site:outage:30s:5m")
    site, kind, start, length = parts
    try:
        offset = _seconds(start.removeprefix("-"), "START") * (-1 if start.startswith("-") else 1)
        return site, Incident(kind, now + offset, _seconds(length, "LENGTH"))
    except ValueError as error:
        raise ValueError(f"incident {text!r}: {error}") from None


def demo_world(clock: Callable[[], float], seed: int, users: int, sleep: Sleep = asyncio.sleep) -> World:
    """Return a world of two sites with a week of history: `healthy`, and `troubled` two minutes from now.

    Their secrets are HEALTHY_SECRET and TROUBLED_SECRET. The troubles come again every 20 minutes, a reset of
    all users every 4 hours, and a drop, long enough to be seen in settled hours, every 12.
    """
    world = World(seed, clock, sleep)
    now = clock()
    world.add("healthy", HEALTHY_SECRET, users=users, newcomers=100)
    troubles: list[tuple[str, int, int, dict[str, Any]]] = [
        ("waver", 120, 120, {}),
        ("rate-limit", 180, 30, {"retry_after": 10}),
        ("outage-5xx", 270, 60, {}),
        ("slow", 420, 60, {}),
        ("outage-cut", 540, 40, {}),
        ("outage-html", 640, 40, {}),
        ("hostile", 720, 240, {}),
        ("freeze", 980, 120, {}),
        ("error", 1130, 40, {}),
        ("wrong-secret", 1220, 60, {}),
    ]
    incidents = [Incident(kind, now + at, length, every=1200, **more) for kind, at, length, more in troubles]
    incidents.append(Incident("reset", now + HOUR, 0, every=4 * HOUR))
    incidents.append(Incident("drop", now + 360, 3 * HOUR, every=12 * HOUR, factor=0.3))
    world.add("troubled", TROUBLED_SECRET, users=users, hashrate=8_000.0, incidents=incidents)
    return world
