"""
Parsing and validation of model output: JSON replies, citations, sentiment labels, words and phrases.

Model output is untrusted. A reply is validated against its schema; cited numbers are mapped to the reviews in the
prompt, and numbers of no review are dropped and counted.

The messages of `OutputInvalid` are quoted to the model in a repair prompt (`_asking`).
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
"""Values of `finish_reason` that mean that the model or the service declined to answer."""


def read_object(reply: LLMResponse) -> Mapping[str, Any]:
    """
    Return the JSON object in a reply; text or a code fence around it is ignored.

    Raises:
        OutputTruncated: The reply was cut off at its token limit.
        OutputInvalid: The reply holds no JSON object, or the model declined to answer.
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
        # strict=False: some servers leave raw control characters in strings.
        answer = json.loads(text[start : end + 1], strict=False)
    except (ValueError, RecursionError) as error:  # RecursionError: nested too deeply for Python's parser
        raise OutputInvalid(f"the answer is not JSON: {error}", reply=reply) from error
    if not isinstance(answer, dict):
        raise OutputInvalid("the answer is not a JSON object", reply=reply)
    return answer


def read_aspect(answer: Any, hits: Sequence[Hit], limit: int, reply: LLMResponse) -> AspectSummary:
    """
    Parse one aspect's part of a reply.

    Args:
        answer: The decoded JSON of the part.
        hits: The reviews in the prompt, in the order of their numbers.
        limit: Maximum number of bullets to keep.
        reply: The whole reply, for the error.

    Raises:
        OutputInvalid: The part does not match its schema.
    """
    from ._schemas import AspectSchema, validated

    part = validated(AspectSchema, answer, reply)
    cited = dict.fromkeys(number for number in part.evidence if _is_valid_citation(number, hits))
    return AspectSummary(
        status="ok",
        summary=part.summary,
        bullets=tuple(bullet.strip() for bullet in part.bullets if bullet.strip())[:limit],
        evidence=tuple(Evidence(hits[n].review_id, hits[n].content, n) for n in cited),
        invalid_citations=sum(not _is_valid_citation(number, hits) for number in part.evidence),
    )


def read_overall(answer: Mapping[str, Any], reply: LLMResponse) -> str:
    """
    Parse the overall summary in a reply.

    Raises:
        OutputInvalid: The reply has no overall summary.
    """
    from ._schemas import OverallSchema, validated

    return validated(OverallSchema, answer, reply).overall_summary


def _is_valid_citation(number: Any, hits: Sequence[Hit]) -> bool:
    return type(number) is int and 0 <= number < len(hits)


_LABEL_OBJECT = re.compile(r"\{[^{}]{1,200}\}")
"""The JSON object of one label, which contains no nested object."""


def read_labels(reply: LLMResponse, requested: Collection[int]) -> dict[int, Sentiment]:
    """
    Parse sentiment labels by review number.

    Unknown numbers and unknown labels are dropped, and so are numbers with two different labels; the caller sees
    which of `requested` are missing. If the reply was cut off or is not valid JSON as a whole, every complete label
    in it counts.

    Args:
        reply: The reply.
        requested: Numbers of the reviews in the prompt.

    Raises:
        OutputError: The reply is not valid JSON and holds no valid label.
    """
    try:
        entries = read_object(reply).get("labels")
    except OutputError:
        labels = _valid_labels(_salvage(reply.text), requested)
        if not labels:
            raise
        return labels
    return _valid_labels(entries if isinstance(entries, list) else (), requested)


def _salvage(text: str) -> Iterable[Any]:
    """Yield every complete label object of a broken reply."""
    for match in _LABEL_OBJECT.finditer(text):
        try:
            yield json.loads(match[0], strict=False)
        except (ValueError, RecursionError):
            continue


def _valid_labels(entries: Iterable[Any], requested: Collection[int]) -> dict[int, Sentiment]:
    labels_by_number: dict[int, set[Sentiment]] = {}
    for entry in entries:
        if isinstance(entry, Mapping):
            number, label = _number(entry.get("id")), _label(entry.get("label"))
            if number in requested and label is not None:
                labels_by_number.setdefault(cast("int", number), set()).add(label)
    return {number: labels.pop() for number, labels in labels_by_number.items() if len(labels) == 1}


def _number(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 9:
        return int(value)
    return value if type(value) is int else None


def _label(value: Any) -> Sentiment | None:
    text = value.strip().lower() if isinstance(value, str) else ""
    return cast("Sentiment", text) if text in LABELS else None


def read_words(reply: LLMResponse) -> list[tuple[str, Word]]:
    """
    Parse the words in a reply, in its order.

    Raises:
        OutputError: The reply has no list of words.
    """
    from ._schemas import WordSchema, valid_entries

    return [
        (entry.word, Word(entry.pos, tuple(entry.meanings)))
        for entry in valid_entries(WordSchema, _read_list("words", reply))
    ]


def read_phrases(reply: LLMResponse) -> list[tuple[str, str]]:
    """
    Parse the phrases in a reply and their meanings, in its order.

    Raises:
        OutputError: The reply has no list of phrases.
    """
    from ._schemas import PhraseSchema, valid_entries

    return [
        (entry.phrase, entry.meaning.strip())
        for entry in valid_entries(PhraseSchema, _read_list("phrases", reply))
    ]


def _read_list(field: str, reply: LLMResponse) -> list[object]:
    entries = read_object(reply).get(field)
    if not isinstance(entries, list):
        raise OutputInvalid(f"the answer does not have its form: {field}: must be a list", reply=reply)
    return entries
