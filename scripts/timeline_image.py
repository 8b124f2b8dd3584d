"""
Draw the timeline that the README shows: `python scripts/timeline_image.py` writes docs/images/timeline.svg.

The README's section "Before the night" says which run it is, and a test that it is this one.
"""

from __future__ import annotations

from pathlib import Path

from restaurant_llm_batch import AdaptiveLimit, BatchRunner, Limits, Strategy, SummarizeAspects
from restaurant_llm_batch.backends import OfflineLLM
from restaurant_llm_batch.results import RestaurantSummary
from restaurant_llm_batch.simulation import LogNormal, SimulatedServer, Simulation

IMAGE = Path(__file__).parents[1] / "docs" / "images" / "timeline.svg"


def simulate() -> Simulation[RestaurantSummary]:
    """Simulate the run of the picture."""
    runner = BatchRunner(
        llm=OfflineLLM(), strategy=Strategy.stage(4), limits=Limits(llm=AdaptiveLimit(start=4))
    )
    server = SimulatedServer(latency=LogNormal(median=0.8, sigma=0.5), slots=24, overload="refuse")
    return runner.simulate(SummarizeAspects(mode="split"), range(60), server)


if __name__ == "__main__":
    IMAGE.parent.mkdir(exist_ok=True)
    IMAGE.write_text(simulate().timeline("60 restaurants, a server of 24 slots, AdaptiveLimit(start=4)"))
    print(f"{IMAGE.name}: {simulate()}")
