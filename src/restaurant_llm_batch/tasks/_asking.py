"""
LLM calls with output repair: complete, parse, and ask once more if the reply cannot be used.

The same call is never repeated for the same fault. A reply that was cut off is requested again with a larger
`max_tokens` only if the caller cannot ask for less, and never if it ended in a loop or because the context was full:
the second reply would be as useless. An invalid reply is sent back with the validation error, which names the field. A
refusal is final.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from .._llm_response import LLMResponse
from ..errors import (
    BackendError,
    ContentRefused,
    OutputError,
    OutputTruncated,
    RateLimited,
    TransientBackendError,
)
from ..models import LLMRequest
from ..steps import Flow, LimiterName, complete
from ._common import reraise_fatal
from ._prompts.aspects import escaped
from ._replies import DECLINED, clean, more_room_helps

T = TypeVar("T")

TRUNCATION_GROWTH = 2
"""Factor by which `max_tokens` grows after a truncated reply."""
MAX_QUOTE_LENGTH = 2000
"""Maximum number of characters of an invalid reply that are quoted to the model."""

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
    Complete a request and parse the reply; repair the reply once if it cannot be parsed.

    Args:
        request: The request.
        parse: Parses the reply; raises an `OutputError` if that is not possible.
        limiter: Limit that the calls count against.
        widen: Whether to request a reply that was cut off again with a larger `max_tokens`, if that can help. Set to
            False if the caller can ask for less instead.

    Raises:
        Exception: The error of the call, or the error of `parse` for the last reply.
    """
    reply = yield from complete(request, limiter=limiter)
    try:
        return parse(reply)
    except OutputError as error:
        if isinstance(error, OutputTruncated) and not (widen and more_room_helps(request, reply)):
            raise
        repaired = yield from repair(request, reply, error, limiter=limiter)
        if repaired is None:
            raise
    return parse(repaired)


def repair(
    request: LLMRequest, reply: LLMResponse, error: OutputError, *, limiter: LimiterName = "llm"
) -> Flow[LLMResponse | None]:
    """
    Ask once more after an unusable reply.

    Returns:
        The second reply; None if the model declined the first time, or if the second call fails.

    Raises:
        BackendError: The second call failed with an error that stops the run.
    """
    if reply.finish_reason in DECLINED:
        return None
    if isinstance(error, OutputTruncated):
        second = replace(request, max_tokens=TRUNCATION_GROWTH * request.max_tokens)
    else:
        second = _repair_request(request, reply, error)
    try:
        return (yield from complete(second, limiter=limiter))
    except BackendError as second_error:
        reraise_fatal(second_error)
        return None


def _repair_request(request: LLMRequest, reply: LLMResponse, error: OutputError) -> LLMRequest:
    language = str(request.inputs.get("language") or "en")
    # The text of `error` is part of the prompt, and so of the store's key: rewording it loses stored repairs.
    instruction = _REPAIR.get(language, _REPAIR["en"]).format(error=str(error)[:500])
    text = clean(reply.text)
    return replace(
        request,
        task="repair",
        messages=(
            *request.messages,
            {"role": "assistant", "content": escaped(text[:MAX_QUOTE_LENGTH])},
            {"role": "user", "content": instruction},
        ),
        inputs={**request.inputs, "text": text, "error": str(error)},
    )


def is_refusal(error: Exception) -> bool:
    """Tell whether a content filter refused a prompt or its reply, so that a prompt without one text may pass."""
    if isinstance(error, OutputError):
        return error.reply is not None and error.reply.finish_reason in DECLINED
    return isinstance(error, ContentRefused)


def is_server_fault(error: Exception) -> bool:
    """
    Tell whether a server failed at every attempt (5xx), which a text that it cannot bear may cause.

    503 is no such failure: it says that the service is unavailable, which is not up to the text.
    """
    return (
        isinstance(error, TransientBackendError)
        and not isinstance(error, RateLimited)
        and error.status is not None
        and error.status >= 500
        and error.status != 503
    )
