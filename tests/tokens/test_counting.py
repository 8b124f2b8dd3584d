"""The estimate's figures, and the counter that learns from what servers report."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import cycle, islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.tokens.counting import CalibratedCounter, estimate_tokens

# Written for this test, with the tokens that cl100k has for them.
KOREAN = {
    "음식이 정말 맛있고 직원분들도 친절해서 기분 좋게 먹고 왔어요. 재방문 의사 있습니다!": 47,
    "웨이팅이 너무 길어요ㅠㅠ 한 시간 기다렸는데 맛은 그냥 그랬어요.": 41,
    "김치찌개 9,000원인데 양도 많고 밑반찬도 깔끔하게 나와요 ㅋㅋㅋ 가성비 최고": 50,
    "분위기는 좋은데 가격이 좀 비싼 편... 특별한 날에만 갈 것 같네요~": 40,
    "주차장이 협소해서 불편했지만 뷰가 좋아서 용서됩니다 👍": 34,
    "불친절하고 위생도 별로. 다시는 안 갑니다.": 23,
}
ENGLISH = {
    "The food was excellent and our server could not have been nicer. We will be back!": 18,
    "Overpriced, noisy, and the pasta was cold... not worth the 45 minute wait.": 20,
    "Great brunch spot with a lovely patio; try the shrimp & grits.": 15,
}


@pytest.mark.parametrize("texts", [KOREAN, ENGLISH])
def test_the_estimate_is_a_little_more_than_cl100k_counts(texts: dict[str, int]) -> None:
    assert 1.0 <= sum(map(estimate_tokens, texts)) / sum(texts.values()) <= 1.1


@pytest.mark.parametrize("text", [*KOREAN, *ENGLISH])
def test_the_estimate_of_a_single_review_is_near(text: str) -> None:
    assert 0.85 <= estimate_tokens(text) / (KOREAN | ENGLISH)[text] <= 1.3


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("ㅋㅋㅋㅋㅋㅋ", 13),
        ("とても美味しい", 8),
        ("味道很好", 6),
        ("1234567", 4),
        ("!!!!", 1),
        ("😀", 3),
    ],
)
def test_known_estimates(text: str, tokens: int) -> None:
    assert estimate_tokens(text) == tokens


@settings(deadline=None)
@given(st.text(st.characters()))
def test_any_text_has_an_estimate_and_only_the_empty_one_has_none(text: str) -> None:
    assert (estimate_tokens(text) >= 1) == bool(text)


@settings(deadline=None)
@given(st.text("가맛ㅋㅠ리뷰 a0.!\n日の👍"), st.text("가맛ㅋㅠ리뷰 a0.!\n日の👍"))
def test_the_estimates_of_parts_add_up(left: str, right: str) -> None:
    assert abs(estimate_tokens(left + right) - estimate_tokens(left) - estimate_tokens(right)) <= 2


# Learning


def prompts(texts: dict[str, int], number: int) -> list[str]:
    """Make prompts of about 40 reviews, no two of them alike."""
    reviews = cycle(texts)
    return [
        "".join(f"[{n}] {review}\n" for n, review in enumerate(islice(reviews, 38 + each % 5)))
        for each in range(number)
    ]


def cheap_korean(text: str) -> int:
    """Count as a tokenizer that knows Korean does: English as ever, two syllables in three tokens fewer."""
    return estimate_tokens("".join(c for c in text if c.isascii())) + round(
        0.5 * sum(not c.isascii() for c in text)
    )


def dear(text: str) -> int:
    return round(1.2 * estimate_tokens(text))


def taught(
    server: Callable[[str], int], texts: dict[str, int], number: int = 10, template: int = 14
) -> CalibratedCounter:
    counter = CalibratedCounter()
    for prompt in prompts(texts, number):
        counter.observe(prompt, server(prompt) + template)
    return counter


def test_it_counts_as_its_base_while_nothing_is_known() -> None:
    counter = CalibratedCounter(len)
    assert [counter(text) for text in KOREAN] == [len(text) for text in KOREAN]
    assert counter.observations == 0


@pytest.mark.parametrize("server", [cheap_korean, dear, estimate_tokens])
@pytest.mark.parametrize("texts", [KOREAN, ENGLISH, KOREAN | ENGLISH])
def test_it_counts_a_little_more_than_the_server_after_ten_replies(
    server: Callable[[str], int], texts: dict[str, int]
) -> None:
    counter = taught(server, texts)
    for prompt in prompts(texts, 3):
        lines = sum(counter(line) for line in prompt.splitlines(keepends=True))
        assert 1.0 <= lines / server(prompt) <= 1.12


def test_what_its_prices_do_not_explain_is_in_the_margin() -> None:
    counter = CalibratedCounter()
    given = prompts(KOREAN, 30)
    reported = [round(dear(prompt) * (1 + 0.02 * (each % 3 - 1))) for each, prompt in enumerate(given)]
    for prompt, tokens in zip(given, reported, strict=True):
        counter.observe(prompt, tokens)
    assert all(tokens <= counter(prompt) for prompt, tokens in zip(given, reported, strict=True))


def test_a_dear_tokenizer_is_known_after_one_reply() -> None:
    counter = taught(dear, KOREAN, 1)
    (prompt,) = prompts(KOREAN, 1)
    assert counter(prompt) >= dear(prompt)


def test_it_goes_down_only_after_three_replies() -> None:
    (prompt,) = prompts(KOREAN, 1)
    assert taught(cheap_korean, KOREAN, 2)(prompt) >= estimate_tokens(prompt)
    assert taught(cheap_korean, KOREAN, 3)(prompt) < 0.85 * estimate_tokens(prompt)


def test_english_stays_right_while_only_korean_is_seen() -> None:
    counter = taught(cheap_korean, KOREAN, 20)
    (english,) = prompts(ENGLISH, 1)
    assert 0.97 <= counter(english) / cheap_korean(english) <= 1.1


@pytest.mark.parametrize("wrong", [0.3, 0.6, 1.7, 3])
@pytest.mark.parametrize("place", [0, 5, 9])
def test_one_wrong_report_does_not_move_it(wrong: float, place: int) -> None:
    right, misled = CalibratedCounter(), CalibratedCounter()
    for each, prompt in enumerate(prompts(KOREAN, 10)):
        tokens = cheap_korean(prompt)
        right.observe(prompt, tokens)
        misled.observe(prompt, round(tokens * (wrong if each == place else 1)))
    (prompt,) = prompts(KOREAN, 1)
    assert cheap_korean(prompt) <= misled(prompt) <= 1.1 * right(prompt)


@pytest.mark.parametrize("tokens", [0, -5, 1, 10**9])
def test_what_cannot_be_true_is_ignored(tokens: int) -> None:
    counter = CalibratedCounter()
    for prompt in prompts(KOREAN, 5):
        counter.observe(prompt, tokens)
    assert counter.observations == 0


def test_short_prompts_teach_nothing_since_the_template_would_count_as_text() -> None:
    counter = CalibratedCounter()
    for review in KOREAN:
        counter.observe(review, KOREAN[review] + 30)
    assert counter.observations == 0


def test_it_follows_a_server_that_changes_its_model() -> None:
    counter = CalibratedCounter(window=8)
    for server in (dear, cheap_korean):
        for prompt in prompts(KOREAN, 8):
            counter.observe(prompt, server(prompt))
    (prompt,) = prompts(KOREAN, 1)
    assert cheap_korean(prompt) <= counter(prompt) <= 1.1 * cheap_korean(prompt)
    assert counter.observations == 8


REPORTS = st.lists(st.tuples(st.integers(0, 9), st.integers(-10, 20_000)), max_size=20)
SAMPLES = [*prompts(KOREAN, 4), *prompts(ENGLISH, 3), *prompts(KOREAN | ENGLISH, 3)]


@settings(deadline=None)
@given(REPORTS, st.sampled_from(SAMPLES))
def test_whatever_is_reported_it_stays_within_four_times_its_base(
    reports: list[tuple[int, int]], text: str
) -> None:
    counter = CalibratedCounter()
    for which, tokens in reports:
        counter.observe(SAMPLES[which], tokens)
    base = estimate_tokens(text)
    assert base // 4 <= counter(text) <= 4 * base + 1


@settings(deadline=None)
@given(REPORTS, st.sampled_from(SAMPLES))
def test_the_same_reports_teach_the_same(reports: list[tuple[int, int]], text: str) -> None:
    one, other = CalibratedCounter(), CalibratedCounter()
    for which, tokens in reports:
        one.observe(SAMPLES[which], tokens)
        one(text)  # asking in between changes nothing
        other.observe(SAMPLES[which], tokens)
    assert one(text) == other(text)


def test_threads_may_teach_and_ask_at_once() -> None:
    counter = CalibratedCounter()
    asked = prompts(KOREAN, 48)

    def teach(own: list[str]) -> None:
        for prompt in own:
            counter.observe(prompt, cheap_korean(prompt))
            counter(prompt)

    threads = [threading.Thread(target=teach, args=(asked[n::6],)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = CalibratedCounter()
    for prompt in asked:
        alone.observe(prompt, cheap_korean(prompt))
    assert counter.observations == 48
    assert abs(counter(asked[0]) - alone(asked[0])) <= 1


def test_it_blocks_where_its_base_blocks() -> None:
    class Slow:
        blocking = True

        def __call__(self, text: str) -> int:
            return len(text)

    assert CalibratedCounter(Slow()).blocking
    assert not CalibratedCounter().blocking


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"base": "cl100k"}, "base must be a function"),
        ({"window": 2}, "window must be .* for example window=64"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        CalibratedCounter(**arguments)


def test_it_shows_what_it_goes_by() -> None:
    assert repr(taught(dear, KOREAN, 4)).endswith("observations=4)")
