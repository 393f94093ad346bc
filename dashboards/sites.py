"""The overview: is mining healthy, which site is not, what does it earn, is the data fresh."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashboards import boards, panels, promql
from dashboards.panels import BAD, GOOD, MAIN, UNKNOWN, WARNING
from dashboards.promql import each, largest, with_currency

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

COINS = 4  # decimals: earnings of a small site are thousandths of a coin


def dashboard() -> Dashboard:
    """Return the dashboard."""
    return boards.board(
        "cryptoloot-sites",
        "Crypto-Loot / Sites",
        "All sites at a glance: is mining healthy, which site is not, what is earned, is the data fresh.",
        [*boards.targets(), boards.choice("top", "Lines", 5, 10, 25, 50)],
        {"": [*_health(), *_figures(), _sites()], "Over time": _hashrate(), "Money": _money()},
    )


def _health() -> list[panels.Panel]:
    none = f"0 * group({promql.ONCE})"
    states = [
        panels.now(f"count(({promql.STATE}) >= 3) or {none}", "mining"),
        panels.now(f"count(({promql.STATE}) == 2) or {none}", "low"),
        panels.now(f"count(({promql.STATE}) == 1) or {none}", "nothing mined"),
        panels.now(f"count(({promql.STATE}) < 1) or {none}", "no data"),
    ]
    firing = f'count({promql.FIRING[:-1]}, severity="%s"}}) or 0 * group(cryptoloot:links:info)'
    return [
        panels.number(
            "Sites",
            "How many sites mine, by what their newest settled hour says; those too small to be judged are "
            "among them. Low: below the line that the alerts judge by. No data: no settled hour is known, "
            "or no exporter has been scraped for up to three hours. Worry when anything but mining is "
            "coloured.",
            *states,
            unit="locale",
            width=10,
            decimals=0,
            empty="no site is known",
            overrides=[
                ("mining", panels.alarming(GOOD)),
                ("low", panels.alarming(WARNING)),
                ("nothing mined", panels.alarming(BAD)),
                ("no data", panels.alarming(UNKNOWN)),
            ],
        ),
        panels.number(
            "Firing alerts",
            "Alerts of alerts/cryptoloot.rules.yml that fire now, by severity. Worry about critical ones at "
            "once, about warnings today. Without a number, Prometheus has not loaded the rules.",
            *(panels.now(firing % severity, severity) for severity in ("critical", "warning", "info")),
            width=7,
            decimals=0,
            empty="rules not loaded",
            overrides=[
                ("critical", panels.alarming(BAD)),
                ("warning", panels.alarming(WARNING)),
                ("info", panels.alarming(MAIN)),
            ],
        ),
        panels.number(
            "Freshness",
            "Late: endpoints whose last good answer was older than three polling intervals when it was "
            "scraped, or that have never answered. Oldest: the age of the oldest good answer. Worry when "
            "any is late: values leave the page after five intervals.",
            panels.now(f"count({promql.LATE}) or 0 * group({each('cryptoloot_site_info')})", "late"),
            panels.now(f"-1 * group({promql.never()}) or max({promql.age()})", "oldest"),
            width=7,
            decimals=0,
            empty="nothing is scraped",
            overrides=[
                ("late", {**panels.alarming(BAD), "noValue": "?"}),
                ("oldest", {"unit": "s", "decimals": 1, "mappings": panels.words({-1: ("never", BAD)})}),
            ],
        ),
    ]


def _figures() -> list[panels.Panel]:
    return [
        panels.number(
            "Hashrate",
            "Sum of all sites' newest settled hours. An hour is settled a quarter of an hour after its end. "
            "It has days and nights: no reason to worry while all sites are mining.",
            panels.now(f"sum({promql.HASHRATE})"),
            unit="Hs",
            decimals=1,
            width=8,
        ),
        panels.number(
            "Of expected",
            "Hashrate of the newest settled hours, as a share of the expected hashrate. Sites without an "
            "expectation are left out. Worry where the states do.",
            panels.now(
                f"sum({promql.HASHRATE} and on (site) {promql.EXPECTED})"
                f" / (sum({promql.EXPECTED} and on (site) {promql.HASHRATE}) > 0)"
            ),
            unit="percentunit",
            decimals=0,
            width=8,
        ),
        panels.number(
            "Earnings per day",
            "What the newest settled hours would earn if they lasted for a day, at today's payout; by "
            "currency. Worry when it falls and neither the hour of the day nor the difficulty says why.",
            panels.now(promql.by_currency(promql.EARNINGS), "{{currency}}"),
            unit="none",
            decimals=COINS,
            named=True,
            width=8,
        ),
        panels.number(
            "Owed to users",
            "Balances that users have not withdrawn yet: of all users where the exporter walks /user/list, "
            "else of the top users alone, as the names say; by currency. Worry when it is more than you can "
            "pay out.",
            panels.now(promql.by_currency(promql.OWED_TO_ALL), "{{currency}}, all users"),
            panels.now(promql.by_currency(promql.OWED_TO_TOP), "{{currency}}, top users"),
            unit="none",
            decimals=COINS,
            named=True,
            width=8,
        ),
        panels.number(
            "Per million hashes",
            "Coins that a million hashes earn now, by currency. It falls when the difficulty rises; worry "
            "when it falls by a fifth in a day.",
            panels.now(f"max by (currency) ({with_currency(promql.PER_MILLION)})", "{{currency}}"),
            unit="none",
            decimals=8,
            named=True,
            width=8,
        ),
        panels.number(
            "Difficulty",
            "Difficulty of the network, by currency. Payouts per hash move the other way: no reason to "
            "worry by itself, a jump by half within an hour is.",
            panels.now(
                f"max by (currency) ({with_currency(each('cryptoloot_network_difficulty'))})", "{{currency}}"
            ),
            decimals=2,
            named=True,
            width=8,
        ),
    ]


def _sites() -> panels.Panel:
    return panels.grid(
        "All sites",
        "One row for each site, the worst first; a click on a name leads to the site. State is what the "
        "newest settled hour says, Oldest the age of the oldest good answer. Worry about every state that "
        "is coloured and not mining.",
        panels.rows(promql.STATE),
        panels.rows(promql.HASHRATE),
        panels.rows(promql.OF_EXPECTED),
        panels.rows(promql.EARNINGS),
        panels.rows(promql.OWED),
        panels.rows(f"-1 * group by (site) ({promql.never()}) or on (site) max by (site) ({promql.age()})"),
        panels.rows(f"count by (site) ({promql.FIRING_OF_SITES})"),
        panels.rows(promql.CURRENCY),
        columns={
            "site": "Site",
            "Value #A": "State",
            "Value #B": "Hashrate",
            "Value #C": "Of expected",
            "Value #D": "Earnings/day",
            "Value #E": "Owed",
            "currency": "Coin",
            "Value #F": "Oldest",
            "Value #G": "Alerts",
        },
        sort="State",
        width=24,
        height=8,
        empty="-",
        overrides=[
            ("Site", {**panels.leading("Open this site", boards.TO_SITE), "custom.minWidth": 90}),
            ("State", panels.state_cell(boards.SITE_STATES)),
            ("Hashrate", {**panels.gauge_cell(), "unit": "Hs", "decimals": 1, "custom.minWidth": 125}),
            (
                "Of expected",
                {
                    "unit": "percentunit",
                    "decimals": 0,
                    "max": 1.5,
                    "custom.minWidth": 125,
                    **panels.gauge_cell(),
                },
            ),
            ("Earnings/day", {"unit": "none", "decimals": COINS, "custom.width": 105}),
            ("Owed", {"unit": "none", "decimals": COINS, "custom.width": 90}),
            ("Coin", {"custom.width": 60}),
            (
                "Oldest",
                {
                    "unit": "s",
                    "decimals": 1,
                    "mappings": panels.words({-1: ("never", BAD)}),
                    "custom.width": 95,
                },
            ),
            (
                "Alerts",
                {
                    **panels.alarming(BAD),
                    "decimals": 0,
                    "custom.width": 80,
                    "custom.cellOptions": {"type": "color-text"},
                },
            ),
        ],
    )


def _hashrate() -> list[panels.Panel]:
    size = "cryptoloot_hashrate_hashes_per_second"
    return [
        panels.timeline(
            "State of each site",
            "What the newest settled hour said at each time. Quiet nights and weekends are no drops "
            "where they are expected. Worry about what is not mining and lasts.",
            panels.over_time(promql.STATE, "{{site}}"),
            states=boards.SITE_STATES,
            width=14,
            height=8,
        ),
        panels.grid(
            "Alerts now",
            "What fires now, critical alerts first; those of an exporter have no site. A click on an alert "
            "leads to the runbook, where the rules say that it is. Worry about whatever stands here.",
            panels.rows(promql.BY_SEVERITY),
            columns={"Value": "Severity", "alertname": "Alert", "site": "Site", "instance": "Instance"},
            sort="-Severity",
            width=10,
            empty="No alert fires, or the rules are not loaded",
            overrides=[
                ("Severity", panels.state_cell(boards.SEVERITIES)),
                (
                    "Site",
                    {**panels.leading("Open this site", boards.TO_SITE), "noValue": "-", "custom.width": 90},
                ),
                ("Instance", {"noValue": "-", "custom.width": 130}),
                ("Alert", {**panels.leading("Open the runbook", boards.TO_RUNBOOK), "custom.minWidth": 190}),
            ],
        ),
        panels.graph(
            "Hashrate by site",
            "Hashrate of the newest settled hour, of the sites that had most of it in the time range; a "
            "step each hour. Worry when a line falls and its neighbours do not.",
            panels.over_time(largest(promql.HASHRATE, size), "{{site}}"),
            unit="Hs",
            hourly=True,
        ),
        panels.graph(
            "Hashrate against its drop line",
            "Hashrate of the newest settled hour as a share of the line that the alerts judge by, which "
            "knows nights and weekends; of the same sites. Worry below the dashed line at 100 %.",
            panels.over_time(largest(promql.OF_DROP, size), "{{site}}"),
            unit="percentunit",
            decimals=0,
            hourly=True,
            limit=1,
            reach=True,
        ),
    ]


def _money() -> list[panels.Panel]:
    return [
        panels.graph(
            "Earnings per day over time",
            "What the settled hour of each time would have earned if it had lasted for a day, by currency. "
            "Worry when the same hours of the week bring less and less.",
            panels.over_time(promql.by_currency(promql.EARNINGS), "{{currency}}"),
            unit="none",
            decimals=COINS,
            hourly=True,
        ),
        panels.graph(
            "Owed to users over time",
            "Balances that users have not withdrawn yet, by currency: of all users where the exporter walks "
            "/user/list, else of the top users. It falls when users withdraw; worry when it only grows, and "
            "payouts may be stuck.",
            panels.over_time(promql.by_currency(promql.OWED), "{{currency}}"),
            unit="none",
            decimals=COINS,
        ),
        panels.graph(
            "Coins per million hashes",
            "What a million hashes earn, by currency. Worry about a jump tenfold: the API has changed a "
            "unit.",
            panels.over_time(f"max by (currency) ({with_currency(promql.PER_MILLION)})", "{{currency}}"),
            unit="none",
            decimals=8,
            zero=False,
        ),
        panels.graph(
            "Network difficulty",
            "Difficulty of the network, by currency. Payouts per hash move the other way: worry about a "
            "jump by half within an hour.",
            panels.over_time(
                f"max by (currency) ({with_currency(each('cryptoloot_network_difficulty'))})", "{{currency}}"
            ),
            decimals=2,
            zero=False,
        ),
    ]
