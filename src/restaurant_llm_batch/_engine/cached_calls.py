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
from .._store.journal import CURRENT_JOURNAL
from .._store.keys import request_key
from ..errors import DeadlineExceeded
from ..models import LLMRequest
from ..steps import Complete
from .call import Call
from .frames import EngineFlow
from .items import RunItem, appended
from .memo import LookUp, WaitForCallback
from .plan import BackendMethod
from .run import RunState, log

if TYPE_CHECKING:
    from .._store.identity import PoolModels
    from .._store.overlay import AnyStore

FEW = 2
"""Lookups in a row that find nothing, after which the next ones are made together."""

MAX_VAIN_LOOKUPS = 256
"""Lookups in a row, under the keys that an endpoint has outside of a pool, after which a run makes no more of them."""


class CallModel(Protocol):
    """Calls the model for a step, with retries; each attempt is passed to `prepare` before it is made."""

    def __call__(
        self,
        step: Complete,
        item: RunItem,
        run: RunState,
        prepare: Callable[[Call], object] | None,
        /,
    ) -> EngineFlow[LLMResponse]: ...


class StoringCall:
    """
    A call that one leader makes for all that wait for it: it stores the reply, and is the journal of its jobs.

    It is one object, since thousands are in flight at once. The store holds the latest job of each request. It commits
    a moment after it was written to, so the latest job is remembered here too: a retry must not miss the job of the
    attempt before.

    Args:
        shared: The entry among the calls in flight.
        run: The run that leads.
        request: The request.
        store: The store.
    """

    __slots__ = (
        "_ended_job",
        "_free",
        "_job",
        "_key",
        "_latest",
        "_method",
        "_request",
        "_run",
        "_shared",
        "_store",
    )

    def __init__(self, shared: InFlightCall, run: RunState, request: LLMRequest, store: AnyStore) -> None:
        self._shared: InFlightCall | None = shared
        self._key = shared.key
        self._run = run
        self._request = request
        self._store = store
        self._job: tuple[str, str] | None = None
        self._free = False
        self._ended_job = ""
        self._method: Callable[[Any], Any] = _no_method
        self._latest: Call | None = None
        shared.keeper = self

    def leave(self) -> Call | None:
        """Make no further attempt; return the latest."""
        latest = self._latest
        self._shared = self._latest = None  # cycles, which would be left to the garbage collector
        return latest

    def prepare(self, call: Call) -> None:
        """Share an attempt; with a pool, at the endpoint that has a job for its request already, if there is one."""
        self._latest = call
        call.wrap(self.around)
        if self._shared is not None:
            self._shared.attach_call(call)
        route = call.route
        if route is not None:
            route.only = self.endpoint_mask(call.argument)

    def around(self, method: BackendMethod) -> BackendMethod:
        """Return a method that calls another one with this as the current job journal."""
        self._method = method.method
        return BackendMethod(self._awaited if method.is_async else self._blocking, method.is_async)

    async def _awaited(self, argument: Any) -> Any:
        token = CURRENT_JOURNAL.set(self)
        try:
            return await self._method(argument)
        finally:
            CURRENT_JOURNAL.reset(token)

    def _blocking(self, argument: Any) -> Any:
        token = CURRENT_JOURNAL.set(self)
        try:
            return self._method(argument)
        finally:
            CURRENT_JOURNAL.reset(token)

    def persist(self, call: SharedCall, reply: LLMResponse, on_done: Callback) -> None:
        """Store a reply, and delete its jobs when it is on disk; until then, only the service's job has the reply."""
        # Without a job, there will be none: the call has returned.
        done = on_done if self._job is None else partial(self._on_reply_commit, on_done)
        self._store.put(self.key_of_reply(call), reply, done)

    def key_of_reply(self, call: SharedCall) -> bytes:
        """Return the key of a reply to a call: that of the model of its endpoint."""
        models, ticket = self._run.models, call.endpoint_ticket
        if models is None or ticket is None or ticket.endpoint is None:
            return self._key
        fingerprint = models.by_endpoint[ticket.endpoint.index]
        return self._key if fingerprint == self._run.fingerprint else request_key(fingerprint, self._request)

    def _on_reply_commit(self, on_done: Callback, failure: Exception | None) -> None:
        if failure is None:
            self.discard_all()
        on_done(failure)

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
            self._store.record_job, self._key, fingerprint, f"{fingerprint} {job_id}", self._on_job_commit
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

    def _on_job_commit(self, failure: Exception | None) -> None:
        if failure is not None:
            self._run.stop(f"the store cannot be written: {failure}")

    @staticmethod
    def _write(change: Callable[[], object]) -> None:
        try:
            change()
        except Exception as error:
            # For example, no new threads at the interpreter's exit. The next run checks the job.
            log.warning("a job could not be recorded in the store, or not be deleted: %s", error)


def find_reply(
    run: RunState, request: LLMRequest, key: bytes, store: AnyStore
) -> tuple[LLMResponse, bytes] | None:
    """
    Return the stored reply to a request, of any model of a pool, and its key; None if there is none.

    Args:
        run: The run that asks.
        request: The request.
        key: Its key, with the run's own fingerprint.
        store: The store.
    """
    reply = store.get(key)
    if reply is not None:
        return reply, key
    return None if run.models is None else _find_by_model(run.models, request, store)


def _find_by_model(
    models: PoolModels, request: LLMRequest, store: AnyStore
) -> tuple[LLMResponse, bytes] | None:
    for fingerprint in models.others:
        key = request_key(fingerprint, request)
        reply = store.get(key)
        if reply is not None:
            return reply, key
    if models.vain_lookups < MAX_VAIN_LOOKUPS:
        for fingerprint in models.outside:
            key = request_key(fingerprint, request)
            reply = store.get(key)
            if reply is not None:
                models.vain_lookups = 0
                return reply, key
        models.vain_lookups += len(models.outside) > 0
    return None


def complete_cached(
    store: AnyStore, call_model: CallModel, step: Complete, item: RunItem, run: RunState
) -> EngineFlow[LLMResponse]:
    """
    Return the stored reply to a request, or make the call and store its reply.

    Args:
        store: The store.
        call_model: Calls the model, with retries.
        step: The request.
        item: The item it is for.
        run: The run.
    """
    request, in_flight = step.request, store.in_flight
    key = request_key(run.fingerprint, request)
    while True:
        # An entry that ends between the lookup and the join has stored its reply, and changes the number of entries
        # that have ended: then the leader looks again.
        ended = in_flight.ended
        if key not in in_flight.open:
            absent_at: int | None = None if store.vain < FEW else (yield LookUp(key))
            if absent_at is None:
                ended, reply = in_flight.ended, store.get(key)
                if reply is not None:
                    return found_reply(reply, key, request, item, run)
            else:
                ended = absent_at
            found = None if run.models is None else _find_by_model(run.models, request, store)
            if found is not None:
                return found_reply(*found, request, item, run)
        mine = in_flight.entry(key, run)
        # Before it is joined: after an interrupt, the run's end leaves it.
        run.shares[mine] = mine.leader_left
        shared = in_flight.join(mine)
        if shared is mine:
            again = in_flight.ended != ended
            return (yield from _lead(shared, mine, call_model, step, item, run, store, again))
        del run.shares[mine]
        if run.stopped is not None:
            raise run.stop_error()
        follower = Follower(run, item.priority, item.sequence, run.client)
        if (yield from _follow(shared, follower, item, run)):
            return (yield from _lead(shared, follower, call_model, step, item, run, store, looks_again=True))


def found_reply(
    found: LLMResponse, key: bytes, request: LLMRequest, item: RunItem, run: RunState
) -> LLMResponse:
    """Record that the reply to a request was found under a key, and return it."""
    run.recorder.record_cache_hit(item, request, found, key)
    item.has_llm_reply = True
    replies = item.stored_replies
    item.stored_replies = appended(replies, (found, key)) if replies else [(found, key)]
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
    try:
        if looks_again:
            found = find_reply(run, step.request, shared.key, store)
            if found is not None:
                return found_reply(*found, step.request, item, run)
        storing = StoringCall(shared, run, step.request, store)
        try:
            reply = yield from call_model(step, item, run, storing.prepare)
        finally:
            call = storing.leave()
        assert call is not None  # it has replied
        # A truncated or declined reply is stored too: a later run must not pay for it, and for its repair, again.
        # If the item fails because of it, it is deleted again.
        item.stored_replies = appended(item.stored_replies, (reply, storing.key_of_reply(call)))
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
    finally:
        follower.on_done = None  # a cycle with the wait, which would be left to the garbage collector
    if not follower.leads:
        del run.shares[follower]
    return follower.leads


def _do_nothing(_: Exception | None) -> None:
    pass


def _no_method(_: Any) -> Any:
    raise RuntimeError("`prepare` was not called")
