"""The web configuration file: TLS, users and headers, in the format of Prometheus' exporter-toolkit.

`load` reads it, and every file it names, once, and reports every problem at once. What it returns holds the
PEM itself, so equal `Tls` means an equal listener, and `context` reads no file. Whatever the toolkit takes
and Python's ssl cannot do is refused by name: a key that is silently ignored would be a hole.

No problem and no note repeats a hash, a PEM, a path of the file system or text that may be one of them by
mistake, for `/-/reload` answers with problems.

The file is longer than others because it is one format: its keys, what may stand together, and what each
means to ssl.
"""

from __future__ import annotations

import contextlib
import difflib
import ipaddress
import os
import re
import ssl
import stat
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

from msgspec import UNSET, Meta, UnsetType

from exporter.config import ConfigError, schema
from exporter.config import values as leaves
from exporter.config.problems import Problem
from exporter.config.problems import Problems as Findings
from exporter.config.schema import Section, defaults
from exporter.config.secret import CONTROL, SURROGATE, Secret, exposed
from exporter.config.yamlfile import load_yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LARGEST = 1 << 20  # bytes of one file: no chain of certificates comes near
SLOW = 14  # the bcrypt cost from which one check takes about a second

_BCRYPT = re.compile(r"\$2[abxy]\$(0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}", re.ASCII)
_TLS = "tls_server_config"
_USERS = "basic_auth_users"
_HEADERS = "http_server_config.headers"

# Go's names of the suites it calls secure, to OpenSSL's.
SUITES = {
    f"TLS_ECDHE_{key}_WITH_{name}": f"ECDHE-{key}-{ours}"
    for key in ("ECDSA", "RSA")
    for name, ours in {
        "AES_128_GCM_SHA256": "AES128-GCM-SHA256",
        "AES_256_GCM_SHA384": "AES256-GCM-SHA384",
        "CHACHA20_POLY1305_SHA256": "CHACHA20-POLY1305",
        "AES_128_CBC_SHA": "AES128-SHA",
        "AES_256_CBC_SHA": "AES256-SHA",
    }.items()
}
_SUITES_13 = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
_HTTP2_SUITES = {SUITES[f"TLS_ECDHE_{key}_WITH_AES_128_GCM_SHA256"] for key in ("ECDSA", "RSA")}
_VERSIONS = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}
_POLICIES = {
    "NoClientCert": ssl.CERT_NONE,
    "RequestClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
# A header and the values it may have; none named is any.
_ALLOWED_HEADERS: dict[str, tuple[str, ...]] = {
    "Content-Security-Policy": (),
    "Strict-Transport-Security": (),
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": (),
}


def _policy(value: object) -> str:
    if value in ("RequireAnyClientCert", "RequireClientCert"):
        raise ValueError(
            "Python's ssl cannot ask for a certificate without verifying it: use RequireAndVerifyClientCert "
            "with a client_ca_file"
        )
    if not isinstance(value, str) or value not in _POLICIES:
        raise ValueError(f"expected one of {', '.join(_POLICIES)}")
    return value


def _suite(value: object) -> str:
    if value in _SUITES_13:
        raise ValueError("Python's ssl cannot choose among the suites of TLS 1.3: remove it, all are offered")
    if not isinstance(value, str) or value not in SUITES:
        near = difflib.get_close_matches(str(value), SUITES, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"not one of Go's secure suites for TLS 1.2{hint}")
    return _offered(SUITES[value])


def _offered(name: str) -> str:
    try:
        _bare().set_ciphers(name)
    except ssl.SSLError:
        raise ValueError("the OpenSSL of this Python does not offer it: remove it") from None
    return name


def _no_curves(_value: object) -> NoReturn:
    raise ValueError("Python's ssl cannot choose among curves: remove it, OpenSSL's own choice is used")


def _no_rate_limit(_value: object) -> NoReturn:
    raise ValueError("the exporter limits no rates: remove it; pages are made beforehand, and bcrypt queues")


def _mapping(value: object) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise ValueError("expected a mapping")  # noqa: TRY004 - one kind of fault for schema
    return value


_Version = Literal["TLS10", "TLS11", "TLS12", "TLS13"]
_Mapping = Annotated[dict[str, str], Meta(extra={"read": _mapping})]


class TlsSection(Section):
    """Certificate, client certificates, versions and ciphers."""

    cert: leaves.Text | UnsetType = UNSET
    cert_file: leaves.Text | UnsetType = UNSET
    key: leaves.Text | UnsetType = UNSET
    key_file: leaves.Text | UnsetType = UNSET
    client_ca: leaves.Text | UnsetType = UNSET
    client_ca_file: leaves.Text | UnsetType = UNSET
    client_auth_type: Annotated[str, Meta(extra={"read": _policy})] | UnsetType = UNSET
    client_allowed_sans: (
        Annotated[list[leaves.Text], Meta(min_length=1, description="no certificate could match")] | UnsetType
    ) = UNSET
    min_version: _Version = "TLS12"
    max_version: _Version = "TLS13"
    cipher_suites: list[Annotated[str, Meta(extra={"read": _suite})]] | UnsetType = UNSET
    prefer_server_cipher_suites: bool = True
    curve_preferences: Annotated[Any, Meta(extra={"read": _no_curves})] | UnsetType = UNSET


class HttpSection(Section):
    """HTTP/2, which nobody gets, and headers of every answer."""

    http2: bool = True
    headers: _Mapping | UnsetType = UNSET


class WebFile(Section):
    """The web configuration file."""

    tls_server_config: TlsSection | UnsetType = UNSET
    http_server_config: HttpSection | UnsetType = UNSET
    basic_auth_users: _Mapping | UnsetType = UNSET
    rate_limit: Annotated[Any, Meta(extra={"read": _no_rate_limit})] | UnsetType = UNSET


_ENABLING = ("cert", "cert_file", "key", "key_file", "client_ca", "client_ca_file", "client_auth_type")

# What tells one state of a file from another, None where there is none. The change time is there because a
# chmod, which can mend or break a file, moves nothing else.
Stamp = tuple[int, int, int, int]
Users = Mapping[str, Secret]  # user to bcrypt hash


@dataclass(frozen=True)
class Tls:
    """How the listener speaks TLS; holds the PEM, not the files. No `client_ca`: the system's, as in Go."""

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
    """The file as we use it; equal ones mean the same, wherever they were read.

    `users` is user to bcrypt hash, empty without authentication. `headers` are ready for ASGI. `notes` say
    what is accepted but not what it seems, or unwise. `files` are those the file names, each once; `stamps`
    is what `stamps(path, config)` returns as long as neither they nor the file itself have changed.
    """

    tls: Tls | None
    users: Users
    headers: tuple[tuple[bytes, bytes], ...]
    notes: tuple[str, ...] = field(compare=False)
    files: tuple[Path, ...] = field(compare=False)
    stamps: tuple[Stamp | None, ...] = field(compare=False)


class BadWebConfig(ConfigError):
    """A web configuration that cannot be used; `files` and `stamps` are as in WebConfig, for another try."""

    def __init__(self, problems: Iterable[Problem], looked: Mapping[Path, Stamp | None]) -> None:
        super().__init__(problems)
        self.files = tuple(looked)[1:]
        self.stamps = tuple(looked.values())


def load(path: Path) -> WebConfig:
    """Read the file and every file it names, relative ones from its own directory.

    Raises BadWebConfig, a ConfigError, with every problem.
    """
    found, files = Findings({"": path.name}), _Files(path)
    try:
        data = files.read(path)
    except ValueError as error:
        found.add("", str(error))
        given = UNSET
    else:
        given = schema.read(load_yaml(data, found), WebFile, "", found)
    if given is UNSET:
        raise BadWebConfig(found.reported, files.looked)
    http = given.get("http_server_config", {})
    if "http2" in http:
        found.warn("http_server_config.http2", "has no effect: the exporter speaks HTTP/1.1 alone")
    tls = _tls(given.get(_TLS, {}), http.get("http2", True), files, found)
    users = _users(given.get(_USERS, {}), tls, found)
    if not users and _USERS in given:
        found.warn(_USERS, "names nobody: everybody is let in")
    headers = _headers(http.get("headers", {}), found)
    if found.reported:
        raise BadWebConfig(found.reported, files.looked)
    stamps = tuple(files.looked.values())
    return WebConfig(
        tls, MappingProxyType(users), headers, tuple(found.warnings), tuple(files.looked)[1:], stamps
    )


def tls_on(config: WebConfig) -> bool:
    """Whether the listener speaks TLS."""
    return config.tls is not None


def stamps(path: Path, read: WebConfig | BadWebConfig) -> tuple[Stamp | None, ...]:
    """Look at the file and at every file it named; equal to `read.stamps`, nothing needs to be read again."""
    return tuple(_stamp_now(file) for file in (path, *read.files))


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size


def _stamp_now(file: Path) -> Stamp | None:
    try:
        return _stamp(file.stat())
    except (OSError, ValueError):  # a path that holds a NUL is the latter
        return None


class _Files:
    """Reads the files of one load, and notes the stamp of each, the first time, as of what was read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.looked: dict[Path, Stamp | None] = {}
        self.exposed: set[Path] = set()  # those that others than the owner can reach

    def named(self, text: str) -> Path:
        return self.path.parent / text

    def read(self, file: Path) -> bytes:
        """Return a regular file's content. Raises ValueError, which repeats neither path nor content."""
        stamp = _stamp_now(file)
        try:
            # A pipe in the file's place must not block the event loop for ever.
            handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
            try:
                status = os.fstat(handle)
                stamp = _stamp(status)
                data = _content(handle) if stat.S_ISREG(status.st_mode) else None
            finally:
                os.close(handle)
        except OSError as error:
            problem = f"cannot be read: {error.strerror}"
        except ValueError:
            problem = "cannot be read: its path holds characters no path can have"
        else:
            if exposed(status):
                self.exposed.add(file)
            if data is not None and len(data) <= LARGEST:
                return data
            problem = "is not a regular file" if data is None else f"is larger than {LARGEST} bytes"
        finally:
            self.looked.setdefault(file, stamp)
        raise ValueError(problem)  # out here: the exceptions above hold the path


def _content(handle: int) -> bytes:
    with open(handle, "rb", closefd=False) as opened:
        return opened.read(LARGEST + 1)


def _users(given: dict[Any, Any], tls: Tls | None, found: Findings) -> dict[str, Secret]:
    users, costs = {}, set()
    for index, (user, value) in enumerate(given.items()):
        path = _entry(_USERS, user, index, found)
        hashed = _BCRYPT.fullmatch(value) if isinstance(value, str) else None
        if not isinstance(user, str):
            found.add(path, "a user name is text: put it in quotes")
        elif ":" in user or CONTROL.search(user) or SURROGATE.search(user):
            found.add(path, "a name with a colon or control characters can never log in: use another")
        elif hashed is not None:
            users[user] = Secret(hashed[0])
            costs.add(int(hashed[1]))
        elif value is not UNSET:
            found.add(path, "expected a bcrypt hash such as `htpasswd -nBC 10 NAME` prints after the colon")
    if costs and tls is None:
        found.warn(_USERS, "without TLS, passwords cross the network as plain text")
    if len(costs) > 1:
        said = ", ".join(map(str, sorted(costs)))
        found.warn(
            _USERS, f"costs differ ({said}): the time of an answer can tell that a user exists; use one"
        )
    if costs and max(costs) >= SLOW:
        found.warn(_USERS, f"cost {max(costs)}: a check takes a second or more, and others wait for it")
    return users


def _entry(section: str, key: object, index: int, found: Findings) -> str:
    """Return the path of a mapping's entry: by its number where the key is not fit to be shown."""
    path = f"{section}.{key}"
    return path if path in found.lines else f"{section}[{index}]"


def _headers(given: dict[Any, Any], found: Findings) -> tuple[tuple[bytes, bytes], ...]:
    headers = []
    for index, (name, value) in enumerate(given.items()):
        path = _entry(_HEADERS, name, index, found)
        # YAML reads `X-XSS-Protection: 1` as a number; nothing given is as the empty text.
        text = str(value) if type(value) is int else "" if value is None else value
        if not isinstance(name, str) or name not in _ALLOWED_HEADERS:
            found.add(path, f"cannot be configured; known here: {', '.join(_ALLOWED_HEADERS)}")
        elif value is not UNSET and not (isinstance(text, str) and re.fullmatch(r"[\x20-\x7e]*", text)):
            found.add(path, "expected text of printable ASCII characters; put it in quotes")
        elif value is not UNSET and _ALLOWED_HEADERS[name] and text not in _ALLOWED_HEADERS[name]:
            found.add(path, f"expected {' or '.join(_ALLOWED_HEADERS[name])}")
        elif value is not UNSET and text.strip():
            headers.append((name.lower().encode(), text.strip().encode()))
    return tuple(headers)


def _tls(given: dict[str, Any], http2: bool, files: _Files, found: Findings) -> Tls | None:
    _check_versions(given, found)
    _check_ciphers(given, http2, found)
    _check_policy(given, found)
    if not any(key in given or found.has(f"{_TLS}.{key}") for key in _ENABLING):
        if given:
            found.warn(_TLS, "without cert_file and key_file TLS is off")
        return None
    cert, key, client_ca = (_pem(name, given, files, found) for name in ("cert", "key", "client_ca"))
    values = defaults(TlsSection) | given
    for name, pem in (("cert", cert), ("key", key)):
        if pem is None and not _touched(name, found):
            found.add(_TLS, f"{name}_file or {name} is missing: TLS takes both a certificate and its key")
    if cert is None or key is None:
        return None
    fault = _pair_fault(cert, key)
    if fault is not None:
        found.add(_place(fault[0], given), fault[1])
    if found.reported:
        return None
    return Tls(
        cert=cert,
        key=Secret(key.decode("latin-1")),
        client_ca=client_ca,
        verify=_POLICIES[given.get("client_auth_type", "NoClientCert")],
        allowed_sans=frozenset(_plain_ip(san) for san in given.get("client_allowed_sans", ())),
        minimum=_VERSIONS[values["min_version"]],
        maximum=_VERSIONS[values["max_version"]],
        ciphers=tuple(given.get("cipher_suites", ())),
        prefer_server=values["prefer_server_cipher_suites"],
    )


def _touched(name: str, found: Findings) -> bool:
    return any(found.has(f"{_TLS}.{key}") for key in (name, f"{name}_file"))


def _place(name: str, given: dict[str, Any]) -> str:
    return f"{_TLS}.{name if name in given else f'{name}_file'}"


def _pem(name: str, given: dict[str, Any], files: _Files, found: Findings) -> bytes | None:
    """Return what NAME or NAME_file gives; what is wrong with it is found, not raised."""
    inline, named = given.get(name), given.get(f"{name}_file")
    place = _place(name, given)
    if inline is not None and named is not None:
        found.add(f"{_TLS}.{name}_file", f"{name} is given too: keep one of them")
        return None
    if named is not None:
        try:
            pem = files.read(files.named(named))
        except ValueError as error:
            moved = "" if Path(named).is_absolute() else " (sought from the web config file's directory)"
            found.add(place, f"the file named here {error}{moved}")
            return None
    elif inline is not None:
        pem = inline.encode()
    else:
        return None
    if name == "key" and files.exposed & ({files.named(named)} if named else {files.path}):
        found.warn(place, "others than the owner can reach the file with the key: chmod 600 would stop them")
    if name != "key" and not _trusts(_bare(), pem):
        found.add(place, "holds no certificate that OpenSSL can read: PEM is expected")
        return None
    return pem


def _check_versions(given: dict[str, Any], found: Findings) -> None:
    values = defaults(TlsSection) | given
    if values["min_version"] > values["max_version"]:
        end = "max_version" if "max_version" in given else "min_version"
        said = f"min_version {values['min_version']} is above max_version {values['max_version']}"
        found.add(f"{_TLS}.{end}", f"{said}: no client could connect")
    for key in ("min_version", "max_version"):
        if given.get(key) in ("TLS10", "TLS11") and _refuses_old(ssl.OPENSSL_VERSION_INFO):
            found.add(f"{_TLS}.{key}", f"OpenSSL refuses {given[key]} here: use TLS12 or TLS13")


def _refuses_old(version: tuple[int, ...]) -> bool:
    """Whether TLS 1.0 and 1.1 fail in the handshake: their SHA-1 is too weak for this level of security."""
    return _bare().security_level >= (1 if version >= (3,) else 3)


def _check_ciphers(given: dict[str, Any], http2: bool, found: Findings) -> None:
    suites = {suite for suite in given.get("cipher_suites", ()) if suite is not UNSET}
    old = given.get("min_version") != "TLS13"
    if suites and old and http2 and not suites & _HTTP2_SUITES and not found.has(f"{_TLS}.cipher_suites"):
        found.add(
            f"{_TLS}.cipher_suites",
            "has no AES_128_GCM_SHA256 suite, which HTTP/2 demands, so other exporters refuse this: add one, "
            "or set http_server_config.http2: false",
        )
    if suites and not old:
        found.warn(f"{_TLS}.cipher_suites", "has no effect with min_version: TLS13")
    if "prefer_server_cipher_suites" in given:
        said = "holds up to TLS 1.2: the suites of TLS 1.3 and their order are OpenSSL's"
        found.warn(f"{_TLS}.prefer_server_cipher_suites", said)


def _check_policy(given: dict[str, Any], found: Findings) -> None:
    policy, place = given.get("client_auth_type", "NoClientCert"), f"{_TLS}.client_auth_type"
    if found.has(place):
        return
    ca = next((key for key in ("client_ca", "client_ca_file") if key in given), None)
    if policy == "RequestClientCert":
        said = "is taken as NoClientCert: Python's ssl cannot ask for a certificate without verifying it"
        found.warn(place, said)
    elif ca is not None and policy == "NoClientCert":
        found.add(f"{_TLS}.{ca}", "has no effect without client_auth_type: RequireAndVerifyClientCert")
    if _POLICIES[policy] is ssl.CERT_NONE:
        if "client_allowed_sans" in given:
            said = "has no effect unless client_auth_type is one that verifies: RequireAndVerifyClientCert"
            found.add(f"{_TLS}.client_allowed_sans", said)
    elif ca is None and not _touched("client_ca", found):
        said = "without client_ca_file, a certificate of any CA that this system trusts lets a client in"
        found.warn(place, said)


# What OpenSSL says against a pair, and of which of the two.
_FAULTS = {
    "KEY_VALUES_MISMATCH": ("key", "does not belong to the certificate"),
    "KEY_TYPE_MISMATCH": ("key", "does not belong to the certificate"),
    "NO_CERTIFICATE_ASSIGNED": ("key", "does not belong to the certificate: they are of two kinds"),
    "EE_KEY_TOO_SMALL": ("cert", "OpenSSL refuses its key as too small"),
    "CA_KEY_TOO_SMALL": ("cert", "OpenSSL refuses a key of its chain as too small"),
    "CA_MD_TOO_WEAK": ("cert", "OpenSSL refuses a signature of its chain as too weak"),
}


def _pair_fault(cert: bytes, key: bytes) -> tuple[str, str] | None:
    """Return which of the two is at fault, and how, or None where they are a pair."""
    try:
        _load_pair(_bare(), cert, key)
    except ssl.SSLError as error:
        unread = ("key", "holds no private key that OpenSSL can read: PEM is expected")
        return _FAULTS.get(error.reason or "", unread)
    except OSError as error:
        return "key", f"cannot be loaded: {error.strerror}"
    except ValueError as error:
        return "key", str(error)
    return None


def _load_pair(context: ssl.SSLContext, cert: bytes, key: bytes) -> None:
    with _pem_file(cert) as cert_path, _pem_file(key) as key_path:
        # Without a function OpenSSL would ask on the terminal, and wait.
        context.load_cert_chain(cert_path, key_path, password=_no_passphrase)


def _no_passphrase() -> NoReturn:
    raise ValueError("is protected by a passphrase, which nobody can type: give it without one")


def _trusts(context: ssl.SSLContext, pem: bytes) -> bool:
    """Trust the certificates of a PEM; false where there is none or one is broken."""
    try:
        # Whatever is not ASCII is a comment between the certificates.
        context.load_verify_locations(cadata=pem.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError):
        return False
    return True


@contextlib.contextmanager
def _memory_file(data: bytes) -> Iterator[str]:
    """Give data a path, as ssl wants it, that leads to memory alone and ends with the context."""
    with open(os.memfd_create("pem"), "wb") as file:  # noqa: PTH123 - a descriptor has no Path
        file.write(data)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


@contextlib.contextmanager
def _temporary_file(data: bytes) -> Iterator[str]:
    """Give data a path that its owner alone can read, and that ends with the context."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        yield file.name


_pem_file = _memory_file if Path("/proc/self/fd").is_dir() else _temporary_file


def _bare() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def context(tls: Tls) -> ssl.SSLContext:
    """Return the server's context. Raises OSError where the system is out of file descriptors."""
    made = _bare()
    made.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    if not tls.prefer_server:
        made.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    made.set_alpn_protocols(["http/1.1"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # whoever configures TLS 1.1 knows
        made.minimum_version = tls.minimum
        made.maximum_version = tls.maximum
    if tls.ciphers:
        made.set_ciphers(":".join(tls.ciphers))
    made.verify_mode = tls.verify
    # Go trusts whatever the CA file holds, an intermediate without its root too.
    made.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if tls.client_ca is not None:
        _trusts(made, tls.client_ca)
    elif tls.verify is not ssl.CERT_NONE:
        made.load_default_certs(ssl.Purpose.CLIENT_AUTH)
    _load_pair(made, tls.cert, tls.key.reveal().encode("latin-1"))
    return made


def san_allowed(peer_cert: Mapping[str, Any] | None, tls: Tls) -> bool:
    """Whether a client may go on, judged by its verified certificate as `getpeercert()` gives it.

    With `client_allowed_sans`, a client without a certificate may not, under VerifyClientCertIfGiven too: the
    toolkit cuts its connection.
    """
    if not tls.allowed_sans:
        return True
    names = (peer_cert or {}).get("subjectAltName", ())
    kinds = {"DNS", "email", "URI", "IP Address"}
    return any(kind in kinds and _plain_ip(name) in tls.allowed_sans for kind, name in names)


def _plain_ip(text: str) -> str:
    """Return the one spelling of an IP address, and any other text as it is."""
    try:
        address = ipaddress.ip_address(text.strip())
    except ValueError:
        return text
    return str(getattr(address, "ipv4_mapped", None) or address)
