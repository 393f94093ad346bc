"""PromQL that more than one panel needs.

All of it is by site, whichever way it is scraped: on `/metrics`, where a target has all sites, or by
`/probe`, where each site is a target of its own. Where two exporters poll the same site, the larger value
counts, so that no sum has a site twice. A value that has left the page is absent here too.
"""

from __future__ import annotations

TARGET = 'job=~"$job", instance=~"$instance"'
SITE = f'{TARGET}, site=~"$site"'
END = " @ end()"  # after a selector: its value at the end of the time range, at every point of a graph


def one(metric: str, *matchers: str) -> str:
    """Return a selector of the exporter's own series."""
    return f"{metric}{{{', '.join((TARGET, *matchers))}}}"


def sites(metric: str, *matchers: str) -> str:
    """Return a selector of the chosen sites' series."""
    return f"{metric}{{{', '.join((SITE, *matchers))}}}"


def each(metric: str, by: str = "site", at: str = "") -> str:
    """Return a metric by site, or by more than that."""
    return f"max by ({by}) ({sites(metric)}{at})"


def rate(metric: str, by: str = "site") -> str:
    """Return how much a counter grows per second, by site or by more than that."""
    return f"max by ({by}) (rate({sites(metric)}[$__rate_interval]))"


HASHRATE = each("cryptoloot_hashrate_hashes_per_second")
BASELINE = each("cryptoloot_baseline_hashrate_hashes_per_second")
PER_MILLION = each("cryptoloot_payout_coins_per_million_hashes")
# The line that the alerts judge by; without the rules, the share of the baseline that they begin with.
DROP = (
    f'(site:cryptoloot_hashrate_hashes_per_second:drop_below{{site=~"$site"}} or on (site) 0.7 * {BASELINE})'
)
EARNINGS = f"{HASHRATE} * 86400 / 1e6 * on (site) {PER_MILLION}"
OWED_TO_ALL = each("cryptoloot_all_users_balance_coins")
OWED_TO_TOP = f"{each('cryptoloot_top_users_balance_coins')} unless on (site) {OWED_TO_ALL}"
OWED = f"{OWED_TO_ALL} or on (site) {each('cryptoloot_top_users_balance_coins')}"
# One for each site, also while two exporters disagree.
CURRENCY = f"topk by (site) (1, {each('cryptoloot_site_info', by='site, currency')})"

# What the newest settled hour says of a site; the first line that has something to say counts.
STATE = "\nor on (site) ".join(
    (
        f"0 * ({HASHRATE} == 0) + 1",
        f"0 * ({HASHRATE} < on (site) {DROP}) + 2",
        f"0 * {HASHRATE} + 3",
        f"0 * {each('cryptoloot_site_info')}",
        f"0 * max by (site) (last_over_time({sites('cryptoloot_site_info')}[1h])) - 1",
    )
)

AGE = f"(time() - {each('cryptoloot_last_success_timestamp_seconds', by='site, endpoint')})"
INTERVAL = each("cryptoloot_poll_interval_seconds", by="site, endpoint")
POLLED = each("cryptoloot_up", by="site, endpoint")  # absent before the first poll
LATE = f"{AGE} > 3 * {INTERVAL} and on (site, endpoint) {POLLED}"
# A success there was: before the first one, the age is that of the epoch.
KNOWN_AGE = f"(time() - ({each('cryptoloot_last_success_timestamp_seconds', by='site, endpoint')} > 0))"

RELATIVE_AGE = f"{KNOWN_AGE} / on (site, endpoint) {INTERVAL}"  # in polling intervals

FIRING = 'ALERTS{alertname=~"Cryptoloot.+", alertstate="firing", site=~"$site|"}'

BY_SEVERITY = "\nor ".join(
    f'{weight} * max by (site, alertname) ({FIRING[:-1]}, severity="{severity}"}})'
    for weight, severity in ((3, "critical"), (2, "warning"), (1, "info"))
)


def by_currency(coins: str) -> str:
    """Return the sum of an amount by site, of each currency."""
    return f"sum by (currency) ({with_currency(coins)})"


def with_currency(coins: str) -> str:
    """Return an amount by site with the site's currency as a label."""
    return f"({coins}) * on (site) group_left (currency) {CURRENCY}"


def peak(expression: str) -> str:
    """Return the highest that an expression was since the point before: a saw's teeth, not their aliases."""
    return f"max_over_time(({expression})[$__rate_interval:])"


def largest(series: str, metric: str, count: str = "$top") -> str:
    """Return the series of those sites that have most of a metric at the end of the time range."""
    return f"{series}\nand on (site) topk({count}, {each(metric, at=END)})"
