"""A metric, and a family: a metric with its samples at one moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from exporter.collectors.expiry import Expiry
from exporter.config import Site


class Metric(Struct, frozen=True):
    """What a metric is: name, type, labels, HELP, source.

    The labels have the order of the samples. `source` is where the values are from: an endpoint of the API,
    `config`, `polls` or `exporter`.
    """

    name: str
    type: str
    labels: tuple[str, ...]
    help: str
    source: str
    expiry: Expiry


class MetricList(list[Metric]):
    """The metrics that a module defines, in the order of their definition.

    `source`, `expiry` and `labels` (separated by blanks) are those of metrics that do not say otherwise.
    """

    def __init__(self, source: str, expiry: Expiry = Expiry.STALE, labels: str = "site") -> None:
        super().__init__()
        self._source, self._expiry, self._labels = source, expiry, labels

    def gauge(
        self, name: str, text: str, expiry: Expiry | None = None, *, labels: str = "", source: str = ""
    ) -> Metric:
        """Define the gauge `cryptoloot_NAME`."""
        expiry, names = expiry or self._expiry, tuple(sorted((labels or self._labels).split()))
        about = f"{text}{expiry.value}"
        self.append(Metric(f"cryptoloot_{name}", "gauge", names, about, source or self._source, expiry))
        return self[-1]

    def counter(self, name: str, text: str, expiry: Expiry | None = None, **options: str) -> Metric:
        """Define the counter `cryptoloot_NAME_total`; options as `gauge` has them."""
        self[-1] = replace(self.gauge(f"{name}_total", text, expiry, **options), type="counter")
        return self[-1]

    def histogram(self, name: str, text: str, **options: str) -> Metric:
        """Define the histogram `cryptoloot_NAME`; options as `gauge` has them."""
        self[-1] = replace(self.gauge(name, text, None, **options), type="histogram")
        return self[-1]


class Family(NamedTuple):
    """A metric and its samples in columns: for each label one value for all samples, or a list of values."""

    metric: Metric
    labels: tuple[str | Sequence[str], ...]
    values: Sequence[float]

    @classmethod
    def single(cls, metric: Metric, site: Site, value: float) -> Family:
        """Return the family of one sample, whose only label is the site."""
        return cls(metric, (site.name,), [float(value)])
