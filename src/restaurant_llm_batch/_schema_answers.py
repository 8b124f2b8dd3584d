"""Answers from a JSON Schema alone, in place of what a model would say: `answer_from_schema`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def answer_from_schema(schema: Mapping[str, Any], index: int = 0, *, text: str = "text") -> Any:
    """
    Return the smallest value of a JSON Schema.

    Objects have their required properties (all of them if none is required), and lists as few elements as allowed, but
    at least one.

    Args:
        schema: The schema.
        index: Index in the list around the value, from 0: numbers count up from their minimum, as ids do.
        text: Every text in the value, filled up to its least length.
    """
    kind = schema.get("type")
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return answer_from_schema(schema["anyOf"][0], index, text=text)
    if kind == "object":
        properties = schema.get("properties") or {}
        names = schema.get("required") or properties
        return {name: answer_from_schema(properties[name], index, text=text) for name in names}
    if "prefixItems" in schema:
        return [answer_from_schema(part, text=text) for part in schema["prefixItems"]]
    if kind == "array":
        items, length = schema.get("items", {}), max(1, schema.get("minItems", 1))
        return [answer_from_schema(items, n, text=text) for n in range(length)]
    if kind in ("integer", "number"):
        least = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
        return least + index if kind == "integer" else float(least)
    if kind == "boolean":
        return True
    return None if kind == "null" else text.ljust(schema.get("minLength", 0), ".")
