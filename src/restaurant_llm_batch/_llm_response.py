"""LLM responses and the rate-limit status that a service reports with them."""

from __future__ import annotations

from dataclasses import dataclass, field


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
    """

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    model: str = ""
    cached_tokens: int = 0
    rate_limit: RateLimitInfo | None = field(default=None, compare=False, repr=False)


def is_valid_reply(reply: LLMResponse) -> bool:
    """Tell whether a backend filled a reply's fields with values of the right types."""
    fields: tuple[object, ...] = (
        reply.text,
        reply.prompt_tokens,
        reply.completion_tokens,
        reply.cached_tokens,
    )
    text, prompt, completion, cached = fields  # spelled out: a generator expression takes ten times as long
    return (
        isinstance(text, str)
        and isinstance(prompt, int)
        and isinstance(completion, int)
        and isinstance(cached, int)
    )
