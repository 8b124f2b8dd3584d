"""A model that obeys a review can say what the form lets it say, about the restaurant whose review it is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.injection.corpus import CONTENTS, Entry
from tests.injection.doubles import OBEDIENT, Model, honest, label_of, obeying
from tests.injection.jobs import JOBS, PLAIN, ROOM, with_entries
from tests.support.examples import examples
from tests.support.flow_runner import apply

from restaurant_llm_batch import (
    AnalyzeSentiment,
    BatchRunner,
    Failure,
    LLMRequest,
    RestaurantSentiment,
    RestaurantStrength,
    RestaurantSummary,
    ReviewSummary,
    Strategy,
    Success,
    SummarizeAspects,
    Vocabulary,
    errors,
)
from restaurant_llm_batch._values import composed
from restaurant_llm_batch.models import Hit, ItemId, SearchQuery
from restaurant_llm_batch.outcomes import Outcome
from restaurant_llm_batch.results import AspectSummary
from restaurant_llm_batch.testing import FakeLLM, FakeSearch

each_job = pytest.mark.parametrize("job", JOBS)
each_double = pytest.mark.parametrize("double", OBEDIENT)

HONEST: Mapping[ItemId, Sequence[str]] = {
    "a": ["친절해요", "The soup was great.", "비싸요"],
    "b": ["조용해요", "", "Never again."],
    "c": ["그냥 그래요"],
}
DISTURBED: Mapping[ItemId, Sequence[str]] = {
    f"hostile {number}": ["괜찮아요", content, "Too salty."] for number, content in enumerate(CONTENTS)
}


def outcomes(
    job: str, shops: Mapping[ItemId, Sequence[str]], model: Model, strategy: Strategy = Strategy.stage(1)
) -> dict[ItemId | None, Outcome[Any]]:
    """Run a job for several restaurants and return what became of each."""
    search = FakeSearch(dict(shops))
    items = [JOBS[job].item(name, texts) for name, texts in shops.items()]
    runner = BatchRunner(llm=FakeLLM(answer=model), search=search, limits=ROOM, strategy=strategy)
    found = runner.run(JOBS[job].task(), items).outcomes
    assert [outcome.item_id for outcome in found] == list(shops)
    return {outcome.item_id: outcome for outcome in found}


def told(outcome: Outcome[Any]) -> object:
    """Return what an outcome is, wherever the item stood."""
    return outcome.value if isinstance(outcome, Success) else repr(outcome.error)


def among_them() -> dict[ItemId, Sequence[str]]:
    """Put an honest restaurant after every thirty hostile ones, so that each has some before it."""
    shops: dict[ItemId, Sequence[str]] = {}
    left = iter(HONEST.items())
    for number, hostile in enumerate(DISTURBED.items(), 1):
        shops.update([hostile, *([next(left)] if number % 30 == 0 else [])])
    return shops | dict(left)


@each_job
@each_double
@pytest.mark.parametrize("stage", [1, 4])
@pytest.mark.sample(1)
def test_who_obeys_changes_no_other_restaurant_and_all_books_are_in_order(
    job: str, double: str, stage: Literal[1, 4]
) -> None:
    undisturbed = outcomes(job, HONEST, honest)
    found = outcomes(job, among_them(), obeying(OBEDIENT[double]), Strategy.stage(stage))

    assert all(isinstance(outcome, Success) for outcome in undisturbed.values())
    assert [told(found[name]) for name in HONEST] == [told(undisturbed[name]) for name in HONEST]
    for name, texts in DISTURBED.items():
        assert_in_order(name, texts, found[name])
    if double == "in-form":  # so that there are books to look at
        assert all(isinstance(found[name], Success) for name in DISTURBED)


def assert_in_order(name: ItemId, texts: Sequence[str], outcome: Outcome[Any]) -> None:
    """The outcome is this restaurant's, and what it counts and cites is what was given."""
    assert outcome.item_id == name
    if isinstance(outcome, Failure):
        assert isinstance(outcome.error, errors.OutputError)
        return
    match outcome.value:
        case RestaurantSummary() as summary:
            assert summary.restaurant_id == name
            assert list(summary.categories) == ["service", "price", "food"]
            for aspect in summary.categories.values():
                assert_evidence(name, texts, aspect)
        case ReviewSummary() as summary:
            assert summary.restaurant_id == name
            assert summary.positive_count + summary.negative_count + summary.failed_count == len(texts)
        case RestaurantSentiment() as sentiment:
            assert sentiment.restaurant_id == name
            assert_labels(texts, sentiment)
        case RestaurantStrength() as strength:
            assert strength.restaurant_id == name
            given = {review.content for review in (*strength.target_reviews, *strength.comparison_reviews)}
            assert given == {*map(composed, texts), *PLAIN}
            read = strength.target_count + strength.comparison_count + strength.failed_count
            assert read == len(strength.target_reviews) + len(strength.comparison_reviews)
        case Vocabulary() as vocabulary:
            assert vocabulary.document_id == name
            assert all(0 <= failed.chunk < len(texts) for failed in vocabulary.failed_chunks)
            assert all(word.pos in ("n", "v", "adj", "adv", "") for word in vocabulary.words.values())
        case other:
            pytest.fail(f"no result: {other!r}")


def assert_evidence(name: ItemId, texts: Sequence[str], aspect: AspectSummary) -> None:
    assert len(aspect.bullets) <= 5
    ranks = [evidence.rank for evidence in aspect.evidence]
    assert len(set(ranks)) == len(ranks)
    for evidence in aspect.evidence:
        assert evidence.review_id == f"{name}-{evidence.rank}"
        assert evidence.snippet == composed(texts[evidence.rank])


def assert_labels(texts: Sequence[str], sentiment: RestaurantSentiment) -> None:
    counts = (sentiment.positive_count, sentiment.negative_count, sentiment.neutral_count)
    assert [label.review_id for label in sentiment.labels] == list(range(len(texts)))
    assert sum(counts) + sentiment.failed_count == sentiment.total_count == len(texts)
    assert sum(counts) == sum(label.label is not None for label in sentiment.labels)
    shares = (sentiment.positive_ratio, sentiment.negative_ratio, sentiment.neutral_ratio)
    assert sum(shares) == (100 if sum(counts) else 0)


@with_entries("double", OBEDIENT, every=6)
def test_labels_of_reviews_in_other_batches_are_as_honest_as_ever(double: str, entry: Entry) -> None:
    texts = ["별로", "Great!", entry.content, "비싸요", "Never again.", "Too salty"]
    model = obeying(OBEDIENT[double])
    item = {"restaurant_id": 1, "reviews": texts}
    result = apply(AnalyzeSentiment(batch_size=2), item, model, limits=ROOM)
    labels = [label.label for label in result.labels]

    assert_labels(texts, result)
    assert [labels[place] for place in (0, 1, 4, 5)] == [label_of(texts[place]) for place in (0, 1, 4, 5)]
    assert "positive" not in labels[:2]  # what the obedient say of all


@with_entries("double", OBEDIENT, every=6)
def test_aspects_asked_about_by_themselves_do_not_hear_of_each_others_reviews(
    double: str, entry: Entry
) -> None:
    def search(bad: str, query: SearchQuery) -> list[Hit]:
        second = bad if query.aspect == "price" else "좋아요"
        return [Hit("r0", f"{query.aspect} 어때요", 1.0, 1), Hit("r1", second, 0.5, 1)]

    task = SummarizeAspects(mode="split", language="ko")  # of "auto", all reviews choose the language
    model = obeying(OBEDIENT[double])
    usual = apply(task, 1, honest, search=partial(search, "비싸요"))
    result = apply(task, 1, model, search=partial(search, entry.content))

    for aspect in ("service", "food"):
        assert result.categories[aspect] == usual.categories[aspect]
    cited = [evidence.snippet for evidence in result.categories["price"].evidence]
    assert set(cited) <= {"price 어때요", composed(entry.content)}


values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 30) | st.floats(allow_nan=False) | st.sampled_from(CONTENTS),
    lambda part: st.lists(part, max_size=4) | st.dictionaries(st.text(max_size=3), part, max_size=3),
    max_leaves=12,
)


@pytest.mark.sample(3)
@each_job
@settings(max_examples=examples(25), deadline=None)
@given(data=st.data())
def test_whatever_json_a_model_answers_the_books_are_in_order(job: str, data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(CONTENTS))

    def spoiled(request: LLMRequest) -> str:
        answer = json.loads(honest(request))
        parts = [answer, *answer.get("categories", {}).values()]
        part = data.draw(st.sampled_from(parts))
        part[data.draw(st.sampled_from(sorted(part)))] = data.draw(values)
        return json.dumps(answer)

    texts = ["괜찮아요", text, "Too salty."]
    found = outcomes(job, {"hostile": texts}, spoiled)

    assert_in_order("hostile", texts, found["hostile"])


@each_job
@pytest.mark.sample(3)
def test_an_answer_nested_beyond_reading_is_an_unusable_answer(job: str) -> None:
    outcome = outcomes(job, {"deep": ["좋아요"]}, lambda request: '{"a": ' + "[" * 100_000 + "}")["deep"]

    assert isinstance(outcome, Failure)
    assert isinstance(outcome.error, errors.OutputInvalid)
