"""Batches: nothing lost, nothing twice, in order, never over the budget; and sizes judged by all reviews."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, TypeAlias
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.models import Review
from restaurant_llm_batch.tokens.packing import (
    TRUNCATION_MARK,
    PackedText,
    calculate_dynamic_batch_size,
    estimate_tokens,
    pack_reviews,
    pack_texts,
    truncate_to_half,
)

Count: TypeAlias = Callable[[str], int]


def words(text: str) -> int:
    return len(text.split())


def with_a_start_token(text: str) -> int:
    return len(text) + 1


def erratic(text: str) -> int:
    """Longer texts may well have fewer tokens."""
    return crc32(text.encode("utf-8", "surrogatepass")) % 40 if text else 0


def numbered(text: str) -> str:
    return f"[7] {json.dumps(text)}\n"


COUNTERS = st.sampled_from([len, estimate_tokens, words, with_a_start_token, erratic])
LINES = st.sampled_from([None, numbered])
ALPHABET = st.sampled_from(
    "가맛ㅋㅠ리뷰ab Z09.!\n\u200d❤\ufe0f👩🍳🏻🇰🇷é\u0301\u1112\u1161\u11ab日本の\ud83d\ude00"
)
TEXTS = st.lists(st.text(ALPHABET, max_size=60), max_size=25)
BUDGETS = st.integers(1, 80)
MOST = st.integers(1, 9)


def packed(
    texts: list[str], budget: int, most: int, count: Count, line: Callable[[str], str] | None
) -> list[list[PackedText]]:
    """Pack, or show that not even an empty review has room."""
    try:
        return pack_texts(texts, budget, max_texts=most, count=count, render=line)
    except ConfigurationError:
        assert count(line("") if line else "") > budget
        return []


@settings(deadline=None)
@given(TEXTS, BUDGETS, MOST, COUNTERS, LINES)
def test_nothing_is_lost_or_twice_or_out_of_order(
    texts: list[str], budget: int, most: int, count: Count, line: Callable[[str], str] | None
) -> None:
    batches = packed(texts, budget, most, count, line)
    if batches:
        assert [one.index for batch in batches for one in batch] == list(range(len(texts)))
        assert all(one.truncated or one.text == texts[one.index] for batch in batches for one in batch)


@settings(deadline=None)
@given(TEXTS, BUDGETS, MOST, COUNTERS, LINES)
def test_no_batch_is_empty_over_the_budget_or_over_its_size(
    texts: list[str], budget: int, most: int, count: Count, line: Callable[[str], str] | None
) -> None:
    for batch in packed(texts, budget, most, count, line):
        assert 1 <= len(batch) <= most
        assert sum(count(line(one.text) if line else one.text) for one in batch) <= budget


@settings(deadline=None)
@given(TEXTS, BUDGETS, MOST, COUNTERS, LINES)
def test_what_is_cut_was_too_large_goes_alone_and_is_marked(
    texts: list[str], budget: int, most: int, count: Count, line: Callable[[str], str] | None
) -> None:
    def cost(text: str) -> int:
        return count(line(text) if line else text)

    for batch in packed(texts, budget, most, count, line):
        for one in batch:
            assert one.truncated == (cost(texts[one.index]) > budget)
            if one.truncated:
                assert len(batch) == 1
                whole = texts[one.index].strip()
                marked = one.text.endswith(TRUNCATION_MARK)
                assert marked or one.text == whole or (not one.text and cost(TRUNCATION_MARK) > budget)
                assert whole.startswith(one.text.removesuffix(TRUNCATION_MARK))


@settings(deadline=None)
@given(TEXTS, BUDGETS, st.integers(0, 60), MOST, st.sampled_from([len, estimate_tokens, words]), LINES)
def test_a_larger_budget_never_makes_more_batches(
    texts: list[str], budget: int, more: int, most: int, count: Count, line: Callable[[str], str] | None
) -> None:
    small = packed(texts, budget, most, count, line)
    if small:
        assert len(packed(texts, budget + more, most, count, line)) <= len(small)


@settings(deadline=None)
@given(TEXTS, BUDGETS, MOST)
def test_no_two_neighbours_could_have_been_one_batch(texts: list[str], budget: int, most: int) -> None:
    batches = packed(texts, budget, most, len, None)
    for left, right in pairwise(batches):
        together = sum(len(one.text) for one in left) + len(right[0].text)
        assert left[0].truncated or right[0].truncated or together > budget or len(left) == most


def test_known_batches() -> None:
    batches = pack_texts(["aaaa", "bb", "c", "dddddddddddd", "e", "f"], 7, max_texts=2, count=len)
    assert batches == [
        [PackedText(0, "aaaa", truncated=False), PackedText(1, "bb", truncated=False)],
        [PackedText(2, "c", truncated=False)],
        [PackedText(3, "ddd" + TRUNCATION_MARK, truncated=True)],
        [PackedText(4, "e", truncated=False), PackedText(5, "f", truncated=False)],
    ]


def test_the_line_is_what_counts_and_the_text_is_what_is_cut() -> None:
    ((one,),) = pack_texts(['"' * 50], 40, max_texts=9, count=len, render=numbered)
    assert one.text == '"' * 12 + TRUNCATION_MARK
    assert len(numbered(one.text)) in (39, 40)


def test_a_text_that_fits_is_counted_once() -> None:
    asked: list[str] = []

    def count(text: str) -> int:
        asked.append(text)
        return len(text)

    texts = ["리뷰" * n for n in range(50)]
    pack_texts(texts, 100, max_texts=9, count=count)
    assert asked == texts


def test_cutting_a_megabyte_does_not_count_megabytes() -> None:
    asked: list[int] = []

    def count(text: str) -> int:
        asked.append(len(text))
        return len(text)

    ((one,),) = pack_texts(["맛" * 1_000_000], 4000, max_texts=9, count=count)
    assert len(one.text) == 4000
    assert len(asked) < 25
    assert sum(asked[1:]) < 100_000


@pytest.mark.parametrize(
    "one",
    [
        "👩\u200d🍳",
        "👍🏻",
        "❤\ufe0f",
        "🇰🇷",
        "e\u0301",
        "\u1112\u1161\u11ab",
        "👨\u200d👩\u200d👧",
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "\ud83d\ude00",
    ],
)
def test_a_cut_tears_no_character_that_people_see_as_one(one: str) -> None:
    text = "맛있어요" + one + "x" * 50
    for budget in range(8, 8 + len(one)):
        ((cut,),) = pack_texts([text], budget, max_texts=9, count=len)
        assert cut.text in ("맛있어요"[: budget - 4] + TRUNCATION_MARK, "맛있어요" + one + TRUNCATION_MARK)


def test_no_blanks_are_left_before_the_mark() -> None:
    ((cut,),) = pack_texts(["맛있어요     " + "x" * 50], 12, max_texts=9, count=len)
    assert cut.text == "맛있어요" + TRUNCATION_MARK


@pytest.mark.parametrize(
    "text",
    ["\n" * 4000 + "맛있어요 " * 3000, "a " * 3000 + "뷁" * 3000, "a" * 4000 + "뷁" * 100_000],
    ids=["blank first", "thin first", "thin by far"],
)
def test_a_text_that_begins_thin_is_cut_where_the_budget_is_full(text: str) -> None:
    ((cut,),) = pack_reviews([text], 1000)

    assert 950 <= estimate_tokens(cut) <= 1000
    assert text.strip().startswith(cut.removesuffix(TRUNCATION_MARK))


def test_a_text_that_is_too_large_by_its_blanks_alone_is_not_cut() -> None:
    assert pack_reviews(["\n" * 100 + "맛있어요" + " " * 100], 10, count_tokens=len) == [["맛있어요"]]


def test_a_half_ends_with_the_mark_and_can_be_halved_again() -> None:
    text = "  " + "맛있어요 " * 40
    half = truncate_to_half(text)
    assert half == ("맛있어요 " * 20).rstrip() + TRUNCATION_MARK
    assert truncate_to_half(half) == ("맛있어요 " * 9 + "맛있어요") + TRUNCATION_MARK


@pytest.mark.parametrize(
    ("text", "shortest", "half"),
    [
        ("a" * 80, 40, "a" * 40 + TRUNCATION_MARK),
        ("a" * 79, 40, None),
        ("a" * 79 + TRUNCATION_MARK, 40, None),
        ("a" * 20 + " " * 60, 40, None),
        ("ab", 1, "a" + TRUNCATION_MARK),
        ("a", 1, None),
        ("a", 0, None),
        (" \n" + TRUNCATION_MARK, 0, None),
        ("", 0, None),
        ("가👩\u200d🍳나", 1, "가" + TRUNCATION_MARK),
    ],
)
def test_a_half_that_is_too_short_is_none(text: str, shortest: int, half: str | None) -> None:
    assert truncate_to_half(text, shortest) == half


@given(st.text(ALPHABET, max_size=60), st.integers(0, 30))
def test_halving_comes_to_an_end(text: str, shortest: int) -> None:
    for _ in range(8):
        half = truncate_to_half(text, shortest)
        if half is None:
            return
        assert len(half) - len(TRUNCATION_MARK) <= len(text.removesuffix(TRUNCATION_MARK)) / 2
        text = half
    pytest.fail("a text of 60 characters was halved eight times")


def test_an_endless_cluster_is_cut_all_the_same() -> None:
    ((cut,),) = pack_texts(["e" + "\u0301" * 500], 100, max_texts=9, count=len)
    assert len(cut.text) == 100


def test_where_not_even_the_mark_fits_nothing_is_left_of_it() -> None:
    assert pack_texts(["aaaaaaaa", "b"], 2, max_texts=9, count=len) == [
        [PackedText(0, "", truncated=True)],
        [PackedText(1, "b", truncated=False)],
    ]


def test_a_budget_without_room_for_an_empty_line_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="max_tokens_per_batch= leaves 5 tokens"):
        pack_texts(["aaaaaaaa"], 5, max_texts=9, count=len, render=numbered)


def test_reviews_of_every_kind_come_back_as_they_were_given() -> None:
    reviews: list[str | Review | Mapping[str, Any]] = [
        "맛있어요",
        Review("별로예요", id=0),
        {"content": "좋아요", "stars": 5},
    ]
    ((text, review, mapping),) = pack_reviews(reviews)
    assert text is reviews[0]
    assert review is reviews[1]
    assert mapping is reviews[2]


def test_reviews_of_every_kind_keep_all_but_their_end_when_cut() -> None:
    long = "가" * 100
    given: list[str | Review | Mapping[str, Any]] = [
        long,
        Review(long, id=0, restaurant_id="a"),
        {"content": long, "n": 5},
    ]
    short = "가" * 6 + TRUNCATION_MARK
    batches = pack_reviews(given, 10, count_tokens=len)
    assert batches == [[short], [Review(short, id=0, restaurant_id="a")], [{"content": short, "n": 5}]]
    assert given[2] == {"content": long, "n": 5}


def test_reviews_are_packed_by_size_and_by_budget() -> None:
    assert [len(batch) for batch in pack_reviews(["aaaa"] * 5, 8, count_tokens=len)] == [2, 2, 1]
    assert [len(batch) for batch in pack_reviews(["a"] * 250)] == [100, 100, 50]
    assert [len(batch) for batch in pack_reviews(["a"] * 5, max_batch_size=2)] == [2, 2, 1]
    assert pack_reviews([]) == []


def test_an_iterator_of_reviews_will_do() -> None:
    assert pack_reviews(iter(["a", "b"])) == [["a", "b"]]
    assert calculate_dynamic_batch_size(iter(["a" * 100]), 1000, count_tokens=len) == 10


# The batch size


def test_known_sizes() -> None:
    def size(*lengths: int, **more: int) -> int:
        return calculate_dynamic_batch_size(["a" * n for n in lengths], count_tokens=len, **more)

    assert size(100, 100) == 40
    assert size(90, 110, max_tokens_per_batch=2000) == 20
    assert size(1) == 100
    assert size(1, max_batch_size=30) == 30
    assert size(0, 0) == 100
    assert size() == 50
    assert size(default_batch_size=12) == 12
    assert size(max_batch_size=20) == 20
    assert size(min_batch_size=60) == 60


def test_the_budget_counts_for_more_than_the_smallest_size() -> None:
    assert calculate_dynamic_batch_size(["a" * 1000] * 3, count_tokens=len) == 4
    assert calculate_dynamic_batch_size(["a" * 9000], count_tokens=len, min_batch_size=20) == 1


def test_all_reviews_are_looked_at() -> None:
    short, long = ["짧다"] * 50, ["길다 " * 500] * 50
    assert calculate_dynamic_batch_size(short) == 100
    assert calculate_dynamic_batch_size(short + long) == calculate_dynamic_batch_size(long + short) < 10


@settings(deadline=None)
@given(
    st.lists(st.text(max_size=50), min_size=1), st.integers(1, 5000), st.integers(1, 50), st.integers(0, 99)
)
def test_a_size_is_within_its_bounds_and_its_batches_within_the_budget_on_average(
    texts: list[str], budget: int, least: int, more: int
) -> None:
    size = calculate_dynamic_batch_size(texts, budget, min_batch_size=least, max_batch_size=least + more)
    average = sum(map(estimate_tokens, texts)) / len(texts)
    assert 1 <= size <= least + more
    assert size == 1 or size * average <= budget
    assert size >= least or (size + 1) * average > budget


# Arguments


class Whole:
    """A whole number of another library's, as those of numpy are."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


def test_whole_numbers_of_any_kind_will_do() -> None:
    number: Any = Whole
    assert pack_reviews(["aa", "b"], number(2), max_batch_size=number(9), count_tokens=len) == [["aa"], ["b"]]
    assert pack_reviews(["aa", "b"], 2, count_tokens=lambda text: number(len(text))) == [["aa"], ["b"]]
    sizes = {"min_batch_size": number(1), "max_batch_size": number(5), "default_batch_size": number(3)}
    assert calculate_dynamic_batch_size([], number(9), **sizes) == 3
    assert calculate_dynamic_batch_size(["aaa"], number(9), count_tokens=len, **sizes) == 3


@pytest.mark.parametrize("name", ["max_tokens_per_batch", "max_batch_size"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "100", True, None, Whole(0)])
def test_a_wrong_number_is_named(name: str, value: Any) -> None:
    for function in (pack_reviews, calculate_dynamic_batch_size):
        wanted = f"{name} must be .* got {re.escape(repr(value))}; for example {name}="
        with pytest.raises(ConfigurationError, match=wanted):
            function(["a"], **{name: value})


@pytest.mark.parametrize("name", ["min_batch_size", "default_batch_size"])
def test_a_wrong_size_is_named(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} must be"):
        calculate_dynamic_batch_size(["a"], **{name: 0})  # type: ignore[arg-type]


def test_sizes_out_of_order_are_named() -> None:
    with pytest.raises(ConfigurationError, match="min_batch_size=10 is more than max_batch_size=5"):
        calculate_dynamic_batch_size(["a"], max_batch_size=5)


@pytest.mark.parametrize("one", [3, None, b"a", {"text": "a"}, {"content": None}, ["a"]])
def test_what_is_no_review_is_named_by_its_place_and_not_shown(one: Any) -> None:
    for function in (pack_reviews, calculate_dynamic_batch_size):
        with pytest.raises(ConfigurationError, match=r"reviews\[1\] must be a text"):
            function(["a", one])


@pytest.mark.parametrize("reviews", ["a review", b"a", {"content": "a"}, Review("a"), None, 3])
def test_one_review_is_no_list_of_reviews(reviews: Any) -> None:
    for function in (pack_reviews, calculate_dynamic_batch_size):
        with pytest.raises(ConfigurationError, match=r"must be a list of reviews.*for example \[review\]"):
            function(reviews)


@pytest.mark.parametrize("tokens", [-1, 1.5, None, "3", True, Whole(-1)])
def test_a_counter_that_does_not_count_is_refused(tokens: Any) -> None:
    wanted = f"a token counter must return a whole number .* got {re.escape(repr(tokens))};"
    with pytest.raises(ConfigurationError, match=wanted):
        pack_reviews(["a"], count_tokens=lambda _: tokens)
