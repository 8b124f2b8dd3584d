"""
Reading what the model wrote.

Nothing that comes back is trusted: the answer is validated against its form, cited numbers are mapped to the
reviews that were shown, and those that fit none are dropped and counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, cast

from .._llm_response import LLMResponse
from ..errors import OutputError, OutputInvalid, OutputTruncated
from ..models import Hit
from ..results import AspectSummary, Evidence, Sentiment, Word
from ._prompts.reviews import LABELS

DECLINED = ("refusal", "content_filter")
"""How an answer ended that the model, or the service, declined to give."""


def read_object(reply: LLMResponse) -> Mapping[str, Any]:
    """
    Return the JSON object of a reply, with or without prose or a code fence around it.

    Raises:
        OutputTruncated: When the answer was cut off.
        OutputInvalid: When there is no JSON object in it, or the model declined to answer.
    """
    if reply.finish_reason == "length":
        raise OutputTruncated(
            "the answer was cut off at its token limit; raise max_tokens, or ask about less at a time",
            reply=reply,
        )
    if reply.finish_reason in DECLINED:
        raise OutputInvalid(
            f"the model declined to answer ({reply.finish_reason}): {reply.text[:200]}", reply=reply
        )
    text = reply.text
    start, end = text.find("{"), text.rfind("}")
    try:
        # strict=False: some servers let raw control characters into strings.
        answer = json.loads(text[start : end + 1], strict=False)
    except (ValueError, RecursionError) as error:  # nested deeper than Python reads
        raise OutputInvalid(f"the answer is not JSON: {error}", reply=reply) from error
    if not isinstance(answer, dict):
        raise OutputInvalid("the answer is not a JSON object", reply=reply)
    return answer


def read_aspect(answer: Any, hits: Sequence[Hit], limit: int, reply: LLMResponse) -> AspectSummary:
    """
    Return one aspect's part of an answer.

    Args:
        answer: The part, as it was decoded.
        hits: The reviews that the model was shown, in that order.
        limit: Most bullets kept.
        reply: The reply it is part of.

    Raises:
        OutputInvalid: When the part does not have its form.
    """
    from ._schemas import AspectSchema, validated

    part = validated(AspectSchema, answer, reply)
    cited = dict.fromkeys(number for number in part.evidence if _is_shown(number, hits))
    return AspectSummary(
        status="ok",
        summary=part.summary,
        bullets=tuple(bullet.strip() for bullet in part.bullets if bullet.strip())[:limit],
        evidence=tuple(Evidence(hits[n].review_id, hits[n].content, n) for n in cited),
        invalid_citations=sum(not _is_shown(number, hits) for number in part.evidence),
    )


def read_overall(answer: Mapping[str, Any], reply: LLMResponse) -> str:
    """
    Return the overall summary of an answer.

    Raises:
        OutputInvalid: When there is none.
    """
    from ._schemas import OverallSchema, validated

    return validated(OverallSchema, answer, reply).overall_summary


def _is_shown(number: Any, hits: Sequence[Hit]) -> bool:
    return type(number) is int and 0 <= number < len(hits)


_OBJECT = re.compile(r"\{[^{}]{1,200}\}")
"""One label; nothing in it is nested."""


def read_labels(reply: LLMResponse, asked: Collection[int]) -> dict[int, Sentiment]:
    """
    Return the labels of the reviews that were asked about, as far as the answer can be trusted.

    A number that was not asked about is dropped, a label that is none too, and a number with two different
    labels has none: whoever asked sees what is missing. Of an answer that was cut off, or is no valid JSON as a
    whole, each label that is there in full counts.

    Raises:
        OutputError: When there is not a single label in it.
    """
    try:
        found = read_object(reply).get("labels")
    except OutputError:
        labels = _trusted(_salvaged(reply.text), asked)
        if not labels:
            raise
        return labels
    return _trusted(found if isinstance(found, list) else (), asked)


def _salvaged(text: str) -> Iterable[Any]:
    for match in _OBJECT.finditer(text):
        try:
            yield json.loads(match[0], strict=False)
        except (ValueError, RecursionError):
            continue


def _trusted(entries: Iterable[Any], asked: Collection[int]) -> dict[int, Sentiment]:
    given: dict[int, set[Sentiment]] = {}
    for entry in entries:
        if isinstance(entry, Mapping):
            number, label = _number(entry.get("id")), _label(entry.get("label"))
            if number in asked and label is not None:
                given.setdefault(cast("int", number), set()).add(label)
    return {number: labels.pop() for number, labels in given.items() if len(labels) == 1}


def _number(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 9:
        return int(value)
    return value if type(value) is int else None


def _label(value: Any) -> Sentiment | None:
    text = value.strip().lower() if isinstance(value, str) else ""
    return cast("Sentiment", text) if text in LABELS else None


def read_words(reply: LLMResponse) -> list[tuple[str, Word]]:
    """
    Return the words of an answer, as it lists them.

    Raises:
        OutputError: When it has no list of words.
    """
    from ._schemas import WordSchema, valid_entries

    return [
        (form.word, Word(form.pos, tuple(form.meanings)))
        for form in valid_entries(WordSchema, _listed("words", reply))
    ]


def read_phrases(reply: LLMResponse) -> list[tuple[str, str]]:
    """
    Return the phrases of an answer and their meanings, as it lists them.

    Raises:
        OutputError: When it has no list of phrases.
    """
    from ._schemas import PhraseSchema, valid_entries

    return [
        (form.phrase, form.meaning.strip()) for form in valid_entries(PhraseSchema, _listed("phrases", reply))
    ]


def _listed(field: str, reply: LLMResponse) -> list[object]:
    listed = read_object(reply).get(field)
    if not isinstance(listed, list):
        raise OutputInvalid(f"the answer does not have its form: {field}: must be a list", reply=reply)
    return listed
