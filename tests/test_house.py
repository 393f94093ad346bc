"""The repository's own rules: who imports whom, where time and network enter, what a test looks like."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import pytest

from tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKAGE = REPOSITORY / "exporter"
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((REPOSITORY / "tests").rglob("test_*.py"))

# Imports point one way, from the network that is served to the one that is asked: each package or module may
# import the ones named, besides `exporter` itself (the version) and its own parts.
MAY_IMPORT: dict[str, set[str]] = {
    "__main__": {"cli"},
    "cli": {"app", "backfill", "config", "log", "simulator", "web"},
    "app": {"api", "clock", "collectors", "config", "log", "pages", "polling", "web"},
    "backfill": {"api", "clock", "collectors", "config", "pages", "polling"},
    "web": {"clock", "collectors", "config", "endpoint", "pages"},
    "polling": {"api", "clock", "collectors", "config", "endpoint", "log", "pages"},
    "pages": {"clock", "collectors", "config"},
    "collectors": {"api", "clock", "config", "endpoint"},
    "api": {"config", "endpoint"},
    "config": set(),
    "endpoint": set(),
    "clock": set(),
    "log": set(),
    "simulator": set(),
}  # fmt: skip


def parts(file: Path) -> list[str]:
    """Return a module's name below `exporter`, in parts; of a package's own file, the package's."""
    return [part for part in file.relative_to(PACKAGE).with_suffix("").parts if part != "__init__"]


def imports(file: Path) -> set[str]:
    """Return the modules of ours that a file imports, by full name, in functions and for types too."""
    return {name for node in ast.walk(ast.parse(file.read_text())) for name in imported(node)}


def imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("exporter."):
        for alias in node.names:
            name = f"{node.module}.{alias.name}"
            yield name if module_file(name) else str(node.module)
    elif isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "exporter")


def module_file(name: str) -> Path | None:
    """Return the file of a module of ours, None where the name is no module's."""
    path = REPOSITORY.joinpath(*name.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists()), None)


def name_of(file: Path) -> str:
    return ".".join(parts(file)) or "exporter"


def packages() -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for file in MODULES:
        if parts(file):
            found.setdefault(parts(file)[0], []).append(file)
    return found


def calls(file: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("package", packages())
def test_imports_point_one_way(package: str) -> None:
    """A package imports exactly what the table allows it: nothing more, and no permission is unused."""
    assert package in MAY_IMPORT, "a new package needs its row in the table"

    names = {name for file in packages()[package] for name in imports(file)}
    assert MAY_IMPORT[package] == {name.split(".")[1] for name in names if "." in name} - {package}


def test_the_table_has_no_cycle() -> None:
    """No package can reach itself through what it may import."""
    allowed = dict(MAY_IMPORT)
    while leaves := [package for package, needed in allowed.items() if not needed & allowed.keys()]:
        for package in leaves:
            del allowed[package]

    assert {} == allowed


@pytest.mark.parametrize("package", packages())
def test_no_cycle_within_a_package(package: str) -> None:
    """Modules of one package do not import each other in a circle, for types included."""
    graph = {
        ".".join(["exporter", *parts(file)]): imports(file) - {".".join(["exporter", *parts(file)])}
        for file in packages()[package]
    }
    while leaves := [module for module, needed in graph.items() if not needed & graph.keys()]:
        for module in leaves:
            del graph[module]

    assert {} == graph


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_time_chance_and_sleep_enter_at_the_top(file: Path) -> None:
    """Only app and cli ask the clock or for chance; nobody else calls a sleep but through an argument."""
    asked = {"time.time", "time.monotonic", "datetime.now", "random.random", "asyncio.sleep", "time.sleep"}

    allowed = asked if parts(file) in (["app"], ["cli"]) else set()
    named = {name for name, call in calls(file) if ast.unparse(call) != "asyncio.sleep(0)"}  # that gives way
    assert set() == named & asked - allowed


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_only_the_command_line_prints(file: Path) -> None:
    """A module other than cli never calls print."""
    assert parts(file) == ["cli"] or "print" not in {name for name, _ in calls(file)}


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


def test_the_top_of_the_package_is_the_table() -> None:
    """Beside `__init__`, the top level holds the packages and modules of the table, and nothing else."""
    entries = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}

    assert MAY_IMPORT.keys() == entries - {"__init__", "__pycache__"}


@pytest.mark.parametrize("file", MODULES, ids=name_of)
def test_functions_read_top_to_bottom(file: Path) -> None:
    """No function of the program is longer than forty lines."""
    functions = (
        node
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )

    assert [] == [node.name for node in functions if (node.end_lineno or 0) - node.lineno >= 40]
