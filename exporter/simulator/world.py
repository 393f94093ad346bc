"""Sites with their history, payouts and users: the data that the simulated API answers from."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from exporter.simulator.curve import DAY, HOUR, Curve, noises
from exporter.simulator.incidents import Incident, active
from exporter.simulator.users import UNITS, Ledger, Population

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator

    from exporter.simulator.users import User

    Sleep = Callable[[float], Awaitable[None]]

WEEK_ROWS = 168  # "/stats/history": hourly, for the last 7 days
SETTLING = 120  # seconds between two looks at the network, hence the age of a payout's `synctime`
LOG_LENGTH = 10_000
HEALTHY_SECRET = "demo-healthy"  # noqa: S105 - opens nothing but this simulator
TROUBLED_SECRET = "s3cr&t/+=%"  # noqa: S105 - as above, and breaks clients that forget to encode it


class Row(NamedTuple):
    """A row of "/stats/history": the hour's start, its hashes, their average per second."""

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


class Request(NamedTuple):
    """One request as logged: never with its parameters; a path outside the reference is logged as `other`."""

    time: float
    site: str | None
    path: str
    method: str


@dataclass
class Site:
    """One site of the world. `incidents` and `secret` may be changed at any time, the rest is fixed.

    - `users_by_now` had joined by `created`, at hours of their own; `newcomers` join after it, one each ten
      minutes
    - `average`: about the hashrate of a weekday; `born`: a whole hour, no row of "/stats/history" is older
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

    def visible_time(self, t: float) -> float:
        """Return the time whose data answers have at t: t itself, or the start of a freeze."""
        while (start := min((it.began(t) for it in active(self.incidents, "freeze", t)), default=t)) < t:
            t = start
        return t

    def hashrate(self, t: float) -> float:
        """Return the true hashes per second at t, drops included; a freeze hides it from answers only."""
        return self._curve.rate(t)

    def row(self, hour_start: float, now: float = math.inf) -> Row:
        """Return the row of the hour that begins at `hour_start`: the finished one, or as it is at `now`."""
        start = int(hour_start // HOUR * HOUR)
        end = min(start + HOUR, now)
        curve = self._curve
        before, after = curve.mined(start), curve.mined(end)
        rate = (after - before) / (end - start) if end > start else curve.rate(start)
        # Rounded sums, not rounded hours: the hours add up to the cumulative hashes exactly.
        return Row(start, round(after) - (0 if self.cumulative else round(before)), round(rate, 3))

    def rows(self, t: float) -> list[Row]:
        """Return the answer of "/stats/history" at t: ascending, at most 168, the last one incomplete."""
        t = self.visible_time(t)
        last = int(t // HOUR * HOUR)
        starts = range(max(self.born, last - (WEEK_ROWS - 1) * HOUR), last + 1, HOUR)
        mined = self._curve.mined
        kept = (h for h in starts if not self.skip_empty or round(mined(min(h + HOUR, t))) > round(mined(h)))
        return [self.row(start, t) for start in kept]

    def payout(self, t: float) -> Payout:
        """Return the answer of "/stats/payout" at t.

        The network is the same for all sites. payoutPer1MHashes is the share paid out of what a million
        hashes find on average: payout * value * 1e6 / diff.
        """
        synctime = int(self.visible_time(t) // SETTLING * SETTLING)
        phase, share, reward, _ = noises(self.seed, "network")
        month, week = (math.sin(math.tau * (synctime / days / DAY + phase)) for days in (31, 6))
        diff = int(4.5e10 * (1 + 0.12 * month + 0.02 * week))
        value, payout = round(4.6 + 0.4 * reward, 6), round(0.8 + 0.15 * share, 3)
        return Payout(diff, value, payout, payout * value * 1e6 / diff, synctime)

    def users(self, t: float) -> list[User]:
        """Return all pages of "/user/list" at t: alphabetical, those with hashes."""
        return list(self.listed(t))

    def listed(self, t: float, page: str = "") -> Iterator[User]:
        """Yield the users of "/user/list" at t from the name `page` on; only what is read is computed."""
        return self._population.listed(self._ledger(t), page)

    def user(self, name: str, t: float) -> User | None:
        """Return one user at t, also one without hashes; None if the name never connected by then."""
        return self._population.find(self._ledger(t), name)

    def top(self, t: float, count: int, order: str = "total") -> list[User]:
        """Return the answer of "/user/top" at t."""
        return self._population.top(self._ledger(t), count, order)

    @property
    def _curve(self) -> Curve:
        drops = tuple(incident for incident in self.incidents if incident.kind == "drop")
        if self._last_curve is None or self._last_curve.drops != drops:
            self._last_curve = Curve((self.seed, self.name), self.average, self.born, drops)
        return self._last_curve

    @cached_property
    def _population(self) -> Population:
        return Population(self.seed, self.name, self.born, self.created, self.users_by_now, self.newcomers)

    def _ledger(self, t: float) -> Ledger:
        t = self.visible_time(t)
        resets = (incident.began(t) for incident in self.incidents if incident.kind == "reset")
        since = max((began for began in resets if began <= t), default=float(self.born))
        behind = noises(self.seed, self.name, "waver", int(t))[0] < 0.5  # noqa: PLR2004 - two caches
        lag = max((waver.fraction for waver in active(self.incidents, "waver", t)), default=0.0)
        rate = self.payout(self.born).payout_per_million / 1e6 * UNITS
        hostile = any(active(self.incidents, "hostile", t))
        return Ledger(self._curve, t, since, lag if behind else 0.0, rate, hostile)


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
        self.sites[name] = site = Site(
            name,
            secret,
            self.seed,
            average=hashrate,
            born=int((now - age) // HOUR * HOUR),
            created=now,
            users_by_now=users,
            newcomers=newcomers,
            cumulative=cumulative,
            skip_empty=skip_empty,
            incidents=list(incidents),
        )
        return site

    def find(self, secret: str) -> Site | None:
        """Return the site with this secret."""
        return next((site for site in self.sites.values() if site.secret == secret), None)


def demo_world(clock: Callable[[], float], seed: int, users: int, sleep: Sleep = asyncio.sleep) -> World:
    """Return a world of two sites with a week of history: `healthy`, and `troubled` two minutes from now.

    Their secrets are HEALTHY_SECRET and TROUBLED_SECRET. The incidents come again every 20 minutes, a reset
    of all users every 4 hours, and a drop, long enough to be seen in settled hours, every 12.
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


def demo_config(world: World, address: str, polls: Iterable[str]) -> tuple[dict[str, object], dict[str, str]]:
    """Return a config that polls everything of a world often, and the environment that it needs.

    The world is served at `address`; `polls` are the keys of the config's section `poll`.
    """
    sites = [{"name": name, "secret_env": name, "watch_users": ["johnd"]} for name in world.sites]
    poll: dict[str, dict[str, object]] = {name: {"interval": "5s"} for name in polls}
    poll["all_users"]["enabled"] = True
    secrets = {name: site.secret for name, site in world.sites.items()}
    return {"api": {"url": f"http://{address}"}, "sites": sites, "poll": poll}, secrets
