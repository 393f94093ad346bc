"""What scenes share: their register, configs, and the APIs behind the sites."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from tests.golden import program
from tests.golden.program import World
from tests.golden.stage import Stage, ask

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator

    from tests.golden.scripted import Script
    from tests.golden.stage import Call, Reply, Time

    Scene = Callable[[], Coroutine[Any, Any, str]]

URL = "http://127.0.0.1:1/prefix"
PREFIX = "/prefix"
SCENES: dict[str, Scene] = {}


def scene(played: Scene) -> Scene:
    """Register a scene under its name."""
    SCENES[played.__name__.replace("_", "-")] = played
    return played


def config(*names: str, **sections: Any) -> dict[str, Any]:
    """Return a config of these sites; a site's own keys are given as `SITE={...}`."""
    sites = [
        {"name": name, "secret_env": f"SECRET_{name.replace('-', '_')}", **sections.pop(name, {})}
        for name in names
    ]
    return {"api": {"url": URL, **sections.pop("api", {})}, "sites": sites, **sections}


def served(call: Call) -> Call:
    """Return a call as a server behind the prefix of the URL gets it."""
    return call._replace(path=call.path.removeprefix(PREFIX))


def scripted(script: Script) -> Callable[[Time], Callable[[Call], Awaitable[Reply]]]:
    def api(time: Time) -> Callable[[Call], Awaitable[Reply]]:
        answer = script(time)
        return lambda call: answer(served(call))

    return api


class Simulated:
    """The simulator behind a stage: sites with secrets as `secret-of-SITE`, made when time is known."""

    def __init__(self, *names: str, **options: Any) -> None:
        self._names = names
        self._options = {"users": 6, **options}
        self.world: World

    def __call__(self, time: Time) -> Callable[[Call], Awaitable[Reply]]:
        """Return the API."""
        self.world = World(seed=3, clock=lambda: time.wall, sleep=asyncio.sleep)
        for name in self._names:
            self.world.add(name, f"secret-of-{name}", **self._options)
        api = program.simulated(self.world)
        return lambda call: ask(api, served(call))


async def started(document: dict[str, Any], api: Any, **options: Any) -> Stage:
    """Return a stage whose daemon polls."""
    found = Stage(document, api, **options)
    await found.app.start()
    return found


@contextlib.contextmanager
def elsewhere(environ: dict[str, str] | None = None) -> Iterator[None]:
    """Work in an empty directory, with these environment variables and no others."""
    with (
        tempfile.TemporaryDirectory() as directory,
        contextlib.chdir(directory),
        patch.dict(os.environ, environ or {}, clear=True),
    ):
        yield


def write(name: str, text: str | None, mode: int = 0o600) -> None:
    """Write a file in the working directory, or remove it where there is no text."""
    file = Path(name)
    if text is None:
        file.unlink()
        return
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")
    file.chmod(mode)
