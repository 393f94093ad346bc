"""The API's answers as types, decoded strictly.

What a field means, and where it may be missing, is taken from the API's HTTP reference only. Numbers arrive
as JSON numbers or as numeric strings (the reference's own example has strings). They must be finite and
within bounds. An entry of a list that cannot be read is dropped and counted. A list of which most entries
cannot be read is an error, as is anything else that is wrong; the error names its place as a JSON path.
Values are untrusted personal data, so no error repeats one.

An answer is opened first: the parts that somebody reads are cut out as JSON text, and the rest makes no
objects. Then the list is decoded in one pass. If that fails, it is read again, entry by entry. So whatever
a server sends, decoding takes time and memory in proportion to the bytes, a few times their size.
"""

import contextlib
import json
import re
from codecs import BOM_UTF8
from collections.abc import Callable
from typing import Annotated, Generic, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType
from msgspec.json import Decoder
from msgspec.structs import replace

from exporter.api.errors import InvalidJson, InvalidResponse, PollError

T = TypeVar("T")
E = TypeVar("E", bound="HistoryRow | User")

MAX_ROWS = 10_000  # of a history: the reference has a week of hours, this is more than a year
MAX_USERS = 8192  # of an answer: the reference allows no larger `count`
COMMAS = 8  # for each entry, in a list that is read entry by entry: a user has three, and names may have some
MAX_ODD_BYTES = 64 * 1024  # of a string whose half surrogate pairs are kept: no URL can ask for a longer name
MAX_HALVES = 2 * MAX_USERS  # escaped half surrogate pairs that are kept: each costs a microsecond
EXPLAINED_BYTES = 8 * 1024  # a larger body that is no JSON is not read again to say where and why

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

    name: Annotated[str, Meta(min_length=1)]
    total: Number
    withdrawn: Number
    balance: Balance


class Entries(Struct, Generic[E], frozen=True):
    """The readable entries of a list, and where the next page starts: None for nowhere, UNSET for not said.

    `rejected` is the number of the other entries, and `fault` is what is wrong with the first of them.
    """

    entries: tuple[E, ...]
    rejected: int = 0
    next_page: str | UnsetType | None = None
    fault: str = ""


History = Entries[HistoryRow]
Users = Entries[User]


def decode_payout(body: bytes) -> Payout:
    """Decode `/stats/payout`. Raises Refused, InvalidJson or InvalidResponse, as all decoders do."""
    return _decode(body, _payout)


def decode_balance(body: bytes) -> UserBalance:
    """Decode `/user/balance`."""
    return _decode(body, _balance)


def decode_history(body: bytes) -> History:
    """Decode `/stats/history`, rows in the answer's order."""
    _, parts = _open(body)
    return _read_list(parts.history, "$.history", _rows, _row.decode, MAX_ROWS)


def decode_top_users(body: bytes) -> Users:
    """Decode `/user/top`. A user without a name is rejected, and so is a name's second entry."""
    _, parts = _open(body)
    return _unique(_read_list(parts.users, "$.users", _users, _read_user, MAX_USERS))


def decode_user_page(body: bytes) -> Users:
    """Decode a page of `/user/list` as `decode_top_users` does, with the name of the next page."""
    _, parts = _open(body)
    users = _unique(_read_list(parts.users, "$.users", _users, _read_user, MAX_USERS))
    if not parts.next_page:
        return replace(users, next_page=UNSET)
    name = _string(parts.next_page)
    if name is None:
        _read(_page_name, parts.next_page, "$.nextPage")
    return replace(users, next_page=name or None)


def raise_for_error(body: bytes) -> None:
    """Raise Refused if the body has an `error` of the API, whatever else it is."""
    with contextlib.suppress(PollError):
        _open(body)


class _Parts(Struct, rename={"next_page": "nextPage"}):
    """The parts of an answer that somebody reads, as JSON text; empty where the answer has none."""

    success: Raw = Raw(b"")
    error: Raw = Raw(b"")
    history: Raw = Raw(b"")
    users: Raw = Raw(b"")
    next_page: Raw = Raw(b"")


class _OddUser(Struct):
    """A user whose name is no Unicode text."""

    name: Raw
    total: Number
    withdrawn: Number
    balance: Balance


_document: Decoder[Raw] = Decoder(Raw)
_parts = Decoder(_Parts)
_payout = Decoder(Payout, strict=False)
_balance = Decoder(UserBalance, strict=False)
_row, _rows = Decoder(HistoryRow, strict=False), Decoder(list[HistoryRow], strict=False)
_user, _users = Decoder(User, strict=False), Decoder(list[User], strict=False)
_odd_user = Decoder(_OddUser, strict=False)
_raws: Decoder[list[Raw]] = Decoder(list[Raw])
_page_name: Decoder[str | None] = Decoder(str | None)
_word: Decoder[str] = Decoder(str)
_TYPES = {  # what msgspec calls them
    "float": "a number",
    "int": "a number",
    "str": "a string",
    "bool": "true or false",
    "object": "an object",
    "array": "an array",
    "null": "null",
}
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
# An escaped half of a surrogate pair, or a run of anything else: characters, other escapes, whole pairs.
# Runs are bounded, since other threads have no turn while one is searched.
_PARTS = re.compile(
    rb"\\u([dD][89abAB][0-9a-fA-F]{2})(?!\\u[dD][c-fC-F])|\\u([dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?:[^\\]|\\[^u]|\\u(?![dD][89a-fA-F])|\\u[dD][89abAB]..\\u[dD][c-fC-F]..){1,65536}+",
    re.DOTALL,
)


def _open(body: bytes) -> tuple[bytes, _Parts]:
    """Return a successful answer as text that msgspec reads, and its parts."""
    text, parts = _json_text(body), None
    with contextlib.suppress(msgspec.ValidationError):
        parts = _parts.decode(text)
    if parts is None:
        raise InvalidResponse("$: expected an object")
    code, successful = _string(parts.error), bytes(parts.success) in (b"true", b'"true"')
    if code or (code is not None and not successful):
        raise Refused(code)
    if not successful:
        raise InvalidResponse("$.success: expected true")
    return text, parts


def _json_text(body: bytes) -> bytes:
    """Return a body that is JSON as text that msgspec reads, half surrogate pairs included."""
    fault = ""
    text = body.removeprefix(BOM_UTF8)
    if not text.strip():
        raise InvalidJson("the answer is empty")
    try:
        text.decode()  # msgspec accepts bad UTF-8 in what it skips
        if b"\\ud" in text or b"\\uD" in text:
            # msgspec rejects a document for half a surrogate pair as an escape, but not as bytes.
            text = _unescape_halves(text)
        _document.decode(text)
    except UnicodeDecodeError as error:
        fault = f"not UTF-8 at byte {error.start}"
    except (msgspec.DecodeError, RecursionError) as error:
        fault = _explain(text, error)
    if fault:  # raised outside the except block: the context would hold the whole answer
        raise InvalidJson(f"not JSON: {fault}")
    return text


def _unescape_halves(text: bytes) -> bytes:
    """Return JSON with each escaped half of a surrogate pair as the bytes that UTF-8 would have for it.

    After the first MAX_HALVES, halves are replaced by U+FFFD.
    """
    unescaped, end, count = bytearray(), 0, 0
    for part in _PARTS.finditer(text):
        if half := part[1] or part[2]:
            count += 1
            unescaped += text[end : part.start()]
            kept = count <= MAX_HALVES
            unescaped += chr(int(half, 16)).encode("utf-8", "surrogatepass") if kept else b"\xef\xbf\xbd"
            end = part.end()
    return bytes(unescaped + text[end:])


def _string(raw: Raw) -> str | None:
    """Return the string that a JSON text is, half surrogate pairs included; None if it is no string.

    In one of more than MAX_ODD_BYTES, halves are replaced: reading hundreds of thousands takes too long.
    """
    text = bytes(raw)
    if text[:1] != b'"':
        return None
    if len(text) > MAX_ODD_BYTES:
        return _word.decode(text.decode("utf-8", "replace").encode())
    return str(json.loads(text.decode("utf-8", "surrogatepass")))


def _explain(text: bytes, error: Exception) -> str:
    """Say why and where a text is no JSON; `error` is what msgspec says. No character of it is repeated."""
    try:
        if len(text) <= EXPLAINED_BYTES:
            json.loads(text.decode("utf-8", "surrogatepass"), parse_int=float, parse_constant=int)
    except json.JSONDecodeError as place:
        return f"{place.msg} at line {place.lineno}, column {place.colno}"
    except RecursionError as deep:
        error = deep
    except ValueError:  # of int: NaN and Infinity are no integers
        return "NaN and Infinity are not JSON"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _decode(body: bytes, decoder: Decoder[T]) -> T:
    """Return what a decoder reads of a whole answer."""
    text, _ = _open(body)
    return _read(decoder, text, "$")


def _read(decoder: Decoder[T], text: bytes | Raw, path: str) -> T:
    """Return what a decoder reads of the JSON text at a path. Raises InvalidResponse."""
    try:
        return decoder.decode(text)
    except _UNREADABLE as error:
        fault = _fault(path, error)
    raise InvalidResponse(fault)


def _read_list(
    raw: Raw, path: str, decoder: Decoder[list[E]], read: Callable[[Raw], E], max_entries: int
) -> Entries[E]:
    """Return the readable entries of a list: all of it by `decoder`, or else each entry by `read`."""
    if bytes(memoryview(raw)[:1]) != b"[":
        raise InvalidResponse(f"{path}: expected an array")
    fault, count, rejected = "", 0, 0
    entries: list[E] = []
    try:
        entries = decoder.decode(raw)
        count = len(entries)
    except _UNREADABLE as error:
        fault = _fault(path, error)
    if fault and bytes(raw).count(b",") > COMMAS * max_entries:  # so many objects would be made
        raise InvalidResponse(f"{fault}; the list has too many values to be read without such entries")
    if fault:
        raws, fault = _raws.decode(raw), ""
        count = len(raws)
        for place, entry in enumerate(raws if count <= max_entries else ()):
            try:
                entries.append(read(entry))
            except _UNREADABLE as error:
                rejected += 1
                fault = fault or _fault(f"{path}[{place}]", error)
    if count > max_entries:
        raise InvalidResponse(f"{path}: more than {max_entries} entries")
    if rejected > len(entries):  # a part of so few is not shown as the whole
        raise InvalidResponse(f"{fault}; {rejected} of {count} entries cannot be read")
    return Entries(tuple(entries), rejected, None, fault)


def _read_user(raw: Raw) -> User:
    """Read a user, also one whose name has half a surrogate pair. Raises what a decoder raises."""
    try:
        return _user.decode(raw)
    except UnicodeDecodeError:
        user = _odd_user.decode(raw)
        name = _string(user.name)
        if not name:
            raise
        return User(name, user.total, user.withdrawn, user.balance)


def _unique(users: Users) -> Users:
    """Reject all but the first user of one name."""
    first = {user.name: user for user in reversed(users.entries)}
    again = len(users.entries) - len(first)
    if not again:
        return users
    unique = tuple([user for user in users.entries if first[user.name] is user])
    fault = users.fault or "$.users: a name that was there before"
    return Entries(unique, users.rejected + again, users.next_page, fault)


def _fault(path: str, error: Exception) -> str:
    """Say what is wrong with the value at a path. msgspec names types, bounds and fields, never a value."""
    if not isinstance(error, msgspec.ValidationError):  # half a surrogate pair in a text
        return f"{path}: not Unicode text"
    message, _, place = str(error).partition(" - at `$")
    for word, meaning in _TYPES.items():
        message = message.replace(f"`{word}`", meaning)
    return f"{path}{place.rstrip('`')}: {message[:1].lower()}{message[1:]}"
