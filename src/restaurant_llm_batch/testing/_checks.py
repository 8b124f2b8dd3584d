"""What the doubles say to arguments that cannot work; all of it raises `ConfigurationError`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import ConfigurationError


def check_reviews(reviews: object) -> None:
    """Check what `FakeSearch` finds."""
    if isinstance(reviews, Mapping):
        for name, texts in reviews.items():
            checked_texts(name, texts)
    elif not callable(reviews):
        raise ConfigurationError(
            "reviews must map restaurants to their texts, or be a function that does, "
            f'got {type(reviews).__name__}; write reviews={{1: ["맛있어요"]}}'
        )


def checked_texts(name: Any, texts: Any) -> Iterable[str]:
    """Return the texts of a restaurant, if they are any."""
    # A text is a sequence too: each of its letters would be a review.
    if isinstance(texts, Iterable) and not isinstance(texts, (str, bytes)):
        return texts
    raise ConfigurationError(
        f"the reviews of {name!r} must be a list of texts, got {type(texts).__name__}; "
        f'write {{{name!r}: ["맛있어요"]}}'
    )


def check_common(seconds: object, fault: object) -> None:
    """Check what both doubles take."""
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not seconds >= 0:
        raise ConfigurationError(
            f"seconds must be a number of at least 0, got {seconds!r}; write seconds=0.1"
        )
    if fault is not None and not callable(fault):
        raise ConfigurationError(
            f"fault must be a function of the query or request and the try, got {fault!r}; write "
            "fault=lambda request, tried: errors.TransientBackendError() if tried == 1 else None"
        )


def check_categories(categories: object) -> None:
    """Check the kinds of food of `FakeSearch`."""
    if categories is not None and not isinstance(categories, Mapping):
        raise ConfigurationError(
            f"categories must map restaurants to kinds of food, got {categories!r}; write categories={{1: 7}}"
        )


def check_answer(answer: object) -> None:
    """Check what writes the answers of `FakeLLM`."""
    if answer is not None and not callable(answer):
        raise ConfigurationError(
            f"answer must be a function of the request, got {answer!r}; write answer=lambda request: {answer!r}"
        )


def check_requests(requests: object) -> None:
    """Check where `FakeLLM` keeps the requests."""
    if requests is not None and not hasattr(requests, "append"):
        raise ConfigurationError(
            f"requests must be a list, which every request is appended to, got {requests!r}; write requests=[]"
        )
