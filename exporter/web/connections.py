"""The states of a client's connection as a table, and all open connections by state.

No sockets and no timers here: `server` reports events and carries out what the table says. The enumerations
are of integers because four of them are looked up per request, and hashing other members is slow.
"""

from collections.abc import Iterator, Mapping
from enum import IntEnum, auto
from itertools import chain
from typing import Generic, TypeVar

T = TypeVar("T")


class State(IntEnum):
    """What a connection is doing."""

    NEW = auto()  # its first request head is not complete
    IDLE = auto()  # every request is answered
    BUSY = auto()  # a request is being answered
    CLOSING = auto()  # rejected: it closes once its client has taken the error


class Event(IntEnum):
    """What happens on a connection."""

    CONNECTED = auto()
    HEAD_BYTES = auto()  # part of a request head arrived
    OTHER_BYTES = auto()  # part of a body arrived, or blank lines between requests
    HEAD = auto()  # a request head is complete
    ANSWERED = auto()  # the last request that arrived is answered
    REJECTED = auto()  # an error was sent instead of an answer


class DeadlineAction(IntEnum):
    """What an event does to the deadline, at which a connection is aborted."""

    START = auto()  # unless it is running
    KEEP = auto()
    STOP = auto()


# A request head must be complete before the deadline, and so must the close of a rejected connection. Any
# byte on an idle connection starts it: a byte must not hold it open.
TRANSITIONS: Mapping[State, Mapping[Event, tuple[State, DeadlineAction]]] = {
    State.NEW: {
        Event.CONNECTED: (State.NEW, DeadlineAction.START),
        Event.HEAD_BYTES: (State.NEW, DeadlineAction.KEEP),
        Event.HEAD: (State.BUSY, DeadlineAction.STOP),
        Event.REJECTED: (State.CLOSING, DeadlineAction.START),
    },
    State.IDLE: {
        Event.HEAD_BYTES: (State.IDLE, DeadlineAction.START),
        Event.OTHER_BYTES: (State.IDLE, DeadlineAction.START),
        Event.HEAD: (State.BUSY, DeadlineAction.STOP),
        Event.REJECTED: (State.CLOSING, DeadlineAction.START),
    },
    State.BUSY: {
        Event.HEAD_BYTES: (State.BUSY, DeadlineAction.START),
        Event.OTHER_BYTES: (State.BUSY, DeadlineAction.KEEP),
        Event.HEAD: (State.BUSY, DeadlineAction.STOP),
        Event.ANSWERED: (State.IDLE, DeadlineAction.KEEP),
        Event.REJECTED: (State.CLOSING, DeadlineAction.START),
    },
    State.CLOSING: {Event.ANSWERED: (State.CLOSING, DeadlineAction.KEEP)},
}


class Connections(Generic[T]):
    """The open connections by state, in the order in which they entered it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._by_state: dict[State, dict[T, None]] = {state: {} for state in State}

    def add(self, connection: T) -> T | None:
        """Add a new connection; at the limit, remove and return another one, which the caller closes.

        Rejected connections go first. Then the oldest of those without a request goes, from the larger of
        NEW and IDLE: neither silent nor kept connections can push out the other kind. If all are busy, the
        oldest of them goes.
        """
        new, idle, busy, closing = (self._by_state[state] for state in State)
        evicted = None
        if sum(map(len, self._by_state.values())) >= self._limit:
            evicted = next(iter(closing or (new if len(new) >= len(idle) else idle) or busy))
            self.remove(evicted)
        new[connection] = None
        return evicted

    def move(self, connection: T, before: State, after: State) -> None:
        """Note that a connection has changed its state; nothing for a connection that was removed."""
        if connection in self._by_state[before]:
            del self._by_state[before][connection]
            self._by_state[after][connection] = None

    def __iter__(self) -> Iterator[T]:
        return chain.from_iterable(self._by_state.values())

    def remove(self, connection: T) -> None:
        """Forget a connection."""
        for group in self._by_state.values():
            group.pop(connection, None)
