"""The first call works, and the advice of an error can be followed where it is read."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.support.local_server import LocalServer, Say, Seen
from tests.support.runpod_server import KEY, Dispatcher, End

from restaurant_llm_batch import BatchRunner, BatchSettings, SummarizeAspects
from restaurant_llm_batch.backends import OpenAILLM
from restaurant_llm_batch.cli import main
from restaurant_llm_batch.cli._app import build
from restaurant_llm_batch.cli._backends import models
from restaurant_llm_batch.cli._commands import summarize
from restaurant_llm_batch.cli._hints import hints
from restaurant_llm_batch.testing import FakeSearch, answer_from_schema

SUMMARIZE = summarize.command(models())
ANSWER = {
    "categories": {
        name: {"summary": "좋다", "bullets": [], "evidence": [1]} for name in ("service", "price", "food")
    },
    "overall_summary": "좋다",
}


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A working folder with reviews, and an environment without settings."""
    for name in (*BatchSettings.model_fields, "batch_config", "openai_base_url"):
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)
    lines = [{"restaurant_id": n, "review_id": n, "content": "친절하고 맛있어요"} for n in range(3)]
    (tmp_path / "reviews.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return tmp_path


def invoke(*words: object) -> Result:
    return CliRunner().invoke(build(), [str(word) for word in words], env={"COLUMNS": "200"})


def said(result: Result) -> str:
    return " ".join(result.output.split())


def _refusal(field: str, code: str, text: str) -> Say:
    error = {"message": text, "type": "invalid_request_error", "param": field, "code": code}
    return Say({"error": error}, 400)


def _completion(content: str, reason: str = "stop") -> Say:
    message = {"role": "assistant", "content": content}
    usage = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
    return Say({"model": "m", "choices": [{"message": message, "finish_reason": reason}], "usage": usage})


class Reasoning:
    """The rules of OpenAI's reasoning models, which also think for `thinks` tokens before they answer."""

    def __init__(self, thinks: int = 0) -> None:
        self.thinks = thinks
        self.refused = 0
        self.bodies: list[Any] = []

    def __call__(self, seen: Seen) -> Say:
        body = seen.json
        self.bodies.append(body)
        self.refused += 1
        if "max_tokens" in body:
            text = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'."
            return _refusal("max_tokens", "unsupported_parameter", text)
        if body.get("temperature", 1) != 1:
            text = "Unsupported value: 'temperature' does not support 0.1 with this model. Only the default (1) value."
            return _refusal("temperature", "unsupported_value", text)
        self.refused -= 1
        if body["max_completion_tokens"] < self.thinks:
            return _completion("", "length")
        schema = body["response_format"]["json_schema"]["schema"]
        return _completion(json.dumps(answer_from_schema(schema)))


@pytest.fixture
def reasoning() -> Iterator[Callable[[int], tuple[str, Reasoning]]]:
    """Start a server with the rules of a reasoning model."""
    servers = []

    def start(thinks: int = 0) -> tuple[str, Reasoning]:
        rules = Reasoning(thinks)
        server = LocalServer(rules)
        server.__enter__()
        servers.append(server)
        return f"{server.url}/v1", rules

    yield start
    for server in servers:
        server.__exit__(None, None, None)


@pytest.mark.parametrize("command", ["sentiment", "summarize", "vocabulary"])
@pytest.mark.parametrize("stage", ["4", "1"])
@pytest.mark.sample(1)
def test_the_model_of_the_docs_answers_the_first_command(command: str, stage: str, reasoning: Any) -> None:
    url, rules = reasoning()
    words = [command, "reviews.jsonl", "--llm", "openai", "--model", "gpt-5-mini", "--llm-url", url]
    result = invoke(*words, "--stage", stage)
    assert result.exit_code == 0, result.output
    assert "failed" not in said(result)
    assert 0 < rules.refused <= 2 * 6
    assert all(body["model"] == "gpt-5-mini" for body in rules.bodies)


def test_it_answers_the_first_lines_of_python_too(reasoning: Any) -> None:
    url, _ = reasoning()
    llm = OpenAILLM("gpt-5-mini", base_url=url)
    runner = BatchRunner(llm=llm, search=FakeSearch({1: ["친절해요"]}))
    assert len(runner.run(SummarizeAspects(), [1]).results) == 1
    llm.close()


@pytest.mark.slow
def test_a_model_that_thinks_past_its_limit_is_given_a_higher_one_as_the_error_says(reasoning: Any) -> None:
    url, _ = reasoning(3000)
    words = ["summarize", "reviews.jsonl", "--llm", "openai", "--model", "gpt-5-mini", "--llm-url", url]
    failed = invoke(*words)
    assert failed.exit_code == 1
    hint = re.search(r"max_tokens: (--[\w-]+) or (\w+)", said(failed))
    assert hint is not None, failed.output
    done = invoke(*words, hint[1], 4000)
    assert done.exit_code == 0, done.output
    by_variable = CliRunner().invoke(build(), words, env={hint[2]: "4000"})
    assert by_variable.exit_code == 0, by_variable.output


EXAMPLES = {
    "summarize reviews.jsonl --llm openai": "for example (--model [^,]+), or set (BATCH_LLM_MODEL=\\S+)",
    "summarize reviews.jsonl --llm vllm": "for example (--llm-url [^,]+), or set (BATCH_LLM_URL=\\S+)",
    "summarize reviews.jsonl --llm runpod": "for example (--runpod-endpoint [^,]+), or set (RUNPOD_ENDPOINT_ID=\\S+)",
    "summarize reviews.jsonl --llm vllm-engine": "for example (--model [^,]+), or set (BATCH_LLM_MODEL=\\S+)",
}
"""Commands that lack something, with the advice that is given."""


@pytest.mark.parametrize("command", EXAMPLES)
@pytest.mark.sample(2)
def test_what_is_missing_is_named_with_an_option_and_a_variable_that_both_help(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    monkeypatch.setenv("RUNPOD_API_KEY", KEY)
    words = shlex.split(command)
    result = invoke(*words)
    assert result.exit_code == 2
    advice = re.search(EXAMPLES[command], said(result))
    assert advice is not None, result.output
    # Then only what no advice can give is missing: the service itself, or vLLM.
    for more, variables in ((shlex.split(advice[1]), {}), ([], dict([advice[2].split("=", 1)]))):
        followed = CliRunner().invoke(build(), [*words, *more, "--attempts", "0"], env=variables)
        assert "needs" not in said(followed)
        assert "--attempts" in said(followed)
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            settings = BatchSettings(batch_llm_backend=words[-1])
            if variables and words[-1] != "vllm-engine":
                settings.llm()


def test_a_bound_on_cost_asks_for_prices_which_then_suffice() -> None:
    words = ["sentiment", "reviews.jsonl", "--stop-cost", "5"]
    result = invoke(*words)
    assert result.exit_code == 2
    assert "prices: --prices or BATCH_PRICES" in said(result)
    assert invoke(*words, "--prices", '{"": [0.25, 2.0]}').exit_code == 0
    followed = CliRunner().invoke(build(), words, env={"BATCH_PRICES": '{"": [0.25, 2.0]}'})
    assert followed.exit_code == 0, followed.output


@pytest.mark.slow
def test_a_worker_that_takes_prompts_is_spoken_to_as_the_error_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def script(work: Any) -> End:
        return End(more={"output": json.dumps(ANSWER, ensure_ascii=False)})

    monkeypatch.setenv("RUNPOD_API_KEY", KEY)
    monkeypatch.setenv("RUNPOD_POLL_INTERVAL", "0.02")
    with Dispatcher(script) as dispatcher:
        monkeypatch.setenv("RUNPOD_ENDPOINT_BASE_URL", dispatcher.base_url)
        words = ["summarize", "reviews.jsonl", "--llm", "runpod", "--runpod-endpoint", "ep"]
        failed = invoke(*words)
        assert failed.exit_code == 1
        variable = re.search(r"\((RUNPOD_INPUT)=(\w+)\)", said(failed))
        assert variable is not None, failed.output
        assert invoke(*words, "--runpod-input", variable[2]).exit_code == 0
        followed = CliRunner().invoke(build(), words, env={variable[1]: variable[2]})
        assert followed.exit_code == 0, followed.output


@pytest.mark.slow
def test_an_answer_that_is_too_long_may_be_longer_as_the_error_says() -> None:
    padded = {**ANSWER, "overall_summary": "좋다 " * 4000}
    with LocalServer(lambda _: _completion(json.dumps(padded))) as server:
        words = ["summarize", "reviews.jsonl", "--llm", "vllm", "--model", "m", "--llm-url", server.url]
        failed = invoke(*words, "--max-answer", "2000", "--attempts", "1")
        assert failed.exit_code == 1
        hint = re.search(r"max_answer: (--[\w-]+) or (\w+)", said(failed))
        assert hint is not None, failed.output
        assert invoke(*words, hint[1], 1_000_000).exit_code == 0


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("variables", "variable"),
    [
        ({"BATCH_TOKEN_COUNTER": "vllm"}, "BATCH_TOKEN_COUNTER=estimate"),
        ({"BATCH_TOKEN_COUNTER": "guess"}, "give estimate"),
        ({"BATCH_EMBEDDER": "api"}, "BATCH_EMBEDDING_MODEL=text-embedding-3-small"),
        ({"BATCH_SEARCH_BACKEND": "qdrant"}, "QDRANT_URL=http://localhost:6333"),
    ],
)
def test_an_error_of_a_variable_names_one_that_ends_it(
    variables: dict[str, str], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    failed = invoke("summarize", *([] if "QDRANT" in variable else ["reviews.jsonl"]))
    assert failed.exit_code == 2
    assert variable in said(failed)
    name, _, value = variable.rpartition(" ")[-1].partition("=")
    monkeypatch.setenv(*((name, value) if value else ("BATCH_TOKEN_COUNTER", name)))
    settings = BatchSettings(openai_api_key="sk-1")
    assert settings.runner_arguments()
    settings.search()


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "the answer was cut off; raise max_tokens, or ask about less",
            ["max_tokens: --reply-tokens or BATCH_REPLY_TOKENS"],
        ),
        ("StopConditions.max_tokens must be 1", ["max_tokens: --stop-tokens or BATCH_STOP_TOKENS"]),
        ("use RetryPolicy(wait_max=30)", ["wait_max: --llm-wait-max or BATCH_LLM_WAIT_MAX"]),
        (
            "runpod: the job timed out; increase execution_timeout",
            ["execution_timeout: --runpod-execution-timeout or RUNPOD_EXECUTION_TIMEOUT"],
        ),
        ("too long; use a smaller `limit`", ["limit: --limit or BATCH_LIMIT"]),
        ("--reply-tokens is max_tokens", []),
        ("the timeout is over", []),
        ("no such_thing= here, nor limit", []),
        ("a model of api_key= fame", []),
    ],
)
def test_arguments_in_messages_are_options_of_the_command(message: str, expected: list[str]) -> None:
    assert hints([message, message], SUMMARIZE) == expected


def test_an_interrupt_while_the_command_line_is_loaded_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("restaurant_llm_batch.cli._app.build", interrupted)
    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"
