"""Sites with data, and their pages at any moment."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from exporter.api.errors import InvalidResponse
from exporter.collectors.snapshot import Snapshot, Store
from exporter.pages.exporter_metrics import OwnMetrics
from exporter.pages.pages import Pages
from exporter.pages.text import Format, header, lines
from tests.collectors.sites import failed, later, polled
from tests.conftest import parsed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from exporter.clock import Now
    from exporter.collectors.metric import Family
    from exporter.config import Site
    from exporter.endpoint import Endpoint, Reason


def at(seconds: float) -> Now:
    """Return a moment so many seconds after the start, on both clocks."""
    return later(seconds)


def sites_of(*names: str, **sections: Any) -> tuple[Site, ...]:
    """Return configured sites of these names."""
    return parsed("http://127.0.0.1:1", *names, **sections).sites


def exposition(families: Iterable[Family], format_: Format) -> bytes:
    """Return a whole page of the families."""
    parts = [header(family.metric, format_) + lines(family) for family in families if family.values]
    return b"".join(parts) + format_.end


class Exposed:
    """The pages of some sites, at a moment that a test sets."""

    def __init__(self, *names: str, **sections: Any) -> None:
        self.now = at(0)
        self.sites = {site.name: site for site in sites_of(*names, **sections)}
        self.store = Store()
        for name in self.sites:
            self.store.publish(name, Snapshot())
        self.own = OwnMetrics("1.2.3", "abc")
        self.pages = Pages(self.store, self.own, lambda: self.now, list(self.sites.values()))

    def answer(self, name: str, endpoint: Endpoint, answer: Any) -> None:
        """Let a poll of a site's endpoint bring an answer now. One that is no answer, it fails."""
        try:
            after = polled(self.store[name], self.sites[name], endpoint, answer, self.now)
        except InvalidResponse as error:  # all rows are in the future
            after = failed(self.store[name], endpoint, error.reason, self.now)
        self.store.publish(name, after)

    def fail(self, name: str, endpoint: Endpoint, reason: Reason) -> None:
        """Let a poll of a site's endpoint fail now."""
        self.store.publish(name, failed(self.store[name], endpoint, reason, self.now))

    def metrics(
        self, seconds: float | None = None, format_: Format = Format.TEXT, *, zipped: bool = False
    ) -> bytes:
        """Return `/metrics`, now or so many seconds after the start."""
        self.now = self.now if seconds is None else at(seconds)
        return asyncio.run(self.pages.metrics(format_, zipped=zipped))

    def probe(self, name: str, format_: Format = Format.TEXT, *, zipped: bool = False) -> bytes | None:
        """Return `/probe` of a site now."""
        return asyncio.run(self.pages.probe(name, format_, zipped=zipped))

    def rendered(self) -> list[str]:
        """Return which sites were rendered."""
        return [page.site.name for page in self.pages.overview() if page.bytes]
