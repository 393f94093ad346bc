"""The ASGI app: what each path answers, to whom, in which format, with which headers."""

from __future__ import annotations

import asyncio
import gzip
import json
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.api.answers import Entries, User
from exporter.app import App, Options
from exporter.clock import Now
from exporter.collectors.payout import PAYOUT
from exporter.collectors.snapshot import Snapshot, Store
from exporter.collectors.users import TOP_USERS
from exporter.config.secret import Secret
from exporter.endpoint import Reason
from exporter.pages.exporter_metrics import OwnMetrics
from exporter.pages.pages import Pages
from exporter.pages.text import Format
from exporter.polling.poller import poll_once
from exporter.web.access import NO_WEB_CONFIG, PreparedWebConfig, WebAccess
from exporter.web.routes import PIECE, Web
from tests.conftest import WALL, VirtualTime, parsed
from tests.web.sites import NOW, PAYOUT_ANSWER, answered, ask, broken, site, web_of, well

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PATHS = ("/", "/api/v1/status", "/metrics", "/-/healthy", "/-/ready")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
names = st.text(st.characters(), max_size=300)  # lone surrogates included
numbers = st.floats(0, 1e18) | st.floats(0, 1e6).map(str) | st.integers(-5, 5) | st.just("nan")
fields = {"name": names, "total": numbers, "withdrawn": numbers, "balance": numbers}
users = st.lists(st.fixed_dictionaries(fields) | json_values, max_size=12)


@pytest.mark.parametrize("path", PATHS)
def test_pages_answer_get_and_head(path: str) -> None:
    """GET and HEAD give the same status and headers; HEAD gives no body."""
    got, head = ask(web_of(), path), ask(web_of(), path, "HEAD")

    assert (200, 200) == (got.status_code, head.status_code)
    assert head.content == b""
    assert got.headers["content-type"] == head.headers["content-type"]
    assert int(got.headers["content-length"]) == len(got.content)


@pytest.mark.parametrize(
    ("status", "allow", "method", "path"),
    [
        (404, None, "GET", "/nothing"),
        (404, None, "POST", "/metrics/"),
        (405, "GET, HEAD", "POST", "/metrics"),
        (405, "GET, HEAD", "DELETE", "/"),
        (405, "POST", "GET", "/-/reload"),
        (405, "POST", "HEAD", "/-/reload"),
        (403, None, "POST", "/-/reload"),
    ],
)
def test_refusals_say_what_is_allowed(status: int, allow: str | None, method: str, path: str) -> None:
    """Unknown paths are 404, wrong methods 405 with Allow, a reload that is not enabled 403."""
    answer = ask(web_of(), path, method)

    assert (status, allow) == (answer.status_code, answer.headers.get("allow"))


def test_metrics_are_negotiated() -> None:
    """Format and compression follow the headers, and caches are told so."""
    text = ask(web_of(), "/metrics")
    openmetrics = ask(web_of(), "/metrics", accept="application/openmetrics-text", accept_encoding="gzip")

    assert text.headers["content-type"] == Format.TEXT.value
    assert "content-encoding" not in text.headers
    assert openmetrics.headers["content-type"] == Format.OPENMETRICS.value
    assert openmetrics.headers["content-encoding"] == "gzip"
    assert openmetrics.text.endswith("# EOF\n")
    assert openmetrics.headers["vary"] == "Accept, Accept-Encoding"


@given(st.text(st.characters(max_codepoint=255)), st.text(st.characters(max_codepoint=255)))
def test_garbage_headers_never_fail_a_scrape(accept: str, coding: str) -> None:
    """Whatever stands in the headers, the answer is 200 with a page that parses."""
    headers = [(b"accept", accept.encode("latin-1")), (b"accept-encoding", coding.encode("latin-1"))]
    status, body = asyncio.run(raw(web_of(), headers))

    assert status == 200
    assert body.startswith((b"# HELP", b"\x1f\x8b"))


async def messages(
    web: Web, headers: list[tuple[bytes, bytes]], path: str = "/metrics"
) -> list[dict[str, Any]]:
    """Call the app as a server would, with headers that no client would send; return what it sends."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": headers}
    await web(scope, None, send)
    return sent


async def pieces(web: Web, headers: list[tuple[bytes, bytes]]) -> list[bytes]:
    """Return the body of /metrics piece by piece, the very objects that the app sends."""
    return [message["body"] for message in (await messages(web, headers))[1:]]


async def raw(web: Web, headers: list[tuple[bytes, bytes]]) -> tuple[int, bytes]:
    start, *rest = await messages(web, headers)
    return start["status"], b"".join(message["body"] for message in rest)


def with_users(count: int) -> dict[str, Snapshot]:
    users = tuple(User(f"user-{number:05}", number, 0, 0) for number in range(count))
    return {"demo": well(site("demo"), users=users)}


@pytest.mark.parametrize("count", [100, 6000])
def test_a_page_is_made_once(count: int) -> None:
    """Scrapers that come together share the bytes of one page, also of a large one that a thread makes."""
    web = web_of(with_users(count))

    async def scraped() -> list[list[bytes]]:
        return await asyncio.gather(*(pieces(web, [(b"accept-encoding", b"gzip")]) for _ in range(5)))

    first, *_, last = ([source(piece) for piece in body] for body in asyncio.run(scraped()))
    assert [id(piece) for piece in first] == [id(piece) for piece in last]
    assert f'user="user-{count - 1:05}"'.encode() in gzip.decompress(first[0])


def source(piece: bytes | memoryview) -> Any:
    """Return the page that a piece is a part of."""
    return piece.obj if isinstance(piece, memoryview) else piece


def test_a_large_page_is_sent_in_pieces() -> None:
    """What is sent at once is encrypted at once: large bodies go piece by piece, small ones whole."""
    large, small = (asyncio.run(messages(web_of(with_users(count)), []))[1:] for count in (6000, 10))

    assert 1 == len(small)
    assert len(large) > 2
    assert PIECE == max(len(message["body"]) for message in large)
    assert [True] * (len(large) - 1) + [None] == [message.get("more_body") for message in large]


def test_a_scraper_that_goes_away_takes_nobody_along() -> None:
    """Cancelling one request for a large page leaves the others' answers whole."""
    web = web_of(with_users(6000))

    async def scraped() -> list[bytes]:
        impatient, patient = (asyncio.ensure_future(pieces(web, [])) for _ in range(2))
        await asyncio.sleep(0)
        impatient.cancel()
        return await patient

    assert b"".join(asyncio.run(scraped())).endswith(b"\n")


def test_a_scrape_ends_while_others_keep_rendering() -> None:
    """Sites that change without pause hold up no scrape: it waits for those that had changed before it."""
    names = [f"site{number}" for number in range(5)]
    store = Store()
    web = web_of(dict.fromkeys(names, Snapshot()), store=store)
    users = tuple(User(f"user-{number}", number, 0, 0) for number in range(500))

    async def change() -> None:
        total = 0.0
        while True:
            total += 1
            for name in names:
                changed = Entries(tuple(User(user.name, user.total + total, 0, 0) for user in users))
                store.publish(name, answered(site(name), store[name], TOP_USERS, changed))
                await asyncio.sleep(0)

    async def scrape() -> bytes:
        busy = [asyncio.ensure_future(work) for work in (change(), web.pages.keep_rendered())]
        await asyncio.sleep(0)
        try:
            return b"".join(await asyncio.wait_for(pieces(web, []), 20))
        finally:
            for task in busy:
                task.cancel()

    assert b"cryptoloot_user_hashes_total{" in asyncio.run(scrape())


def probing(*names: str, **options: Any) -> Web:
    return web_of(dict.fromkeys(names, Snapshot()), on_metrics=False, **options)


def test_a_probe_has_one_site() -> None:
    """/probe shows the families of the site that is asked for, /metrics then those of the exporter."""
    web = probing("demo", "other")
    probe, full = ask(web, "/probe?target=other"), ask(web, "/metrics")

    assert (200, 200) == (probe.status_code, full.status_code)
    assert 'site="other"' in probe.text
    assert 'site="demo"' not in probe.text
    assert "process_" not in probe.text
    assert "site=" not in full.text


def test_discovery_names_the_probes() -> None:
    """One group per site, as Prometheus' http_sd wants it; the address is that of the request."""
    answer = ask(probing("demo", "other"), "/sd")

    assert "application/json" == answer.headers["content-type"]
    assert [
        {
            "targets": ["exporter"],
            "labels": {
                "__scheme__": "http",
                "__metrics_path__": "/probe",
                "__param_target": name,
                "instance": name,
            },
        }
        for name in ("demo", "other")
    ] == answer.json()


def test_discovery_names_the_external_url() -> None:
    """Behind a proxy, its scheme, address and path."""
    (group,) = ask(probing("demo", external_url="https://example.org/loot/"), "/sd").json()

    assert ["example.org"] == group["targets"]
    assert ("https", "/loot/probe") == (group["labels"]["__scheme__"], group["labels"]["__metrics_path__"])


def test_discovery_is_none_while_sites_are_on_metrics() -> None:
    """Otherwise each site would be scraped twice."""
    answer = ask(web_of(), "/sd")

    assert 404 == answer.status_code
    assert "web.sites_on_metrics" in answer.text


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?",
        "?target=",
        "?target=nobody",
        "?target=demo&target=other",
        "?site=demo",
        "?target=%00",
        "?target=%ff",
    ],
)
def test_a_probe_of_no_site_is_refused(query: str) -> None:
    """A name that is not configured, or none, or two, is 400 and repeats nothing of the request."""
    answer = ask(probing("demo", "other"), f"/probe{query}")

    assert answer.status_code == 400
    assert "nobody" not in answer.text


def test_strangers_get_no_page() -> None:
    """With passwords, a request without the right one is 401, a finished page or not."""
    access = WebAccess(None, b"")
    access.apply(PreparedWebConfig(replace(NO_WEB_CONFIG, users={"ann": Secret("$2b$04$" + "." * 53)}), None))
    web = web_of(with_users(50), access)

    assert 401 == ask(web, "/metrics").status_code
    assert 401 == ask(web, "/metrics", authorization="Basic YW5uOng=").status_code
    access.close()


def test_no_site_is_scraped_twice() -> None:
    """While the sites are on /metrics, /probe is 404 and says so."""
    answer = ask(web_of(), "/probe?target=demo")

    assert answer.status_code == 404
    assert "web.sites_on_metrics" in answer.text


def test_health_names_what_stands_still() -> None:
    """Healthy is 200 while the loops turn, and 503 with their names when not, twenty at most."""
    assert ask(web_of(), "/-/healthy").status_code == 200

    answer = ask(web_of(stuck_loops=lambda: [f"site-{n} /user/top" for n in range(30)]), "/-/healthy")
    assert (503, 21) == (answer.status_code, len(answer.text.splitlines()))
    assert "site-0 /user/top" in answer.text


def test_ready_waits_for_the_listener() -> None:
    """Ready is 503 until everything runs."""
    assert ask(web_of(ready=lambda: False), "/-/ready").status_code == 503


def test_reload_says_what_is_wrong() -> None:
    """A good reload is 200, a bad one 400 with every problem."""
    reload = reloading(["sites[0].name: missing"])
    good, bad = web_of(reload=reloading([])), web_of(reload=reload)

    assert ask(good, "/-/reload", "POST").status_code == 200
    assert ask(bad, "/-/reload", "POST").status_code == 400
    assert "sites[0].name: missing" in ask(bad, "/-/reload", "POST").text


def reloading(problems: list[str]) -> Callable[[], Awaitable[list[str]]]:
    async def reload() -> list[str]:
        return problems

    return reload


def test_the_home_page_links_what_there_is() -> None:
    """Every link of the home page answers, behind a proxy's path too: they are relative."""
    home = ask(web_of(), "/").text

    assert {path for path in PATHS if f'href="{path[1:]}"' in home} == set(PATHS) - {"/"}


def test_the_status_runs_nothing() -> None:
    """A browser may use the page's own style, and neither run, fetch, frame nor keep anything."""
    answer = ask(web_of(), "/")
    style = answer.text.partition("<style>")[2].partition("</style>")[0]
    digest = b64encode(sha256(style.encode()).digest()).decode()
    policy = dict(rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; "))

    assert ("'none'", f"'sha256-{digest}'") == (policy["default-src"], policy["style-src"])
    assert "script-src" not in policy
    assert ("'none'", "no-store") == (policy["frame-ancestors"], answer.headers["cache-control"])
    assert ("no-store", "nosniff") == tuple(
        ask(web_of(), "/api/v1/status").headers[name] for name in ("cache-control", "x-content-type-options")
    )


def test_the_status_is_written_once_a_second() -> None:
    """Whoever asks within a second has the same, whatever changes; another question is answered anew."""
    store, moment = Store(), [NOW]
    web = web_of(store=store, now=lambda: moment[0])
    before = ask(web, "/api/v1/status").json()
    store.publish("demo", answered(site("demo"), Snapshot(), PAYOUT, PAYOUT_ANSWER))

    assert before == ask(web, "/api/v1/status").json()
    assert "1 waiting" in ask(web, "/").text
    moment[0] = Now(NOW.wall + 1, NOW.mono + 1)
    (found,) = ask(web, "/api/v1/status").json()["sites"]
    assert ("waiting", "success") == (found["state"], found["endpoints"][0]["last_result"])


def test_the_status_is_compressed_for_who_takes_it() -> None:
    """With gzip or as it is, the same page."""
    web = web_of()
    zipped, plain = ask(web, "/", accept_encoding="gzip"), ask(web, "/")

    assert ("gzip", None) == tuple(each.headers.get("content-encoding") for each in (zipped, plain))
    assert zipped.text == plain.text


def test_a_pages_own_header_holds() -> None:
    """A policy of the web config does not stand beside the status page's own, and stands everywhere else."""
    access = WebAccess(None, b"")
    policy = (b"Content-Security-Policy", b"img-src *")
    access.apply(PreparedWebConfig(replace(NO_WEB_CONFIG, headers=(policy,)), None))
    web = web_of(access=access)

    assert "*" not in ask(web, "/").headers["content-security-policy"]
    assert "img-src *" == ask(web, "/-/ready").headers["content-security-policy"]


def test_the_status_is_the_same_as_json() -> None:
    """Both show the sites that are asked for."""
    web = web_of({"shop": Snapshot(), "game": Snapshot()})
    answer, text = ask(web, "/api/v1/status?site=ga").json(), ask(web, "/?site=ga").text

    assert ["game"] == [found["site"] for found in answer["sites"]]
    assert ("<bdi>game</bdi>" in text, "<bdi>shop</bdi>" in text) == (True, False)


def test_only_http_is_served() -> None:
    """A websocket gets an error, not a page."""
    with pytest.raises(ValueError, match="websocket"):
        asyncio.run(web_of()({"type": "websocket"}, None, None))


def reply(document: object) -> httpx.Response:
    return httpx.Response(200, stream=httpx.ByteStream(json.dumps(document).encode()))


def page_after(path: str, document: object) -> dict[str, str]:
    """Let an API answer with a document, poll it once, and return the page in both formats."""

    async def play() -> dict[str, str]:
        config, time, own = parsed(poll={"history": {"interval": "1d"}}), VirtualTime(), OwnMetrics("0", "0")
        transport = httpx.MockTransport(lambda asked: reply(document if asked.url.path == path else None))
        store, _ = await poll_once(config, own, time.clock, transport=transport)
        web, texts = web_of(), {}
        web.pages = Pages(store, own, time.now, config.sites)
        for format_ in Format:
            status, body = await raw(web, [(b"accept", format_.value.split(";")[0].encode())])
            assert status == 200
            texts[format_.name] = body.decode()
        return texts

    return asyncio.run(play())


def series_of(pages: dict[str, str]) -> list[tuple[str, tuple[tuple[str, str], ...]]]:
    """Parse both formats, which must agree; return their series."""
    read = {
        name: [
            (sample.name, tuple(sorted(sample.labels.items())))
            for family in (parse_text if name == "TEXT" else parse_openmetrics)(page)
            for sample in family.samples
            if not sample.name.startswith(("process_", "python_"))
        ]
        for name, page in pages.items()
    }
    assert read["TEXT"] == read["OPENMETRICS"]
    return read["TEXT"]


@given(st.sampled_from(["/stats/payout", "/stats/history", "/user/top"]), json_values)
def test_any_json_makes_a_page(path: str, document: object) -> None:
    """Whatever JSON an endpoint answers, /metrics is 200, parses, and has no series or family twice."""
    pages = page_after(path, document)

    series = series_of(pages)
    assert len(series) == len(set(series))
    for page in pages.values():
        types = [line for line in page.splitlines() if line.startswith("# TYPE ")]
        assert len(types) == len(set(types))


@given(users)
def test_any_user_makes_a_page(entries: list[object]) -> None:
    """Any JSON string is a user's name: the page parses, and no user is there twice."""
    pages = page_after("/user/top", {"success": True, "users": entries})

    series = series_of(pages)
    assert len(series) == len(set(series))


@given(st.lists(json_values, max_size=6))
def test_failures_never_exceed_polls(documents: list[object]) -> None:
    """After any sequence of answers each endpoint has at most as many failures as polls."""

    async def play() -> App:
        time, answers = VirtualTime(), iter(documents * 9)
        transport = httpx.MockTransport(lambda _: reply(next(answers, None)))
        app = App(parsed, Options(()), time.clock, transport)
        await app.start()
        await time.run(600)
        await app.close()
        return app

    (found,) = ask(asyncio.run(play()).web, "/api/v1/status").json()["sites"]
    assert [] == [endpoint for endpoint in found["endpoints"] if endpoint["failures"] > endpoint["polls"]]
    assert all(endpoint["polls"] for endpoint in found["endpoints"])


def test_stale_users_leave_and_counters_stay() -> None:
    """A site whose polls fail loses its values after stale_after; what was counted stays."""
    demo = site("demo", top_users={})
    known = answered(demo, Snapshot(), TOP_USERS, Entries((User("johnd", 5.0, 1.0, 2.0),)))
    sites = {"demo": broken(known, Reason.DNS, endpoint=TOP_USERS)}

    def page(after: float) -> str:
        web = web_of(sites, now=lambda: Now(WALL + after, 1000.0 + after))
        web.pages.show([demo])
        return ask(web, "/metrics").text

    assert 'cryptoloot_user_hashes_total{site="demo",user="johnd"} 5.0' in page(300)
    assert "cryptoloot_user_hashes_total{" not in page(301)
    assert 'cryptoloot_tracked_user_hashes_total{site="demo"} 0.0' in page(301)
