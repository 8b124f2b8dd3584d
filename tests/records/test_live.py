"""What `top` shows of a run: figures that are looked up bit by bit are those of the whole."""

from __future__ import annotations

import itertools
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.records import runner
from tests.support.slow import quick_of

from restaurant_llm_batch import BatchRunner, Limits, LLMRequest, Price, RetryPolicy, Strategy
from restaurant_llm_batch.events import Event
from restaurant_llm_batch.records import Recording, open_record
from restaurant_llm_batch.records._live import LiveView, Picture
from restaurant_llm_batch.records._recording import describe_runner
from restaurant_llm_batch.simulation import LogNormal, SimulatedServer
from restaurant_llm_batch.steps import Flow, complete, gather
from restaurant_llm_batch.testing import FakeLLM


def two(item: Any) -> Flow[Any]:
    """Make two calls of different labels."""

    def one(label: str) -> Flow[str]:
        reply = yield from complete(LLMRequest(label, ({"role": "user", "content": f"{label} {item}"},)))
        return reply.text

    return (yield from gather(one("dish"), one("place")))


def simulated(**arguments: Any) -> tuple[BatchRunner, list[Event], Any]:
    """Return a runner, and the events and the report of a simulation with faults."""
    used = BatchRunner(
        llm=FakeLLM(),
        strategy=Strategy.stage(4),
        limits=Limits(llm=7, open_items=20),
        llm_retry=RetryPolicy(attempts=2, wait_initial=0.5, wait_max=2.0),
        prices={"": Price(prompt=1.0, completion=2.0)},
        **arguments,
    )
    events: list[Event] = []
    server = SimulatedServer(
        latency=LogNormal(0.8, 0.6),
        slots=5,
        overload="refuse",
        faults={"server_error": 0.2, "content_filter": 0.05, "no_response": 0.01},
    )
    report = used.simulate(two, range(60), server, seed=3, observers=[events.append]).report
    return used, events, report


def told(picture: Picture) -> dict[str, Any]:
    """Return a picture for a comparison, without what depends on the order in which rows were read."""
    found = asdict(picture)
    for figures in found["calls"].values():
        figures["ended"] = {outcome: number for outcome, number in figures["ended"].items() if number}
    found["cost"] = None if picture.cost is None else round(picture.cost, 9)
    found["cost_at_end"] = None if picture.cost_at_end is None else round(picture.cost_at_end, 9)
    found["causes"] = sorted(map(str, found["causes"]))
    return found


@pytest.mark.parametrize("size", quick_of([1, 7, 90, 10_000], 90))
def test_looks_on_the_way_add_up_to_what_one_look_sees(path: Path, size: int) -> None:
    used, events, report = simulated()
    parts = used.parts
    recording = Recording(path)
    facts = describe_runner(parts.llm, parts.strategy, parts.limits, parts.config)
    observer = recording.observer(replace(facts, simulated=True))
    view: LiveView | None = None
    looks = 0
    for start in itertools.count(0, size):
        if start >= len(events):
            break
        for event in events[start : start + size]:
            observer(event)
        recording.flush()
        view = view or LiveView(path, 1)
        assert told(view.look()) == told(LiveView(path, 1).look())
        looks += 1
    recording.close()
    assert looks == -(-len(events) // size)
    assert view is not None
    picture, stats = view.look(), report.stats
    assert (picture.succeeded, picture.failed) == (stats.succeeded, stats.failed)
    assert sum(cause.items for cause in picture.causes) == stats.failed
    assert (picture.prompt_tokens, picture.completion_tokens) == (
        stats.prompt_tokens,
        stats.completion_tokens,
    )
    assert picture.cost == pytest.approx(stats.cost)
    assert picture.open == 0
    assert {name for _, name in picture.calls} == {"dish", "place"}
    ended = sum(sum(figures.ended.values()) for figures in picture.calls.values())
    assert ended == stats.calls["llm"]
    assert sum(figures.ended["refused"] for figures in picture.calls.values()) == stats.rate_limited


def test_a_run_on_its_way_shows_what_is_open_what_it_costs_and_how_long_it_takes(path: Path) -> None:
    used, events, _ = simulated()
    parts = used.parts
    with Recording(path) as recording:
        facts = describe_runner(parts.llm, parts.strategy, parts.limits, parts.config)
        observer = recording.observer(replace(facts, simulated=True))
        for event in events[: len(events) // 2]:
            observer(event)
        recording.flush()
        picture = LiveView(path, 1).look()
        assert not picture.ended
        assert 0 < picture.open <= 20
        assert picture.seconds_left is not None
        assert picture.cost is not None
        assert picture.cost_at_end == pytest.approx(picture.cost / (picture.succeeded + picture.failed) * 60)
        slowest = picture.slow_open[0]
        assert all(slowest.seconds >= one.seconds for one in picture.slow_open)
        assert any(one.waits_for.startswith("llm ") for one in picture.slow_open)
        assert sum(figures.in_flight for figures in picture.calls.values()) <= 7
        assert all(
            figures.p50 and figures.p95 and figures.p50 <= figures.p95 for figures in picture.calls.values()
        )


def test_figures_of_a_real_run_are_those_of_its_report(path: Path) -> None:
    with runner(path, strategy=Strategy.stage(4), limits=Limits(llm=3)) as used:
        used.run(two, range(9))
    picture = LiveView(path, open_record(path).run().run).look()
    assert picture.ended
    assert (picture.succeeded, picture.total, picture.open) == (9, 9, 0)
    assert picture.seconds == pytest.approx(open_record(path).run().seconds)
    (llm,) = (one for one in picture.limiters if one.limiter == "llm")
    assert (llm.most, llm.in_use, llm.peak) == (3, 0, 3)
