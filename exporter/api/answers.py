"""The API's answers as types, decoded strictly.

What a field means, and where it may be missing, is taken from the API's HTTP reference only. Numbers arrive
as JSON numbers or as numeric strings (the reference's own example has strings). They must be finite and
within bounds. An entry of a list that cannot be read is dropped and counted. Anything else that is wrong is
an error that names its place as a JSON path. Values are untrusted personal data, so no error repeats one.

msgspec decodes a list in one pass. If that fails, the answer is read again, entry by entry.
"""

import contextlib
import json
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from exporter.api.errors import InvalidJson, InvalidResponse, PollError

T = TypeVar("T")
E = TypeVar("E", bound="HistoryRow | User")

MAX_ROWS = 10_000  # of a history: the reference has a week of hours, this is more than a year
MAX_USERS = 8192  # of an answer: the reference allows no larger `count`
MAX_DIGITS = 40  # of an exact integer; a longer one becomes a float, and the bounds reject both

# The bounds reject what JSON strings can contain ("nan", "Infinity"), and keep sums finite.
Number = Annotated[float, Meta(ge=0, le=1e18)]  # hashes, hashes per second, difficulty, coins
Balance = Annotated[float, Meta(ge=-1e18, le=1e18)]  # coins; a difference may round to just below zero
Timestamp = Annotated[float, Meta(ge=0, le=1e11)]  # Unix seconds; milliseconds are rejected, not converted


class Refused(Exception):
    """The API answered with an `error`; `code` is that string, which is untrusted text."""

    def __init__(self, code: str) -> None:
        super().__init__("the API answered with an error")
        self.code = code


class Payout(Struct, frozen=True, gc=False, rename={"payout_per_million": "payoutPer1MHashes"}):
    """`/stats/payout`: what a million hashes earn, and the network. `value`, `payout`: units undocumented."""

    diff: Number
    value: Number
    payout: Number
    payout_per_million: Number
    synctime: Timestamp


class HistoryRow(Struct, frozen=True, gc=False):
    """One hour of `/stats/history`: its start in Unix seconds, hashes, and hashes per second."""

    synctime: Timestamp
    hashes: Number
    hashrate: Number


class UserBalance(Struct, frozen=True, gc=False):
    """`/user/balance` of one user: accepted hashes, and coins. The caller knows the user's name."""

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
    """The readable entries of a list, the number of rejected ones, and where the next page starts, if any."""

    entries: tuple[E, ...]
    rejected: int = 0
    next_page: str | None = None


History = Entries[HistoryRow]
Users = Entries[User]


def decode_payout(body: bytes) -> Payout:
    """Decode `/stats/payout`. Raises Refused, InvalidJson or InvalidResponse, as all decoders do."""
    return _convert(_fields(body), Payout, "$")


def decode_balance(body: bytes) -> UserBalance:
    """Decode `/user/balance`."""
    return _convert(_fields(body), UserBalance, "$")


def decode_history(body: bytes) -> History:
    """Decode `/stats/history`, rows in the answer's order."""
    return _decode_list(body, "history", HistoryRow, MAX_ROWS)


def decode_top_users(body: bytes) -> Users:
    """Decode `/user/top`. An empty name is rejected, and so is a name's second entry."""
    return _unique(_decode_list(body, "users", User, MAX_USERS))


def decode_user_page(body: bytes) -> Users:
    """Decode a page of `/user/list` as `decode_top_users` does, with the name of the next page."""
    return _unique(_decode_list(body, "users", User, MAX_USERS, paged=True))


def raise_for_error(body: bytes) -> None:
    """Raise Refused if the body has an `error` of the API, whatever else it is."""
    with contextlib.suppress(PollError):
        _fields(body)


class _ListAnswer(Struct, rename={"next_page": "nextPage"}):
    """An answer with a list, as msgspec decodes it in one pass."""

    history: Annotated[list[HistoryRow], Meta(max_length=MAX_ROWS)] | UnsetType = UNSET
    users: Annotated[list[User], Meta(max_length=MAX_USERS)] | UnsetType = UNSET
    next_page: str | None = None
    success: Any = None
    error: Any = None


_list_answer = msgspec.json.Decoder(_ListAnswer, strict=False)


def _decode_list(
    body: bytes, key: str, entry_type: type[E], max_entries: int, *, paged: bool = False
) -> Entries[E]:
    """Return the readable entries, and of a `paged` list where the next page starts."""
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # As text, because msgspec accepts bad UTF-8 in fields that it skips.
        answer = _list_answer.decode(body.decode())
        entries = getattr(answer, key)
        if entries is not UNSET and _is_success(answer.success) and not answer.error:
            return Entries(tuple(entries), 0, (answer.next_page or None) if paged else None)
    fields = _fields(body)
    next_page = _convert(fields.get("nextPage"), str | None, "$.nextPage") if paged else None
    entries = fields.get(key)
    if not isinstance(entries, list):
        raise InvalidResponse(f"$.{key}: expected an array")
    if len(entries) > max_entries:
        raise InvalidResponse(f"$.{key}: more than {max_entries} entries")
    readable, unreadable = [], contextlib.suppress(msgspec.ValidationError, UnicodeEncodeError)
    for entry in entries:
        with unreadable:
            readable.append(msgspec.convert(entry, entry_type, strict=False))
    return Entries(tuple(readable), len(entries) - len(readable), next_page or None)


def _unique(users: Users) -> Users:
    """Reject users without a name, and all but the first of one name."""
    first = {user.name: user for user in reversed(users.entries)}
    first.pop("", None)
    unique = tuple([user for user in users.entries if first.get(user.name) is user])
    return Entries(unique, users.rejected + len(users.entries) - len(unique), users.next_page)


def _fields(body: bytes) -> dict[str, Any]:
    """Return the fields of a successful answer."""
    fault = ""
    try:
        # json, since msgspec rejects the whole document for a lone surrogate in one user's name.
        fields = json.loads(
            body.decode("utf-8-sig"),
            parse_int=lambda digits: int(digits) if len(digits) <= MAX_DIGITS else float(digits),
            parse_constant=int,  # raises ValueError: NaN and Infinity are no integers
        )
    except RecursionError:
        fault = "nested too deeply"
    except UnicodeDecodeError as error:
        fault = f"not UTF-8 at byte {error.start}"
    except json.JSONDecodeError as error:
        fault = f"{error.msg} at line {error.lineno}, column {error.colno}"
    except ValueError:
        fault = "NaN and Infinity are not JSON"
    if fault:  # raised outside the except block: the context would hold the whole answer
        raise InvalidJson(f"not JSON: {fault}")
    if not isinstance(fields, dict):
        raise InvalidResponse("$: expected an object")
    code, success = fields.get("error"), _is_success(fields.get("success"))
    if isinstance(code, str) and (code or not success):
        raise Refused(code)
    if not success:
        raise InvalidResponse("$.success: expected true")
    return fields


def _is_success(value: Any) -> bool:
    return value is True or value == "true"


def _convert(value: Any, type_: type[T] | Any, path: str) -> T:
    try:
        return msgspec.convert(value, type_, strict=False)
    except msgspec.ValidationError as error:
        message, _, place = str(error).partition(" - at `$")
    except UnicodeEncodeError:  # a lone surrogate in a number's text or a field's name
        message, place = "not Unicode text", ""
    # msgspec names types, bounds and field names, never a value.
    raise InvalidResponse(f"{path}{place.rstrip('`')}: {message[:1].lower()}{message[1:]}")
