from __future__ import annotations

import asyncio
import os
import socket
import stat
import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from exporter.server import AddressError, HealthSocket, Server, address_of, ask_health, listen, parse_address

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        (("0.0.0.0", 12758), "0.0.0.0:12758"),
        (("", 80), ":80"),
        (("::1", 80), "[::1]:80"),
        (("localhost", 0), "localhost:0"),
    ],
)
def test_addresses_are_split(expected: tuple[str, int], text: str) -> None:
    """Host and port, an IPv6 address in brackets, no host for all addresses."""
    assert expected == parse_address(text)


@pytest.mark.parametrize(
    "text", ["", "12758", "localhost", "host:", "host:http", "host:65536", "::1:80", "host:-1"]
)
def test_bad_addresses_are_told(text: str) -> None:
    """What is no HOST:PORT is refused with the text and an example."""
    with pytest.raises(AddressError, match="for example"):
        parse_address(text)


def test_all_addresses_or_none() -> None:
    """When one of several addresses is taken, none stays open, and the error names it."""
    (taken,) = listen(["127.0.0.1:0"])
    with taken, pytest.raises(AddressError, match=f"cannot listen on {address_of(taken)}"):
        listen(["127.0.0.1:0", address_of(taken)])


def test_ipv6_is_served() -> None:
    """An address in brackets is listened on, and shown in brackets."""
    try:
        (listening,) = listen(["[::1]:0"])
    except AddressError as error:
        pytest.skip(f"no IPv6 here: {error}")

    with listening:
        assert address_of(listening).startswith("[::1]:")


def test_a_host_that_does_not_exist_is_told() -> None:
    """A name without address is an error about that name."""
    with pytest.raises(AddressError, match="no-such-host"):
        listen(["no-such-host.invalid:80"])


async def hello(scope: Any, _receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"hi"})


async def large(_scope: Any, _receive: Any, send: Any) -> None:
    size = 64 * 1024 * 1024
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
    await send({"type": "http.response.body", "body": bytes(size)})


def test_requests_are_answered_until_stop() -> None:
    """The server answers on its sockets, and `stop` ends it."""

    async def play() -> str:
        server, sockets = Server(hello), listen(["127.0.0.1:0"])
        serving = asyncio.create_task(server.serve(sockets))
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"http://{address_of(sockets[0])}/")
        server.stop()
        await asyncio.wait_for(serving, 2)
        return answer.text

    assert asyncio.run(play()) == "hi"


def test_a_slow_reader_does_not_hold_the_server() -> None:
    """A client that does not read its answer is given up on after a second."""

    async def play() -> float:
        server, sockets = Server(large), listen(["127.0.0.1:0"])
        serving = asyncio.create_task(server.serve(sockets))
        reader, writer = await asyncio.open_connection(*sockets[0].getsockname())
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readline()
        begun = asyncio.get_running_loop().time()
        server.stop()
        await asyncio.wait_for(serving, 5)
        writer.transport.abort()
        return asyncio.get_running_loop().time() - begun

    assert asyncio.run(play()) < 2


def asked(path: Path, problems: list[str]) -> str | None:
    """Serve a health socket with these problems, and ask it from another thread."""

    async def play() -> str | None:
        health = HealthSocket(path, lambda: problems)
        await health.start()
        try:
            return await asyncio.to_thread(ask_health, path)
        finally:
            await health.stop()

    return asyncio.run(play())


def test_health_is_asked_over_a_socket(tmp_path: Path) -> None:
    """A well process answers nothing wrong; else what is wrong comes back."""
    assert asked(tmp_path / "health", []) is None
    assert asked(tmp_path / "health", ["demo /user/top"]) == "demo /user/top"


def test_the_health_socket_is_private(tmp_path: Path) -> None:
    """Its mode is 0600 from the first moment, and it is removed at the end."""
    path = tmp_path / "health"

    async def play() -> int:
        health = HealthSocket(path, list)
        await health.start()
        mode = stat.S_IMODE(path.stat().st_mode)
        await health.stop()
        return mode

    assert asyncio.run(play()) == 0o600
    assert not path.exists()


def test_a_stale_health_socket_is_replaced(tmp_path: Path) -> None:
    """A socket that nobody listens on any more is in nobody's way."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "health"))

    assert asked(tmp_path / "health", []) is None


def test_a_live_health_socket_is_left_alone(tmp_path: Path) -> None:
    """A socket that somebody listens on is an error, and stays."""
    path = tmp_path / "health"
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(path))
        live.listen()
        with pytest.raises(AddressError, match="another process"):
            asked(path, [])

    assert path.exists()


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    """What is no socket is never removed."""
    path = tmp_path / "health"
    path.write_text("precious")
    with pytest.raises(AddressError, match="no socket"):
        asked(path, [])

    assert path.read_text() == "precious"


def test_a_health_socket_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """A directory that does not exist is an error that names the path."""
    with pytest.raises(AddressError, match="nowhere"):
        asked(tmp_path / "nowhere" / "health", [])


def test_nobody_there_is_not_healthy(tmp_path: Path) -> None:
    """Asking where nothing listens says so."""
    assert "no answer" in (ask_health(tmp_path / "health") or "")


def test_a_process_that_hangs_is_not_healthy(tmp_path: Path) -> None:
    """A process that accepts and never answers is given up on within two seconds."""
    path = tmp_path / "health"
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(str(path))
        hanging.listen()
        answers: list[str | None] = []
        asking = threading.Thread(target=lambda: answers.append(ask_health(path)))
        asking.start()
        asking.join(2)

    assert not asking.is_alive()
    assert "no answer" in (answers[0] or "")


def test_a_process_that_hangs_up_is_not_healthy(tmp_path: Path) -> None:
    """An empty answer is no good one."""
    path = tmp_path / "health"
    with socket.socket(socket.AF_UNIX) as rude:
        rude.bind(str(path))
        rude.listen()
        answers: list[str | None] = []
        asking = threading.Thread(target=lambda: answers.append(ask_health(path)))
        asking.start()
        rude.accept()[0].close()
        asking.join(2)

    assert answers == ["no answer"]


def test_the_umask_is_restored(tmp_path: Path) -> None:
    """Making the socket private does not change what other files get."""
    before = os.umask(0o022)
    asked(tmp_path / "health", [])

    assert os.umask(before) == 0o022
