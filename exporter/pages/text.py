"""Families as bytes: the text format and OpenMetrics, and which of them a scraper prefers.

The sample lines of both formats are the same bytes; only the headers and the end differ. prometheus-client
renders eight times slower; its bytes are what the property tests hold these functions to.
"""

from __future__ import annotations

from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from exporter.collectors.collector import Family, Metric

GO_EXPONENT, PYTHON_EXPONENT = 1e6, 1e16  # from which on they write a float with one
HEADERS = 256  # answers to headers that are remembered; scrapers have a handful
_EXPONENTS = [f"e+{digits - 1:02}" for digits in range(17)]  # by digits before the point


class Format(Enum):
    """An exposition format; the value is its content type."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

    @property
    def end(self) -> bytes:
        """What ends a page."""
        return b"# EOF\n" if self is Format.OPENMETRICS else b""


@lru_cache(HEADERS)
def negotiate(accept: str) -> Format:
    """Choose the format an Accept header prefers by q-value (RFC 9110, 12.5.1); text when in doubt."""
    quality = {Format.TEXT: (0, 0.0), Format.OPENMETRICS: (0, 0.0)}  # specificity of the best match, its q
    for media, parameters, q in _ranges(accept):
        for format_, specificity in _matches(media, parameters.get("version")):
            quality[format_] = max(quality[format_], (specificity, q))
    text, openmetrics = quality[Format.TEXT][1], quality[Format.OPENMETRICS][1]
    return Format.OPENMETRICS if openmetrics > text else Format.TEXT


@lru_cache(HEADERS)
def accepts_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding header takes gzip, and not rather identity (RFC 9110, 12.5.3)."""
    quality: dict[str, float] = {}
    for coding, _, q in _ranges(accept_encoding):
        quality["gzip" if coding == "x-gzip" else coding] = q
    gzip = quality.get("gzip", quality.get("*", 0.0))
    return gzip > 0 and gzip >= quality.get("identity", 0.0)


def _ranges(header: str) -> Iterable[tuple[str, Mapping[str, str], float]]:
    """Split a header into its ranges: lower-case name, parameters, q; those with a bad q are left out."""
    for item in header.split(","):
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
    """Return the sample lines of a gauge or a counter that has some, all finite; the same in both formats.

    All lines are joined column by column, the numbers being the last: no line is formatted by itself.
    """
    numbers = [repr(value) if value < GO_EXPONENT else _go(value) for value in family.values]
    begin, *between = _around(family)
    columns = [_column(values) for values in family.labels if not isinstance(values, str)]
    rows: Iterable[str]
    rows, *others = [*columns, numbers]
    for text, column in zip(between, others, strict=True):
        rows = map(text.join, zip(rows, column, strict=True))
    end = f"\n{begin}"
    return f"{begin}{end.join(rows)}\n".encode()


def series(name: str, labels: Mapping[str, str]) -> str:
    """Return a series as a sample line begins with it."""
    pairs = ",".join(f'{label}="{_escaped(value)}"' for label, value in labels.items())
    return f"{name}{{{pairs}}}"


def number(value: float) -> str:
    """Return a finite value as a sample line ends with it."""
    return repr(value) if value < GO_EXPONENT else _go(value)


def _around(family: Family) -> list[str]:
    """Return what stands before each column of a line: the name, and the labels that do not vary."""
    texts = []
    text = f"{family.metric.name}{{"
    for name, values in zip(family.metric.labels, family.labels, strict=True):
        text += f'{name}="'
        if isinstance(values, str):
            text += _escaped(values)
        else:
            texts.append(text)
            text = ""
        text += '",'
    return [*texts, text.removesuffix(",") + "} "]


def _column(values: Sequence[str]) -> Sequence[str]:
    together = "".join(values)
    special = "\\" in together or "\n" in together or '"' in together
    return [_escaped(value) for value in values] if special else values


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _go(value: float) -> str:
    """Write a float of a million or more as Go does, and prometheus-client with it: with an exponent."""
    if value >= PYTHON_EXPONENT:
        return repr(value)
    if value.is_integer():  # as totals are; twice as fast
        digits = str(int(value))
        if digits[-1] != "0":
            return f"{digits[0]}.{digits[1:]}{_EXPONENTS[len(digits)]}"
        return f"{digits[0]}.{digits[1:]}".rstrip("0.") + _EXPONENTS[len(digits)]
    whole, fraction = repr(value).split(".")
    return f"{whole[0]}.{whole[1:]}{fraction}".rstrip("0.") + _EXPONENTS[len(whole)]


def render(families: Iterable[Family], format_: Format) -> bytes:
    """Return a whole page of the families."""
    parts = [header(family.metric, format_) + lines(family) for family in families if family.values]
    return b"".join(parts) + format_.end
