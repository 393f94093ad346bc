"""The effective configuration as text, without secrets: what `check` prints."""

from collections import Counter
from typing import Any

import yaml
from msgspec.structs import asdict

from exporter.config import schema
from exporter.config.secret import MASK
from exporter.config.sections import POLL_CLASSES, ApiSection, Config, Polls


def masked(config: Config) -> str:
    """Return the effective configuration as YAML, with secrets masked and durations and sizes with units.

    `parse` reads it back as the same configuration, except for what is masked: inline secrets, and the key of
    `hmac`. The key is shown as `names_key`, because its source is not kept. The section `poll` holds what
    most sites share, and the other sites list their differences.
    """
    common = Counter(site.polls for site in config.sites).most_common(1)  # a shard may have no sites
    poll = _poll_sections(common[0][0]) if common else {}
    api = asdict(config.api) | ({"ca_file": str(config.api.ca_file.file)} if config.api.ca_file else {})
    sites = []
    for site in config.sites:
        polls = _poll_sections(site.polls)
        values = {
            "name": site.name,
            "secret_env": site.secret.env,
            "secret_file": site.secret.file and str(site.secret.file),
            "secret": None if site.secret.env or site.secret.file else MASK,
            "currency": site.currency,
            "watch_users": list(site.watch_users),
            "poll": {name: keys for name, keys in polls.items() if keys != poll[name]},
        }
        sites.append({key: value for key, value in values.items() if value})
    document = {
        "api": schema.write({key: value for key, value in api.items() if value is not None}, ApiSection),
        "sites": sites,
        **({"poll": poll} if poll else {}),
        "users": {"names": config.users.names} | ({"names_key": MASK} if config.users.key else {}),
        "web": asdict(config.web),
    }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)


def _poll_sections(polls: Polls) -> dict[str, dict[str, Any]]:
    return {name: schema.write(asdict(poll), POLL_CLASSES[name][0]) for name, poll in asdict(polls).items()}
