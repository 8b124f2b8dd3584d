"""Every task, as something that is given texts and asks questions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import pytest
from tests.injection.corpus import ENTRIES, NAMES
from tests.support.flow_runner import apply

from restaurant_llm_batch import (
    AnalyzeSentiment,
    CompareAspects,
    ExtractStrengths,
    ExtractVocabulary,
    Limits,
    LLMRequest,
    SummarizeAspects,
    SummarizeReviews,
    errors,
)
from restaurant_llm_batch.models import ItemId
from restaurant_llm_batch.testing import FakeSearch

RESTAURANT = "QX-restaurant-40713"
"""A name that would be found wherever it stood."""
PLAIN = ("국물이 진해요", "The noodles were cold.")
ROOM = Limits(max_tokens_per_batch=500_000, max_batch_size=500)


@dataclass(frozen=True)
class Job:
    """
    A task, and how an item is made of texts.

    Attributes:
        task: Makes the task; takes its fields.
        item: Makes an item of a name and texts.
        repairs: Whether it quotes an answer that it could not read.
    """

    task: Callable[..., Any]
    item: Callable[[ItemId, Sequence[str]], Any]
    repairs: bool = True


def _sorted(name: ItemId, texts: Sequence[str]) -> Any:
    return {"restaurant_id": name, "positive_reviews": texts[::2], "negative_reviews": texts[1::2]}


def _target(name: ItemId, texts: Sequence[str]) -> Any:
    return {"target_restaurant_id": name, "target_reviews": texts, "comparison_reviews": PLAIN}


def _compared(name: ItemId, texts: Sequence[str]) -> Any:
    return {"target_restaurant_id": name, "target_reviews": PLAIN, "comparison_reviews": texts}


JOBS: Mapping[str, Job] = {
    "aspects": Job(partial(SummarizeAspects, limit=100), lambda name, texts: name),
    "aspects-split": Job(partial(SummarizeAspects, mode="split", limit=100), lambda name, texts: name),
    "reviews": Job(SummarizeReviews, _sorted),
    "sentiment": Job(
        AnalyzeSentiment, lambda name, texts: {"restaurant_id": name, "reviews": texts}, repairs=False
    ),
    "aspect-labels": Job(
        partial(CompareAspects, limit=100), lambda name, texts: {"restaurant_id": name}, repairs=False
    ),
    "strengths": Job(ExtractStrengths, _target),
    "comparison": Job(ExtractStrengths, _compared),
    "vocabulary": Job(ExtractVocabulary, lambda name, texts: {"document_id": name, "chunks": texts}),
}


def with_entries(name: str, values: Iterable[str], every: int = 1) -> pytest.MarkDecorator:
    """
    Parametrize a test with the product of values and entries, most of which is marked slow.

    By default every n-th entry is tried, each with one of the values in turn.

    Args:
        name: The name of the parameter beside ``entry``.
        values: Its values.
        every: n.
    """
    values, entries = list(values), list(enumerate(ENTRIES))
    return pytest.mark.parametrize(
        (name, "entry"),
        [
            pytest.param(
                value,
                entry,
                id=f"{value}-{NAMES[number]}",
                marks=()
                if number % every == 0 and values[number // every % len(values)] == value
                else pytest.mark.slow,
            )
            for value, (number, entry) in product(values, entries)
        ],
    )


def asked(
    name: str,
    texts: Sequence[str],
    answer: Callable[[LLMRequest], str],
    *,
    limits: Limits = ROOM,
    **fields: Any,
) -> list[LLMRequest]:
    """Run a job for one restaurant and return what it asked; that its answers cannot be read is no matter."""
    requests: list[LLMRequest] = []

    def model(request: LLMRequest) -> str:
        requests.append(request)
        return answer(request)

    job = JOBS[name]
    search = FakeSearch({RESTAURANT: texts}).search
    fields.setdefault("language", "ko")
    with suppress(errors.OutputError):
        apply(job.task(**fields), job.item(RESTAURANT, texts), model, limits=limits, search=search)
    assert requests
    return requests
