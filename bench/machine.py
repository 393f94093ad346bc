"""What the figures were measured on: the machine, and the version of every library and program."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

LIBRARIES = ("uvicorn", "uvloop", "httptools", "prometheus-client", "msgspec", "httpx")
PACKAGES = (
    "nginx-light",
    "prometheus-pushgateway",
    "prometheus-node-exporter",
    "wrk",
    "curl",
    "jq",
)  # Debian's


def facts() -> dict[str, str]:
    """Return the facts by name."""
    models = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    processor = models[0] if models else platform.machine()
    packages = ""
    if shutil.which("dpkg-query"):
        command = ("dpkg-query", "--show", *PACKAGES)
        packages = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{processor}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        **dict(line.split("\t") for line in packages.splitlines()),
    }
