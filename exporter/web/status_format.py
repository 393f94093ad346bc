"""Numbers, durations and times as the status page writes them: the filters of its template."""

from datetime import UTC, datetime
from itertools import pairwise

SPANS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"), (1, "s"))  # each with the next smaller one
PREFIXES = ((21, "Z"), (18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k"))
LEAST_AMOUNT = 1e-7  # eight decimals would round less to a digit or two


def duration(seconds: float) -> str:
    """Write a duration with its two largest units: `2 h 5 min`; below a second in milliseconds."""
    for (span, unit), (part, part_unit) in pairwise(SPANS):
        if seconds >= span:
            count, left = divmod(round(seconds / part), span // part)
            return f"{count} {unit} {left} {part_unit}" if left else f"{count} {unit}"
    milliseconds = round(seconds * 1000)
    return f"{milliseconds} ms" if milliseconds else "0 s"


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


def time(moment: float, form: str) -> str:
    """Write a Unix time in UTC; the form is one of strftime."""
    return datetime.fromtimestamp(moment, UTC).strftime(form)


FILTERS = {write.__name__: write for write in (duration, age, amount, si, size, time)}
