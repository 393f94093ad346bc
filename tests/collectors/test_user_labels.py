from __future__ import annotations

import hmac
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.api.answers import Entries, User
from exporter.collectors.user_labels import LABEL_BYTES, label_users, names_key, user_label
from tests.collectors.sites import KEY, a_site

HASH_KEY = KEY.encode()

names = st.text(st.characters(), min_size=1, max_size=60) | st.text(
    "a\u00e9\u20ac\U0001f600\ud800", max_size=140
)


def a_user(name: str, total: float = 0, withdrawn: float = 0, balance: float = 0) -> User:
    return User(name, total, withdrawn, balance)


def test_the_key_is_the_configs() -> None:
    """Names are hashed where the config says so, and nowhere else."""
    hashed = a_site(users={"names": "hmac", "names_key_env": "KEY"})

    assert [HASH_KEY, None, None] == [
        names_key(site) for site in (hashed, a_site(), a_site(users={"names": "off"}))
    ]


BREAKS = "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"  # Python's str.splitlines ends a line at each


@pytest.mark.parametrize("line_break", BREAKS, ids=ascii)
def test_line_breaks_of_other_scrapers_are_replaced(line_break: str) -> None:
    """A visitor's name cannot make a scraper that splits lines by Unicode lose the page."""
    name = f"mar{line_break}ia"

    assert f"mar\ufffdia~{sha256(name.encode()).hexdigest()[:8]}" == user_label(name, None)
    assert [user_label(name, None)] == [
        user.name for user in label_users(Entries((a_user(name),)), None).entries
    ]


@given(name=names | st.text(f"a\n{BREAKS}"), key=st.none() | st.binary())
def test_a_label_has_one_line_beside_line_feeds(name: str, key: bytes | None) -> None:
    """Only a line feed, which the page escapes, splits a label, however its reader splits lines."""
    label = label_users(Entries((a_user(name),)), key).entries[0].name

    assert 1 == len(f".{label}.".replace("\n", " ").splitlines())


@pytest.mark.parametrize("name", ["maria", "a" * 128, "\u00e9" * 64, '"} 1\nup 0', "\u202e\x00", "~", " "])
def test_names_that_fit_are_labels(name: str) -> None:
    """A name of up to 128 bytes is its own label, whatever it says."""
    assert name == user_label(name, None)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("a" * 129, "a" * 119),
        ("a" * 300, "a" * 119),
        ("\u00e9" * 65, "\u00e9" * 59),  # 118 bytes: the 60th would end at 120
        ("\U0001f600" * 33, "\U0001f600" * 29),
        ("a" + "\u20ac" * 43, "a" + "\u20ac" * 39),
    ],
    ids=["129 bytes", "300 bytes", "2-byte", "4-byte", "3-byte"],
)
def test_long_names_are_cut(name: str, kept: str) -> None:
    """A longer one is cut at a character to at most 119 bytes, and gets 8 hex digits of its SHA-256."""
    assert f"{kept}~{sha256(name.encode()).hexdigest()[:8]}" == user_label(name, None)


def test_names_that_are_no_text_are_made_text() -> None:
    """A lone surrogate would fail a whole page: it is replaced, and the digest tells such names apart."""
    first, second = user_label("mar\ud800a", None), user_label("mar\udfffa", None)

    assert first != second
    assert f"~{sha256(b'mar' + bytes.fromhex('eda080') + b'a').hexdigest()[:8]}" == first[-9:]
    assert ("mar", "\ufffd") == (first[:3], first[3])


@pytest.mark.parametrize("name", ["maria", "a" * 300, "mar\ud800a", ""])
def test_names_as_hmac(name: str) -> None:
    """With a key the label is the first 16 hex digits of HMAC-SHA-256 of the whole name."""
    expected = hmac.new(HASH_KEY, name.encode("utf-8", "surrogatepass"), "sha256").hexdigest()[:16]

    assert expected == user_label(name, HASH_KEY)
    assert expected != user_label(name, HASH_KEY + b"!")


@given(name=names, key=st.none() | st.binary())
def test_a_label_is_text_of_128_bytes(name: str, key: bytes | None) -> None:
    """Whatever the name, its label is Unicode text of at most 128 bytes, and always the same."""
    label = user_label(name, key)

    assert len(label.encode()) <= LABEL_BYTES
    assert label == user_label(name, key)
    assert label == name or label[-9] == "~" or key is not None


@given(users=st.lists(names, unique=True, max_size=5), key=st.none() | st.binary())
def test_labels_are_unique(users: list[str], key: bytes | None) -> None:
    """Different names stay different, or the later one is a rejected entry: none is lost silently."""
    answer = label_users(Entries(tuple(a_user(name) for name in users), 2, "page"), key)

    assert len(users) + 2 == len(answer.entries) + answer.rejected
    assert len(answer.entries) == len({user.name for user in answer.entries})
    assert "page" == answer.next_page


@given(users=st.lists(names, max_size=5), key=st.none() | st.binary())
def test_labels_are_those_of_each_name(users: list[str], key: bytes | None) -> None:
    """An answer's labels are those of its names: the quick way for plain names is no other rule."""
    answer = label_users(Entries(tuple(a_user(name) for name in dict.fromkeys(users))), key)

    assert list(dict.fromkeys(user_label(name, key) for name in users)) == [
        user.name for user in answer.entries
    ]


@pytest.mark.parametrize("impostor_first", [True, False])
def test_an_impostor_is_rejected(impostor_first: bool) -> None:
    """Who is called as another's cut label shares no series: the second of the two is rejected."""
    victim = a_user("a" * 200, 1000, 1, 2)
    impostor = a_user(user_label(victim.name, None), 5)
    users = (impostor, victim) if impostor_first else (victim, impostor)
    answer = label_users(Entries(users, 0, None), None)

    assert [(impostor.name, users[0].total)] == [(user.name, user.total) for user in answer.entries]
    assert 1 == answer.rejected


def test_a_label_keeps_the_numbers() -> None:
    """A label replaces the name alone."""
    users = (a_user("maria", 1, 2, 3), a_user("b" * 200, 4, 5, 6))
    answer = label_users(Entries(users, 0, None), HASH_KEY)

    assert [(1, 2, 3), (4, 5, 6)] == [(user.total, user.withdrawn, user.balance) for user in answer.entries]
    assert [user_label("maria", HASH_KEY), user_label("b" * 200, HASH_KEY)] == [
        user.name for user in answer.entries
    ]
