"""
What it is worth to read what a service says is left of its limits: time and refusals, with and without its headers.

    python benchmarks/rates.py [--calls 300]

A local server lets calls through from a token bucket, and says so in OpenAI's ``x-ratelimit-*`` headers, or does
not. The bound is what the bucket lets through at best.
"""

from __future__ import annotations

import argparse
import time

from restaurant_llm_batch import BatchRunner, Limits, LLMRequest, Strategy
from restaurant_llm_batch.backends import OpenAILLM
from restaurant_llm_batch.steps import Flow, complete
from restaurant_llm_batch.testing.server import Faults, FaultServer

SLOTS = 50
SERVICES = [(25.0, 25), (25.0, 100), (100.0, 100)]
"""Calls per second, and how many the bucket holds."""


def ask(item: int) -> Flow[str]:
    """Ask one question."""
    message = {"role": "user", "content": f"{item}: 국물이 진하다"}
    return (yield from complete(LLMRequest("question", (message,), max_tokens=100))).text


def measure(faults: Faults, calls: int) -> tuple[float, int]:
    """Return the seconds that a run takes, and how many calls were refused."""
    with FaultServer(faults) as server:
        llm = OpenAILLM("model", base_url=f"{server.url}/v1", api_key="a-key-of-no-worth")
        runner = BatchRunner(llm=llm, strategy=Strategy.stage(4), limits=Limits(llm=SLOTS))
        runner.run(ask, [-1])  # which imports what it needs
        began = time.monotonic()
        report = runner.run(ask, range(calls))
        report.raise_for_failures()
        return time.monotonic() - began, report.stats.rate_limited


def main() -> None:
    """Measure all services."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--calls", type=int, default=300)
    calls = parser.parse_args().calls
    print(f"{calls} calls, {SLOTS} slots")
    print(f"{'service':24} {'bound':>7} {'read':>9} {'refused':>8} {'not read':>9} {'refused':>8}")
    for rate, burst in SERVICES:
        row = []
        for headers in (True, False):
            faults = Faults(requests_per_second=rate, burst=burst, rate_headers=headers)
            seconds, refused = measure(faults, calls)
            row.append(f"{seconds:7.2f} s {refused:8}")
        bound = (calls - burst) / rate
        print(f"{f'{rate:g} a second, burst {burst}':24} {bound:5.2f} s {' '.join(row)}", flush=True)


if __name__ == "__main__":
    main()
