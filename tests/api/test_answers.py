from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from exporter.api import answers as answers_module
from exporter.api.answers import (
    MAX_HALVES,
    MAX_ODD_BYTES,
    Entries,
    HistoryRow,
    Payout,
    Refused,
    User,
    UserBalance,
    decode_balance,
    decode_history,
    decode_payout,
    decode_top_users,
    decode_user_page,
    raise_for_error,
)
from exporter.api.errors import InvalidJson, InvalidResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ANSWERS = Path(__file__).parent.parent / "data" / "answers"
BOM = b"\xef\xbb\xbf"
SURROGATE = "\ud800"  # in a name it sends a list down the slow path: entry by entry
CANARY = "canary-4f1d"
DECODERS: list[Callable[[bytes], object]] = [
    decode_payout,
    decode_balance,
    decode_history,
    decode_top_users,
    decode_user_page,
]
FAILURES = (Refused, InvalidJson, InvalidResponse)  # all that a decoder raises
LISTS: list[tuple[Callable[[bytes], Any], str]] = [
    (decode_history, "history"),
    (decode_top_users, "users"),
    (decode_user_page, "users"),
]

PAYOUT = {"diff": 1e11, "value": 5.1, "payout": 0.7, "payoutPer1MHashes": 3e-5, "synctime": 1_699_999_200}
ROW = {"synctime": 1_699_999_200, "hashes": 3_600_000, "hashrate": 1000}
USER = {"name": "maria", "total": 318_801_685, "withdrawn": 0.02, "balance": 0.03}

REFUSED_NUMBERS = [
    *("nan", "NaN", "Infinity", "-Infinity", "inf", "1_000", " 12 ", "12 ", "", "1e999", "0x10", "+5", ".5"),
    *("5.", "007", "1,5", "\u0661\u0662", "true", "null", "-1", "1e19", "12 XMR", SURROGATE),
    *(True, False, None, [], {}, [1], {"value": 1}, -1, -0.001, 1.1e18, 10**19, 2**63, 2**64),
    *(10**39, 10**41, -(10**41)),
]
RAW_REFUSED_NUMBERS = [b"1e999", b"-1e999", b"9" * 5000, b"-" + b"9" * 5000, b"1" + b"0" * 400]

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(), max_size=8)
    | st.sampled_from([*REFUSED_NUMBERS, "true", "5", "0.25", 1e18, CANARY])
)
foreign = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
numbers = st.integers(0, 10**18) | st.floats(0, 1e18) | st.integers(0, 10**18).map(str)
times = st.integers(0, 10**11) | st.integers(0, 10**11).map(str)
good_users = st.fixed_dictionaries(
    {
        "name": st.sampled_from("abc\u00e9") | st.text(min_size=1),
        **dict.fromkeys(USER.keys() - {"name"}, numbers),
    }
)
good_rows = st.fixed_dictionaries({"synctime": times, "hashes": numbers, "hashrate": numbers})
odd_entries = st.dictionaries(
    st.sampled_from([*USER, *ROW, "rank", SURROGATE]), numbers | st.text() | foreign, max_size=7
)
user_lists = st.lists(good_users | odd_entries | foreign, max_size=6)
row_lists = st.lists(good_rows | odd_entries | foreign, max_size=6)
answers = st.fixed_dictionaries(
    {"success": st.sampled_from([True, True, True, "true", False, "yes", None]) | foreign},
    optional={
        "error": st.sampled_from(["", "invalid_secret", None, 0]) | foreign,
        "users": user_lists | foreign,
        "history": row_lists | foreign,
        "nextPage": st.text(st.characters()) | foreign,
        **dict.fromkeys([*PAYOUT, "total", "withdrawn", "balance"], numbers | foreign),
        "name": st.text() | foreign,
        SURROGATE: foreign,
    },
)


def body(**fields: Any) -> bytes:
    """Return a successful answer with these fields."""
    return json.dumps({"success": True, **fields}).encode()


def raw(number: bytes, **fields: Any) -> bytes:
    """Return a successful answer in which every "@" is this JSON token."""
    return body(**fields).replace(b'"@"', number)


def padding(entry: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Return so many readable entries; users have names of their own."""
    return [entry | ({"name": f"user {number}"} if "name" in entry else {}) for number in range(count)]


def outcome(decode: Callable[[bytes], object], answer: bytes) -> object:
    """Return what was decoded, or the error's type, text and code."""
    try:
        return decode(answer)
    except FAILURES as error:
        return type(error), str(error), getattr(error, "code", None)


def error_code(answer: bytes) -> str | None:
    """Return the API's `error` in an answer, if any."""
    try:
        raise_for_error(answer)
    except Refused as error:
        return error.code
    return None


def errors(answer: bytes) -> Iterator[Exception]:
    """Yield what the decoders raise at an answer."""
    for decode in DECODERS:
        try:
            decode(answer)
        except FAILURES as error:
            yield error


def test_every_decoder_is_tested() -> None:
    """Each `decode_NAME` of the module is in DECODERS, so that it meets the museum of bad answers."""
    expected = {name for name in vars(answers_module) if name.startswith("decode_")}

    assert expected == {decode.__name__ for decode in DECODERS}


def test_the_references_example_is_read() -> None:
    """The reference's own answer has strings where it promises numbers."""
    answer = (ANSWERS / "balance-reference.json").read_bytes()

    assert UserBalance(318_801_685.0, 0.02, 0.03689529) == decode_balance(answer)


def test_payout_is_read() -> None:
    """`/stats/payout` as documented; payoutPer1MHashes is payout_per_million here."""
    answer = (ANSWERS / "payout.json").read_bytes()

    assert Payout(112_784_829_532.0, 5.1, 0.7, 0.0000316, 1_699_999_200.0) == decode_payout(answer)


def test_history_is_read() -> None:
    """`/stats/history` as documented: rows stay in the answer's order, nothing is rejected."""
    answer = decode_history((ANSWERS / "history.json").read_bytes())

    assert (
        HistoryRow(1_699_992_000.0, 3_600_000.0, 1000.0),
        HistoryRow(1_699_995_600.0, 7_200_000.0, 2000.5),
        HistoryRow(1_699_999_200.0, 0.0, 0.0),
    ) == answer.entries
    assert (0, None) == (answer.rejected, answer.next_page)


def test_top_users_are_read() -> None:
    """`/user/top` as documented, in its order; a balance may lie just below zero."""
    answer = decode_top_users((ANSWERS / "top.json").read_bytes())

    assert (
        User("maria", 318_801_685.0, 0.02, 0.03689529),
        User("johnd", 1024.0, 0.0, -0.00000001),
    ) == answer.entries
    assert (0, None) == (answer.rejected, answer.next_page)


def test_a_page_of_users_is_read() -> None:
    """`/user/list` as documented: nextPage is where the next page starts."""
    answer = decode_user_page((ANSWERS / "list.json").read_bytes())

    assert (User("anna", 256.0, 0.0, 0.0001),) == answer.entries
    assert (0, "bert") == (answer.rejected, answer.next_page)


@pytest.mark.parametrize(("decode", "key"), LISTS)
def test_an_empty_list_is_an_answer(decode: Callable[[bytes], Any], key: str) -> None:
    """A site without users or rows is no failure."""
    answer = decode(body(**{key: []}))

    assert ((), 0) == (answer.entries, answer.rejected)
    assert not answer.next_page


@pytest.mark.parametrize(
    ("page", "expected"), [("bert", "bert"), ("null", "null"), (None, None), ("", None), (..., UNSET)]
)
@pytest.mark.parametrize("prefix", [b"", BOM])
def test_next_page(page: Any, expected: object, prefix: bytes) -> None:
    """A nextPage is a name, even "null"; null and "" end the walk; a missing one is told apart."""
    fields = {} if page is ... else {"nextPage": page}

    assert expected == decode_user_page(prefix + body(users=[USER], **fields)).next_page


@pytest.mark.parametrize("page", [5, True, [], {}])
@pytest.mark.parametrize("prefix", [b"", BOM])
def test_next_page_of_another_type_is_refused(page: Any, prefix: bytes) -> None:
    """Half a walk is worse than none: an unreadable nextPage refuses the answer, by its path."""
    with pytest.raises(InvalidResponse, match=r"^\$\.nextPage: "):
        decode_user_page(prefix + body(users=[USER], nextPage=page))


@given(number=numbers)
def test_numbers_and_numeric_strings_are_alike(number: Any) -> None:
    """A number is read alike as JSON number and as string, wherever it stands."""
    as_is = body(**dict.fromkeys(PAYOUT, 0) | {"diff": number})
    as_text = body(**dict.fromkeys(PAYOUT, "0") | {"diff": str(number)})

    assert Payout(float(number), 0, 0, 0, 0) == decode_payout(as_is) == decode_payout(as_text)


@pytest.mark.parametrize(
    "text", ["0", "0.0", "-0", "5", "5.25", "1e5", "1E+2", "1000000000000000000", "1e-400"]
)
def test_numeric_strings(text: str) -> None:
    """A string is a number exactly when its text is a JSON number within the bounds."""
    assert float(text) == decode_balance(body(**USER | {"total": text})).total
    assert float(text) == decode_top_users(body(users=[USER | {"total": text}])).entries[0].total


@pytest.mark.parametrize("number", REFUSED_NUMBERS, ids=ascii)
@pytest.mark.parametrize("field", ["total", "withdrawn"])
def test_what_is_no_number_is_refused(number: Any, field: str) -> None:
    """NaN, infinities, booleans, null, negative and boundless numbers are wrong, named by path."""
    with pytest.raises(InvalidResponse, match=rf"^\$(\.{field})?: "):
        decode_balance(body(**USER | {field: number}))


@pytest.mark.parametrize("number", REFUSED_NUMBERS, ids=ascii)
@pytest.mark.parametrize("prefix", [b"", BOM])
def test_an_entry_with_no_number_is_dropped(number: Any, prefix: bytes) -> None:
    """What refuses a whole answer of its own costs a list one entry."""
    users = decode_top_users(prefix + body(users=[USER | {"total": number}, USER | {"name": "johnd"}]))
    rows = decode_history(prefix + body(history=[ROW | {"hashes": number}, ROW]))

    assert (["johnd"], 1) == ([user.name for user in users.entries], users.rejected)
    assert ([1_699_999_200.0], 1) == ([row.synctime for row in rows.entries], rows.rejected)


@pytest.mark.parametrize("number", RAW_REFUSED_NUMBERS, ids=lambda token: token[:8].decode())
@pytest.mark.parametrize("prefix", [b"", BOM])
def test_numbers_no_float_can_hold(number: bytes, prefix: bytes) -> None:
    """A JSON number beyond every float, whatever its length, is out of bounds."""
    users = decode_top_users(prefix + raw(number, users=[USER | {"total": "@"}, USER | {"name": "johnd"}]))

    assert (["johnd"], 1) == ([user.name for user in users.entries], users.rejected)
    with pytest.raises(InvalidResponse, match=r"^\$\.value: "):
        decode_payout(prefix + raw(number, **PAYOUT | {"value": "@"}))


@pytest.mark.parametrize(
    ("field", "number"), [("synctime", 1_699_999_200_000), ("synctime", -1), ("diff", -1), ("payout", "nan")]
)
def test_payout_bounds(field: str, number: Any) -> None:
    """Milliseconds are not taken for seconds; nothing in a payout is negative."""
    with pytest.raises(InvalidResponse, match=rf"^\$\.{field}: "):
        decode_payout(body(**PAYOUT | {field: number}))


@pytest.mark.parametrize("balance", [-1e18, -0.5, 0, 1e18, "-0.5"])
def test_only_a_balance_may_be_negative(balance: Any) -> None:
    """`balance` is a difference: it has a sign and the same magnitude as the other numbers."""
    user = decode_balance(body(**USER | {"balance": balance}))

    assert float(balance) == user.balance


@pytest.mark.parametrize("balance", [-1.1e18, 1.1e18, "nan", "-Infinity", None])
def test_balance_bounds(balance: Any) -> None:
    """A balance is bounded too, so that sums stay finite."""
    with pytest.raises(InvalidResponse, match=r"^\$\.balance: "):
        decode_balance(body(**USER | {"balance": balance}))


@pytest.mark.parametrize("success", [True, "true"])
@pytest.mark.parametrize(
    "extra", [{}, {"error": ""}, {"error": None}, {"error": 17}, {"error": ["invalid_secret"]}]
)
def test_success(success: Any, extra: dict[str, Any]) -> None:
    """Success is true or "true"; an `error` that is empty or no string does not undo it."""
    fields: dict[str, Any] = {
        "users": [USER],
        "history": [ROW],
        **PAYOUT,
        **USER,
        "success": success,
        **extra,
    }

    assert ["Payout", "UserBalance", *["Entries"] * 3] == [
        type(decode(body(**fields))).__name__ for decode in DECODERS
    ]


@pytest.mark.parametrize(
    "success", [False, None, 1, 0, "True", "TRUE", "1", "yes", "", "false", [True], {}, 1.0]
)
@pytest.mark.parametrize("decode", DECODERS)
def test_not_successful(decode: Callable[[bytes], object], success: Any) -> None:
    """Whatever is neither true nor "true" is a failure, complete as the answer may be."""
    fields: dict[str, Any] = {"users": [USER], "history": [ROW], **PAYOUT, **USER, "success": success}

    with pytest.raises(InvalidResponse, match=r"^\$\.success: "):
        decode(body(**fields))


@pytest.mark.parametrize("decode", DECODERS)
def test_success_is_required(decode: Callable[[bytes], object]) -> None:
    """All responses contain `success` (reference: Intro): one without is none."""
    with pytest.raises(InvalidResponse, match=r"^\$\.success: "):
        decode(json.dumps({"users": [], "history": [], **PAYOUT, **USER}).encode())


@pytest.mark.parametrize("success", [True, "true", False, None, "no"])
@pytest.mark.parametrize("decode", DECODERS)
def test_an_error_comes_first(decode: Callable[[bytes], object], success: Any) -> None:
    """An `error` that says something is the answer, whatever `success` and the data say."""
    fields: dict[str, Any] = {"users": [USER], "history": [ROW], **PAYOUT, **USER, "success": success}

    with pytest.raises(Refused) as caught:
        decode(body(**fields, error="invalid_secret"))
    assert "invalid_secret" == caught.value.code
    assert "invalid_secret" not in str(caught.value)


@pytest.mark.parametrize("error", [None, 17, True, ["invalid_secret"], {"code": "invalid_secret"}])
def test_an_error_that_is_no_string(error: Any) -> None:
    """Only a string is a code; a failure with anything else is a wrong shape."""
    with pytest.raises(InvalidResponse, match=r"^\$\.success: "):
        decode_payout(body(success=False, error=error))


@pytest.mark.parametrize(
    ("expected", "answer"),
    [
        ("invalid_secret", b'{"success": false, "error": "invalid_secret"}'),
        ("invalid_secret", b'{"error": "invalid_secret"}'),
        ("invalid_page", b'{"success": true, "error": "invalid_page", "users": []}'),
        ("invalid_secret", BOM + b'{"success": false, "error": "invalid_secret"}'),
        (SURROGATE, rb'{"success": false, "error": "\ud800"}'),
        (None, b'{"success": true, "error": ""}'),
        (None, b'{"success": false, "error": 17}'),
        (None, b'{"success": false}'),
        (None, b'["error"]'),
        (None, b'"error"'),
        (None, b"<html>Bad gateway</html>"),
        (None, b'{"error": "invalid_sec'),
        (None, b"\xff"),
        (None, b""),
    ],
)
def test_error_code(expected: str | None, answer: bytes) -> None:
    """The body's `error` is found on any status, and nothing else is one."""
    assert expected == error_code(answer)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("maintenance.html", "Expecting value at line 1, column 1"),
        ("cloudflare-challenge.html", "Expecting value at line 1, column 1"),
        ("php-warning.json", "Expecting value at line 1, column 1"),
        ("empty.json", ""),
        ("reference-as-printed.txt", "Expecting property name enclosed in double quotes at line 1, column 2"),
        ("single-quotes.json", "Expecting property name enclosed in double quotes at line 1, column 2"),
        ("truncated.json", "Unterminated string starting at at line 1, column 56"),
        ("two-documents.json", "Extra data at line 1, column 31"),
        ("bad-utf8.json", "not UTF-8 at byte 41"),
        ("utf-16.json", "not UTF-8 at byte 0"),
        ("nan.json", "NaN and Infinity are not JSON"),
        ("infinity.json", "NaN and Infinity are not JSON"),
    ],
)
@pytest.mark.parametrize("decode", DECODERS)
def test_the_museum_of_what_is_not_json(decode: Callable[[bytes], object], name: str, fault: str) -> None:
    """What is not JSON is said with its place, the same by every decoder."""
    with pytest.raises(InvalidJson) as caught:
        decode((ANSWERS / name).read_bytes())

    assert (f"not JSON: {fault}" if fault else "the answer is empty") == str(caught.value)


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize(
    "text", [b'{"x":%s', b'{"success": true, "users": [%s', b'{"history": [{"hashes": %s']
)
def test_bottomless_nesting(decode: Callable[[bytes], object], text: bytes) -> None:
    """100,000 brackets are refused, wherever they are."""
    with pytest.raises(InvalidJson, match=r"^not JSON: nested too deeply$"):
        decode(text % (b"[" * 100_000))


@pytest.mark.parametrize("decode", DECODERS)
def test_bad_utf8_in_a_field_nobody_reads(decode: Callable[[bytes], object]) -> None:
    """JSON is UTF-8 (RFC 8259, 8.1): a body that is not is no JSON, wherever the bytes stand."""
    fields: dict[str, Any] = {"users": [USER], "history": [ROW], **PAYOUT, **USER, "motd": "@"}

    with pytest.raises(InvalidJson, match=r"^not JSON: not UTF-8 at byte \d+$"):
        decode(raw(b'"\xff"', **fields))


def test_a_byte_order_mark_is_skipped() -> None:
    """A BOM does not cost the answer."""
    answer = decode_top_users((ANSWERS / "bom.json").read_bytes())

    assert (User("maria", 1.0, 0.0, 0.0),) == answer.entries


@pytest.mark.parametrize("document", [[], [{"success": True}], "x", 5, None, True])
@pytest.mark.parametrize("decode", DECODERS)
def test_a_document_that_is_no_object(decode: Callable[[bytes], object], document: Any) -> None:
    """Every answer is an object."""
    with pytest.raises(InvalidResponse, match=r"^\$: expected an object$"):
        decode(json.dumps(document).encode())


@pytest.mark.parametrize("entries", [None, {}, "x", 5, {"0": USER}, ...])
@pytest.mark.parametrize(("decode", "key"), LISTS)
def test_a_list_that_is_none(decode: Callable[[bytes], Any], key: str, entries: Any) -> None:
    """A missing list, or something else in its place, is named by path."""
    with pytest.raises(InvalidResponse, match=rf"^\$\.{key}: expected an array$"):
        decode(body(**{} if entries is ... else {key: entries}))


@pytest.mark.parametrize(
    ("decode", "key", "entry", "most"),
    [
        (decode_history, "history", ROW, 10_000),
        (decode_top_users, "users", USER, 8192),
        (decode_user_page, "users", USER, 8192),
    ],
)
@pytest.mark.parametrize("prefix", [b"", BOM])
def test_a_list_that_is_too_long(
    decode: Callable[[bytes], Any], key: str, entry: dict[str, Any], most: int, prefix: bytes
) -> None:
    """A list may have as many entries as the reference allows, and not one more."""
    answer = decode(prefix + body(**{key: [entry] * most}))

    assert most == len(answer.entries) + answer.rejected
    with pytest.raises(InvalidResponse, match=rf"^\$\.{key}: more than {most} entries$"):
        decode(prefix + body(**{key: [entry] * (most + 1)}))


@pytest.mark.parametrize("field", PAYOUT)
def test_payout_needs_every_field(field: str) -> None:
    """A payout with a field missing is refused, and the error names the field."""
    fields = {key: value for key, value in PAYOUT.items() if key != field}

    with pytest.raises(InvalidResponse, match=rf"^\$: .*`{field}`$"):
        decode_payout(body(**fields))


@pytest.mark.parametrize("field", ["total", "withdrawn", "balance"])
def test_balance_needs_every_number(field: str) -> None:
    """A balance with one missing is refused, and the error names it; the name is known to who asked."""
    fields = {key: value for key, value in USER.items() if key != field}

    with pytest.raises(InvalidResponse, match=rf"^\$: .*`{field}`$"):
        decode_balance(body(**fields))


UNREADABLE = [
    (decode_top_users, {"users": [USER | {"withdrawn": None}]}, "$.users[0].withdrawn: expected a number"),
    (decode_user_page, {"users": [USER | {"withdrawn": None}]}, "$.users[0].withdrawn: expected a number"),
    (decode_history, {"history": [ROW | {"synctime": 1_699_999_200_000}] * 9}, "$.history[0].synctime: "),
    (decode_history, {"history": [ROW | {"synctime": "2023-11-14T22:00:00Z"}]}, "$.history[0].synctime: "),
    (decode_history, {"history": [{"time": 1, "hashes": 2, "rate": 3}]}, "$.history[0]: object missing"),
    (
        decode_top_users,
        {"users": [USER | {"name": ""}] * 2},
        "$.users[0].name: expected a string of length >= 1",
    ),
    (decode_top_users, {"users": [["maria", 1, 2, 3]]}, "$.users[0]: expected an object, got an array"),
    (decode_history, {"history": [[[]], ROW, {}]}, "$.history[0]: expected an object, got an array"),
]


@pytest.mark.parametrize(("decode", "fields", "fault"), UNREADABLE)
def test_a_list_of_which_little_can_be_read_is_refused(
    decode: Callable[[bytes], Any], fields: dict[str, Any], fault: str
) -> None:
    """A list of which nothing, or less than half, can be read fails, with the first fault and its place."""
    with pytest.raises(InvalidResponse) as caught:
        decode(body(nextPage=None, **fields))

    assert str(caught.value).startswith(fault)


@given(
    readable=st.integers(0, 5),
    unreadable=st.lists(st.sampled_from([None, {}, [], "x", 7]), max_size=6),
    data=st.data(),
)
def test_most_of_a_list_must_be_readable(readable: int, unreadable: list[Any], data: st.DataObject) -> None:
    """A list is refused exactly when more entries cannot be read than can, wherever they stand."""
    users = data.draw(st.permutations([*padding(USER, readable), *unreadable]))
    place = next((place for place, user in enumerate(users) if user in unreadable), None)
    answer = outcome(decode_top_users, body(users=users))

    if len(unreadable) > readable:
        assert isinstance(answer, tuple)
        kind, text, _ = answer
        assert InvalidResponse is kind
        assert text.startswith(f"$.users[{place}]: ")
        assert text.endswith(f"; {len(unreadable)} of {len(users)} entries cannot be read")
    else:
        assert isinstance(answer, Entries)
        assert (readable, len(unreadable)) == (len(answer.entries), answer.rejected)
        assert bool(unreadable) == answer.fault.startswith(f"$.users[{place}]: ")


def test_duplicates_can_be_read() -> None:
    """A name's further entries are rejected, but they could be read: the list is not refused."""
    answer = decode_top_users(body(users=[USER] * 9))

    assert (1, 8, "$.users: a name that was there before") == (
        len(answer.entries),
        answer.rejected,
        answer.fault,
    )


def test_readable_entries_stay() -> None:
    """Duplicates, empty names and what cannot be read are dropped and counted; the rest stays, first come."""
    answer = decode_top_users((ANSWERS / "half-readable.json").read_bytes())

    assert [("maria", 3.0), ("johnd", 9.0)] == [(user.name, user.total) for user in answer.entries][:2]
    assert ["anna", "bert", "cora", "dora", "emil"] == [user.name for user in answer.entries][2:]
    assert 8 == answer.rejected


def test_readable_rows_stay() -> None:
    """A row that cannot be read costs no other; two of one hour are both rows here."""
    unreadable = [{}, None, ROW | {"hashrate": "fast"}, [1, 2, 3]]
    answer = decode_history(body(history=[ROW, *unreadable, ROW, ROW, ROW]))

    assert (HistoryRow(1_699_999_200.0, 3_600_000.0, 1000.0),) * 4 == answer.entries
    assert (4, "$.history[1]: object missing required field `synctime`") == (answer.rejected, answer.fault)


@pytest.mark.parametrize("odd", [[], [USER | {"name": SURROGATE}]])
def test_the_first_of_one_name_stays(odd: list[dict[str, Any]]) -> None:
    """A name's second entry is rejected, on the fast path and on the slow one, even if it says more."""
    users = [USER, USER | {"total": 5}, USER | {"name": "MARIA"}, *odd]
    answer = decode_top_users(body(users=users))

    assert [318_801_685.0, 318_801_685.0] == [user.total for user in answer.entries[:2]]
    assert 1 == answer.rejected


@pytest.mark.parametrize("odd", [[], [USER | {"name": SURROGATE}]])
def test_an_empty_name_is_rejected(odd: list[dict[str, Any]]) -> None:
    """Nobody is called "": the entry is rejected on both paths."""
    answer = decode_top_users(body(users=[USER | {"name": ""}, USER, *odd]))

    assert "maria" == answer.entries[0].name
    assert 1 == answer.rejected


def test_hostile_names_are_names() -> None:
    """Names are the visitors' own: all are kept as they are, the lone surrogate included."""
    answer = decode_top_users((ANSWERS / "hostile-names.json").read_bytes())

    assert [
        SURROGATE,
        '"} 1\nup 0',
        "<script>alert(1)</script>",
        "a" * 300,
        "\u202e\x00",
        "null",
        "maria",
    ] == [user.name for user in answer.entries]
    assert 0 == answer.rejected


HALVES = ["\ud800", "\udfff", "\ud800\ud800\udc00", "\udc00\ud800", "\\\udc00", "\\ud800", "\U0001f600\ud83d"]


@pytest.mark.parametrize("name", HALVES, ids=ascii)
def test_half_surrogate_pairs_are_kept(name: str) -> None:
    """A name with half a pair comes out as it is, as a user's and as the next page's, whatever is around."""
    answer = decode_user_page(body(users=[USER | {"name": name}], nextPage=name, motd=name))
    name = json.loads(json.dumps(name))  # where two halves stand together, JSON has one character

    assert ([name], 0, name) == ([user.name for user in answer.entries], answer.rejected, answer.next_page)


@given(name=st.text(st.characters() | st.sampled_from("\\u\ud800\udc00d8"), min_size=1))
def test_any_name_comes_out_as_it_is(name: str) -> None:
    """Of each name, however it is escaped, nothing is lost and nothing added."""
    answer = decode_user_page(body(users=[USER | {"name": name}], nextPage=name))
    name = json.loads(json.dumps(name))

    assert ((name,), name) == (tuple(user.name for user in answer.entries), answer.next_page)


@pytest.mark.parametrize("count", [MAX_ODD_BYTES // 3, 3 * MAX_HALVES])
def test_half_pairs_of_a_giant_name_are_replaced(count: int) -> None:
    """A name that no request can ask for stays readable, and its half pairs are not kept apart."""
    answer = decode_user_page(body(users=[USER | {"name": "\ud800" * count}, USER]))

    assert {"\ufffd"} == set(answer.entries[0].name)
    assert (USER["name"], 0) == (answer.entries[1].name, answer.rejected)


@given(st.lists(st.sampled_from(["\\ud800", "\\uDC00", "\\\\", "\\n", "ud800", "x", "\\u00e9", '\\"'])))
def test_half_pairs_are_read_as_the_standard_library_reads_them(parts: list[str]) -> None:
    """Whatever escapes are around a half of a surrogate pair, a name is what `json` makes of it."""
    text = f'"{"".join(parts)}x"'
    page = f'{{"success": true, "users": [{{"name": {text}, "total": 1, "withdrawn": 0, "balance": 1}}]}}'

    assert json.loads(text) == decode_top_users(page.encode()).entries[0].name


def test_a_list_of_many_values_is_read_whole_or_not_at_all() -> None:
    """Going through entries makes objects of values: where these are too many, one bad entry fails all."""
    most = 1 << 14
    users = padding(USER | {"rank": [0] * 20}, most // 2)
    bad = USER | {"total": None}

    assert (most // 2, 0) == read_users(users)
    with pytest.raises(InvalidResponse, match=r"^\$\.users\[0\]\.total: .*; the list has too many values"):
        read_users([bad, *users])


def test_one_bad_user_costs_no_page_of_usual_ones() -> None:
    """A page of 8,191 users with long names, and one that is unreadable, is read without that one."""
    users = padding(USER | {"rank": "x" * 100}, 8191)

    assert (8191, 1) == read_users([*users, USER | {"total": None}])


def read_users(users: list[Any]) -> tuple[int, int]:
    page = decode_user_page(body(users=users))
    return len(page.entries), page.rejected


def test_a_lone_surrogate_in_a_number_costs_its_entry() -> None:
    """A number that is no text at all is unreadable like any other: it costs its entry alone."""
    users = decode_top_users(body(users=[USER, USER | {"name": "johnd", "total": SURROGATE}]))
    rows = decode_history(body(history=[ROW, ROW | {"synctime": SURROGATE}]))

    assert (["maria"], 1) == ([user.name for user in users.entries], users.rejected)
    assert (1, 1) == (len(rows.entries), rows.rejected)


@pytest.mark.parametrize(("decode", "fields"), [(decode_payout, PAYOUT), (decode_balance, USER)])
def test_a_lone_surrogate_in_a_field_name(decode: Callable[[bytes], object], fields: dict[str, Any]) -> None:
    """A field nobody knows, whatever its name, is ignored or makes the answer invalid, and nothing else."""
    expected = decode(body(**fields))
    answer = outcome(decode, body(**fields, **{SURROGATE: 1}))

    assert answer == expected or (isinstance(answer, tuple) and answer[0] is InvalidResponse)


@pytest.mark.parametrize(
    ("decode", "key", "entry"), [(decode_top_users, "users", USER), (decode_history, "history", ROW)]
)
def test_a_lone_surrogate_in_an_entrys_field_name(
    decode: Callable[[bytes], Any], key: str, entry: dict[str, Any]
) -> None:
    """An entry with such a field is read or rejected, and costs no other."""
    answer = decode(body(**{key: [entry | {SURROGATE: 1}, entry | {"name": "johnd"}]}))

    assert 2 == len(answer.entries) + answer.rejected
    assert len(answer.entries) >= 1


@given(answer=st.binary() | st.binary().map(lambda tail: b'{"success": true, "users": [' + tail))
def test_any_bytes_are_an_answer_or_a_failure(answer: bytes) -> None:
    """No bytes make a decoder raise anything but its failures, or `raise_for_error` anything but Refused."""
    for decode in DECODERS:
        outcome(decode, answer)

    assert None is error_code(answer) or b"error" in answer


@given(document=answers | foreign)
def test_any_json_is_an_answer_or_a_failure(document: Any) -> None:
    """No JSON makes a decoder raise anything but its failures: Refused exactly when the API sent a code."""
    answer = json.dumps(document).encode()
    outcomes = [outcome(decode, answer) for decode in DECODERS]

    refused = [result for result in outcomes if isinstance(result, tuple) and result[0] is Refused]
    assert [error_code(answer)] * len(refused) == [result[2] for result in refused]
    assert len(refused) in {0, len(DECODERS)}


@given(document=answers)
def test_a_byte_order_mark_changes_nothing(document: dict[str, Any]) -> None:
    """With a BOM every answer is what it is without."""
    answer = json.dumps(document).encode()

    for decode in DECODERS:
        assert outcome(decode, BOM + answer) == outcome(decode, answer)


@given(users=st.lists(good_users, min_size=1, max_size=6), rows=st.lists(good_rows, min_size=1, max_size=6))
def test_fast_path_and_slow_path_agree(users: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    """One pass or entry by entry, the readable entries are the same: an unreadable one forces the second."""
    for decode, entries in ((decode_top_users, {"users": users}), (decode_history, {"history": rows})):
        fast = decode(body(**entries))
        slow = decode(body(**{key: [*values, None] for key, values in entries.items()}))

        assert (fast.entries, fast.rejected + 1) == (slow.entries, slow.rejected)


@given(users=st.lists(good_users, max_size=6), page=st.none() | st.text())
def test_an_odd_name_changes_nothing_for_the_others(users: list[dict[str, Any]], page: str | None) -> None:
    """A lone surrogate sends all users down the slow path: they come out as on the fast one."""
    fast = decode_top_users(body(users=users, nextPage=page))
    slow = decode_top_users(body(users=[*users, USER | {"name": SURROGATE}], nextPage=page))

    assert fast.entries == slow.entries[:-1]
    assert SURROGATE == slow.entries[-1].name
    assert (fast.rejected, fast.next_page) == (slow.rejected, slow.next_page)


@given(users=user_lists)
def test_every_user_is_read_or_rejected(users: list[Any]) -> None:
    """Entries and rejected add up to the list; names are unique and not empty."""
    answer = decode_top_users(body(users=[*padding(USER, len(users)), *users]))

    assert 2 * len(users) == len(answer.entries) + answer.rejected
    assert len(answer.entries) == len({user.name for user in answer.entries} - {""})


@given(rows=row_lists)
def test_every_row_is_read_or_rejected(rows: list[Any]) -> None:
    """Entries and rejected add up to the list; every number read is within its bounds."""
    answer = decode_history(body(history=[*padding(ROW, len(rows)), *rows]))

    assert 2 * len(rows) == len(answer.entries) + answer.rejected
    assert all(
        0 <= row.synctime <= 1e11 and 0 <= row.hashes <= 1e18 and 0 <= row.hashrate <= 1e18
        for row in answer.entries
    )


@given(
    document=answers | st.dictionaries(st.sampled_from(["success", "users", "diff", CANARY]), foreign),
    data=st.data(),
)
def test_no_error_repeats_the_answer(document: dict[str, Any], data: st.DataObject) -> None:
    """Values and foreign keys are personal: no error has one in its text, its arguments or its context."""
    key = data.draw(st.sampled_from([*document, "users", "total", CANARY]))
    odd = data.draw(
        st.sampled_from([CANARY, [CANARY], {CANARY: CANARY}, [{"name": CANARY, "total": CANARY}]])
    )
    answer = json.dumps(document | {key: odd}).encode()
    cut = data.draw(st.sampled_from([len(answer), len(answer) - 1, len(answer) // 2]))

    for error in errors(answer[:cut]):
        assert CANARY not in f"{error} {error.args!r}"
        assert (None, None) == (error.__cause__, error.__context__)
