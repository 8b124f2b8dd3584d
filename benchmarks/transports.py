"""
What carries requests to a model: calls a second, and the processor's time per call, by client and width.

    python benchmarks/transports.py [--ms 200] [--calls 5000] [--width 64 256 1024] [--rounds 3]

All clients send the same 2 kB prompt to the same stub in another process and read the answer; they take turns
in each round, and the medians over the rounds are shown. The ideal is width / delay. `pyreqwest` takes part
when it is installed. "runner" is a `BatchRunner` in stage 4 with one call per item.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from statistics import median
from typing import Any, TypeAlias

import aiohttp
import anyio

from _stub import MODEL, StubServer
from restaurant_llm_batch import BatchRunner, Limits, LLMRequest, Strategy
from restaurant_llm_batch._http.httpx import HttpxTransport
from restaurant_llm_batch.backends import VLLMServerLLM
from restaurant_llm_batch.steps import Flow, complete

REQUEST = LLMRequest("taste", ({"role": "user", "content": "맛있어요. " * 200},))
BODY: dict[str, Any] = {"model": MODEL, "messages": list(REQUEST.messages), "max_tokens": 1500}
Work: TypeAlias = Callable[[int, int], Awaitable[None]]
Contestant: TypeAlias = Callable[[str, int], Any]


async def many(call: Callable[[], Awaitable[Any]], calls: int, width: int) -> None:
    """Make calls, `width` of them at a time."""
    numbers = iter(range(calls))

    async def worker() -> None:
        for _ in numbers:
            await call()

    async with anyio.create_task_group() as tasks:
        for _ in range(width):
            tasks.start_soon(worker)


@asynccontextmanager
async def raw_aiohttp(url: str, width: int) -> AsyncIterator[Work]:
    """By hand: what there is to reach."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def call() -> str:
            body = json.dumps(BODY, ensure_ascii=False).encode()
            headers = {"content-type": "application/json"}
            async with session.post(url + "/v1/chat/completions", data=body, headers=headers) as response:
                return str(json.loads(await response.read())["choices"][0]["message"]["content"])

        yield partial(many, call)


@asynccontextmanager
async def vllm(url: str, width: int) -> AsyncIterator[Work]:
    """`VLLMServerLLM` as it comes."""
    llm = VLLMServerLLM(url, MODEL)
    yield partial(many, lambda: llm.acomplete(REQUEST))
    await llm.aclose()


@asynccontextmanager
async def vllm_over_httpx(url: str, width: int) -> AsyncIterator[Work]:
    """`VLLMServerLLM` over httpx: why the seam is there."""
    transport = HttpxTransport()
    llm = VLLMServerLLM(url, MODEL, transport=transport)
    yield partial(many, lambda: llm.acomplete(REQUEST))
    await transport.aclose()


@asynccontextmanager
async def runner(url: str, width: int, gc_threshold: int | None = None) -> AsyncIterator[Work]:
    """Run the whole library: limiters, policy, statistics."""

    def flow(item: int) -> Flow[str]:
        return (yield from complete(REQUEST)).text

    limits = Limits(llm=width, open_items=width)
    collecting: dict[str, Any] = {} if gc_threshold is None else {"gc_threshold": gc_threshold}
    batch = BatchRunner(
        llm=VLLMServerLLM(url, MODEL), strategy=Strategy.stage(4), limits=limits, **collecting
    )

    async def work(calls: int, width: int) -> None:
        report = await batch.arun(flow, range(calls))
        assert len(report.results) == calls

    async with batch:
        yield work


@asynccontextmanager
async def pyreqwest(url: str, width: int) -> AsyncIterator[Work]:
    """Use the other fast client."""
    from pyreqwest.client import ClientBuilder

    async with ClientBuilder().build() as client:

        async def call() -> str:
            body = json.dumps(BODY, ensure_ascii=False).encode()
            request = client.post(url + "/v1/chat/completions").body_bytes(body)
            response = await request.header("content-type", "application/json").build().send()
            return str(json.loads(bytes(await response.bytes()))["choices"][0]["message"]["content"])

        yield partial(many, call)


def contestants() -> dict[str, Contestant]:
    """Return who takes part."""
    found: dict[str, Contestant] = {
        "raw aiohttp": raw_aiohttp,
        "VLLMServerLLM": vllm,
        "runner, stage 4": runner,
        "the same, gc_threshold": partial(runner, gc_threshold=50_000),
        "VLLMServerLLM over httpx": vllm_over_httpx,
    }
    try:
        import pyreqwest as _  # noqa: F401
    except ImportError:
        return found
    return {**found, "raw pyreqwest": pyreqwest}


async def race(contestant: Contestant, url: str, calls: int, width: int) -> tuple[float, float]:
    """Return calls a second and CPU milliseconds per call, after connections are made."""
    async with contestant(url, width) as work:
        await work(width, width)
        began, cpu = time.perf_counter(), _cpu()
        await work(calls, width)
        return calls / (time.perf_counter() - began), (_cpu() - cpu) / calls * 1000


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Race, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ms", type=float, default=200)
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--width", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without-httpx", action="store_true", help="it is slow where many are in flight")
    arguments = parser.parse_args()
    names = contestants()
    if arguments.without_httpx:
        del names["VLLMServerLLM over httpx"]
    with StubServer(arguments.ms / 1000) as server:
        for width in arguments.width:
            ideal = width / (arguments.ms / 1000)
            figures: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
            for _ in range(arguments.rounds):
                for name, contestant in names.items():
                    figures[name].append(anyio.run(race, contestant, server.url, arguments.calls, width))
            rates = {name: median(rate for rate, _ in of) for name, of in figures.items()}
            print(
                f"\n{width} in flight, {arguments.ms:g} ms a call, {arguments.calls} calls: "
                f"ideal {ideal:,.0f}/s"
            )
            print(f"{'':26} {'calls/s':>8} {'of ideal':>9} {'of raw aiohttp':>15} {'CPU ms/call':>12}")
            for name, rate in rates.items():
                cpu = median(each for _, each in figures[name])
                ratio = rate / rates["raw aiohttp"]
                print(f"{name:26} {rate:8,.0f} {rate / ideal:9.2f} {ratio:15.2f} {cpu:12.3f}")


if __name__ == "__main__":
    main()
