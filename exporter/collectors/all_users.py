"""`/user/list`: the sums over all users, page after page. Nothing else of the pages is kept."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from math import fsum
from typing import NamedTuple

from msgspec import UNSET

from exporter.api.answers import decode_user_page
from exporter.api.client import Request
from exporter.api.errors import InvalidPage, InvalidResponse, TooLarge
from exporter.clock import Now
from exporter.collectors.collector import Ask, Collector, EndpointTraits, Step, Visible
from exporter.collectors.expiry import Reading, unless_stale
from exporter.collectors.metric import Family, MetricList
from exporter.config import Poll, Site
from exporter.config.sections import AllUsersPoll
from exporter.endpoint import Endpoint, Reason

ALL_USERS = Endpoint("/user/list")
RESTARTS = 3  # a page is named by a user, who can be gone by the time the page is asked for
METRICS = MetricList(ALL_USERS)
LEFT_OUT = "; without entries that cannot be read, which cryptoloot_rejected_entries_total counts."
USERS = METRICS.gauge("all_users", f"Users of the last walk over all pages of /user/list{LEFT_OUT}")
HASHES = METRICS.gauge(
    "all_users_hashes", f"Accepted hashes of all users: sum of total of /user/list{LEFT_OUT}"
)
BALANCE = METRICS.gauge(
    "all_users_balance_coins", f"Coins owed to all users: sum of balance of /user/list{LEFT_OUT}"
)
WITHDRAWN = METRICS.gauge(
    "all_users_withdrawn_coins", f"Coins all users withdrew: sum of withdrawn of /user/list{LEFT_OUT}"
)


class Sums(NamedTuple):
    """The sums over all pages: users, hashes, coins withdrawn, coins owed.

    They are without the rejected entries; `fault` is what is wrong with the first of these.
    """

    users: int
    hashes: float
    withdrawn: float
    balance: float
    rejected: int = 0
    fault: str = ""


class AllUsersCollector(Collector["Reading[Sums] | None", "Sums | None"]):
    """The sums of the last complete walk."""

    endpoints = {ALL_USERS: EndpointTraits(rejects_entries=True, reasons=(Reason.INVALID_PAGE,))}
    metrics = METRICS
    initial = None

    def polled(self, site: Site) -> Mapping[Endpoint, Poll]:
        """Poll where the config asks for it: a walk is long."""
        return {ALL_USERS: site.polls.all_users} if site.polls.all_users.enabled else {}

    async def poll(self, site: Site, endpoint: Endpoint, ask: Ask) -> Sums:
        """Walk over all pages; start again, three times at most, when a page has vanished."""
        for _ in range(RESTARTS):
            with suppress(InvalidPage):
                return await self._walk(site.polls.all_users, ask)
        return await self._walk(site.polls.all_users, ask)

    async def _walk(self, poll: AllUsersPoll, ask: Ask) -> Sums:
        sums, page = Sums(0, 0.0, 0.0, 0.0), ""
        seen = {hash(page)}
        for _ in range(poll.max_pages):
            parameters = {"count": str(poll.page_size), **({"page": page} if page else {})}
            answer = await ask(Request(ALL_USERS, decode_user_page, parameters, (InvalidPage,)))
            sums = Sums(
                sums.users + len(answer.entries),
                fsum((sums.hashes, *(user.total for user in answer.entries))),
                fsum((sums.withdrawn, *(user.withdrawn for user in answer.entries))),
                fsum((sums.balance, *(user.balance for user in answer.entries))),
                sums.rejected + answer.rejected,
                sums.fault or answer.fault,
            )
            if answer.next_page is UNSET and len(answer.entries) + answer.rejected >= poll.page_size:
                raise InvalidResponse("$.nextPage: missing on a full page, so there may be more users")
            if not answer.next_page:
                return sums
            page = answer.next_page
            if hash(page) in seen:
                raise InvalidResponse("nextPage names a page that was there before")
            seen.add(hash(page))
        raise TooLarge(f"the list has more than {poll.max_pages} pages: see poll.all_users.max_pages")

    def step(
        self, site: Site, endpoint: Endpoint, state: Reading[Sums] | None, answer: Sums, now: Now
    ) -> Step[Reading[Sums] | None]:
        """Keep the sums."""
        return Step(Reading(answer, now), answer.rejected, answer.fault)

    def visible(self, site: Site, state: Reading[Sums] | None, now: Now) -> Visible[Sums | None]:
        """Show the sums until they are stale."""
        polls = self.polled(site)
        sums, until = unless_stale(state, polls.get(ALL_USERS), now)
        return Visible(sums, until, frozenset() if sums else frozenset(polls))

    def families(self, site: Site, view: Sums | None) -> Iterator[Family]:
        """Return a gauge for each sum."""
        if view is not None:
            yield Family.single(USERS, site, view.users)
            yield Family.single(HASHES, site, view.hashes)
            yield Family.single(BALANCE, site, view.balance)
            yield Family.single(WITHDRAWN, site, view.withdrawn)
