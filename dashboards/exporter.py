"""The exporter itself: are its polls on time, what fails and why, what does it cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashboards import boards, panels, promql
from dashboards.panels import BAD, GOOD, MAIN, WARNING
from dashboards.promql import RATE, one, sites

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

WHO = "{{instance}}"
OF = "instance, site, endpoint"  # of two exporters that poll a site, one may fail


def dashboard() -> Dashboard:
    """Return the dashboard."""
    return boards.board(
        "cryptoloot-exporter",
        "Crypto-Loot / Exporter",
        "cryptoloot-exporter itself: polls, failures, lateness, what its pages hold, what it costs.",
        boards.targets(),
        {"": _figures(), "Polls": _polls(), "Freshness": _freshness(), "Process": _process()},
    )


def _figures() -> list[panels.Panel]:
    failed = f"sum(increase({sites('cryptoloot_poll_failures_total')}[1h]))"
    return [
        panels.number(
            "Targets",
            "Targets that Prometheus scrapes now, and those it cannot reach: exporters, and with /probe the "
            "sites as well. Worry when any is down.",
            panels.now(f"sum({one('up')})", "up"),
            panels.now(f"count({one('up')} == 0) or vector(0)", "down"),
            unit="locale",
            decimals=0,
            empty="none known",
            overrides=[("up", panels.fixed(GOOD)), ("down", panels.alarming(BAD))],
        ),
        panels.number(
            "Failed polls",
            "Share of all polls that failed within an hour. A few happen; worry above a tenth.",
            panels.now(f"{failed} / sum(increase({sites('cryptoloot_polls_total')}[1h]))"),
            unit="percentunit",
            decimals=1,
            thresholds=panels.steps(GOOD, (0.02, WARNING), (0.1, BAD)),
        ),
        panels.number(
            "Overdue",
            "How long ago the poll that is most overdue was due. Polls begin within milliseconds: worry "
            "above a second or two, unless the API is slow.",
            panels.now(
                f"clamp_min(max(timestamp({sites('cryptoloot_next_poll_timestamp_seconds')})"
                f" - {sites('cryptoloot_next_poll_timestamp_seconds')}), 0)"
            ),
            unit="s",
            decimals=1,
            thresholds=panels.steps(GOOD, (2, WARNING), (60, BAD)),
        ),
        panels.number(
            "Config",
            "Whether the last reload took the config. Worry when it was refused: the exporter goes on with "
            "the old one, and a restart would fail.",
            panels.now(f"min({one('cryptoloot_exporter_config_last_reload_successful')})"),
            unit="none",
            states={1: ("taken", GOOD), 0: ("refused", BAD)},
        ),
        panels.number(
            "Crashes",
            "Poll loops that crashed and were restarted within a day. Worry about each: it is a bug, and "
            "the log has its place.",
            panels.now(f"sum(increase({one('cryptoloot_exporter_loop_restarts_total')}[1d]))"),
            decimals=0,
            thresholds=panels.steps(GOOD, (1, BAD)),
        ),
        panels.number(
            "Up for",
            "How long the exporter that was started last has been running. Worry when it is minutes, and "
            "nobody started one.",
            panels.now(f"time() - max({one('process_start_time_seconds')})"),
            unit="s",
            decimals=1,
        ),
    ]


def _polls() -> list[panels.Panel]:
    return [
        panels.graph(
            "Polls per minute",
            "Polls of each endpoint, failed ones included. It falls while polls back off after failures: "
            "worry when it falls otherwise.",
            panels.over_time(
                f"60 * sum by (endpoint) (rate({sites('cryptoloot_polls_total')}{RATE}))", "{{endpoint}}"
            ),
            decimals=1,
            interval="20m",
        ),
        panels.bars(
            "Failures per minute, by reason",
            "Polls that failed, each under one reason. Worry when it goes on, and about invalid_secret at "
            "once.",
            panels.over_time(
                f"60 * sum by (reason) (rate({sites('cryptoloot_poll_failures_total')}{RATE})) > 0",
                "{{reason}}",
            ),
            decimals=2,
            interval="5m",
            empty="None failed, or nothing was scraped",
        ),
        panels.graph(
            "How long polls take",
            "Half of all polls of an endpoint are done within the solid line, 99 of 100 within the dashed "
            "one. Worry when it nears the timeout, ten seconds unless set otherwise.",
            *(
                panels.over_time(
                    promql.quantile(share, "cryptoloot_poll_duration_seconds", "endpoint"),
                    f"{{{{endpoint}}}} {name}",
                )
                for share, name in ((0.5, "half"), (0.99, "99 %"))
            ),
            unit="s",
            interval="20m",
            limit=10,
        ),
        panels.graph(
            "How late polls begin",
            "How long after being due polls begin. It is the exporter's own doing: worry above a second.",
            *(
                panels.over_time(promql.quantile(share, "cryptoloot_poll_delay_seconds"), name)
                for share, name in ((0.5, "half"), (0.99, "99 %"))
            ),
            unit="s",
            interval="20m",
            limit=1,
            overrides=[("half", panels.fixed(MAIN)), ("99 %", panels.fixed(WARNING))],
        ),
    ]


def _freshness() -> list[panels.Panel]:
    polled, each_one = promql.polled(OF), f"on ({OF})"
    succeeding = f"sum by (endpoint) ({polled}) / count by (endpoint) ({polled})"
    return [
        panels.timeline(
            "State of the endpoints",
            "Whether the last polls of an endpoint succeeded: those of all sites, of some, or of none. "
            "Worry about none over all endpoints: the API or the way to it is down.",
            panels.over_time(f"floor({succeeding}) + ceil({succeeding})", "{{endpoint}}"),
            states={2: ("all answer", GOOD), 1: ("some fail", WARNING), 0: ("none answers", BAD)},
            width=14,
        ),
        panels.grid(
            "Failing now",
            "Endpoints whose last poll failed, with the age of their newest good answer; never, where there "
            "has been none since the exporter started. Worry about ages above three intervals.",
            panels.rows(f"{promql.age(OF)} and {each_one} {polled} == 0\nor {each_one} {promql.never(OF)}"),
            columns={
                "site": "Site",
                "endpoint": "Endpoint",
                "instance": "Instance",
                "Value": "Last answer",
            },
            sort="-Last answer",
            width=10,
            height=6,
            empty="None fails, or nothing is scraped",
            overrides=[
                ("Site", panels.leading("Open this site", boards.TO_SITE)),
                (
                    "Last answer",
                    {"unit": "s", "decimals": 1, "mappings": panels.words({-1: ("never", BAD)})},
                ),
            ],
        ),
        panels.graph(
            "Data age against interval",
            "The oldest good answer of each endpoint at each scrape, in polling intervals; up to one is "
            "drawn as one. Worry above the dashed line at 3; at 5, unless set otherwise, values leave the "
            "page.",
            panels.over_time(
                f"max by (endpoint) ({promql.relative_age(OF)})",
                "{{endpoint}}",
            ),
            unit="none",
            decimals=1,
            limit=3,
            reach=True,
        ),
        panels.bars(
            "Held back and rejected",
            "Entries of answers that could not be read while the rest could, and answers whose fall the "
            "guard held back. Odd user names and wavering totals are the usual causes: worry about a sudden "
            "rise.",
            panels.over_time(
                f"sum by (endpoint) (increase({sites('cryptoloot_rejected_entries_total')}{RATE})) > 0",
                "{{endpoint}} rejected",
            ),
            panels.over_time(
                f"sum(increase({sites('cryptoloot_user_regressions_total')}{RATE})) > 0", "held back"
            ),
            decimals=1,
            interval="5m",
            empty="Nothing was, or nothing was scraped",
        ),
    ]


def _process() -> list[panels.Panel]:
    what = "version, revision, python_version"
    taken = "cryptoloot_exporter_config_last_reload_success_timestamp_seconds"
    return [
        panels.graph(
            "CPU",
            "Share of one core that each exporter uses. Worry when it nears one core: polls will be late.",
            panels.over_time(f"rate({one('process_cpu_seconds_total')}{RATE})", WHO),
            unit="percentunit",
            decimals=2,
            width=8,
            limit=1,
        ),
        panels.graph(
            "Memory",
            "Resident memory of each exporter. It follows the size of the pages; worry when it grows and "
            "they do not.",
            panels.over_time(one("process_resident_memory_bytes"), WHO),
            unit="bytes",
            width=8,
        ),
        panels.graph(
            "Open files",
            "Open files and sockets of each exporter, as a share of what it may open. Worry above 80 %.",
            panels.over_time(f"{one('process_open_fds')} / {one('process_max_fds')}", WHO),
            unit="percentunit",
            decimals=1,
            width=8,
            limit=0.8,
            reach=True,
        ),
        panels.graph(
            "Series",
            "Series on the last full page. With /probe, the pages of the sites are not in it. Worry when it "
            "grows and nobody added a site.",
            panels.over_time(one("cryptoloot_exporter_series"), WHO),
            decimals=0,
            width=6,
        ),
        panels.graph(
            "Page size",
            "Size of the last full page as uncompressed text. Worry when it grows and the number of series "
            "does not.",
            panels.over_time(one("cryptoloot_exporter_page_bytes"), WHO),
            unit="bytes",
            width=6,
        ),
        panels.grid(
            "Versions",
            "What runs where. Worry about versions that differ for longer than an upgrade takes.",
            panels.rows(f"max by (instance, {what}) ({one('cryptoloot_exporter_build_info')})"),
            panels.rows(f"time() - max by (instance) ({one(taken)})"),
            columns={
                "instance": "Instance",
                "version": "Version",
                "revision": "Revision",
                "python_version": "Python",
                "Value #B": "Config taken",
            },
            width=12,
            empty="-",
            overrides=[
                ("Version", {"custom.width": 75}),
                ("Revision", {"custom.width": 90}),
                ("Python", {"custom.width": 75}),
                ("Config taken", {"unit": "s", "decimals": 1, "custom.width": 110}),
            ],
        ),
    ]
