"""
Which schemas OpenAI takes in strict mode.

In strict mode the model cannot leave the schema, but a schema outside the documented subset of JSON Schema is
refused, for every call. So whatever is in doubt counts as outside: it is sent with ``"strict": false``, and
the answer is checked by the task as it is anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MOST_PROPERTIES, _MOST_LEVELS, _MOST_CHOICES = 5_000, 10, 1_000
_MOST_LETTERS, _LONG_LIST, _MOST_LETTERS_OF_LONG_LIST = 120_000, 250, 15_000
_MOST_NODES = 50_000  # shared definitions that share others can grow without end

_ANYWHERE = frozenset({"type", "title", "description", "enum", "const"})
_NUMBERS = frozenset({"multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_OF_TYPE: Mapping[str, frozenset[str]] = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "minItems", "maxItems"}),
    "string": frozenset({"pattern", "format"}),
    "number": _NUMBERS,
    "integer": _NUMBERS,
    "boolean": frozenset(),
    "null": frozenset(),
}
_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
_DEFINITIONS = ("$defs", "definitions")


class _Outside(Exception):
    """The schema leaves the subset."""


def is_strict(schema: Mapping[str, Any]) -> bool:
    """Tell whether a schema lies within the subset, its limits included."""
    try:
        _Check(schema).root()
    except (_Outside, AttributeError, TypeError):  # what is no schema at all is not in the subset either
        return False
    return True


class _Check:
    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema
        self._nodes = self._properties = self._choices = self._letters = 0

    def root(self) -> None:
        rest = {key: value for key, value in self._schema.items() if key not in _DEFINITIONS}
        _insist(rest.get("type") == "object")
        for place in _DEFINITIONS:
            self._letters += sum(map(len, self._schema.get(place, {})))
        self._node(rest, 0, frozenset())

    def _node(self, node: Mapping[str, Any], level: int, on_the_way: frozenset[str]) -> None:
        self._nodes += 1
        _insist(self._nodes <= _MOST_NODES)
        if "$ref" in node:
            self._reference(node, level, on_the_way)
        elif "anyOf" in node:
            _insist(node.keys() <= {"anyOf", "title", "description"} and bool(node["anyOf"]))
            for choice in node["anyOf"]:
                self._node(choice, level, on_the_way)
        else:
            self._typed(node, level, on_the_way)

    def _reference(self, node: Mapping[str, Any], level: int, on_the_way: frozenset[str]) -> None:
        target = node["$ref"]
        _insist(len(node) == 1)
        if target == "#" or target in on_the_way:
            return  # recursion is allowed
        hash_, place, name = target.split("/") if target.count("/") == 2 else ("", "", "")
        _insist(hash_ == "#" and place in _DEFINITIONS and name in self._schema.get(place, {}))
        self._node(self._schema[place][name], level, on_the_way | {target})

    def _typed(self, node: Mapping[str, Any], level: int, on_the_way: frozenset[str]) -> None:
        given = node.get("type")
        types = [given] if isinstance(given, str) else list(given or ())
        _insist(bool(types) and all(one in _OF_TYPE for one in types))
        _insist(node.keys() <= _ANYWHERE.union(*(_OF_TYPE[one] for one in types)))
        _insist(node.get("format", "date") in _FORMATS)
        self._count_choices(node)
        if "array" in types:
            self._node(node.get("items", {}), level, on_the_way)
        if "object" in types:
            self._object(node, level + 1, on_the_way)

    def _object(self, node: Mapping[str, Any], level: int, on_the_way: frozenset[str]) -> None:
        properties = node.get("properties", {})
        _insist(node.get("additionalProperties") is False and level <= _MOST_LEVELS)
        _insist(set(node.get("required", ())) == properties.keys())
        self._properties += len(properties)
        self._letters += sum(map(len, properties))
        _insist(self._properties <= _MOST_PROPERTIES and self._letters <= _MOST_LETTERS)
        for value in properties.values():
            self._node(value, level, on_the_way)

    def _count_choices(self, node: Mapping[str, Any]) -> None:
        choices = node.get("enum", [])
        letters = sum(len(choice) for choice in choices if isinstance(choice, str))
        _insist(len(choices) <= _LONG_LIST or letters <= _MOST_LETTERS_OF_LONG_LIST)
        self._choices += len(choices)
        self._letters += letters + len(str(node.get("const", "")))
        _insist(self._choices <= _MOST_CHOICES and self._letters <= _MOST_LETTERS)


def _insist(holds: bool) -> None:
    if not holds:
        raise _Outside
