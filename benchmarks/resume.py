"""
`kill -9` in the middle of a run of 500 restaurants, and what is paid for when it is run again.

    python benchmarks/resume.py [--seeds 3] [--restaurants 500]

`SummarizeAspects` in "split" mode, over HTTP: searches in an `EmbeddedSearch` of the shipped reviews, which are dealt
to the restaurants anew for each seed; the model is a `FaultServer` in a process of its own, which is well and counts
every question that comes to it. The run is a process too. It gets SIGKILL when so many of its restaurants are done, and
is run again with the same store. Questions that were cut off by the kill count as paid for: a model was at work.

Each row tells the questions of the run that was killed and of the one after it; how many one undisturbed run asks; what
was in flight at the kill, that is asked and not yet in the store; and whether the outcomes are those of the undisturbed
run, to the letter. Ends with an error unless they are, and no question was paid for twice but those in flight.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from urllib.request import urlopen

from restaurant_llm_batch import BatchRunner, Limits, Store, Strategy, SummarizeAspects
from restaurant_llm_batch.backends import VLLMServerLLM
from restaurant_llm_batch.search import EmbeddedSearch

SLOTS = 16
MODES = {"1": 1, "4": SLOTS, "threaded": SLOTS}
"""Strategies, with the most calls that each has in flight."""
KILLED_AT = (0.25, 0.5, 0.75)
REVIEWS_EACH = 8
ANSWER_SECONDS = {"1": 0.002, "4": 0.02, "threaded": 0.02}


class Plan(NamedTuple):
    """What a run does: the strategy, how many restaurants, and how the reviews are dealt."""

    mode: str
    restaurants: int
    seed: int


@dataclass(frozen=True, slots=True)
class Row:
    """What came of a kill; see the module's words."""

    plan: Plan
    share: float
    first: int
    second: int
    undisturbed: int
    kept: int
    equal: bool

    @property
    def in_flight(self) -> int:
        """Questions asked and not yet in the store when the run was killed."""
        return self.first - self.kept

    @property
    def sound(self) -> bool:
        """Whether nothing was paid for twice but what was in flight, and the outcomes are the same."""
        # A slot is free while its answer is on its way to the disk, so up to twice the limit may be in flight.
        few = self.in_flight <= 2 * MODES[self.plan.mode]
        return self.equal and few and self.first + self.second <= self.undisturbed + self.in_flight

    def __str__(self) -> str:
        return (
            f"{self.plan.mode:9} {self.plan.seed:4} {self.share:6.0%} {self.first:10} {self.second:10} "
            f"{self.first + self.second:6} {self.undisturbed:12} {self.in_flight:10}   "
            f"{'equal' if self.equal else 'DIFFERENT'}{'' if self.sound else '   PAID TWICE'}"
        )


HEAD = (
    f"{'stage':9} {'seed':>4} {'killed':>6} {'first run':>10} {'second run':>10} {'both':>6} "
    f"{'undisturbed':>12} {'in flight':>10}   outcomes"
)


# The run, in a process of its own


def reviews_of(plan: Plan) -> Iterator[dict[str, Any]]:
    """Deal the shipped reviews: to each restaurant some of one language, in an order of its own."""
    text = files("restaurant_llm_batch").joinpath("data/sample_reviews.jsonl").read_text("utf-8")
    places = [json.loads(line) for line in text.splitlines()]
    dealt = random.Random(plan.seed)
    for number in range(plan.restaurants):
        korean = number % 2 == 0
        own = [place for place in places if isinstance(place["restaurant_id"], str) == korean]
        texts = [review["content"] for place in own for review in place["reviews"]]
        for review, content in enumerate(dealt.sample(texts, REVIEWS_EACH)):
            yield {"restaurant_id": number, "review_id": review, "content": content}


def run(plan: Plan, url: str, store: Path) -> None:
    """Run, say each restaurant that is done, and at the end all outcomes."""
    strategy = Strategy.threaded() if plan.mode == "threaded" else Strategy.stage(int(plan.mode))
    search = EmbeddedSearch()
    search.index_reviews(reviews_of(plan))
    runner = BatchRunner(
        llm=VLLMServerLLM(url, "tiny"),
        search=search,
        strategy=strategy,
        limits=Limits(llm=MODES[plan.mode]),
        store=store,
    )
    task = SummarizeAspects(mode="split", language="auto")
    outcomes = []
    with runner:
        for outcome in runner.stream(task, range(plan.restaurants)):
            print("done", flush=True)
            outcomes.append(outcome)
    outcomes.sort(key=lambda one: one.index)
    print(json.dumps([repr(outcome) for outcome in outcomes]), flush=True)


# Watching it


@contextmanager
def serving(seed: int, seconds: float) -> Iterator[str]:
    """Run a `FaultServer` in a process of its own, and return its address."""
    module = [sys.executable, "-m", "restaurant_llm_batch.testing.server"]
    command = [*module, "--seed", str(seed), "--latency", str(seconds), "--spread", "1.5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            found = re.match(r"http://\S+", server.stdout.readline())
            assert found is not None
            yield found[0]
        finally:
            server.terminate()
            server.communicate()


def asked(url: str) -> int:
    """Return how many questions have come to a server, once none is being answered any more."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        with urlopen(f"{url}/_counts") as answer:
            counts = json.load(answer)
        if not counts["in_flight"]:
            statuses: dict[str, int] = counts["statuses"]
            return sum(number for name, number in statuses.items() if name.startswith("/v1/chat/completions"))
        time.sleep(0.02)
    raise TimeoutError("the server is still answering, although nobody asks any more")


def start(plan: Plan, url: str, store: Path) -> subprocess.Popen[str]:
    """Start a run."""
    command = [sys.executable, __file__, "--run", *map(str, plan), url, str(store)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def to_its_end(plan: Plan, url: str, store: Path) -> str:
    """Run, and return all outcomes."""
    with start(plan, url, store) as child:
        said, _ = child.communicate()
    assert child.returncode == 0, said[-2000:]
    return said.splitlines()[-1]


def killed(plan: Plan, url: str, store: Path, share: float) -> None:
    """Run, and kill that when a share of its restaurants is done, a moment afterwards."""
    with start(plan, url, store) as child:
        try:
            assert child.stdout is not None
            for _ in range(round(share * plan.restaurants)):
                assert child.stdout.readline() == "done\n"
            # Otherwise a run without anything side by side would always be killed between two calls.
            time.sleep(random.Random(f"{plan} {share}").uniform(0, 0.02))
        finally:
            os.kill(child.pid, signal.SIGKILL)


def rows(plan: Plan, shares: Sequence[float] = KILLED_AT) -> Iterator[Row]:
    """Run undisturbed, then with a kill at each of these points."""
    with TemporaryDirectory() as name, serving(plan.seed, ANSWER_SECONDS[plan.mode]) as url:
        folder = Path(name)
        wanted = to_its_end(plan, url, folder / "undisturbed.db")
        undisturbed = so_far = asked(url)
        for share in shares:
            store = folder / f"{share}.db"
            killed(plan, url, store, share)
            first = asked(url) - so_far
            with Store(store) as there:
                kept = there.stats().entries
            same = to_its_end(plan, url, store) == wanted
            second = asked(url) - so_far - first
            so_far += first + second
            yield Row(plan, share, first, second, undisturbed, kept, same)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--restaurants", type=int, default=500)
    parser.add_argument("--stage", choices=MODES, action="append", help="may be given several times")
    parser.add_argument("--run", nargs=5, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.run:
        mode, restaurants, seed, url, store = wanted.run
        run(Plan(mode, int(restaurants), int(seed)), url, Path(store))
        return
    print(HEAD, flush=True)
    sound = True
    for mode in wanted.stage or MODES:
        for seed in range(wanted.seeds):
            for row in rows(Plan(mode, wanted.restaurants, seed)):
                print(row, flush=True)
                sound = sound and row.sound
    sys.exit(0 if sound else 1)


if __name__ == "__main__":
    main()
