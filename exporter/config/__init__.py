"""The configuration as we use it: durations in seconds, sizes in bytes, secrets read.

`load` and `parse` build it from what schema reads leaf by leaf, check what takes more than one leaf, and
raise nothing before both are through, so one run reports every problem. No problem names a path of the file
system or repeats a secret, for `/-/reload` answers with problems.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import math
import stat
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import yaml
from msgspec import UNSET

from exporter.config import schema, sections
from exporter.config.problems import Findings, Problem
from exporter.config.schema import defaults
from exporter.config.secret import MASK, Secret, SecretSource, clean, exposed, read_secret
from exporter.config.values import LONGEST, format_duration, format_size
from exporter.config.yamlfile import load_yaml
from exporter.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


class ConfigError(Exception):
    """A configuration that cannot be used; `problems` holds every fault, by line, those without one last."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line or math.inf))
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(frozen=True)
class Api:
    """The server: base URL without trailing slash, seconds, requests in flight, bytes after decompression."""

    url: str
    timeout: float
    max_concurrency: int
    max_response_bytes: int
    allow_insecure: bool
    proxy: Literal["none", "environment"]

    @property
    def host(self) -> str:
        """The URL's host, with the port where the URL has one; never user or password."""
        return urlsplit(self.url).netloc.rpartition("@")[2]


@dataclass(frozen=True)
class Poll:
    """Seconds from one poll to the next, and from the last success to when values leave."""

    interval: float
    stale_after: float


@dataclass(frozen=True)
class HistoryPoll(Poll):
    """/stats/history: besides, the age where a row's values leave, in seconds."""

    max_row_age: float


@dataclass(frozen=True)
class TopUsersPoll(Poll):
    """/user/top: besides, how many users, by what."""

    count: int
    order: Literal["total", "balance", "withdrawn"]


@dataclass(frozen=True)
class AllUsersPoll(Poll):
    """/user/list: besides, whether at all, users per page, pages at most."""

    enabled: bool
    page_size: int
    max_pages: int


@dataclass(frozen=True)
class Polls:
    """How each endpoint of a site is polled."""

    payout: Poll
    history: HistoryPoll
    top_users: TopUsersPoll
    all_users: AllUsersPoll
    balances: Poll


@dataclass(frozen=True)
class Site:
    """One site: its label, secret, currency, users watched whatever their rank, polls with its overrides."""

    name: str
    secret: SecretSource
    currency: str
    watch_users: tuple[str, ...]
    polls: Polls

    def active_polls(self) -> dict[Endpoint, Poll]:
        """Return how each endpoint that is polled is polled."""
        found: dict[Endpoint, Poll] = {
            Endpoint.PAYOUT: self.polls.payout,
            Endpoint.HISTORY: self.polls.history,
            Endpoint.TOP_USERS: self.polls.top_users,
        }
        if self.polls.all_users.enabled:
            found[Endpoint.ALL_USERS] = self.polls.all_users
        if self.watch_users:
            found[Endpoint.BALANCES] = self.polls.balances
        return found


@dataclass(frozen=True)
class Users:
    """How user names are shown; `key` is there exactly with `hmac`."""

    names: Literal["plain", "hmac", "off"]
    key: Secret | None


@dataclass(frozen=True)
class Web:
    """Whether /metrics has the sites, or /probe."""

    sites_on_metrics: bool


@dataclass(frozen=True)
class Config:
    """The whole configuration, and what is allowed but unwise or without effect, one text each."""

    api: Api
    sites: tuple[Site, ...]
    users: Users
    web: Web
    warnings: tuple[str, ...]


def load(path: Path, environ: Mapping[str, str], *, explicit: bool = True) -> Config:
    """Read config.yaml.

    Relative secret files are sought from the config file's own directory. Where a file that was not asked for
    explicitly does not exist, and CRYPTOLOOT_SECRET or CRYPTOLOOT_SECRET_FILE (sought from the working
    directory) is set and not empty, one site named `default` is polled.

    Raises ConfigError, with every problem.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        if not explicit:
            return _load_environment(path.name, environ)
        problem = "no such file: correct --config.file, or leave it out to use config.yaml or the environment"
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    else:
        found = Findings({"": path.name})
        return _build(load_yaml(data, found), _Around(environ, path.parent, found))
    raise ConfigError([Problem(path.name, problem)])


def _load_environment(missing: str, environ: Mapping[str, str]) -> Config:
    names = {"secret_env": "CRYPTOLOOT_SECRET", "secret_file": "CRYPTOLOOT_SECRET_FILE"}
    given = {key: name for key, name in names.items() if environ.get(name, "").strip()}
    if not given:
        problem = (
            "no such file, and neither CRYPTOLOOT_SECRET nor CRYPTOLOOT_SECRET_FILE is set: write a config "
            "file and name it with --config.file, or set one of the two to poll one site named default"
        )
        raise ConfigError([Problem(missing, problem)])
    if len(given) > 1:
        problem = "CRYPTOLOOT_SECRET_FILE is set too: keep exactly one of them"
        raise ConfigError([Problem("CRYPTOLOOT_SECRET", problem)])
    if "secret_file" in given:
        given = {"secret_file": environ["CRYPTOLOOT_SECRET_FILE"]}
    found = Findings({f"sites[0].{key}": name for key, name in names.items()})
    return _build({"sites": [{"name": "default", **given}]}, _Around(environ, Path(), found))


def parse(document: object, environ: Mapping[str, str]) -> Config:
    """Return the configuration a plain mapping means, as YAML or JSON would load it.

    Relative secret files are sought from the working directory. Raises ConfigError, with every problem.
    """
    return _build(document, _Around(environ, Path(), Findings({"": "config"})))


@dataclass(frozen=True)
class _Around:
    environ: Mapping[str, str]
    base: Path
    found: Findings


def _build(document: object, around: _Around) -> Config:
    found = around.found
    given = schema.read(document, sections.ConfigFile, "", found)
    if given is UNSET:
        raise ConfigError(found.problems)
    sites_given = given.get("sites", [])
    base = given.get("poll", {})
    _polls({}, base, "poll", found)  # for its faults, told once for all sites
    sites = tuple(
        _site(section, base, f"sites[{index}]", around)
        for index, section in enumerate(sites_given)
        if section is not UNSET
    )
    names = [UNSET if section is UNSET else section.get("name", UNSET) for section in sites_given]
    for index, first in _repeated(names):
        found.add(f"sites[{index}].name", f"the same name as sites[{first}].name: every site needs its own")
    users = _users(given.get("users", {}), around)
    if users.names == "off" and any(site.watch_users for site in sites):
        found.warn("users.names", "with off, watch_users bring no series: only whether the API knows them")
    web = Web(**defaults(sections.WebSection) | given.get("web", {}))
    config = Config(
        api=_api(given.get("api", {}), len(sites_given), found),
        sites=sites,
        users=users,
        web=web,
        warnings=tuple(found.warnings),
    )
    if found.problems:
        raise ConfigError(found.problems)
    return config


def _repeated(values: list[Any]) -> Iterator[tuple[int, int]]:
    """Yield the index of each value that was there before, with the index where it was first."""
    first: dict[Any, int] = {}
    for index, value in enumerate(values):
        if value is not UNSET and first.setdefault(value, index) != index:
            yield index, first[value]


def _api(given: dict[str, Any], sites: int, found: Findings) -> Api:
    # More sites than 8 slots can serve in time get more slots; past 64, httpx itself is the bottleneck.
    slots = min(max(8, math.ceil(sites / 20)), 64)
    api = Api(**defaults(sections.ApiSection) | {"max_concurrency": slots} | given)
    if not (api.allow_insecure or _is_private(api.url) or found.has("api.allow_insecure")):
        problem = "http:// would send the secrets in the clear: use https://, or set api.allow_insecure: true"
        found.add("api.url", problem)
    return api


def _is_private(url: str) -> bool:
    """Whether nobody on the network can read the calls: TLS, or they stay on this host."""
    host = urlsplit(url).hostname or ""
    try:
        return url.startswith("https:") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _site(given: dict[str, Any], base: dict[str, Any], path: str, around: _Around) -> Site:
    found = around.found
    users = given.get("watch_users", [])
    for index, first in _repeated(users):
        found.add(f"{path}.watch_users[{index}]", f"the same user as {path}.watch_users[{first}]")
    return Site(
        name=given.get("name", ""),
        secret=_secret(given, path, ("secret_env", "secret_file", "secret"), around),
        currency=given.get("currency", defaults(sections.SiteSection)["currency"]),
        watch_users=tuple(user for user in users if user is not UNSET),
        polls=_polls(base, given.get("poll", {}), f"{path}.poll", found),
    )


_POLLS: dict[str, tuple[type[sections.PollSection], type[Poll]]] = {
    "payout": (sections.PayoutSection, Poll),
    "history": (sections.HistorySection, HistoryPoll),
    "top_users": (sections.TopUsersSection, TopUsersPoll),
    "all_users": (sections.AllUsersSection, AllUsersPoll),
    "balances": (sections.BalancesSection, Poll),
}


def _polls(base: dict[str, Any], overrides: dict[str, Any], path: str, found: Findings) -> Polls:
    """Merge the section `poll` and a site's overrides, key by key. The site's key wins, then the section's.

    `stale_after` is 5 times the interval in force unless either level gives it. Where the section gives it
    and a site has a longer interval, that is a problem of the site: what was meant is anybody's guess.
    """
    merged = {name: _poll(name, base.get(name, {}), overrides.get(name, {}), path, found) for name in _POLLS}
    return Polls(**merged)  # type: ignore[arg-type]  # _POLLS pairs each name with its class


def _poll(name: str, base: dict[str, Any], overrides: dict[str, Any], parent: str, found: Findings) -> Poll:
    struct, kind = _POLLS[name]
    path = f"{parent}.{name}"
    values = defaults(struct) | base | overrides
    interval = values["interval"]
    stale_after = values.setdefault("stale_after", round(min(5 * interval, LONGEST), 3))
    moved = [key for key in ("stale_after", "interval") if key in overrides]
    if moved and stale_after < interval and not (found.has(path) or found.has(f"poll.{name}")):
        found.add(
            f"{path}.{moved[0]}",
            f"stale_after {format_duration(stale_after)} is below the interval {format_duration(interval)}, "
            "so values would leave between two polls: set stale_after to a few intervals",
        )
    if overrides.get("max_row_age", math.inf) < 3 * 3600:
        warning = "below 3h: a settled row is up to 2h15m old by nature, values will flicker"
        found.warn(f"{path}.max_row_age", warning)
    return kind(**values)


def _users(given: dict[str, Any], around: _Around) -> Users:
    keys = ("names_key_env", "names_key_file")
    names = given.get("names", defaults(sections.UsersSection)["names"])
    if names == "hmac":
        return Users(names, _secret(given, "users", keys, around).value)
    for key in keys:
        # Whoever gives a key believes that names are hashed: telling them late would be too late.
        if key in given and not around.found.has("users.names"):
            problem = "a key is used with names: hmac only: set that, or remove the key"
            around.found.add(f"users.{key}", problem)
    return Users(names, None)


def _secret(given: dict[str, Any], path: str, keys: tuple[str, ...], around: _Around) -> SecretSource:
    """Read the secret that exactly one of the keys names; what is wrong with it is found, not raised."""
    found = around.found
    named = [key for key in keys if key in given or found.has(f"{path}.{key}")]
    if len(named) != 1:
        none = f"no {'key' if path == 'users' else 'secret'} is given"
        fault = f"{' and '.join(named)} are given" if named else none
        found.add(path, f"{fault}: give exactly one of {', '.join(keys)}")
    elif named[0] in given:
        key, value = named[0], given[named[0]]
        try:
            return _source(key, value, f"{path}.{key}", around)
        except ValueError as error:
            kind = key.rpartition("_")[2]
            what = {"env": "environment variable named here", "file": "file named here"}.get(kind, "secret")
            if found.renamed(f"{path}.{key}"):
                what = what.removeprefix("environment ").removesuffix(" named here")
            moved = kind == "file" and around.base / value != Path(value)
            hint = " (sought from the config file's directory)" if moved else ""
            found.add(f"{path}.{key}", f"the {what} {error}{hint}")
    return SecretSource(Secret(""))


def _source(key: str, value: str, path: str, around: _Around) -> SecretSource:
    """Read one secret. Raises ValueError that names neither the source nor its content."""
    if key.endswith("_env"):
        if value not in around.environ:
            raise ValueError("is not set: set it where the exporter is started")
        return SecretSource(clean(around.environ[value]), env=value)
    if key.endswith("_file"):
        secret, status = read_secret(around.base / value)
        if exposed(status):
            mode = f"{stat.S_IMODE(status.st_mode):04o}"
            warning = f"others than the owner can reach the file (mode {mode}): chmod 600 would stop them"
            around.found.warn(path, warning)
        return SecretSource(secret, file=around.base / value)
    warning = "a secret in the config file is copied along with it: use secret_env or secret_file"
    around.found.warn(path, warning)
    return SecretSource(clean(value))


def masked(config: Config) -> str:
    """Return the effective configuration as YAML, secrets masked, durations and sizes as people write them.

    `parse` reads it back as the same, but for what is masked: inline secrets, and the key of `hmac`, which
    shows as `names_key`, for where it came from is not kept. The section `poll` has what most sites share.
    """
    common = Counter(site.polls for site in config.sites).most_common(1)
    api = dataclasses.asdict(config.api) | {
        "timeout": format_duration(config.api.timeout),
        "max_response_bytes": format_size(config.api.max_response_bytes),
    }
    document = {
        "api": api,
        "sites": [_site_document(site, common[0][0]) for site in config.sites],
        **({"poll": _polls_document(common[0][0])} if common else {}),  # a shard can be left without sites
        "users": {"names": config.users.names} | ({"names_key": MASK} if config.users.key else {}),
        "web": dataclasses.asdict(config.web),
    }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)


def _site_document(site: Site, common: Polls) -> dict[str, Any]:
    source = {"secret_env": site.secret.env, "secret_file": site.secret.file and str(site.secret.file)}
    usual, own = _polls_document(common), _polls_document(site.polls)
    poll = {name: own[name] for name in own if own[name] != usual[name]}
    return {
        "name": site.name,
        **({key: value for key, value in source.items() if value} or {"secret": MASK}),
        "currency": site.currency,
        **({"watch_users": list(site.watch_users)} if site.watch_users else {}),
        **({"poll": poll} if poll else {}),
    }


def _polls_document(polls: Polls) -> dict[str, dict[str, Any]]:
    durations = {"interval", "stale_after", "max_row_age"}
    return {
        name: {key: format_duration(value) if key in durations else value for key, value in poll.items()}
        for name, poll in dataclasses.asdict(polls).items()
    }
