"""
Two checkouts beside each other: what indexing, searching, storing and calling cost in each.

    python benchmarks/speed_lines.py OLD_CHECKOUT [--data reviews.jsonl] [--rounds 8] [--only indexing store ...]

Each line is measured in a process of each checkout, which take turns round by round; the order within a round changes.
Shown are the median and the least of either, and the median of the ratios of the pairs. Each line of the file holds a
review in ``content``; without a file, the reviews of `indexing.HELD_OUT` are repeated.
"""

from __future__ import annotations

import argparse
import gc
import inspect
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anyio

HERE = Path(__file__).resolve()
CALLS = 4_000
WIDTH = 1_024
COLLECTIONS = (10_000, 30_000)


def indexing(data: Path) -> Iterator[float]:
    """Return reviews a second of CPU time, in a process that has read no word yet."""
    from indexing import index

    yield index(_texts(data))


def _texts(data: Path) -> list[str]:
    return [json.loads(line)["content"] for line in data.read_text(encoding="utf-8").splitlines()]


def aspects(data: Path) -> Iterator[float]:
    """Return microseconds a restaurant of `SummarizeAspects` over `EmbeddedSearch`."""
    from embedded import SEARCHED, AtOnce, index
    from restaurant_llm_batch import BatchRunner, Limits, Strategy, SummarizeAspects

    search = index(_texts(data), COLLECTIONS[0])
    limits = Limits(search=50, llm=64)
    with BatchRunner(llm=AtOnce(), search=search, strategy=Strategy.stage(4), limits=limits) as runner:
        while True:
            yield _cpu_microseconds(lambda: runner.run(SummarizeAspects(), range(SEARCHED)), SEARCHED)


def others(data: Path, size: int = COLLECTIONS[0]) -> Iterator[float]:
    """Return microseconds of a search among all other restaurants."""
    from embedded import among_others, index

    search = index(_texts(data), size)
    while True:
        yield _cpu_microseconds(lambda: among_others(search), 20)


def others_of_more(data: Path) -> Iterator[float]:
    """Return the same in a collection three times as large."""
    return others(data, COLLECTIONS[-1])


def without_store(data: Path) -> Iterator[float]:
    """Return microseconds a call, 64 in flight."""
    run = _calls()
    while True:
        yield run(None)


def store(data: Path) -> Iterator[float]:
    """Return microseconds that a store adds to a call, 64 in flight."""
    run = _calls()
    while True:
        with tempfile.TemporaryDirectory() as folder:
            yield run(f"{folder}/run.db") - run(None)


def found(data: Path) -> Iterator[float]:
    """Return microseconds of a call whose answer is in the store."""
    run = _calls()
    with tempfile.TemporaryDirectory() as folder:
        run(f"{folder}/run.db")
        while True:
            yield run(f"{folder}/run.db")


def _calls() -> Callable[[str | None], float]:
    """Return what makes the calls, with or without a store, and returns microseconds a call."""
    from overhead import stored_calls

    return lambda path: _cpu_microseconds(lambda: stored_calls(path, CALLS), CALLS)


def own(data: Path) -> Iterator[float]:
    """Return microseconds of our own a call."""
    from overhead import Model, one_call
    from restaurant_llm_batch import BatchRunner, Strategy

    def run() -> None:
        anyio.run(BatchRunner(llm=Model(), strategy=Strategy.stage(4)).arun, one_call, range(CALLS * 2))

    while True:
        yield _cpu_microseconds(run, CALLS * 2)


def _cpu_microseconds(job: Callable[[], Any], count: int) -> float:
    gc.collect()
    began = time.process_time()
    job()
    return (time.process_time() - began) / count * 1e6


def server(data: Path, threshold: int | None = None) -> Iterator[float]:
    """Return the share of the ideal rate: a runner over `VLLMServerLLM`, 200 ms a call."""
    return _over_http(threshold, lambda rate, cpu: rate / (WIDTH / 0.2))


def server_gc(data: Path) -> Iterator[float]:
    """Return the same with ``gc_threshold``, where there is one."""
    return server(data, 50_000)


def server_cpu(data: Path) -> Iterator[float]:
    """Return CPU microseconds a call of the same."""
    return _over_http(50_000, lambda rate, cpu: cpu * 1e3)


def _over_http(threshold: int | None, shown: Callable[[float, float], float]) -> Iterator[float]:
    from _stub import StubServer
    from restaurant_llm_batch import BatchRunner
    from transports import race, runner

    if "gc_threshold" not in inspect.signature(BatchRunner).parameters:
        threshold = None
    with StubServer(0.2) as stub:
        while True:
            contestant = lambda url, width: runner(url, width, threshold)  # noqa: E731
            yield shown(*anyio.run(race, contestant, stub.url, 20 * WIDTH, WIDTH))


def openai(data: Path) -> Iterator[float]:
    """Return CPU microseconds a call of `OpenAILLM`, 256 in flight."""
    from _stub import MODEL, StubServer
    from openai_cost import REQUEST, TEXT, one_round
    from restaurant_llm_batch.backends import OpenAILLM

    async def measure(url: str) -> float:
        llm = OpenAILLM(MODEL, api_key="k", base_url=f"{url}/v1", max_tokens_field="max_completion_tokens")
        try:
            await one_round(lambda: llm.acomplete(REQUEST), 256, 256)
            return (await one_round(lambda: llm.acomplete(REQUEST), 2_000, 256))[0] * 1e3
        finally:
            await llm.aclose()

    with StubServer(text=TEXT) as stub:
        while True:
            yield anyio.run(measure, stub.url)


def importing(data: Path) -> Iterator[float]:
    """Return microseconds of CPU of ``import restaurant_llm_batch``."""
    began = time.process_time()
    import restaurant_llm_batch as _  # noqa: F401

    yield (time.process_time() - began) * 1e6


class Line(NamedTuple):
    """
    What is measured.

    Attributes:
        probe: Yields a figure for each round.
        unit: Of the figures.
        fresh: Whether each round needs a new process.
    """

    probe: Callable[[Path], Iterator[float]]
    unit: str
    fresh: bool = False


LINES = {
    "indexing": Line(indexing, "reviews/s", fresh=True),
    "aspects": Line(aspects, "us/restaurant"),
    "others-10k": Line(others, "us/search"),
    "others-30k": Line(others_of_more, "us/search"),
    "own": Line(own, "us/call"),
    "without-store": Line(without_store, "us/call"),
    "store": Line(store, "us/call more"),
    "found": Line(found, "us/call"),
    "server": Line(server, "of ideal"),
    "server-gc": Line(server_gc, "of ideal"),
    "server-cpu": Line(server_cpu, "us/call"),
    "openai": Line(openai, "us/call"),
    "import": Line(importing, "us", fresh=True),
}


class Checkout:
    """A process that measures one line with the package of one checkout."""

    def __init__(self, source: Path, name: str, data: Path) -> None:
        command = [sys.executable, str(HERE), str(source), "--probe", name, "--data", str(data)]
        environment = {**os.environ, "PYTHONPATH": str(source / "src")}
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def measure(self) -> float:
        """Return the figure of one more round."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


@contextmanager
def checkouts(sources: tuple[Path, Path], name: str, data: Path) -> Iterator[tuple[Checkout, Checkout]]:
    """Run the processes of both checkouts."""
    with ExitStack() as stack:
        both = tuple(Checkout(source, name, data) for source in sources)
        for each in both:
            stack.callback(each.close)
        yield both[0], both[1]


def compare(sources: tuple[Path, Path], name: str, data: Path, rounds: int) -> list[tuple[float, float]]:
    """Return the figures of both checkouts, a pair for each round after the first."""
    pairs: list[tuple[float, float]] = []
    if LINES[name].fresh:
        for turn in range(rounds):
            with checkouts(sources, name, data) as both:
                pairs.append(_pair(both, turn))
        return pairs
    with checkouts(sources, name, data) as both:
        _pair(both, 0)  # the first round imports, and fills caches
        return [_pair(both, turn) for turn in range(rounds)]


def _pair(both: tuple[Checkout, Checkout], turn: int) -> tuple[float, float]:
    if turn % 2:
        after = both[1].measure()
        return both[0].measure(), after
    return both[0].measure(), both[1].measure()


def show(name: str, pairs: list[tuple[float, float]]) -> None:
    """Print a line."""
    before, after = zip(*pairs, strict=True)
    middle = [statistics.median(figures) for figures in (before, after)]
    best = max if LINES[name].unit in ("reviews/s", "of ideal") else min
    ratio = statistics.median(new / old for old, new in pairs)
    digits = 2 if middle[0] < 10 else 0 if middle[0] > 1000 else 1
    figures = "".join(f"{figure:12,.{digits}f}" for figure in (*middle, best(before), best(after)))
    print(f"{name:14}{figures}{ratio:8.2f}x  {LINES[name].unit}", flush=True)


def main() -> None:
    """Compare, or measure in a process of a checkout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("--data", type=Path, default=HERE.parent / "data" / "aspects_heldout.jsonl")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--only", nargs="+", choices=LINES, default=list(LINES))
    parser.add_argument("--probe", choices=LINES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        figures = LINES[options.probe].probe(options.data)
        for _ in sys.stdin:
            print(next(figures), flush=True)
        return
    print(f"{'':14}{'before':>12}{'after':>12}{'best before':>12}{'best after':>12}{'ratio':>9}")
    for name in options.only:
        pairs = compare((options.old.resolve(), HERE.parent.parent), name, options.data, options.rounds)
        show(name, pairs)


if __name__ == "__main__":
    main()
