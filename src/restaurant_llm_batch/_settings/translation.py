"""
Translation of a file of the source service's variables into settings, as a ``.env`` or a TOML file with comments.

Every variable of the old file is explained in a comment. No value stands in a comment, and nothing that may be a key
stands anywhere: its line is kept by hand.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from textwrap import wrap
from typing import Any

from dotenv.parser import parse_stream
from pydantic import TypeAdapter, ValidationError

from .._text import message_text
from .fields import SettingFields
from .former import SHARED, Former, Values, former_of

_PLAIN = re.compile(r"[\w./:,@%+=~-]+", re.ASCII)
"""A value that needs no quotes in a ``.env`` file."""
_SECRET = re.compile(
    r"://[^/\s]*@|^\s*(?:sk-|rpa_|hf_|ghp_)|(?:api[_-]?key|token|secret|password|authorization)[\"']|\bbearer ",
    re.IGNORECASE,
)
"""What a value looks like that holds a key: the password of a URL, a key of a known form, a field of an object."""
_MAX_COMMENT, _WIDTH = 400, 100
"""Characters of a comment, and of one line of it."""


@dataclass(frozen=True, slots=True)
class Line:
    """
    A variable of the old file.

    Attributes:
        name: Its name, safe to show.
        note: What becomes of it.
        settings: Our variables that it sets, as far as no earlier line does.
        keeps: Whether its line is kept by hand, because it may hold a key.
    """

    name: str
    note: str
    settings: Values
    keeps: bool = False


def translate(text: str) -> list[Line]:
    """
    Translate a ``.env`` file.

    Args:
        text: The file.
    """
    parsed = [*_assignments(text)]
    last = {name: number for number, (name, _) in enumerate(parsed)}
    old = {name: value for name, value in parsed if name and value}
    lines = []
    for number, (name, value) in enumerate(parsed):
        if not name:
            lines.append(Line(f"line {value}", "it cannot be read, and is passed over", {}))
        elif last[name] != number:
            lines.append(Line(_shown(name), "a later line sets it", {}))
        elif not value:
            lines.append(Line(_shown(name), "it has no value, which counts as not set", {}))
        else:
            lines.append(_translated(name, old))
    return _each_once(lines)


def _each_once(lines: Sequence[Line]) -> list[Line]:
    """Return lines of which the first that sets a setting keeps it, with the value of one that merges several."""
    merged = {
        setting: value
        for line in lines
        if (former := former_of(line.name)) is not None and former.merges
        for setting, value in line.settings.items()
    }
    done: set[str] = set()
    found = []
    for line in lines:
        fresh = {name: merged.get(name, value) for name, value in line.settings.items() if name not in done}
        done |= fresh.keys()
        found.append(replace(line, settings=fresh))
    return found


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    """Yield the names and values in order; for a line that cannot be read, "" and its number."""
    for binding in parse_stream(io.StringIO(text.removeprefix("\ufeff"))):
        if binding.error:
            yield "", str(binding.original.line)
        elif binding.key:
            yield binding.key.upper(), (binding.value or "").strip()


def _translated(name: str, old: Values) -> Line:
    shown, field = _shown(name), name.lower()
    is_setting = field in SettingFields.model_fields
    former = SHARED.get(name) if is_setting else former_of(name)
    if not is_setting and former is None:
        return Line(shown, "no variable of the source service and no setting; passed over", {})
    settings: dict[str, str] = {}
    note = "the same name" if former is None else former.note
    problem = None
    if is_setting and not _may_hold_a_key(name, old[name]):
        problem = _problem(name, old[name])
        settings = {} if problem else {name: old[name]}
    if former is not None and problem is None:
        problem = _add_successors(settings, name, former, old)
    if problem is not None:
        return Line(shown, f"its value cannot be used and is passed over: {problem}", {})
    if any(_may_hold_a_key(one, value) for one, value in {**settings, name: old[name]}.items()):
        kept = {one: value for one, value in settings.items() if not _may_hold_a_key(one, value)}
        return Line(
            shown, f"{note}; it may hold a key, so keep the line of the old file", kept, keeps=is_setting
        )
    if not settings and former is not None and former.successors:
        note = f"{note}; it has no effect in this file"
    return Line(shown, note, settings)


def _add_successors(settings: dict[str, str], name: str, former: Former, old: Values) -> str | None:
    """Add what a former variable sets; return what is wrong with its value, or None."""
    try:
        found = former.translate(name, old)
    except ValueError as error:
        return str(error)
    for successor, value in found.items():
        if successor != name and old.get(successor) and not former.merges:
            continue  # the old file has it already
        problem = None if _may_hold_a_key(successor, value) else _problem(successor, value)
        if problem is not None:
            return problem
        settings[successor] = value
    return None


def _problem(name: str, value: str) -> str | None:
    """Return what is wrong with the value of a setting; None if nothing is."""
    if "${" in value:
        return None  # filled in when the file is read
    try:
        _adapter(name).validate_python(value)
    except ValidationError as error:
        text = error.errors(include_url=False, include_input=False)[0]["msg"].removeprefix("Value error, ")
        return f"{text[:1].lower()}{text[1:]}"
    return None


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(SettingFields.model_fields[name.lower()].rebuild_annotation())


def _may_hold_a_key(name: str, value: str) -> bool:
    field = SettingFields.model_fields.get(name.lower())
    is_secret = field is not None and "Secret" in str(field.annotation)
    is_shown = all(sign.isprintable() or sign in "\n\t" for sign in value)
    return is_secret or not is_shown or _SECRET.search(value) is not None


def _shown(name: str) -> str:
    return message_text(name, 100)


def as_env(lines: Sequence[Line], source: str) -> str:
    """Return a ``.env`` file."""
    return _file(lines, source, lambda name, value: f"{name}={_quoted(value)}", "{name}=")


def as_toml(lines: Sequence[Line], source: str) -> str:
    """Return a TOML file; keys stay in the environment or in ``.env``."""
    return _file(lines, source, _toml_line, "# {name} stays in the environment or in .env")


def _file(lines: Sequence[Line], source: str, write: Callable[[str, str], str], kept: str) -> str:
    parts = [f"# Settings of restaurant-llm-batch, translated from {message_text(source, 200)}"]
    for line in lines:
        comment = wrap(message_text(f"{line.name}: {line.note}", _MAX_COMMENT), _WIDTH)
        parts += [
            "",
            *(f"# {text}" for text in comment),
            *(write(name, value) for name, value in line.settings.items()),
        ]
        if line.keeps:
            parts.append(kept.format(name=line.name))
    return "\n".join([*parts, ""])


def _quoted(value: str) -> str:
    if _PLAIN.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _toml_line(name: str, value: str) -> str:
    if "${" in value:  # TOML fills nothing in
        return f"# {name}={message_text(value)} stays in the environment or in .env"
    found = _adapter(name).validate_python(value)
    if isinstance(found, bool):
        return f"{name.lower()} = {str(found).lower()}"
    if isinstance(found, (int, float)):
        return f"{name.lower()} = {found}"
    return f"{name.lower()} = {json.dumps(value, ensure_ascii=False)}"
