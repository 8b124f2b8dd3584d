"""Every task of the offline model: no text, however long and odd, costs more than its length."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.examples import examples
from tests.support.growth import assert_linear

from restaurant_llm_batch._nlp import english_words, korean_words
from restaurant_llm_batch.backends.offline.llm import OfflineLLM
from restaurant_llm_batch.models import LLMRequest

LLM = OfflineLLM()
LENGTH = 4_000
UNITS = {
    "one syllable": "가",
    "no spaces": "음식이너무맛있고직원도친절했어요",
    "Korean words": "국물이 진하고 좋은 ",
    "repeated": "good ",
    "a phrase": "great pasta ",
    "links": "and of the ",
    "hyphens": "a-",
    "apostrophes": "a'",
    "하다": "하해했드림",
    "말이": "말이볶이구이",
    "dots": ".",
    "letters": "a",
    "accents": "e\u0301\u0316",
    "jamo": "\u1100\u1161",
    "digits": "1",
    "blanks": " ",
    "emoji": "😋\u200d",
    "aspect phrases": "이 가격에 ",
    "negations": "안 not 않 ",
    "frames": "다고 해서 갔는데 ",
    "irony": "참 빨리도 나오네요 ",
    "conditions": "으면 if you could be ",
}
TEXTS = st.text() | st.sampled_from(
    [
        "맛\x00있어요 \ud800 good\u202e food\r\n\x1b[31m끝",
        "The pasta was great. Great pasta!",
        "국물이 진하고 직원이 친절해요",
        "서비스 최악... 다시는 안 가요",
        "\u1100\u1161\u11a8 맛",
    ]
)


def request(task: str, language: str = "en", **inputs: Any) -> LLMRequest:
    return LLMRequest(task, (), inputs={"restaurant_id": 1, "language": language, **inputs})


def about(text: str, language: str = "en") -> list[LLMRequest]:
    """Every task that reads reviews as a whole or a chunk, about one text."""
    kinds = [{"id": n, "content": text, "kind": kind} for n, kind in enumerate(("positive", "negative"))]
    parts = [{"positive_summary": text, "overall_summary": text[::-1]}, {"positive_summary": text + "!"}]
    return [
        request("review_summary", language, reviews=kinds),
        request("comparison_summary", language, reviews=kinds),
        request("strength", language, comparison_summary=text, reviews=kinds),
        request("merge_summaries", language, summaries=parts),
        request("words", language, chunk=text),
        request("phrases", language, chunk=text),
    ]


def shipped() -> list[str]:
    text = files("restaurant_llm_batch").joinpath("data/sample_reviews.jsonl").read_text("utf-8")
    rows = [json.loads(line) for line in text.splitlines()][:8]
    return ["\n".join(one["content"] for one in row["reviews"]) for row in rows]


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
@pytest.mark.slow  # by default test_linear_work.py looks at this reader too
def test_the_work_for_an_endless_text_grows_with_its_length(unit: str) -> None:
    for number in range(len(about(""))):

        def work(text: str, number: int = number) -> None:
            LLM.complete(about(text)[number])

        for ends in (("", ""), ("가", "다")):
            assert_linear(work, unit, LENGTH, ends)


@pytest.mark.parametrize("unit", ["가", "하", "었", "말이", "습니다", "긴진"])
@pytest.mark.sample(2)
def test_an_endless_word_is_left_out(unit: str) -> None:
    assert korean_words.read(unit * LENGTH)[1] is None
    assert english_words.read("a" * LENGTH, "")[1] is None
    assert_linear(korean_words.read, unit, LENGTH)
    assert_linear(lambda word: english_words.read(word, ""), "a", LENGTH)


@pytest.mark.slow
@settings(max_examples=examples(150), deadline=None)
@given(TEXTS, st.sampled_from(["ko", "en", ""]))
def test_any_text_gives_clean_answers_of_the_right_shape(text: str, language: str) -> None:
    def strings(value: Any) -> list[str]:
        if isinstance(value, str):
            return [value]
        inner = value.values() if isinstance(value, Mapping) else value
        return [text for one in inner for text in strings(one)]

    for asked in about(text, language):
        reply = LLM.complete(asked).text
        assert reply.encode("utf-8")
        assert not any(
            unicodedata.category(c) in ("Cc", "Cs") for text in strings(json.loads(reply)) for c in text
        )
    found = json.loads(LLM.complete(about(text, language)[4]).text)["words"]
    assert all(word["word"] and word["pos"] in ("n", "v", "adj", "adv") for word in found)
    found = json.loads(LLM.complete(about(text, language)[5]).text)["phrases"]
    assert all(phrase["phrase"] in phrase["meaning"] for phrase in found)


@pytest.mark.slow
def test_many_threads_get_the_answers_that_one_gets() -> None:
    asked = [one for text in shipped() for one in about(text)]
    alone = [OfflineLLM().complete(one).text for one in asked]
    fresh = OfflineLLM()
    with ThreadPoolExecutor(8) as pool:
        assert [reply.text for reply in pool.map(fresh.complete, asked * 3)] == alone * 3


@pytest.mark.slow  # test_offline_hostile.py tries the seed by default
def test_neither_the_seed_of_the_hashes_nor_earlier_requests_change_an_answer() -> None:
    script = (
        "import json, sys\n"
        "from restaurant_llm_batch.backends.offline.llm import OfflineLLM\n"
        "from restaurant_llm_batch.models import LLMRequest\n"
        "llm = OfflineLLM()\n"
        "for task, inputs in json.load(sys.stdin):\n"
        "    print(json.dumps(llm.complete(LLMRequest(task, (), inputs=inputs)).text))\n"
        "assert not any(name.endswith('_nlp.sentiment_model') for name in sys.modules)\n"
    )
    asked = [one for text in shipped() for one in about(text)]
    expected = [OfflineLLM().complete(one).text for one in asked]
    for seed in ("0", "4242"):
        done = subprocess.run(
            [sys.executable, "-c", script],
            input=json.dumps([(one.task, dict(one.inputs)) for one in reversed(asked)]),
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert [json.loads(line) for line in reversed(done.stdout.splitlines())] == expected


@pytest.mark.anyio
async def test_the_awaited_answer_is_the_same() -> None:
    for asked in about("The pasta was great. 국물이 진하고 좋아요"):
        assert await LLM.acomplete(asked) == LLM.complete(asked)
