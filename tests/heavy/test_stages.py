"""The main job has the same outcomes in every stage, whether vLLM runs behind a socket or in this process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, TypeAlias

import anyio
import pytest

from restaurant_llm_batch import BatchReport, BatchRunner, Limits, Strategy, Success
from restaurant_llm_batch.backends.vllm.engine import VLLMEngineLLM
from restaurant_llm_batch.models import ItemId
from restaurant_llm_batch.results import AspectSummary

from .servers import Server
from .workload import TASK, Bounded, sample

ENGINE: dict[str, Any] = {
    "max_num_seqs": 16,
    "max_model_len": 4096,
    "enforce_eager": True,
    "dtype": "float32",
}
STRATEGIES = {
    "stage 1": Strategy.stage(1),
    "stage 2": Strategy.stage(2),
    "stage 3": Strategy.stage(3),
    "stage 4": Strategy.stage(4),
    "threaded": Strategy.threaded(),
}


Row: TypeAlias = tuple[ItemId, str, Mapping[str, AspectSummary]]


def told(report: BatchReport[Any], model: str) -> list[Row]:
    """Return the outcomes, with the model's name (a server gives it its own) checked and left out."""
    rows: list[Row] = []
    for outcome in report.outcomes:
        assert isinstance(outcome, Success), str(outcome)
        summary = outcome.value
        assert summary.model == model
        rows.append((outcome.item_id, summary.overall_summary, summary.categories))
    return rows


def runner(llm: Any, strategy: Strategy) -> BatchRunner:
    """Return a runner over the shipped restaurants."""
    return BatchRunner(
        llm=Bounded(llm), search=sample()[0], strategy=strategy, limits=Limits(search=8, llm=16)
    )


@pytest.fixture(scope="module")
def reference(server: Server) -> list[Row]:
    """Return what the server answers, one by one."""
    return told(runner(server.llm(), STRATEGIES["stage 1"]).run(TASK, sample()[1]), "tiny")


@pytest.fixture(scope="module")
def engine(model: str) -> Iterator[VLLMEngineLLM]:
    """Run vLLM in this process, for blocking calls."""
    llm = VLLMEngineLLM(model, **ENGINE)
    yield llm
    llm.close()


def test_every_restaurant_has_an_answer_of_its_own(reference: list[Row]) -> None:
    assert len(reference) == 50
    assert len({str(row) for row in reference}) == 50
    assert len({overall for _, overall, _ in reference}) > 25


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "stage 1"])
def test_the_server_gives_the_same_outcomes_in_every_stage(
    server: Server, reference: list[Row], name: str
) -> None:
    report = runner(server.llm(), STRATEGIES[name]).run(TASK, sample()[1])

    assert told(report, "tiny") == reference


@pytest.mark.parametrize("name", ["stage 1", "stage 2", "threaded"])
def test_the_engine_gives_the_same_outcomes_to_blocking_calls(
    engine: VLLMEngineLLM, model: str, reference: list[Row], name: str
) -> None:
    report = runner(engine, STRATEGIES[name]).run(TASK, sample()[1])

    assert told(report, model) == reference


def test_the_engine_gives_the_same_outcomes_to_awaited_calls(model: str, reference: list[Row]) -> None:
    vllm = import_module("vllm")

    async def main() -> list[list[Row]]:
        arguments = vllm.AsyncEngineArgs(
            model=model, structured_outputs_config=_whitespace_free(), scheduling_policy="priority", **ENGINE
        )
        engine = vllm.AsyncLLMEngine.from_engine_args(arguments)
        try:
            llm = VLLMEngineLLM(engine=engine)
            stages = [STRATEGIES["stage 3"], STRATEGIES["stage 4"]]
            return [told(await runner(llm, stage).arun(TASK, sample()[1]), model) for stage in stages]
        finally:
            engine.shutdown()

    assert anyio.run(main) == [reference, reference]


def _whitespace_free() -> Any:
    config = import_module("vllm.config")
    return config.StructuredOutputsConfig(backend="guidance", disable_any_whitespace=True)
