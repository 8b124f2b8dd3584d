"""Processes that pause, die and come back, on virtual time: the server never gets more than the limit."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest

from restaurant_llm_batch import Client
from tests.support.sharing.virtual import Process, Weather, World, keep_busy

CALM = Weather()
STORM = Weather(latency=0.3, loss=0.15, late=0.5, drift=0.08, clock_jumps=True, restarts=True)
WINDY = Weather(latency=0.05, loss=0.02, late=0.5, drift=0.05, clock_jumps=True)


def live(world: World, seconds: float) -> None:
    """Let eight processes start, stop, pause and die at random, each with calls in bursts."""
    random = world.random

    def lead_a_life(process: Process) -> None:
        keep = random.random()
        if keep < 0.5:
            keep_busy(process, random.randint(1, 40))
        else:
            burst(process)
        process.later(random.uniform(1, 20), partial(end, process))

    def burst(process: Process) -> None:
        for _ in range(random.randint(1, 30)):
            process.call()
        process.later(random.uniform(0.2, 4), partial(burst, process))

    def end(process: Process) -> None:
        if random.random() < 0.5:
            process.die()
            world.time.call_later(random.uniform(0, 3), born)
        else:
            process.pause(random.choice([0.2, 1.0, 1.9, 3.0, 10.0]))
            process.later(random.uniform(1, 20), partial(end, process))

    def born() -> None:
        lead_a_life(world.add(random.choice([0.02, 0.1, 0.5, 3.0])))

    for _ in range(8):
        born()
    if world.weather.clock_jumps:
        for number in range(int(seconds / 5)):  # once in a loan at most
            jump = random.choice([-60, 60, -3600, 0.5])
            moment = 5 * number + random.uniform(0, 2)
            world.time.call_later(moment, partial(world.set_broker_clock, jump))
    if world.weather.restarts:
        for _ in range(int(seconds / 15)):
            world.time.call_later(random.uniform(5, seconds), world.restart_broker)
    world.run(seconds)


@pytest.mark.sample(1)
@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("weather", [CALM, WINDY, STORM], ids=["calm", "windy", "storm"])
def test_never_more_than_the_limit_whatever_happens_to_processes_messages_and_clocks(
    seed: int, weather: Weather
) -> None:
    world = World(1 + seed % 12, seed, weather)  # the world checks it at each call that starts
    live(world, 60.0)

    assert sum(process.started for process in world.processes) > 50
    if weather is CALM:
        assert not world.excused_of_living


@pytest.mark.sample(1)
@pytest.mark.parametrize("seed", range(20))
def test_free_slots_are_busy_while_calls_wait(seed: int) -> None:
    world = World(16, seed)
    random = world.random
    for _ in range(8):
        keep_busy(world.add(random.choice([0.1, 0.3, 1.0])), 30)
    for process in world.processes[::2]:
        world.time.call_later(random.uniform(10, 50), partial(process.pause, random.uniform(0.5, 6)))
    for process in world.processes[1::3]:
        world.time.call_later(random.uniform(10, 50), process.die)
    world.run(60.0)

    assert world.busy_share >= 0.95


def test_slots_of_a_process_that_falls_idle_work_elsewhere_within_a_second() -> None:
    world = World(8, 1)
    first, second = world.add(0.1), world.add(0.05)
    keep_busy(first, 50)
    world.run(0.5)
    for _ in range(60):
        second.call()
    world.run(3.0)
    assert len(second.calls) + len(first.calls) == 8
    for _ in range(20):
        second.call()
    world.run(3.2)
    while second.calls or second.state.waiting:
        world.run(world.time.now() + 0.01)

    world.run(world.time.now() + 1.0)

    assert len(first.calls) == 8


def test_a_process_alone_gets_all_slots_at_once_and_gives_them_back_when_it_is_idle() -> None:
    world = World(8, 1)
    process = world.add(0.5)
    for _ in range(8):
        process.call()
    world.run(0.05)
    assert len(process.calls) == 8

    world.run(2.5)

    assert process.state.lent == 0
    assert process.state.due is None
    assert world.lender is not None
    assert world.lender.lent == 0


@pytest.mark.sample(1)
@pytest.mark.parametrize("queue", [1, 50])
def test_no_more_than_four_messages_a_second(queue: int) -> None:
    world = World(8, 1)
    for _ in range(4):
        keep_busy(world.add(0.03), queue)
    world.run(10.0)

    assert max(process.sent for process in world.processes) <= 4 * 10


def test_a_paused_process_that_wakes_after_its_loan_starts_nothing_before_it_has_asked() -> None:
    world = World(4, 1)
    sleeper, other = world.add(0.2), world.add(0.2)
    keep_busy(sleeper, 20)
    world.run(1.0)
    assert len(sleeper.calls) == 4
    sleeper.pause(5.0)
    keep_busy(other, 20)
    world.run(5.9)
    started = sleeper.started
    assert len(other.calls) == 4

    sleeper.go_on()

    assert sleeper.started == started
    world.run(9.0)
    assert sleeper.started > started
    assert world.peak == 4


def test_slots_of_a_killed_process_come_back_when_its_loan_ends() -> None:
    world = World(4, 1)
    victim, other = world.add(0.2), world.add(0.2)
    keep_busy(victim, 20)
    world.run(1.0)
    keep_busy(other, 20)
    victim.die()
    world.run(1.5)
    assert not other.calls

    world.run(4.5)

    assert len(other.calls) == 4


def test_a_broker_that_is_gone_stops_all_when_the_loans_end_and_all_go_on_when_it_is_back() -> None:
    world = World(4, 1)
    processes = [world.add(0.1) for _ in range(2)]
    for process in processes:
        keep_busy(process, 20)
    world.run(3.0)
    world.up = False
    world.run(4.0)
    assert world.in_flight() == 4  # on their last share
    world.run(6.0)
    assert world.in_flight() == 0
    assert all("starts nothing" in each.state.describe(each.clock()) for each in processes)

    world.up = True
    world.run(9.0)

    assert world.in_flight() == 4
    assert world.peak == 4


def test_a_broker_that_has_lost_its_state_interrupts_nobody() -> None:
    world = World(6, 1)
    for _ in range(2):
        keep_busy(world.add(0.1), 20)
    world.run(3.0)
    before = world.in_flight()

    for _ in range(5):
        world.restart_broker()
        world.run(world.time.now() + 0.7)
        assert world.in_flight() == before

    assert not world.excused_of_living


def test_a_limit_that_is_set_is_reached_within_seconds() -> None:
    world = World(12, 1)
    for _ in range(3):
        keep_busy(world.add(0.1), 20)
    world.run(3.0)
    world.set_limit(5)
    world.run(6.0)
    assert world.in_flight() == 5

    world.set_limit(9)
    world.run(8.0)

    assert world.in_flight() == 9


def test_shares_follow_what_waits() -> None:
    world = World(12, 1)
    much, little = world.add(0.1), world.add(0.1)
    keep_busy(much, 60)
    keep_busy(little, 12)
    world.run(10.0)

    assert len(much.calls) > 2 * len(little.calls) > 0


@pytest.mark.slow
def test_twenty_processes_share_four_slots_in_turn() -> None:
    world = World(4, 1)
    for _ in range(20):
        keep_busy(world.add(0.1), 3)
    world.run(60.0)

    started = [process.started for process in world.processes]
    assert min(started) > 0.2 * max(started)
    assert world.busy_share > 0.85


SHOP, KIOSK, THIRD = Client("shop", 3), Client("kiosk", 1), Client("third", 4)


def slots_of(world: World, seconds: float) -> dict[str, float]:
    """Return how many slots each client has on average from now on, over all processes."""
    slots: Counter[str] = Counter()
    looks = round(seconds / 0.05)
    for _ in range(looks):
        world.run(world.time.now() + 0.05)
        slots += Counter(
            call.ticket.client.name
            for each in world.processes
            for call in each.calls
            if call.ticket.client is not None
        )
    return {name: number / looks for name, number in slots.items()}


@pytest.mark.sample(1)
@pytest.mark.parametrize("seed", range(6))
def test_clients_have_their_shares_over_all_processes(seed: int) -> None:
    """One floods all processes, another has calls in one of them, and a third one is idle."""
    world = World(8, seed)
    for _ in range(4):
        keep_busy(world.add(0.2), 250, SHOP)
    world.run(5.0)
    assert slots_of(world, 5.0)["shop"] > 7.5  # idle shares work
    kiosk = world.processes[2]

    def ask() -> None:
        for _ in range(6):
            kiosk.call(client=KIOSK)
        kiosk.later(0.4, ask)

    ask()
    world.run(15.0)
    found = slots_of(world, 20.0)

    assert found["kiosk"] == pytest.approx(2.0, abs=0.5)
    assert found["shop"] == pytest.approx(6.0, abs=0.5)


@pytest.mark.slow
def test_clients_in_processes_of_their_own_have_their_shares() -> None:
    world = World(16, 1)
    keep_busy(world.add(0.1), 500, KIOSK)
    keep_busy(world.add(0.3), 20, SHOP)
    keep_busy(world.add(0.1), 20, THIRD)
    world.run(10.0)
    found = slots_of(world, 20.0)

    assert found["shop"] == pytest.approx(6.0, abs=0.7)
    assert found["kiosk"] == pytest.approx(2.0, abs=0.7)
    assert found["third"] == pytest.approx(8.0, abs=0.7)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("weather", [WINDY, STORM], ids=["windy", "storm"])
def test_clients_or_not_the_limit_holds(seed: int, weather: Weather) -> None:
    world = World(1 + seed % 12, seed, weather)
    for number in range(6):
        keep_busy(world.add(0.1), 10 + number, *[SHOP, KIOSK, THIRD][: 1 + number % 3])
    world.processes[1].pause(3.0)
    world.time.call_later(5.0, world.processes[2].die)
    world.run(30.0)  # the world checks the limit at each call that starts

    assert sum(process.started for process in world.processes) > 50
