"""Which sites a process polls where several share them: rendezvous hashing of site names.

Each shard has a weight for each site, and the shard with the highest weight polls the site. So every process
computes its own share alone. An added shard takes an even share from the others and moves no other site.
"""

from hashlib import blake2b
from typing import NamedTuple


class Share(NamedTuple):
    """A process' share of the sites: the number of its shard, from 0, and how many shards there are."""

    shard: int
    total: int

    def has(self, site: str) -> bool:
        """Whether this process polls the site of this name."""

        def weight(shard: int) -> bytes:
            return blake2b(f"{shard}/{site}".encode(errors="surrogatepass"), digest_size=8).digest()

        return self.shard == max(range(self.total), key=weight)


ALL_SITES = Share(0, 1)
