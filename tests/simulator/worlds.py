"""What tests of the simulator share: a world of one site, and requests to its API."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx

from exporter.simulator import ENDPOINTS, Site, World, app

if TYPE_CHECKING:
    from collections.abc import MutableMapping


NOW = 1_700_001_234.0  # Tuesday, 2023-11-14, 22:33:54 UTC
SECRET = "s3cr&t/+=%"
FULL_HOUR = 1_699_999_200


class Clock:
    """A clock that moves when told."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return Unix seconds."""
        return self.now


def a_world(**options: Any) -> tuple[World, Site, Clock]:
    clock = Clock()
    world = World(seed=7, clock=clock)
    return world, world.add("site", SECRET, **options), clock


def call(world: World, method: str, path: str, status: int = 200, **options: Any) -> httpx.Response:
    async def once() -> httpx.Response:
        transport = httpx.ASGITransport(app=app(world, error_status=status))
        async with httpx.AsyncClient(transport=transport, base_url="http://sim") as client:
            return await client.request(method, path, **options)

    return asyncio.run(once())


def get(world: World, path: str, **params: str) -> dict[str, Any]:
    answer: dict[str, Any] = call(world, "GET", path, params={"secret": SECRET, **params}).json()
    return answer


def walk(world: World, count: int) -> list[str]:
    names, page = [], ""
    while page is not None:
        answer = get(world, "/user/list", count=str(count), page=page)
        names += [user["name"] for user in answer["users"]]
        page = answer["nextPage"]
    return names


def exchange(world: World, scope: dict[str, Any], *parts: dict[str, Any]) -> list[dict[str, Any]]:
    """Speak ASGI without a client, for what httpx's transport cannot show."""
    received, sent = iter(parts), []

    async def receive() -> MutableMapping[str, Any]:
        return next(received)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(dict(message))

    asyncio.run(app(world)(scope, receive, send))  # type: ignore[arg-type]
    return sent


def refusal(code: str) -> dict[str, Any]:
    return {"success": False, "error": code}


def answers(world: World) -> list[dict[str, Any]]:
    return [get(world, path, name="johnd") for path, (method, _) in ENDPOINTS.items() if method == "GET"]


def scope_of(path: str, accept: bytes = b"identity") -> dict[str, Any]:
    query = str(httpx.QueryParams({"secret": SECRET})).encode()
    headers = [(b"accept-encoding", accept)]
    return {"type": "http", "method": "GET", "path": path, "query_string": query, "headers": headers}
