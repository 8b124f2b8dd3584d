"""Batches that keep to a token budget: what a review costs, and which reviews go together."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, SupportsIndex, TypeVar, cast

from ..errors import ConfigurationError
from ..models import Review
from .counting import TokenCount, estimate_tokens
from .sentences import boundary

__all__ = [
    "TRUNCATION_MARK",
    "PackedText",
    "TokenCount",
    "calculate_dynamic_batch_size",
    "estimate_tokens",
    "pack_reviews",
    "pack_texts",
    "truncate_to_half",
]

TRUNCATION_MARK = " […]"
"""How the text of a review ends that had to be cut to fit its batch."""

R = TypeVar("R", bound=str | Review | Mapping[str, Any])


@dataclass(frozen=True, slots=True)
class PackedText:
    """
    A text in its batch.

    Attributes:
        index: Its place among the texts that were given.
        text: The text, or as much of it as the budget allows.
        truncated: Whether something is missing, if only the white space around it.
    """

    index: int
    text: str
    truncated: bool


def calculate_dynamic_batch_size(
    reviews: Iterable[str | Review | Mapping[str, Any]],
    max_tokens_per_batch: int = 4000,
    *,
    min_batch_size: int = 10,
    max_batch_size: int = 100,
    default_batch_size: int = 50,
    count_tokens: TokenCount = estimate_tokens,
) -> int:
    """
    Return how many reviews of this kind a batch may hold, judged by the average of all of them.

    A batch of that many reviews keeps to the budget on average only: `pack_reviews` makes batches that do.

    Args:
        reviews: Texts, `Review`s or mappings with "content".
        max_tokens_per_batch: The budget; it counts for more than `min_batch_size`.
        min_batch_size: Fewest reviews in a batch, where the budget allows so many.
        max_batch_size: Most reviews in a batch.
        default_batch_size: The answer where there are no reviews to judge by, kept within the other two.
        count_tokens: Says how many tokens a text has.

    Raises:
        ConfigurationError: When an argument cannot be used.
    """
    max_tokens_per_batch = whole_number("max_tokens_per_batch", max_tokens_per_batch, 4000)
    min_batch_size = whole_number("min_batch_size", min_batch_size, 10)
    max_batch_size = whole_number("max_batch_size", max_batch_size, 100)
    default_batch_size = whole_number("default_batch_size", default_batch_size, 50)
    if min_batch_size > max_batch_size:
        raise ConfigurationError(
            f"min_batch_size={min_batch_size} is more than max_batch_size={max_batch_size}; "
            f"write min_batch_size={max_batch_size} or less"
        )
    counted = [_counted(count_tokens, content) for content in _contents(list(_each(reviews)))]
    if not counted:
        return min(max(default_batch_size, min_batch_size), max_batch_size)
    # Where fewer than `min_batch_size` fit, more would break the budget; where more fit, it holds by itself.
    total = sum(counted)
    fitting = max_tokens_per_batch * len(counted) // total if total else max_batch_size
    return min(max(fitting, 1), max_batch_size)


def pack_reviews(
    reviews: Iterable[R],
    max_tokens_per_batch: int = 4000,
    *,
    max_batch_size: int = 100,
    count_tokens: TokenCount = estimate_tokens,
) -> list[list[R]]:
    """
    Return the reviews in batches, in their order, none of which is over the budget.

    A review that is larger than the whole budget goes alone: a copy of it without the white space around it and,
    where it is still too large, cut to fit. A text that was cut ends with `TRUNCATION_MARK`, unless not even the mark
    fits. All others are returned as they were given.

    Args:
        reviews: Texts, `Review`s or mappings with "content".
        max_tokens_per_batch: Most tokens in a batch, over the contents of its reviews.
        max_batch_size: Most reviews in a batch.
        count_tokens: Says how many tokens a text has; asked once for every review.

    Raises:
        ConfigurationError: When an argument cannot be used.
    """
    max_tokens_per_batch = whole_number("max_tokens_per_batch", max_tokens_per_batch, 4000)
    max_batch_size = whole_number("max_batch_size", max_batch_size, 100)
    given = list(_each(reviews))
    batches = pack_texts(_contents(given), max_tokens_per_batch, max_texts=max_batch_size, count=count_tokens)
    return [
        [_with_content(given[one.index], one.text) if one.truncated else given[one.index] for one in batch]
        for batch in batches
    ]


def pack_texts(
    texts: Sequence[str],
    budget: int,
    *,
    max_texts: int,
    count: TokenCount = estimate_tokens,
    render: Callable[[str], str] | None = None,
) -> list[list[PackedText]]:
    """
    Return the texts in as few batches as keep their order and the budget.

    A larger budget never makes more batches.

    Args:
        texts: What to pack.
        budget: Most tokens in a batch, over the lines of its texts.
        max_texts: Most texts in a batch.
        count: Says how many tokens a line has; asked once for every text, and some ten times more for one
            that must be cut.
        render: Renders a text as it will stand in the prompt, with the newline after it; as it is if not given.

    Raises:
        ConfigurationError: When an argument cannot be used, or the budget has no room for an empty line.
    """
    budget = whole_number("budget", budget, 4000)
    max_texts = whole_number("max_texts", max_texts, 100)
    batches: list[list[PackedText]] = []
    room = count_left = 0  # of the last batch; none is open yet
    for index, text in enumerate(texts):
        tokens = _counted(count, render(text) if render else text)
        if tokens > budget:
            batches.append([PackedText(index, _cut(text, budget, tokens, count, render), truncated=True)])
            room = count_left = 0
            continue
        if tokens > room or not count_left:
            batches.append([])
            room, count_left = budget, max_texts
        batches[-1].append(PackedText(index, text, truncated=False))
        room -= tokens
        count_left -= 1
    return batches


def truncate_to_half(text: str, shortest: int = 40) -> str | None:
    """
    Return the first half of a text, for a prompt that was too long with all of it.

    It ends with `TRUNCATION_MARK`, which is not counted as text, so that a half can be halved again. Surrounding white
    space is left out, and no character that people see as one is torn.

    Args:
        text: The text, or a half of it.
        shortest: Fewest characters that are worth asking about.

    Returns:
        The half, or None where it would be shorter than that.
    """
    text = text.removesuffix(TRUNCATION_MARK).strip()
    half = text[: boundary(text, len(text) // 2)].rstrip()
    return half + TRUNCATION_MARK if half and len(half) >= shortest else None


def _cut(text: str, budget: int, tokens: int, count: TokenCount, line: Callable[[str], str] | None) -> str:
    def fits(shorter: str) -> bool:
        return _counted(count, line(shorter) if line else shorter) <= budget

    given, text = text, text.strip()
    if text != given and fits(text):
        return text
    # Texts are about equally dense, so that far more than its share of the budget is seldom tried: a review of
    # a megabyte costs no more than one of twice the budget. Where this fits, the text begins less densely.
    low, high = 0, max(1, 2 * len(text) * budget // tokens)
    best = ""
    while high < len(text) and fits(shorter := _shortened(text, high)):
        best, low, high = shorter, high + 1, 2 * high
    high = min(high, len(text)) - 1
    while low <= high:
        middle = (low + high) // 2
        if fits(shorter := _shortened(text, middle)):
            best, low = shorter, middle + 1
        else:
            high = middle - 1
    if not best and not fits(""):
        raise ConfigurationError(
            f"a budget of {budget} tokens for a batch has no room for an empty review; write a larger one"
        )
    return best


def _shortened(text: str, most: int) -> str:
    return text[: boundary(text, most)].rstrip() + TRUNCATION_MARK


def _with_content(review: R, content: str) -> R:
    if isinstance(review, Review):
        return cast("R", replace(review, content=content))
    if isinstance(review, Mapping):
        return cast("R", {**review, "content": content})
    return cast("R", content)


def _contents(reviews: Sequence[object]) -> list[str]:
    return [_content(review, place) for place, review in enumerate(reviews)]


def _content(review: object, place: int) -> str:
    content = review
    if isinstance(review, Review):
        content = review.content
    elif isinstance(review, Mapping):
        content = review.get("content")
    if isinstance(content, str):
        return content
    raise ConfigurationError(
        f'reviews[{place}] must be a text, a Review or a mapping whose "content" is a text, got '
        f'{type(review).__name__}; for example {{"content": "맛있어요"}}'
    )


def _each(reviews: Iterable[R]) -> Iterable[R]:
    if isinstance(reviews, (str, bytes, Mapping, Review)) or not isinstance(reviews, Iterable):
        raise ConfigurationError(
            f"reviews must be a list of reviews, got {type(reviews).__name__}; for example [review]"
        )
    return reviews


def _counted(count: TokenCount, text: str) -> int:
    tokens: object = count(text)
    whole = as_whole(tokens)
    if whole is None or whole < 0:
        raise ConfigurationError(
            f"a token counter must return a whole number of at least 0, got {tokens!r}; "
            "for example count_tokens=lambda text: len(encoding.encode(text))"
        )
    return whole


def whole_number(name: str, value: object, example: int) -> int:
    """
    Return an argument that must be a whole number of at least 1.

    Raises:
        ConfigurationError: When it is none.
    """
    whole = as_whole(value)
    if whole is None or whole < 1:
        raise ConfigurationError(
            f"{name} must be a whole number of at least 1, got {value!r}; for example {name}={example}"
        )
    return whole


def as_whole(value: object) -> int | None:
    """Return a whole number of any kind (numpy's too) as an integer, or None for what is none."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None
