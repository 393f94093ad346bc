"""TLS: its section of the web configuration file, the checks of that section, and the server's SSL context.

`Tls` holds the PEM itself, so equal `Tls` means an equal listener, and `tls_context` reads no file.

Whatever the toolkit accepts and Python's ssl cannot do is rejected by name: a key that is silently ignored
would be a security hole.
"""

import contextlib
import difflib
import ipaddress
import os
import ssl
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from msgspec import UNSET, Meta, UnsetType

from exporter.config import schema
from exporter.config.problems import Problems
from exporter.config.secret import Lack, Secret
from exporter.config.values import Text
from exporter.web.handshake import ServerContext

TLS_CONFIG = "tls_server_config"

# The cipher suites that Go calls secure, with their names in OpenSSL.
SUITES = {
    f"TLS_ECDHE_{key}_WITH_{name}": f"ECDHE-{key}-{openssl_name}"
    for key in ("ECDSA", "RSA")
    for name, openssl_name in {
        "AES_128_GCM_SHA256": "AES128-GCM-SHA256",
        "AES_256_GCM_SHA384": "AES256-GCM-SHA384",
        "CHACHA20_POLY1305_SHA256": "CHACHA20-POLY1305",
        "AES_128_CBC_SHA": "AES128-SHA",
        "AES_256_CBC_SHA": "AES256-SHA",
    }.items()
}
_SUITES_13 = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
_HTTP2_SUITES = {SUITES[f"TLS_ECDHE_{key}_WITH_AES_128_GCM_SHA256"] for key in ("ECDSA", "RSA")}
# Go's names of the versions, with Python's.
_VERSIONS = {"TLS10": "TLSv1", "TLS11": "TLSv1_1", "TLS12": "TLSv1_2", "TLS13": "TLSv1_3"}
POLICIES = {
    "NoClientCert": ssl.CERT_NONE,
    "RequestClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
_NO_UNVERIFIED = "Python's ssl cannot ask for a certificate without verifying it"
_NO_CURVES = "Python's ssl cannot choose among curves: remove it, OpenSSL's own choice is used"
# Each of these keys switches TLS on.
_ENABLING = {"cert", "cert_file", "key", "key_file", "client_ca", "client_ca_file", "client_auth_type"}


def read_policy(value: object) -> str:
    """Return a policy for client certificates. Raises ValueError."""
    if value in ("RequireAnyClientCert", "RequireClientCert"):
        raise ValueError(f"{_NO_UNVERIFIED}: use RequireAndVerifyClientCert with a client_ca_file")
    if not isinstance(value, str) or value not in POLICIES:
        raise ValueError(f"expected one of {', '.join(POLICIES)}")
    return value


def read_suite(value: object) -> str:
    """Return OpenSSL's name of a cipher suite. Raises ValueError."""
    if value in _SUITES_13:
        raise ValueError("Python's ssl cannot choose among the suites of TLS 1.3: remove it, all are offered")
    if not isinstance(value, str) or value not in SUITES:
        near = difflib.get_close_matches(str(value), SUITES, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"not one of Go's secure suites for TLS 1.2{hint}")
    try:
        _server_context().set_ciphers(SUITES[value])
    except ssl.SSLError:
        raise ValueError("the OpenSSL of this Python does not offer it: remove it") from None
    return SUITES[value]


_Version = Literal["TLS10", "TLS11", "TLS12", "TLS13"]
_Sans = Annotated[list[Text], Meta(min_length=1, description="no certificate could match")]


class TlsSection(schema.Section):
    """Certificate, client certificates, versions and ciphers."""

    cert: Text | UnsetType = UNSET
    cert_file: Text | UnsetType = UNSET
    key: Text | UnsetType = UNSET
    key_file: Text | UnsetType = UNSET
    client_ca: Text | UnsetType = UNSET
    client_ca_file: Text | UnsetType = UNSET
    client_auth_type: Annotated[str, Meta(extra={"read": read_policy})] = "NoClientCert"
    client_allowed_sans: _Sans | UnsetType = UNSET
    min_version: _Version = "TLS12"
    max_version: _Version = "TLS13"
    cipher_suites: list[Annotated[str, Meta(extra={"read": read_suite})]] | UnsetType = UNSET
    prefer_server_cipher_suites: bool = True
    curve_preferences: Annotated[Any, schema.rejected(_NO_CURVES)] | UnsetType = UNSET


@dataclass(frozen=True)
class Tls:
    """How the listener speaks TLS. It holds the PEM, not the files.

    Without `client_ca`, client certificates are verified by the system's CAs, as in Go.
    """

    cert: bytes = field(repr=False)
    key: Secret
    client_ca: bytes | None = field(repr=False)
    verify: ssl.VerifyMode
    allowed_sans: frozenset[str]
    minimum: ssl.TLSVersion
    maximum: ssl.TLSVersion
    ciphers: tuple[str, ...]
    prefer_server: bool


def read_tls(
    values: dict[str, Any], http2: bool, pem: Callable[[str], bytes | None], problems: Problems
) -> Tls | None:
    """Check the section and return what it says; None if TLS is off or there is a problem.

    `pem` returns the PEM of `cert`, `key` or `client_ca`, or None after it has reported why there is none.
    Raises Lack.
    """
    settings = schema.defaults(TlsSection) | values
    # A key with a fault is in the file, but not among the values.
    keys = {key for key in schema.fields(TlsSection) if key in values or problems.has(f"{TLS_CONFIG}.{key}")}
    check_protocol(values, http2, problems)
    check_policy(values, keys, problems)
    if not keys & _ENABLING:
        return None
    cert, key, client_ca = (pem(name) for name in ("cert", "key", "client_ca"))
    for name in ("cert", "key"):
        if not keys & {name, f"{name}_file"}:
            message = f"{name}_file or {name} is missing: TLS takes both a certificate and its key"
            problems.add(TLS_CONFIG, message)
    if cert is None or key is None:
        return None
    if fault := pair_fault(cert, key):
        problems.add(setting_path(fault[0], values), fault[1])
    if problems.reported:
        return None
    return Tls(
        cert=cert,
        key=Secret(key.decode("latin-1")),
        client_ca=client_ca,
        verify=POLICIES[settings["client_auth_type"]],
        allowed_sans=frozenset(plain_ip(san) for san in values.get("client_allowed_sans", ())),
        minimum=ssl.TLSVersion[_VERSIONS[settings["min_version"]]],
        maximum=ssl.TLSVersion[_VERSIONS[settings["max_version"]]],
        ciphers=tuple(values.get("cipher_suites", ())),
        prefer_server=settings["prefer_server_cipher_suites"],
    )


def absent_in_tls(key: object, value: object) -> bool:
    """Whether a key of the section is taken as if it were not there: it is empty.

    An empty `client_allowed_sans` is not: whoever writes it wants to let in few clients, not all of them.
    """
    if key == "client_allowed_sans":
        return False
    return value is None or (value == "" and key in _ENABLING) or (value == [] and key == "curve_preferences")


def setting_path(name: str, values: dict[str, Any]) -> str:
    """Return the key path of `name` or `name`_file, whichever is set."""
    return f"{TLS_CONFIG}.{name if name in values else f'{name}_file'}"


def check_protocol(values: dict[str, Any], http2: bool, problems: Problems) -> None:
    """Check versions and cipher suites."""
    settings = schema.defaults(TlsSection) | values
    low, high = settings["min_version"], settings["max_version"]
    if low > high:
        key = "max_version" if "max_version" in values else "min_version"
        message = f"min_version {low} is above max_version {high}: no client could connect"
        problems.add(f"{TLS_CONFIG}.{key}", message)
    for key in ("min_version", "max_version"):
        if settings[key] in ("TLS10", "TLS11") and refuses_old(ssl.OPENSSL_VERSION_INFO):
            problems.add(f"{TLS_CONFIG}.{key}", f"OpenSSL refuses {settings[key]} here: use TLS12 or TLS13")
    path, suites = f"{TLS_CONFIG}.cipher_suites", set(values.get("cipher_suites", ())) - {UNSET}
    if suites and low == "TLS13":
        problems.warn(path, "has no effect with min_version: TLS13")
    elif suites and http2 and not suites & _HTTP2_SUITES and not problems.has(path):
        message = "has no AES_128_GCM_SHA256 suite, which HTTP/2 demands, so other exporters refuse this: "
        problems.add(path, f"{message}add one, or set http_server_config.http2: false")
    if "prefer_server_cipher_suites" in values:
        message = "holds up to TLS 1.2: the suites of TLS 1.3 and their order are OpenSSL's"
        problems.warn(f"{TLS_CONFIG}.prefer_server_cipher_suites", message)


def check_policy(values: dict[str, Any], keys: set[str], problems: Problems) -> None:
    """Check what the policy for client certificates needs, and what it makes useless."""
    policy, path = values.get("client_auth_type", "NoClientCert"), f"{TLS_CONFIG}.client_auth_type"
    if problems.has(path):
        return
    ca, verifies = setting_path("client_ca", values), POLICIES[policy] is not ssl.CERT_NONE
    if policy == "RequestClientCert":
        problems.warn(path, f"is taken as NoClientCert: {_NO_UNVERIFIED}")
    elif policy == "NoClientCert" and values.keys() & {"client_ca", "client_ca_file"}:
        problems.add(ca, "has no effect without client_auth_type: RequireAndVerifyClientCert")
    if "client_allowed_sans" in values and not verifies:
        message = "has no effect unless client_auth_type is one that verifies: RequireAndVerifyClientCert"
        problems.add(f"{TLS_CONFIG}.client_allowed_sans", message)
    if verifies and not keys & {"client_ca", "client_ca_file"}:
        message = "without client_ca_file, a certificate of any CA that this system trusts lets a client in"
        problems.warn(path, message)


def refuses_old(version: tuple[int, ...]) -> bool:
    """Whether TLS 1.0 and 1.1 fail in the handshake: their SHA-1 is too weak for this level of security."""
    return _server_context().security_level >= (1 if version >= (3,) else 3)


# OpenSSL's reasons against a pair, which of the two is at fault, and our message.
_FAULTS = {
    "KEY_VALUES_MISMATCH": ("key", "does not belong to the certificate"),
    "KEY_TYPE_MISMATCH": ("key", "does not belong to the certificate"),
    "NO_CERTIFICATE_ASSIGNED": ("key", "does not belong to the certificate: they are of two kinds"),
    "EE_KEY_TOO_SMALL": ("cert", "OpenSSL refuses its key as too small"),
    "CA_KEY_TOO_SMALL": ("cert", "OpenSSL refuses a key of its chain as too small"),
    "CA_MD_TOO_WEAK": ("cert", "OpenSSL refuses a signature of its chain as too weak"),
}


def pair_fault(cert: bytes, key: bytes) -> tuple[str, str] | None:
    """Return which of the two is at fault and why, or None if they are a pair. Raises Lack."""
    try:
        _load_pair(_server_context(), cert, key)
    except ssl.SSLError as error:
        unreadable = ("key", "holds no private key that OpenSSL can read: PEM is expected")
        return _FAULTS.get(error.reason or "", unreadable)
    except OSError as error:
        # The PEM was read already, so no file of the user is at fault.
        raise Lack(f"cannot be loaded: {error.strerror}") from None
    except ValueError as error:
        return "key", str(error)
    return None


def _load_pair(context: ssl.SSLContext, cert: bytes, key: bytes) -> None:
    def no_passphrase() -> NoReturn:
        raise ValueError("is protected by a passphrase, which nobody can type: give it without one")

    with pem_file(cert) as cert_path, pem_file(key) as key_path:
        # Without `password`, OpenSSL would ask on the terminal and wait.
        context.load_cert_chain(cert_path, key_path, password=no_passphrase)


def _trust(context: ssl.SSLContext, pem: bytes) -> bool:
    """Trust the certificates of a PEM. Returns False if there is none or one is broken."""
    try:
        # Text that is not ASCII is a comment between the certificates.
        context.load_verify_locations(cadata=pem.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError):
        return False
    return True


def holds_certificate(pem: bytes) -> bool:
    """Whether OpenSSL can read every certificate of a PEM, and there is one."""
    return _trust(_server_context(), pem)


@contextlib.contextmanager
def pem_file(data: bytes, *, in_memory: bool = Path("/proc/self/fd").is_dir()) -> Iterator[str]:
    """Give data a path, because ssl reads paths. Only the owner can read it, and it ends with the context.

    Where the system allows it, the path leads to memory and no key is written to a disk.
    """
    with os.fdopen(os.memfd_create("pem"), "wb") if in_memory else tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}" if in_memory else file.name


def _server_context() -> ServerContext:
    return ServerContext(ssl.PROTOCOL_TLS_SERVER)


def tls_context(tls: Tls) -> ServerContext:
    """Return the server's context. Raises OSError if the system is out of file descriptors."""
    context = _server_context()
    context.admits = partial(san_allowed, tls=tls)
    # Python itself switches compression off and prefers the server's order of ciphers.
    context.options |= ssl.OP_NO_RENEGOTIATION
    if not tls.prefer_server:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    context.minimum_version, context.maximum_version = tls.minimum, tls.maximum
    if tls.ciphers:
        context.set_ciphers(":".join(tls.ciphers))
    context.verify_mode = tls.verify
    # Go trusts every certificate in the CA file, even an intermediate without its root.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if tls.client_ca is not None:
        _trust(context, tls.client_ca)
    elif tls.verify is not ssl.CERT_NONE:
        context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
    _load_pair(context, tls.cert, tls.key.reveal().encode("latin-1"))
    return context


def san_allowed(peer_cert: Mapping[str, Any] | None, tls: Tls) -> bool:
    """Whether a client may continue, judged by its verified certificate as `getpeercert()` returns it.

    With `client_allowed_sans`, a client without a certificate may not, not even under
    VerifyClientCertIfGiven: the toolkit closes its connection.
    """
    kinds = {"DNS", "email", "URI", "IP Address"}
    names = {plain_ip(name) for kind, name in (peer_cert or {}).get("subjectAltName", ()) if kind in kinds}
    return not tls.allowed_sans or not names.isdisjoint(tls.allowed_sans)


def plain_ip(text: str) -> str:
    """Return the canonical spelling of an IP address, and any other text unchanged."""
    try:
        address = ipaddress.ip_address(text.strip())
    except ValueError:
        return text
    return str(getattr(address, "ipv4_mapped", None) or address)
