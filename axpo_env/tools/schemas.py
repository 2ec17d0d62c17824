"""JSON schema for tools: plain parts are checked here, fast and in plain words, all else by the jsonschema library.

Plain is what the tools of the suite use: a type, bounds, a number of items, a choice of texts. The library is
imported for the first schema that is not. What a tool is, and what follows from a misfit, is left to `base`.
"""

import functools
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from axpo_env.names import shorten, unknown_name

_NOTES = {"type", "description", "title", "default", "examples"}
# Type -> keywords that `check_value` knows for it.
_PLAIN = {
    "string": frozenset(_NOTES | {"enum"}),
    "number": frozenset(_NOTES | {"minimum", "maximum"}),
    "integer": frozenset(_NOTES | {"minimum", "maximum"}),
    "array": frozenset(_NOTES | {"items", "minItems", "maxItems"}),
    "object": frozenset(_NOTES),
    "boolean": frozenset(_NOTES),
}
_BOUNDS = ("minimum", "maximum", "minItems", "maxItems")
# Keywords that say what other properties may be, and those whose parts have properties of their own.
_OPENING = {"additionalProperties", "patternProperties", "unevaluatedProperties"}
_PARTS = {"$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "if", "then", "else", "dependentSchemas"}
_NAMING = _OPENING | _PARTS


def is_plain(schema: Any) -> bool:
    """Whether `check_value` can check it all. Bounds of a wrong type are `check_parameters`' to find."""
    if not isinstance(schema, Mapping):
        return False
    kind = schema.get("type")
    known = _PLAIN.get(kind) if isinstance(kind, str) else None
    if known is None or not schema.keys() <= known:
        return False
    if kind == "array":
        return "items" in schema and is_plain(schema["items"])
    return "enum" not in schema or all(isinstance(choice, str) for choice in schema["enum"])


def check_value(name: str, value: Any, schema: Mapping[str, Any]) -> str | None:
    """What is wrong with `value` by a plain `schema`, or None."""
    expected = schema["type"]
    if not _has_type(value, expected):
        return f"{name} must be of type {expected}, not {shorten(value)}"
    if expected in ("number", "integer"):
        low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
        if not low <= value <= high:
            return f"{name} is {shorten(value)}, must lie in {low} to {high}"
    elif expected == "string":
        if "enum" in schema and value not in schema["enum"]:
            return unknown_name(f"value of {name}", value, schema["enum"])
    elif expected == "array":
        low, high = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        if not low <= len(value) <= high:
            count = f"exactly {low}" if low == high else f"{low} to {high}"
            return f"{name} has {len(value)} items, must have {count}"
        for position, item in enumerate(value):
            problem = check_value(f"{name}[{position}]", item, schema["items"])
            if problem is not None:
                return problem
    return None


def _has_type(value: Any, expected: str) -> bool:
    if expected == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    if expected == "number":
        # An integer is always finite, and one of 400 digits overflows isfinite.
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        return is_integer or (isinstance(value, float) and math.isfinite(value))
    types: dict[str, type] = {"string": str, "array": list, "object": dict, "boolean": bool}
    return isinstance(value, types[expected])


def allows_others(parameters: Mapping[str, Any]) -> bool:
    """Whether arguments that `properties` does not name may fit: it leaves them open, or parts of it name them."""
    if "additionalProperties" in parameters:
        return parameters["additionalProperties"] is not False or "patternProperties" in parameters
    return not _NAMING.isdisjoint(parameters)


def check_parameters(parameters: Any) -> None:
    """Raise ValueError or TypeError unless `parameters` is a JSON schema that an object may fit."""
    if not isinstance(parameters, Mapping):
        raise TypeError(f"parameters must be a JSON schema, not {shorten(parameters)}")
    kind = parameters.get("type", "object")
    if "object" not in (kind if isinstance(kind, list | tuple) else [kind]):
        raise ValueError(f"parameters must be of type 'object', not {shorten(kind)}")
    properties, required = parameters.get("properties", {}), parameters.get("required", [])
    plain = isinstance(properties, Mapping) and all(map(_is_sound, properties.values()))
    plain = plain and isinstance(required, list | tuple) and all(isinstance(name, str) for name in required)
    if not plain or not parameters.keys() <= {"type", "properties", "required"}:
        _validator(json.dumps(parameters))
    for name in required:
        if not _may_have(parameters, name):
            known = [other for other in properties if properties[other] is not False]
            raise ValueError(
                f"it requires {name!r}, which it does not allow: {unknown_name('property', name, known)}"
            )


def _may_have(parameters: Mapping[str, Any], name: str) -> bool:
    """Whether an argument may be called so."""
    properties = parameters.get("properties", {})
    if name in properties:
        return properties[name] is not False
    if parameters.get("additionalProperties") is False:
        return any(re.search(pattern, name) for pattern in parameters.get("patternProperties", ()))
    return allows_others(parameters)


def _is_sound(schema: Any) -> bool:
    """Whether it is plain and its bounds are numbers, so that nobody need ask the library."""
    if not is_plain(schema):
        return False
    bounds = [schema[name] for name in _BOUNDS if name in schema]
    sound = all(_has_type(bound, "number") for bound in bounds)
    return sound and ("items" not in schema or _is_sound(schema["items"]))


def misfit(parameters: Mapping[str, Any], arguments: Mapping[str, Any]) -> str | None:
    """What is wrong with `arguments` by any JSON schema, or None. What no part of it names is wrong, too."""
    from jsonschema.exceptions import best_match

    schemas = [parameters]
    if not _PARTS.isdisjoint(parameters) and _OPENING.isdisjoint(parameters):
        schemas.append({**parameters, "unevaluatedProperties": False})
    try:
        errors = (
            best_match(_validator(json.dumps(schema)).iter_errors(dict(arguments))) for schema in schemas
        )
        error = next((error for error in errors if error is not None), None)
    except (RecursionError, OverflowError):
        return "the arguments are nested too deeply or hold too large a number"
    if error is None:
        return None
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)[1:]
    where = where or "the arguments"
    keyword, allowed = error.validator, error.validator_value
    value = shorten(error.instance)
    if keyword is None:  # its schema is `false`
        return f"{where}: {value} is not allowed"
    if keyword in ("required", "unevaluatedProperties"):  # names what is missing, or too much
        return f"{where}: {error.message[:300]}"
    return f"{where}: {value} does not fit {keyword}: {shorten(allowed, limit=200)}"


@functools.lru_cache(maxsize=256)
def _validator(text: str) -> Any:
    """A validator of the JSON schema `text`. Raises ValueError if it is none, or refers to what is not in it."""
    from jsonschema import Draft202012Validator as Draft
    from jsonschema import FormatChecker, SchemaError, validators
    from referencing import Registry

    schema = json.loads(text)
    try:
        Draft.check_schema(schema, format_checker=FormatChecker(("regex",)))
    except SchemaError as error:
        where = "/".join(map(str, error.absolute_path))
        raise ValueError(f"no JSON schema at {where or 'its top'}: {error.message[:300]}") from error
    _check_references(schema)
    # Numbers as everywhere in the suite: finite, and an integer is written as one.
    types = Draft.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda _, value: _has_type(value, "integer"),
            "number": lambda _, value: _has_type(value, "number"),
        }
    )
    return validators.extend(Draft, type_checker=types)(schema, registry=Registry())


def _check_references(schema: Any) -> None:
    """Raise ValueError for a reference that leads to no schema in `schema`. Those that are led to count as well."""
    from jsonschema import Draft202012Validator as Draft
    from jsonschema import SchemaError
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    root = DRAFT202012.create_resource(schema)
    waiting = [(root, Registry().resolver_with_root(root))]
    seen = set()
    while waiting:
        resource, resolver = waiting.pop()
        if not isinstance(resource.contents, dict) or id(resource.contents) in seen:
            continue
        seen.add(id(resource.contents))
        waiting += [(part, resolver.in_subresource(part)) for part in resource.subresources()]
        for reference in (
            resource.contents[key] for key in ("$ref", "$dynamicRef") if key in resource.contents
        ):
            try:
                found = resolver.lookup(reference)
            except (Unresolvable, LookupError, TypeError, ValueError) as error:
                raise ValueError(f"it refers to {reference!r}, which is not in it") from error
            try:
                Draft.check_schema(found.contents)
            except SchemaError as error:
                raise ValueError(f"it refers to {reference!r}, which is no JSON schema") from error
            waiting.append((DRAFT202012.create_resource(found.contents), found.resolver))
