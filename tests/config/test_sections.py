"""The sections of config.yaml and the classes that the program uses for them."""

from __future__ import annotations

from msgspec.structs import fields, replace

from exporter.config import schema
from exporter.config.sections import POLL_CLASSES, PollsSection
from tests.config.documents import CANARY, parse


def test_each_poll_section_has_its_class() -> None:
    """The sections under `poll` are those of `Polls`, and each has exactly the keys of its class."""
    assert list(schema.fields(PollsSection)) == list(POLL_CLASSES)
    assert {name: {field.name for field in fields(poll)} for name, (_, poll) in POLL_CLASSES.items()} == {
        name: set(schema.fields(section)) for name, (section, _) in POLL_CLASSES.items()
    }


def test_host_never_shows_user_or_password() -> None:
    """Even an Api made by hand from a URL with a password names the host alone."""
    api = replace(parse().api, url=f"https://user:{CANARY}@example.org:8443/x")

    assert api.host == "example.org:8443"
