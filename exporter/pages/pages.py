"""The pages in force: each site's own, and the full one.

A site's families are rendered when its data has changed, or when time has changed what is visible. A page is
finished when it is first asked for, and kept until something changes.
"""

import asyncio
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

import structlog
from prometheus_client.exposition import generate_latest

from exporter.clock import NEVER, Now
from exporter.collectors.registry import FAMILY_FUNCTIONS, SITE_METRICS, site_visible
from exporter.collectors.snapshot import Snapshot, Store
from exporter.config import Site
from exporter.pages.exporter_metrics import OwnMetrics
from exporter.pages.text import Format, header, lines, to_openmetrics

SiteText = tuple[bytes | None, ...]

GZIP_FRAME = 31  # for zlib: one gzip member
JOINED = 64  # texts that are compressed together: at most a megabyte or so
GZIP_LEVEL = 1  # twice the size of level 9 in a tenth of its time; the next scrape is seconds away
HELP_LINES = {format_: tuple(header(metric, format_) for metric in SITE_METRICS) for format_ in Format}
NO_SITE: SiteText = (None,) * len(SITE_METRICS)
# For each of FAMILY_FUNCTIONS the view, and its sample lines by metric.
NOT_RENDERED: Sequence[tuple[Any, Mapping[str, bytes]]] = [(None, {})] * len(FAMILY_FUNCTIONS)
OWN_MAX_AGE = 1.0  # seconds: how old the exporter's own metrics may be in a scrape
RETRY_SECONDS = 10.0  # seconds until a site that could not be rendered is tried again
THREAD_ABOVE = 1024 * 1024  # bytes: finishing a larger page takes too long for the event loop

_numbers = count()
log = structlog.get_logger()


def help_bytes(sites: Sequence[SiteText]) -> int:
    """Return the size of the headers of all families that one of the sites has, in the text format."""
    columns = zip(HELP_LINES[Format.TEXT], zip(*(sites or [NO_SITE]), strict=True), strict=True)
    return sum(len(head) for head, column in columns if any(column))


class Page:
    """What is exported at one moment. Its bytes are made when they are first asked for, and then kept.

    `own` are the exporter's own metrics in the text format. Later pages have higher numbers.
    """

    def __init__(self, sites: Sequence[SiteText], own: bytes = b"") -> None:
        self.number = next(_numbers)
        self._sites = sites or [NO_SITE]
        self._own = own
        self._finished: dict[tuple[Format, bool], bytes] = {}

    def is_finished(self, format_: Format, *, zipped: bool) -> bool:
        """Whether the bytes were asked for before."""
        return (format_, zipped) in self._finished

    def finish(self, format_: Format, *, zipped: bool) -> bytes:
        """Return the bytes, plain or as one gzip member. May be called in any thread."""
        body = self._finished.get((format_, zipped))
        if body is None:
            texts: list[bytes] = []
            for head, column in zip(HELP_LINES[format_], zip(*self._sites, strict=True), strict=True):
                samples = [text for text in column if text is not None]
                if samples:
                    texts += head, *samples
            own = to_openmetrics(self._own) if format_ is Format.OPENMETRICS else self._own
            texts += own, format_.end
            if zipped:
                # In pieces: joining 100 MiB first would keep the interpreter from the event loop for 100 ms.
                stream = zlib.compressobj(GZIP_LEVEL, wbits=GZIP_FRAME)
                pieces = (b"".join(texts[at : at + JOINED]) for at in range(0, len(texts), JOINED))
                texts = [*map(stream.compress, pieces), stream.flush()]
            body = self._finished[format_, zipped] = b"".join(texts)
        return body


class ExportedSite(NamedTuple):
    """A site as it is exported: its config, its data, and how large its samples are."""

    site: Site
    snapshot: Snapshot
    bytes: int
    series: int


class _RenderedSite:
    """The rendered families of one site, and until when they are right."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.text: SiteText = NO_SITE
        self.page = Page([NO_SITE])
        self.bytes = 0
        self.series = 0
        self.until = NEVER
        self.names = site.users, site.watch_users
        self.sections = NOT_RENDERED

    def render(self, snapshot: Snapshot, now: Now) -> bool:
        """Render the families whose view has changed; return whether there was one."""
        sections, end, changed = [], NEVER, False
        visible = site_visible(self.site, snapshot, now)
        for before, families, (view, until, _) in zip(self.sections, FAMILY_FUNCTIONS, visible, strict=True):
            end = end.earlier(until)
            if view == before[0]:
                sections.append(before)
            else:
                changed = True
                exported = [family for family in families(self.site, view) if family.values]
                sections.append((view, {family.metric.name: lines(family) for family in exported}))
        self.until = end
        if not changed:
            return False
        self.sections = sections
        texts = {name: text for _, texts in sections for name, text in texts.items()}
        self.text = tuple(texts.get(metric.name) for metric in SITE_METRICS)
        self.page = Page([self.text])
        self.bytes = sum(map(len, texts.values()))
        self.series = sum(text.count(b"\n") for text in texts.values())  # in a label it is escaped
        return True


class Pages:
    """The pages of all sites. `store` reports every change of data; changes by time are found here."""

    def __init__(
        self, store: Store, own: OwnMetrics, now: Callable[[], Now], sites: Sequence[Site] = ()
    ) -> None:
        self._store = store
        self._own = own
        self._now = now
        self._sites: dict[str, _RenderedSite] = {}
        self._outdated: dict[str, None] = {}  # names of sites to be rendered, the longest waiting first
        self._changed = asyncio.Event()
        self._until, self._wall = NEVER, 0.0  # until when no site changes by time; the wall clock last seen
        self._full: Page | None = None
        self._own_at = float("-inf")  # when the own metrics were rendered, monotonic seconds
        self._own_text = b""
        self._finishing, self._waiting = asyncio.Lock(), 0
        self._latest: dict[tuple[Format, bool], tuple[int, bytes]] = {}
        self.full_bytes = 0
        self.full_series = 0
        store.on_change = self._note_change
        self.show(sites)

    def show(self, sites: Sequence[Site], *, on_metrics: bool = True) -> None:
        """Export these sites from now on, on `/metrics` or not; what is rendered and still right is kept."""
        before, self._sites = self._sites, {}
        for site in sites:
            rendered = before.get(site.name)
            # Names that may not be exported any more must not stay until the site is rendered again.
            if rendered is None or rendered.names != (site.users, site.watch_users):
                rendered = _RenderedSite(site)
            elif rendered.site != site:
                rendered.site, rendered.sections = site, NOT_RENDERED
            self._sites[site.name] = rendered
        self.on_metrics = on_metrics
        self._outdated = dict.fromkeys(self._sites)
        self._full = None
        self._changed.set()

    @property
    def site_names(self) -> list[str]:
        """The names of the sites that are exported."""
        return list(self._sites)

    def overview(self) -> list[ExportedSite]:
        """Return every site with its data now, and the size that its samples last had."""
        return [
            ExportedSite(rendered.site, self._store[name], rendered.bytes, rendered.series)
            for name, rendered in self._sites.items()
        ]

    async def metrics(self, format_: Format, *, zipped: bool) -> bytes:
        """Return `/metrics` with what is known now. Includes the sites only if `on_metrics`."""
        now = self._now()
        if self.on_metrics and self._find_outdated(now):
            await self.render_outdated()
            now = self._now()
        page = self._current(now)
        if self.full_bytes < THREAD_ABOVE or page.is_finished(format_, zipped=zipped):
            return page.finish(format_, zipped=zipped)
        # One thread at a time. What it finishes serves all who came before it began.
        self._waiting += 1
        try:
            async with self._finishing:
                number, body = self._latest.get((format_, zipped), (-1, b""))
                if number < page.number:
                    page = self._current(self._now())
                    body = await asyncio.to_thread(page.finish, format_, zipped=zipped)
                    self._latest[format_, zipped] = page.number, body
                return body
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._latest.clear()

    async def probe(self, name: str, format_: Format, *, zipped: bool) -> bytes | None:
        """Return `/probe` of a site with what is known now; None when no site has this name."""
        rendered = self._sites.get(name)
        if rendered is None:
            return None
        if name in self._find_outdated(self._now()):
            self._render(name)
        if rendered.bytes < THREAD_ABOVE:
            return rendered.page.finish(format_, zipped=zipped)
        return await asyncio.to_thread(rendered.page.finish, format_, zipped=zipped)

    async def keep_rendered(self) -> None:
        """Render what polls bring before it is asked for; ends when it is cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self.render_outdated()

    async def render_outdated(self) -> None:
        """Render the sites that have changed until now, one per turn of the event loop."""
        for name in list(self._find_outdated(self._now())):
            if name in self._outdated:
                self._render(name)
                await asyncio.sleep(0)

    def _note_change(self, name: str) -> None:
        if name in self._sites:
            self._outdated[name] = None
            self._changed.set()

    def _find_outdated(self, now: Now) -> Collection[str]:
        """Return the names of sites to be rendered, with those that time has changed since the last look."""
        back = now.wall < self._wall
        self._wall = now.wall
        if back or now.wall >= self._until.wall or now.mono >= self._until.mono:
            self._until = NEVER
            for name, rendered in self._sites.items():
                until = rendered.until
                if back or now.wall >= until.wall or now.mono >= until.mono:
                    self._outdated[name] = None
                else:
                    self._until = self._until.earlier(until)
        return self._outdated

    def _render(self, name: str) -> None:
        """Render one site; when that fails, it stays as it was, and is tried again soon."""
        del self._outdated[name]
        rendered, now = self._sites[name], self._now()
        try:
            if rendered.render(self._store[name], now) and self.on_metrics:
                self._full = None
        except Exception as error:  # noqa: BLE001 - one site's data must not keep the others from being exported
            log.error("render_failed", site=name, error=type(error).__name__)  # noqa: TRY400 - may hold names
            rendered.until = Now(now.wall + RETRY_SECONDS, now.mono + RETRY_SECONDS)
        self._until = self._until.earlier(rendered.until)

    def _current(self, now: Now) -> Page:
        """Return the full page of what is rendered, with own metrics that are at most a second old."""
        aged = now.mono - self._own_at >= OWN_MAX_AGE
        if self._full is not None and not aged:
            return self._full
        rendered = list(self._sites.values()) if self.on_metrics else []
        texts = [site.text for site in rendered]
        size = help_bytes(texts) + sum(site.bytes for site in rendered)
        series = sum(site.series for site in rendered)
        for _ in range(1 if self._own_text else 2):  # at first twice: the page has its own size too
            if aged:
                self._own_at = now.mono
                self._own.page_bytes.set(self.full_bytes)
                self._own.series.set(self.full_series)
                self._own_text = generate_latest(self._own.registry)
            self.full_bytes = size + len(self._own_text)
            self.full_series = series + sum(not line.startswith(b"#") for line in self._own_text.splitlines())
        self._full = Page(texts, self._own_text)
        return self._full
