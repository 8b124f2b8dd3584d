"""
What a call of `OpenAILLM` costs: CPU milliseconds, beside the official SDK used by hand.

    python benchmarks/openai_cost.py [--calls 1500] [--rounds 7]

Both ask the same server, which is a process of its own and answers at once, and take turns round by round;
medians are compared. "By hand" is ``AsyncOpenAI(http_client=DefaultAioHttpClient(limits=...))`` and
``chat.completions.create``, the fastest way that the SDK's readme tells. The prompt has about 2 kB and the
answer is structured.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import httpx2
from openai import AsyncOpenAI, DefaultAioHttpClient

from _stub import MODEL, StubServer
from restaurant_llm_batch import LLMRequest
from restaurant_llm_batch.backends import OpenAILLM

SCHEMA = {
    "type": "object",
    "properties": {
        "summary": {"type": "string"},
        "bullets": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
        "evidence": {"type": "array", "items": {"type": "integer"}},
    },
    "required": ["summary", "bullets", "evidence"],
    "additionalProperties": False,
}
MESSAGES = (
    {"role": "system", "content": "You summarise what guests say about a restaurant. Answer in JSON."},
    {"role": "user", "content": "음식이 맛있고 직원분도 친절했어요. " * 40},
)
REQUEST = LLMRequest("aspect_summary", MESSAGES, schema=SCHEMA)
TEXT = json.dumps(
    {"summary": "음식이 맛있어요.", "bullets": ["친절해요"], "evidence": [0]}, ensure_ascii=False
)

Call = Callable[[], Awaitable[object]]


def by_hand(client: AsyncOpenAI) -> Call:
    """Return a call as a user of the SDK would write it."""
    form: Any = {
        "type": "json_schema",
        "json_schema": {"name": "aspect_summary", "strict": True, "schema": SCHEMA},
    }
    messages: Any = list(MESSAGES)

    async def call() -> object:
        answer = await client.chat.completions.create(
            model=MODEL,
            messages=messages,
            response_format=form,
            max_completion_tokens=1500,
            temperature=0.1,
        )
        assert answer.usage is not None
        return answer.choices[0].message.content, answer.choices[0].finish_reason, answer.usage.prompt_tokens

    return call


async def keep_in_flight(call: Call, calls: int, width: int) -> None:
    """Make `calls` calls, `width` at a time."""
    left = iter(range(calls))

    async def worker() -> None:
        for _ in left:
            await call()

    async with anyio.create_task_group() as tasks:
        for _ in range(width):
            tasks.start_soon(worker)


def cpu_seconds() -> float:
    """Return the CPU time of this process so far, the kernel's for it included."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def one_round(call: Call, calls: int, width: int) -> tuple[float, float]:
    """Return CPU milliseconds per call, and calls per second."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    await keep_in_flight(call, calls, width)
    return (cpu_seconds() - cpu) / calls * 1e3, calls / (time.perf_counter() - wall)


async def compare(url: str, calls: int, rounds: int) -> None:
    """Let the two take turns and print the medians."""
    http = DefaultAioHttpClient(limits=httpx2.Limits(max_connections=1000, max_keepalive_connections=1000))
    client = AsyncOpenAI(api_key="k", base_url=f"{url}/v1", max_retries=0, http_client=http)
    llm = OpenAILLM(MODEL, api_key="k", base_url=f"{url}/v1", max_tokens_field="max_completion_tokens")

    async def ours() -> object:
        return await llm.acomplete(REQUEST)

    print(
        f"{'in flight':>9} {'ours, ms':>10} {'by hand, ms':>12} {'ratio':>7} {'ours/s':>8} {'by hand/s':>10}"
    )
    for width in (64, 256):
        takes: dict[str, list[tuple[float, float]]] = {"ours": [], "hand": []}
        for turn in range(rounds + 1):
            for name, call in (("ours", ours), ("hand", by_hand(client))):
                took = await one_round(call, calls, width)
                if turn:  # the first opens the connections
                    takes[name].append(took)
        (cpu, rate), (hand_cpu, hand_rate) = (
            [statistics.median(column) for column in zip(*takes[name], strict=True)] for name in takes
        )
        print(f"{width:9} {cpu:10.3f} {hand_cpu:12.3f} {cpu / hand_cpu:6.2f}x {rate:8.0f} {hand_rate:10.0f}")
    await llm.aclose()
    await client.close()


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--calls", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    with StubServer(text=TEXT) as server:
        anyio.run(compare, server.url, arguments.calls, arguments.rounds)


if __name__ == "__main__":
    main()
