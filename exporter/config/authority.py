"""`api.ca_file`: the certificates of an authority of one's own."""

import ssl
from codecs import BOM_UTF8
from pathlib import Path

from msgspec import Struct

from exporter.config.secret import read_regular

MAX_BYTES = 4 << 20  # all roots that browsers trust are a quarter of a MiB


class Authority(Struct, frozen=True, gc=False):
    """The file, and the certificates in it as read at load: other certificates make it another authority."""

    file: Path
    pem: str


def read_authority(file: Path) -> Authority:
    """Read the certificates in a PEM file. Raises ValueError, whose text does not hold the path."""
    data, _ = read_regular(file, MAX_BYTES)
    if len(data) > MAX_BYTES:
        raise ValueError(f"has more than {MAX_BYTES >> 20} MiB, which no list of certificates has")
    # ssl takes no comment that is not ASCII, and no byte order mark.
    pem = data.removeprefix(BOM_UTF8).decode("ascii", "replace").replace("\ufffd", "?")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError):
        pem = ""
    if not pem:  # raised outside the except block: the context would hold the file
        raise ValueError("holds no certificate that can be read: it needs PEM, -----BEGIN CERTIFICATE-----")
    return Authority(file, pem)
