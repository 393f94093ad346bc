"""Status pages, written off the event loop and kept for a second."""

from __future__ import annotations

import asyncio
import gzip
from typing import TYPE_CHECKING, Any

from exporter.web import status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from exporter.clock import Now
    from exporter.pages.pages import Pages
    from exporter.web.status import ProcessInfo, Ranking, Selection

MAX_AGE = 1.0  # seconds
GZIP_LEVEL = 1  # as pages have it


class StatusCache:
    """Writes status pages in a thread, one at a time: thousands of sites take a while.

    A page is kept for a second: clients that reload all the time cost nothing.
    """

    def __init__(
        self, pages: Pages, now: Callable[[], Now], process_info: Callable[[], ProcessInfo]
    ) -> None:
        self._pages, self._now, self._process_info = pages, now, process_info
        self._lock = asyncio.Lock()
        self._written_at: Now | None = None
        self._ranking: Ranking
        self._bodies: dict[tuple[Selection, str, bool], bytes] = {}

    async def body(
        self, selection: Selection, name: str, write: Callable[[Mapping[str, Any]], bytes], *, zipped: bool
    ) -> bytes:
        """Return what `write` makes of the status of the selected sites; `name` is that of its format."""
        async with self._lock:
            now = self._now()
            if self._written_at is None or not 0 <= now.mono - self._written_at.mono < MAX_AGE:
                self._ranking = await asyncio.to_thread(status.rank, self._pages.overview(), now)
                self._written_at = now
                self._bodies.clear()
            key = selection, name, zipped
            if key not in self._bodies:
                self._bodies[key] = await asyncio.to_thread(
                    self._write, selection, write, self._process_info(), self._written_at, zipped=zipped
                )
            return self._bodies[key]

    def _write(
        self,
        selection: Selection,
        write: Callable[[Mapping[str, Any]], bytes],
        process: ProcessInfo,
        now: Now,
        *,
        zipped: bool,
    ) -> bytes:
        body = write(status.document(process, self._ranking, selection, now))
        return gzip.compress(body, GZIP_LEVEL) if zipped else body
