"""What the offline model says about reviews as a whole, and about parts of such answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import pytest

from restaurant_llm_batch._nlp.lexicon import WordAnalyzer
from restaurant_llm_batch.backends.offline._clauses import read_review, split
from restaurant_llm_batch.backends.offline.llm import OfflineLLM
from restaurant_llm_batch.models import LLMRequest

LLM = OfflineLLM()
NO_STRENGTH = {
    "ko": "비교 대상보다 뚜렷이 나은 점을 리뷰에서 찾지 못했습니다.",
    "en": "The reviews name nothing that stands out against the others.",
}
LIKED = (
    "The pasta was delicious and fresh. We came on a Monday.",
    "Delicious pasta! The waiter was friendly.",
    "Wonderful food, but the music was too loud.",
)
BLAMED = ("The service was terrible and slow.", "Slow service. Our soup was cold.")


def ask(task: str, language: str = "en", **inputs: Any) -> Any:
    reply = LLM.complete(LLMRequest(task, (), inputs={"restaurant_id": 1, "language": language, **inputs}))
    assert (reply.model, reply.prompt_tokens, reply.completion_tokens) == ("offline-extractive", 0, 0)
    return json.loads(reply.text)


def shown(*contents: str) -> list[dict[str, Any]]:
    return [{"id": number, "content": content} for number, content in enumerate(contents)]


def summary(liked: Sequence[str], blamed: Sequence[str], language: str = "en") -> Any:
    kinds = [("positive", text) for text in liked] + [("negative", text) for text in blamed]
    reviews = [{"id": n, "content": text, "kind": kind} for n, (kind, text) in enumerate(kinds)]
    return ask("review_summary", language, reviews=reviews)


def compared(*contents: str, language: str = "en") -> str:
    answer = ask("comparison_summary", language, reviews=shown(*contents))
    assert list(answer) == ["comparison_summary"]
    return str(answer["comparison_summary"])


def strength(summary: str, *contents: str, language: str = "en") -> str:
    answer = ask("strength", language, comparison_summary=summary, reviews=shown(*contents))
    assert list(answer) == ["target_restaurant_strength"]
    return str(answer["target_restaurant_strength"])


def merged(*parts: Mapping[str, str], language: str = "en") -> Any:
    return ask("merge_summaries", language, summaries=[dict(part) for part in parts])


def plain(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum())


def sample() -> list[tuple[str, list[str], list[str]]]:
    """The shipped restaurants: language, reviews that praise and reviews that do not."""
    text = files("restaurant_llm_batch").joinpath("data/sample_reviews.jsonl").read_text("utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return [
        (
            "ko" if str(row["restaurant_id"]).startswith("ko") else "en",
            [one["content"] for one in row["reviews"] if (one.get("rating") or 0) > 3],
            [one["content"] for one in row["reviews"] if (one.get("rating") or 0) <= 3],
        )
        for row in rows
    ]


class TestReviewSummary:
    def test_it_has_three_texts_in_their_order(self) -> None:
        got = summary(LIKED, BLAMED)
        assert list(got) == ["positive_summary", "negative_summary", "overall_summary"]
        assert all(got.values())

    @pytest.mark.parametrize(
        ("liked", "blamed", "empty"),
        [(LIKED, (), "negative_summary"), ((), BLAMED, "positive_summary")],
    )
    def test_a_kind_without_reviews_has_no_summary(
        self, liked: Sequence[str], blamed: Sequence[str], empty: str
    ) -> None:
        got = summary(liked, blamed)
        assert [key for key, text in got.items() if not text] == [empty]

    def test_without_reviews_there_is_no_text(self) -> None:
        got = summary((), ())
        assert set(got.values()) == {""}

    def test_each_kind_is_summarised_from_its_own_reviews(self) -> None:
        for language, liked, blamed in sample():
            got = summary(liked, blamed, language)
            for key, contents in (("positive_summary", liked), ("negative_summary", blamed)):
                whole = [plain(text) for text in contents]
                assert bool(got[key]) == bool(contents)
                for sentence in split(got[key]):
                    assert any(plain(sentence) in text for text in whole), sentence

    def test_sentences_that_share_the_opinion_of_the_kind_go_before_others(self) -> None:
        got = summary(LIKED, BLAMED)
        assert got["positive_summary"] == ("The pasta was delicious and fresh. The waiter was friendly.")
        assert "Slow service" in got["negative_summary"] or "terrible" in got["negative_summary"]
        mixed = ("The food was great but the service was rude.", "Rude waiter, bad attitude.")
        assert "great" not in summary((), mixed)["negative_summary"].split(".")[0]

    def test_what_says_nothing_of_restaurants_is_summarised_as_well(self) -> None:
        got = summary(("연기가 좋아서 두 번 봤어요.", "배우들 연기가 최고"), (), "ko")
        assert "연기" in got["positive_summary"]

    def test_overall_both_sides_speak_and_the_one_with_more_reviews_first(self) -> None:
        for liked, blamed in ((LIKED, BLAMED[:1]), (LIKED[:1], BLAMED)):
            got = summary(liked, blamed)
            first, second = got["positive_summary"], got["negative_summary"]
            if len(blamed) > len(liked):
                first, second = second, first
            assert got["overall_summary"].startswith(first.split(".")[0])
            assert second.split(".")[0] in got["overall_summary"]

    def test_no_summary_is_longer_than_three_sentences(self) -> None:
        liked = [
            f"The {dish} was good." for dish in ("soup", "steak", "wine", "cake", "view", "price", "waiter")
        ]
        got = summary(liked, [text.replace("good", "bad") for text in liked])
        assert [text.count(".") for text in got.values()] == [3, 3, 3]

    def test_an_unknown_kind_changes_nothing(self) -> None:
        reviews = [{"id": 0, "content": LIKED[0], "kind": "positive"}]
        odd = [*reviews, {"id": 1, "content": "Bad.", "kind": "odd"}, {"id": 2, "content": "Bad."}]
        assert ask("review_summary", reviews=odd) == ask("review_summary", reviews=reviews)


class TestComparisonSummary:
    def test_it_speaks_of_what_most_reviews_speak_of(self) -> None:
        reviews = ("The service was slow.", "Slow service again.", "Terrible service.", "Nice view.")
        assert "service" in compared(*reviews).split(".")[0]

    def test_the_opinion_of_most_comes_through(self) -> None:
        text = compared("The food was great.", "The food was bland.", "Bland food.", "Boring, bland food.")
        assert "bland" in text.lower().split(".")[0]

    def test_korean_reviews_give_korean_sentences(self) -> None:
        text = compared("직원이 친절해요", "Friendly staff.", "직원분들 친절하시고 좋았어요", language="ko")
        assert "친절" in text.split(".")[0]

    def test_without_reviews_it_is_empty_and_of_invisible_ones_it_says_nothing(self) -> None:
        assert compared() == ""
        assert compared("", "\u2060\u200d") == "…"
        assert summary(("\u2060",), ())["overall_summary"] == "…"
        assert merged({"comparison_summary": "…"}, {"comparison_summary": "Good soup."}) == {
            "comparison_summary": "Good soup."
        }


class TestStrength:
    def test_what_the_others_are_praised_for_as_well_is_no_strength(self) -> None:
        target = ("The food was great.", "Great food!", "A romantic garden with a lovely view.")
        assert strength("The food was excellent.", *target) == "A romantic garden with a lovely view."

    def test_what_the_others_are_blamed_for_is_one(self) -> None:
        target = ("The waiter was friendly.", "Friendly staff.")
        assert "friendly" in strength("The service was rude and slow.", *target).lower()

    def test_without_a_comparison_what_is_praised_most_comes_first(self) -> None:
        target = ("The steak was great.", "Great steak.", "Excellent steak!", "Friendly waiter.")
        assert "steak" in strength("", *target).split(".")[0].lower()

    def test_what_most_reviews_of_the_target_blame_is_no_strength(self) -> None:
        target = ("The waiter was friendly.", "The waiter was rude.", "Rude staff.", "Terrible service.")
        assert strength("", *target) == NO_STRENGTH["en"]

    @pytest.mark.parametrize("language", ["ko", "en"])
    def test_where_nothing_is_praised_a_fixed_line_says_so(self, language: str) -> None:
        for target in ((), ("",), ("The soup was cold.", "국물이 밍밍해요", "We came on a Monday.")):
            assert strength("", *target, language=language) == NO_STRENGTH[language]

    def test_complaints_are_never_passed_off_as_strengths(self) -> None:
        for language, _, blamed in sample():
            text = strength("", *blamed, language=language).lower()
            assert not any(word in text for word in ("terrible", "horrible", "worst", "최악", "불친절"))

    def test_it_is_verbatim_in_the_reviews(self) -> None:
        for language, liked, blamed in sample():
            text = strength("", *liked, *blamed, language=language)
            whole = [plain(content) for content in (*liked, *blamed)]
            for sentence in split(text) if text != NO_STRENGTH[language] else ():
                assert any(plain(sentence) in content for content in whole), sentence


class TestMergeSummaries:
    def test_one_part_stays_as_it_is(self) -> None:
        for part in (
            summary(LIKED, BLAMED),
            summary(LIKED, ()),
            {"comparison_summary": compared(*LIKED)},
            {"target_restaurant_strength": strength("", *LIKED)},
        ):
            assert merged(part) == merged(part, part) == part

    def test_an_empty_side_stays_empty(self) -> None:
        got = merged(summary(LIKED, ()), summary(LIKED[:1], ()))
        assert got["negative_summary"] == ""
        assert got["positive_summary"]

    def test_sentences_of_all_parts_may_come_and_no_others(self) -> None:
        parts = [{"comparison_summary": text} for text in ("Great food.", "Slow service.", "Nice view.")]
        got = merged(*parts)["comparison_summary"]
        assert sorted(got.removesuffix(".").split(". ")) == ["Great food", "Nice view", "Slow service"]

    def test_overall_both_sides_stay_however_many_parts_there_are(self) -> None:
        parts = [summary(LIKED, BLAMED[:1])] * 6
        got = merged(*parts)["overall_summary"]
        assert "delicious" in got
        assert "terrible" in got

    def test_a_fixed_line_goes_where_there_is_anything_else(self) -> None:
        key, line = "target_restaurant_strength", NO_STRENGTH["en"]
        assert merged({key: line}, {key: "A lovely view."}) == {key: "A lovely view."}
        assert merged({key: line}, {key: line}) == {key: line}
        assert merged({key: ""}, {key: ""}) == {key: ""}
        assert merged() == {}

    def test_it_ends_with_three_sentences_at_most(self) -> None:
        parts = [{"comparison_summary": f"Word{n} other{n} third{n}."} for n in "abcdefgh"]
        assert merged(*parts)["comparison_summary"].count(".") <= 3


@pytest.mark.parametrize(
    "text",
    [
        "분위기만 좋으면 뭐하나.",
        "음식은 괜찮았는데 아이랑 가기엔 좀 그렇네요.",
        "예전에는 맛있었는데 지금은 아니에요.",
        "매장이 깨끗하지 못해요.",
        "옆 가게가 훨씬 맛있어요.",
        "Excellent food, friendly waiter, but it lacked ambience.",
        "The soup was delicious if you like salt.",
        "The food could be good if they used less salt.",
    ],
)
def test_what_blames_or_is_taken_back_is_no_strength(text: str) -> None:
    language = "ko" if "가" <= text[0] <= "힣" else "en"
    assert strength("", text, language=language) == NO_STRENGTH[language]


@pytest.mark.parametrize(
    "text", ["잡내가 하나도 없는 국물이에요.", "The waiter never rushed us.", "맛없는 메뉴가 없어요."]
)
def test_praise_by_negation_is_a_strength(text: str) -> None:
    language = "ko" if "가" <= text[0] <= "힣" else "en"
    assert plain(strength("", text, language=language)) == plain(text)


@pytest.mark.parametrize(
    "text",
    [
        "음식이 맛있다고 해서 갔는데 아니었어요",
        "조용할 줄 알았는데 시끄러웠어요",
        "처음에는 친절했는데 갈수록 불친절해져요",
        "I expected the food to be amazing, but it was not.",
        "It used to have the best burgers, not anymore.",
        "If you like bad food and slow service, this is your place.",
    ],
)
def test_a_sentence_whose_halves_turn_each_other_is_quoted_whole_or_not_at_all(text: str) -> None:
    others = [
        "The soup and bread are excellent food.",
        "Excellent soup, excellent bread.",
        "Excellent waiter.",
    ]
    for task in ("food", "service", "ambience"):
        answer = ask("aspect_summary", "", aspect=task, reviews=shown(*others, text))
        for quoted in (answer["summary"], *answer["bullets"]):
            assert plain(quoted) == plain(text) or plain(quoted) not in plain(text), quoted


def test_halves_about_different_aspects_may_be_quoted_apart() -> None:
    text = "음식은 훌륭하지만 직원은 불친절해요"
    answer = ask(
        "aspect_summary", "ko", aspect="service", reviews=shown("직원이 최고예요", "최고의 직원", text)
    )
    assert "직원은 불친절해요" in (answer["summary"], *answer["bullets"])


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("이렇게 나올 줄 몰랐어요 이 가격에", 1),
        ("참 빨리도 나오네요 한 시간이나 걸렸어요", 1),
        ("국물이 맛있어요 직원도 친절해요", 2),
        ("맛있어요. 이 가격에", 2),
    ],
)
def test_an_afterthought_and_irony_belong_to_the_sentence_beside_them(text: str, count: int) -> None:
    assert len(split(text)) == count


@pytest.mark.parametrize(
    "text", ["음식은 평범한데 값이 싸니까", "웨이팅이 길었는데 그땐 매장이 시끄러웠어요"]
)
def test_a_half_that_wants_another_is_not_quoted_alone(text: str) -> None:
    assert [quoted.text for quoted in read_review(text, WordAnalyzer())[0].quotable] == [text]
