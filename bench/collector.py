"""A peer: prometheus-client's own server, with a collector that yields the families of a page.

Run as `python -m bench.collector PORT FILE`. The families are built once, which no real collector does: what
is measured is the server and its rendering alone.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import Metric


class Collected(Collector):
    """Families made beforehand."""

    def __init__(self, text: str) -> None:
        self._families = list(text_string_to_metric_families(text))

    def collect(self) -> Iterable[Metric]:
        """Yield them."""
        return self._families


def main(port: str, file: str) -> None:
    """Serve until ended."""
    registry = CollectorRegistry()
    registry.register(Collected(Path(file).read_text()))
    start_http_server(int(port), "127.0.0.1", registry)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
