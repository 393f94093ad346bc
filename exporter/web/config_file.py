"""The web configuration file: TLS, users and headers, in the format of Prometheus' exporter-toolkit.

The file is longer than others because it is one format: its keys, which of them go together, and what each
means to ssl.

`load` reads the file, and every file that it names, once, and reports every problem at once. The result holds
the PEM itself, so equal `Tls` means an equal listener, and `context` reads no file. Whatever the toolkit
accepts and Python's ssl cannot do is rejected by name: a key that is silently ignored would be a security
hole.

No problem and no note repeats a hash, a PEM, a path of the file system or text that may be one of them by
mistake, because `/-/reload` answers with problems.
"""

import contextlib
import difflib
import ipaddress
import os
import re
import ssl
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from msgspec import UNSET, Meta, UnsetType

from exporter.config import ConfigError, schema
from exporter.config.problems import Problem, Problems
from exporter.config.secret import CONTROL, SURROGATE, Secret, exposed, read_regular
from exporter.config.values import Text
from exporter.config.yamlfile import load_yaml

MAX_BYTES = 1 << 20  # of one file: no chain of certificates comes near
SLOW_COST = 14  # the bcrypt cost from which one check takes about a second

_BCRYPT = re.compile(r"\$2[abxy]\$(0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}", re.ASCII)
_TLS = "tls_server_config"
_USERS = "basic_auth_users"
_HEADERS = "http_server_config.headers"

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
_POLICIES = {
    "NoClientCert": ssl.CERT_NONE,
    "RequestClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
# What the toolkit can do and this exporter cannot.
_NO_UNVERIFIED = "Python's ssl cannot ask for a certificate without verifying it"
_NO_CURVES = "Python's ssl cannot choose among curves: remove it, OpenSSL's own choice is used"
_NO_RATE_LIMIT = "the exporter limits no rates: remove it; pages are made beforehand, and bcrypt queues"
# The headers and their allowed values; an empty tuple allows any value.
_ALLOWED_HEADERS: dict[str, tuple[str, ...]] = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}


def read_policy(value: object) -> str:
    """Return a policy for client certificates. Raises ValueError."""
    if value in ("RequireAnyClientCert", "RequireClientCert"):
        raise ValueError(f"{_NO_UNVERIFIED}: use RequireAndVerifyClientCert with a client_ca_file")
    if not isinstance(value, str) or value not in _POLICIES:
        raise ValueError(f"expected one of {', '.join(_POLICIES)}")
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


def _rejected(reason: str) -> Meta:
    """Mark a key that the toolkit accepts and this exporter cannot honour."""

    def reject(_value: object) -> NoReturn:
        raise ValueError(reason)

    return Meta(extra={"read": reject})


def _mapping(value: object) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise ValueError("expected a mapping")  # noqa: TRY004 - schema reports ValueError alone
    return value


_Version = Literal["TLS10", "TLS11", "TLS12", "TLS13"]
_Mapping = Annotated[dict[str, str], Meta(extra={"read": _mapping})]
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
    curve_preferences: Annotated[Any, _rejected(_NO_CURVES)] | UnsetType = UNSET


class HttpSection(schema.Section):
    """HTTP/2, which the exporter does not speak, and the headers of every response."""

    http2: bool = True
    headers: _Mapping | UnsetType = UNSET


class WebFile(schema.Section):
    """The web configuration file."""

    tls_server_config: TlsSection | UnsetType = UNSET
    http_server_config: HttpSection | UnsetType = UNSET
    basic_auth_users: _Mapping | UnsetType = UNSET
    rate_limit: Annotated[Any, _rejected(_NO_RATE_LIMIT)] | UnsetType = UNSET


# Each of these keys switches TLS on.
_ENABLING = {"cert", "cert_file", "key", "key_file", "client_ca", "client_ca_file", "client_auth_type"}

# What identifies the state of each file; None is a missing file. The change time is part of it because chmod,
# which can repair or break a file, changes nothing else.
Stamps = Mapping[Path, tuple[int, ...] | None]
Users = Mapping[str, Secret]  # user to bcrypt hash


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


@dataclass(frozen=True)
class WebConfig:
    """The file as the program uses it. Equal ones mean the same, whichever file they come from.

    `users` maps users to bcrypt hashes and is empty without authentication. `headers` are ready for ASGI.
    Each of `notes` names a setting that is accepted but unwise, or has another effect than it seems.
    `stamps` has the file and every file that it names, each as it was when it was read.
    """

    tls: Tls | None
    users: Users
    headers: tuple[tuple[bytes, bytes], ...]
    notes: tuple[str, ...] = field(compare=False)
    stamps: Stamps = field(compare=False)


class BadWebConfig(ConfigError):
    """A web configuration that cannot be used. `stamps` is as in WebConfig, for another try."""

    def __init__(self, problems: Iterable[Problem], stamps: Stamps) -> None:
        super().__init__(problems)
        self.stamps = stamps


def load(path: Path) -> WebConfig:
    """Read the file and every file that it names. Relative names start at the file's own directory.

    Raises BadWebConfig, a ConfigError, with every problem.
    """
    loader, values = _Loader(path), UNSET
    problems = loader.problems
    try:
        values = schema.read(load_yaml(loader.read(path), problems), WebFile, "", problems)
    except ValueError as error:
        problems.add("", str(error))
    document: dict[str, Any] = values or {}
    http = document.get("http_server_config", {})
    if "http2" in http:
        problems.warn("http_server_config.http2", "has no effect: the exporter speaks HTTP/1.1 alone")
    tls = loader.tls(document.get(_TLS, {}), http.get("http2", True))
    users = read_users(document.get(_USERS, {}), tls, problems)
    if not users and _USERS in document:
        problems.warn(_USERS, "names nobody: everybody is let in")
    headers = read_headers(http.get("headers", {}), problems)
    if problems.reported:
        raise BadWebConfig(problems.reported, loader.stamps)
    return WebConfig(tls, users, headers, tuple(problems.warnings), loader.stamps)


def current_stamps(config: WebConfig | BadWebConfig) -> Stamps:
    """Look at the files of a configuration. If equal to `config.stamps`, nothing has changed."""
    return {file: _stamp(file) for file in config.stamps}


def _stamp(file: Path) -> tuple[int, ...] | None:
    try:
        status = file.stat()
    except (OSError, ValueError):  # ValueError: the path holds a NUL
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size


class _Loader:
    """One load: reads files, collects problems and notes, and records the stamp of each file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems = Problems({"": path.name})
        self.stamps: dict[Path, tuple[int, ...] | None] = {}
        self.exposed: dict[Path, bool] = {}  # whether others than the owner can reach a file

    def read(self, file: Path) -> bytes:
        """Return a regular file's content. Raises ValueError, which repeats neither path nor content."""
        # The stamp comes first: a file replaced in between is read once too often, never once too few.
        self.stamps.setdefault(file, _stamp(file))
        data, status = read_regular(file, MAX_BYTES)
        self.exposed[file] = exposed(status)
        if len(data) > MAX_BYTES:
            raise ValueError(f"is larger than {MAX_BYTES} bytes")
        return data

    def tls(self, values: dict[str, Any], http2: bool) -> Tls | None:
        problems, settings = self.problems, schema.defaults(TlsSection) | values
        # A key with a fault is in the file, but not among the values.
        keys = {key for key in schema.fields(TlsSection) if key in values or problems.has(f"{_TLS}.{key}")}
        check_protocol(values, http2, problems)
        check_policy(values, keys, problems)
        if not keys & _ENABLING:
            if values:
                problems.warn(_TLS, "without cert_file and key_file TLS is off")
            return None
        cert, key, client_ca = (self.pem(name, values) for name in ("cert", "key", "client_ca"))
        for name in ("cert", "key"):
            if not keys & {name, f"{name}_file"}:
                message = f"{name}_file or {name} is missing: TLS takes both a certificate and its key"
                problems.add(_TLS, message)
        if cert is None or key is None:
            return None
        fault = pair_fault(cert, key)
        if fault is not None:
            problems.add(_place(fault[0], values), fault[1])
        if problems.reported:
            return None
        return Tls(
            cert=cert,
            key=Secret(key.decode("latin-1")),
            client_ca=client_ca,
            verify=_POLICIES[settings["client_auth_type"]],
            allowed_sans=frozenset(_plain_ip(san) for san in values.get("client_allowed_sans", ())),
            minimum=ssl.TLSVersion[_VERSIONS[settings["min_version"]]],
            maximum=ssl.TLSVersion[_VERSIONS[settings["max_version"]]],
            ciphers=tuple(values.get("cipher_suites", ())),
            prefer_server=settings["prefer_server_cipher_suites"],
        )

    def pem(self, name: str, values: dict[str, Any]) -> bytes | None:
        """Return the PEM of `name` or `name`_file; None if neither is set or there is a problem."""
        problems, place = self.problems, _place(name, values)
        inline, file_name = values.get(name, ""), values.get(f"{name}_file", "")
        if inline and file_name:
            problems.add(f"{_TLS}.{name}_file", f"{name} is given too: keep one of them")
        if bool(inline) == bool(file_name):
            return None
        file = self.path if inline else self.path.parent / file_name
        try:
            pem: bytes = inline.encode() or self.read(file)
        except ValueError as error:
            hint = "" if Path(file_name).is_absolute() else " (sought from the web config file's directory)"
            problems.add(place, f"the file named here {error}{hint}")
            return None
        if name != "key" and not _trust(_server_context(), pem):
            problems.add(place, "holds no certificate that OpenSSL can read: PEM is expected")
            return None
        if name == "key" and self.exposed[file]:
            message = "others than the owner can reach the file with the key: chmod 600 would stop them"
            problems.warn(place, message)
        return pem


def _place(name: str, values: dict[str, Any]) -> str:
    """Return the path of `name` or `name`_file, whichever is set."""
    return f"{_TLS}.{name if name in values else f'{name}_file'}"


def check_protocol(values: dict[str, Any], http2: bool, problems: Problems) -> None:
    """Check versions and cipher suites."""
    settings = schema.defaults(TlsSection) | values
    low, high = settings["min_version"], settings["max_version"]
    if low > high:
        key = "max_version" if "max_version" in values else "min_version"
        message = f"min_version {low} is above max_version {high}: no client could connect"
        problems.add(f"{_TLS}.{key}", message)
    for key in ("min_version", "max_version"):
        if settings[key] in ("TLS10", "TLS11") and refuses_old(ssl.OPENSSL_VERSION_INFO):
            problems.add(f"{_TLS}.{key}", f"OpenSSL refuses {settings[key]} here: use TLS12 or TLS13")
    path, suites = f"{_TLS}.cipher_suites", set(values.get("cipher_suites", ())) - {UNSET}
    if suites and low == "TLS13":
        problems.warn(path, "has no effect with min_version: TLS13")
    elif suites and http2 and not suites & _HTTP2_SUITES and not problems.has(path):
        message = "has no AES_128_GCM_SHA256 suite, which HTTP/2 demands, so other exporters refuse this: "
        problems.add(path, f"{message}add one, or set http_server_config.http2: false")
    if "prefer_server_cipher_suites" in values:
        message = "holds up to TLS 1.2: the suites of TLS 1.3 and their order are OpenSSL's"
        problems.warn(f"{_TLS}.prefer_server_cipher_suites", message)


def check_policy(values: dict[str, Any], keys: set[str], problems: Problems) -> None:
    """Check what the policy for client certificates needs, and what it makes useless."""
    policy, path = values.get("client_auth_type", "NoClientCert"), f"{_TLS}.client_auth_type"
    if problems.has(path):
        return
    ca, verifies = _place("client_ca", values), _POLICIES[policy] is not ssl.CERT_NONE
    if policy == "RequestClientCert":
        problems.warn(path, f"is taken as NoClientCert: {_NO_UNVERIFIED}")
    elif policy == "NoClientCert" and values.keys() & {"client_ca", "client_ca_file"}:
        problems.add(ca, "has no effect without client_auth_type: RequireAndVerifyClientCert")
    if "client_allowed_sans" in values and not verifies:
        message = "has no effect unless client_auth_type is one that verifies: RequireAndVerifyClientCert"
        problems.add(f"{_TLS}.client_allowed_sans", message)
    if verifies and not keys & {"client_ca", "client_ca_file"}:
        message = "without client_ca_file, a certificate of any CA that this system trusts lets a client in"
        problems.warn(path, message)


def read_users(values: dict[Any, Any], tls: Tls | None, problems: Problems) -> dict[str, Secret]:
    """Return the users with their hashes."""
    users, costs = {}, set()
    for index, (user, value) in enumerate(values.items()):
        path = _entry(_USERS, user, index, problems)
        bcrypt = _BCRYPT.fullmatch(value) if isinstance(value, str) else None
        if not isinstance(user, str):
            problems.add(path, "a user name is text: put it in quotes")
        elif ":" in user or CONTROL.search(user) or SURROGATE.search(user):
            problems.add(path, "a name with a colon or control characters can never log in: use another")
        elif bcrypt is not None:
            users[user] = Secret(bcrypt[0])
            costs.add(int(bcrypt[1]))
        elif value is not UNSET:
            message = "expected a bcrypt hash such as `htpasswd -nBC 10 NAME` prints after the colon"
            problems.add(path, message)
    numbers, slowest = ", ".join(map(str, sorted(costs))), max(costs, default=0)
    if costs and tls is None:
        problems.warn(_USERS, "without TLS, passwords cross the network as plain text")
    if len(costs) > 1:
        message = f"costs differ ({numbers}): the time of an answer can tell that a user exists; use one"
        problems.warn(_USERS, message)
    if slowest >= SLOW_COST:
        problems.warn(_USERS, f"cost {slowest}: a check takes a second or more, and others wait for it")
    return users


def read_headers(values: dict[Any, Any], problems: Problems) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers of every response."""
    headers = []
    for index, (name, value) in enumerate(values.items()):
        path, allowed = _entry(_HEADERS, name, index, problems), _ALLOWED_HEADERS.get(name)
        # YAML reads `X-XSS-Protection: 1` as a number. An empty value is the empty text.
        text = str(value) if type(value) is int else "" if value is None else value
        if allowed is None:
            problems.add(path, f"cannot be configured; known here: {', '.join(_ALLOWED_HEADERS)}")
        elif text is UNSET:
            continue
        elif not (isinstance(text, str) and text.isascii() and text.isprintable()):
            problems.add(path, "expected text of printable ASCII characters; put it in quotes")
        elif allowed and text not in allowed:
            problems.add(path, f"expected {' or '.join(allowed)}")
        elif text.strip():
            headers.append((name.lower().encode(), text.strip().encode()))
    return tuple(headers)


def _entry(section: str, key: object, index: int, problems: Problems) -> str:
    """Return the path of a mapping's entry, by its number if the key may be a secret."""
    path = f"{section}.{key}"
    return path if path in problems.lines else f"{section}[{index}]"


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
    """Return which of the two is at fault and why, or None if they are a pair."""
    try:
        _load_pair(_server_context(), cert, key)
    except ssl.SSLError as error:
        unreadable = ("key", "holds no private key that OpenSSL can read: PEM is expected")
        return _FAULTS.get(error.reason or "", unreadable)
    except OSError as error:
        return "key", f"cannot be loaded: {error.strerror}"
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


@contextlib.contextmanager
def pem_file(data: bytes, *, in_memory: bool = Path("/proc/self/fd").is_dir()) -> Iterator[str]:
    """Give data a path, because ssl reads paths. Only the owner can read it, and it ends with the context.

    Where the system allows it, the path leads to memory and no key is written to a disk.
    """
    with os.fdopen(os.memfd_create("pem"), "wb") if in_memory else tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}" if in_memory else file.name


def _server_context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def context(tls: Tls) -> ssl.SSLContext:
    """Return the server's context. Raises OSError if the system is out of file descriptors."""
    context = _server_context()
    context.options |= (
        ssl.OP_NO_RENEGOTIATION
    )  # beside what Python sets: no compression, our order of ciphers
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
    if not tls.allowed_sans:
        return True
    names = (peer_cert or {}).get("subjectAltName", ())
    kinds = {"DNS", "email", "URI", "IP Address"}
    return any(kind in kinds and _plain_ip(name) in tls.allowed_sans for kind, name in names)


def _plain_ip(text: str) -> str:
    """Return the canonical spelling of an IP address, and any other text unchanged."""
    try:
        address = ipaddress.ip_address(text.strip())
    except ValueError:
        return text
    return str(getattr(address, "ipv4_mapped", None) or address)
