"""
OpenAI strict mode: checks whether a JSON schema lies within the subset that Structured Outputs supports.

In strict mode the model cannot deviate from the schema, but a schema outside the documented subset is rejected in
every call. So a doubtful schema counts as unsupported: it is sent with ``"strict": false``, and the task validates
the reply as it always does. Subset and limits:
https://platform.openai.com/docs/guides/structured-outputs#supported-schemas
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MAX_PROPERTIES, _MAX_DEPTH, _MAX_ENUM_VALUES = 5_000, 10, 1_000
_MAX_CHARACTERS, _LONG_ENUM, _MAX_LONG_ENUM_CHARACTERS = 120_000, 250, 15_000
_MAX_NODES = 50_000  # ours, not OpenAI's: definitions that refer to each other can expand exponentially

_COMMON_KEYWORDS = frozenset({"type", "title", "description", "enum", "const"})
_NUMBER_KEYWORDS = frozenset({"multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_TYPE_KEYWORDS: Mapping[str, frozenset[str]] = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "minItems", "maxItems"}),
    "string": frozenset({"pattern", "format", "minLength", "maxLength"}),
    "number": _NUMBER_KEYWORDS,
    "integer": _NUMBER_KEYWORDS,
    "boolean": frozenset(),
    "null": frozenset(),
}
_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
_DEFINITIONS = ("$defs", "definitions")


class _Unsupported(Exception):
    """The schema is outside the subset."""


def is_strict(schema: Mapping[str, Any]) -> bool:
    """Return whether a schema is within the subset and its size limits."""
    try:
        _Check(schema).root()
    except (_Unsupported, AttributeError, TypeError):  # the latter two: a malformed schema
        return False
    return True


class StrictCache:
    """
    Remembers which schemas are strict, by identity: tasks use one schema object for many requests.

    Args:
        size: Maximum number of schemas that are remembered; they are kept alive as long.
    """

    def __init__(self, size: int = 64) -> None:
        self._size = size
        self._known: dict[int, tuple[Mapping[str, Any], bool]] = {}

    def is_strict(self, schema: Mapping[str, Any]) -> bool:
        """Return what the function `is_strict` returns; a schema must not be changed between requests."""
        known = self._known.get(id(schema))
        if known is None:
            if len(self._known) >= self._size:
                self._known = {}
            known = self._known[id(schema)] = schema, is_strict(schema)
        return known[1]


class _Check:
    """Walks a schema, and counts what OpenAI limits."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema
        self._nodes = self._properties = self._enum_values = self._characters = 0

    def root(self) -> None:
        rest = {key: value for key, value in self._schema.items() if key not in _DEFINITIONS}
        _require(rest.get("type") == "object")
        for section in _DEFINITIONS:
            self._characters += sum(map(len, self._schema.get(section, {})))
        self._node(rest, 0, frozenset())

    def _node(self, node: Mapping[str, Any], depth: int, ancestors: frozenset[str]) -> None:
        self._nodes += 1
        _require(self._nodes <= _MAX_NODES)
        if "$ref" in node:
            self._reference(node, depth, ancestors)
        elif "anyOf" in node:
            _require(node.keys() <= {"anyOf", "title", "description"} and bool(node["anyOf"]))
            for choice in node["anyOf"]:
                self._node(choice, depth, ancestors)
        else:
            self._typed(node, depth, ancestors)

    def _reference(self, node: Mapping[str, Any], depth: int, ancestors: frozenset[str]) -> None:
        target = node["$ref"]
        _require(len(node) == 1)
        if target == "#" or target in ancestors:
            return  # recursive schemas are supported
        hash_, section, name = target.split("/") if target.count("/") == 2 else ("", "", "")
        _require(hash_ == "#" and section in _DEFINITIONS and name in self._schema.get(section, {}))
        self._node(self._schema[section][name], depth, ancestors | {target})

    def _typed(self, node: Mapping[str, Any], depth: int, ancestors: frozenset[str]) -> None:
        declared = node.get("type")
        types = [declared] if isinstance(declared, str) else list(declared or ())
        _require(bool(types) and all(one in _TYPE_KEYWORDS for one in types))
        _require(node.keys() <= _COMMON_KEYWORDS.union(*(_TYPE_KEYWORDS[one] for one in types)))
        _require(node.get("format", "date") in _FORMATS)
        self._count_choices(node)
        if "array" in types:
            self._node(node.get("items", {}), depth, ancestors)
        if "object" in types:
            self._object(node, depth + 1, ancestors)

    def _object(self, node: Mapping[str, Any], depth: int, ancestors: frozenset[str]) -> None:
        properties = node.get("properties", {})
        _require(node.get("additionalProperties") is False and depth <= _MAX_DEPTH)
        _require(set(node.get("required", ())) == properties.keys())
        self._properties += len(properties)
        self._characters += sum(map(len, properties))
        _require(self._properties <= _MAX_PROPERTIES and self._characters <= _MAX_CHARACTERS)
        for value in properties.values():
            self._node(value, depth, ancestors)

    def _count_choices(self, node: Mapping[str, Any]) -> None:
        choices = node.get("enum", [])
        characters = sum(len(choice) for choice in choices if isinstance(choice, str))
        _require(len(choices) <= _LONG_ENUM or characters <= _MAX_LONG_ENUM_CHARACTERS)
        self._enum_values += len(choices)
        self._characters += characters + len(str(node.get("const", "")))
        _require(self._enum_values <= _MAX_ENUM_VALUES and self._characters <= _MAX_CHARACTERS)


def _require(holds: bool) -> None:
    if not holds:
        raise _Unsupported
