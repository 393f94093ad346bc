"""The way to a server: its host and port, and the proxy of the environment, if one is in between.

httpx would read the proxy variables itself, but it fails on IPv6 entries of NO_PROXY, ignores ranges, and
does not say which proxy it has chosen. So they are read here, as Go and curl read them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import SplitResult, urlsplit

import httpx

from exporter.config import Api
from exporter.config.problems import ConfigError, Problem

_PORTS = {"http": 80, "https": 443}
_ENTRY = re.compile(r"(?:([a-z]+)://)?(\[[^]]*\](?:/\d+)?|[^:]*|[^:[]*:[^[]*:[^[]*?)(?::(\d+))?")
_DOMAIN = re.compile(r"[\w-]+(\.[\w-]+)*")
_SHOWN = 64  # characters of an entry that cannot be read


@dataclass(frozen=True)
class Route:
    """The way to a server. `target` and `proxy_name` are host and port, as messages name them.

    `setting` and `proxy_setting` are where an operator has named the two, and `ca_setting` where their
    certificates' authority belongs.
    """

    target: str
    setting: str = "api.url"
    ca_setting: str = "api.ca_file"
    tls: bool = False
    proxy: httpx.Proxy | None = None
    proxy_name: str = ""
    proxy_setting: str = ""
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.target} through the proxy {self.proxy_name}" if self.proxy else self.target


def host_and_port(url: str) -> str:
    """Return the host of an http or https URL with its port, IPv6 in brackets. Raises ValueError."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return f"{f'[{host}]' if ':' in host else host}:{_port(parts)}"


def route_to(api: Api, environ: Mapping[str, str]) -> Route:
    """Return the way to the API. Raises ConfigError for a proxy variable that cannot be used."""
    parts = urlsplit(api.url)
    direct = Route(host_and_port(api.url), tls=parts.scheme == "https")
    names = [f"{parts.scheme}_proxy", "all_proxy"] if api.proxy == "environment" else []
    variables = [
        name if name in environ else name.upper() for name in names
    ]  # lower case wins, also if empty
    variable = next((name for name in variables if environ.get(name, "").strip()), None)
    if variable is None:
        return direct
    excluded, warnings = False, []
    for entry in re.split(r"[,\s]+", environ.get("no_proxy", environ.get("NO_PROXY", ""))):
        try:
            excluded |= bool(entry) and is_excluded(entry, parts)
        except ValueError:
            # A URL in place of a host can hold a password.
            shown = "with an @" if "@" in entry else repr(entry[:_SHOWN])
            form = "write a host name, an address, or a range such as 10.0.0.0/8 or fd00::/8"
            warnings.append(f"NO_PROXY: the entry {shown} cannot be read and is ignored: {form}")
    direct = replace(direct, warnings=tuple(warnings))
    if excluded:
        return direct
    proxy, name = _proxy(environ[variable].strip())
    if proxy is None:
        advice = "write http://HOST:PORT or https://HOST:PORT, or set api.proxy: none"
        message = f"{variable} names no HTTP proxy (SOCKS is not supported): {advice}"
        raise ConfigError([Problem("api.proxy", message)])
    return replace(direct, proxy=proxy, proxy_name=name, proxy_setting=variable)


def is_excluded(entry: str, url: SplitResult) -> bool:
    """Whether an entry of NO_PROXY names the host of a URL. Raises ValueError if it cannot be read.

    An entry is `*`, a domain (`example.com` with its subdomains, `.example.com` or `*.example.com` without
    itself), an address, or a range of addresses; a port limits it to that port, a scheme to that scheme.
    """
    match = _ENTRY.fullmatch(entry.lower())
    if match is None:
        raise ValueError("no entry of NO_PROXY")
    scheme, name, port = match.groups()
    applies = scheme in {None, "all", url.scheme} and port in {None, str(_port(url))}
    host = (url.hostname or "").rstrip(".")
    if name == "*":
        return applies
    try:
        network = _network(name.replace("[", "").replace("]", ""))
    except ValueError:
        return _is_in_domain(host, re.sub(r"^\*(?=\.)", "", name).rstrip(".")) and applies
    try:
        return _network(host).subnet_of(network) and applies  # type: ignore[arg-type]
    except (ValueError, TypeError):  # a host name is in no range, and IPv4 in none of IPv6
        return False


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Return an address or a range; IPv4 that is written as IPv6 (`::ffff:127.0.0.1`) is IPv4."""
    network = ipaddress.ip_network(text, strict=False)
    address, length = getattr(network.network_address, "ipv4_mapped", None), network.prefixlen
    return ipaddress.ip_network((address, length - 96)) if address and length >= 96 else network  # noqa: PLR2004


def _is_in_domain(host: str, name: str) -> bool:
    domain = name.removeprefix(".")
    # The end of a host name is no number: `10.0.0.` is half an address.
    if not _DOMAIN.fullmatch(domain) or domain.rpartition(".")[2].isdigit():
        raise ValueError("no domain")
    ascii_domain = domain.encode("idna").decode()
    return host.endswith(f".{ascii_domain}") or (host == ascii_domain and name == domain)


def _proxy(value: str) -> tuple[httpx.Proxy | None, str]:
    """Return the proxy that a variable names, with its host and port; None if it cannot be used."""
    try:
        proxy = httpx.Proxy(value if "://" in value else f"http://{value}")
        name = host_and_port(str(proxy.url))
    except (ValueError, LookupError, httpx.InvalidURL):  # LookupError: of a scheme that has no port here
        return None, ""
    # What follows ? or # would be the rest of a password.
    usable = proxy.url.scheme in _PORTS and proxy.url.host and not (proxy.url.query or proxy.url.fragment)
    return (proxy, name) if usable else (None, "")


def _port(url: SplitResult) -> int:
    return url.port or _PORTS[url.scheme]
