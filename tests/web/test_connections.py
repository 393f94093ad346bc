"""The states of connections: what an event leads to, and which connection makes room for a new one."""

from __future__ import annotations

import pytest

from exporter.web.connections import TRANSITIONS, Connections, DeadlineAction, Event, State

NEW, IDLE, BUSY, CLOSING = State


def connections(limit: int, **states: State) -> Connections[str]:
    """Return connections by name, in the order in which they entered their states."""
    opened = Connections[str](limit)
    for name, state in states.items():
        opened.add(name)
        opened.move(name, NEW, state)
    return opened


@pytest.mark.parametrize(
    ("evicted", "states"),
    [
        (None, {"a": NEW, "b": IDLE}),
        ("a", {"a": NEW, "b": NEW, "c": IDLE}),
        ("b", {"a": NEW, "b": IDLE, "c": IDLE}),
        ("a", {"a": NEW, "b": IDLE, "c": BUSY}),
        ("b", {"a": BUSY, "b": IDLE, "c": BUSY}),
        ("a", {"a": BUSY, "b": BUSY, "c": BUSY}),
        ("c", {"a": NEW, "b": IDLE, "c": CLOSING}),
    ],
)
def test_who_makes_room(evicted: str | None, states: dict[str, State]) -> None:
    """At the limit a rejected connection goes, else the oldest of NEW or IDLE, else of BUSY."""
    assert evicted == connections(3, **states).add("new one")


def test_a_connection_that_left_makes_no_room_again() -> None:
    """A removed connection counts no more, and its later changes of state are nothing."""
    opened = connections(2, a=BUSY, b=BUSY)
    opened.remove("a")
    opened.move("a", BUSY, IDLE)

    assert (None, "b") == (opened.add("c"), connections(2, b=BUSY, a=BUSY).add("c"))
    assert "c" == opened.add("d")


def test_every_head_has_a_deadline() -> None:
    """In each open state the deadline runs from a part of a head on, until the head is complete."""
    for state in (IDLE, BUSY):
        assert DeadlineAction.START is TRANSITIONS[state][Event.HEAD_BYTES][1]
    assert (DeadlineAction.START, DeadlineAction.KEEP) == tuple(
        TRANSITIONS[NEW][event][1] for event in (Event.CONNECTED, Event.HEAD_BYTES)
    )
    for state in (NEW, IDLE, BUSY):
        assert (BUSY, DeadlineAction.STOP) == TRANSITIONS[state][Event.HEAD]
        assert (CLOSING, DeadlineAction.START) == TRANSITIONS[state][Event.REJECTED]
