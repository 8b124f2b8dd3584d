"""`VLLMServerLLM` over a real socket: vLLM's shapes, errors and extras, sync and async."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import pytest
from tests.support.local_server import LocalServer, Say, Seen, chat

from restaurant_llm_batch import LLMRequest, LLMResponse
from restaurant_llm_batch.backends import VLLMServerLLM
from restaurant_llm_batch.backends.vllm._metrics import MOST_CHARACTERS, VLLMMetrics, read_metrics
from restaurant_llm_batch.backends.vllm.server import ServedModel
from restaurant_llm_batch.errors import (
    AuthenticationFailed,
    BackendError,
    ConfigurationError,
    PermanentBackendError,
    PromptTooLong,
    RateLimited,
    TransientBackendError,
)

KEY = "hush-hush-key"
METRICS = (Path(__file__).parent / "vllm_metrics.txt").read_text()
MODELS = {"object": "list", "data": [{"id": "tiny", "object": "model", "root": "/m", "max_model_len": 1024}]}
Ask: TypeAlias = Callable[..., Any]


def ask_blocking(llm: VLLMServerLLM, method: str, *arguments: Any) -> Any:
    try:
        return getattr(llm, method)(*arguments)
    finally:
        llm.close()


def asker(backend: str) -> Ask:
    def ask(llm: VLLMServerLLM, method: str, *arguments: Any) -> Any:
        async def main() -> Any:
            try:
                return await getattr(llm, "a" + method)(*arguments)
            finally:
                await llm.aclose()

        return anyio.run(main, backend=backend)

    return ask


@pytest.fixture(params=["blocking", "asyncio", "trio"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Call a method in one of the modes."""
    return ask_blocking if request.param == "blocking" else asker(request.param)


def request(**more: Any) -> LLMRequest:
    return LLMRequest("taste", ({"role": "user", "content": "맛은?"},), **more)


def serving(say: Say | Callable[[Seen], Say]) -> LocalServer:
    """Serve one answer to every completion, and a list of models."""

    def answer(seen: Seen) -> Say:
        if seen.path == "/v1/models":
            return Say(MODELS)
        return say if isinstance(say, Say) else say(seen)

    return LocalServer(answer)


def test_a_request_becomes_a_completion_and_its_answer_a_reply(ask: Ask) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    with serving(Say(chat("맛있다"))) as server:
        reply = ask(VLLMServerLLM(server.url, "tiny", api_key=KEY), "complete", request(schema=schema))
    assert reply == LLMResponse("맛있다", "stop", prompt_tokens=11, completion_tokens=5, model="tiny")
    (seen,) = server.seen
    assert seen.path == "/v1/chat/completions"
    assert seen.headers["Authorization"] == f"Bearer {KEY}"
    assert seen.json == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "맛은?"}],
        "max_tokens": 1500,
        "temperature": 0.1,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "taste", "strict": True, "schema": schema},
        },
        # Said outright: what is left out, the server takes from the model's generation_config.json.
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
    }


def test_a_priority_is_passed_on_and_no_priority_is_left_out(ask: Ask) -> None:
    with serving(Say(chat("x"))) as server:
        ask(VLLMServerLLM(server.url, "tiny"), "complete", request(priority=-3))
        ask(VLLMServerLLM(server.url, "tiny"), "complete", request())
    assert server.seen[0].json["priority"] == -3
    assert "priority" not in server.seen[1].json


def test_sampling_and_further_fields_are_the_users(ask: Ask) -> None:
    with serving(Say(chat("x"))) as server:
        llm = VLLMServerLLM(
            server.url, "tiny", sampling={"top_p": 0.9}, extra_body={"seed": 1, "max_tokens": 3}
        )
        ask(llm, "complete", request())
    assert server.seen[0].json == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "맛은?"}],
        "max_tokens": 3,
        "temperature": 0.1,
        "top_p": 0.9,
        "seed": 1,
    }


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_the_address_is_fine_with_or_without_v1(suffix: str) -> None:
    with serving(Say(chat("x"))) as server:
        ask_blocking(VLLMServerLLM(server.url + suffix, "tiny"), "complete", request())
    assert server.seen[0].path == "/v1/chat/completions"


def test_without_a_name_the_first_model_is_asked_once_found(ask: Ask) -> None:
    with serving(Say(chat("x"))) as server:
        llm = VLLMServerLLM(server.url)
        ask(llm, "complete", request())
        ask(llm, "complete", request())
    assert [seen.path for seen in server.seen] == ["/v1/models"] + ["/v1/chat/completions"] * 2
    assert server.seen[-1].json["model"] == "tiny"


def vllm_error(status: int, kind: str, words: str) -> Say:
    return Say({"error": {"message": words, "type": kind, "param": None, "code": status}}, status)


TOO_LONG = (
    "This model's maximum context length is 8192 tokens. However, your prompt contains at least 8193 input "
    "tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input "
    "prompt. (parameter=input_tokens, value=8193)"
)
BUSY = "The engine is currently busy and cannot accept new requests. Please retry later."


@pytest.mark.parametrize(
    ("say", "kind"),
    [
        (vllm_error(400, "BadRequestError", TOO_LONG), PromptTooLong),
        (vllm_error(400, "BadRequestError", "max_tokens must be at least 1, got 0."), PermanentBackendError),
        (Say({"error": "Unauthorized"}, 401), AuthenticationFailed),
        (vllm_error(404, "NotFoundError", "The model `x` does not exist."), PermanentBackendError),
        (Say({"detail": [{"loc": ["body", "priority"], "msg": "extra"}]}, 422), PermanentBackendError),
        (vllm_error(500, "InternalServerError", "oops"), TransientBackendError),
        (vllm_error(503, "Service Unavailable", BUSY), RateLimited),
        (Say(b"<html>502</html>", 502), TransientBackendError),
        (Say(b"<html>fine</html>"), TransientBackendError),
        (Say({"object": "error", "code": 404, "message": "no such model"}), PermanentBackendError),
        (Say(hang_up=True), TransientBackendError),
        (Say(chat("x"), cut=True), TransientBackendError),
        (Say(after=30), TransientBackendError),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
@pytest.mark.sample(5)
def test_every_fault_is_reported_by_its_kind_and_asked_once(
    ask: Ask, say: Say, kind: type[BackendError]
) -> None:
    with serving(say) as server:
        llm = VLLMServerLLM(server.url, "tiny", api_key=KEY, timeout=0.5)
        with pytest.raises(BackendError) as caught:
            ask(llm, "complete", request())
    assert type(caught.value) is kind
    assert caught.value.backend == "vllm"
    assert len(server.seen) == 1, "the runner's policy retries, nothing below it"


def test_a_server_that_is_not_there_may_come_back(ask: Ask) -> None:
    with serving(Say()) as server:
        url = server.url
    with pytest.raises(TransientBackendError, match="did not answer"):
        ask(VLLMServerLLM(url, "tiny"), "complete", request())


def test_a_clamped_answer_is_known_by_its_finish_reason(ask: Ask) -> None:
    cut = chat('{"summary": "half')
    cut["choices"][0]["finish_reason"] = "length"
    with serving(Say(cut)) as server:
        assert ask(VLLMServerLLM(server.url, "tiny"), "complete", request()).finish_reason == "length"


def test_models_are_listed_with_their_context(ask: Ask) -> None:
    with serving(Say()) as server:
        assert ask(VLLMServerLLM(server.url), "models") == [ServedModel("tiny", 1024)]


def test_tokens_are_counted_by_the_server(ask: Ask) -> None:
    with serving(Say({"count": 7, "max_model_len": 1024, "tokens": [1] * 7})) as server:
        llm = VLLMServerLLM(server.url, "tiny")
        assert ask(llm, "count_tokens", "맛있어요") == 7
        assert ask(llm, "count_tokens", request().messages) == 7
    assert server.seen[0].json == {"model": "tiny", "prompt": "맛있어요", "add_special_tokens": False}
    assert server.seen[1].json == {"model": "tiny", "messages": [{"role": "user", "content": "맛은?"}]}
    assert {seen.path for seen in server.seen} == {"/tokenize"}


@pytest.mark.parametrize(
    ("method", "arguments", "say"),
    [
        ("models", (), {"data": None}),
        ("models", (), []),
        ("count_tokens", ("x",), {}),
        ("count_tokens", ("x",), {"count": "7"}),
        ("metrics", (), b"python_info 1"),
    ],
)
def test_a_server_of_another_kind_is_told_apart(method: str, arguments: Any, say: Any) -> None:
    with LocalServer(lambda seen: Say(say)) as server, pytest.raises(PermanentBackendError):
        ask_blocking(VLLMServerLLM(server.url, "tiny"), method, *arguments)


def test_a_server_without_models_says_so() -> None:
    with (
        LocalServer(lambda seen: Say({"data": []})) as server,
        pytest.raises(PermanentBackendError, match="offers no model"),
    ):
        ask_blocking(VLLMServerLLM(server.url), "complete", request())


def test_the_metrics_are_a_snapshot(ask: Ask) -> None:
    with LocalServer(lambda seen: Say(METRICS.encode())) as server:
        snapshot = ask(VLLMServerLLM(server.url), "metrics")
    assert server.seen[0].path == "/metrics"
    assert snapshot == VLLMMetrics(
        running=3, waiting=2, kv_usage=0.25, kv_tokens=14 * 128, preemptions=5, rejections=7, kv_block=128
    )


def test_several_engines_are_summed() -> None:
    text = METRICS + METRICS.replace('engine="0"', 'engine="1"').replace("0.25", "0.5")
    assert read_metrics(text) == VLLMMetrics(6, 4, 0.5, 2 * 14 * 128, 10, 14, 128)


def test_metrics_of_an_older_server_are_read_too() -> None:
    old = METRICS.replace("kv_cache_usage_perc", "gpu_cache_usage_perc").replace(
        'num_gpu_blocks="14"', 'num_gpu_blocks="None"'
    )
    snapshot = read_metrics(old)
    assert (snapshot.kv_usage, snapshot.kv_tokens) == (0.25, None)


SGLANG = """\
# HELP sglang:num_running_reqs The number of running requests.
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{engine_type="unified",model_name="m",tp_rank="0"} 6.0
sglang:num_running_reqs_offline_batch{model_name="m"} 50.0
sglang:num_queue_reqs{engine_type="unified",model_name="m",tp_rank="0"} 2.0
sglang:token_usage{model_name="m"} 0.28
sglang:max_total_num_tokens{model_name="m"} 54321.0
sglang:num_retracted_reqs{model_name="m"} 1.0
sglang:num_retracted_requests_total{model_name="m"} 48.0
"""
TGI = """\
# TYPE tgi_queue_size gauge
tgi_queue_size 5
# TYPE tgi_batch_current_size gauge
tgi_batch_current_size 8
tgi_batch_current_max_tokens 2048
tgi_request_count{instance="a"} 253
"""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (SGLANG, VLLMMetrics(6, 2, 0.28, 54321, 48, 0)),
        (SGLANG.replace("max_total_num_tokens", "page_size"), VLLMMetrics(6, 2, 0.28, None, 48, 0)),
        (TGI, VLLMMetrics(8, 5, 0.0, None, 0, 0)),
        (TGI.replace("tgi_queue_size 5", "tgi_queue_size NaN"), VLLMMetrics(8, 0, 0.0, None, 0, 0)),
        (TGI.replace("size 8", "size 8 1700000000000"), VLLMMetrics(8, 5, 0.0, None, 0, 0)),
        ("python_info 1\n" + METRICS + TGI, VLLMMetrics(3, 2, 0.25, 14 * 128, 5, 7, 128)),
    ],
    ids=["sglang", "sglang without its size", "tgi", "not a number", "with a time", "of two servers"],
)
def test_the_metrics_of_sglang_and_tgi_are_read_by_their_names(text: str, found: VLLMMetrics) -> None:
    assert read_metrics(text) == found


@pytest.mark.parametrize(
    "odd",
    [
        "vllm:num_requests_running NaN",
        "vllm:num_requests_running +Inf",
        "vllm:num_requests_running -7",
        "vllm:num_requests_running 1e300",
        "vllm:num_requests_running many",
        'vllm:num_requests_running{engine="1"} ',
        "vllm:kv_cache_usage_perc NaN",
        "vllm:num_preemptions_total -Inf",
        'vllm:cache_config_info{block_size="-16",num_gpu_blocks="None"} 1',
        'vllm:cache_config_info{block_size="-16",num_gpu_blocks="100"} 1',
        'vllm:cache_config_info{block_size="-16",num_gpu_blocks="-100"} 1',
        'vllm:cache_config_info{block_size="16",num_gpu_blocks="0"} 1',
        'vllm:cache_config_info{block_size="9999999999",num_gpu_blocks="9999999999"} 1',
    ],
)
def test_a_figure_that_cannot_be_is_left_out(odd: str) -> None:
    page = "vllm:num_requests_running 3\nvllm:num_requests_waiting 1\n"

    assert read_metrics(f"{page}{odd}\n") == VLLMMetrics(3, 1, 0.0, None, 0, 0)
    assert read_metrics(f"{odd}\n{page}") == VLLMMetrics(3, 1, 0.0, None, 0, 0)


def test_a_page_that_is_no_page_of_metrics_is_not_searched() -> None:
    page = "vllm:num_requests_running 3\n" * (MOST_CHARACTERS // 28 + 1)

    with pytest.raises(PermanentBackendError, match="more than the metrics of a server"):
        read_metrics(page)


def test_metrics_that_fail_are_an_error() -> None:
    with LocalServer(lambda seen: Say(b"busy", 503)) as server, pytest.raises(TransientBackendError):
        ask_blocking(VLLMServerLLM(server.url), "metrics")


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG):
        yield caplog


def test_the_key_is_shown_nowhere(ask: Ask, everything_logged: pytest.LogCaptureFixture) -> None:
    def repeat(seen: Seen) -> Say:
        return Say({"error": {"message": f"not {seen.headers['Authorization']}", "code": 401}}, 401)

    with LocalServer(repeat) as server:
        llm = VLLMServerLLM(server.url, "tiny", api_key=KEY)
        with pytest.raises(AuthenticationFailed) as caught:
            ask(llm, "complete", request())
    assert KEY in server.seen[0].headers["Authorization"]
    told = [repr(llm), repr(caught.value), repr(vars(caught.value)), repr(caught.value.__cause__)]
    assert KEY not in " ".join(told) + everything_logged.text


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"base_url": "localhost:8000"}, "base_url"),
        ({"base_url": "http://user:pass@host"}, "base_url"),
        ({"model": ""}, "model"),
        ({"model": 7}, "model"),
        ({"timeout": 0}, "Timeout.total"),
        ({"timeout": "60"}, "Timeout.total"),
        ({"api_key": 7}, "api_key"),
        ({"transport": object()}, "transport"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigurationError, match=field) as caught:
        VLLMServerLLM(**arguments)
    assert "pass@" not in str(caught.value)
