"""
User code that must type-check under mypy and pyright in strict mode. It is checked, and never run.

`assert_type` pins what an editor shows. A call that must be refused carries an ignore; if it is accepted one day, the
unused ignore fails the check.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, assert_type

from pydantic import BaseModel

from restaurant_llm_batch import (
    AdaptiveLimit,
    AnalyzeSentiment,
    AspectSummary,
    AsyncLLMBackend,
    AsyncSearchBackend,
    BatchReport,
    BatchRunner,
    BatchSettings,
    ConcurrencyLimiter,
    ExtractStrengths,
    ExtractVocabulary,
    Failure,
    Hit,
    Limits,
    LLMBackend,
    LLMRequest,
    LLMResponse,
    Price,
    RestaurantSentiment,
    RestaurantStrength,
    RestaurantSummary,
    RetryPolicy,
    Review,
    ReviewSummary,
    RunStats,
    SearchBackend,
    SearchQuery,
    StopConditions,
    Store,
    Strategy,
    Success,
    SummarizeAspects,
    SummarizeReviews,
    TimeLimits,
    Vocabulary,
    calculate_dynamic_batch_size,
    errors,
    estimate_tokens,
    pack_reviews,
    split_text,
)
from restaurant_llm_batch.backends import OfflineLLM, OpenAILLM, RunPodLLM, VLLMServerLLM, error_for_status
from restaurant_llm_batch.cancellation import CancelToken, cancel_requested, on_cancel, shielded, sleep
from restaurant_llm_batch.events import CallEnded, Event
from restaurant_llm_batch.integrations.metrics import MetricsSnapshot, RunMetrics
from restaurant_llm_batch.search import EmbeddedSearch, QdrantSearch
from restaurant_llm_batch.steps import (
    Flow,
    ResultOrError,
    ask,
    complete,
    gather,
    once,
    pack,
    search,
    search_all,
)
from restaurant_llm_batch.testing import FakeLLM, FakeSearch
from restaurant_llm_batch.tokens.packing import PackedText

# --- Backends: any object with the right method, in either kind, positional-only or not.


class SyncModel:
    def complete(self, request: LLMRequest) -> LLMResponse:
        if cancel_requested():
            raise errors.TransientBackendError("stopped", status=503, retry_after=1.0)
        with on_cancel(lambda: None), shielded():
            sleep(0.1)
        return LLMResponse(f"{request.task} {request.max_tokens}", prompt_tokens=3, completion_tokens=1)


class AsyncModel:
    fingerprint = "mine"

    async def acomplete(self, request: LLMRequest, /) -> LLMResponse:
        raise errors.RateLimited("busy", retry_after=2.0)


class SyncIndex:
    def search(self, query: SearchQuery) -> list[Hit]:
        return [Hit("a", query.text, 1.0, query.restaurant_id)]


class AsyncIndex:
    async def asearch(self, query: SearchQuery, /) -> Sequence[Hit]:
        return ()


sync_model: LLMBackend = SyncModel()
async_model: AsyncLLMBackend = AsyncModel()
sync_index: SearchBackend = SyncIndex()
async_index: AsyncSearchBackend = AsyncIndex()
both_models: list[LLMBackend] = [
    OfflineLLM(),
    FakeLLM(),
    OpenAILLM("m"),
    RunPodLLM("e"),
    VLLMServerLLM("http://h"),
]
both_indexes: list[SearchBackend] = [EmbeddedSearch(), QdrantSearch("reviews"), FakeSearch({1: ["a"]})]
async_models: list[AsyncLLMBackend] = [OfflineLLM(), FakeLLM(), OpenAILLM("m"), RunPodLLM("e")]
async_indexes: list[AsyncSearchBackend] = [QdrantSearch("reviews"), FakeSearch({1: ["a"]})]


class Wrong:
    def complete(self, request: str) -> str:
        return request


wrong: LLMBackend = Wrong()  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]


# --- Runner: every argument, and what the four methods return.


class PrintCalls:
    def __call__(self, event: Event) -> None:
        if isinstance(event, CallEnded):
            assert_type(event, CallEnded)


runner = BatchRunner(
    llm=OpenAILLM("gpt-5-mini"),
    search=QdrantSearch("reviews", url="http://localhost:6333"),
    strategy=Strategy.stage(4),
    limits=Limits(
        search=50, llm=AdaptiveLimit(min=1, start=8, max=256), batches=ConcurrencyLimiter(20), open_items=200
    ),
    search_retry=RetryPolicy(attempts=2),
    llm_retry=RetryPolicy(attempts=4, wait_initial=0.5, wait_max=30, max_rate_limit_attempts=5),
    count_tokens=estimate_tokens,
    time_limits=TimeLimits(call=60, item=120, run=3600, stall_warning_after=60),
    stop=StopConditions(max_tokens=5_000_000, max_cost=20.0, error_rate=0.5, max_rate_limited_seconds=300),
    store="run.db",
    prices={"": Price(prompt=0.25, completion=2.0)},
    observers=[PrintCalls(), RunMetrics()],
)
assert_type(BatchRunner.from_settings(BatchSettings()), BatchRunner)
with Store("other.db") as store:
    BatchRunner(llm=AsyncModel(), store=store)
BatchRunner(llm=3)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
Limits(llm="8")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]

assert_type(
    runner.run(SummarizeAspects(limit=10, mode="split", language="ko"), [1, "2"]),
    BatchReport[RestaurantSummary],
)
assert_type(runner.run(SummarizeReviews(), [{"restaurant_id": 1}]), BatchReport[ReviewSummary])
assert_type(runner.run(AnalyzeSentiment(), []), BatchReport[RestaurantSentiment])
assert_type(runner.run(ExtractStrengths(), [1]), BatchReport[RestaurantStrength])
assert_type(runner.run(ExtractVocabulary(plan="A"), []), BatchReport[Vocabulary])
SummarizeAspects(mode="both")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
ExtractVocabulary(plan="D")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def outcomes_have_the_task_s_result() -> None:
    report = runner.run(SummarizeAspects(), [1])
    assert_type(report.results, list[RestaurantSummary])
    assert_type(report.failures, list[Failure])
    assert_type(report.stats, RunStats)
    assert_type(report.stats.rate_limited, int)
    assert_type(report.results[0].categories["food"], AspectSummary)
    for outcome in report:
        assert_type(outcome, Success[RestaurantSummary] | Failure)
        if isinstance(outcome, Success):
            assert_type(outcome.value, RestaurantSummary)
        else:
            assert_type(outcome.error, Exception)
            assert_type(outcome.attempts, int)
        match outcome:
            case Success(value=summary):
                assert_type(summary, RestaurantSummary)
            case Failure(error=error):
                assert_type(error, Exception)


def ok_tells_the_outcomes_apart() -> None:
    for outcome in runner.run(SummarizeAspects(), [1]):
        if outcome.ok:
            assert_type(outcome.value, RestaurantSummary)
            assert_type(outcome.value.overall_summary, str)
        else:
            assert_type(outcome.error, Exception)
            assert_type(outcome.attempts, int)
        if not outcome.ok:
            assert_type(outcome.error.args, tuple[Any, ...])
            continue
        assert_type(outcome.value.categories["food"], AspectSummary)
    report = runner.run(SummarizeAspects(), [1])
    assert_type([outcome.value for outcome in report if outcome.ok], list[RestaurantSummary])


def streams_yield_outcomes() -> Iterator[str]:
    with runner:
        for outcome in runner.stream(AnalyzeSentiment(), iter([])):
            assert_type(outcome, Success[RestaurantSentiment] | Failure)
            yield str(outcome)


async def awaited_methods_return_the_same() -> AsyncIterator[str]:
    assert_type(await runner.arun(SummarizeReviews(), [1]), BatchReport[ReviewSummary])
    async with runner:
        async for outcome in runner.astream(SummarizeReviews(), [1]):
            assert_type(outcome, Success[ReviewSummary] | Failure)
            yield str(outcome)


async def rows() -> AsyncIterator[int]:
    yield 1


async def items_may_be_awaited() -> None:
    assert_type(await runner.arun(SummarizeReviews(), rows()), BatchReport[ReviewSummary])
    async with runner:
        async for outcome in runner.astream(SummarizeReviews(), rows()):
            assert_type(outcome, Success[ReviewSummary] | Failure)
    runner.run(SummarizeReviews(), rows())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# --- Tasks: a generator function, typed by what it returns.


def taste(restaurant_id: int) -> Flow[tuple[str, int]]:
    hits = yield from search(SearchQuery(restaurant_id, "noodles"))
    assert_type(hits, Sequence[Hit])
    several = yield from search_all([SearchQuery(restaurant_id, "soup")])
    assert_type(several, list[ResultOrError[Sequence[Hit]]])
    batches = yield from pack([hit.content for hit in hits], render=str, fixed_text="Which dish?")
    assert_type(batches, list[list[PackedText]])
    reply = yield from complete(LLMRequest("taste", ({"role": "user", "content": "?"},)), limiter="batches")
    assert_type(reply, LLMResponse)
    both = yield from gather(word("a"), word("b"))
    assert_type(both, list[ResultOrError[str]])
    shared = yield from once(("word", 1), lambda: word("c"))
    assert_type(shared, str)
    return reply.text, len(hits)


def word(text: str) -> Flow[str]:
    reply = yield from complete(LLMRequest("word", ({"role": "user", "content": text},)))
    return reply.text


assert_type(runner.run(taste, [1, 2]), BatchReport[tuple[str, int]])


class Dish(BaseModel):
    name: str
    evidence: list[int]


def best_dish(restaurant_id: int) -> Flow[Dish | None]:
    hits = yield from search(SearchQuery(restaurant_id, "dish"))
    if not hits:
        return None
    dish = yield from ask(Dish, "Which dish do guests praise?", reviews=hits, max_tokens=300)
    assert_type(dish, Dish)
    both = yield from gather(ask(Dish, "One?", reviews=["a"]), ask(Dish, "Another?", reviews=[Review("b")]))
    assert_type(both, list[ResultOrError[Dish]])
    return dish


assert_type(runner.run(best_dish, [1]), BatchReport[Dish | None])
ask(dict, "Which?")  # type: ignore[type-var] # pyright: ignore[reportArgumentType]
complete("Which?")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]

preview = SummarizeAspects(language="ja", instructions="Be brief.", category="국수").preview(
    1, search=sync_index
)
assert_type(preview.requests, tuple[LLMRequest, ...])
assert_type(AnalyzeSentiment().preview({"restaurant_id": 1, "reviews": []}, limits=Limits()).upper(), str)


class CountReviews:
    """A task with a name, and items of its own."""

    name = "count_reviews"
    requires_search = True

    def parse_item(self, item: Any) -> int:
        return int(item)

    def item_key(self, item: int) -> tuple[int, int]:
        return item, 0

    def flow(self, item: int) -> Flow[int]:
        hits = yield from search(SearchQuery(item, "food"))
        return len(hits)


assert_type(runner.run(CountReviews(), ["1"]), BatchReport[int])


# --- Functions without a runner.

assert_type(estimate_tokens("맛있어요"), int)
assert_type(error_for_status(429, b"", headers={}), errors.BackendError)
assert_type(calculate_dynamic_batch_size(["a", Review("b")], 4000, count_tokens=len), int)
assert_type(pack_reviews(["a", "b"], 4000), list[list[str]])
assert_type(pack_reviews([Review("a")], 4000), list[list[Review]])
assert_type(split_text("a long text", 100), list[str])
assert_type(RunMetrics().snapshot(), MetricsSnapshot)
assert_type(CancelToken().is_set(), bool)
assert_type(CancelToken().wait(0.5), bool)
