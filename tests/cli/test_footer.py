"""What the report of a run says below its tables."""

from __future__ import annotations

import pytest

from restaurant_llm_batch.cli._report import ResultCollector, _failed_parts, refusals
from restaurant_llm_batch.cli._views import ResultView
from restaurant_llm_batch.outcomes import EndpointStats, LimitChange, RunStats, Success


def said(failed: dict[int | str, int]) -> str:
    """Return what the report says of items with so many failed parts."""
    collected: ResultCollector[int] = ResultCollector(None, int)
    for index, (item_id, parts) in enumerate(failed.items()):
        collected.add(Success(item_id, parts, index))
    view: ResultView[int] = ResultView(
        table=lambda *_: [],  # type: ignore[arg-type]
        record=lambda _: {},
        count_failed_parts=int,
        failed_part_phrases=("summary failed", "summaries failed"),
        done="summarised",
        offline="",
    )
    return _failed_parts(collected, view)


@pytest.mark.parametrize(
    ("failed", "sentence"),
    [
        ({1: 0, 7: 1, 9: 0}, "1 summary failed (of restaurant 7)"),
        ({7: 2}, "2 summaries failed (of restaurant 7)"),
        ({7: 1, "가게": 1}, "2 summaries failed (of restaurants 7, 가게)"),
        ({1: 1, 2: 1, 3: 1}, "3 summaries failed (of restaurants 1, 2, 3)"),
        (dict.fromkeys(range(50), 1), "50 summaries failed (of restaurants 0, 1, 2, ...)"),
        ({"\x1b[31m": 1}, "1 summary failed (of restaurant [31m)"),
    ],
)
def test_items_with_failed_parts_are_named(failed: dict[int | str, int], sentence: str) -> None:
    assert said(failed) == sentence


def refused(endpoints: dict[str, int], *changes: tuple[str, int]) -> str:
    """Return what the report says of refusals at endpoints, whose adaptive limits have changed like this."""
    stats = RunStats(
        wall_seconds=1.0,
        rate_limited=sum(endpoints.values()),
        endpoints={name: EndpointStats(9, 9, number) for name, number in endpoints.items()},
        limit_history=tuple(LimitChange(name, 0.5, limit, "rate_limited") for name, limit in changes),
    )
    return refusals(stats)


def test_advice_about_refused_calls_of_a_pool_is_about_its_endpoints() -> None:
    assert "--llm-concurrency" not in refused({"a": 3, "b": 0})
    assert refused({"a": 3, "b": 0}) == (
        "The service refused 3 calls; give its pool a limit that adapts to what the endpoint takes: "
        "limits={'a': AdaptiveLimit()}."
    )
    assert refused({"a": 3, "b": 1}, ("llm:a", 6), ("llm:a", 4)) == (
        "The service refused 4 calls; a takes about 4; give its pool a limit that adapts to what the endpoint takes: "
        "limits={'b': AdaptiveLimit()}."
    )
    assert refused({"a": 3}, ("llm:a", 4)) == "The service refused 3 calls; a takes about 4."
