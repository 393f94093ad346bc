"""What wrk and the kernel print, read as figures; what of a page is the exporter's own."""

from __future__ import annotations

import os
import time

import pytest

from bench.load import BadLoad, Load, cpu_seconds, parse_memory, parse_wrk
from bench.programs import Missing, families, path_of

WRK = """\
Running 3s test @ http://127.0.0.1:9091/metrics
  1 threads and 8 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    44.05ms   15.33ms  96.52ms   71.85%
    Req/Sec   181.93     43.60   232.00     80.00%
  546 requests in 3.01s, 22.62MB read
{errors}Requests/sec:    181.51
Transfer/sec:      7.52MB
"""


def test_a_rate_is_read_from_what_wrk_prints() -> None:
    """All requests and the figure behind Requests/sec, not the one of its threads."""
    assert Load(546, 181.51) == parse_wrk(WRK.format(errors=""))


@pytest.mark.parametrize(
    "errors",
    ["  Socket errors: connect 0, read 3, write 0, timeout 1\n", "  Non-2xx or 3xx responses: 12\n"],
)
def test_a_load_with_errors_has_no_rate(errors: str) -> None:
    """Errors are answered quickly: a rate that contains them measures nothing."""
    with pytest.raises(BadLoad, match=errors.strip()):
        parse_wrk(WRK.format(errors=errors))


def test_a_load_without_a_rate_is_bad() -> None:
    """Without its last lines, wrk has not measured."""
    with pytest.raises(BadLoad, match="no rate"):
        parse_wrk("Running 3s test\n")


def test_memory_is_read_in_bytes() -> None:
    """The kernel reports kB, and a field's name starts its line."""
    assert 1024 * 1024 == parse_memory("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n", "VmRSS")


def test_cpu_of_a_process_is_that_of_its_own_clock() -> None:
    """The kernel's clock of a process, as the process itself reads it."""
    before = time.process_time()
    cpu = cpu_seconds(os.getpid())

    assert before <= cpu <= time.process_time()


def test_what_every_exporter_adds_by_itself_is_left_out() -> None:
    """Families of ours stay whole. A family that names ours in a label or a HELP is left out."""
    page = b'# HELP cryptoloot_up 1\n# TYPE cryptoloot_up gauge\ncryptoloot_up{site="a"} 1.0\n'
    others = b'# HELP python_info cryptoloot_\n# TYPE python_info gauge\npython_info{a="cryptoloot_"} 1.0\n'

    assert page.decode() == families(others + page)


def test_a_missing_program_is_named_with_what_installs_it() -> None:
    """The benchmark ends with this text, before anything is measured."""
    with pytest.raises(Missing, match="no-such-program is missing: make bench-tools"):
        path_of("no-such-program")
