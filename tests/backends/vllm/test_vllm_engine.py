"""
What `VLLMEngineLLM` does around vLLM, with a stand-in for it.

vLLM itself is too heavy for every day; `tests/heavy` runs the real one.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from queue import Queue
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import anyio
import pytest

from restaurant_llm_batch import LLMRequest, LLMResponse, errors
from restaurant_llm_batch.backends.vllm._codec import backend_error, prepare, read
from restaurant_llm_batch.backends.vllm.engine import VLLMEngineLLM

SCHEMA = {"type": "object", "properties": {"이름": {"type": "string"}}}


class WordTokenizer:
    """One token per word; remembers how it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def apply_chat_template(self, messages: list[dict[str, str]], **arguments: Any) -> list[int]:
        self.asked.append(arguments)
        return [len(word) for message in messages for word in message["content"].split()]


def output(prompt: list[int], name: str = "", reason: str = "stop") -> SimpleNamespace:
    answer = SimpleNamespace(text=f"{len(prompt)} words", finish_reason=reason, token_ids=[1, 2])
    return SimpleNamespace(
        request_id=name, finished=True, outputs=[answer], prompt_token_ids=prompt, num_cached_tokens=1
    )


class StandIn:
    """Both of vLLM's engines in one; answers at the second step, or hangs for a prompt of one word."""

    started: ClassVar[list[StandIn]]
    fail: ClassVar[Exception | None]

    def __init__(self, **arguments: Any) -> None:
        fault = type(self).fail
        if fault is not None:
            raise fault
        self.arguments = arguments
        self.model_config = SimpleNamespace(max_model_len=10, model=arguments["model"])
        self.tokenizer = WordTokenizer()
        self.llm_engine = self
        self.engine_core = self
        self.jobs: dict[str, list[Any]] = {}
        self.sampling: list[Any] = []
        self.priorities: list[int] = []
        self.cancelled = 0
        self.shut_down_in: list[int] = []
        type(self).started.append(self)

    def get_tokenizer(self) -> WordTokenizer:
        return self.tokenizer

    def shutdown(self) -> None:
        self.shut_down_in.append(threading.get_ident())

    def add_request(self, name: str, prompt: Any, sampling: Any, *, priority: int) -> None:
        self.sampling.append(sampling)
        self.priorities.append(priority)
        self.jobs[name] = [prompt["prompt_token_ids"], 2]

    def step(self) -> list[Any]:
        for job in self.jobs.values():
            job[1] -= 1
        finished = [output(job[0], name) for name, job in self.jobs.items() if not job[1]]
        self.jobs = {name: job for name, job in self.jobs.items() if job[1]}
        return finished

    def abort_request(self, names: list[str]) -> None:
        for name in names:
            self.jobs.pop(name, None)

    async def generate(self, prompt: Any, sampling: Any, name: str, *, priority: int) -> AsyncIterator[Any]:
        self.sampling.append(sampling)
        self.priorities.append(priority)
        try:
            await (
                anyio.sleep_forever() if len(prompt["prompt_token_ids"]) == 1 else anyio.lowlevel.checkpoint()
            )
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise
        yield output(prompt["prompt_token_ids"], name)


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[StandIn]]:
    """Stand in for vLLM; yields the class of its engines."""

    class Engine(StandIn):
        started: ClassVar[list[StandIn]] = []
        fail = None

    def module(name: str, **content: Any) -> None:
        made = ModuleType(name)
        made.__spec__ = ModuleSpec(name, None)
        made.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, made)

    arguments = SimpleNamespace(from_engine_args=lambda arguments: Engine(**arguments))
    module("vllm", LLM=Engine, AsyncLLMEngine=arguments, AsyncEngineArgs=dict)
    module("vllm.config", StructuredOutputsConfig=SimpleNamespace)
    module(
        "vllm.sampling_params",
        SamplingParams=SimpleNamespace,
        StructuredOutputsParams=SimpleNamespace,
        RequestOutputKind=SimpleNamespace(FINAL_ONLY="final only"),
    )
    yield Engine
    gc.collect()


def request(words: int = 3, **given: Any) -> LLMRequest:
    return LLMRequest("t", [{"role": "user", "content": "맛 " * words}], **given)


def test_a_request_is_rendered_by_the_models_template_and_sampled_as_it_says(vllm: type[StandIn]) -> None:
    tokenizer = WordTokenizer()

    prepared = prepare(
        request(schema=SCHEMA, max_tokens=4, temperature=0.7, priority=-2),
        tokenizer,
        10,
        {"enable_thinking": False},
    )

    assert prepared.prompt == {"type": "token", "prompt_token_ids": [1, 1, 1]}
    assert prepared.priority == -2
    assert tokenizer.asked == [
        {"enable_thinking": False, "add_generation_prompt": True, "tokenize": True, "return_dict": False}
    ]
    sampling = prepared.sampling
    assert (sampling.temperature, sampling.max_tokens, sampling.output_kind) == (0.7, 4, "final only")
    assert (
        sampling.structured_outputs.json == '{"type": "object", "properties": {"이름": {"type": "string"}}}'
    )


def test_free_text_is_not_constrained(vllm: type[StandIn]) -> None:
    assert prepare(request(), WordTokenizer(), 10, {}).sampling.structured_outputs is None


@pytest.mark.parametrize(("words", "room"), [(1, 9), (9, 1)])
def test_an_answer_is_cut_to_what_the_context_leaves(vllm: type[StandIn], words: int, room: int) -> None:
    assert prepare(request(words, max_tokens=500), WordTokenizer(), 10, {}).sampling.max_tokens == room


@pytest.mark.parametrize("words", [10, 11])
def test_a_prompt_that_leaves_no_room_is_too_long(vllm: type[StandIn], words: int) -> None:
    with pytest.raises(errors.PromptTooLong, match=f"{words} tokens.*context of 10"):
        prepare(request(words), WordTokenizer(), 10, {})


def test_a_reply_carries_what_the_engine_counted() -> None:
    assert read(output([1, 2, 3], reason="length"), "m") == LLMResponse("3 words", "length", 3, 2, "m", 1)


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_a_request_that_the_engine_gave_up_may_be_asked_again(reason: str) -> None:
    with pytest.raises(errors.TransientBackendError, match=reason):
        read(output([1], reason=reason), "m")


class EngineDeadError(Exception):
    pass


class EngineGenerateError(Exception):
    pass


class QueueOverflowError(Exception):
    http_status = 503


class ProfilerAlreadyActiveError(Exception):
    http_status = 409


@pytest.mark.parametrize(
    ("error", "expected", "words"),
    [
        (EngineDeadError(), errors.PermanentBackendError, "died"),
        (EngineGenerateError("x"), errors.TransientBackendError, "EngineGenerateError: x"),
        (QueueOverflowError("busy"), errors.RateLimited, "busy"),
        (QueueOverflowError("shutting down"), errors.TransientBackendError, "shutting"),
        (
            ValueError("The decoder prompt (length 9) is longer than the maximum model length of 8."),
            errors.PromptTooLong,
            "longer",
        ),
        (ProfilerAlreadyActiveError("busy"), errors.PermanentBackendError, "busy"),
        (ValueError("temperature must be non-negative"), errors.PermanentBackendError, "non-negative"),
        (KeyError("k"), errors.PermanentBackendError, "KeyError"),
    ],
)
def test_exceptions_are_told_apart_by_their_type(
    error: Exception, expected: type[Exception], words: str
) -> None:
    mapped = backend_error(error)

    assert type(mapped) is expected
    assert words in str(mapped)


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_error_names_the_extra_before_any_call() -> None:
    with pytest.raises(errors.ConfigurationError, match=r"restaurant-llm-batch\[vllm\]"):
        VLLMEngineLLM("m")


def test_a_vllm_that_cannot_be_imported_is_a_configuration_error(
    vllm: type[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "vllm.config", None)

    with pytest.raises(errors.ConfigurationError, match=r"\[vllm\].*vllm.config"):
        VLLMEngineLLM("m").complete(request())


@pytest.mark.parametrize(
    "given",
    [{}, {"model": ""}, {"model": 7}, {"model": "m", "llm": object()}, {"llm": object(), "max_model_len": 9}],
)
@pytest.mark.sample(2)
def test_what_cannot_work_is_refused_at_once(vllm: type[StandIn], given: dict[str, Any]) -> None:
    with pytest.raises(errors.ConfigurationError, match="model"):
        VLLMEngineLLM(**given)


def test_nothing_is_loaded_before_the_first_call_and_then_once(vllm: type[StandIn]) -> None:
    llm = VLLMEngineLLM("m", max_num_seqs=4, structured_outputs_config={"backend": "xgrammar"})
    assert vllm.started == []
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(llm.complete, [request(1 + number % 8) for number in range(64)]))

    assert [reply.text for reply in replies] == [f"{1 + number % 8} words" for number in range(64)]
    (engine,) = vllm.started
    assert engine.arguments == {
        "model": "m",
        "max_num_seqs": 4,
        "scheduling_policy": "priority",
        "disable_log_stats": True,
        "structured_outputs_config": SimpleNamespace(backend="xgrammar"),
    }


def test_priorities_reach_the_engine_in_both_modes(vllm: type[StandIn]) -> None:
    llm = VLLMEngineLLM("m")
    llm.complete(request(priority=3))
    anyio.run(llm.acomplete, request(priority=-3))

    assert [engine.priorities for engine in vllm.started] == [[3], [-3]]


def test_a_start_that_failed_is_not_tried_again_for_every_item(vllm: type[StandIn]) -> None:
    vllm.fail = RuntimeError("no GPU")
    llm = VLLMEngineLLM("m")
    for _ in range(2):
        with pytest.raises(errors.PermanentBackendError, match="RuntimeError: no GPU"):
            llm.complete(request())
        with pytest.raises(errors.PermanentBackendError, match="RuntimeError: no GPU"):
            anyio.run(llm.acomplete, request())
        vllm.fail = None  # only the blocking mode's failure is remembered: the loop of the other is gone
        anyio.run(llm.acomplete, request())
        vllm.fail = RuntimeError("no GPU")
    vllm.fail = None
    with pytest.raises(errors.PermanentBackendError):
        llm.complete(request())
    llm.close()

    assert llm.complete(request()).text == "3 words"


def test_an_unknown_engine_argument_is_yours_to_mend(vllm: type[StandIn]) -> None:
    vllm.fail = TypeError("unexpected keyword argument 'max_modell_len'")

    with pytest.raises(errors.ConfigurationError, match="max_modell_len"):
        VLLMEngineLLM("m", max_modell_len=4).complete(request())


def test_a_token_for_downloads_shows_nowhere(vllm: type[StandIn]) -> None:
    vllm.fail = ValueError("input_value={'hf_token': 'hf_secret'}")
    llm = VLLMEngineLLM("m", hf_token="hf_secret")

    with pytest.raises(errors.PermanentBackendError) as caught:
        llm.complete(request())

    assert "hf_secret" not in repr(llm) + str(caught.value) + repr(caught.value.__cause__)


def test_close_shuts_down_what_is_ours_and_the_next_call_starts_anew(vllm: type[StandIn]) -> None:
    llm = VLLMEngineLLM("m")
    llm.close()
    llm.complete(request())
    llm.close()
    llm.complete(request())

    assert [len(engine.shut_down_in) for engine in vllm.started] == [1, 0]


def test_a_users_own_engines_are_used_and_left_running(vllm: type[StandIn]) -> None:
    mine = vllm(model="mine")
    llm = VLLMEngineLLM(llm=mine, engine=mine)

    async def main() -> None:
        assert (await llm.acomplete(request())).model == "mine"
        await llm.aclose()

    assert llm.complete(request()).model == "mine"
    anyio.run(main)
    llm.close()
    assert vllm.started == [mine]
    assert mine.shut_down_in == []


def test_the_mode_that_no_engine_was_given_for_says_so(vllm: type[StandIn]) -> None:
    mine = vllm(model="mine")

    with pytest.raises(errors.ConfigurationError, match="llm_async=False; pass engine="):
        anyio.run(VLLMEngineLLM(llm=mine).acomplete, request())
    with pytest.raises(errors.ConfigurationError, match="llm_async=True; pass llm="):
        VLLMEngineLLM(engine=mine).complete(request())


def test_trio_is_refused_with_the_way_out(vllm: type[StandIn]) -> None:
    with pytest.raises(errors.ConfigurationError, match="llm_async=False"):
        anyio.run(VLLMEngineLLM("m").acomplete, request(), backend="trio")


def test_one_engine_serves_all_tasks_of_a_loop_and_is_closed_on_it(vllm: type[StandIn]) -> None:
    llm = VLLMEngineLLM("m")
    texts: dict[int, str] = {}

    async def one(words: int) -> None:
        texts[words] = (await llm.acomplete(request(words))).text

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for words in range(2, 9):
                tasks.start_soon(one, words)
        await llm.aclose()
        await llm.aclose()

    anyio.run(main)

    assert texts == {words: f"{words} words" for words in range(2, 9)}
    (engine,) = vllm.started
    assert len(engine.shut_down_in) == 1
    assert engine.shut_down_in != [threading.get_ident()], "shutting down takes seconds; it blocked the loop"


def test_cancelling_a_call_reaches_the_engine(vllm: type[StandIn]) -> None:
    llm = VLLMEngineLLM("m")

    async def main() -> None:
        await llm.acomplete(request(2))
        with anyio.move_on_after(0.01):
            await llm.acomplete(request(1))

    anyio.run(main)

    assert vllm.started[0].cancelled == 1


def test_closing_spares_the_requests_of_another_runner(vllm: type[StandIn]) -> None:
    llm = VLLMEngineLLM("m")

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            await llm.acomplete(request(2))
            tasks.start_soon(llm.acomplete, request(1))
            await anyio.wait_all_tasks_blocked()
            await llm.aclose()
            assert vllm.started[0].shut_down_in == []
            tasks.cancel_scope.cancel()
        await llm.aclose()

    anyio.run(main)

    assert len(vllm.started[0].shut_down_in) == 1


def test_an_engine_whose_process_was_killed_is_not_waited_for(vllm: type[StandIn]) -> None:
    mine: Any = vllm(model="mine")
    mine.outputs_queue = Queue()
    mine.resources = SimpleNamespace(engine_dead=True)

    with pytest.raises(errors.PermanentBackendError, match="died"):
        VLLMEngineLLM(llm=mine).complete(request())

    mine.outputs_queue.put("an output")
    assert VLLMEngineLLM(llm=mine).complete(request()).text == "3 words"


def test_a_loop_that_is_gone_leaves_its_engine_to_the_next_one_to_shut_down(vllm: type[StandIn]) -> None:
    llm = VLLMEngineLLM("m")
    anyio.run(llm.acomplete, request())
    anyio.run(llm.acomplete, request())

    assert [len(engine.shut_down_in) for engine in vllm.started] == [1, 0]


def test_a_second_living_loop_is_refused(vllm: type[StandIn]) -> None:
    llm = VLLMEngineLLM("m")

    async def main() -> None:
        await llm.acomplete(request())
        with pytest.raises(errors.ConfigurationError, match="one loop at a time"):
            await anyio.to_thread.run_sync(anyio.run, llm.acomplete, request())

    anyio.run(main)
    assert len(vllm.started) == 1


def test_the_load_of_the_engines_of_this_process_is_read_from_their_registry(
    vllm: type[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = [(Path(__file__).parent / "vllm_metrics.txt").read_bytes(), b"python_info 1"]
    registry = SimpleNamespace(REGISTRY=None, generate_latest=lambda registry: pages.pop(0))
    monkeypatch.setitem(sys.modules, "prometheus_client", registry)
    llm = VLLMEngineLLM("some/model")

    assert anyio.run(llm.ametrics).kv_tokens == 14 * 128
    with pytest.raises(errors.PermanentBackendError, match="disable_log_stats=False"):
        llm.metrics()
