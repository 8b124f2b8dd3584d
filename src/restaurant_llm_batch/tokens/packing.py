"""Batch packing by token budget: dynamic batch size, greedy packing in order, and truncation of long reviews."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar, cast

from .._validation import as_whole
from .._values import composed
from ..errors import ConfigurationError
from ..models import Hit, Review
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
"""End of a review's text that was truncated to fit its batch."""

SLICE = 10_000
"""
Characters to pack before others get a turn; counting them takes some milliseconds. A short text counts as
`SHORT_TEXT`.
"""

SHORT_TEXT = 100

R = TypeVar("R", bound=str | Review | Mapping[str, Any])


@dataclass(frozen=True, slots=True)
class PackedText:
    """
    A text in a batch.

    Attributes:
        index: Its index in the list of texts.
        text: The text, or as much of it as fits the budget.
        truncated: Whether it differs from the original text, if only by the white space around it.
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
    Return the number of reviews per batch that fits a token budget, by the average length of the reviews.

    A batch of this size fits the budget on average only; `pack_reviews` makes batches that always fit.

    Args:
        reviews: Texts, `Review`s or mappings with "content".
        max_tokens_per_batch: Token budget of a batch; takes precedence over `min_batch_size`.
        min_batch_size: Minimum reviews per batch, if the budget allows.
        max_batch_size: Maximum reviews per batch.
        default_batch_size: Result without any reviews, clamped to the minimum and maximum.
        count_tokens: Token counter.

    Raises:
        ConfigurationError: If an argument has the wrong type or value.
    """
    max_tokens_per_batch = whole_number("max_tokens_per_batch", max_tokens_per_batch, 4000)
    min_batch_size = whole_number("min_batch_size", min_batch_size, 10)
    max_batch_size = whole_number("max_batch_size", max_batch_size, 100)
    default_batch_size = whole_number("default_batch_size", default_batch_size, 50)
    if min_batch_size > max_batch_size:
        raise ConfigurationError(
            f"min_batch_size={min_batch_size} is more than max_batch_size={max_batch_size}; "
            f"for example min_batch_size={max_batch_size}"
        )
    counted = [_checked_count(count_tokens, content) for content in _contents(list(_checked_list(reviews)))]
    if not counted:
        return min(max(default_batch_size, min_batch_size), max_batch_size)
    # `min_batch_size` is not applied: if fewer reviews fit, more would exceed the budget; if more fit, it holds
    # anyway.
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
    Pack reviews into batches in their order, none of which exceeds the token budget.

    A review that exceeds the budget by itself gets a batch of its own: a copy without the white space around it
    and, if still too large, truncated. A truncated text ends with `TRUNCATION_MARK`, unless not even the mark
    fits. All other reviews are returned unchanged.

    Args:
        reviews: Texts, `Review`s or mappings with "content".
        max_tokens_per_batch: Maximum tokens per batch, summed over the contents of its reviews.
        max_batch_size: Maximum reviews per batch.
        count_tokens: Token counter; called once per review.

    Raises:
        ConfigurationError: If an argument has the wrong type or value.
    """
    max_tokens_per_batch = whole_number("max_tokens_per_batch", max_tokens_per_batch, 4000)
    max_batch_size = whole_number("max_batch_size", max_batch_size, 100)
    originals = list(_checked_list(reviews))
    batches = pack_texts(
        _contents(originals), max_tokens_per_batch, max_texts=max_batch_size, count=count_tokens
    )
    return [
        [
            _with_content(originals[packed.index], packed.text)
            if packed.truncated
            else originals[packed.index]
            for packed in batch
        ]
        for batch in batches
    ]


Packing: TypeAlias = Generator[None, None, list[list[PackedText]]]
"""Packs texts, and yields whenever it has worked for some milliseconds; returns the batches."""


def finish(packing: Packing) -> list[list[PackedText]]:
    """Pack to the end without a pause."""
    while True:
        try:
            next(packing)
        except StopIteration as end:
            batches: list[list[PackedText]] = end.value
            return batches


def pack_texts(
    texts: Sequence[str],
    budget: int,
    *,
    max_texts: int,
    count: TokenCount = estimate_tokens,
    render: Callable[[str], str] | None = None,
) -> list[list[PackedText]]:
    """
    Pack texts into as few batches as their order and the budget allow (next-fit).

    A larger budget never makes more batches.

    Args:
        texts: The texts.
        budget: Maximum tokens per batch, summed over its rendered texts.
        max_texts: Maximum texts per batch.
        count: Token counter; called once per text, and some ten times more for a text that is truncated.
        render: Renders a text as its line of the prompt, including the newline; None for the text itself.

    Raises:
        ConfigurationError: If an argument has the wrong type or value, or not even an empty line fits the budget.
    """
    budget = whole_number("budget", budget, 4000)
    max_texts = whole_number("max_texts", max_texts, 100)
    return finish(_packing(texts, budget, max_texts, count, render))


def _packing(
    texts: Sequence[str],
    budget: int,
    max_texts: int,
    count: TokenCount,
    render: Callable[[str], str] | None,
) -> Packing:
    batches: list[list[PackedText]] = []
    room = count_left = 0  # tokens and texts that the last batch has room for; 0 before the first batch
    slice_left = SLICE
    for index, text in enumerate(texts):
        if slice_left <= 0:
            yield
            slice_left = SLICE
        slice_left -= max(len(text), SHORT_TEXT)
        tokens = _checked_count(count, render(text) if render else text)
        if tokens > budget:
            batches.append(
                [PackedText(index, _truncate_to_budget(text, budget, tokens, count, render), truncated=True)]
            )
            room = count_left = 0
            continue
        if tokens > room or not count_left:
            batches.append([])
            room, count_left = budget, max_texts
        batches[-1].append(PackedText(index, text, truncated=False))
        room -= tokens
        count_left -= 1
    return batches


CHAT_TEMPLATE_OVERHEAD = 16
"""Tokens that a chat template puts around a system and a user message: 7 to 14 in those of Qwen, Llama and OpenAI."""


def pack_prompts(
    texts: Sequence[str],
    budget: int,
    *,
    max_texts: int,
    fixed_tokens: int,
    answer_tokens_each: int = 0,
    count: TokenCount = estimate_tokens,
    render: Callable[[str], str],
) -> Packing:
    """
    Pack texts, in slices, into prompts that keep to a token budget together with their replies.

    Args:
        texts: The texts.
        budget: Maximum tokens of a prompt and its reply.
        max_texts: Maximum texts in a prompt.
        fixed_tokens: Tokens of everything else in a prompt, and of a reply without what each text adds to it.
        answer_tokens_each: Tokens of the reply for each text.
        count: Token counter.
        render: Renders a text as its line of the prompt.

    Raises:
        ConfigurationError: If the prompt's fixed text and the reply alone fill the budget.
    """
    fixed = fixed_tokens + CHAT_TEMPLATE_OVERHEAD
    each = answer_tokens_each
    if fixed + each >= budget:
        raise ConfigurationError(
            f"max_tokens_per_batch={budget} leaves no room for reviews: instructions and reply take {fixed} "
            f"tokens; for example max_tokens_per_batch={2 * fixed}"
        )
    return _packing(
        texts,
        whole_number("budget", budget - fixed, 4000),
        whole_number("max_texts", max_texts, 100),
        (lambda text: count(text) + each) if each else count,
        lambda text: render(text) + "\n",
    )


def truncate_to_half(text: str, shortest: int = 40) -> str | None:
    """
    Return the first half of a text, for retrying a prompt that was too long.

    The half ends with `TRUNCATION_MARK`, which does not count as text, so a half can be halved again. Strips
    surrounding white space, and does not split grapheme clusters.

    Args:
        text: The text, or a half of it.
        shortest: Minimum length of the half in characters.

    Returns:
        The half, or None if it would be shorter than `shortest`.
    """
    text = text.removesuffix(TRUNCATION_MARK).strip()
    half = text[: boundary(text, len(text) // 2)].rstrip()
    return half + TRUNCATION_MARK if half and len(half) >= shortest else None


def _truncate_to_budget(
    text: str, budget: int, tokens: int, count: TokenCount, render: Callable[[str], str] | None
) -> str:
    """Return the longest beginning of a text that fits, by exponential and then binary search over its length."""

    def fits(shorter: str) -> bool:
        return _checked_count(count, render(shorter) if render else shorter) <= budget

    original, text = text, text.strip()
    if text != original and fits(text):
        return text
    # Start from twice the text's proportional share of the budget. Tokens are spread about evenly, so the search
    # seldom tries much more, and truncating a megabyte costs no more than truncating twice the budget. Double
    # while it fits.
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
            f"max_tokens_per_batch= leaves {budget} tokens for reviews, too few for even an empty one; increase it"
        )
    return best


def _shortened(text: str, max_characters: int) -> str:
    return text[: boundary(text, max_characters)].rstrip() + TRUNCATION_MARK


def _with_content(review: R, content: str) -> R:
    if isinstance(review, Review):
        return cast("R", replace(review, content=content))
    if isinstance(review, Mapping):
        return cast("R", {**review, "content": content})
    return cast("R", content)


def contents_of(reviews: Iterable[Any]) -> list[str]:
    """
    Return the texts of reviews, in composed form.

    Args:
        reviews: Texts, `Review`s, hits, or mappings with "content".

    Raises:
        ConfigurationError: If it is not a list of these.
    """
    return _contents(list(_checked_list(reviews)))


def _contents(reviews: Sequence[object]) -> list[str]:
    return [_content(review, index) for index, review in enumerate(reviews)]


def _content(review: object, index: int) -> str:
    content = review
    if isinstance(review, (Review, Hit)):
        content = review.content
    elif isinstance(review, Mapping):
        content = review.get("content")
    if isinstance(content, str):
        return composed(content)  # as the tasks send it
    raise ConfigurationError(
        f'reviews[{index}] must be a text, a Review or a mapping whose "content" is a text, got '
        f'{type(review).__name__}; for example {{"content": "맛있어요"}}'
    )


def _checked_list(reviews: Iterable[R]) -> Iterable[R]:
    if isinstance(reviews, (str, bytes, Mapping, Review)) or not isinstance(reviews, Iterable):
        raise ConfigurationError(
            f"reviews must be a list of reviews, got {type(reviews).__name__}; for example [review]"
        )
    return reviews


def _checked_count(count: TokenCount, text: str) -> int:
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
    Return an argument that must be a whole number of at least 1, as an int.

    Args:
        name: The argument's name.
        value: The argument; whole numbers of other types are accepted, such as numpy's.
        example: A working value for the message.

    Raises:
        ConfigurationError: If it is not.
    """
    whole = as_whole(value)
    if whole is None or whole < 1:
        raise ConfigurationError(
            f"{name} must be a whole number of at least 1, got {value!r}; for example {name}={example}"
        )
    return whole
