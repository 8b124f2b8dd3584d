from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.support.offline_requests import (
    ASPECTS,
    KOREAN,
    LLM,
    SEQUOIA,
    about,
    about_all,
    answer,
    holds,
    overall,
    plain,
    sample,
)

from restaurant_llm_batch._llm_response import LLMResponse
from restaurant_llm_batch.errors import PermanentBackendError
from restaurant_llm_batch.models import LLMRequest

NOT_MENTIONED = {
    "service": ("서비스를 언급한 리뷰가 거의 없습니다.", "The reviews hardly mention service."),
    "price": ("가격을 언급한 리뷰가 거의 없습니다.", "The reviews hardly mention the price."),
    "food": ("음식을 언급한 리뷰가 거의 없습니다.", "The reviews hardly mention the food."),
    "ambience": ("분위기를 언급한 리뷰가 거의 없습니다.", "The reviews hardly mention the ambience."),
}


class TestShape:
    def test_aspect_summaries_has_one_entry_per_aspect_in_their_order(self) -> None:
        got = answer(about_all({"price": SEQUOIA, "food": SEQUOIA, "kids": SEQUOIA}))
        assert list(got) == ["categories", "overall_summary"]
        assert list(got["categories"]) == ["price", "food", "kids"]
        for part in got["categories"].values():
            assert list(part) == ["summary", "bullets", "evidence"]
            assert part["summary"]
            assert all(isinstance(bullet, str) and bullet for bullet in part["bullets"])

    def test_aspect_summary_is_the_entry_that_aspect_summaries_would_hold(self) -> None:
        together = answer(about_all({"service": SEQUOIA, "food": SEQUOIA}))
        assert answer(about("service", *SEQUOIA)) == together["categories"]["service"]

    def test_overall_summary_is_one_text(self) -> None:
        got = answer(overall({"service": "The service was slow.", "food": "great pasta"}))
        assert got == {"overall_summary": "The service was slow. Great pasta."}

    def test_every_reply_names_the_model_and_counts_no_tokens(self) -> None:
        for request in (about("food", *SEQUOIA), about_all({}), overall({"food": "Good."})):
            reply = LLM.complete(request)
            assert reply == LLMResponse(text=reply.text, model="offline-extractive")
            assert (reply.finish_reason, reply.prompt_tokens, reply.completion_tokens) == ("stop", 0, 0)

    def test_hangul_is_not_escaped(self) -> None:
        assert "국밥" in LLM.complete(about("food", *KOREAN, language="ko")).text

    def test_an_unknown_task_fails_for_good_and_names_the_known_ones(self) -> None:
        with pytest.raises(PermanentBackendError, match="aspect_summaries, aspect_summary") as caught:
            LLM.complete(LLMRequest("translate", (), inputs={"reviews": []}))
        assert caught.value.backend == "offline"
        assert "'translate'" in str(caught.value)


class TestSource:
    @pytest.mark.parametrize("aspect", [*ASPECTS, "ambience"])
    @pytest.mark.sample(1)
    def test_every_summary_is_verbatim_in_the_first_review_of_its_evidence(self, aspect: str) -> None:
        for language, contents in sample():
            got = answer(about(aspect, *contents, language=language))
            if not got["evidence"]:
                assert got["summary"] in NOT_MENTIONED[aspect]
                continue
            first = " ".join(contents[got["evidence"][0] - 1].split())
            assert got["summary"].removesuffix("…") in first
            assert len(got["summary"]) <= 160

    def test_every_bullet_comes_from_a_review_of_the_evidence(self) -> None:
        for language, contents in sample():
            got = answer(about("food", *contents, language=language))
            cited = [contents[number - 1] for number in got["evidence"]]
            for bullet in got["bullets"]:
                assert any(holds(text.lower(), bullet.lower()) for text in cited), bullet

    def test_evidence_is_valid_and_without_repeats(self) -> None:
        for language, contents in sample():
            for part in answer(about_all(dict.fromkeys(ASPECTS, contents), language))["categories"].values():
                assert len(part["evidence"]) == len(set(part["evidence"]))
                assert all(1 <= number <= len(contents) for number in part["evidence"])
                assert len(part["evidence"]) <= 1 + len(part["bullets"]) <= 5

    def test_evidence_counts_in_the_list_of_its_own_aspect(self) -> None:
        reviews = {"service": SEQUOIA, "food": ("Nothing to say.", "The pasta was delicious.")}
        assert answer(about_all(reviews))["categories"]["food"]["evidence"][0] == 2

    def test_a_long_sentence_is_cut_before_a_word(self) -> None:
        long = "The food was " + "wonderfully " * 30 + "good"
        got = answer(about("food", long))["summary"]
        assert got.endswith("wonderfully…")
        assert len(got) <= 160

    def test_nothing_but_task_and_inputs_is_read(self) -> None:
        request = about("food", *SEQUOIA)
        noisy = LLMRequest(
            request.task,
            ({"role": "system", "content": "\x00 ignore the reviews"}, {"nonsense": "x"}),
            schema={"type": "broken"},
            inputs=request.inputs,
            max_tokens=1,
            temperature=9.0,
            priority=-5,
        )
        assert LLM.complete(noisy) == LLM.complete(request)


class TestSense:
    @pytest.mark.parametrize(
        ("aspect", "contents", "number"),
        [
            ("price", SEQUOIA, 2),
            ("ambience", ("The waiter was rude.", "Romantic atmosphere and nice music.", "Good soup."), 1),
            ("price", ("The tables are sticky.", "Great food!", "It came to $ 46 for two."), 2),
            ("food", ("Friendly staff.", "We paid 80 dollars.", "The ravioli was bland."), 2),
            ("service", KOREAN, 3),
            ("price", KOREAN, 2),
            ("food", KOREAN[1:], 3),
            ("가격", KOREAN, 2),
            ("분위기", ("직원이 친절해요", "조명이 은은하고 분위기가 좋아요", "고기가 맛있어요"), 1),
            ("drinks", ("The waiter was rude.", "Good burger.", "The cocktails were great."), 2),
            ("stairs", ("The waiter was rude.", "Mind the stairs with a pram.", "Good burger."), 1),
        ],
    )
    def test_the_summary_is_about_the_aspect_when_any_review_is(
        self, aspect: str, contents: Sequence[str], number: int
    ) -> None:
        assert answer(about(aspect, *contents))["evidence"][0] == number + 1

    def test_where_reviews_differ_both_sides_show(self) -> None:
        likes = ("Friendly waiter.", "Attentive staff.", "Prompt service.", "The server was polite.")
        got = answer(about("service", *likes, "Helpful hostess.", "Our waiter forgot the drinks."))
        assert "Our waiter forgot the drinks" in got["bullets"]
        assert len(got["bullets"]) == 4

    def test_the_summary_takes_the_side_of_most(self) -> None:
        most = ("The service was slow.", "The staff was rude to us.", "Terrible service at lunch.")
        got = answer(about("service", "Friendly and attentive service by a great waiter.", *most))
        assert got["evidence"][0] != 1

    @pytest.mark.parametrize(
        ("praise", "blame"),
        [
            ("The food was not bad at all.", "The food was not good at all."),
            ("불친절 1도 없음", "직원이 친절하지 않아요"),
            ("잡내 하나도 없는 국밥", "맛있지 않은 국밥"),
        ],
    )
    def test_negation_turns_an_opinion_round(self, praise: str, blame: str) -> None:
        from restaurant_llm_batch._nlp.lexicon import WordAnalyzer
        from restaurant_llm_batch.backends.offline._clauses import read_review

        words = WordAnalyzer()
        assert read_review(praise, words)[0].polarity > 0
        assert read_review(blame, words)[0].polarity < 0

    def test_bullets_do_not_repeat_the_summary_or_each_other(self) -> None:
        for language, contents in sample():
            for part in answer(about_all(dict.fromkeys(ASPECTS, contents), language))["categories"].values():
                said = [plain(text).lower() for text in (part["summary"], *part["bullets"])]
                assert not any(a in b for i, b in enumerate(said) for j, a in enumerate(said) if i != j)

    def test_sentences_of_the_asked_language_come_first(self) -> None:
        both = ("The pasta was delicious and fresh.", "파스타가 정말 맛있고 신선해요.")
        assert answer(about("food", *both, language="ko"))["evidence"][0] == 2
        assert answer(about("food", *both, language="en"))["evidence"][0] == 1

    def test_the_overall_summary_joins_what_is_on_topic_in_the_order_of_the_aspects(self) -> None:
        food, service = ("The ravioli was bland.",), ("The waiter was rude.",)
        reviews = {"food": food, "price": ("We came on a Monday.",), "service": service}
        assert answer(about_all(reviews))["overall_summary"] == "The ravioli was bland. The waiter was rude."

    def test_the_overall_summary_says_nothing_twice_and_holds_three_sentences_at_most(self) -> None:
        same = overall({"a": "The food was good.", "b": "The food was good.", "c": "Rude staff."})
        assert answer(same) == {"overall_summary": "The food was good. Rude staff."}
        many = overall({str(n): f"Word{n} other{n} third{n}." for n in "abcdef"})
        assert answer(many)["overall_summary"].count(".") == 3


class TestSentiment:
    def test_every_review_gets_a_label_by_its_id_in_the_order_of_the_request(self) -> None:
        contents = ("Terrible food, rude waiter, never again!", "", "Delicious food and lovely staff!")
        reviews = [
            {"id": number, "content": content} for number, content in zip((7, 3, 5), contents, strict=True)
        ]
        request = LLMRequest(
            "sentiment", (), inputs={"restaurant_id": 1, "language": "en", "reviews": reviews}
        )
        assert answer(request) == {
            "labels": [
                {"id": 7, "label": "negative"},
                {"id": 3, "label": "neutral"},
                {"id": 5, "label": "positive"},
            ]
        }

    def test_without_reviews_there_are_no_labels(self) -> None:
        assert answer(LLMRequest("sentiment", (), inputs={"reviews": []})) == {"labels": []}
