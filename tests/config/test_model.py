"""The configuration as the program uses it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exporter.endpoint import Endpoint
from tests.config.documents import CANARY, parse, site


def test_host_never_shows_user_or_password() -> None:
    """Even an Api made by hand from a URL with a password names the host alone."""
    api = replace(parse().api, url=f"https://user:{CANARY}@example.org:8443/x")

    assert api.host == "example.org:8443"


def test_watched_users_are_polled_and_nobody_else() -> None:
    """A site that names users to watch polls /user/balance; an empty list is none."""
    loaded = parse([site(watch_users=["ann", "bob"]), site("b", watch_users=[])])

    assert [True, False] == [Endpoint.BALANCES in each.active_polls() for each in loaded.sites]
    assert () == loaded.warnings


@pytest.mark.parametrize("enabled", [False, True])
def test_what_is_polled_is_active(enabled: bool) -> None:
    """Payout, history and top users are polled, all users where that is enabled; a site may differ."""
    walks = {"all_users": {"enabled": enabled}}
    loaded = parse([site(poll=walks)], poll={"all_users": {"enabled": not enabled}}).sites[0]

    polls = loaded.polls
    assert enabled == polls.all_users.enabled
    expected = {
        Endpoint.PAYOUT: polls.payout,
        Endpoint.HISTORY: polls.history,
        Endpoint.TOP_USERS: polls.top_users,
        **({Endpoint.ALL_USERS: polls.all_users} if enabled else {}),
    }
    assert expected == loaded.active_polls()
