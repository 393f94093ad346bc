"""Which endpoints of a site are polled, by its config."""

from __future__ import annotations

import pytest

from exporter.collectors.registry import polled_endpoints
from tests.config.documents import parse, site


def test_watched_users_are_polled_and_nobody_else() -> None:
    """A site that names users to watch polls /user/balance; an empty list is none."""
    loaded = parse([site(watch_users=["ann", "bob"]), site("b", watch_users=[])])

    polled = [[endpoint for _, endpoint, _ in polled_endpoints(each)] for each in loaded.sites]
    assert [True, False] == ["/user/balance" in endpoints for endpoints in polled]
    assert () == loaded.warnings


@pytest.mark.parametrize("enabled", [False, True])
def test_what_is_enabled_is_polled(enabled: bool) -> None:
    """Payout, history and top users are polled, all users where that is enabled; a site may differ."""
    all_users = {"all_users": {"enabled": enabled}}
    loaded = parse([site(poll=all_users)], poll={"all_users": {"enabled": not enabled}}).sites[0]

    polls = loaded.polls
    assert enabled == polls.all_users.enabled
    expected = {
        "/stats/payout": polls.payout,
        "/stats/history": polls.history,
        "/user/top": polls.top_users,
        **({"/user/list": polls.all_users} if enabled else {}),
    }
    assert expected == {endpoint: poll for _, endpoint, poll in polled_endpoints(loaded)}
