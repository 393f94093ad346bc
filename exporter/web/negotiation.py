"""Content negotiation of a scrape: which format its Accept header prefers, and whether it takes gzip."""

from collections.abc import Iterator, Mapping
from functools import lru_cache

from exporter.pages.text import Format

CACHE_SIZE = 256  # results that are remembered; scrapers send a handful of headers
# How specific a media range is about each format that it matches; of two that match, the higher one counts.
SPECIFICITY: Mapping[str, Mapping[Format, int]] = {
    "application/openmetrics-text": {Format.OPENMETRICS: 4},
    "text/plain": {Format.TEXT: 4},
    "application/*": {Format.OPENMETRICS: 3},
    "text/*": {Format.TEXT: 3},
    "*/*": {Format.TEXT: 2, Format.OPENMETRICS: 1},
}
# A media range that names another version does not match.
VERSIONS = {"application/openmetrics-text": "1.0.0", "text/plain": "0.0.4"}


@lru_cache(CACHE_SIZE)
def preferences(accept: bytes, accept_encoding: bytes) -> tuple[Format, bool]:
    """Return the format that a scraper prefers, and whether it takes gzip."""
    return negotiate(accept.decode("latin-1")), accepts_gzip(accept_encoding.decode("latin-1"))


def negotiate(accept: str) -> Format:
    """Choose the format an Accept header prefers by q-value (RFC 9110, 12.5.1); text when in doubt."""
    quality = {Format.TEXT: (0, 0.0), Format.OPENMETRICS: (0, 0.0)}  # specificity of the best match, its q
    for media, parameters, q in _ranges(accept):
        version = parameters.get("version")
        if version in {None, VERSIONS.get(media, version)}:
            for format_, specificity in SPECIFICITY.get(media, {}).items():
                quality[format_] = max(quality[format_], (specificity, q))
    text, openmetrics = quality[Format.TEXT][1], quality[Format.OPENMETRICS][1]
    return Format.OPENMETRICS if openmetrics > text else Format.TEXT


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding header takes gzip, and does not prefer identity (RFC 9110, 12.5.3)."""
    quality = {"gzip" if coding == "x-gzip" else coding: q for coding, _, q in _ranges(accept_encoding)}
    gzip = quality.get("gzip", quality.get("*", 0.0))
    return gzip > 0 and gzip >= quality.get("identity", 0.0)


def _ranges(header: str) -> Iterator[tuple[str, Mapping[str, str], float]]:
    """Split a header into its ranges: lower-case name, parameters, q; ranges with a bad q are omitted."""
    for item in header.split(","):
        name, *rest = item.split(";")
        pairs = (part.partition("=") for part in rest)
        parameters = {key.strip().lower(): value.strip().strip('"').lower() for key, _, value in pairs}
        try:
            q = float(parameters.pop("q", "1"))
        except ValueError:
            continue
        if name.strip() and 0 <= q <= 1:
            yield name.strip().lower(), parameters, q
