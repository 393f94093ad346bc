"""The whole way once, over real sockets: the simulated API, the polls, the page, the end by a signal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e.programs import alive, exporting, free_port, until

if TYPE_CHECKING:
    from pathlib import Path


def test_the_demo_exports_both_sites_and_ends(tmp_path: Path) -> None:
    """Every value family of both sites comes to /metrics; SIGTERM ends the program with 0."""
    port = free_port()
    with exporting(tmp_path, "demo", f"--web.listen-address=127.0.0.1:{port}") as program:
        assert until(lambda: alive(port, "healthy", "troubled")), program.err.read_text()
        assert 0 == program.end()[0]
