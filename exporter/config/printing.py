"""The effective configuration as text, without secrets: what `check` prints."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, Any

import yaml

from exporter.config import schema
from exporter.config.secret import MASK
from exporter.config.sections import POLLS, ApiSection

if TYPE_CHECKING:
    from exporter.config.model import Config
    from exporter.config.sections import Polls


def masked(config: Config) -> str:
    """Return the effective configuration as YAML, with secrets masked and durations and sizes with units.

    `parse` reads it back as the same configuration, except for what is masked: inline secrets, and the key of
    `hmac`. The key is shown as `names_key`, because its source is not kept. The section `poll` holds what
    most sites share, and the other sites list their differences.
    """
    common = Counter(site.polls for site in config.sites).most_common(1)  # a shard may have no sites
    poll = _poll_sections(common[0][0]) if common else {}
    sites = []
    for site in config.sites:
        source = {"secret_env": site.secret.env, "secret_file": site.secret.file and str(site.secret.file)}
        sections = _poll_sections(site.polls)
        overrides = {name: section for name, section in sections.items() if section != poll[name]}
        sites.append(
            {
                "name": site.name,
                **({key: value for key, value in source.items() if value} or {"secret": MASK}),
                "currency": site.currency,
                **({"watch_users": list(site.watch_users)} if site.watch_users else {}),
                **({"poll": overrides} if overrides else {}),
            }
        )
    document = {
        "api": schema.write(dataclasses.asdict(config.api), ApiSection),
        "sites": sites,
        **({"poll": poll} if poll else {}),
        "users": {"names": config.users.names} | ({"names_key": MASK} if config.users.key else {}),
        "web": dataclasses.asdict(config.web),
    }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)


def _poll_sections(polls: Polls) -> dict[str, dict[str, Any]]:
    return {name: schema.write(poll, POLLS[name][0]) for name, poll in dataclasses.asdict(polls).items()}
