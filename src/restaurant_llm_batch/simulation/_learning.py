"""Learns a simulated server from the calls of a recorded run (`SimulatedServer.from_record`)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from ..errors import ConfigurationError
from ..records._observed import ObservedCall, observed_calls, observed_searches
from ..records._record import Record, as_record
from ..records._recorded import RecordedRun
from ._refusals import fault_of, find_faults, find_refusals
from ._service import MIN_OF_KIND, Served, fit_numbers, fit_service, peak_of
from .latency import SampledNumbers

MIN_CALLS = 20
"""Fewest answered calls of a run that a server can be learned from."""
MOST_CALLS = 50_000
"""Most calls of a run that are looked at."""


class Learned(NamedTuple):
    """What was learned of a server: the fields of a `SimulatedServer`, and how many calls were in flight at most."""

    fields: Mapping[str, Any]
    calls: int
    peak: int


def learn_from_record(record: str | os.PathLike[str] | Record, run: int | None) -> Learned:
    """Learn a server from a run; see `SimulatedServer.from_record`."""
    opened = as_record(record)
    if run is not None:
        chosen = opened.run(run)
        if chosen.simulated:
            raise ConfigurationError(
                f"run {chosen.run} of {opened.path} is a simulation, which says nothing of a real server; "
                "choose a run whose `simulated` is False, see open_record(...).runs()"
            )
        return _learned_from([chosen], opened.path)
    real = [one for one in reversed(opened.runs()) if not one.simulated]
    if not real:
        raise ConfigurationError(
            f"{opened.path} holds no real run, but only simulations or nothing; "
            f'record a run first, for example BatchRunner(record="{opened.path.name}")'
        )
    return _learned_from(real, opened.path)


def learn_from_runs(runs: Sequence[RecordedRun], path: Path) -> tuple[RecordedRun, Learned] | None:
    """Learn a server from the first of several runs that has enough calls; None if none has."""
    for run in runs:
        calls = observed_calls(path, run.run, MOST_CALLS)
        if _answered(calls) >= MIN_CALLS:
            return run, learn(calls, observed_searches(path, run.run, MOST_CALLS), wait_initial_of(run))
    return None


def _learned_from(runs: Sequence[RecordedRun], path: Path) -> Learned:
    found = learn_from_runs(runs, path)
    if found is not None:
        return found[1]
    most = max(_answered(observed_calls(path, run.run, MOST_CALLS)) for run in runs)
    which = f"run {runs[0].run}" if len(runs) == 1 else "the largest run"
    raise ConfigurationError(
        f"a server cannot be learned from {which} of {path}, which has {most} answered calls to the model: "
        f"at least {MIN_CALLS} are needed"
    )


def _answered(calls: Sequence[ObservedCall]) -> int:
    return sum(call.outcome == "ok" for call in calls)


def wait_initial_of(run: RecordedRun) -> float:
    """Return the seconds until a call of a run was made again at most, for the first time."""
    retries = run.settings.get("retries")
    policy = retries.get("llm") if isinstance(retries, Mapping) else None
    wait = policy.get("wait_initial") if isinstance(policy, Mapping) else None
    return float(wait) if isinstance(wait, (int, float)) else 0.5


def learn(calls: Sequence[ObservedCall], searches: Sequence[float], wait_initial: float) -> Learned:
    """
    Learn a server from calls.

    Args:
        calls: Calls to the model that have ended, as they were made.
        searches: Seconds of searches.
        wait_initial: See `find_refusals`.
    """
    made = [call for call in calls if call.outcome != "stored"]
    refusals = find_refusals(made, wait_initial)
    faults, timeout = find_faults(made, refusals.share)
    served = [
        Served(call.kind, call.began, call.ended, call.prompt, call.completion)
        for call in made
        if _was_served(call)
    ]
    service = fit_service(served, refusals.slots)
    fields: dict[str, Any] = {
        "latency": service.latency,
        "slots": service.slots,
        "overload": "queue" if refusals.slots is None else "refuse",
        "requests_per_minute": refusals.requests_per_minute,
        "tokens_per_minute": refusals.tokens_per_minute,
        "retry_after": refusals.retry_after,
        "faults": faults,
        "answer_tokens": answer_lengths(made),
        "timeout_seconds": timeout,
    }
    if refusals.seconds is not None:
        fields["refusal_seconds"] = refusals.seconds
    if searches:
        fields["search_seconds"] = fmean(searches)
    return Learned(fields, len(served), peak_of(served))


def _was_served(call: ObservedCall) -> bool:
    """Return whether a server worked on a call to its end."""
    return call.outcome == "ok" or fault_of(call) in ("server_error", "truncated", "content_filter")


def answer_lengths(calls: Sequence[ObservedCall]) -> dict[str, SampledNumbers] | None:
    """Return how long the answers are, by kind, of those of which there are enough; None if none has tokens."""
    # One that was cut off says how long it might have been; a simulated one is cut off by a fault of its own.
    points: dict[str, list[tuple[int, int, float]]] = {}
    for call in calls:
        if call.outcome == "ok" and call.completion:
            points.setdefault(call.kind, []).append((call.prompt, 0, float(call.completion)))
    found = {kind: fit_numbers(some) for kind, some in points.items() if len(some) >= MIN_OF_KIND}
    return found or None
