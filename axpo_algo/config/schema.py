"""What nested config dataclasses say of their keys: names, defaults, the sentence under each field.

Refuses unknown names. Types, files and command lines are left to `axpo_algo.config.loading`.
"""

import re
import typing
from collections import abc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from types import UnionType
from typing import Any, Union

import docstring_parser

from axpo_sandbox.names import nearest_name, unknown_name


class ConfigError(ValueError):
    """A configuration that cannot be built: unknown key, wrong type, value out of range, missing file."""


def known_keys(cls: type, prefix: str = "") -> dict[str, Any]:
    """Every dotted key of `cls` and its annotation, groups included, in the order of the fields."""
    known: dict[str, Any] = {}
    for name, annotation in typing.get_type_hints(cls).items():
        known[prefix + name] = annotation
        inner = dataclass_in(annotation)
        if inner is not None and not _is_sequence(annotation):
            known.update(known_keys(inner, f"{prefix}{name}."))
    return known


def annotation_of(cls: type, key: str) -> Any:
    """The annotation of what the dotted `key` names, items of lists included (`sft.phases.2.sources`).

    Any below a free mapping; None where `cls` has no such key.
    """
    annotation: Any = cls
    for name in key.split("."):
        inner = dataclass_in(annotation)
        if _is_sequence(annotation):
            annotation = _item(annotation) if name.isdecimal() else None
        elif inner is not None:
            annotation = typing.get_type_hints(inner).get(name)
        else:
            free = annotation is Any or typing.get_origin(annotation) in (dict, Mapping, abc.Mapping)
            annotation = Any if free else None
        if annotation is None:
            return None
    return annotation


def defaults(cls: type) -> dict[str, Any]:
    """Defaults of `cls` as nested plain values; fields without a default are absent."""
    found: dict[str, Any] = {}
    for field in fields(cls):
        if field.default is not MISSING:
            found[field.name] = plain(field.default)
        elif field.default_factory is not MISSING:
            found[field.name] = plain(field.default_factory())
    return found


def complete(values: Mapping[str, Any], cls: type) -> dict[str, Any]:
    """`values` with every missing default filled in, in the items of lists too.

    Raises ConfigError for a key, at any depth, that is not a field, for a group that is not a mapping, and for one
    that lacks a field without a default.
    """
    return _complete(values, cls, "", known_keys(cls))


def split_keys(values: Mapping[str, Any], cls: type, wider: type) -> dict[str, Any]:
    """The part of `values` that `cls` takes; the rest must be keys of `wider`, else ConfigError, and is left out."""
    own, known = typing.get_type_hints(cls), typing.get_type_hints(wider)
    _complete(
        {key: value for key, value in values.items() if key in known and key not in own}, wider, "", known
    )
    return {key: value for key, value in values.items() if key in own or key not in known}


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` on top: mappings merge, everything else replaces. Neither argument changes."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def plain(value: Any) -> Any:
    """Dataclasses and mappings as dicts, tuples as lists, all the way down."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def dataclass_in(annotation: Any) -> type | None:
    """The dataclass that an annotation holds (itself, in `X | None`, in a list or tuple), or None."""
    if isinstance(annotation, type) and is_dataclass(annotation):
        return annotation
    if typing.get_origin(annotation) in (Union, UnionType, list, tuple):
        found = (dataclass_in(argument) for argument in typing.get_args(annotation))
        return next((inner for inner in found if inner is not None), None)
    return None


def field_lines(cls: type, prefix: str = "") -> Iterator[str]:
    """One line per key that is not a group: dotted name, type, default, the sentence under the field.

    Keys of a list's items follow the list, with N for the item's number.
    """
    params = docstring_parser.parse_from_object(cls).params
    comments = {item.arg_name: " ".join((item.description or "").split()) for item in params}
    values = defaults(cls)
    for name, annotation in typing.get_type_hints(cls).items():
        inner = dataclass_in(annotation)
        if inner is not None and not _is_sequence(annotation):
            yield from field_lines(inner, f"{prefix}{name}.")
            continue
        # str(annotation) writes modules out; a reader wants Mapping, not collections.abc.Mapping.
        kind = annotation.__name__ if type(annotation) is type else re.sub(r"\b\w+\.", "", str(annotation))
        default = repr(values[name]) if name in values else "(required)"
        yield f"{prefix}{name}: {kind} = {default}" + (f"  # {comments[name]}" if comments.get(name) else "")
        if inner is not None:
            yield from field_lines(inner, f"{prefix}{name}.N.")


def _complete(values: Mapping[str, Any], cls: type, prefix: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """`complete` for what stands under `prefix`; `known` are the keys of the whole, to find the nearest."""
    hints = typing.get_type_hints(cls)
    completed = merge(defaults(cls), values)
    absent = [name for name in hints if name not in completed]
    if prefix and absent and set(values) <= set(hints):
        raise ConfigError(f"{prefix}{absent[0]} is missing: {prefix.rstrip('.')!r} has no default for it")
    for name, value in completed.items():
        key = f"{prefix}{name}"
        if name not in hints:
            raise ConfigError(_unknown_key(key, prefix, list(hints), list(known)))
        inner = dataclass_in(hints[name])
        if inner is None or (value is None and type(None) in typing.get_args(hints[name])):
            continue
        if not _is_sequence(hints[name]):
            completed[name] = _complete(_mapping(value, key), inner, f"{key}.", known)
        elif isinstance(value, (list, tuple)):
            items = {f"{key}.{index}": item for index, item in enumerate(value)}
            completed[name] = [
                _complete(_mapping(item, at), inner, f"{at}.", known) for at, item in items.items()
            ]
        else:
            raise ConfigError(f"{key!r} must be a list of mappings, got {value!r}")
    return completed


def _mapping(value: Any, key: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key!r} must be a mapping of keys, got {value!r}")
    return value


def _unknown_key(key: str, prefix: str, names: Sequence[str], known: Sequence[str]) -> str:
    """The sentence that refuses `key`: what is known beside it, and the nearest key anywhere."""
    leaf = key.rsplit(".", 1)[-1]
    same_name = [other for other in known if other.rsplit(".", 1)[-1] == leaf]
    nearest = nearest_name(key, same_name or [*known, *(prefix + name for name in names)], cutoff=0.0)
    where = f" under {prefix.rstrip('.')!r}" if prefix else " at the top"
    return unknown_name("key", key, names, where=where, nearest=nearest)


def _is_sequence(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (list, tuple)


def _item(annotation: Any) -> Any:
    """The annotation of a list's or tuple's first item; those of the settings are all alike."""
    return next(iter(typing.get_args(annotation)), None)
