"""
Parsing and validation of model output: aspects and summaries.

Model output is untrusted. What is whole in a reply and has its form is read, and what is not is reported by the name of
its field, so that only that is asked for again. Cited numbers are mapped to the reviews in the prompt, and numbers
of no review are dropped and counted.

The messages of `OutputInvalid` are quoted to the model in a repair prompt (`_asking`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from .._llm_response import LLMResponse
from ..errors import OutputError
from ..models import Hit
from ..results import AspectSummary, Evidence
from ._citations import MAX_NAMED, dropped_cell, read_numbers
from ._content import bullets_of, text_of
from ._json import CutList, CutObject
from ._prompts.aspects import ASPECT_NAMES
from ._replies import clean, member, members, unreadable, values_in

Shown: TypeAlias = Sequence[tuple[int, Hit]]
"""The reviews of an aspect in the order of the prompt, each with its rank among the hits of the search."""
Parts: TypeAlias = dict[str, Any]
"""Each aspect's `AspectSummary`, or the `OutputError` for a part that cannot be read."""

_MAX_ENTRY_LENGTH = 200
_MAX_REPLY_TEXT = 20_000

T = TypeVar("T")


def read_aspects(
    reply: LLMResponse, shown: Mapping[str, Shown], limit: int
) -> tuple[Parts, str | OutputError]:
    """
    Read a reply about several aspects.

    Args:
        reply: The reply.
        shown: The reviews in the prompt, by aspect.
        limit: Maximum number of bullets to keep.

    Returns:
        Each aspect's part, and the overall summary; an `OutputError` that names the field for what cannot be read. Of
        several values in the reply the first counts in which everything can be read, or else the one with most, and
        what it lacks is taken from the others.
    """
    best: tuple[int, Parts, str | OutputError] | None = None
    partial: list[tuple[Parts, str | OutputError]] = []
    try:
        for value in values_in(reply):
            for part in members(value, 2):
                found, overall = _aspects_in(part, shown, limit, reply)
                readable = _count_readable(found, overall)
                if best is None or readable > best[0]:
                    best = readable, found, overall
                if readable == len(shown) + 1:
                    return found, overall
                if readable:
                    partial.append((found, overall))
    except OutputError as error:
        return dict.fromkeys(shown, error), error
    if best is None:
        problem = unreadable("the answer is not JSON: it has no object", reply)
        return dict.fromkeys(shown, problem), problem
    _, parts, overall = best
    for others, other_overall in partial:
        parts = {name: _first_readable(part, others[name]) for name, part in parts.items()}
        overall = _first_readable(overall, other_overall)
    return parts, overall


def _first_readable(one: T, other: T) -> T:
    return other if isinstance(one, OutputError) and not isinstance(other, OutputError) else one


def _count_readable(parts: Parts, overall: str | OutputError) -> int:
    return sum(isinstance(part, AspectSummary) for part in parts.values()) + isinstance(overall, str)


def _aspects_in(
    answer: Any, shown: Mapping[str, Shown], limit: int, reply: LLMResponse
) -> tuple[Parts, str | OutputError]:
    categories = answer
    if isinstance(answer, dict):
        categories = member(answer, "categories")
        categories = answer if categories is None else categories
    if isinstance(categories, list):
        categories = _by_name(categories, shown)
    parts: Parts = {}
    for aspect, reviews in shown.items():
        part = _named(categories, aspect) if isinstance(categories, dict) else None
        parts[aspect] = _aspect_or_error(f"categories.{aspect}", part, reviews, limit, reply)
    overall = text_of(member(answer, "overall_summary")) if isinstance(answer, dict) else None
    return parts, overall or _no_text("overall_summary", answer, reply)


def _named(categories: Mapping[str, Any], aspect: str) -> Any:
    """Return what an answer says under an aspect's name, in the language of the prompt or another."""
    found = member(categories, aspect)
    if found is None and aspect in ASPECT_NAMES["ko"]:
        found = member(categories, ASPECT_NAMES["ko"][aspect])
    return found


def _aspect_called(name: Any, shown: Collection[str]) -> str | None:
    """Return the aspect that a text names, or None."""
    return next((one for one in shown if _named({name: True}, one)), None) if isinstance(name, str) else None


def _by_name(entries: Iterable[Any], shown: Mapping[str, Shown]) -> dict[str, Any]:
    """Return a list of aspects as an object: each names its aspect in a field of its own, or is keyed by it."""
    by_name: dict[str, Any] = {}
    for entry in entries:
        if isinstance(entry, dict):
            name = next(filter(None, (_aspect_called(one, shown) for one in entry.values())), None)
            if name is not None:
                by_name.setdefault(name, entry)
            else:
                for key in shown:
                    part = _named(entry, key)
                    if part is not None:
                        by_name.setdefault(key, part)
    return by_name


def read_aspect(
    reply: LLMResponse, aspect: str, shown: Shown, limit: int, others: Collection[str] = ()
) -> AspectSummary:
    """
    Read a reply about one aspect.

    Args:
        reply: The reply.
        aspect: The aspect's name.
        shown: The reviews in the prompt.
        limit: Maximum number of bullets to keep.
        others: Names of other aspects; what the reply says about them is not read.

    Raises:
        OutputError: The reply has no such part that can be read.
    """
    problem: OutputError | None = None
    for value in values_in(reply):
        for answer in _parts_about(aspect, value, others, 3):
            part = _aspect_or_error("", answer, shown, limit, reply)
            if isinstance(part, AspectSummary):
                return part
            problem = problem or part
    raise problem or unreadable("the answer is not JSON: it has no object", reply)


def _parts_about(aspect: str, value: Any, others: Collection[str], depth: int) -> Iterator[Any]:
    """Yield the objects in a value that may be about an aspect: not those under another aspect's name."""
    if isinstance(value, list) and depth:
        for element in value:
            yield from _parts_about(aspect, element, others, depth - 1)
    if not isinstance(value, dict):
        return
    own = _named(value, aspect)
    if isinstance(own, (dict, list)):
        yield own
    elif member(value, "summary") is not None:
        if not any(isinstance(name, str) and name in others for name in value.values()):
            yield value
    else:
        yield value  # for the error, which names what is missing
        for name, part in value.items():
            if depth and name not in others:
                yield from _parts_about(aspect, part, others, depth - 1)


def _aspect_or_error(
    path: str, answer: Any, shown: Shown, limit: int, reply: LLMResponse
) -> AspectSummary | OutputError:
    """Return an aspect's part, or the error that names the wrong field."""
    at = f"{path}." if path else ""
    if isinstance(answer, list) and len(answer) == 1:
        (answer,) = answer
    if isinstance(answer, str) and path:
        answer = {"summary": answer}
    if not isinstance(answer, dict):
        return unreadable(_form(path or "the answer", "must be an object", answer), reply)
    cut = isinstance(answer, CutObject)
    if cut and not ({"summary", "bullets", "evidence"} <= answer.keys()):
        return unreadable(_form(path or "the answer", "is not complete", answer), reply)
    bullets, cited = member(answer, "bullets"), member(answer, "evidence")
    if isinstance(bullets, CutList) or isinstance(cited, CutList):
        return unreadable(_form(path or "the answer", "is not complete", answer), reply)
    summary = text_of(member(answer, "summary"))
    if summary is None:
        return _no_text(f"{at}summary", answer, reply)
    evidence, dropped = _evidence(cited, shown)
    kept = tuple(bullets_of(bullets))
    invalid = len(dropped)
    if len(kept) > limit:
        dropped += [dropped_cell("bullets", text, f"more than {limit}") for text in kept[limit:]]
    if isinstance(bullets, list) and len(kept) < len(bullets):
        dropped += [dropped_cell("bullets", one, "no text of its own") for one in bullets if not text_of(one)]
    return AspectSummary(
        status="ok",
        summary=summary,
        bullets=kept[:limit],
        evidence=evidence,
        invalid_citations=invalid,
        dropped=tuple(dropped[:MAX_NAMED]),
    )


def _form(field: str, expected: str, got: Any) -> str:
    return f"the answer does not have its form: {field}: {expected}, got {_short(got)}"


def _short(value: Any) -> str:
    kind = {
        dict: "an object",
        CutObject: "a part of an object",
        list: "a list",
        str: "a text",
        type(None): "nothing",
    }
    return kind.get(type(value), type(value).__name__)


def _no_text(field: str, answer: Any, reply: LLMResponse) -> OutputError:
    name = field.rpartition(".")[2]
    value = member(answer, name) if isinstance(answer, dict) else None
    got = "a placeholder or nothing" if isinstance(value, str) else _short(value)
    return unreadable(
        f"the answer does not have its form: {field}: must be a text of its own, got {got}", reply
    )


def _evidence(value: Any, shown: Shown) -> tuple[tuple[Evidence, ...], list[str]]:
    """Return the cited reviews, each once, and the names of the citations of no review."""
    numbers, dropped = read_numbers("evidence", value, len(shown))
    cited = (shown[number - 1] for number in numbers)
    return tuple(Evidence(hit.review_id, clean(hit.content), rank) for rank, hit in cited), dropped


Texts: TypeAlias = Mapping[str, str]
"""A summary: one text for each field of the reply."""


def read_texts(
    reply: LLMResponse, fields: Sequence[str], required: Sequence[str]
) -> dict[str, str | OutputError]:
    """
    Read a reply with one text per field.

    Args:
        reply: The reply.
        fields: Names of the fields.
        required: Those that must have a text; the others may be empty or missing.

    Returns:
        The text of each field, "" for none; an `OutputError` that names the field if it cannot be read.

    Raises:
        OutputInvalid: The model declined to answer.
    """
    best: dict[str, str | OutputError] = {}
    partial: list[dict[str, str | OutputError]] = []
    most = -1
    for value in values_in(reply):
        for answer in members(value, 2):
            if isinstance(answer, dict):
                found = {name: _field(name, answer, name in required, reply) for name in fields}
                good = sum(isinstance(text, str) for text in found.values())
                if good == len(fields):
                    return found
                # Only fields that are there count: an object without any has the optional ones, which may be empty.
                good = good if any(member(answer, name) is not None for name in fields) else 0
                if good > most:
                    best, most = found, good
                if good:
                    partial.append(found)
    for name, text in best.items():
        if not text or isinstance(text, OutputError):
            texts = (found[name] for found in partial)
            best[name] = next((one for one in texts if one and isinstance(one, str)), text)
    problem = unreadable("the answer is not JSON: it has no object", reply)
    return best or dict.fromkeys(fields, problem)


def _field(name: str, answer: Mapping[str, Any], required: bool, reply: LLMResponse) -> str | OutputError:
    value = member(answer, name)
    text = text_of(value)
    if text is not None:
        return text
    # Of an answer that is cut off, a field that is not there may have been still to come.
    absent = name not in answer and isinstance(answer, CutObject)
    if not required and not absent and (value is None or isinstance(value, str)):
        return ""
    return _no_text(name, answer, reply)


def read_overall(reply: LLMResponse) -> str:
    """
    Read a reply with the overall summary.

    Raises:
        OutputError: The reply has none.
    """
    text = read_texts(reply, ("overall_summary",), ("overall_summary",))["overall_summary"]
    if isinstance(text, OutputError):
        raise text
    return text
