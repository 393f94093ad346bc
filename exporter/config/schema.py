"""A document read by its types: each leaf is read or reported.

`read` walks the structs over the document leaf by leaf, because msgspec alone stops at the first fault. It
raises nothing for what people write: it all goes into `Findings`.
"""

from __future__ import annotations

import difflib
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from exporter.config.problems import join, kind, shown

if TYPE_CHECKING:
    from exporter.config.problems import Findings


class Section(Struct, kw_only=True, forbid_unknown_fields=True):
    """A mapping of the file; keys it does not know are problems. UNSET is a key that has no default here."""


@cache
def _fields(struct: type[Section]) -> dict[str, msgspec.structs.FieldInfo]:
    return {field.name: field for field in msgspec.structs.fields(struct)}


@cache
def defaults(struct: type[Section]) -> dict[str, Any]:
    """Return the leaves of a section that have a default, as we use them."""
    fields = _fields(struct).values()
    given = [field for field in fields if not field.required and field.default is not UNSET]
    return {field.name: _leaf(field.default, field.type) for field in given}


def read(value: object, type_: Any, path: str, found: Findings) -> Any:
    """Return the value as we use it: sections as dicts of the keys given, UNSET in place of a fault.

    Durations come in seconds, sizes in bytes; nothing under the key of a section or list is as if absent.
    """
    if value is UNSET:  # a fault of YAML, told already
        return UNSET
    base, meta = unwrap(type_)
    if isinstance(base, type) and issubclass(base, Section):
        return _section(value, base, path, found)
    if get_origin(base) is list:
        return _list(value, get_args(base)[0], meta, path, found)
    if value is None:
        found.add(path, "nothing is given: give a value or remove the key")
        return UNSET
    try:
        return _leaf(value, type_)
    except ValueError as error:
        found.add(path, str(error))
        return UNSET


_TOLD = ("ge", "le", "min_length", "description", "extra")


def unwrap(type_: Any) -> tuple[Any, Meta]:
    """Return the type within `| UnsetType` and Annotated, and all of its metadata as one."""
    if UnsetType in get_args(type_):
        type_ = get_args(type_)[0]
    if get_origin(type_) is not Annotated:
        return type_, Meta()
    base, *metas = get_args(type_)
    told = {key: said for meta in metas for key in _TOLD if (said := getattr(meta, key)) is not None}
    return base, Meta(**told)


def _section(value: object, struct: type[Section], path: str, found: Findings) -> Any:
    entries = {} if value is None else value
    if not isinstance(entries, dict):
        found.add(path, f"expected a mapping, got {kind(value)}")
        return UNSET
    fields, given = _fields(struct), {}
    for key, item in entries.items():
        if key in fields:
            given[key] = read(item, fields[key].type, join(path, key), found)
        else:
            near = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(fields)}"
            found.add(join(path, key), f"unknown key; {hint}")
    for name, field in fields.items():
        if field.required and name not in entries:
            found.add(join(path, name), f"missing: {unwrap(field.type)[1].description}")
    return {key: item for key, item in given.items() if item is not UNSET}


def _list(value: object, type_: Any, meta: Meta, path: str, found: Findings) -> Any:
    entries = [] if value is None else value
    if not isinstance(entries, list):
        found.add(path, f"expected a list, got {kind(value)}")
        return UNSET
    if not entries and meta.min_length:
        found.add(path, f"empty: {meta.description}")
    return [read(entry, type_, f"{path}[{index}]", found) for index, entry in enumerate(entries)]


def _leaf(value: object, type_: Any) -> Any:
    """Return a leaf as we use it. Raises ValueError, which never repeats free text."""
    base, meta = unwrap(type_)
    if meta.extra:
        return meta.extra["read"](value)
    try:
        return msgspec.convert(value, type_)
    except msgspec.ValidationError:
        text = shown(value)
    if get_origin(base) is Literal:
        raise ValueError(f"expected one of {', '.join(get_args(base))}, got {text}")
    expected = "true or false" if base is bool else f"a whole number from {meta.ge} to {meta.le}"
    raise ValueError(f"expected {expected}, got {kind(value) if isinstance(value, str) else text}")
