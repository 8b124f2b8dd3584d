"""`VLLMServerLLM` against a real vLLM server with room for 16 requests at once."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from time import monotonic

import anyio
import pytest

from restaurant_llm_batch import BatchRunner, LLMRequest, Strategy, errors
from restaurant_llm_batch.backends.vllm.server import ServedModel

from .servers import Server, until
from .workload import TASK, bounded, free, sample

WRITTEN = "vllm:generation_tokens_total"
ATTEMPTS = 4
LONG = 3000
"""Tokens that take seconds to write."""

SCHEMA = bounded(
    {
        "type": "object",
        "properties": {
            "요약": {"type": "string"},
            "numbers": {"type": "array", "items": {"type": "integer"}},
        },
        "required": ["요약", "numbers"],
        "additionalProperties": False,
    }
)


def test_the_server_tells_its_model_and_context(server: Server) -> None:
    assert server.llm().models() == [ServedModel("tiny", 4096)]


def test_tokens_are_counted_as_the_server_counts_them(server: Server) -> None:
    llm = server.llm()
    request = free("음식이 정말 맛있어요", tokens=1)

    assert llm.count_tokens(request.messages) == llm.complete(request).prompt_tokens
    assert 0 < llm.count_tokens("음식이 정말 맛있어요") < llm.count_tokens(request.messages)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_answers_follow_the_schema_at_any_temperature(server: Server, temperature: float) -> None:
    llm = server.llm()
    requests = [
        LLMRequest("t", free(f"{number}번").messages, SCHEMA, {}, 200, temperature) for number in range(8)
    ]
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(llm.complete, requests))

    for reply in replies:
        answer = json.loads(reply.text, strict=False)
        assert reply.finish_reason == "stop"
        assert set(answer) == {"요약", "numbers"}
        assert len(answer["요약"]) <= 12
        assert all(0 <= number <= 3 for number in answer["numbers"])


def test_a_prompt_that_does_not_fit_is_too_long_and_not_merely_refused(server: Server) -> None:
    with pytest.raises(errors.PromptTooLong) as caught:
        server.llm().complete(free("맛 " * 5000))

    assert caught.value.status == 400


def test_an_answer_that_does_not_fit_beside_its_prompt_is_cut_off(server: Server) -> None:
    llm = server.llm()
    long = free("맛 " * 1960, tokens=4000)
    reply = llm.complete(long)

    assert reply.finish_reason == "length"
    assert reply.prompt_tokens + reply.completion_tokens == 4096


def test_metrics_say_how_full_the_server_is(server: Server) -> None:
    llm = server.llm()
    before = llm.metrics()
    assert (before.running, before.waiting, before.kv_usage) == (0, 0, 0.0)
    assert before.kv_tokens is not None
    assert before.kv_tokens > 4096

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(24):
                tasks.start_soon(llm.acomplete, free(f"{number}", tokens=3900))
            with anyio.fail_after(120):
                while (full := await llm.ametrics()).running < 16 or full.waiting < 8:
                    await anyio.sleep(0.05)
            assert (full.running, full.waiting) == (16, 8)
            assert 0 < full.kv_usage < 1
            tasks.cancel_scope.cancel()
        await llm.aclose()

    anyio.run(main)
    until(lambda: llm.metrics().running == llm.metrics().waiting == 0)


def test_cancelling_a_call_aborts_it_in_the_engine(server: Server) -> None:
    for _ in range(ATTEMPTS):
        at_cancel, held_up, written = cancel_a_call(server)
        # What counts is decided by what happened until the cancellation, never by what came after it.
        if at_cancel < LONG / 2 and held_up < 1:
            assert written - at_cancel < LONG / 3, "it wrote on, to the end that nobody waited for"
            return
    pytest.skip(f"the machine was too busy to cancel in time, {ATTEMPTS} times")


def cancel_a_call(server: Server) -> tuple[float, float, float]:
    """Return the tokens written when a call was cancelled, the seconds it took, and the tokens in the end."""
    llm = server.llm()
    before = server.sample(WRITTEN)
    seen: list[float] = []

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(llm.acomplete, free(tokens=LONG))
            with anyio.move_on_after(60):
                while (await llm.ametrics()).running != 1:
                    await anyio.sleep(0.02)
            seen.append(monotonic())
            seen.append(await anyio.to_thread.run_sync(server.sample, WRITTEN) - before)
            tasks.cancel_scope.cancel()
        await llm.aclose()
        seen.append(monotonic())

    anyio.run(main)
    until(lambda: llm.metrics().running == 0)
    began, at_cancel, left = seen
    return at_cancel, left - began, server.sample(WRITTEN) - before


def test_leaving_a_stream_aborts_what_the_run_still_had_in_the_engine(server: Server) -> None:
    for _ in range(ATTEMPTS):
        at_cancel, held_up, written = leave_a_stream(server)
        if at_cancel < 8 * LONG / 2 and held_up < 1:
            assert written - at_cancel < 8 * LONG / 10, "it wrote on, to ends that nobody waited for"
            return
    pytest.skip(f"the machine was too busy to cancel in time, {ATTEMPTS} times")


def leave_a_stream(server: Server) -> tuple[float, float, float]:
    """Return the tokens written when a stream was left, the seconds that took, and the tokens in the end."""
    search, restaurants = sample()
    llm = server.llm()
    runner = BatchRunner(llm=llm, search=search, strategy=Strategy.stage(4))
    before = server.sample(WRITTEN)
    seen: list[float] = []

    async def main() -> None:
        async with runner:
            # Without bounds on its strings the random model writes until its limit.
            stream = runner.astream(replace(TASK, max_tokens=LONG), restaurants)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anext, stream)
                with anyio.move_on_after(60):
                    while (await llm.ametrics()).running != 8:
                        await anyio.sleep(0.02)
                seen.append(monotonic())
                seen.append(await anyio.to_thread.run_sync(server.sample, WRITTEN) - before)
                tasks.cancel_scope.cancel()
            await stream.aclose()
            seen.append(monotonic())

    anyio.run(main)
    until(lambda: llm.metrics().running == llm.metrics().waiting == 0)
    began, at_cancel, left = seen
    return at_cancel, left - began, server.sample(WRITTEN) - before


def test_a_lower_priority_number_goes_first(server: Server) -> None:
    for _ in range(ATTEMPTS):
        ended_before, ended = mix_priorities(server)
        assert len(ended) == 72
        # Whether they came in time is known before they end.
        if ended_before <= 24:
            assert max(place for place, priority in enumerate(ended) if priority == 0) < 56
            return
    pytest.skip(f"the machine was too busy to send urgent requests in time, {ATTEMPTS} times")


def mix_priorities(server: Server) -> tuple[int, list[int]]:
    """Return how many of 64 requests had ended when 8 urgent ones were sent, and in which order all ended."""
    llm = server.llm()
    ended: list[int] = []
    sent: list[int] = []
    first = anyio.Event()

    async def one(number: int, priority: int) -> None:
        tokens = 200 + 6 * number if priority else 40  # so that they do not all end together
        await llm.acomplete(free(f"{number}", tokens=tokens, priority=priority))
        ended.append(priority)
        first.set()

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(64):
                tasks.start_soon(one, number, 10)
            await first.wait()
            for number in range(8):
                tasks.start_soon(one, number, 0)
            await anyio.sleep(0.2)  # until they are on their way
            sent.append(len(ended))
        await llm.aclose()

    anyio.run(main)
    return sent[0], ended
