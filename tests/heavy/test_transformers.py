"""
`transformers serve`: a second server of OpenAI's API, written by other people, with other habits.

It ignores ``response_format``, refuses fields that it does not know, calls its errors ``detail``, and counts
no tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import pytest

from restaurant_llm_batch import BatchRunner, Limits, Strategy, errors
from restaurant_llm_batch.backends import OpenAILLM, VLLMServerLLM

from .conftest import HOME
from .servers import Server, free_port, start
from .workload import TASK, free, sample

LLM: TypeAlias = OpenAILLM | VLLMServerLLM


@pytest.fixture(scope="module")
def other(model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run `transformers serve`, from an environment of its own."""
    port, folder = free_port(), tmp_path_factory.mktemp("transformers")
    python = Path(HOME) / "transformers" / "bin" / "python"
    command = [str(python.with_name("transformers")), "serve", model, "--host", "127.0.0.1"]
    command += ["--port", str(port), "--device", "cpu", "--dtype", "float32"]
    (folder / "hub").mkdir()  # it fails to list its models without one
    with start(command, port, folder / "log", {"HF_HUB_CACHE": str(folder / "hub")}) as running:
        yield running


@pytest.fixture(params=["vllm", "openai"])
def llm(request: pytest.FixtureRequest, other: Server, model: str) -> LLM:
    """Return either backend, pointed at it."""
    if request.param == "vllm":
        return VLLMServerLLM(other.url, model, sampling={})
    return OpenAILLM(model, base_url=other.url + "/v1")


def test_it_is_asked_and_answers_in_both_modes(llm: LLM, model: str) -> None:
    request = free("음식이 맛있어요", tokens=12, temperature=0.0)

    async def awaited() -> Any:
        try:
            return await llm.acomplete(request)
        finally:
            await llm.aclose()

    reply = llm.complete(request)

    assert reply == anyio.run(awaited)
    assert (reply.finish_reason, reply.completion_tokens) == ("length", 12)
    assert reply.prompt_tokens > 5
    assert reply.text
    assert reply.model.startswith(model)


def test_its_own_words_are_told_when_it_refuses(other: Server, model: str) -> None:
    llm = VLLMServerLLM(other.url, model, sampling={})
    with pytest.raises(errors.PermanentBackendError, match="priority") as caught:
        llm.complete(free(priority=3))
    assert caught.value.status == 422

    with pytest.raises(errors.PermanentBackendError, match="pinned") as caught:
        VLLMServerLLM(other.url, "another model", sampling={}).complete(free())
    assert caught.value.status == 400


def test_vllms_sampling_parameters_are_refused_unless_left_out(other: Server, model: str) -> None:
    with pytest.raises(errors.PermanentBackendError, match="top_k") as caught:
        VLLMServerLLM(other.url, model).complete(free())

    assert caught.value.status == 422


def test_what_only_vllm_offers_is_missed_politely(other: Server, model: str) -> None:
    llm = VLLMServerLLM(other.url, model, sampling={})
    for ask in (lambda: llm.count_tokens("맛"), llm.metrics):
        with pytest.raises(errors.PermanentBackendError) as caught:
            ask()
        assert caught.value.status == 404


def test_every_restaurant_is_accounted_for_though_it_ignores_the_schema(llm: LLM) -> None:
    search, restaurants = sample()
    runner = BatchRunner(llm=llm, search=search, strategy=Strategy.stage(4), limits=Limits(llm=4))
    task = type(TASK)(limit=1, max_tokens=20, temperature=0.0, language="auto")
    report = runner.run(task, restaurants[:12])

    assert [outcome.item_id for outcome in report.outcomes] == restaurants[:12]
    assert len(report.failures) == 12
    assert {type(failure.error) for failure in report.failures} <= {
        errors.OutputTruncated,
        errors.OutputInvalid,
    }
