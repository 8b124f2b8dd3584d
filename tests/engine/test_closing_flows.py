"""A flow that raises while it is closed, because its run is given up, hides nothing and keeps nothing open."""

from __future__ import annotations

import logging
from collections.abc import Generator
from typing import Any

import pytest

from restaurant_llm_batch import BatchRunner, LLMRequest, LLMResponse, Strategy
from restaurant_llm_batch.steps import Flow, complete, drive, gather, intercept

REQUEST = LLMRequest("ask", ({"role": "user", "content": "맛은?"},))


class Interrupted:
    """A model whose call ends with a Ctrl-C."""

    def __init__(self) -> None:
        self.calls = 0

    def complete(self, request: LLMRequest) -> LLMResponse:
        self.calls += 1
        raise KeyboardInterrupt


def stubborn(item: int) -> Flow[Any]:
    try:
        return (yield from complete(REQUEST))
    except GeneratorExit:
        raise OSError("cannot be closed") from None


def gathers(item: int) -> Flow[Any]:
    return (yield from gather(stubborn(item), stubborn(item)))


def yields_on(item: int) -> Flow[Any]:
    try:
        return (yield from complete(REQUEST))
    except GeneratorExit:
        yield from complete(REQUEST)


@pytest.mark.parametrize("flow", [stubborn, gathers, yields_on])
def test_a_ctrl_c_ends_the_run_whatever_the_flow_raises_when_it_is_closed(flow: Any) -> None:
    llm = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        BatchRunner(llm=llm, strategy=Strategy.stage(1)).run(flow, [1, 2, 3])

    assert llm.calls == 1


def test_the_other_flows_of_a_gather_are_closed_too(caplog: pytest.LogCaptureFixture) -> None:
    closed: list[str] = []

    def polite(name: str) -> Flow[Any]:
        try:
            return (yield from complete(REQUEST))
        finally:
            closed.append(name)

    flows = [intercept(flow, lambda step: step_of(step)) for flow in (polite("a"), stubborn(1), polite("b"))]
    for flow in flows:
        next(flow)
    with caplog.at_level(logging.ERROR):
        for flow in flows:
            flow.close()

    assert closed == ["a", "b"]
    assert "raised while it was being closed" in caplog.text


def step_of(step: Any) -> Generator[Any, Any, Any]:
    return (yield step)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_drive_raises_what_ended_the_flow(error: BaseException) -> None:
    def perform(step: Any) -> Any:
        raise error

    with pytest.raises(type(error)) as raised:
        drive(stubborn(1), perform)

    assert raised.value is error


def test_an_error_of_a_flow_that_was_not_given_up_is_raised_as_before() -> None:
    def fails() -> Flow[Any]:
        yield from complete(REQUEST)
        raise LookupError("nothing found")

    with pytest.raises(LookupError, match="nothing found"):
        drive(fails(), lambda step: LLMResponse("답"))
