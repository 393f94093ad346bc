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
        self._ranked_at: Now | None = None
        self._ranking: Ranking
        self._bodies: dict[tuple[Selection, Writer, bool], bytes] = {}

    async def body(self, selection: Selection, write: Writer, *, zipped: bool) -> bytes:
        """Return what `write` makes of the status of the selected sites."""
        async with self._lock:
            now = self._now()
            if self._ranked_at is None or not 0 <= now.mono - self._ranked_at.mono < MAX_AGE:
                self._ranking = await asyncio.to_thread(status.rank, self._pages.overview(), now)
                self._ranked_at = now
                self._bodies.clear()
            key = selection, write, zipped
            if key not in self._bodies:
                process, ranked_at = self._process_info(), self._ranked_at

                def render() -> bytes:
                    body = write(status.document(process, self._ranking, selection, ranked_at))
                    return gzip.compress(body, GZIP_LEVEL) if zipped else body

                self._bodies[key] = await asyncio.to_thread(render)
            return self._bodies[key]
