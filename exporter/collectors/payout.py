"""`/stats/payout`: what a million hashes earn, and the network's difficulty."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from exporter.api.answers import Payout, decode_payout
from exporter.api.client import Request
from exporter.clock import Now
from exporter.collectors.collector import Ask, Collector, EndpointTraits, Step, Visible
from exporter.collectors.expiry import Expiry, Reading, unless_stale
from exporter.collectors.metric import Family, MetricList
from exporter.config import Poll, Site
from exporter.endpoint import Endpoint

PAYOUT = Endpoint("/stats/payout")
METRICS = MetricList(PAYOUT)
DIFFICULTY = METRICS.gauge("network_difficulty", "Network difficulty: diff of /stats/payout.")
VALUE = METRICS.gauge(
    "payout_value", "value of /stats/payout as reported; unit undocumented, probably the block reward."
)
RAW = METRICS.gauge(
    "payout_raw", "payout of /stats/payout as reported; unit undocumented, probably the share paid out."
)
PER_MILLION = METRICS.gauge(
    "payout_coins_per_million_hashes", "Coins paid per million hashes: payoutPer1MHashes of /stats/payout."
)
SYNC_TIMESTAMP = METRICS.gauge(
    "payout_sync_timestamp_seconds", "When the payout was computed: synctime of /stats/payout.", Expiry.NEVER
)


class PayoutView(NamedTuple):
    """The payout while it is current, and its `synctime`, which does not expire."""

    payout: Payout | None
    synctime: float | None


class PayoutCollector(Collector["Reading[Payout] | None", PayoutView]):
    """The last answer, exported field by field."""

    endpoints = {PAYOUT: EndpointTraits()}
    metrics = METRICS
    initial = None

    def polled(self, site: Site) -> Mapping[Endpoint, Poll]:
        """Poll always."""
        return {PAYOUT: site.polls.payout}

    async def poll(self, site: Site, endpoint: Endpoint, ask: Ask) -> Payout:
        """Ask once."""
        return await ask(Request(endpoint, decode_payout))

    def step(
        self, site: Site, endpoint: Endpoint, state: Reading[Payout] | None, answer: Payout, now: Now
    ) -> Step[Reading[Payout] | None]:
        """Keep the answer."""
        return Step(Reading(answer, now))

    def visible(self, site: Site, state: Reading[Payout] | None, now: Now) -> Visible[PayoutView]:
        """Show the answer until it is stale."""
        payout, until = unless_stale(state, site.polls.payout, now)
        view = PayoutView(payout, state.value.synctime if state else None)
        return Visible(view, until, frozenset() if payout else frozenset({PAYOUT}))

    def families(self, site: Site, view: PayoutView) -> Iterator[Family]:
        """Return a gauge for each field."""
        if view.payout is not None:
            yield Family.single(DIFFICULTY, site, view.payout.diff)
            yield Family.single(VALUE, site, view.payout.value)
            yield Family.single(RAW, site, view.payout.payout)
            yield Family.single(PER_MILLION, site, view.payout.payout_per_million)
        if view.synctime is not None:
            yield Family.single(SYNC_TIMESTAMP, site, view.synctime)
