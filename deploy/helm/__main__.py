"""Write what the chart has from elsewhere: `python -m deploy.helm`.

Helm reads no file outside of a chart. So rules and dashboards are copied, the config's part of
values.schema.json is made of config.schema.json, and Chart.yaml has the exporter's version.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from exporter import __version__

REPOSITORY = Path(__file__).parent.parent.parent
CHART = Path(__file__).parent / "cryptoloot-exporter"
RULES = REPOSITORY / "alerts" / "cryptoloot.rules.yml"
THRESHOLD = re.compile(r"site:cryptoloot_(\w+):threshold")


def written() -> dict[Path, str]:
    """Return each file's content, as it should be."""
    dashboards = sorted((REPOSITORY / "dashboards").glob("*.json"))
    return {
        CHART / "Chart.yaml": _versions((CHART / "Chart.yaml").read_text()),
        CHART / "values.schema.json": _schema(json.loads((CHART / "values.schema.json").read_text())),
        CHART / "files" / RULES.name: RULES.read_text(),
        **{CHART / "files" / "dashboards" / board.name: board.read_text() for board in dashboards},
    }


def _versions(chart: str) -> str:
    return re.sub(r'^(version: |appVersion: ")[^"\n]*', rf"\g<1>{__version__}", chart, flags=re.MULTILINE)


def _schema(values: dict[str, Any]) -> str:
    """Put the config's sections and the thresholds' names in; the rest is written by hand."""
    config = json.loads((REPOSITORY / "config.schema.json").read_text())["$defs"]
    own = {name: each for name, each in values["$defs"].items() if name not in config}
    thresholds = values["properties"]["monitoring"]["properties"]["rules"]["properties"]["thresholds"]
    thresholds["properties"] = {name: {"$ref": "#/$defs/thresholds"} for name in _thresholds()}
    return json.dumps({**values, "$defs": own | _by_reference(config)}, indent=2) + "\n"


def _by_reference(config: dict[str, Any]) -> dict[str, Any]:
    """Change the config's sections to those of values: secrets by reference, and none within."""
    site, users, whole = config["SiteSection"], config["UsersSection"], config["ConfigFile"]
    del site["properties"]["secret"]
    site["properties"]["secretRef"] = users["properties"]["keyRef"] = {"$ref": "#/$defs/reference"}
    # The templates say better what is amiss.
    del site["oneOf"], whole["properties"]["sites"]["minItems"]
    for section in config.values():
        section["properties"] = {key: _something(value) for key, value in section["properties"].items()}
    return config


def _something(value: dict[str, Any]) -> dict[str, Any]:
    """Take null away: values leave out what is not set, and messages about one type are clearer."""
    kinds = [kind for kind in value.get("anyOf", ()) if kind != {"type": "null"}]
    return kinds[0] if len(kinds) == 1 else value


def _thresholds() -> list[str]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    found = [THRESHOLD.fullmatch(rule.get("record", "")) for group in groups for rule in group["rules"]]
    return [name[1] for name in found if name]


if __name__ == "__main__":
    for path, content in written().items():
        if not path.exists() or path.read_text() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
            sys.stdout.write(f"{path.name}: written\n")
