"""Tests of a plan as text, as HTML and as JSON."""

from __future__ import annotations

import json
from collections.abc import Generator
from html.parser import HTMLParser
from typing import Any

import pytest

from restaurant_llm_batch import AdaptiveLimit, BatchRunner, ConcurrencyLimiter, Limits, LLMRequest, Price
from restaurant_llm_batch.simulation import Plan, SimulatedServer
from restaurant_llm_batch.steps import complete

EVIL = "<script>alert('x')</script>\x1b[31m\u202e&\ud83d"


class NeverCalled:
    """A model that must not be called."""

    def __init__(self, model: str = "never") -> None:
        self.model = model

    def complete(self, request: LLMRequest) -> Any:
        raise AssertionError("the model was called")


def kinds(item: Any) -> Generator[Any, Any, None]:
    for number in range(30):
        message = {"role": "user", "content": EVIL}
        yield from complete(LLMRequest(f"{EVIL}{number}", (message,), max_tokens=100))
    raise ValueError(f"{EVIL} {item}")


def evil_plan() -> Plan:
    limits = Limits(llm=AdaptiveLimit(), batches=ConcurrencyLimiter(3), tokens_in_flight=5)
    runner = BatchRunner(llm=NeverCalled(EVIL), limits=limits, prices={"": Price(1, 2)})
    rows = [{"id": EVIL}, {"id": EVIL * 2}, {"id": EVIL}, {EVIL: EVIL}]
    server = SimulatedServer(latency=0.1, slots=2, overload="refuse", kv_tokens=9)
    return runner.plan(kinds, rows, server=server)


def test_the_text_is_short_and_obeys_no_escape_sequence() -> None:
    text = str(evil_plan())

    assert len(text.splitlines()) <= 25
    assert max(map(len, text.splitlines())) < 400
    assert not set(text) & {"\x1b", "\u202e", "\ud83d"}
    assert "and 24 more kinds" in text


def test_the_html_is_whole_and_escaped() -> None:
    tags: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: Any) -> None:
            tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert tags.pop() == tag

    html = evil_plan()._repr_html_()
    Reader().feed(html)

    assert tags == []
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    html.encode()


def test_it_can_be_written_as_json() -> None:
    plan = evil_plan()
    read = json.loads(json.dumps(plan.to_dict()))

    assert read["calls"] == plan.calls
    assert read["cost"] == list(plan.cost or ())
    assert read["kinds"][0]["calls_range"] == list(plan.kinds[0].calls_range)
    assert read["suggested_limits"]["max_tokens_per_batch"] == 9
    assert [row["index"] for row in read["bad_rows"]] == [2, 3]


@pytest.mark.parametrize(("items", "words"), [(1, "1 item,"), (2, "2 items,"), (0, "0 items,")])
def test_the_first_line_says_what_is_planned(items: int, words: str) -> None:
    def dish(item: int) -> Any:
        yield from complete(LLMRequest("dish", ({"role": "user", "content": "A dish?"},)))

    plan = BatchRunner(llm=NeverCalled()).plan(dish, range(items))

    assert str(plan).splitlines()[0] == f"Plan of dish: {words} model never"
    assert repr(plan).startswith("<Plan of dish: ")
