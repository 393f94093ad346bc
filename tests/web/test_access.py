from __future__ import annotations

import asyncio
import base64
import os
import resource
import ssl
from typing import TYPE_CHECKING

import bcrypt
import httpx
import pytest
from structlog.testing import capture_logs

from exporter.app import App, Options, check_files
from exporter.config import ConfigError
from exporter.config.problems import Problem
from exporter.web.access import WebAccess
from exporter.web.auth import Verdict
from tests.conftest import VirtualTime, fetch, parsed, settle
from tests.inline import InlineExecutor
from tests.web.certificates import pki

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path
    from typing import Any

    from exporter.config import Config

__all__ = ["pki"]  # the fixture

HASH = bcrypt.hashpw(b"right", bcrypt.gensalt(4)).decode()
OTHER = bcrypt.hashpw(b"other", bcrypt.gensalt(4)).decode()
USERS = f"basic_auth_users: {{prom: '{HASH}'}}\n"
TLS = "tls_server_config: {cert_file: exporter.crt, key_file: exporter.key}\n"


def basic(user: str, password: str) -> bytes:
    return b"Basic " + base64.b64encode(f"{user}:{password}".encode())


def access_by(path: Path | None) -> WebAccess:
    access = WebAccess(path, b"key")
    access.apply(access.prepare())
    return access


def verdict(access: WebAccess, authorization: bytes | None) -> Verdict:
    try:
        return asyncio.run(access.verdict(authorization))
    finally:
        access.close()


def test_without_a_file_everybody_may(tmp_path: Path) -> None:
    """No web config, and an empty one, restrict nobody."""
    empty = tmp_path / "web.yml"
    empty.write_text("")

    for path in (None, empty):
        access = access_by(path)
        assert Verdict.ALLOWED is verdict(access, None)
        assert ("http", False, ()) == (access.scheme, access.restricted, access.config.headers)


@pytest.mark.parametrize(
    ("expected", "authorization"),
    [
        (Verdict.ALLOWED, basic("prom", "right")),
        (Verdict.DENIED, basic("prom", "wrong")),
        (Verdict.DENIED, basic("eve", "right")),
        (Verdict.DENIED, None),
    ],
)
def test_users_are_asked_for_passwords(
    expected: Verdict, authorization: bytes | None, tmp_path: Path
) -> None:
    """With users in the file, only the right password is let in."""
    path = tmp_path / "web.yml"
    path.write_text(USERS)

    assert expected is verdict(access_by(path), authorization)


def test_a_change_is_seen_once(tmp_path: Path) -> None:
    """A file is changed until it is read again, also when it was refused."""
    path = tmp_path / "web.yml"
    path.write_text(USERS)
    access = access_by(path)
    assert access.changed() is False

    path.write_text("nonsense: 1\n")
    assert access.changed() is True
    with pytest.raises(ConfigError):
        access.prepare_reload()
    assert access.changed() is False
    access.close()


@pytest.mark.parametrize("left", [0, 1, 2], ids="{} files left".format)
def test_out_of_files_is_tried_again(pki: Path, left: int) -> None:
    """A certificate that was renewed while the system lacked files is taken when it has some again."""
    path = pki / "renewed.yml"
    path.write_text(TLS)
    access = access_by(path)
    renewed = TLS.replace("exporter.", "renewed.")
    path.write_text(renewed)
    free = os.open(path, os.O_RDONLY)
    os.close(free)  # the lowest number that is free
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + left, hard))
    try:
        with pytest.raises(ConfigError, match="Too many open files"):
            access.prepare_reload()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert access.changed() is True
    access.apply(access.prepare_reload())
    assert access.changed() is False
    access.close()


def test_a_refused_file_leaves_the_old_one_in_force(tmp_path: Path) -> None:
    """Reading changes nothing: what was in force stays until another is taken."""
    path = tmp_path / "web.yml"
    path.write_text(USERS)
    access = access_by(path)
    path.write_text("nonsense: 1\n")
    with pytest.raises(ConfigError, match="nonsense"):
        access.prepare_reload()

    assert access.restricted
    assert Verdict.DENIED is verdict(access, None)


@pytest.mark.parametrize(("before", "after", "switched"), [("", TLS, "on"), (TLS, "", "off")])
def test_switching_tls_takes_a_restart(pki: Path, before: str, after: str, switched: str) -> None:
    """A running listener cannot begin or cease to speak TLS; the refusal says so."""
    path = pki / "switch.yml"
    path.write_text(before)
    access = access_by(path)
    path.write_text(after)

    with pytest.raises(ConfigError, match=f"switched {switched}: that takes a restart"):
        access.prepare_reload()
    access.close()


def test_tls_makes_a_context(pki: Path) -> None:
    """A file with a certificate serves https; one that demands clients' restricts strangers."""
    path = pki / "tls.yml"
    path.write_text(TLS)
    prepared = access_by(path).prepare()
    assert prepared.context is not None
    assert ssl.CERT_NONE is prepared.context.verify_mode

    path.write_text(
        TLS.replace("}", ", client_ca_file: ca.crt, client_auth_type: RequireAndVerifyClientCert}")
    )
    access = access_by(path)
    assert ("https", True) == (access.scheme, access.restricted)
    access.close()


def test_check_reads_a_web_config(tmp_path: Path) -> None:
    """`check` finds in a web config what `run` would, and tells the same notes."""
    path = tmp_path / "web.yml"
    path.write_text("http_server_config: {http2: true}\n")

    assert () == check_files(parsed, None)[1]
    assert any("http2" in note for note in check_files(parsed, path)[1])
    path.write_text("nonsense: 1\n")
    with pytest.raises(ConfigError, match="nonsense"):
        check_files(parsed, path)


def running(
    path: Path,
    scene: Callable[[App, VirtualTime], Coroutine[Any, Any, None]],
    load: Callable[[], Config] = parsed,
) -> None:
    """Run an app on virtual time with a web config, and a scene beside it."""

    async def play() -> None:
        asyncio.get_running_loop().set_default_executor(InlineExecutor())  # files are read in a thread
        time = VirtualTime()
        transport = httpx.MockTransport(lambda request: httpx.Response(500, request=request))
        app = App(load, Options(("127.0.0.1:0",), web_config=path), time.clock, transport)
        listening = asyncio.Event()
        serving = asyncio.create_task(app.run(lambda _addresses: listening.set()))
        await listening.wait()
        await settle()
        try:
            await scene(app, time)
        finally:
            app.stop()
            await serving

    asyncio.run(play())


async def status(app: App, password: str = "") -> int:
    """Return the status of the page for the user prom with a password, or for nobody."""
    headers = {"authorization": basic("prom", password).decode()} if password else {}
    return (await fetch(app.web, "/metrics", headers)).status_code


async def last_reload(app: App, password: str) -> str:
    """Return what the page says of the last reload to the user prom."""
    page = await fetch(app.web, "/metrics", {"authorization": basic("prom", password).decode()})
    name = "cryptoloot_exporter_config_last_reload_successful "
    return next(line.removeprefix(name) for line in page.text.split("\n") if line.startswith(name))


def test_the_file_is_watched(tmp_path: Path) -> None:
    """A changed web config is taken within two seconds; a bad one keeps the old and is told."""
    path = tmp_path / "web.yml"
    path.write_text(USERS)

    async def scene(app: App, time: VirtualTime) -> None:
        path.write_text(USERS.replace(HASH, OTHER))
        await time.run(2)
        assert (200, "1.0") == (await status(app, "other"), await last_reload(app, "other"))
        path.write_text("nonsense: 1\n")
        await time.run(2)
        assert (200, "0.0") == (await status(app, "other"), await last_reload(app, "other"))
        assert 401 == await status(app)

    running(path, scene)


def test_the_watch_tells_the_same_refusal_once(tmp_path: Path) -> None:
    """What the watch tries again in vain is told when it begins, changes or returns."""
    path = tmp_path / "web.yml"
    path.write_text(USERS)
    counts = []

    async def scene(_app: App, time: VirtualTime) -> None:
        for text in ("a: 1\n", "a: 1\n", "b: 1\n", "b: 1\n", USERS, "b: 1\n"):
            path.write_text(text)
            with capture_logs() as logs:
                await time.run(2)
            counts.append(sum(entry["event"] == "web_config_refused" for entry in logs))

    running(path, scene)

    assert [1, 0, 1, 0, 0, 1] == counts


def test_a_reload_takes_the_web_config_too(tmp_path: Path) -> None:
    """A reload reads both files; where one is bad, both stay as they were."""
    path = tmp_path / "web.yml"
    path.write_text(USERS)

    async def scene(app: App, _time: VirtualTime) -> None:
        path.write_text("")
        assert await app.reload() == []
        assert 200 == (await fetch(app.web, "/metrics")).status_code
        path.write_text("nonsense: 1\n")
        assert [["web.yml", "nonsense (line 1)"]] == [text.split(": ")[:2] for text in await app.reload()]

    running(path, scene)


def test_every_path_asks_and_every_answer_has_the_headers(tmp_path: Path) -> None:
    """With users, unknown paths are 401 too; the configured headers are on that answer and on all others."""
    path = tmp_path / "web.yml"
    path.write_text(USERS + "http_server_config: {headers: {X-Frame-Options: deny}}\n")

    async def scene(app: App, _time: VirtualTime) -> None:
        transport = httpx.ASGITransport(app=app.web)
        async with httpx.AsyncClient(transport=transport, base_url="http://exporter") as client:
            for page in ("/", "/metrics", "/-/healthy", "/nothing"):
                refused = await client.get(page)
                assert (401, "deny") == (refused.status_code, refused.headers["x-frame-options"])
                assert refused.headers["www-authenticate"].startswith("Basic ")
            served = await client.get("/metrics", headers={"Authorization": basic("prom", "right").decode()})
            assert (200, "deny") == (served.status_code, served.headers["x-frame-options"])

    running(path, scene)


@pytest.mark.parametrize(
    "text",
    [
        'x: "\\U00110000"',
        "!!seq x : 1",
        f"%YAML 1.{'9' * 5000}\n---\nx: 1",
        f"http_server_config: {{headers: {{X-XSS-Protection: !!int 0x{'f' * 5000}}}}}",
        "a: &a [x, x]\n" + "a: &a [*a, *a]\n" * 30 + "? *a\n: 1\n",
    ],
)
def test_a_web_config_that_is_none_is_told_once(tmp_path: Path, text: str) -> None:
    """Whatever a web config holds, the watch refuses it once, with the file's name, and keeps the old one."""
    path = tmp_path / "web.yml"
    path.write_text(USERS)

    async def scene(app: App, time: VirtualTime) -> None:
        path.write_text(text)
        for _ in range(5):
            await time.run(2)
        assert (200, "0.0") == (await status(app, "right"), await last_reload(app, "right"))
        path.write_text(USERS)
        await time.run(2)
        assert "1.0" == await last_reload(app, "right")

    with capture_logs() as logs:
        running(path, scene)

    (refused,) = [entry for entry in logs if entry["event"] == "web_config_refused"]
    assert all(problem.startswith("web.yml") for problem in refused["problems"])


def rejected_after_the_start() -> Callable[[], Config]:
    """Return what loads a config once, and then one with a problem."""
    configs = [parsed()]

    def load() -> Config:
        if configs:
            return configs.pop()
        raise ConfigError([Problem("sites", "empty", 1, "config.yaml")])

    return load


def test_a_reload_tells_the_problems_of_both_files(tmp_path: Path) -> None:
    """With both files bad, the answer has the problems of both, each with its file."""
    path = tmp_path / "web.yml"
    path.write_text(USERS)

    async def scene(app: App, _time: VirtualTime) -> None:
        path.write_text("nonsense: 1\n")
        told = [text.split(" (line")[0] for text in await app.reload()]
        assert ["config.yaml: sites", "web.yml: nonsense"] == told

    running(path, scene, rejected_after_the_start())


def test_switching_tls_names_the_file(pki: Path) -> None:
    """Problems of TLS that concern no single line carry the file, too."""
    path = pki / "switch.yml"
    path.write_text("")
    access = access_by(path)
    path.write_text(TLS)

    with pytest.raises(ConfigError) as caught:
        access.prepare_reload()
    assert [str(path)] == [problem.source for problem in caught.value.problems]
    access.close()


def test_a_refused_reload_delays_no_web_config(tmp_path: Path) -> None:
    """A web config that came with a bad config is taken by the watch: a renewed certificate must not wait."""
    path = tmp_path / "web.yml"
    path.write_text(USERS)

    async def scene(app: App, time: VirtualTime) -> None:
        path.write_text(USERS.replace(HASH, OTHER))
        assert ["config.yaml: sites (line 1): empty"] == await app.reload()
        assert 200 == await status(app, "right")
        await time.run(2)
        assert 200 == await status(app, "other")

    running(path, scene, rejected_after_the_start())
