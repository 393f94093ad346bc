"""Names as keyed hashes: nothing that the exporter shows or writes has a user's name in plain text."""

from __future__ import annotations

import html
import json
import re
import time
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, quote_plus

import pytest

from exporter.simulator import HOSTILE_NAMES, Incident, World
from tests.e2e.programs import ask, exporting, running, serving, write_config

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

pytestmark = pytest.mark.slow

SITES = ("shop", "game")
KEY = {"NAMES_KEY": "a key of one's own"}
HASHED = {"names": "hmac", "names_key_env": "NAMES_KEY"}
POLLS = {
    **{name: {"interval": "1s"} for name in ("payout", "history", "top_users", "balances")},
    "all_users": {"interval": "1s", "enabled": True},
}
MARKUP, NOBODY = "<script>alert(1)</script>", "nobody-we-know"
# What happens to both sites: when, in seconds from the start, and for how long.
INCIDENTS: tuple[tuple[str, float, float], ...] = (
    ("hostile", 0, 3600),
    ("waver", 0, 3600),
    ("error", 3, 2),
    ("outage-html", 5, 2),
    ("outage-cut", 7, 2),
    ("wrong-secret", 9, 2),
    ("reset", 11, 0),
)


class Told(NamedTuple):
    """All that an exporter said: its pages, its log, the labels of users by site."""

    pages: list[str]
    log: str
    labels: dict[str, set[str]]


def names(world: World) -> set[str]:
    """Return the names of all users, the empty one left out: it stands anywhere."""
    everybody = {user.name for site in world.sites.values() for user in site.users(world.clock())}
    return {name for name in everybody | {*HOSTILE_NAMES, NOBODY} if name}


def written(name: str) -> set[str]:
    raw = name.encode("utf-8", "surrogatepass")
    markup = {html.escape(name), html.escape(name, quote=False)}
    return {
        name,
        json.dumps(name)[1:-1],
        repr(name)[1:-1],
        quote(raw),
        quote(raw, ""),
        quote_plus(raw),
    } | markup


def plain(found: set[str], texts: Sequence[str]) -> list[str]:
    """Return the names that stand in a text, as they are or as JSON, reprs, HTML and URLs write them."""
    forms = {form for name in found for form in written(name)}
    return [form for form in forms for text in texts if form in text]


def told(
    directory: Path, world: World, seconds: float, paths: Sequence[str], *flags: str, **web: Any
) -> Told:
    """Let an exporter poll a world for so long; return what it told."""
    directory.mkdir(exist_ok=True)
    known = [user.name for user in world.sites["shop"].users(world.clock()) if user.name.isalnum()]
    watched = {"watch_users": [*known[:3], MARKUP, NOBODY]}
    sites = [{"name": site, "secret": f"secret-of-{site}", **watched} for site in SITES]
    pages: list[str] = []
    with serving(world) as api:
        write_config(directory, api.port, *sites, poll=POLLS, users=HASHED, web=web)
        with running(directory, "--log.level=debug", *flags, environ=KEY) as (program, port):
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(0.5)
                pages += [ask(port, path).text for path in paths]
            log = program.err.read_text()
    labels = {site: set(re.findall(f'site="{site}",user="([^"]*)"', "".join(pages))) for site in SITES}
    return Told(pages, log, labels)


def test_no_name_is_told_in_plain_text(tmp_path: Path) -> None:
    """Neither pages, status, log nor backfill have one over a run with incidents; the labels are hashes."""
    now, world = time.time(), World(clock=time.time)
    incidents = [Incident(kind, now + start, length) for kind, start, length in INCIDENTS]
    for site in SITES:
        world.add(site, f"secret-of-{site}", users=40, incidents=list(incidents))
    found = told(tmp_path, world, 14, ["/metrics", "/", "/api/v1/status"])
    with serving(world) as api:
        document = json.loads((tmp_path / "config.yaml").read_text())
        document["api"] = {"url": f"http://127.0.0.1:{api.port}"}
        (tmp_path / "config.yaml").write_text(json.dumps(document))
        flags = ("--until=now", "--output=-", "--log.level=debug")
        with exporting(tmp_path, "backfill", *flags, environ=KEY) as backfill:
            assert 0 == backfill.process.wait(30), backfill.err.read_text()
    events = [json.loads(line) for line in found.log.splitlines()]
    failed = {event["reason"] for event in events if event["event"] == "poll_failed"}

    assert {"internal_error", "invalid_json", "invalid_secret"} <= failed
    assert "watched_user_refused" in found.log
    assert "cryptoloot_history_row_hashes" in backfill.said()
    assert [] == plain(names(world), [*found.pages, found.log, backfill.said(), backfill.err.read_text()])
    assert 40 <= min(len(labels) for labels in found.labels.values())
    assert all(re.fullmatch("[0-9a-f]{16}", label) for labels in found.labels.values() for label in labels)


def test_a_name_has_one_label_everywhere(tmp_path: Path) -> None:
    """In another process, in a shard of its own and at /probe: the same hash, and no plain name."""
    now = time.time()
    world = World(clock=lambda: now)
    for site in SITES:
        world.add(site, f"secret-of-{site}", users=40)
    whole = told(tmp_path / "whole", world, 2, ["/metrics"])
    probes, web = [f"/probe?target={site}" for site in SITES], {"sites_on_metrics": False}
    shards = [
        told(tmp_path / f"shard-{shard}", world, 2, probes, f"--shard={shard}", "--total-shards=2", **web)
        for shard in (0, 1)
    ]
    shown = [{site: labels for site, labels in shard.labels.items() if labels} for shard in shards]

    assert 40 == len(whole.labels["shop"])
    assert whole.labels == {**shown[0], **shown[1]}
    assert not shown[0].keys() & shown[1].keys()
    assert [] == plain(names(world), [page for each in (whole, *shards) for page in each.pages])
