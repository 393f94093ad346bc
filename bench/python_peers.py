"""Two peers in Python. Run as `python -m bench.python_peers NAME PORT EXPORTER_PORT`.

`uvicorn` is the least that an ASGI app can do: it answers every request with the same bytes and the same
header fields, those that the exporter answered with when this started. `prometheus-client` is that library's
own server with a collector of the exporter's families. The families are built once, which no real collector
does, so what is measured is the server and its rendering alone.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any

import uvicorn
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from bench.load import HOST, ask
from bench.programs import families

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from prometheus_client import Metric


def serve_bytes(port: int, exporter_port: int) -> None:
    """Serve the exporter's answer to a Prometheus."""
    page = ask(exporter_port, "/metrics")
    headers = [(name.encode(), value.encode()) for name, value in page.headers.items()]
    start = {"type": "http.response.start", "status": page.status, "headers": headers}
    body = {"type": "http.response.body", "body": page.body}

    async def app(_scope: Any, _receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        await send(start)
        await send(body)

    uvicorn.run(
        app,
        host=HOST,
        port=port,
        http="httptools",
        loop="uvloop",
        lifespan="off",
        access_log=False,
        server_header=False,  # the exporter's fields are all
        date_header=False,
    )


class Families(Collector):
    """The families of a page."""

    def __init__(self, text: str) -> None:
        self._families = list(text_string_to_metric_families(text))

    def collect(self) -> Iterable[Metric]:
        """Return them."""
        return self._families


def serve_families(port: int, exporter_port: int) -> None:
    """Serve the exporter's families."""
    registry = CollectorRegistry()
    registry.register(Families(families(ask(exporter_port, "/metrics", {}).body)))
    start_http_server(port, HOST, registry)
    threading.Event().wait()


if __name__ == "__main__":
    serve = {"uvicorn": serve_bytes, "prometheus-client": serve_families}[sys.argv[1]]
    serve(int(sys.argv[2]), int(sys.argv[3]))
