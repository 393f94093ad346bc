"""Answers of the simulated API, a minute apart: what polls bring, ready to be decoded."""

from __future__ import annotations

import httpx
import msgspec

from exporter.simulator import World, app

START = 1_760_000_000.0  # Unix seconds; any moment would do
MINUTE = 60.0


class User(msgspec.Struct):
    """A user, in plain types: nothing of it is checked."""

    name: str
    total: float
    withdrawn: float
    balance: float


class Users(msgspec.Struct):
    """An answer of `/user/top`."""

    success: bool
    users: list[User]


class Page(Users, rename={"next_page": "nextPage"}):
    """A page of `/user/list`, and the name that the next one begins with."""

    next_page: str | None = None


async def top_users(site: str, users: int, count: int) -> list[bytes]:
    """Return so many answers of `/user/top` with all users of a site.

    Totals and balances move between them; now and then somebody withdraws.
    """
    moment = [START]
    world = World(clock=lambda: moment[0])
    world.add(site, "secret", users=users)
    bodies = []
    transport = httpx.ASGITransport(app(world))
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as api:
        for minute in range(count):
            moment[0] = START + MINUTE * minute
            answer = await api.get("/user/top", params={"secret": "secret", "count": users})
            bodies.append(answer.content)
    return bodies
