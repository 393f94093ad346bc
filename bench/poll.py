"""One poll.

From the bytes of a `/user/top` answer with 1,024 users to the site's published pages: decoded, checked,
guarded, rendered, compressed, in both formats, plain and gzip. Against what cannot be left out: msgspec's
decoding, the same lines as joined f-strings, and zlib at level 1, once. CPU of one thread, mean of a round;
the answers are the simulated API's, a minute apart.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from typing import TYPE_CHECKING

import msgspec

from bench import answers
from bench.report import Ratio, Row, Spread, Target
from exporter import config
from exporter.api import answers as model
from exporter.clock import Now
from exporter.collectors import metrics, snapshot
from exporter.collectors.metrics import ExporterMetrics
from exporter.collectors.snapshot import Snapshot, Store
from exporter.endpoint import Endpoint
from exporter.pages.pages import Pages
from exporter.pages.text import Format

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SITE = "my-site"
USERS = 1024
POLLS = 60  # of each round
MILLISECONDS = 1000
CPU = Target(1.3, at_most=True)

_decoder = msgspec.json.Decoder(answers.Users, strict=False)


def measure(rounds: int) -> list[Row]:
    """Take the same answers both ways, in turn; one round of each before is not counted."""
    bodies = asyncio.run(answers.top_users(SITE, USERS, POLLS * (rounds + 1)))
    poll = _polls()
    ours, bare = [], []
    for number in range(rounds + 1):
        part = bodies[number * POLLS :][:POLLS]
        ours.append(_spent(poll, part))
        bare.append(_spent(_bare, part))
    ratio = Ratio("exporter ÷ bare", Spread.of_ratios(ours[1:], bare[1:]))
    work, unit = "a poll of 1,024 users", "ms of CPU"
    return [
        Row(work, "exporter", unit, Spread.of(ours[1:]), ratio, CPU),
        Row(work, "msgspec + f-strings + zlib", unit, Spread.of(bare[1:])),
    ]


def _spent(work: Callable[[bytes], object], bodies: Sequence[bytes]) -> float:
    begin = time.process_time()
    for body in bodies:
        work(body)
    return MILLISECONDS * (time.process_time() - begin) / len(bodies)


def _polls() -> Callable[[bytes], None]:
    """Return what the exporter does with an answer, for a site of its own, a minute later each time."""
    site = {"name": SITE, "secret": "secret"}
    loaded = config.parse({"api": {"url": "http://127.0.0.1:1"}, "sites": [site]}, {})
    store, now = Store(), Now(answers.START, 0.0)
    store.publish(SITE, snapshot.planned(Snapshot(), Endpoint.TOP_USERS, now.wall))
    pages = Pages(store, ExporterMetrics("", ""), [metrics.subject(loaded, loaded.sites[0])])

    def poll(body: bytes) -> None:
        nonlocal now
        now = Now(now.wall + answers.MINUTE, now.mono + answers.MINUTE)
        users = snapshot.labelled(model.decode_top_users(body), None)
        known = snapshot.with_top_users(store[SITE], users.entries, now)
        next_poll = now.wall + answers.MINUTE
        store.publish(
            SITE,
            snapshot.succeeded(
                known, Endpoint.TOP_USERS, at=now.wall, rejected=users.rejected, next_poll=next_poll
            ),
        )
        if edition := pages.site(SITE, now):
            for format_ in Format:
                for zipped in (False, True):
                    edition.page(format_, zipped=zipped)

    return poll


def _bare(body: bytes) -> bytes:
    hashes, withdrawn = "cryptoloot_user_hashes_total", "cryptoloot_user_withdrawn_coins_total"
    balance = "cryptoloot_user_balance_coins"
    users = _decoder.decode(body).users
    lines = [f'{hashes}{{site="{SITE}",user="{user.name}"}} {user.total}\n' for user in users]
    lines += [f'{withdrawn}{{site="{SITE}",user="{user.name}"}} {user.withdrawn}\n' for user in users]
    lines += [f'{balance}{{site="{SITE}",user="{user.name}"}} {user.balance}\n' for user in users]
    return zlib.compress("".join(lines).encode(), 1)
