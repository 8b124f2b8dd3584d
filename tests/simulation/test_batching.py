"""Tests of the simulated server that batches: every call ends, whatever its speed, slots and memory are."""

from __future__ import annotations

from functools import partial
from random import Random

import pytest

from restaurant_llm_batch._engine.virtual import VirtualTime
from restaurant_llm_batch._llm_response import LLMResponse
from restaurant_llm_batch.simulation import ServerUsage, SimulatedServer, TokenSpeed
from restaurant_llm_batch.simulation._machines import GONE, Batching, Job

MOST_STEPS = 1000
"""Actions of a case; 51 were the most of 3,000 cases."""


def end_of(job: Job) -> None:
    job.done(None, None)


@pytest.mark.parametrize("seeds", [range(250), pytest.param(range(250, 5000), marks=pytest.mark.slow)])
def test_every_call_ends_and_gives_back_its_place(seeds: range) -> None:
    for seed in seeds:
        random = Random(seed)
        speed = TokenSpeed(
            random.choice([1, 100, 1e6]),
            random.choice([1, 50, 1e5]),
            random.choice([0, 0.05, 2]),
            random.choice([0, 0.3]),
        )
        server = SimulatedServer(
            latency=speed,
            slots=random.choice([None, 1, 2, 5]),
            kv_tokens=random.choice([None, 1, 20, 50, 130, 400]),
        )
        time = VirtualTime()
        ended: list[int] = []
        machine = Batching(server, speed, time, ServerUsage(), end_of)
        calls = random.randint(1, 15)
        end = ended.append
        for number in range(calls):
            prompt = random.randint(0, 120)
            answer = LLMResponse(
                "", completion_tokens=random.randint(0, 90), cached_tokens=random.randint(0, prompt)
            )
            job = Job(answer, None, prompt, lambda *_, end=end, number=number: end(number))
            time.call_later(random.random() * random.choice([0, 1, 1000]), partial(machine.add, job))
        steps = 0
        while time.step():
            steps += 1
            assert steps < MOST_STEPS, (seed, server)
            assert 0 <= machine.in_use <= (server.slots or calls), seed

        assert sorted(ended) == list(range(calls)), seed
        assert (machine.in_use, machine.waiting) == (0, 0), seed


@pytest.mark.parametrize("moment", [0.0, 0.05, 0.5, 1.5, 2.5])
def test_a_call_that_is_given_up_leaves_its_place_to_the_next(moment: float) -> None:
    speed = TokenSpeed(prefill=100, decode=10, batch_slowdown=0)
    time = VirtualTime()
    ended: list[int] = []
    machine = Batching(SimulatedServer(latency=speed, slots=2), speed, time, ServerUsage(), end_of)
    jobs = [
        Job(LLMResponse("", completion_tokens=20), None, 30, lambda *_, number=number: ended.append(number))
        for number in range(4)
    ]
    for job in jobs:
        machine.add(job)
    time.step(moment)
    machine.cancel(jobs[1])
    while time.step():
        pass

    assert sorted(ended) == [0, 2, 3]
    assert jobs[1].state == GONE
    assert (machine.in_use, machine.waiting) == (0, 0)
