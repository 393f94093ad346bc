"""Answers that cost a careless decoder much time and memory, each of about as many bytes as asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def filled(size: int, begin: str, part: str, end: str) -> bytes:
    """Return as much of `part` as fits; a `#` in it is a number that is another each time."""
    count = (size - len(begin) - len(end)) // (len(part) + 7 * part.count("#"))
    parts = (
        "".join(part.replace("#", f"{number:07}") for number in range(count)) if "#" in part else part * count
    )
    return f"{begin}{parts}".removesuffix(",").encode() + end.encode()


NESTED = "[" * 400 + "]" * 400
USER = '"total":1,"withdrawn":1,"balance":1'

HOSTILE: dict[str, Callable[[int], bytes]] = {
    "empty lists": lambda size: filled(size, '{"success":1,"users":[', "[],", "]}"),
    "empty lists, successful": lambda size: filled(size, '{"success":true,"users":[', "[],", "]}"),
    "numbers": lambda size: filled(size, '{"success":true,"users":[', "0,", "]}"),
    "deep lists": lambda size: filled(size, '{"success":1,"users":[', f"{NESTED},", "]}"),
    "deep lists, successful": lambda size: filled(size, '{"success":true,"users":[', f"{NESTED},", "]}"),
    "unknown keys": lambda size: filled(size, '{"success":true,"users":[],', '"#":1,', "}"),
    "one key again and again": lambda size: filled(size, '{"success":true,', '"users":[],', "}"),
    "objects in success": lambda size: filled(size, '{"users":[],"success":[', "{},", "]}"),
    "objects in an error": lambda size: filled(size, '{"users":[],"error":[', "{},", "]}"),
    "objects in nextPage": lambda size: filled(size, '{"success":true,"users":[],"nextPage":[', "{},", "]}"),
    "an error of many letters": lambda size: filled(size, '{"error":"', "\\u00e9", '"}'),
    "short users": lambda size: filled(size, '{"success":true,"users":[', f'{{"name":"#",{USER}}},', "]}"),
    "half pairs": lambda size: filled(
        size, '{"success":true,"users":[', f'{{"name":"\\ud800#",{USER}}},', "]}"
    ),
    "one long name": lambda size: filled(
        size, f'{{"success":true,"users":[{{{USER},"name":"', "\\ud800" + 24 * "x", '"}]}'
    ),
    "a list in each user": lambda size: filled(
        size, '{"success":true,"users":[', f'{{"name":"#",{USER},"x":[{"[]," * 500}0]}},', "]}"
    ),
    "halves alone in a name": lambda size: filled(size, '{"success":true,"users":["', "\\ud800", '"]}'),
    "pairs in nextPage": lambda size: filled(
        size, '{"success":true,"users":[],"nextPage":"', "\\ud83d\\ude00", '"}'
    ),
    "halves in an error": lambda size: filled(size, '{"error":"', "\\ud800", '"}'),
    "blanks": lambda size: b" " * (size - 2) + b"{}",
    "no JSON after all": lambda size: filled(size, '{"success":true,"users":[', "[],", ""),
}
