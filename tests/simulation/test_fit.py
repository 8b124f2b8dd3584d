"""Tests of `SimulatedServer.measured`: the fit to the times of calls, and the calls that are made."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from random import Random
from typing import Any

import anyio
import pytest

from restaurant_llm_batch import BatchRunner, Limits, LLMRequest, LLMResponse, errors
from restaurant_llm_batch.backends import OfflineLLM
from restaurant_llm_batch.simulation import LogNormal, SampledLengths, SimulatedServer, TokenSpeed
from restaurant_llm_batch.simulation._fit import (
    FASTEST_READING,
    Sample,
    caches_prefixes,
    fit_alike,
    fit_slowdown,
    fit_speed,
    predict,
)
from restaurant_llm_batch.simulation._measure import make_calls, make_requests
from restaurant_llm_batch.steps import complete
from restaurant_llm_batch.testing import FakeLLM

SPEEDS = [
    TokenSpeed(prefill=2500, decode=37, batch_slowdown=0.07, overhead=0.12),  # a GPU behind a network
    TokenSpeed(prefill=300, decode=60, batch_slowdown=0.9, overhead=0.01),  # one core
    TokenSpeed(prefill=20_000, decode=150, batch_slowdown=0.004, overhead=0.4),
    TokenSpeed(prefill=800, decode=9, batch_slowdown=0.0, overhead=0.0),
]
KINDS = [(60, 20), (900, 20), (60, 160)]


def alone(speed: TokenSpeed, random: Random, noise: float, slow: int | None = None) -> list[Sample]:
    """Return calls that were made one after the other; one of them took three times as long, if so wished."""
    samples = []
    for index in range(9):
        prompt, completion = (tokens + random.randint(-5, 5) for tokens in KINDS[index % 3])
        seconds = speed.overhead + prompt / speed.prefill + completion / speed.decode
        factor = random.lognormvariate(0, noise) * (3 if index == slow else 1)
        samples.append(Sample(prompt, completion, seconds * factor))
    return samples


def side_by_side(speed: TokenSpeed, random: Random, noise: float, server: SimulatedServer) -> list[Sample]:
    group = [Sample(60, 160 + random.randint(-40, 40), 1.0, index * 0.002) for index in range(8)]
    return [
        sample._replace(seconds=seconds * random.lognormvariate(0, noise))
        for sample, seconds in zip(group, predict(speed, group, server), strict=True)
    ]


@pytest.mark.parametrize("speed", SPEEDS)
def test_exact_times_give_the_exact_speed(speed: TokenSpeed) -> None:
    server = SimulatedServer()
    fitted = fit_speed(alone(speed, Random(1), 0.0))
    fitted = fit_slowdown(fitted, [side_by_side(speed, Random(2), 0.0, server)], server)

    assert fitted.prefill == pytest.approx(speed.prefill, rel=1e-6)
    assert fitted.decode == pytest.approx(speed.decode, rel=1e-6)
    assert fitted.overhead == pytest.approx(speed.overhead, abs=1e-6)
    assert fitted.batch_slowdown == pytest.approx(speed.batch_slowdown, abs=1e-5)


@pytest.mark.sample(6)
@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("slow", [None, 0, 4, 8])
def test_noise_and_a_slow_call_change_a_prediction_by_little(speed: TokenSpeed, slow: int | None) -> None:
    server = SimulatedServer()
    fitted = fit_speed(alone(speed, Random(3), 0.02, slow))
    fitted = fit_slowdown(fitted, [side_by_side(speed, Random(4), 0.02, server)], server)
    night = [Sample(500, 100, 1.0) for _ in range(16)]

    assert max(predict(fitted, night, server)) == pytest.approx(max(predict(speed, night, server)), rel=0.1)


def test_slots_that_are_known_are_not_taken_for_a_slow_batch() -> None:
    speed, server = SPEEDS[0], SimulatedServer(slots=2)
    group = side_by_side(speed, Random(5), 0.0, server)

    assert fit_slowdown(speed, [group], server).batch_slowdown == pytest.approx(0.07, abs=1e-4)
    assert fit_slowdown(speed, [group], SimulatedServer()).batch_slowdown > 0.2


def test_times_that_do_not_grow_with_the_prompt_read_as_fast_as_can_be() -> None:
    samples = [
        Sample(prompt, completion, 0.3 + completion / 50) for prompt, completion in KINDS for _ in range(3)
    ]
    fitted = fit_speed(samples)

    assert fitted.prefill == FASTEST_READING
    assert fitted.decode == pytest.approx(50)
    assert fitted.overhead == pytest.approx(0.3)


def test_a_cache_shows_in_a_prompt_that_is_read_again() -> None:
    speed = SPEEDS[0]
    cached = Sample(900, 20, speed.overhead + 30 / speed.prefill + 20 / speed.decode)
    read = cached._replace(seconds=cached.seconds + 870 / speed.prefill)

    assert caches_prefixes(speed, [cached, read._replace(seconds=9.0)])  # one of them was slow
    assert not caches_prefixes(speed, [read, read])
    assert not caches_prefixes(speed, [])
    # Reading takes no time to speak of: nothing shows, and nothing depends on it.
    assert not caches_prefixes(TokenSpeed(prefill=1e6, decode=20), [cached])


@pytest.mark.parametrize(
    ("samples", "problem"),
    [
        ([Sample(0, 0, 1.0)] * 6, "does not report the tokens"),
        ([Sample(100, 0, 1.0)] * 6, "does not report the tokens"),
        (
            [Sample(100, 3, 1.0), Sample(900, 4, 1.2), Sample(100, 9, 1.0)],
            r"all answers .* \(3 to 9 tokens\)",
        ),
        (
            [Sample(100, 20, 1.0), Sample(101, 200, 2.0), Sample(104, 20, 1.0)],
            r"all prompts .* \(100 to 104 tokens\)",
        ),
    ],
)
def test_what_cannot_be_fitted_is_said_in_one_sentence(samples: Sequence[Sample], problem: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=problem) as caught:
        fit_speed(samples)

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("calls", [8, 13, 14, 20, 41, 100, 333])
def test_as_many_calls_are_planned_as_were_wished(calls: int) -> None:
    plan = make_requests(calls)
    requests = [plan.first, *plan.alone, *plan.again, *(one for group in plan.groups for one in group)]
    begins = {request.messages[0]["content"][:18] for request in [plan.first, *plan.alone, *plan.groups[-1]]}

    assert len(requests) == len({request.task for request in requests}) == calls
    assert len(plan.alone) >= 3
    assert len(plan.groups) > 0
    assert len(begins) == 1 + len(plan.alone) + len(plan.groups[-1])  # no prefix is cached by accident


class Model:
    """A model that reports tokens, and answers at once; sync, or async."""

    def __init__(self, *, awaited: bool, fails: Any = None, counts: bool = True) -> None:
        self.asked: list[LLMRequest] = []
        self.peak = self.in_flight = 0
        self.together = threading.Barrier(8)
        self.fails, self.counts = fails, counts
        setattr(self, "acomplete" if awaited else "complete", self._awaited if awaited else self._blocking)

    def _answer(self, request: LLMRequest) -> LLMResponse:
        self.asked.append(request)
        if self.fails is not None and (error := self.fails(len(self.asked))) is not None:
            raise error
        if not self.counts:
            return LLMResponse("{}")
        text = request.messages[0]["content"]
        return LLMResponse("{}", prompt_tokens=len(text) // 4, completion_tokens=request.max_tokens // 2)

    def _blocking(self, request: LLMRequest) -> LLMResponse:
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        if len(self.asked) >= 12:  # those that are made side by side
            self.together.wait(30)
        try:
            return self._answer(request)
        finally:
            self.in_flight -= 1

    async def _awaited(self, request: LLMRequest) -> LLMResponse:
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        await anyio.sleep(0.001)
        try:
            return self._answer(request)
        finally:
            self.in_flight -= 1


@pytest.mark.parametrize("awaited", [False, True])
def test_real_calls_are_made_alone_and_side_by_side_and_it_says_so(
    awaited: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model = Model(awaited=awaited)
    with caplog.at_level(logging.INFO, logger="restaurant_llm_batch"):
        server = SimulatedServer.measured(model, calls=20, slots=8, kv_tokens=50_000)  # type: ignore[arg-type]

    assert len(model.asked) == 20
    assert model.peak == 8
    assert isinstance(server.latency, TokenSpeed)
    assert (server.slots, server.kv_tokens, server.overload) == (8, 50_000, "queue")
    assert "makes 20 real calls, which are paid for" in caplog.text


def test_it_works_within_an_event_loop() -> None:
    async def within() -> SimulatedServer:
        return SimulatedServer.measured(Model(awaited=True), calls=8)  # type: ignore[arg-type]

    assert isinstance(anyio.run(within).latency, TokenSpeed)


def test_calls_that_fail_are_left_out() -> None:
    def fails(number: int) -> Exception | None:
        return errors.RateLimited("busy") if number in (2, 9, 15) else None

    model = Model(awaited=True, fails=fails)
    server = SimulatedServer.measured(model, calls=20)  # type: ignore[arg-type]

    assert isinstance(server.latency, TokenSpeed)
    assert len(model.asked) == 20  # none is made again


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.TransientBackendError("down"), "down"),
        (errors.AuthenticationFailed("wrong key"), "wrong key"),
        (RuntimeError("a bug of the backend"), "a bug of the backend"),
    ],
)
def test_if_no_call_is_answered_the_reason_is_raised(error: Exception, expected: str) -> None:
    with pytest.raises(type(error), match=expected):
        SimulatedServer.measured(Model(awaited=True, fails=lambda _: error), calls=8)  # type: ignore[arg-type]


def test_a_backend_that_is_no_model_says_so() -> None:
    with pytest.raises(errors.PermanentBackendError, match="does not support the task"):
        SimulatedServer.measured(OfflineLLM(), calls=8)
    with pytest.raises(errors.ConfigurationError, match="does not report the tokens"):
        SimulatedServer.measured(Model(awaited=True, counts=False), calls=8)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"calls": 7}, "calls must be a whole number of at least 8"),
        ({"calls": 20.5}, "calls must be"),
        ({"calls": True}, "calls must be"),
        ({"latency": 0.5}, "leave latency out"),
        ({"slots": 0}, "slots must be"),
        ({"overload": "refuse"}, "needs slots"),
    ],
)
def test_wrong_arguments_cost_no_call(arguments: Any, problem: str) -> None:
    model = Model(awaited=True)
    with pytest.raises(errors.ConfigurationError, match=problem):
        SimulatedServer.measured(model, **arguments)  # type: ignore[arg-type]

    assert model.asked == []


@pytest.mark.parametrize("awaited", [False, True])
def test_an_interrupt_leaves_nothing_running(awaited: bool) -> None:
    def fails(number: int) -> BaseException | None:
        return KeyboardInterrupt() if number == 5 else None

    model = Model(awaited=awaited, fails=fails)
    with pytest.raises(KeyboardInterrupt):
        make_calls(model, make_requests(8))

    assert len(model.asked) == 5
    assert model.in_flight == 0


@pytest.mark.parametrize("sigma", [0.0, 0.3, 1.0])
def test_a_lognormal_is_fitted_to_seconds(sigma: float) -> None:
    random = Random(6)
    seconds = [random.lognormvariate(0, sigma) * 0.8 for _ in range(2000)]
    fitted = LogNormal.fitted([*seconds, 1e4, 1e4, 0.0])  # stragglers, and a call that took no time

    assert fitted.median == pytest.approx(0.8, rel=0.1)
    assert fitted.sigma == pytest.approx(sigma, rel=0.1, abs=1e-9)
    with pytest.raises(errors.ConfigurationError, match="at least 3 calls, got 2"):
        LogNormal.fitted([1.0, 2.0, 0.0])


def dish(item: int) -> Any:
    message = {"role": "user", "content": f"Name dish {item}."}
    return (yield from complete(LLMRequest("dish", (message,), {"type": "string"}, max_tokens=500))).text


def test_answers_of_a_simulation_are_as_long_as_those_of_a_sample() -> None:
    lengths = SampledLengths()
    sample = FakeLLM(answer=lambda request: "fish" * 70)  # counts 4 characters as a token
    BatchRunner(llm=sample, observers=[lengths]).run(dish, [1, 2])
    runner = BatchRunner(llm=sample, limits=Limits(llm=8))
    first, again = (runner.simulate(dish, range(50), answers=lengths) for _ in range(2))

    assert lengths.lengths == {"dish": (70, 70)}
    assert first.server.completion_tokens == 50 * 70
    # But for the last event, whose statistics have the memory of the process.
    assert list(map(str, first.events[:-1])) == list(map(str, again.events[:-1]))


def test_the_lengths_of_a_task_that_was_not_sampled_are_those_of_its_text() -> None:
    simulation = BatchRunner(llm=OfflineLLM()).simulate(dish, range(3), answers=SampledLengths())

    assert 0 < simulation.server.completion_tokens < 60
    assert len(simulation.report.results) == 3


@pytest.mark.sample(2)
@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_calls_that_are_alike_are_foretold_alone_and_side_by_side(speed: TokenSpeed, noise: float) -> None:
    server, random = SimulatedServer(), Random(7)

    def of_task() -> tuple[int, int]:
        return 400 + random.randint(-15, 15), 60 + random.randint(-6, 6)

    calls = [of_task() for _ in range(23)]
    alone = [
        Sample(prompt, answer, random.lognormvariate(0, noise) * alone_seconds(speed, prompt, answer))
        for prompt, answer in calls
    ]
    group = [Sample(*of_task(), 1.0, index * 0.002) for index in range(16)]
    group = [
        sample._replace(seconds=seconds * random.lognormvariate(0, noise))
        for sample, seconds in zip(group, predict(speed, group, server), strict=True)
    ]
    fitted = fit_alike(alone, [group], server)
    sizes = [of_task() for _ in range(100)]
    told, foretold = (sum(alone_seconds(one, *size) for size in sizes) for one in (speed, fitted))

    assert foretold == pytest.approx(told, rel=0.01 + noise / 2)
    for width in (4, 16):
        night = [Sample(*of_task(), 1.0) for _ in range(width)]
        assert max(predict(fitted, night, server)) == pytest.approx(
            max(predict(speed, night, server)), rel=0.2
        )


def alone_seconds(speed: TokenSpeed, prompt: int, answer: int) -> float:
    return speed.overhead + prompt / speed.prefill + answer / speed.decode


def menu(item: int) -> Any:
    for course in ("soup", "fish"):
        message = {"role": "user", "content": f"Name a {course} for guest {item}."}
        yield from complete(
            LLMRequest(course, (message,), {"type": "string"}, max_tokens=100 + 40 * (course == "fish"))
        )


@pytest.mark.parametrize("awaited", [False, True])
def test_a_task_is_measured_by_its_own_calls(awaited: bool) -> None:
    model = Model(awaited=awaited)
    server = SimulatedServer.measured(model, calls=20, task=menu, items=range(30), slots=8)  # type: ignore[arg-type]
    contents = [request.messages[0]["content"] for request in model.asked]

    assert len(set(contents)) == len(contents) == 20
    assert all("for guest" in content for content in contents)
    assert {request.task for request in model.asked} == {"soup", "fish"}
    assert model.peak == 8
    assert isinstance(server.answer_tokens, dict)
    assert server.answer_tokens["soup"].mean(0) == 50
    assert server.answer_tokens["fish"].mean(0) == 70
    assert not server.prefix_cache


@pytest.mark.parametrize(
    ("items", "problem"),
    [
        (range(5), "the items make 10 different requests, and calls=20 needs as many"),
        ([], "the items make 0 different requests"),
        ([7] * 40, "id 7"),
    ],
)
def test_a_measured_task_needs_enough_different_requests(items: Any, problem: str) -> None:
    model = Model(awaited=True)
    with pytest.raises(errors.ConfigurationError, match=problem):
        SimulatedServer.measured(model, calls=20, task=menu, items=items)  # type: ignore[arg-type]

    assert model.asked == []


def test_a_measured_task_may_search(tmp_path: Any) -> None:
    from restaurant_llm_batch import SummarizeAspects
    from restaurant_llm_batch.testing import FakeSearch

    search = FakeSearch({number: [f"Soup {number} was good."] for number in range(30)})
    model = Model(awaited=True)
    task = SummarizeAspects(mode="split", language="en")
    server = SimulatedServer.measured(model, calls=24, task=task, items=range(30), search=search)  # type: ignore[arg-type]

    assert isinstance(server.answer_tokens, dict)
    assert set(server.answer_tokens) == {"aspect_summary", "overall_summary"}
    with pytest.raises(errors.ConfigurationError, match="search"):
        SimulatedServer.measured(model, calls=20, task=task, items=range(30))  # type: ignore[arg-type]
