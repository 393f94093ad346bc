"""The web configuration file: the toolkit's verdicts, and our own rules.

tests/data/web/same restates each case of exporter-toolkit's web/testdata by its name, `# toolkit:` being the
toolkit's verdict; differs has those whose verdict differs, each with its reason; own has our own rules.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from exporter.config import ConfigError
from exporter.web import tls, web_config
from exporter.web.tls import SUITES, tls_context
from exporter.web.web_config import BadWebConfig
from tests.conftest import REPOSITORY
from tests.web.certificates import pki
from tests.web.web_files import DATA, load, outcome, place, tls_of

__all__ = ["pki"]  # the fixture

SAME, DIFFERS, OWN = (sorted((DATA / folder).glob("*.yaml")) for folder in ("same", "differs", "own"))
CANARY = "canary-4711"

# Every file of the toolkit's web/testdata that is a configuration, without its ending.
TOOLKIT = set((DATA / "toolkit.txt").read_text().split())


def comments(path: Path, key: str) -> list[str]:
    return [line[len(key) + 4 :] for line in path.read_text().splitlines() if line.startswith(f"# {key}: ")]


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
    assert {"client_auth_type", "cipher_suites", "curve_preferences", "interval"} >= {
        re.sub(r"\[\d+\]", "", problem.path).rpartition(".")[2] for problem in caught.value.problems
    }


def test_every_difference_is_documented() -> None:
    """docs/design.md has a row for each setting that a file here judges differently than the toolkit."""
    section = (
        (REPOSITORY / "docs" / "design.md").read_text().split("### Differences from exporter-toolkit")[1]
    )
    rows = {line.split("|")[1].replace("`", "").strip() for line in section.splitlines() if line[:2] == "| "}
    named = {name for path in (*OWN, *DIFFERS) for name in comments(path, "differs")}

    assert set() == named - rows
    assert 13 == len(named)
    assert [] == [path.name for path in DIFFERS if not comments(path, "differs")]


def test_a_missing_file_is_a_problem(tmp_path: Path) -> None:
    """A web configuration file that does not exist is a problem: `path to config yml invalid`."""
    with pytest.raises(ConfigError, match=r"^web\.yaml: cannot be read: No such file or directory$"):
        web_config.load(tmp_path / "web.yaml")


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
    config = web_config.load(place(pki, json.dumps({"tls_server_config": keys})))

    assert on == (config.tls is not None)


@pytest.mark.parametrize("key", ["client_ca_file", "client_auth_type"])
def test_tls_half_configured_is_a_problem(pki: Path, key: str) -> None:
    """Client certificates without a server certificate are TLS without one, not plain HTTP."""
    value = {"client_ca_file": "ca.crt", "client_auth_type": "NoClientCert"}[key]

    with pytest.raises(ConfigError, match="cert_file or cert is missing"):
        load(pki, f"tls_server_config: {{{key}: {value}}}")


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


@pytest.mark.parametrize(
    "value", ["0", "0xff", "010", "1.50", "1e3", ".inf", "yes", "2026-01-01", "2026-13-45"]
)
def test_headers_are_sent_as_they_are_written(pki: Path, value: str) -> None:
    """What YAML reads as a number, a date or a truth value is sent as it stands in the file."""
    config = load(pki, f"http_server_config: {{headers: {{X-XSS-Protection: {value}}}}}")

    assert ((b"x-xss-protection", value.encode()),) == config.headers


@pytest.mark.parametrize("name", ["7", "no", "0x10", "2026-01-01"])
def test_users_have_their_names_as_they_are_written(pki: Path, name: str) -> None:
    """What YAML reads as a number, a date or a truth value is a name like any other, as for the toolkit."""
    config = load(pki, f"basic_auth_users: {{{name}: $2y$04${'a' * 21}.{'a' * 31}}}")

    assert [name] == list(config.users)


# --- Our own rules


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_own_case_reports_exactly_what_it_says(pki: Path, path: Path) -> None:
    """Each file yields, in one run, exactly the problems or notes it begins with, and not the canary."""
    expected, notes, said = comments(path, "expect"), comments(path, "note"), ""
    try:
        said = "\n".join(load(pki, path.read_text() or " ").notes).replace("web.yaml: ", "")
    except ConfigError as error:
        expected, notes, said = [], expected, "\n".join(problem.text for problem in error.problems)

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
KNOWN = st.sampled_from(["exporter.crt", "exporter.key", "ca.crt", "TLS12", "TLS13", *SUITES, *tls.POLICIES])
VALUES = KNOWN | st.lists(KNOWN, max_size=2) | ANYTHING


def section(*keys: str) -> st.SearchStrategy[Any]:
    return st.dictionaries(st.sampled_from(keys), VALUES, max_size=5) | ANYTHING


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "tls_server_config": section(*tls.TlsSection.__struct_fields__),
            "http_server_config": st.fixed_dictionaries(
                {}, optional={"http2": VALUES, "headers": section(*web_config.ALLOWED_HEADERS)}
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


@pytest.mark.parametrize(
    ("off", "intervals"),
    [
        (True, ["0", "0s", "'0'", "0ms", "0h0m0s", "-0s", "0.0s", "00ns", "~"]),
        (False, ["10ns", "1h0s", "-1", "1", "true", "0d", "''", "[0s]", "0.0", "9" * 5000]),
    ],
)
def test_a_rate_limit_of_no_time_is_none(pki: Path, off: bool, intervals: list[str]) -> None:
    """An interval of 0, in every spelling of Go, is the toolkit's "off"; any other one is refused."""
    for interval in intervals:
        result = outcome(place(pki, f"rate_limit: {{interval: {interval}, burst: 20}}"))
        assert off == (not isinstance(result, tuple)), interval


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

    assert noted == any("chmod 600" in note for note in web_config.load(path).notes)


def test_all_problems_come_at_once(pki: Path) -> None:
    """One run reports the faults of every section, by line."""
    with pytest.raises(ConfigError) as caught:
        load(pki, "basic_auth_users: {a: b}\nrate_limit: 1\nhttp_server_config: {headers: {Host: x}}\nx: 1\n")

    assert [1, 2, 3, 4] == [problem.line for problem in caught.value.problems]


def test_equal_files_are_equal_configurations(pki: Path) -> None:
    """What is read twice is equal; another certificate or header makes another configuration."""
    one, again, other = load(pki), load(pki), load(pki, cert_file="renewed.crt", key_file="renewed.key")

    assert one == again
    assert one != other
    assert one.tls != other.tls


def test_no_file_stays_open(pki: Path) -> None:
    """Neither a good load nor a bad one, nor a context, leaves a file descriptor behind."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        tls_context(tls_of(pki))
        for name in ("file-is-a-directory", "file-is-a-pipe", "pair-swapped"):
            outcome(place(pki, (DATA / "own" / f"{name}.yaml").read_text()))

    assert before == len(list(Path("/proc/self/fd").iterdir()))


# --- What has changed


def test_stamps_tell_whether_to_read_again(pki: Path, tmp_path: Path) -> None:
    """Stamps are equal until the file, or one it names, is written, replaced, made unreadable or removed."""
    cert, key, path = (tmp_path / name for name in ("exporter.crt", "exporter.key", "web.yaml"))
    for file in (cert, key):
        file.write_bytes((pki / file.name).read_bytes())
    path.write_text(f"tls_server_config: {{cert_file: {cert}, key_file: exporter.key}}")
    config = web_config.load(path)

    assert [path, cert, key] == list(config.stamps)
    assert config.stamps == web_config.current_stamps(config)
    seen = [config.stamps]
    key.chmod(0o640)
    seen.append(web_config.current_stamps(config))
    cert.write_bytes(cert.read_bytes() + b"\n")
    seen.append(web_config.current_stamps(config))
    (tmp_path / "new").write_bytes(key.read_bytes())
    (tmp_path / "new").replace(key)
    seen.append(web_config.current_stamps(config))
    path.unlink()
    seen.append(web_config.current_stamps(config))
    assert 5 == len({tuple(stamps.items()) for stamps in seen})
    assert web_config.current_stamps(config)[path] is None


def test_a_bad_config_knows_what_to_watch(pki: Path, tmp_path: Path) -> None:
    """A refused configuration names its files too, the missing ones with None, so mending any is seen."""
    path, cert = tmp_path / "web.yaml", tmp_path / "late.crt"
    path.write_text(f"tls_server_config: {{cert_file: late.crt, key_file: {pki / 'exporter.key'}}}")
    with pytest.raises(BadWebConfig) as caught:
        web_config.load(path)
    bad = caught.value

    assert [path, cert, pki / "exporter.key"] == list(bad.stamps)
    assert bad.stamps[cert] is None
    assert bad.stamps == web_config.current_stamps(bad)
    cert.write_bytes((pki / "exporter.crt").read_bytes())
    assert bad.stamps != web_config.current_stamps(bad)
    assert web_config.load(path).tls
