"""`SimulatedServer`: what a simulated model is like, given or measured."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from .._config.limits import Limits
from ..errors import ConfigurationError
from ..protocols import AsyncLLMBackend, LLMBackend, SearchBackend, Task
from ..steps import Flow
from ._specification import Overload, ServerSpecification, ServerUsage, SimulatedFault
from .latency import TokenSpeed

if TYPE_CHECKING:
    from ..records._record import Record

__all__ = ["Overload", "ServerUsage", "SimulatedFault", "SimulatedServer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedServer(ServerSpecification):
    """
    A model's server in a simulation, and the search beside it.

    Attributes:
        latency: Seconds of a call; or `LogNormal`; or `TokenSpeed`, a server that batches.
        slots: Calls that it works on at once; None for any number.
        overload: What becomes of further calls: "queue", they wait in order of arrival; "refuse", they get 429.
        requests_per_minute: Calls a minute, as a token bucket that holds one minute's; more are refused. None for no
            limit.
        tokens_per_minute: Tokens a minute, prompt and longest answer, likewise.
        kv_tokens: Tokens of running calls that fit into its memory, prompt and answer so far. With `TokenSpeed`, calls
            that do not fit wait; if the answers grow beyond it, the latest call is stopped, and computed again later.
            With any other latency, a call takes the place of its whole answer from the start.
        refusal_seconds: Seconds until a refusal, or another error that costs the server no work, arrives. Each refused
            call is followed by the next one, so there are the more refusals the less time one takes.
        retry_after: Seconds in the ``Retry-After`` of refusals; None for no such header.
        faults: Share of calls that meet each `SimulatedFault`, for example ``{"server_error": 0.01}``.
        search_seconds: Seconds of a search.
        answer_tokens: Tokens of an answer; or `SampledNumbers` by the task name of the request, as `from_record` finds
            them; None, and for other names, what its form suggests, which varies by a half.
        prefix_cache: Whether a prompt's system message is read only once, as servers do that cache prefixes (vLLM,
            llama.cpp). It saves time with `TokenSpeed`.
        outages: When it is down, as (begin, end) in virtual seconds: calls that it works on are lost, and others fail
            at once, as after a lost connection.
        slowdowns: When it works more slowly, as (begin, end, factor): by so much longer its work takes.
        slot_changes: When it works on another number of calls at once, as (second, slots).
        timeout_seconds: Seconds until the client gives up a call that met "no_response", unless
            `TimeLimits.call` ends it earlier.

    Raises:
        ConfigurationError: A field is invalid.
    """

    @classmethod
    def measured(
        cls,
        llm: LLMBackend | AsyncLLMBackend,
        calls: int = 20,
        *,
        task: Task[Any] | Callable[[Any], Flow[Any]] | None = None,
        items: Iterable[Any] = (),
        search: SearchBackend | None = None,
        limits: Limits = Limits(),
        **fields: Any,
    ) -> Self:
        """
        Measure a model by real calls, which are paid for, and return a server with the `TokenSpeed` that fits them.

        Half of the calls are made alone, one after the other; at most as many side by side. The fit is robust to a slow
        call. The backend's async methods are used if it has them. This blocks until all calls have ended; an interrupt
        cancels them.

        With a task, the calls are those that the task makes for the items, and the server foretells runs of this task:
        `answer_tokens` is measured too. Give other items than those of the run, as a server remembers prompts. Calls
        that follow an answer have a made-up one in their prompts. Without a task, the calls ask for answers of a form,
        in English and of some 50 to 1,000 tokens each, with short and long prompts; where a form makes tokens slower,
        as on a small machine, the time of a task may differ from what is foretold.

        Args:
            llm: The model's backend.
            calls: Number of calls, at least 8. With 20, each kind is made three times, and 8 calls side by side.
            task: The task of the run that is to be foretold, or a generator function.
            items: Items of the task, which have to ask as many different requests as there are calls.
            search: The search of the task, with a blocking `search`.
            limits: Limits of the run, for the size of batches.
            **fields: The other fields of the server, such as ``slots``: how many calls it works on at once cannot be
                seen from outside.

        Returns:
            The server, whose `latency` and `prefix_cache` are measured; with a task, `answer_tokens` too.

        Raises:
            ConfigurationError: An argument is invalid; or the times cannot be fitted, because the model reports no
                token counts, or its answers are too short.
            BackendError: The calls failed.
        """
        from ._measure import OwnCalls, measure

        if "latency" in fields:
            raise ConfigurationError(
                "SimulatedServer.measured measures the latency; leave latency out, for example "
                "SimulatedServer.measured(llm, slots=16)"
            )
        server = cls(latency=TokenSpeed(1.0, 1.0), **fields)
        own = None if task is None else OwnCalls(task, items, search, limits)
        found = measure(llm, calls, server, own)
        known = {"prefix_cache": found.caches, "answer_tokens": found.lengths, **fields}
        return replace(server, latency=found.speed, **known)

    @classmethod
    def from_record(
        cls, record: str | os.PathLike[str] | Record, run: int | None = None, **fields: Any
    ) -> Self:
        """
        Learn a server from a recorded run: what a simulation then foretells is what that night would take again.

        It learns how long calls take by the task name of their requests and their tokens, as the whole distribution,
        slow ones included; how much calls slow each other down; how many the server works on at once, if others were
        refused or waited; limits per minute that were met; the seconds of a refusal and the ``Retry-After``; the share
        of each kind of fault; how long answers are; and the mean seconds of a search.

        What the night did not meet is not known: a server that was never full has any number of slots here, and one
        that was always as full as now shows no slowing. A limit far above those of the recorded run therefore looks
        better than it is. It is assumed that calls are slow or fail at random, whichever item they are of; that nobody
        else used the server, or as much as then; and that token counts of a simulation are those of the service, so
        give the runner the model's own counter if the times depend on prompts.

        Args:
            record: The file, or an open record.
            run: Number of the run; None for the latest real one with enough calls.
            **fields: Fields of the server that are known better, such as ``slots``.

        Raises:
            ConfigurationError: It is not a record, there is no such run, the run is a simulation, or it has fewer than
                20 answered calls to the model.
        """
        from ._learning import learn_from_record

        return cls(**{**learn_from_record(record, run).fields, **fields})
