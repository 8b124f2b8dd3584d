"""With no switch on, `run` and `stream` make no event loop and no thread."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from restaurant_llm_batch import BatchRunner, RetryPolicy, Strategy, SummarizeAspects, errors
from restaurant_llm_batch.testing import FakeLLM, FakeSearch

REVIEWS = {1: ["맛있어요", "친절해요"], 2: ["비싸요"], 3: []}


@pytest.fixture
def no_loop_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make both impossible."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("stage 1 created an event loop or a thread")

    monkeypatch.setattr(asyncio.BaseEventLoop, "__init__", refuse)
    monkeypatch.setattr(threading.Thread, "start", refuse)


def runner(strategy: Strategy) -> BatchRunner:
    """Return a runner whose calls meet retries and pauses."""

    def once(request: Any, attempt: int) -> Exception | None:
        return errors.TransientBackendError("again") if attempt == 1 else None

    quick = RetryPolicy(wait_initial=0.001)
    llm, search = FakeLLM(fault=once), FakeSearch(REVIEWS, fault=once)
    return BatchRunner(llm=llm, search=search, strategy=strategy, search_retry=quick, llm_retry=quick)


@pytest.mark.usefixtures("no_loop_no_thread")
@pytest.mark.parametrize("mode", ["single", "split"])
def test_stage_one_runs_in_the_calling_thread_alone(mode: Any) -> None:
    with runner(Strategy.stage(1)) as one:
        report = one.run(SummarizeAspects(mode=mode), [1, 2, 3])
        streamed = list(one.stream(SummarizeAspects(mode=mode), iter([1, 2, 3])))

        for _ in one.stream(SummarizeAspects(mode=mode), [1, 2, 3]):
            break  # and neither does what is left of a stream that nobody reads to its end

    assert len(report.results) == 3
    assert len(streamed) == 3
    assert report.stats.retries > 0


@pytest.mark.usefixtures("no_loop_no_thread")
@pytest.mark.parametrize("strategy", [Strategy.stage(2), Strategy.threaded()])
def test_the_guard_would_notice(strategy: Strategy) -> None:
    with pytest.raises(AssertionError, match="created an event loop or a thread"):
        runner(strategy).run(SummarizeAspects(), [1])


def test_the_threaded_mode_makes_no_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the threaded mode created an event loop")

    monkeypatch.setattr(asyncio.BaseEventLoop, "__init__", refuse)

    assert len(runner(Strategy.threaded()).run(SummarizeAspects(), [1, 2, 3]).results) == 3


def test_an_async_only_backend_is_refused_before_any_call() -> None:
    class AsyncOnly:
        async def acomplete(self, request: Any) -> Any:
            raise AssertionError("was called")

    for strategy in (Strategy.stage(1), Strategy.stage(2), Strategy.threaded()):
        with pytest.raises(errors.ConfigurationError, match=r"AsyncOnly has only acomplete\(\)"):
            BatchRunner(llm=AsyncOnly(), strategy=strategy)
    BatchRunner(llm=AsyncOnly(), strategy=Strategy.stage(3))
