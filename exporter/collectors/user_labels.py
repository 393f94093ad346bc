"""User names as labels: untrusted personal data made safe, or replaced by a keyed hash."""

import hmac
from hashlib import sha256

from exporter.api.answers import Entries, User, Users
from exporter.config import Site

LABEL_BYTES = 128  # longer names are cut: a visitor chooses the name, Prometheus stores it


def names_key(site: Site) -> bytes | None:
    """Return the key of the hashes that replace names; None where names are exported as they are."""
    return site.users.key.reveal().encode() if site.users.key else None


def label_users(answer: Users, key: bytes | None) -> Users:
    """Return the answer with labels in place of names; a second user with the same label is rejected."""
    names = [user.name for user in answer.entries]
    labels = [
        name if key is None and name.isascii() and len(name) <= LABEL_BYTES else user_label(name, key)
        for name in names
    ]
    if labels == names:
        return answer
    labelled: dict[str, User] = {}
    for label, user in zip(labels, answer.entries, strict=True):
        labelled.setdefault(label, User(label, user.total, user.withdrawn, user.balance))
    collisions = len(answer.entries) - len(labelled)
    return Entries(tuple(labelled.values()), answer.rejected + collisions, answer.next_page)


def user_label(name: str, key: bytes | None) -> str:
    """Return a name as a label: at most 128 bytes, or with a `key` 16 hex digits of its HMAC-SHA-256.

    A name that is too long, or is no Unicode text (lone surrogates), is cut or has characters replaced, and
    gets `~` and 8 hex digits of the whole name's SHA-256, so that different names stay different.
    """
    raw = name.encode("utf-8", "surrogatepass")
    if key is not None:
        return hmac.digest(key, raw, "sha256").hex()[:16]
    text = raw.decode("utf-8", "replace")
    if text == name and len(raw) <= LABEL_BYTES:
        return name
    suffix = f"~{sha256(raw).hexdigest()[:8]}"
    return text.encode()[: LABEL_BYTES - len(suffix)].decode("utf-8", "ignore") + suffix
