"""What the lexicon reads as praise and blame: negation, its scope, and halves that take each other back."""

from __future__ import annotations

import pytest

from restaurant_llm_batch._nlp.aspect_words import stems_of
from restaurant_llm_batch._nlp.opinion_words import BLAME, PRAISE
from restaurant_llm_batch._nlp.opinions import opinions, read_opinion


def opinion(text: str) -> int:
    return read_opinion(text).polarity


@pytest.mark.parametrize(
    "text",
    [
        "실패는 없는 편",
        "후회한 적이 없어요",
        "비린내가 하나도 없네요",
        "눈치 주지 않아서 좋았어요",
        "짜지 않고 담백해요",
        "부담이 적어요",
        "별로 안 비싸요",
        "not salty",
        "It was never rushed.",
        "no complaints about the soup",
        "The prices aren't bad.",
    ],
)
def test_what_is_bad_and_denied_is_praise(text: str) -> None:
    assert opinion(text) > 0


@pytest.mark.parametrize(
    "text",
    [
        "맛이 별로 없어요",
        "깨끗하지 못했어요",
        "추천하고 싶지는 않네요",
        "그다지 친절하지 않아요",
        "신선도가 떨어져요",
        "좋다고는 못 하겠어요",
        "돈값을 못 해요",
        "안 친절해요",
        "not a good soup",
        "The staff were not at all friendly.",
        "nothing was fresh",
    ],
)
def test_what_is_good_and_denied_is_blame(text: str) -> None:
    assert opinion(text) < 0


@pytest.mark.parametrize(
    "text",
    [
        "친절하지 않은 직원이 없어요",
        "맛이 없을 수가 없어요",
        "안 좋아할 수가 없죠",
        "나무랄 데가 없는 맛",
        "You can't go wrong with the soup.",
        "There was nothing we didn't love.",
        "The staff could not have been nicer.",
    ],
)
def test_two_negations_are_praise_again(text: str) -> None:
    assert opinion(text) > 0


@pytest.mark.parametrize("text", ["비싸지 않다고는 할 수 없네요", "짜지 않은 반찬이 없어요"])
def test_two_negations_of_what_is_bad_are_blame_again(text: str) -> None:
    assert opinion(text) < 0


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ("비싸고 양도 없어요", -1),
        ("친절하고 양도 적지 않아요", 1),
        ("느리지만 실수는 없어요", 0),
        ("The soup was good, no bread.", 1),
    ],
)
def test_a_negation_does_not_reach_over_a_conjunction_or_a_comma(text: str, sign: int) -> None:
    total = opinion(text)
    assert (total > 0) - (total < 0) == sign


@pytest.mark.parametrize(
    "text", ["음식은 여기서 먹어요", "둘러싸고 앉았어요", "영화나 볼까요", "찐만두 두 개", "안주 둘"]
)
def test_a_word_inside_another_is_no_opinion(text: str) -> None:
    assert opinion(text) == 0


@pytest.mark.parametrize(
    ("clauses", "sign"),
    [
        (("친절하다고 해서 갔는데", "전혀 아니었어요"), -1),
        (("깨끗하다고 들었는데", "글쎄요"), -1),
        (("맛없을 줄 알았는데", "의외로 괜찮았어요"), 1),
        (("비쌀까 봐 걱정했는데", "아니었어요"), 1),
        (("예전에는 맛있었는데", "지금은 아니에요"), -1),
        (("I expected a friendly waiter,", "he was rude."), -1),
        (("They say the soup is great;", "not anymore."), -1),
        (("I thought it would be bland,", "I was wrong."), 1),
    ],
)
def test_a_half_that_the_other_takes_back_has_the_opinion_of_the_whole(
    clauses: tuple[str, ...], sign: int
) -> None:
    read = opinions(clauses)
    assert sign * read[0].polarity > 0
    assert sign * sum(one.polarity for one in read) > 0


@pytest.mark.parametrize(
    "text",
    [
        "서비스가 좋았다면 별 다섯 개 줬을 거예요",
        "The food could be good if they tried.",
        "I wish the soup was tasty.",
    ],
)
def test_what_would_be_good_is_blame(text: str) -> None:
    assert opinion(text) < 0


@pytest.mark.parametrize(
    "text", ["옆 가게가 훨씬 맛있어요", "편의점 도시락이 더 맛있겠어요", "The soup next door is much better."]
)
def test_praise_of_another_place_is_blame(text: str) -> None:
    assert opinion(text) < 0


def test_no_stem_is_praise_and_blame_and_no_entry_has_two_stems() -> None:
    assert not set(stems_of(PRAISE)) & set(stems_of(BLAME))
    assert all(len(stems_of(word)) == 1 for word in (PRAISE + " " + BLAME).split())
