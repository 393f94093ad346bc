"""The way to the API: which proxy of the environment is used, and for which hosts none is."""

from __future__ import annotations

import contextlib
import ipaddress
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exporter.api.client import Client
from exporter.api.route import Route, host_and_port, is_excluded, route_to
from exporter.config import ConfigError
from tests.conftest import parsed

PROXY = {"HTTPS_PROXY": "http://proxy:3128", "HTTP_PROXY": "http://proxy:3128"}


def route(url: str, **environ: str) -> Route:
    return route_to(parsed(url, api={"proxy": "environment", "allow_insecure": True}).api, environ)


@pytest.mark.parametrize(
    ("host", "entries"),
    [
        ("[::1]", "[::1]"),
        ("[::1]", "::1"),
        ("[fd00:10::7]", "fd00::/8"),
        ("[fd00:10::7]", "[fd00::]/8"),
        ("[fd00:10::7]:8080", "[fd00:10::7]:8080"),
        ("10.96.0.9", "10.0.0.0/8"),
        ("10.96.0.9", "10.96.0.1/24"),
        ("10.96.0.9", "10.96.0.9"),
        ("10.96.0.9:8080", "10.96.0.9:8080"),
        ("api.example.com", "example.com"),
        ("api.example.com", ".example.com"),
        ("api.example.com", "*.example.com"),
        ("api.example.com", "EXAMPLE.com."),
        ("example.com", "example.com"),
        ("xn--bcher-kva.example", "bücher.example"),
        ("api.example.com", "https://example.com"),
        ("api.example.com", "*"),
        ("127.0.0.1", "::ffff:127.0.0.1"),
        ("[::ffff:127.0.0.1]", "127.0.0.0/8"),
        ("[::ffff:10.1.2.3]", "::ffff:10.0.0.0/104"),
        # What OpenShift and kubeadm write.
        ("api.svc", ".cluster.local,.svc,10.128.0.0/14,fd02::/112,127.0.0.1,[::1],localhost"),
        ("[fd02::5]", ".cluster.local,.svc,10.128.0.0/14,fd02::/112,127.0.0.1,[::1],localhost"),
    ],
)
def test_no_proxy_is_read_as_go_and_curl_read_it(host: str, entries: str) -> None:
    """Names, addresses and ranges of both families in NO_PROXY keep the call and its secret off the proxy."""
    found = route(f"https://{host}", **PROXY, NO_PROXY=entries)

    assert (None, ()) == (found.proxy, found.warnings)


@pytest.mark.parametrize(
    ("host", "entries"),
    [
        ("[::2]", "[::1]"),
        ("[fe00::7]", "fd00::/8"),
        ("11.0.0.1", "10.0.0.0/8"),
        ("11.0.0.1", "::ffff:10.0.0.0/104,fd00::/8"),
        ("10.96.0.9", "10.96.0.9:8080"),
        ("example.com", ".example.com,*.example.com"),
        ("badexample.com", "example.com"),
        ("example.com.evil.org", "example.com"),
        ("api.example.com", "10.0.0.0/8,fd00::/8,http://example.com"),
        ("api.example.com", ""),
        ("api.example.com", " , ,, "),
    ],
)
def test_other_hosts_are_called_through_the_proxy(host: str, entries: str) -> None:
    """What NO_PROXY does not name goes through the proxy, and the entries that name others are no warning."""
    found = route(f"https://{host}", **PROXY, NO_PROXY=entries)

    assert ("proxy:3128", ()) == (found.proxy_name, found.warnings)


@pytest.mark.parametrize("entry", ["10.0.0.0/33", "fd00::/129", "[::1", "10.0.0.", "a/b", "x" * 70, "*a"])
def test_an_entry_that_cannot_be_read_is_ignored_with_a_warning(entry: str) -> None:
    """The warning names the entry; the others count all the same, and the exporter starts."""
    entries = f"{entry},example.com"
    client = Client(
        parsed("https://api.example.com", api={"proxy": "environment"}).api,
        "t",
        None,
        PROXY | {"NO_PROXY": entries},
    )
    found = route("https://api.example.com", **PROXY, NO_PROXY=entries)

    assert found.proxy is None
    assert found.warnings == client.warnings
    (warning,) = found.warnings
    assert repr(entry[:64]) in warning


def test_a_password_in_an_entry_is_not_shown() -> None:
    """A URL in place of a host can hold a password: the warning is without it."""
    way = route(
        "https://api.example.com", HTTPS_PROXY="http://proxy:3128", NO_PROXY="http://user:canary@host"
    )
    (warning,) = way.warnings

    assert warning.startswith("NO_PROXY: the entry with an @ cannot be read")


@given(
    st.text(max_size=40),
    st.sampled_from(["https://api.example.com", "https://[fd00::1]:8443", "https://10.1.2.3"]),
)
@example("[", "https://10.1.2.3")
@example("::1%eth0/64", "https://[fd00::1]:8443")
@example(".", "https://api.example.com")
def test_any_entry_is_read_or_refused(entry: str, url: str) -> None:
    """Whatever is in NO_PROXY, an entry is a yes, a no or a ValueError, and the route is found."""
    with contextlib.suppress(ValueError):
        is_excluded(entry, urlsplit(url))
    assert route(url, **PROXY, NO_PROXY=entry).target == host_and_port(url)


@given(st.ip_addresses(), st.ip_addresses(), st.integers(0, 128))
@example(ipaddress.ip_address("::ffff:0:0"), ipaddress.ip_address("0.0.0.0"), 0)
@example(ipaddress.ip_address("::ffff:0:0"), ipaddress.ip_address("::"), 0)
def test_ranges_are_those_of_ipaddress(host: Any, start: Any, bits: int) -> None:
    """An address is excluded exactly if the range holds it; a range of the other family never does.

    An IPv4 address that is written as IPv6 is IPv4.
    """
    network = ipaddress.ip_network((start, min(bits, start.max_prefixlen)), strict=False)
    url = f"https://[{host}]" if host.version == 6 else f"https://{host}"
    known = getattr(host, "ipv4_mapped", None) or host
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped and network.prefixlen >= 96:
        network = ipaddress.ip_network((mapped, network.prefixlen - 96))

    assert (known in network) == is_excluded(str(network), urlsplit(url))


@pytest.mark.parametrize(
    ("expected", "environ"),
    [
        ("p:1", {"https_proxy": "http://p:1", "HTTPS_PROXY": "http://q:2"}),
        ("", {"https_proxy": "", "HTTPS_PROXY": "http://q:2"}),
        ("q:2", {"all_proxy": "http://p:1", "HTTPS_PROXY": "http://q:2"}),
        ("p:1", {"ALL_PROXY": "p:1"}),
        ("p:80", {"HTTPS_PROXY": "http://user:canary@p"}),
        ("p:443", {"HTTPS_PROXY": "https://p/"}),
        ("[fd00::1]:3128", {"HTTPS_PROXY": "http://[fd00::1]:3128"}),
        ("", {"HTTP_PROXY": "http://p:1"}),
        ("", {"HTTPS_PROXY": " "}),
        ("", {}),
    ],
)
def test_which_variable_names_the_proxy(expected: str, environ: dict[str, str]) -> None:
    """The scheme's own variable goes before ALL_PROXY, lower case before upper; a name has no password."""
    assert expected == route("https://api.example.com", **environ).proxy_name


@pytest.mark.parametrize(
    "value",
    [
        "ftp://canary@p",
        "socks5://canary@p:1080",
        "http://",
        "http://p:x",
        "http://p:99999",
        "http://u:1#canary@p",
        "http://[::1",
    ],
)
def test_a_proxy_that_cannot_be_used_is_told(value: str) -> None:
    """A variable that names no HTTP proxy is a problem that names the variable and not its value."""
    with pytest.raises(ConfigError) as caught:
        route("https://api.example.com", HTTPS_PROXY=value)

    assert str(caught.value).startswith("api.proxy: HTTPS_PROXY names no HTTP proxy")
    assert "canary" not in repr(caught.value)
    assert caught.value.__context__ is None


@given(
    st.text(st.characters(exclude_characters="\0"), max_size=30), st.sampled_from(["", "http://", "https://"])
)
@example("p:99999", "http://")
@example("u:p@[::1", "http://")
def test_any_proxy_is_used_or_told(value: str, scheme: str) -> None:
    """Whatever is in the variable, it names a proxy, or is empty, or the problem names the variable."""
    text = scheme + value
    found: Route | ConfigError
    try:
        found = route("https://api.example.com", HTTPS_PROXY=text)
    except ConfigError as error:
        found = error
    if isinstance(found, Route):
        assert bool(text.strip()) == bool(found.proxy) == bool(found.proxy_name)
    else:
        assert str(found).startswith("api.proxy: HTTPS_PROXY names")
        assert found.__context__ is None


def test_without_the_key_the_environment_is_not_read() -> None:
    """With `proxy: none` neither a proxy nor a broken variable matters."""
    found = route_to(parsed("https://api.example.com").api, {"HTTPS_PROXY": "ftp://p", "NO_PROXY": "["})

    assert Route("api.example.com:443", tls=True) == found
