"""Golden runs of commands: check, check --online, backfill."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from tests.golden import program, stage
from tests.golden.program import Incident
from tests.golden.scripted import (
    HOUR,
    Script,
    cumulated,
    history,
    hours,
    raw,
    refused,
)
from tests.golden.sites import Simulated, config, elsewhere, scene, scripted, write
from tests.golden.stage import WALL, Call, Offstage, Reply, Wire, rounded

if TYPE_CHECKING:
    from collections.abc import Callable


GOOD = """\
api: {url: "https://api.example.org/v1/", timeout: 1m30s, max_response_bytes: 1MiB}
sites:
  - {name: shop, secret_env: SHOP, currency: EUR, watch_users: [johnd, "\\u00e9"]}
  - {name: blog, secret: in-file, poll: {top_users: {count: 5, order: balance}, history: {max_row_age: 1h}}}
  - {name: "third one", secret_file: private/secret, poll: {all_users: {enabled: true, page_size: 100}}}
poll: {payout: {interval: 90s, stale_after: 10m}, history: {interval: 1h}}
users: {names: hmac, names_key_env: KEY}
web: {sites_on_metrics: no}
"""
ENVIRON = {"SHOP": "secret of shop", "KEY": "a key of sixteen bytes or more", "EMPTY": " ", "LINES": "a\nb"}
CONFIGS: dict[str, str] = {
    "good": GOOD,
    "least": "sites: [{name: a, secret_env: SHOP}]",
    "names-off": "sites: [{name: a, secret_env: SHOP, watch_users: [b]}]\nusers: {names: off}",
    "slots": "sites:\n" + "".join(f"- {{name: s{place}, secret_env: SHOP}}\n" for place in range(200)),
    "loopback": "api: {url: 'http://localhost:1/'}\nsites: [{name: a, secret_env: SHOP}]",
    "insecure": "api: {url: 'http://x.org', allow_insecure: true}\nsites: [{name: a, secret_env: SHOP}]",
    "empty": "",
    "list": "[]",
    "broken": "sites: [",
    "tab": "sites:\n\t- a",
    "two-documents": "a: 1\n---\nb: 2",
    "alias": "sites: &a [{name: a, secret_env: SHOP}]\nmore: *a",
    "twice": "sites: [{name: a, secret_env: SHOP}]\nsites: []",
    "all-wrong": """\
api: {url: "ftp://x", timeout: 0s, timout: 1s, max_concurrency: 65, max_response_bytes: 1B, proxy: maybe}
sites:
  - {name: a, secret_env: UNSET, currency: ""}
  - {name: a, secret_env: SHOP, secret: x, watch_users: [a, a, ""]}
  - {name: "", secret_file: nowhere}
  - {secret_env: EMPTY, poll: {top_users: {count: 2000, order: size}, all_users: {page_size: 1}}}
  - {name: b, secret_env: LINES, poll: {payout: {interval: 1m, stale_after: 30s}}}
  - {name: c}
  - 5
poll: {history: {max_row_age: 2h, interval: soon}, balances: 5, payouts: {}}
users: {names: hmac, names_key_env: UNSET, names_key_file: x}
web: {sites_on_metrics: 1}
""",
    "insecure-url": "api: {url: 'http://user:word@x.org/?q#f'}\nsites: [{name: a, secret_env: SHOP}]",
    "leaves": """\
api: {url: "https://x.org:99999", timeout: 25h, max_response_bytes: 2GiB, proxy: environment}
sites:
  - {name: "a\\nb", secret_env: "S S", currency: 5, poll: {payout: {interval: 1h1s}, history: {interval: 0}}}
  - {name: [], secret_env: [], poll: {payout: {interval: -5s}, top_users: {count: 1.5}}}
  - {name: {}, secret: {}, poll: {history: {interval: 5m5m, max_row_age: 101y}}}
  - {name: true, secret: "", watch_users: ["a\\0", 5], poll: {all_users: {enabled: "yes", max_pages: 0}}}
  - {name: "%s", secret: "in line", watch_users: {}}
users: {names: true}
web: []
"""
    % ("n" * 129),
    "key-unused": "sites: [{name: a, secret_env: SHOP}]\nusers: {names_key_env: KEY}",
}


@scene
async def check() -> str:
    """Check good and bad configs: what they mean, warnings, and every problem."""
    sections: list[str] = []

    def note(title: str, *arguments: str) -> None:
        # The width of usage is the terminal's, but for this variable.
        os.environ["COLUMNS"] = "200"
        code, out, err = program.command(*arguments)
        sections.append(f"=== {title}: {code}\n--- stdout\n{out}--- stderr\n{err}")

    with elsewhere(ENVIRON):
        note("nothing there", "check")
        note("no such file", "check", "--config.file=nowhere.yaml")
        os.environ["CRYPTOLOOT_SECRET"] = "of the environment"
        note("the environment", "check")
        os.environ["CRYPTOLOOT_SECRET_FILE"] = "also"
        note("the environment twice", "check")
        for mode in (0o644, 0o600):
            write("private/secret", "in a file\n", mode)
            for name, text in CONFIGS.items() if mode == 0o600 else [("exposed", GOOD)]:
                write("config.yaml", text)
                note(name, "check", "--config.file=config.yaml")
        write("web.yml", "basic_auth_users: {a: b}\ntls_server_config: {}\nhttp_server_config: {x: 1}")
        write("config.yaml", CONFIGS["least"])
        note("bad web config", "check", "--web.config.file=web.yml")
        note("shard", "run", "--shard=3", "--total-shards=3")
        note("half a shard", "run", "--total-shards=3")
        note("a directory", "check", "--config.file=private")
        write("config.yaml", f"api: {{url: 'http://127.0.0.1:1'}}\n{CONFIGS['least']}")
        back = ("backfill", "--output=out", "--label=job=x", "--label=instance=y")
        note("backfill of an unknown site", *back, "--until=now", "--site=b")
        note("backfill of gaps", *back, "--until=now", "--gaps")
        note("backfill of no time", *back, "--until=1700000000", "--since=2023-11-15T00:00:00Z")
        note("backfill without an API", *back, "--until=now")
        note("what it wrote", "check", "--config.file=out")
    return "".join(sections)


@scene
async def once() -> str:
    """Call each endpoint once, as `check --online` does: all well, and failures of each kind."""
    document = config(
        "well",
        "ill",
        "watched",
        watched={"watch_users": ["johnd", "nobody"]},
        poll={"all_users": {"enabled": True}},
    )
    simulated = Simulated("well", "ill", "watched")
    off = Offstage(simulated)
    simulated.world.sites["ill"].incidents += [
        Incident("error", WALL, HOUR, path="/user/top"),
        Incident("outage", WALL, HOUR, path="/stats/payout"),
        Incident("slow", WALL, HOUR, path="/user/list", delay=60),
    ]
    called = program.once(document, stage.secrets(document), off.time.clock(), off.wire)
    page, told = await off.result(called)
    lines = ("=== page", *stage.samples(page), "=== failed", *told, "=== log", *off.log())
    return "".join(f"{line}\n" for line in lines)


@scene
async def backfill() -> str:
    """Write the week of hourly, cumulative, unknown, gapped and failing sites; ask a Prometheus for holes."""
    script = Script()
    rows = hours(WALL, 60)
    script.answers |= {
        ("hourly", "/stats/history"): history(rows),
        ("cumulative", "/stats/history"): history(cumulated(rows)),
        ("unknown", "/stats/history"): history([{**row, "hashes": row["hashes"] * 60} for row in rows]),
        ("gaps", "/stats/history"): history(rows[:20] + rows[26:50]),
        ("empty", "/stats/history"): history([]),
        ("failing", "/stats/history"): refused("internal_error"),
    }
    names = ("hourly", "cumulative", "unknown", "gaps", "empty", "failing")
    document = config(*names)
    off = Offstage(scripted(script))
    labels = {"job": "cryptoloot", "instance": "{site}"}
    sections: list[str] = []
    begins = int(WALL - 20 * HOUR)
    there = {"job": "cryptoloot", "instance": "hourly", "site": "hourly"}
    held: list[tuple[int, str]] = [
        (at, "1") for at in range(begins, int(WALL), 240) if not 3 * HOUR < at - begins < 5 * HOUR
    ]

    def prometheus(answer: Callable[[str, float], Any], head: float | None = None) -> Any:
        async def api(call: Call) -> Reply:
            if call.path.endswith("/tsdb"):
                return raw(json.dumps({"data": {"headStats": {"minTime": head}}} if head else {}))
            return raw(
                json.dumps({"data": {"result": answer(call.query["query"], float(call.query["time"]))}})
            )

        return Wire(off.time, api)

    def in_it(query: str, at: float) -> Any:
        if query.startswith(("count_over_time", "last_over_time")) or "hashrate" not in query:
            return []
        return [{"metric": there, "values": [each for each in held if at - 86400 < each[0] <= at]}]

    def elsewhere(query: str, _at: float) -> Any:
        return [{"metric": {"job": "other"}}] if query.startswith("last_over_time") else []

    def labelled(query: str, _at: float) -> Any:
        return [{"metric": {**there, "zone": "x"}, "values": []}] if "hashrate" in query else []

    async def note(title: str, **options: Any) -> None:
        environ, clock = stage.secrets(document), off.time.clock()
        asked = program.backfilled(document, environ, clock, off.wire, labels=labels, **options)
        lines, told = await off.result(asked)
        sections.extend([f"=== {title}", *told, "--- lines", *_runs(lines)])

    await note("everything")
    await note("two sites", names=["hourly", "gaps"])
    await note("since and until", names=["hourly"], since=WALL - 30 * HOUR, until=WALL - 10 * HOUR)
    one = {"names": ["hourly"]}
    await note("what a Prometheus has not", prometheus=prometheus(in_it), **one)
    await note("with a head", prometheus=prometheus(in_it, (begins + HOUR) * 1000), **one)
    await note("gaps", prometheus=prometheus(in_it), gaps=True, **one)
    await note("nothing in it", prometheus=prometheus(lambda *_: []), **one)
    await note("other labels", prometheus=prometheus(elsewhere), **one)
    await note("more labels", prometheus=prometheus(labelled), **one)
    await note("no answer", prometheus=Wire(off.time, lambda _: _later(raw("<html>", status=404))), **one)
    return "".join(f"{line}\n" for line in (*sections, "=== log", *off.log()))


async def _later(reply: Reply) -> Reply:
    return reply


def _runs(lines: str) -> list[str]:
    """Return backfilled lines with one for samples that differ in nothing but their times."""
    found: list[str] = []
    last: tuple[str, int, int, int] | None = None

    def end() -> None:
        if last:
            found.append(rounded(f"{last[0]} {last[1]}..{last[2]} ({last[3]} samples)"))

    for line in lines.split("\n"):
        begin, _, at = line.rpartition(" ")
        if line.startswith("#") or not at.isdecimal():
            end()
            last = None
            found.append(line)
        elif last and last[0] == begin and int(at) == last[2] + 240:
            last = begin, last[1], int(at), last[3] + 1
        else:
            end()
            last = begin, int(at), int(at), 1
    end()
    return found
