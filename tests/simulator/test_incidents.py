"""When incidents are active, and how they are written on the command line."""

from __future__ import annotations

import pytest

from exporter.simulator import DAY, KINDS, Incident, parse_incident
from tests.simulator.worlds import NOW


def test_incidents_recur() -> None:
    """With `every` an incident is active for `length` seconds from each start on."""
    incident = Incident("outage", NOW, 10, every=100)
    active = [second for second in range(-200, 300) if incident.active(NOW + second)]

    assert [*range(10), *range(100, 110), *range(200, 210)] == active


def test_unknown_kinds_are_refused() -> None:
    """The message names the kinds there are."""
    with pytest.raises(ValueError, match=r"unknown kind of incident 'flood': one of drop, freeze, .*error"):
        Incident("flood", NOW, 60)


@pytest.mark.parametrize(
    ("text", "start", "length"),
    [
        ("shop:drop:30s:1h30m", 30, 5400),
        ("shop:drop:-2h:5m", -7200, 300),
        ("shop:drop:0:1w2d", 0, 9 * DAY),
        ("shop:drop:0s:1500ms", 0, 1.5),
    ],
)
def test_parse_incident(text: str, start: float, length: float) -> None:
    """SITE:KIND:START:LENGTH, START relative to now and perhaps negative, both Prometheus durations."""
    expected = ("shop", Incident("drop", NOW + start, length))

    assert expected == parse_incident(text, NOW)


def test_parse_incident_allows_colons_in_names() -> None:
    """The last three colons separate; a site's name may have its own."""
    assert parse_incident("a:b:drop:1s:1s", NOW)[0] == "a:b"


@pytest.mark.parametrize("kind", KINDS)
def test_parse_incident_knows_every_kind(kind: str) -> None:
    """Every kind has a form on the command line."""
    assert parse_incident(f"shop:{kind}:1s:1s", NOW)[1].kind == kind


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shop:drop:1s", "'shop:drop:1s' is not SITE:KIND:START:LENGTH"),
        (":drop:1s:1s", "is not SITE:KIND:START:LENGTH"),
        ("shop:flood:1s:1s", "'shop:flood:1s:1s': unknown kind of incident 'flood': one of drop"),
        ("shop:drop:soon:1s", "START is no duration: 'soon'; write 30s"),
        ("shop:drop:--1s:1s", "START is no duration: '-1s'"),
        ("shop:drop:1s:-1s", "LENGTH is no duration: '-1s'"),
        ("shop:drop:1s:", "LENGTH is no duration: ''"),
        ("shop:drop:1s:5", "LENGTH is no duration: '5'"),
    ],
)
def test_parse_incident_says_what_is_wrong(text: str, message: str) -> None:
    """The message repeats the text and names the part."""
    with pytest.raises(ValueError, match=message):
        parse_incident(text, NOW)
