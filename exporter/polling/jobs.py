"""What is polled, and what a reload of the config does to the poll loops: pure functions of jobs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from exporter.collectors.collector import Collector
from exporter.collectors.registry import COLLECTORS, polled_endpoints
from exporter.collectors.snapshot import Snapshot, Store
from exporter.config import Config, Poll, Site
from exporter.endpoint import Endpoint

Key = tuple[str, Endpoint]  # site name and endpoint: what one poll loop is for


@dataclass(frozen=True, slots=True)
class Job:
    """What one poll loop polls. Two jobs are equal when a reload need not touch the loop.

    `source` is whose data it is: when this changes, earlier data belongs to somebody else. `depends_on` is
    what else of the config the requests depend on.
    """

    site: Site = field(compare=False)
    collector: Collector[Any, Any] = field(compare=False)
    endpoint: Endpoint
    poll: Poll
    name: str
    source: tuple[object, ...]
    depends_on: tuple[object, ...]

    @property
    def key(self) -> Key:
        """Site name and endpoint."""
        return self.name, self.endpoint


def jobs_of(config: Config) -> list[Job]:
    """Return a job for each endpoint that is polled, site by site."""
    jobs = []
    for site in config.sites:
        source = site.api.url, site.secret, site.users.key
        for collector, endpoint, poll in polled_endpoints(site):
            depends_on = collector.depends_on(site, endpoint)
            jobs.append(Job(site, collector, endpoint, poll, site.name, source, depends_on))
    return jobs


class Kept(Enum):
    """What of a site's data stays over a reload."""

    NOTHING = "the site is new"
    COUNTERS = "the data belongs to another source; counters may not decrease"
    ALL = "the source is the same"


class Plan(NamedTuple):
    """What a reload does to the loops, by key, and to the sites' data.

    - `start`: these jobs get a new loop, in this order
    - `adopt`: jobs of `start` that take over failures and `Retry-After` from a loop of the same source
    - `keep`: the loop goes on; one that is backed off polls within an interval
    - `stop`: the loop ends
    - `kept`: what stays of each site's data
    """

    start: tuple[Job, ...]
    adopt: frozenset[Key]
    keep: tuple[Job, ...]
    stop: frozenset[Key]
    kept: Mapping[str, Kept]


def plan(old: Iterable[Job], new: Iterable[Job]) -> Plan:
    """Compare the jobs in force with those of another config."""
    before, jobs = {job.key: job for job in old}, list(new)
    keep = tuple(job for job in jobs if before.get(job.key) == job)
    unchanged = {job.key for job in keep}
    start = tuple(job for job in jobs if job.key not in unchanged)
    adopt = frozenset(job.key for job in start if job.key in before and before[job.key].source == job.source)
    sources = {job.name: job.source for job in before.values()}
    kept = {job.name: Kept.COUNTERS if job.name in sources else Kept.NOTHING for job in jobs}
    kept |= {job.name: Kept.ALL for job in jobs if sources.get(job.name) == job.source}
    return Plan(start, adopt, keep, frozenset(before.keys() - unchanged), kept)


def kept_snapshot(store: Store, site: Site, kept: Kept) -> Snapshot:
    """Return what stays of a site's data over a reload; the same object when all of it does."""
    snapshot = Snapshot() if kept is Kept.NOTHING else store[site.name]
    for collector in COLLECTORS:
        state = snapshot.state(collector)
        new_state = collector.for_other_source(state) if kept is Kept.COUNTERS else state
        new_state = collector.reconfigured(site, new_state)
        if new_state is not state:
            snapshot = snapshot.with_state(collector, new_state)
    return snapshot
