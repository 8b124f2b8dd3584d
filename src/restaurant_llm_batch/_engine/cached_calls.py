"""
Asking with a store: what is there is not asked again, and an answer is on disk before its flow goes on.

Equal questions in flight at once are asked once; `questions` says how. What a backend notes about its jobs goes to the
store too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from .._llm_response import LLMResponse
from .._store.inflight import Callback, Follower, InFlightCall
from .._store.journal import JobJournal, use_job_journal
from .._store.keys import request_key
from .._store.store import Store
from ..errors import DeadlineExceeded
from ..steps import Complete, Flow
from .call import Call
from .items import RunItem
from .memo import WaitForCallback
from .plan import BackendMethod
from .run import Run, log

Ask = Callable[[Complete, RunItem, Run], Flow[LLMResponse]]


def complete_cached(ask: Ask, step: Complete, entry: RunItem, run: Run, store: Store) -> Flow[LLMResponse]:
    """
    Answer a question from the store, or ask it and keep the answer.

    Args:
        ask: Asks the model.
        step: The question.
        entry: The item it is for.
        run: The run.
        store: The store.
    """
    key = request_key(run.fingerprint, step.request)
    while True:
        # Joined first, and then looked up: otherwise whoever led could settle it between the two.
        question, leads = store.in_flight.join(key, run)
        if leads:
            return (yield from _lead(question, ask, step, entry, run, store, key))
        if run.stopped is not None:
            raise run.stop_error()
        if (yield from _follow(question, entry, run)):
            return (yield from _lead(question, ask, step, entry, run, store, key))


def _lead(
    question: InFlightCall, ask: Ask, step: Complete, entry: RunItem, run: Run, store: Store, key: bytes
) -> Flow[LLMResponse]:
    try:
        found = store.get(key)
        if found is not None:
            run.record_cache_hit(entry, step.request.task, found)
            entry.has_llm_reply = True
            entry.stored_replies.append((found, key))
            return found
        jobs = StoredJobJournal(store, key, run)
        question.persist = partial(_keep, store, key, jobs)
        reply = yield from _intercept_calls(ask(step, entry, run), question, jobs)
        # One that was cut off or declined is kept too: what was asked after it is there as well, and a later run
        # must not pay for both again. An answer that its item fails by is taken out then.
        entry.stored_replies.append((reply, key))
        failure: Any = yield WaitForCallback(partial(question.persist_reply, reply))
        if failure is not None:
            run.stop(f"the store cannot be written: {failure}")
        return reply
    finally:
        question.leader_left()


def _follow(question: InFlightCall, entry: RunItem, run: Run) -> Flow[bool]:
    """Wait for a question, and return whether to lead it now."""
    follower = Follower(run, entry.priority, entry.sequence)
    try:
        yield WaitForCallback(partial(question.follow, follower), interruptible=True)
    except BaseException as error:
        question.unfollow(follower)
        if isinstance(error, DeadlineExceeded):
            entry.errors.append((error, "llm", 0))
        raise
    return follower.leads


def _keep(store: Store, key: bytes, jobs: StoredJobJournal, reply: LLMResponse, told: Callback) -> None:
    """Put an answer into the store; until it is on disk, only the job has it."""

    def durable(failure: Exception | None) -> None:
        if failure is None:
            jobs.discard_all()
        told(failure)

    store.put(key, reply, durable)


class StoredJobJournal:
    """
    The journal of one question, in the store.

    The store holds one job per question, the latest. It is written to a moment after it was told, so what was
    told is remembered here: a call that is made again must not miss the job of the one before.
    """

    def __init__(self, store: Store, key: bytes, run: Run) -> None:
        self._store = store
        self._key = key
        self._run = run
        self._noted: tuple[str, str] | None = None
        self._free = False
        self._ended = ""

    def claim(self, fingerprint: str) -> str | None:
        """Return the job to go on with, as `JobJournal` says."""
        if self._noted is None:
            self._look()
        if self._noted is None or not self._free or self._noted[0] != fingerprint:
            return None
        self._free = False
        return self._noted[1]

    def record(self, fingerprint: str, job_id: str) -> None:
        """Note a job that was made."""
        self._noted, self._free = (fingerprint, job_id), False
        change = partial(
            self._store.record_job, self._key, fingerprint, f"{fingerprint} {job_id}", self._written
        )
        self._tell(change)

    def release(self, job_id: str) -> None:
        """Note that a job is waited for no more."""
        if self._noted is not None and self._noted[1] == job_id:
            self._free = True

    def discard(self, job_id: str) -> None:
        """Note that a job has ended without an answer."""
        self._ended = job_id
        if self._noted is not None and self._noted[1] == job_id:
            self.discard_all()

    def discard_all(self) -> None:
        """Forget what is noted."""
        noted, self._noted = self._noted, None
        if noted is not None:
            self._tell(partial(self._store.delete_job, self._key, " ".join(noted), _nothing))

    def _look(self) -> None:
        found = self._store.job(self._key)
        if found is not None:
            fingerprint, _, job_id = found.partition(" ")
            if job_id != self._ended:  # or it is about to be forgotten there too
                self._noted, self._free = (fingerprint, job_id), True

    def _written(self, failure: Exception | None) -> None:
        if failure is not None:
            self._run.stop(f"the store cannot be written: {failure}")

    @staticmethod
    def _tell(change: Callable[[], object]) -> None:
        try:
            change()
        except Exception as error:  # no more threads, at the interpreter's end: the next run looks at the job
            log.warning("a job could not be noted, or not be forgotten: %s", error)


def _intercept_calls(
    flow: Flow[LLMResponse], question: InFlightCall, journal: JobJournal
) -> Flow[LLMResponse]:
    """Have every call of a flow known to its question, and note its jobs in a journal."""
    answer: Any = None
    error: Exception | None = None
    try:
        while True:
            try:
                step = flow.send(answer) if error is None else flow.throw(error)
            except StopIteration as stop:
                reply: LLMResponse = stop.value
                return reply
            answer = error = None
            if type(step) is Call:
                step.method = _with_journal(step.method, journal)
                question.attach_call(step)
            try:
                answer = yield step
            except Exception as raised:
                error = raised
    finally:
        flow.close()


def _with_journal(line: BackendMethod, journal: JobJournal) -> BackendMethod:
    method = line.method

    async def awaited(argument: Any) -> Any:
        with use_job_journal(journal):
            return await method(argument)

    def blocking(argument: Any) -> Any:
        with use_job_journal(journal):
            return method(argument)

    return BackendMethod(awaited if line.is_async else blocking, line.is_async)


def _nothing(_: Exception | None) -> None:
    pass
