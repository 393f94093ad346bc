"""The interface of a collector, and the types it is made of.

A collector owns the data of one or two endpoints: which requests are sent, what is kept of an answer, what is
exported of that at a moment and until when, and in which families. The poll loops, the pages, the status page
and the docs know collectors only through this interface.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

from msgspec import Struct

from exporter.api.client import Request
from exporter.clock import NEVER, Now
from exporter.collectors.metric import Family, Metric
from exporter.config import Poll, Site
from exporter.endpoint import Endpoint, Reason

T = TypeVar("T")
State = TypeVar("State")
View = TypeVar("View")


class EndpointTraits(Struct, frozen=True):
    """What is special about an endpoint: whether single entries can be rejected, and its own error codes."""

    rejects_entries: bool = False
    reasons: tuple[Reason, ...] = ()


class WarningEvent(NamedTuple):
    """Something in an answer that an operator should read: a warning event and its values."""

    event: str
    values: Mapping[str, str]


class Step(NamedTuple, Generic[State]):
    """What an answer led to: the new state, the rejected entries, what else is worth a warning.

    `rejected` is how many entries of the answer are not in the state, `fault` what is wrong with the first.
    """

    state: State
    rejected: int = 0
    fault: str = ""
    warnings: tuple[WarningEvent, ...] = ()


class Visible(NamedTuple, Generic[View]):
    """What is exported at a moment, and until when that holds if no poll brings anything new.

    `until` is a moment on either clock. `stale` are the polled endpoints whose values are not exported.
    """

    view: View
    until: Now = NEVER
    stale: frozenset[Endpoint] = frozenset()


class Ask(Protocol):
    """Sends one request of a poll, while a request slot is held. Raises PollError."""

    async def __call__(self, request: Request[T], /) -> T:
        """Return the decoded answer."""


class Collector(ABC, Generic[State, View]):
    """One endpoint, or two that share their data. Instances hold no data: states are handed in and out."""

    endpoints: ClassVar[Mapping[Endpoint, EndpointTraits]]
    metrics: ClassVar[Sequence[Metric]]
    initial: State

    @abstractmethod
    def polled(self, site: Site) -> Mapping[Endpoint, Poll]:
        """Return which endpoints are polled for a site, and how."""

    @abstractmethod
    async def poll(self, site: Site, endpoint: Endpoint, ask: Ask) -> Any:
        """Send the requests of one poll; return the answer that `step` takes. Raises PollError."""

    @abstractmethod
    def step(self, site: Site, endpoint: Endpoint, state: State, answer: Any, now: Now) -> Step[State]:
        """Return the state after an answer that came at `now`.

        Raises InvalidResponse for an answer that cannot be true at that time.
        """

    @abstractmethod
    def visible(self, site: Site, state: State, now: Now) -> Visible[View]:
        """Return what is exported at `now`. Only this method decides about expiry, by `unless_stale`."""

    @abstractmethod
    def families(self, site: Site, view: View) -> Iterable[Family]:
        """Return the families of a view, in any order."""

    def depends_on(self, site: Site, endpoint: Endpoint) -> tuple[object, ...]:
        """Return what else of the config a poll of the endpoint depends on, beside how it is polled."""
        return ()

    def for_other_source(self, state: State) -> State:
        """Return the state for another source of data: counters stay, since they may not decrease."""
        return self.initial

    def reconfigured(self, site: Site, state: State) -> State:
        """Return the state for a changed config of the site, without what must be forgotten."""
        return state
