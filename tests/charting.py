"""The Helm chart as tests see it: rendered by helm, each set of values in tests/data/chart once."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from deploy.helm.__main__ import CHART
from tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

DATA = REPOSITORY / "tests" / "data" / "chart"
SETS = sorted(path.stem for path in DATA.glob("*.yaml"))
OLDEST = re.findall(r">=([\d.]+)\.0-0", (CHART / "Chart.yaml").read_text())[0]
KUBERNETES = (OLDEST, "1.34")  # validated against both; helm by itself believes in one of long ago
PORT = 12758


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run helm; skip where it is not, for no package brings it: no run demands it, like pint."""
    program = shutil.which("helm", path=f"{REPOSITORY}/.venv-tools/bin:{os.environ['PATH']}")
    if program is None:
        pytest.skip("helm is not installed: `make helm` tries to, with go")
    command = (program, *arguments, "--kube-version", KUBERNETES[-1])
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def template(values: str, *more: str, chart: Path = CHART) -> subprocess.CompletedProcess[str]:
    """Render a chart with a set of values, and more of helm's arguments."""
    path = DATA / f"{values}.yaml"
    return helm("template", "loot", str(chart), "--namespace", "mining", "--values", str(path), *more)


@cache
def rendered(values: str, *more: str) -> tuple[dict[str, Any], ...]:
    """Return the documents that helm makes of a set of values."""
    done = template(values, *more)
    assert 0 == done.returncode, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def found(values: str, *kinds: str) -> list[dict[str, Any]]:
    """Return the documents of these kinds."""
    return [each for each in rendered(values) if each["kind"] in kinds]


def only(values: str, *kinds: str) -> dict[str, Any]:
    """Return the one document of these kinds."""
    (document,) = found(values, *kinds)
    return document


def workload(values: str) -> dict[str, Any]:
    """Return what makes the pods."""
    return only(values, "Deployment", "StatefulSet")


def pod(values: str) -> dict[str, Any]:
    """Return what the pods are."""
    spec: dict[str, Any] = workload(values)["spec"]["template"]["spec"]
    return spec


def container(values: str) -> dict[str, Any]:
    """Return their one container."""
    (exporter,) = pod(values)["containers"]
    return dict(exporter)
