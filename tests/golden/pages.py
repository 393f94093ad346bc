"""Golden runs of a daemon that is well: its pages, formats and paths."""

from __future__ import annotations

import asyncio
import gzip
import re
from collections import defaultdict

from tests.golden.scripted import (
    HOUR,
    Script,
    user,
    users,
)
from tests.golden.sites import Simulated, config, scene, scripted, started
from tests.golden.stage import OPENMETRICS, WALL, samples


@scene
async def quiet() -> str:
    """Two sites, nothing happens: start, the first minutes, an hour that settles at 23:15, midnight."""
    play = await started(config("a", "b"), Simulated("a", "b"))
    await play.look()
    for moment in (1.25, 2.5, 5, 62, 130, 305, 3000):
        await play.until(moment)
        await play.look()
    settles = 23.25 * HOUR - (WALL % (24 * HOUR))
    for moment in (settles - 1, settles + 2, settles + 20, settles + 0.75 * HOUR + 10, settles + HOUR + 10):
        await play.until(moment)
        await play.metrics()
    await play.status(rows=1000)
    await play.page(graphs=True)
    return await play.close()


@scene
async def formats() -> str:
    """HELP, TYPE and the order of lines, in both formats; header fields; paths, methods and queries."""
    play = await started(config("a", "b", a={"watch_users": ["johnd"]}), Simulated("a", "b"))
    await play.until(2)
    await play.metrics(help_too=True)
    for accept in (b"", b"*/*", b"application/json", OPENMETRICS + b";q=0.3,text/plain;q=0.8", OPENMETRICS):
        for path in ("/metrics", "/", "/api/v1/status"):
            await play.fields(path, (b"accept", accept))
            await play.fields(path, (b"accept", accept), zipped=True)
    for path in (
        "/metrics",
        "/",
        "/api/v1/status",
        "/-/healthy",
        "/-/ready",
        "/probe",
        "/sd",
        "/-/reload",
        "/x",
    ):
        for method in ("HEAD", "POST", "DELETE", "OPTIONS", "get"):
            await play.text(path, method=method)
    for path in ("/probe", "/sd", "/-/ready", "/-/healthy", "/nothing", "/metrics/", "//metrics", ""):
        await play.text(path)
    await play.text("/probe", query={"target": "a"})
    return await play.close()


@scene
async def probes() -> str:
    """Sites at /probe, found by /sd, with and without an external URL; /metrics has the exporter alone."""
    names = ("a", "b&c=d", "\u00e9", "lone space")
    document = config("a", "b", web={"sites_on_metrics": False})
    for place, name in enumerate(names[1:]):
        document["sites"].append({"name": name, "secret": f"secret-of-{place}"})
    simulated = Simulated("a", "b", "0", "1", "2")
    recorded = ""
    for url in ("", "https://example.org:8443/exporter/"):
        play = await started(document, simulated, external_url=url)
        for moment in (1.25, 5, 130):
            await play.until(moment)
            await play.metrics()
            for name in ("a", "b", *names[1:]):
                await play.metrics("/probe", query={"target": name})
        await play.metrics("/probe", help_too=True, query={"target": "a"})
        await play.text("/sd")
        for query in ({}, {"target": ""}, {"target": "c"}, {"target": "A"}, {"targets": "a"}):
            await play.text("/probe", query=query)
        await play.status()
        await play.page()
        recorded += await play.close()
        await asyncio.sleep(0)
    return recorded


@scene
async def large() -> str:
    """Show pages over a megabyte; of their samples the recording has counts and sums by family and site."""
    names = [f"site{place}" for place in range(8)]
    script = Script()
    crowd = users(
        *(user(f"someone-{place:04}@example.org", place, place / 8, place / 16) for place in range(1024))
    )
    script.answers |= {(name, "/user/top"): crowd for name in names}
    play = await started(config(*names, poll={"top_users": {"count": 1024}}), scripted(script))
    for moment in (5, 130):
        await play.until(moment)
        texts = []
        for accept in (b"text/plain", OPENMETRICS):
            plain = await play.get("/metrics", (b"accept", accept))
            zipped = await play.get("/metrics", (b"accept", accept), zipped=True)
            assert plain.body == gzip.decompress(zipped.body)
            assert len(plain.body) > 1024 * 1024
            texts.append([line for line in samples(plain.body.decode()) if "someone" in line])
        assert texts[0] == texts[1]
        sums: dict[str, list[float]] = defaultdict(list)
        for line in texts[0]:
            series, _, value = line.rpartition(" ")
            sums[re.sub('user="[^"]*"', "user", series)].append(float(value))
        lines = (f"{series} {len(values)} samples, sum {sum(values)}" for series, values in sums.items())
        play.note("large page", *sorted(lines))
    return await play.close()
