from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter import metrics
from exporter.exposition import Format, Pages, accepts_gzip, negotiate, render
from exporter.metrics import ExporterMetrics, Family
from exporter.model import Endpoint, Payout
from exporter.snapshot import Now, Snapshot, Store, failed, planned, with_payout
from tests.conftest import WALL, parsed

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
    "text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
labels = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
values = st.floats(-1e18, 1e18) | st.integers(-(10**18), 10**18).map(float)
points = st.lists(st.tuples(st.tuples(labels, labels), values), unique_by=lambda point: point[0], min_size=1)


class Collected:
    """A registry that yields the families as prometheus-client's own."""

    def __init__(self, families: list[Family]) -> None:
        self.families = families

    def collect(self) -> list[Metric]:
        return [theirs(family) for family in self.families]


def theirs(family: Family) -> Metric:
    metric = family.metric
    kind = CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily
    made = kind(metric.name, metric.help, labels=metric.labels)
    for label_values, value in family.samples:
        made.add_metric(label_values, value)
    return made


def registry(families: list[Family]) -> CollectorRegistry:
    collected = CollectorRegistry(auto_describe=False)
    collected.register(Collected(families))
    return collected


@pytest.mark.parametrize(
    ("expected", "accept"),
    [
        (Format.OPENMETRICS, PROMETHEUS),
        (Format.OPENMETRICS, PROMETHEUS_3),
        (Format.OPENMETRICS, "application/openmetrics-text"),
        (Format.OPENMETRICS, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        (Format.OPENMETRICS, "APPLICATION/OpenMetrics-Text;Version=1.0.0"),
        (Format.OPENMETRICS, "text/plain;q=0.5,application/*"),
        (Format.OPENMETRICS, "application/openmetrics-text;q=0.9,text/plain;version=0.0.4;q=0.8"),
        (Format.OPENMETRICS, "text/*;q=0, */*"),
        (Format.TEXT, "application/openmetrics-text;q=0.8,text/plain;version=0.0.4;q=0.9"),
        (Format.TEXT, "application/openmetrics-text;q=0"),
        (Format.TEXT, "application/openmetrics-text;q=0,*/*"),
        (Format.TEXT, "application/openmetrics-text;version=2.0.0"),
        (Format.TEXT, "application/openmetrics-text;version=abc"),
        (Format.TEXT, "application/openmetrics-text;q=2"),
        (Format.TEXT, "application/openmetrics-text;q=nan"),
        (Format.TEXT, "text/html,application/xhtml+xml,*/*;q=0.8"),
        (Format.TEXT, "*/*"),
        (Format.TEXT, ""),
        (Format.TEXT, ";;;,=,q=,"),
        (Format.TEXT, "image/png"),
    ],
)
def test_the_preferred_format_is_chosen(expected: Format, accept: str) -> None:
    """The highest q-value wins, unknown versions and garbage do not count, and text answers every doubt."""
    assert expected is negotiate(accept)


@pytest.mark.parametrize(
    ("expected", "accept"),
    [
        (True, "gzip"),
        (True, "deflate, GZIP;q=0.5, br"),
        (True, "x-gzip"),
        (True, "*"),
        (True, "gzip;q=0.5, identity;q=0.5"),
        (False, ""),
        (False, "gzip;q=0"),
        (False, "gzip;q=0.000"),
        (False, "*, gzip;q=0"),
        (False, "gzip;q=0.3, identity;q=0.6"),
        (False, "gzip;q=high"),
        (False, "br"),
    ],
)
def test_gzip_is_used_when_it_is_welcome(expected: bool, accept: str) -> None:
    """An explicit refusal, or a preference for identity, is obeyed."""
    assert expected is accepts_gzip(accept)


@given(st.text())
def test_no_header_is_too_odd(header: str) -> None:
    """Any Accept or Accept-Encoding header gives an answer."""
    assert negotiate(header) in Format
    assert accepts_gzip(header) in {True, False}


@given(st.lists(points, min_size=2, max_size=2))
def test_the_bytes_are_prometheus_clients(samples: list[list[tuple[tuple[str, str], float]]]) -> None:
    """Both formats are, byte for byte, what prometheus-client renders of the same families."""
    families = [Family(metrics.USER_BALANCE, samples[0]), Family(metrics.USER_HASHES, samples[1])]

    assert generate_latest(registry(families)) == render(families, Format.TEXT)
    assert generate_openmetrics(registry(families)) == render(families, Format.OPENMETRICS)


@given(points)
def test_every_label_is_read_back(samples: list[tuple[tuple[str, str], float]]) -> None:
    """Any Unicode label value comes out of prometheus-client's text parser as it went in."""
    page = render([Family(metrics.USER_BALANCE, samples)], Format.TEXT).decode()
    (family,) = parse_text(page)

    expected = [(dict(zip(("site", "user"), values, strict=True)), value) for values, value in samples]
    assert expected == [(sample.labels, sample.value) for sample in family.samples]


def a_store(*sites: str) -> Store:
    store = Store()
    for site in sites:
        store.publish(site, planned(Snapshot(), Endpoint.PAYOUT, WALL))
    return store


def pages_of(store: Store, *sites: str) -> Pages:
    config = parsed("http://127.0.0.1:1", *sites)
    subjects = [metrics.subject(config, site) for site in config.sites]
    return Pages(store, ExporterMetrics("1.2.3", "abc"), subjects)


def test_a_page_is_made_once() -> None:
    """The same bytes object is handed out until something changes."""
    store = a_store("a", "b")
    pages = pages_of(store, "a", "b")
    first = pages.page(Format.TEXT, Now(WALL, 0.0))

    assert first is pages.page(Format.TEXT, Now(WALL + 0.5, 0.5))
    store.publish("a", with_payout(store["a"], Payout(1, 2, 3, 4, 5), Now(WALL, 0.5)))
    assert first is not pages.page(Format.TEXT, Now(WALL + 0.5, 0.5))


def test_the_exporters_own_metrics_are_a_second_old_at_most() -> None:
    """A page older than a second is made anew, though no site has changed."""
    pages = pages_of(a_store("a"), "a")
    first = pages.page(Format.TEXT, Now(WALL, 0.0))

    assert first is not pages.page(Format.TEXT, Now(WALL + 1, 1.0))


def test_values_leave_though_nothing_was_polled() -> None:
    """Time alone takes a stale value off the page, within a second."""
    store = a_store("a")
    store.publish("a", with_payout(store["a"], Payout(1, 2, 3, 4, 5), Now(WALL, 0.0)))
    pages = pages_of(store, "a")

    assert b"cryptoloot_network_difficulty{" in pages.page(Format.TEXT, Now(WALL, 300.0))
    assert b"cryptoloot_network_difficulty{" not in pages.page(Format.TEXT, Now(WALL, 301.0))


def test_the_full_page_is_rendered_from_the_sites_families() -> None:
    """The assembled page has, for the sites, the bytes that rendering all families at once has."""
    store = a_store("a", "b")
    store.publish("b", failed(store["b"], Endpoint.PAYOUT, at=WALL, reason="dns", next_poll=WALL + 60))
    config = parsed("http://127.0.0.1:1", "a", "b")
    now = Now(WALL, 0.0)
    sites = [metrics.site_families(metrics.subject(config, s), store[s.name], now) for s in config.sites]
    together: dict[str, Family] = {}
    for family in (family for families in sites for family in families):
        known = together.get(family.metric.name, Family(family.metric, []))
        together[family.metric.name] = Family(family.metric, [*known.samples, *family.samples])
    ordered = [together[metric.name] for metric in metrics.SITE_METRICS if metric.name in together]

    assert pages_of(store, "a", "b").page(Format.TEXT, now).startswith(render(ordered, Format.TEXT))


@pytest.mark.parametrize(
    ("format_", "parse"), [(Format.TEXT, parse_text), (Format.OPENMETRICS, parse_openmetrics)]
)
def test_the_page_is_read_by_prometheus_client(format_: Format, parse: object) -> None:
    """prometheus-client's parsers read both formats, and no `_created` sample is there."""
    page = pages_of(a_store("a"), "a").page(format_, Now(WALL, 0.0)).decode()
    names = [sample.name for family in parse(page) for sample in family.samples]  # type: ignore[operator]

    assert "cryptoloot_polls_total" in names
    assert "process_resident_memory_bytes" in names
    assert [name for name in names if name.endswith("_created")] == []


def test_size_and_series_are_the_last_pages() -> None:
    """The gauges of page size and series describe the last full text page, whichever format was asked for."""
    store = a_store("a")
    pages = pages_of(store, "a")
    pages.page(Format.OPENMETRICS, Now(WALL, 0.0))
    text = pages.page(Format.TEXT, Now(WALL, 0.0)).decode()
    pages.page(Format.OPENMETRICS, Now(WALL, 0.0))
    later = pages.page(Format.TEXT, Now(WALL, 2.0)).decode()
    lines = [line for line in text.splitlines() if not line.startswith("#")]

    shown = dict(line.rsplit(" ", 1) for line in later.splitlines() if not line.startswith("#"))
    assert len(text) == float(shown["cryptoloot_exporter_page_bytes"])
    assert len(lines) == float(shown["cryptoloot_exporter_series"])


def test_sites_come_and_go() -> None:
    """A page shows the sites it is told to, and forgets the others."""
    store = a_store("a", "b")
    pages = pages_of(store, "a", "b")
    config = parsed("http://127.0.0.1:1", "b")
    pages.show([metrics.subject(config, config.sites[0])])
    page = pages.page(Format.TEXT, Now(WALL, 0.0))

    assert b'site="b"' in page
    assert b'site="a"' not in page
