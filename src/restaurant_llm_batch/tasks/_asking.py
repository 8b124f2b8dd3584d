"""
Asking, and asking once more where the answer cannot be used.

Never the same call again for the same fault: an answer that was cut off is asked for with more room, one that is
invalid with the reason why, and one that was declined not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from .._llm_response import LLMResponse
from ..errors import BackendError, OutputError, OutputTruncated
from ..models import LLMRequest
from ..steps import Flow, LimiterName, complete
from ._common import reraise_fatal
from ._parsing import DECLINED
from ._prompts.aspects import escaped

T = TypeVar("T")

TRUNCATION_GROWTH = 2
"""How many times as long an answer may be that was cut off."""
MAX_QUOTE_LENGTH = 2000
"""Characters of an invalid answer that are shown to the model again."""

_REPAIR: Mapping[str, str] = {
    "ko": "앞선 답을 읽을 수 없습니다: {error}\n지정된 JSON 형식 하나로만, 처음부터 다시 답하세요.",
    "en": "That answer cannot be read: {error}\nAnswer once more, with a single JSON object of the given form.",
}


def complete_and_parse(
    request: LLMRequest,
    parse: Callable[[LLMResponse], T],
    *,
    limiter: LimiterName = "llm",
    widen: bool = True,
) -> Flow[T]:
    """
    Ask, read the answer, and ask once more where it cannot be used.

    Args:
        request: The question.
        parse: Reads the answer; raises an `OutputError` where that is not possible.
        limiter: The limit that the calls count against.
        widen: Whether an answer that was cut off is asked for with more room; whoever asks about less instead
            says no.

    Raises:
        Exception: What the call raised, or what `parse` raised about the last answer.
    """
    reply = yield from complete(request, limiter=limiter)
    try:
        return parse(reply)
    except OutputError as problem:
        if isinstance(problem, OutputTruncated) and not widen:
            raise
        again = yield from repair(request, reply, problem, limiter=limiter)
        if again is None:
            raise
    return parse(again)


def repair(
    request: LLMRequest, reply: LLMResponse, problem: OutputError, *, limiter: LimiterName = "llm"
) -> Flow[LLMResponse | None]:
    """Ask once more for what was answered unusably; None where that is of no use, or fails itself."""
    if reply.finish_reason in DECLINED:
        return None
    again = (
        _with_more_room(request) if isinstance(problem, OutputTruncated) else _repair(request, reply, problem)
    )
    try:
        return (yield from complete(again, limiter=limiter))
    except BackendError as error:
        reraise_fatal(error)
        return None


def _with_more_room(request: LLMRequest) -> LLMRequest:
    return replace(request, max_tokens=TRUNCATION_GROWTH * request.max_tokens)


def _repair(request: LLMRequest, reply: LLMResponse, problem: OutputError) -> LLMRequest:
    language = str(request.inputs.get("language") or "en")
    told = _REPAIR.get(language, _REPAIR["en"]).format(error=str(problem)[:500])
    return replace(
        request,
        task="repair",
        messages=(
            *request.messages,
            {"role": "assistant", "content": escaped(reply.text[:MAX_QUOTE_LENGTH])},
            {"role": "user", "content": told},
        ),
        inputs={**request.inputs, "text": reply.text, "error": str(problem)},
    )
