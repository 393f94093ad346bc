"""TLS: the checks of its section, and real handshakes in memory."""

from __future__ import annotations

import resource
import ssl
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.config import ConfigError
from exporter.config.secret import Lack, Secret
from exporter.web.handshake import HandshakeError, HandshakeReason
from exporter.web.tls import (
    SUITES,
    Tls,
    pair_fault,
    pem_file,
    plain_ip,
    refuses_old,
    san_allowed,
    tls_context,
)
from tests.web.certificates import pki
from tests.web.web_files import DATA, load, tls_of

__all__ = ["pki"]  # the fixture


def trusting(pki: Path, cert: str = "") -> ssl.SSLContext:
    """Return a client's context that trusts the test CA, with a certificate of its own if one is named."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(pki / "ca.crt")
    if cert:
        client.load_cert_chain(pki / f"{cert}.crt", pki / f"{cert}.key")
    return client


def old_client(version: ssl.TLSVersion) -> ssl.SSLContext:
    """Return a client that speaks an old version alone, and does not mind how weak it is."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    client.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        client.minimum_version = client.maximum_version = version
    return client


def handshake(tls: Tls, client: ssl.SSLContext) -> ssl.SSLObject:
    """Shake hands in memory and return the server's side. Raises what the server's side raises."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours: ssl.SSLObject = tls_context(tls).wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    for _ in range(3):
        for side in (theirs, ours):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ours


def refusal(tls: Tls, client: ssl.SSLContext) -> str:
    """Return the reason for which the server refuses a client."""
    with pytest.raises(ssl.SSLError) as caught:
        handshake(tls, client)
    return caught.value.reason


def case(pki: Path, name: str) -> Tls:
    tls = load(pki, (DATA / "same" / f"{name}.yaml").read_text()).tls
    assert tls is not None
    return tls


@pytest.mark.parametrize("name", ["web_config_noAuth.good", "web_config_noAuth_tlsInline.good"])
def test_a_tls_client_is_served(pki: Path, name: str) -> None:
    """`valid tls config yml and tls client`, from files and inline; HTTP/1.1 is what ALPN settles on."""
    client = trusting(pki)
    client.set_alpn_protocols(["h2", "http/1.1"])

    assert "http/1.1" == handshake(case(pki, name), client).selected_alpn_protocol()


def test_a_plain_client_is_refused(pki: Path) -> None:
    """`valid tls config yml and default client`: HTTP on a TLS listener fails."""
    incoming = ssl.MemoryBIO()
    incoming.write(b"GET / HTTP/1.1\r\n\r\n")
    server = tls_context(tls_of(pki)).wrap_bio(incoming, ssl.MemoryBIO(), server_side=True)

    with pytest.raises(HandshakeError) as caught:
        server.do_handshake()

    assert ("HTTP_REQUEST", HandshakeReason.PLAIN_HTTP) == (caught.value.reason, caught.value.why)


def test_a_tls11_client_is_refused(pki: Path) -> None:
    """`valid tls config yml with TLS 1.1 client`: TLS 1.2 is the least unless told otherwise."""
    assert "UNSUPPORTED_PROTOCOL" == refusal(tls_of(pki), old_client(ssl.TLSVersion.TLSv1_1))


@pytest.mark.parametrize(
    ("chosen", "name", "offered"),
    [
        ("ECDHE-RSA-AES128-GCM-SHA256", "someCiphers", ["128"]),
        ("ECDHE-RSA-AES128-GCM-SHA256", "someCiphers", ["256", "128"]),
        ("ECDHE-RSA-AES128-GCM-SHA256", "someCiphers_noOrder", ["128", "256"]),
        ("ECDHE-RSA-AES256-GCM-SHA384", "someCiphers_noOrder", ["256", "128"]),
        ("ECDHE-RSA-AES256-GCM-SHA384", "noHTTP2", ["128", "256"]),
    ],
)
def test_ciphers_are_chosen_by_whose_order_counts(
    pki: Path, chosen: str, name: str, offered: list[str]
) -> None:
    """The server's order of suites counts, the client's with `prefer_server_cipher_suites: false`."""
    text = (DATA / "same" / f"web_config_noAuth_{name}.good.yaml").read_text().replace("exporter.", "rsa.")
    tls = load(pki, text).tls
    assert tls is not None
    names = {"128": "ECDHE-RSA-AES128-GCM-SHA256", "256": "ECDHE-RSA-AES256-GCM-SHA384"}
    client = trusting(pki)
    client.set_ciphers(":".join(names[bits] for bits in offered))

    assert chosen == (handshake(tls, client).cipher() or ("",))[0]


def test_a_client_without_a_common_cipher_is_refused(pki: Path) -> None:
    """`valid tls config yml with no common cipher`."""
    client = trusting(pki)
    client.set_ciphers("ECDHE-RSA-AES256-SHA")

    assert "NO_SHARED_CIPHER" == refusal(case(pki, "web_config_noAuth_someCiphers.good"), client)


@pytest.mark.parametrize("suite", SUITES)
def test_every_secure_suite_of_go_is_known(pki: Path, suite: str) -> None:
    """Each suite of `allCiphers` up to TLS 1.2 is accepted, and is what a client gets."""
    kind = "rsa" if "_RSA_" in suite else "exporter"
    http = {"http2": False}
    tls = {"cert_file": f"{kind}.crt", "key_file": f"{kind}.key", "cipher_suites": [suite]}
    config = load(pki, yaml.safe_dump({"tls_server_config": tls, "http_server_config": http}))
    assert config.tls is not None
    client = trusting(pki)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers("ALL")

    assert SUITES[suite] == (handshake(config.tls, client).cipher() or ("",))[0]


def test_a_required_certificate_is_verified(pki: Path) -> None:
    """`RequireAndVerifyClientCert`: a self-signed certificate that the CA file holds is let in."""
    server = handshake(case(pki, "tls_config_noAuth.requireandverifyclientcert.good"), trusting(pki, "alone"))

    assert (("DNS", "alone.example"),) == (server.getpeercert() or {})["subjectAltName"]


@pytest.mark.parametrize(
    ("reason", "cert"),
    [("PEER_DID_NOT_RETURN_A_CERTIFICATE", ""), ("CERTIFICATE_VERIFY_FAILED", "scraper")],
)
@pytest.mark.parametrize(
    "name", ["tls_config_noAuth.requireandverifyclientcert.good", "web_config_noAuth.good.blocking"]
)
def test_without_the_required_certificate_nobody_gets_in(
    pki: Path, name: str, reason: str, cert: str
) -> None:
    """No certificate, or one of another CA, is refused; without a CA file the system's CAs decide."""
    assert reason == refusal(case(pki, name), trusting(pki, cert))


@pytest.mark.parametrize(("allowed", "end"), [(True, "good"), (False, "bad")])
def test_the_client_needs_an_allowed_name(pki: Path, allowed: bool, end: str) -> None:
    """`VerifyPeerCertificate`: one allowed SAN is enough, and without any the handshake fails."""
    tls = case(pki, f"web_config_auth_client_san.{end}")
    if allowed:
        assert handshake(tls, trusting(pki, "scraper")).getpeercert()
        return
    with pytest.raises(HandshakeError) as caught:
        handshake(tls, trusting(pki, "scraper"))

    assert HandshakeReason.NAME_NOT_ALLOWED is caught.value.why


def test_a_suite_openssl_lacks_is_refused(pki: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A suite is refused where OpenSSL does not offer it, with that reason."""
    monkeypatch.setitem(SUITES, "TLS_INVENTED", "ECDHE-RSA-INVENTED")

    with pytest.raises(ConfigError, match="the OpenSSL of this Python does not offer it"):
        load(pki, cipher_suites=["TLS_INVENTED"])


@pytest.mark.parametrize(("refused", "version"), [(True, (3, 0, 19)), (False, (1, 1, 1))])
def test_old_versions_are_refused_where_openssl_refuses(refused: bool, version: tuple[int, ...]) -> None:
    """OpenSSL 3 has no TLS 1.1 at Python's level of security, 1.1.1 has."""
    assert refused == refuses_old(version)


# --- Contexts


def test_the_context_is_a_careful_one(pki: Path) -> None:
    """TLS 1.2 to 1.3, no compression, no renegotiation, session tickets as usual."""
    context = tls_context(tls_of(pki))

    assert (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3) == (
        context.minimum_version,
        context.maximum_version,
    )
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert not context.options & ssl.OP_NO_TICKET


@pytest.mark.parametrize(("version", "key"), [("TLSv1.3", "min_version"), ("TLSv1.2", "max_version")])
def test_versions_are_kept_to(pki: Path, version: str, key: str) -> None:
    """`min_version: TLS13` and `max_version: TLS12` decide what is spoken."""
    value = {"TLSv1.3": "TLS13", "TLSv1.2": "TLS12"}[version]

    assert version == handshake(tls_of(pki, **{key: value}), trusting(pki)).version()


@pytest.mark.parametrize("names", [None, "exporter"])
def test_certificates_if_given(pki: Path, names: str | None) -> None:
    """VerifyClientCertIfGiven lets in who has none, and verifies one that is there."""
    tls = tls_of(pki, client_auth_type="VerifyClientCertIfGiven", client_ca_file="ca.crt")
    server = handshake(tls, trusting(pki, names or ""))

    assert bool(names) == bool(server.getpeercert())
    assert "CERTIFICATE_VERIFY_FAILED" == refusal(tls, trusting(pki, "alone"))


def test_no_certificate_is_asked_for_by_default(pki: Path) -> None:
    """NoClientCert and RequestClientCert never look at a client's certificate."""
    for policy in ("NoClientCert", "RequestClientCert"):
        server = handshake(tls_of(pki, client_auth_type=policy), trusting(pki, "alone"))

        assert not server.getpeercert()


def test_an_intermediate_is_trusted_alone(pki: Path) -> None:
    """A CA file may hold an intermediate CA without its root, as for Go."""
    tls = tls_of(pki, client_auth_type="RequireAndVerifyClientCert", client_ca_file="middle.crt")

    assert handshake(tls, trusting(pki, "deep")).getpeercert()


def test_the_pem_is_read_once(pki: Path) -> None:
    """A context is made of what was loaded, whatever has become of the files."""
    for name in ("crt", "key"):
        (pki / f"gone.{name}").write_text((pki / f"exporter.{name}").read_text())
    tls = tls_of(pki, cert_file="gone.crt", key_file="gone.key")
    for name in ("crt", "key"):
        (pki / f"gone.{name}").unlink()

    assert "TLSv1.3" == handshake(tls, trusting(pki)).version()


@pytest.mark.parametrize("in_memory", [True, False])
def test_pem_on_a_path_is_private_and_removed(in_memory: bool) -> None:
    """What ssl reads by path is there while it reads, for the owner alone, and gone after."""
    with pem_file(b"pem", in_memory=in_memory) as path:
        content, links = Path(path).read_bytes(), Path(path).stat().st_nlink
        assert path.startswith("/proc/self/fd/") or 0o600 == Path(path).stat().st_mode & 0o777

    assert (b"pem", not path.startswith("/proc/")) == (content, bool(links))
    assert not Path(path).exists()


def test_no_file_descriptor_left_is_no_fault_of_the_pair(pki: Path) -> None:
    """Where the system hands out no more files, that is told apart from a pair that cannot be used."""
    cert, key = (pki / "exporter.crt").read_bytes(), (pki / "exporter.key").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(Lack, match=r"^cannot be loaded: Too many open files: the system lacks "):
            pair_fault(cert, key)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- Names of client certificates


def allowing(*sans: str) -> Tls:
    """Return a Tls of which only the allowed names matter, as load makes them."""
    return Tls(
        cert=b"",
        key=Secret(""),
        client_ca=None,
        verify=ssl.CERT_OPTIONAL,
        allowed_sans=frozenset(map(plain_ip, sans)),
        minimum=ssl.TLSVersion.TLSv1_2,
        maximum=ssl.TLSVersion.TLSv1_3,
        ciphers=(),
        prefer_server=True,
    )


@pytest.mark.parametrize(
    "san",
    ["scraper.example", "192.0.2.7", "2001:db8::7", "2001:DB8:0:0:0:0:0:7", "ops@example.org",
     "spiffe://example.org/scraper", "::ffff:192.0.2.7"],
)  # fmt: skip
def test_each_kind_of_name_is_matched(pki: Path, san: str) -> None:
    """DNS, IP in any spelling, e-mail and URI of a real certificate match an entry that is the same."""
    keys: dict[str, Any] = {"client_auth_type": "RequireAndVerifyClientCert", "client_ca_file": "ca.crt"}
    tls = tls_of(pki, client_allowed_sans=["other", san], **keys)

    assert san_allowed(handshake(tls, trusting(pki, "scraper")).getpeercert(), tls)


@pytest.mark.parametrize(
    "san",
    ["example", "Scraper.example", "*.example", "192.0.2.70", "org", "spiffe://example.org/scraper/"],
)
def test_only_the_same_name_is_matched(san: str) -> None:
    """A part, a pattern or another spelling of a name is no match."""
    peer = {"subjectAltName": (("DNS", "scraper.example"), ("IP Address", "192.0.2.7"), ("DNS", "a\0org"),
                               ("URI", "spiffe://example.org/scraper"))}  # fmt: skip

    assert not san_allowed(peer, allowing(san))


def test_other_kinds_of_names_count_for_nothing() -> None:
    """A directory name or one of a kind nobody knows is not compared; neither is the common name."""
    names = (("DirName", ((("commonName", "scraper"),),)), ("othername", "scraper"), ("Registered ID", "1.2"))
    peer = {"subject": ((("commonName", "scraper"),),), "subjectAltName": names}

    assert not san_allowed(peer, allowing("scraper"))


@pytest.mark.parametrize("peer", [None, {}, {"subject": ()}])
def test_who_has_no_name_is_let_in_only_without_a_list(peer: dict[str, Any] | None) -> None:
    """Without a certificate, or a name in it, a client may go on exactly where no name is asked for."""
    assert san_allowed(peer, allowing())
    assert not san_allowed(peer, allowing("scraper.example"))
