"""Families as bytes: the text format and OpenMetrics, negotiation, and pages made when data changes.

The sample lines of both formats are the same bytes; only the headers and the end differ. A site's lines are
kept by group and family, so that a poll renders what it changed and no more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.utils import floatToGoString

from exporter.metrics import GROUPS, SITE_METRICS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from exporter.metrics import ExporterMetrics, Family, Metric, Subject
    from exporter.snapshot import Now, Snapshot, Store

EXPONENT_FROM = 1e6  # below it, Go and Python write a float alike
OWN_MAX_AGE = 1.0  # seconds: how old the exporter's own metrics may be on a page
HEADER_LENGTH = 1024  # an Accept header longer than this is no scraper's


class Format(Enum):
    """An exposition format; the value is its content type."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

    @property
    def end(self) -> bytes:
        """What ends a page."""
        return b"# EOF\n" if self is Format.OPENMETRICS else b""


def negotiate(accept: str) -> Format:
    """Choose the format an Accept header prefers by q-value (RFC 9110, 12.5.1); text when in doubt."""
    quality = {Format.TEXT: (0, 0.0), Format.OPENMETRICS: (0, 0.0)}  # specificity of the best match, its q
    for media, parameters, q in _ranges(accept):
        for format_, specificity in _matches(media, parameters.get("version")):
            quality[format_] = max(quality[format_], (specificity, q))
    text, openmetrics = quality[Format.TEXT][1], quality[Format.OPENMETRICS][1]
    return Format.OPENMETRICS if openmetrics > text else Format.TEXT


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding header takes gzip, and not rather identity (RFC 9110, 12.5.3)."""
    quality: dict[str, float] = {}
    for coding, _, q in _ranges(accept_encoding):
        quality["gzip" if coding == "x-gzip" else coding] = q
    gzip = quality.get("gzip", quality.get("*", 0.0))
    return gzip > 0 and gzip >= quality.get("identity", 0.0)


def _ranges(header: str) -> Iterable[tuple[str, Mapping[str, str], float]]:
    """Split a header into its ranges: lower-case name, parameters, q; those with a bad q are left out."""
    for item in header[:HEADER_LENGTH].split(","):
        name, *rest = item.split(";")
        pairs = (part.partition("=") for part in rest)
        parameters = {key.strip().lower(): value.strip().strip('"').lower() for key, _, value in pairs}
        q = _quality(parameters.pop("q", "1"))
        if name.strip() and q is not None:
            yield name.strip().lower(), parameters, q


def _quality(text: str) -> float | None:
    try:
        q = float(text)
    except ValueError:
        return None
    return q if 0 <= q <= 1 else None


def _matches(media: str, version: str | None) -> list[tuple[Format, int]]:
    """Return the formats a media range takes, with how specific it is about them."""
    match media:
        case "application/openmetrics-text":
            return [(Format.OPENMETRICS, 4)] if version in {None, "1.0.0"} else []
        case "text/plain":
            return [(Format.TEXT, 4)] if version in {None, "0.0.4"} else []
        case "application/*":
            return [(Format.OPENMETRICS, 3)]
        case "text/*":
            return [(Format.TEXT, 3)]
        case "*/*":
            return [(Format.TEXT, 2), (Format.OPENMETRICS, 1)]
        case _:
            return []


def header(metric: Metric, format_: Format) -> bytes:
    """Return a family's HELP and TYPE lines."""
    name, text = metric.name, metric.help.replace("\\", "\\\\").replace("\n", "\\n")
    if format_ is Format.OPENMETRICS:
        name, text = (
            name.removesuffix("_total") if metric.type == "counter" else name,
            text.replace('"', '\\"'),
        )
    return f"# HELP {name} {text}\n# TYPE {name} {metric.type}\n".encode()


def lines(family: Family) -> bytes:
    """Return the sample lines of a gauge or a counter, the same in both formats."""
    metric = family.metric
    names = metric.labels
    rendered = []
    for values, value in family.samples:
        labels = ",".join([f'{name}="{_escaped(text)}"' for name, text in zip(names, values, strict=True)])
        rendered.append(f"{metric.name}{{{labels}}} {_number(value)}\n")
    return "".join(rendered).encode()


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    return repr(value) if value < EXPONENT_FROM else floatToGoString(value)


def render(families: Iterable[Family], format_: Format) -> bytes:
    """Return a whole page of the families."""
    parts = [header(family.metric, format_) + lines(family) for family in families if family.samples]
    return b"".join(parts) + format_.end


@dataclass
class _Fragments:
    """The lines of one site by family, and the views they were made from."""

    subject: Subject
    views: list[Any] = field(default_factory=lambda: [None] * len(GROUPS))
    lines: list[dict[str, bytes]] = field(default_factory=lambda: [{} for _ in GROUPS])

    def refresh(self, snapshot: Snapshot, now: Now) -> bool:
        """Render the groups whose view has changed; tell whether any has."""
        changed = False
        for place, group in enumerate(GROUPS):
            view = group.view(self.subject, snapshot, now)
            if view != self.views[place]:
                families = group.families(self.subject, view)
                self.lines[place] = {family.metric.name: lines(family) for family in families}
                self.views[place] = view
                changed = True
        return changed

    def of(self, metric: Metric) -> bytes:
        return next((group[metric.name] for group in self.lines if metric.name in group), b"")


class Pages:
    """The finished `/metrics` pages: made when first asked for after a change, then handed out as is."""

    def __init__(self, store: Store, own: ExporterMetrics, subjects: Sequence[Subject]) -> None:
        self._store = store
        self._own = own
        self._sites: list[_Fragments] = []
        self._families: list[tuple[Metric, bytes]] = []
        self._pages: dict[Format, bytes] = {}
        self._version = -1
        self._own_made = float("-inf")
        self._own_lines: dict[Format, bytes] = {}
        self.show(subjects)

    def show(self, subjects: Sequence[Subject]) -> None:
        """Show these sites from now on; those whose subject is unchanged keep what is rendered."""
        known = {site.subject.name: site for site in self._sites}
        kept = (known.get(subject.name) for subject in subjects)
        self._sites = [
            old if old and old.subject == subject else _Fragments(subject)
            for old, subject in zip(kept, subjects, strict=True)
        ]
        self._version = -1

    def page(self, format_: Format, now: Now) -> bytes:
        """Return the full page; the same object as long as nothing has changed."""
        aged = now.mono - self._own_made >= OWN_MAX_AGE
        if aged or self._version != self._store.version:
            self._refresh(now, aged=aged)
        if format_ not in self._pages:
            self._pages[format_] = self._assembled(format_)
        return self._pages[format_]

    def _refresh(self, now: Now, *, aged: bool) -> None:
        self._version = self._store.version
        self._pages.clear()
        for site in self._sites:
            site.refresh(self._store[site.subject.name], now)
        joined = [(metric, b"".join(site.of(metric) for site in self._sites)) for metric in SITE_METRICS]
        self._families = [(metric, samples) for metric, samples in joined if samples]
        if not self._own_lines:  # once more than needed: the first page knows its size too
            self._render_own()
            self._measure()
        if aged:
            self._own_made = now.mono
            self._render_own()
        self._measure()

    def _render_own(self) -> None:
        openmetrics = generate_openmetrics(self._own.registry).removesuffix(Format.OPENMETRICS.end)
        self._own_lines = {Format.TEXT: generate_latest(self._own.registry), Format.OPENMETRICS: openmetrics}

    def _measure(self) -> None:
        """Note the size of the page as text; it is shown from the next page of our own metrics on."""
        own = self._own_lines[Format.TEXT]
        sizes = [len(header(metric, Format.TEXT)) + len(samples) for metric, samples in self._families]
        self._own.page_bytes.set(sum(sizes) + len(own))
        series = sum(samples.count(b"\n") for _, samples in self._families)
        self._own.series.set(series + sum(not line.startswith(b"#") for line in own.splitlines()))

    def _assembled(self, format_: Format) -> bytes:
        parts = [part for metric, samples in self._families for part in (header(metric, format_), samples)]
        return b"".join([*parts, self._own_lines[format_], format_.end])
