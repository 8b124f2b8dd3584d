"""
The policy flows: what a task asks for becomes calls, with retries, in the shape the plan allows.

`govern` wraps a task's flow and yields only what every driver knows: `Call`, `Pause`, `Together`, `Await`, and `Join`
and `Release` for what is done once. So the call path is written once, and a driver decides nothing.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeVar, cast

from .._config.retry import Tries, wait_before_next
from .._limits.concurrency import Gate
from .._llm_response import LLMReply
from ..errors import STOPS_THE_RUN, ConfigurationError, DeadlineExceeded, RateLimited, RunStopped
from ..models import Hit, SearchQuery
from ..outcomes import Stage
from ..steps import Complete, Flow, Maybe, Once, Pack, Pause, Search, SearchAll, Together, pause
from ..tokens.packing import Packed
from .cached_calls import ask_with_store
from .call import Call
from .items import Entry
from .memo import BackOff, Join, Release, own_copy
from .plan import Line
from .run import Run, is_sound, log, where

T = TypeVar("T")


def govern_item(entry: Entry, run: Run) -> Flow[Any]:
    """Open the task's flow for an item and run it under the run's policy."""
    flow = run.task.flow(entry.item)
    if not isinstance(flow, Generator):
        raise ConfigurationError(
            f"{run.task.name} must be a generator function that yields steps, but it returned "
            f"{type(flow).__name__}; write `reply = yield from complete(...)` in it"
        )
    return (yield from govern(flow, entry, run))


def govern(flow: Flow[T], entry: Entry, run: Run) -> Flow[T]:
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
                answer = yield from _answer(step, entry, run)
            except Exception as raised:
                error = raised
    finally:
        flow.close()


def _answer(step: Any, entry: Entry, run: Run) -> Flow[Any]:
    kind = type(step)
    if kind is Complete:
        return _complete(step, entry, run)
    if kind is SearchAll:
        return _search_all(step.queries, entry, run)
    if kind is Search:
        return _search(step.query, entry, run)
    if kind is Together:
        for flow in step.flows:
            if not isinstance(flow, Generator):
                raise ConfigurationError(
                    f"together() takes flows, got {flow!r}; write together(complete(...), complete(...))"
                )
        flows = tuple(govern(flow, entry, run) for flow in step.flows)
        return _together(flows, run.plan.flows_together)
    if kind is Pack:
        return _pack(step, entry, run)
    if kind is Once:
        return _once(step, entry, run)
    if kind is Pause:
        return pause(step.seconds)
    raise ConfigurationError(
        f"the flow of {run.task.name} yielded {step!r}, which is not a step; "
        "write `yield from search(...)`, `complete(...)`, `pause(...)` or `together(...)`"
    )


def _complete(step: Complete, entry: Entry, run: Run) -> Flow[LLMReply]:
    if run.store is not None:
        return ask_with_store(_ask, step, entry, run, run.store)
    return _ask(step, entry, run)


def _ask(step: Complete, entry: Entry, run: Run) -> Flow[LLMReply]:
    request = step.request
    return _call(run.plan.llm, request, "llm", request.task, run.gates.of(step.gate), entry, run)


def _pack(step: Pack, entry: Entry, run: Run) -> Flow[list[list[Packed]]]:
    if not run.packer.blocking:
        return run.packer.pack(step)
    # It asks the model's server, so it counts against the model's limit.
    line = Line(run.packer.pack, native=False)
    found: list[list[Packed]] = yield from _call(line, step, "tokens", "pack", run.gates.llm, entry, run)
    return found


def _once(step: Once, entry: Entry, run: Run) -> Flow[Any]:
    cell = run.cells.get(step.key)
    while cell.begun and not cell.ended:
        yield Join(cell)
    if not cell.begun:
        cell.begun, cell.leader = True, run.advancing
        try:
            cell.value = yield from govern(step.make(), entry, run)
        except Exception as error:
            # Its own time was up, which is nobody else's business: the next one in line runs it.
            if isinstance(error, DeadlineExceeded):
                cell.begun = False
            else:
                cell.error, cell.where, cell.ended = own_copy(error), where(entry, error), True
            yield Release(cell)
            raise
        cell.ended = True
        yield Release(cell)
    if cell.error is not None:
        mine = own_copy(cell.error)
        entry.errors.append((mine, *cell.where))
        raise mine
    return cell.value


def _search(query: SearchQuery, entry: Entry, run: Run) -> Flow[Sequence[Hit]]:
    line = run.plan.search
    if line is None:
        raise ConfigurationError(
            f"{run.task.name} searches, but the runner has no search backend; "
            "write BatchRunner(search=EmbeddedSearch(...), ...)"
        )
    return _call(line, query, "search", query.aspect or "search", run.gates.search, entry, run)


def _search_all(queries: tuple[SearchQuery, ...], entry: Entry, run: Run) -> Flow[list[Maybe[Sequence[Hit]]]]:
    if run.plan.search_many is not None and len(queries) > 1:
        size = run.gates.search[0].limit
        chunks = [queries[start : start + size] for start in range(0, len(queries), size)]
        flows = tuple(_search_chunk(chunk, entry, run) for chunk in chunks)
        found = yield from _together(flows, side_by_side=True)
        return [hits for chunk in found for hits in _value(chunk)]
    return (yield from _search_each(queries, entry, run))


def _search_each(
    queries: tuple[SearchQuery, ...], entry: Entry, run: Run
) -> Flow[list[Maybe[Sequence[Hit]]]]:
    flows = tuple(_search(query, entry, run) for query in queries)
    return (yield from _together(flows, run.plan.searches_together))


def _search_chunk(
    queries: tuple[SearchQuery, ...], entry: Entry, run: Run
) -> Flow[list[Maybe[Sequence[Hit]]]]:
    """Ask several queries in one round trip, or one by one where that fails."""
    line = run.plan.search_many
    if line is not None and len(queries) > 1 and run.stopped is None:
        gates, order = run.gates.search, (entry.priority, entry.arrival)
        call = Call(line, queries, "search", "search_many", 1, gates, *order, run.meter, len(queries))
        try:
            found = list((yield call))
        except RunStopped:
            raise
        except STOPS_THE_RUN as error:
            run.note_stop(error)
            entry.errors.append((error, "search", 1))
            return [error] * len(queries)
        except Exception as error:
            log.info("search_many failed; its queries are asked one by one", exc_info=True)
            refused = isinstance(error, RateLimited)
            tries = Tries(not refused, refused)
            wait = wait_before_next(run.retries["search"], error, tries, run.random.random())
            if wait is not None:
                run.retry(call, entry, wait, refused, error)
                yield Pause(wait)
        else:
            if len(found) == len(queries):
                return found
    return (yield from _search_each(queries, entry, run))


def _call(
    line: Line,
    argument: Any,
    stage: Stage,
    what: str,
    gates: tuple[Gate, ...],
    entry: Entry,
    run: Run,
) -> Flow[Any]:
    """Make one call until it is answered or given up; between tries it holds no slot."""
    tries = Tries()
    while True:
        attempt = tries.failed + tries.refused + 1
        if run.deadlines.run is not None:
            run.look_at_time()
        if tries.refused and stage == "llm":
            run.look_at_refusals()
        if run.stopped is not None:
            raise run.stop_error()
        if run.is_late(entry):
            raise _late(entry, stage, attempt - 1, run)
        place = run.place(entry, gates) if stage == "llm" else entry.arrival
        call = Call(line, argument, stage, what, attempt, gates, entry.priority, place, run.meter)
        if stage == "llm":
            call.rate, call.by_tokens, call.count = run.gates.rate, run.gates.tokens, run.packer.tokens_of
            if run.gates.count_tokens:
                call.tokens = run.packer.tokens_of(argument)
        try:
            answer = yield call
        except RunStopped:
            raise
        except Exception as error:
            run.note_stop(error)
            refused = isinstance(error, RateLimited)
            tries = Tries(tries.failed + (not refused), tries.refused + refused)
            wait = wait_before_next(run.retries[stage], error, tries, run.random.random())
            if wait is None:
                entry.errors.append((error, stage, attempt))
                raise
            if run.is_late(entry, wait):
                raise _late(entry, stage, attempt, run) from error
            wait = run.shortened(wait, refused and stage == "llm")
            run.retry(call, entry, wait, refused, error)
        else:
            if attempt > 1:
                entry.retried.append((answer, attempt))
            mistake = _mistake(stage, answer)
            if mistake is not None:
                entry.errors.append((mistake, stage, attempt))
                raise mistake
            if stage == "llm":
                entry.underway = True
                if run.packer.learns:
                    run.packer.learn(argument, answer)
            return answer
        yield BackOff(wait, what, attempt + 1)


def _late(entry: Entry, stage: Stage, attempts: int, run: Run) -> DeadlineExceeded:
    error = run.item_late()
    entry.errors.append((error, stage, attempts))
    return error


def _mistake(stage: Stage, answer: Any) -> TypeError | None:
    """Notice a backend that forgot to return, or returns something of its own."""
    if stage == "llm":
        known = isinstance(answer, LLMReply)
        fine = known and is_sound(answer)
        due = "an LLMReply with a text and whole numbers of tokens" if known else "an LLMReply"
    elif stage == "tokens":
        return None  # packing is ours
    else:
        fine = isinstance(answer, Sequence) and (not answer or isinstance(answer[0], Hit))
        due = "a sequence of Hits"
    return None if fine else TypeError(f"the {stage} backend must return {due}, got {str(answer)[:200]}")


def _together(flows: tuple[Flow[T], ...], side_by_side: bool) -> Flow[list[Maybe[T]]]:
    """Run flows that are under policy already; their errors are values."""
    if side_by_side and len(flows) > 1:
        try:
            return cast("list[Maybe[T]]", (yield Together(flows)))
        finally:
            for flow in flows:  # a run that ends early closes this flow only
                flow.close()
    results: list[Maybe[T]] = []
    for flow in flows:
        try:
            results.append((yield from flow))
        except Exception as error:
            results.append(error)
    return results


def _value(result: Maybe[T]) -> T:
    if isinstance(result, Exception):
        raise result
    return result
