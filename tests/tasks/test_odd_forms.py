"""Answers about aspects in forms that models write: other names, several values, and JSON within JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from restaurant_llm_batch import BatchRunner, LLMRequest, LLMResponse, SummarizeAspects
from restaurant_llm_batch.testing import FakeSearch

ASPECTS = ("service", "price", "food")
KOREAN = {"service": "서비스", "price": "가격", "food": "음식"}


def part(name: str) -> dict[str, Any]:
    return {"summary": f"{name} 좋아요", "bullets": ["하나", "둘"], "evidence": [1, 2]}


CATEGORIES = {name: part(name) for name in ASPECTS}
WHOLE = {"categories": CATEGORIES, "overall_summary": "전체가 좋아요"}


def written(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


OVERALL = written({"overall_summary": "전체가 좋아요"})


@pytest.mark.parametrize(
    "text",
    [
        written(
            {
                "Categories": {
                    name.title(): {k.upper(): v for k, v in part(name).items()} for name in ASPECTS
                },
                "Overall Summary": "전체가 좋아요",
            }
        ),
        written({"categories": CATEGORIES, "overallSummary": "전체가 좋아요"}),
        written({**WHOLE, "categories": {KOREAN[name]: part(name) for name in ASPECTS}}),
        written({**WHOLE, "categories": [{"name": KOREAN[name], **part(name)} for name in ASPECTS]}),
        written({**WHOLE, "categories": {**CATEGORIES, "parking": part("parking")}}),
        written({"categories": CATEGORIES}) + "\n" + OVERALL,
        "\n".join(written({name: part(name)}) for name in ASPECTS) + OVERALL,
        written({"name": "answer", "arguments": written(WHOLE)}),
        written(written(written(WHOLE))),
        written(WHOLE).replace('"', "“").replace(":", "：").replace(",", "，"),
    ],
)
def test_one_call_is_enough_if_everything_is_in_its_answer(text: str) -> None:
    calls: list[str] = []

    class Model:
        def complete(self, request: LLMRequest) -> LLMResponse:
            calls.append(request.task)
            return LLMResponse(text, prompt_tokens=9, completion_tokens=9, model="m")

    search = FakeSearch({1: ["좋아요", "맛있어요"]})
    report = BatchRunner(llm=Model(), search=search).run(SummarizeAspects(price_rule=False), [1])

    (result,) = report.results
    assert calls == ["aspect_summaries"]
    assert result.overall_summary == "전체가 좋아요"
    assert {name: found.summary for name, found in result.categories.items()} == {
        name: f"{name} 좋아요" for name in ASPECTS
    }
    assert all(len(found.evidence) == len(found.bullets) == 2 for found in result.categories.values())
