"""
What a record costs: CPU microseconds for each call, and the size of the file.

    python benchmarks/record.py [--items 4000] [--rounds 9] [--size 100000]

Each round runs the same items twice, without and with a record, and takes CPU time of the whole process, the writing
thread included; the difference between the least of each is printed. "quick" calls begin and end within one commit;
"slow" ones take 0.4 s, so they are written once when they are in flight and once more when they have ended. The size is
that of a simulated run.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from restaurant_llm_batch import BatchRunner, Limits, LLMRequest, Price, Strategy
from restaurant_llm_batch.records import Recording, open_record
from restaurant_llm_batch.steps import Flow, complete
from restaurant_llm_batch.testing import FakeLLM

REQUEST = LLMRequest("dish", ({"role": "user", "content": "Name a dish. " * 40},))


def ask(item: int) -> Flow[str]:
    """Make one call."""
    reply = yield from complete(REQUEST)
    return reply.text


def seconds(items: int, llm: FakeLLM, record: Recording | None) -> float:
    """Return the CPU seconds of a run."""
    runner = BatchRunner(
        llm=llm,
        strategy=Strategy.stage(4),
        limits=Limits(llm=items, open_items=items),
        prices={"": Price(prompt=1.0, completion=1.0)},
        record=record,
    )
    gc.collect()
    with runner:
        began = time.process_time()
        runner.run(ask, range(items))
    return time.process_time() - began


def files(folder: Path) -> Iterator[Path]:
    """Yield the paths of new files."""
    for number in range(1000):
        yield folder / f"{number}.db"


def measure(items: int, rounds: int, call_seconds: float, *, texts: bool, folder: Path) -> float:
    """Return the CPU microseconds that a record adds to a call: between the least of all runs with it and without."""
    paths = files(Path(tempfile.mkdtemp(dir=folder)))
    without, recorded = [], []
    for _ in range(rounds):
        without.append(seconds(items, FakeLLM(seconds=call_seconds), None))
        recorded.append(seconds(items, FakeLLM(seconds=call_seconds), Recording(next(paths), texts=texts)))
    return (min(recorded) - min(without)) / items * 1e6


def size(items: int, folder: Path, **arguments: Any) -> tuple[float, float]:
    """Return the MB of a simulated run's record, and the CPU seconds of the run."""
    path = folder / "size.db"
    runner = BatchRunner(
        llm=FakeLLM(), strategy=Strategy.stage(4), limits=Limits(llm=50), prices={"": Price(1.0, 1.0)}
    )
    began = time.process_time()
    runner.simulate(ask, range(items), on_outcome=lambda _: None, record=Recording(path, **arguments))
    spent = time.process_time() - began
    assert open_record(path).run().succeeded == items
    found = path.stat().st_size / 1e6
    path.unlink()
    return found, spent


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--items", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--size", type=int, default=100_000)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for what, call_seconds in (("quick", 0.0), ("slow", 0.4)):
            for texts in (False, True):
                cost = measure(chosen.items, chosen.rounds, call_seconds, texts=texts, folder=folder)
                print(f"{what} calls{', with texts' if texts else '':14} {cost:8.1f} us per call", flush=True)
        for texts in (False, True):
            megabytes, spent = size(chosen.size, folder, texts=texts)
            words = "with texts" if texts else "without texts"
            print(
                f"{chosen.size} items of one call, {words}: {megabytes:.1f} MB, {spent:.1f} s of CPU",
                flush=True,
            )


if __name__ == "__main__":
    main()
