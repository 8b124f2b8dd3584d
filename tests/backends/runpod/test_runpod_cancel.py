"""However and whenever a call is interrupted, no job is left alive, and none is submitted twice."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from random import Random

import anyio
import pytest
from tests.support.examples import examples
from tests.support.local_server import Say, Seen
from tests.support.runpod_server import KEY, LOST, Dispatcher, End, Fault, Work, asking, completion

from restaurant_llm_batch import errors
from restaurant_llm_batch.backends import HTTPTransport
from restaurant_llm_batch.backends.runpod.llm import OperationLimit, PollingPolicy, RunPodLimits, RunPodLLM
from restaurant_llm_batch.cancellation import CancelToken, run_with_token

POINTS = examples(200)
LONGEST = 0.15
"""Seconds within which calls are interrupted: from before their submission until after their job's end."""
SPREAD = 1.0
"""Seconds within which calls begin, so that two cores are not too busy to let any of them finish."""
QUICK = PollingPolicy(wait_initial=0.005, multiplier=1.3, wait_max=0.03)
MANY = RunPodLimits(
    run=OperationLimit(100_000, 1000),
    status=OperationLimit(100_000, 1000),
    cancel=OperationLimit(100_000, 1000),
)


def patience(number: int, random: Random) -> float:
    """Say when to interrupt a call."""
    return 30.0 if is_left_alone(number) else random.random() * LONGEST


def is_left_alone(number: int) -> bool:
    """Choose calls that are neither interrupted nor refused, so that some are answered however busy two cores are."""
    return number % 5 == 0


def number_of(work: Work) -> int:
    return int(work.question.split()[-1])


def some_time(work: Work) -> End:
    """Let jobs take from no time at all to very long; those of calls that are left alone are not long."""
    number = number_of(work)
    after = 60.0 if number % 10 in (3, 6, 9) else (number * 37 % 100) / 100 * LONGEST
    return End(after=after, more={"output": [completion(work.question)]})


def some_faults(operation: str, count: int, seen: Seen) -> Fault | None:
    """Make every kind of request fail now and then, in every way that leaves an id."""
    if operation == "run":
        refused = count % 17 == 0 and not is_left_alone(number_of(Work("", seen.json["input"], {})))
        return Fault(Say({"error": "too many"}, 429)) if refused else None
    if operation == "status" and count % 11 == 0:
        return LOST if count % 2 else Fault(Say(b"bad gateway", 502))
    if operation == "cancel" and count % 7 == 0:
        return LOST if count % 2 else Fault(Say({"error": "oops"}, 500))
    return None


@pytest.fixture
def dispatcher() -> Iterator[Dispatcher]:
    """A RunPod with some latency and some faults."""
    with Dispatcher(some_time, some_faults, latency=0.005) as dispatcher:
        yield dispatcher


@pytest.fixture
def llm(dispatcher: Dispatcher) -> Iterator[RunPodLLM]:
    """A quick client of it."""
    llm = RunPodLLM("ep", api_key=KEY, base_url=dispatcher.base_url, polling=QUICK, limits=MANY)
    yield llm
    llm.close()


def nothing_is_left(dispatcher: Dispatcher) -> None:
    """Check the dispatcher's books; some interruptions must have met jobs, and some jobs must have ended."""
    assert [work.id for work in dispatcher.alive()] == []
    assert dispatcher.doubled == []
    assert max(dispatcher.submissions.values()) == 1
    ends = [work.status for work in dispatcher.jobs.values()]
    assert ends.count("CANCELLED") >= 3
    assert ends.count("COMPLETED") >= 3


@pytest.mark.anyio
@pytest.mark.sample(1)
async def test_cancelling_a_scope_at_any_moment_leaves_no_job(dispatcher: Dispatcher, llm: RunPodLLM) -> None:
    random = Random(1)
    ended: list[int] = []

    async def call(number: int, seconds: float) -> None:
        await anyio.sleep(random.random() * SPREAD)
        with anyio.move_on_after(seconds):
            try:
                reply = await llm.acomplete(asking(number))
            except errors.RateLimited:
                pass
            else:
                assert reply.text == str(number)
            ended.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(POINTS):
            tasks.start_soon(call, number, patience(number, random))
    await llm.aclose()

    assert set(filter(is_left_alone, range(POINTS))) <= set(ended)
    nothing_is_left(dispatcher)


@pytest.mark.anyio
@pytest.mark.sample(1)
async def test_cancelling_all_calls_at_once_leaves_no_job(dispatcher: Dispatcher, llm: RunPodLLM) -> None:
    async def call(question: str) -> None:
        with suppress(errors.RateLimited):
            await llm.acomplete(asking(question))

    for attempt in range(6):
        with anyio.move_on_after(0.006 * attempt**1.5):
            async with anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(call, f"{attempt} of {number}")
                await anyio.sleep_forever()
        assert dispatcher.alive() == []
    await llm.aclose()


@pytest.mark.anyio
@pytest.mark.usefixtures("nothing_blocks")
async def test_neither_a_call_nor_its_cancellation_blocks_the_loop(dispatcher: Dispatcher) -> None:
    dispatcher.faults = None
    llm = RunPodLLM("ep", api_key=KEY, base_url=dispatcher.base_url, polling=QUICK)
    for number in (10, 3):  # the second one's job does not end
        with anyio.move_on_after(5 if number == 10 else 0.1):
            assert (await llm.acomplete(asking(number))).text == str(number)
    await llm.aclose()
    assert [work.status for work in dispatcher.jobs.values()] == ["COMPLETED", "CANCELLED"]


def test_cancelling_tasks_over_and_over_leaves_no_job(dispatcher: Dispatcher, llm: RunPodLLM) -> None:
    random = Random(2)

    async def torment(number: int) -> object:
        await asyncio.sleep(random.random() * SPREAD)
        task = asyncio.create_task(llm.acomplete(asking(number)))
        await asyncio.wait([task], timeout=patience(number, random))
        while not task.done():
            task.cancel()
            await asyncio.sleep(random.random() * 0.02)
        return (await asyncio.gather(task, return_exceptions=True))[0]

    async def main() -> list[object]:
        results = await asyncio.gather(*map(torment, range(POINTS)))
        await llm.aclose()
        return list(results)

    results = asyncio.run(main())

    kinds = {type(result).__name__ for result in results}
    assert kinds <= {"LLMResponse", "CancelledError", "RateLimited"}
    assert "CancelledError" in kinds
    nothing_is_left(dispatcher)


def test_a_cancelled_task_says_so(dispatcher: Dispatcher, llm: RunPodLLM) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.03):
                await llm.acomplete(asking(99))
        task = asyncio.create_task(llm.acomplete(asking(99)))
        await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]
        await llm.aclose()

    asyncio.run(main())
    assert dispatcher.alive() == []


@pytest.mark.sample(1)
@pytest.mark.parametrize("cancelled_before", [False, True])
def test_a_loop_that_ends_with_calls_in_flight_leaves_no_job(
    dispatcher: Dispatcher, llm: RunPodLLM, cancelled_before: bool
) -> None:
    dispatcher.script = lambda work: End(after=60)
    dispatcher.faults = None

    async def main() -> None:
        tasks = [asyncio.create_task(llm.acomplete(asking(number))) for number in range(50)]
        while len(dispatcher.looked_at) < 50:
            await asyncio.sleep(0.01)
        await llm.aclose()  # closes nothing yet, and does not disturb the calls
        assert not any(task.done() for task in tasks)
        if cancelled_before:
            dispatcher.latency = 0.3
            for task in tasks:
                task.cancel()
            while dispatcher.asked["cancel"] < 30:
                await asyncio.sleep(0.01)

    asyncio.run(main())  # which cancels every task of the loop, ours too
    assert dispatcher.asked["cancel"] >= len(dispatcher.jobs) == 50
    assert dispatcher.alive() == []


def test_cancelling_in_worker_threads_leaves_no_job(dispatcher: Dispatcher, llm: RunPodLLM) -> None:
    random = Random(3)

    def call(number: int) -> str:
        given_up = CancelToken()
        timer = threading.Timer(patience(number, random), given_up.set)
        timer.start()
        try:
            return run_with_token(given_up, lambda: llm.complete(asking(number))).text
        except (errors.RunStopped, errors.RateLimited) as error:
            return type(error).__name__
        finally:
            timer.cancel()

    with ThreadPoolExecutor(40) as threads:
        answers = list(threads.map(call, range(POINTS)))

    assert {"RunStopped"} < set(answers)
    assert all(answers[number] == str(number) for number in filter(is_left_alone, range(POINTS)))
    nothing_is_left(dispatcher)


def test_a_queued_call_submits_nothing_once_it_is_cancelled() -> None:
    with Dispatcher(latency=0.5) as dispatcher, ThreadPoolExecutor(2) as threads:
        one_at_a_time = RunPodLimits(run=OperationLimit(1000, 1))
        llm = RunPodLLM("ep", api_key=KEY, base_url=dispatcher.base_url, polling=QUICK, limits=one_at_a_time)
        first = threads.submit(llm.complete, asking(1))
        while not dispatcher.asked["run"]:
            time.sleep(0.01)
        given_up = CancelToken()
        second = threads.submit(run_with_token, given_up, lambda: llm.complete(asking(2)))
        given_up.set()
        with pytest.raises(errors.RunStopped):
            second.result()
        assert first.result().text == "1"
        llm.close()
        assert dispatcher.asked["run"] == 1


# An interrupt between a socket's creation and its owner's first line loses the socket to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.slow
def test_an_interrupt_at_any_moment_leaves_no_job(dispatcher: Dispatcher, llm: RunPodLLM) -> None:
    random = Random(4)
    answered = 0
    for number in range(60):
        sent: list[int] = []

        def interrupt(sent: list[int] = sent, number: int = number) -> None:
            sent.append(number)
            os.kill(os.getpid(), signal.SIGINT)

        timer = threading.Timer(patience(number, random) / 2, interrupt)
        try:
            timer.start()
            with suppress(errors.RateLimited):
                llm.complete(asking(number))
                answered += 1
            if number % 10 == 0:
                timer.cancel()
            timer.join()
            if sent:  # the signal may be on its way, and must not arrive outside of this block
                time.sleep(0.5)
        except KeyboardInterrupt:
            timer.join()
        assert dispatcher.alive() == []

    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert 4 <= answered < 60
    nothing_is_left(dispatcher)


def test_a_timeout_at_any_moment_leaves_no_job(dispatcher: Dispatcher) -> None:
    random = Random(5)
    transport = HTTPTransport()

    def call(number: int) -> str:
        llm = RunPodLLM(
            "ep",
            api_key=KEY,
            base_url=dispatcher.base_url,
            polling=QUICK,
            limits=MANY,
            timeout=0.001 + patience(number, random),
            transport=transport,
        )
        try:
            return llm.complete(asking(number)).text
        except errors.BackendError as error:
            return str(error)

    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(call, range(examples(90) + 1)))
    transport.close()

    assert any("took longer than timeout=" in answer for answer in answers)
    nothing_is_left(dispatcher)
