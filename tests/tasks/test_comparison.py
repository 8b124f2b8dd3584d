"""`CompareAspects`: shares and lifts are those of the labels, and the others' sample is labelled once per run."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import permutations
from typing import Any
from unicodedata import normalize

import pytest
from tests.support.run_methods import each_strategy

from restaurant_llm_batch import (
    AspectComparison,
    AspectLift,
    BatchRunner,
    CompareAspects,
    LLMRequest,
    RestaurantRef,
    RetryPolicy,
    Strategy,
    errors,
)
from restaurant_llm_batch.backends import OfflineLLM
from restaurant_llm_batch.search import EmbeddedSearch
from restaurant_llm_batch.tasks._lifts import sentence
from restaurant_llm_batch.testing import FakeLLM, FakeSearch

LABELS = {"좋": "positive", "나": "negative"}


def honest(request: LLMRequest) -> str:
    """Label by the first letter of each review."""
    shown = request.inputs["reviews"]
    labels = [{"id": one["id"], "label": LABELS.get(one["content"][:1], "neutral")} for one in shown]
    return json.dumps({"labels": labels})


def reviews(good: int, bad: int = 0, silent: int = 0) -> list[str]:
    return [
        f"{word} {n}" for word, count in zip("좋나음", (good, bad, silent), strict=True) for n in range(count)
    ]


class World:
    """A runner over restaurants with given reviews, and the requests that it made."""

    def __init__(self, restaurants: Mapping[Any, list[str]], **options: Any) -> None:
        self.requests: list[LLMRequest] = []
        categories = options.pop("categories", None)
        self.search = FakeSearch(restaurants, fault=options.pop("search_fault", None), categories=categories)
        self.llm = FakeLLM(
            answer=options.pop("answer", honest), fault=options.pop("fault", None), requests=self.requests
        )
        self.runner = BatchRunner(
            llm=self.llm,
            search=self.search,
            strategy=options.pop("strategy", Strategy.stage(1)),
            search_retry=RetryPolicy(attempts=1),
            llm_retry=RetryPolicy(attempts=1),
        )

    def run(self, items: Iterable[Any], **fields: Any) -> list[AspectComparison]:
        report = self.runner.run(CompareAspects(**fields), items)
        report.raise_for_failures()
        return report.results

    def one(self, item: Any, **fields: Any) -> AspectComparison:
        (result,) = self.run([item], **fields)
        return result


def asked(world: World) -> Counter[tuple[Any, str, int]]:
    return Counter(
        (r.inputs["restaurant_id"], r.inputs["aspect"], len(r.inputs["reviews"])) for r in world.requests
    )


def test_the_lift_is_the_distance_of_the_share_from_the_average_in_percent_of_it() -> None:
    world = World({1: reviews(9, 3, 2), 2: reviews(6, 6, 10)})
    result = world.one(1)

    price = result.aspects["price"]
    assert (price.share, price.average, price.lift_percentage) == (0.75, 0.5, 50.0)
    assert (price.satisfied, price.dissatisfied, price.mentions_nothing, price.failed) == (9, 3, 2, 0)
    assert price.comparison_count == 12
    assert result.display == (
        "서비스 만족도는 평균보다 약 50% 높습니다.",
        "가격 만족도는 평균보다 약 50% 높습니다.",
    )
    assert (result.total_candidates, result.validated_count, result.model) == (28, 2, "fake")


def test_all_restaurants_of_a_run_share_one_labelled_sample_per_aspect() -> None:
    world = World({n: reviews(20, 10) for n in range(12)})
    results = world.run(range(3, 12))

    assert asked(world) == {
        **{(n, aspect, 30): 1 for n in range(3, 12) for aspect in ("service", "price")},
        (-1, "service", 30): 1,
        (-1, "price", 30): 1,
    }
    assert {result.aspects["price"].average for result in results} == {2 / 3}


def test_reviews_of_its_own_in_the_sample_give_way_to_those_of_others() -> None:
    world = World({1: reviews(0, 20), 2: reviews(10), 3: reviews(0, 5), 4: reviews(20)})
    first, other = world.run([1, 4], aspects=["food"])

    # The sample has 20 of restaurant 1 and 10 of restaurant 2; for restaurant 1, 20 others take the place of its own.
    assert first.aspects["food"].comparison_count == 30
    assert first.aspects["food"].average == pytest.approx(25 / 30)
    assert other.aspects["food"].average == pytest.approx(10 / 30)
    assert asked(world)[(-1, "food", 20)] == 1
    assert len(world.requests) == 4


def test_a_sample_that_holds_all_reviews_is_not_searched_for_more() -> None:
    world = World({1: reviews(2, 2), 2: reviews(3, 1)})
    result = world.one(1, aspects=["food"])

    assert (result.aspects["food"].average, result.aspects["food"].comparison_count) == (0.75, 4)
    assert world.search.calls == 2


def test_the_order_of_the_items_changes_nothing() -> None:
    restaurants = {1: reviews(20, 3), 2: reviews(9, 9), 3: reviews(1, 20), 4: reviews(3, 2, 9)}
    expected = {one.restaurant_id: one for one in World(restaurants).run(range(1, 5))}

    for order in list(permutations(range(1, 5)))[5::6]:
        assert {one.restaurant_id: one for one in World(restaurants).run(order)} == expected


@each_strategy
def test_each_category_has_a_sample_of_its_own(strategy: Strategy) -> None:
    kinds = {1: "국수", 2: "국수", 3: "카페", 4: "카페", 5: "국수"}
    restaurants = {1: reviews(4, 4), 2: reviews(3), 3: reviews(2, 6), 4: reviews(6, 2), 5: reviews(1, 1)}
    world = World(restaurants, categories=kinds, strategy=strategy)
    decomposed = normalize("NFD", "국수")
    items = [
        {"restaurant_id": 1, "category": "국수"},
        {"restaurant_id": 3, "category": "카페"},
        {"restaurant_id": 5, "category": decomposed},
        4,
    ]
    noodles, cafe, same, everyone = world.run(items, aspects=["food"])

    assert noodles.aspects["food"].average == pytest.approx(4 / 5)
    assert cafe.aspects["food"].average == pytest.approx(6 / 8)
    assert same.aspects["food"].average == pytest.approx(7 / 11)
    assert everyone.aspects["food"].average == pytest.approx(10 / 21)
    assert sum(request.inputs["restaurant_id"] == -1 for request in world.requests) == 3


def test_with_given_averages_nobody_elses_reviews_are_searched_or_labelled() -> None:
    world = World({1: reviews(9, 3), 2: reviews(1, 9)})
    result = world.one(1, averages={"service": 0.6, "price": 1})

    assert result.aspects["service"].lift_percentage == pytest.approx(25)
    assert result.aspects["price"].lift_percentage == pytest.approx(-25)
    assert result.aspects["price"].comparison_count == 0
    assert world.search.calls == 2
    assert {request.inputs["restaurant_id"] for request in world.requests} == {1}


def test_a_restaurant_without_reviews_succeeds_without_a_call() -> None:
    world = World({1: reviews(3, 1), 2: []})
    result = world.one(2)

    nothing = AspectLift(None, None, None)
    assert result == AspectComparison(2, {"service": nothing, "price": nothing}, (), 0, 0, "")
    assert world.requests == []


def test_blank_reviews_are_counted_as_failed_and_make_no_call() -> None:
    world = World({1: ["", "  "], 2: reviews(1)})
    result = world.one(1, averages={"service": 0.5, "price": 0.5})

    assert result.aspects["price"] == AspectLift(None, 0.5, None, failed=2)
    assert world.requests == []


@pytest.mark.parametrize(
    ("own", "others", "share", "average"),
    [
        ((0, 0, 5), (3, 3), None, 0.5),
        ((3, 1), (0, 0, 4), 0.75, None),
        ((3, 1), (0, 4), 0.75, 0.0),
        ((3, 1), (), 0.75, None),
        ((0, 4), (2, 2), 0.0, 0.5),
    ],
)
def test_a_lift_that_cannot_be_said_is_none(
    own: tuple[int, ...], others: tuple[int, ...], share: float | None, average: float | None
) -> None:
    (lift,) = (
        World({1: reviews(*own), 2: reviews(*others or (0,))}).one(1, aspects=["price"]).aspects.values()
    )

    assert (lift.share, lift.average) == (share, average)
    assert lift.lift_percentage == (-100.0 if share == 0.0 else None)
    assert bool(lift.sentence) == (lift.lift_percentage is not None)


def test_shifted_numbers_are_not_believed_and_missing_ones_are_asked_for_again() -> None:
    def shifted(request: LLMRequest) -> str:
        labels = json.loads(honest(request))["labels"]
        if len(labels) == 8:
            labels = [{**one, "id": one["id"] - 1} for one in labels]
        return json.dumps({"labels": labels[1:] if len(labels) == 4 else labels})

    world = World({1: reviews(4, 4), 2: reviews(1, 1)}, answer=shifted)
    lift = world.one(1, aspects=["price"], averages={"price": 0.5}).aspects["price"]

    assert (lift.satisfied, lift.dissatisfied, lift.failed) == (4, 4, 0)
    assert [len(request.inputs["reviews"]) for request in world.requests] == [8, 4, 1, 4, 1]


@pytest.mark.parametrize("where", ["own search", "own labels", "sample", "sample labels"])
def test_an_aspect_that_fails_leaves_the_others(where: str) -> None:
    def search_fault(query: Any, attempt: int) -> Exception | None:
        failing = {"own search": "restaurant", "sample": "others"}.get(where)
        return (
            errors.PermanentBackendError("400") if (query.aspect, query.scope) == ("price", failing) else None
        )

    def fault(request: LLMRequest, attempt: int) -> Exception | None:
        failing = {"own labels": 1, "sample labels": -1}.get(where)
        wrong = (request.inputs["aspect"], request.inputs["restaurant_id"]) == ("price", failing)
        return errors.PermanentBackendError("400") if wrong else None

    result = World({1: reviews(3, 1), 2: reviews(1, 1)}, fault=fault, search_fault=search_fault).one(1)

    price = result.aspects["price"]
    assert price.error == "PermanentBackendError: 400"
    assert price.lift_percentage is None
    assert result.aspects["service"].lift_percentage == pytest.approx(50)
    assert (result.validated_count, len(result.display)) == (1, 1)
    assert price.satisfied == (3 if "sample" in where else 0)
    assert price.failed == (4 if where == "own labels" else 0)


def test_a_restaurant_fails_if_every_aspect_does() -> None:
    def fault(request: LLMRequest, attempt: int) -> Exception | None:
        return errors.PermanentBackendError("400") if request.inputs["restaurant_id"] == 1 else None

    report = World({1: reviews(3, 1), 2: reviews(1, 1)}, fault=fault).runner.run(CompareAspects(), [1, 2])

    assert [failure.item_id for failure in report.failures] == [1]
    assert [result.restaurant_id for result in report.results] == [2]


def test_a_stop_of_the_run_is_not_a_partial_result() -> None:
    def fault(request: LLMRequest, attempt: int) -> Exception | None:
        return errors.QuotaExhausted("spent") if request.inputs["aspect"] == "price" else None

    report = World({1: reviews(3, 1), 2: reviews(1, 1)}, fault=fault).runner.run(CompareAspects(), [1, 2])

    assert not report.results
    assert isinstance(report.stats.stopped_because, str)


def test_text_ids_share_a_sample_too_and_both_unicode_forms_are_one_restaurant() -> None:
    name = "가게"
    world = World({name: reviews(5, 5), "b": reviews(2), "c": reviews(4)})
    first, _ = world.run([normalize("NFC", name), "c"], aspects=["food"])

    assert first.aspects["food"].comparison_count == 6
    assert sum(request.inputs["restaurant_id"] == "(none)" for request in world.requests) == 1


def test_an_item_has_its_own_limit_and_query_which_do_not_touch_the_sample() -> None:
    world = World({1: reviews(20, 20), 2: reviews(20, 20), 3: reviews(9)})
    items = [{"restaurant_id": 3, "limit": 4, "query": "점심"}, RestaurantRef(2, priority=3)]
    first, _ = world.run(items, aspects=["food"])

    assert first.total_candidates == 4
    assert asked(world) == {(3, "food", 4): 1, (2, "food", 30): 1, (-1, "food", 30): 1}


@pytest.mark.parametrize(
    ("lift", "is_few", "korean", "english"),
    [
        (20.4, False, "가격 만족도는 평균보다 약 20% 높습니다.", "the price is about 20% above"),
        (-33.6, False, "가격 만족도는 평균보다 약 34% 낮습니다.", "about 34% below"),
        (2.4, False, "가격 만족도는 평균과 비슷합니다.", "about the same as"),
        (-2.4, True, "평이 많지 않지만, 가격 만족도는 평균과 비슷해 보입니다.", "seems about the same"),
        (2.5, True, "평이 많지 않지만, 가격 만족도는 평균과 비슷해 보입니다.", "seems about the same"),
        (3.5, True, "평이 많지 않지만, 가격 만족도는 평균보다 약 4% 높은 편입니다.", "seems about 4% above"),
        (1234.5, False, "가격 만족도는 평균보다 약 1,234% 높습니다.", "about 1,234% above"),
    ],
)
def test_the_sentence_says_above_below_or_the_same_by_whole_percents(
    lift: float, is_few: bool, korean: str, english: str
) -> None:
    assert sentence("price", lift, "ko", is_few=is_few) == korean
    assert english.replace("the price", "price") in sentence("price", lift, "en", is_few=is_few)


def test_the_name_of_an_aspect_may_hold_braces() -> None:
    assert (
        sentence("{percent} {x}", 50, "en", is_few=False)
        == "Satisfaction with {percent} {x} is about 50% above the average."
    )
    world = World({1: reviews(1), 2: reviews(1)})
    assert world.one(1, aspects={"{form} {x}": ["좋"]}).aspects["{form} {x}"].share == 1
    assert "{form} {x}" in world.requests[0].messages[0]["content"]


def test_the_language_of_the_sentences_is_that_of_the_reviews() -> None:
    english = {1: ["좋 The staff was friendly and quick, we loved it"] * 12, 2: reviews(5, 5)}

    assert World(english).one(1).display[0].startswith("Satisfaction with service is about 100% above")
    assert World(english).one(1, language="ko").display[0].startswith("서비스 만족도는")
    assert World(english).one(1, language="ja").display[0].startswith("Satisfaction")


def test_the_request_names_the_aspect_and_no_restaurant() -> None:
    world = World({"id-4711": reviews(2), "b": reviews(1)})
    world.one("id-4711", aspects=["price"], instructions="Count only lunch.")
    request = world.requests[0]

    assert request.task == "aspect_sentiment"
    assert request.inputs["aspect"] == "price"
    assert "가격 (price)" in request.messages[0]["content"]
    assert "Count only lunch." in request.messages[0]["content"]
    assert "4711" not in str(request.messages)


def test_own_instructions_in_place_of_ours_keep_the_aspect_and_the_form() -> None:
    task = CompareAspects(
        aspects=["price"], instructions="Judge strictly.", replace_instructions=True, language="en"
    )
    prompt = task.preview(1)

    assert str(prompt).count("satisfied with the aspect price") == 2
    assert "You are an analyst" not in prompt


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        (
            {"averages": {"service": 0.6}},
            r"averages must have a share .* for 'price', got None; for example averages=",
        ),
        ({"averages": {"service": 0, "price": 1}}, "above 0 and at most 1 for 'service', got 0"),
        ({"averages": {"service": 60, "price": 55}}, "for 'service', got 60"),
        ({"averages": {"service": True, "price": 1}}, "got True"),
        ({"averages": {"service": float("nan"), "price": 1}}, "got nan"),
        ({"averages": 0.6}, r"must map aspects to shares, got 0.6; for example averages=\{'service': 0.6"),
        (
            {"averages": {"service": 0.6, "price": 0.5, "food": 0.5}},
            "names 'food', which is not among the aspects",
        ),
        ({"limit": 0}, r"CompareAspects.limit must be 1 to 1000"),
        ({"min_score": 2}, r"CompareAspects.min_score must be -1 to 1"),
        ({"aspects": "price"}, r"aspects must be a list"),
        ({"language": "jp"}, r"CompareAspects.language must be"),
        ({"temperature": -1}, r"CompareAspects.temperature must be"),
        ({"max_tokens_per_batch": 0}, r"CompareAspects.max_tokens_per_batch must be"),
    ],
)
def test_a_field_out_of_bounds_is_named(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=complaint):
        CompareAspects(**fields)


@pytest.mark.parametrize("raw", [None, 1.5, [1], {"id": 1}, {"restaurant_id": 1, "reviews": []}, True, ""])
def test_a_bad_item_is_refused(raw: Any) -> None:
    with pytest.raises(errors.ConfigurationError):
        CompareAspects().parse_item(raw)


def test_the_task_can_be_pickled_and_compared() -> None:
    task = CompareAspects(averages={"service": 0.6, "price": 0.55})

    assert pickle.loads(pickle.dumps(task)) == task
    assert replace(task, limit=5).averages == task.averages


@pytest.mark.sample(1)
@each_strategy
def test_the_offline_model_compares_what_the_reviews_say(strategy: Strategy) -> None:
    texts: dict[int, list[str]] = {
        1: ["직원이 정말 친절해요", "사장님이 친절하셔서 기분 좋았어요", "가격이 너무 비싸요"],
        2: ["직원이 불친절해요", "가격 대비 만족스러워요", "가성비가 좋아요"],
        3: ["서비스가 친절해요", "가격이 저렴하고 좋아요", "면이 쫄깃해요"],
    }
    search = EmbeddedSearch()
    search.index_reviews(
        {"restaurant_id": n, "review_id": f"{n}-{i}", "content": text}
        for n, found in texts.items()
        for i, text in enumerate(found)
    )
    (first, *_) = (
        BatchRunner(llm=OfflineLLM(), search=search, strategy=strategy)
        .run(CompareAspects(), [1, 2, 3])
        .results
    )

    service, price = first.aspects["service"], first.aspects["price"]
    assert (service.satisfied, service.dissatisfied, service.average) == (2, 0, 0.5)
    assert (price.satisfied, price.dissatisfied, price.average) == (0, 1, 1.0)
    assert first.display == (
        "평이 많지 않지만, 서비스 만족도는 평균보다 약 100% 높은 편입니다.",
        "평이 많지 않지만, 가격 만족도는 평균보다 약 100% 낮은 편입니다.",
    )
