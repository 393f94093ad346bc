"""A directory of certificates, as a fixture: `pki`."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from exporter.web.web_config import MAX_BYTES
from tests.conftest import required

if TYPE_CHECKING:
    from pathlib import Path

SANS = (
    "DNS:scraper.example,IP:192.0.2.7,IP:2001:db8::7,email:ops@example.org,URI:spiffe://example.org/scraper"
)


@pytest.fixture(scope="session")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a directory of certificates for an hour's tests, and of files that are none."""
    folder = tmp_path_factory.mktemp("pki")
    openssl = required("openssl")

    def make(name: str, *args: str, kind: str = "ec", san: str = "DNS:localhost") -> None:
        key = {"ec": ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")}.get(kind, (kind,))
        subject = ("-subj", f"/CN={name}", "-addext", f"subjectAltName={san}")
        command = ("req", "-x509", "-days", "2", "-noenc", "-newkey", *key, *subject, *args)
        run(openssl, *command, "-keyout", f"{name}.key", "-out", f"{name}.crt")

    def run(*command: str) -> None:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)

    make("ca")
    make("middle", "-CA", "ca.crt", "-CAkey", "ca.key")
    for name, ca in (("exporter", "ca"), ("renewed", "ca"), ("scraper", "ca"), ("deep", "middle")):
        leaf = ("-addext", "basicConstraints=critical,CA:FALSE")
        san = SANS if name == "scraper" else "DNS:localhost"
        make(name, "-CA", f"{ca}.crt", "-CAkey", f"{ca}.key", *leaf, san=san)
    make("alone", "-addext", "extendedKeyUsage=clientAuth", san="DNS:alone.example")
    make("rsa", "-CA", "ca.crt", "-CAkey", "ca.key", kind="rsa:2048")
    make("small", kind="rsa:1024")
    run(openssl, "ec", "-in", "exporter.key", "-aes128", "-passout", "pass:canary", "-out", "locked.key")
    os.mkfifo(folder / "pipe")
    (folder / "empty").touch()
    (folder / "huge").write_bytes(bytes(MAX_BYTES + 1))
    return folder
