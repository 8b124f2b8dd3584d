"""LLM responses and the rate-limit status that a service reports with them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RateLimitStatus:
    """
    What a service lets through of one thing, and how much of that is left, by its own account.

    Attributes:
        limit: The most, as a rule in a minute.
        remaining: What is left of it.
        reset: Seconds until all of it is there again.
    """

    limit: int
    remaining: int
    reset: float


@dataclass(frozen=True, slots=True)
class RateLimitInfo:
    """
    What a service says is left when it answers or refuses a call: OpenAI's ``x-ratelimit-*`` headers.

    Attributes:
        requests: Calls, or None when nothing is said of them.
        tokens: Tokens, likewise.
    """

    requests: RateLimitStatus | None = None
    tokens: RateLimitStatus | None = None

    def is_insufficient_for(self, tokens: int) -> bool:
        """Tell whether too little is left for a call of so many tokens."""
        calls_gone = self.requests is not None and self.requests.remaining < 1
        return calls_gone or (self.tokens is not None and self.tokens.remaining < max(1, tokens))


@dataclass(frozen=True, slots=True)
class LLMResponse:
    """
    A model's answer.

    Attributes:
        text: The answer.
        finish_reason: "stop" when the model ended by itself, "length" when it was cut off, "content_filter"
            when the service cut it off, "refusal" when the model declined; the text is then its reason.
        prompt_tokens: Tokens read, as counted by the service; 0 when unknown.
        completion_tokens: Tokens written, likewise.
        model: The model that answered.
        cached_tokens: Those of `prompt_tokens` that the service had in its prompt cache.
        rate_limit: What the service said was left of its limits. True of that moment and no part of the answer, so
            replies are equal without it.
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
