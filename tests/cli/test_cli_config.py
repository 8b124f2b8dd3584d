"""The command `config`, and that a run is the same by options, variables and arguments."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from tests.support.patience import PATIENCE
from tests.support.served import SUMMARIES, served

from restaurant_llm_batch import BatchRunner, BatchSettings, LLMRequest, LLMResponse, SummarizeAspects
from restaurant_llm_batch._settings.setting import setting_of
from restaurant_llm_batch.cli._app import build
from restaurant_llm_batch.cli._report import refusals
from restaurant_llm_batch.cli._settings import SECTIONS, SettingOption, option_of, section_of, take_settings
from restaurant_llm_batch.outcomes import LimitChange, RunStats
from restaurant_llm_batch.testing import FakeLLM
from restaurant_llm_batch.testing.server import Faults, FaultServer


def every_command() -> dict[str, click.Command]:
    """Return the commands by their names."""
    group = build()
    context = click.Context(group)
    found = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty working folder and an environment without settings."""
    for name in (*BatchSettings.model_fields, "batch_config"):
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invoke(*words: object) -> Result:
    return CliRunner().invoke(build(), [str(word) for word in words])


def test_it_says_what_holds_and_where_it_comes_from_and_shows_no_key(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("BATCH_PROXY", "http://user:hush@proxy:8080")
    (folder / ".env").write_text("BATCH_LLM_CONCURRENCY=auto\n")
    (folder / "restaurant-llm-batch.toml").write_text('batch_llm_backend = "vllm"\n')
    for words in (["config"], ["config", "--set"], ["config", "--json"]):
        shown = invoke(*words)
        assert shown.exit_code == 0, shown.output
        assert "sk-secret" not in shown.output
        assert "hush" not in shown.output
        for word in (
            "BATCH_LLM_CONCURRENCY",
            ".env",
            "restaurant-llm-batch.toml",
            "environment",
            "http://proxy:8080",
        ):
            assert word in shown.output, (words, word)
    found = json.loads(invoke("config", "--set", "--json").output)
    assert found["OPENAI_API_KEY"] == {"value": "(set)", "from": "environment"}
    assert found["BATCH_LLM_CONCURRENCY"] == {"value": "auto", "from": ".env"}
    assert len(found) == 4


def _held(*variables: str) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads(invoke("config", "--json").output)
    return {name: found[name] for name in variables}


SWITCHES = ("BATCH_SEARCH_ASYNC", "BATCH_RESTAURANT_ASYNC", "LLM_ASYNC")


@pytest.mark.parametrize(
    ("given", "values", "origins"),
    [
        ({}, ["4", True, True, True], ["default of commands", *["BATCH_STAGE"] * 3]),
        ({"BATCH_STAGE": "2"}, ["2", True, False, False], ["environment", *["BATCH_STAGE"] * 3]),
        ({"BATCH_STAGE": "threaded", "LLM_ASYNC": "true"}, ["threaded", True, True, False], None),
        (
            {"BATCH_SEARCH_ASYNC": "true"},
            [None, True, False, False],
            ["default", "environment", "default", "default"],
        ),
        ({"LLM_ASYNC": "false"}, [None, False, False, False], None),
    ],
)
@pytest.mark.sample(2)
def test_config_shows_the_strategy_in_force_and_a_command_uses_it(
    given: dict[str, str],
    values: list[object],
    origins: list[str] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    held = _held("BATCH_STAGE", *SWITCHES)
    assert [one["value"] for one in held.values()] == values
    if origins is not None:
        assert [one["from"] for one in held.values()] == origins
    strategy = take_settings({}).strategy()
    assert [strategy.search_async, strategy.restaurant_async, strategy.llm_async] == values[1:]


@pytest.mark.parametrize(
    ("given", "warned"),
    [
        ({}, False),
        ({"BATCH_SEARCH_ASYNC": "true"}, True),
        ({"LLM_ASYNC": "false"}, True),
        ({"BATCH_SEARCH_ASYNC": "true", "BATCH_RESTAURANT_ASYNC": "false"}, False),
        ({"BATCH_SEARCH_ASYNC": "true", "BATCH_STAGE": "4"}, False),
    ],
)
def test_a_switch_that_makes_items_run_one_by_one_unasked_is_told_of(
    given: dict[str, str],
    warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    take_settings({})
    assert ("items run one by one, because" in caplog.text) is warned


def test_the_help_of_stage_names_the_variables_and_the_default() -> None:
    shown = " ".join(invoke("summarize", "--help").output.split())
    for words in (*SWITCHES, "commands and serve use 4"):
        assert words in shown


@pytest.mark.parametrize("columns", ["20", "80"])
def test_config_in_a_pipe_is_a_line_a_setting_with_its_whole_name(
    columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("MAX_RETRIES", "3")
    lines = invoke("config").output.splitlines()
    for name, field in BatchSettings.model_fields.items():
        (line,) = [one for one in lines if one.startswith(f"  {name.upper()}=")]
        assert line.endswith(str(field.description))
        assert "Secret" in str(field.annotation) or option_of(name) in line
    assert [one for one in lines if one.startswith("MAX_RETRIES is not read: ") and one.endswith("3 here.")]


def test_a_setting_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_STAGE", "nine")
    shown = invoke("config")
    assert shown.exit_code == 2
    assert "BATCH_STAGE='nine'" in shown.output


def test_every_setting_but_keys_is_an_option_of_summarize_and_of_serve() -> None:
    commands = every_command()
    fields = BatchSettings.model_fields
    targets = {name: {place.partition(".")[0] for place in setting_of(fields[name]).sets} for name in fields}
    known = {name for name, field in fields.items() if "Secret" not in str(field.annotation)}
    own = {name for name in known if section_of(name) in ("Tasks", "Service")}
    batches = {"vllm_max_concurrent_batches", "vllm_max_tokens_per_batch", "vllm_max_batch_size"}
    for command, of_tasks, missing in (
        ("summarize", {"summary", "aspects"}, batches),
        (
            "serve",
            {"serve", "summary", "aspects", "reviews", "sentiment", "strengths", "comparison"},
            set[str](),
        ),
    ):
        options = {param.name for param in commands[command].params if isinstance(param, SettingOption)}
        assert options == known - missing - {name for name in own if not targets[name] & of_tasks}, command


def test_every_setting_of_a_task_is_an_option_of_its_command() -> None:
    commands = {
        "summary": "summarize",
        "aspects": "summarize",
        "reviews": "summarize-reviews",
        "sentiment": "sentiment",
        "strengths": "strengths",
        "comparison": "compare",
        "vocabulary": "vocabulary",
        "chunks": "vocabulary",
        "query": "search",
        "serve": "serve",
    }
    options = {name: {param.name for param in command.params} for name, command in every_command().items()}
    for name, field in BatchSettings.model_fields.items():
        if section_of(name) not in ("Tasks", "Service") or "Secret" in str(field.annotation):
            continue
        for target in {place.partition(".")[0] for place in setting_of(field).sets}:
            assert name in options[commands[target]], (name, target)


def test_every_option_is_unlike_the_others_of_its_command_and_under_a_heading() -> None:
    assert {
        setting_of(field).sets[0].partition(".")[0] for field in BatchSettings.model_fields.values()
    } <= set(SECTIONS)
    for command in every_command().values():
        words = [word for param in command.params for word in (*param.opts, *param.secondary_opts)]
        assert len(words) == len(set(words)), command.name
    assert option_of("batch_llm_wait_initial") == "--llm-wait-initial"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (
            ["--llm-concurrency", "many"],
            "'--llm-concurrency': 'many': give a whole number of at least 1, or auto",
        ),
        (["--prices", "1"], "'--prices': '1': give a JSON object of dollars"),
        (["--stop-error-rate", "7"], "'--stop-error-rate': '7': input should be less than or equal to 1"),
        (["--llm-wait-max", "x"], "'--llm-wait-max': 'x': input should be a valid number"),
    ],
)
def test_a_useless_option_is_refused_by_its_own_name(words: list[str], complaint: str) -> None:
    shown = invoke("summarize", *words)
    assert shown.exit_code == 2
    assert complaint in " ".join(shown.output.split())


@pytest.mark.slow
def test_the_same_run_by_options_variables_a_file_python_and_serve_makes_the_same_calls(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    lines = [{"restaurant_id": n, "review_id": n, "content": "맛있어요"} for n in range(12)]
    (folder / "reviews.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    chosen = {
        "batch_llm_backend": "vllm",
        "batch_llm_model": "tiny",
        "batch_llm_concurrency": "3",
        "batch_stage": "4",
    }

    def by_options(url: str) -> None:
        words = [word for name, value in chosen.items() for word in (option_of(name), value)]
        result = invoke("summarize", "reviews.jsonl", *words, "--llm-url", url)
        assert result.exit_code == 0, result.output

    def by_variables(url: str) -> None:
        with monkeypatch.context() as patch:
            for name, value in {**chosen, "batch_llm_url": url}.items():
                patch.setenv(name.upper(), value)
            result = invoke("summarize", "reviews.jsonl")
        assert result.exit_code == 0, result.output

    def by_a_file(url: str) -> None:
        text = "\n".join(
            f"{name} = {json.dumps(value)}" for name, value in {**chosen, "batch_llm_url": url}.items()
        )
        (folder / "restaurant-llm-batch.toml").write_text(text)
        result = invoke("summarize", "reviews.jsonl")
        (folder / "restaurant-llm-batch.toml").unlink()
        assert result.exit_code == 0, result.output

    def in_python(url: str) -> None:
        settings = BatchSettings(**{**chosen, "batch_llm_url": url})
        with BatchRunner.from_settings(settings) as runner:
            runner._plan.search.method.__self__.index_reviews(lines)  # type: ignore[union-attr]
            report = runner.run(SummarizeAspects(language="auto"), range(12))
        assert len(report.results) == 12

    def by_serve(url: str) -> None:
        variables = {name.upper(): value for name, value in {**chosen, "batch_llm_url": url}.items()}
        variables["BATCH_SEARCH_PATH"] = "reviews.jsonl"
        asked = {"restaurants": [{"restaurant_id": n} for n in range(12)]}
        with served("-m", "restaurant_llm_batch", "serve", **variables) as service:
            answered = service.client.post(SUMMARIES, json=asked).json()
            assert len(answered["results"]) == 12, answered
            service.press_ctrl_c()
            service.process.communicate(timeout=PATIENCE)

    prompts = []
    for way in (by_options, by_variables, by_a_file, in_python, by_serve):
        with FaultServer(Faults(latency=0.05)) as server:
            way(server.url)
            counts = server.counts
        assert (counts.peak, counts.answered) == (3, 12), way.__name__
        prompts.append(counts.prompt_tokens)
    assert len(set(prompts)) == 1


def test_the_night_batch_of_the_readme_is_a_command(folder: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    command = next(block for block in readme.split("```console\n")[1:] if "--stop-cost" in block).partition(
        "```"
    )[0]
    (folder / "reviews.jsonl").write_text('{"restaurant_id": 1, "content": "맛있어요"}\n', encoding="utf-8")
    words = shlex.split(command.replace("\\\n", ""))[2:]
    result = invoke(*words)
    assert result.exit_code == 0, result.output
    assert (folder / "run.db").exists()


class Noting(FakeLLM):
    """Notes what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.prompts: list[str] = []

    def complete(self, request: LLMRequest) -> LLMResponse:
        """Answer."""
        self.prompts.append(str(request.messages))
        return super().complete(request)

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        """Answer."""
        return self.complete(request)


@pytest.mark.parametrize(
    "command", ["summarize", "sentiment", "summarize-reviews", "strengths", "compare", "vocabulary"]
)
@pytest.mark.sample(1)
def test_every_command_takes_any_language_and_instructions_of_the_users_own(command: str) -> None:
    llm = Noting()
    words = [command, "--first", "1", "--language", "ja", "--instructions", "절대 욕하지 마세요"]
    result = CliRunner().invoke(build({"noting": lambda _: llm}), words)
    assert result.exit_code in (0, 1), result.output
    assert llm.prompts
    assert all("절대 욕하지 마세요" in prompt for prompt in llm.prompts)
    # Labels are words of a closed list in every language.
    assert command in ("sentiment", "compare") or all("Japanese" in prompt for prompt in llm.prompts)


@pytest.mark.parametrize("language", ["jp", "atuo", "klingon!"])
def test_a_language_that_is_none_is_refused(language: str) -> None:
    result = invoke("summarize", "--language", language)
    assert result.exit_code == 2
    assert "--language" in result.output


def test_help_shows_options_under_headings_and_no_argument_among_them() -> None:
    text = invoke("summarize", "--help").output
    assert [line for line in text.splitlines() if line and not line.startswith(" ") and line.endswith(":")][
        :4
    ] == [
        "Options:",
        "Tasks:",
        "Strategy:",
        "Limits:",
    ]
    assert "\n  [SOURCE]" not in text


@pytest.mark.parametrize(
    ("history", "words"),
    [
        ((), "with --llm-concurrency auto the limit adapts"),
        ((("llm", 8), ("llm", 12)), "it takes about 12 (--llm-concurrency 12)"),
        ((("llm", 8), ("batches", 5)), "8 (--llm-concurrency 8) and 5 (--batch-concurrency 5)"),
    ],
)
def test_after_many_refusals_the_report_says_which_limit_would_have_done(
    history: tuple[tuple[str, int], ...], words: str
) -> None:
    changes = tuple(LimitChange(name, 0.0, limit, "rate_limited") for name, limit in history)
    told = refusals(RunStats(calls={"llm": 100}, rate_limited=40, limit_history=changes))
    assert told.startswith("The service refused 40 calls; ")
    assert words in told


@pytest.mark.slow
def test_a_service_that_refuses_much_is_told_of_in_the_footer(folder: Path) -> None:
    lines = [{"restaurant_id": n, "review_id": n, "content": "맛있어요"} for n in range(12)]
    (folder / "reviews.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    with FaultServer(Faults(latency=0.05, limit=1)) as server:
        words = [
            "--llm",
            "vllm",
            "--llm-url",
            server.url,
            "--llm-concurrency",
            "6",
            "--llm-wait-initial",
            "0.01",
        ]
        result = invoke("summarize", "reviews.jsonl", *words)
    assert "with --llm-concurrency auto" in " ".join(result.output.split())


@pytest.mark.parametrize(
    "command", ["summarize", "sentiment", "summarize-reviews", "strengths", "compare", "vocabulary"]
)
@pytest.mark.sample(1)
def test_a_preview_prints_the_prompts_and_makes_no_call(command: str, folder: Path) -> None:
    llm = Noting()
    words = [command, "--preview", "--instructions", "절대 욕하지 마세요", "--store", "run.db"]
    result = CliRunner().invoke(build({"noting": lambda _: llm}), words)
    assert result.exit_code == 0, result.output
    assert llm.prompts == []
    assert "=== call 1 of" in result.output
    assert "절대 욕하지 마세요" in result.output
    assert not [*folder.iterdir()]


def test_a_preview_is_of_the_first_item_or_of_those_that_are_chosen(folder: Path) -> None:
    lines = [{"restaurant_id": n, "content": f"맛있어요 {n}\x1b[2J"} for n in range(9)]
    (folder / "reviews.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    for words, shown in ((["--first", "3"], "012"), (["--restaurants", "4,7"], "47"), ([], "0")):
        text = invoke("sentiment", "reviews.jsonl", "--preview", *words).output
        assert [n for n in "012345678" if f"맛있어요 {n}" in text] == [*shown]
        assert "\x1b" not in text


def test_a_preview_of_an_own_task_needs_no_key(folder: Path) -> None:
    (folder / "own_preview.py").write_text(
        "from restaurant_llm_batch import LLMRequest\n"
        "from restaurant_llm_batch.steps import complete\n"
        "def dish(item):\n"
        "    reply = yield from complete(LLMRequest('dish', ({'role': 'user', 'content': f'Of {item}'},)))\n"
        "    return reply.text\n"
    )
    (folder / "items.txt").write_text("a\nb\n")
    result = invoke("run", "own_preview:dish", "items.txt", "--preview", "--llm", "runpod")
    assert result.exit_code == 0, result.output
    assert "Of a" in result.output
    assert "Of b" not in result.output
