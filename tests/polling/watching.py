"""A site that watches two users, and answers of `/user/balance`."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from tests.polling.rig import ok, reply

if TYPE_CHECKING:
    from tests.polling.rig import Rig

WATCHING: list[dict[str, Any]] = [
    {"name": "demo", "secret_env": "SECRET_demo", "watch_users": ["ann", "bob"]}
]
ANN = {"success": True, "name": "ann", "total": 7, "withdrawn": 1, "balance": 2}
NO_BOB = {"success": False, "error": "unknown_user"}


def balances(rig: Rig, *answers: dict[str, Any]) -> None:
    """Let `/user/balance` give these answers in turn, the last round of two for ever."""
    turns = itertools.chain(answers, itertools.cycle(answers[-2:]))
    rig.api.answer = lambda _site, path: reply(200, next(turns)) if path == "/user/balance" else ok(path)
