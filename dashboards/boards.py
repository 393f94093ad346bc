"""What all dashboards have: variables, marks in time, links to each other, words for states."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import (
    AnnotationQuery,
    DashboardCursorSync,
    DashboardLinkType,
    VariableHide,
    VariableModel,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from dashboards.panels import BAD, DATASOURCE, GOOD, MAIN, NEUTRAL, UNKNOWN, WARNING, States, number_of
from dashboards.promql import FIRING, one

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dashboards.panels import Panel

TAG = "cryptoloot"
NAME = "${__data.fields.Site:percentencode}"
TO_SITE = f"/d/cryptoloot-site?${{datasource:queryparam}}&var-site={NAME}&${{__url_time_range}}"
TO_RUNBOOK = "${runbook}#${__data.fields.Alert}"
SITE_STATES: States = {
    4: ("too small", NEUTRAL),
    3: ("mining", GOOD),
    2: ("low", WARNING),
    1: ("nothing mined", BAD),
    0: ("no data", UNKNOWN),
    -1: ("not scraped", UNKNOWN),
}
UP_STATES: States = {1: ("answers", GOOD), 0: ("fails", BAD)}
SEVERITIES: States = {3: ("critical", BAD), 2: ("warning", WARNING), 1: ("info", MAIN)}


def targets() -> list[dashboard.QueryVariable]:
    """Return the variables that choose what is shown. Either form of scraping has its job and instance.

    All jobs are those that Grafana finds, by name: `up` and `process_*` are everybody's.
    """
    either = '{__name__=~"cryptoloot_site_info|cryptoloot_exporter_build_info"%s}'
    chosen = ', job=~"$job"'
    return [
        _variable("job", f"label_values({either % ''}, job)"),
        _variable("instance", f"label_values({either % chosen}, instance)").all_value(".+"),
        _variable(
            "site", 'label_values(cryptoloot_site_info{job=~"$job", instance=~"$instance"}, site)'
        ).all_value(".+"),
    ]


def _variable(name: str, query: str) -> dashboard.QueryVariable:
    """Return a variable of a label's values: one, several, or all of them."""
    return (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .datasource(DATASOURCE)
        .query({"query": query, "refId": name})
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.NATURAL_ASC)
        .multi(multi=True)
        .include_all(include_all=True)
    )


def choice(name: str, label: str, *values: int) -> dashboard.CustomVariable:
    """Return a variable with a few numbers to choose from; the second one is set."""
    texts = [str(value) for value in values]
    options = [VariableOption(selected=index == 1, text=text, value=text) for index, text in enumerate(texts)]
    return (
        dashboard.CustomVariable(name)
        .label(label)
        .values(",".join(texts))
        .options(options)
        .current(options[1])
    )


class Mark(AnnotationQuery, Builder[AnnotationQuery]):
    """Marks on all graphs where an expression has values; the SDK does not know of their texts."""

    def __init__(self, name: str, color: str, expression: str, title: str, text: str) -> None:
        super().__init__(name=name, datasource=DATASOURCE, icon_color=color, expr=expression)
        self.texts = {"titleFormat": title, "textFormat": text}

    def build(self) -> AnnotationQuery:
        """Be the builder that the dashboard's asks for."""
        return self

    def to_json(self) -> dict[str, object]:
        """Return what Grafana reads."""
        return super().to_json() | self.texts


ALERTS = Mark(
    "Alerts",
    BAD,
    f"max_over_time({FIRING}[$__interval])",  # marks are looked for at some hundred points
    "{{alertname}}",
    "{{site}} {{instance}} ({{severity}})",
)
STARTS = Mark(
    "Exporter starts",
    NEUTRAL,
    f"time() - max by (instance) ({one('process_start_time_seconds')}) < 60 + $__interval_ms / 1000",
    "The exporter was started",
    "{{instance}}",
)


def board(
    uid: str,
    title: str,
    text: str,
    variables: Sequence[Builder[VariableModel]],
    sections: Mapping[str, Sequence[Panel]],
) -> dashboard.Dashboard:
    """Return a dashboard, with links to the others and to the runbook; `sections` are panels by heading."""
    others = (
        dashboard.DashboardLink("Crypto-Loot")
        .type(DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .include_vars(include_vars=True)
        .keep_time(keep_time=True)
    )
    manual = dashboard.DashboardLink("Runbook").type(DashboardLinkType.LINK).url("${runbook}").icon("doc")
    found = dashboard.Dashboard(title).uid(uid).description(text).tags([TAG]).readonly()
    found.time("now-24h", "now").refresh("1m").tooltip(DashboardCursorSync.CROSSHAIR)
    found.link(others).link(manual).annotation(ALERTS).annotation(STARTS)
    source = dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
    runbook = _variable("runbook", "label_values(cryptoloot:links:info, runbook)").multi(multi=False)
    runbook.include_all(include_all=False).hide(VariableHide.HIDE_VARIABLE)
    for each in (source, *variables, runbook):
        found.with_variable(each)
    for heading, panels in sections.items():
        if heading:
            found.with_row(dashboard.Row(heading).id(number_of(f"row {heading}")))
        for panel in panels:
            found.with_panel(panel)
    return found
