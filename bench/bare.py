"""What polling costs at least: the same requests with plain httpx, decoded with the exporter's own types.

Run as `python -m bench.bare` with an `Errand` as JSON on standard input; prints a request's CPU seconds.
"""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import uvloop

from bench import peers
from bench.load import HOST
from exporter.api.answers import decode_history, decode_payout, decode_top_users
from exporter.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IN_FLIGHT = 8
LIMIT = 600.0  # seconds that an errand may take
DECODE: dict[Endpoint, Callable[[bytes], Any]] = {
    Endpoint.PAYOUT: decode_payout,
    Endpoint.HISTORY: decode_history,
    Endpoint.TOP_USERS: decode_top_users,
}


class Errand(msgspec.Struct):
    """The API's base URL, the sites' secrets, requests by endpoint, and how many each second (0: at once)."""

    url: str
    secrets: list[str]
    requests: dict[str, int]
    pace: float

    @classmethod
    def to(cls, api: int, sites: int, requests: dict[str, int], pace: float = 0) -> Errand:
        """Return the errand of these requests to the simulated API on this port, to its sites in turn."""
        secrets = [peers.secret(name) for name in peers.names(sites)]
        return cls(f"http://{HOST}:{api}", secrets, requests, pace)


class Client:
    """Makes requests, and counts them."""

    def __init__(self, http: httpx.AsyncClient, errand: Errand) -> None:
        self._http = http
        self._errand = errand
        self._todo = iter(_mixed(errand.requests))
        self._secrets = itertools.cycle(errand.secrets)
        self.done = 0

    async def at_once(self) -> None:
        """Make requests one after another until there are no more."""
        for endpoint in self._todo:
            await self._request(endpoint)

    async def paced(self) -> None:
        """Begin requests at the errand's pace, whether or not those before are answered."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        async with asyncio.TaskGroup() as group:
            for number, endpoint in enumerate(self._todo):
                await asyncio.sleep(begin + number / self._errand.pace - loop.time())
                group.create_task(self._request(endpoint))

    async def _request(self, endpoint: Endpoint) -> None:
        parameters = {"secret": next(self._secrets)}
        if endpoint is Endpoint.TOP_USERS:
            parameters |= {"count": "128", "order": "total"}
        answer = await self._http.get(f"{self._errand.url}{endpoint}", params=parameters)
        DECODE[endpoint](answer.content)
        self.done += 1


def _mixed(requests: dict[str, int]) -> Iterator[Endpoint]:
    """Yield each endpoint as often as it is wanted, evenly mixed."""
    places = [((place + 0.5) / count, name) for name, count in requests.items() for place in range(count)]
    for _, name in sorted(places):
        yield Endpoint(name)


async def spent(errand: Errand) -> float:
    """Do the errand; return the CPU seconds of one request, without those of starting up."""
    async with httpx.AsyncClient() as http:
        client = Client(http, errand)
        begin = time.process_time()
        if errand.pace:
            await client.paced()
        else:
            await asyncio.gather(*(client.at_once() for _ in range(IN_FLIGHT)))
        return (time.process_time() - begin) / client.done


def apart(errand: Errand) -> float:
    """Do the errand in a process of its own; return as `spent`."""
    done = subprocess.run(
        (sys.executable, "-m", "bench.bare"),
        input=msgspec.json.encode(errand),
        cwd=peers.REPOSITORY,
        capture_output=True,
        timeout=LIMIT,
        check=True,
    )
    return float(done.stdout)


def warm(api: int, sites: int) -> None:
    """Ask for everything of each site once: the simulated API makes its world as it is asked."""
    apart(Errand.to(api, sites, dict.fromkeys(DECODE, sites)))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(runner.run(spent(msgspec.json.decode(sys.stdin.buffer.read(), type=Errand))))
