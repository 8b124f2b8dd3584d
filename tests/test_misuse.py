"""Mistakes that used to end in riddles: one sentence each, where the mistake is, that says what to write."""

from __future__ import annotations

import copy
import pickle
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

from restaurant_llm_batch import BatchRunner, LLMRequest, LLMResponse, Strategy, SummarizeAspects, errors
from restaurant_llm_batch.steps import Flow, complete, gather, once, pack, search, search_all, sleep
from restaurant_llm_batch.testing import FakeLLM, FakeSearch
from tests.support.run_methods import each_strategy

REQUEST = LLMRequest("t", ({"role": "user", "content": "?"},))


def runner(strategy: Strategy = Strategy()) -> BatchRunner:
    return BatchRunner(llm=FakeLLM(), search=FakeSearch({1: ["맛"]}), strategy=strategy)


loose: Any = SimpleNamespace(
    LLMRequest=LLMRequest,
    SummarizeAspects=SummarizeAspects,
    complete=complete,
    gather=gather,
    once=once,
    pack=pack,
    search=search,
    search_all=search_all,
    sleep=sleep,
)
"""The same without types, for calls that type checkers refuse."""


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: loose.LLMRequest("x", "text"), r"LLMRequest\('x', \(\{\"role\": \"user\", \"content\": 'text'\},\)\)"),
        (lambda: loose.LLMRequest("x", ["text"]), 'mappings with "role" and "content"'),
        (lambda: loose.LLMRequest("x", {"role": "user", "content": "a"}), "a list of messages"),
        (lambda: loose.LLMRequest("x", None), "a list of messages"),
        (lambda: loose.LLMRequest("x", (), schema="{}"), "a JSON Schema or None"),
        (lambda: loose.LLMRequest("x", (), max_tokens="500"), "a whole number"),
        (lambda: loose.LLMRequest("x", (), schema=BaseModel), "yield from ask"),
        (lambda: loose.complete("text"), r"complete\(LLMRequest\("),
        (lambda: loose.complete(LLMRequest), r"complete\(LLMRequest\("),
        (lambda: loose.complete(REQUEST, limiter="gpu"), '"llm" or "batches"'),
        (lambda: loose.search("noodles"), r"search\(SearchQuery\("),
        (lambda: loose.search_all("noodles"), r"search_all\(\[SearchQuery\("),
        (lambda: loose.search_all(["noodles"]), r"search_all\(\[SearchQuery\("),
        (lambda: loose.gather([complete(REQUEST)]), r"gather\(\*flows\)"),
        (lambda: loose.gather(REQUEST), r"gather\(complete"),
        (lambda: loose.once("key", complete(REQUEST)), r"once\(key, lambda: "),
        (lambda: loose.pack("text", render=str, fixed_text=""), r"pack\(\["),
        (lambda: loose.pack([1], render=str, fixed_text=""), r"pack\(\["),
        (lambda: loose.sleep("1"), r"sleep\(0\.5\)"),
        (lambda: loose.SummarizeAspects(aspects="food"), r"aspects=\['food'\]"),
        (lambda: loose.SummarizeAspects(aspects=b"food"), r"aspects=\["),
        (lambda: loose.SummarizeAspects(aspects=[1]), r"aspects=\["),
        (lambda: loose.SummarizeAspects(aspects=5), r"aspects=\["),
        (lambda: loose.SummarizeAspects(aspects={"food": None}), "list of strings"),
        (lambda: loose.SummarizeAspects(aspects={"food": {"xx": ["a"]}}), "keyed by language"),
        (lambda: loose.SummarizeAspects(category=1.5), "SummarizeAspects.category must be an integer or a string"),
    ],
)  # fmt: skip
def test_an_argument_of_the_wrong_kind_is_refused_with_an_example(
    wrong: Callable[[], Any], said: str
) -> None:
    with pytest.raises(errors.ConfigurationError, match=said):
        wrong()


@pytest.mark.parametrize(
    "messages",
    [(), [{"role": "user", "content": "a"}], ({"role": "user", "content": [{"type": "text", "text": "a"}]},)],
)
def test_requests_of_other_shapes_that_services_take_stay_allowed(messages: Any) -> None:
    assert LLMRequest("x", messages).messages is messages


async def coroutine_task(item: int) -> str:
    return "never"


async def generator_task(item: int) -> AsyncIterator[int]:
    yield item


loose_task: Any = coroutine_task


class AsyncCallable:
    async def __call__(self, item: int) -> str:
        return "never"


class AsyncFlow:
    name, requires_search = "AsyncFlow", False

    def parse_item(self, raw: Any) -> Any:
        return raw

    def item_key(self, item: Any) -> tuple[int, int]:
        return item, 0

    async def flow(self, item: Any) -> str:
        return "never"


@pytest.mark.parametrize(
    ("task", "name"),
    [
        (coroutine_task, "coroutine_task"),
        (generator_task, "generator_task"),
        (partial(coroutine_task), "coroutine_task"),
        (AsyncCallable(), "AsyncCallable"),
        (AsyncFlow(), "AsyncFlow.flow"),
    ],
)
def test_an_async_task_is_refused_once_before_any_item(task: Any, name: str) -> None:
    with pytest.raises(
        errors.ConfigurationError, match=f"the task {name} is defined with `async def`.*write `def`"
    ):
        runner().run(task, iter([1, 2, 3]))


@each_strategy
def test_a_function_that_returns_a_coroutine_says_so_and_leaves_no_warning(strategy: Strategy) -> None:
    (failure,) = runner(strategy).run(lambda item: loose_task(item), [1]).failures

    assert "`yield from complete(request)` in place of `await`" in str(failure).replace("reply = ", "")


class Incomplete:
    name = "Incomplete"

    def flow(self, item: Any) -> Flow[Any]:
        return complete(REQUEST)


def of_steps(item: int) -> Flow[str]:
    reply = yield from complete(REQUEST)
    return reply.text


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (of_steps(1), r"got what of_steps\(\.\.\.\) returned; for example of_steps without parentheses"),
        (Incomplete(), "which lacks parse_item, item_key, requires_search"),
        (SummarizeAspects, r"got a class, .*for example SummarizeAspects\(\.\.\.\)"),
        ([1, 2], r"got \[1, 2\]; for example SummarizeAspects\(\)"),
        (None, "got None"),
    ],
)
def test_what_is_no_task_is_refused_with_what_to_pass(task: Any, said: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=said):
        runner().run(task, [1])


def test_rows_of_a_database_that_have_columns_are_items() -> None:
    class Rows:
        """As the result of a query: rows, and a method that selects columns."""

        def columns(self) -> None: ...

        def __iter__(self) -> Any:
            return iter([{"restaurant_id": 1}])

    assert len(runner().run(SummarizeAspects(), Rows()).results) == 1


@pytest.mark.parametrize("take", [pickle.dumps, copy.copy, copy.deepcopy], ids=lambda take: take.__name__)
def test_a_runner_is_not_pickled_or_copied_and_the_error_says_where_to_make_one(
    take: Callable[[Any], Any],
) -> None:
    for kind in (errors.ConfigurationError, TypeError):
        with pytest.raises(kind, match="make one in each process that needs it"):
            take(runner())


@pytest.mark.parametrize("folder", ["store", "a/b"])
def test_a_folder_is_no_store_and_the_example_is_a_file_in_it(folder: str, tmp_path: Path) -> None:
    path = tmp_path / folder
    path.mkdir(parents=True)
    with pytest.raises(errors.ConfigurationError, match="must be the path of a file") as refused:
        BatchRunner(llm=FakeLLM(), store=path)

    assert f'store="{path}/run.db"' in str(refused.value)


def buggy_helper(reply: LLMResponse) -> str:
    return {"text": reply.text}["txt"]


def buggy_task(item: int) -> Flow[str]:
    reply = yield from complete(REQUEST)
    return buggy_helper(reply)


class BuggyBackend:
    def complete(self, request: LLMRequest) -> LLMResponse:
        return LLMResponse(request.inputs["missing"])


@each_strategy
def test_a_bug_of_a_users_own_is_named_with_its_place(strategy: Strategy) -> None:
    (failure,) = runner(strategy).run(buggy_task, [1]).failures
    (of_backend,) = BatchRunner(llm=BuggyBackend(), strategy=strategy).run(buggy_task, [1]).failures
    line = buggy_helper.__code__.co_firstlineno + 1

    assert str(failure) == f"1 failed at task: KeyError: 'txt' (at {__file__}:{line} in buggy_helper)"
    assert f"{__file__}:" in str(of_backend)
    assert "in complete)" in str(of_backend)


def test_a_bug_in_reading_items_is_named_with_its_place() -> None:
    class Task(AsyncFlow):
        def parse_item(self, raw: Any) -> Any:
            return raw["restaurant"]

        def flow(self, item: Any) -> Any:
            return complete(REQUEST)

    with pytest.raises(
        errors.ConfigurationError, match=r"item 0: KeyError: 'restaurant' \(at .*:\d+ in parse_item\)"
    ):
        runner().run(Task(), [{"id": 1}])
    (failure,) = runner().run(Task(), iter([{"id": 1}])).failures
    assert "in parse_item)" in str(failure)


def test_an_error_of_this_library_has_no_place() -> None:
    def lost(request: Any, attempt: int) -> Exception:
        return errors.PermanentBackendError("no such model")

    (failure,) = BatchRunner(llm=FakeLLM(fault=lost)).run(buggy_task, [1]).failures

    assert str(failure) == "1 failed at llm: PermanentBackendError: no such model"


@pytest.mark.parametrize(
    ("name", "of"),
    [("error", "Success"), ("stage", "Success"), ("attempts", "Success"), ("value", "Failure")],
)
def test_the_attributes_of_the_other_outcome_are_absent(name: str, of: str) -> None:
    good, bad = runner().run(lambda item: complete(REQUEST) if item == 1 else sleep(item), [1, "x"])
    outcome: Any = good if of == "Success" else bad

    assert (good.ok, bad.ok) == (True, False)
    assert not hasattr(outcome, name)
    with pytest.raises(AttributeError, match=f"is a {of} and has no {name}; check `if outcome.ok:` first"):
        getattr(outcome, name)
