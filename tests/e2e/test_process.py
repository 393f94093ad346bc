"""The program as its users run it: as a process, over real sockets, with signals."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pty
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

from tests.e2e.programs import (
    DEADLINE,
    SOON,
    Program,
    alive,
    ask,
    exporting,
    free_port,
    inline,
    ready,
    running,
    samples,
    simulating,
    started,
    until,
    write_config,
)

PIPELINED = 16  # requests of a slow reader
NASTY = "s3cr&t/+=% é"
SLOW_RESOLVER = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>
typedef const struct addrinfo *Hints;
int getaddrinfo(const char *node, const char *service, Hints hints, struct addrinfo **found) {
    if (node && strcmp(node, "slow.invalid") == 0) { sleep(20); return EAI_AGAIN; }
    int (*real)(const char *, const char *, Hints, struct addrinfo **);
    real = dlsym(RTLD_NEXT, "getaddrinfo");
    return real(node, service, hints, found);
}
"""


@pytest.fixture
def silent() -> Iterator[int]:
    """Yield the port of an API that takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield int(listening.getsockname()[1])


# ------------------------------------------------------------------------------------------------- demo


def test_the_demo_shows_everything_at_once(tmp_path: Path) -> None:
    """The demo says where to look; within 2 s of listening every family of both sites is on /metrics."""
    port = free_port()
    with exporting(tmp_path, "demo", f"--web.listen-address=127.0.0.1:{port}") as program:
        assert until(lambda: alive(port, "healthy", "troubled"))
        now = time.time()

        (listening,) = program.events("listening")
        assert now - datetime.fromisoformat(listening["timestamp"]).timestamp() <= SOON
        assert [200] * 3 == [ask(port, path).status for path in ("/", "/-/healthy", "/-/ready")]
        assert f"http://127.0.0.1:{port}/metrics" in re.findall(r"http://\S+", program.said())
        assert (0, True) == program.end(signal.SIGINT)


def test_the_demo_begins_without_incidents(tmp_path: Path) -> None:
    """In its first seconds no poll has failed, nothing was rejected or held back, and all is up."""
    port = free_port()
    with exporting(tmp_path, "demo", f"--web.listen-address=127.0.0.1:{port}", "--seed=7", "--users=5"):
        assert until(lambda: alive(port, "healthy", "troubled"))
        time.sleep(SOON)
        page = samples(port)

    def of(name: str) -> list[float]:
        return [value for series, value in page.items() if series.startswith(f"cryptoloot_{name}{{")]

    assert [1] * 10 == of("up")
    counters = ("poll_failures_total", "rejected_entries_total", "user_regressions_total")
    assert {0} == {value for name in (*counters, "watched_user_failures_total") for value in of(name)}


# ------------------------------------------------------------------------------------------------- run


def test_a_config_in_the_working_directory_is_enough(tmp_path: Path) -> None:
    """Two sites, secrets from a variable and a file, one in need of URL encoding: both have their values."""
    (tmp_path / "blog.secret").write_text(f"{NASTY}\n")
    (tmp_path / "blog.secret").chmod(0o600)
    sites = [{"name": "shop", "secret_env": "SHOP"}, {"name": "blog", "secret_file": "blog.secret"}]
    with simulating(tmp_path, "--sites=shop=plain-secret", f"--sites=blog={NASTY}", "--users=9") as api:
        write_config(tmp_path, api, *sites)
        with running(tmp_path, "--log.level=debug", environ={"SHOP": "plain-secret"}) as (program, port):
            assert until(lambda: alive(port, "shop", "blog"))
            page = samples(port)

            rates = {
                page[f'cryptoloot_hashrate_hashes_per_second{{site="{site}"}}'] for site in ("shop", "blog")
            }
            assert 2 == len(rates)
            assert [] == [form for form in (NASTY, "s3cr", "plain-secret") if form in program.err.read_text()]


def test_it_stops_with_calls_in_flight_and_half_requests(tmp_path: Path, silent: int) -> None:
    """An API that never answers, half a request and an idle connection hold up no SIGTERM."""
    write_config(tmp_path, silent, *inline("a", "b", "c"))
    with running(tmp_path) as (program, port), contextlib.ExitStack() as stack:
        half, idle = (stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(2))
        half.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX-Unfinished")
        idle.sendall(b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle.recv(4096).startswith(b"HTTP/1.1 200")

        assert (0, True) == program.end()
        assert [] == problems(program)


def test_it_stops_while_a_name_is_looked_up(tmp_path: Path) -> None:
    """A name server that does not answer holds up no SIGTERM, though a look-up cannot be cancelled."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here to make the resolver slow")
    source, library = tmp_path / "slow.c", tmp_path / "slow.so"
    source.write_text(SLOW_RESOLVER)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    document = {"api": {"url": "https://slow.invalid"}, "sites": inline("a")}
    (tmp_path / "config.yaml").write_text(json.dumps(document))
    environ = {"LD_PRELOAD": str(library)}
    with running(tmp_path, environ=environ) as (program, port):
        assert until(lambda: ready(port))
        time.sleep(1)  # the first polls have begun

        assert (0, True) == program.end()


def test_it_stops_with_slow_readers(tmp_path: Path) -> None:
    """A client that asks for large pages and does not read them holds up no SIGTERM; the answers are cut."""
    names = [f"site-{number}" for number in range(8)]
    flags = [f"--sites={name}=secret-of-{name}" for name in names]
    with simulating(tmp_path, "--users=1100", *flags) as api, socket.socket() as slow:
        write_config(tmp_path, api, *inline(*names), poll={"top_users": {"count": 1024}})
        with running(tmp_path) as (program, port):
            assert until(lambda: alive(port, *names))
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.settimeout(DEADLINE)
            slow.connect(("127.0.0.1", port))
            # More than the kernel's buffers hold: they grow to megabytes.
            slow.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * PIPELINED)
            begin = slow.recv(1024)
            promised = int(re.findall(rb"content-length: (\d+)", begin)[0])

            assert (0, True) == program.end()
            assert len(begin) + received(slow) < PIPELINED * promised


def received(slow: socket.socket) -> int:
    """Read to the end; return how much there was."""
    count = 0
    with contextlib.suppress(ConnectionError):
        while data := slow.recv(65536):
            count += len(data)
    return count


def problems(program: Program) -> list[dict[str, Any]]:
    """Return what was logged as an error."""
    return [entry for entry in program.log() if entry["level"] in {"error", "critical"}]


def test_the_simulator_stops_with_answers_it_owes(tmp_path: Path) -> None:
    """A simulator whose answers are slow ends on SIGTERM as soon as the rest, with nothing to explain."""
    port = free_port()
    address = ("127.0.0.1", port)
    flags = [f"--web.listen-address=127.0.0.1:{port}", "--sites=a=b", "--incident=a:slow:-1s:1h"]
    with exporting(tmp_path, "simulate", *flags) as program:
        assert until(lambda: ask(port, "/").status == 200)
        with socket.create_connection(address) as waiting:
            waiting.sendall(b"GET /stats/payout?secret=b HTTP/1.1\r\nHost: localhost\r\n\r\n")
            time.sleep(0.2)

            assert (0, True) == program.end()
            assert [] == problems(program)


def test_answers_that_an_incident_cuts_off_are_no_errors(tmp_path: Path) -> None:
    """An incident that the simulator was told to play is no error of the program, and is logged as none."""
    with simulating(tmp_path, "--sites=a=b", "--incident=a:outage-cut:-1s:1h") as port:
        with pytest.raises(http.client.IncompleteRead):
            ask(port, "/stats/payout?secret=b")

        logs = "".join(file.read_text() for file in tmp_path.glob("*.err"))
        assert "library_message" not in logs


def test_a_port_in_use_is_told(tmp_path: Path, silent: int) -> None:
    """Where somebody else listens: 2, one clear line, and nothing polled, crashed or announced before it."""
    write_config(tmp_path, silent, *inline("a"))
    flags = [f"--web.listen-address=127.0.0.1:{silent}", "--log.format=console"]
    with exporting(tmp_path, "run", *flags) as program:
        code = program.process.wait(DEADLINE)

    *before, last = program.err.read_text().splitlines()
    assert 2 == code
    fault = f"cannot listen on 127.0.0.1:{silent}: Address already in use"
    advice = "choose another port, or stop the process that listens there"
    assert f"--web.listen-address: {fault}: {advice}" == last
    assert [] == [line for line in before if "error" in line or "listening" in line]


# ------------------------------------------------------------------------------------------------- reloading

LOADED = "cryptoloot_exporter_config_last_reload_successful"


def test_sighup_takes_a_changed_file(tmp_path: Path) -> None:
    """After SIGHUP a site added to the file has its values, and the first one never lost its own."""
    with simulating(tmp_path, "--sites=a=secret-of-a", "--sites=b=secret-of-b") as api:
        write_config(tmp_path, api, *inline("a"))
        with running(tmp_path) as (program, port):
            assert until(lambda: alive(port, "a"))
            write_config(tmp_path, api, *inline("a", "b"))
            program.process.send_signal(signal.SIGHUP)

            assert until(lambda: program.events("reloaded"))
            assert alive(port, "a")
            assert until(lambda: alive(port, "a", "b"))
            assert 1 == samples(port)[LOADED]


def test_sighup_refuses_a_bad_file(tmp_path: Path) -> None:
    """A bad file changes nothing, the page says so, the log has every reason; a good one then counts."""
    with simulating(tmp_path, "--sites=a=secret-of-a") as api:
        write_config(tmp_path, api, *inline("a"))
        with running(tmp_path) as (program, port):
            assert until(lambda: alive(port, "a"))
            write_config(tmp_path, api, *inline("a", "a"), pol={}, users={"names": "secret"})
            program.process.send_signal(signal.SIGHUP)
            assert until(lambda: samples(port)[LOADED] == 0)

            (refused,) = program.events("reload_failed")
            assert ["pol", "sites[1].name", "users.names"] == sorted(
                problem.split()[1].rstrip(":") for problem in refused["problems"]
            )
            assert alive(port, "a")
            write_config(tmp_path, api, *inline("a"))
            program.process.send_signal(signal.SIGHUP)
            assert until(lambda: samples(port)[LOADED] == 1)


@pytest.mark.parametrize("place", ["nothing", "a pipe", "a bomb", "an escape of no character"])
def test_sighup_refuses_what_stands_in_the_files_place(tmp_path: Path, place: str) -> None:
    """Without its file the exporter keeps its sites, whatever the environment or the path has instead."""
    file = tmp_path / "config.yaml"
    with simulating(tmp_path, "--sites=a=secret-of-a") as api:
        write_config(tmp_path, api, *inline("a"))
        environ = {"CRYPTOLOOT_SECRET": "secret-of-another"}
        with running(tmp_path, environ=environ) as (program, port):
            assert until(lambda: alive(port, "a"))
            file.unlink()
            if place == "a pipe":
                os.mkfifo(file)
            elif place == "a bomb":
                file.write_text("a: &a [x, x, x]\n" + "a: &a [*a, *a, *a]\n" * 30)
            elif place == "an escape of no character":
                file.write_text('x: "\\UFFFFFFFF"')
            began = time.monotonic()
            program.process.send_signal(signal.SIGHUP)

            assert until(lambda: samples(port)[LOADED] == 0)
            assert time.monotonic() - began < SOON
            (refused,) = program.events("reload_failed")
            assert all(problem.startswith("config.yaml") for problem in refused["problems"])
            assert alive(port, "a")
            assert not alive(port, "default")


def test_reloading_over_http(tmp_path: Path, silent: int) -> None:
    """With --web.enable-lifecycle POST /-/reload is 200, and 400 with each reason when the file is bad."""
    write_config(tmp_path, silent, *inline("a"))
    with running(tmp_path, "--web.enable-lifecycle") as (_, port):
        assert 200 == ask(port, "/-/reload", "POST").status
        assert 405 == ask(port, "/-/reload").status
        write_config(tmp_path, silent, *inline("a", "a"), pol={})
        answer = ask(port, "/-/reload", "POST")

        assert 400 == answer.status
        assert [] == [path for path in ("pol", "sites[1].name") if path not in answer.text]
        assert "secret-of-a" not in answer.text
        assert str(tmp_path) not in answer.text
        assert 200 == ask(port, "/-/ready").status


def test_reloading_over_http_is_off(tmp_path: Path, silent: int) -> None:
    """Without the flag POST /-/reload is 403 and names the flag."""
    write_config(tmp_path, silent, *inline("a"))
    with running(tmp_path) as (program, port):
        answer = ask(port, "/-/reload", "POST")

        assert 403 == answer.status
        assert "--web.enable-lifecycle" in answer.text
        assert [] == program.events("reloaded")


# ------------------------------------------------------------------------------------------------- health


def test_the_health_socket(tmp_path: Path, silent: int) -> None:
    """The socket is the owner's alone; `health` is 0 while the process lives, 1 after, and the file goes."""
    path = tmp_path / "health.sock"
    write_config(tmp_path, silent, *inline("a"))
    with running(tmp_path, f"--web.health-socket={path}") as (program, _):
        assert 0o600 == stat.S_IMODE(path.stat().st_mode)
        assert (0, "") == health(tmp_path, path)
        program.end()

    assert not path.exists()
    code, text = health(tmp_path, path)
    assert 1 == code
    assert str(path) in text


def test_a_stale_health_socket_is_replaced(tmp_path: Path, silent: int) -> None:
    """A socket that a killed process left behind is taken over."""
    path = tmp_path / "health.sock"
    write_config(tmp_path, silent, *inline("a"))
    with running(tmp_path, f"--web.health-socket={path}") as (killed, _):
        killed.process.kill()
        killed.process.wait()
    assert path.exists()

    with running(tmp_path, f"--web.health-socket={path}"):
        assert (0, "") == health(tmp_path, path)


def health(directory: Path, path: Path) -> tuple[int, str]:
    with exporting(directory, "health", f"--web.health-socket={path}") as asking:
        return asking.process.wait(DEADLINE), asking.err.read_text()


# ------------------------------------------------------------------------------------------------- log


def test_the_log_is_json_lines(tmp_path: Path) -> None:
    """Each line is JSON with event, level and time; a failed poll has who, what, why and how long."""
    write_config(tmp_path, free_port(), *inline("a"))
    with running(tmp_path) as (program, _):
        assert until(lambda: len(program.events("poll_failed")) == 3)
        program.end()
    failed = program.events("poll_failed")

    assert [] == [entry for entry in program.log() if not {"event", "level", "timestamp"} <= entry.keys()]
    assert {"/stats/payout", "/stats/history", "/user/top"} == {entry["endpoint"] for entry in failed}
    assert {("a", "connect", "warning")} == {
        (entry["site"], entry["reason"], entry["level"]) for entry in failed
    }
    assert [] == [entry for entry in failed if not 0 <= entry["duration_s"] < DEADLINE]


def test_the_log_for_people(tmp_path: Path) -> None:
    """With --log.format=console a line begins with time and level, has no JSON, and no colours in a file."""
    write_config(tmp_path, free_port(), *inline("a"))
    with running(tmp_path, "--log.format=console") as (program, port):
        text = until(lambda: program.err.read_text() if "poll_failed" in program.err.read_text() else "")

    (line,) = (line for line in text.splitlines() if "listening" in line)
    assert re.fullmatch(
        rf"\d{{4}}-\d\d-\d\dT\S+Z \[info +\] listening +address=127.0.0.1:{port} scheme=http .*", line
    )
    assert "{" not in text
    assert "\x1b" not in text


def test_a_terminal_gets_the_log_for_people(tmp_path: Path, silent: int) -> None:
    """Without --log.format a terminal gets the console form."""
    write_config(tmp_path, silent, *inline("a"))
    ours, terminal = pty.openpty()
    try:
        with running(tmp_path, stderr=terminal) as (program, _):
            program.end()
        text = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(terminal)

    assert "listening" in text
    assert '"event"' not in text


# ------------------------------------------------------------------------------------------------- one


def test_the_console_script_is_the_same_program(tmp_path: Path) -> None:
    """`cryptoloot-exporter` and `python -m exporter` say the same of themselves."""
    script = shutil.which("cryptoloot-exporter", path=str(Path(sys.executable).parent))
    if script is None:
        pytest.skip("the package is not installed: `make test` installs it")

    said = []
    for command in ((script,), (sys.executable, "-m", "exporter")):
        for flag in ("--version", "--help"):
            with started(tmp_path, *command, flag) as program:
                assert 0 == program.process.wait(DEADLINE)
            said.append(program.said())

    assert said[:2] == said[2:]
    assert said[0].startswith("cryptoloot-exporter ")
