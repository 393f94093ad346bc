"""The web configuration in force: who may connect, who may ask, what every answer carries.

It is read from the file of `--web.config.file`, and can change while the exporter runs.
"""

import ssl
from pathlib import Path
from typing import NamedTuple

from exporter.config import ConfigError
from exporter.config.problems import Problem
from exporter.web.auth import Authenticator, Verdict
from exporter.web.handshake import ServerContext
from exporter.web.server import Server
from exporter.web.tls import TLS_CONFIG, tls_context
from exporter.web.web_config import BadWebConfig, WebConfig, current_stamps, load

NO_WEB_CONFIG = WebConfig(tls=None, users={}, headers=(), notes=(), stamps={})


class PreparedWebConfig(NamedTuple):
    """A web configuration that was read, with the TLS context it asks for, and is not in force yet."""

    config: WebConfig
    context: ServerContext | None


class WebAccess:
    """Judges requests by the web config file; without a file, everybody has access.

    `key` is random: verified headers are remembered under it.
    """

    def __init__(self, path: Path | None, key: bytes) -> None:
        self._path = path
        self.config = NO_WEB_CONFIG
        self._last_read: WebConfig | BadWebConfig = NO_WEB_CONFIG
        self._authenticator = Authenticator({}, key=key)

    @property
    def scheme(self) -> str:
        """`https` or `http`."""
        return "https" if self.config.tls else "http"

    @property
    def restricted(self) -> bool:
        """Whether access takes a password or a client certificate."""
        tls = self.config.tls
        return bool(self.config.users) or (tls is not None and tls.verify is ssl.CERT_REQUIRED)

    def prepare(self) -> PreparedWebConfig:
        """Read the file and make its TLS context. Raises ConfigError; changes nothing that is in force."""
        if self._path is None:
            return PreparedWebConfig(NO_WEB_CONFIG, None)
        try:
            config = load(self._path)
        except BadWebConfig as error:
            self._last_read = error
            raise
        try:
            return PreparedWebConfig(config, tls_context(config.tls) if config.tls else None)
        except OSError as error:
            raise self._tls_error(f"cannot be used: {error.strerror}") from None

    def prepare_reload(self) -> PreparedWebConfig:
        """Read the file again while a server runs: TLS stays on or off. Raises ConfigError."""
        prepared = self.prepare()
        if bool(prepared.config.tls) != bool(self.config.tls):
            self._last_read = prepared.config
            switched = "on" if prepared.config.tls else "off"
            raise self._tls_error(f"TLS is switched {switched}: that takes a restart")
        return prepared

    def apply(self, prepared: PreparedWebConfig) -> None:
        """Put a web configuration in force."""
        self.config = self._last_read = prepared.config
        self._authenticator.update(prepared.config.users)

    async def apply_to(self, server: Server, prepared: PreparedWebConfig) -> None:
        """Put a web configuration in force on a server that runs. Raises ConfigError.

        Connections end after their answer if the rules for client certificates have changed.
        """
        old, new = self.config.tls, prepared.config.tls
        if prepared.context is not None and old and new and old != new:
            rules_before, rules = [(tls.verify, tls.client_ca, tls.allowed_sans) for tls in (old, new)]
            try:
                await server.replace_tls(prepared.context, end_connections=rules_before != rules)
            except OSError as error:
                raise self._tls_error(f"no new listener can be made: {error.strerror}") from None
        self.apply(prepared)

    def changed(self) -> bool:
        """Whether the file, or one that it names, has changed since it was last read."""
        return current_stamps(self._last_read) != self._last_read.stamps

    async def verdict(self, authorization: bytes | None) -> Verdict:
        """Judge a request by its Authorization header."""
        return await self._authenticator.verdict(authorization) if self.config.users else Verdict.ALLOWED

    def close(self) -> None:
        """Start no more checks of passwords."""
        self._authenticator.close()

    def _tls_error(self, message: str) -> ConfigError:
        return ConfigError([Problem(TLS_CONFIG, message, source=str(self._path))])
