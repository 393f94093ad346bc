"""Request slots: how many requests are in flight at once, in all and for one site."""

from __future__ import annotations

import asyncio

import pytest

from exporter.polling.slots import Slots


async def held(slots: Slots, *sites: str) -> list[str]:
    """Return the sites that got a slot at once, when all of them ask for one and nobody gives it back."""
    holders: list[str] = []

    async def hold(site: str) -> None:
        async with slots.hold(site):
            holders.append(site)
            await asyncio.Event().wait()

    tasks = [asyncio.create_task(hold(site)) for site in sites]
    for _ in range(5):
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return holders


@pytest.mark.parametrize(
    ("expected", "total", "sites"),
    [
        ("ab", 2, "abc"),
        ("aab", 4, "aaaab"),
        ("aabb", 4, "aaabbbc"),
        ("a", 1, "aab"),
        ("ab", 3, "aaab"),
    ],
)
def test_so_many_in_all_and_half_of_them_for_a_site(expected: str, total: int, sites: str) -> None:
    """A site holds half of the slots, and at least one; all sites together hold the total."""
    assert expected == "".join(asyncio.run(held(Slots(total), *sites)))


def test_a_single_slot_serves_all() -> None:
    """A site may hold at least one slot, and with a single one all still get their turn."""

    async def hold() -> list[str]:
        slots, served = Slots(1), []
        for site in ("a", "b"):
            async with slots.hold(site):
                served.append(site)
        return served

    assert asyncio.run(hold()) == ["a", "b"]


def test_slots_that_are_held_count_after_a_reload() -> None:
    """With the same total the slots in use stay in use, also those of a site that stays."""

    async def reload() -> tuple[list[str], list[str]]:
        slots = Slots(4)
        async with slots.hold("a"), slots.hold("b"):
            kept = slots.resized(4, ["a", "c"])
            return await held(kept, "a", "a", "c", "c"), await held(kept, "c", "c", "c")

    assert asyncio.run(reload()) == (["a", "c"], ["c", "c"])


def test_another_total_holds_from_the_reload_on() -> None:
    """With another total there are that many slots, whatever is still held of the old ones."""

    async def reload() -> list[str]:
        slots = Slots(2)
        async with slots.hold("a"):
            return await held(slots.resized(4, ["a", "b"]), "a", "a", "a", "b", "b", "b")

    assert asyncio.run(reload()) == ["a", "a", "b", "b"]
