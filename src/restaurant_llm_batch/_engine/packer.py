"""Batch packer: performs `Pack`, filling batches within the runner's limits, with the runner's token counter."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from .._config.limits import Limits
from .._llm_response import LLMResponse
from ..models import LLMRequest
from ..protocols import TokenCounter
from ..steps import Pack
from ..tokens.packing import (
    CHAT_TEMPLATE_OVERHEAD,
    PackedText,
    Packing,
    estimate_tokens,
    finish,
    pack_prompts,
)

_FIXED_TEXTS_KEPT = 64


class BatchPacker:
    """
    Packs texts into batches, and counts the tokens of requests.

    Args:
        limits: The limits on a batch's tokens and size.
        count: The token counter.

    Attributes:
        observes: Whether the counter learns from replies (`observe`).
        blocking: Whether the counter asks a service, so that it must not run on an event loop.
    """

    def __init__(self, limits: Limits, count: TokenCounter) -> None:
        self._limits = limits
        self._count = count
        self.observes: bool = hasattr(count, "observe")
        self._observe: Callable[[str, int], object] | None = getattr(count, "observe", None)
        # A counter that learns may return another number for the same text a moment later, so it is not cached.
        self._count_fixed_text = count if self._observe else lru_cache(_FIXED_TEXTS_KEPT)(count)
        self.blocking: bool = getattr(count, "blocking", False)

    def pack(self, step: Pack) -> list[list[PackedText]]:
        """Return the batches; raises as `packing`."""
        return finish(self.packing(step))

    def packing(self, step: Pack) -> Packing:
        """
        Return what packs the batches in slices.

        Raises:
            ConfigurationError: If the prompt's fixed text and the reply alone fill the budget.
        """
        budget = self._limits.tokens_per_batch if step.max_tokens is None else step.max_tokens
        return pack_prompts(
            step.texts,
            budget,
            max_texts=step.max_texts or self._limits.max_batch_size,
            fixed_tokens=self._count_fixed_text(step.fixed_text) + step.answer_tokens,
            answer_tokens_each=step.answer_tokens_each,
            count=self._count,
            render=step.render,
        )

    def least_tokens(self, step: Pack) -> int:
        """Return the tokens of a batch of which instructions and reply take the half."""
        fixed = (
            self._count_fixed_text(step.fixed_text) if not self.blocking else estimate_tokens(step.fixed_text)
        )
        return 2 * (fixed + step.answer_tokens + step.answer_tokens_each + CHAT_TEMPLATE_OVERHEAD)

    def request_tokens(self, request: LLMRequest) -> int:
        """Return the tokens of a request in flight: those of its prompt and of its longest reply."""
        # A blocking counter would cost one more call to a service for every call.
        count = estimate_tokens if self.blocking else self._count
        prompt = sum(count(message["content"]) for message in request.messages)
        return prompt + CHAT_TEMPLATE_OVERHEAD + request.max_tokens

    def prompt_tokens(self, request: LLMRequest) -> int:
        """Return the estimated tokens of a request's prompt."""
        return self.estimate_usage(request, "")[0]

    def estimate_usage(self, request: LLMRequest, text: str) -> tuple[int, int]:
        """Return the estimated tokens of a request's prompt and of a reply's text."""
        count = estimate_tokens if self.blocking else self._count
        prompt = sum(count(message["content"]) for message in request.messages)
        return prompt + CHAT_TEMPLATE_OVERHEAD, count(text) if text else 0

    def observe(self, request: LLMRequest, reply: LLMResponse) -> None:
        """Pass a prompt and its true number of tokens to a counter that learns."""
        if self._observe is not None and reply.prompt_tokens:
            self._observe("\n".join(message["content"] for message in request.messages), reply.prompt_tokens)
