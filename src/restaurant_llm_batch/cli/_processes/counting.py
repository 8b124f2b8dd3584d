"""Counting: the statistics of a run in several processes, from the events of all of them."""

from __future__ import annotations

from ..._engine.stats import RunCounters
from ..._llm_response import LLMResponse, valid_reply
from ...events import CacheHit, CallEnded, CallStarted, Event, LateReply, RetryScheduled


def count(counters: RunCounters, event: Event) -> None:
    """Count an event as the recorder of a run counts what it tells of; outcomes are not counted here."""
    if isinstance(event, CallStarted):
        counters.call_started((event.call, event.attempt), event.stage, event.weight, event.endpoint)
    elif isinstance(event, CallEnded):
        _count_ended(counters, event)
    elif isinstance(event, RetryScheduled):
        counters.retries += 1
    elif isinstance(event, CacheHit):
        counters.cache_hits += 1
    elif isinstance(event, LateReply):
        counters.record_tokens(event.reply)


def _count_ended(counters: RunCounters, event: CallEnded) -> None:
    counters.call_finished((event.call, event.attempt), event.stage, event.endpoint)
    reply, error = event.reply, event.error
    if reply is not None:
        counters.record_reply(reply)
    elif error is not None:
        counters.record_error(error)
        paid = getattr(error, "reply", None)
        valid = valid_reply(paid) if isinstance(paid, LLMResponse) else None
        if valid is not None:
            counters.record_tokens(valid)
    if error is None:
        counters.stages[event.stage].latency.add(event.seconds)
    if event.endpoint is not None:
        counters.endpoints[event.endpoint].record_result(reply, error, event.seconds)
