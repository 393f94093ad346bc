"""Documents of a configuration with one site, and what `parse` makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from exporter import config
from exporter.config import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

CANARY = "canary-4711"
ENVIRON = {
    "CRYPTOLOOT_SECRET": CANARY,
    "NAMES_KEY": f"{CANARY} is the key of names",
    "BLANK": " \r\n",
    "TWO_LINES": f"{CANARY}\nx",
    "NOT_UTF8": f"{CANARY}\udcff",
}


def parse(sites: list[dict[str, Any]] | None = None, **sections: Any) -> config.Config:
    default = [{"name": "a", "secret_env": "CRYPTOLOOT_SECRET"}]
    return config.parse({"sites": sites or default, **sections}, ENVIRON)


def problems(sites: list[dict[str, Any]] | None = None, **sections: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(sites, **sections)
    return [problem.text for problem in caught.value.problems]


def site(name: str = "a", **keys: Any) -> dict[str, Any]:
    return {"name": name, "secret_env": "CRYPTOLOOT_SECRET", **keys}


def secret_file(path: Path, text: str = CANARY) -> Path:
    path.write_text(text, newline="")
    path.chmod(0o600)
    return path
