"""What is polled: a job for each site and endpoint, how its endpoint is asked and its answer taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from exporter.api.answers import Entries
from exporter.collectors import history, snapshot
from exporter.collectors.history import Meaning
from exporter.collectors.walk import walk
from exporter.collectors.watch import watch
from exporter.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from exporter.api.answers import History, Payout, UserBalance, Users
    from exporter.api.client import Client
    from exporter.clock import Now
    from exporter.collectors.snapshot import AllUsers, Snapshot
    from exporter.collectors.watch import Round
    from exporter.config import Config, Poll
    from exporter.config.secret import Secret, SecretSource
    from exporter.config.sections import AllUsersPoll, TopUsersPoll

    Ask = Callable[[Callable[[Client, Secret], Awaitable[Any]]], Awaitable[Any]]  # one request of a poll


@dataclass(frozen=True)
class Job:
    """What one loop polls, as the config says it; two that are equal are the same loop over a reload."""

    site: str
    endpoint: Endpoint
    poll: Poll
    secret: SecretSource
    url: str
    key: bytes | None  # of users' names as labels
    users: tuple[str, ...] = ()  # whom /user/balance is asked for

    @property
    def source(self) -> tuple[object, ...]:
        """Whose data it is: when this changes, what was read before belongs to somebody else."""
        return (self.url, self.secret, self.key)


class Kind(NamedTuple):
    """How an endpoint is polled: the call, and the pure step that takes its answer into the snapshot.

    The step returns the new snapshot and how many entries of the answer were rejected.
    """

    call: Callable[[Ask, Job], Awaitable[Any]]
    take: Callable[[Job, Snapshot, Any, Now], tuple[Snapshot, int]]


def _take_payout(_job: Job, known: Snapshot, payout: Payout, now: Now) -> tuple[Snapshot, int]:
    return snapshot.with_payout(known, payout, now), 0


def _take_history(_job: Job, known: Snapshot, answer: History, now: Now) -> tuple[Snapshot, int]:
    rows, future = history.tidy(answer.entries, now.wall)
    settled = rows[: history.settled_count(rows, now.wall)]
    meaning = history.meaning(settled, Meaning(known.meaning))
    return snapshot.with_history(known, rows, meaning, now), answer.rejected + future


def _take_top_users(job: Job, known: Snapshot, answer: Users, now: Now) -> tuple[Snapshot, int]:
    users = snapshot.labelled(answer, job.key)
    return snapshot.with_top_users(known, users.entries, now), users.rejected


def _take_all_users(
    _job: Job, known: Snapshot, answer: tuple[AllUsers, int], now: Now
) -> tuple[Snapshot, int]:
    users, rejected = answer
    return snapshot.with_all_users(known, users, now), rejected


def _take_balances(job: Job, known: Snapshot, answer: Round, now: Now) -> tuple[Snapshot, int]:
    users = snapshot.labelled(Entries(answer.users), job.key)
    return snapshot.with_watched(known, users.entries, answer.refused, now), users.rejected


def _call_top_users(ask: Ask, job: Job) -> Awaitable[Users]:
    poll = cast("TopUsersPoll", job.poll)
    return ask(lambda client, secret: client.top_users(secret, count=poll.count, order=poll.order))


def _call_all_users(ask: Ask, job: Job) -> Awaitable[tuple[AllUsers, int]]:
    poll = cast("AllUsersPoll", job.poll)

    def page(name: str) -> Awaitable[Users]:
        return ask(lambda client, secret: client.user_page(secret, count=poll.page_size, page=name))

    return walk(page, poll.max_pages)


def _call_balances(ask: Ask, job: Job) -> Awaitable[Round]:
    def balance(name: str) -> Awaitable[UserBalance]:
        return ask(lambda client, secret: client.balance(secret, name=name))

    return watch(balance, job.users)


KINDS = {
    Endpoint.PAYOUT: Kind(lambda ask, _: ask(lambda client, secret: client.payout(secret)), _take_payout),
    Endpoint.HISTORY: Kind(lambda ask, _: ask(lambda client, secret: client.history(secret)), _take_history),
    Endpoint.TOP_USERS: Kind(_call_top_users, _take_top_users),
    Endpoint.ALL_USERS: Kind(_call_all_users, _take_all_users),
    Endpoint.BALANCES: Kind(_call_balances, _take_balances),
}


def jobs_of(config: Config) -> Iterable[Job]:
    """Return the job of each endpoint that is polled, site by site."""
    key = config.users.key.reveal().encode() if config.users.key else None
    for site in config.sites:
        for endpoint, poll in site.active_polls().items():
            users = site.watch_users if endpoint is Endpoint.BALANCES else ()
            yield Job(site.name, endpoint, poll, site.secret, config.api.url, key, users)
