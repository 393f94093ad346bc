"""Which sites a process polls where several share them: rendezvous hashing of site names.

Each shard has a weight for each site, and a site is polled by the shard that weighs most. So every process
finds its own share by itself, and one more shard takes its share evenly from the others, and moves nothing
else.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple


class Share(NamedTuple):
    """A process' share of the sites: the number of its shard, from 0, of so many."""

    shard: int
    total: int

    def has(self, site: str) -> bool:
        """Whether a site of this name is polled here."""
        return self.shard == max(range(self.total), key=lambda shard: _weight(shard, site))


WHOLE = Share(0, 1)


def _weight(shard: int, site: str) -> bytes:
    return blake2b(f"{shard}/{site}".encode(errors="surrogatepass"), digest_size=8).digest()
