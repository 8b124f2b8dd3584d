"""
Every task with a real, very weak model: it loops, numbers from 1, invents and is cut off, and the books are in order.

Nothing is asserted about what it says.
"""

from __future__ import annotations

from typing import Any

import pytest

from restaurant_llm_batch import (
    AnalyzeSentiment,
    BatchReport,
    BatchRunner,
    ExtractStrengths,
    ExtractVocabulary,
    Limits,
    Strategy,
    SummarizeAspects,
    SummarizeReviews,
    errors,
)
from restaurant_llm_batch.backends import VLLMServerLLM
from restaurant_llm_batch.testing import FakeSearch
from tests.real.conftest import SLOTS

REVIEWS = [
    "Great noodles and friendly staff.",
    "Cold soup, and the waiter was rude.",
    "It was okay.",
    "We waited an hour. Never again!",
    "Lovely place, fair prices.",
    "The dumplings were the best I ever had.",
    "Overpriced.",
    "Nothing special, nothing wrong.",
]


def run(llm: VLLMServerLLM, task: Any, items: list[Any]) -> BatchReport[Any]:
    limits = Limits(llm=SLOTS, batches=SLOTS, max_tokens_per_batch=2000)
    runner = BatchRunner(llm=llm, search=SEARCH, strategy=Strategy.stage(4), limits=limits)
    report = runner.run(task, items)
    assert len(report.outcomes) == len(items)
    # What fails may fail by what the model wrote, and by nothing else.
    assert all(isinstance(failure.error, errors.OutputError) for failure in report.failures), report.failures
    assert report.stats.completion_tokens > 0
    return report


SEARCH = FakeSearch({1: REVIEWS, 2: REVIEWS[:3], 3: []})


def test_labels_are_counted_and_belong_to_their_reviews(llm: VLLMServerLLM) -> None:
    items = [{"restaurant_id": 1, "reviews": REVIEWS}, {"restaurant_id": 2, "reviews": [*REVIEWS[:2], ""]}]
    report = run(llm, AnalyzeSentiment(language="en", batch_size=8), items)

    for result in report.results:
        counted = result.positive_count + result.negative_count + result.neutral_count
        assert counted + result.failed_count == result.total_count == len(result.labels)
        assert [label.review_id for label in result.labels] == list(range(result.total_count))
        assert all((label.error is None) == (label.label is not None) for label in result.labels)
    # The grammar has a key for every review, so none can be missing.
    assert [result.failed_count for result in report.results] == [0, 1]


@pytest.mark.parametrize("mode", ["single", "split"])
def test_summaries_cite_what_was_found_and_are_bounded(llm: VLLMServerLLM, mode: Any) -> None:
    report = run(llm, SummarizeAspects(language="en", mode=mode, limit=5, max_tokens=600), [1, 2, 3])

    for result in report.results:
        for part in result.categories.values():
            assert (part.status == "ok") == bool(part.summary)
            assert len(part.bullets) == len(set(part.bullets)) <= 5
            assert all(one.snippet == REVIEWS[one.rank] for one in part.evidence)
        ok = [part for part in result.categories.values() if part.status == "ok"]
        own = [
            part for part in ok if not part.replaced
        ]  # the model's: not the sentence that stands for an invented price
        assert result.without_evidence == sum(not part.evidence for part in own)
        assert (result.overall_status == "failed") == (result.overall_error is not None)
    empty = next(result for result in report.results if result.restaurant_id == 3)
    assert {part.status for part in empty.categories.values()} == {"no_reviews"}


def test_given_reviews_are_summarised_and_counted(llm: VLLMServerLLM) -> None:
    item = {"restaurant_id": 1, "positive_reviews": REVIEWS[:4], "negative_reviews": REVIEWS[4:]}
    report = run(llm, SummarizeReviews(language="en", max_tokens_per_batch=700, max_tokens=300), [item])

    for result in report.results:
        assert result.overall_summary
        assert result.positive_count + result.negative_count + result.failed_count == len(REVIEWS)
        assert len(result.failed_reviews) == result.failed_count


def test_strengths_are_derived_from_what_was_given(llm: VLLMServerLLM) -> None:
    item = {"target_restaurant_id": 1, "target_reviews": REVIEWS[:4], "comparison_reviews": REVIEWS[4:]}
    report = run(llm, ExtractStrengths(language="en"), [item])

    for result in report.results:
        assert result.target_restaurant_strength
        assert result.target_count + result.comparison_count + result.failed_count == len(REVIEWS)


def test_a_vocabulary_has_words_or_says_which_chunk_failed(llm: VLLMServerLLM) -> None:
    report = run(
        llm,
        ExtractVocabulary(language="en", max_tokens=600),
        [{"document_id": 1, "chunks": [" ".join(REVIEWS)]}],
    )

    for result in report.results:
        assert result.words or result.phrases or result.failed_chunks
        assert all(word.pos in ("n", "v", "adj", "adv", "") for word in result.words.values())


def test_a_prompt_over_the_context_is_shown_with_fewer_reviews(llm: VLLMServerLLM) -> None:
    long = FakeSearch({1: [f"{review} " * 60 for review in REVIEWS * 2]})
    runner = BatchRunner(llm=llm, search=long, limits=Limits(llm=1))
    (outcome,) = runner.run(SummarizeAspects(language="en", limit=16, max_tokens=300), [1]).outcomes

    assert not isinstance(getattr(outcome, "error", None), errors.PromptTooLong)
