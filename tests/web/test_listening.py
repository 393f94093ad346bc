"""Addresses and listening sockets."""

from __future__ import annotations

import resource

import pytest

from exporter.web.listening import FLAG, AddressError, address_of, listen, parse_address, raise_open_files


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
