"""
Simulation tests: thousands of plans, drawn by seed, are played through the real engine on virtual time.

After every event the promises are checked; docs/simulation-tests.md has the list. A test that fails names the seed, and
``nox -s simulate -- --seed SEED --plans 1`` plays it again.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from dataclasses import replace

import pytest
from tests.support.simulation.broken import Broken
from tests.support.simulation.drawing import plan
from tests.support.simulation.mutants import MUTANTS, Mutant, planted
from tests.support.simulation.plans import WAYS, Happening, Item, Joiner, Plan, PoolPlan
from tests.support.simulation.search import Tally, play_all, quietly, reduce
from tests.support.simulation.world import play

from restaurant_llm_batch import Limits, RetryPolicy
from restaurant_llm_batch.simulation import LogNormal, SimulatedServer

PLANS = 2000
SHARES = 4
"""Parts of the default run, which several workers may take."""

FOUND = {
    900_007_655: "after an interrupt, the slot of a call that another run waits for was free though it went on",
    900_144_301: "a timer ran out again and again while an endpoint that was due had no room",
    900_207_831: "no timer ran for an endpoint that was left out when another one came back",
    900_474_106: "a call that was admitted too late found the run's time up, and left the others in the queue",
    900_025_443: "a call that came to the queue of a pool of one did not overtake those that waited at its limiter",
}
"""Seeds of plans that broke a promise once, and what was wrong."""

QUICK = ("drop a release", "count a refusal as an attempt")


def explain(tally: Tally) -> str:
    """Return the first failure, and how to play it again."""
    for seed, broken in tally.failed.items():
        return f"{broken}\nplay it again:  nox --no-venv -s simulate -- --seed {seed} --plans 1"
    return ""


@pytest.mark.parametrize("share", range(SHARES))
def test_every_promise_is_kept_after_every_event_of_every_plan(share: int) -> None:
    first = share * PLANS // SHARES
    tally = play_all(range(first, first + PLANS // SHARES))

    assert not tally.failed, explain(tally)
    assert tally.plans == PLANS // SHARES
    assert tally.events > 10_000  # so the plans do something


@pytest.mark.parametrize("seed", FOUND)
def test_a_plan_that_broke_a_promise_keeps_all_now(seed: int) -> None:
    tally = play_all([seed])

    assert not tally.failed, explain(tally)


@pytest.mark.slow
@pytest.mark.parametrize("share", range(20))
def test_every_promise_is_kept_in_further_plans(share: int) -> None:
    first = PLANS + share * PLANS
    tally = play_all(range(first, first + PLANS))

    assert not tally.failed, explain(tally)


@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(each, id=each.name, marks=() if each.name in QUICK else pytest.mark.slow)
        for each in MUTANTS
    ],
)
def test_a_planted_fault_is_found_within_the_default_number_of_plans(mutant: Mutant) -> None:
    with planted(mutant):
        tally = play_all(range(PLANS))

    assert tally.failed, f"{mutant.name} was not found in {PLANS} plans"


def test_a_fault_is_gone_after_it_was_planted() -> None:
    with planted(MUTANTS[0]):
        assert play_all(range(3)).failed

    assert not play_all(range(3)).failed


def test_the_plan_that_is_printed_is_the_plan() -> None:
    names = {
        **_names_of_parts(),
        **{
            each.__name__: each
            for each in (Happening, Item, Joiner, Limits, LogNormal, Plan, PoolPlan, RetryPolicy)
        },
    }
    for seed in range(300):
        drawn = plan(seed)
        assert eval(repr(drawn), names) == drawn


def _names_of_parts() -> dict[str, object]:
    import restaurant_llm_batch as package
    from restaurant_llm_batch import simulation

    return {**vars(package), **vars(simulation)}


def test_a_failing_plan_is_reduced_to_a_smaller_one_that_fails_likewise() -> None:
    mutant = next(each for each in MUTANTS if each.name == "lose the outcome of an item that was retried")
    with planted(mutant):
        tally = play_all(range(PLANS))
        ((seed, broken),) = tally.failed.items()
        smaller = reduce(plan(seed))
        with quietly(), pytest.raises(Broken) as found:
            play(smaller)

    assert found.value.promise == broken.promise
    assert len(smaller.items) < len(plan(seed).items)


@pytest.mark.slow
def test_a_seed_is_played_again_from_the_command_line() -> None:
    command = [sys.executable, "-m", "tests.support.simulation", "--seed", "7", "--plans", "3"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.startswith("seeds from 7\n3 plans, ")


@pytest.mark.sample(2)
@pytest.mark.parametrize("way", WAYS)
def test_a_killed_run_goes_on_from_what_was_durable(way: str) -> None:
    items = tuple(Item(number) for number in range(1, 7))
    killed = Plan(
        seed=1,
        flow=("seq", ("complete", "llm", 20, False), ("gather", ("ask", 60), ("complete", "llm", 20, False))),
        items=items,
        way=way,  # type: ignore[arg-type]
        server=SimulatedServer(latency=0.5),
        commit_seconds=0.01,
        happenings=(Happening("kill", 0.75),),
    )
    after = play(killed).records[0]
    whole = play(replace(killed, happenings=())).records[0]

    assert sorted(map(str, after.outcomes)) == sorted(map(str, whole.outcomes))
    calls = [record.player.stats.calls["llm"] for record in (after, whole)]
    assert 0 < calls[0] < calls[1] == 18


@pytest.mark.slow
def test_the_plans_meet_what_they_are_drawn_to_meet() -> None:
    drawn = [plan(seed) for seed in range(PLANS)]
    for what in ("stop", "cancel", "kill", "disk full", "resize", "interrupt"):
        assert sum(each.happens(what) for each in drawn) > 20, what
    for way in WAYS:
        assert sum(each.way == way for each in drawn) > 100, way
    for kind in ("task", "once", "pack", "ask", "search", "sleep", "raise", "spoil close", "catch"):
        assert sum(f"'{kind}'" in str(each.flow) for each in drawn) > 20, kind
    assert sum(each.joiner is not None for each in drawn) > 100
    assert sum(each.is_calm for each in drawn) > 100
    gc.collect()
