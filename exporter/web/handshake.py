"""TLS handshakes of clients that fail: why, what the client is told, and what is counted and logged.

asyncio and uvloop close such a connection without a word, and the alert that OpenSSL has written for the
client stays in a buffer. `ServerContext` raises a `HandshakeError` instead, with the reason and the bytes.
"""

import ssl
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple, Self

import structlog

logger = structlog.get_logger()

QUIET_SECONDS = 60.0  # after a line about one reason, before the next one
PLAIN_HTTP_BODY = b"Client sent an HTTP request to an HTTPS server.\n"
PLAIN_HTTP_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(PLAIN_HTTP_BODY), PLAIN_HTTP_BODY)
)


class HandshakeReason(StrEnum):
    """Why a handshake failed: the label `reason` of the metric, and what the log says about it."""

    advice: str

    def __new__(cls, value: str, advice: str) -> Self:
        """Make a reason of its name and its advice."""
        reason = str.__new__(cls, value)
        reason._value_, reason.advice = value, advice
        return reason

    NO_CERTIFICATE = (
        "no_certificate",
        "the client sent no certificate: give it one, or change client_auth_type",
    )
    BAD_CERTIFICATE = (
        "bad_certificate",
        "the client's certificate is rejected: it must be valid, and issued by client_ca_file",
    )
    NAME_NOT_ALLOWED = "name_not_allowed", "no name of the client's certificate is in client_allowed_sans"
    UNSUPPORTED_VERSION = (
        "unsupported_version",
        "the client offers no version from min_version to max_version",
    )
    NO_SHARED_CIPHER = "no_shared_cipher", "the client offers none of the allowed cipher suites"
    PLAIN_HTTP = "plain_http", "the client sent an HTTP request: give it a URL with https://"
    CLIENT_ALERT = "client_alert", "the client rejected the handshake: it may not trust the certificate"
    TIMEOUT = "timeout", "the client did not complete the handshake in time"
    CLOSED = "closed", "the client closed the connection during the handshake"
    OTHER = "other", "the client's part of the handshake cannot be used"


_BY_OPENSSL: Mapping[str, HandshakeReason] = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": HandshakeReason.NO_CERTIFICATE,
    "CERTIFICATE_VERIFY_FAILED": HandshakeReason.BAD_CERTIFICATE,
    "UNSUPPORTED_PROTOCOL": HandshakeReason.UNSUPPORTED_VERSION,
    "VERSION_TOO_LOW": HandshakeReason.UNSUPPORTED_VERSION,
    "NO_SHARED_CIPHER": HandshakeReason.NO_SHARED_CIPHER,
    "HTTP_REQUEST": HandshakeReason.PLAIN_HTTP,
    "HTTPS_PROXY_REQUEST": HandshakeReason.PLAIN_HTTP,  # CONNECT
}


class HandshakeError(ssl.SSLError):
    """A handshake that this side ended; `answer` is what the client should still be sent."""

    def __init__(
        self, why: HandshakeReason, openssl: str = "", detail: str = "", answer: bytes = b""
    ) -> None:
        super().__init__(ssl.SSL_ERROR_SSL, detail or why)
        self.why, self.reason, self.detail, self.answer = why, openssl, detail, answer


class ServerHandshake(ssl.SSLObject):
    """One connection of a `ServerContext`."""

    context: "ServerContext"
    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO

    def do_handshake(self) -> None:
        """Go on with the handshake. Raises HandshakeError when it has failed."""
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            openssl = error.reason or ""
            # OpenSSL knows four methods of HTTP. It has read five bytes; the version is in the rest.
            plain = openssl == "WRONG_VERSION_NUMBER" and b" HTTP/1." in self.incoming.read()
            alert = HandshakeReason.CLIENT_ALERT if "_ALERT_" in openssl else HandshakeReason.OTHER
            why = HandshakeReason.PLAIN_HTTP if plain else _BY_OPENSSL.get(openssl, alert)
            detail = openssl.lower().replace("_", " ")
            if isinstance(error, ssl.SSLCertVerificationError):
                detail = f"{detail}: {error.verify_message}"
            answer = PLAIN_HTTP_ANSWER if why is HandshakeReason.PLAIN_HTTP else self.outgoing.read()
            failure = HandshakeError(why, openssl, detail, answer)
        else:
            if self.context.admits(self.getpeercert()):
                return
            # Python cannot send an alert of our choice: this one gets none.
            failure = HandshakeError(HandshakeReason.NAME_NOT_ALLOWED)
        raise failure


class ServerContext(ssl.SSLContext):
    """A server's TLS context, whose failed handshakes say why.

    `admits` judges a verified client certificate, as `getpeercert()` returns it.
    """

    sslobject_class = ServerHandshake
    admits: Callable[[Mapping[str, Any] | None], bool] = staticmethod(lambda _certificate: True)

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *args: Any, **more: Any) -> Any:
        """Return the TLS side of a connection; event loops call this for each."""
        handshake: Any = super().wrap_bio(incoming, outgoing, *args, **more)
        handshake.incoming, handshake.outgoing = incoming, outgoing
        return handshake


class _Line(NamedTuple):
    """When a reason was last logged, and how often it came since then."""

    at: float
    more: int = 0


class HandshakeFailures:
    """Counts failed handshakes, and logs one a minute of each reason: other clients must not fill the log.

    `count` counts one by its reason; `now` is a monotonic clock.
    """

    def __init__(self, count: Callable[[HandshakeReason], None], now: Callable[[], float]) -> None:
        self._count, self._now = count, now
        self._lines: dict[HandshakeReason, _Line] = {}

    def __call__(self, why: HandshakeReason, peer: str, detail: str = "") -> None:
        """Note that the handshake of a client at this address failed."""
        self._count(why)
        now, line = self._now(), self._lines.get(why)
        if line and now - line.at < QUIET_SECONDS:
            self._lines[why] = line._replace(more=line.more + 1)
            return
        self._lines[why] = _Line(now)
        # A port scan, or the check of a load balancer: the operator cannot do anything about it.
        log = logger.debug if why is HandshakeReason.CLOSED else logger.warning
        log(
            "tls_handshake_failed",
            reason=why.value,
            peer=peer,
            problem=why.advice,
            detail=detail or None,
            not_logged=line.more if line else 0,
        )
