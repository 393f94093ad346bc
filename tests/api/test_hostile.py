"""What an answer may cost: no answer holds up the event loop for long or takes much memory."""

from __future__ import annotations

import asyncio
import threading
import time
import tracemalloc
from typing import TYPE_CHECKING

import httpx
import pytest

from exporter.api.client import ERROR_BYTES, THREAD_BYTES, Client, Request
from exporter.api.errors import PollError
from exporter.endpoint import Reason
from tests.api.calls import ASK_TOP_USERS, ASK_USER_PAGE, USER_AGENT, answered, in_pieces, outcome
from tests.api.hostile import HOSTILE
from tests.api.raw_server import gzipped
from tests.conftest import parsed

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
LIMIT = parsed().api.max_response_bytes
# The largest that are decoded by the event loop itself, read entry by entry, and read at all.
MIB = 1 << 20
SIZES = (THREAD_BYTES, MIB, LIMIT)
AT_ONCE = 6  # sites
MAX_GAP = 0.1  # seconds of CPU between two turns of the event loop: what a scrape may wait
MAX_MEMORY = 100 * MIB  # above idle


def answering(answer: Callable[[], httpx.Response]) -> Client:
    """Return a client of an API that gives this answer to every request."""
    return Client(parsed().api, USER_AGENT, httpx.MockTransport(lambda _: answer()))


async def ticked(body: bytes, status: int) -> tuple[list[object], float]:
    """Call for six sites at once with this answer; return the outcomes and the longest gap between ticks.

    The gap is CPU time: it does not grow when other programs use the machine.
    """
    packed, longest = gzipped(body, 1), 0.0
    client = answering(lambda: in_pieces(status, packed, content_encoding="gzip"))
    calls = [
        asyncio.create_task(outcome(client, (ASK_TOP_USERS, ASK_USER_PAGE)[number % 2]))
        for number in range(AT_ONCE)
    ]
    before = time.process_time()
    while not all(task.done() for task in calls):
        await asyncio.sleep(0.001)
        now = time.process_time()
        longest, before = max(longest, now - before), now
    return [task.result() for task in calls], longest


@pytest.mark.parametrize(("status", "size"), [*((200, size) for size in SIZES), (500, ERROR_BYTES)])
@pytest.mark.parametrize("kind", HOSTILE)
def test_no_answer_holds_up_scrapes(kind: str, status: int, size: int) -> None:
    """Six sites at once get the same bad answer: the event loop turns all the time."""
    outcomes, gap = asyncio.run(ticked(HOSTILE[kind](size), status))

    assert status == 200 or all(isinstance(result, PollError) for result in outcomes)
    assert gap < MAX_GAP


@pytest.mark.parametrize("size", [MIB, LIMIT])
@pytest.mark.parametrize("kind", HOSTILE)
def test_no_answer_takes_much_memory(kind: str, size: int) -> None:
    """The most that six answers at once take, bodies included, is below 100 MiB."""
    body = HOSTILE[kind](size)
    tracemalloc.start()
    try:
        answered(in_pieces(200, body), ASK_USER_PAGE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    # One answer is decoded at a time, while the others are bodies that wait.
    assert peak + (AT_ONCE - 1) * 2 * size < MAX_MEMORY


def test_large_answers_are_decoded_one_at_a_time() -> None:
    """Each decoding holds the interpreter for a while: a scrape waits for one of them at most."""
    decoding, together = threading.Lock(), []

    def decode(_: bytes) -> None:
        together.append(not decoding.acquire(blocking=False))
        threading.Event().wait(0.005)
        decoding.release()

    async def play() -> None:
        client = answering(lambda: in_pieces(200, bytes(MIB)))
        request = Request(ASK_TOP_USERS.endpoint, decode)
        await asyncio.gather(*(outcome(client, request) for _ in range(AT_ONCE)))

    asyncio.run(play())

    assert [False] * AT_ONCE == together


def test_little_is_read_of_an_error() -> None:
    """Of a body with the status of a failure only the begin is read: what it says there is told."""
    small = b'{"success":false,"error":"internal_error"}'
    large = b'{"x":"%b",' % (b"x" * ERROR_BYTES) + small[1:]

    assert [Reason.INTERNAL_ERROR, Reason.HTTP_STATUS, Reason.INTERNAL_ERROR] == [
        answered(in_pieces(status, body)).reason
        for status, body in ((500, small), (500, large), (200, large))
    ]
    page = answered(in_pieces(403, b"<!doctype html>".ljust(ERROR_BYTES + 1)))
    assert str(page).startswith("HTTP status 403 with an HTML page")
