"""Runs a task's flow by hand, without an engine: packing is real, the model is a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from restaurant_llm_batch import Limits, LLMRequest, LLMResponse, estimate_tokens
from restaurant_llm_batch._engine.packer import BatchPacker
from restaurant_llm_batch.steps import Complete, Flow, Gather, Once, Pack, Search, SearchAll, drive

Answer = Callable[[LLMRequest], LLMResponse | str]


def run_flow(flow: Flow[Any], answer: Answer, *, limits: Limits = Limits(), search: Any = None) -> Any:
    """Run a flow to its end and return what it returns, or raise what it raises."""
    packer = BatchPacker(limits, estimate_tokens)

    def perform(step: Any) -> Any:
        match step:
            case Complete():
                reply = answer(step.request)
                return LLMResponse(reply, model="m") if isinstance(reply, str) else reply
            case Pack():
                return packer.pack(step)
            case Gather():
                return [attempt(child) for child in step.flows]
            case Once():
                return drive(step.make(), perform)
            case Search():
                return search(step.query)
            case SearchAll():
                return [search(query) for query in step.queries]
        raise AssertionError(f"not a step: {step!r}")

    def attempt(child: Flow[Any]) -> Any:
        try:
            return drive(child, perform)
        except Exception as error:
            return error

    return drive(flow, perform)


def apply(task: Any, raw: Any, answer: Answer, **options: Any) -> Any:
    """Read an item and run the task's flow for it."""
    return run_flow(task.flow(task.parse_item(raw)), answer, **options)
