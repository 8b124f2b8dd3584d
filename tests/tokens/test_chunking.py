"""Chunks keep to their budget, end where sentences end, and lose nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.growth import assert_linear

from restaurant_llm_batch import errors
from restaurant_llm_batch.tokens.chunking import split_in_two, split_text
from restaurant_llm_batch.tokens.packing import estimate_tokens
from restaurant_llm_batch.tokens.sentences import sentence_ends, sentences

REVIEWS = (
    "직원분이 친절해요. 음식이 맛있어요ㅋㅋ 가격은 비쌉니다 또 올게요!\n"
    "Great noodles, e.g. cold ones. 👩\u200d🍳 "
)
TEXTS = (
    st.text(max_size=200)
    | st.text(st.sampled_from("가나다요 .!\nab😋\u200d\u0301"), max_size=300)
    | st.lists(st.sampled_from([*sentences(REVIEWS), "a" * 50, "\n\n", "다" * 40]), max_size=20).map(" ".join)
)


def by_word(text: str) -> int:
    """Count words, at least one for every ten characters."""
    return max(len(text.split()), -(-len(text) // 10))


def odd(text: str) -> int:
    """Count as no tokenizer should: a longer text may have fewer."""
    return len(text) - 3 * text.count("나다")


COUNTERS = [len, by_word, odd]


def solid(text: str) -> str:
    return "".join(text.split())


@given(TEXTS, st.integers(1, 120), st.sampled_from(COUNTERS))
def test_nothing_is_lost_and_no_chunk_is_over_its_budget(text: str, most: int, count: object) -> None:
    chunks = split_text(text, most, count_tokens=count)  # type: ignore[arg-type]

    assert solid("".join(chunks)) == solid(text)
    assert all(count(chunk) <= most for chunk in chunks)  # type: ignore[operator]
    assert all(chunk == chunk.strip() != "" for chunk in chunks)


@given(TEXTS, st.integers(1, 120))
def test_chunks_are_the_text_as_it_stands(text: str, most: int) -> None:
    rest = text
    for chunk in split_text(text, most, count_tokens=len):
        between, found, rest = rest.partition(chunk)
        assert found == chunk
        assert not between.strip()
    assert not rest.strip()


@given(TEXTS, st.integers(1, 120))
def test_a_chunk_takes_as_many_sentences_as_fit(text: str, most: int) -> None:
    ends, place = sentence_ends(text), 0
    for chunk in split_text(text, most, count_tokens=len):
        start = text.index(chunk, place)
        place = start + len(chunk)
        next_end = next((end for end in ends if end > place), None)
        assert next_end is None or len(text[start:next_end]) > most


@given(st.lists(st.sampled_from(sentences(REVIEWS)), max_size=30))
def test_sentences_that_fit_are_never_cut(pieces: list[str]) -> None:
    text = "\n".join(pieces)
    longest = max(map(len, pieces), default=1)
    chunks = split_text(text, longest, count_tokens=len)

    assert [sentence for chunk in chunks for sentence in sentences(chunk)] == sentences(text)


def test_korean_sentences_without_full_stops_are_kept_whole() -> None:
    text = "직원분이 친절합니다 음식도 맛있어요 강추 가격은 비싸요ㅠㅠ 또 올게요"

    assert split_text(text, 15, count_tokens=len) == [
        "직원분이 친절합니다",
        "음식도 맛있어요",
        "강추 가격은 비싸요ㅠㅠ",
        "또 올게요",
    ]


def test_a_sentence_that_is_too_long_is_cut_between_words_and_what_is_left_goes_on() -> None:
    assert split_text("one two three four. five six", 10, count_tokens=len) == [
        "one two",
        "three",
        "four.",
        "five six",
    ]


def test_a_word_that_is_too_long_is_cut_between_characters() -> None:
    cook = "👩\u200d🍳"

    assert split_text("가나다라마바사 아", 3, count_tokens=len) == ["가나다", "라마바", "사 아"]
    assert split_text(cook * 3, 5, count_tokens=len) == [cook] * 3
    assert split_text(cook, 2, count_tokens=len) == ["👩\u200d", "🍳"]  # the budget goes first


@pytest.mark.parametrize("text", ["", " \n\t\u3000"])
def test_a_text_without_a_word_has_no_chunks(text: str) -> None:
    assert split_text(text) == []


def test_reviews_joined_by_newlines_keep_to_the_estimate_and_fill_it() -> None:
    text = "\n".join([REVIEWS] * 400)
    chunks = split_text(text)
    sizes = [estimate_tokens(chunk) for chunk in chunks]

    assert max(sizes) <= 2000
    assert min(sizes[:-1]) > 1900


def test_the_counter_is_asked_a_few_times_for_every_chunk() -> None:
    asked: list[int] = []

    def count(text: str) -> int:
        asked.append(len(text))
        return len(text)

    text = REVIEWS * 1000
    chunks = split_text(text, 500, count_tokens=count)

    assert len(asked) <= 8 * len(chunks)
    assert sum(asked) <= 8 * len(text)


@pytest.mark.parametrize("unit", ["가", "a ", "음식이 맛있고 ", "😋\u200d", "\u0301", ".", "가요 ", "\n"])
@pytest.mark.slow
def test_an_endless_text_is_cut_whole_and_the_work_grows_with_its_length(unit: str) -> None:
    text = unit * (200_000 // len(unit))
    chunks = split_text(text, 500, count_tokens=len)
    halves = split_in_two(text)

    assert solid("".join(chunks)) == solid(text) == solid("".join(halves or ()))
    assert_linear(lambda text: split_text(text, 500, count_tokens=len), unit, 20_000)
    assert_linear(split_in_two, unit, 20_000)


@pytest.mark.parametrize("unit", ["👩\u200d👩\u200d👧", "ㅋ", "가"])
@pytest.mark.sample(1)
def test_a_long_word_is_not_read_again_for_each_of_its_chunks(unit: str) -> None:
    text = unit * (20_000 // len(unit))

    assert "".join(split_text(text, 10, count_tokens=len)) == text
    assert_linear(lambda text: split_text(text, 10, count_tokens=len), unit, 10_000)


def test_a_text_is_halved_by_looking_near_its_middle_only() -> None:
    text = "음식이 맛있어요. 직원분이 e.g. 친절합니다 " * 40_000
    parts = [text]
    for _ in range(3):
        parts = [half for part in parts for half in split_in_two(part) or ()]

    assert solid("".join(parts)) == solid(text)
    assert all(part.endswith((".", "친절합니다")) and not part.endswith("e.g.") for part in parts)
    assert max(map(len, parts)) - min(map(len, parts)) < 100


@pytest.mark.parametrize("length", [500, 5000, 50_000])
@pytest.mark.parametrize("place", [0.26, 0.5, 0.74])
def test_the_only_end_in_the_middle_half_is_found_however_far_from_the_middle(
    length: int, place: float
) -> None:
    before = int(length * place)
    for joint, fill in ((". ", "가나 "), (" ", "가")):
        first, second = (fill * before)[:before].strip(), (fill * length)[: length - before].strip()
        text = first + joint + second

        assert split_in_two(text) == ((first + joint).strip(), second)


@given(TEXTS)
def test_two_halves_are_the_whole_and_each_is_something(text: str) -> None:
    halves = split_in_two(text)

    if halves is None:
        assert len(text.strip()) <= 32  # one long character, by what it is joined with
    else:
        assert solid("".join(halves)) == solid(text)
        assert all(half == half.strip() != "" for half in halves)


@pytest.mark.parametrize(
    ("text", "halves"),
    [
        ("맛있어요. 친절해요. 비싸요.", ("맛있어요.", "친절해요. 비싸요.")),
        (
            "Good. Everything else was rather slow and cold",
            ("Good. Everything else", "was rather slow and cold"),
        ),
        ("가나다라", ("가나", "다라")),
        ("ab", ("a", "b")),
        ("a", None),
        (" ", None),
        ("👩\u200d🍳", None),
    ],
)
def test_a_text_is_halved_at_a_sentence_else_at_a_word_else_anywhere(
    text: str, halves: tuple[str, str] | None
) -> None:
    assert split_in_two(text) == halves


@pytest.mark.parametrize("most", [0, -1, 1.5, True, "2000", None])
def test_a_useless_budget_is_refused_with_what_to_write(most: object) -> None:
    with pytest.raises(
        errors.ConfigurationError, match=r"max_tokens must be .* at least 1.*example max_tokens=2000"
    ):
        split_text("가", most)  # type: ignore[arg-type]


def test_a_list_is_refused_with_what_to_write() -> None:
    with pytest.raises(errors.ConfigurationError, match=r"text must be a string, got list; .*join"):
        split_text(["가"])  # type: ignore[arg-type]


def test_a_budget_that_no_character_fits_is_refused_and_the_character_named() -> None:
    with pytest.raises(errors.ConfigurationError, match="max_tokens=1 is too few for the character '가'"):
        split_text("나 가", 1, count_tokens=lambda text: 3 * text.count("가") + 1)
