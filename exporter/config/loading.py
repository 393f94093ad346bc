"""A config file, or the environment, becomes a `Config`.

`schema` reads the document value by value. This module checks what concerns more than one value and reads the
secrets. Problems are collected and raised together at the end, so one run reports all of them.
"""

import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import UNSET

from exporter.config import schema, sections
from exporter.config.authority import read_authority
from exporter.config.problems import ConfigError, Problem, Problems
from exporter.config.secret import (
    Secret,
    SecretSource,
    clean,
    doubt,
    exposed,
    lacks,
    read_regular,
    read_secret,
    secret_variable,
)
from exporter.config.sections import POLL_CLASSES, Api, Config, Polls, Site, Users, WebSection
from exporter.config.values import MAX_DURATION, format_duration
from exporter.config.yamlfile import MAX_BYTES, load_yaml

SHORTEST_INTERVAL = 10.0  # seconds
SHORTEST_KEY = 16  # bytes


def source(path: Path, environ: Mapping[str, str], *, explicit: bool) -> Callable[[], Config]:
    """Return the function that loads the config, at the start and at each reload, from the same source.

    If the file does not exist now and the user did not ask for it (`explicit`), that is the environment. It
    can configure one site named `default`: its secret is in CRYPTOLOOT_SECRET, or in the file that
    CRYPTOLOOT_SECRET_FILE names, relative to the working directory.
    """
    try:
        os.lstat(path)
    except FileNotFoundError:
        if not explicit:
            return partial(_load_environment, path.name, environ)
    except OSError:
        pass  # loading reports it
    return partial(load, path, environ)


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """Read config.yaml. Relative secret files are in its own directory.

    Raises ConfigError, with every problem.
    """
    problems = Problems(str(path))
    try:
        # One byte more than allowed is enough to tell that a file is too large.
        data, _ = read_regular(path, MAX_BYTES)
    except ValueError as error:
        advice = "" if lacks(error) else ". Correct that, or name another file with --config.file"
        problems.add("", f"{error}{advice}")
        raise ConfigError(problems.reported) from None
    return _Builder(environ, path.parent, problems).build(load_yaml(data, problems))


def _load_environment(missing: str, environ: Mapping[str, str]) -> Config:
    aliases = {"sites[0].secret_env": "CRYPTOLOOT_SECRET", "sites[0].secret_file": "CRYPTOLOOT_SECRET_FILE"}
    secret, file = (environ.get(name, "").strip() for name in aliases.values())
    problems = Problems("the environment", aliases)
    if not (secret or file):
        message = (
            "no such file, and neither CRYPTOLOOT_SECRET nor CRYPTOLOOT_SECRET_FILE is set: write a config "
            "file and name it with --config.file, or set one of the two to poll one site named default"
        )
        raise ConfigError([Problem("", message, source=missing)])
    if secret and file:
        problems.add("CRYPTOLOOT_SECRET", "CRYPTOLOOT_SECRET_FILE is set too: keep exactly one of them")
        raise ConfigError(problems.reported)
    keys = {"secret_file": environ["CRYPTOLOOT_SECRET_FILE"]} if file else {"secret_env": "CRYPTOLOOT_SECRET"}
    return _Builder(environ, Path(), problems).build({"sites": [{"name": "default", **keys}]})


def parse(document: object, environ: Mapping[str, str]) -> Config:
    """Return the configuration that a plain mapping means, as YAML or JSON would load it.

    Relative secret files are in the working directory. Raises ConfigError, with every problem.
    """
    return _Builder(environ, Path(), Problems("", {"": "config"})).build(document)


_INSECURE = "http:// would send the secrets in the clear: use https://, or set api.allow_insecure: true"


class _Builder(NamedTuple):
    """Builds a configuration from a document. `directory` is where relative secret files are."""

    environ: Mapping[str, str]
    directory: Path
    problems: Problems

    def build(self, document: object) -> Config:
        """Return the configuration. Raises ConfigError."""
        problems = self.problems
        # If the document is no mapping, that is reported, and the rest is about an empty one.
        values = schema.read(document, sections.ConfigFile, "", problems) or {}
        listed, poll = values.get("sites", []), values.get("poll", {})
        self.polls({}, poll, "poll")  # reports faults of the section `poll` once, not for each site
        sites = [self.site(index, site, poll) for index, site in enumerate(listed) if site is not UNSET]
        names = [UNSET if site is UNSET else site.get("name", UNSET) for site in listed]
        for index, first in _duplicates(names):
            message = f"the same name as sites[{first}].name: every site needs its own"
            problems.add(f"sites[{index}].name", message)
        users = self.users(values.get("users", {}))
        if users.names == "off" and any(site["watch_users"] for site in sites):
            message = "with off, watch_users bring no series: only whether the API knows them"
            problems.warn("users.names", message)
        api = self.api(values.get("api", {}), len(listed))
        if not api.local:
            self.short_intervals(poll, "poll")
            for index, site in enumerate(listed):
                self.short_intervals((site or {}).get("poll", {}), f"sites[{index}].poll")
        if problems.reported:
            raise ConfigError(problems.reported)
        all_sites = tuple(Site(**site, api=api, users=users) for site in sites)
        return Config(api, all_sites, users, WebSection(**values.get("web", {})), tuple(problems.warnings))

    def api(self, values: dict[str, Any], sites: int) -> Api:
        # More sites than 8 slots can serve in time get more slots. Beyond 64, httpx itself is the bottleneck.
        slots = min(max(8, math.ceil(sites / 20)), 64)
        if name := values.get("ca_file"):
            values = values | {"ca_file": None}
            try:
                values["ca_file"] = read_authority(self.directory / name)
            except ValueError as error:
                self.problems.add("api.ca_file", f"the file named here {error}{self.sought(name)}")
        api = Api(**schema.defaults(sections.ApiSection) | {"max_concurrency": slots} | values)
        if not (api.allow_insecure or api.private or self.problems.has("api.allow_insecure")):
            self.problems.add("api.url", _INSECURE)
        if api.ca_file and api.url.startswith("http:"):
            self.problems.warn("api.ca_file", "without effect: api.url is http://, without certificates")
        return api

    def site(self, number: int, values: dict[str, Any], poll: dict[str, Any]) -> dict[str, Any]:
        """Return a site's own fields, read first: their problems come before those of `users` and `api`."""
        path = f"sites[{number}]"
        users = values.get("watch_users", [])
        for index, first in _duplicates(users):
            self.problems.add(f"{path}.watch_users[{index}]", f"the same user as {path}.watch_users[{first}]")
        return {
            "name": values.get("name", ""),
            "secret": self.secret(values, path, ("secret_env", "secret_file", "secret")),
            "currency": values.get("currency", schema.defaults(sections.SiteSection)["currency"]),
            "watch_users": tuple(user for user in users if user is not UNSET),
            "polls": self.polls(poll, values.get("poll", {}), f"{path}.poll"),
        }

    def polls(self, base: dict[str, Any], overrides: dict[str, Any], path: str) -> Polls:
        """Merge the section `poll` and a site's overrides, key by key: the site's key wins.

        `stale_after` is 5 times the merged interval unless either level sets it. If the section sets it and a
        site has a longer interval, that is a problem of the site, because the intention is unclear.
        """
        polls: dict[str, Any] = {}
        for name, (section, poll) in POLL_CLASSES.items():
            place, changes = f"{path}.{name}", overrides.get(name, {})
            values = schema.defaults(section) | base.get(name, {}) | changes
            interval = values["interval"]
            stale_after = values.setdefault("stale_after", round(min(5 * interval, MAX_DURATION), 3))
            changed = [key for key in ("stale_after", "interval") if key in changes]
            faulty = self.problems.has(place) or self.problems.has(f"poll.{name}")
            if changed and stale_after < interval and not faulty:
                below = f"{format_duration(stale_after)} is below the interval {format_duration(interval)}"
                why = "so values would leave between two polls: set stale_after to a few intervals"
                self.problems.add(f"{place}.{changed[0]}", f"stale_after {below}, {why}")
            if changes.get("max_row_age", math.inf) < 3 * 3600:
                message = "below 3h: a settled row is up to 2h15m old by nature, values will flicker"
                self.problems.warn(f"{place}.max_row_age", message)
            polls[name] = poll(**values)
        return Polls(**polls)

    def short_intervals(self, polls: dict[str, Any], path: str) -> None:
        for name, values in polls.items():
            if values.get("interval", math.inf) < SHORTEST_INTERVAL:
                message = "below 10s: the data change by the minute, and the API may reject so many requests"
                self.problems.warn(f"{path}.{name}.interval", message)

    def users(self, values: dict[str, Any]) -> Users:
        keys = ("names_key_env", "names_key_file")
        names = values.get("names", schema.defaults(sections.UsersSection)["names"])
        if names == "hmac":
            secret = self.secret(values, "users", keys).value
            if 0 < len(secret.reveal().encode()) < SHORTEST_KEY:
                place = next(f"users.{key}" for key in keys if key in values)
                advice = "`openssl rand -hex 32` prints a good one"
                self.problems.add(place, f"the key is shorter than {SHORTEST_KEY} bytes: {advice}")
            return Users(names, secret)
        for key in keys:
            # Whoever sets a key believes that names are hashed, so a mere warning would come too late.
            if key in values and not self.problems.has("users.names"):
                message = "a key is used with names: hmac only: set that, or remove the key"
                self.problems.add(f"users.{key}", message)
        return Users(names, None)

    def secret(self, values: dict[str, Any], path: str, keys: tuple[str, ...]) -> SecretSource:
        """Read the secret from the only source that is set. With a fault, the result is empty."""
        sources = [key for key in keys if key in values or self.problems.has(f"{path}.{key}")]
        if len(sources) != 1:
            none = f"no {'key' if path == 'users' else 'secret'} is given"
            fault = f"{' and '.join(sources)} are given" if sources else none
            self.problems.add(path, f"{fault}: give exactly one of {', '.join(keys)}")
        elif sources[0] in values:
            kind, value, place = sources[0].rpartition("_")[2], values[sources[0]], f"{path}.{sources[0]}"
            try:
                result = self.secret_source(kind, value, place)
            except ValueError as error:
                what = {"env": "environment variable named here", "file": "file named here"}.get(kind, kind)
                if place in self.problems.aliases:
                    what = what.removeprefix("environment ").removesuffix(" named here")
                self.problems.add(place, f"the {what} {error}{self.sought(value) if kind == 'file' else ''}")
            else:
                if message := doubt(result.value):
                    self.problems.warn(place, message)
                return result
        return SecretSource(Secret(""))

    def secret_source(self, kind: str, value: str, path: str) -> SecretSource:
        """Read a secret, and warn if others can reach its file. Raises ValueError."""
        if kind == "env":
            return SecretSource(secret_variable(value, self.environ), env=value)
        if kind == "file":
            secret, status = read_secret(self.directory / value)
            if exposed(status):
                mode = f"{stat.S_IMODE(status.st_mode):04o}"
                message = f"others than the owner can reach the file (mode {mode}): chmod 600 would stop them"
                self.problems.warn(path, message)
            return SecretSource(secret, file=self.directory / value)
        message = "a secret in the config file is copied along with it: use secret_env or secret_file"
        self.problems.warn(path, message)
        return SecretSource(clean(value))

    def sought(self, file: str) -> str:
        """Say where a relative file was sought, if that is not the working directory."""
        return " (sought from the config file's directory)" if self.directory / file != Path(file) else ""


def _duplicates(values: list[Any]) -> Iterator[tuple[int, int]]:
    """Yield the index of each repeated value, and the index of its first occurrence."""
    first: dict[Any, int] = {}
    for index, value in enumerate(values):
        if value is not UNSET and first.setdefault(value, index) != index:
            yield index, first[value]
