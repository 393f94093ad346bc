"""The API's answers as types, decoded strictly.

What a field means and where it may be missing is taken from the HTTP API reference alone. Numbers come as
JSON numbers or as numeric strings (the reference's own example has strings), are finite and bounded. An
entry of a list that cannot be read is dropped and counted; whatever else is wrong is an `AnswerError` that
names the place as a JSON path. No error ever repeats a value of the answer: values are foreign and personal.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta, Struct

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")
E = TypeVar("E", bound="HistoryRow | User")


class AnswerError(Exception):
    """An answer that is not what the reference promises."""


class NotJson(AnswerError):
    """The body is not a JSON document."""


class WrongShape(AnswerError):
    """The body is JSON, but not the documented answer; the text holds the JSON path."""


class Refused(AnswerError):
    """The API answered with an `error`; `code` is that string, foreign and not to be shown as it is."""

    def __init__(self, code: str) -> None:
        super().__init__("the API answered with an error")
        self.code = code


MOST_ROWS = 10_000  # of a history: the reference has a week of hours, this is a year and more
MOST_USERS = 8192  # of an answer: the most that the reference lets anyone ask for

# Bounds refuse what JSON strings can smuggle in ("nan", "Infinity") and keep sums finite.
Number = Annotated[float, Meta(ge=0, le=1e18)]  # hashes, hashes per second, difficulty, coins
Balance = Annotated[float, Meta(ge=-1e18, le=1e18)]  # coins; a difference may round to just below zero
Timestamp = Annotated[float, Meta(ge=0, le=1e11)]  # Unix seconds; milliseconds are refused, not guessed at


class Payout(Struct, frozen=True, gc=False, rename={"payout_per_million": "payoutPer1MHashes"}):
    """`/stats/payout`: what a million hashes earn, and the network. `value`, `payout`: units undocumented."""

    diff: Number
    value: Number
    payout: Number
    payout_per_million: Number
    synctime: Timestamp


class HistoryRow(Struct, frozen=True, gc=False):
    """One hour of `/stats/history`: its begin in Unix seconds, hashes, and hashes per second."""

    synctime: Timestamp
    hashes: Number
    hashrate: Number


class UserBalance(Struct, frozen=True, gc=False):
    """`/user/balance` of one user: accepted hashes, and coins; the `name` is the one that was asked for."""

    total: Number
    withdrawn: Number
    balance: Balance


class User(Struct, frozen=True, gc=False):
    """One user of `/user/top` or `/user/list`, or of `watch_users`: accepted hashes, and coins."""

    name: str
    total: Number
    withdrawn: Number
    balance: Balance


class Entries(Struct, Generic[E], frozen=True):
    """The readable entries of a list, how many could not be read, and where the next page starts, if any."""

    entries: tuple[E, ...]
    rejected: int = 0
    next_page: str | None = None


History = Entries[HistoryRow]
Users = Entries[User]


class _HistoryAnswer(Struct):
    history: Annotated[list[HistoryRow], Meta(max_length=MOST_ROWS)]
    success: Any = None
    error: Any = None


class _UsersAnswer(Struct):
    users: Annotated[list[User], Meta(max_length=MOST_USERS)]
    success: Any = None
    error: Any = None


class _PageAnswer(_UsersAnswer, rename={"next_page": "nextPage"}):
    next_page: str | None = None


_history = msgspec.json.Decoder(_HistoryAnswer, strict=False)
_users = msgspec.json.Decoder(_UsersAnswer, strict=False)
_page = msgspec.json.Decoder(_PageAnswer, strict=False)


def error_code(body: bytes) -> str | None:
    """Return the body's `error` when it is a string that says something, on any HTTP status; else None."""
    try:
        return _code(_document(body))
    except AnswerError:
        return None


def decode_payout(body: bytes) -> Payout:
    """Decode `/stats/payout`. Raises AnswerError."""
    return _convert(_successful(_document(body)), Payout, "$")


def decode_balance(body: bytes) -> UserBalance:
    """Decode `/user/balance`. Raises AnswerError."""
    return _convert(_successful(_document(body)), UserBalance, "$")


def decode_history(body: bytes) -> History:
    """Decode `/stats/history`, rows in the answer's order. Raises AnswerError."""
    answer = _fast(body, _history)
    if answer is not None:
        return Entries(tuple(answer.history))
    rows = _list(_successful(_document(body)), "history", MOST_ROWS)
    readable = [row for row in (_entry(row, HistoryRow) for row in rows) if row is not None]
    return Entries(tuple(readable), len(rows) - len(readable))


def decode_top_users(body: bytes) -> Users:
    """Decode `/user/top`. A name's second entry is rejected, so is an empty name. Raises AnswerError."""
    answer = _fast(body, _users)
    if answer is not None:
        return _unique(answer.users, len(answer.users))
    return _entries(_successful(_document(body)))


def decode_user_page(body: bytes) -> Users:
    """Decode a page of `/user/list` as `decode_top_users`, with the next page's name. Raises AnswerError."""
    answer = _fast(body, _page)
    if answer is not None:
        return _unique(answer.users, len(answer.users), answer.next_page or None)
    document = _successful(_document(body))
    next_page: str | None = _convert(document.get("nextPage"), str | None, "$.nextPage")
    return _entries(document, next_page or None)


def _fast(body: bytes, decoder: msgspec.json.Decoder[T]) -> T | None:
    """Decode in one pass when nothing is odd; None sends the caller to the pass that finds out what is."""
    try:
        answer = decoder.decode(body.decode())  # msgspec does not look for bad UTF-8 in fields it skips
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    plain = _is_success(getattr(answer, "success", None)) and not getattr(answer, "error", None)
    return answer if plain else None


def _document(body: bytes) -> dict[str, Any]:
    try:
        # json reads what msgspec refuses whole: a lone surrogate in one user's name.
        document = json.loads(body.decode("utf-8-sig"), parse_constant=_no_constant, parse_int=_bounded_int)
    except RecursionError:
        fault = "nested too deeply"
    except UnicodeDecodeError as error:
        fault = f"not UTF-8 at byte {error.start}"
    except json.JSONDecodeError as error:
        fault = f"{error.msg} at line {error.lineno}, column {error.colno}"
    except ValueError:
        fault = "NaN and Infinity are not JSON"
    else:
        if isinstance(document, dict):
            return document
        raise WrongShape("$: expected an object")
    # Raised here, outside the except block: the original's context would hold the whole answer.
    raise NotJson(f"not JSON: {fault}")


def _no_constant(_name: str) -> Any:
    raise ValueError


def _bounded_int(digits: str) -> int | float:
    return int(digits) if len(digits) <= 40 else float(digits)  # noqa: PLR2004 - the bounds refuse both alike


def _code(document: dict[str, Any]) -> str | None:
    code = document.get("error")
    if isinstance(code, str) and (code or not _is_success(document.get("success"))):
        return code
    return None


def _successful(document: dict[str, Any]) -> dict[str, Any]:
    code = _code(document)
    if code is not None:
        raise Refused(code)
    if not _is_success(document.get("success")):
        raise WrongShape("$.success: expected true")
    return document


def _is_success(value: Any) -> bool:
    return value is True or value == "true"


def _list(document: dict[str, Any], key: str, most: int) -> list[Any]:
    entries = document.get(key)
    if not isinstance(entries, list):
        raise WrongShape(f"$.{key}: expected an array")
    if len(entries) > most:
        raise WrongShape(f"$.{key}: more than {most} entries")
    return entries


def _convert(value: Any, type_: type[T] | Any, path: str) -> T:
    try:
        return msgspec.convert(value, type_, strict=False)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$")
    except UnicodeEncodeError:  # a lone surrogate in a number's text or a field's name
        message, place = "not Unicode text", ""
    # msgspec names types, bounds and field names, never a value.
    raise WrongShape(f"{path}{place.rstrip('`')}: {message[:1].lower()}{message[1:]}")


def _entry(value: Any, type_: type[E]) -> E | None:
    try:
        return msgspec.convert(value, type_, strict=False)
    except (msgspec.ValidationError, UnicodeEncodeError):
        return None


def _entries(document: dict[str, Any], next_page: str | None = None) -> Users:
    users = _list(document, "users", MOST_USERS)
    return _unique((_entry(user, User) for user in users), len(users), next_page)


def _unique(users: Iterable[User | None], count: int, next_page: str | None = None) -> Users:
    readable = [user for user in users if user is not None and user.name]
    named = {user.name: user for user in readable}
    if len(named) < len(readable):  # the first of a name counts
        named = {user.name: user for user in reversed(readable)}
        readable = [user for user in readable if named[user.name] is user]
    return Entries(tuple(readable), count - len(readable), next_page)
