"""Which sites a process polls where several share them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from exporter.config.sharding import ALL_SITES, Share

names = st.text(min_size=1, max_size=30)


def owners(site: str, total: int) -> list[int]:
    return [shard for shard in range(total) if Share(shard, total).has(site)]


@given(names, st.integers(1, 12))
def test_each_site_is_on_exactly_one_shard(site: str, total: int) -> None:
    """Whatever its name and however many there are."""
    assert 1 == len(owners(site, total))


@given(names, st.integers(1, 11))
def test_another_shard_takes_sites_and_moves_none_between_others(site: str, total: int) -> None:
    """A site stays where it was, or goes to the new one."""
    assert owners(site, total + 1) in (owners(site, total), [total])


def test_shares_are_about_equal() -> None:
    """Of many sites each shard has its part, and a new shard takes its part of them."""
    sites = [f"site-{number}" for number in range(3000)]
    before = [owners(site, 3)[0] for site in sites]
    after = [owners(site, 4)[0] for site in sites]

    assert all(900 <= before.count(shard) <= 1100 for shard in range(3))
    assert 0.2 <= sum(one != other for one, other in zip(before, after, strict=True)) / len(sites) <= 0.3


def test_names_keep_their_shards() -> None:
    """The weights are part of the interface: another release must not move every site."""
    assert [2, 2, 2, 0] == [owners(site, 3)[0] for site in ("shop", "game", "blog", "forum")]


def test_one_shard_has_everything() -> None:
    """As without the flags."""
    assert ALL_SITES.has("any site")
