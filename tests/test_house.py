"""The repository's own rules: who imports whom, where time and network enter, what a test looks like."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import pytest

from tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODULES = sorted((REPOSITORY / "exporter").glob("*.py"))
TESTS = sorted((REPOSITORY / "tests").rglob("test_*.py"))

# Imports point down only: each module may import the ones named, besides `exporter` itself (the version).
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    "__main__": {"cli"},
    "cli": {"app", "backfill", "config", "flags", "health", "log", "server", "sharding", "simulator"},
    "flags": set(),
    "app": {
        "api", "config", "exposition", "findings", "guard", "health", "history", "log", "metrics", "model",
        "pages", "poller", "server", "sharding", "snapshot", "status", "web",
    },
    "guard": {"auth", "config", "findings", "server", "webconfig"},
    "web": {"auth", "exposition", "guard", "pages", "metrics", "snapshot", "status", "history", "config"},
    "status": {"graph", "history", "metrics", "model", "pages", "snapshot"},
    "graph": {"history"},
    "health": {"server"},
    "server": set(),
    "auth": {"webconfig"},
    "webconfig": {"config", "findings", "leaves", "schema", "secret", "yamlfile"},
    "backfill": {"exposition", "history", "metrics", "model", "snapshot"},
    "poller": {
        "api", "metrics", "snapshot", "history", "model", "config", "secret", "schedule", "jobs", "watch",
    },
    "jobs": {"api", "snapshot", "history", "model", "config", "secret", "walk", "watch"},
    "watch": {"api", "model"},
    "walk": {"api", "model", "snapshot"},
    "pages": {"exposition", "metrics", "snapshot"},
    "exposition": {"metrics"},
    "metrics": {"accounts", "snapshot", "history", "model", "config"},
    "api": {"model", "config", "secret"},
    "schedule": {"model"},
    "snapshot": {"accounts", "model"},
    "accounts": {"model"},
    "history": {"model"},
    "config": {"findings", "leaves", "model", "schema", "secret", "sections", "yamlfile"},
    "sections": {"leaves", "schema"},
    "schema": {"findings"},
    "leaves": {"findings", "secret"},
    "yamlfile": {"findings"},
    "findings": set(),
    "secret": set(),
    "sharding": set(),
    "model": set(),
    "log": set(),
    "simulator": set(),
}  # fmt: skip


def imports(file: Path) -> set[str]:
    """Return the modules of ours that a file imports, under TYPE_CHECKING and in functions too."""
    return {name for node in ast.walk(ast.parse(file.read_text())) for name in imported(node)} - {"exporter"}


def imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.ImportFrom) and node.module == "exporter":
        yield from (alias.name for alias in node.names if not alias.name.startswith("__"))
    elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("exporter."):
        yield (node.module or "").split(".")[1]
    elif isinstance(node, ast.Import):
        yield from (
            alias.name.split(".")[-1] for alias in node.names if alias.name.split(".")[0] == "exporter"
        )


def calls(file: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("file", MODULES, ids=lambda file: file.stem)
def test_imports_point_down(file: Path) -> None:
    """A module imports only what the table of the architecture allows it."""
    assert file.stem in MAY_IMPORT, "a new module needs its place in the table"

    assert set() == imports(file) - MAY_IMPORT[file.stem]


@pytest.mark.parametrize("file", MODULES, ids=lambda file: file.stem)
def test_time_chance_and_sleep_enter_at_the_top(file: Path) -> None:
    """Only app and cli ask the clock or for chance; nobody else calls a sleep but through an argument."""
    asked = {"time.time", "time.monotonic", "datetime.now", "random.random", "asyncio.sleep", "time.sleep"}

    allowed = asked if file.stem in {"app", "cli"} else set()
    named = {name for name, call in calls(file) if ast.unparse(call) != "asyncio.sleep(0)"}  # that gives way
    assert set() == named & asked - allowed


@pytest.mark.parametrize("file", MODULES, ids=lambda file: file.stem)
def test_only_the_command_line_prints(file: Path) -> None:
    """A module other than cli never calls print."""
    assert file.stem == "cli" or "print" not in {name for name, _ in calls(file)}


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_every_test_states_its_rule(file: Path) -> None:
    """A test has a docstring and asserts something."""
    functions = [
        node
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]

    assert functions
    assert [] == [test.name for test in functions if not ast.get_docstring(test)]
    assert [] == [test.name for test in functions if not proves(test)]


def proves(test: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a test can fail by itself: an assert, or a context that wants an exception."""
    return any(
        isinstance(node, ast.Assert) or (isinstance(node, ast.Call) and "raises" in ast.unparse(node.func))
        for node in ast.walk(test)
    )


@pytest.mark.parametrize(
    "file", [test for test in TESTS if "e2e" not in test.parts], ids=lambda file: file.stem
)
def test_no_test_sleeps(file: Path) -> None:
    """Outside tests/e2e no test sleeps for more than 0.1 s: time is an argument."""
    sleeps = [node.args[0] for name, node in calls(file) if name in {"time.sleep", "asyncio.sleep"}]

    assert [] == [ast.unparse(arg) for arg in sleeps if not short(arg)]


def short(argument: ast.expr) -> bool:
    return isinstance(argument, ast.Constant) and float(str(argument.value)) <= 0.1
