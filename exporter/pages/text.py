"""Families as bytes: the text format and OpenMetrics.

The sample lines of both formats are the same bytes; only the headers and the end differ. prometheus-client
renders eight times slower; its bytes are what the property tests hold these functions to.
"""

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum

from exporter.collectors.metric import Family, Metric

GO_EXPONENT, PYTHON_EXPONENT = 1e6, 1e16  # the smallest floats that each writes with an exponent
_EXPONENTS = [f"e+{digits - 1:02}" for digits in range(17)]  # by digits before the point
_COUNTER_HEADER = re.compile(rb"^(# (?:HELP|TYPE) \w+)_total ", re.MULTILINE)


class Format(StrEnum):
    """An exposition format; the value is its content type."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

    @property
    def end(self) -> bytes:
        """What ends a page."""
        return b"# EOF\n" if self is Format.OPENMETRICS else b""


def header(metric: Metric, format_: Format) -> bytes:
    """Return a family's HELP and TYPE lines."""
    name, text = metric.name, metric.help.replace("\\", "\\\\").replace("\n", "\\n")
    if format_ is Format.OPENMETRICS:
        name, text = name.removesuffix("_total"), text.replace('"', '\\"')
    return f"# HELP {name} {text}\n# TYPE {name} {metric.type}\n".encode()


def to_openmetrics(text: bytes) -> bytes:
    """Return prometheus-client's text, rendered from counters, gauges and histograms, as OpenMetrics.

    Only the headers of counters differ, as long as no HELP has a quote. A second rendering takes longer.
    """
    return _COUNTER_HEADER.sub(rb"\1 ", text)


def lines(family: Family) -> bytes:
    """Return the sample lines of a gauge or counter, at least one, all finite; the same in both formats.

    All lines are joined column by column, the numbers being the last: no line is formatted by itself.
    """
    columns: list[Iterable[str]] = []
    fixed = []  # what stands before each column: the name, and the labels that do not vary
    text = f"{family.metric.name}{{"
    for name, values in zip(family.metric.labels, family.labels, strict=True):
        text += f'{name}="'
        if isinstance(values, str):
            text += _escaped(values)
        else:
            fixed.append(text)
            text, joined = "", "".join(values)
            special = "\\" in joined or "\n" in joined or '"' in joined
            columns.append([_escaped(value) for value in values] if special else values)
        text += '",'
    prefix, *separators = [*fixed, text.removesuffix(",") + "} "]
    numbers = [repr(value) if value < GO_EXPONENT else _go(value) for value in family.values]
    rows, *others = [*columns, numbers]
    for separator, column in zip(separators, others, strict=True):
        rows = map(separator.join, zip(rows, column, strict=True))
    line_break = f"\n{prefix}"
    return f"{prefix}{line_break.join(rows)}\n".encode()


def series(name: str, labels: Mapping[str, str]) -> str:
    """Return a series as a sample line begins with it."""
    pairs = ",".join(f'{label}="{_escaped(value)}"' for label, value in labels.items())
    return f"{name}{{{pairs}}}"


def number(value: float) -> str:
    """Return a finite value as a sample line ends with it."""
    return repr(value) if value < GO_EXPONENT else _go(value)


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
