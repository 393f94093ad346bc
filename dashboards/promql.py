"""PromQL that more than one panel needs.

All of it is by site, whichever way it is scraped: on `/metrics`, where a target has all sites, or by
`/probe`, where each site is a target of its own. Where two exporters poll the same site, the larger value
counts, so that no sum has a site twice. A value that has left the page is absent here too.
"""

from __future__ import annotations

TARGET = 'job=~"$job", instance=~"$instance"'
SITE = f'{TARGET}, site=~"$site"'
RATE = "[$__rate_interval]"
END = " @ end()"  # after a selector: its value at the end of the time range, at every point of a graph


def one(metric: str) -> str:
    """Return a selector of the exporter's own series."""
    return f"{metric}{{{TARGET}}}"


def quantile(share: float, histogram: str, *by: str) -> str:
    """Return a quantile of one of the exporter's own histograms over a panel's step.

    Prometheus keeps it as classic buckets, or with `convert_classic_histograms_to_nhcb` as a native
    histogram, whose series has no `le` and no suffix. Only one of the two is there.
    """
    classic = f"sum by ({', '.join(['le', *by])}) (rate({one(f'{histogram}_bucket')}{RATE}))"
    native = f"sum by ({', '.join(by)}) (rate({one(histogram)}{RATE}))"
    return f"histogram_quantile({share}, {classic}) or histogram_quantile({share}, {native})"


def sites(metric: str) -> str:
    """Return a selector of the chosen sites' series."""
    return f"{metric}{{{SITE}}}"


def each(metric: str, by: str = "site", at: str = "") -> str:
    """Return a metric by site, or by more than that."""
    return f"max by ({by}) ({sites(metric)}{at})"


def rate(metric: str, by: str = "site") -> str:
    """Return how much a counter grows per second, by site or by more than that."""
    return f"max by ({by}) (rate({sites(metric)}[$__rate_interval]))"


HASHRATE = each("cryptoloot_hashrate_hashes_per_second")
EXPECTED = each("cryptoloot_expected_hashrate_hashes_per_second")
# Nineteen of twenty hours of a site lie within two spreads of what was expected.
_SPREADS = f"2 * {each('cryptoloot_hashrate_spread_ratio')}"
USUAL_HIGH = f"{EXPECTED} * on (site) exp({_SPREADS})"
USUAL_LOW = f"{EXPECTED} * on (site) exp(-{_SPREADS})"
PER_MILLION = each("cryptoloot_payout_coins_per_million_hashes")
# The line that the alerts judge by; without the rules, that of a site of which no spread is known.
DROP = (
    f'(site:cryptoloot_hashrate_hashes_per_second:drop_below{{site=~"$site"}} or on (site) 0.53 * {EXPECTED})'
)
EARNINGS = f"{HASHRATE} * 86400 / 1e6 * on (site) {PER_MILLION}"
OWED_TO_ALL = each("cryptoloot_all_users_balance_coins")
OWED_TO_TOP = f"{each('cryptoloot_top_users_balance_coins')} unless on (site) {OWED_TO_ALL}"
OWED = f"{OWED_TO_ALL} or on (site) {each('cryptoloot_top_users_balance_coins')}"
# One for each site, also while two exporters disagree.
CURRENCY = f"topk by (site) (1, {each('cryptoloot_site_info', by='site, currency')})"

# Below it the alerts judge nothing: with a handful of visitors every hour is another.
FLOOR = (
    'site:cryptoloot_hashrate_floor_hashes_per_second:threshold{site=~"$site"}'
    f" or on (site) 100 * group by (site) ({sites('cryptoloot_site_info')})"
)
# Three hours, as the alert that tells of sites nobody reports: longer ago, they were taken out.
ONCE = f"last_over_time({sites('cryptoloot_site_info')}[3h])"

# What the newest settled hour says of a site; the first line that has something to say counts.
STATE = "\nor on (site) ".join(
    (
        f"0 * ({EXPECTED} < on (site) ({FLOOR})) + 4",
        f"0 * ({HASHRATE} == 0) + 1",
        f"0 * ({HASHRATE} < on (site) {DROP}) + 2",
        f"0 * {HASHRATE} + 3",
        f"0 * {each('cryptoloot_site_info')}",
        f"0 * max by (site) ({ONCE}) - 1",
    )
)
OF_EXPECTED = f"{HASHRATE} / on (site) ({EXPECTED} > 0)"
OF_DROP = f"{HASHRATE} / on (site) ({DROP} > 0)"

ENDPOINT = "site, endpoint"


def polled(by: str = ENDPOINT) -> str:
    """Return 1 or 0 as the last poll of an endpoint succeeded or not; absent before the first."""
    return each("cryptoloot_up", by)


def never(by: str = ENDPOINT) -> str:
    """Return -1 for endpoints that were polled and have never answered."""
    success = each("cryptoloot_last_success_timestamp_seconds", by)
    return f"({success} == 0 and on ({by}) {polled(by)}) - 1"


def age(by: str = ENDPOINT) -> str:
    """Return the age of the newest good answer at the moment of the scrape: a lost scrape ages nothing."""
    success = sites("cryptoloot_last_success_timestamp_seconds")
    return f"min by ({by}) (timestamp({success}) - ({success} > 0))"


def relative_age(by: str = ENDPOINT) -> str:
    """Return the age in polling intervals; up to one is one, for what is below are a saw's teeth."""
    return f"clamp_min({age(by)} / on ({by}) {each('cryptoloot_poll_interval_seconds', by)}, 1)"


LATE = f"{age()} > 3 * {each('cryptoloot_poll_interval_seconds', ENDPOINT)} or on ({ENDPOINT}) {never()}"

FIRING = 'ALERTS{alertname=~"Cryptoloot.+", alertstate="firing", site=~"$site|"}'  # some are of no site
FIRING_OF_SITES = FIRING.replace('|"', '"')
BY_SEVERITY = "\nor ".join(
    f'{weight} * max by (site, instance, alertname) ({FIRING[:-1]}, severity="{severity}"}})'
    for weight, severity in ((3, "critical"), (2, "warning"), (1, "info"))
)


def by_currency(coins: str) -> str:
    """Return the sum of an amount by site, of each currency."""
    return f"sum by (currency) ({with_currency(coins)})"


def with_currency(coins: str) -> str:
    """Return an amount by site with the site's currency as a label."""
    return f"({coins}) * on (site) group_left (currency) {CURRENCY}"


def largest(series: str, metric: str) -> str:
    """Return the series of those sites that had most of a metric at any time of the range."""
    most = f"max by (site) (max_over_time({sites(metric)}[$__range]{END}))"
    return f"{series}\nand on (site) topk($top, {most})"
