"""Request slots: how many requests are in flight at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager


class Slots:
    """The request slots: so many in all, and at most half of them (at least one) for one site."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._all = asyncio.Semaphore(total)
        self._sites: dict[str, asyncio.Semaphore] = {}

    @asynccontextmanager
    async def hold(self, site: str) -> AsyncIterator[None]:
        """Hold a slot for one request."""
        share = self._sites.setdefault(site, asyncio.Semaphore(max(1, self._total // 2)))
        async with share, self._all:
            yield

    def resized(self, total: int, sites: Iterable[str]) -> Slots:
        """Return slots for these sites. If the total is the same, slots that are held stay held."""
        if total != self._total:
            return Slots(total)
        self._sites = {site: self._sites[site] for site in sites if site in self._sites}
        return self
