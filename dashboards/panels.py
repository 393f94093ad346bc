"""The house style: what every panel has, and how each kind of panel looks.

A panel is its title, a text that says what it shows and when to worry, its queries, and its look. Ids come
from titles, so that they stay when panels move. Colours with a meaning are of Okabe and Ito's palette, made
for the colour-blind; each has one meaning, and a number or a word always says the same. Lines whose names
nobody knows beforehand have Grafana's palette, which means nothing.
"""

from __future__ import annotations

from string import ascii_uppercase
from typing import TYPE_CHECKING, TypedDict, TypeVar, Unpack
from zlib import crc32

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMapping,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")

GOOD, WARNING, BAD = "#009E73", "#E69F00", "#D55E00"
MAIN, SECOND, NEUTRAL = "#56B4E9", "#0072B2", "#999999"
UNKNOWN = "#CC79A7"

Panel = bargauge.Panel | stat.Panel | statetimeline.Panel | table.Panel | timeseries.Panel
P = TypeVar("P", bargauge.Panel, stat.Panel, statetimeline.Panel, table.Panel, timeseries.Panel)
Override = tuple[str, dict[str, object]]  # a field's name, and what is different about it
States = dict[int, tuple[str, str]]  # a value's word and colour


# ---------------------------------------------------------------------------------------------------- queries


def now(expression: str, legend: str = "") -> prometheus.Dataquery:
    """Ask for the value at the end of the time range: what has left the page is not shown."""
    return prometheus.Dataquery().expr(expression).legend_format(legend).instant()


def over_time(expression: str, legend: str = "") -> prometheus.Dataquery:
    """Ask for the values over the time range."""
    return prometheus.Dataquery().expr(expression).legend_format(legend).range()


def rows(expression: str) -> prometheus.Dataquery:
    """Ask for the value at the end of the time range, labels as columns."""
    return prometheus.Dataquery().expr(expression).instant().format(PromQueryFormat.TABLE)


# ----------------------------------------------------------------------------------------------------- fields


def steps(first: str, *more: tuple[float, str]) -> dashboard.ThresholdsConfig:
    """Return thresholds: a colour, and from which value on another one."""
    found = [
        Threshold(value=None, color=first),
        *(Threshold(value=value, color=color) for value, color in more),
    ]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(found)


def words(states: States) -> list[ValueMapping]:
    """Return a mapping of values to a word and its colour."""
    results = {
        str(value): ValueMappingResult(text=text, color=color, index=index)
        for index, (value, (text, color)) in enumerate(states.items())
    }
    return [ValueMap(options=results)]


def fixed(color: str) -> dict[str, object]:
    """Return the property of a field that has one colour."""
    return {"color": {"mode": "fixed", "fixedColor": color}}


def alarming(color: str) -> dict[str, object]:
    """Return the properties of a count that is grey at 0 and coloured above."""
    return limits(NEUTRAL, (1, color))


def dashed(color: str) -> dict[str, object]:
    """Return the properties of a line that another one is compared with."""
    return {
        **fixed(color),
        "custom.lineStyle": {"fill": "dash", "dash": [8, 6]},
        "custom.lineWidth": 1.5,
        "custom.fillOpacity": 0,
    }


def dotted(color: str) -> dict[str, object]:
    """Return the properties of a line that says nothing final."""
    return {
        **fixed(color),
        "custom.lineStyle": {"fill": "dot", "dash": [2, 6]},
        "custom.lineWidth": 2,
        "custom.fillOpacity": 0,
    }


def band(lower: str = "") -> dict[str, object]:
    """Return the properties of a band's edge: the upper one fills down to `lower`, which has no legend."""
    edge = {**fixed(NEUTRAL), "custom.lineWidth": 0, "custom.fillOpacity": 18 if lower else 0}
    if lower:
        return {**edge, "custom.fillBelowTo": lower}
    return {**edge, "custom.hideFrom": {"legend": True, "tooltip": False, "viz": False}}


def number_of(title: str) -> int:
    """Return the id of a panel or row."""
    return 1 + crc32(title.encode()) % 999_999


def _properties(properties: Mapping[str, object]) -> list[DynamicConfigValue]:
    return [DynamicConfigValue(id_val=name, value=value) for name, value in properties.items()]


# ----------------------------------------------------------------------------------------------------- panels


class Look(TypedDict, total=False):
    """What may be said of any panel beside its title, its text and its queries."""

    unit: str
    decimals: int
    width: int  # of 24
    height: int  # in steps of 38 pixels
    interval: str  # at least, between points
    empty: str  # instead of a value or a drawing, where there is none
    thresholds: dashboard.ThresholdsConfig
    states: States
    overrides: Sequence[Override]


def _panel(panel: P, title: str, text: str, queries: Sequence[prometheus.Dataquery], look: Look) -> P:
    """Give a panel what all panels have; one colour, unless thresholds or states give others."""
    panel.id(number_of(title)).title(title).description(text)
    panel.datasource(DATASOURCE).no_value(look.get("empty", "no data"))
    panel.unit(look.get("unit", "short")).decimals(look.get("decimals", 1)).span(
        look.get("width", 12)
    ).height(look.get("height", 8))
    for letter, query in zip(ascii_uppercase, queries, strict=False):
        panel.with_target(query.ref_id(letter).datasource(DATASOURCE))
    for name, properties in look.get("overrides", ()):
        panel.override_by_name(name, _properties(properties))
    if "interval" in look:
        panel.interval(look["interval"])
    if "states" in look:
        panel.mappings(words(look["states"]))
    if "thresholds" in look:
        panel.thresholds(look["thresholds"])
        return panel.color_scheme(dashboard.FieldColor().mode(FieldColorModeId.THRESHOLDS))
    return panel.color_scheme(dashboard.FieldColor().mode(FieldColorModeId.FIXED).fixed_color(MAIN))


def number(
    title: str, text: str, *queries: prometheus.Dataquery, named: bool = False, **look: Unpack[Look]
) -> stat.Panel:
    """Return big numbers, as they are at the end of the time range; a single one has its name if `named`."""
    panel = _panel(stat.Panel(), title, text, queries, {"width": 4, "height": 4, **look})
    return (
        panel.graph_mode(kinds.BigValueGraphMode.NONE)
        .color_mode(kinds.BigValueColorMode.VALUE)
        .text_mode(kinds.BigValueTextMode.VALUE_AND_NAME if named else kinds.BigValueTextMode.AUTO)
        .wide_layout(wide_layout=False)
        .justify_mode(kinds.BigValueJustifyMode.CENTER)
        .orientation(kinds.VizOrientation.AUTO)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )


def graph(
    title: str,
    text: str,
    *queries: prometheus.Dataquery,
    hourly: bool = False,
    zero: bool = True,
    fill: int = 0,
    limit: float | None = None,
    reach: bool = False,
    repeat: str = "",
    **look: Unpack[Look],
) -> timeseries.Panel:
    """Return lines over time: from `zero` up, steps where values are `hourly`.

    `fill` is how much of the colour is below a line, in percent; at the `limit` is a red line, which the
    axis may `reach` at all times; `repeat` is a variable, and there is a panel for each of its values.
    """
    panel = _panel(timeseries.Panel(), title, text, queries, look)
    panel.color_scheme(dashboard.FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC))
    if zero:
        panel.min(0)
    if repeat:
        panel.repeat(repeat).repeat_direction("v")
    if limit is not None:
        dashes = common.GraphThresholdsStyleConfig().mode(kinds.GraphThresholdsStyleMode.DASHED)
        panel.thresholds(steps("transparent", (limit, BAD))).thresholds_style(dashes)
    if limit is not None and reach:
        panel.axis_soft_max(1.2 * limit)
    keys = common.VizLegendOptions().display_mode(kinds.LegendDisplayMode.LIST).show_legend(show_legend=True)
    hints = common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI).sort(kinds.SortOrder.DESCENDING)
    return (
        panel.line_interpolation(
            kinds.LineInterpolation.STEP_AFTER if hourly else kinds.LineInterpolation.LINEAR
        )
        .line_width(2)
        .fill_opacity(fill)
        .show_points(kinds.VisibilityMode.NEVER)
        .legend(keys.placement(kinds.LegendPlacement.BOTTOM))
        .tooltip(hints)
    )


def bars(title: str, text: str, *queries: prometheus.Dataquery, **look: Unpack[Look]) -> timeseries.Panel:
    """Return what happened in each interval, as bars on top of each other."""
    panel = graph(title, text, *queries, **look)
    panel.draw_style(kinds.GraphDrawStyle.BARS).fill_opacity(80).line_width(0)
    return panel.stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL).group("A"))


def ranking(title: str, text: str, *queries: prometheus.Dataquery, **look: Unpack[Look]) -> bargauge.Panel:
    """Return a bar for each of a few things."""
    return (
        _panel(bargauge.Panel(), title, text, queries, look)
        .min(0)
        .display_mode(kinds.BarGaugeDisplayMode.BASIC)
        .orientation(kinds.VizOrientation.HORIZONTAL)
        .value_mode(kinds.BarGaugeValueMode.TEXT)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )


def timeline(
    title: str, text: str, *queries: prometheus.Dataquery, **look: Unpack[Look]
) -> statetimeline.Panel:
    """Return the states of things over time, a row each, in words and colours."""
    keys = common.VizLegendOptions().display_mode(kinds.LegendDisplayMode.LIST).show_legend(show_legend=True)
    return (
        _panel(
            statetimeline.Panel(), title, text, queries, {"unit": "none", "decimals": 0, "height": 6, **look}
        )
        .merge_values(merge_values=True)
        .show_value(kinds.VisibilityMode.NEVER)
        .fill_opacity(90)
        .line_width(0)
        .row_height(0.8)
        .per_page(20)
        .legend(keys.placement(kinds.LegendPlacement.BOTTOM))
    )


def grid(
    title: str,
    text: str,
    *queries: prometheus.Dataquery,
    columns: Mapping[str, str],
    sort: str = "",
    **look: Unpack[Look],
) -> table.Panel:
    """Return a table: rows are merged by their labels; columns are those named, in this order.

    A query's value is the column `Value #A` (`Value` where it is alone), labels are columns of their names.
    `sort` is a column; where it begins with `-`, the largest comes first.
    """
    panel = _panel(table.Panel(), title, text, queries, {"unit": "none", **look})
    naming = {
        "excludeByName": {"Time": True},
        "includeByName": dict.fromkeys(columns, True),
        "indexByName": {name: index for index, name in enumerate(columns)},
        "renameByName": dict(columns),
    }
    panel.with_transformation(DataTransformerConfig(id_val="merge", options={}))
    panel.with_transformation(DataTransformerConfig(id_val="organize", options=naming))
    if sort:
        by = common.TableSortByFieldState().display_name(sort.removeprefix("-")).desc(sort.startswith("-"))
        panel.sort_by([by])
    return panel.show_header(show_header=True)


# ------------------------------------------------------------------------------------------ cells of a table


def limits(first: str, *more: tuple[float, str]) -> dict[str, object]:
    """Return the properties of a field that is coloured by thresholds."""
    found = [{"value": None, "color": first}, *({"value": value, "color": color} for value, color in more)]
    return {"color": {"mode": "thresholds"}, "thresholds": {"mode": "absolute", "steps": found}}


def gauge_cell(color: str = MAIN) -> dict[str, object]:
    """Return the properties of a column drawn as bars of one colour, each with its number."""
    options = {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"}
    return {"custom.cellOptions": options, "min": 0, "fieldMinMax": True, **fixed(color)}


def state_cell(states: States) -> dict[str, object]:
    """Return the properties of a column of states: a word on its colour."""
    return {
        "mappings": words(states),
        "custom.cellOptions": {"type": "color-background", "mode": "basic"},
        "custom.align": "center",
        "custom.width": 115,
    }


def leading(title: str, url: str) -> dict[str, object]:
    """Return the properties of a column whose cells lead somewhere."""
    return {"links": [{"title": title, "url": url}]}
