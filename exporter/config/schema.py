"""Reads a document by the types of its sections: each value is read or reported.

msgspec alone stops at the first fault, so `read` walks the structs over the document value by value. It never
raises for what users write: every fault goes into `Problems`.
"""

import difflib
from functools import cache
from typing import Annotated, Any, Literal, NoReturn, get_args, get_origin

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from exporter.config.problems import SHOWN, Problems, join, quoted, type_name


class Section(Struct, kw_only=True, forbid_unknown_fields=True):
    """A mapping of the file; unknown keys are problems.

    UNSET: the key is not in the file. In what `read` returns it stands for a fault that is already reported.
    """


def rejected(reason: str) -> Meta:
    """Mark a key that is known and always rejected, for this reason."""

    def reject(_value: object) -> NoReturn:
        raise ValueError(reason)

    return Meta(extra={"read": reject})


@cache
def fields(section: type[Section]) -> dict[str, msgspec.structs.FieldInfo]:
    """Return the fields of a section by name."""
    return {field.name: field for field in msgspec.structs.fields(section)}


@cache
def defaults(section: type[Section]) -> dict[str, Any]:
    """Return the defaults of a section's keys, as `read` would return them."""
    return {
        name: _scalar(field.default, field.type)
        for name, field in fields(section).items()
        if not field.required and field.default is not UNSET
    }


def read(value: object, type_: Any, path: str, problems: Problems) -> Any:
    """Return the value as the program uses it, UNSET in place of a fault.

    A section becomes a dict of the keys in the document, durations are in seconds, sizes in bytes. An empty
    section or list is the same as an absent one.
    """
    if value is UNSET:  # a fault of YAML, already reported
        return UNSET
    base, meta = unwrap(type_)
    try:
        if isinstance(base, type) and issubclass(base, Section):
            return _section(value, base, path, problems)
        if get_origin(base) is not list:
            return _scalar(value, type_)
        items = _expected(list, value)
    except ValueError as error:
        problems.add(path, str(error))
        return UNSET
    if not items and meta.min_length:
        problems.add(path, f"empty: {meta.description}")
    (item_type,) = get_args(base)
    return [read(item, item_type, f"{path}[{index}]", problems) for index, item in enumerate(items)]


def write(values: dict[str, Any], section: type[Section]) -> dict[str, Any]:
    """Return a section's values as a document has them: durations and sizes with their units."""
    types = {name: unwrap(field.type)[1].extra or {} for name, field in fields(section).items()}
    return {key: types[key].get("write", lambda plain: plain)(value) for key, value in values.items()}


def unwrap(type_: Any) -> tuple[Any, Meta]:
    """Return the type within `| UnsetType` and Annotated, and all of its metadata as one."""
    metas: list[Any] = []
    while get_origin(type_) is Annotated or UnsetType in get_args(type_):
        type_, *more = get_args(type_)
        metas = [*more, *metas]
    keys = ("ge", "le", "min_length", "description", "extra")
    merged = {key: item for meta in metas for key in keys if (item := getattr(meta, key, None)) is not None}
    return type_, Meta(**merged)


def _expected(kind: type, value: object) -> Any:
    """Return a list or mapping, empty if there is nothing. Raises ValueError."""
    if value is None or isinstance(value, kind):
        return value or kind()
    raise ValueError(f"expected {type_name(kind())}, got {type_name(value)}")


def _section(value: object, section: type[Section], path: str, problems: Problems) -> Any:
    entries = _expected(dict, value)
    keys, values = fields(section), {}
    for key, item in entries.items():
        if key in keys:
            values[key] = read(item, keys[key].type, join(path, key), problems)
        else:
            # Looking for a similar key takes long, so not for thousands that are not shown.
            shown = len(problems.reported) < SHOWN
            near = difflib.get_close_matches(str(key)[:64], keys, n=1) if shown else []
            hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(keys)}"
            problems.add(join(path, key), f"unknown key; {hint}", problems.hidden_lines.get((path, key)))
    for name, field in keys.items():
        if field.required and name not in entries:
            problems.add(join(path, name), f"missing: {unwrap(field.type)[1].description}")
    return {key: item for key, item in values.items() if item is not UNSET}


def _scalar(value: object, type_: Any) -> Any:
    """Return a value that is neither section nor list. Raises ValueError, which never repeats free text."""
    base, meta = unwrap(type_)
    if value is None:
        raise ValueError("nothing is given: give a value or remove the key")
    if meta.extra:
        return meta.extra["read"](value)
    try:
        return msgspec.convert(value, type_)
    except msgspec.ValidationError:
        text = quoted(value)
    if get_origin(base) is Literal:
        raise ValueError(f"expected one of {', '.join(get_args(base))}, got {text}")
    expected = "true or false" if base is bool else f"a whole number from {meta.ge} to {meta.le}"
    raise ValueError(f"expected {expected}, got {type_name(value) if isinstance(value, str) else text}")
