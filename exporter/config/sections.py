"""config.yaml as types: every section and key, with its default and description.

`schema` reads a document by the sections. docs/configuration.md and config.schema.json are written from them.
Beside a section stands the class that the program uses for it: durations in seconds, sizes in bytes, secrets
read. So everything that one endpoint needs of the configuration is in this file. The section `web` has the
same values in the file and in the program, so it is its own class.
"""

import ipaddress
from typing import Annotated, Literal, get_type_hints
from urllib.parse import urlsplit

from msgspec import UNSET, Meta, Struct, UnsetType

from exporter.config.authority import Authority
from exporter.config.schema import Section, fields, unwrap
from exporter.config.secret import Secret, SecretSource
from exporter.config.values import Duration, Label, Names, Size, Text, Url, Variable


def _about(text: str) -> Meta:
    """Describe a key, for docs/configuration.md and editors."""
    return Meta(description=text)


_PUBLIC_API = "https://api.crypto-loot.com"
_Proxy = Literal["none", "environment"]


class ApiSection(Section):
    """The server and how it is called."""

    url: Annotated[Url, _about("any server that speaks the same API; a path prefix is allowed")] = _PUBLIC_API
    timeout: Annotated[Duration, _about("of one whole call")] = "10s"
    max_concurrency: Annotated[
        Annotated[int, Meta(ge=1, le=64)] | UnsetType,
        _about("requests in flight; 8 unless given, or one per 20 sites if that is more, up to 64"),
    ] = UNSET
    max_response_bytes: Annotated[Size, _about("of one answer, after decompression; 1KiB to 1GiB")] = "4MiB"
    allow_insecure: Annotated[
        bool, _about("allow http:// to other hosts than this one: secrets go in the clear")
    ] = False
    proxy: Annotated[
        _Proxy,
        _about("environment: as HTTPS_PROXY, HTTP_PROXY and NO_PROXY (names, addresses and ranges) say"),
    ] = "none"
    ca_file: Annotated[
        Text | UnsetType,
        _about(
            "a PEM file of the roots to trust for url, sought from the config's directory, read at the start "
            "and on a reload; default: what SSL_CERT_FILE or SSL_CERT_DIR names, else certifi's roots"
        ),
    ] = UNSET


class Api(Struct, frozen=True, gc=False):
    """The API server. `url` has no slash at the end; `max_response_bytes` counts after decompression."""

    url: str
    timeout: float
    max_concurrency: int
    max_response_bytes: int
    allow_insecure: bool
    proxy: _Proxy
    ca_file: Authority | None = None

    @property
    def host(self) -> str:
        """The URL's host, with the port if the URL has one; never user or password."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    @property
    def local(self) -> bool:
        """Whether the server is on this host."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    @property
    def private(self) -> bool:
        """Whether nobody on the network can read the calls: they use TLS, or stay on this host."""
        return self.local or self.url.startswith("https:")


_Interval = Annotated[Duration, _about("from one poll to the next")]


class PollSection(Section):
    """How one endpoint is polled."""

    stale_after: Annotated[
        Duration | UnsetType,
        _about("values leave the page so long after the last success; 5 intervals unless given"),
    ] = UNSET


class Poll(Struct, frozen=True, gc=False):
    """How one endpoint of a site is polled: `interval` and `stale_after` in seconds."""

    interval: float
    stale_after: float


class PayoutSection(PollSection):
    """/stats/payout."""

    interval: _Interval = "1m"


class HistorySection(PollSection):
    """/stats/history."""

    interval: _Interval = "5m"
    max_row_age: Annotated[
        Duration, _about("hourly rows older than this are not shown as now; 3h or more, for 2h15m is natural")
    ] = "4h"


class HistoryPoll(Poll, frozen=True, gc=False):
    """How /stats/history is polled; rows older than `max_row_age` seconds are not exported."""

    max_row_age: float


_Order = Literal["total", "balance", "withdrawn"]


class TopUsersSection(PollSection):
    """/user/top."""

    interval: _Interval = "1m"
    count: Annotated[int, Meta(ge=1, le=1024), _about("how many users")] = 128
    order: Annotated[_Order, _about("the top ones by what")] = "total"


class TopUsersPoll(Poll, frozen=True, gc=False):
    """How /user/top is polled: the number of users, and the amount that ranks them."""

    count: int
    order: _Order


class AllUsersSection(PollSection):
    """/user/list, page by page: the sums over all users."""

    enabled: Annotated[bool, _about("whether it is polled at all")] = False
    interval: _Interval = "15m"
    page_size: Annotated[int, Meta(ge=32, le=8192), _about("users of one page")] = 4096
    max_pages: Annotated[int, Meta(ge=1, le=1_000_000), _about("a longer list fails the poll")] = 10_000


class AllUsersPoll(Poll, frozen=True, gc=False):
    """How /user/list is polled, if at all: users per page, and the maximum number of pages."""

    enabled: bool
    page_size: int
    max_pages: int


class BalancesSection(PollSection):
    """/user/balance of each of `watch_users`."""

    interval: _Interval = "5m"


class PollsSection(Section):
    """How each endpoint is polled."""

    payout: Annotated[PayoutSection | UnsetType, _about("/stats/payout")] = UNSET
    history: Annotated[HistorySection | UnsetType, _about("/stats/history")] = UNSET
    top_users: Annotated[TopUsersSection | UnsetType, _about("/user/top")] = UNSET
    all_users: Annotated[AllUsersSection | UnsetType, _about("/user/list")] = UNSET
    balances: Annotated[BalancesSection | UnsetType, _about("/user/balance")] = UNSET


class Polls(Struct, frozen=True, gc=False):
    """How each endpoint of a site is polled; the fields are those of PollsSection."""

    payout: Poll
    history: HistoryPoll
    top_users: TopUsersPoll
    all_users: AllUsersPoll
    balances: Poll


# For each name: its section, and the class that the program uses.
POLL_CLASSES: dict[str, tuple[type[PollSection], type[Poll]]] = {
    name: (unwrap(fields(PollsSection)[name].type)[0], poll) for name, poll in get_type_hints(Polls).items()
}


class SiteSection(Section):
    """One site, its secret (exactly one of three keys), and its overrides of the section `poll`."""

    name: Annotated[Label, _about("the `site` label, unique, at most 128 bytes")]
    secret_env: Annotated[Variable | UnsetType, _about("the environment variable that holds the secret")] = (
        UNSET
    )
    secret_file: Annotated[
        Text | UnsetType,
        _about("the file that holds it, sought from the config's directory; looked at before each call"),
    ] = UNSET
    secret: Annotated[Text | UnsetType, _about("the secret itself, which `check` warns about")] = UNSET
    currency: Annotated[Label, _about("what amounts are in: text for dashboards")] = "XMR"
    watch_users: Annotated[
        list[Text] | UnsetType, _about("users who have their series whatever their rank")
    ] = UNSET
    poll: Annotated[PollsSection | UnsetType, _about("overrides of the section poll, key by key")] = UNSET


class UsersSection(Section):
    """What is shown of user names."""

    names: Annotated[
        Names,
        _about("plain; hmac: 16 hex digits of a keyed hash in place of each name; off: no series per user"),
    ] = "plain"
    names_key_env: Annotated[
        Variable | UnsetType,
        _about("with hmac: the environment variable that holds the key, 16 bytes or more"),
    ] = UNSET
    names_key_file: Annotated[
        Text | UnsetType, _about("with hmac: the file that holds the key, 16 bytes or more")
    ] = UNSET


class Users(Struct, frozen=True, gc=False):
    """How user names are exported. `key` is set exactly with `hmac`."""

    names: Literal["plain", "hmac", "off"]
    key: Secret | None


class Site(Struct, frozen=True, gc=False):
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


class WebSection(Section):
    """What is served where."""

    sites_on_metrics: Annotated[
        bool, _about("false: /metrics has the exporter alone, sites are at /probe, listed by /sd")
    ] = True


class ConfigFile(Section):
    """config.yaml of cryptoloot-exporter."""

    sites: Annotated[
        list[SiteSection],
        Meta(min_length=1, description="the sites to poll, at least one, each with a name and a secret"),
    ]
    api: Annotated[ApiSection | UnsetType, _about("the server and how it is called")] = UNSET
    poll: Annotated[PollsSection | UnsetType, _about("how each endpoint is polled")] = UNSET
    users: Annotated[UsersSection | UnsetType, _about("what is shown of user names")] = UNSET
    web: Annotated[WebSection | UnsetType, _about("what is served where")] = UNSET


class Config(Struct, frozen=True):
    """The whole configuration. Each warning names something that is allowed but unwise or without effect."""

    api: Api
    sites: tuple[Site, ...]
    users: Users
    web: WebSection
    warnings: tuple[str, ...]
