"""
What a look of `top` costs: CPU milliseconds, for the first look at a run and for those that follow.

    python benchmarks/top.py [--items 100000]

The record is that of a simulated run of one call an item, of which the last 2,000 events are written between two looks,
as in a second of a fast run. CPU time is that of the whole look, drawing included; the least of five is printed.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from restaurant_llm_batch import BatchRunner, Limits, LLMRequest, Price, Strategy
from restaurant_llm_batch.cli._top.drawing import draw
from restaurant_llm_batch.events import Event
from restaurant_llm_batch.records import Recording
from restaurant_llm_batch.records._live import LiveView
from restaurant_llm_batch.records._recording import describe_runner
from restaurant_llm_batch.simulation import LogNormal, SimulatedServer
from restaurant_llm_batch.steps import Flow, complete
from restaurant_llm_batch.testing import FakeLLM

REQUEST = LLMRequest("dish", ({"role": "user", "content": "Name a dish."},))
AT_ONCE = 2000


def ask(item: int) -> Flow[str]:
    """Make one call."""
    reply = yield from complete(REQUEST)
    return reply.text


def milliseconds(work: Callable[[], object]) -> float:
    """Return the CPU milliseconds of some work."""
    began = time.process_time()
    work()
    return (time.process_time() - began) * 1000


def main() -> None:
    """Make the record, and look at it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=100_000)
    items = parser.parse_args().items
    runner = BatchRunner(
        llm=FakeLLM(),
        strategy=Strategy.stage(4),
        limits=Limits(llm=64),
        prices={"": Price(prompt=1.0, completion=1.0)},
    )
    events: list[Event] = []
    server = SimulatedServer(
        latency=LogNormal(1.0, 0.5), faults={"server_error": 0.03, "content_filter": 0.02}
    )
    runner.simulate(ask, range(items), server, on_outcome=lambda _: None, observers=[events.append])
    console = Console(file=io.StringIO(), width=120)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "night.db"
        parts = runner.parts
        facts = describe_runner(parts.llm, parts.strategy, parts.limits, parts.config)
        with Recording(path) as recording:
            observer = recording.observer(replace(facts, simulated=True))
            parts_left = 6 * AT_ONCE
            for event in events[:-parts_left]:
                observer(event)
            recording.flush()
            first = min(milliseconds(lambda: LiveView(path, 1).look()) for _ in range(3))
            view = LiveView(path, 1)
            view.look()
            same = min(milliseconds(view.look) for _ in range(5))
            later: list[float] = []
            for start in range(len(events) - parts_left, len(events) - AT_ONCE, AT_ONCE):
                for event in events[start : start + AT_ONCE]:
                    observer(event)
                recording.flush()
                later.append(milliseconds(lambda: console.print(draw(view.look()))))
    print(
        f"{items:,} items: first look {first:.0f} ms, then {min(later):.1f} ms with {AT_ONCE:,} events between"
    )
    print(f"two looks, and {same:.1f} ms without any (CPU)")


if __name__ == "__main__":
    main()
