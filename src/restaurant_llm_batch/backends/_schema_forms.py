"""
JSON schemas of requests in the form that a service takes best.

`LLMRequest.schema` is the same for every backend. A backend whose server compiles a grammar for each request asks for
labels as an object keyed by number, ``{"labels": {"1": "positive", ...}}``. Measured on vLLM, it takes 4.8 tokens a
label where the list of objects takes 11.1, and the model cannot count wrongly. The tasks read both forms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..models import LLMRequest

Schema = Mapping[str, Any]

_MAX_KEYED = 1000
"""Maximum number of keys of an object that replaces a list."""
_KEPT = 256
"""How many converted schemas a backend keeps. Built-in tasks have a few, and one for each size of a batch."""
_BOUNDS = frozenset({"maxLength", "minLength", "maxItems", "minItems", "maximum", "minimum"})


class SchemaForms:
    """
    Converts the schemas of requests, and keeps the results, since most requests share theirs.

    Args:
        convert: The conversion. It returns its argument if there is nothing to convert.
    """

    def __init__(self, convert: Callable[[Schema], Schema]) -> None:
        self._convert = convert
        # By identity: a schema is a mapping and has no hash. It is kept as well, so that its id is not given away.
        self._known: dict[int, tuple[Schema, Schema]] = {}

    def adapt(self, request: LLMRequest) -> LLMRequest:
        """Return a request with its schema converted."""
        schema = request.schema
        if schema is None:
            return request
        known = self._known.get(id(schema))
        if known is None or known[0] is not schema:
            if len(self._known) >= _KEPT:
                self._known.clear()
            known = self._known[id(schema)] = schema, self._convert(schema)
        return request if known[1] is schema else replace(request, schema=known[1])


def labels_by_number(schema: Schema) -> Schema:
    """Return a schema with each list of n numbered labels, n known, as an object with the keys "1" to "n"."""
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return schema
    keyed = {name: _keyed(part) for name, part in properties.items()}
    if all(keyed[name] is part for name, part in properties.items()):
        return schema
    return {**schema, "properties": keyed}


def _keyed(part: Any) -> Any:
    if not isinstance(part, Mapping) or part.get("type") != "array":
        return part
    count, items = part.get("maxItems"), part.get("items")
    fields = items.get("properties") if isinstance(items, Mapping) else None
    if not isinstance(fields, Mapping) or set(fields) != {"id", "label"}:
        return part
    if type(count) is not int or part.get("minItems") != count or not 1 <= count <= _MAX_KEYED:
        return part
    numbers = fields["id"]
    if (numbers.get("minimum"), numbers.get("maximum")) != (1, count) or "enum" not in fields["label"]:
        return part
    keys = [str(number) for number in range(1, count + 1)]
    return {
        "type": "object",
        "properties": dict.fromkeys(keys, fields["label"]),
        "required": keys,
        "additionalProperties": False,
    }


def without_bounds(schema: Schema) -> Schema:
    """Return a schema without bounds on numbers, lists and texts, which OpenAI's fine-tuned models refuse."""
    return {
        name: {key: without_bounds(part) for key, part in value.items()}
        if name in ("properties", "$defs", "definitions")
        else _without_bounds(value)
        for name, value in schema.items()
        if name not in _BOUNDS
    }


def _without_bounds(value: Any) -> Any:
    if isinstance(value, Mapping):
        return without_bounds(value)
    if isinstance(value, list):
        return [_without_bounds(element) for element in value]
    return value
