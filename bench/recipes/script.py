"""A hand-written exporter: asks the API on every scrape. Run as `python script.py PORT`."""

import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from prometheus_client import CollectorRegistry, Metric, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

TIMEOUT = 8.0  # seconds: less than Prometheus waits for a scrape


def payout(answer: dict[str, Any]) -> Iterator[Metric]:
    """Yield the families of /stats/payout."""
    per_million = float(answer["payoutPer1MHashes"])
    yield GaugeMetricFamily("cryptoloot_network_difficulty", "diff", float(answer["diff"]))
    yield GaugeMetricFamily("cryptoloot_payout_coins_per_million_hashes", "payoutPer1MHashes", per_million)


def history(answer: dict[str, Any]) -> Iterator[Metric]:
    """Yield the family of the newest hour of /stats/history."""
    newest = max(answer["history"], key=lambda row: row["synctime"])
    yield GaugeMetricFamily("cryptoloot_hashrate_hashes_per_second", "hashrate", float(newest["hashrate"]))


def users(answer: dict[str, Any]) -> Iterator[Metric]:
    """Yield the families of /user/top."""
    families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {
        "total": CounterMetricFamily("cryptoloot_user_hashes", "total", labels=["user"]),
        "withdrawn": CounterMetricFamily("cryptoloot_user_withdrawn_coins", "withdrawn", labels=["user"]),
        "balance": GaugeMetricFamily("cryptoloot_user_balance_coins", "balance", labels=["user"]),
    }
    for field, family in families.items():
        for user in answer["users"]:
            family.add_metric([user["name"]], float(user[field]))
        yield family


ENDPOINTS = {"/stats/payout": payout, "/stats/history": history, "/user/top": users}


class Site(Collector):
    """One site, asked for all three endpoints at once; one that fails leaves the others."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client

    def fetch(self, path: str) -> list[Metric] | None:
        """Return the families of one endpoint, None if it failed."""
        try:
            answer = self.client.get(path).raise_for_status().json()
            return list(ENDPOINTS[path](answer))
        except (httpx.HTTPError, ValueError, KeyError) as error:
            print(path, type(error).__name__, flush=True)  # its text has the URL, and in it the secret
            return None

    def collect(self) -> Iterator[Metric]:
        """Yield what was answered, and what was not."""
        up = GaugeMetricFamily("cryptoloot_up", "1 if the endpoint answered", labels=["endpoint"])
        with ThreadPoolExecutor(len(ENDPOINTS)) as pool:
            for path, families in zip(ENDPOINTS, pool.map(self.fetch, ENDPOINTS), strict=True):
                up.add_metric([path], families is not None)
                yield from families or ()
        yield up


def main(port: str) -> None:
    """Serve until ended."""
    secret = Path(os.environ["CRYPTOLOOT_SECRET_FILE"]).read_text().strip()
    api = os.environ.get("CRYPTOLOOT_API", "https://api.crypto-loot.com")
    registry = CollectorRegistry()
    registry.register(Site(httpx.Client(base_url=api, params={"secret": secret}, timeout=TIMEOUT)))
    start_http_server(int(port), "127.0.0.1", registry)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
