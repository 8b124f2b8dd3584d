"""
Memory: 100,000 restaurants from a generator through `astream`.

    python benchmarks/memory.py [--restaurants 100000]

The resident set is read after the first 1,000 outcomes and at the end; the difference should not depend on
how many restaurants there are.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import anyio

from restaurant_llm_batch import BatchRunner, Hit, SearchQuery, Strategy, SummarizeAspects
from restaurant_llm_batch._engine.memory import life_peak_mib
from restaurant_llm_batch.testing import FakeLLM


class Search:
    """Finds ten reviews at once."""

    async def asearch(self, query: SearchQuery) -> Sequence[Hit]:
        """Search."""
        return [
            Hit(f"{query.restaurant_id}-{place}", "음식이 맛있고 친절했어요.", 1.0, query.restaurant_id)
            for place in range(query.limit)
        ]


def resident_mib() -> float:
    """Return the resident set of this process in MiB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 2**20


async def measure(restaurants: int) -> None:
    """Stream all restaurants and print what it took."""
    runner = BatchRunner(llm=FakeLLM(), search=Search(), strategy=Strategy.stage(4))
    names: Iterator[int] = iter(range(restaurants))
    before = 0.0
    began = time.perf_counter()
    done = 0
    async with runner:
        async for outcome in runner.astream(SummarizeAspects(), (name for name in names)):
            done += outcome.ok
            if done == 1000:
                gc.collect()
                before = resident_mib()
    seconds = time.perf_counter() - began
    gc.collect()
    after = resident_mib()
    print(f"{done:,} restaurants in {seconds:.0f} s")
    print(f"resident after 1,000: {before:.1f} MiB; at the end: {after:.1f} MiB ({after - before:+.1f} MiB)")
    print(f"peak: {life_peak_mib():.1f} MiB")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--restaurants", type=int, default=100_000)
    anyio.run(measure, parser.parse_args().restaurants)


if __name__ == "__main__":
    main()
