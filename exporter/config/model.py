"""The configuration as the program uses it: durations in seconds, sizes in bytes, secrets read."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from exporter.config.secret import Secret, SecretSource
    from exporter.config.sections import Polls


@dataclass(frozen=True)
class Api:
    """The API server. `url` has no slash at the end; `max_response_bytes` counts after decompression."""

    url: str
    timeout: float
    max_concurrency: int
    max_response_bytes: int
    allow_insecure: bool
    proxy: Literal["none", "environment"]

    @property
    def host(self) -> str:
        """The URL's host, with the port if the URL has one; never user or password."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    @property
    def private(self) -> bool:
        """Whether nobody on the network can read the calls: they use TLS, or stay on this host."""
        host = urlsplit(self.url).hostname or ""
        try:
            return self.url.startswith("https:") or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


@dataclass(frozen=True)
class Users:
    """How user names are exported. `key` is set exactly with `hmac`."""

    names: Literal["plain", "hmac", "off"]
    key: Secret | None


@dataclass(frozen=True)
class Site:
    """One site: its `site` label, its polls with its overrides, and what all sites share: `api`, `users`.

    `watch_users` are exported whatever their rank.
    """

    name: str
    secret: SecretSource
    currency: str
    watch_users: tuple[str, ...]
    polls: Polls
    api: Api
    users: Users


@dataclass(frozen=True)
class Web:
    """Whether the sites' metrics are on /metrics; if not, each site has its /probe."""

    sites_on_metrics: bool


@dataclass(frozen=True)
class Config:
    """The whole configuration. Each warning names something that is allowed but unwise or without effect."""

    api: Api
    sites: tuple[Site, ...]
    users: Users
    web: Web
    warnings: tuple[str, ...]
