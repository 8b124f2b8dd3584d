"""The commands that judge, sum up and compare reviews, and read words in them, run the way people run them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len

from restaurant_llm_batch import LLMRequest, LLMResponse
from restaurant_llm_batch.backends import OfflineLLM
from restaurant_llm_batch.cli._app import build
from restaurant_llm_batch.errors import PermanentBackendError
from restaurant_llm_batch.testing import FakeLLM
from restaurant_llm_batch.tokens.chunking import split_text

COMMANDS = ["sentiment", "summarize-reviews", "strengths", "compare", "vocabulary"]
DONE = {
    "sentiment": "judged",
    "summarize-reviews": "summarised",
    "strengths": "compared",
    "compare": "compared",
    "vocabulary": "read",
}
STAGES = ["1", "2", "3", "4", "threaded"]
REVIEWS: list[dict[str, Any]] = [
    {
        "restaurant_id": 1,
        "name": "Café [red]Nord[/red]",
        "category": "soup",
        "reviews": [
            {"review_id": "a", "content": "The service was friendly and the soup was great.", "rating": 5},
            {"id": 8, "content": "Prices are high, but the food is delicious.\x1b[2J", "rating": 3},
        ],
    },
    {"restaurant_id": 2, "review_id": "b", "content": "맛은 좋은데 가격이 비싸요.", "category": "국밥"},
    {
        "restaurant_id": "ko-1",
        "name": "너울솥국밥",
        "category": "국밥",
        "reviews": [
            {"id": 1, "content": "국물이 진하고 맛있어요. 직원이 친절해요.", "label": "positive"},
            {"id": 2, "content": "너무 짜고 불친절해서 별로였어요.", "is_recommended": False},
        ],
    },
    {"restaurant_id": 0, "name": "Nothing yet", "reviews": []},
    {"restaurant_id": 1, "content": "Terrible, cold and far too expensive.", "rating": 1},
]


@pytest.fixture(autouse=True)
def _piped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Print as into a pipe that is 80 columns wide, and write into a folder that goes away."""
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)


def invoke(*words: str | Path, llm: Callable[[], Any] = OfflineLLM) -> Result:
    return CliRunner().invoke(build({"fake": lambda options: llm()}), [str(word) for word in words])


def run(*words: str | Path, llm: Callable[[], Any] = OfflineLLM) -> list[dict[str, Any]]:
    """Run a command that must succeed, and return the records that it writes."""
    result = invoke(*words, "--output", "out", llm=llm)
    assert result.exit_code == 0, result.output
    return read(Path("out"))


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(*lines: Mapping[str, Any], to: str = "reviews.jsonl") -> Path:
    path = Path(to)
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def flat(text: str) -> str:
    return " ".join(text.split())


def by_id(records: list[dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    return {record.get("restaurant_id", record.get("document_id")): record for record in records}


class Picky(OfflineLLM):
    """Refuses one restaurant for good."""

    def complete(self, request: LLMRequest, /) -> LLMResponse:
        name = request.inputs.get("restaurant_id", request.inputs.get("document_id"))
        if name == "ko-1":
            raise PermanentBackendError("the prompt was refused", status=400)
        return super().complete(request)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.sample(1)
def test_the_sample_is_done_on_a_fresh_machine_without_any_option(command: str) -> None:
    result = invoke(command)
    assert result.exit_code == 0, result.output
    shown = flat(result.stdout)
    what = "documents" if command == "vocabulary" else "restaurants"
    assert "너울솥국밥" in shown
    assert f"40 more {what}" in shown
    assert f"50 of 50 {what} {DONE[command]} in" in shown
    assert "No language model was used" in shown


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.sample(1)
@pytest.mark.slow
def test_every_stage_gives_the_same_results(command: str) -> None:
    path = write(*REVIEWS)
    written = []
    for stage in STAGES:
        records = run(command, path, "--stage", stage)
        written.append(by_id(records))
    assert list(written[0]) == [1, 2, "ko-1", 0]
    assert all(records == written[0] for records in written)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.sample(2)
def test_what_fails_is_named_with_its_cause_and_the_status_is_1(command: str) -> None:
    result = invoke(command, write(*REVIEWS), "--output", "out", llm=Picky)
    assert result.exit_code == 1
    assert (
        f"3 of 4 {'documents' if command == 'vocabulary' else 'restaurants'} {DONE[command]}, 1 failed"
        in (flat(result.stdout))
    )
    [failure] = [record for record in read(Path("out")) if "failure" in record]
    name = "document_id" if command == "vocabulary" else "restaurant_id"
    cause = "PermanentBackendError: the prompt was refused"
    named = {} if command == "vocabulary" else {"name": "너울솥국밥"}
    assert failure == {
        name: "ko-1",
        **named,
        "failure": {"stage": "llm", "error": cause, "attempts": 1},
    }


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.sample(2)
def test_piped_output_fits_and_holds_no_control_codes(
    command: str, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    path = write(*REVIEWS, {"restaurant_id": 3, "content": " "})
    shown = invoke(command, path, llm=Picky).output
    assert "[red]Nord[/red" in shown
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown)
    assert max(map(cell_len, shown.splitlines())) <= columns


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.sample(2)
def test_only_what_is_wanted_is_done(command: str) -> None:
    only = "--documents" if command == "vocabulary" else "--restaurants"
    words = (write(*REVIEWS), only, "ko-1, 2,2,1", "--first", "2", "--stage", "1")
    assert list(by_id(run(command, *words))) == ["ko-1", 2]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.sample(2)
def test_quiet_with_output_prints_nothing(command: str) -> None:
    assert invoke(command, write(*REVIEWS), "-q", "-o", "out").output == ""


@pytest.mark.parametrize(
    ("command", "words", "complaint"),
    [
        ("sentiment", ["missing.jsonl"], "there is no file 'missing.jsonl'"),
        ("sentiment", ["."], "the folder '.' is not an index; make one with"),
        ("summarize-reviews", ["."], "'.' is a folder; this command reads every review"),
        ("compare", ["--averages", "service"], "'service' is not an aspect and a number"),
        ("compare", ["--averages", "service=much"], "'service=much' is not an aspect and a number"),
        ("compare", ["--averages", "service=60"], "above 0 and at most 1 for 'service', got 60.0"),
        (
            "compare",
            ["--aspects", "food", "--averages", "service=0.6"],
            "share above 0 and at most 1 for 'food'",
        ),
        ("sentiment", ["--restaurants", "7"], "there is no restaurant '7' in the shipped sample"),
        ("sentiment", ["--batch-size", "0"], "'0': input should be greater than or equal to 1"),
        ("summarize-reviews", ["."], "name the file of the reviews"),
        ("strengths", ["."], "the folder '.' is not an index"),
        ("strengths", ["--limit", "1001"], "'1001': input should be less than or equal to 1000"),
        ("strengths", ["--query", " "], "words to search for"),
        ("vocabulary", ["missing.txt"], "there is no file 'missing.txt'"),
        ("vocabulary", ["note.txt", "--documents", "x"], "there is no document 'x' in the file"),
        ("vocabulary", ["note.txt", "reviews.jsonl"], "'reviews.jsonl' is not a text file"),
        ("vocabulary", ["reviews.jsonl", "reviews.jsonl"], "or one file of reviews"),
        ("vocabulary", ["latin.txt"], "'latin.txt': not UTF-8 text"),
        ("vocabulary", ["--plan", "D"], "'D' is not one of"),
        ("vocabulary", ["other.txt", "note.txt", "-o", "note.txt"], "'note.txt' is the input file"),
    ],
)
@pytest.mark.sample(2)
def test_wrong_usage_is_explained_with_status_2_and_no_traceback(
    command: str, words: list[str], complaint: str
) -> None:
    write(*REVIEWS)
    for name in ("note.txt", "other.txt"):
        Path(name).write_text("The soup was rich.")
    Path("latin.txt").write_bytes("café".encode("latin-1"))
    result = invoke(command, *words)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""


@pytest.mark.parametrize("command", ["sentiment", "summarize-reviews", "vocabulary"])
def test_a_bad_line_is_named_with_its_number(command: str) -> None:
    result = invoke(command, write(REVIEWS[0], {"restaurant_id": 1, "content": 5}))
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert "line 2: content must be text, got a number" in line


def test_reviews_of_a_restaurant_belong_together_wherever_they_stand() -> None:
    records = run("sentiment", write(*REVIEWS), "--stage", "1")
    assert [record["restaurant_id"] for record in records] == [1, 2, "ko-1", 0]
    labels = by_id(records)[1]["labels"]
    assert [label["review_id"] for label in labels] == ["a", 8, 2]
    assert labels[0] == {"review_id": "a", "label": "positive", "error": None}


def test_sentiment_is_shown_as_numbers_percentages_and_a_bar() -> None:
    shown = invoke("sentiment", write(*REVIEWS)).stdout
    assert re.search(r"█ Positive +▒ Negative +░ Neutral +\n", shown)
    [line] = [line for line in shown.splitlines() if "Café" in line]
    counts = by_id(run("sentiment", write(*REVIEWS)))[1]
    assert f"{counts['positive_count']} {counts['positive_ratio']:>3}%" in line
    assert "█" in line
    assert "▒" in line


def test_reviews_without_a_label_are_counted_where_they_are_and_at_the_end() -> None:
    shown = invoke("sentiment", write(*REVIEWS, {"restaurant_id": 2, "content": " "})).stdout
    assert re.search(r"Neutral +Failed *\n", shown)
    assert re.search(r"\n  2 .* 1  \n", shown)
    assert "1 review got no label (of restaurant 2)." in flat(shown)


def labelled(request: LLMRequest) -> str:
    return json.dumps(
        {"labels": [{"id": one["id"], "label": "neutral"} for one in request.inputs["reviews"]]}
    )


def test_batches_keep_to_what_was_asked_for() -> None:
    contents = [f"{number}: {'the soup was good. ' * 20}" for number in range(12)]
    path = write({"restaurant_id": 1, "reviews": [{"content": content} for content in contents]})

    def batches(*words: str) -> list[int]:
        requests: list[LLMRequest] = []
        run("sentiment", path, *words, llm=lambda: FakeLLM(answer=labelled, requests=requests))
        return [len(request.inputs["reviews"]) for request in requests]

    assert batches() == [12]
    assert batches("--batch-size", "5") == [5, 5, 2]
    smaller = batches("--max-tokens-per-batch", "1200")
    assert len(smaller) > 1
    assert sum(smaller) == 12


@pytest.mark.sample(1)
@pytest.mark.parametrize("command", ["sentiment", "summarize-reviews", "strengths"])
def test_batches_in_flight_keep_to_their_own_limit(command: str) -> None:
    lines = [{"restaurant_id": n, "content": "The soup was good.", "rating": 5} for n in range(8)]

    def answer(request: LLMRequest) -> str:
        fields = "positive_summary", "negative_summary", "overall_summary", "comparison_summary"
        texts = dict.fromkeys((*fields, "target_restaurant_strength"), "good")
        return labelled(request) if request.task == "sentiment" else json.dumps(texts)

    llm = FakeLLM(seconds=0.01, answer=answer)
    run(command, write(*lines), "--batch-concurrency", "2", llm=lambda: llm)
    assert llm.peak == 2


def kinds(*lines: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return which reviews `summarize-reviews` takes for positive, and which for negative."""
    requests: list[LLMRequest] = []
    summaries = {"positive_summary": "a", "negative_summary": "b", "overall_summary": "c"}
    llm = FakeLLM(answer=lambda _: json.dumps(summaries), requests=requests)
    run("summarize-reviews", write(*lines), llm=lambda: llm)
    shown = [review for request in requests for review in request.inputs["reviews"]]
    by_kind = {
        kind: [review["content"] for review in shown if review["kind"] == kind]
        for kind in ("positive", "negative")
    }
    return by_kind["positive"], by_kind["negative"]


def test_a_review_says_in_several_ways_what_kind_it_is() -> None:
    said: list[dict[str, Any]] = [
        {"is_recommended": True},
        {"is_recommended": 0},
        {"label": "positive"},
        {"label": "negative"},
        {"label": "neutral"},
        {"rating": 5},
        {"rating": 4.0},
        {"rating": 3.5},
        {"rating": 3},
        {"rating": 2},
        {"rating": None},
        {},
        {"is_recommended": False, "label": "positive", "rating": 5},
        {"is_recommended": None, "label": "positive", "rating": 1},
    ]
    reviews = [{"content": str(number), **one} for number, one in enumerate(said)]
    assert kinds({"restaurant_id": 1, "reviews": reviews}) == (
        ["0", "2", "5", "6", "13"],
        ["1", "3", "9", "12"],
    )


def test_a_line_may_be_an_item_of_the_task() -> None:
    lines = [
        {"restaurant_id": 1, "name": "Nord", "positive_reviews": ["a", {"content": "b"}]},
        {"restaurant_id": 1, "negative_reviews": ["c"], "positive_reviews": []},
        {"restaurant_id": 1, "content": "d", "rating": 5},
    ]
    assert kinds(*lines) == (["a", "b", "d"], ["c"])
    assert "Nord" in invoke("summarize-reviews", "reviews.jsonl").stdout


def test_reviews_of_no_kind_are_left_out_and_counted() -> None:
    shown = flat(invoke("summarize-reviews", write(*REVIEWS)).stdout)
    assert "2 reviews were left out" in shown
    record = by_id(run("summarize-reviews", write(*REVIEWS)))[1]
    assert (record["positive_count"], record["negative_count"]) == (1, 1)
    assert "The service was friendly" in record["positive_summary"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ({"content": "x"}, 'line 1: nothing says which reviews are positive; for example "is_recommended"'),
        ({"content": "x", "rating": None}, "line 1: nothing says which reviews are positive"),
        ({"reviews": [{"content": "x"}]}, "line 1: nothing says which reviews are positive"),
        ({"content": "x", "rating": 9}, "line 1: rating must be a number from 1 to 5, got 9"),
        ({"content": "x", "rating": True}, "line 1: rating must be a number from 1 to 5, got True"),
        ({"content": "x", "rating": "4"}, "line 1: rating must be a number from 1 to 5, got '4'"),
        ({"reviews": [{"content": "x", "label": "good"}]}, "line 1: reviews[0].label must be"),
        ({"content": "x", "is_recommended": "yes"}, "line 1: is_recommended must be true or false"),
        ({"positive_reviews": "x"}, "line 1: positive_reviews must be a list, got text"),
        ({"positive_reviews": [{"text": "x"}]}, "line 1: positive_reviews[0].content is missing"),
    ],
)
@pytest.mark.sample(2)
def test_a_file_that_does_not_say_what_its_reviews_are_is_reported_how_to(
    line: dict[str, Any], complaint: str
) -> None:
    result = invoke("summarize-reviews", write({"restaurant_id": 1, **line}))
    assert result.exit_code == 2
    [shown] = result.stderr.splitlines()
    assert complaint in shown


def test_restaurants_are_compared_with_others_of_their_kind() -> None:
    records = by_id(run("strengths", write(*REVIEWS)))
    compared = {
        name: {review["restaurant_id"] for review in record["comparison_reviews"]}
        for name, record in records.items()
    }
    assert compared["ko-1"] == {2}
    assert compared[2] == {"ko-1"}
    assert compared[1] == {2, "ko-1"}  # there is no other of its kind
    assert {review["restaurant_id"] for review in records["ko-1"]["target_reviews"]} == {"ko-1"}


def test_strengths_search_for_what_was_asked_and_no_more_than_was_asked() -> None:
    words = ("--query", "soup", "--limit", "1")
    records = by_id(run("strengths", write(*REVIEWS), *words))
    assert [
        review["review_id" if "review_id" in review else "id"] for review in records[1]["target_reviews"]
    ] == ["a"]
    assert all(len(record["comparison_reviews"]) <= 1 for record in records.values())


def test_strengths_are_found_in_a_folder_that_was_indexed() -> None:
    assert invoke("index", write(*REVIEWS), "--into", "index").exit_code == 0
    result = invoke("strengths", "index")
    assert result.exit_code == 0
    assert "3 of 3 restaurants compared" in flat(result.stdout)


def test_text_files_are_a_document_each() -> None:
    Path("a.txt").write_text("The soup was rich. The soup was great.", encoding="utf-8")
    Path("b.MD").write_text("\ufeff국물이 진해요. 직원이 친절했어요.", encoding="utf-8")
    Path("c.txt").write_text("")
    records = by_id(run("vocabulary", "a.txt", "b.MD", "c.txt", "a.txt"))
    assert set(records) == {"a.txt", "b.MD", "c.txt"}
    assert records["a.txt"]["words"]["soup"]["pos"] == "n"
    assert "국물" in records["b.MD"]["words"]
    assert records["c.txt"]["words"] == {}


def test_the_reviews_of_a_restaurant_are_a_document() -> None:
    requests: list[LLMRequest] = []
    llm = FakeLLM(answer=lambda _: '{"words": [], "phrases": []}', requests=requests)
    run("vocabulary", write(*REVIEWS), "--documents", "ko-1", llm=lambda: llm)
    contents = [review["content"] for review in REVIEWS[2]["reviews"]]
    assert [request.inputs["chunk"] for request in requests] == ["\n".join(contents)] * 2


def test_documents_are_cut_into_chunks_of_the_size_that_was_asked_for() -> None:
    Path("a.txt").write_text("The soup was rich, hot and good. " * 40)

    def asked(*words: str) -> list[str]:
        requests: list[LLMRequest] = []
        llm = FakeLLM(answer=lambda _: '{"words": [], "phrases": []}', requests=requests)
        run("vocabulary", "a.txt", "--stage", "1", *words, llm=lambda: llm)
        return [request.task for request in requests]

    assert asked() == ["words", "phrases"]
    several = asked("--chunk-tokens", "100", "--plan", "b")
    assert len(several) > 4
    assert several == sorted(several, reverse=True)  # all words, then all phrases


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("words", "times"), [((), 1), (("--parallel",), 2), (("--parallel", "--max-safe-chunks", "1"), 1)]
)
def test_plan_c_calls_concurrently_where_that_is_safe(words: tuple[str, ...], times: int) -> None:
    text = "The soup was rich, hot and good. " * 12
    Path("a.txt").write_text(text)
    chunks = len(split_text(text, 60))
    assert 1 < chunks <= 4
    llm = FakeLLM(seconds=0.02, answer=lambda _: '{"words": [], "phrases": []}')
    run("vocabulary", "a.txt", "--chunk-tokens", "60", *words, llm=lambda: llm)
    assert (llm.calls, llm.peak) == (2 * chunks, times * chunks)


def test_chunks_that_fail_are_shown_where_they_are_and_at_the_end() -> None:
    Path("a.txt").write_text("The soup was rich.")

    class NoPhrases(OfflineLLM):
        def complete(self, request: LLMRequest, /) -> LLMResponse:
            if request.task == "phrases":
                raise PermanentBackendError("the prompt was refused", status=400)
            return super().complete(request)

    result = invoke("vocabulary", "a.txt", llm=NoPhrases)
    assert result.exit_code == 0
    assert "soup(n)" in result.stdout
    assert "failed: phrases of chunk 1: PermanentBackendError: the prompt was refused" in flat(result.stdout)
    assert "1 part of a document failed (of document a.txt)." in flat(result.stdout)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.sample(1)
def test_with_a_store_a_second_run_asks_nothing_and_says_so(command: str) -> None:
    reviews = write(*REVIEWS)
    asked: list[LLMRequest] = []

    class Counting(OfflineLLM):
        def complete(self, request: LLMRequest, /) -> LLMResponse:
            asked.append(request)
            return super().complete(request)

        async def acomplete(self, request: LLMRequest, /) -> LLMResponse:
            return self.complete(request)

    first = run(command, reviews, "--store", "run.db", llm=Counting)
    calls = len(asked)
    again = invoke(command, reviews, "--store", "run.db", "--output", "again", llm=Counting)

    assert calls > 0
    assert len(asked) == calls
    assert by_id(read(Path("again"))) == by_id(first)
    assert "from the store" in flat(again.output)


def test_sentiment_of_an_index_is_that_of_the_reviews_a_search_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert invoke("index", write(*REVIEWS), "--into", "reviews.index").exit_code == 0
    whole = by_id(run("sentiment", Path("reviews.jsonl")))
    found = by_id(run("sentiment", Path("reviews.index")))
    few = by_id(run("sentiment", Path("reviews.index"), "--limit", "1", "--query", "expensive"))
    monkeypatch.setenv("BATCH_SEARCH_PATH", "reviews.index")

    assert found == by_id(run("sentiment"))
    assert {name: record["total_count"] for name, record in found.items()} == {1: 3, 2: 1, "ko-1": 2}
    assert found[1]["negative_count"] == whole[1]["negative_count"]
    assert {name: record["total_count"] for name, record in few.items()} == {1: 1, 2: 1, "ko-1": 1}


def test_compare_shows_a_sentence_for_each_aspect_and_writes_the_numbers() -> None:
    lines = [
        {
            "restaurant_id": n,
            "review_id": f"{n}-{i}",
            "content": text,
            "category": "국밥" if n < 3 else "카페",
        }
        for n, texts in enumerate(
            (["직원이 친절해요"] * 3, ["직원이 친절해요", "직원이 불친절해요"], ["가격이 비싸요"]), 1
        )
        for i, text in enumerate(texts)
    ]
    shown = invoke("compare", write(*lines), "--aspects", "service")
    records = by_id(run("compare", Path("reviews.jsonl"), "--aspects", "service"))

    assert "서비스 만족도는 평균보다 약 100% 높은 편입니다." in flat(shown.stdout)
    assert "cannot be said (0 remarks)" in flat(shown.stdout)
    assert records[1]["aspects"]["service"]["lift_percentage"] == pytest.approx(100)
    assert records[2]["aspects"]["service"]["lift_percentage"] == pytest.approx(-50)
    assert records[3]["display"] == []


def test_compare_with_given_averages_looks_at_no_other_restaurant() -> None:
    requests: list[LLMRequest] = []
    words = ["--averages", "service=0.5,price=0.4", "--restaurants", "ko-1"]
    (record,) = run("compare", write(*REVIEWS), *words, llm=lambda: FakeLLM(requests=requests))

    assert {request.inputs["restaurant_id"] for request in requests} == {"ko-1"}
    assert record["aspects"]["price"]["average"] == 0.4


def test_vocabulary_has_examples_and_synonyms_if_asked() -> None:
    path = write(*REVIEWS)
    plain = by_id(run("vocabulary", path))
    more = by_id(run("vocabulary", path, "--examples", "--synonyms"))
    shown = flat(invoke("vocabulary", path, "--examples").stdout)

    assert set(plain[2]["words"]["맛"]) == {"pos", "meanings"}
    assert more[2]["words"]["맛"]["example"] == "맛은 좋은데 가격이 비싸요."
    assert more[2]["words"]["맛"]["synonyms"] == []
    assert "phrase_examples" in more[2]
    assert "phrase_examples" not in plain[2]
    assert "맛은 좋은데 가격이 비싸요." in shown
