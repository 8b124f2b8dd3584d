"""
The ladder: the same 50 restaurants in every stage, with simulated latencies.

    python benchmarks/ladder.py [--restaurants 50] [--search-ms 20] [--llm-ms 500] [--mode single]

The bound is what the limits allow: ceil(LLM calls / LLM slots) rounds of one LLM call, after one search.
"""

from __future__ import annotations

import argparse
import math
import time

from restaurant_llm_batch import BatchRunner, Limits, Strategy, SummarizeAspects
from restaurant_llm_batch.testing import FakeLLM, FakeSearch

LADDER = {
    "1 one by one": Strategy.stage(1),
    "2 searches side by side": Strategy.stage(2),
    "3 native async model": Strategy.stage(3),
    "4 restaurants side by side": Strategy.stage(4),
    "threaded, no event loop": Strategy.threaded(),
}


def main() -> None:
    """Climb the ladder and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--restaurants", type=int, default=50)
    parser.add_argument("--search-ms", type=float, default=20)
    parser.add_argument("--llm-ms", type=float, default=500)
    parser.add_argument("--mode", choices=["single", "split"], default="single")
    arguments = parser.parse_args()
    search_seconds, llm_seconds = arguments.search_ms / 1000, arguments.llm_ms / 1000
    limits = Limits(search=50, llm=8)
    calls = arguments.restaurants * (1 if arguments.mode == "single" else 4)
    bound = math.ceil(calls / 8) * llm_seconds + search_seconds

    print(f"{arguments.restaurants} restaurants, {arguments.mode}: bound {bound:.2f} s")
    print(f"{'stage':28} {'seconds':>8} {'speed-up':>9} {'of bound':>9} {'first result':>13} {'peak llm':>9}")
    slowest = None
    for name, strategy in LADDER.items():
        llm = FakeLLM(seconds=llm_seconds)
        search = FakeSearch(lambda restaurant: ["맛있어요", "친절해요", "비싸요"], seconds=search_seconds)
        runner = BatchRunner(llm=llm, search=search, strategy=strategy, limits=limits)
        began = time.perf_counter()
        first = 0.0
        done = 0
        task = SummarizeAspects(mode=arguments.mode)
        for outcome in runner.stream(task, range(arguments.restaurants)):
            first = first or time.perf_counter() - began
            done += outcome.ok
        seconds = time.perf_counter() - began
        slowest = slowest or seconds
        assert done == arguments.restaurants
        print(
            f"{name:28} {seconds:8.2f} {slowest / seconds:8.1f}x {seconds / bound:8.2f}x "
            f"{first:11.2f} s {llm.peak:9}"
        )


if __name__ == "__main__":
    main()
