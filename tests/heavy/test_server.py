"""`VLLMServerLLM` against a real vLLM server with room for 16 requests at once."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import anyio
import pytest

from restaurant_llm_batch import BatchRunner, LLMRequest, Strategy, errors
from restaurant_llm_batch.backends.vllm import ServedModel

from .servers import Server, until
from .workload import TASK, bounded, free, sample

WRITTEN = "vllm:generation_tokens_total"

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
                tasks.start_soon(llm.acomplete, free(f"{number}", tokens=1500))
            with anyio.fail_after(30):
                while (full := await llm.ametrics()).running < 16 or not full.waiting:
                    await anyio.sleep(0.05)
            assert full.running == 16
            assert full.waiting == 8
            assert 0 < full.kv_usage < 1
            tasks.cancel_scope.cancel()
        await llm.aclose()

    anyio.run(main)
    until(lambda: llm.metrics().running == llm.metrics().waiting == 0)


def test_cancelling_a_call_aborts_it_in_the_engine(server: Server) -> None:
    llm = server.llm()
    before = server.sample(WRITTEN)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(llm.acomplete, free(tokens=3900))
            with anyio.fail_after(30):
                while (await llm.ametrics()).running != 1:
                    await anyio.sleep(0.02)
            tasks.cancel_scope.cancel()
        await llm.aclose()

    anyio.run(main)

    until(lambda: llm.metrics().running == 0)
    assert server.sample(WRITTEN) - before < 2000, "it wrote on, to the end that nobody waited for"


def test_leaving_a_stream_aborts_what_the_run_still_had_in_the_engine(server: Server) -> None:
    search, restaurants = sample()
    llm = server.llm()
    runner = BatchRunner(llm=llm, search=search, strategy=Strategy.stage(4))
    before = server.sample(WRITTEN)

    async def main() -> None:
        async with runner:
            # Without bounds on its strings the random model writes until its limit: seconds, so that even a
            # busy machine cancels in time.
            stream = runner.astream(replace(TASK, max_tokens=3000), restaurants)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anext, stream)
                with anyio.fail_after(30):
                    while (await llm.ametrics()).running != 8:
                        await anyio.sleep(0.02)
                tasks.cancel_scope.cancel()
            await stream.aclose()

    anyio.run(main)

    until(lambda: llm.metrics().running == llm.metrics().waiting == 0)
    assert server.sample(WRITTEN) - before < 8 * 2000, "it wrote on, to ends that nobody waited for"


def test_a_lower_priority_number_goes_first(server: Server) -> None:
    llm = server.llm()
    ended: list[int] = []

    async def one(number: int, priority: int) -> None:
        # Long enough for the urgent ones to arrive in time on a busy machine.
        await llm.acomplete(free(f"{number}", tokens=400 if priority else 40, priority=priority))
        ended.append(priority)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(64):
                tasks.start_soon(one, number, 10)
            with anyio.fail_after(30):
                while (await llm.ametrics()).waiting < 40:
                    await anyio.sleep(0.01)
            for number in range(8):
                tasks.start_soon(one, number, 0)
        await llm.aclose()

    anyio.run(main)

    assert len(ended) == 72
    last_urgent = max(place for place, priority in enumerate(ended) if priority == 0)
    assert last_urgent < 56, "the last 16 to end are of those that came first"
