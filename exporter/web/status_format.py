"""Numbers, durations and times as the status page writes them: the filters of its template."""

from __future__ import annotations

from datetime import UTC, datetime

SPANS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
PREFIXES = ((21, "Z"), (18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k"))
MILLISECOND = 0.001
LEAST_AMOUNT = 1e-7  # eight decimals would round less to a digit or two


def duration(seconds: float) -> str:
    """Write a duration with its two largest units: `2 h 5 min`; below a second in milliseconds."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds >= MILLISECOND / 2 else "0 s"
    largest = next(place for place, (span, _) in enumerate(SPANS) if seconds >= span)
    units = SPANS[largest : largest + 2]
    left, parts = round(seconds / units[-1][0]) * units[-1][0], []
    for span, unit in units:
        count, left = divmod(left, span)
        parts.append(f"{count:.0f} {unit}" if count else "")
    return " ".join(filter(None, parts))


def age(seconds: float) -> str:
    """Write how long ago something was, in whole seconds."""
    return duration(max(0, round(seconds)))


def amount(coins: float) -> str:
    """Write coins with the API's eight decimals (reference: /user/balance's example), or with more."""
    if 0 < abs(coins) < LEAST_AMOUNT:
        return f"{coins:.3g}"
    return f"{coins:.8f}".rstrip("0").rstrip(".")


def si(value: float) -> str:
    """Write a number with three digits and a prefix: `12.3 k`."""
    for power, prefix in PREFIXES:
        if abs(value) >= 0.9995 * 10**power:  # three digits would round it up to this prefix
            return f"{value / 10**power:.3g} {prefix}"
    return f"{value:.3g} "


def size(count: float) -> str:
    """Write a number of bytes: `2 KiB`."""
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count >= 0.9995 * 2**power:
            return f"{count / 2**power:.3g} {unit}"
    return f"{count:.0f} B"


def hour(moment: float) -> str:
    """Write a Unix time as `Tue 14 Nov 22:00 UTC`."""
    return f"{datetime.fromtimestamp(moment, UTC):%a %d %b %H:%M} UTC"


def utc(moment: float) -> str:
    """Write a Unix time as `2023-11-14 22:13:20 UTC`."""
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M:%S} UTC"


def iso(moment: float) -> str:
    """Write a Unix time as `2023-11-14T22:13:20Z`."""
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%SZ}"


FILTERS = {
    "duration": duration,
    "age": age,
    "amount": amount,
    "si": si,
    "size": size,
    "hour": hour,
    "utc": utc,
    "iso": iso,
}
