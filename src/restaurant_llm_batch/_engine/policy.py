"""
Policy flows: convert a task's steps to calls with retries, validation, packing and the store.

`apply_policy` wraps a task's flow and yields only the steps that every driver knows: `Call`, `Sleep`, `Gather`,
`WaitForCallback`, and `WaitForCell` and `NotifyCell` for memoized work. The call path is therefore written once, and
a driver decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial
from inspect import iscoroutine
from types import GeneratorType
from typing import Any, TypeVar, cast

from .._config.retry import NO_ATTEMPTS, AttemptCounts, next_retry_delay
from .._limits.concurrency import UNKNOWN_LIMIT, ConcurrencyLimiter
from .._llm_response import LLMResponse, valid_reply
from .._shortage import is_local_shortage
from ..errors import STOPS_THE_RUN, ConfigurationError, DeadlineExceeded, RateLimited, RunStopped
from ..models import Hit, LLMRequest, SearchQuery
from ..outcomes import Stage
from ..steps import (
    Ask,
    Complete,
    Flow,
    Gather,
    Once,
    Pack,
    ResultOrError,
    Search,
    SearchAll,
    Sleep,
    intercept,
)
from ..tokens.packing import PackedText
from .batch_tokens import adapted, call_and_learn, leave_turns, leaving_turns
from .call import Call
from .frames import EngineFlow
from .items import USE_DEF, RunItem, appended, failure_stage
from .memo import Backoff, NotifyCell, WaitForCell, clone_exception
from .plan import BackendMethod, CallSpec
from .run import Completion, RunState, log

T = TypeVar("T")

USE_YIELD = "for example `reply = yield from complete(...)` makes it one"


def run_item(item: RunItem, run: RunState) -> EngineFlow[Any]:
    """Return the task's flow for an item, under the run's policy; a flow that raises if the task fails to make one."""
    try:
        make_flow = run.task.flow  # read first: to call an attribute that is no method takes longer
        flow = make_flow(item.item) if run.limiters.tokens is None else _flow_within(item, run)
        if type(flow) is not GeneratorType and not isinstance(flow, Generator):
            close = getattr(flow, "close", None)
            if callable(close):
                close()  # a coroutine that is never awaited warns otherwise
            raise ConfigurationError(
                f"{run.task.name} must be a generator function that yields steps, but it returned "
                f"{type(flow).__name__}; {USE_DEF if iscoroutine(flow) else USE_YIELD}"
            )
    except Exception as error:
        return _failed(error)
    ruled = intercept(flow, partial(_dispatch_step, item, run))
    return ruled if run.limiters.batch_tokens is None else leaving_turns(ruled, item, run)


def _flow_within(item: RunItem, run: RunState) -> Flow[Any]:
    """Return the task's flow for an item; a task that asks is told which calls fit into the model's memory."""
    ask = getattr(run.task, "flow_within", None)
    if ask is None:
        return run.task.flow(item.item)
    return cast("Flow[Any]", ask(item.item, partial(_fits_in_flight, run)))


def _fits_in_flight(run: RunState, requests: Sequence[LLMRequest]) -> bool | None:
    """Return whether calls are within the limit on tokens in flight side by side; None if none is known."""
    limiter = run.limiters.tokens
    limit = UNKNOWN_LIMIT if limiter is None else limiter.limit
    if limit >= UNKNOWN_LIMIT:
        return None
    return sum(map(run.packer.request_tokens, requests)) <= limit


def _failed(error: Exception) -> EngineFlow[Any]:
    raise error
    yield  # this makes it a generator


def apply_policy(flow: Flow[T], item: RunItem, run: RunState) -> EngineFlow[T]:
    """
    Run a task's flow under the run's policy.

    Args:
        flow: The task's flow; it is closed when this one ends.
        item: The item it works for.
        run: The run it is part of.
    """
    return intercept(flow, partial(_dispatch_step, item, run))


def _dispatch_step(item: RunItem, run: RunState, step: Any) -> EngineFlow[Any]:
    kind = type(step)
    if item.turns:
        leave_turns(item, run)
    if kind is Complete:
        return (run.complete or _completion(run))(step, item, run)
    if kind is SearchAll:
        return _search_all(step.queries, item, run)
    if kind is Ask and run.ask is not None:
        return apply_policy(run.ask(step, item.priority), item, run)
    if kind is Search:
        return _search(step.query, item, run)
    if kind is Gather:
        for flow in step.flows:
            if not isinstance(flow, Generator):
                raise ConfigurationError(
                    f"gather() takes flows, got {flow!r}; for example gather(complete(...), complete(...))"
                )
        flows = tuple(apply_policy(flow, item, run) for flow in step.flows)
        return _gather(flows, run.plan.concurrent_flows)
    if kind is Pack:
        return _pack(step, item, run)
    if kind is Once:
        return _once(step, item, run)
    if kind is Sleep:
        return _sleep(step, item, run)
    raise ConfigurationError(
        f"the flow of {run.task.name} yielded {step!r}, which is not a step; "
        "use `yield from` with search(...), complete(...), sleep(...) or gather(...)"
    )


def _sleep(step: Sleep, item: RunItem, run: RunState) -> EngineFlow[None]:
    """Sleep, but no longer than the item or the run may take; what would be late then fails."""
    wait = run.cap_wait(step.seconds, rate_limited=False)
    if item.deadline is not None and run.is_overdue(item, wait):
        yield Sleep(min(wait, run.seconds_left(item)))
        raise _timeout_error(item, "task", 0, run)
    yield step if wait == step.seconds else Sleep(wait)
    if wait < step.seconds:
        run.stop_for_time()
        raise run.stop_error()


def _completion(run: RunState) -> Completion:
    """Set, and return, how the calls of a run to the model are made; import the store and waves if it has them."""
    call_model = _make_calls if run.limiters.batch_tokens is None else _call_and_learn
    now: Completion = call_model
    if run.store is not None:
        from .cached_calls import complete_cached

        now = partial(complete_cached, run.store, call_model)
    if run.waves is not None:
        from .wave_calls import complete_by_wave

        now = partial(complete_by_wave, run.waves, now)
    run.complete = now
    return now


def _call_and_learn(
    step: Complete,
    item: RunItem,
    run: RunState,
    prepare: Callable[[Call], object] | None = None,
) -> EngineFlow[LLMResponse]:
    budget = run.limiters.batch_tokens
    if budget is not None and step.limiter == "batches":
        return call_and_learn(_make_calls, budget, step, item, run, prepare)
    return _make_calls(step, item, run, prepare)


def _make_calls(
    step: Complete,
    item: RunItem,
    run: RunState,
    prepare: Callable[[Call], object] | None = None,
) -> EngineFlow[LLMResponse]:
    request = step.request
    return _call(
        run.llm_calls, request, request.task, run.limiters.for_pool(step.limiter), item, run, prepare
    )


def _pack(step: Pack, item: RunItem, run: RunState) -> EngineFlow[list[list[PackedText]]]:
    step = yield from adapted(step, item, run)
    if not run.packer.blocking:
        # In slices: to count the tokens of ten thousand reviews takes a second.
        return (yield from intercept(run.packer.packing(step), _let_others_run))
    # A blocking counter calls the model's server, so it counts against the model's limit. That may be the one at which
    # the item has its turn: if it kept its slot, it could wait for itself.
    leave_turns(item, run)
    spec = CallSpec(BackendMethod(run.packer.pack, is_async=False), "tokens")
    batches: list[list[PackedText]] = yield from _call(spec, step, "pack", run.limiters.counting, item, run)
    return batches


def _let_others_run(_: None) -> EngineFlow[None]:
    yield Sleep(0)


def _once(step: Once, item: RunItem, run: RunState) -> EngineFlow[Any]:
    cell = run.memo.get(step.key)
    while cell.running and not cell.done:
        yield WaitForCell(cell)
    if not cell.running:
        cell.running, cell.owner = True, run.current_frame
        try:
            cell.value = yield from apply_policy(step.make(), item, run)
        except Exception as error:
            # The time of this item was up, which says nothing about the others: the next one runs the flow.
            if isinstance(error, DeadlineExceeded):
                cell.running = False
            else:
                cell.error, cell.failure_site, cell.done = (
                    clone_exception(error),
                    failure_stage(item, error),
                    True,
                )
            yield NotifyCell(cell)
            raise
        cell.done = True
        yield NotifyCell(cell)
    if cell.error is not None:
        mine = clone_exception(cell.error)
        item.errors = appended(item.errors, (mine, *cell.failure_site))
        item.shares_failure = True
        raise mine
    return cell.value


def _search(query: SearchQuery, item: RunItem, run: RunState) -> EngineFlow[Sequence[Hit]]:
    method = run.plan.search
    if method is None:
        given = "" if run.task.requires_search else "; or give each item its reviews"
        raise ConfigurationError(
            f"{run.task.name} searches, but the runner has no search backend; "
            f"for example BatchRunner(search=EmbeddedSearch(...), ...){given}"
        )
    return _call(CallSpec(method, "search"), query, query.aspect or "search", run.limiters.search, item, run)


def _search_all(
    queries: tuple[SearchQuery, ...], item: RunItem, run: RunState
) -> EngineFlow[list[ResultOrError[Sequence[Hit]]]]:
    if run.plan.search_many is not None and len(queries) > 1:
        size = max(1, run.limiters.search[0].limit)  # a share of a limit may be 0 now
        chunks = [queries[start : start + size] for start in range(0, len(queries), size)]
        flows = tuple(_search_chunk(chunk, item, run) for chunk in chunks)
        found = yield from _gather(flows, concurrent=True)
        return [hits for chunk in found for hits in _value(chunk)]
    return (yield from _search_each(queries, item, run))


def _search_each(
    queries: tuple[SearchQuery, ...], item: RunItem, run: RunState
) -> EngineFlow[list[ResultOrError[Sequence[Hit]]]]:
    flows = tuple(_search(query, item, run) for query in queries)
    return (yield from _gather(flows, run.plan.concurrent_searches))


def _search_chunk(
    queries: tuple[SearchQuery, ...], item: RunItem, run: RunState
) -> EngineFlow[list[ResultOrError[Sequence[Hit]]]]:
    """Run several queries in one round trip, or one by one if that fails."""
    method = run.plan.search_many
    if method is not None and len(queries) > 1 and run.stopped is None:
        number, limiters = run.recorder.next_call(), run.limiters.search
        spec = CallSpec(method, "search", len(queries))
        place = item.priority, item.sequence
        call = Call(spec, queries, "search_many", number, run.calls, 1, limiters, *place)
        try:
            found = list((yield call))
        except RunStopped:
            raise
        except STOPS_THE_RUN as error:
            run.stop_if_fatal(error)
            item.errors = appended(item.errors, (error, "search", 1))
            return [error] * len(queries)
        except Exception as error:
            log.info("search_many failed; its queries are run one by one", exc_info=True)
            rate_limited = isinstance(error, RateLimited)
            attempts = AttemptCounts(not rate_limited, rate_limited)
            wait = next_retry_delay(run.retries["search"], error, attempts, run.random.random())
            if wait is not None:
                if run.is_overdue(item, wait):
                    raise _timeout_error(item, "search", 1, run) from error
                wait = run.cap_wait(wait, rate_limited=False)
                run.recorder.retry_scheduled(call, item, wait, rate_limited, error)
                yield Sleep(wait)
        else:
            if len(found) == len(queries) and not any(map(_invalid_hits, found)):
                return found
    return (yield from _search_each(queries, item, run))


def _call(
    spec: CallSpec,
    argument: Any,
    label: str,
    limiters: tuple[ConcurrencyLimiter, ...],
    item: RunItem,
    run: RunState,
    prepare: Callable[[Call], object] | None = None,
) -> EngineFlow[Any]:
    """
    Make one call, with retries until it succeeds or the retry policy fails it. A backoff occupies no slot.

    A call to a pool whose endpoint is at fault moves to another one, without a backoff. Each attempt is passed to
    `prepare` before it is made.
    """
    stage, next_call = spec.stage, run.recorder.next_call
    number = next_call()
    attempts, moves, attempt = NO_ATTEMPTS, 0, 0
    endpoints = run.limiters.endpoints
    route = None if stage != "llm" or endpoints is None else endpoints.new_route(item)
    while True:
        attempt += 1
        if run.time_limits.run is not None:
            run.check_run_timeout()
        if attempt > 1 and (attempts.rate_limited or moves) and stage == "llm":
            run.check_rate_limited()
        if run.stopped is not None:
            raise run.stop_error()
        if item.deadline is not None and run.is_overdue(item):
            raise _timeout_error(item, stage, attempt - 1, run)
        position: float = item.sequence
        if item.has_llm_reply and stage == "llm":
            position = run.queue_position(item, limiters)
        call = Call(
            spec, argument, label, number, run.calls, attempt, limiters, item.priority, position, route
        )
        if prepare is not None:
            prepare(call)
        try:
            answer = yield call
        except RunStopped:
            raise
        except Exception as error:
            rate_limited = isinstance(error, RateLimited)
            if route is not None and _moves(call, error, run):
                moves += 1
                run.recorder.retry_scheduled(call, item, 0.0, rate_limited, error)
                continue
            if stage != "tokens":
                run.stop_if_fatal(error)
            short = not rate_limited and is_local_shortage(error)
            if short:
                run.recorder.log_shortage(error)
            refused = rate_limited or short
            attempts = AttemptCounts(attempts.failed + (not refused), attempts.rate_limited + refused)
            wait = next_retry_delay(run.retries[stage], error, attempts, run.random.random(), refused)
            if wait is None:
                item.errors = appended(item.errors, (error, stage, attempt))
                raise
            if run.is_overdue(item, wait):
                raise _timeout_error(item, stage, attempt, run) from error
            wait = run.cap_wait(wait, rate_limited and stage == "llm")
            run.recorder.retry_scheduled(call, item, wait, rate_limited, error)
        else:
            if attempt > 1:
                item.retried = appended(item.retried, (answer, attempt))
            if call.reply is not None:  # it was found valid when it was recorded
                answer = call.reply
            else:
                try:
                    answer = _valid_answer(stage, answer)
                except TypeError as error:
                    item.errors = appended(item.errors, (error, stage, attempt))
                    raise
            if stage == "llm":
                item.has_llm_reply = True
                if run.packer.observes:
                    run.packer.observe(argument, answer)
            return answer
        yield Backoff(wait, label, attempt + 1)


def _moves(call: Call, error: Exception, run: RunState) -> bool:
    """Return whether a call to a pool that failed is made at another endpoint now."""
    ticket, endpoints = call.endpoint_ticket, run.limiters.endpoints
    return ticket is not None and endpoints is not None and endpoints.moves(ticket, error)


def _timeout_error(item: RunItem, stage: Stage, attempts: int, run: RunState) -> DeadlineExceeded:
    error = run.item_timeout_error()
    item.errors = appended(item.errors, (error, stage, attempts))
    return error


def _valid_answer(stage: Stage, answer: Any) -> Any:
    """Return a backend's answer, with whole numbers of tokens; raise `TypeError` if its protocol does not allow it."""
    if stage == "tokens":
        return answer  # the packer's own
    if stage == "llm":
        reply = valid_reply(answer) if isinstance(answer, LLMResponse) else None
        if reply is not None:
            return reply
        expected = "an LLMResponse with a text" if isinstance(answer, LLMResponse) else "an LLMResponse"
    else:
        wrong = _invalid_hits(answer)
        if wrong is None:
            return answer
        expected = f"a sequence of Hits, but {wrong}"
    raise TypeError(f"the {stage} backend must return {expected}, got {str(answer)[:200]}")


def _invalid_hits(answer: Any) -> str | None:
    """Return what is wrong with the hits that a search backend returned, or None."""
    if not isinstance(answer, Sequence):
        return f"it is a {type(answer).__name__}"
    for place, hit in enumerate(answer):
        if not isinstance(hit, Hit):
            return f"[{place}] is no Hit but {str(hit)[:80]!r}"
        content: object = hit.content
        review_id: object = hit.review_id
        if not isinstance(content, str):
            return f"[{place}].content is no text but {str(content)[:80]!r}"
        if not isinstance(review_id, (int, str)) or isinstance(review_id, bool):
            return f"[{place}].review_id is neither an integer nor a string but {str(review_id)[:80]!r}"
        if hit.score != hit.score:
            return f"[{place}].score is not a number"
    return None


def _gather(flows: tuple[EngineFlow[T], ...], concurrent: bool) -> EngineFlow[list[ResultOrError[T]]]:
    """Run flows that are under policy already; an exception becomes a value of the list."""
    if concurrent and len(flows) > 1:
        try:
            return cast("list[ResultOrError[T]]", (yield Gather(flows)))
        finally:
            for flow in flows:  # a run that ends early closes only the flow that gathers them
                flow.close()
    results: list[ResultOrError[T]] = []
    for flow in flows:
        try:
            results.append((yield from flow))
        except Exception as error:
            results.append(error)
    return results


def _value(result: ResultOrError[T]) -> T:
    if isinstance(result, Exception):
        raise result
    return result
