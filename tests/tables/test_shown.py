"""What a REPL and a notebook show is short, and nothing in it is markup."""

from __future__ import annotations

from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

import pytest

from restaurant_llm_batch import (
    AnalyzeSentiment,
    AspectComparison,
    AspectLift,
    AspectSummary,
    BatchReport,
    BatchRunner,
    Evidence,
    Failure,
    Latency,
    RestaurantSentiment,
    RestaurantStrength,
    RestaurantSummary,
    Review,
    ReviewLabel,
    ReviewSummary,
    RunStats,
    Spent,
    Success,
    Vocabulary,
    Word,
    errors,
)
from restaurant_llm_batch.backends import OfflineLLM

EVIL = "<script>alert(1)</script>\"'&\u202e\x1b[31m\n</td>"
LONG = EVIL + "맛있다 " * 5_000


def summary(item_id: int | str = 1, text: str = LONG) -> RestaurantSummary:
    evidence = tuple(Evidence(number, text, number) for number in range(200))
    aspect = AspectSummary("ok", text, (text,) * 50, evidence, error=text)
    return RestaurantSummary(item_id, text, text, {f"{text[:30]}{number}": aspect for number in range(50)})


def sentiment(reviews: int = 5_000) -> RestaurantSentiment:
    labels = tuple(ReviewLabel(EVIL, "positive", LONG) for _ in range(reviews))
    return RestaurantSentiment(EVIL, reviews, 0, 0, 0, reviews, 100, 0, 0, labels, EVIL)


RESULTS: Sequence[Any] = [
    summary(),
    sentiment(),
    ReviewSummary(EVIL, LONG, LONG, LONG, 1, 2, 3, EVIL),
    RestaurantStrength(EVIL, LONG, LONG, (Review(LONG),) * 500, (Review(LONG),) * 500, 1, 2, 3, EVIL),
    AspectComparison(EVIL, {EVIL: AspectLift(0.5, None, None, sentence=LONG)}, (LONG,) * 40, 3, 1, EVIL),
    Vocabulary(EVIL, {f"{EVIL}{n}": Word("n", (LONG,)) for n in range(900)}, {EVIL: LONG}, (), EVIL),
]
SUCCESSES = [Success(1, result) for result in RESULTS]
FAILURE = Failure(EVIL, errors.OutputInvalid(LONG), "llm", 3, spent=Spent(1.0))
STATS = RunStats(
    1.0, 1, 1, {"llm": 9}, latency={"llm": Latency(9, 1.0, 0.5, 2.0, 3.0)}, stopped_because=LONG, cost=1.5
)


class Tags(HTMLParser):
    """Collects the tags of a page, and whether they nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.open: list[str] = []
        self.attributes: set[str] = set()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        self.open.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check_page(page: str) -> None:
    tags = Tags(page)
    assert not tags.open
    assert tags.found <= {"div", "table", "caption", "thead", "tbody", "tr", "th", "td", "span"}
    assert tags.attributes <= {"style"}
    assert len(page.splitlines()) <= 200
    assert len(page) < 200_000
    assert not any(sign in page for sign in "\u202e\x1b")


@pytest.mark.parametrize(
    "value", [*RESULTS, FAILURE, STATS, *SUCCESSES[:2]], ids=lambda one: type(one).__name__
)
def test_a_value_in_a_notebook_is_a_small_table_without_markup_of_others(value: Any) -> None:
    check_page(value._repr_html_())


@pytest.mark.parametrize("value", [*RESULTS, FAILURE, SUCCESSES[0]], ids=lambda one: type(one).__name__)
def test_a_repr_is_short_and_on_one_line(value: Any) -> None:
    shown = repr(value)

    assert shown.startswith(f"{type(value).__name__}(")
    assert len(shown) < 900
    assert len(shown.splitlines()) == 1
    assert "\u202e" not in shown


def test_a_repr_shows_ids_texts_and_counts_and_leaves_out_defaults() -> None:
    aspect = AspectSummary("ok", "친절하다", ("a",), (Evidence(7, "맛있어요", 0),))
    shown = repr(RestaurantSummary(12, "좋은 집", "m", {"service": aspect, "food": aspect}))

    assert shown == (
        "RestaurantSummary(restaurant_id=12, overall_summary='좋은 집', model='m', categories=<2: service, food>)"
    )
    assert repr(aspect) == "AspectSummary(status='ok', summary='친절하다', bullets=<1>, evidence=<1>)"


def report(successes: int, failures: int = 0) -> BatchReport[Any]:
    value = summary()
    outcomes: list[Any] = [Success(n, value, n, Spent(2.0, 1.0, 3)) for n in range(successes)]
    outcomes += [Failure(n, errors.RateLimited(EVIL), "llm", 1, n) for n in range(failures)]
    return BatchReport(outcomes, STATS)


@pytest.mark.parametrize(("successes", "failures"), [(0, 0), (1, 0), (3, 40), (2_000, 500)])
def test_a_report_in_a_notebook_shows_its_first_rows_and_the_causes(successes: int, failures: int) -> None:
    page = report(successes, failures)._repr_html_()

    check_page(page)
    assert (f"{successes:,} results" in page) == bool(successes)
    assert (f"{failures:,} failures" in page) == bool(failures)


def test_a_thousand_results_print_as_their_first_ten() -> None:
    results = report(1_000).results

    assert len(repr(results)) < 10_000
    assert repr(results).endswith("... and 990 more]")
    assert len(repr(report(1_000).outcomes)) < 10_000
    assert isinstance(results, list)
    assert results == list(results)
    check_page(results._repr_html_())  # type: ignore[attr-defined]


def test_a_few_results_print_as_any_list() -> None:
    results = report(3).results

    assert repr(results) == repr([*results])


def test_the_bar_of_a_report_has_the_shares_of_waiting_and_of_the_calls() -> None:
    stats = RunStats(latency={"llm": Latency(3, 1.0), "search": Latency(2, 0.5)})
    page = BatchReport([Success(1, "x", 0, Spent(9.0, 4.0))], stats)._repr_html_()

    assert "llm 38%" in page
    assert "search 12%" in page
    assert "waiting 50%" in page


def test_what_a_real_run_shows_is_small() -> None:
    items = [
        {"restaurant_id": n, "reviews": [{"id": m, "content": f"맛있어요 {m}"} for m in range(40)]}
        for n in range(30)
    ]
    done = BatchRunner(llm=OfflineLLM()).run(AnalyzeSentiment(), items)

    assert len(repr(done.results)) < 5_000
    check_page(done._repr_html_())
    check_page(done.stats._repr_html_())
