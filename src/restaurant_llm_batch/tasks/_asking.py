"""
Asking, and asking once more where the answer cannot be used.

Never the same call again for the same fault: an answer that was cut off is asked for with more room, one that is
invalid with the reason why, and one that was declined not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from .._llm_response import LLMReply
from ..errors import BackendError, OutputError, OutputTruncated
from ..models import LLMRequest
from ..steps import Flow, GateName, complete
from ._common import value_or_failure
from ._parsing import DECLINED
from ._prompts.aspects import escaped

T = TypeVar("T")

ROOM = 2
"""How many times as long an answer may be that was cut off."""
LONGEST_QUOTE = 2000
"""Characters of an invalid answer that are shown to the model again."""

_REPAIR: Mapping[str, str] = {
    "ko": "앞선 답을 읽을 수 없습니다: {error}\n지정된 JSON 형식 하나로만, 처음부터 다시 답하세요.",
    "en": "That answer cannot be read: {error}\nAnswer once more, with a single JSON object of the given form.",
}


def ask(
    request: LLMRequest, read: Callable[[LLMReply], T], *, gate: GateName = "llm", widen: bool = True
) -> Flow[T]:
    """
    Ask, read the answer, and ask once more where it cannot be used.

    Args:
        request: The question.
        read: Reads the answer; raises an `OutputError` where that is not possible.
        gate: The limit that the calls count against.
        widen: Whether an answer that was cut off is asked for with more room; whoever asks about less instead
            says no.

    Raises:
        Exception: What the call raised, or what `read` raised about the last answer.
    """
    reply = yield from complete(request, gate=gate)
    try:
        return read(reply)
    except OutputError as problem:
        if isinstance(problem, OutputTruncated) and not widen:
            raise
        again = yield from mend(request, reply, problem, gate=gate)
        if again is None:
            raise
    return read(again)


def mend(
    request: LLMRequest, reply: LLMReply, problem: OutputError, *, gate: GateName = "llm"
) -> Flow[LLMReply | None]:
    """Ask once more for what was answered unusably; None where that is of no use, or fails itself."""
    if reply.finish_reason in DECLINED:
        return None
    again = (
        _with_more_room(request) if isinstance(problem, OutputTruncated) else _repair(request, reply, problem)
    )
    try:
        return (yield from complete(again, gate=gate))
    except BackendError as error:
        value_or_failure(error)
        return None


def _with_more_room(request: LLMRequest) -> LLMRequest:
    return replace(request, max_tokens=ROOM * request.max_tokens)


def _repair(request: LLMRequest, reply: LLMReply, problem: OutputError) -> LLMRequest:
    language = str(request.inputs.get("language") or "en")
    told = _REPAIR.get(language, _REPAIR["en"]).format(error=str(problem)[:500])
    return replace(
        request,
        task="repair",
        messages=(
            *request.messages,
            {"role": "assistant", "content": escaped(reply.text[:LONGEST_QUOTE])},
            {"role": "user", "content": told},
        ),
        inputs={**request.inputs, "text": reply.text, "error": str(problem)},
    )
