"""
Forms: pydantic models of users as forms of answers; their JSON Schemas, descriptions in prompts, and reading.

A schema is sent in the subset that every backend takes: without references, with all properties required and no others
allowed, as OpenAI's strict mode wants it. A field that has a default may still be missing in an answer.

This module does not import pydantic, which takes as long to import as the rest of the library: it calls methods of the
models.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from json import dumps
from typing import TYPE_CHECKING, Any

from .._llm_response import LLMResponse
from .._patterns import lazy_pattern
from ..errors import ConfigurationError, OutputError
from ._citations import read_numbers
from ._json import CutList, CutObject
from ._prompts.aspects import MAX_CITATIONS, escaped
from ._prompts.wording import Language
from ._prompts.words import MAX_ENTRIES
from ._replies import clean, members, squeezed, unreadable, values_in

if TYPE_CHECKING:
    from pydantic import BaseModel

EVIDENCE, INVALID = "evidence", "invalid_citations"
"""Names of the fields that cite reviews, and that count the citations of no review."""

Node = Mapping[str, Any]
"""A schema, or a part of one."""

_LEFT_OUT = frozenset({"title", "default", "examples", "deprecated", "uniqueItems", "discriminator", "$defs"})
_ECHOES = frozenset({"string", "<string>", "..."})
_MAX_PROBLEMS, _MAX_MESSAGE = 5, 200
_NUMBER_CELL = lazy_pattern(r"\w+: -?\d[\d.]* \(")


@dataclass(frozen=True, slots=True)
class Form:
    """
    A model as the form of an answer.

    Attributes:
        model: The model.
        schema: The JSON Schema that is sent.
        own: The same with `INVALID`, which the model is not asked for.
    """

    model: type[BaseModel]
    schema: Node
    own: Node

    def describe(self, language: Language) -> str:
        """Return the form in words, for a prompt."""
        return _describe(self.schema, language)

    @property
    def names(self) -> frozenset[str]:
        """The names of all fields, at any depth."""
        return frozenset(name for name, _ in _properties(self.own))

    @property
    def cites(self) -> bool:
        """Whether a field cites reviews."""
        return any(_is_citation(name, part) for name, part in _properties(self.schema))

    def read(self, texts: Sequence[str] | None, reply: LLMResponse) -> BaseModel:
        """
        Return the instance that a reply holds.

        Args:
            texts: The reviews that were shown; None if the question was about none.
            reply: The reply.

        Raises:
            OutputError: It holds none; the message names the wrong fields.
        """
        problem: OutputError | None = None
        context = {"reviews": tuple(texts or ())}
        for value in values_in(reply):
            for answer in members(value, 2):
                if not isinstance(answer, dict) or not self._is_answer(answer):
                    continue
                if _is_cut(answer, reply):
                    problem = problem or unreadable("the answer is not complete", reply)
                    continue
                dropped: list[str] = []
                fitted = _fit(answer, self.own, None if texts is None else len(texts), dropped)
                try:
                    return self.model.model_validate(fitted, context=context)
                except ValueError as error:  # a ValidationError
                    if not hasattr(error, "errors"):
                        raise
                    problem = problem or unreadable(_describe_problems(error, self.names, dropped), reply)
        names = ", ".join(self.schema["properties"])
        raise problem or unreadable(f"the answer is not JSON with one of the fields {names}", reply)

    def _is_answer(self, answer: Mapping[str, Any]) -> bool:
        """Return whether an object has a field of the form, so that one that wraps the answer is not taken for it."""
        names = {squeezed(name) for name in self.schema["properties"]}
        return any(squeezed(name) in names for name in answer)


@lru_cache(128)
def form_of(model: type[BaseModel]) -> Form:
    """
    Return a model as a form.

    Raises:
        ConfigurationError: It cannot be one: its schema cannot be made, refers to itself, or is not that of an object.
    """
    try:
        raw = model.model_json_schema()
    except Exception as error:  # pydantic's own errors, and those of a user's hooks
        raise ConfigurationError(
            f"{model.__name__} has no JSON Schema, so it cannot be the form of an answer: "
            f"{str(error).splitlines()[0]}; use texts, numbers, lists, enums and other models"
        ) from error
    own = _plain(raw, raw.get("$defs", {}), model.__name__, ())
    if own.get("type") != "object" or not own.get("properties"):
        raise ConfigurationError(
            f"{model.__name__} must have fields to be the form of an answer; "
            "for example class Dishes(BaseModel): dishes: list[str]"
        )
    return Form(model, _asked(own), own)


def _plain(node: Node, defs: Node, form: str, inside: tuple[str, ...]) -> dict[str, Any]:
    """Return a schema without references and what backends do not take."""
    plain = partial(_plain, defs=defs, form=form, inside=inside)
    reference = node.get("$ref")
    if reference is not None:
        name = str(reference).rpartition("/")[2]
        if name in inside or name not in defs:
            raise ConfigurationError(
                f"{form} refers to itself ({name}), which a model cannot be asked for; "
                "for example make the inner one a model of its own, without that field"
            )
        target = _plain(defs[name], defs, form, (*inside, name))
        description = node.get("description")
        return {**target, "description": description} if description else target
    whole = node.get("allOf")
    if isinstance(whole, list) and len(whole) == 1:
        return plain({**whole[0], **{key: part for key, part in node.items() if key != "allOf"}})
    result: dict[str, Any] = {}
    for key, part in node.items():
        if key in _LEFT_OUT:
            continue
        if key == "properties":
            result[key] = {name: plain(one) for name, one in part.items()}
        elif key in ("anyOf", "oneOf"):
            result["anyOf"] = [plain(one) for one in part]
        elif key == "prefixItems":
            result[key] = [plain(one) for one in part]
        elif key == "const":
            result["enum"] = [part]
        elif key in ("items", "additionalProperties") and isinstance(part, Mapping):
            result[key] = plain(part)
        else:
            result[key] = part
    if "properties" in result:
        result["required"] = list(result["properties"])
        result["additionalProperties"] = False
    return result


def _asked(node: Any) -> Any:
    """Return the part of a schema that a model is asked for, with bounds on lists, which a loop would fill."""
    if isinstance(node, list):
        return [_asked(one) for one in node]
    if not isinstance(node, Mapping):
        return node
    result = {
        key: part if key in ("enum", "required", "properties") else _asked(part) for key, part in node.items()
    }
    if node.get("type") == "array" and "items" in node:
        result.setdefault("maxItems", MAX_ENTRIES)
    properties = node.get("properties")
    if isinstance(properties, Mapping):
        kept = {
            name: part for name, part in properties.items() if name != INVALID or EVIDENCE not in properties
        }
        result["properties"] = {
            name: _bounded(part) if _is_citation(name, part) else _asked(part) for name, part in kept.items()
        }
        result["required"] = list(kept)
    return result


def _is_citation(name: str, part: Node) -> bool:
    return name == EVIDENCE and _list_of_integers(part) is not None


def _list_of_integers(part: Node) -> Node | None:
    choices = part.get("anyOf", [part])
    return next(
        (
            one
            for one in choices
            if one.get("type") == "array"
            and isinstance(one.get("items"), Mapping)
            and one["items"].get("type") == "integer"
        ),
        None,
    )


def _bounded(part: Node) -> dict[str, Any]:
    bounded = {
        "maxItems": MAX_CITATIONS,
        **(_list_of_integers(part) or part),
        "items": {"type": "integer", "minimum": 1},
    }
    description = part.get("description")
    return {**bounded, "description": description} if description else bounded


def _properties(node: Any) -> Iterator[tuple[str, Node]]:
    """Yield every property in a schema, at any depth."""
    if isinstance(node, list):
        for one in node:
            yield from _properties(one)
    elif isinstance(node, Mapping):
        for name, part in (node.get("properties") or {}).items():
            yield name, part
            yield from _properties(part)
        for key in ("items", "anyOf", "prefixItems", "additionalProperties"):
            yield from _properties(node.get(key))


_WORDS: Mapping[Language, Mapping[str, str]] = {
    "ko": {
        "string": "글",
        "integer": "정수",
        "number": "숫자",
        "boolean": "true 또는 false",
        "null": "null",
        "": "값",
        "or": " 또는 ",
        EVIDENCE: "근거가 된 리뷰의 번호(대괄호 안의 숫자)",
    },
    "en": {
        "string": "text",
        "integer": "whole number",
        "number": "number",
        "boolean": "true or false",
        "null": "null",
        "": "value",
        "or": " or ",
        EVIDENCE: "number (in brackets) of a review that it rests on",
    },
}


def _describe(node: Node, language: Language) -> str:
    words = _WORDS[language]
    if "enum" in node:
        return " | ".join(dumps(one, ensure_ascii=False) for one in node["enum"])
    if "anyOf" in node:
        return words["or"].join(_describe(one, language) for one in node["anyOf"])
    kind = node.get("type")
    if kind == "object" and "properties" in node:
        fields = [
            f"{dumps(name, ensure_ascii=False)}: {_describe_field(name, part, language)}"
            for name, part in node["properties"].items()
        ]
        return "{" + ", ".join(fields) + "}"
    if kind == "object":
        inner = node.get("additionalProperties")
        return f"{{{words['string']}: {_describe(inner if isinstance(inner, Mapping) else {}, language)}}}"
    if kind == "array":
        items = node.get("prefixItems") or [node.get("items") or {}]
        return "[" + ", ".join(_describe(one, language) for one in items) + "]"
    return words.get(str(kind), words[""])


def _describe_field(name: str, part: Node, language: Language) -> str:
    text = f"[{_WORDS[language][EVIDENCE]}]" if _is_citation(name, part) else _describe(part, language)
    description = part.get("description")
    return f"{text} ({description})" if description else text


def _fit(value: Any, node: Node, count: int | None, dropped: list[str]) -> Any:
    """
    Return a value with the names of the form's fields, and without citations of no review.

    Args:
        value: The value.
        node: Its schema.
        count: How many reviews were shown; None if the question was about none.
        dropped: Gets the names of the citations that are dropped.
    """
    if isinstance(value, str):
        return clean(value)
    if "anyOf" in node:
        kind = "object" if isinstance(value, dict) else "array" if isinstance(value, list) else ""
        options = [one for one in node["anyOf"] if kind and one.get("type") == kind]
        return _fit(value, _best_option(value, options), count, dropped)
    if isinstance(value, list):
        items = node.get("items")
        return [_fit(one, items if isinstance(items, Mapping) else {}, count, dropped) for one in value]
    if not isinstance(value, dict):
        return value
    return _fit_object(value, node, count, dropped)


def _best_option(value: Any, options: Sequence[Node]) -> Node:
    """Return the option with most of an object's names."""
    if not isinstance(value, dict):
        return options[0] if options else {}
    return max(options, key=lambda one: len(value.keys() & (one.get("properties") or {}).keys()), default={})


def _fit_object(value: dict[str, Any], node: Node, count: int | None, dropped: list[str]) -> dict[str, Any]:
    properties = node.get("properties") or {}
    by_squeezed = {squeezed(name): name for name in properties}
    named: dict[str, Any] = {}
    for key, part in value.items():
        # A name of the form itself goes before another spelling of it.
        name = key if key in properties else by_squeezed.get(squeezed(key), key)
        if name == key or name not in value:
            named[name] = part
    inner = node.get("additionalProperties")
    others: Node = inner if isinstance(inner, Mapping) else {}
    fitted: dict[str, Any] = {}
    invalid = 0
    for name, part in named.items():
        shape = properties.get(name, others)
        if count is not None and _is_citation(name, shape):
            fitted[name], cells = read_numbers(name, part, count)
            invalid = len(cells)
            dropped += cells
        elif isinstance(part, str) and part.strip() in _ECHOES and "enum" not in shape:
            continue  # an echo of the form is no answer; pydantic then reports a missing field
        else:
            fitted[name] = _fit(part, shape, count, dropped)
    if INVALID in properties and EVIDENCE in properties:
        fitted[INVALID] = invalid
    return fitted


def _is_cut(answer: Any, reply: LLMResponse) -> bool:
    """Return whether something may be missing: not if only the last brackets of an answer that ended are."""
    if isinstance(answer, CutObject) and reply.finish_reason == "length":
        return True
    return any(_has_cut(part) for part in answer.values())


def _has_cut(value: Any) -> bool:
    if isinstance(value, (CutObject, CutList)):
        return True
    if isinstance(value, (dict, list)):
        return any(map(_has_cut, value.values() if isinstance(value, dict) else value))
    return False


def _describe_problems(error: Any, names: Collection[str], dropped: Sequence[str]) -> str:
    """
    Return what is wrong with an answer, for a prompt.

    Reviews may have dictated the answer, so none of its texts is repeated, unless a validator's message does so; and
    the whole is one escaped line.

    Args:
        error: The validation error.
        names: Names of the form's fields.
        dropped: Names of the citations that were dropped.
    """
    get_errors: Callable[..., list[dict[str, Any]]] = error.errors
    problems = get_errors(include_url=False, include_input=False, include_context=False)
    named = [
        f"{_path(problem['loc'], names)}: "
        f"{problem['msg'].removeprefix('Value error, ').removeprefix('Assertion failed, ')[:_MAX_MESSAGE]}"
        for problem in problems[:_MAX_PROBLEMS]
    ]
    more = [f"and {len(problems) - _MAX_PROBLEMS} more"] if len(problems) > _MAX_PROBLEMS else []
    cells = [one for one in dropped if _NUMBER_CELL.match(one)][:_MAX_PROBLEMS]
    text = f"the answer does not have its form: {'; '.join([*named, *more, *cells])}"
    return escaped(" ".join(text.split()))


def _path(location: Sequence[int | str], names: Collection[str]) -> str:
    """Return the path of a field; of a key that is not the form's but the answer's, only that there is one."""
    parts = [str(part) if isinstance(part, int) or part in names else "(key)" for part in location]
    return ".".join(parts) or "the answer"
