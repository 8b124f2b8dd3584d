"""
Batch tokens: how a budget of packed batches that adapts is used, and what it learns from their calls.

Texts are packed when it is their item's turn: when a call of it could start. Otherwise, all items of the window would
be packed under the budget with which the run began.

With a store, the budget under which texts were packed is stored too, before any of their calls is made. So a later run
packs them alike, makes the same calls, and finds their replies.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from .._limits.batch_budget import BatchBudget, BatchCall
from .._limits.concurrency import ConcurrencyLimiter
from .._limits.wait_queue import CallbackTicket
from .._llm_response import LLMResponse
from .._shortage import out_of_memory
from .._store.keys import KEY_SIZE
from ..errors import BackendError, DeadlineExceeded, PromptTooLong
from ..models import LLMRequest
from ..steps import Complete, Pack
from .call import Call
from .frames import EngineFlow
from .items import RunItem, appended
from .memo import WaitForTurn
from .run import RunState

if TYPE_CHECKING:
    from .._store.overlay import AnyStore
    from .cached_calls import CallModel

log = logging.getLogger("restaurant_llm_batch")

_FORMAT = b"restaurant_llm_batch batches 1"
_MODEL = "tokens of a batch"
"""Model name of the stored "replies" that are budgets."""


def adapted(step: Pack, item: RunItem, run: RunState) -> EngineFlow[Pack]:
    """Return a step with the budget at its turn, or with the one under which a store's texts were packed."""
    budget = run.limiters.batch_tokens
    if budget is None or step.max_tokens is not None:
        return step
    yield from _wait_for_turn(item, run)
    tokens = max(budget.limit, min(budget.bounds.max, run.packer.least_tokens(step)))
    if run.store is not None:
        tokens = _stored(step, budget, tokens, run.store)
    return replace(step, max_tokens=tokens)


def _wait_for_turn(item: RunItem, run: RunState) -> EngineFlow[None]:
    """Wait until a call of an item could start; its slot is kept until the item goes on."""
    counting = [limiter for limiter in run.limiters.batches if limiter is not run.limiters.tokens]
    limiter = next((one for one in counting if not one.has_room), None)
    if limiter is None:
        return
    ticket = CallbackTicket(_nothing, item.priority, item.sequence)
    run.shares[ticket] = partial(limiter.cancel, ticket)
    item.turns = appended(item.turns, ticket)
    try:
        yield WaitForTurn(partial(_enqueue, limiter, ticket), interruptible=True)
    except BaseException as error:
        leave_turns(item, run)
        if isinstance(error, DeadlineExceeded):
            item.errors = appended(item.errors, (error, "llm", 0))
        raise
    finally:
        ticket.callback = _nothing  # a cycle with the wait, which would be left to the garbage collector


def _enqueue(
    limiter: ConcurrencyLimiter, ticket: CallbackTicket, done: Callable[[Exception | None], object]
) -> None:
    ticket.callback = partial(done, None)
    if limiter.enqueue(ticket):
        done(None)


def _nothing() -> None:
    """Do nothing: it is not queued yet, or waits no more."""


def leave_turns(item: RunItem, run: RunState) -> None:
    """Give back the slots that an item kept while its texts were packed."""
    turns, item.turns = item.turns, ()
    for ticket in turns:
        if ticket in run.shares:  # otherwise an interrupt has had it left
            run.leave(ticket)


def leaving_turns(flow: EngineFlow[Any], item: RunItem, run: RunState) -> EngineFlow[Any]:
    """Run the flow of an item, and give back at its end what it has kept."""
    try:
        return (yield from flow)
    finally:
        leave_turns(item, run)


def _stored(step: Pack, budget: BatchBudget, tokens: int, store: AnyStore) -> int:
    """Return the budget that is stored for texts; store this one if there is none."""
    key = _key(step)
    found = store.get(key)
    if found is not None and found.model == _MODEL and found.text.isdecimal() and 0 < len(found.text) < 10:
        return int(found.text)
    store.put(key, LLMResponse(str(tokens), model=_MODEL), _log_failure)
    return tokens


def _key(step: Pack) -> bytes:
    """Return the key of a step's budget: equal texts in equal prompts have equal keys."""
    numbers = struct.pack(">3q", step.answer_tokens, step.answer_tokens_each, step.max_texts or 0)
    parts = [
        _FORMAT,
        numbers,
        *(text.encode("utf-8", "surrogatepass") for text in (step.fixed_text, *step.texts)),
    ]
    digest = sha256(struct.pack(f">{len(parts)}Q", *map(len, parts)))
    for part in parts:
        digest.update(part)
    return digest.digest()[:KEY_SIZE]


def _log_failure(error: Exception | None) -> None:
    if error is not None:  # the run stops when a reply cannot be stored
        log.warning("the size of a batch cannot be stored: %s", error)


def call_and_learn(
    call_model: CallModel,
    budget: BatchBudget,
    step: Complete,
    item: RunItem,
    run: RunState,
    prepare: Callable[[Call], object] | None,
) -> EngineFlow[LLMResponse]:
    """
    Call the model with a packed batch, and tell the budget what became of it.

    Args:
        call_model: Calls the model, with retries.
        budget: The budget.
        step: The request.
        item: The item it is for.
        run: The run.
        prepare: Is passed each attempt before it is made.
    """
    latest: Call | None = None

    def note(call: Call) -> None:
        nonlocal latest
        latest = call
        if prepare is not None:
            prepare(call)

    try:
        reply = yield from call_model(step, item, run, note)
    except BackendError as error:
        is_long = isinstance(error, PromptTooLong)
        if latest is not None and (is_long or out_of_memory(error) is not None):
            made = _made(step.request, None, latest, run)
            budget.too_much(made, "prompt_too_long" if is_long else "out_of_memory", run.now())
        raise
    if latest is not None:
        now = run.now()
        budget.answered(_made(step.request, reply, latest, run), now - latest.started_at, now)
    return reply


def _made(request: LLMRequest, reply: LLMResponse | None, call: Call, run: RunState) -> BatchCall:
    reported = 0 if reply is None else reply.prompt_tokens
    tokens = reported + request.max_tokens if reported else run.packer.request_tokens(request)
    limiters, endpoints = run.limiters.batches, run.limiters.endpoints
    others_wait = (
        not run.plan.concurrent_flows
        or any(limiter.waiting for limiter in limiters)
        or (endpoints is not None and endpoints.waiting > 0)
    )
    in_flight = 1 + run.recorder.counters.in_flight("llm")
    return BatchCall(request.task, tokens, call.started_at, in_flight, others_wait)
