"""The body of an answer, read as it arrives and inflated within a limit.

httpx would inflate a chunk of 64 KiB to 64 MiB at once. So the raw bytes are read and inflated here.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator

import httpx

from exporter.api.errors import InvalidJson, TooLarge

GZIP = {"gzip", "x-gzip"}
COMPRESSIONS = GZIP | {"br", "compress", "dcb", "dcz", "deflate", "exi", "pack200-gzip", "x-compress", "zstd"}
GZIP_WBITS = 31  # zlib's parameter for a gzip stream
PIECE_BYTES = 64 * 1024  # inflated at once, and so the most that is ever inflated beyond the limit
PIECES = 16  # taken in a row before others run: a chunk of the network may have thousands, or inflate to MiBs


async def read_body(response: httpx.Response, limit: int) -> bytes:
    """Return the body, inflated. Raises TooLarge or InvalidJson.

    `limit` bounds the bytes received as well as the bytes after inflating. With the status of a failure, a
    longer body is cut there: its begin tells enough.
    """
    named = response.headers.get("content-encoding", "").lower().split(",")
    # Servers name charsets here, or "none". What is no compression changes nothing.
    codings = [coding for coding in map(str.strip, named) if coding in COMPRESSIONS]
    if codings and (len(codings) > 1 or codings[0] not in GZIP):
        raise InvalidJson("the body has a Content-Encoding that was not asked for")
    body, count = bytearray(), 0
    async for piece in inflate(response.aiter_raw()) if codings else response.aiter_raw():
        body += piece
        if len(body) > limit or response.num_bytes_downloaded > limit:
            if not response.is_success:
                return bytes(body[:limit])
            raise TooLarge(f"the body has more than {limit} bytes: see api.max_response_bytes")
        count += 1
        if count % PIECES == 0:
            await asyncio.sleep(0)
    return bytes(body)


async def inflate(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield what a gzip stream of any number of members inflates to, piece by piece. Raises InvalidJson."""
    member = None
    async for chunk in chunks:
        rest = chunk
        while rest:
            if member is None or member.eof:
                member = zlib.decompressobj(GZIP_WBITS)
            try:
                piece = member.decompress(rest, PIECE_BYTES)
            except zlib.error:
                piece = None
            if piece is None:  # raised outside the except block: nothing is chained to our errors
                raise InvalidJson("the body is not the gzip stream it says it is")
            yield piece
            rest = member.unused_data or member.unconsumed_tail
    if member is not None and not member.eof:
        raise InvalidJson("the gzip stream of the body ends early")
