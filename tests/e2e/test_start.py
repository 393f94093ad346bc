"""The first half second of the program, and streams that are closed: as whoever starts it may have it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.programs import (
    DEADLINE,
    Program,
    ask,
    exporting,
    free_port,
    inline,
    ready,
    simulating,
    started,
    until,
    write_config,
)

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

ANY = "--web.listen-address=127.0.0.1:0"


def holds_back(pid: int, number: signal.Signals) -> bool:
    """Whether a process has the signal blocked."""
    status = Path(f"/proc/{pid}/status").read_text()
    masks = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigBlk:")]
    return bool(masks and masks[0] >> (number - 1) & 1)


def early(program: Program, number: signal.Signals) -> None:
    """Send a signal as soon as the program has begun, which is long before it has handlers."""
    assert until(lambda: holds_back(program.process.pid, number))
    program.process.send_signal(number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", ["run", "demo", "simulate"])
def test_a_stop_during_the_start_is_a_clean_stop(
    tmp_path: Path, command: str, number: signal.Signals
) -> None:
    """A daemon that is stopped before it has handlers ends with 0, as later, and without a traceback."""
    write_config(tmp_path, free_port(), *inline("a"))
    with exporting(tmp_path, command, ANY) as program:
        early(program, number)

        assert 0 == program.process.wait(DEADLINE)
        assert "Traceback" not in program.err.read_text()


def test_a_stop_during_the_start_of_a_container_is_not_lost(tmp_path: Path) -> None:
    """The first process of a container gets no signal that it neither handles nor holds back."""
    container = ("unshare", "--pid", "--fork", "--kill-child")
    if shutil.which("unshare") is None or subprocess.run((*container, "true"), check=False).returncode:
        pytest.skip("no process namespaces here")
    write_config(tmp_path, free_port(), *inline("a"))
    with started(tmp_path, *container, sys.executable, "-m", "exporter", "run", ANY) as program:
        outer = program.process.pid
        children = Path(f"/proc/{outer}/task/{outer}/children")
        inner = int(until(lambda: children.read_text().strip()))
        # Not SIGTERM: unshare holds it back too, until it starts the program.
        assert until(lambda: holds_back(inner, signal.SIGHUP))
        os.kill(inner, signal.SIGTERM)

        assert 0 == program.process.wait(DEADLINE)


def test_a_reload_during_the_start_is_a_reload(tmp_path: Path) -> None:
    """SIGHUP before there are handlers does not kill: the files are read again after the first load."""
    write_config(tmp_path, free_port(), *inline("a"))
    with exporting(tmp_path, "run", ANY) as program:
        early(program, signal.SIGHUP)

        assert until(lambda: program.events("reloaded"))
        assert (0, True) == program.end()


def test_other_commands_take_signals(tmp_path: Path) -> None:
    """SIGTERM ends a command that is no daemon as it ends any program, since its work is not done."""
    with simulating(tmp_path, "--sites=a=secret-of-a", "--incident=a:slow:-1s:1h") as api:
        write_config(tmp_path, api, *inline("a"))
        with exporting(tmp_path, "check", "--online") as program:
            assert until(lambda: holds_back(program.process.pid, signal.SIGTERM))
            assert until(lambda: not holds_back(program.process.pid, signal.SIGTERM))
            program.process.send_signal(signal.SIGTERM)

            assert -signal.SIGTERM == program.process.wait(DEADLINE)


# ------------------------------------------------------------------------------------------------- streams


def closing(streams: str, directory: Path, *arguments: str) -> AbstractContextManager[Program]:
    """Run a command with these redirections of the shell."""
    shell = ("sh", "-c", f'exec "$0" "$@" {streams}')
    return started(directory, *shell, sys.executable, "-m", "exporter", *arguments)


@pytest.mark.parametrize("streams", ["2>&-", "1>&-", "0<&-", "0<&- 1>&- 2>&-", ">/dev/full 2>/dev/full"])
def test_a_daemon_needs_no_standard_streams(tmp_path: Path, streams: str) -> None:
    """With closed or full streams it serves and stops cleanly; no socket takes a stream's descriptor."""
    write_config(tmp_path, free_port(), *inline("a"))
    port = free_port()
    with closing(streams, tmp_path, "run", f"--web.listen-address=127.0.0.1:{port}") as program:
        assert until(lambda: ready(port))
        descriptors = Path(f"/proc/{program.process.pid}/fd")
        files = [str((descriptors / str(number)).readlink()) for number in range(3)]

        assert 200 == ask(port, "/metrics").status
        assert [] == [file for file in files if file.startswith("socket:")]
        assert (0, True) == program.end()
        assert "crashed" not in program.err.read_text()


@pytest.mark.parametrize(("code", "text"), [(0, ""), (2, "pol: {}\n")])
@pytest.mark.parametrize("streams", ["2>&-", "1>&-", "1>&- 2>&-"])
def test_a_check_needs_no_standard_streams(tmp_path: Path, streams: str, code: int, text: str) -> None:
    """The exit code says what the closed stream cannot, and nothing meant for one goes to the other."""
    (tmp_path / "config.yaml").write_text(f"sites: [{{name: a, secret: s}}]\n{text}")
    with closing(streams, tmp_path, "check") as program:
        assert code == program.process.wait(DEADLINE)
        assert "sites:" not in program.err.read_text()
        assert "problem" not in program.said()


@pytest.mark.parametrize(
    ("code", "command", "streams"),
    [
        (1, "check", ">/dev/full"),
        (1, "check", "2>/dev/full"),
        (1, "check", ">/dev/full 2>/dev/full"),
        (1, "demo", ">/dev/full"),
        (1, "simulate", ">/dev/full"),
        (2, "health", "2>/dev/full"),
    ],
)
def test_a_full_disk_has_its_exit_code(tmp_path: Path, code: int, command: str, streams: str) -> None:
    """What cannot be written ends a command with its own code, and not with Python's 120 or a traceback."""
    write_config(tmp_path, free_port(), *inline("a"))
    flags = [f"--web.listen-address=127.0.0.1:{free_port()}"] if command in {"demo", "simulate"} else []
    with closing(streams, tmp_path, command, *flags) as program:
        assert code == program.process.wait(DEADLINE)
        assert "Traceback" not in program.err.read_text()


def test_samples_for_a_closed_stdout_are_refused(tmp_path: Path) -> None:
    """A backfill whose samples would go nowhere is wrong usage, before anything is asked."""
    write_config(tmp_path, free_port(), *inline("a"))
    with closing("1>&-", tmp_path, "backfill", "--until=now", "--output=-") as program:
        assert 2 == program.process.wait(DEADLINE)
        assert "--output -: stdout is closed" in program.err.read_text()
