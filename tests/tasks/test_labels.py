"""Labels in a reply: read in every form that models write, and believed only if they can be those of the reviews."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restaurant_llm_batch import LLMResponse, errors
from restaurant_llm_batch.tasks._labels import WrongNumbers, read_label, read_labels, read_number

THREE = {1: "positive", 2: "negative", 3: "neutral"}


def read(answer: Any, count: int = 3, reason: str = "stop") -> dict[int, Any]:
    text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
    return dict(read_labels(LLMResponse(text, reason), count))


ROWS = [{"id": 1, "label": "positive"}, {"id": 2, "label": "negative"}, {"id": 3, "label": "neutral"}]


@pytest.mark.parametrize(
    "answer",
    [
        {"labels": ROWS},
        ROWS,
        {"labels": {"1": "positive", "2": "negative", "3": "neutral"}},
        {"1": "positive", "2": "negative", "3": "neutral"},
        {"labels": {"1": {"label": "positive"}, "2": {"label": "negative"}, "3": {"label": "neutral"}}},
        {"labels": {"[1]": "positive", "review 2": "negative", "3.": "neutral"}},
        [{"1": "positive"}, {"2": "negative"}, {"3": "neutral"}],
        [[1, "positive"], [2, "negative"], [3, "neutral"]],
        {"positive": [1], "negative": [2], "neutral": ["3"]},
        {"answer": {"labels": ROWS}},
        {
            "labels": [
                {"number": "1", "sentiment": "긍정"},
                {"id": "#2", "label": "부정적"},
                {"id": 3.0, "label": "중립"},
            ]
        },
        {"labels": [None, *ROWS, "x", 7, []]},
        "\n".join(json.dumps(row) for row in ROWS),
        str({"labels": ROWS}),
        "Here: {see} " + json.dumps({"labels": ROWS}) + " Done.",
        json.dumps({"labels": ROWS})[:-2] + ",]}",
        "{1: positive, 2: negative, 3: neutral}",
        "1: positive\n2: negative\n3: neutral",
        "[1] 긍정\n[2] 부정\n[3] 중립입니다.",
        "1. **positive**\n2. **negative** (cold)\n3. **neutral**",
        "| id | label |\n|---|---|\n| 1 | positive |\n| 2 | negative |\n| 3 | neutral |",
        "labels:\n  - id: 1\n    label: positive\n  - id: 2\n    label: negative\n  - id: 3\n    label: neutral",
        "id,label\n1,positive\n2,negative\n3,neutral",
        {"labels": "1: positive, 2: negative, 3: neutral"},
        {"labels": ["[1] positive", "[2] negative", "[3] neutral"]},
        json.dumps("1: positive, 2: negative, 3: neutral"),
        "\n".join(json.dumps({"labels": [row]}) for row in ROWS),
        json.dumps({"labels": ROWS[:2]}) + " and " + json.dumps({"labels": ROWS[2:]}),
        'Like {"labels": [{"id": 1, "label": "positive"}]}: ' + json.dumps({"labels": ROWS}),
        {"Labels": [{"ID": row["id"], " Label ": row["label"]} for row in ROWS]},
        {"positive": "1", "negative": 2, "neutral": [{"id": 3}]},
        {"name": "sentiment", "arguments": json.dumps({"labels": ROWS})},
        json.dumps(json.dumps(json.dumps({"labels": ROWS}))),
        json.dumps({"labels": ROWS}).replace('"', '\\"'),
        json.dumps({"labels": ROWS})
        .replace(":", "：")
        .replace(",", "，")
        .replace("{", "｛")
        .replace("}", "｝"),
        "{「labels」: {「1」: 「positive」, 「2」: 「negative」, 「3」: 「neutral」}}",
        json.dumps({"labels": ROWS}).replace(" ", " \0") + "\0",
    ],
)
def test_labels_are_read_in_every_form_that_names_the_numbers(answer: Any) -> None:
    assert read(answer) == THREE


@pytest.mark.parametrize(
    ("word", "label"),
    [
        ("Positive.", "positive"), ("POSITIVE", "positive"), ("pos", "positive"), ("긍정", "positive"),
        ("긍정적입니다", "positive"), ("좋음", "positive"), ("**positive**", "positive"), ("ｐｏｓ", "positive"),
        ("부정", "negative"), ("negative (cold food)", "negative"), ("부정 (음식이 식었음)", "negative"),
        ("Negative - rude staff", "negative"), ("중립", "neutral"), ("보통", "neutral"), (" neutral\n", "neutral"),
        ("positive: tasty", "positive"),
        ("긍정적이에요", "positive"), ("매우 부정적입니다", "negative"), ("긍정적인 평가", "positive"),
        ("중립적이네요", "neutral"), ("대체로 긍정", "positive"), ("somewhat negative", "negative"),
        ("label: positive", "positive"), ("😊 positive", "positive"), ("긍정👍", "positive"), ("[neutral]", "neutral"),
        ("positive/긍정", "positive"), ("negative, because it was cold", "negative"), ("消极", "negative"),
        ("보통이에요", "neutral"), ("긍정이 아님", None), ("긍정적이지는 않습니다", None), ("non-negative", None),
        ("positive - not", None),
        ("positive|negative|neutral", None), ("긍정도 부정도 아님", None),
        ("좋아요/나빠요", None),
        ("delighted", None), ("not positive", None), ("positive/negative", None), ("positive or negative", None),
        ("positive, negative", None), ("positive (but negative too)", None), ("긍정 - 부정", None), ("mixed", None),
        ("", None), (None, None), (1, None), (True, None), (["positive"], None), ("긍정적이지 않음", None), ("n", None),
    ],
)  # fmt: skip
def test_labels_in_other_words_are_read_from_a_closed_table(word: Any, label: str | None) -> None:
    assert read_label(word) == label


@pytest.mark.parametrize(
    "numbers", [[0, 1, 2], [2, 3, 4], [11, 12, 13], [1, 2, -3], [1, 2, 99], ["0", "1", "2"]]
)
def test_a_list_with_numbers_that_nobody_asked_about_is_not_believed_at_all(numbers: list[Any]) -> None:
    with pytest.raises(WrongNumbers, match="was not asked about"):
        read({"labels": [{"id": number, "label": "positive"} for number in numbers]})


@pytest.mark.parametrize("numbers", [[1, 1, 2], [1, 2, 2], [1, 1], [3, 3, 3, 3]])
def test_a_list_with_a_number_twice_and_another_missing_may_be_shifted(numbers: list[int]) -> None:
    with pytest.raises(WrongNumbers, match="twice and others are missing"):
        read({"labels": [{"id": number, "label": "positive"} for number in numbers]})


def test_a_number_with_two_labels_has_none_and_the_others_stand() -> None:
    contradiction = {"id": 1, "label": "negative"}

    assert read({"labels": [*ROWS, contradiction]}) == {2: "negative", 3: "neutral"}
    assert read({"labels": [*ROWS, ROWS[0]]}) == THREE
    assert read('{"1": "positive", "1": "negative", "2": "negative", "3": "neutral"}') == {
        2: "negative",
        3: "neutral",
    }


@pytest.mark.parametrize(
    "answer",
    ['{"label": "positive"}', '{"labels": ["positive"]}', "긍정입니다.", "**Positive**", '"positive"'],
)
def test_a_label_without_a_number_is_that_of_a_single_review_only(answer: str) -> None:
    assert read(answer, 1) == {1: "positive"}
    with pytest.raises(errors.OutputInvalid):
        read(answer, 2)


@pytest.mark.parametrize(
    "answer",
    ["positive or negative", '{"label": "positive"} {"label": "negative"}', '{"labels": []}', "좋아요"],
)
def test_a_single_review_gets_no_label_that_is_not_certain(answer: str) -> None:
    with pytest.raises(errors.OutputInvalid):
        read(answer, 1)


@pytest.mark.parametrize(
    "text",
    [
        "[1] good\n[2] 불만\n[3] 좋아요",  # reviews that are quoted
        "1. The positive side is the soup.\n2. negative and positive",
        "There are 3 positive reviews.",
    ],
)
def test_lines_that_may_be_reviews_are_no_labels(text: str) -> None:
    with pytest.raises(errors.OutputInvalid):
        read(text)


def test_lines_are_believed_no_more_than_lists() -> None:
    with pytest.raises(WrongNumbers):
        read("0: positive\n1: negative\n2: neutral")
    with pytest.raises(WrongNumbers):
        read("1: positive\n" * 1000)
    assert read("1: positive\n2: negative\n3: neu", reason="length") == {1: "positive", 2: "negative"}


def test_a_list_without_numbers_is_not_taken_for_one_in_order() -> None:
    with pytest.raises(errors.OutputInvalid, match=r"labels: .*id and label"):
        read({"labels": ["positive", "negative", "neutral"]})


def test_of_an_answer_that_is_cut_off_every_whole_label_stands() -> None:
    text = json.dumps({"labels": ROWS})
    for end in range(len(text)):
        whole = [number for number, label in THREE.items() if f'"label": "{label}"' in text[:end]]
        if whole:
            assert read(text[:end], reason="length") == {number: THREE[number] for number in whole}
        else:
            with pytest.raises(errors.OutputTruncated):
                read(text[:end], reason="length")


def test_of_a_broken_answer_the_labels_around_the_error_stand() -> None:
    assert read('{"labels": [{"id": 1, "label": "positive"} oops, {"id": 3, "label": "neutral"}]}') == {
        1: "positive",
        3: "neutral",
    }


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (3, 3), ("3", 3), (3.0, 3), ("[3]", 3), ("(3)", 3), ("#3", 3), ("review 3", 3), ("리뷰 3", 3), ("3번", 3),
        ("3.", 3), ("-1", -1), (-1, -1),
        (True, None), (None, None), (1.5, None), ("x", None), ("", None), ([1], None), ("3 or 4", None), (1e300, None),
    ],
)  # fmt: skip
def test_a_number_is_read_in_the_forms_that_it_has_in_prompts(value: Any, number: int | None) -> None:
    assert read_number(value) == number


@given(
    st.lists(
        st.fixed_dictionaries(
            {"id": st.integers(-2, 8), "label": st.sampled_from(["positive", "negative", "?"])}
        ),
        max_size=8,
    ),
    st.integers(1, 6),
)
def test_whatever_is_written_a_label_that_is_read_is_the_only_one_of_its_number(
    rows: list[dict[str, Any]], count: int
) -> None:
    try:
        found = read({"labels": rows}, count)
    except errors.OutputError:
        return
    for number, label in found.items():
        assert 1 <= number <= count
        assert {row["label"] for row in rows if row["id"] == number} == {label}
