"""Status pages, written off the event loop and kept for a second."""

import asyncio
import gzip
from collections.abc import Callable, Mapping
from typing import Any

from exporter.clock import NEVER, Now
from exporter.pages.pages import ExportedSite, Pages
from exporter.web import status
from exporter.web.status import ProcessInfo, Selection

Writer = Callable[[Mapping[str, Any]], bytes]

MAX_AGE = 1.0  # seconds
GZIP_LEVEL = 1  # as the pages of metrics have it


class StatusCache:
    """Writes status pages in a thread, one at a time: thousands of sites take a while.

    A page is kept for a second: clients that reload all the time cost nothing.
    """

    def __init__(self, pages: Pages, now: Callable[[], Now], process_info: Callable[[], ProcessInfo]) -> None:
        self._pages, self._now, self._process_info = pages, now, process_info
        self._lock = asyncio.Lock()
        self._ranked_at = NEVER
        self._ranking: list[tuple[str, ExportedSite]] = []
        self._bodies: dict[tuple[Selection, Writer, bool], bytes] = {}

    async def body(self, selection: Selection, write: Writer, *, zipped: bool) -> bytes:
        """Return what `write` makes of the status of the selected sites."""
        key = selection, write, zipped
        async with self._lock:
            now = self._now()
            if not 0 <= now.mono - self._ranked_at.mono < MAX_AGE:
                self._ranking = await asyncio.to_thread(status.ranked_sites, self._pages.overview(), now)
                self._ranked_at, self._bodies = now, {}
            if key not in self._bodies:
                self._bodies[key] = await asyncio.to_thread(self._render, *key, self._process_info())
            return self._bodies[key]

    def _render(self, selection: Selection, write: Writer, zipped: bool, process: ProcessInfo) -> bytes:
        body = write(status.status_document(process, self._ranking, selection, self._ranked_at))
        return gzip.compress(body, GZIP_LEVEL) if zipped else body
