"""VLLMTokenCounter: exact token counts from a vLLM server's /tokenize."""

from __future__ import annotations

from functools import lru_cache

from ...errors import ConfigurationError
from ...tokens.tokenizers import replace_surrogates
from .server import VLLMServerLLM


class VLLMTokenCounter:
    """
    Counts as a vLLM server does, by asking it.

        llm = VLLMServerLLM("http://localhost:8000")
        runner = BatchRunner(llm=llm, count_tokens=VLLMTokenCounter(llm))

    Each count is a request, so the runner makes them in worker threads. A tokenizer that puts a token before
    every text puts it before every review: batches are then that much smaller than they might be. Where the
    server's tokenizer can be had as a file, `TokenizersCounter` is a thousand times faster.

    Args:
        llm: The server.
        cache: How many texts' counts are kept.

    Raises:
        ConfigurationError: When an argument cannot be used.
    """

    blocking = True

    def __init__(self, llm: VLLMServerLLM, *, cache: int = 1024) -> None:
        if not callable(getattr(llm, "count_tokens", None)):
            raise ConfigurationError(
                f'llm must be a VLLMServerLLM, got {llm!r}; for example VLLMServerLLM("http://localhost:8000")'
            )
        kept: object = cache
        if not isinstance(kept, int) or isinstance(kept, bool) or kept < 0:
            raise ConfigurationError(
                f"cache must be a whole number of at least 0, got {cache!r}; for example cache=1024"
            )
        self._llm = llm
        self._count = lru_cache(maxsize=cache)(llm.count_tokens)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._llm!r})"

    def __call__(self, text: str, /) -> int:
        """Return how many tokens a text has; raises as `VLLMServerLLM.count_tokens` does."""
        return self._count(replace_surrogates(text)) if text else 0
