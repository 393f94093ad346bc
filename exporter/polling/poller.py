"""The poll loops: one task for each site and endpoint.

Clocks, randomness and `sleep` are arguments; `sleep` is awaited in one line.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import httpx
import structlog
from msgspec import Struct
from msgspec.structs import replace

from exporter import USER_AGENT
from exporter.api.client import Client, Request
from exporter.api.errors import PollError
from exporter.clock import Clock, Now
from exporter.collectors.collector import Step
from exporter.collectors.snapshot import Snapshot, Store
from exporter.config import Config
from exporter.config.secret import Secret, SecretReader
from exporter.endpoint import Endpoint, Reason
from exporter.log import conceal
from exporter.pages.exporter_metrics import OwnMetrics
from exporter.polling.jobs import Job, Key, jobs_of
from exporter.polling.reload_plan import Plan, kept_snapshot
from exporter.polling.schedule import Schedule, first_due, phase, retry_after_seconds
from exporter.polling.slots import Slots

T = TypeVar("T")

log = structlog.get_logger()

STARTED_AT_ONCE = 100  # loops, in one turn of the event loop: some milliseconds
SECRET_INTERVAL = 10.0  # seconds between looks at the secret file while its site is backed off
RESTART_DELAY = 1.0  # seconds, doubled with every crash in a row
LONGEST_RESTART_DELAY = 60.0
STUCK_AFTER = 60.0  # seconds overdue, beyond interval and time-out, after which a loop counts as stuck


class Failure(NamedTuple):
    """A poll that failed."""

    site: str
    endpoint: Endpoint
    reason: Reason
    detail: str


class LoopState(Struct, frozen=True, gc=False):
    """Where a loop is, between two polls; times are seconds on the monotonic clock.

    `expected_by` is when the loop should make progress. It counts as stuck after interval + time-out +
    STUCK_AFTER more seconds. Each poll that ends, and each page of a walk, moves it; a crash moves it back.
    """

    schedule: Schedule
    due: float
    expected_by: float
    crashes: int = 0  # in a row
    reason: Reason | None = None  # of the last failure, until a success


class _Loop:
    """A job with its state, and what runs it."""

    def __init__(self, job: Job, due: float, old: _Loop | None = None) -> None:
        """Take over what the API asked for from an `old` loop of the same source."""
        interval = job.poll.interval
        schedule = Schedule(interval, job.poll.stale_after, phase(job.name, job.endpoint, interval))
        reason = None
        if old:
            before, reason = old.state.schedule, old.state.reason
            schedule = replace(schedule, failures=before.failures, not_before=before.not_before)
            due = max(due, before.not_before)
        self.job = job
        self.state: LoopState = LoopState(schedule, due, due, reason=reason)
        self.names = {"site": job.name, "endpoint": job.endpoint}  # in log events
        self.secret = SecretReader(job.site.secret)
        self.known_secret = job.site.secret.value
        self.known_problem: str | None = None
        self.queued = False  # waiting for a request slot
        self.task: asyncio.Task[None] | None = None

    def read_secret(self) -> Secret:
        """Return the site's secret as it is now; log a change, and a file that cannot be read, once."""
        secret, problem = self.secret.current(), self.secret.problem
        if problem and problem != self.known_problem:
            log.warning("secret_file_unreadable", site=self.job.name, problem=problem)
        if secret != self.known_secret:
            conceal([secret.reveal()])
            log.info("secret_changed", **self.names)
        self.known_secret, self.known_problem = secret, problem
        return secret

    def cancel(self) -> None:
        task, self.task = self.task, None
        if task:
            task.cancel()


class Poller:
    """The poll loops of all sites."""

    def __init__(self, store: Store, own: OwnMetrics, clock: Clock) -> None:
        self._store = store
        self._own = own
        self._clock = clock
        self._loops: dict[Key, _Loop] = {}
        self._starting: asyncio.Task[None] | None = None  # the loops of a large config
        self._client: Client
        self._slots = Slots(1)
        self._timeout = 0.0
        self._last_end = 0.0  # when any poll last ended, monotonic seconds

    @property
    def jobs(self) -> list[Job]:
        """What is polled now; of a config that was just applied, all of it after `started`."""
        return [loop.job for loop in self._loops.values()]

    async def started(self) -> None:
        """Return when all loops of the last config have started."""
        if self._starting:
            await asyncio.wait([self._starting])

    def apply(self, config: Config, client: Client, changes: Plan) -> None:
        """Poll what this config says from now on, by the plan that leads there from the present `jobs`.

        Loops whose job is unchanged go on; one that is backed off polls within an interval. Of many new loops
        only some start at once. The others follow in turns of the event loop, so that scrapes are answered in
        between.
        """
        now = self._clock.now()
        self._client, self._timeout = client, config.api.timeout
        self._slots = self._slots.resized(config.api.max_concurrency, [site.name for site in config.sites])
        for endpoint in dict.fromkeys(job.endpoint for job in (*changes.start, *changes.keep)):
            self._own.poll_duration.labels(endpoint)  # at 0 from the start
        self._store.replace_all(
            {site.name: kept_snapshot(self._store, site, changes.kept[site.name]) for site in config.sites}
        )
        for key in changes.stop - changes.adopt:
            self._loops.pop(key).cancel()
        starts = iter(enumerate(changes.start))
        self._start_some(starts, changes, now)
        for job in changes.keep:
            loop = self._loops[job.key]
            loop.job, state = job, loop.state
            soon = max(now.mono + self._clock.random() * job.poll.interval, state.schedule.not_before)
            if state.schedule.failures and soon < state.due:  # backed off: it polls within an interval
                loop.cancel()
                loop.state = replace(state, due=soon, expected_by=soon)
                self._start(loop, now)
        if len(changes.start) > STARTED_AT_ONCE:

            async def start_rest() -> None:
                while self._start_some(starts, changes, now):  # noqa: ASYNC110 - it does not wait: it works
                    await asyncio.sleep(0)

            self._starting = asyncio.create_task(start_rest())

    def _start_some(self, starts: Iterator[tuple[int, Job]], changes: Plan, now: Now) -> bool:
        """Start the next new loops of a plan in the place of old ones; return whether there were any left."""
        some = list(islice(starts, STARTED_AT_ONCE))
        for place, job in some:
            due = first_due(place, len(changes.start), job.poll.interval, now.mono)
            before = self._loops.get(job.key)  # of the same source, or there is none
            self._start(_Loop(job, due, before), now)
            if before:
                before.cancel()
        return bool(some)

    async def stop(self) -> None:
        """Cancel the loops, calls in flight included."""
        if self._starting:
            self._starting.cancel()
        tasks = [loop.task for loop in self._loops.values() if loop.task]
        for loop in self._loops.values():
            loop.cancel()
        self._loops = {}
        await asyncio.gather(*tasks, return_exceptions=True)

    async def once(
        self, config: Config, client: Client, endpoints: Collection[Endpoint] = ()
    ) -> list[Failure]:
        """Poll these endpoints, or all, once and without loops; return what failed."""
        self._client, self._slots = client, Slots(config.api.max_concurrency)
        jobs = [job for job in jobs_of(config) if not endpoints or job.endpoint in endpoints]
        self._store.replace_all({job.name: Snapshot() for job in jobs})
        due = self._clock.now().mono
        errors = await asyncio.gather(*(self._poll(_Loop(job, due)) for job in jobs))
        return [
            Failure(job.name, job.endpoint, error.reason, str(error))
            for job, error in zip(jobs, errors, strict=True)
            if error
        ]

    def stuck(self, now: Now) -> list[str]:
        """Name the loops that should have polled long ago and have not: "site endpoint"."""
        return [
            f"{site} {endpoint}"
            for (site, endpoint), loop in self._loops.items()
            # A loop that waits for a slot is fine as long as other polls end.
            if now.mono - max(loop.state.expected_by, self._last_end if loop.queued else 0.0)
            > loop.job.poll.interval + self._timeout + STUCK_AFTER
        ]

    def _start(self, loop: _Loop, now: Now) -> None:
        site, endpoint = key = loop.job.key

        def restart(task: asyncio.Task[None]) -> None:
            if loop.task is task and self._loops.get(key) is loop:  # it ended though nobody has stopped it
                self._crash(loop, loop.state, None if task.cancelled() else task.exception())
                self._start(loop, self._clock.now())

        self._loops[key] = loop
        snapshot = self._store[site]
        record = replace(snapshot.record(endpoint), next_poll=_wall(loop.state.due, now))
        self._store.publish(site, snapshot.with_record(endpoint, record))
        loop.task = asyncio.create_task(self._run(loop), name=f"poll {site} {endpoint}")
        loop.task.add_done_callback(restart)

    async def _run(self, loop: _Loop) -> None:
        while True:
            before = loop.state
            try:
                await self._wait(loop)
                await self._poll(loop)
            except Exception as error:  # noqa: BLE001 - whatever it is, the loop goes on and the log has it
                self._crash(loop, before, error)

    async def _wait(self, loop: _Loop) -> None:
        """Sleep until the poll is due; while the site is backed off, look whether its secret file changes."""
        while (delay := loop.state.due - self._clock.now().mono) > 0:
            backed_off = loop.state.schedule.failures > 0
            if backed_off and loop.secret.changed():
                now = self._clock.now().mono
                due = min(loop.state.due, max(now, loop.state.schedule.not_before))
                loop.state, delay = replace(loop.state, due=due), due - now
            await self._clock.sleep(min(delay, SECRET_INTERVAL) if backed_off else delay)

    async def _poll(self, loop: _Loop) -> PollError | None:
        """Poll once and publish what came of it; return the error of a poll that failed."""
        job = loop.job
        began: Now | None = None  # when the first request was sent

        async def ask(request: Request[T]) -> T:
            """Send one request while a slot is held; between two requests other polls have theirs."""
            nonlocal began
            loop.queued = True
            async with self._slots.hold(job.name):
                loop.queued = False
                now = self._clock.now()
                # Getting the first slot is not progress. But until now the loop counted as alive while other
                # polls ended, so start from the last of those.
                progress = self._last_end if began is None else now.mono
                loop.state = replace(loop.state, expected_by=max(loop.state.expected_by, progress))
                if began is None:
                    began = now
                    self._own.poll_delay.observe(max(0.0, now.mono - loop.state.due))
                return await self._client.call(request, loop.read_secret(), str(job.site.secret))

        error, step = None, None
        try:
            answer = await job.collector.poll(job.site, job.endpoint, ask)
            state = self._store[job.name].state(job.collector)
            step = job.collector.step(job.site, job.endpoint, state, answer, self._clock.now())
        except PollError as poll_error:
            error = poll_error
        now = self._clock.now()
        began = began or now
        self._own.poll_duration.labels(job.endpoint).observe(now.mono - began.mono)
        if step:
            self._succeed(loop, step, began, now)
        if error:
            self._fail(loop, error, began, now)
        self._last_end = now.mono
        return error

    def _succeed(self, loop: _Loop, step: Step[Any], began: Now, now: Now) -> None:
        job, state = loop.job, loop.state
        snapshot = self._store[job.name]
        failures, took = state.schedule.failures, now.mono - began.mono
        off_grid = bool(failures or state.crashes)
        schedule, due = state.schedule.succeeded(began.mono, now.mono, off_grid=off_grid)
        loop.state = LoopState(schedule, due, due)
        before = snapshot.record(job.endpoint)
        record = before.succeeded(
            at=now.wall, took=took, rejected=step.rejected, next_poll=_wall(due, now), fault=step.fault
        )
        snapshot = snapshot.with_state(job.collector, step.state).with_record(job.endpoint, record)
        self._store.publish(job.name, snapshot)
        log.debug("poll_succeeded", **loop.names, duration_s=round(took, 3))
        if failures:
            log.info("poll_recovered", **loop.names, failures=failures, duration_s=round(took, 3))
        if step.rejected and not before.last_rejected:  # when it starts: the counter says how it goes on
            log.warning("entries_rejected", **loop.names, entries=step.rejected, detail=step.fault)
        for warning in step.warnings:
            log.warning(warning.event, site=job.name, **warning.values)

    def _fail(self, loop: _Loop, error: PollError, began: Now, now: Now) -> None:
        job, took, reason, detail = loop.job, now.mono - began.mono, error.reason, str(error)
        wait, jitter = retry_after_seconds(error.retry_after, now.wall), 0.8 + 0.4 * self._clock.random()
        schedule, due = loop.state.schedule.failed(reason, now.mono, wait, jitter)
        # A warning when it starts or changes; a failure that lasts for days must not fill the disk.
        write = log.debug if loop.state.reason is reason else log.warning
        loop.state = LoopState(schedule, due, due, reason=reason)
        snapshot = self._store[job.name]
        record = snapshot.record(job.endpoint).failed(
            at=now.wall, took=took, reason=reason, detail=detail, next_poll=_wall(due, now)
        )
        self._store.publish(job.name, snapshot.with_record(job.endpoint, record))
        times = {"duration_s": round(took, 3), "next_poll_in_s": round(due - now.mono, 1)}
        write("poll_failed", **loop.names, reason=reason.value, detail=detail, **times)

    def _crash(self, loop: _Loop, before: LoopState, error: BaseException | None) -> None:
        """Count a crash and put the next poll off, longer with every crash in a row."""
        self._own.loop_restarts.inc()
        delay = min(RESTART_DELAY * 2.0 ** min(before.crashes, 60), LONGEST_RESTART_DELAY)
        loop.state = replace(before, due=self._clock.now().mono + delay, crashes=before.crashes + 1)
        # Neither the error's text nor locals: both may hold what a visitor or a server chose.
        frames = traceback.extract_tb(error.__traceback__) if error else []
        places = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
        name = type(error).__name__ if error else "cancelled"
        log.error("loop_crashed", **loop.names, error=name, frames=places, restart_in_s=delay)


async def poll_once(
    config: Config,
    own: OwnMetrics,
    clock: Clock,
    *,
    endpoints: Collection[Endpoint] = (),
    transport: httpx.AsyncBaseTransport | None = None,
) -> tuple[Store, list[Failure]]:
    """Poll these endpoints, or all, of each site once, without a daemon: `check --online` and `backfill`.

    Return the data of each site, and the polls that failed. Raises ConfigError when no client can be made.
    """
    conceal(secrets_of(config))
    store, client = Store(), Client(config.api, USER_AGENT, transport)
    try:
        return store, await Poller(store, own, clock).once(config, client, endpoints)
    finally:
        await client.close()


def secrets_of(config: Config) -> list[str]:
    """Return every secret of the config, to be hidden in the log."""
    secrets = [site.secret.value.reveal() for site in config.sites]
    return [*secrets, config.users.key.reveal()] if config.users.key else secrets


def _wall(due: float, now: Now) -> float:
    return now.wall + due - now.mono
