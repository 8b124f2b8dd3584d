"""LLM responses and the rate-limit status that a service reports with them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import isfinite

from ._fast_init import fast_init


@dataclass(frozen=True, slots=True)
class RateLimitStatus:
    """
    Status of one rate limit, of requests or of tokens, as the service reports it.

    Attributes:
        limit: The limit, usually per minute.
        remaining: Requests or tokens left at the time of the response.
        reset: Seconds until `remaining` is back at `limit`.
    """

    limit: int
    remaining: int
    reset: float


@dataclass(frozen=True, slots=True)
class RateLimitInfo:
    """
    Rate limits that a service reports with a response or a refusal: OpenAI's ``x-ratelimit-*`` headers.

    Attributes:
        requests: The limit on requests, or None if not reported.
        tokens: The limit on tokens, or None if not reported.
    """

    requests: RateLimitStatus | None = None
    tokens: RateLimitStatus | None = None

    def is_insufficient_for(self, tokens: int) -> bool:
        """Return whether too little is left for a call of `tokens` tokens."""
        no_requests_left = self.requests is not None and self.requests.remaining < 1
        return no_requests_left or (self.tokens is not None and self.tokens.remaining < max(1, tokens))


@fast_init
@dataclass(frozen=True, slots=True)
class LLMResponse:
    """
    A model's reply to an `LLMRequest`.

    Attributes:
        text: Text of the reply.
        finish_reason: "stop" if the model ended by itself, "length" if it was cut off at the token limit,
            "content_filter" if the service cut it off, "refusal" if the model declined; the text is then its reason.
        prompt_tokens: Tokens of the prompt, as counted by the service; 0 if unknown.
        completion_tokens: Tokens of the reply, as counted by the service; 0 if unknown.
        model: Name of the model that answered.
        cached_tokens: How many of `prompt_tokens` the service took from its prompt cache.
        rate_limit: Rate limits that the service reported with the reply, or None. Not compared: they describe the
            moment, not the reply.
        batched: Whether a provider's batch has answered, at its price. Not compared: the reply is the same.
    """

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    model: str = ""
    cached_tokens: int = 0
    rate_limit: RateLimitInfo | None = field(default=None, compare=False, repr=False)
    batched: bool = field(default=False, compare=False, repr=False)


def valid_reply(reply: LLMResponse) -> LLMResponse | None:
    """
    Return a backend's reply with whole numbers of tokens, or None if it has no text.

    Some services report 3000.0 or "3000"; what is no number of at least 0 is unknown, which is 0.
    """
    text: object = reply.text
    prompt, completion, cached = reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens
    # Spelled out: a generator expression takes ten times as long.
    if (
        isinstance(text, str)
        and type(prompt) is int
        and type(completion) is int
        and type(cached) is int
        and prompt >= 0
        and completion >= 0
        and cached >= 0
    ):
        return reply
    if not isinstance(text, str):
        return None
    return replace(
        reply,
        prompt_tokens=token_count(prompt),
        completion_tokens=token_count(completion),
        cached_tokens=token_count(cached),
    )


MAX_TOKEN_COUNT = 10**9
"""A larger number of tokens of one call is not believed."""


def token_count(value: object) -> int:
    """Return a number of tokens as a service reports it: as an integer, a float or a text; 0 if it is unknown."""
    try:
        number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else 0.0
    except (ValueError, OverflowError):
        return 0
    return int(number) if isfinite(number) and 0 <= number <= MAX_TOKEN_COUNT else 0
