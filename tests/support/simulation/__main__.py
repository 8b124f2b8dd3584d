"""
Simulation tests at any length: ``python -m tests.support.simulation --seconds 600``, or ``nox -s simulate -- ...``.

A plan that fails is printed with a line that plays it again, and reduced to a smaller one.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Iterator
from itertools import count
from random import SystemRandom
from time import monotonic

from .drawing import plan
from .mutants import MUTANTS, planted
from .search import play_all, reduce

REPORT_EVERY = 20_000
"""Plans between two lines of progress."""


def main(arguments: list[str]) -> int:
    """Play plans as the arguments say; return 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="the first seed; without it, a random one")
    parser.add_argument("--plans", type=int, help="how many plans to play; without --seconds, 2,000")
    parser.add_argument("--seconds", type=float, help="how long to play plans")
    parser.add_argument("--most-failures", type=int, default=5, help="stop after so many failures")
    parser.add_argument("--mutants", action="store_true", help="plant each known fault, and find it")
    given = parser.parse_args(arguments)
    first = SystemRandom().randrange(10**9) if given.seed is None else given.seed
    plans = 2000 if given.plans is None and given.seconds is None else given.plans
    if given.mutants:
        return _find_mutants(first if given.seed is not None else 0, plans or 2000)
    tell(f"seeds from {first}")
    gc.freeze()
    tally = play_all(_seeds(first, plans, given.seconds), most_failures=given.most_failures)
    tell(str(tally))
    for seed, broken in tally.failed.items():
        tell(f"\nFAILED {broken}")
        tell(f"play it again:  nox --no-venv -s simulate -- --seed {seed} --plans 1")
        drawn = plan(seed)
        smaller = reduce(drawn)
        tell(f"reduced:  {smaller}" if smaller != drawn else f"the plan:  {drawn}")
    return 1 if tally.failed else 0


def _seeds(first: int, plans: int | None, seconds: float | None) -> Iterator[int]:
    until = None if seconds is None else monotonic() + seconds
    for number in count():
        if number == plans or (until is not None and monotonic() > until):
            return
        if number and number % REPORT_EVERY == 0:
            tell(f"{number:,} plans")
        yield first + number


def _find_mutants(first: int, plans: int) -> int:
    missed = 0
    for mutant in MUTANTS:
        with planted(mutant):
            tally = play_all(range(first, first + plans))
        found = next(iter(tally.failed.values()), None)
        missed += found is None
        tell(f"| {mutant.name} | {found.promise if found else 'NOT FOUND'} | {tally.plans} |")
    return 1 if missed else 0


def tell(text: str) -> None:
    """Write a line."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
