"""The words and phrases that the offline model finds in a text."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest

from restaurant_llm_batch._nlp import english_words, korean_words
from restaurant_llm_batch.backends.offline._clauses import split
from restaurant_llm_batch.backends.offline.llm import OfflineLLM
from restaurant_llm_batch.models import LLMRequest

LLM = OfflineLLM()
CHUNK = (
    "The pasta was great. Great pasta and a friendly waiter! The wine list is long.\n"
    "We ordered the wine list's best wines. Friendly waiters, quickly served pasta.\n"
    "We waited. They wait. Ordering took 30 minutes."
)
KOREAN_CHUNK = (
    "국물이 진하고 고기가 많아요. 국물이 진해서 좋았어요!\n"
    "친절한 직원이 빨리 가져다줬어요. 직원분들이 친절하시고 고기를 추천해주셨어요.\n"
    "국물은 최고, 주문하는 줄이 길어요."
)


def ask(task: str, chunk: str, language: str = "en") -> Any:
    inputs = {"document_id": 1, "language": language, "chunk": chunk}
    reply = LLM.complete(LLMRequest(task, (), inputs=inputs))
    assert (reply.model, reply.prompt_tokens, reply.completion_tokens) == ("offline-extractive", 0, 0)
    return json.loads(reply.text)


def words(chunk: str, language: str = "en") -> dict[str, tuple[str, list[str]]]:
    answer = ask("words", chunk, language)
    assert list(answer) == ["words"]
    assert all(list(word) == ["word", "pos", "meanings"] for word in answer["words"])
    found = {word["word"]: (word["pos"], word["meanings"]) for word in answer["words"]}
    assert len(found) == len(answer["words"])
    return found


def phrases(chunk: str, language: str = "en") -> dict[str, str]:
    answer = ask("phrases", chunk, language)
    assert list(answer) == ["phrases"]
    assert all(list(phrase) == ["phrase", "meaning"] for phrase in answer["phrases"])
    return {phrase["phrase"]: phrase["meaning"] for phrase in answer["phrases"]}


def shipped() -> str:
    text = files("restaurant_llm_batch").joinpath("data/sample_reviews.jsonl").read_text("utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    return "\n".join(one["content"] for row in rows for one in row["reviews"])


class TestWords:
    def test_the_most_frequent_come_first_and_ties_in_the_order_of_the_text(self) -> None:
        assert list(words(CHUNK))[:6] == ["pasta", "wine", "great", "friendly", "waiter", "list"]
        assert list(words(KOREAN_CHUNK, "ko"))[:4] == ["국물", "진하다", "고기", "친절하다"]

    def test_all_forms_of_a_word_are_one(self) -> None:
        found = words(CHUNK)
        assert {"wines", "waiters", "ordered", "ordering", "waited"}.isdisjoint(found)
        assert {"order", "wait", "waiter"} <= found.keys()
        korean = words(KOREAN_CHUNK, "ko")
        assert {"국물", "직원", "고기", "진하다", "추천하다", "길다"} <= korean.keys()

    @pytest.mark.parametrize(
        ("form", "word", "pos"),
        [
            ("음식이", "음식", "n"),
            ("맛이", "맛", "n"),
            ("맛집이에요", "맛집", "n"),
            ("직원분들께서", "직원", "n"),
            ("바나나", "바나나", "n"),
            ("계란말이는", "계란말이", "n"),
            ("주말이", "주말", "n"),
            ("맛있었어요", "맛있다", "adj"),
            ("친절하시고", "친절하다", "adj"),
            ("매웠어요", "맵다", "adj"),
            ("좋은", "좋다", "adj"),
            ("고급스러운", "고급스럽다", "adj"),
            ("재밌어요", "재밌다", "adj"),
            ("좋아하는", "좋아하다", "v"),
            ("기다렸어요", "기다리다", "v"),
            ("주문했는데", "주문하다", "v"),
            ("추천드려요", "추천하다", "v"),
            ("빨리", "빨리", "adv"),
            ("친절히", "친절히", "adv"),
        ],
    )
    def test_korean_forms_tell_the_dictionary_form(self, form: str, word: str, pos: str) -> None:
        reading = korean_words.read(form)[1]
        assert reading is not None
        assert reading[:2] == (word, pos)

    @pytest.mark.parametrize(
        ("form", "word", "pos"),
        [
            ("챙겨", "챙기다", "v"),
            ("앉아", "앉다", "v"),
            ("기다릴", "기다리다", "v"),
            ("웃지도", "웃다", "v"),
            ("비쌀", "비싸다", "adj"),
            ("매울", "맵다", "adj"),
            ("맛있었을", "맛있다", "adj"),
        ],
    )
    def test_a_verb_without_an_ending_of_its_own_is_no_noun(self, form: str, word: str, pos: str) -> None:
        reading = korean_words.read(form)[1]
        assert reading is not None
        assert reading[:2] == (word, pos)

    @pytest.mark.parametrize("form", ["연어", "장어", "굽기", "딸기", "마늘", "화장실", "서울", "얼굴"])
    def test_a_noun_that_looks_like_a_verb_is_a_noun(self, form: str) -> None:
        reading = korean_words.read(form)[1]
        assert reading is not None
        assert reading[:2] == (form, "n")

    @pytest.mark.parametrize(
        "form", ["봤습니다", "이쁘긴했는데", "하나", "그땐", "너무재미있게딸아이랑잘봤어요"]
    )
    def test_korean_forms_that_no_rule_takes_apart_are_left_out(self, form: str) -> None:
        assert korean_words.read(form)[1] is None

    @pytest.mark.parametrize(
        ("form", "before", "word", "pos"),
        [
            ("noodles", "the", "noodle", "n"),
            ("dishes", "", "dish", "n"),
            ("berries", "fresh", "berry", "n"),
            ("fries", "the", "fries", "n"),
            ("ate", "we", "eat", "v"),
            ("arrived", "food", "arrive", "v"),
            ("order", "we", "order", "v"),
            ("hated", "i", "hate", "v"),
            ("stood", "food", "stand", "v"),
            ("looks", "it", "look", "v"),
            ("ruining", "for", "ruin", "v"),
            ("order", "the", "order", "n"),
            ("quickly", "", "quickly", "adv"),
            ("friendly", "the", "friendly", "adj"),
            ("family", "the", "family", "n"),
            ("flavourless", "was", "flavourless", "adj"),
            ("zesty", "very", "zesty", "adj"),
        ],
    )
    def test_english_forms_and_neighbours_tell_the_base_form(
        self, form: str, before: str, word: str, pos: str
    ) -> None:
        reading = english_words.read(form, before)[1]
        assert reading is not None
        assert reading[:2] == (word, pos)

    def test_stop_words_and_counted_units_are_no_words(self) -> None:
        assert {"the", "and", "they", "30"}.isdisjoint(words(CHUNK))
        assert {"분", "정말", "것"}.isdisjoint(words("정말 30분 기다린 것 같아요", "ko"))

    def test_meanings_are_what_the_lexicon_knows_in_the_language_of_the_request(self) -> None:
        assert words(CHUNK)["pasta"] == ("n", ["pasta or noodles"])
        assert words(CHUNK)["friendly"] == ("adj", ["service", "praise"])
        korean = words(KOREAN_CHUNK, "ko")
        assert korean["국물"] == ("n", ["음식"])
        assert korean["친절하다"] == ("adj", ["서비스", "좋은 평가"])
        assert words("국물", "en")["국물"] == ("n", ["food"])

    def test_what_the_lexicon_does_not_know_has_no_meaning(self) -> None:
        assert words("A quaint zither. The zither!")["zither"] == ("n", [])

    def test_at_most_thirty_are_listed_and_those_of_restaurants_go_before_others(self) -> None:
        chunk = " ".join(f"thing{'abcdefghijklmnopqrstuvwxyz'[n % 26] * (1 + n // 26)}." for n in range(60))
        found = words(chunk + " Pasta.")
        assert len(found) == 30
        assert "pasta" in found
        assert len(words(shipped())) == 30

    def test_nothing_has_no_words(self) -> None:
        for chunk in ("", " \n", "😋👍", "1, 2, 3...", "ㅋㅋㅋ", "ああ漢字"):
            assert ask("words", chunk) == {"words": []}
            assert ask("phrases", chunk) == {"phrases": []}


class TestPhrases:
    def test_words_that_stand_together_twice_are_a_phrase(self) -> None:
        assert list(phrases(CHUNK))[:2] == ["friendly waiter", "wine list"]
        assert "국물이 진하고" in phrases(KOREAN_CHUNK, "ko")

    def test_a_longer_phrase_makes_its_parts_needless(self) -> None:
        found = phrases("Mac and cheese here. The mac and cheese! I love mac and cheese balls.")
        assert "Mac and cheese" in found
        assert {"Mac", "and cheese", "mac and"}.isdisjoint(found)

    def test_no_phrase_reaches_over_a_stop_or_a_comma(self) -> None:
        assert phrases("Pasta. List. Pasta, list. Pasta (list) pasta: list") == {}

    def test_a_short_text_gives_adjectives_with_their_nouns(self) -> None:
        assert list(phrases("A rude waiter, but great soup.")) == ["rude waiter", "great soup"]
        assert list(phrases("국물 진짜 진하고 친절한 직원", "ko")) == ["국물 진짜 진하고", "친절한 직원"]

    def test_every_phrase_stands_in_the_sentence_that_it_comes_with(self) -> None:
        long = "We " + "really " * 60 + "liked the great pasta dishes, " + "truly " * 60 + "so."
        for chunk in (CHUNK, KOREAN_CHUNK, shipped(), long):
            whole = split(chunk)
            for phrase, usage in phrases(chunk).items():
                assert phrase in usage
                assert len(phrase.split()) > 1
                assert len(usage) <= 120
                assert any(usage.strip("…") in sentence for sentence in whole)

    def test_at_most_fifteen_are_listed(self) -> None:
        names = "soup steak wine cake view price waiter pasta salad bread cheese music table menu staff beer"
        chunk = " ".join(f"Great {name}. Great {name}." for name in names.split())
        assert len(phrases(chunk)) == 15
