"""
Cached calls: a reply in the store is not paid for again, and a new one is on disk before its flow goes on.

Equal calls that are in flight at once are made once; see `_store.inflight`. Job ids that a backend records go to the
store too.

The endpoints of a pool may have different models. Each reply is stored under the key of the model that gave it, and the
reply of any of them is found; calls that are equal but for the model share one key while they are in flight.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from .._llm_response import LLMResponse
from .._store.inflight import Callback, Follower, InFlightCall, SharedCall
from .._store.journal import CURRENT_JOURNAL, JobJournal
from .._store.keys import request_key
from ..errors import DeadlineExceeded
from ..models import LLMRequest
from ..steps import Complete
from .call import Call
from .frames import EngineFlow
from .items import RunItem, appended
from .memo import WaitForCallback
from .plan import BackendMethod
from .run import RunState, log

if TYPE_CHECKING:
    from .._store.identity import PoolModels
    from .._store.overlay import AnyStore

MAX_VAIN_LOOKUPS = 256
"""Lookups in a row, under the keys that an endpoint has outside of a pool, after which a run makes no more of them."""


class CallModel(Protocol):
    """Calls the model for a step, with retries: by what `around` makes of a method, each prepared by `prepare`."""

    def __call__(
        self,
        step: Complete,
        item: RunItem,
        run: RunState,
        around: Callable[[BackendMethod], BackendMethod] | None,
        prepare: Callable[[Call], object] | None,
        /,
    ) -> EngineFlow[LLMResponse]: ...


class ReplyKeys:
    """
    The keys under which the replies to one request are stored.

    Args:
        run: The run that asks.
        request: The request.

    Attributes:
        shared: The key of the request while it is in flight, whichever model replies; without a pool, of the reply too.
    """

    __slots__ = ("_request", "_run", "shared")

    def __init__(self, run: RunState, request: LLMRequest) -> None:
        self._run = run
        self._request = request
        self.shared: bytes = request_key(run.fingerprint, request)

    def find(self, store: AnyStore) -> tuple[LLMResponse, bytes] | None:
        """Return a stored reply and its key, or None."""
        reply = store.get(self.shared)
        if reply is not None:
            return reply, self.shared
        models = self._run.models
        return None if models is None else self._find_by_model(store, models)

    def _find_by_model(self, store: AnyStore, models: PoolModels) -> tuple[LLMResponse, bytes] | None:
        for fingerprint in models.others:
            key = request_key(fingerprint, self._request)
            reply = store.get(key)
            if reply is not None:
                return reply, key
        if models.vain_lookups < MAX_VAIN_LOOKUPS:
            for fingerprint in models.outside:
                key = request_key(fingerprint, self._request)
                reply = store.get(key)
                if reply is not None:
                    models.vain_lookups = 0
                    return reply, key
            models.vain_lookups += len(models.outside) > 0
        return None

    def of(self, call: SharedCall) -> bytes:
        """Return the key of a reply to a call."""
        models, ticket = self._run.models, call.endpoint_ticket
        if models is None or ticket is None or ticket.endpoint is None:
            return self.shared
        fingerprint = models.by_endpoint[ticket.endpoint.index]
        return (
            self.shared if fingerprint == self._run.fingerprint else request_key(fingerprint, self._request)
        )


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
    keys = ReplyKeys(run, step.request)
    key, in_flight = keys.shared, store.in_flight
    while True:
        # An entry that ends between the lookup and the join has stored its reply, and changes the number of entries
        # that have ended: then the leader looks again.
        ended = in_flight.ended
        if key not in in_flight:
            found = keys.find(store)
            if found is not None:
                return found_reply(*found, step.request, item, run)
        mine = in_flight.entry(key, run)
        run.shares[mine] = (
            mine.leader_left
        )  # before it is joined: after an interrupt, the run's end leaves it
        shared = in_flight.join(mine)
        if shared is mine:
            again = in_flight.ended != ended
            return (yield from _lead(shared, mine, call_model, step, item, run, store, keys, again))
        del run.shares[mine]
        if run.stopped is not None:
            raise run.stop_error()
        follower = Follower(run, item.priority, item.sequence, run.client)
        if (yield from _follow(shared, follower, item, run)):
            return (
                yield from _lead(shared, follower, call_model, step, item, run, store, keys, looks_again=True)
            )


def found_reply(
    found: LLMResponse, key: bytes, request: LLMRequest, item: RunItem, run: RunState
) -> LLMResponse:
    """Record that the reply to a request was found under a key, and return it."""
    run.recorder.record_cache_hit(item, request, found, key)
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
    keys: ReplyKeys,
    looks_again: bool,
) -> EngineFlow[LLMResponse]:
    try:
        if looks_again:
            found = keys.find(store)
            if found is not None:
                return found_reply(*found, step.request, item, run)
        jobs = StoredJobJournal(store, keys.shared, run)
        shared.persist = partial(_keep, store, keys, jobs)
        calls: list[Call] = []  # the latest one
        prepare = partial(_prepare, shared, jobs, calls)
        reply = yield from call_model(step, item, run, partial(_with_journal, journal=jobs), prepare)
        (call,) = calls
        # A truncated or declined reply is stored too: a later run must not pay for it, and for its repair, again.
        # If the item fails because of it, it is deleted again.
        item.stored_replies = appended(item.stored_replies, (reply, keys.of(call)))
        failure: Any = yield WaitForCallback(partial(shared.persist_reply, call, reply))
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


def _prepare(shared: InFlightCall, jobs: StoredJobJournal, calls: list[Call], call: Call) -> None:
    """Share an attempt; with a pool, at the endpoint that has a job for its request already, if there is one."""
    shared.attach_call(call)
    calls[:] = (call,)
    route = call.route
    if route is not None:
        route.only = jobs.endpoint_mask(call.spec.argument)


def _keep(
    store: AnyStore,
    keys: ReplyKeys,
    jobs: StoredJobJournal,
    call: SharedCall,
    reply: LLMResponse,
    on_done: Callback,
) -> None:
    """Store a reply, and delete its jobs when it is on disk; until then, only the service's job has the reply."""
    key = keys.of(call)
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

    def endpoint_mask(self, request: LLMRequest) -> int:
        """Return the mask of the endpoint of a pool that has a job for which no call waits; 0 if there is none."""
        models = self._run.models
        if models is None or not models.job_fingerprints:
            return 0
        if self._job is None:
            self._read_store()
        if self._job is None or not self._free:
            return 0
        fingerprint = self._job[0]
        return sum(
            1 << index for index, own in models.job_fingerprints.items() if own(request) == fingerprint
        )

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
