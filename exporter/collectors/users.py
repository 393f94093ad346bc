"""`/user/top` and `/user/balance`: the top users, and watched users whatever their rank.

Both endpoints answer for the same users, so they share the totals: a user of both is one series.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from exporter.api.answers import Entries, User, Users, decode_balance, decode_top_users
from exporter.api.client import Request
from exporter.api.errors import MissingInput, PollError, UnknownUser, UserRefused
from exporter.clock import Now
from exporter.collectors.collector import Ask, Collector, EndpointTraits, Step, Visible, WarningEvent
from exporter.collectors.expiry import Expiry, Reading, unless_stale
from exporter.collectors.metric import Family, MetricList
from exporter.collectors.user_labels import label_users, names_key, user_label
from exporter.collectors.user_totals import UserTotals, update_totals, without_endpoint
from exporter.config import Poll, Site
from exporter.endpoint import USER_REASONS, Endpoint, Reason

TOP_USERS = Endpoint("/user/top")
BALANCES = Endpoint("/user/balance")
METRICS = MetricList(TOP_USERS)
USER_HASHES = METRICS.counter(
    "user_hashes",
    "A user's accepted hashes: total of /user/top or /user/balance, guarded against falls that are no reset.",
    labels="site user",
)
USER_WITHDRAWN = METRICS.counter(
    "user_withdrawn_coins",
    "Coins a user withdrew: withdrawn of /user/top or /user/balance, guarded against falls that are no "
    "reset.",
    labels="site user",
)
USER_BALANCE = METRICS.gauge(
    "user_balance_coins", "Coins owed to a user: balance of /user/top or /user/balance.", labels="site user"
)
WATCHED_FAILURES = METRICS.counter(
    "watched_user_failures",
    "Watched users whom /user/balance refused, each under one reason.",
    Expiry.NEVER,
    labels="site reason",
    source=BALANCES,
)
RETURNED = METRICS.gauge("top_users_returned", "Users of the last /user/top answer that could be read.")
TOP_BALANCE = METRICS.gauge(
    "top_users_balance_coins", "Coins owed to the users returned: sum of balance of /user/top."
)
TRACKED_HASHES = METRICS.counter(
    "tracked_user_hashes",
    "Increases of total of users present in two successive /user/top answers, summed up since the start.",
    Expiry.NEVER,
)
TOTALS_CHANGED = METRICS.gauge(
    "user_totals_change_timestamp_seconds",
    "When a total of /user/top last moved; absent until one does.",
    Expiry.NEVER,
)
REGRESSIONS = METRICS.counter(
    "user_regressions",
    "Answers whose fall of total or withdrawn of /user/top or /user/balance the guard held back; "
    "a reset is none.",
    Expiry.NEVER,
)


class TopUsers(Struct, frozen=True, gc=False):
    """The last `/user/top` answer: totals by label, in its order, and the sum of balances in coins."""

    totals: Mapping[str, float]
    balance: float


class WatchedUsers(NamedTuple):
    """The last poll of `watch_users`: the labels of users found, and place and reason of the others."""

    names: tuple[str, ...]  # as the config has them
    labels: tuple[str, ...] = ()
    refused: tuple[tuple[int, Reason], ...] = ()


class WatchedAnswer(NamedTuple):
    """The answers of one poll: users under the names that were asked for, place and reason of the others."""

    users: tuple[User, ...]
    refused: tuple[tuple[int, Reason], ...]


class UsersState(Struct, frozen=True, gc=False):
    """The last answer of both endpoints, the totals of their users by label, and counters."""

    top: Reading[TopUsers] | None = None
    watched: Reading[WatchedUsers] | None = None
    totals: Mapping[str, UserTotals] = {}
    tracked_hashes: float = 0.0
    totals_changed: float | None = None  # Unix seconds
    ignored: int = 0  # answers with an ignored decrease
    failures: Mapping[Reason, int] = {}  # of watched users


class UsersView(NamedTuple):
    """The answers while they are current, and the state they are from: counters in it do not expire."""

    top: TopUsers | None
    watched: WatchedUsers | None
    state: UsersState


class UsersCollector(Collector[UsersState, UsersView]):
    """Users with a series each, and sums over the top ones."""

    endpoints = {TOP_USERS: EndpointTraits(rejects_entries=True), BALANCES: EndpointTraits()}
    metrics = METRICS
    initial = UsersState()

    def polled(self, site: Site) -> Mapping[Endpoint, Poll]:
        """Poll the top users always, `/user/balance` where users are watched."""
        polls: dict[Endpoint, Poll] = {TOP_USERS: site.polls.top_users}
        return polls | {BALANCES: site.polls.balances} if site.watch_users else polls

    def depends_on(self, site: Site, endpoint: Endpoint) -> tuple[object, ...]:
        """Name whom `/user/balance` is asked for."""
        return site.watch_users if endpoint == BALANCES else ()

    async def poll(self, site: Site, endpoint: Endpoint, ask: Ask) -> Users | WatchedAnswer:
        """Ask for the top users once, or for each watched user, one after another.

        A watched user that the API refuses does not fail the poll. Any other error does, and names the place.
        """
        if endpoint == TOP_USERS:
            poll = site.polls.top_users
            parameters = {"count": str(poll.count), "order": poll.order}
            top = await ask(Request(TOP_USERS, decode_top_users, parameters))
            if len(top.entries) <= poll.count:
                return top
            rejected = top.rejected + len(top.entries) - poll.count
            fault = top.fault or f"$.users: more users than the {poll.count} that were asked for"
            return replace(top, entries=top.entries[: poll.count], rejected=rejected, fault=fault)
        users, refused = [], []
        for place, name in enumerate(site.watch_users):
            request = Request(BALANCES, decode_balance, {"name": name}, (MissingInput, UnknownUser))
            try:
                user = await ask(request)
            except UserRefused as error:
                refused.append((place, error.reason))
            except PollError as error:
                error.args = (f"watch_users[{place}]: {error}",)
                raise
            else:
                # By the name asked for: the reference's example asks for johnd and is answered with maria.
                users.append(User(name, user.total, user.withdrawn, user.balance))
        return WatchedAnswer(tuple(users), tuple(refused))

    def step(
        self, site: Site, endpoint: Endpoint, state: UsersState, answer: Users | WatchedAnswer, now: Now
    ) -> Step[UsersState]:
        """Update the totals with an answer of either endpoint."""
        if isinstance(answer, WatchedAnswer):
            return self._step_watched(site, state, answer, now)
        users = label_users(answer, names_key(site))
        totals, ignored = update_totals(state.totals, endpoint, users.entries)
        top = {user.name: totals[user.name].total for user in users.entries}
        before = state.top.value.totals if state.top else {}
        pairs = zip(top.values(), map(before.get, top, top.values()), strict=True)
        changes = [total - previous for total, previous in pairs if total != previous]
        # A mark that /user/balance has raised in between is not a change of this endpoint.
        changed = changes and any(
            total != state.totals[name].total for name, total in top.items() if name in before
        )
        return Step(
            replace(
                state,
                top=Reading(TopUsers(top, sum([user.balance for user in users.entries])), now),
                totals=totals,
                tracked_hashes=state.tracked_hashes + sum([change for change in changes if change > 0]),
                totals_changed=now.wall if changed else state.totals_changed,
                ignored=state.ignored + ignored,
            ),
            users.rejected,
            users.fault,
        )

    def _step_watched(
        self, site: Site, state: UsersState, answer: WatchedAnswer, now: Now
    ) -> Step[UsersState]:
        """Update the totals; warn once of each user that is refused, by place: names are personal."""
        users = label_users(Entries(answer.users), names_key(site))
        totals, ignored = update_totals(state.totals, BALANCES, users.entries)
        labels = tuple(user.name for user in users.entries)
        before = state.watched.value.refused if state.watched else ()
        return Step(
            replace(
                state,
                watched=Reading(WatchedUsers(site.watch_users, labels, answer.refused), now),
                totals=totals,
                ignored=state.ignored + ignored,
                failures=Counter(state.failures) + Counter(reason for _, reason in answer.refused),
            ),
            users.rejected,
            users.fault,
            tuple(
                WarningEvent(
                    "watched_user_refused", {"user": f"watch_users[{place}]", "reason": reason.value}
                )
                for place, reason in answer.refused
                if (place, reason) not in before
            ),
        )

    def visible(self, site: Site, state: UsersState, now: Now) -> Visible[UsersView]:
        """Show each answer until it is stale."""
        polls = self.polled(site)
        top, top_until = unless_stale(state.top, polls[TOP_USERS], now)
        watched, watched_until = unless_stale(state.watched, polls.get(BALANCES), now)
        shown = {TOP_USERS: top, BALANCES: watched}
        stale = frozenset(endpoint for endpoint in polls if shown[endpoint] is None)
        return Visible(UsersView(top, watched, state), top_until.earlier(watched_until), stale)

    def families(self, site: Site, view: UsersView) -> Iterator[Family]:
        """Return a series for each user unless names are off, and the sums."""
        top = view.top.totals if view.top is not None else {}
        if view.top is not None:
            yield Family.single(RETURNED, site, len(top))
            yield Family.single(TOP_BALANCE, site, view.top.balance)
        watched = view.watched.labels if view.watched is not None else ()
        labels = [*top, *(label for label in watched if label not in top)]
        if labels and site.users.names != "off":
            users = [view.state.totals[label] for label in labels]
            yield Family(USER_HASHES, (site.name, labels), [user.total for user in users])
            yield Family(USER_WITHDRAWN, (site.name, labels), [user.withdrawn for user in users])
            yield Family(USER_BALANCE, (site.name, labels), [user.balance for user in users])
        yield Family.single(TRACKED_HASHES, site, view.state.tracked_hashes)
        yield Family.single(REGRESSIONS, site, view.state.ignored)
        if view.state.totals_changed is not None:
            yield Family.single(TOTALS_CHANGED, site, view.state.totals_changed)
        if site.watch_users:
            reasons = [reason.value for reason in USER_REASONS]
            counts = [float(view.state.failures.get(reason, 0)) for reason in USER_REASONS]
            yield Family(WATCHED_FAILURES, (reasons, site.name), counts)

    def for_other_source(self, state: UsersState) -> UsersState:
        """Keep the counters."""
        return UsersState(tracked_hashes=state.tracked_hashes, ignored=state.ignored, failures=state.failures)

    def reconfigured(self, site: Site, state: UsersState) -> UsersState:
        """Forget who is not watched any more: removing a person from the config removes the data."""
        if state.watched is None or state.watched.value.names == site.watch_users:
            return state
        key = names_key(site)
        labels = {user_label(name, key) for name in site.watch_users}
        kept = tuple(label for label in state.watched.value.labels if label in labels)
        return replace(
            state,
            watched=Reading(WatchedUsers(site.watch_users, kept), state.watched.at) if labels else None,
            totals={
                label: totals if label in labels else without_endpoint(totals, BALANCES)[0]
                for label, totals in state.totals.items()
            },
        )
