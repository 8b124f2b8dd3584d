"""A batch service in memory on virtual time, and runs whose calls it carries."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, BinaryIO, Literal

import pytest

from restaurant_llm_batch import BatchReport, BatchRunner, LLMRequest, LLMResponse, Strategy, errors
from restaurant_llm_batch._engine import wave_timing
from restaurant_llm_batch._engine.frames import NOT_READY
from restaurant_llm_batch._engine.items import ItemReader, as_task
from restaurant_llm_batch._engine.run import RunState
from restaurant_llm_batch._engine.virtual import Done, VirtualDriver, VirtualTime
from restaurant_llm_batch._engine.wave_service import BatchProblem, BatchState, FileNotVisible
from restaurant_llm_batch._store.inflight import InFlightCalls
from restaurant_llm_batch.events import Event
from restaurant_llm_batch.outcomes import Outcome, Stage
from restaurant_llm_batch.steps import Flow, complete

QUICK = {"FIRST_LOOK": 0.01, "LONGEST": 0.05, "QUOTA_WAIT": 0.01, "LOOK_AGAIN": 0.01}
"""Shorter waits, for services that answer over sockets at once."""


def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at batches often."""
    for name, seconds in QUICK.items():
        monkeypatch.setattr(wave_timing, name, seconds)


Answer = Callable[[str, int], Any]
"""Returns the answer to a line, by its prompt and how often it was sent: a text, an error, or None for nothing."""


@dataclass
class Batch:
    """A batch of the service."""

    id: str
    wave: str
    file: str
    made_at: float
    prompts: list[str]
    cancelled: bool = False
    output: str = ""
    errors: str = ""


@dataclass
class MemoryBatches:
    """
    A `WaveService` in memory. `seconds` is how long a batch takes; `end` what becomes of it, by its number from 0.
    """

    time: VirtualTime = field(default_factory=VirtualTime)
    seconds: float = 100.0
    answer: Answer = lambda prompt, _: f"answer to {prompt}"
    end: Callable[[int], str] = lambda _: "completed"
    name: str = "memory:1"
    fingerprint: str = "memory"
    max_lines: int = 50_000
    max_bytes: int = 190_000_000
    max_enqueued_tokens: int | None = None
    min_wave: int = 0
    online_rest: bool = False
    wait_at_most: float | None = None
    on_stop: Literal["cancel", "keep"] = "cancel"
    quota: int | None = None
    trouble: Callable[[str, int], Exception | None] = lambda _operation, _number: None
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, Batch] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    online_calls: list[str] = field(default_factory=list)
    looks: list[float] = field(default_factory=list)
    log: list[tuple[float, str]] = field(default_factory=list)
    cancelled_later: list[str] = field(default_factory=list)

    @property
    def wave_service(self) -> MemoryBatches:
        return self

    @property
    def online(self) -> MemoryBatches:
        return self

    @property
    def waves(self) -> list[int]:
        """The number of lines of each batch."""
        return [len(batch.prompts) for batch in self.batches.values()]

    def complete(self, request: LLMRequest, /) -> LLMResponse:
        self.online_calls.append(prompt_of(request))
        return LLMResponse(
            f"online {prompt_of(request)}", prompt_tokens=10, completion_tokens=5, model="tiny"
        )

    def _trouble(self, operation: str) -> None:
        self.asked[operation] += 1
        self.log.append((self.time.now(), operation))
        error = self.trouble(operation, self.asked[operation])
        if error is not None:
            raise error

    def write(self, custom_id: str, request: LLMRequest) -> bytes:
        line = {"id": custom_id, "prompt": prompt_of(request), "max_tokens": request.max_tokens}
        return json.dumps(line).encode() + b"\n"

    def read(self, line: bytes, task: str) -> LLMRequest:
        read = json.loads(line)
        return LLMRequest(task, ({"role": "user", "content": read["prompt"]},), max_tokens=read["max_tokens"])

    def rewrite(self, line: bytes) -> bytes:
        return line

    def learns(self, line: bytes, error: Exception) -> bool:
        return False

    def read_answer(self, raw: bytes) -> tuple[str, LLMResponse | Exception] | None:
        try:
            read = json.loads(raw)
        except ValueError:
            return None
        if not isinstance(read, dict) or "id" not in read:
            return None
        if "error" in read:
            kind = getattr(errors, read["error"])
            return read["id"], kind("the line failed")
        return read["id"], LLMResponse(read["text"], "stop", 10, 5, "tiny", batched=True)

    def upload(self, file: BinaryIO, name: str) -> str:
        self._trouble("upload")
        file_id = f"file-{len(self.files)}"
        self.files[file_id] = file.read()
        return file_id

    def create(self, file_id: str, wave: str) -> BatchState:
        self._trouble("create")
        lines = [json.loads(line) for line in self.files[file_id].splitlines()]
        number = len(self.batches)
        batch = Batch(f"batch-{number}", wave, file_id, self.time.now(), [line["prompt"] for line in lines])
        self.batches[batch.id] = batch
        lost = self.trouble("created", number + 1)
        if lost is not None:
            raise lost
        return self._state(batch)

    def look(self, batch_id: str) -> BatchState:
        self._trouble("look")
        self.looks.append(self.time.now())
        batch = self.batches.get(batch_id)
        if batch is None or self.end(self._number(batch)) == "vanished":
            raise errors.PermanentBackendError("no such batch", status=404)
        return self._state(batch)

    def find(self, wave: str, file_id: str) -> BatchState | None:
        self._trouble("find")
        found = [batch for batch in self.batches.values() if batch.wave == wave]
        return self._state(found[0]) if found else None

    def cancel(self, batch_id: str) -> None:
        self._trouble("cancel")
        self.batches[batch_id].cancelled = True

    def cancel_later(self, batch_ids: list[str]) -> None:
        self.cancelled_later += batch_ids
        for batch_id in batch_ids:
            self.batches[batch_id].cancelled = True

    def fetch(self, file_id: str, into: BinaryIO) -> None:
        self._trouble("fetch")
        if file_id not in self.files:
            raise FileNotVisible("not yet")
        into.write(self.files[file_id])

    def forget(self, file_id: str) -> None:
        self._trouble("forget")

    def close(self) -> None:
        pass

    def _number(self, batch: Batch) -> int:
        return list(self.batches).index(batch.id)

    def _state(self, batch: Batch) -> BatchState:
        number = self._number(batch)
        if self.quota is not None and len(self.files[batch.file]) > self.quota:
            problem = BatchProblem("token_limit_exceeded", "Enqueued token limit reached", None, True)
            return BatchState(batch.id, "failed", problems=(problem,))
        end = self.end(number)
        if end.startswith("bad line "):
            return BatchState(batch.id, "failed", problems=(BatchProblem("invalid", "bad", int(end[9:])),))
        if end == "failed":
            return BatchState(batch.id, "failed", problems=(BatchProblem("invalid_model", "no such model"),))
        if self.time.now() < batch.made_at + self.seconds and not batch.cancelled:
            return BatchState(batch.id, "in_progress")
        status = "cancelled" if batch.cancelled else "completed" if end == "vanished" else end
        if not batch.output and not batch.errors:
            self._answer(batch, 1.0 if status == "completed" else 0.5)
        return BatchState(batch.id, status, batch.output, batch.errors)

    def _answer(self, batch: Batch, share: float) -> None:
        lines = [json.loads(line) for line in self.files[batch.file].splitlines()]
        outputs, failed = [], []
        for line in lines[: round(share * len(lines))]:
            prompt = line["prompt"]
            self.sent[prompt] += 1
            answer = self.answer(prompt, self.sent[prompt])
            if isinstance(answer, str):
                outputs += [{"id": line["id"], "text": answer}]
            elif answer is not None:
                failed += [{"id": line["id"], "error": type(answer).__name__}]
        Random(batch.id).shuffle(outputs)
        outputs += outputs[:2]  # some answers come twice
        for name, written in (("output", outputs), ("errors", failed)):
            if written:
                file_id = f"{batch.id}-{name}"
                text = "\n".join(map(json.dumps, written))
                self.files[file_id] = f"{text}\nnot JSON\n".encode()
                setattr(batch, name, file_id)


def asking(prompt: object, **more: Any) -> LLMRequest:
    """Return a request with a prompt."""
    return LLMRequest("dish", ({"role": "user", "content": str(prompt)},), max_tokens=50, **more)


def one(item: object) -> Flow[str]:
    """Ask one thing."""
    return (yield from complete(asking(item))).text


def answers(items: Iterable[object]) -> list[str]:
    """Return what `one` makes of items."""
    return [f"answer to {item}" for item in items]


def prompt_of(request: LLMRequest) -> str:
    return str(request.messages[-1]["content"])


class MemoryStore:
    """A store whose changes are durable at once, as virtual time needs it."""

    claim_seconds = 0.0
    vain = 0

    def __init__(self) -> None:
        self.in_flight = InFlightCalls()
        self.replies: dict[bytes, LLMResponse] = {}
        self.jobs: dict[bytes, str] = {}

    def get(self, key: bytes) -> LLMResponse | None:
        return self.replies.get(key)

    def put(self, key: bytes, reply: LLMResponse, on_commit: Any) -> None:
        self.replies[key] = reply
        on_commit(None)

    def discard(self, key: bytes, on_commit: Any) -> None:
        self.replies.pop(key, None)
        on_commit(None)

    def job(self, key: bytes) -> str | None:
        return self.jobs.get(key)

    def record_job(self, key: bytes, backend: str, job_id: str, on_commit: Any) -> None:
        self.jobs[key] = job_id
        on_commit(None)

    def claim_job(self, key: bytes, backend: str, job_id: str, on_commit: Any) -> None:
        self.jobs.setdefault(key, job_id)
        on_commit(None)

    def delete_job(self, key: bytes, job_id: str, on_commit: Any) -> None:
        if self.jobs.get(key) == job_id:
            del self.jobs[key]
        on_commit(None)


class _Online:
    """Answers the calls of a run that do not go by batches, at once."""

    def __init__(self, service: MemoryBatches) -> None:
        self._service = service

    def begin(self, stage: Stage, argument: Any, done: Done, endpoint: str | None, /) -> Callable[[], object]:
        self._service.time.call_later(1.0, lambda: done(self._service.complete(argument), None))
        return lambda: None


class _Arriving:
    """Items that arrive at moments, by their index."""

    def __init__(self, reader: ItemReader, arrivals: Sequence[float], time: VirtualTime) -> None:
        self._reader = reader
        self.unfinished = reader.unfinished
        self._left = list(arrivals)
        self._time = time

    def take(self, room: int) -> Any:
        if self._left and self._time.now() < self._left[0]:
            return NOT_READY
        if self._left:
            self._left.pop(0)
        return self._reader.take(room)


class Playing:
    """A run on virtual time, together with others of the same service."""

    def __init__(
        self,
        service: MemoryBatches,
        task: Any,
        items: Iterable[Any],
        strategy: Strategy = Strategy.stage(4),
        store: Any = None,
        arrivals: Sequence[float] = (),
        **arguments: Any,
    ) -> None:
        self.events: list[Event] = []
        on_stop, service.on_stop = service.on_stop, "cancel"  # the runner itself has no store
        self._runner = BatchRunner(
            llm=service, strategy=strategy, observers=[self.events.append], **arguments
        )
        service.on_stop = on_stop
        config = replace(
            self._runner.parts.config, store=store, fingerprint=service.fingerprint if store else ""
        )
        reader = ItemReader(as_task(task), items)
        self._run = run = RunState(1, as_task(task), config, service.time.now, Random(0))
        self._outcomes: list[Outcome[Any]] = []
        source = _Arriving(reader, arrivals, service.time)
        window, deliver = self._runner._window, self._outcomes.append
        driver = VirtualDriver(run, source, reader, window, service.time, _Online(service), deliver)
        self._driver = driver
        run.recorder.start(reader.total)
        run.started_at = service.time.now()
        for moment in arrivals:
            service.time.call_later(moment - service.time.now(), driver.scheduler.admit_items)
        driver.start()

    @property
    def finished(self) -> bool:
        return self._driver.scheduler.finished

    def end(self) -> BatchReport[Any]:
        """End the run if it has not ended, and return its report."""
        self._driver.end()
        self._run.recorder.finish()
        self._runner.close()
        if self._driver.scheduler.failure is not None:
            raise self._driver.scheduler.failure
        outcomes = sorted(self._outcomes, key=lambda outcome: outcome.index)
        return BatchReport(outcomes, self._run.recorder.stats)


def play(
    service: MemoryBatches, task: Any, items: Iterable[Any], until: float = float("inf"), **arguments: Any
) -> tuple[BatchReport[Any], list[Event]]:
    """Run on virtual time; end the run at the moment `until`, if it has not ended by itself."""
    playing = Playing(service, task, items, **arguments)
    while not playing.finished and service.time.step(until):
        pass
    return playing.end(), playing.events
