"""Nothing secret is ever written or shown: canaries go in wherever they can, all that comes out is searched.

Each canary holds TOKEN, so that also a part of one is found; TOKEN is a word that no other text has.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import io
import json
import logging
import re
import signal
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus, unquote

import httpx
import pytest
import structlog

from exporter import cli, log
from exporter.app import App, Options
from exporter.endpoint import USER_REASONS, Reason
from tests.api.calls import LIMIT
from tests.api.faults import FAULTS
from tests.api.raw_server import Reply, Server, closed_port, refuse, reply
from tests.conftest import VirtualTime, fetch, parsed
from tests.e2e.programs import Answer, Program, ask, exporting, running, samples, started, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

TOKEN = "c4n4ry0f7h3m1n3"  # also a word that YAML and the shell take as it is
SECRET = f"""{TOKEN}-secret &=+%/ #?é"'\\<b>"""  # characters that mean something to URLs, JSON, Python, HTML
KEY = f"""{TOKEN}-key 'n"m\\s &=+% ü"""
PASSWORD = f"{TOKEN}-pass%2Bword%3D"  # as it stands in the URL of a proxy
CANARIES = (TOKEN, SECRET, KEY, PASSWORD, unquote(PASSWORD))
ENVIRON = {"SECRET": SECRET, "KEY": KEY}

# The contract's paths, those of later versions too: what is 404 today is searched from its first day on.
PATHS = (
    "/",
    "/api/v1/status",
    "/metrics",
    "/-/healthy",
    "/-/ready",
    "/api/v1/status",
    "/sd",
    "/probe",
    "/probe?target=s0",
    "/nowhere",
)
# What the API says, one after another; one answer repeats the secret.
REPLIES = [fault.reply for fault in FAULTS.values()]
REPLIES += [refuse(SECRET), reply(SECRET.encode(), 500), reply(f'{{"users":["{TOKEN}"]}}'.encode())]
# Of no server, or of endpoints that are not polled here.
UNPLAYED = {Reason.DNS, Reason.TLS, Reason.INVALID_PAGE, *USER_REASONS}
# The proxies that an environment may name, and what is wrong with each.
PROXIES = {
    "closed": "http://johnd:{password}@127.0.0.1:{closed}",
    "refusing": "http://johnd:{password}@127.0.0.1:{port}",
    "of another kind": "ftp://johnd:{password}@127.0.0.1:{port}",
    "no URL": "http://johnd:{password}@[::1",
    "without host": "http://johnd:{password}@:{port}",
    "port too high": "http://johnd:{password}@127.0.0.1:99999",
}


# --------------------------------------------------------------------------------------------- the searching


def forms(canary: str) -> set[str]:
    """Return the canary as URLs, JSON, Python, hex and base64 write it, base64 wherever it stands within."""
    data = canary.encode()
    written = {canary, quote(canary), quote(canary, safe=""), quote_plus(canary), data.hex()}
    written |= {each.lower() for each in written}
    written |= {json.dumps(canary)[1:-1], json.dumps(canary, ensure_ascii=False)[1:-1]}
    written |= {repr(canary)[1:-1], ascii(canary)[1:-1], repr(data)[2:-1]}
    for shift in range(3):
        whole = base64.b64encode(bytes(shift) + data)
        inner = whole.rstrip(b"=")[4 if shift else 0 : -1].decode()  # the edges depend on what stands beside
        written |= {inner, inner.translate(str.maketrans("+/", "-_"))}
    return written


NEEDLES = sorted({form for canary in CANARIES for form in forms(canary)})


def leaks(*texts: str) -> list[str]:
    """Return the lines that hold a canary."""
    lines = (line for text in texts for line in text.splitlines())
    return [line for line in lines if any(needle in line for needle in NEEDLES)]


def test_the_search_finds_what_it_should() -> None:
    """A canary is found raw and in every form, in the midst of other text, and where only a part is left."""
    auth = base64.b64encode(f"johnd:{unquote(PASSWORD)}".encode()).decode()
    said = [f"x{SECRET}x", f"?a=b&secret={quote_plus(SECRET)}", repr({"a": KEY}), json.dumps([SECRET])]
    said += [f"Basic {auth}", f"{SECRET.encode()!r}", SECRET[:20], TOKEN.encode().hex()]

    assert said == leaks(*said)


# ------------------------------------------------------------------------------------------------ bad configs


def top(**sections: Any) -> str:
    return json.dumps({"sites": [{"name": "a", "secret_env": "SECRET"}], **sections})


def site(**given: Any) -> str:
    return json.dumps({"sites": [{"name": "a", **given}]})


BAD: dict[str, str] = {
    "an unknown key": top(**{SECRET: 1}),
    "the value of an unknown key": top(secert=SECRET),
    "an unknown key within": top(api={SECRET: SECRET}),
    "an unknown key that looks like ours": top(api={f"{TOKEN}": TOKEN}),
    "an unknown key of a site": site(**{"secret_env": "SECRET", SECRET: SECRET}),
    "an unknown key almost right": site(secret_fil=SECRET),
    "a secret that is a mapping": site(secret={SECRET: SECRET}),
    "a secret that is a list": site(secret=[SECRET]),
    "a secret of two lines": site(secret=f"{SECRET}\n{SECRET}"),
    "a secret that is too long": site(secret=SECRET * 200),
    "two secrets": site(secret=SECRET, secret_env="SECRET"),
    "the secret for its variable": site(secret_env=SECRET),
    "a word for its variable": site(secret_env=TOKEN),
    "the secret for its file": site(secret_file=SECRET),
    "a path with the secret": site(secret_file=f"/nowhere/{SECRET}"),
    "a path with NUL": site(secret_file=f"{TOKEN}\0"),
    "a site that is text": json.dumps({"sites": [SECRET]}),
    "sites that are text": json.dumps({"sites": SECRET}),
    "sites that are a mapping": json.dumps({"sites": {SECRET: SECRET}}),
    "a name that is a mapping": json.dumps({"sites": [{"name": {SECRET: 1}, "secret_env": "SECRET"}]}),
    "a currency that is a list": site(secret_env="SECRET", currency=[SECRET]),
    "users that are text": site(secret_env="SECRET", watch_users=SECRET),
    "a user twice": site(secret_env="SECRET", watch_users=[SECRET, SECRET]),
    "a URL with a password": top(api={"url": f"https://johnd:{PASSWORD}@127.0.0.1"}),
    "a URL with a query": top(api={"url": f"https://127.0.0.1/?secret={TOKEN}"}),
    "a URL with a fragment": top(api={"url": f"https://127.0.0.1/#{TOKEN}"}),
    "a URL with a port that is none": top(api={"url": f"https://127.0.0.1:{TOKEN}"}),
    "a URL with a host that is none": top(api={"url": f"https://[{TOKEN}]"}),
    "a URL that is none": top(api={"url": SECRET}),
    "a duration": top(api={"timeout": SECRET}),
    "a size": top(api={"max_response_bytes": SECRET}),
    "a flag": top(api={"allow_insecure": SECRET}),
    "one of a few words": top(api={"proxy": SECRET}),
    "a number": top(poll={"top_users": {"count": SECRET}}),
    "a section": top(poll=SECRET),
    "an unknown section": top(poll={SECRET: {"interval": "1m"}}),
    "names": top(users={"names": SECRET}),
    "a key for names": top(users={"names": "hmac", "names_key": KEY}),
    "the key for its variable": top(users={"names": "hmac", "names_key_env": KEY}),
    "the key for its file": top(users={"names": "hmac", "names_key_file": KEY}),
    "a key without use": top(users={"names": "plain", "names_key_env": "KEY"}),
    "the secret alone": json.dumps(SECRET),
    "an open quote": f'sites: [{{name: a, secret: "{TOKEN}',
    "an open bracket": f"sites: [{{name: a, secret: {TOKEN}",
    "a colon too many": f"secret: {TOKEN}: {TOKEN}",
    "an alias": f"secret: *{TOKEN}",
    "an anchor twice": f"a: &{TOKEN} 1\nb: &{TOKEN} 2\n",
    "a tag": f"secret: !{TOKEN} 1",
    "a tag of Python": f"secret: !!python/object:{TOKEN} 1",
    "a directive": f"%{TOKEN} 1\n---\n",
    "a tag directive": f"%TAG !{TOKEN}! {TOKEN}\n---\nsecret: !{TOKEN}!x 1",
    "a reserved character": f"secret: @{TOKEN}",
    "a tab": f"a:\n\tsecret: {TOKEN}",
    "a block's header": f"secret: |{TOKEN}\n  x",
    "an escape": f'secret: "\\{TOKEN}"',
    "a control character": f"secret: {TOKEN}\x07",
    "a merge": f"<<: {TOKEN}",
    "a key twice": f"{TOKEN}: 1\n{TOKEN}: 2\n",
    "a key that is a list": f"? [{TOKEN}]\n: {TOKEN}\n",
    "two documents": f"secret: {TOKEN}\n---\nsecret: {TOKEN}\n",
    "not UTF-8": f"secret: {TOKEN}\udcff",
}


def write(directory: Path, text: str) -> Path:
    """Write a config, lone surrogates as the bytes they stand for."""
    file = directory / "config.yaml"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    return file


def working(api: int, sites: int, **api_options: Any) -> str:
    """Return a config of sites that poll this API every second and name users by HMAC."""
    return json.dumps(
        {
            "api": {
                "url": f"http://127.0.0.1:{api}",
                "timeout": "300ms",
                "max_response_bytes": LIMIT,
                **api_options,
            },
            "sites": [{"name": f"s{number}", "secret_env": "SECRET"} for number in range(sites)],
            "poll": {
                name: {"interval": "1s", "stale_after": "1s"} for name in ("payout", "history", "top_users")
            },
            "users": {"names": "hmac", "names_key_env": "KEY"},
        }
    )


@pytest.fixture
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, [*root.handlers]
    yield
    structlog.reset_defaults()
    root.handlers = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("_logging_as_it_was")
@pytest.mark.parametrize("name", BAD)
def test_check_of_a_bad_config_repeats_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever a secret stands by mistake, `check` refuses the config and shows none of it."""
    for variable, value in ENVIRON.items():
        monkeypatch.setenv(variable, value)
    file = write(tmp_path, BAD[name])
    codes = [
        cli.main(["check", f"--config.file={file}", "--log.level=debug", *more])
        for more in ([], ["--online"])
    ]

    assert [2, 2] == codes
    said = capsys.readouterr()
    assert "config.yaml" in said.err
    assert [] == leaks(said.out, said.err)


def test_check_of_a_good_config_masks_everything(tmp_path: Path) -> None:
    """Inline secrets, keys and variables are masked in what `check` prints."""
    write(tmp_path, working(1, 2).replace('"secret_env": "SECRET"', f'"secret": {json.dumps(SECRET)}', 1))
    with exporting(tmp_path, "check", "--log.level=debug", environ=ENVIRON) as program:
        assert 0 == program.process.wait(10)

    assert "**********" in program.said()
    assert [] == leaks(program.said(), program.err.read_text())


# ------------------------------------------------------------------------------------------ the whole program


def hearing(work: Callable[[Server, int], None], *replies: Reply, hasty: bool = False) -> None:
    """Do the work beside a server that gives these replies in turn, and a port that is closed."""

    async def play() -> None:
        async with Server(*replies, hasty=hasty) as server:
            await asyncio.to_thread(work, server, closed)

    with closed_port() as closed:
        asyncio.run(play())


def pages(port: int) -> list[str]:
    return [seen(ask(port, path)) for path in PATHS]


def seen(answer: Answer) -> str:
    return f"{answer.status} {dict(answer.headers)}\n{answer.text}"


def reasons(port: int) -> set[Reason]:
    """Return the reasons that have been counted."""
    counted = [series for series, value in samples(port).items() if value and "reason=" in series]
    return {reason for reason in Reason for series in counted if f'reason="{reason.value}"' in series}


def reloads(program: Program, port: int, text: str, directory: Path) -> str:
    """Reload this config over HTTP and by SIGHUP; return what the first answers."""
    write(directory, text)
    answer = ask(port, "/-/reload", "POST")
    said = program.err.read_text().count("reload_failed")
    program.process.send_signal(signal.SIGHUP)
    until(lambda: program.err.read_text().count("reload_failed") > said)
    return seen(answer)


@pytest.mark.parametrize(
    ("form", "environ", "end"),
    [
        ("json", {}, signal.SIGTERM),
        ("console", {"PYTHONDEVMODE": "1", "PYTHONASYNCIODEBUG": "1"}, signal.SIGABRT),
    ],
    ids=["json", "console"],
)
def test_the_daemon_tells_nothing(
    tmp_path: Path, form: str, environ: Mapping[str, str], end: signal.Signals
) -> None:
    """No fault of the API and no bad reload brings a canary into the log, a page or an answer to a reload.

    Not at debug level, nor in Python's own debug mode, nor in the last words of an abort.
    """
    shown: list[str] = []
    programs: list[Program] = []

    def work(server: Server, _closed: int) -> None:
        config = working(server.port, 12)
        write(tmp_path, config)
        flags = ("--log.level=debug", f"--log.format={form}", "--web.enable-lifecycle")
        with running(tmp_path, *flags, environ={**ENVIRON, **environ}) as (program, port):
            programs.append(program)
            assert until(lambda: len(server.heads) >= len(REPLIES), 30)
            shown.extend(pages(port))
            assert until(lambda: reasons(port) >= {*Reason} - UNPLAYED)
            shown.extend(reloads(program, port, text, tmp_path) for text in BAD.values())
            shown.extend(pages(port))
            write(tmp_path, config)
            assert 200 == ask(port, "/-/reload", "POST").status
            code, _ = program.end(end)
            assert code in {0, -signal.SIGABRT}

    hearing(work, *REPLIES)
    written = programs[0].err.read_text()

    assert 2 * len(BAD) == written.count("reload_failed")
    assert ("Fatal Python error" in written) == (end is signal.SIGABRT)
    assert [] == leaks(written, programs[0].said(), *shown)


def test_check_online_tells_nothing(tmp_path: Path) -> None:
    """`check --online` against an API with every fault prints the reasons and no canary."""
    sites = len(REPLIES) // 3 + 1
    programs: list[Program] = []

    def work(server: Server, _closed: int) -> None:
        write(tmp_path, working(server.port, sites))
        with exporting(tmp_path, "check", "--online", "--log.level=debug", environ=ENVIRON) as program:
            assert 1 == program.process.wait(30)
            programs.append(program)
        assert len(server.heads) >= len(REPLIES)

    hearing(work, *REPLIES)
    said = programs[0].err.read_text()

    assert 3 * sites == said.count("failed: s")
    assert [] == leaks(programs[0].said(), said)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{closed}", "https://127.0.0.1:{port}", "http://no.invalid"]
)
def test_an_api_out_of_reach_tells_nothing(tmp_path: Path, url: str) -> None:
    """Refused connections, failed handshakes and names without address put no canary into any output."""
    programs: list[Program] = []

    def work(server: Server, closed: int) -> None:
        address = url.format(closed=closed, port=server.port)
        write(tmp_path, working(server.port, 1, url=address, allow_insecure=True, timeout="5s"))
        with exporting(tmp_path, "check", "--online", "--log.level=debug", environ=ENVIRON) as program:
            assert 1 == program.process.wait(30)
            programs.append(program)

    hearing(work, reply(b"", 400), hasty=True)
    said = programs[0].err.read_text()

    assert 3 == said.count("failed: s0")
    assert [] == leaks(programs[0].said(), said)


@pytest.mark.parametrize("proxy", PROXIES)
@pytest.mark.parametrize("scheme", ["http", pytest.param("https", marks=pytest.mark.slow)])
def test_the_password_of_a_proxy_is_not_told(tmp_path: Path, proxy: str, scheme: str) -> None:
    """Whatever is wrong with the proxy of the environment, neither its password nor the secret is shown."""
    programs: list[Program] = []

    def work(server: Server, closed: int) -> None:
        address = PROXIES[proxy].format(password=PASSWORD, closed=closed, port=server.port)
        write(tmp_path, working(server.port, 1, url=f"{scheme}://127.0.0.1:{closed}", proxy="environment"))
        environ = {**ENVIRON, f"{scheme.upper()}_PROXY": address, f"{scheme}_proxy": address}
        for arguments in (("check", "--online"), ("run", "--web.listen-address=127.0.0.1:0")):
            with exporting(tmp_path, *arguments, "--log.level=debug", environ=environ) as program:
                until(lambda: ended_or_failed(program))
                programs.append(program)

    hearing(work, reply(TOKEN.encode(), 407, f"Proxy-Authenticate: Basic realm={TOKEN}"))
    said = [text for program in programs for text in (program.said(), program.err.read_text())]

    assert "fail" in said[1] or "HTTP proxy" in said[1]
    assert "poll_failed" in said[3] or "HTTP proxy" in said[3]
    assert [] == leaks(*said)


def ended_or_failed(program: Program) -> bool:
    return program.process.poll() is not None or program.err.read_text().count("poll_failed") >= 3


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "NO_PROXY"])
def test_the_environment_is_not_told(tmp_path: Path, variable: str) -> None:
    """What other variables hold is not repeated when it cannot be used."""
    write(tmp_path, working(1, 1, proxy="environment"))
    environ = {**ENVIRON, variable: f"[{PASSWORD}", "HTTPS_PROXY": "http://127.0.0.1:1"}
    with exporting(tmp_path, "check", "--online", "--log.level=debug", environ=environ) as program:
        assert program.process.wait(10) in {1, 2}

    assert [] == leaks(program.said(), program.err.read_text())


# --------------------------------------------------------------------------------------------------- crashes


def chained(text: str) -> Exception:
    """Return an exception that tells the text in every way one can."""
    error = RuntimeError(f"GET {text}")
    error.__cause__ = ValueError(text)
    error.__context__ = KeyError(text)
    error.add_note(text)
    return ExceptionGroup(text, [error])


class Unsayable(Exception):
    """Cannot be shown but by its repr, which tells too much."""

    def __str__(self) -> str:
        raise RuntimeError(SECRET)

    def __repr__(self) -> str:
        return f"Unsayable({SECRET})"


CRASHES: dict[str, Callable[[str], BaseException]] = {
    "plain": RuntimeError,
    "a key": KeyError,
    "chained": chained,
    "unsayable": lambda _: Unsayable(SECRET),
    "cancelled": asyncio.CancelledError,
}


class Crashing(httpx.AsyncBaseTransport):
    """A network that ends in an exception with the URL, and so the secret."""

    def __init__(self, made: Callable[[str], BaseException]) -> None:
        self._made = made

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise self._made(f"{request.url} {SECRET} {KEY}")


@pytest.mark.usefixtures("_logging_as_it_was")
@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("crash", CRASHES)
def test_a_crash_in_a_poller_tells_nothing(crash: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log says that and where a loop crashed, not with what words; pages and problems hold none of it."""
    written = io.StringIO()
    log.setup("debug", form, written)
    for variable, value in ENVIRON.items():
        monkeypatch.setenv(variable, value)
    document = json.loads(working(1, 2))
    config = parsed(**{**document, "sites": [{"name": "a", "secret": SECRET}], "users": {}})
    shown: list[str] = []

    async def play() -> None:
        clock = VirtualTime()
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        application = App(lambda: config, Options(()), clock.clock, Crashing(CRASHES[crash]))
        await application.start()
        await clock.run(300)
        shown.extend([(await fetch(application.web, path)).text for path in PATHS])
        await application.close()

    asyncio.run(play())
    gc.collect()

    assert "loop_crashed" in written.getvalue()
    assert "cryptoloot_exporter_loop_restarts_total 0" not in shown[0]
    assert [] == leaks(written.getvalue(), *shown)


@pytest.mark.usefixtures("_logging_as_it_was")
@pytest.mark.parametrize("form", ["json", "console"])
def test_a_task_nobody_waits_for_tells_nothing(form: str) -> None:
    """The event loop's own complaint about a lost exception comes into the log, without the secrets in it."""
    written = io.StringIO()
    log.setup("debug", form, written)
    log.conceal([SECRET, KEY, TOKEN])

    async def fail() -> None:
        raise chained(f"{SECRET} {KEY}")

    async def play() -> None:
        task = asyncio.create_task(fail())
        await asyncio.wait([task])
        del task
        gc.collect()

    asyncio.run(play())

    assert "Task exception was never retrieved" in written.getvalue()
    assert [] == leaks(written.getvalue())


CRASHING = """
import os, sys
from exporter import app, cli

async def run(self, announce=None):
    await self.start()
    secret, key = os.environ["SECRET"], os.environ["KEY"]
    MESSAGE

app.App.run = run
sys.exit(cli.main(["run", "--log.level=debug", "--log.format=FORM"]))
"""


def crashed(directory: Path, message: str, form: str) -> tuple[int, str]:
    """Run the program so that App.run raises; return the exit code and all that was written."""
    write(directory, working(1, 1))
    code = CRASHING.replace("MESSAGE", message).replace("FORM", form)
    environ = {**ENVIRON, "PYTHONFAULTHANDLER": "1"}
    with started(directory, sys.executable, "-c", code, environ=environ) as program:
        ended = program.process.wait(10)
        return ended, program.said() + program.err.read_text()


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_has_no_locals(tmp_path: Path, form: str) -> None:
    """When App.run raises what nobody expected, the program ends with 1, and what it says has no values."""
    code, said = crashed(tmp_path, "raise RuntimeError('no way out')", form)

    assert 1 == code
    assert "no way out" in said
    assert [] == leaks(said)


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize(
    "message",
    [
        "raise RuntimeError(f'GET http://127.0.0.1/?secret={secret}')",
        "raise RuntimeError(f'{key!r} {secret!r}') from KeyError(secret)",
        "raise ExceptionGroup(secret, [ValueError(key)])",
    ],
    ids=["URL", "chain", "group"],
)
def test_a_traceback_hides_secrets(tmp_path: Path, form: str, message: str) -> None:
    """When the exception itself holds a secret, the program ends with 1 and still does not tell it."""
    code, said = crashed(tmp_path, message, form)

    assert 1 == code
    assert re.search("RuntimeError|ExceptionGroup", said)
    assert [] == leaks(said)
