"""
Replies of a model as text: thinking and half surrogate pairs removed, loops and full contexts detected.

Everything here takes time in proportion to the length of the reply.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from .._llm_response import LLMResponse
from .._patterns import lazy_pattern
from .._values import composed
from ..errors import OutputInvalid, OutputTruncated
from ..models import LLMRequest
from ._json import decode_whole, json_values

DECLINED = ("refusal", "content_filter")
"""Values of `finish_reason` that mean that the model or the service declined to answer."""

_THINKING_NAMES = (
    r"(?:[a-z]{1,12}:)?(?:think|thinking|antthinking|thought|thoughts|reasoning|reflection|scratchpad|analysis"
    r"|inner_monologue|inner_thoughts)"
)
_THINKING_TAG = lazy_pattern(
    rf"<(?P<close>/)?{_THINKING_NAMES}(?:\s[^<>]{{0,100}})?>"
    r"|\[(?P<close2>/)?(?:THINK|THINKING|REASONING)\]"
    r"|◁(?P<close3>/)?think(?:ing)?▷"
    r"|<\|(?P<close4>/|end_of_|end_)?(?:think|thinking|thought|begin_of_thought|START_THINKING)\|>"
    r"|<\|(?P<close5>END_THINKING)\|>",
    re.IGNORECASE,
)
_OTHER_THINKING = lazy_pattern(
    r"<unused94>.*?(?:<unused95>|\Z)|<\|channel>\s*(?:thought|analysis)\b.*?(?:<channel\|>|\Z)"
    r"|&lt;think(?:ing)?&gt;.*?(?:&lt;/think(?:ing)?&gt;|\Z)|<details type=\"reasoning\".*?(?:</details>|\Z)"
    r"|\A\s*Thinking\.\.\.\s.*?\.\.\.done thinking\.",
    re.IGNORECASE | re.DOTALL,
)
"""Thinking as MedGemma, Gemma 4, gateways that escape tags, Open WebUI, and Ollama's terminal mark it."""
_CHANNEL = lazy_pattern(r"<\|channel\|>\s*(\w+)[^<]{0,100}<\|message\|>")
_END_OF_MESSAGE = lazy_pattern(r"<\|(?:end|return|call|start)\|>")
_BARE_CHANNELS = lazy_pattern(r"\s*analysis(?=\S)(?!\w*\s*[\":])")
_BARE_FINAL = "assistantfinal"
_FENCE = "```"
_OPENING_FENCE = lazy_pattern(r"```\w*\s*")

_MAX_NESTED_STRINGS = 3
"""Times that JSON may have been written as a JSON string."""
_SHORT = 64
"""Characters of a name that is kept: a model may write longer ones."""

_LOOP_TAIL, _MIN_LOOP_LENGTH, _MIN_LOOPS = 4000, 60, 3
"""Characters at the end of a reply that are searched for a loop; minimum length of one, and minimum of rounds."""


def clean(text: str) -> str:
    """Join surrogate pairs, and replace each lone surrogate (half an emoji), which UTF-8 cannot encode, by U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def without_thinking(text: str) -> str:
    """
    Return a reply without the model's thinking.

    Of a block that is not closed, everything from its beginning on is thinking. A closing tag without an opening one
    ends thinking that began before the reply: many chat templates open the block in the prompt.
    """
    if "<|channel|>" in text:
        return _final_channel(text)
    if _BARE_CHANNELS.match(text):  # the same channels, by a server that drops the special tokens
        _, marker, final = text.rpartition(_BARE_FINAL)
        if marker:
            return final
    text = _OTHER_THINKING.sub("", text)
    kept: list[str] = []
    start, opened = 0, False
    for tag in _THINKING_TAG.finditer(text):
        if not any(tag.groups()):
            if not opened:
                kept.append(text[start : tag.start()])
            opened = True
        else:
            if not opened:
                kept.clear()
            start, opened = tag.end(), False
    if not opened:
        kept.append(text[start:])
    return "".join(kept)


def _final_channel(text: str) -> str:
    """Return the messages of the channel "final" in OpenAI's harmony format, which gpt-oss writes."""
    channels = list(_CHANNEL.finditer(text))
    ends = [*(match.start() for match in channels[1:]), len(text)]
    final = [
        _END_OF_MESSAGE.split(text[channel.end() : end], maxsplit=1)[0]
        for channel, end in zip(channels, ends, strict=False)
        if channel[1] == "final"
    ]
    return "".join(final)


def values_in(reply: LLMResponse, *, keep_conflicts: bool = False) -> Iterator[Any]:
    """
    Yield the JSON values in a reply: whole ones in their order, then those that are cut off.

    Thinking is removed before, unless the reply is JSON as a whole, in which a tag can only be a part of a text.

    Args:
        reply: The reply.
        keep_conflicts: Whether a name with two different values in an object gets a `Conflict` instead of the last one.

    Raises:
        OutputInvalid: The model or the service declined to answer.
    """
    if reply.finish_reason in DECLINED:
        raise OutputInvalid(
            f"the model declined to answer ({reply.finish_reason}): {clean(reply.text[:200])}", reply=reply
        )
    text = reply.text.lstrip(" \t\r\n\ufeff")
    if not text.startswith("{"):
        text = _unfenced(text)
    if text[:1] in ("{", "[", '"'):
        try:
            value = decode_whole(text, keep_conflicts=keep_conflicts)
        except (ValueError, RecursionError):
            pass
        else:
            for _ in range(_MAX_NESTED_STRINGS):
                if isinstance(value, str):
                    value = _nested(value, keep_conflicts)
            if not isinstance(value, str):
                yield value
                return
            text = value
    text = without_thinking(text)
    if '{\\"' in text and '{"' not in text:  # a JSON string without the quotes around it
        text = text.replace('\\"', '"').replace("\\n", " ")
    yield from json_values(text, keep_conflicts=keep_conflicts)


def _unfenced(text: str) -> str:
    """Return what stands in a fenced block that is the whole text; any other text as it is."""
    block = text.strip()
    if not block.startswith(_FENCE) or not block.endswith(_FENCE):
        return text
    opening, _, rest = block.partition("\n")
    inner, line_end, closing = rest.removesuffix(_FENCE).rpartition("\n")
    if not line_end or closing.strip() or not _OPENING_FENCE.fullmatch(opening):
        return text
    return inner


def _nested(text: str, keep_conflicts: bool) -> Any:
    """Return the value of a text that is JSON itself, and any other text as it is."""
    if not text.lstrip().startswith(("{", "[", '"')):
        return text
    try:
        return decode_whole(text, keep_conflicts=keep_conflicts)
    except (ValueError, RecursionError):
        return text


def members(value: Any, depth: int = 6) -> Iterator[Any]:
    """
    Yield a JSON value and the objects and lists in it, outer ones first, at most `depth` levels deep.

    A text that is an object or list in JSON, such as the arguments of a tool call, counts as one.
    """
    if isinstance(value, str) and value[:1] in ("{", "["):
        value = _nested(value, keep_conflicts=True)
    if isinstance(value, (dict, list)):
        yield value
        if depth:
            for member in value.values() if isinstance(value, dict) else value:
                yield from members(member, depth - 1)


def squeezed(name: str) -> str:
    """Return a name of a field in lower case without separators: "Overall Summary" and "overallSummary" alike."""
    return _squeezed(name) if len(name) <= _SHORT else _squeezed.__wrapped__(name)


@lru_cache(256)
def _squeezed(name: str) -> str:
    return "".join(filter(str.isalnum, composed(name))).casefold()


def member(answer: Mapping[str, Any], name: str) -> Any:
    """Return the member of an object, also if its name is written with other letters or separators; or None."""
    if name in answer:
        return answer[name]
    wanted = squeezed(name)
    return next((value for key, value in answer.items() if squeezed(key) == wanted), None)


def unreadable(problem: str, reply: LLMResponse) -> OutputInvalid | OutputTruncated:
    """
    Return the error for a reply of which nothing can be used.

    Args:
        problem: What is wrong with it, for a reply that was not cut off.
        reply: The reply.
    """
    if reply.finish_reason == "length":
        return OutputTruncated(
            "the answer was cut off at its token limit; raise max_tokens, or ask about less at a time",
            reply=reply,
        )
    return OutputInvalid(problem, reply=reply)


def is_looping(reply: LLMResponse) -> bool:
    """
    Tell whether a reply ends in a text that repeats itself, as small models do until they are cut off.

    Finds the smallest period of every suffix with the prefix function of the reversed text (Knuth, Morris and Pratt).
    """
    tail = reply.text[-_LOOP_TAIL:][::-1]
    borders = [0] * len(tail)
    border = 0
    for index in range(1, len(tail)):
        while border and tail[index] != tail[border]:
            border = borders[border - 1]
        border += tail[index] == tail[border]
        borders[index] = border
        length = index + 1
        if length >= _MIN_LOOP_LENGTH and length >= _MIN_LOOPS * (length - border):
            return True
    return False


def is_context_full(request: LLMRequest, reply: LLMResponse) -> bool:
    """Tell whether a reply was cut off before its own token limit, because the model's context was full."""
    tokens: object = reply.completion_tokens  # a backend of the user's own may leave it out
    return isinstance(tokens, (int, float)) and 0 < tokens < request.max_tokens


def more_room_helps(request: LLMRequest, reply: LLMResponse) -> bool:
    """Tell whether a larger `max_tokens` may complete a reply that was cut off."""
    return not is_context_full(request, reply) and not is_looping(reply)
