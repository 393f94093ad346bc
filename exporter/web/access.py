"""The web configuration in force: who may connect, who may ask, what answers carry; changed while running."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, NamedTuple

from exporter.config import ConfigError
from exporter.config.problems import Problem
from exporter.web import config_file as webconfig
from exporter.web.auth import Authenticator, Verdict
from exporter.web.config_file import BadWebConfig, WebConfig

if TYPE_CHECKING:
    import asyncio
    from pathlib import Path

    from exporter.web.server import Server

OPEN = WebConfig(tls=None, users={}, headers=(), notes=(), files=(), stamps=())


class Staged(NamedTuple):
    """A web configuration that was read and built, and not yet taken."""

    config: WebConfig
    context: ssl.SSLContext | None


class Guard:
    """Judges connections and requests by the web config file; without one, everybody may.

    `key` is random, and what verified headers are remembered under.
    """

    def __init__(self, path: Path | None, key: bytes) -> None:
        self._path = path
        self._config = OPEN
        self._looked: WebConfig | BadWebConfig = OPEN
        self._authenticator = Authenticator({}, key=key)

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """What every answer carries."""
        return self._config.headers

    @property
    def scheme(self) -> str:
        """`https` or `http`."""
        return "https" if webconfig.tls_on(self._config) else "http"

    @property
    def restricts(self) -> bool:
        """Whether a stranger is kept out: by passwords, or by certificates."""
        tls = self._config.tls
        return bool(self._config.users) or (tls is not None and tls.verify is ssl.CERT_REQUIRED)

    def read(self) -> Staged:
        """Read the file and build what it asks for. Raises ConfigError; nothing has changed yet."""
        if self._path is None:
            return Staged(OPEN, None)
        try:
            found = webconfig.load(self._path)
        except BadWebConfig as error:
            self._looked = error
            raise
        try:
            return Staged(found, webconfig.context(found.tls) if found.tls else None)
        except OSError as error:
            problem = Problem("tls_server_config", f"cannot be used: {error.strerror}")
        raise ConfigError([problem])

    def reread(self) -> Staged:
        """Read the file again for a server that runs. Raises ConfigError."""
        staged = self.read()
        if webconfig.tls_on(staged.config) == webconfig.tls_on(self._config):
            return staged
        self._looked = staged.config
        switched = "on" if webconfig.tls_on(staged.config) else "off"
        raise ConfigError([Problem("tls_server_config", f"TLS is switched {switched}: that takes a restart")])

    def take(self, staged: Staged) -> None:
        """Judge by this configuration from now on."""
        self._config = self._looked = staged.config
        self._authenticator.update(staged.config.users)

    async def renew(self, staged: Staged, server: Server) -> None:
        """Take a configuration while the server runs; another TLS takes new listeners. Raises ConfigError."""
        old, new = self._config.tls, staged.config.tls
        if staged.context is not None and old and new and old != new:
            rules = [(tls.verify, tls.client_ca, tls.allowed_sans) for tls in (old, new)]
            try:
                await server.renew(staged.context, anew=rules[0] != rules[1])
            except OSError as error:
                problem = Problem("tls_server_config", f"no new listener can be made: {error.strerror}")
                raise ConfigError([problem]) from None
        self.take(staged)

    def changed(self) -> bool:
        """Whether the file, or one that it names, is another than when it was last read."""
        return self._path is not None and webconfig.stamps(self._path, self._looked) != self._looked.stamps

    def notes(self) -> tuple[str, ...]:
        """Return what is accepted but not what it seems, or unwise."""
        return self._config.notes

    def admits(self, transport: asyncio.Transport, /) -> bool:
        """Whether a connection's client certificate has an allowed name."""
        tls = self._config.tls
        if tls is None or not tls.allowed_sans:
            return True
        certificate: Any = transport.get_extra_info("peercert")
        return webconfig.san_allowed(certificate, tls)

    def known(self, authorization: bytes | None) -> Verdict | None:
        """Judge a request where that takes no check of a password."""
        return self._authenticator.known(authorization) if self._config.users else Verdict.ALLOWED

    async def verdict(self, authorization: bytes | None) -> Verdict:
        """Judge a request by its Authorization header."""
        return await self._authenticator.verdict(authorization) if self._config.users else Verdict.ALLOWED

    def close(self) -> None:
        """End the checks."""
        self._authenticator.close()
