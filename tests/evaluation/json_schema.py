"""As much of JSON Schema (draft 2020-12) as our own schemas use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "integer": int,
    "number": (int, float),
}
_KNOWN = {
    *("$schema", "$defs", "$ref", "title", "description", "type", "enum", "const", "anyOf"),
    *("properties", "required", "additionalProperties", "items", "minItems", "maxItems"),
    *("minimum", "pattern"),
}


def violations(
    value: Any, schema: dict[str, Any], root: dict[str, Any] | None = None, at: str = "$"
) -> Iterator[str]:
    """What in `value` is not as the schema says, each with its place.

    Raises:
        NotImplementedError: the schema uses a word that is not checked here.
    """
    root = schema if root is None else root
    if unknown := set(schema) - _KNOWN:
        raise NotImplementedError(f"{at}: {unknown}")
    if "$ref" in schema:
        yield from violations(value, root["$defs"][schema["$ref"].split("/")[-1]], root, at)
    if "anyOf" in schema and all(any(violations(value, s, root, at)) for s in schema["anyOf"]):
        yield f"{at}: none of the alternatives"
    if "const" in schema and value != schema["const"]:
        yield f"{at}: {value!r}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at}: {value!r}"
    names = schema.get("type", [])
    names = [names] if isinstance(names, str) else names
    if names and not any(_is(value, name) for name in names):
        yield f"{at}: {value!r} is not {names}"
        return
    if isinstance(value, dict):
        yield from _fields(value, schema, root, at)
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            yield f"{at}: {len(value)} items"
        for i, each in enumerate(value):
            yield from violations(each, schema.get("items", {}), root, f"{at}[{i}]")
    if isinstance(value, int | float) and value < schema.get("minimum", value):
        yield f"{at}: {value!r} is too small"
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        yield f"{at}: {value!r}"


def _fields(
    value: dict[str, Any], schema: dict[str, Any], root: dict[str, Any], at: str
) -> Iterator[str]:
    properties, more = schema.get("properties", {}), schema.get("additionalProperties", {})
    for name in schema.get("required", []):
        if name not in value:
            yield f"{at}: without {name}"
    for name, each in value.items():
        if name not in properties and more is False:
            yield f"{at}: {name} is too much"
        else:
            yield from violations(each, properties.get(name, more or {}), root, f"{at}.{name}")


def _is(value: Any, name: str) -> bool:
    number = name in ("integer", "number")
    return isinstance(value, _TYPES[name]) and not (number and isinstance(value, bool))
