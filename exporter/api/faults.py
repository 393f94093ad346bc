"""What is wrong with a call, in words: what happened, at which host, and what to do.

Nothing that a server has sent is repeated, with two exceptions: an error code and the host of a redirect, if
they look like one and do not hold the secret or a parameter of the call.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx

from exporter.api import errors
from exporter.api.errors import ApiError, BadStatus, ConnectFailed, DnsFailed, Timeout, TlsFailed, Unreached
from exporter.api.route import Route

# What OpenSSL calls bytes that are no TLS.
_NO_TLS = {"WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"}
_UNKNOWN_ISSUER = {2, 18, 19, 20, 21}  # of OpenSSL's codes for a certificate that is refused
# How httpcore and h11 call a connection that ended, and an answer that is something else than HTTP. Only how
# a text begins counts: the rest may be the server's.
_NO_ANSWER = "Server disconnected without sending a response"
_ENDED = ("Server disconnected", "peer closed connection", "peer unexpectedly closed connection")
_NO_HTTP = ("illegal status line", "illegal request line")
_UNFINISHED = re.compile(r"\.(connect_tcp|start_tls)\.(started|failed)")
_TUNNEL_ADVICE = {
    403: "allow this host at the proxy, or name it in NO_PROXY",
    407: "write http://USER:PASSWORD@HOST:PORT into {setting}",
    502: "the proxy does not reach this host",
    503: "the proxy does not reach this host",
    504: "the proxy does not reach this host",
}
_WHO_ANSWERS = "correct {setting}, or look at proxies and firewalls on the way"
_HTML = re.compile(
    rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?<(!doctype\s+html|!--|html|head|body|title|meta|script|center|h[1-6]|p|div)\b",
    re.IGNORECASE,
)
HTML_BYTES = 1024  # of a body, in which a page shows that it is one
_CODE = re.compile("[a-z_]{1,40}")
_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?|[0-9a-f:.]*:[0-9a-f:.]*")
_MIN_HIDDEN = 4  # characters; a shorter secret is part of many words


@dataclass(frozen=True)
class Answer:
    """What a text about an answer needs: the way it came, and what may not be shown (`hidden`).

    `secret_source` says where the secret is from; `location` is the header of a redirect.
    """

    status: int
    body: bytes
    route: Route
    location: str = ""
    secret_source: str = ""
    hidden: Collection[str] = ()


# ----------------------------------------------------------------------------------------- without an answer


class _Peer(NamedTuple):
    """Whom a failure is about: the proxy or the server, and where an operator corrects its address."""

    name: str
    host: str
    setting: str
    ca_setting: str
    path: str  # its name, and what else lies on the way


def unreached(error: Exception, route: Route, timeout: float, events: Sequence[str] = ()) -> Unreached:
    """Return the error for what httpx or the operating system raised. Raise it outside the except block.

    `events` are those that httpcore has traced for the request: they tell how far it came.
    """
    causes, peer = list(_chain(error)), _peer(route, events)
    if any(isinstance(cause, socket.gaierror | httpx.InvalidURL | UnicodeError) for cause in causes):
        return DnsFailed(f"the host name {peer.host} of {peer.setting} cannot be resolved")
    out_of_time = isinstance(error, TimeoutError | httpx.TimeoutException)
    if out_of_time and (isinstance(error, httpx.ConnectTimeout) or _unfinished(events)):
        return Timeout(f"no connection to {peer.name} within {timeout:g} s: does a firewall drop it?")
    if out_of_time:
        return Timeout(f"no whole answer from {peer.path} within {timeout:g} s")
    for cause in causes:
        if isinstance(cause, ssl.SSLError):
            return TlsFailed(_tls_fault(cause, peer))
    if isinstance(error, httpx.ProxyError):
        return ConnectFailed(_tunnel_fault(error, route))
    no_connection = isinstance(error, httpx.ConnectError)
    fault = _no_connection(causes, peer, events) if no_connection else _broken_answer(error, peer, route)
    return ConnectFailed(fault)


def _peer(route: Route, events: Sequence[str]) -> _Peer:
    """Return the proxy where a request came no further than there. A kept connection leads to the server."""
    connected = any(event.startswith("connection.") for event in events)
    further = "proxy.start_tls.started" if route.tls else "http11.send_request_headers.complete"
    if route.proxy is not None and connected and further not in events:
        name = f"the proxy {route.proxy_name}"
        return _Peer(name, _host(route.proxy_name), route.proxy_setting, "SSL_CERT_FILE", name)
    return _Peer(route.target, _host(route.target), route.setting, route.ca_setting, str(route))


def _unfinished(events: Sequence[str]) -> str:
    """Return which step of connecting the request ended in, if any."""
    match = _UNFINISHED.search(events[-1]) if events else None
    return match[1] if match else ""


def _host(name: str) -> str:
    return name.rpartition(":")[0]


def _tls_fault(cause: ssl.SSLError, peer: _Peer) -> str:
    if isinstance(cause, ssl.SSLCertVerificationError):
        fault = f"the certificate of {peer.path} is refused: {cause.verify_message.rstrip('.')}"
        unknown = getattr(cause, "verify_code", 0) in _UNKNOWN_ISSUER  # only OpenSSL's own errors have it
        return f"{fault}: name its authority in {peer.ca_setting}" if unknown else fault
    if isinstance(cause, ssl.SSLEOFError):
        return f"{peer.path} broke off the TLS handshake: correct the port or https:// in {peer.setting}"
    if cause.reason in _NO_TLS:
        return f"{peer.path} does not speak TLS: correct the port or https:// in {peer.setting}"
    return f"the TLS handshake with {peer.path} failed: {cause.reason}"


def _tunnel_fault(error: httpx.ProxyError, route: Route) -> str:
    """Say with which status a proxy has refused a tunnel; the rest of httpx' text is the proxy's own."""
    status = re.match(r"\d{3}\b", str(error))
    refusal = f"{f'the proxy {route.proxy_name}'.rstrip()} refused the way to {route.target}"
    if status is None:
        return refusal
    refusal = f"{refusal} with HTTP status {status[0]}"
    advice = _TUNNEL_ADVICE.get(int(status[0]), "").format(setting=route.proxy_setting)
    return f"{refusal}: {advice}" if advice else refusal


def _no_connection(causes: Sequence[BaseException], peer: _Peer, events: Sequence[str]) -> str:
    if _unfinished(events) == "start_tls":
        return f"{peer.path} broke off the TLS handshake: correct the port or https:// in {peer.setting}"
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return f"{peer.name} refused the connection"
    reasons = (os.strerror(cause.errno) for cause in causes if isinstance(cause, OSError) and cause.errno)
    return ": ".join([f"no connection to {peer.name} could be made", *list(reasons)[:1]])


def _broken_answer(error: Exception, peer: _Peer, route: Route) -> str:
    """Say how an answer broke off, or that it is no HTTP."""
    broken, text = isinstance(error, httpx.RemoteProtocolError), str(error)
    if broken and text.startswith(_NO_HTTP):
        by_proxy = route.proxy is not None and not route.tls  # it is no tunnel, so the answer is the proxy's
        name = f"the proxy {route.proxy_name}" if by_proxy else peer.path
        setting = route.proxy_setting if by_proxy else peer.setting
        return f"{name} does not answer in HTTP: correct the port or http(s):// in {setting}"
    if broken and text.startswith(_NO_ANSWER):
        return f"{peer.path} closed the connection without an answer"
    if broken and not text.startswith(_ENDED):
        return f"the answer of {peer.path} is not valid HTTP"
    return f"the connection to {peer.path} broke within the answer"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and everything that caused it."""
    if error is not None:
        yield error
        yield from _chain(error.__cause__ or error.__context__)
        for cause in error.exceptions if isinstance(error, BaseExceptionGroup) else ():  # one per address
            yield from _chain(cause)


# -------------------------------------------------------------------------------------------- with an answer


def refused(code: str, expected: Collection[type[ApiError]], answer: Answer) -> ApiError:
    """Return the error for the API's own `error`; `expected` are those that the endpoint may answer."""
    for error in expected:
        if error.reason.value == code:
            advice = {
                errors.InvalidSecret: f": it does not know the secret from {answer.secret_source}",
                errors.NotFound: f": correct {answer.route.setting}",
            }
            return error(f"the API answered {code}{advice.get(error, '')}")
    shown = f" {code}," if _CODE.fullmatch(code) and not _is_hidden(code, answer) else " with"
    return errors.UnknownError(f"the API answered{shown} an error code that the reference does not have here")


def bad_status(answer: Answer) -> BadStatus:
    """Return the error for a status that is no success."""
    status, route, html = answer.status, answer.route, is_html(answer.body)
    through = "" if route.tls or not route.proxy else f" through the proxy {route.proxy_name}"  # or from it
    detail = f"HTTP status {status}{through}{' with an HTML page' if html else ''}"
    if status == httpx.codes.TOO_MANY_REQUESTS:
        return errors.RateLimited(detail)
    if httpx.codes.is_redirect(status):
        detail += _redirect_target(answer)
        return errors.Redirected(f"{detail}; redirects are not followed, since they carry the secret")
    if status == httpx.codes.PROXY_AUTHENTICATION_REQUIRED and through:
        detail += f": {_TUNNEL_ADVICE[status].format(setting=route.proxy_setting)}"
    elif status == httpx.codes.NOT_FOUND:
        detail += f": correct {route.setting}"
    elif html and httpx.codes.is_client_error(status):
        detail += f", so the API has not answered: {_WHO_ANSWERS.format(setting=route.setting)}"
    return errors.HttpStatus(detail)


def _redirect_target(answer: Answer) -> str:
    """Name where a redirect points to: another path, or a host if it may be shown."""
    try:
        parts = urlsplit(answer.location)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return ""
    if answer.location and not (parts.scheme or parts.netloc):
        return f" to another path of the same host (correct {answer.route.setting})"
    if not parts.netloc or not _HOST.fullmatch(host) or _is_hidden(host, answer):
        return ""
    scheme = f"{parts.scheme}://" if parts.scheme in {"http", "https"} else ""
    name = f"[{host}]" if ":" in host else host
    target = f"{scheme}{name}{f':{port}' if port else ''}"
    return f" to {target} (if the API is there, correct {answer.route.setting})"


def not_json(answer: Answer) -> errors.InvalidJson:
    """Return the error for a success that is an HTML page."""
    advice = _WHO_ANSWERS.format(setting=answer.route.setting)
    return errors.InvalidJson(f"the answer is an HTML page and not JSON: {advice}")


def is_html(body: bytes) -> bool:
    """Whether a body begins as an HTML page does. JSON never does."""
    return _HTML.match(body, 0, HTML_BYTES) is not None


def _is_hidden(text: str, answer: Answer) -> bool:
    hidden = [value.lower() for value in answer.hidden]
    return text in hidden or any(len(value) >= _MIN_HIDDEN and value in text for value in hidden)
