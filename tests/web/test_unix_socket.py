from __future__ import annotations

import asyncio
import os
import socket
import stat
import threading
from typing import TYPE_CHECKING

import pytest

from exporter.web.listening import AddressError
from exporter.web.unix_socket import ask_health, serve_health

if TYPE_CHECKING:
    from pathlib import Path


def asked(path: Path, problems: list[str]) -> str | None:
    """Serve a health socket with these problems, and ask it from another thread."""

    async def play() -> str | None:
        async with serve_health(path, lambda: problems):
            return await asyncio.to_thread(ask_health, path)

    return asyncio.run(play())


def test_health_is_asked_over_a_socket(tmp_path: Path) -> None:
    """A well process answers nothing wrong; else what is wrong comes back."""
    assert asked(tmp_path / "health", []) is None
    assert asked(tmp_path / "health", ["demo /user/top"]) == "demo /user/top"


def test_the_health_socket_is_private(tmp_path: Path) -> None:
    """Its mode is 0600 from the first moment, and it is removed at the end."""
    path = tmp_path / "health"

    async def play() -> int:
        async with serve_health(path, list):
            return stat.S_IMODE(path.stat().st_mode)

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
    with pytest.raises(AddressError, match="is not a socket"):
        asked(path, [])

    assert path.read_text() == "precious"


def test_a_health_socket_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """A directory that does not exist is an error that names the path."""
    with pytest.raises(AddressError, match="nowhere"):
        asked(tmp_path / "nowhere" / "health", [])


def test_a_path_below_a_file_is_told(tmp_path: Path) -> None:
    """What is wrong with the path is said as it is: nobody else listens there."""
    (tmp_path / "file").write_text("")
    with pytest.raises(AddressError, match="Not a directory"):
        asked(tmp_path / "file" / "health", [])


@pytest.mark.parametrize("name", ["nowhere/health", "file/health", "n" * 120, "file", "directory"])
def test_a_path_that_cannot_be_used_names_its_flag(tmp_path: Path, name: str) -> None:
    """Whatever is wrong with the path, the error names the flag, the path, and what to do."""
    (tmp_path / "file").write_text("")
    (tmp_path / "directory").mkdir()
    with pytest.raises(AddressError) as caught:
        asked(tmp_path / name, [])

    text = str(caught.value)
    assert text.startswith("--web.health-socket: ")
    assert (True, True) == (str(tmp_path / name) in text, "choose " in text)
    assert (ask_health(tmp_path / name) or "").startswith("--web.health-socket: no answer from ")


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
