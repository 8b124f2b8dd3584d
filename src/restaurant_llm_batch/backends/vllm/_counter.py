"""Exact token counts from a vLLM server's ``/tokenize``: `VLLMTokenCounter`."""

from __future__ import annotations

from functools import lru_cache

from ..._http.recipe import PickledAsRecipe, arguments_of
from ..._validation import check_whole
from ...errors import ConfigurationError
from ...tokens.tokenizers import replace_surrogates
from .server import VLLMServerLLM


class VLLMTokenCounter(PickledAsRecipe):
    """
    Exact token counter that asks a vLLM server.

        llm = VLLMServerLLM("http://localhost:8000")
        runner = BatchRunner(llm=llm, count_tokens=VLLMTokenCounter(llm))

    Each count is an HTTP request, so the runner counts in worker threads. If the tokenizer adds a start token, each
    review counts one token too many, and batches are slightly smaller than they could be. If the tokenizer's file
    is available, `TokenizersCounter` is a thousand times faster.

    Args:
        llm: The server.
        cache: Maximum number of texts whose counts are cached; 0 for no cache.

    Raises:
        ConfigurationError: If an argument has the wrong type, or `cache` is negative.
    """

    blocking = True

    def __init__(self, llm: VLLMServerLLM, *, cache: int = 1024) -> None:
        self._made_with = arguments_of(locals())
        if not callable(getattr(llm, "count_tokens", None)):
            raise ConfigurationError(
                f'llm must be a VLLMServerLLM, got {llm!r}; for example VLLMServerLLM("http://localhost:8000")'
            )
        check_whole("cache", cache, 0, "cache=1024")
        self._llm = llm
        self._count = lru_cache(maxsize=cache)(llm.count_tokens)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._llm!r})"

    def __call__(self, text: str, /) -> int:
        """Return the number of tokens of a text; raises what `VLLMServerLLM.count_tokens` raises."""
        return self._count(replace_surrogates(text)) if text else 0
