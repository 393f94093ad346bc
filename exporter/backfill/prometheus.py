"""What a Prometheus already has of a site's series, so that only what is missing is written."""

import asyncio
import contextlib
import math
import netrc
import ssl
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TypeVar

import httpx
import msgspec

from exporter.api.client import default_roots
from exporter.api.faults import unreached
from exporter.api.route import Route, host_and_port
from exporter.backfill.samples import METRICS, Source, Windows
from exporter.collectors.history import SETTLED_TIMESTAMP
from exporter.collectors.metric import Metric
from exporter.pages.text import series

T = TypeVar("T")

LOOKBACK = 300  # seconds without a sample after which a graph has a gap
MAX_HEAD_SECONDS = 3 * 3600  # seconds that Prometheus keeps in its head at most, while it is well
DAY = 86_400  # seconds; one query asks for a day
EARLIER_SECONDS = 30 * DAY  # seconds before the API's oldest row in which a series may have samples
TIMEOUT = 60.0  # seconds that an answer of Prometheus may take


class PrometheusError(Exception):
    """Prometheus cannot be used; the text says why, and nothing of what the URL may hold."""


class _Series(msgspec.Struct):
    metric: dict[str, str]
    values: list[tuple[float, str]] = []


class Prometheus:
    """A Prometheus, or what answers like it, at a URL; `transport` replaces the network in tests."""

    def __init__(self, url: str, transport: httpx.AsyncBaseTransport | None = None) -> None:
        tls = url.startswith("https:")
        self._http = httpx.AsyncClient(
            base_url=url,
            transport=transport,
            timeout=TIMEOUT,
            trust_env=False,
            verify=default_roots() if tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        )
        self._route = Route(host_and_port(url), setting="--prometheus", ca_setting="SSL_CERT_FILE", tls=tls)
        self._name = f"Prometheus at {self._route.target}"
        with contextlib.suppress(OSError, netrc.NetrcParseError):  # most have none, and need none
            self._http.auth = httpx.NetRCAuth()

    async def missing(
        self, sources: Sequence[Source], since: float, now: float, *, gaps_only: bool
    ) -> tuple[dict[str, Windows], float]:
        """Return for each series the windows without samples, and the latest time at which one may end.

        The windows are all time before the first sample, or only the gaps if `gaps_only`. None reaches into
        the head. Raises PrometheusError.
        """
        windows: dict[str, Windows] = {}
        async with self._http:
            end = await self.head_start(now)
            for source in sources:
                oldest = min((row.synctime for row in source.history.rows), default=now)
                queries = [self.sample_times(source, metric, max(since, oldest), now) for metric in METRICS]
                times_by_metric = dict(zip(METRICS, await asyncio.gather(*queries), strict=True))
                if not any(times_by_metric.values()):  # under other labels, each series would exist twice
                    selector = series(SETTLED_TIMESTAMP.name, {"site": source.site.name})
                    for result in await self._query(f"last_over_time({selector}[1d])", now):
                        labels = ", ".join(
                            f"{name}={result.metric.get(name, '')}" for name in ("job", "instance")
                        )
                        problem = (
                            f"has {source.site.name} under other labels ({labels}): give them by --label"
                        )
                        raise PrometheusError(f"{self._name} {problem}, or there will be two of it")
                for metric, times in times_by_metric.items():
                    free = gaps(times) if gaps_only else [(-math.inf, min(times, default=now))]
                    windows[source.series(metric)] = [(a, min(b, end)) for a, b in free if a < min(b, end)]
        return windows, end

    async def head_start(self, now: float) -> float:
        """Return where the head begins: the samples that are not in a block yet. Raises PrometheusError.

        A block must not overlap the head: on a restart Prometheus drops all samples of its log that are older
        than the end of the newest block. If no start is reported, the head is assumed to span three hours.
        """
        start, _ = await self._get("/api/v1/status/tsdb", {}, float, "headStats", "minTime")
        return now - MAX_HEAD_SECONDS if start is None else min(now, start / 1000)

    async def sample_times(self, source: Source, metric: Metric, since: float, now: float) -> list[float]:
        """Return the times of the samples of a series, ascending, from LOOKBACK before `since` on.

        If there are earlier samples, they count as one at that time. Raises PrometheusError, also if the
        series in Prometheus has other labels.
        """
        selector = source.series(metric)
        begin = since - LOOKBACK
        earlier = await self._query(f"count_over_time({selector}[{EARLIER_SECONDS}s])", begin)
        recent = [
            result
            for number in range(1, math.ceil((now - begin) / DAY) + 1)
            for result in await self._query(f"{selector}[{DAY}s]", min(begin + number * DAY, now))
        ]
        for result in (*earlier, *recent):
            if more := sorted(result.metric.keys() - source.labels.keys() - {"__name__"}):
                problem = f"has {source.site.name} with more labels than --label names: {', '.join(more)}"
                raise PrometheusError(f"{self._name} {problem}")
        times = {at for result in recent for at, _ in result.values if at > begin}
        return sorted(times | ({begin} if earlier else set()))

    async def _query(self, expression: str, at: float) -> list[_Series]:
        parameters = {"query": expression, "time": str(at)}
        result, status = await self._get("/api/v1/query", parameters, list[_Series], "result")
        if result is not None:
            return result
        problem = f"no answer to a query, status {status}"
        raise PrometheusError(f"{self._name}: {problem}; is a path missing, as in http://host/prometheus?")

    async def _get(
        self, path: str, parameters: Mapping[str, str], kind: type[T], *keys: str
    ) -> tuple[T | None, int]:
        """Return what is under `keys` of an answer's data, None where there is no such thing, and the status.

        Raises PrometheusError.
        """
        try:
            response = await self._http.get(path, params=parameters)
            document = msgspec.json.decode(response.content)
            if isinstance(document, dict) and document.get("warnings"):
                problem = "answers with warnings, so samples may be missing from its answer: look at its log"
                raise PrometheusError(f"{self._name} {problem}")
            for key in ("data", *keys):
                document = document[key]
            return msgspec.convert(document, kind), response.status_code
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            fault = unreached(error, self._route, TIMEOUT)
        except (msgspec.MsgspecError, LookupError, TypeError, RecursionError, UnicodeDecodeError):
            return None, response.status_code
        raise PrometheusError(f"Prometheus cannot be reached: {fault}")


def gaps(times: Sequence[float]) -> Windows:
    """Return the windows between samples that are further from each other than a graph bridges."""
    return [(one, other) for one, other in pairwise(times) if other - one > LOOKBACK]
