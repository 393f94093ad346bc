"""Addresses and listening sockets."""

from __future__ import annotations

import errno
import os
import resource
import socket

import pytest

from exporter.web.listening import (
    FLAG,
    OTHER_FILES,
    AddressError,
    Opener,
    address_of,
    client_limits,
    listen,
    open_listening,
    parse_address,
    raise_open_files,
)


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        (("0.0.0.0", 12758), "0.0.0.0:12758"),
        (("", 80), ":80"),
        (("::1", 80), "[::1]:80"),
        (("localhost", 0), "localhost:0"),
    ],
)
def test_addresses_are_split(expected: tuple[str, int], text: str) -> None:
    """Host and port, an IPv6 address in brackets, no host for all addresses."""
    assert expected == parse_address(text)


@pytest.mark.parametrize(
    "text", ["", "12758", "localhost", "host:", "host:http", "host:65536", "::1:80", "host:-1"]
)
def test_bad_addresses_are_told(text: str) -> None:
    """What is no HOST:PORT is refused with the flag, the text and an example."""
    with pytest.raises(AddressError, match=f"^{FLAG}: .*for example"):
        parse_address(text)


def test_all_addresses_or_none() -> None:
    """When one of several addresses is taken, none stays open, and the error names it and the flag."""
    (taken,) = listen(["127.0.0.1:0"])
    with taken, pytest.raises(AddressError, match=f"^{FLAG}: cannot listen on {address_of(taken)}"):
        listen(["127.0.0.1:0", address_of(taken)])


def test_ipv6_is_served() -> None:
    """An address in brackets is listened on, and shown in brackets."""
    try:
        (listening,) = listen(["[::1]:0"])
    except AddressError as error:
        pytest.skip(f"no IPv6 here: {error}")

    with listening:
        assert address_of(listening).startswith("[::1]:")


def test_a_host_that_does_not_exist_is_told() -> None:
    """A name without address is an error about that name."""
    with pytest.raises(AddressError, match="no-such-host"):
        listen(["no-such-host.invalid:80"])


def test_open_files_are_raised() -> None:
    """The soft limit of open files becomes the hard one."""
    raise_open_files()

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft == hard


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_without_a_host_every_address_is_served(host: str) -> None:
    """`:PORT` takes IPv6 and IPv4 on one socket, as Go's exporters do."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")

    (listening,) = listen([":0"])
    with listening, socket.create_connection((host, listening.getsockname()[1]), timeout=5):
        assert address_of(listening).startswith("[::]:")


def without_ipv6(code: int) -> Opener:
    """Return what opens sockets on a system that refuses IPv6 addresses with this error."""

    def open_socket(host: str, port: int) -> socket.socket:
        if ":" in host:
            raise OSError(code, os.strerror(code))
        return open_listening(host, port)

    return open_socket


@pytest.mark.parametrize("code", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_without_a_host_ipv4_is_served_where_ipv6_is_off(code: int) -> None:
    """Where IPv6 is off, in the kernel or on all interfaces, `:PORT` is IPv4 alone."""
    (listening,) = listen([":0"], without_ipv6(code))
    with listening:
        assert address_of(listening).startswith("0.0.0.0:")


def test_a_port_that_is_taken_is_not_half_served() -> None:
    """IPv4 alone is for systems without IPv6: any other error of `:PORT` is an error."""
    with pytest.raises(AddressError, match="cannot listen on :0: Address already in use"):
        listen([":0"], without_ipv6(errno.EADDRINUSE))


@pytest.mark.parametrize(
    ("expected", "files"),
    [
        ((2000, 2000), 1_000_000),
        ((2000, 2000), resource.RLIM_INFINITY),
        ((2000, 500), 3000 + OTHER_FILES),
        ((1998, 499), 2997 + OTHER_FILES),
        ((136, 34), 300),
        ((32, 8), 96),
    ],
)
def test_connections_are_what_the_system_allows(expected: tuple[int, int], files: int) -> None:
    """Connections and handshakes share the files that other work leaves, up to what is asked for."""
    assert expected == client_limits(2000, files)
