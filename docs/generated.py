"""Pages written from the code, which is the one place for every name: metrics, keys, flags, rules.

Each function returns the text of one file. tests/test_docs.py holds the files to them.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import msgspec
import yaml
from msgspec import UNSET

from docs.catalogue import CATALOGUE
from exporter import cli
from exporter.api.errors import PollError
from exporter.collectors.expiry import Expiry
from exporter.config.schema import Section, unwrap
from exporter.config.sections import ConfigFile
from exporter.endpoint import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from exporter.collectors.metric import Metric

REPOSITORY = Path(__file__).parent.parent
RULES = REPOSITORY / "alerts" / "cryptoloot.rules.yml"
RUNBOOK = REPOSITORY / "docs" / "runbook.md"
SECRETS = ("secret_env", "secret_file", "secret")
SOURCES = {
    "config": "Site",
    "polls": "Polls, by endpoint",
    "exporter": "The exporter",
}  # all others are paths
EXPIRIES = {Expiry.STALE: " **E**", Expiry.ROW: " **E, R**"}  # what _METRICS explains, in place of the HELP's
RULER = re.compile(r" ?-{9,}.*")  # a heading in the rules file's comments


def written() -> dict[Path, str]:
    """Return each generated file's content, as it should be."""
    docs = REPOSITORY / "docs"
    return {
        docs / "metrics.md": metrics(),
        docs / "configuration.md": configuration(),
        docs / "commands.md": commands(),
        docs / "rules.md": rules(),
        REPOSITORY / "config.schema.json": schema(),
    }


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [" | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) for row in (head, *rows)]
    lines.insert(1, " | ".join(["---"] * len(head)))
    return "".join(f"| {line} |\n" for line in lines)


# ------------------------------------------------------------------------------------------------- metrics.md


def metrics() -> str:
    """Return the page of all metrics, by their source, in the order of a scrape."""
    sections: dict[str, list[Metric]] = {}
    for metric in CATALOGUE.values():
        sections.setdefault(SOURCES.get(metric.source, f"From `{metric.source}`"), []).append(metric)
    parts = [_METRICS]
    for title, listed in sections.items():
        rows = [
            (
                f"`{metric.name}`",
                metric.type,
                ", ".join(metric.labels),
                metric.help.removesuffix(metric.expiry.value) + EXPIRIES.get(metric.expiry, ""),
            )
            for metric in listed
        ]
        parts.append(f"## {title}\n\n{table(('metric', 'type', 'labels', 'is'), rows)}")
    whys = {leaf.reason: leaf.__doc__ or "" for leaf in _leaves(PollError)}
    return "\n".join([*parts, _PROCESS, table(("reason", "is"), [(f"`{why}`", whys[why]) for why in Reason])])


def _leaves(parent: type[PollError]) -> Iterator[type[PollError]]:
    children = parent.__subclasses__()
    yield from (leaf for child in children for leaf in _leaves(child)) if children else (parent,)


_METRICS = """\
# Metrics

Written by `python -m docs` from the catalogue in [docs/catalogue.py](catalogue.py).

Values are the API's, in its units. Polled and cached, not fetched on scrape; samples carry no timestamps. Amounts are in coins, and
`cryptoloot_site_info` says which. On `/probe` are the families with a `site` label, on `/metrics` all of them (with
`web.sites_on_metrics: false` those without).

- **E**: leaves the page when its endpoint's last success is older than `stale_after`.
- **R**: leaves also when the row itself is older than `max_row_age`, whatever the polls say.
"""
_PROCESS = """\
`process_*` and `python_*` are prometheus-client's own.

## Reasons

Why a poll failed, in `cryptoloot_poll_failures_total`: each failed poll counts under exactly one, and each reason is at 0 from
the start. The last two are of a watched user alone, in `cryptoloot_watched_user_failures_total`. [runbook.md](runbook.md) says
what to do.
"""


# ------------------------------------------------------------------------------------------- configuration.md


def configuration() -> str:
    """Return the page of all keys of config.yaml."""
    return "\n".join([_CONFIGURATION, *_sections(ConfigFile, ""), _AFTERWARDS])


def _sections(struct: type[Section], path: str) -> Iterator[str]:
    rows, below = [], []
    for field in msgspec.structs.fields(struct):
        base, meta = unwrap(field.type)
        inner = get_args(base)[0] if get_origin(base) is list else base
        key = f"{path}{field.name}"
        if isinstance(inner, type) and issubclass(inner, Section):
            below.append((inner, f"{key}[]." if get_origin(base) is list else f"{key}."))
        default = "required" if field.required else "" if field.default is UNSET else _value(field.default)
        rows.append((f"`{key}`", _type(base, meta), default, meta.description or ""))
    title = path.rstrip(".") or "The file"
    yield f"## {title}\n\n{table(('key', 'type', 'default', 'is'), rows)}"
    for inner, beneath in below:
        if beneath != "sites[].poll.":  # the keys of `poll` once more
            yield from _sections(inner, beneath)


def _value(default: Any) -> str:
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _type(base: Any, meta: msgspec.Meta) -> str:
    """Return what may stand there, in a word or two."""
    if get_origin(base) is list:
        return "list"
    if isinstance(base, type) and issubclass(base, Section):
        return "section"
    reader = (meta.extra or {}).get("read")
    if reader is not None:
        return str(reader.__name__).removeprefix("read_").replace("names", "plain, hmac or off")
    if get_origin(base) is Literal:
        return " or ".join(get_args(base))
    return "true or false" if base is bool else f"{meta.ge} to {meta.le}"


_CONFIGURATION = """\
# Configuration

Written by `python -m docs` from [exporter/config/sections.py](../exporter/config/sections.py). [config.yaml](../config.yaml) is the same as
a file to start from. Editors complete from [config.schema.json](../config.schema.json):

```yaml
# yaml-language-server: $schema=config.schema.json
sites:
  - {name: my-site, secret_env: CRYPTOLOOT_SECRET}
```

Write durations as Prometheus does: `500ms`, `30s`, `1m30s`. Write sizes as `512KiB`, `16MiB` or a number of bytes. Unknown keys,
duplicate names, numbers out of range and missing secrets are errors. `cryptoloot-exporter check` lists all of them at once, each
with its path and line.
"""
_AFTERWARDS = """\
## Without a file

Without `config.yaml` and without `--config.file`, the exporter polls one site named `default`. Its secret is in `CRYPTOLOOT_SECRET`,
or in the file that `CRYPTOLOOT_SECRET_FILE` names. A reload reads the same source as the start. If the process started from a
file, a reload without the file is rejected. If it started from the environment, a file that appears later is ignored.

## Limits

The config must be a regular file of at most 2 MiB, 200,000 values and 32 levels. An alias counts as all values that it stands for.
`check`, the log and `/-/reload` show the first 50 problems or warnings, and how many more there are.

## The web configuration

`--web.config.file` has TLS, passwords and headers in the
[format of Prometheus' exporter-toolkit](https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md).
The exporter looks at it, and at the files that it names, once a second. A change needs no reload. If the change is rejected,
`cryptoloot_exporter_config_last_reload_successful` is 0 a second later. It is 1 again a second after the repair, unless the last
reload of the config was rejected too. [design.md](design.md) lists what is rejected.
"""


# ----------------------------------------------------------------------------------------- config.schema.json


def schema() -> str:
    """Return the JSON schema of config.yaml."""
    found = msgspec.json.schema(ConfigFile)
    definitions = found["$defs"]
    for definition in definitions.values():
        definition["properties"] = {
            key: value if key in definition["required"] else _or_nothing(value)
            for key, value in definition["properties"].items()
        }
    definitions["SiteSection"]["oneOf"] = [{"required": [key]} for key in SECRETS]
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "config.yaml of cryptoloot-exporter",
    }
    return json.dumps({**head, **found}, indent=2, sort_keys=True) + "\n"


def _or_nothing(value: dict[str, Any]) -> dict[str, Any]:
    """Let a section or list be empty: nothing under its key is as if it were not there."""
    if "$ref" not in value and value.get("type") != "array":
        return value
    about = {"description": value.pop("description")} if "description" in value else {}
    return {**about, "anyOf": [value, {"type": "null"}]}


# ------------------------------------------------------------------------------------------------ commands.md


def commands() -> str:
    """Return the page of all commands and their flags."""
    known = _choices(cli.parser())
    parts = [_COMMANDS]
    for name, command in known.items():
        rows = [(_flag(action), (action.help or "").replace("%%", "%")) for action in _actions(command)]
        parts.append(f"## {name}\n\n{table(('flag', 'does'), rows)}")
    return "\n".join(parts)


def _choices(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    # argparse shows what it knows to nobody but its own help.
    (action,) = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))  # noqa: SLF001
    found: dict[str, argparse.ArgumentParser] = dict(action.choices)
    return found


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    return (action for action in parser._actions if action.dest != "help")  # noqa: SLF001


def _flag(action: argparse.Action) -> str:
    value = (
        str(action.metavar or "|".join(action.choices or ()) or action.dest.upper())
        if action.nargs != 0
        else ""
    )
    return f"`{action.option_strings[0]}{f'={value}' if value else ''}`" + (
        " (required)" if action.required else ""
    )


_COMMANDS = """\
# Commands and flags

Written by `python -m docs` from [exporter/cli.py](../exporter/cli.py). `cryptoloot-exporter COMMAND --help` says the same;
`python -m exporter` is the same program. Flags follow the Prometheus daemons'. Secrets are never flags.

Exit codes: 0 fine, also after SIGTERM and SIGINT; 1 failed while working; 2 wrong usage or config. Output that cannot be
written is 1, also if its reader has gone (`check | head -1`). Logs that cannot be written are lost, and nothing stops.

SIGTERM and SIGINT stop `run`, `demo` and `simulate`; SIGHUP reloads the files of `run` and `demo`. During the start they wait.
Only in the first 10 ms or so of the process, before Python runs the program, the system's default holds: a signal ends the
process, or is lost if it is the first process of a container.

| command | does |
|---|---|
| `run` | the daemon |
| `demo` | the daemon against the simulated API, in one process: no account, no network |
| `check` | reads the config, prints what it means with secrets masked, or every problem with its place |
| `backfill` | the API's week as OpenMetrics for promtool |
| `simulate` | the simulated API alone |
| `health` | asks the local process over its health socket: exit code 0 or 1 |
"""


# --------------------------------------------------------------------------------------------------- rules.md


def rules() -> str:
    """Return the page of all alerts and recorded series."""
    known = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    told = dict(_commented(RULES.read_text().splitlines()))
    means = dict(re.findall(r"### (\w+)\n\n\*\*Means\.\*\* (.+?)\n\n", RUNBOOK.read_text(), re.DOTALL))
    alerts = [
        (f"[{name}](runbook.md#{name.lower()})", rule["labels"]["severity"], means.get(name, ""))
        for rule in known
        if (name := rule.get("alert"))
    ]
    recorded = [(f"`{rule['record']}`", told[rule["record"]]) for rule in known if "record" in rule]
    return (
        f"{_RULES}\n## Alerts\n\n{table(('alert', 'severity', 'means'), alerts)}\n"
        f"## Recorded series\n\n{table(('series', 'is'), recorded)}"
    )


def _commented(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Go through the recordings with the comment above each; without one of its own, the one before holds."""
    comment: list[str] = []
    ended = True
    for line in map(str.strip, lines):
        if line.startswith("#"):
            comment = [line[1:]] if ended else [*comment, line[1:]]
            ended = False
        else:
            ended = True
        if line.startswith("- record: "):
            said = " ".join(text.strip() for text in comment if not RULER.fullmatch(text))
            yield line.removeprefix("- record: "), said


_RULES = """\
# Alerts and recorded series

Written by `python -m docs` from [alerts/cryptoloot.rules.yml](../alerts/cryptoloot.rules.yml), which says more beside each
expression. Recordings are by site. [runbook.md](runbook.md) says what to do about an alert. Links, job names and thresholds are
set in [alerts/cryptoloot.settings.rules.yml](../alerts/cryptoloot.settings.rules.yml), which an upgrade leaves alone.
"""
