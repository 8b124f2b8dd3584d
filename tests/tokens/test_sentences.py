"""Where texts may be cut. What a sentence is, is tested with the analyzer (`nlp/test_terms.py`)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restaurant_llm_batch.tokens.sentences import boundary, sentence_ends, sentences

KOREAN = st.text(st.sampled_from("맛있어요 니다네ㅋㅎㅠ.!?~\n😋e\u0301\u200d👩A"), max_size=60)


@given(st.text(max_size=100) | KOREAN)
def test_the_ends_are_those_of_the_sentences(text: str) -> None:
    ends = sentence_ends(text)
    pieces = [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    assert ["".join(p.split()) for p in pieces] == ["".join(s.split()) for s in sentences(text)]
    assert all(piece.rstrip() == piece != "" for piece in pieces)
    assert not text[ends[-1] if ends else 0 :].strip()


@pytest.mark.parametrize(
    "character",
    [
        "👩\u200d🍳",
        "❤\ufe0f",
        "👍🏽",
        "🇰🇷",
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "e\u0301",
        "\u1106\u1161\u11ba",
        "1\ufe0f\u20e3",
    ],
)
def test_what_people_see_as_one_character_is_not_torn(character: str) -> None:
    text = f"가{character}나"

    assert {boundary(text, place) for place in range(2, 1 + len(character))} == {1}
    assert [boundary(text, place) for place in (0, 1, len(text) - 1, len(text))] == [
        0,
        1,
        len(text) - 1,
        len(text),
    ]


def test_a_run_of_accents_without_end_is_cut_all_the_same() -> None:
    assert boundary("e" + "\u0301" * 1000, 500) == 500
