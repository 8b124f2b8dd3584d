"""
Cached calls: a reply in the store is not paid for again, and a new one is on disk before its flow goes on.

Equal calls that are in flight at once are made once; see `_store.inflight`. Job ids that a backend records go to the
store too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from .._llm_response import LLMResponse
from .._store.inflight import Callback, Follower, InFlightCall
from .._store.journal import CURRENT_JOURNAL, JobJournal
from .._store.keys import request_key
from .._store.overlay import AnyStore
from ..errors import DeadlineExceeded
from ..steps import Complete
from .call import Call
from .frames import EngineFlow
from .items import RunItem, appended
from .memo import WaitForCallback
from .plan import BackendMethod
from .run import RunState, log


class CallModel(Protocol):
    """Calls the model for a step, with retries: by `method`, each attempt prepared by `prepare`."""

    def __call__(
        self,
        step: Complete,
        item: RunItem,
        run: RunState,
        method: BackendMethod,
        prepare: Callable[[Call], object],
        /,
    ) -> EngineFlow[LLMResponse]: ...


def complete_cached(
    call_model: CallModel, step: Complete, item: RunItem, run: RunState, store: AnyStore
) -> EngineFlow[LLMResponse]:
    """
    Return the stored reply to a request, or make the call and store its reply.

    Args:
        call_model: Calls the model, with retries.
        step: The request.
        item: The item it is for.
        run: The run.
        store: The store.
    """
    key = request_key(run.fingerprint, step.request)
    in_flight = store.in_flight
    while True:
        # An entry that ends between the lookup and the join has stored its reply, and changes the number of entries
        # that have ended: then the leader looks again.
        ended = in_flight.ended
        if key not in in_flight:
            found = store.get(key)
            if found is not None:
                return _found(found, key, step, item, run)
        mine = in_flight.entry(key, run)
        run.shares[mine] = (
            mine.leader_left
        )  # before it is joined: after an interrupt, the run's end leaves it
        shared = in_flight.join(mine)
        if shared is mine:
            again = in_flight.ended != ended
            return (yield from _lead(shared, mine, call_model, step, item, run, store, again))
        del run.shares[mine]
        if run.stopped is not None:
            raise run.stop_error()
        follower = Follower(run, item.priority, item.sequence)
        if (yield from _follow(shared, follower, item, run)):
            return (yield from _lead(shared, follower, call_model, step, item, run, store, looks_again=True))


def _found(found: LLMResponse, key: bytes, step: Complete, item: RunItem, run: RunState) -> LLMResponse:
    run.recorder.record_cache_hit(item, step.request, found, key)
    item.has_llm_reply = True
    item.stored_replies = appended(item.stored_replies, (found, key))
    return found


def _lead(
    shared: InFlightCall,
    leader: object,
    call_model: CallModel,
    step: Complete,
    item: RunItem,
    run: RunState,
    store: AnyStore,
    looks_again: bool,
) -> EngineFlow[LLMResponse]:
    key = shared.key
    try:
        if looks_again:
            found = store.get(key)
            if found is not None:
                return _found(found, key, step, item, run)
        jobs = StoredJobJournal(store, key, run)
        shared.persist = partial(_keep, store, key, jobs)
        reply = yield from call_model(step, item, run, _with_journal(run.plan.llm, jobs), shared.attach_call)
        # A truncated or declined reply is stored too: a later run must not pay for it, and for its repair, again.
        # If the item fails because of it, it is deleted again.
        item.stored_replies = appended(item.stored_replies, (reply, key))
        failure: Any = yield WaitForCallback(partial(shared.persist_reply, reply))
        if failure is not None:
            run.stop(f"the store cannot be written: {failure}")
        return reply
    finally:
        run.leave(leader)


def _follow(shared: InFlightCall, follower: Follower, item: RunItem, run: RunState) -> EngineFlow[bool]:
    """Follow another item's call; return whether this item leads now."""
    run.shares[follower] = partial(shared.unfollow, follower)
    try:
        yield WaitForCallback(partial(shared.follow, follower), interruptible=True)
    except BaseException as error:
        run.leave(follower)
        if isinstance(error, DeadlineExceeded):
            item.errors = appended(item.errors, (error, "llm", 0))
        raise
    if not follower.leads:
        del run.shares[follower]
    return follower.leads


def _keep(store: AnyStore, key: bytes, jobs: StoredJobJournal, reply: LLMResponse, on_done: Callback) -> None:
    """Store a reply, and delete its jobs when it is on disk; until then, only the service's job has the reply."""
    if not jobs.has_job:  # nor will it have one: the call has returned
        store.put(key, reply, on_done)
        return

    def on_commit(failure: Exception | None) -> None:
        if failure is None:
            jobs.discard_all()
        on_done(failure)

    store.put(key, reply, on_commit)


class StoredJobJournal:
    """
    The job journal of one request, in the store.

    The store holds the latest job of each request. It commits a moment after it was written to, so the latest job is
    remembered here too: a retry must not miss the job of the attempt before.
    """

    __slots__ = ("_ended_job", "_free", "_job", "_key", "_run", "_store")

    def __init__(self, store: AnyStore, key: bytes, run: RunState) -> None:
        self._store = store
        self._key = key
        self._run = run
        self._job: tuple[str, str] | None = None
        self._free = False
        self._ended_job = ""

    @property
    def has_job(self) -> bool:
        """Whether a job is recorded."""
        return self._job is not None

    def claim(self, fingerprint: str) -> str | None:
        """Return the id of the job to resume; see `JobJournal`."""
        if self._job is None:
            self._read_store()
        if self._job is None or not self._free or self._job[0] != fingerprint:
            return None
        self._free = False
        return self._job[1]

    def record(self, fingerprint: str, job_id: str) -> None:
        """Record a job that was submitted."""
        self._job, self._free = (fingerprint, job_id), False
        change = partial(
            self._store.record_job, self._key, fingerprint, f"{fingerprint} {job_id}", self._on_commit
        )
        self._write(change)

    def release(self, job_id: str) -> None:
        """Record that no call waits for a job any more."""
        if self._job is not None and self._job[1] == job_id:
            self._free = True

    def discard(self, job_id: str) -> None:
        """Record that a job has ended without a reply."""
        self._ended_job = job_id
        if self._job is not None and self._job[1] == job_id:
            self.discard_all()

    def discard_all(self) -> None:
        """Delete the job from the store."""
        job, self._job = self._job, None
        if job is not None:
            self._write(partial(self._store.delete_job, self._key, " ".join(job), _do_nothing))

    def _read_store(self) -> None:
        found = self._store.job(self._key)
        if found is not None:
            fingerprint, _, job_id = found.partition(" ")
            if job_id != self._ended_job:  # otherwise it is about to be deleted there too
                self._job, self._free = (fingerprint, job_id), True

    def _on_commit(self, failure: Exception | None) -> None:
        if failure is not None:
            self._run.stop(f"the store cannot be written: {failure}")

    @staticmethod
    def _write(change: Callable[[], object]) -> None:
        try:
            change()
        except Exception as error:
            # For example, no new threads at the interpreter's exit. The next run checks the job.
            log.warning("a job could not be recorded in the store, or not be deleted: %s", error)


def _with_journal(method: BackendMethod, journal: JobJournal) -> BackendMethod:
    """Return a method that calls another one with `journal` as the current job journal."""
    call = method.method
    if method.is_async:

        async def awaited(argument: Any) -> Any:
            token = CURRENT_JOURNAL.set(journal)
            try:
                return await call(argument)
            finally:
                CURRENT_JOURNAL.reset(token)

        return BackendMethod(awaited, is_async=True)

    def blocking(argument: Any) -> Any:
        token = CURRENT_JOURNAL.set(journal)
        try:
            return call(argument)
        finally:
            CURRENT_JOURNAL.reset(token)

    return BackendMethod(blocking, is_async=False)


def _do_nothing(_: Exception | None) -> None:
    pass
