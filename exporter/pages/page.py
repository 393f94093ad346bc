"""One exposition at one moment: the text of families by site, and the finished bytes made of it."""

import gzip
from collections.abc import Sequence
from itertools import count

from exporter.collectors.registry import SITE_METRICS
from exporter.pages.text import Format, header, to_openmetrics

SiteText = tuple[bytes | None, ...]

GZIP_LEVEL = 1  # twice the size of level 9 in a tenth of its time; the next scrape is seconds away
HELP_LINES = {format_: tuple(header(metric, format_) for metric in SITE_METRICS) for format_ in Format}
NO_SITE: SiteText = (None,) * len(SITE_METRICS)

_numbers = count()


def help_bytes(sites: Sequence[SiteText]) -> int:
    """Return the size of the headers of all families that one of the sites has, in the text format."""
    columns = zip(HELP_LINES[Format.TEXT], zip(*(sites or [NO_SITE]), strict=True), strict=True)
    return sum(len(head) for head, column in columns if any(column))


class Page:
    """What is exported at one moment. Its bytes are made when they are first asked for, and then kept.

    `own` are the exporter's own metrics in the text format. Later pages have higher numbers.
    """

    def __init__(self, sites: Sequence[SiteText], own: bytes = b"") -> None:
        self.number = next(_numbers)
        self._sites = sites or [NO_SITE]
        self._own = own
        self._finished: dict[tuple[Format, bool], bytes] = {}

    def is_finished(self, format_: Format, *, zipped: bool) -> bool:
        """Whether the bytes were asked for before."""
        return (format_, zipped) in self._finished

    def finish(self, format_: Format, *, zipped: bool) -> bytes:
        """Return the bytes, plain or as one gzip member. May be called in any thread."""
        body = self._finished.get((format_, zipped))
        if body is None:
            texts: list[bytes] = []
            for head, column in zip(HELP_LINES[format_], zip(*self._sites, strict=True), strict=True):
                samples = [text for text in column if text is not None]
                if samples:
                    texts += head, *samples
            own = to_openmetrics(self._own) if format_ is Format.OPENMETRICS else self._own
            body = b"".join((*texts, own, format_.end))
            if zipped:
                body = gzip.compress(body, GZIP_LEVEL, mtime=0)
            self._finished[format_, zipped] = body
        return body
