"""
Reading what the model wrote.

Nothing that comes back is trusted: the answer is validated against its form, cited numbers are mapped to the
reviews that were shown, and those that fit none are dropped and counted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .._llm_response import LLMReply
from ..errors import OutputInvalid, OutputTruncated
from ..models import Hit
from ..results import AspectSummary, Evidence

DECLINED = ("refusal", "content_filter")
"""How an answer ended that the model, or the service, declined to give."""


def read_object(reply: LLMReply) -> Mapping[str, Any]:
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


def read_aspect(answer: Any, hits: Sequence[Hit], limit: int, reply: LLMReply) -> AspectSummary:
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
    from ._schemas import AspectForm, validated

    part = validated(AspectForm, answer, reply)
    cited = dict.fromkeys(number for number in part.evidence if _is_shown(number, hits))
    return AspectSummary(
        status="ok",
        summary=part.summary,
        bullets=tuple(bullet.strip() for bullet in part.bullets if bullet.strip())[:limit],
        evidence=tuple(Evidence(hits[n].review_id, hits[n].content, n) for n in cited),
        dropped_evidence=sum(not _is_shown(number, hits) for number in part.evidence),
    )


def read_overall(answer: Mapping[str, Any], reply: LLMReply) -> str:
    """
    Return the overall summary of an answer.

    Raises:
        OutputInvalid: When there is none.
    """
    from ._schemas import OverallForm, validated

    return validated(OverallForm, answer, reply).overall_summary


def _is_shown(number: Any, hits: Sequence[Hit]) -> bool:
    return type(number) is int and 0 <= number < len(hits)
