"""A million users in /user/list: the sums are the API's own, memory stays, other polls stay on time."""

from __future__ import annotations

import re
import time
from math import fsum
from pathlib import Path

import pytest

from exporter.simulator import World
from tests.e2e.programs import inline, running, samples, serving, until, write_config

MANY, FEW = 1_000_000, 1000
PAGE = 8192
PAGES = 123
MEMORY = 30 << 10  # KiB that a million users may take beyond a thousand
PATIENCE = 300.0  # seconds that the walk may take: most of them are the simulated API's
WALKS = {"enabled": True, "interval": "10m", "page_size": PAGE}


def walked(directory: Path, users: int) -> tuple[World, dict[str, float], int]:
    """Let the exporter walk over so many users; return the world, the page, and its peak of memory in KiB."""
    now = time.time()
    world = World(clock=lambda: now)  # it stands still, so that all pages are of one moment
    world.add("many", "secret-of-many", users=users)
    polls = {"payout": {"interval": "1s"}, "all_users": WALKS}
    directory.mkdir()
    with serving(world) as api:
        write_config(directory, api.port, *inline("many"), poll=polls)
        with running(directory) as (program, port):
            name = 'cryptoloot_all_users{site="many"}'
            assert until(lambda: name in samples(port), PATIENCE), program.err.read_text()
            status = Path(f"/proc/{program.process.pid}/status").read_text()
            peak = int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0])
            return world, samples(port), peak


@pytest.mark.slow
def test_a_million_users(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """123 pages in constant memory, and the payout is polled each second meanwhile."""
    _, _, few = walked(tmp_path / "few", FEW)
    world, page, many = walked(tmp_path / "many", MANY)
    users = world.sites["many"].listed(world.clock())
    sums = [(1.0, user.total, user.balance, user.withdrawn) for user in users]
    count, hashes, balance, withdrawn = (fsum(each) for each in zip(*sums, strict=True))
    requests = [request for request in world.requests if request.path == "/user/list"]

    with capsys.disabled():
        print(f"\npeak of memory: {few:,} KiB with {FEW:,} users, {many:,} KiB with {MANY:,}")  # noqa: T201
    assert PAGES == len(requests)
    assert count == page['cryptoloot_all_users{site="many"}']
    assert pytest.approx(hashes, rel=1e-12) == page['cryptoloot_all_users_hashes{site="many"}']
    assert pytest.approx(balance, rel=1e-9) == page['cryptoloot_all_users_balance_coins{site="many"}']
    assert pytest.approx(withdrawn, rel=1e-9) == page['cryptoloot_all_users_withdrawn_coins{site="many"}']
    assert many - few < MEMORY
    assert 0 == page['cryptoloot_poll_failures_total{endpoint="/stats/payout",reason="timeout",site="many"}']
    on_time = page['cryptoloot_poll_delay_seconds_bucket{le="1.0"}']
    assert page["cryptoloot_poll_delay_seconds_count"] == on_time


def test_all_users_from_wire_to_metric(tmp_path: Path) -> None:
    """The sums of all pages; polls and failures are told as of any endpoint."""
    world, page, _ = walked(tmp_path / "few", FEW)
    users = list(world.sites["many"].listed(world.clock()))
    balance = fsum(user.balance for user in users)

    assert FEW == len(users) == page['cryptoloot_all_users{site="many"}']
    assert pytest.approx(balance) == page['cryptoloot_all_users_balance_coins{site="many"}']
    assert 1 == page['cryptoloot_up{endpoint="/user/list",site="many"}']
    assert 'cryptoloot_poll_failures_total{endpoint="/user/list",reason="invalid_page",site="many"}' in page
