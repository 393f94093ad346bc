"""The walk over `/user/list`: page after page, of which the sums are kept and nothing else."""

from __future__ import annotations

from math import fsum
from typing import TYPE_CHECKING

from exporter.api.client import InvalidPage, InvalidResponse, TooLarge
from exporter.collectors.snapshot import AllUsers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from exporter.api.answers import Users

RESTARTS = 3  # pages are called by a user, who may be gone by the time the page is asked for


async def walk(ask: Callable[[str], Awaitable[Users]], max_pages: int) -> tuple[AllUsers, int]:
    """Return the sums over all pages, and how many entries could not be read.

    `ask` returns the page of this name, the first one for "". A page that has vanished makes the walk begin
    anew, three times at most. Raises PollError: then nothing of what was read counts.
    """
    for _ in range(RESTARTS):
        try:
            return await _walked(ask, max_pages)
        except InvalidPage:
            continue
    return await _walked(ask, max_pages)


async def _walked(ask: Callable[[str], Awaitable[Users]], max_pages: int) -> tuple[AllUsers, int]:
    users, rejected, page = 0, 0, ""
    hashes = withdrawn = balance = 0.0
    seen = {hash(page)}
    for _ in range(max_pages):
        answer = await ask(page)
        users += len(answer.entries)
        rejected += answer.rejected
        hashes = fsum((hashes, *(user.total for user in answer.entries)))
        withdrawn = fsum((withdrawn, *(user.withdrawn for user in answer.entries)))
        balance = fsum((balance, *(user.balance for user in answer.entries)))
        if answer.next_page is None:
            return AllUsers(users, hashes, withdrawn, balance), rejected
        page = answer.next_page
        if hash(page) in seen:
            raise InvalidResponse("nextPage names a page that was there before")
        seen.add(hash(page))
    raise TooLarge(f"the list has more than {max_pages} pages: see poll.all_users.max_pages")
