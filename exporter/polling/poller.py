"""The loops that poll: one task for each site and endpoint.

Clocks, randomness and `sleep` are arguments; `sleep` is awaited in one line.
"""

from __future__ import annotations

import asyncio
import traceback
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from exporter.api.client import PollError
from exporter.collectors import history, snapshot
from exporter.collectors.history import Meaning
from exporter.collectors.jobs import KINDS, jobs_of
from exporter.collectors.snapshot import Snapshot
from exporter.config.secret import SecretReader
from exporter.endpoint import Endpoint
from exporter.polling.schedule import Schedule, first_due, phase, retry_after_seconds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping

    from exporter.api.client import Client
    from exporter.clock import Clock, Now
    from exporter.collectors.jobs import Job
    from exporter.collectors.metrics import ExporterMetrics
    from exporter.collectors.snapshot import Store
    from exporter.collectors.watch import Round
    from exporter.config import Config
    from exporter.config.secret import Secret
    from exporter.endpoint import Reason

log = structlog.get_logger()

SECRET_LOOK = 10.0  # seconds between looks at the secret file while its site is backed off
RESTART_DELAY = 1.0  # seconds, doubled with every crash in a row
LONGEST_RESTART_DELAY = 60.0
STANDSTILL = 60.0  # seconds overdue, beyond interval and time-out, after which a loop counts as dead


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
        """Return slots for these sites: the same, with what is held, when their number is the same."""
        if total != self._total:
            return Slots(total)
        self._sites = {site: self._sites[site] for site in sites if site in self._sites}
        return self


class _Loop:
    """One job's state between polls; `promised` is the due time after the last poll that came to an end."""

    def __init__(self, job: Job, due: float) -> None:
        self.job = job
        self.secret = SecretReader(job.secret)
        self.schedule = Schedule(
            job.poll.interval, job.poll.stale_after, phase(job.site, job.endpoint, job.poll.interval)
        )
        self.due = due
        self.promised = due
        self.began: Now | None = None  # of the poll in hand, when its first request was sent
        self.walked = due  # when a walk last went on to another page, monotonic seconds
        self.asleep = False
        self.queued = False
        self.crashes = 0
        self.reason: Reason | None = None  # of the last failure, until a success
        self.meaning_warned = False
        self.refused: frozenset[tuple[int, str]] = frozenset()  # users, as the log last had them
        self.secret_known = job.secret.value
        self.secret_problem: str | None = None
        self.task: asyncio.Task[None] | None = None


class Poller:
    """The poll loops of all sites."""

    def __init__(
        self, store: Store, own: ExporterMetrics, clock: Clock, conceal: Callable[[list[str]], None]
    ) -> None:
        self._store = store
        self._conceal = conceal
        self._own = own
        self._clock = clock
        self._loops: dict[tuple[str, Endpoint], _Loop] = {}
        self._client: Client
        self._slots = Slots(1)
        self._timeout = 0.0
        self._finished = 0.0  # when any poll last came to an end

    def apply(self, config: Config, client: Client) -> None:
        """Poll what this config says from now on; loops whose job is unchanged go on as they are."""
        now = self._clock.now()
        old, self._loops = self._loops, {}
        self._client, self._timeout = client, config.api.timeout
        self._slots = self._slots.resized(config.api.max_concurrency, [site.name for site in config.sites])
        jobs = list(jobs_of(config))
        for endpoint in {job.endpoint for job in jobs}:
            self._own.poll_duration.labels(endpoint.value)  # at 0 from the start
        self._store.keep(_carried(jobs, old, self._store))
        fresh = [job for job in jobs if not _same(job, old)]
        for place, job in enumerate(fresh):
            loop = _Loop(job, first_due(place, len(fresh), job.poll.interval, now.mono))
            self._start(_continued(loop, old.get(_key(job))), now)
        for job in jobs:
            if _same(job, old):
                self._adopt(old.pop(_key(job)), now)
        for loop in old.values():
            _cancel(loop)

    async def once(
        self, config: Config, client: Client, endpoints: Collection[Endpoint] = tuple(Endpoint)
    ) -> list[tuple[str, str, str, str]]:
        """Poll these endpoints once, without loops; return what failed: site, endpoint, reason, detail."""
        self._client, self._slots = client, Slots(config.api.max_concurrency)
        jobs = [job for job in jobs_of(config) if job.endpoint in endpoints]
        self._store.keep(_carried(jobs, {}, self._store))
        due = self._clock.now().mono
        faults = await asyncio.gather(*(self._poll(_Loop(job, due)) for job in jobs))
        return [
            (job.site, job.endpoint.value, fault.reason.value, str(fault))
            for job, fault in zip(jobs, faults, strict=True)
            if fault
        ]

    async def stop(self) -> None:
        """Cancel the loops, calls in flight included."""
        tasks = [loop.task for loop in self._loops.values() if loop.task]
        for loop in self._loops.values():
            _cancel(loop)
        self._loops = {}
        await asyncio.gather(*tasks, return_exceptions=True)

    def standing_still(self, now: Now) -> list[str]:
        """Name the loops that should have polled long ago and have not: "site endpoint"."""
        return [
            f"{site} {endpoint}"
            for (site, endpoint), loop in self._loops.items()
            # A loop in the queue for a slot lives as long as others finish, a walk as long as it goes on.
            if now.mono - max(loop.promised, loop.walked, self._finished if loop.queued else 0.0)
            > loop.job.poll.interval + self._timeout + STANDSTILL
        ]

    def _start(self, loop: _Loop, now: Now) -> None:
        site, endpoint = key = _key(loop.job)
        self._loops[key] = loop
        self._store.publish(site, snapshot.planned(self._store[site], endpoint, _wall(loop.due, now)))
        loop.task = asyncio.create_task(self._run(loop), name=f"poll {site} {endpoint}")
        loop.task.add_done_callback(lambda task: self._ended(loop, task))

    def _adopt(self, loop: _Loop, now: Now) -> None:
        """Go on with a loop over a reload; one that is backed off polls within an interval."""
        soon = max(now.mono + self._clock.random() * loop.job.poll.interval, loop.schedule.retry_at)
        if not (loop.schedule.failures and loop.asleep and soon < loop.due):
            self._loops[_key(loop.job)] = loop
            return
        _cancel(loop)
        loop.due = loop.promised = soon
        self._start(loop, now)

    def _ended(self, loop: _Loop, task: asyncio.Task[None]) -> None:
        """Start a loop again that ended though nobody has stopped it."""
        if loop.task is task and self._loops.get(_key(loop.job)) is loop:
            delay = self._restart_delay(loop)
            self._start(loop, self._clock.now())
            _say_crashed(loop, None if task.cancelled() else task.exception(), delay)

    async def _run(self, loop: _Loop) -> None:
        while True:
            try:
                await self._wait(loop)
                await self._poll(loop)
                loop.crashes = 0
            except Exception as error:  # noqa: BLE001 - whatever it is, the loop goes on and the log says so
                _say_crashed(loop, error, self._restart_delay(loop))

    def _restart_delay(self, loop: _Loop) -> float:
        """Count a crash and put the next poll off, the longer the more crashes there were in a row."""
        self._own.loop_restarts.inc()
        loop.crashes += 1
        loop.queued = False
        loop.walked = loop.promised
        delay = min(RESTART_DELAY * 2.0 ** min(loop.crashes - 1, 60), LONGEST_RESTART_DELAY)
        loop.due = self._clock.now().mono + delay
        return delay

    async def _wait(self, loop: _Loop) -> None:
        loop.asleep = True
        try:
            while (delay := loop.due - self._clock.now().mono) > 0:
                if loop.schedule.failures and loop.secret.changed():
                    loop.due = min(loop.due, max(self._clock.now().mono, loop.schedule.retry_at))
                    delay = loop.due - self._clock.now().mono
                await self._clock.sleep(min(delay, SECRET_LOOK) if loop.schedule.failures else delay)
        finally:
            loop.asleep = False

    async def _poll(self, loop: _Loop) -> PollError | None:
        job, kind = loop.job, KINDS[loop.job.endpoint]
        fault: PollError | None = None
        answer = None
        loop.began = None
        try:
            answer = await kind.call(partial(self._ask, loop), job)
        except PollError as error:
            fault = error
        now = self._clock.now()
        began = loop.began or now
        self._own.poll_duration.labels(job.endpoint.value).observe(now.mono - began.mono)
        if fault is None:
            self._succeed(loop, answer, began, now)
        else:
            self._fail(loop, fault, began, now)
        loop.promised = loop.due
        self._finished = now.mono
        return fault

    async def _ask(self, loop: _Loop, request: Callable[[Client, Secret], Awaitable[Any]]) -> Any:
        """Send one request of a poll while a slot is held: between two of them others have their turn."""
        loop.queued = True
        async with self._slots.hold(loop.job.site):
            loop.queued = False
            now = self._clock.now()
            if loop.began is None:
                loop.began = now
                self._own.poll_delay.observe(max(0.0, now.mono - loop.due))
            else:
                loop.walked = now.mono
            return await request(self._client, self._secret(loop))

    def _secret(self, loop: _Loop) -> Secret:
        secret, problem = loop.secret.current(), loop.secret.problem
        if problem and problem != loop.secret_problem:
            log.warning("secret_file_unreadable", site=loop.job.site, problem=problem)
        if secret != loop.secret_known:
            self._conceal([secret.reveal()])
            log.info("secret_changed", site=loop.job.site, endpoint=loop.job.endpoint.value)
        loop.secret_known, loop.secret_problem = secret, problem
        return secret

    def _succeed(self, loop: _Loop, answer: Any, began: Now, now: Now) -> None:
        job = loop.job
        name, endpoint = _key(job)
        known, rejected = KINDS[endpoint].take(job, self._store[name], answer, now)
        failures = loop.schedule.failures
        off_grid = bool(failures or loop.crashes)
        loop.schedule, loop.due = loop.schedule.succeeded(began.mono, now.mono, off_grid=off_grid)
        next_poll = _wall(loop.due, now)
        took = now.mono - began.mono
        known = snapshot.succeeded(
            known, endpoint, at=now.wall, took=took, rejected=rejected, next_poll=next_poll
        )
        self._store.publish(name, known)
        duration = round(took, 3)
        log.debug("poll_succeeded", site=name, endpoint=endpoint.value, duration_s=duration)
        if failures:
            log.info(
                "poll_recovered", site=name, endpoint=endpoint.value, failures=failures, duration_s=duration
            )
        loop.reason = None
        if endpoint is Endpoint.HISTORY:
            self._warn_of_meaning(loop, known, now)
        elif endpoint is Endpoint.BALANCES:
            self._warn_of_users(loop, answer)

    def _warn_of_meaning(self, loop: _Loop, known: Snapshot, now: Now) -> None:
        """Say once that `hashes` makes no sense, and again only after it has."""
        settled = known.last_rows[: history.settled_count(known.last_rows, now.wall)]
        unknown = known.meaning == Meaning.UNKNOWN and history.telling(settled)
        if unknown and not loop.meaning_warned:
            log.warning("history_hashes_unknown", site=loop.job.site, endpoint=loop.job.endpoint.value)
        loop.meaning_warned = unknown

    def _warn_of_users(self, loop: _Loop, answer: Round) -> None:
        """Say once that the API refuses a user, by the place in the config: names are personal."""
        for place, reason in answer.refused:
            if (place, reason) not in loop.refused:
                user = f"watch_users[{place}]"
                log.warning("watched_user_refused", site=loop.job.site, user=user, reason=reason.value)
        loop.refused = frozenset(answer.refused)

    def _fail(self, loop: _Loop, fault: PollError, began: Now, now: Now) -> None:
        name, endpoint = _key(loop.job)
        wait = retry_after_seconds(fault.retry_after, now.wall)
        jitter = 0.8 + 0.4 * self._clock.random()
        loop.schedule, loop.due = loop.schedule.failed(fault.reason, now.mono, wait, jitter)
        next_poll = _wall(loop.due, now)
        took = now.mono - began.mono
        known = snapshot.failed(
            self._store[name],
            endpoint,
            at=now.wall,
            took=took,
            reason=fault.reason,
            detail=str(fault),
            next_poll=next_poll,
        )
        self._store.publish(name, known)
        # Said when it begins or changes; a fault that lasts for days must not fill the disk.
        say = log.warning if loop.reason is not fault.reason else log.debug
        say(
            "poll_failed",
            site=name,
            endpoint=endpoint.value,
            reason=fault.reason.value,
            detail=str(fault),
            duration_s=round(took, 3),
            next_poll_in_s=round(loop.due - now.mono, 1),
        )
        loop.reason = fault.reason


def _say_crashed(loop: _Loop, error: BaseException | None, delay: float) -> None:
    # Neither the error's text nor locals: both may hold what a visitor or a server chose.
    frames = traceback.extract_tb(error.__traceback__) if error else []
    log.error(
        "loop_crashed",
        site=loop.job.site,
        endpoint=loop.job.endpoint.value,
        error=type(error).__name__ if error else "cancelled",
        frames=[f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames],
        restart_in_s=delay,
    )


def _key(job: Job) -> tuple[str, Endpoint]:
    return job.site, job.endpoint


def _same(job: Job, loops: Mapping[tuple[str, Endpoint], _Loop]) -> bool:
    loop = loops.get(_key(job))
    return loop is not None and loop.job == job


def _continued(loop: _Loop, old: _Loop | None) -> _Loop:
    """Take over what the API asked for, and the count of failures, from a loop of the same source."""
    if old and old.job.source == loop.job.source:
        before = old.schedule
        loop.schedule = replace(loop.schedule, failures=before.failures, retry_at=before.retry_at)
        loop.due = loop.promised = max(loop.due, before.retry_at)
        loop.reason = old.reason
    return loop


def _carried(
    jobs: Collection[Job], loops: Mapping[tuple[str, Endpoint], _Loop], store: Store
) -> dict[str, Snapshot]:
    """Return what stays known over a reload: all of a site whose source is the same, else its counters.

    Nothing is kept of users who are not watched any more.
    """
    sources = {name: loop.job.source for (name, _), loop in loops.items()}
    carried = {}
    for job in jobs:
        if job.site not in sources:
            carried[job.site] = Snapshot()
        elif sources[job.site] == job.source:
            carried[job.site] = store[job.site]
        else:
            carried[job.site] = snapshot.cleared(store[job.site])
    watched = {loop.job.site: loop.job.users for loop in loops.values() if loop.job.users}
    watching = {job.site: job for job in jobs if job.users}
    for site, known in carried.items():
        now = watching.get(site)
        users = now.users if now else ()
        if users != watched.get(site, ()):
            labels = {snapshot.user_label(name, now.key) for name in users} if now else set()
            carried[site] = snapshot.watching(known, labels)
    return carried


def _cancel(loop: _Loop) -> None:
    task, loop.task = loop.task, None
    if task:
        task.cancel()


def _wall(due: float, now: Now) -> float:
    return now.wall + due - now.mono
