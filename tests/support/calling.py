"""Asking a model in each mode: blocking, on asyncio and on trio; what holds for one must hold for all."""

from __future__ import annotations

from typing import Any

import anyio

from restaurant_llm_batch import LLMRequest, LLMResponse

MODES = ("blocking", "asyncio", "trio")
REQUEST = LLMRequest("aspect_summary", ({"role": "user", "content": "음식이 맛있어요"},))


def ask(llm: Any, mode: str, request: LLMRequest = REQUEST) -> LLMResponse:
    """Ask once, and let go of the connections."""
    return ask_often(llm, mode, 1, request)[0]


def ask_often(llm: Any, mode: str, times: int, request: LLMRequest = REQUEST) -> list[LLMResponse]:
    """Ask several times, one after the other, and let go of the connections."""
    if mode == "blocking":
        try:
            return [llm.complete(request) for _ in range(times)]
        finally:
            llm.close()
    return anyio.run(_ask_often, llm, times, request, backend=mode)


async def _ask_often(llm: Any, times: int, request: LLMRequest) -> list[LLMResponse]:
    try:
        return [await llm.acomplete(request) for _ in range(times)]
    finally:
        await llm.aclose()
