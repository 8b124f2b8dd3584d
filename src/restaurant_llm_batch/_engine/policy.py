"""
Policy flows: convert a task's steps to calls with retries, validation, packing and the store.

`apply_policy` wraps a task's flow and yields only the steps that every driver knows: `Call`, `Sleep`, `Gather`,
`WaitForCallback`, and `WaitForCell` and `NotifyCell` for memoized work. The call path is therefore written once, and
a driver decides nothing.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeVar, cast

from .._config.retry import AttemptCounts, next_retry_delay
from .._limits.concurrency import ConcurrencyLimiter
from .._llm_response import LLMResponse
from ..errors import STOPS_THE_RUN, ConfigurationError, DeadlineExceeded, RateLimited, RunStopped
from ..models import Hit, SearchQuery
from ..outcomes import Stage
from ..steps import Complete, Flow, Gather, Once, Pack, ResultOrError, Search, SearchAll, Sleep, sleep
from ..tokens.packing import PackedText
from .cached_calls import complete_cached
from .call import Call
from .items import RunItem
from .memo import Backoff, NotifyCell, WaitForCell, clone_exception
from .plan import BackendMethod
from .run import Run, failure_stage, is_valid_reply, log

T = TypeVar("T")


def run_item(entry: RunItem, run: Run) -> Flow[Any]:
    """Open the task's flow for an item and run it under the run's policy."""
    flow = run.task.flow(entry.item)
    if not isinstance(flow, Generator):
        raise ConfigurationError(
            f"{run.task.name} must be a generator function that yields steps, but it returned "
            f"{type(flow).__name__}; write `reply = yield from complete(...)` in it"
        )
    return (yield from apply_policy(flow, entry, run))


def apply_policy(flow: Flow[T], entry: RunItem, run: Run) -> Flow[T]:
    """
    Run a task's flow under the run's policy.

    Args:
        flow: The task's flow; it is closed when this one ends.
        entry: The item it works for.
        run: The run it is part of.
    """
    answer: Any = None
    error: Exception | None = None
    try:
        while True:
            try:
                step = flow.send(answer) if error is None else flow.throw(error)
            except StopIteration as stop:
                return cast("T", stop.value)
            answer = error = None
            try:
                answer = yield from _dispatch_step(step, entry, run)
            except Exception as raised:
                error = raised
    finally:
        flow.close()


def _dispatch_step(step: Any, entry: RunItem, run: Run) -> Flow[Any]:
    kind = type(step)
    if kind is Complete:
        return _complete(step, entry, run)
    if kind is SearchAll:
        return _search_all(step.queries, entry, run)
    if kind is Search:
        return _search(step.query, entry, run)
    if kind is Gather:
        for flow in step.flows:
            if not isinstance(flow, Generator):
                raise ConfigurationError(
                    f"together() takes flows, got {flow!r}; write together(complete(...), complete(...))"
                )
        flows = tuple(apply_policy(flow, entry, run) for flow in step.flows)
        return _gather(flows, run.plan.concurrent_flows)
    if kind is Pack:
        return _pack(step, entry, run)
    if kind is Once:
        return _once(step, entry, run)
    if kind is Sleep:
        return sleep(step.seconds)
    raise ConfigurationError(
        f"the flow of {run.task.name} yielded {step!r}, which is not a step; "
        "write `yield from search(...)`, `complete(...)`, `pause(...)` or `together(...)`"
    )


def _complete(step: Complete, entry: RunItem, run: Run) -> Flow[LLMResponse]:
    if run.store is not None:
        return complete_cached(_ask_model, step, entry, run, run.store)
    return _ask_model(step, entry, run)


def _ask_model(step: Complete, entry: RunItem, run: Run) -> Flow[LLMResponse]:
    request = step.request
    return _call(run.plan.llm, request, "llm", request.task, run.limiters.for_pool(step.limiter), entry, run)


def _pack(step: Pack, entry: RunItem, run: Run) -> Flow[list[list[PackedText]]]:
    if not run.packer.blocking:
        return run.packer.pack(step)
    # It asks the model's server, so it counts against the model's limit.
    line = BackendMethod(run.packer.pack, is_async=False)
    found: list[list[PackedText]] = yield from _call(
        line, step, "tokens", "pack", run.limiters.llm, entry, run
    )
    return found


def _once(step: Once, entry: RunItem, run: Run) -> Flow[Any]:
    cell = run.memo.get(step.key)
    while cell.running and not cell.done:
        yield WaitForCell(cell)
    if not cell.running:
        cell.running, cell.owner = True, run.current_frame
        try:
            cell.value = yield from apply_policy(step.make(), entry, run)
        except Exception as error:
            # Its own time was up, which is nobody else's business: the next one in line runs it.
            if isinstance(error, DeadlineExceeded):
                cell.running = False
            else:
                cell.error, cell.failure_site, cell.done = (
                    clone_exception(error),
                    failure_stage(entry, error),
                    True,
                )
            yield NotifyCell(cell)
            raise
        cell.done = True
        yield NotifyCell(cell)
    if cell.error is not None:
        mine = clone_exception(cell.error)
        entry.errors.append((mine, *cell.failure_site))
        raise mine
    return cell.value


def _search(query: SearchQuery, entry: RunItem, run: Run) -> Flow[Sequence[Hit]]:
    line = run.plan.search
    if line is None:
        raise ConfigurationError(
            f"{run.task.name} searches, but the runner has no search backend; "
            "write BatchRunner(search=EmbeddedSearch(...), ...)"
        )
    return _call(line, query, "search", query.aspect or "search", run.limiters.search, entry, run)


def _search_all(
    queries: tuple[SearchQuery, ...], entry: RunItem, run: Run
) -> Flow[list[ResultOrError[Sequence[Hit]]]]:
    if run.plan.search_many is not None and len(queries) > 1:
        size = run.limiters.search[0].limit
        chunks = [queries[start : start + size] for start in range(0, len(queries), size)]
        flows = tuple(_search_chunk(chunk, entry, run) for chunk in chunks)
        found = yield from _gather(flows, side_by_side=True)
        return [hits for chunk in found for hits in _value(chunk)]
    return (yield from _search_each(queries, entry, run))


def _search_each(
    queries: tuple[SearchQuery, ...], entry: RunItem, run: Run
) -> Flow[list[ResultOrError[Sequence[Hit]]]]:
    flows = tuple(_search(query, entry, run) for query in queries)
    return (yield from _gather(flows, run.plan.concurrent_searches))


def _search_chunk(
    queries: tuple[SearchQuery, ...], entry: RunItem, run: Run
) -> Flow[list[ResultOrError[Sequence[Hit]]]]:
    """Ask several queries in one round trip, or one by one where that fails."""
    line = run.plan.search_many
    if line is not None and len(queries) > 1 and run.stopped is None:
        gates, order = run.limiters.search, (entry.priority, entry.sequence)
        call = Call(line, queries, "search", "search_many", 1, gates, *order, run.counters, len(queries))
        try:
            found = list((yield call))
        except RunStopped:
            raise
        except STOPS_THE_RUN as error:
            run.stop_if_fatal(error)
            entry.errors.append((error, "search", 1))
            return [error] * len(queries)
        except Exception as error:
            log.info("search_many failed; its queries are asked one by one", exc_info=True)
            refused = isinstance(error, RateLimited)
            tries = AttemptCounts(not refused, refused)
            wait = next_retry_delay(run.retries["search"], error, tries, run.random.random())
            if wait is not None:
                run.retry_scheduled(call, entry, wait, refused, error)
                yield Sleep(wait)
        else:
            if len(found) == len(queries):
                return found
    return (yield from _search_each(queries, entry, run))


def _call(
    line: BackendMethod,
    argument: Any,
    stage: Stage,
    what: str,
    gates: tuple[ConcurrencyLimiter, ...],
    entry: RunItem,
    run: Run,
) -> Flow[Any]:
    """Make one call until it is answered or given up; between tries it holds no slot."""
    tries = AttemptCounts()
    while True:
        attempt = tries.failed + tries.rate_limited + 1
        if run.time_limits.run is not None:
            run.check_run_timeout()
        if tries.rate_limited and stage == "llm":
            run.check_rate_limited()
        if run.stopped is not None:
            raise run.stop_error()
        if run.is_overdue(entry):
            raise _timeout_error(entry, stage, attempt - 1, run)
        place = run.queue_position(entry, gates) if stage == "llm" else entry.sequence
        call = Call(line, argument, stage, what, attempt, gates, entry.priority, place, run.counters)
        if stage == "llm":
            call.rate_limiter, call.token_limiter, call.count_tokens = (
                run.limiters.rate,
                run.limiters.tokens,
                run.packer.request_tokens,
            )
            if run.limiters.count_tokens:
                call.tokens = run.packer.request_tokens(argument)
        try:
            answer = yield call
        except RunStopped:
            raise
        except Exception as error:
            run.stop_if_fatal(error)
            refused = isinstance(error, RateLimited)
            tries = AttemptCounts(tries.failed + (not refused), tries.rate_limited + refused)
            wait = next_retry_delay(run.retries[stage], error, tries, run.random.random())
            if wait is None:
                entry.errors.append((error, stage, attempt))
                raise
            if run.is_overdue(entry, wait):
                raise _timeout_error(entry, stage, attempt, run) from error
            wait = run.cap_wait(wait, refused and stage == "llm")
            run.retry_scheduled(call, entry, wait, refused, error)
        else:
            if attempt > 1:
                entry.retried.append((answer, attempt))
            mistake = _validate_reply(stage, answer)
            if mistake is not None:
                entry.errors.append((mistake, stage, attempt))
                raise mistake
            if stage == "llm":
                entry.has_llm_reply = True
                if run.packer.observes:
                    run.packer.observe(argument, answer)
            return answer
        yield Backoff(wait, what, attempt + 1)


def _timeout_error(entry: RunItem, stage: Stage, attempts: int, run: Run) -> DeadlineExceeded:
    error = run.item_timeout_error()
    entry.errors.append((error, stage, attempts))
    return error


def _validate_reply(stage: Stage, answer: Any) -> TypeError | None:
    """Notice a backend that forgot to return, or returns something of its own."""
    if stage == "llm":
        known = isinstance(answer, LLMResponse)
        fine = known and is_valid_reply(answer)
        due = "an LLMResponse with a text and whole numbers of tokens" if known else "an LLMResponse"
    elif stage == "tokens":
        return None  # packing is ours
    else:
        fine = isinstance(answer, Sequence) and (not answer or isinstance(answer[0], Hit))
        due = "a sequence of Hits"
    return None if fine else TypeError(f"the {stage} backend must return {due}, got {str(answer)[:200]}")


def _gather(flows: tuple[Flow[T], ...], side_by_side: bool) -> Flow[list[ResultOrError[T]]]:
    """Run flows that are under policy already; their errors are values."""
    if side_by_side and len(flows) > 1:
        try:
            return cast("list[ResultOrError[T]]", (yield Gather(flows)))
        finally:
            for flow in flows:  # a run that ends early closes this flow only
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
