"""The web configuration file: the toolkit's verdicts, our own rules, and real handshakes in memory.

tests/data/web/same restates each case of exporter-toolkit's web/testdata by its name, `# toolkit:` being the
toolkit's verdict; differs has those whose verdict differs, each with its reason; own has our own rules.
"""

from __future__ import annotations

import json
import re
import resource
import ssl
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from exporter.config import ConfigError
from exporter.config.secret import Secret
from exporter.web import config_file
from exporter.web.config_file import BadWebConfig, Tls, WebConfig
from tests.web.certificates import pki

__all__ = ["pki"]  # the fixture

DATA = Path(__file__).parent.parent / "data" / "web"
SAME, DIFFERS, OWN = (sorted((DATA / folder).glob("*.yaml")) for folder in ("same", "differs", "own"))
CANARY = "canary-4711"

# Every file of the toolkit's web/testdata that is a configuration, without its ending.
TOOLKIT = set((DATA / "toolkit.txt").read_text().split())


def place(pki: Path, text: str) -> Path:
    """Write a configuration beside the certificates; `"@NAME"` becomes that file's content."""
    path = pki / "web.yaml"
    path.write_text(
        re.sub(r'"@([a-z.]+)"', lambda match: json.dumps((pki / match[1]).read_text()), text), newline=""
    )
    path.chmod(0o600)
    return path


def load(pki: Path, text: str = "", **tls: Any) -> WebConfig:
    """Load a text, or the exporter's certificate with more TLS keys."""
    pair = {"cert_file": "exporter.crt", "key_file": "exporter.key", **tls}
    return config_file.load(place(pki, text or yaml.safe_dump({"tls_server_config": pair})))


def tls_of(pki: Path, **keys: Any) -> Tls:
    tls = load(pki, **keys).tls
    assert tls is not None
    return tls


def comments(path: Path, key: str) -> list[str]:
    return [line[len(key) + 4 :] for line in path.read_text().splitlines() if line.startswith(f"# {key}: ")]


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
    ours = config_file.context(tls).wrap_bio(to_server, to_client, server_side=True)
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


# --- The toolkit's cases


def test_every_case_of_the_toolkit_is_restated() -> None:
    """No configuration of the toolkit's testdata is left out, and none is in both tables."""
    same, differs = ({path.stem for path in paths} for paths in (SAME, DIFFERS))

    assert set() == same & differs
    assert same | differs == TOOLKIT


@pytest.mark.parametrize("path", SAME, ids=lambda path: path.stem)
def test_verdict_is_the_toolkits(pki: Path, path: Path) -> None:
    """A case that the toolkit starts with is accepted, and any other is refused."""
    try:
        load(pki, path.read_text())
        verdict = "good"
    except ConfigError:
        verdict = "bad"

    assert comments(path, "toolkit") == [verdict]


@pytest.mark.parametrize("path", DIFFERS, ids=lambda path: path.stem)
def test_what_python_cannot_do_is_refused_by_name(pki: Path, path: Path) -> None:
    """What the toolkit takes and Python's ssl cannot do is refused, at the key that asks for it."""
    with pytest.raises(ConfigError) as caught:
        load(pki, path.read_text())

    assert comments(path, "toolkit") == ["good"]
    assert comments(path, "reason")
    assert {"client_auth_type", "cipher_suites", "curve_preferences", "rate_limit"} > {
        re.sub(r"\[\d+\]", "", problem.path).rpartition(".")[2] for problem in caught.value.problems
    }


def test_a_missing_file_is_a_problem(tmp_path: Path) -> None:
    """A web configuration file that does not exist is a problem: `path to config yml invalid`."""
    with pytest.raises(ConfigError, match=r"^web\.yaml: cannot be read: No such file or directory$"):
        config_file.load(tmp_path / "web.yaml")


@pytest.mark.parametrize(
    ("on", "keys"),
    [
        pytest.param(False, {}, id="empty config"),
        pytest.param(False, {"min_version": "TLS12"}, id="only non-enabling fields set"),
        pytest.param(True, {"cert_file": "exporter.crt", "key_file": "exporter.key"}, id="files set"),
        pytest.param(True, {"cert": "@exporter.crt", "key": "@exporter.key"}, id="inline set"),
    ],
)
def test_tls_is_on_where_the_toolkit_has_it_on(pki: Path, on: bool, keys: dict[str, str]) -> None:
    """TLS is on with a certificate, and off where no key says that it should be."""
    config = config_file.load(place(pki, json.dumps({"tls_server_config": keys})))

    assert on == (config.tls is not None)


@pytest.mark.parametrize("key", ["client_ca_file", "client_auth_type"])
def test_tls_half_configured_is_a_problem(pki: Path, key: str) -> None:
    """Client certificates without a server certificate are TLS without one, not plain HTTP."""
    value = {"client_ca_file": "ca.crt", "client_auth_type": "NoClientCert"}[key]

    with pytest.raises(ConfigError, match="cert_file or cert is missing"):
        load(pki, f"tls_server_config: {{{key}: {value}}}")


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
    server = config_file.context(tls_of(pki)).wrap_bio(incoming, ssl.MemoryBIO(), server_side=True)

    with pytest.raises(ssl.SSLError, match="HTTP_REQUEST"):
        server.do_handshake()


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


@pytest.mark.parametrize("suite", config_file.SUITES)
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

    assert config_file.SUITES[suite] == (handshake(config.tls, client).cipher() or ("",))[0]


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
    """`VerifyPeerCertificate`: one allowed SAN is enough, and without any the client may not go on."""
    tls = case(pki, f"web_config_auth_client_san.{end}")
    server = handshake(tls, trusting(pki, "scraper"))

    assert allowed == config_file.san_allowed(server.getpeercert(), tls)


def test_headers_are_ready_to_send(pki: Path) -> None:
    """The toolkit's five headers, a number among them, come as pairs of bytes with names in small letters."""
    config = load(pki, (DATA / "same" / "web_config_headers.good.yaml").read_text())

    assert {
        b"content-security-policy": b"default-src 'none'; img-src *.example.org",
        b"strict-transport-security": b"max-age=86400",
        b"x-content-type-options": b"nosniff",
        b"x-frame-options": b"sameorigin",
        b"x-xss-protection": b"1",
    } == dict(config.headers)


# --- Our own rules


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_own_case_reports_exactly_what_it_says(pki: Path, path: Path) -> None:
    """Each file yields, in one run, exactly the problems or notes it begins with, and not the canary."""
    expected, notes, said = comments(path, "expect"), comments(path, "note"), ""
    try:
        said = "\n".join(load(pki, path.read_text() or " ").notes)
    except ConfigError as error:
        expected, notes, said = [], expected, str(error)

    assert [] == expected
    assert "\n".join(notes) == said
    assert CANARY not in said


@given(st.binary(max_size=200))
def test_any_bytes_are_a_config_or_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    """Whatever a file holds, it is a configuration or a ConfigError with problems."""
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(data)

    assert outcome(path)


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text("aB7:.$ \0\ud800é", max_size=5)
    | st.just(CANARY)
)
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(LEAVES, inner, max_size=2)
)
KNOWN = st.sampled_from(
    ["exporter.crt", "exporter.key", "ca.crt", "TLS12", "TLS13", *config_file.SUITES, *config_file._POLICIES]
)
VALUES = KNOWN | st.lists(KNOWN, max_size=2) | ANYTHING


def section(*keys: str) -> st.SearchStrategy[Any]:
    return st.dictionaries(st.sampled_from(keys), VALUES, max_size=5) | ANYTHING


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "tls_server_config": section(*config_file.TlsSection.__struct_fields__),
            "http_server_config": st.fixed_dictionaries(
                {}, optional={"http2": VALUES, "headers": section(*config_file._ALLOWED_HEADERS)}
            ),
            "basic_auth_users": section("prometheus", "a:b", "\ud800"),
            "rate_limit": ANYTHING,
        },
    )
)
def test_any_document_is_a_config_or_a_config_error(pki: Path, document: dict[str, Any]) -> None:
    """Whatever stands under the known keys, it is a configuration or a ConfigError without the text."""
    path = pki / "any.yaml"
    path.write_text(yaml.dump(document))
    result = outcome(path)

    assert result
    assert CANARY not in str(result if isinstance(result, tuple) else result.notes)


def outcome(path: Path) -> WebConfig | tuple[str, ...]:
    try:
        return config_file.load(path)
    except ConfigError as error:
        return tuple(map(str, error.problems))


def test_nothing_shows_a_key_or_a_hash(pki: Path) -> None:
    """Neither text nor repr of a configuration holds a hash or a line of PEM."""
    config = load(pki, (DATA / "same" / "web_config_users.good.yaml").read_text())
    shown = f"{config!r} {config} {config.users} {config.tls}"

    assert "grafana" in shown
    assert "$2" not in shown
    assert not [line for line in (pki / "exporter.key").read_text().splitlines() if line in shown]
    assert not [line for line in (pki / "exporter.crt").read_text().splitlines() if line in shown]


@pytest.mark.parametrize(("mode", "noted"), [(0o604, True), (0o600, False)])
@pytest.mark.parametrize("inline", [True, False])
def test_a_key_others_can_read_is_noted(pki: Path, mode: int, noted: bool, inline: bool) -> None:
    """A private key in a file that others than its owner can reach is accepted with a note."""
    given_key = 'key: "@open.key"' if inline else "key_file: open.key"
    (pki / "open.key").write_text((pki / "exporter.key").read_text())
    path = place(pki, f"tls_server_config:\n  cert_file: exporter.crt\n  {given_key}\n")
    (path if inline else pki / "open.key").chmod(mode)

    assert noted == any("chmod 600" in note for note in config_file.load(path).notes)


def test_all_problems_come_at_once(pki: Path) -> None:
    """One run reports the faults of every section, by line."""
    with pytest.raises(ConfigError) as caught:
        load(
            pki, "basic_auth_users: {a: b}\nrate_limit: {}\nhttp_server_config: {headers: {Host: x}}\nx: 1\n"
        )

    assert [1, 2, 3, 4] == [problem.line for problem in caught.value.problems]


def test_a_suite_openssl_lacks_is_refused(pki: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A suite is refused where OpenSSL does not offer it, with that reason."""
    monkeypatch.setitem(config_file.SUITES, "TLS_INVENTED", "ECDHE-RSA-INVENTED")

    with pytest.raises(ConfigError, match="the OpenSSL of this Python does not offer it"):
        load(pki, cipher_suites=["TLS_INVENTED"])


@pytest.mark.parametrize(("refused", "version"), [(True, (3, 0, 19)), (False, (1, 1, 1))])
def test_old_versions_are_refused_where_openssl_refuses(refused: bool, version: tuple[int, ...]) -> None:
    """OpenSSL 3 has no TLS 1.1 at Python's level of security, 1.1.1 has."""
    assert refused == config_file.refuses_old(version)


def test_equal_files_are_equal_configurations(pki: Path) -> None:
    """What is read twice is equal; another certificate or header makes another configuration."""
    one, again, other = load(pki), load(pki), load(pki, cert_file="renewed.crt", key_file="renewed.key")

    assert one == again
    assert one != other
    assert one.tls != other.tls


# --- Contexts


def test_the_context_is_a_careful_one(pki: Path) -> None:
    """TLS 1.2 to 1.3, no compression, no renegotiation, session tickets as usual."""
    context = config_file.context(tls_of(pki))

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
    with config_file.pem_file(b"pem", in_memory=in_memory) as path:
        content, links = Path(path).read_bytes(), Path(path).stat().st_nlink
        assert path.startswith("/proc/self/fd/") or 0o600 == Path(path).stat().st_mode & 0o777

    assert (b"pem", not path.startswith("/proc/")) == (content, bool(links))
    assert not Path(path).exists()


def test_no_file_stays_open(pki: Path) -> None:
    """Neither a good load nor a bad one, nor a context, leaves a file descriptor behind."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        config_file.context(tls_of(pki))
        for name in ("file-is-a-directory", "file-is-a-pipe", "pair-swapped"):
            outcome(place(pki, (DATA / "own" / f"{name}.yaml").read_text()))

    assert before == len(list(Path("/proc/self/fd").iterdir()))


def test_no_file_descriptor_left_is_a_problem(pki: Path) -> None:
    """Where the system hands out no more files, that is the fault of the pair, and nothing is raised."""
    cert, key = (pki / "exporter.crt").read_bytes(), (pki / "exporter.key").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        fault = config_file.pair_fault(cert, key)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert ("key", "cannot be loaded: Too many open files") == fault


# --- Names of client certificates


def allowing(*sans: str) -> Tls:
    """Return a Tls of which only the allowed names matter, as load makes them."""
    return Tls(
        cert=b"",
        key=Secret(""),
        client_ca=None,
        verify=ssl.CERT_OPTIONAL,
        allowed_sans=frozenset(map(config_file._plain_ip, sans)),
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

    assert config_file.san_allowed(handshake(tls, trusting(pki, "scraper")).getpeercert(), tls)


@pytest.mark.parametrize(
    "san",
    ["example", "Scraper.example", "*.example", "192.0.2.70", "org", "spiffe://example.org/scraper/"],
)
def test_only_the_same_name_is_matched(san: str) -> None:
    """A part, a pattern or another spelling of a name is no match."""
    peer = {"subjectAltName": (("DNS", "scraper.example"), ("IP Address", "192.0.2.7"), ("DNS", "a\0org"),
                               ("URI", "spiffe://example.org/scraper"))}  # fmt: skip

    assert not config_file.san_allowed(peer, allowing(san))


def test_other_kinds_of_names_count_for_nothing() -> None:
    """A directory name or one of a kind nobody knows is not compared; neither is the common name."""
    names = (("DirName", ((("commonName", "scraper"),),)), ("othername", "scraper"), ("Registered ID", "1.2"))
    peer = {"subject": ((("commonName", "scraper"),),), "subjectAltName": names}

    assert not config_file.san_allowed(peer, allowing("scraper"))


@pytest.mark.parametrize("peer", [None, {}, {"subject": ()}])
def test_who_has_no_name_is_let_in_only_without_a_list(peer: dict[str, Any] | None) -> None:
    """Without a certificate, or a name in it, a client may go on exactly where no name is asked for."""
    assert config_file.san_allowed(peer, allowing())
    assert not config_file.san_allowed(peer, allowing("scraper.example"))


# --- What has changed


def test_stamps_tell_whether_to_read_again(pki: Path, tmp_path: Path) -> None:
    """Stamps are equal until the file, or one it names, is written, replaced, made unreadable or removed."""
    cert, key, path = (tmp_path / name for name in ("exporter.crt", "exporter.key", "web.yaml"))
    for file in (cert, key):
        file.write_bytes((pki / file.name).read_bytes())
    path.write_text(f"tls_server_config: {{cert_file: {cert}, key_file: exporter.key}}")
    config = config_file.load(path)

    assert [path, cert, key] == list(config.stamps)
    assert config.stamps == config_file.current_stamps(config)
    seen = [config.stamps]
    key.chmod(0o640)
    seen.append(config_file.current_stamps(config))
    cert.write_bytes(cert.read_bytes() + b"\n")
    seen.append(config_file.current_stamps(config))
    (tmp_path / "new").write_bytes(key.read_bytes())
    (tmp_path / "new").replace(key)
    seen.append(config_file.current_stamps(config))
    path.unlink()
    seen.append(config_file.current_stamps(config))
    assert 5 == len({tuple(stamps.items()) for stamps in seen})
    assert config_file.current_stamps(config)[path] is None


def test_a_bad_config_knows_what_to_watch(pki: Path, tmp_path: Path) -> None:
    """A refused configuration names its files too, the missing ones with None, so mending any is seen."""
    path, cert = tmp_path / "web.yaml", tmp_path / "late.crt"
    path.write_text(f"tls_server_config: {{cert_file: late.crt, key_file: {pki / 'exporter.key'}}}")
    with pytest.raises(BadWebConfig) as caught:
        config_file.load(path)
    bad = caught.value

    assert [path, cert, pki / "exporter.key"] == list(bad.stamps)
    assert bad.stamps[cert] is None
    assert bad.stamps == config_file.current_stamps(bad)
    cert.write_bytes((pki / "exporter.crt").read_bytes())
    assert bad.stamps != config_file.current_stamps(bad)
    assert config_file.load(path).tls
