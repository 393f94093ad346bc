"""The round over `watch_users`: `/user/balance` of each, one after another."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from exporter.api.answers import User
from exporter.api.client import PollError, UserRefused

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from exporter.api.answers import UserBalance
    from exporter.endpoint import Reason


class Round(NamedTuple):
    """The users that were found, by the names asked for, and the places of those that were not."""

    users: tuple[User, ...]
    refused: tuple[tuple[int, Reason], ...]  # place in `watch_users`, from 0


async def watch(ask: Callable[[str], Awaitable[UserBalance]], names: Sequence[str]) -> Round:
    """Return what is known of the users of these names, of which `ask` returns one.

    A user that the API refuses costs the others nothing. Raises PollError for any other failure, with the
    user's place: then nothing of what was read counts.
    """
    users, refused = [], []
    for place, name in enumerate(names):
        try:
            user = await ask(name)
        except UserRefused as error:
            refused.append((place, error.reason))
        except PollError as error:
            error.args = (f"watch_users[{place}]: {error}",)
            raise
        else:
            # By the name asked for: the reference's example asks for johnd and is answered with maria.
            users.append(User(name, user.total, user.withdrawn, user.balance))
    return Round(tuple(users), tuple(refused))
