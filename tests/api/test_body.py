"""Bodies as they arrive: codings, limits, memory."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.api import errors
from exporter.api.body import COMPRESSIONS, GZIP, PIECE_BYTES, inflate, read_body
from exporter.endpoint import Reason
from tests.api.calls import LIMIT, PAYOUT, SMALL, answered, hear, in_pieces
from tests.api.raw_server import GOOD, Reply, chunked, drip, gzipped, message, zipped


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("identity", GOOD),
        ("", GOOD),
        ("gzip", gzipped(GOOD)),
        (" X-GZip ", gzipped(GOOD)),
        ("UTF-8", GOOD),
        ("none", GOOD),
        ("8bit, identity", GOOD),
        ("utf-8, gzip", gzipped(GOOD)),
        ("gzip", gzipped(GOOD[:20]) + gzipped(GOOD[20:])),
        ("gzip", gzipped(b"") + gzipped(GOOD) + gzipped(b"")),
        ("gzip", b"".join(gzipped(GOOD[place : place + 1]) for place in range(len(GOOD)))),
    ],
    ids=[
        "identity",
        "empty",
        "gzip",
        "x-gzip",
        "UTF-8",
        "none",
        "8bit",
        "UTF-8 and gzip",
        "two members",
        "empty members",
        "a member per byte",
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_bodies_are_inflated(coding: str, body: bytes, size: int) -> None:
    """Plain, gzip and gzip of several members are read, however the network cuts them.

    A coding that is no compression changes nothing.
    """
    assert PAYOUT == answered(in_pieces(200, body, size, content_encoding=coding), max_response_bytes="16KiB")


@pytest.mark.parametrize(
    "answer",
    [zipped(gzipped(GOOD)), chunked(GOOD[:9], GOOD[9:]), drip(message(), 20)],
    ids=["gzip", "chunks", "slow"],
)
def test_bodies_are_read_off_the_wire(answer: Reply) -> None:
    """A real connection brings the same: gzip, chunks, and a slow answer that ends in time."""
    assert PAYOUT == hear(answer).result


@pytest.mark.parametrize("packed", [False, True])
def test_the_limit_itself_is_allowed(packed: bool) -> None:
    """A body of max_response_bytes, inflated, is read; a byte more is too large."""
    results = []
    for size in (LIMIT, LIMIT + 1):
        body = GOOD.ljust(size)
        answer = in_pieces(200, gzipped(body), 50, content_encoding="gzip")
        results.append(answered(answer if packed else in_pieces(200, body, 50), **SMALL))

    assert [PAYOUT, errors.TooLarge] == [results[0], type(results[1])]


def test_a_bomb_needs_no_memory() -> None:
    """However far a body would inflate, memory stays near max_response_bytes."""
    bomb = gzipped(bytes(64 << 20))
    response = in_pieces(200, bomb, content_encoding="gzip")
    tracemalloc.start()
    error = answered(response, max_response_bytes="128KiB")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert isinstance(error, errors.TooLarge)
    assert peak < 4 << 20


def test_an_endless_body_is_cut_off() -> None:
    """A body without end is read up to the limit, not until the time is up."""
    heard = hear(chunked(*[bytes(500)] * 100), timeout="5s", **SMALL)

    assert Reason.TOO_LARGE is heard.result.reason
    assert heard.seconds < 0.5


@given(st.lists(st.binary(max_size=300), max_size=6), st.integers(1, 400), st.integers(0, 1500))
def test_inflating_is_joining(parts: list[bytes], size: int, limit: int) -> None:
    """Members cut anywhere inflate to their contents in a row; above the limit the body is too large."""
    contents, body = b"".join(parts), b"".join(map(gzipped, parts))
    response = in_pieces(200, body, size, content_encoding="gzip")

    if max(len(contents), len(body)) <= limit:
        assert contents == asyncio.run(read_body(response, limit))
    else:
        with pytest.raises(errors.TooLarge):
            asyncio.run(read_body(response, limit))


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
def test_bodies_are_inflated_piece_by_piece(size: int) -> None:
    """However far a chunk would inflate, no piece is longer than the most that is inflated at once."""

    async def inflated() -> list[bytes]:
        chunks = in_pieces(200, gzipped(bytes(size))).aiter_raw()
        return [piece async for piece in inflate(chunks)]

    pieces = asyncio.run(inflated())

    assert bytes(size) == b"".join(pieces)
    assert max(map(len, pieces)) <= PIECE_BYTES


@pytest.mark.parametrize("coding", sorted(COMPRESSIONS - GZIP))
def test_compressions_that_were_not_asked_for_are_refused(coding: str) -> None:
    """What is compressed in another way is no JSON, whatever it looks like."""
    assert Reason.INVALID_JSON is answered(in_pieces(200, GOOD, content_encoding=coding)).reason


@given(
    coding=st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=","), max_size=20)
)
def test_codings_that_nobody_knows_change_nothing(coding: str) -> None:
    """Of all codings only the known compressions say that a body is not what it is."""
    expected = coding.lower() not in COMPRESSIONS

    assert expected is (PAYOUT == answered(in_pieces(200, GOOD, content_encoding=coding)))


@pytest.mark.parametrize(
    ("body", "coding"),
    [(bytes(4 << 20), "identity"), (gzipped(bytes(4 << 20)), "gzip"), (gzipped(b"") * 3000, "gzip")],
    ids=["many chunks", "a bomb in one chunk", "many members"],
)
def test_a_body_does_not_hold_up_the_event_loop(body: bytes, coding: str) -> None:
    """However much is at hand at once, other callbacks of the loop run in between."""
    turns = 0

    async def play() -> None:
        nonlocal turns
        size = 1024 if coding == "identity" else len(body)
        reading = asyncio.create_task(read_body(in_pieces(200, body, size, content_encoding=coding), 8 << 20))
        while not reading.done():
            await asyncio.sleep(0)
            turns += 1

    asyncio.run(play())

    assert turns >= 4


@given(st.integers(0, len(gzipped(GOOD)) - 1))
def test_a_cut_gzip_stream_is_never_read(length: int) -> None:
    """A stream that misses as much as its last byte is not taken for a whole answer."""
    answer = in_pieces(200, gzipped(GOOD)[:length], content_encoding="gzip")

    assert Reason.INVALID_JSON is answered(answer).reason
