"""What an answer may cost: no answer takes much memory, and large ones are decoded one at a time."""

from __future__ import annotations

import asyncio
import threading
import tracemalloc
from typing import TYPE_CHECKING

import httpx
import pytest

from bench.hostile import HOSTILE
from exporter.api.client import ERROR_BYTES, THREAD_BYTES, Client, Request
from exporter.api.errors import PollError
from exporter.endpoint import Reason
from tests.api.calls import ASK_TOP_USERS, ASK_USER_PAGE, USER_AGENT, answered, in_pieces, outcome
from tests.api.raw_server import gzipped
from tests.conftest import parsed

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT = parsed().api.max_response_bytes
# The largest that are decoded by the event loop itself, read entry by entry, and read at all.
MIB = 1 << 20
SIZES = (THREAD_BYTES, MIB, LIMIT)
AT_ONCE = 6  # sites
MAX_MEMORY = 100 * MIB  # above idle


def answering(answer: Callable[[], httpx.Response]) -> Client:
    """Return a client of an API that gives this answer to every request."""
    return Client(parsed().api, USER_AGENT, httpx.MockTransport(lambda _: answer()))


@pytest.mark.parametrize(("status", "size"), [*((200, size) for size in SIZES), (500, ERROR_BYTES)])
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_bad_answer_is_an_answer_or_a_failed_poll(kind: str, status: int, size: int) -> None:
    """Whatever a body holds, no other exception comes out. `bench.answers` measures how long it takes."""
    packed = gzipped(HOSTILE[kind](size), 1)
    result = answered(in_pieces(status, packed, content_encoding="gzip"), ASK_USER_PAGE)

    assert status == 200 or isinstance(result, PollError)


@pytest.mark.parametrize("size", [MIB, pytest.param(LIMIT, marks=pytest.mark.slow)])
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
