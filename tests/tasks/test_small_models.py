"""Small models: they loop, fill the context, cite what is not there, echo the form. Nothing is paid for twice."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.support.flow_runner import apply

from restaurant_llm_batch import (
    AnalyzeSentiment,
    ExtractVocabulary,
    Hit,
    LLMRequest,
    LLMResponse,
    SummarizeAspects,
    SummarizeReviews,
    errors,
)

TEXTS = [f"좋아요 {n} " * 20 for n in range(8)]
PART = {"summary": "좋다", "bullets": ["하나"], "evidence": [1]}


def search(query: Any) -> list[Hit]:
    return [Hit(f"r{n}", text, 1.0, 1) for n, text in enumerate(TEXTS)]


class Script:
    """Answers with the given replies in turn, then by the schema."""

    def __init__(self, *replies: Any) -> None:
        self.requests: list[LLMRequest] = []
        self._replies = list(replies)

    def __call__(self, request: LLMRequest) -> LLMResponse:
        self.requests.append(request)
        reply = self._replies.pop(0) if self._replies else whole(request)
        if isinstance(reply, LLMResponse):
            return reply
        return LLMResponse(reply if isinstance(reply, str) else json.dumps(reply), model="m")

    @property
    def tasks(self) -> list[str]:
        return [request.task for request in self.requests]


def whole(request: LLMRequest) -> Any:
    match request.task:
        case "aspect_summaries" | "repair":
            return {"categories": dict.fromkeys(request.inputs["reviews"], PART), "overall_summary": "전체"}
        case "aspect_summary":
            return PART
        case "words" | "phrases":
            return {request.task: []}
    assert request.schema is not None
    return dict.fromkeys(request.schema["properties"], "다 좋다")


def cut(text: str, tokens: int) -> LLMResponse:
    return LLMResponse(text, "length", 100, tokens, "m")


LOOP = '{"categories": {"food": {"summary": "' + "It was good. " * 100


@pytest.mark.parametrize("mode", ["single", "split"])
@pytest.mark.parametrize("used", [1500, 116], ids=["loop", "full"])
def test_a_loop_or_a_full_context_gets_fewer_reviews_and_never_more_room(mode: Any, used: int) -> None:
    class Looping(Script):
        def __call__(self, request: LLMRequest) -> LLMResponse:
            self.requests.append(request)
            return cut(LOOP, used)

    model = Looping()
    with pytest.raises(errors.OutputTruncated):
        apply(SummarizeAspects(mode=mode, aspects=("food",)), 1, model, search=search)

    sizes = [len(str(request.messages)) for request in model.requests]
    assert {request.max_tokens for request in model.requests} == {1500}
    assert sizes == sorted(set(sizes), reverse=True)  # each prompt is shorter than the one before
    assert len(sizes) <= 5


def test_fewer_reviews_after_a_loop_may_be_the_answer() -> None:
    model = Script(cut(LOOP, 1500))
    result = apply(SummarizeAspects(), 1, model, search=search)

    assert model.tasks == ["aspect_summaries"] * 2
    assert {part.status for part in result.categories.values()} == {"ok"}


@pytest.mark.parametrize("task", [SummarizeReviews(), ExtractVocabulary()], ids=lambda task: task.name)
def test_other_tasks_give_a_loop_no_more_room_either(task: Any) -> None:
    class Looping(Script):
        def __call__(self, request: LLMRequest) -> LLMResponse:
            self.requests.append(request)
            return cut('{"overall_summary": "' + "맛있고 친절해요. " * 60, request.max_tokens)

    item: Any = {"restaurant_id": 1, "positive_reviews": TEXTS}
    if isinstance(task, ExtractVocabulary):
        item = {"document_id": 1, "chunks": ["가나다 라마바. " * 30]}
    model = Looping()
    with pytest.raises(errors.OutputTruncated):
        apply(task, item, model)

    assert max(request.max_tokens for request in model.requests) <= model.requests[0].max_tokens
    assert len(model.requests) <= 6  # of vocabulary: three for words and three for phrases


def test_of_an_answer_cut_in_its_third_aspect_only_the_rest_is_asked_for() -> None:
    text = json.dumps(
        {"categories": dict.fromkeys(("service", "price", "food"), PART), "overall_summary": "o"}
    )
    model = Script(cut(text[: text.index('"food"') + 20], 1500))
    result = apply(SummarizeAspects(), 1, model, search=search)

    assert model.tasks == ["aspect_summaries", "aspect_summary", "overall_summary"]
    assert model.requests[1].inputs["aspect"] == "food"
    assert model.requests[2].inputs["summaries"] == dict.fromkeys(("service", "price", "food"), "좋다")
    assert {part.status for part in result.categories.values()} == {"ok"}
    assert result.overall_summary == "다 좋다"


def test_a_missing_overall_summary_is_written_from_the_aspects_and_its_failure_leaves_them() -> None:
    without = {"categories": dict.fromkeys(("service", "price", "food"), PART), "overall_summary": "string"}
    written = apply(SummarizeAspects(), 1, Script(without), search=search)
    model = Script(without, {"overall_summary": ""})
    failed = apply(SummarizeAspects(), 1, model, search=search)

    assert (written.overall_summary, written.overall_status, written.overall_error) == ("다 좋다", "ok", None)
    assert (failed.overall_summary, failed.overall_status) == ("", "failed")
    assert failed.overall_error.startswith(
        "OutputInvalid: the answer does not have its form: overall_summary"
    )
    assert {part.status for part in failed.categories.values()} == {"ok"}
    assert model.tasks == ["aspect_summaries", "overall_summary"]


def test_of_a_cut_merged_summary_the_whole_fields_stand() -> None:
    reply = '{"positive_summary": "좋다", "negative_summary": "나쁘다", "overall_summary": "그런'
    model = Script(cut(reply, 500))
    item = {"restaurant_id": 1, "positive_reviews": ["좋아요"], "negative_reviews": ["나빠요"]}
    result = apply(SummarizeReviews(), item, model)

    assert model.tasks == ["review_summary", "merge_summaries"]
    assert (result.positive_summary, result.negative_summary) == ("좋다", "나쁘다")
    assert result.overall_summary == "다 좋다"
    assert "좋아요" not in model.requests[1].messages[1]["content"]


def test_of_a_cut_word_list_only_the_text_behind_it_is_asked_about() -> None:
    chunk = "냉면 국물 고기 " + "반찬 직원 가게 " * 10
    words: list[Any] = [
        {"word": word, "pos": "n", "meanings": []} for word in ("냉면", "국물", "고기", "반찬", "직원")
    ]
    text = json.dumps({"words": words}, ensure_ascii=False)
    model = Script(cut(text[:-30], 1500), {"words": [{"word": "가게", "pos": "n", "meanings": []}]})
    long_before = "서론 " * 20
    result = apply(ExtractVocabulary(), {"document_id": 1, "chunks": [long_before + chunk]}, model)

    assert list(result.words) == ["냉면", "국물", "고기", "반찬", "가게"]
    assert result.failed_chunks == ()
    assert model.tasks == ["words", "words", "phrases"]
    assert model.requests[1].inputs["chunk"].startswith("반찬 직원")


def one_aspect(part: Any) -> Any:
    model = Script({"categories": {"food": part}, "overall_summary": "전체"})
    return apply(SummarizeAspects(aspects=("food",)), 1, model, search=search), model


@pytest.mark.parametrize(
    ("cited", "ranks", "invalid"),
    [
        ([1, 2], [0, 1], 0),
        (["[2]", "3"], [1, 2], 0),
        ([9, 1, 77], [0], 2),
        ([0, 1, 2], [], 3),
        (["0"], [], 1),
        ("1, 3", [0, 2], 0),
        (2, [1], 0),
        ({"1": "국물"}, [0], 0),
        ([{"id": 2}, None, {"text": "x"}], [1], 2),
        (None, [], 0),
        ([], [], 0),
        ({"a": 1.5}, [], 1),
        ("1-3", [0, 1, 2], 0),
        (["1~2", "3"], [0, 1, 2], 0),
        ("1 – 9999999", [], 1),
        ([[1], [2, [3]]], [0, 1, 2], 0),
        (["[1] 국물", "2. 맛있다"], [0, 1], 0),
        (["리뷰 1", "Review 2"], [0, 1], 0),
        ([{"review": "[1]"}, {"index": 2}], [0, 1], 0),
        ("0-2", [], 3),
        ("맛집 1 위", [], 1),
        ([[[[[[1]]]]]], [], 1),
    ],
    ids=str,
)
def test_invented_citations_are_dropped_and_counted_and_never_asked_about(
    cited: Any, ranks: list[int], invalid: int
) -> None:
    result, model = one_aspect({**PART, "evidence": cited})
    part = result.categories["food"]

    assert [evidence.rank for evidence in part.evidence] == ranks
    assert part.invalid_citations == invalid
    assert len(model.requests) == 1
    assert result.without_evidence == (not ranks)


def test_repeated_bullets_are_joined_and_echoes_dropped() -> None:
    bullets = ["맛있다", "- 맛있다.", " 맛있다!", None, "string", "짧은 요점", 7, {"text": "싸다"}, "1. 친절"]
    result, _ = one_aspect({**PART, "bullets": bullets})

    assert result.categories["food"].bullets == ("맛있다", "싸다", "친절")


@pytest.mark.parametrize(
    "summary",
    ["summary", "string", "...", "한 문장 요약", "<summary>", "One sentence.", " ", None, 5, [], {}],
    ids=str,
)
def test_an_echo_of_the_form_is_no_summary_and_the_second_question_names_the_field(summary: Any) -> None:
    result, model = one_aspect({**PART, "summary": summary})

    assert model.tasks == ["aspect_summaries", "repair"]
    assert "categories.food.summary" in model.requests[1].messages[3]["content"]
    assert result.categories["food"].summary == "좋다"


@pytest.mark.parametrize(
    "categories",
    [
        [{"aspect": "food", **PART}, {"aspect": "price", **PART, "summary": "싸다"}],
        [{"food": PART}, {"price": {**PART, "summary": "싸다"}}],
        {"food": [PART], "price": "싸다"},
    ],
    ids=["named", "keyed", "mixed"],
)
def test_lists_in_place_of_objects_are_read(categories: Any) -> None:
    model = Script({"categories": categories, "overall_summary": ["전체", None]})
    result = apply(SummarizeAspects(aspects=("food", "price"), price_rule=False), 1, model, search=search)

    assert [part.summary for part in result.categories.values()] == ["좋다", "싸다"]
    assert result.overall_summary == "전체"
    assert len(model.requests) == 1


@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_labels_of_a_model_that_counts_by_itself_are_never_those_of_a_neighbour(
    first: int, count: int
) -> None:
    truth = ["negative", "positive"] * 8
    model = Script()

    def answer(request: LLMRequest) -> str:
        model.requests.append(request)
        rows = enumerate(request.inputs["reviews"], first)
        return json.dumps({"labels": [{"id": n, "label": truth[int(row["content"])]} for n, row in rows]})

    item = {"restaurant_id": 1, "reviews": [str(n) for n in range(count)]}
    if first == 1:
        result = apply(AnalyzeSentiment(max_rounds=1), item, answer)
        assert [label.label for label in result.labels] == truth[:count]
        assert len(model.requests) == 1
    else:
        with pytest.raises(errors.OutputInvalid, match="was not asked about"):
            apply(AnalyzeSentiment(), item, answer)
        assert len(model.requests) <= 2 * count


def test_halving_a_list_that_is_not_believed_takes_no_round() -> None:
    """A model that counts right in small lists only is believed there, also on the last round."""
    model = Script()

    def answer(request: LLMRequest) -> str:
        model.requests.append(request)
        rows = request.inputs["reviews"]
        shift = int(len(rows) > 2)
        return json.dumps({"labels": [{"id": row["id"] + shift, "label": "positive"} for row in rows]})

    item = {"restaurant_id": 1, "reviews": [str(n) for n in range(8)]}
    result = apply(AnalyzeSentiment(max_rounds=1), item, answer)

    assert (result.positive_count, result.failed_count) == (8, 0)
    assert [len(request.inputs["reviews"]) for request in model.requests] == [8, 4, 2, 2, 4, 2, 2]


@pytest.mark.parametrize("half", ["\\ud83d", "\\ude00"])
def test_half_an_emoji_is_replaced_in_every_task(half: str) -> None:
    text = f"국물이 진해요 {half}"
    part = f'{{"summary": "{text}", "bullets": ["{text}"], "evidence": [1]}}'
    aspects = f'{{"categories": {{"food": {part}}}, "overall_summary": "{text}"}}'
    summaries = ", ".join(
        f'"{name}": "{text}"' for name in ("positive_summary", "negative_summary", "overall_summary")
    )
    words = f'{{"words": [{{"word": "국물{half}", "pos": "n", "meanings": ["{text}"]}}]}}'
    phrases = f'{{"phrases": [{{"phrase": "{text}", "meaning": "{text}"}}]}}'
    labels = f'{{"1": "positive", "2": "{half}"}}'
    half_hit = [Hit("r", "맛 \ud83d", 1.0, 1)]
    results = [
        apply(SummarizeAspects(aspects=("food",)), 1, Script(aspects), search=lambda query: half_hit),
        apply(
            SummarizeReviews(), {"restaurant_id": 1, "positive_reviews": ["a"]}, Script(f"{{{summaries}}}")
        ),
        apply(ExtractVocabulary(), {"document_id": 1, "chunks": ["국물"]}, Script(words, phrases)),
        apply(
            AnalyzeSentiment(),
            {"restaurant_id": 1, "reviews": ["a", "b"]},
            Script(labels, "{}", "{}"),
        ),
    ]

    for result in results:
        str(result).encode()
    assert "\ufffd" in results[0].overall_summary
