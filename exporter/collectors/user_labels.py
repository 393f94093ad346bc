"""User names as labels: untrusted personal data made safe, or replaced by a keyed hash."""

import hmac
import re
from hashlib import sha256

from msgspec.structs import replace

from exporter.api.answers import User, Users
from exporter.config import Site

LABEL_BYTES = 128  # longer names are cut: a visitor chooses the name, Prometheus stores it
# In Prometheus' formats only a line feed ends a line, and it is escaped. But a reader that splits the page as
# Python's splitlines does would lose all of it to one such character. So they are replaced, like half a pair.
LINE_BREAK = re.compile("[\r\v\f\x1c-\x1e\x85\u2028\u2029]")


def names_key(site: Site) -> bytes | None:
    """Return the key of the hashes that replace names; None where names are exported as they are."""
    return site.users.key.reveal().encode() if site.users.key else None


def label_users(answer: Users, key: bytes | None) -> Users:
    """Return the answer with labels in place of names; a second user with the same label is rejected."""
    names = [user.name for user in answer.entries]
    labels = [
        # Most names are plain. ASCII that is printable has no line break.
        name
        if key is None and len(name) <= LABEL_BYTES and name.isascii() and name.isprintable()
        else user_label(name, key)
        for name in names
    ]
    if labels == names:
        return answer
    labelled: dict[str, User] = {}
    for label, user in zip(labels, answer.entries, strict=True):
        labelled.setdefault(label, User(label, user.total, user.withdrawn, user.balance))
    collisions = len(answer.entries) - len(labelled)
    fault = answer.fault or ("two names have one label" if collisions else "")
    return replace(
        answer, entries=tuple(labelled.values()), rejected=answer.rejected + collisions, fault=fault
    )


def user_label(name: str, key: bytes | None) -> str:
    """Return a name as a label: at most 128 bytes, or with a `key` 16 hex digits of its HMAC-SHA-256.

    A name that is too long is cut. In one that is no Unicode text (lone surrogates), or has line breaks that
    some scrapers split a page at, these characters are replaced. Both get `~` and 8 hex digits of the whole
    name's SHA-256, so that different names stay different.
    """
    raw = name.encode("utf-8", "surrogatepass")
    if key is not None:
        return hmac.digest(key, raw, "sha256").hex()[:16]
    text = LINE_BREAK.sub("\ufffd", raw.decode("utf-8", "replace"))
    if text == name and len(raw) <= LABEL_BYTES:
        return name
    suffix = f"~{sha256(raw).hexdigest()[:8]}"
    return text.encode()[: LABEL_BYTES - len(suffix)].decode("utf-8", "ignore") + suffix
