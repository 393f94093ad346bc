"""The backfill command: its options, and what it prints."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from exporter.backfill.command import write_lines
from exporter.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.mark.usefixtures("logging_as_before")
@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("--output=x", "one of the arguments --until --prometheus is required"),
        ("--output=x --until=now --prometheus=http://a", "not allowed with argument"),
        (
            "--output=x --until=tomorrow",
            "'tomorrow' is no time: write 2026-01-31T12:00:00Z, Unix seconds, or now",
        ),
        ("--output=x --until=2026-01-31T12:00:00", "is no time"),
        ("--output=x --until=1763900000000", "is no time"),
        ("--output=x --until=now --label=site=a", "site is the samples' own"),
        ("--output=x --until=now --label=a-b=c", "is not NAME=VALUE"),
        ("--output=x --until=now --label=a=\udcff", "is not NAME=VALUE"),
        ("--output=x --until=now --label=a=b --label=a=c", "--label a is there twice"),
        ("--output=x --prometheus=prom:9090", "write http://HOST:PORT"),
        ("--output=x --prometheus=http://me:hunter2@prom", "(--prometheus takes it from ~/.netrc)"),
        ("--output=x --prometheus=http://me:pa/ss@prom", "(--prometheus takes it from ~/.netrc)"),
        ("--output=x --until=now --site=b", "--site b: the config has no such site; it has a"),
        ("--output=x --until=now --gaps", "--gaps needs --prometheus"),
        ("--output=x --since=2026-01-31T12:00:00Z --until=2026-01-31t12:00:00z", "nothing lies between"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: str, says: str
) -> None:
    """Exit code 2, what is wrong, and no part of a password."""
    config = tmp_path / "config.yaml"
    config.write_text("api: {url: 'http://127.0.0.1:1'}\nsites: [{name: a, secret: s}]\n")
    with contextlib.suppress(SystemExit):
        assert 2 == main(["backfill", f"--config.file={config}", *flags.split()])
    printed = " ".join(capsys.readouterr().err.split())

    assert says in printed
    assert "hunter2" not in printed
    assert "pa/ss" not in printed
    assert not (tmp_path / "x").exists()


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """Comments are no samples; a run that fails half-way keeps the file that was there, and nothing else."""

    def failing() -> Iterator[str]:
        yield "a 1 1\n"
        raise RuntimeError

    file = tmp_path / "week.om"

    assert 2 == write_lines(["# HELP a b\n", "a 1 1\n", "a 1 2\n", "# EOF\n"], str(file), print)
    with pytest.raises(RuntimeError):
        write_lines(failing(), str(file), print)
    assert "# HELP a b\na 1 1\na 1 2\n# EOF\n" == file.read_text()
    assert [file] == list(tmp_path.iterdir())


def test_what_is_no_file_is_written_in_place() -> None:
    """A device stays a device."""
    assert 1 == write_lines(["a 1 1\n"], "/dev/null", print)
