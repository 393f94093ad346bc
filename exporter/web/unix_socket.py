"""The health socket: a Unix socket that answers whether the process is healthy, without authentication."""

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from exporter.web.listening import AddressError

TIMEOUT = 1.0  # seconds for connecting, and again for the answer
HEALTHY = b"ok\n"
FLAG = "--web.health-socket"
ADVICE = "choose a path in a directory that exists and where the exporter may write"


@asynccontextmanager
async def serve_health(path: Path, problems: Callable[[], list[str]]) -> AsyncIterator[None]:
    """Answer every connection to a Unix socket with `ok` or with the problems, and close it.

    The socket has mode 0600; a stale one is replaced, and it is removed at the end. Raises AddressError if
    anything else is at the path, or the path cannot be used.
    """

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = problems()
        writer.write("\n".join([*lines[:20], ""]).encode() if lines else HEALTHY)
        writer.close()

    mask = os.umask(0o177)  # the socket has this mode from the start, not after a chmod
    try:
        _remove_stale(path)
        server = await asyncio.start_unix_server(answer, path)
    except OSError as error:
        problem = f"cannot listen on {path}: {error.strerror or error}"
        raise AddressError(f"{FLAG}: {problem}: {ADVICE}") from None
    finally:
        os.umask(mask)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)  # noqa: ASYNC240 - it does not wait


def _remove_stale(path: Path) -> None:
    """Remove a socket that nobody listens on. Raises AddressError if anything else is there, and OSError."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise AddressError(f"{FLAG}: {path} exists and is not a socket: remove it, or choose another path")
    try:
        _ask(path)
    except (ConnectionRefusedError, FileNotFoundError):
        path.unlink(missing_ok=True)
        return
    except OSError:
        pass  # a process listens, however slowly
    raise AddressError(f"{FLAG}: another process listens on {path}: stop it, or choose another path")


def ask_health(path: Path) -> str | None:
    """Ask the process behind a health socket; return its problems, None if it is healthy."""
    try:
        answer = _ask(path)
    except OSError as error:
        why, same = error.strerror or error, f"does the exporter run, with the same {FLAG}?"
        return f"{FLAG}: no answer from {path}: {why}: {same}"
    return None if answer == HEALTHY else answer.decode("utf-8", "replace").strip() or "no answer"


def _ask(path: Path) -> bytes:
    """Return what a health socket answers. Raises OSError."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(TIMEOUT)
        client.connect(str(path))
        return client.recv(65536)
