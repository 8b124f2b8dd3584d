"""Warnings about a request: unknown fields, fields without effect, and unusual token budgets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from itertools import islice

from pydantic import AliasChoices, BaseModel

from ..._text import message_text
from .requests import UNUSED, USUAL_BUDGETS, Fields

MAX_WARNINGS = 20
UNKNOWN = "is not a field of this request and was ignored"
MAX_NAME = 40
"""Characters that are quoted of an unknown field's name."""


def request_warnings(request: Fields) -> list[str]:
    """Return warnings about a valid request, at most `MAX_WARNINGS`: one for a field of any number of restaurants."""
    places: dict[tuple[type[Fields], str, str], list[str]] = {}
    for place, record in request.records():
        for name, problem in _problems(record):
            places.setdefault((type(record), name, problem), []).append(place)
    warnings = [
        # Only here, because to find a similar name takes long, and a request may have thousands of unknown ones.
        f"{_quoted(name)}{_where(found)} {problem}{_hint(name, model) if problem == UNKNOWN else ''}"
        for (model, name, problem), found in islice(places.items(), MAX_WARNINGS)
    ]
    more = len(places) - len(warnings)
    return [*warnings, f"and {more:,} more of these"] if more else warnings


def _problems(record: Fields) -> Iterator[tuple[str, str]]:
    """Yield the names of fields of a request or restaurant that deserve a warning, and what is wrong with each."""
    known, unused = _fields_of(type(record))
    for name in record.model_extra or ():
        yield name, UNKNOWN
    for name, reason in unused.items():
        if name in record.model_fields_set and getattr(record, name) is not None:
            yield name, f"was ignored: {reason}"
    budget = getattr(record, "max_tokens_per_batch", None) if "max_tokens_per_batch" in known else None
    if budget is not None and budget not in USUAL_BUDGETS:
        usual = f"{USUAL_BUDGETS.start} to {USUAL_BUDGETS.stop - 1}"
        yield "max_tokens_per_batch", f"is {budget}, which is used, but {usual} is usual"


def _where(places: list[str]) -> str:
    first, more = places[0], len(places) - 1
    return f" in {first}{f' and {more:,} more' if more else ''}" if first else ""


def _hint(name: str, model: type[Fields]) -> str:
    known, _ = _fields_of(model)
    close = get_close_matches(name[:MAX_NAME], sorted(known), 1, 0.75)
    return f'; did you mean "{close[0]}"?' if close else ""


def _quoted(name: str) -> str:
    short = name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 3]}..."
    return message_text(json.dumps(short, ensure_ascii=False))


@cache
def _fields_of(model: type[BaseModel]) -> tuple[frozenset[str], dict[str, str]]:
    """Return the names of a model's fields in a request, and why those without effect have none."""
    names: set[str] = set()
    unused: dict[str, str] = {}
    for name, field in model.model_fields.items():
        alias = field.validation_alias
        names.update(map(str, alias.choices) if isinstance(alias, AliasChoices) else (name,))
        description = field.description or ""
        if description.startswith(UNUSED):
            unused[name] = description.removeprefix(UNUSED).removesuffix(".")
    return frozenset(names), unused
