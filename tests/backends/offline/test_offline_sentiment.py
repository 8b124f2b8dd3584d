"""The offline sentiment reader: right often enough, never upset, the same every time."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.growth import assert_linear

from restaurant_llm_batch._nlp import sentiment_model as sentiment
from restaurant_llm_batch._nlp.sentiment_model import READABLE, SentimentReader

# Rows that had no part in the training; sentiment_heldout.md says where they are from.
HELD_OUT = [
    json.loads(line)
    for line in Path(__file__).with_name("sentiment_heldout.jsonl").read_text(encoding="utf-8").splitlines()
]

PRAISE = [
    "맛있어요",
    "음식이 정말 맛있고 직원분들도 친절해요",
    "가성비 좋고 양이 많아요",
    "또 가고 싶어요",
    "맛이 나쁘지 않아요",
    "인생 맛집 ㅋㅋㅋ 강추합니다",
    "친절해요",
    "Delicious!",
    "The food was excellent and our server was wonderful.",
    "No complaints, we loved it.",
    "Not bad at all",
    "맛있어요 very good",
]
COMPLAINT = [
    "맛없어요",
    "안 맛있어요",
    "맛있지 않아요",
    "별로예요",
    "불친절해요",
    "전혀 친절하지 않았어요",
    "비싸기만 하고 맛은 별로",
    "다시는 안 갑니다",
    "Not good at all",
    "The service wasn't good.",
    "The waiter was rude and the food was cold.",
    "I will never come back.",
    "진짜 별로 not good",
]


def rows_of(*sources: str) -> list[dict[str, Any]]:
    return [row for row in HELD_OUT if row["source"] in sources]


def accuracy(rows: Sequence[dict[str, Any]]) -> float:
    reader = SentimentReader()
    right = [row for row in rows if reader.judge(row["content"])[0] == row["label"]]
    return len(right) / len(rows)


def test_it_is_right_about_korean_reviews_that_it_has_not_seen() -> None:
    rows = rows_of("nsmc")

    assert len(rows) == 1000
    assert accuracy(rows) >= 0.82


def test_it_is_right_about_english_reviews_that_it_has_not_seen() -> None:
    rows = rows_of("cebab", "cebab-aspects")

    assert len(rows) > 350
    assert accuracy(rows) >= 0.9


def test_it_is_right_about_most_english_sentences_with_a_mixed_message() -> None:
    assert accuracy(rows_of("mams")) >= 0.7


def test_it_is_seldom_neutral() -> None:
    reader = SentimentReader()

    labels = [reader.judge(row["content"])[0] for row in HELD_OUT]

    assert 0 < labels.count("neutral") / len(labels) < 0.03


@pytest.mark.parametrize("text", PRAISE)
def test_clear_praise_is_positive(text: str) -> None:
    label, score = SentimentReader().judge(text)

    assert label == "positive"
    assert 0 < score <= 1


@pytest.mark.parametrize("text", COMPLAINT)
def test_a_clear_complaint_is_negative(text: str) -> None:
    label, score = SentimentReader().judge(text)

    assert label == "negative"
    assert -1 <= score < 0


@pytest.mark.parametrize("text", ["맛있어요", "The food was excellent."])
def test_case_white_space_and_composition_change_nothing(text: str) -> None:
    reader = SentimentReader()

    other = "\n\t " + unicodedata.normalize("NFD", text).upper().replace(" ", " \u3000\r\n") + "  "
    assert reader.judge(other) == reader.judge(text)


@pytest.mark.parametrize(
    "text", ["", " \n\t", "\u3000", "👍👍🔥", "10/10", "!!!", "★★★★★", "\x00\x07\u202e", "美味しい", "\ud83d"]
)
def test_a_text_without_a_letter_that_it_reads_is_neutral(text: str) -> None:
    assert SentimentReader().judge(text) == ("neutral", 0.0)


def test_a_text_that_says_nothing_it_knows_scores_nothing() -> None:
    label, score = SentimentReader().judge("x")

    assert (label, abs(score) < 0.02) == ("neutral", True)


@pytest.mark.parametrize(
    "text",
    [
        "\x00맛있어요\x1b[31m\u202e",
        "\ud83d 맛있어요 \udc4d",
        "맛있어요 👍🏽👩\u200d👩\u200d👧",
        "맛있어요" + "\u0301" * 50,
        "맛있어요 " + "".join(map(chr, range(0x300, 0x340))),
    ],
)
def test_what_cannot_be_read_does_not_hide_what_can(text: str) -> None:
    assert SentimentReader().judge(text)[0] == "positive"


@given(st.text(st.characters(), max_size=300))
def test_any_text_gets_an_answer_and_always_the_same(text: str) -> None:
    label, score = SentimentReader().judge(text)

    assert -1 <= score <= 1
    assert label == "neutral" or (label == "positive") == (score > 0)
    assert SentimentReader().judge(text) == (label, score)


@pytest.mark.parametrize(
    "unit", ["a", "가", " ", "\u0301", "a\u0301\u0323", "\ud800", "ㅋ", "맛있어요 ", "가a", "👍"]
)
@pytest.mark.sample(5)
def test_an_endless_text_costs_no_more_than_its_beginning(unit: str) -> None:
    reader, text = SentimentReader(), unit * (1_000_000 // len(unit))

    assert reader.judge(text) == reader.judge(text[:READABLE])
    assert_linear(reader.judge, unit, READABLE)


def test_threads_that_start_together_get_the_answers_of_one() -> None:
    texts = [row["content"] for row in HELD_OUT[:200]]
    alone = [SentimentReader().judge(text) for text in texts]
    sentiment._weights.cache_clear()
    reader = SentimentReader()

    with ThreadPoolExecutor(8) as pool:
        rounds = list(pool.map(lambda _: [reader.judge(text) for text in texts], range(8)))

    assert all(answers == alone for answers in rounds)


@pytest.mark.slow
def test_the_answer_does_not_depend_on_the_process() -> None:
    text = "The food was fine, 서비스는 별로"
    code = (
        "from restaurant_llm_batch._nlp.sentiment_model import SentimentReader;"
        f"print(repr(SentimentReader().judge({text!r})))"
    )

    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", code],
        env={"PYTHONHASHSEED": str(random.randrange(1, 1000))},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == repr(SentimentReader().judge(text))


@pytest.mark.slow
def test_the_weights_are_small_and_load_no_numpy() -> None:
    data = files("restaurant_llm_batch") / "data"
    sizes = [len(f.read_bytes()) for f in data.iterdir() if f.name.startswith("sentiment")]
    code = (
        "import sys;from restaurant_llm_batch._nlp.sentiment_model import SentimentReader;"
        "SentimentReader().judge('맛있어요');print('numpy' in sys.modules)"
    )

    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", code], capture_output=True, text=True, check=True
    )

    assert len(sizes) == 3
    assert sum(sizes) <= 2 * 1024 * 1024
    assert done.stdout.strip() == "False"


def test_the_held_out_rows_have_their_origin_beside_them() -> None:
    note = Path(__file__).with_name("sentiment_heldout.md").read_text(encoding="utf-8")

    assert {row["source"] for row in HELD_OUT} == {"nsmc", "cebab", "cebab-aspects", "mams"}
    assert all(name in note for name in ("NSMC", "CC0", "CEBaB", "CC BY 4.0", "MAMS", "Apache-2.0"))


def test_its_repr_is_short() -> None:
    assert repr(SentimentReader()) == "SentimentReader()"
