"""No text, however long and odd, costs more than its length."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.support.growth import assert_linear

from restaurant_llm_batch._nlp import korean_stems as korean
from restaurant_llm_batch._nlp.concepts import ConceptLookup
from restaurant_llm_batch._nlp.terms import sentences, terms
from restaurant_llm_batch.backends.offline.llm import OfflineLLM
from restaurant_llm_batch.models import LLMRequest
from restaurant_llm_batch.search.embedders.hashing import HashingEmbedder

LENGTH = 4_000

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
        reviews = [{"id": 1, "content": text}, {"id": 2, "content": "The food was good."}]
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


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
@pytest.mark.slow  # by default test_linear_work.py looks at this reader too
def test_the_work_for_an_endless_text_grows_with_its_length(
    reader: Callable[[str], object], unit: str
) -> None:
    # What follows a run decides how far it is searched back.
    for ends in (("", ""), ("", "x"), ("가", "다")):
        assert_linear(reader, unit, LENGTH, ends)


@pytest.mark.parametrize("unit", ["가", "었", "했었겠", "하해했드림", "음식이너무맛있고"])
@pytest.mark.slow  # by default test_linear_work.py looks at this reader too
def test_the_work_for_an_endless_korean_word_grows_with_its_length(unit: str) -> None:
    assert_linear(lambda word: (korean.stem(word + "다"), LEXICON.concept(word)), unit, LENGTH)


def test_an_endless_compound_still_has_its_concept() -> None:
    for compound in ("나" * 400 + "파스타", "파스타" + "나" * 400, "나" * 200 + "파스타" + "나" * 200):
        concept = LEXICON.concept(compound)
        assert concept is not None
        assert concept.name == "noodle"
    assert LEXICON.concept("나" * 400) is None
