"""`BatchRunner.close` releases what the end of a `with` block does, once, and a later run opens it again."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from restaurant_llm_batch import BatchRunner, LLMRequest, LLMResponse, Store, Strategy
from restaurant_llm_batch.steps import Flow, complete


def ask(item: Any) -> Flow[str]:
    return (yield from complete(LLMRequest("t", (), inputs={"item": str(item)}))).text


class Closing:
    """A model that counts how often it is closed, on loops and outside."""

    def __init__(self) -> None:
        self.closed = self.aclosed = 0
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def complete(self, request: LLMRequest) -> LLMResponse:
        self.entered.set()
        self.go_on.wait()
        return LLMResponse("ok")

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        return LLMResponse("ok")

    def close(self) -> None:
        self.closed += 1

    async def aclose(self) -> None:
        self.aclosed += 1


@pytest.mark.parametrize("strategy", [Strategy.stage(1), Strategy.stage(4), Strategy.threaded()])
def test_closing_after_runs_closes_once_and_a_later_run_opens_again(strategy: Strategy) -> None:
    llm = Closing()
    runner = BatchRunner(llm=llm, strategy=strategy)
    runner.run(ask, [1])
    assert llm.closed == 0
    runner.close()
    runner.close()
    assert llm.closed == 1
    assert runner.run(ask, [2]).results == ["ok"]
    runner.close()
    assert llm.closed == 2


def test_closing_within_a_block_leaves_it_to_the_block() -> None:
    llm = Closing()
    with BatchRunner(llm=llm) as runner:
        runner.close()
        assert llm.closed == 0
        runner.run(ask, [1])
    assert llm.closed == 1
    runner.close()
    assert llm.closed == 1


def test_the_store_is_closed_even_if_nothing_ran(tmp_path: Path) -> None:
    store = Store(tmp_path / "run.db")
    runner = BatchRunner(llm=Closing(), store=store)
    runner.close()
    (tmp_path / "run.db").unlink()  # a file that is open cannot be replaced without an error
    assert runner.run(ask, [1]).results == ["ok"]
    runner.close()
    assert store.stats().entries == 1
    store.close()


def test_another_threads_run_goes_on_while_this_one_closes() -> None:
    llm = Closing()
    llm.go_on.clear()
    runner = BatchRunner(llm=llm, strategy=Strategy.threaded())
    results: list[Any] = []
    other = threading.Thread(target=lambda: results.extend(runner.run(ask, [1, 2]).results))
    other.start()
    llm.entered.wait()
    runner.close()
    llm.go_on.set()
    other.join()
    assert results == ["ok", "ok"]


def test_an_interrupt_while_closing_closes_the_rest() -> None:
    class Interrupted(Closing):
        def close(self) -> None:
            super().close()
            if self.closed == 1:
                raise KeyboardInterrupt

    llm, search = Interrupted(), Closing()
    search.search = lambda query: []  # type: ignore[attr-defined]
    runner = BatchRunner(llm=llm, search=search)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        runner.close()
    assert search.closed == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_closes_although_its_parent_is_within_a_block() -> None:
    llm = Closing()
    with BatchRunner(llm=llm) as runner:
        child = os.fork()
        if child == 0:
            runner.close()
            os._exit(llm.closed)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


@pytest.mark.anyio
async def test_aclose_closes_on_the_loop_and_outside_unless_a_block_is_open() -> None:
    llm = Closing()
    runner = BatchRunner(llm=llm, strategy=Strategy.stage(4))
    await runner.arun(ask, [1])
    await runner.aclose()
    assert llm.closed == 1
    assert llm.aclosed >= 1
    async with runner:
        await runner.arun(ask, [1])
        await runner.aclose()
        assert llm.closed == 1
    assert llm.closed == 2
