"""What the figures were measured on, and with: the machine, and the versions of everything in play."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench.peers import Missing, found

LIBRARIES = ("uvicorn", "uvloop", "httptools", "prometheus-client", "msgspec", "httpx")
PROGRAMS = {  # by Debian's package
    "nginx-light": ("nginx", "-v"),
    "prometheus-pushgateway": ("prometheus-pushgateway", "--version"),
    "prometheus-node-exporter": ("prometheus-node-exporter", "--version"),
    "wrk": ("wrk", "-v"),
    "curl": ("curl", "--version"),
    "jq": ("jq", "--version"),
}


def facts() -> dict[str, str]:
    """Return what there is to know, by name."""
    libraries = {name: version(name) for name in LIBRARIES}
    programs = {command[0]: _version(package, *command) for package, command in PROGRAMS.items()}
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        **libraries,
        **programs,
    }


def _processor() -> str:
    names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return names[0] if names else platform.machine()


def _version(package: str, program: str, flag: str) -> str:
    try:
        path = found(program, package)
    except Missing:
        return "missing"
    done = subprocess.run((path, flag), capture_output=True, text=True, timeout=10, check=False)
    number = re.search(r"\d+(\.\d+)+\S*", done.stdout + done.stderr)
    return number.group(0) if number else "unknown"
