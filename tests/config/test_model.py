"""The configuration as the program uses it."""

from __future__ import annotations

from dataclasses import replace

from tests.config.documents import CANARY, parse


def test_host_never_shows_user_or_password() -> None:
    """Even an Api made by hand from a URL with a password names the host alone."""
    api = replace(parse().api, url=f"https://user:{CANARY}@example.org:8443/x")

    assert api.host == "example.org:8443"
