"""`RayBatch` without Ray: rows to rows, overlapping batches, what stops a run, what is checked before Ray begins."""

from __future__ import annotations

import builtins
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import anyio
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from tests.support.patience import PATIENCE, wait_until
from tests.support.ray_batches import REVIEWS, Line, answered, ask, make_runner

from restaurant_llm_batch import (
    AnalyzeSentiment,
    BatchRunner,
    ConcurrencyLimiter,
    Limits,
    LLMRequest,
    RetryPolicy,
    SharedLimiter,
    StopConditions,
    Strategy,
    SummarizeAspects,
    errors,
)
from restaurant_llm_batch.backends import OfflineLLM
from restaurant_llm_batch.events import CallEnded, ItemEnded, RunEnded, RunStarted
from restaurant_llm_batch.integrations._ray.batch_rows import RowTask
from restaurant_llm_batch.integrations._ray.events import EventSender, Gathering, packed
from restaurant_llm_batch.integrations._ray.live import LiveRun
from restaurant_llm_batch.integrations._ray.shared_limits import shared_limits
from restaurant_llm_batch.integrations.ray import RayBatch, RayBroker
from restaurant_llm_batch.records import Recording, open_record
from restaurant_llm_batch.search import EmbeddedSearch
from restaurant_llm_batch.sharing._memory import MemoryBroker
from restaurant_llm_batch.testing import FakeLLM


def as_columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: np.array([row[name] for row in rows] + [None], dtype=object)[:-1] for name in rows[0]}


ROWS = [
    {"restaurant_id": 3, "reviews": REVIEWS, "city": "부산", "stars": 4.5},
    {"restaurant_id": 1, "reviews": [], "city": "서울", "stars": 1.0},
]


@pytest.mark.parametrize(
    "form", [as_columns, pd.DataFrame, pa.Table.from_pylist], ids=["numpy", "pandas", "arrow"]
)
def test_each_row_comes_back_with_its_id_and_the_fields_of_its_result(
    form: Callable[[list[dict[str, Any]]], Any],
) -> None:
    with RayBatch(make_runner, AnalyzeSentiment(), keep=["city", "stars"]) as batch:
        first, second = answered(batch, form(ROWS))

    assert (first["restaurant_id"], first["ok"], first["city"], first["stars"]) == (3, True, "부산", 4.5)
    assert (first["positive_count"], first["negative_count"], first["total_count"]) == (1, 1, 2)
    assert (first["error"], first["stage"], first["attempts"], first["tokens"], first["cost"]) == (
        *(None, None, 1, 0),
        None,
    )
    assert first["spent.calls"] == 1
    assert (second["restaurant_id"], second["ok"], second["total_count"], second["attempts"]) == (
        1,
        True,
        0,
        0,
    )
    assert "reviews" not in first


def test_a_row_that_fails_says_why_and_the_others_go_on() -> None:
    rows: list[dict[str, Any]] = [
        {"restaurant_id": 1, "reviews": REVIEWS},
        {"restaurant_id": None, "reviews": REVIEWS},
        {"restaurant_id": 2, "reviews": [{"text": "맛"}]},
        {"restaurant_id": 4, "reviews": None},
        {"restaurant_id": 5.0, "reviews": [None]},
    ]
    with RayBatch(make_runner, AnalyzeSentiment()) as batch:
        found = answered(batch, rows_frame(rows))

    assert [row["restaurant_id"] for row in found] == [1, None, 2, 4, 5]
    assert [row["ok"] for row in found] == [True, False, False, True, False]
    assert [row["stage"] for row in found] == [None, "input", "input", None, "input"]
    assert "restaurant_id" in found[1]["error"]
    assert "content" in found[2]["error"]
    assert found[1]["error"].startswith("ConfigurationError: ")
    assert found[1]["positive_count"] is None


def rows_frame(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def test_the_tables_of_all_batches_have_the_same_columns_and_types() -> None:
    reviews = [REVIEWS, [], None, [{"id": "둘", "content": "친절해요"}]]
    rows = [{"restaurant_id": number, "reviews": found} for number, found in enumerate(reviews)]
    search = EmbeddedSearch()
    search.index_reviews({"restaurant_id": 1, **review} for review in REVIEWS)
    searching = partial(make_runner, search=search)
    for task, make in ((AnalyzeSentiment(), make_runner), (SummarizeAspects(), searching)):
        with RayBatch(make, task) as batch:
            tables = [batch.run(rows_frame([row])) for row in rows]
        known = {
            name: str(kind) for name, kind in zip(tables[0].schema.names, tables[0].schema.types, strict=True)
        }
        assert "null" not in known.values()
        assert all({*table.schema} <= {*tables[1].schema} for table in tables if task == SummarizeAspects())
        assert known["cost"] == "double"
        assert pa.concat_tables(tables, promote_options="default").num_rows == 4


def test_a_batch_of_failures_has_typed_columns_too() -> None:
    with RayBatch(make_runner, AnalyzeSentiment()) as batch:
        failed = batch.run({"restaurant_id": ["a"], "reviews": [3]})
        succeeded = batch.run({"restaurant_id": ["b"], "reviews": [REVIEWS]})

    assert not failed.to_pylist()[0]["ok"]
    assert pa.concat_tables([failed, succeeded], promote_options="default").num_rows == 2


def test_columns_may_have_other_names_and_keep_their_cells() -> None:
    batch = RayBatch(
        make_runner, AnalyzeSentiment(), columns={"restaurant_id": "가게", "reviews": "리뷰"}, keep=["가게"]
    )
    with batch:
        (row,) = answered(batch, {"가게": np.array([7.0]), "리뷰": [REVIEWS]})

    assert (row["restaurant_id"], row["가게"], row["total_count"]) == (7, 7.0, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"columns": {"restaurant_id": "store"}}, "there is no column 'store'"),
        (
            {"keep": ["city"]},
            "keep names the column 'city', which is not there; its columns: 'restaurant_id'",
        ),
    ],
)
def test_a_column_that_is_named_and_not_there_is_an_error_of_the_job(arguments: Any, message: str) -> None:
    with (
        RayBatch(make_runner, AnalyzeSentiment(), **arguments) as batch,
        pytest.raises(errors.ConfigurationError) as e,
    ):
        batch.run({"restaurant_id": [1], "reviews": [REVIEWS]})
    assert message in str(e.value)


def test_a_task_of_the_users_own_gets_the_row_and_its_columns_do_not_hide_those_of_the_outcome() -> None:
    with RayBatch(lambda **options: BatchRunner(llm=FakeLLM(), **options), ask) as batch:
        (row,) = answered(batch, {"id": np.array([12.0]), "name": ["집"]})

    assert (row["id"], row["ok"], row["error"]) == (12, True, None)
    assert (row["value.ok"], row["value.error"], row["attempts"]) == ("mine", 7, 1)
    assert row["tokens"] > 0


def test_an_empty_batch_is_an_empty_table() -> None:
    with RayBatch(make_runner, AnalyzeSentiment()) as batch:
        assert batch.run({"restaurant_id": [], "reviews": []}).num_rows == 0


class Gate:
    """A model that answers item by item, as told."""

    def __init__(self) -> None:
        self.open: set[str] = set()
        self.asked: list[str] = []

    async def acomplete(self, request: LLMRequest, /) -> Any:
        name = request.messages[-1]["content"].removeprefix("about ")
        self.asked.append(name)
        with anyio.fail_after(PATIENCE):
            while name not in self.open:
                await anyio.sleep(0.001)
        return await FakeLLM().acomplete(request)


def test_no_batch_waits_for_the_end_of_another_and_outcomes_find_their_rows() -> None:
    gate = Gate()
    strategy = Strategy.stage(4)
    live = LiveRun(BatchRunner(llm=gate, strategy=strategy, limits=Limits(llm=4, open_items=4)), RowTask(ask))
    first = live.submit([{"id": name} for name in "abc"])
    second = live.submit([{"id": name} for name in "def"])
    wait_until(lambda: len(gate.asked) == 4)
    gate.open.update("bcdef")

    assert [outcome.item_id for outcome in second.result(PATIENCE)] == ["d", "e", "f"]
    assert not first.done()
    gate.open.add("a")
    assert [outcome.item_id for outcome in first.result(PATIENCE)] == ["a", "b", "c"]
    live.close()
    live.close()
    (refused,) = live.submit([{"id": "g"}]).result(PATIENCE)
    assert (refused.ok, refused.item_id, refused.stage) == (False, "g", "run")


def test_batches_are_awaited_side_by_side_on_the_loop_of_ray() -> None:
    gate = Gate()
    batch = RayBatch(lambda **options: BatchRunner(llm=gate, strategy=Strategy.stage(4), **options), ask)
    found: list[str] = []

    async def take(names: str) -> None:
        async for table in batch({"id": [*names]}):
            found.extend(table["id"].to_pylist())

    async def main() -> None:
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(take, "ab")
                tasks.start_soon(take, "cd")
                while len(gate.asked) < 4:
                    await anyio.sleep(0.001)
                gate.open.update("cd")
                while not found:
                    await anyio.sleep(0.001)
                gate.open.update("ab")

    anyio.run(main)
    batch.close()
    assert found == ["c", "d", "a", "b"]


@pytest.mark.parametrize("strategy", [Strategy(), Strategy.stage(2), Strategy.threaded()], ids=str)
def test_every_strategy_works(strategy: Strategy) -> None:
    with RayBatch(lambda **options: BatchRunner(llm=FakeLLM(), strategy=strategy, **options), ask) as batch:
        assert [row["ok"] for row in answered(batch, {"id": list(range(9))})] == [True] * 9


def test_after_a_stop_no_call_is_made_and_the_rows_say_why() -> None:
    def refuse(request: Any, attempt: int) -> Exception:
        return errors.AuthenticationFailed("the key is not valid")

    llm = FakeLLM(fault=refuse)
    with RayBatch(lambda **options: BatchRunner(llm=llm, **options), ask) as batch:
        first = answered(batch, {"id": [1, 2, 3]})
        made = llm.calls
        second = answered(batch, {"id": [4, 5]})

    assert llm.calls == made == 1
    assert [row["ok"] for row in [*first, *second]] == [False] * 5
    assert "the key is not valid" in second[0]["error"]
    assert [row["id"] for row in second] == [4, 5]


def test_a_stop_condition_holds_for_all_batches_of_an_actor() -> None:
    def fail(request: Any, attempt: int) -> Exception:
        return errors.PermanentBackendError("no such model")

    llm = FakeLLM(fault=fail)
    stop = StopConditions(same_error_in_a_row=4)
    with RayBatch(
        lambda **o: BatchRunner(llm=llm, stop=stop, llm_retry=RetryPolicy(attempts=1), **o), ask
    ) as batch:
        rows = [
            row for start in range(0, 12, 3) for row in answered(batch, {"id": [start, start + 1, start + 2]})
        ]

    assert llm.calls == 4
    assert [row["ok"] for row in rows] == [False] * 12
    assert {row["stage"] for row in rows[4:]} == {"run"}


def no_runner(**options: Any) -> Any:
    return 7


def test_a_runner_that_cannot_perform_the_task_is_an_error_of_the_job() -> None:
    with (
        RayBatch(make_runner, SummarizeAspects()) as batch,
        pytest.raises(errors.ConfigurationError, match="search"),
    ):
        batch.run({"restaurant_id": [1]})
    with (
        RayBatch(no_runner, ask) as batch,
        pytest.raises(errors.ConfigurationError, match="must return a BatchRunner"),
    ):
        batch.run({"id": [1]})


def test_a_folder_as_store_is_shared_by_all_and_paid_for_once(tmp_path: Path) -> None:
    made: list[FakeLLM] = []

    def make(**options: Any) -> BatchRunner:
        made.append(FakeLLM())
        return BatchRunner(llm=made[-1], **options)

    for _ in range(2):
        with RayBatch(make, ask, store=tmp_path / "night") as batch:
            answered(batch, {"id": [1, 2, 3]})

    assert [llm.calls for llm in made] == [3, 0]


def test_a_pickled_object_answers_batches_by_itself_as_in_a_ray_task() -> None:
    batch = pickle.loads(pickle.dumps(RayBatch(make_runner, AnalyzeSentiment(), keep=("city",))))

    table = batch(pa.Table.from_pylist(ROWS))

    assert table["city"].to_pylist() == ["부산", "서울"]


# What is checked before Ray begins


def test_without_ray_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    really = builtins.__import__

    def without_ray(name: str, *arguments: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "ray":
            raise ImportError("No module named 'ray'")
        return really(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_ray)
    for use in (RayBroker, lambda: RayBatch(make_runner, ask).map(None)):
        with pytest.raises(errors.ConfigurationError, match=r"pip install 'restaurant-llm-batch\[ray\]'"):
            use()


@pytest.mark.slow
def test_importing_it_does_not_import_ray_or_pyarrow() -> None:
    code = "import sys, restaurant_llm_batch.integrations.ray; print({'ray', 'pyarrow', 'pandas'} & {*sys.modules})"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert said.strip() == "set()"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((BatchRunner(llm=FakeLLM()), ask), "pass a function that makes it, not a runner"),
        (("make", ask), "make_runner must be a function, got 'make'"),
        ((make_runner, AnalyzeSentiment), "task must be a task or a generator function"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=message):
        RayBatch(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limits": 8}, "limits must be Limits, got 8"),
        (
            {"limits": Limits(llm=ConcurrencyLimiter(3))},
            "Limits.llm is a ConcurrencyLimiter, which belongs to this",
        ),
        ({"keep": "name"}, "keep must be names of columns"),
        ({"columns": {"a": 1}}, "columns must be names of columns"),
        ({"store": 5}, "must be the path of a folder"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: Any, message: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=message):
        RayBatch(make_runner, ask, **options)


def test_a_function_that_does_not_take_what_it_is_given_is_refused_at_once(tmp_path: Path) -> None:
    def bare() -> BatchRunner:
        return BatchRunner(llm=OfflineLLM())

    def limited(limits: Limits, store: Any = None) -> BatchRunner:
        return BatchRunner(llm=OfflineLLM(), limits=limits, store=store)

    RayBatch(bare, ask)
    RayBatch(limited, ask, limits=Limits(llm=3), store=tmp_path)
    RayBatch(
        partial(BatchRunner, llm=OfflineLLM()),
        ask,
        limits=Limits(),
        record=tmp_path / "a.db",
        observers=[print],
    )
    with pytest.raises(
        errors.ConfigurationError, match="make_runner must take limits and store and pass it on"
    ):
        RayBatch(bare, ask, limits=Limits(llm=3), store=tmp_path)
    with pytest.raises(errors.ConfigurationError, match="must take record and observers"):
        RayBatch(limited, ask, limits=Limits(llm=3), record=tmp_path / "a.db")


# Limits of all actors


def test_numbers_become_limits_that_all_who_name_the_scope_share() -> None:
    broker = MemoryBroker(monotonic)
    given = Limits(search=7, llm=3, llm_total=5, requests_per_minute=60, open_items=9)
    first, second = (shared_limits(given, "AnalyzeSentiment of job 01", broker) for _ in range(2))

    assert isinstance(first.llm, SharedLimiter)
    assert isinstance(second.llm, SharedLimiter)
    assert first.llm.name == second.llm.name == "AnalyzeSentiment of job 01: llm=3"
    assert first.llm is not second.llm
    assert first.llm.rate is not None
    assert (first.requests_per_minute, first.open_items, first.tokens_in_flight) == (None, 9, None)
    for limit, number in ((first.search, 7), (first.batches, 20), (first.llm_total, 5)):
        assert isinstance(limit, SharedLimiter)
        assert limit.configured == number
    own = SharedLimiter("gpu", 2, broker=broker)
    kept = shared_limits(Limits(llm=own), "scope", broker)
    assert kept.llm is own


def test_limits_per_minute_beside_a_shared_limiter_are_refused() -> None:
    own = SharedLimiter("gpu", 2, broker=MemoryBroker(monotonic))
    with pytest.raises(
        errors.ConfigurationError, match="give the limits per minute to the SharedLimiter for llm"
    ):
        RayBatch(make_runner, ask, limits=Limits(llm=own, tokens_per_minute=100))


# Events of all actors


class Odd(Exception):
    """An error that pickles and does not unpickle."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status} {body}")


def test_events_of_all_actors_reach_the_observers_and_one_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("restaurant_llm_batch.integrations._ray.events._wait_for", lambda sent: None)
    line = Line()
    seen: list[Any] = []
    recording = Recording(tmp_path / "night.db", texts=True)
    gathering = Gathering(line.take, [seen.append], recording)

    def fault(request: Any, attempt: int) -> Exception | None:
        return Odd(418, "teapot") if "about 2" in request.messages[-1]["content"] else None

    def make(**options: Any) -> BatchRunner:
        return BatchRunner(llm=FakeLLM(fault=fault), strategy=Strategy.stage(4), **options)

    for ids in ([1, 2], [3]):
        with RayBatch(make, ask, observers=[EventSender(line, wants_requests=True)]) as actor:
            answered(actor, {"id": ids})
    gathering.close()
    gathering.close()

    assert [event.run for event in seen if isinstance(event, RunStarted)] == [1, 2]
    assert [event.run for event in seen if isinstance(event, RunEnded)] == [1, 2]
    ended = {e.outcome.item_id: e.outcome for e in seen if isinstance(e, ItemEnded)}
    assert {name: outcome.ok for name, outcome in ended.items()} == {1: True, 2: False, 3: True}
    assert [str(e.error) for e in seen if isinstance(e, CallEnded) and e.error] == ["Odd: 418 teapot"]
    record = open_record(tmp_path / "night.db")
    assert [len(record.items(run)) for run in record.runs()] == [2, 1]
    assert [call.outcome for call in record.calls(1)].count("failed") == 1
    assert record.explain(3).calls


def test_an_event_with_a_result_that_cannot_be_pickled_shows_its_text() -> None:
    class Local:
        def __repr__(self) -> str:
            return "a local result"

    from restaurant_llm_batch import Success

    event = pickle.loads(packed(ItemEnded(1, 0.0, Success(3, Local()))))

    assert event.outcome.value == "a local result"
