"""Minimal program: index a few reviews and summarise their restaurants."""

from __future__ import annotations

from restaurant_llm_batch import BatchRunner, Limits, Strategy, SummarizeAspects
from restaurant_llm_batch.backends import OfflineLLM
from restaurant_llm_batch.search import EmbeddedSearch

REVIEWS = [
    {"restaurant_id": 1, "review_id": "a", "content": "The staff were friendly and quick."},
    {"restaurant_id": 1, "review_id": "b", "content": "Great noodles, but the bill was far too high."},
    {"restaurant_id": 2, "review_id": "c", "content": "Cold soup and a rude waiter."},
]


def main() -> None:
    """Summarise three restaurants; the third has no reviews, which is a result and not a failure."""
    search = EmbeddedSearch()
    search.index_reviews(REVIEWS)
    runner = BatchRunner(
        llm=OfflineLLM(),  # for a real model, for example OpenAILLM("gpt-5-mini")
        search=search,
        strategy=Strategy.stage(4),
        limits=Limits(search=50, llm=8),
    )
    report = runner.run(SummarizeAspects(language="en"), [1, 2, 3])

    for summary in report.results:
        print(f"restaurant {summary.restaurant_id}: {summary.overall_summary or '(no reviews)'}")
        for aspect, part in summary.categories.items():
            print(f"  {aspect}: {part.status}", [evidence.review_id for evidence in part.evidence])
    for failure in report.failures:
        print(failure)


if __name__ == "__main__":
    main()
