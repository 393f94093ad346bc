"""What a reload does to the poll loops and to the sites' data: pure functions of jobs, before and after."""

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import NamedTuple

from exporter.collectors.registry import COLLECTORS
from exporter.collectors.snapshot import Snapshot, Store
from exporter.config import Site
from exporter.polling.jobs import Job, Key


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
