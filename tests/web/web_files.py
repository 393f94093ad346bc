"""Web configuration files beside the test certificates."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from exporter.config import ConfigError
from exporter.web import web_config
from exporter.web.tls import Tls
from exporter.web.web_config import WebConfig

DATA = Path(__file__).parent.parent / "data" / "web"


def place(pki: Path, text: str) -> Path:
    """Write a configuration beside the certificates; `"@NAME"` becomes that file's content."""
    path = pki / "web.yaml"
    path.write_text(
        re.sub(r'"@([a-z.]+)"', lambda match: json.dumps((pki / match[1]).read_text()), text), newline=""
    )
    path.chmod(0o600)
    return path


def load(pki: Path, text: str = "", **tls: Any) -> WebConfig:
    """Load a text, or the exporter's certificate with more TLS keys."""
    pair = {"cert_file": "exporter.crt", "key_file": "exporter.key", **tls}
    return web_config.load(place(pki, text or yaml.safe_dump({"tls_server_config": pair})))


def tls_of(pki: Path, **keys: Any) -> Tls:
    tls = load(pki, **keys).tls
    assert tls is not None
    return tls


def outcome(path: Path) -> WebConfig | tuple[str, ...]:
    try:
        return web_config.load(path)
    except ConfigError as error:
        return tuple(map(str, error.problems))
