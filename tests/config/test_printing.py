"""What `check` prints: the effective configuration, without secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml
from msgspec.structs import replace

from exporter import config
from exporter.config.secret import SecretReader
from tests.config.documents import CANARY, ENVIRON, parse, secret_file, site

if TYPE_CHECKING:
    from pathlib import Path


def test_no_secret_shows_anywhere() -> None:
    """Neither the config's repr and str, nor its warnings, nor `masked` hold any secret of any source."""
    loaded = parse(
        [site(), {"name": "b", "secret": f"{CANARY}-b"}],
        users={"names": "hmac", "names_key_env": "NAMES_KEY"},
    )

    reader = SecretReader(loaded.sites[0].secret)

    shown = f"{loaded!r} {loaded} {loaded.warnings} {config.masked(loaded)} {reader!r} {reader.current()}"

    assert CANARY not in shown


def test_masked_reads_back_as_the_same(tmp_path: Path) -> None:
    """What `check` prints is a config file that means the same, overrides, files and units included."""
    path = secret_file(tmp_path / "secret")
    loaded = parse(
        [
            site(watch_users=["ann"], poll={"top_users": {"count": 25}, "payout": {"interval": "7ms"}}),
            {"name": "b", "secret_file": str(path), "currency": "UPX"},
            site("c"),
        ],
        api={"url": "http://localhost:12759", "timeout": "1m30s", "max_response_bytes": 1025},
        users={"names": "off"},
        web={"sites_on_metrics": False},
    )

    assert loaded == config.parse(yaml.safe_load(config.masked(loaded)), ENVIRON)


def test_masked_shows_masks_and_shared_polls_once() -> None:
    """Secrets and keys are the mask; polls most sites share are shown in the section `poll` alone."""
    loaded = parse(
        [{"name": "a", "secret": CANARY}, site("b")],
        users={"names": "hmac", "names_key_env": "NAMES_KEY"},
    )

    shown = yaml.safe_load(config.masked(loaded))

    assert {"name": "a", "secret": "**********", "currency": "XMR"} == shown["sites"][0]
    assert {"names": "hmac", "names_key": "**********"} == shown["users"]


def test_masked_shows_a_shard_without_sites() -> None:
    """A process whose share of the sites is empty still has a config to show."""
    loaded = replace(parse(), sites=())

    assert [] == yaml.safe_load(config.masked(loaded))["sites"]
