"""No text, however long and odd, costs more than its length."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from restaurant_llm_batch._nlp import korean_stems as korean
from restaurant_llm_batch._nlp.concepts import ConceptLookup
from restaurant_llm_batch._nlp.terms import sentences, terms
from restaurant_llm_batch.backends.offline.llm import OfflineLLM
from restaurant_llm_batch.models import LLMRequest
from restaurant_llm_batch.search.embedders.hashing import HashingEmbedder

LONG, LONGER = 10_000, 100_000
BOUND = 3.0
"""
Seconds of this thread's own time. Most take 0.1 and none more than 0.8; a cost that is the length squared takes 10
or more.
"""

UNITS = {
    "one syllable": "가",
    "no spaces": "음식이너무맛있고직원도친절했어요",
    "pasts": "었",
    "guesses": "했었겠",
    "하다": "하해했드림",
    "dots": ".",
    "tildes": "~",
    "quotes": '."',
    "abbreviations": "e.g. a. ",
    "emoji": "😋",
    "emoji apart": "😋 ",
    "laughter": "ㅋㅋ\n",
    "aaaa": "a",
    "words": "it. not food, ",
    "digits": "1",
    "numbers": "1,",
    "mixed": "가a1.😋,\u200d 맛 ",
    "joiners": "\u200d",
    "joined emoji": "😋\u200d",
    "accents": "\u0301\u0316",
    "jamo": "\u1100\u1161",
    "Han": "漢",
    "blanks": " ",
    "lines": "\r\n",
    "dashes": "-",
}
EMBEDDER, LLM, LEXICON = HashingEmbedder(), OfflineLLM(), ConceptLookup()


def summarise(text: str) -> None:
    for language in ("ko", "en"):
        reviews = [{"content": text}, {"content": "The food was good."}]
        inputs = {"language": language, "aspect": "food", "reviews": reviews}
        LLM.complete(LLMRequest("aspect_summary", (), inputs=inputs))
        LLM.complete(LLMRequest("overall_summary", (), inputs={"summaries": {"food": text}}))


def embed(text: str) -> None:
    EMBEDDER.embed_documents([text])
    EMBEDDER.embed_query(text)


READERS: dict[str, Callable[[str], object]] = {
    "terms": terms,
    "sentences": sentences,
    "embedder": embed,
    "offline": summarise,
}


def seconds(call: Callable[[str], object], text: str) -> float:
    start = time.thread_time()
    call(text)
    return time.thread_time() - start


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.sample(8)
def test_an_endless_text_is_read_in_no_time(reader: Callable[[str], object], unit: str) -> None:
    for length in (LONG, LONGER):
        text = (unit * length)[:length]
        # What follows a run decides how far it is searched back.
        assert sum(seconds(reader, one) for one in (text, text + "x", "가" + text + "다")) < BOUND


@pytest.mark.parametrize("unit", ["가", "었", "했었겠", "하해했드림", "음식이너무맛있고"])
def test_an_endless_korean_word_is_read_in_no_time(unit: str) -> None:
    word = (unit * LONGER)[:LONGER]
    assert seconds(korean.stem, word + "다") + seconds(LEXICON.concept, word) < BOUND


def test_an_endless_compound_still_has_its_concept() -> None:
    for compound in ("나" * 400 + "파스타", "파스타" + "나" * 400, "나" * 200 + "파스타" + "나" * 200):
        concept = LEXICON.concept(compound)
        assert concept is not None
        assert concept.name == "noodle"
    assert LEXICON.concept("나" * 400) is None
