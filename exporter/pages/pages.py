"""The finished pages: bytes made when a site's data changes, put together when asked for.

A site's lines are kept by family, so that a poll renders what it changed and no more. What is long is
compressed there and then, once for both formats, and a gzip page is one member made of such parts: a full
flush ends each of them at a byte and forgets what came before (RFC 1951; zlib's manual on `deflate`).
"""

from __future__ import annotations

import threading
import zlib
from array import array
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog
from msgspec import Struct
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from exporter.clock import Now
from exporter.collectors.metrics import GROUPS, SITE_METRICS, unchanged_until
from exporter.pages.text import Format, header, lines

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

    from exporter.collectors.metrics import ExporterMetrics, Family, Subject
    from exporter.collectors.snapshot import Snapshot, Store

OWN_MAX_AGE = 1.0  # seconds: how old the exporter's own metrics may be on a page
AGAIN = 10.0  # seconds until a site that could not be rendered is looked at again
LEVEL = 1  # twice the size of level 9 at a tenth of its time; the next scrape is seconds away
LONG = 8 * 1024  # bytes of lines that are compressed on their own
MANY = 100  # samples of a family that are rendered in a step of their own
PIECE = 64 * 1024  # bytes: what is written at once is copied, and encrypted, at once
GZIP_HEAD = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"  # RFC 1952: deflate, no time, fastest, unknown system
LAST_BLOCK = b"\x03\x00"  # an empty one (RFC 1951, 3.2.6)
_DONE = object()
_numbers = count()
log = structlog.get_logger()
NEVER = Now(float("inf"), float("inf"))


class Part(Struct, frozen=True, gc=False):
    """The sample lines of one family of one site; `deflated` as well where they are long."""

    plain: bytes
    deflated: bytes | None = None


class Page(NamedTuple):
    """A finished page, in pieces to be written one after another, and their length together."""

    pieces: tuple[bytes, ...]
    length: int

    @property
    def body(self) -> bytes:
        """All of it."""
        return b"".join(self.pieces)


@dataclass(frozen=True)
class Edition:
    """What is shown at one moment: parts by site and family, and the exporter's own lines by format.

    Pages are made from it when first asked for, in any thread.
    """

    number: int  # later ones have higher numbers
    sites: tuple[tuple[Part | None, ...], ...]
    own: Mapping[Format, bytes]
    size: int  # bytes of the page as plain text
    _made: dict[tuple[Format, bool], Page] = field(default_factory=dict)

    def made(self, format_: Format, *, zipped: bool) -> Page | None:
        """Return a page if it is there already."""
        return self._made.get((format_, zipped))

    def page(self, format_: Format, *, zipped: bool = False) -> Page:
        """Return a page, plain or as one gzip member; the same one each time."""
        page = self._made.get((format_, zipped))
        if page is None:
            parts = self._parts(format_)
            pieces = tuple(_pieces(_zipped(parts) if zipped else (part.plain for part in parts))) or (b"",)
            page = self._made[format_, zipped] = Page(pieces, sum(map(len, pieces)))
        return page

    def _parts(self, format_: Format) -> Iterator[Part]:
        for head, column in _columns(self.sites, format_):
            found = [part for part in column if part is not None]
            if found:
                yield head
                yield from found
        yield Part(self.own.get(format_, b""))
        yield Part(format_.end)


def _columns(
    sites: Sequence[Sequence[Part | None]], format_: Format
) -> Iterator[tuple[Part, tuple[Part | None, ...]]]:
    """Go through the families: each one's header, and each site's part of it; nothing without a site."""
    return zip(HEADS[format_], zip(*sites, strict=True), strict=bool(sites))


HEADS = {format_: tuple(Part(header(metric, format_)) for metric in SITE_METRICS) for format_ in Format}


def _zipped(parts: Iterable[Part]) -> Iterator[bytes]:
    """Frame parts as one gzip member, compressing those that are not yet."""
    crc, length = 0, 0
    yield GZIP_HEAD
    for part in _runs(parts):
        crc = zlib.crc32(part.plain, crc)
        length += len(part.plain)
        yield part.deflated or _deflated(part.plain)
    yield LAST_BLOCK
    yield crc.to_bytes(4, "little") + (length % 2**32).to_bytes(4, "little")


def _runs(parts: Iterable[Part]) -> Iterator[Part]:
    """Put neighbours that are not compressed yet together."""
    run: list[bytes] = []
    for part in parts:
        if part.deflated is None:
            run.append(part.plain)
            continue
        if run:
            yield Part(b"".join(run))
            run = []
        yield part
    yield Part(b"".join(run))


def _pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Put small chunks together, leave larger ones as they are, and cut what is too large to be written."""
    batch: list[bytes] = []
    size = 0
    for chunk in chunks:
        large = len(chunk) > PIECE // 2
        if size and (large or size + len(chunk) > PIECE):
            yield b"".join(batch)
            batch, size = [], 0
        if large:
            yield from _cut(chunk)
        else:
            batch.append(chunk)
            size += len(chunk)
    if size:
        yield b"".join(batch)


def _cut(batch: bytes) -> Iterator[bytes]:
    if len(batch) <= 2 * PIECE:
        yield batch
    else:
        yield from (batch[start : start + PIECE] for start in range(0, len(batch), PIECE))


def _deflate() -> Any:
    return zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)  # without a frame


class Compressor(threading.local):
    """Each thread's own: making one takes longer than what it has to do for a small part (0.05 ms)."""

    def __init__(self, make: Callable[[], Any] = _deflate) -> None:
        self._make = make
        self._stream = make()

    def __call__(self, plain: bytes) -> bytes:
        """Return what is compressed so that it can stand between any other such parts."""
        try:
            deflated: bytes = self._stream.compress(plain) + self._stream.flush(zlib.Z_FULL_FLUSH)
        except BaseException:  # what it has taken so far must not come out with the next
            self._stream = self._make()
            raise
        return deflated


_deflated = Compressor()


class _Site:
    """The parts of one site, what they were made from, and until when they hold."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.parts: tuple[Part | None, ...] = (None,) * len(SITE_METRICS)
        self.size = 0  # bytes of all parts
        self.series = 0
        self.until = NEVER
        self._views: list[Any] = [None] * len(GROUPS)
        self._groups: list[dict[str, _Rendered]] = [{} for _ in GROUPS]
        self._edition: Edition | None = None

    def refresh(self, snapshot: Snapshot, now: Now) -> Iterator[None]:
        """Render what has changed, in steps of less than a millisecond; the last one shows all of it."""
        until = unchanged_until(self.subject, snapshot, now)
        views = [group.view(self.subject, snapshot, now) for group in GROUPS]
        groups = list(self._groups)
        for place, group in enumerate(GROUPS):
            if views[place] != self._views[place]:
                families = group.families(self.subject, views[place])
                groups[place] = yield from _rendered(families, self._groups[place])
        self.until = until
        if views != self._views:
            self._views = views
            self._show(groups)

    def _show(self, groups: list[dict[str, _Rendered]]) -> None:
        self._groups = groups
        found = {name: rendered.part for group in groups for name, rendered in group.items()}
        self.parts = tuple(found.get(metric.name) for metric in SITE_METRICS)
        self.size = sum(len(part.plain) for part in found.values())
        self.series = (
            sum(len(each.values) for group in groups for each in group.values()) // array("d").itemsize
        )
        self._edition = None

    def edition(self) -> Edition:
        """Return the site's own edition; the same one until something changes."""
        if self._edition is None:
            self._edition = Edition(next(_numbers), (self.parts,), {}, self.size)
        return self._edition


class _Rendered(Struct, frozen=True, gc=False):
    """A part, and what it was made from; the values packed: the garbage collector looks at every float."""

    labels: tuple[str | Sequence[str], ...]
    values: bytes
    part: Part


def _rendered(
    families: Iterable[Family], known: Mapping[str, _Rendered]
) -> Generator[None, None, dict[str, _Rendered]]:
    """Render the families that are not known as they are: few users withdraw between two polls."""
    found = {}
    for family in families:
        name, values = family.metric.name, array("d", family.values).tobytes()
        before = known.get(name)
        # The values first: where they differ, as they mostly do, one look tells.
        if before and before.values == values and before.labels == family.labels:
            found[name] = before
        elif values:
            if len(family.values) >= MANY:
                yield
            plain = lines(family)
            found[name] = _Rendered(family.labels, values, Part(plain))
            if len(plain) >= LONG:
                yield
                found[name] = _Rendered(family.labels, values, Part(plain, _deflated(plain)))
    return found


class Shown(NamedTuple):
    """A site as it is shown: what the config says, what is known, and how large its lines are."""

    subject: Subject
    snapshot: Snapshot
    page_bytes: int
    series: int


class Pages:
    """The editions in force: the full one, and one of each site.

    `store` tells of every change, and `wake` is called for it; time makes others, and every site knows until
    when nothing does.
    """

    def __init__(
        self,
        store: Store,
        own: ExporterMetrics,
        subjects: Sequence[Subject],
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._own = own
        self._wake = wake
        self._own_made = float("-inf")
        self._own_lines: dict[Format, bytes] = {}
        self._full: Edition | None = None
        self._sites: dict[str, _Site] = {}
        self._behind: dict[str, None] = {}  # sites to be looked at, the longest waiting first
        self.done = 0  # how often a site was rendered
        self._working = ""  # the site that is being rendered, if any
        self._work: Iterator[None] = iter(())  # the steps left of it
        self._until, self._wall = NEVER, 0.0
        store.tell = self._changed
        self.show(subjects)

    def show(self, subjects: Sequence[Subject], *, on_metrics: bool = True) -> None:
        """Show these sites from now on, on `/metrics` or not; what is rendered and still right is kept."""
        known = self._sites
        self._sites = {
            each.name: known[each.name]
            if each.name in known and known[each.name].subject == each
            else _Site(each)
            for each in subjects
        }
        self._working, self._work = "", iter(())
        self.on_metrics = on_metrics
        self._behind = dict.fromkeys(self._sites)
        self._full = None
        self._wake()

    def backlog(self, now: Now) -> int:
        """Return how many sites may have changed since they were rendered."""
        if now.wall < self._wall or now.wall >= self._until.wall or now.mono >= self._until.mono:
            self._look(now)
        self._wall = now.wall
        return len(self._behind) + self.in_work

    @property
    def in_work(self) -> bool:
        """Whether a site is being rendered."""
        return bool(self._working)

    def step(self, now: Now) -> bool:
        """Go on with the site that is being rendered, or with the next; whether there was anything to do.

        A step is a family that is long, or all families of a site that are not: less than a millisecond.
        """
        if not self._working:
            if not self._behind:
                return False
            self._begin(next(iter(self._behind)), now)
        try:
            over = next(self._work, _DONE) is _DONE
        except Exception as error:  # noqa: BLE001 - one site's data must not keep the others off the page
            over = True
            self._give_up(self._working, error, now)
        if over:
            self._working = ""
            self.done += 1
        return True

    def edition(self, now: Now) -> Edition:
        """Return what `/metrics` shows once all sites are rendered; the same one until something changes."""
        if self.on_metrics:
            self._finish(now)  # what was begun earlier may be old by now, and is looked at again
            for _ in range(self.backlog(now)):
                self.step(now)
                self._finish(now)
        return self.current(now)

    def current(self, now: Now) -> Edition:
        """Return what `/metrics` shows of what is rendered."""
        aged = now.mono - self._own_made >= OWN_MAX_AGE
        if self._full is None or aged:
            self._full = self._assembled(now, aged=aged)
        return self._full

    @property
    def names(self) -> list[str]:
        """The names of the sites that are shown."""
        return list(self._sites)

    def shown(self) -> list[Shown]:
        """Return every site with what is known of it now, and the size that its lines last had."""
        return [
            Shown(site.subject, self._store[name], site.size, site.series)
            for name, site in self._sites.items()
        ]

    def site(self, name: str, now: Now) -> Edition | None:
        """Return what `/probe` shows of a site; None of one that is not shown."""
        if name not in self._sites:
            return None
        if name == self._working:
            self._finish(now)
        if self.backlog(now) and name in self._behind:
            self._finish(now)
            self._begin(name, now)
            self._finish(now)
        return self._sites[name].edition()

    def _changed(self, name: str) -> None:
        if name in self._sites:
            self._behind[name] = None
            self._wake()

    def _look(self, now: Now) -> None:
        """Find the sites that time may have changed, and until when it changes none of the others."""
        back = now.wall < self._wall
        self._until = NEVER
        for name, site in self._sites.items():
            if back or now.wall >= site.until.wall or now.mono >= site.until.mono:
                self._behind[name] = None
            else:
                self._until = _sooner(self._until, site.until)

    def _begin(self, name: str, now: Now) -> None:
        del self._behind[name]
        self._working, self._work = name, self._refresh(name, now)

    def _finish(self, now: Now) -> None:
        while self._working:
            self.step(now)

    def _refresh(self, name: str, now: Now) -> Iterator[None]:
        site = self._sites[name]
        before = site.parts
        yield from site.refresh(self._store[name], now)
        self._until = _sooner(self._until, site.until)
        if site.parts is not before and self.on_metrics:
            self._full = None

    def _give_up(self, name: str, error: Exception, now: Now) -> None:
        """Leave a site as it was shown, and look at it again soon."""
        log.error("render_failed", site=name, error=type(error).__name__)  # its text may hold names
        site = self._sites[name]
        site.until = Now(now.wall + AGAIN, now.mono + AGAIN)
        self._until = _sooner(self._until, site.until)

    def _assembled(self, now: Now, *, aged: bool) -> Edition:
        shown = list(self._sites.values()) if self.on_metrics else []
        sites = tuple(site.parts for site in shown)
        size = sum(len(head.plain) for head, column in _columns(sites, Format.TEXT) if any(column))
        size += sum(site.size for site in shown)
        series = sum(site.series for site in shown)
        if not self._own_lines:  # once more than needed: the first page knows its size too
            self._render_own()
            self._measure(size, series)
        if aged:
            self._own_made = now.mono
            self._render_own()
        self._measure(size, series)
        return Edition(next(_numbers), sites, self._own_lines, size)

    def _render_own(self) -> None:
        openmetrics = generate_openmetrics(self._own.registry).removesuffix(Format.OPENMETRICS.end)
        self._own_lines = {Format.TEXT: generate_latest(self._own.registry), Format.OPENMETRICS: openmetrics}

    def _measure(self, size: int, series: int) -> None:
        """Note the size of the text page; it is shown from the next page of our own metrics on."""
        own = self._own_lines[Format.TEXT]
        self._own.page_bytes.set(size + len(own))
        self._own.series.set(series + sum(not line.startswith(b"#") for line in own.splitlines()))


def _sooner(one: Now, other: Now) -> Now:
    return Now(min(one.wall, other.wall), min(one.mono, other.mono))
