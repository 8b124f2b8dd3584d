"""What `test_chaos_served` draws: plans of faults, and the backends, tasks and ways that they are tried on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from time import monotonic, sleep
from typing import Any, TypeAlias, get_args

import anyio
from hypothesis import strategies as st

from restaurant_llm_batch import (
    AdaptiveLimit,
    AnalyzeSentiment,
    BatchRunner,
    ConcurrencyLimiter,
    Failure,
    Limits,
    RetryPolicy,
    RunStats,
    Strategy,
    SummarizeAspects,
    SummarizeReviews,
)
from restaurant_llm_batch.backends import OpenAILLM, VLLMServerLLM
from restaurant_llm_batch.backends.runpod.llm import PollingPolicy, RunPodLLM
from restaurant_llm_batch.outcomes import Outcome
from restaurant_llm_batch.testing import FakeSearch
from restaurant_llm_batch.testing.server import (
    FAULT_KINDS,
    ChatRequest,
    FaultKind,
    Faults,
    FaultServer,
    ServerStats,
)
from tests.support.patience import PATIENCE
from tests.support.run_methods import STRATEGIES

Fate: TypeAlias = tuple[FaultKind, ...]
"""The faults of a question's tries, one after the other; then it is answered well."""

ANSWER_WITHIN = 0.7
"""Seconds that clients wait for an answer, or a job, where it may never come: a hundred times what one takes."""
COMES_FOR_SURE = 8.0
"""The same where it comes. A machine that stands still for a moment must not look like a server that does."""
WORK = 0.003
SLOW = 0.02

KINDS: tuple[FaultKind, ...] = tuple(
    kind for part in get_args(FaultKind) for kind in get_args(part) or (part,)
)
STOP_A_RUN: tuple[FaultKind, ...] = ("insufficient_quota", "unauthorized")
OUTLIVE_PATIENCE: tuple[FaultKind, ...] = ("no_response", "job_stays_queued", "job_never_ends")
"""What costs a client its whole patience, so that tests draw it less often."""
LEAVE_AN_UNKNOWN_JOB: tuple[FaultKind, ...] = ("reset", "submission_lost")
"""
The job was made, and the client was never told its id: it cannot be watched or cancelled, and lives until its work is
done, or its ttl is over. Nobody can do better, so these jobs alone may be alive after a run.
"""
ITEMS_ARE_DONE_IN_SPITE_OF: tuple[FaultKind, ...] = (
    "rate_limited",
    "unavailable",
    "overloaded",
    "slow_down",
    "field_refused",
    "slow_body",
    "event_stream",
    "byte_order_mark",
    "long_header",
    "error_finish",
    "no_usage",
    "usage_as_text",
    "thinking",
    "half_emoji",
    "single_quotes",
    "other_labels",
    "malformed",
    "prose",
    "missing_ids",
    "control_characters",
    "poll_fails",
    "job_fails_for_now",
    "job_completes_with_error",
    "job_out_of_memory",
    "cancel_fails",
)
"""On every backend, once or twice in a row, and their answers are kept in a store."""

assert set(KINDS) == set(FAULT_KINDS)


@dataclass(frozen=True)
class Mode:
    """How a task is run: a strategy, a way to call the runner, and a loop where that is awaited."""

    strategy: Strategy
    way: str
    loop: str = "asyncio"

    def __str__(self) -> str:
        return f"{self.way}/{self.loop}/{self.strategy}"


MODES = [Mode(strategy, way) for strategy in STRATEGIES for way in ("run", "stream")] + [
    Mode(strategy, way, loop)
    for strategy in STRATEGIES
    for way in ("arun", "astream")
    for loop in ("asyncio", "trio")
]
PLAINEST = Mode(Strategy.stage(1), "run")
BACKENDS: Mapping[str, Callable[[Any, float], Any]] = {
    "openai": lambda server, patience: OpenAILLM(
        "tiny", base_url=server.openai_url, api_key="hush", timeout=patience
    ),
    "vllm": lambda server, patience: VLLMServerLLM(server.url, "tiny", timeout=patience),
    "runpod": lambda server, patience: RunPodLLM(
        "e1",
        api_key="hush",
        base_url=server.runpod_url,
        timeout=patience,
        request_timeout=patience,
        polling=PollingPolicy(wait_initial=0.004, multiplier=1.3, wait_max=0.03),
    ),
}
"""By name, made of a server and the seconds that an answer or a job is waited for."""
QUESTIONS = {"openai": "/v1/chat/completions", "vllm": "/v1/chat/completions", "runpod": "/v2/run"}
SEARCH = FakeSearch(lambda number: [f"{number}번 집 맛있어요", "가격이 <비싸요>", "친절해요"])


def _reviews(number: int) -> list[str]:
    return [f"{number}번 집 {word}" for word in ("맛있어요", "비싸요", "친절해요")]


TASKS: Mapping[str, tuple[Any, Callable[[int], Any]]] = {
    "aspects": (SummarizeAspects(), lambda number: number),
    "aspects, split": (SummarizeAspects(mode="split", aspects=("food", "price")), lambda number: number),
    "sentiment": (
        AnalyzeSentiment(batch_size=2),
        lambda number: {"restaurant_id": number, "reviews": _reviews(number)},
    ),
    "reviews": (
        SummarizeReviews(),
        lambda number: {
            "restaurant_id": number,
            "positive_reviews": _reviews(number),
            "negative_reviews": [f"{number}번 집 별로"],
        },
    ),
}


@dataclass
class Planned:
    """
    A plan for a `FaultServer`: a question's fate is decided by what it asks and how often it was asked.

    Attributes:
        fates: The fates there are.
        jobs: Whether the questions come as RunPod jobs.
        unknown: Digests of questions of which a job was made that nobody was told of.
    """

    fates: Sequence[Fate]
    jobs: bool
    unknown: set[str] = field(default_factory=set)

    def __call__(self, asked: ChatRequest) -> FaultKind | None:
        """Return the fault of this try."""
        fate = self.fate(asked)
        kind = fate[asked.attempt - 1] if asked.attempt <= len(fate) else None
        if self.jobs and kind in LEAVE_AN_UNKNOWN_JOB:
            self.unknown.add(asked.digest)
        return kind

    @property
    def is_impatient(self) -> bool:
        """Whether its clients wait only for a moment, because some answer never comes."""
        return any(kind in OUTLIVE_PATIENCE for fate in self.fates for kind in fate)

    @property
    def patience(self) -> float:
        """How long its clients should wait."""
        return ANSWER_WITHIN if self.is_impatient else COMES_FOR_SURE

    def fate(self, asked: ChatRequest) -> Fate:
        """Return the faults of all tries of a question."""
        return self.fates[int(asked.digest, 16) % len(self.fates)]

    def known(self, counts: ServerStats) -> list[str]:
        """Return the jobs that are alive and whose ids the client was told, so that it answers for them."""
        # An id is NUMBER-DIGEST-u1.
        return [job for job in counts.jobs_alive if job.split("-")[1] not in self.unknown]


class MendedAtOnce(Planned):
    """A plan under which an answer that is asked for once more, with the unusable one shown, is always good."""

    def fate(self, asked: ChatRequest) -> Fate:
        """Return the faults of all tries of a question."""
        return () if any(one["role"] == "assistant" for one in asked.messages) else super().fate(asked)


@dataclass
class Ran:
    """What a run came to."""

    outcomes: list[Outcome[Any]]
    stats: RunStats


def fates(kinds: Sequence[FaultKind], most: int = 4, length: int = 3) -> st.SearchStrategy[list[Fate]]:
    """Draw seven fates, of which at most so many are bad."""
    quick = [kind for kind in kinds if kind not in OUTLIVE_PATIENCE]
    slow = [kind for kind in kinds if kind in OUTLIVE_PATIENCE]
    one = st.lists(st.sampled_from(quick), min_size=1, max_size=length).map(tuple)
    if slow:
        seldom = st.tuples(st.sampled_from(slow))
        often, now_and_then = one, st.sampled_from(range(8))
        one = now_and_then.flatmap(lambda drawn: seldom if drawn == 7 else often)
    bad = st.lists(one, min_size=1, max_size=most)
    return bad.flatmap(lambda some: st.permutations([*some, *[()] * (7 - len(some))]))


def make_limit(drawn: int | str) -> ConcurrencyLimiter:
    """Return a gate for calls: of a fixed limit, or one that finds it."""
    return ConcurrencyLimiter(AdaptiveLimit(min=1, start=2, max=4) if drawn == "adaptive" else int(drawn))


def make_runner(llm: Any, mode: Mode, gate: ConcurrencyLimiter, **more: Any) -> BatchRunner:
    """Return a runner with one gate for all calls of the model, that tries again at once."""
    limits = Limits(
        llm=gate, batches=gate, open_items=6, min_batch_size=1, default_batch_size=2, max_batch_size=2
    )
    quick = RetryPolicy(attempts=3, wait_initial=0.001, wait_max=0.002)
    return BatchRunner(llm=llm, search=SEARCH, strategy=mode.strategy, limits=limits, llm_retry=quick, **more)


def go(runner: BatchRunner, mode: Mode, task: Any, items: Iterable[Any]) -> Ran:
    """Run to the end."""
    if mode.way == "run":
        report = runner.run(task, items)
        return Ran(list(report.outcomes), report.stats)
    if mode.way == "stream":
        stream = runner.stream(task, items)
        return Ran(list(stream), stream.stats)
    if mode.way == "arun":
        report = anyio.run(runner.arun, task, items, backend=mode.loop)
        return Ran(list(report.outcomes), report.stats)

    async def main() -> Ran:
        async with runner:
            stream = runner.astream(task, items)
            return Ran([outcome async for outcome in stream], stream.stats)

    return anyio.run(main, backend=mode.loop)


@contextmanager
def lent(backend: str, server: FaultServer, patience: float) -> Iterator[Any]:
    """Lend a backend and close it."""
    llm = BACKENDS[backend](server, patience)
    try:
        yield llm
    finally:
        llm.close()


def serve(plan: Planned, **more: Any) -> FaultServer:
    """Return a server with a plan."""
    given: dict[str, Any] = {"latency": WORK, "slow_body_seconds": SLOW, "plan": plan, **more}
    return FaultServer(Faults(**given))


def rest(server: FaultServer, plan: Planned, gate: ConcurrencyLimiter) -> ServerStats:
    """Wait until nothing is in flight, nor any slot taken, nor any job alive that the client knows."""
    until = monotonic() + PATIENCE
    while True:
        counts, slots = server.counts, gate.statistics()
        if not (counts.in_flight or slots.in_flight or slots.waiting or plan.known(counts)):
            return counts
        assert monotonic() < until, (counts, slots)
        sleep(0.002)


def comparable(outcomes: Iterable[Outcome[Any]]) -> list[object]:
    """Return what must be equal in every mode: values, or types of errors, stages and tries; no words of errors."""
    return [_comparable(outcome) for outcome in sorted(outcomes, key=lambda outcome: outcome.index)]


def _comparable(outcome: Outcome[Any]) -> object:
    if isinstance(outcome, Failure):
        return outcome.index, outcome.item_id, type(outcome.error).__name__, outcome.stage, outcome.attempts
    return outcome.index, outcome.item_id, _without_words(asdict(outcome.value))


def _without_words(value: Any) -> Any:
    """Leave of the errors in a result their type alone: transports word them each in its own way."""
    if isinstance(value, Mapping):
        return {
            name: one.partition(":")[0] if name == "error" and isinstance(one, str) else _without_words(one)
            for name, one in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_without_words(one) for one in value]
    return value
