"""`SimulatedServer`: what a simulated model is like, given or measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from ..errors import ConfigurationError
from ..protocols import AsyncLLMBackend, LLMBackend
from ._specification import Overload, ServerSpecification, ServerUsage, SimulatedFault
from .latency import TokenSpeed

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
        answer_tokens: Tokens of an answer; None for what its form suggests, which varies by a half.
        prefix_cache: Whether a prompt's system message is read only once, as servers do that cache prefixes (vLLM,
            llama.cpp). It saves time with `TokenSpeed`.
        outages: When it is down, as (begin, end) in virtual seconds: calls that it works on are lost, and others fail
            at once, as after a lost connection.
        slowdowns: When it works more slowly, as (begin, end, factor): by so much longer its work takes.

    Raises:
        ConfigurationError: A field is invalid.
    """

    @classmethod
    def measured(cls, llm: LLMBackend | AsyncLLMBackend, calls: int = 20, **fields: Any) -> Self:
        """
        Measure a model by real calls, which are paid for, and return a server with the `TokenSpeed` that fits them.

        Half of the calls are made alone, one after the other, with short and long prompts and answers; at most as many
        side by side. The fit is robust to a slow call. The calls ask for answers of a form, as the tasks do, in English
        and of some 50 to 1,000 tokens each. The backend's async methods are used if it has them. This blocks until
        all calls have ended; an interrupt cancels them.

        Args:
            llm: The model's backend.
            calls: Number of calls, at least 8. With 20, each kind is made three times, and 8 calls side by side.
            **fields: The other fields of the server, such as ``slots``: how many calls it works on at once cannot be
                seen from outside.

        Returns:
            The server, whose `latency` and `prefix_cache` are measured.

        Raises:
            ConfigurationError: An argument is invalid; or the times cannot be fitted, because the model reports no
                token counts, or its answers are too short.
            BackendError: The calls failed.
        """
        from ._measure import measure

        if "latency" in fields:
            raise ConfigurationError(
                "SimulatedServer.measured measures the latency; leave latency out, for example "
                "SimulatedServer.measured(llm, slots=16)"
            )
        server = cls(latency=TokenSpeed(1.0, 1.0), **fields)
        speed, caches = measure(llm, calls, server)
        return replace(server, latency=speed, prefix_cache=fields.get("prefix_cache", caches))
