"""Golden runs of sites in trouble: each kind of incident that the simulator can play."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from tests.golden import program
from tests.golden.program import Incident
from tests.golden.scripted import (
    HOUR,
)
from tests.golden.sites import SCENES, Simulated, config, scene, served, started
from tests.golden.stage import WALL, Call, Reply, Time, ask

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from tests.golden.sites import Scene


BEGIN = 200.0  # seconds after the start, when an incident begins


async def _troubled(
    *incidents: Incident, moments: Iterable[float], document: dict[str, Any] | None = None, **options: Any
) -> str:
    """Play incidents of a site `ill`, beside one that is well; times of the incidents are since the start."""
    simulated = Simulated("well", "ill", **options)
    play = await started(document or config("well", "ill"), simulated)
    for incident in incidents:
        moved = {**vars(incident), "start": WALL + incident.start}
        simulated.world.sites["ill"].incidents.append(Incident(**moved))
    for moment in moments:
        await play.until(moment)
        await play.look()
    await play.page()
    return await play.close()


FAILING = (BEGIN - 20, BEGIN + 50, BEGIN + 130, BEGIN + 290, BEGIN + 500, BEGIN + 1700)
LENGTH = 1800.0  # longer than the 25 minutes after which a history is stale
RECOVERED = (BEGIN + LENGTH + 100, BEGIN + LENGTH + 320)


def _outage(kind: str, *, document: dict[str, Any] | None = None, **options: Any) -> Scene:
    async def play() -> str:
        incident = Incident(kind, BEGIN, LENGTH, **options)
        return await _troubled(incident, moments=(*FAILING, *RECOVERED), document=document)

    return play


SCENES["incident-outage"] = _outage("outage")
SCENES["incident-outage-5xx"] = _outage("outage-5xx", path="/user/top")
SCENES["incident-outage-html"] = _outage("outage-html", path="/stats/history")
SCENES["incident-outage-cut"] = _outage("outage-cut", path="/stats/payout")
SCENES["incident-rate-limit"] = _outage("rate-limit", retry_after=700.0)
SCENES["incident-rate-limit-date"] = _outage("rate-limit", retry_after=1000.0, as_date=True)
SCENES["incident-wrong-secret"] = _outage("wrong-secret")
# Values that last for hours: only so does the longest back-off come to bear.
LASTING = config("well", "ill", poll={name: {"stale_after": "2h"} for name in ("payout", "top_users")})
SCENES["incident-error"] = _outage("error", document=LASTING)
SCENES["incident-slow-timeout"] = _outage("slow", delay=30.0)
SCENES["incident-slow"] = _outage("slow", delay=4.0)


@scene
async def incident_drop() -> str:
    """Let the hashrate fall for three hours: the incomplete hour first, the complete ones at HH:15."""
    moments = (100, 3000, 3900, 2 * HOUR, 3 * HOUR, 4 * HOUR, 6 * HOUR)
    return await _troubled(
        Incident("drop", BEGIN, 3 * HOUR, factor=0.3), moments=moments, document=_slow_polls()
    )


@scene
async def incident_drop_to_nothing() -> str:
    """Hours without hashes: left out by one API, zero in another, for longer than rows may age."""
    moments = (100, 2 * HOUR, 4 * HOUR, 5 * HOUR, 6 * HOUR, 8 * HOUR, 10 * HOUR)
    drop = Incident("drop", BEGIN, 6 * HOUR, factor=0.0)
    zeros = await _troubled(drop, moments=moments[:3], document=_slow_polls())
    return zeros + await _troubled(drop, moments=moments, document=_slow_polls(), skip_empty=True)


@scene
async def incident_freeze() -> str:
    """Answers stand still for six hours: rows age, polls succeed."""
    # The rows are those of 22:00 and 21:00: they are too old at 02:00 and at 01:00.
    moments = (
        100,
        2 * HOUR,
        2.75 * HOUR,
        2.8 * HOUR,
        3.75 * HOUR,
        3.8 * HOUR,
        6 * HOUR,
        6.2 * HOUR,
        7 * HOUR,
    )
    return await _troubled(Incident("freeze", BEGIN, 6 * HOUR), moments=moments, document=_slow_polls())


@scene
async def expiry_between_polls() -> str:
    """Let values expire and hours become complete to the second, while nothing is polled."""
    polls = {
        "payout": {"interval": "1h", "stale_after": "61m"},
        "history": {"interval": "5h", "stale_after": "6h", "max_row_age": "3h"},
        "top_users": {"interval": "5h", "stale_after": "5h"},
    }
    simulated = Simulated("ill")
    play = await started(config("ill", poll=polls), simulated)
    await play.until(1)
    simulated.world.sites["ill"].incidents.append(Incident("outage", WALL + 1, 9 * HOUR))
    complete, stale, old = 3700.0, 3660.125, 10_000.0  # 23:15:00, the payout's age, 01:00:00
    for moment in (stale - 2, stale, stale + 2, complete - 2, complete, complete + 2, old - 2, old, old + 2):
        await play.until(moment)
        await play.metrics()
    await play.until(5 * HOUR + 2)
    await play.look()
    await play.until(6 * HOUR + 2)
    await play.look()
    return await play.close()


@scene
async def incident_reset() -> str:
    """All totals restart from 0: ignored at first, confirmed by the next answer."""
    moments = (BEGIN - 70, BEGIN - 10, *(BEGIN + 20 + 60 * minute for minute in range(4)), BEGIN + 800)
    document = config(
        "well", "ill", ill={"watch_users": ["johnd", "nobody"]}, poll={"balances": {"interval": "90s"}}
    )
    return await _troubled(Incident("reset", BEGIN, 0), moments=moments, document=document)


@scene
async def incident_waver() -> str:
    """Totals come from two caches: small decreases are ignored and counted."""
    moments = (BEGIN - 10, *(BEGIN + 20 + 60 * minute for minute in range(8)))
    document = config(
        "well", "ill", ill={"watch_users": ["johnd", "maria"]}, poll={"balances": {"interval": "60s"}}
    )
    waver = Incident("waver", BEGIN, 420, fraction=0.01)
    return await _troubled(waver, moments=moments, document=document)


@scene
async def incident_hostile() -> str:
    """Names with everything that names can have are users for ten minutes."""
    document = config("well", "ill", poll={"all_users": {"enabled": True, "interval": "2m", "page_size": 32}})
    moments = (BEGIN - 10, BEGIN + 130, BEGIN + 400, BEGIN + 800)
    return await _troubled(Incident("hostile", BEGIN, 600), moments=moments, document=document, users=60)


@scene
async def incidents_by_code() -> str:
    """Each error code of the API, on each endpoint where it may come and where it may not."""
    codes = (
        *("invalid_secret", "bad_request", "wrong_method", "not_found", "internal_error"),
        *("invalid_page", "missing_input", "unknown_user", "made_up"),
    )
    simulated = Simulated(*codes, users=5)
    document = config(
        *codes,
        **{code: {"watch_users": ["johnd", "nobody"]} for code in codes},
        poll={"all_users": {"enabled": True, "interval": "1m"}, "balances": {"interval": "1m"}},
    )
    play = await started(document, simulated)
    await play.until(70)
    for code in codes:
        simulated.world.sites[code].incidents.append(Incident("error", WALL + 100, 400, code=code))
    for moment in (90, 200, 400, 800):
        await play.until(moment)
        await play.metrics()
    await play.status(query={"per_page": "100"})
    return await play.close()


def _slow_polls() -> dict[str, Any]:
    """Return a config for scenes of many hours."""
    polls = {"payout": {"interval": "10m"}, "history": {"interval": "4m"}, "top_users": {"interval": "15m"}}
    return config("well", "ill", poll=polls)


@scene
async def demo() -> str:
    """Play the world of `demo`, whose troubles follow each other, on all endpoints each 20 seconds."""

    class Demo(Simulated):
        def __call__(self, time: Time) -> Callable[[Call], Awaitable[Reply]]:
            self.world = program.demo_world(lambda: time.wall, 1, 30, asyncio.sleep)
            api = program.simulated(self.world)
            return lambda call: ask(api, served(call))

    names = ("payout", "history", "top_users", "balances", "all_users")
    polls: dict[str, dict[str, Any]] = {name: {"interval": "20s"} for name in names}
    polls["all_users"]["enabled"] = True
    document = config("healthy", "troubled", poll=polls)
    for site in document["sites"]:
        site["watch_users"] = ["johnd"]
    environ = dict(zip(("SECRET_healthy", "SECRET_troubled"), program.DEMO_SECRETS, strict=True))
    play = await started(document, Demo(), environ=environ)
    for moment in (5, 90, 200, 300, 460, 560, 660, 900, 1100, 1180, 1290, 1400):
        await play.until(moment)
        await play.metrics()
    await play.status()
    return await play.close()
