"""What is published: a wheel and an sdist, and what somebody has who installs the wheel."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import exporter
from tests.conftest import REPOSITORY
from tests.e2e.programs import alive, ask, free_port, started, until

SHARE = Path("share") / "cryptoloot-exporter"
SHARED = (
    "alerts/cryptoloot.rules.yml",
    "alerts/cryptoloot.settings.rules.yml",
    "alerts/alertmanager.example.yml",
    "config.yaml",
    "config.schema.json",
    *(f"dashboards/{path.name}" for path in (REPOSITORY / "dashboards").glob("*.json")),
    "dashboards/provisioning/dashboards/cryptoloot.yml",
    "dashboards/provisioning/datasources/prometheus.yml",
)


def run(*command: str | Path, directory: Path) -> str:
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE"))
    }
    done = subprocess.run(
        list(map(str, command)),
        cwd=directory,
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


def test_the_version_stands_in_one_place() -> None:
    """It is the module's, and the package has it from there."""
    assert exporter.__version__ == importlib.metadata.version("cryptoloot-exporter")
    assert 1 == (REPOSITORY / "exporter" / "__init__.py").read_text().count("__version__ = ")
    assert "version =" not in (REPOSITORY / "pyproject.toml").read_text().partition("[tool.hatch")[0]


@pytest.mark.skipif(
    not os.environ.get("TEST_WHEEL"), reason="only .ci/run tests the wheel: TEST_WHEEL is not set"
)
def test_the_wheel_is_what_is_tested() -> None:
    """The tests import what was installed, not the checkout that they stand in."""
    assert not Path(exporter.__file__).is_relative_to(REPOSITORY / "exporter")
    assert "site-packages" in exporter.__file__


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build wheel and sdist."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", out, REPOSITORY, directory=out)
    return out


@pytest.mark.slow
def test_both_are_fit_to_be_published(dist: Path) -> None:
    """Twine takes their descriptions, and the wheel holds the program and what is shared, nothing else."""
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    assert "FAILED" not in run(
        sys.executable, "-m", "twine", "check", "--strict", wheel, sdist, directory=dist
    )

    names = zipfile.ZipFile(wheel).namelist()
    assert {"exporter", f"cryptoloot_exporter-{exporter.__version__}.dist-info"} == {
        name.partition("/")[0] for name in names if ".data/" not in name
    }
    assert "exporter/web/status.html" in names


@pytest.mark.slow
def test_an_installed_wheel_has_all_there_is(dist: Path, tmp_path: Path) -> None:
    """In an empty environment and directory demo comes alive; rules and dashboards are where README says."""
    (wheel,) = dist.glob("*.whl")
    home, empty = tmp_path / "venv", tmp_path / "empty"
    empty.mkdir()
    run(sys.executable, "-m", "venv", home, directory=empty)
    run(home / "bin" / "pip", "install", "--quiet", wheel, directory=empty)
    port = free_port()
    command = (str(home / "bin" / "cryptoloot-exporter"), "demo", f"--web.listen-address=127.0.0.1:{port}")
    with started(empty, *command, environ={"PYTHONPATH": ""}) as program:
        assert until(lambda: alive(port, "healthy", "troubled")), program.err.read_text()
        page = ask(port, "/").text

    assert exporter.__version__ in page
    assert [] == [name for name in SHARED if not (home / SHARE / name).is_file()]
