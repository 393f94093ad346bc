"""What is polled: a job for each site and endpoint."""

from dataclasses import dataclass, field
from typing import Any

from exporter.collectors.collector import Collector
from exporter.collectors.registry import polled_endpoints
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
