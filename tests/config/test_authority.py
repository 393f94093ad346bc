"""`api.ca_file`: the certificates of an authority of one's own."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter import config
from exporter.config.authority import MAX_BYTES, Authority, read_authority
from tests.config.documents import ENVIRON, parse, problems, site
from tests.conftest import required

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a self-signed certificate."""
    file = tmp_path_factory.mktemp("ca") / "ca.pem"
    making = "req -x509 -nodes -days 2 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -subj /CN=ca"
    command = [required("openssl"), *making.split(), "-keyout", str(file) + ".key", "-out", str(file)]
    subprocess.run(command, check=True, capture_output=True)
    return file.read_text()


def write(directory: Path, text: str) -> None:
    """Write config.yaml with a relative ca_file, and that file."""
    document = {"sites": [site()], "api": {"ca_file": "tls/ca.pem"}}
    (directory / "config.yaml").write_text(json.dumps(document))
    (directory / "tls").mkdir(exist_ok=True)
    (directory / "tls" / "ca.pem").write_text(text)


def test_a_relative_file_starts_at_the_config_file(tmp_path: Path, pem: str) -> None:
    """As secret files do; what `check` prints reads back as the same."""
    write(tmp_path, pem)
    loaded = config.load(tmp_path / "config.yaml", ENVIRON)

    assert Authority(tmp_path / "tls" / "ca.pem", pem) == loaded.api.ca_file
    assert () == loaded.warnings
    assert loaded == config.parse(yaml.safe_load(config.masked(loaded)), ENVIRON)


def test_other_certificates_make_another_api(tmp_path: Path, pem: str) -> None:
    """A reload compares the section `api`: it sees new certificates in the same file."""
    write(tmp_path, pem)
    first, again = (config.load(tmp_path / "config.yaml", ENVIRON).api for _ in range(2))
    write(tmp_path, pem + pem)

    assert first == again
    assert first != config.load(tmp_path / "config.yaml", ENVIRON).api


@pytest.mark.parametrize(
    ("expected", "content"),
    [
        ("holds no certificate that can be read: it needs PEM", b""),
        ("holds no certificate that can be read: it needs PEM", b"canary"),
        ("holds no certificate", b"-----BEGIN CERTIFICATE-----\ncanary\n-----END CERTIFICATE-----\n"),
        ("holds no certificate", b"-----BEGIN PRIVATE KEY-----\nY2FuYXJ5\n-----END PRIVATE KEY-----\n"),
        ("has more than 4 MiB", b"#" * (MAX_BYTES + 1)),
        ("is not a regular file", None),
    ],
)
def test_a_file_without_certificates_is_a_problem(
    tmp_path: Path, expected: str, content: bytes | None
) -> None:
    """The problem is that of the key, says what is wrong with the file, and shows neither it nor its path."""
    file = tmp_path / "canary.pem"
    file.write_bytes(content) if content is not None else file.mkdir()
    (problem,) = problems([site()], api={"ca_file": str(file)})

    assert problem.startswith(f"api.ca_file: the file named here {expected}")
    assert "canary" not in problem


def test_a_file_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    """A missing file is told with its key and line, and where a relative one was sought."""
    (tmp_path / "config.yaml").write_text("sites: [{name: a, secret: s}]\napi:\n  ca_file: ca.pem\n")
    with pytest.raises(config.ConfigError) as caught:
        config.load(tmp_path / "config.yaml", ENVIRON)

    sought = "(sought from the config file's directory)"
    fault = "the file named here cannot be read: No such file or directory"
    said = f"config.yaml: api.ca_file (line 3): {fault} {sought}"
    assert said == str(caught.value)


def test_comments_need_not_be_ascii(tmp_path: Path, pem: str) -> None:
    """Bundles name their certificates in comments, in UTF-8 or Latin-1."""
    for comment in ("# Főtanúsítvány\n".encode(), b"# \xe9\n", b"\xef\xbb\xbf"):
        (tmp_path / "ca.pem").write_bytes(comment + pem.encode())

        assert "BEGIN CERTIFICATE" in read_authority(tmp_path / "ca.pem").pem


def test_without_tls_an_authority_is_warned_about(tmp_path: Path, pem: str) -> None:
    """With http:// no certificate is looked at, which the warning says."""
    (tmp_path / "ca.pem").write_text(pem)
    loaded = parse([site()], api={"url": "http://localhost:1", "ca_file": str(tmp_path / "ca.pem")})

    assert loaded.warnings[-1].startswith("api.ca_file: without effect")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_file_is_read_or_refused(tmp_path: Path, pem: str, data: bytes) -> None:
    """Whatever is in the file, it is an authority or a ValueError; text before a certificate is skipped."""
    file = tmp_path / "ca.pem"
    file.write_bytes(data)
    with pytest.raises(ValueError, match="holds no certificate"):
        read_authority(file)
    file.write_bytes(data.replace(b"-", b"") + b"\n" + pem.encode())

    assert file == read_authority(file).file
