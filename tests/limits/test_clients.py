"""Clients with shares: a client that waits has its part of a limit, whatever the others do, and no slot is idle."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine
from functools import partial
from math import floor
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from restaurant_llm_batch import BatchRunner, Client, Limits, LLMRequest, LLMResponse, Strategy, errors
from restaurant_llm_batch._limits import clients
from restaurant_llm_batch._limits.concurrency import ConcurrencyState
from restaurant_llm_batch._limits.pacing import RatePacer
from restaurant_llm_batch._limits.rate import RateQueue
from restaurant_llm_batch._limits.wait_queue import _ADMITTED, _WAITING, CallbackTicket, Ticket
from restaurant_llm_batch.backends import LLMPool
from restaurant_llm_batch.steps import Flow, complete

SHOP, KIOSK, THIRD = Client("shop", 3), Client("kiosk", 1), Client("third", 2)


def ticket(client: Client | None, priority: int = 0, sequence: int = 0, weight: int = 1) -> Ticket:
    return CallbackTicket(lambda: None, priority, sequence, weight, client)


class FairMachine(RuleBasedStateMachine):
    """Ask, end, cancel, move and resize at random, for clients of several shares and for none."""

    @initialize(limit=st.integers(1, 9))
    def start(self, limit: int) -> None:
        self.state = ConcurrencyState(limit)
        self.tickets: list[Ticket] = []

    @rule(
        client=st.sampled_from([SHOP, KIOSK, THIRD, None, Client("")]),
        priority=st.integers(-2, 2),
        sequence=st.integers(0, 5),
        weight=st.integers(1, 3),
    )
    def ask(self, client: Client | None, priority: int, sequence: int, weight: int) -> None:
        new = ticket(client, priority, sequence, weight)
        self.tickets.append(new)
        assert self.state.enqueue(new) == (new.state == _ADMITTED)

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.check(self.state.release(data.draw(st.sampled_from(self.tickets))))

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.check(self.state.cancel(data.draw(st.sampled_from(self.tickets))))

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), client=st.sampled_from([SHOP, KIOSK, THIRD, None]), sequence=st.integers(-3, 5))
    def move(self, data: st.DataObject, client: Client | None, sequence: int) -> None:
        self.check(self.state.reprioritise(data.draw(st.sampled_from(self.tickets)), 0, sequence, client))

    @rule(limit=st.integers(1, 9))
    def resize(self, limit: int) -> None:
        self.check(self.state.resize(limit))

    def check(self, admitted: list[Ticket]) -> None:
        assert all(one.state == _ADMITTED and one in self.tickets for one in admitted)
        assert len(set(admitted)) == len(admitted)

    @invariant()
    def slots_are_those_of_admitted_tickets(self) -> None:
        if not hasattr(self, "state"):
            return
        held = [one for one in self.tickets if one.state == _ADMITTED]
        assert self.state.in_flight == sum(one.weight for one in held)
        lanes = {one.lane for one in self.tickets if one.lane is not None}
        for lane in lanes:
            counted = sum(one.weight for one in held if one.lane is lane and one.is_counted)
            assert lane.in_use == counted

    @invariant()
    def no_slot_is_free_while_the_next_ticket_fits(self) -> None:
        if not hasattr(self, "state"):
            return
        waiting = [one for one in self.tickets if one.state == _WAITING]
        assert self.state.waiting == len(waiting)
        assert (self.state.peek() is None) == (not waiting)
        if waiting and all(one.weight == 1 for one in self.tickets):
            assert self.state.in_flight >= self.state.limit


TestFairness = FairMachine.TestCase


class Floor:
    """A limiter's state at which clients make calls, each of which takes some rounds; a round is a step of time."""

    def __init__(self, limit: int) -> None:
        self.state = ConcurrencyState(limit)
        self.ends: dict[Ticket, int] = {}
        self.now = 0
        self.slots: Counter[str] = Counter()
        self.started: Counter[str] = Counter()
        self.least: dict[str, int] = {}
        self._rounds: dict[str, int] = {}

    def wants(self, client: Client, calls: int, rounds: int) -> None:
        self._rounds[client.name] = rounds
        for _ in range(calls):
            one = ticket(client, sequence=len(self.ends))
            if self.state.enqueue(one):
                self._begin([one])

    def _begin(self, admitted: list[Ticket]) -> None:
        for one in admitted:
            assert one.client is not None
            self.ends[one] = self.now + self._rounds[one.client.name]
            self.started[one.client.name] += 1

    def pass_rounds(self, number: int) -> None:
        """Let time pass, and count slots by client after each round; `least` has the fewest at once."""
        for _ in range(number):
            self.now += 1
            for one in [one for one, at in self.ends.items() if at <= self.now]:
                del self.ends[one]
                self._begin(self.state.release(one))
            now = Counter(one.client.name for one in self.ends if one.client is not None)
            self.slots += now
            for name in self._rounds:
                self.least[name] = min(now[name], self.least.get(name, now[name]))

    def forget(self) -> None:
        self.slots.clear()
        self.started.clear()
        self.least.clear()


@pytest.mark.parametrize(("rounds_of_shop", "rounds_of_kiosk"), [(1, 1), (1, 20), (20, 1)])
def test_a_client_that_waits_has_its_part_however_long_the_calls_of_others_take(
    rounds_of_shop: int, rounds_of_kiosk: int
) -> None:
    place = Floor(8)
    place.wants(KIOSK, 2000, rounds_of_kiosk)  # it comes first, and floods
    place.pass_rounds(3)
    place.wants(SHOP, 1000, rounds_of_shop)
    place.pass_rounds(30)
    place.forget()
    place.pass_rounds(60)

    assert place.least["shop"] >= 6
    assert place.least["kiosk"] >= 2 or rounds_of_kiosk == 1
    assert 0.7 < place.slots["shop"] / place.slots.total() < 0.8


@pytest.mark.slow
@given(
    shares=st.lists(st.sampled_from([0.5, 1, 2, 3, 7.25]), min_size=2, max_size=6),
    limit=st.integers(1, 24),
    data=st.data(),
)
@settings(max_examples=12, deadline=None)
def test_every_client_has_its_part_of_any_limit_rounded_down(
    shares: list[float], limit: int, data: st.DataObject
) -> None:
    crowd = [Client(f"c{number}", share) for number, share in enumerate(shares)]
    place = Floor(limit)
    for one in crowd:
        place.wants(one, 30 * limit, data.draw(st.integers(1, 4), label=one.name))
    place.pass_rounds(9)
    place.forget()
    place.pass_rounds(20)

    for one in crowd:
        part = limit * one.share / sum(shares)
        assert place.slots[one.name] / 20 >= floor(part + 1e-9) - 1e-9
    assert place.slots.total() == 20 * limit


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_shares_hold_over_time_where_slots_are_too_few_to_divide(limit: int) -> None:
    place = Floor(limit)
    place.wants(KIOSK, 1000, 1)
    place.wants(SHOP, 1000, 1)
    place.pass_rounds(10)
    place.forget()
    place.pass_rounds(200)

    assert place.started["shop"] / place.started.total() == pytest.approx(0.75, abs=0.02)


def test_what_clients_do_not_use_works_for_the_others() -> None:
    place = Floor(8)
    place.wants(KIOSK, 500, 2)
    place.pass_rounds(10)
    place.forget()
    place.pass_rounds(10)
    assert place.slots == {"kiosk": 80}

    place.wants(SHOP, 2, 1000)  # two of its six
    place.pass_rounds(4)
    place.forget()
    place.pass_rounds(10)
    assert place.slots == {"kiosk": 60, "shop": 20}


def test_a_client_that_was_idle_has_saved_nothing_up() -> None:
    place = Floor(4)
    place.wants(SHOP, 3000, 1)
    place.pass_rounds(500)
    place.wants(KIOSK, 3000, 1)
    place.pass_rounds(4)
    place.forget()
    place.pass_rounds(20)

    assert place.slots == {"shop": 60, "kiosk": 20}


def test_a_client_orders_its_own_calls_and_no_others() -> None:
    state = ConcurrencyState(1)
    holder = ticket(SHOP)
    state.enqueue(holder)
    late, urgent = ticket(KIOSK, priority=5, sequence=9), ticket(KIOSK, priority=-1_000_000)
    patient = [ticket(SHOP, priority=100, sequence=number) for number in range(3)]
    for one in (late, urgent, *patient):
        state.enqueue(one)
    order, current = [], holder
    while admitted := state.release(current):
        (current,) = admitted
        order.append(current)

    assert order.index(urgent) < order.index(late)
    assert order.index(patient[0]) < order.index(late)  # however urgent the other client says its calls are
    assert [one for one in order if one.client is SHOP] == patient


def test_a_heavy_call_is_not_starved_by_light_ones_of_others() -> None:
    state = ConcurrencyState(4)
    running = [ticket(KIOSK, sequence=number) for number in range(4)]
    for one in running:
        state.enqueue(one)
    heavy = ticket(SHOP, weight=3)
    state.enqueue(heavy)
    for number in range(10, 20):
        state.enqueue(ticket(KIOSK, sequence=number))
    admitted = [one for each in running for one in state.release(each)]

    assert heavy in admitted


def test_lanes_without_calls_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "MOST_IDLE", 4)
    state = ConcurrencyState(1)
    kept = ticket(Client("kept"))
    state.enqueue(kept)
    waits = ticket(Client("waits"))
    state.enqueue(waits)
    for number in range(100):
        one = ticket(Client(f"c{number}"))
        state.enqueue(one)
        state.cancel(one)
    assert state.lanes is not None
    assert len(state.lanes._lanes) <= 6
    again = ticket(Client("waits"))
    state.enqueue(again)

    assert again.lane is waits.lane
    assert state.release(kept)[0] in (waits, again)


def test_the_order_that_a_rate_limit_is_asked_for_is_the_one_in_which_calls_go() -> None:
    queue = RateQueue(RatePacer(60, None, 0.0), 0.0)
    assert queue.enqueue(ticket(SHOP))
    for number in range(6):
        queue.enqueue(ticket(KIOSK, sequence=number, weight=1))
    for number in range(6):
        queue.enqueue(ticket(SHOP, sequence=number, weight=1))
    queue.enqueue(ticket(None, weight=2))
    expected = queue.in_order(5)
    admitted: list[Ticket] = []
    while len(admitted) < 5:
        queue.now += 0.5
        admitted += queue.admit_ready()

    assert admitted == expected
    assert [one.client for one in expected].count(SHOP) >= 2


@pytest.mark.parametrize("share", [0, -1, float("inf"), float("nan"), True, "3", 0.0001, 1001])
def test_a_share_that_makes_no_sense_is_refused_with_what_to_write(share: object) -> None:
    with pytest.raises(errors.ConfigurationError, match=r'for example Client\("shop", share=3\)'):
        Client("shop", share)  # type: ignore[arg-type]


def test_a_client_without_a_name_or_that_is_none_is_refused() -> None:
    with pytest.raises(errors.ConfigurationError, match="must be a text"):
        Client(7)  # type: ignore[arg-type]
    runner = BatchRunner(llm=Model())
    with pytest.raises(errors.ConfigurationError, match="client must be a Client"):
        runner.run(ask, [1], client="shop")  # type: ignore[arg-type]


# Runs, on virtual time


class Model:
    """Replies after some virtual seconds, by the client that asks, and counts what is in flight."""

    def __init__(self, **seconds: float) -> None:
        self.seconds = seconds
        self.in_flight: Counter[str] = Counter()
        self.slot_seconds: defaultdict[str, float] = defaultdict(float)
        self.started: list[tuple[float, str]] = []
        self.measuring = False
        self._since = 0.0

    def complete(self, request: LLMRequest) -> LLMResponse:
        return LLMResponse("맛있다")

    async def acomplete(self, request: LLMRequest) -> LLMResponse:
        name = str(request.inputs["client"])
        self._change(name, 1)
        self.started.append((trio.current_time(), name))
        await anyio.sleep(self.seconds.get(name, 1.0))
        self._change(name, -1)
        return LLMResponse("맛있다")

    def _change(self, name: str, more: int) -> None:
        now = trio.current_time()
        if self.measuring:
            for each, number in self.in_flight.items():
                self.slot_seconds[each] += number * (now - self._since)
        self._since = now
        self.in_flight[name] += more

    async def measure(self, seconds: float) -> dict[str, float]:
        """Return how many slots each client has had on average."""
        self.measuring, self._since = True, trio.current_time()
        self.slot_seconds.clear()
        await anyio.sleep(seconds)
        self._change("", 0)
        self.measuring = False
        return {name: slots / seconds for name, slots in self.slot_seconds.items() if slots}


def ask(item: Any) -> Flow[str]:
    name = item["id"].split()[0] if isinstance(item, dict) else "?"
    reply = yield from complete(
        LLMRequest("ask", ({"role": "user", "content": "맛은?"},), inputs={"client": name})
    )
    return reply.text


def run_on(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def request(runner: BatchRunner, client: Client | None, number: int, items: int = 1) -> None:
    """Make a request, as a service does: a run of its own."""
    name = "nobody" if client is None else client.name
    await runner.arun(ask, [{"id": f"{name} {number} {i}"} for i in range(items)], client=client)


@pytest.mark.parametrize("flood", [150, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_flood_of_requests_leaves_the_other_client_its_share_and_an_idle_ones_share_works(
    flood: int,
) -> None:
    model = Model(shop=1.0, kiosk=1.7)
    runner = BatchRunner(llm=model, strategy=Strategy.stage(4), limits=Limits(llm=8))

    async def main() -> tuple[dict[str, float], dict[str, float], float]:
        async with anyio.create_task_group() as tasks:
            for number in range(flood):
                tasks.start_soon(request, runner, KIOSK, number)
            await anyio.sleep(3)
            alone = await model.measure(10)
            asked_at = trio.current_time()
            for number in range(120):
                tasks.start_soon(request, runner, SHOP, number)
            await anyio.sleep(4)
            both = await model.measure(12)
            first = min(at for at, name in model.started if name == "shop")
            tasks.cancel_scope.cancel()
        return alone, both, first - asked_at

    alone, both, waited = run_on(main)

    assert alone == {"kiosk": pytest.approx(8.0)}  # the share of a client that is idle works
    assert both == {"shop": pytest.approx(6.0, abs=0.2), "kiosk": pytest.approx(2.0, abs=0.2)}
    assert waited <= 1.7


@pytest.mark.slow
def test_runs_without_a_client_are_one_client_more() -> None:
    model = Model()
    runner = BatchRunner(llm=model, strategy=Strategy.stage(4), limits=Limits(llm=8))

    async def main() -> dict[str, float]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(request, runner, None, 0, 500)
            await anyio.sleep(5)
            tasks.start_soon(request, runner, SHOP, 0, 500)
            await anyio.sleep(10)
            found = await model.measure(20)
            tasks.cancel_scope.cancel()
        return found

    assert run_on(main) == {"shop": pytest.approx(6.0, abs=0.2), "nobody": pytest.approx(2.0, abs=0.2)}


def test_a_limit_per_minute_is_shared_too() -> None:
    model = Model(kiosk=0.1, shop=0.1)
    limits = Limits(llm=8, requests_per_minute=60)
    runner = BatchRunner(llm=model, strategy=Strategy.stage(4), limits=limits)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(request, runner, KIOSK, 0, 500)
            await anyio.sleep(30)
            tasks.start_soon(request, runner, SHOP, 0, 500)
            await anyio.sleep(120)
            tasks.cancel_scope.cancel()

    run_on(main)
    later = Counter(name for at, name in model.started if at > 50)

    assert later["shop"] / later.total() == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("endpoints", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_the_endpoints_of_a_pool_are_shared_too(endpoints: int) -> None:
    model = Model(kiosk=2.0, shop=1.0)

    class Endpoint:
        async def acomplete(self, request: LLMRequest) -> LLMResponse:
            return await model.acomplete(request)

    pool = LLMPool([Endpoint() for _ in range(endpoints)], limits=12 // endpoints)
    runner = BatchRunner(llm=pool, strategy=Strategy.stage(4))

    async def main() -> dict[str, float]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(request, runner, KIOSK, 0, 600)
            await anyio.sleep(10)
            tasks.start_soon(request, runner, SHOP, 0, 900)
            await anyio.sleep(10)
            found = await model.measure(40)
            tasks.cancel_scope.cancel()
        return found

    assert run_on(main) == {"shop": pytest.approx(9.0, abs=0.3), "kiosk": pytest.approx(3.0, abs=0.3)}


def test_a_call_that_two_clients_share_waits_no_longer_than_either_would(tmp_path: Path) -> None:
    """In real time, since replies go to the disk; what counts is the order of the calls."""
    asked: list[str] = []

    class Slow:
        async def acomplete(self, request: LLMRequest) -> LLMResponse:
            asked.append(str(request.messages[0]["content"]))
            await anyio.sleep(0.002)
            return LLMResponse("맛있다")

    def equal(item: Any) -> Flow[str]:
        reply = yield from complete(LLMRequest("ask", ({"role": "user", "content": item["id"]},)))
        return reply.text

    limits = Limits(llm=1)
    runner = BatchRunner(llm=Slow(), strategy=Strategy.stage(4), limits=limits, store=tmp_path / "run.db")

    async def main() -> int:
        async with runner, anyio.create_task_group() as tasks:
            for number in range(60):
                tasks.start_soon(partial(runner.arun, equal, [{"id": f"restaurant {number}"}], client=KIOSK))
            while len(asked) < 2:
                await anyio.lowlevel.checkpoint()
            before = len(asked)
            wanted = "restaurant 59"
            assert wanted not in asked
            await runner.arun(equal, [{"id": wanted}], client=SHOP)  # the other client has asked for it, too
            place = asked.index(wanted)
            tasks.cancel_scope.cancel()
        return place - before

    assert anyio.run(main) <= 8
    assert len(asked) == len(set(asked))


def test_without_clients_nothing_is_counted_by_lane() -> None:
    state = ConcurrencyState(1)
    first = ticket(None)
    state.enqueue(first)
    state.enqueue(ticket(None))
    state.release(first)

    assert state.lanes is None
    assert first.lane is None


@pytest.mark.parametrize("strategy", [Strategy.stage(1), Strategy.stage(2), Strategy.threaded()])
def test_blocking_runs_take_a_client_too(strategy: Strategy) -> None:
    runner = BatchRunner(llm=Model(), strategy=strategy)
    with runner:
        assert len(runner.run(ask, [{"id": "shop 1"}, {"id": "shop 2"}], client=SHOP).results) == 2
        assert [one.ok for one in runner.stream(ask, [{"id": "shop 3"}], client=SHOP)] == [True]
    assert partial(runner.run, ask, [{"id": "shop 4"}])().results == ["맛있다"]
