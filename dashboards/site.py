"""One site, or a few beside each other: its hashrate, its payout, its users, how fresh all that is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashboards import boards, panels, promql
from dashboards.panels import BAD, GOOD, MAIN, NEUTRAL, SECOND, WARNING
from dashboards.promql import each, rate, sites, with_currency

if TYPE_CHECKING:
    from grafana_foundation_sdk.builders.dashboard import Dashboard

COINS = 6  # decimals: a user's balance may be thousandths of a coin
HASHES = "cryptoloot_user_hashes_total"
USER = "site, user"
GAIN = f"max by ({USER}) (increase({sites(HASHES)}[$__range]))"
# The users who made most in the time range: the same ones at every point of a graph.
MOST = f"topk by (site) ($top, max by ({USER}) (increase({sites(HASHES)}[$__range]{promql.END})))"
WHO = "{{user}} · {{site}}"
OFF = "No users: users.names is off, or /user/top has no good answer"


def dashboard() -> Dashboard:
    """Return the dashboard."""
    return boards.board(
        "cryptoloot-site",
        "Crypto-Loot / Site",
        "One site: hashrate against what is expected, hashes, payout, users, and how fresh all that is.",
        [*boards.targets(), boards.choice("top", "Users", 5, 10, 25, 100)],
        {
            "": [*_figures(), _hero()],
            "Hashes": _hashes(),
            "Payout": _payout(),
            "Users": _users(),
            "Freshness": _freshness(),
        },
    )


def _figures() -> list[panels.Panel]:
    return [
        panels.number(
            "State",
            "What the newest settled hour says. Low: below the line that the alerts judge by. Too small: "
            "they judge nothing. Worry about low, nothing mined and no data.",
            panels.now(promql.STATE, "{{site}}"),
            unit="none",
            states=boards.SITE_STATES,
            width=6,
        ),
        panels.number(
            "Hashrate",
            "Hashrate of the newest settled hour, one that ended a quarter of an hour ago or more. Worry "
            "where the state beside it does.",
            panels.now(promql.HASHRATE, "{{site}}"),
            unit="Hs",
            decimals=1,
            width=6,
        ),
        panels.number(
            "Of expected",
            "The same as a share of the expected hashrate, which follows other days, other weeks and the "
            "last 24 hours. A site younger than four days has none. Worry where the state does.",
            panels.now(promql.OF_EXPECTED, "{{site}}"),
            unit="percentunit",
            decimals=0,
            width=6,
            empty="too few days yet",
        ),
        panels.number(
            "Hour that still fills",
            "Hashrate of the newest row, which may still be filling: an early hint, no reason to worry by "
            "itself.",
            panels.now(each("cryptoloot_unsettled_hashrate_hashes_per_second"), "{{site}}"),
            unit="Hs",
            decimals=1,
            width=6,
        ),
        panels.number(
            "Earnings per day",
            "What the newest settled hour would earn if it lasted for a day, at today's payout. Worry when "
            "it falls and neither the hour of the day nor the difficulty says why.",
            panels.now(with_currency(promql.EARNINGS), "{{site}}, {{currency}}"),
            unit="none",
            decimals=4,
            width=6,
            named=True,
        ),
        panels.number(
            "Owed to users",
            "Balances that users have not withdrawn yet: of all users where the exporter walks /user/list, "
            "else of the top users alone, as the names say. Worry when it is more than you can pay out.",
            panels.now(with_currency(promql.OWED_TO_ALL), "{{site}}, {{currency}}, all users"),
            panels.now(with_currency(promql.OWED_TO_TOP), "{{site}}, {{currency}}, top users"),
            unit="none",
            decimals=4,
            width=6,
            named=True,
        ),
        panels.number(
            "Hashes in a day",
            "Hashes of the last 24 settled hours, or fewer where the site is younger. Worry when it is well "
            "below a seventh of the week beside it, and the day is no quiet one.",
            panels.now(each("cryptoloot_history_day_hashes"), "{{site}}"),
            unit="si:H",
            decimals=2,
            width=6,
        ),
        panels.number(
            "Hashes in a week",
            "Hashes of all settled hours that the API remembers, seven days at most. It moves slowly: worry "
            "when it falls day after day.",
            panels.now(each("cryptoloot_history_week_hashes"), "{{site}}"),
            unit="si:H",
            decimals=2,
            width=6,
        ),
    ]


def _hero() -> panels.Panel:
    return panels.graph(
        "Hashrate of $site",
        "Blue: the last complete hour, known 75 to 135 minutes after its start. Grey: the expected hashrate, "
        "and around it the range in which 19 of 20 hours of this site lie. Red: an hour below this line is "
        "reported as a drop; worry when blue stays there for two hours. Dotted: the current hour.",
        panels.over_time(promql.HASHRATE, "settled hour"),
        panels.over_time(promql.USUAL_HIGH, "usual range"),
        panels.over_time(promql.USUAL_LOW, "usual range, low"),
        panels.over_time(promql.EXPECTED, "expected"),
        panels.over_time(promql.DROP, "drop below"),
        panels.over_time(each("cryptoloot_unsettled_hashrate_hashes_per_second"), "hour that still fills"),
        unit="Hs",
        hourly=True,
        width=24,
        height=10,
        repeat="site",
        overrides=[
            ("settled hour", {**panels.fixed(MAIN), "custom.lineWidth": 3, "custom.fillOpacity": 12}),
            ("usual range", panels.band("usual range, low")),
            ("usual range, low", panels.band()),
            ("expected", panels.dashed(NEUTRAL)),
            ("drop below", {**panels.dashed(BAD), "custom.fillOpacity": 6}),
            ("hour that still fills", panels.dotted(MAIN)),
        ],
    )


def _hashes() -> list[panels.Panel]:
    return [
        panels.graph(
            "Hashes per hour",
            "Hashes of the newest settled hour. Away while it is unknown whether the API counts hashes by "
            "the hour or cumulatively. Worry where an hour is nearly empty and its neighbours are not.",
            panels.over_time(each("cryptoloot_history_row_hashes"), "{{site}}"),
            unit="si:H",
            hourly=True,
            width=8,
            fill=20,
        ),
        panels.graph(
            "Hashes per day",
            "Hashes of the last 24 settled hours at each time; exact over restarts and gaps in scraping. "
            "Worry about a slope that lasts longer than a weekend.",
            panels.over_time(each("cryptoloot_history_day_hashes"), "{{site}}"),
            unit="si:H",
            hourly=True,
            width=8,
        ),
        panels.graph(
            "Hashes per week",
            "Hashes of all settled hours that the API remembered at each time, seven days at most. Worry "
            "about a slope: it is a trend.",
            panels.over_time(each("cryptoloot_history_week_hashes"), "{{site}}"),
            unit="si:H",
            hourly=True,
            width=8,
        ),
    ]


def _payout() -> list[panels.Panel]:
    return [
        panels.graph(
            "Earnings per day over time",
            "What the settled hour of each time would have earned if it had lasted for a day. Worry when "
            "the same hours of the week bring less and less.",
            panels.over_time(with_currency(promql.EARNINGS), "{{site}}, {{currency}}"),
            unit="none",
            decimals=4,
            hourly=True,
            width=8,
        ),
        panels.graph(
            "Coins per million hashes",
            "What a million hashes earn. Worry about a jump tenfold: the API has changed a unit.",
            panels.over_time(with_currency(promql.PER_MILLION), "{{site}}, {{currency}}"),
            unit="none",
            decimals=8,
            width=8,
            zero=False,
        ),
        panels.graph(
            "Network difficulty",
            "Difficulty of the network as reported for this site. Payouts per hash move the other way: "
            "worry about a jump by half within an hour.",
            panels.over_time(each("cryptoloot_network_difficulty"), "{{site}}"),
            decimals=2,
            width=8,
            zero=False,
        ),
    ]


def _users() -> list[panels.Panel]:
    balance = each("cryptoloot_user_balance_coins", by=USER)
    withdrawn = sites("cryptoloot_user_withdrawn_coins_total")
    return [
        panels.grid(
            "Top users",
            "The users with most hashes in the time range: what they made and took out in it, and what they "
            "are owed. Worry when somebody who is always here is not.",
            panels.rows(f"topk by (site) ($top, {GAIN})"),
            panels.rows(f"{balance} and on ({USER}) {MOST}"),
            panels.rows(f"max by ({USER}) (increase({withdrawn}[$__range])) and on ({USER}) {MOST}"),
            columns={
                "site": "Site",
                "user": "User",
                "Value #A": "Hashes",
                "Value #B": "Balance",
                "Value #C": "Withdrawn",
            },
            sort="-Hashes",
            width=14,
            height=12,
            empty=OFF,
            overrides=[
                ("Site", {"custom.width": 90}),
                ("User", {"custom.minWidth": 180}),
                ("Hashes", {**panels.gauge_cell(), "unit": "si:H", "decimals": 2}),
                ("Balance", {**panels.gauge_cell(SECOND), "unit": "none", "decimals": COINS}),
                ("Withdrawn", {"unit": "none", "decimals": COINS, "custom.width": 110}),
            ],
        ),
        panels.ranking(
            "Balances",
            "The largest balances: what the site may have to pay out soon. Worry when one of them is more "
            "than you have at hand.",
            panels.now(f"sort_desc(topk by (site) ($top, {balance}))", WHO),
            unit="none",
            decimals=COINS,
            width=10,
            height=12,
            empty=OFF,
        ),
        panels.graph(
            "Live rate by user",
            "How fast the totals of the users grow who made most in the time range. Where the API moves "
            "totals once an hour only, choose a time range of days. Worry when the largest one stops.",
            panels.over_time(f"{rate(HASHES, by=USER)} and on ({USER}) {MOST}", WHO),
            unit="Hs",
            width=14,
            empty=OFF,
        ),
        panels.graph(
            "Live rate of the top users together",
            "How fast the totals of all users in the top list grow; works with names off. Worry when it "
            "falls to half of what it was two hours ago.",
            panels.over_time(rate("cryptoloot_tracked_user_hashes_total"), "{{site}}"),
            unit="Hs",
            width=10,
            fill=12,
        ),
    ]


def _freshness() -> list[panels.Panel]:
    endpoints = "{{site}} {{endpoint}}"
    failures = sites("cryptoloot_poll_failures_total")
    failed = f"sum by (endpoint, reason) (increase({failures}[$__rate_interval])) > 0"
    return [
        panels.timeline(
            "Polls of each endpoint",
            "Whether the last poll of each endpoint succeeded. Values stay until they are stale, so a short "
            "gap is no reason to worry.",
            panels.over_time(each("cryptoloot_up", by="site, endpoint"), endpoints),
            states=boards.UP_STATES,
            width=14,
            height=8,
        ),
        panels.graph(
            "Age of the newest good answer",
            "In polling intervals of the endpoint, at each scrape; up to one is drawn as one. Worry above "
            "the dashed line at 3; at 5, unless set otherwise, the values leave the page.",
            panels.over_time(promql.relative_age(), endpoints),
            unit="none",
            decimals=1,
            width=10,
            limit=3,
            reach=True,
        ),
        panels.bars(
            "Failed polls by reason",
            "Polls that failed in each interval, each under one reason. Worry when it goes on, and about "
            "invalid_secret at once.",
            panels.over_time(failed, "{{endpoint}} {{reason}}"),
            decimals=1,
            interval="5m",
            width=14,
            height=6,
            empty="None failed, or nothing was scraped",
        ),
        panels.number(
            "Missing hours",
            "Hours without a row between the oldest and the newest one of /stats/history. Some APIs leave "
            "out hours without hashes; worry when others are missing: the sums over a day reach back "
            "further then.",
            panels.now(each("cryptoloot_history_missing_rows"), "{{site}}"),
            unit="locale",
            decimals=0,
            thresholds=panels.steps(GOOD, (1, WARNING)),
            width=5,
            height=6,
        ),
        panels.number(
            "Newest settled hour",
            "How long ago the newest settled hour began: 75 to 135 minutes by nature. Worry above three and "
            "a half hours.",
            panels.now(f"time() - {each('cryptoloot_history_settled_row_timestamp_seconds')}", "{{site}}"),
            unit="s",
            decimals=1,
            width=5,
            height=6,
            thresholds=panels.steps(GOOD, (3 * 3600, WARNING), (3.5 * 3600, BAD)),
        ),
    ]
