"""What a server refuses and how it fails, by what was seen of its calls: slots, limits per minute, shares of faults."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from statistics import fmean, median
from typing import NamedTuple

from ..records._observed import ObservedCall
from ._specification import SimulatedFault

SURE = 0.8
"""Share of the calls that a number of slots must explain, of those refused and of those accepted."""
CHANCE = 1e-3
"""How unlikely so many accepted calls before the first refusal must be, if refusals were a matter of luck."""
_LONG = 30.0
"""Seconds from the first refusal to the last, from which on the pace between them is a limit per minute."""
_DISORDER = 0.02
"""Seconds within which calls of threads may reach a server in another order than that in which they were started."""
_JITTER = 1.125
"""Mean of the factor by which a ``Retry-After`` is prolonged; see `RetryPolicy`."""
_NAMED = re.compile(
    r"\b(?P<unit>requests?|tokens?)(?:[ _]per[ _]| ?/ ?)min|\((?P<short>[RT])PM\)", re.IGNORECASE
)
_NUMBER = re.compile(r"\blimit:? *(?P<number>\d[\d,_]*)", re.IGNORECASE)
_SILENCE = re.compile(r"no response|timed? ?out|timeout", re.IGNORECASE)


class Refusals(NamedTuple):
    """
    When a server refuses calls.

    Attributes:
        slots: More calls than these at once are refused; None if there is no such number.
        requests_per_minute: Calls a minute, if these are limited.
        tokens_per_minute: Tokens a minute, likewise.
        share: Share of the calls that are refused for no reason that can be seen.
        seconds: Seconds that a refusal takes; None without any.
        retry_after: Seconds after which the server wants to be asked again; None if it does not say.
    """

    slots: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    share: float = 0.0
    seconds: float | None = None
    retry_after: float | None = None


def find_refusals(calls: Sequence[ObservedCall], wait_initial: float) -> Refusals:
    """
    Return when a server refuses calls.

    Args:
        calls: The calls, as they were made.
        wait_initial: Most seconds until a refused call was made again, if the server asked for none.
    """
    refused = [call for call in calls if call.outcome == "refused"]
    accepted = [call for call in calls if call.outcome not in ("refused", "stored")]
    if not refused or not accepted:
        return Refusals()
    found = Refusals(
        seconds=fmean(call.ended - call.began for call in refused),
        retry_after=_retry_after(calls, wait_initial),
    )
    slots = _slots([call for call in calls if call.outcome != "stored"])
    if slots is not None:
        return found._replace(slots=slots)
    unit, number = _named_limit(refused)
    if unit is None and (1 - len(refused) / len(calls)) ** _before(refused, accepted) < CHANCE:
        unit = "requests"
    if unit == "requests":
        return found._replace(
            requests_per_minute=number or _per_minute(refused, [(c.began, 1) for c in accepted])
        )
    if unit == "tokens":
        tokens = [(call.began, call.prompt + call.completion) for call in accepted]
        return found._replace(tokens_per_minute=number or _per_minute(refused, tokens))
    return found._replace(share=len(refused) / len(calls))


def _slots(calls: Sequence[ObservedCall]) -> int | None:
    """
    Return the number of calls in flight that tells refused calls from accepted ones; None if there is none.

    Calls that start within a moment may reach the server in another order. So a refused call counts the most others
    that were in flight at any time from its start on, until its refusal was there, but for `_DISORDER` seconds at most.
    """
    ends = sorted(call.ended for call in calls if call.outcome != "refused")
    before = [*accumulate((call.outcome != "refused" for call in calls), initial=0)]
    of_refused, of_accepted = Counter[int](), Counter[int]()
    for place, call in enumerate(calls):
        others = before[place] - bisect_right(ends, call.began)
        if call.outcome != "refused":
            of_accepted[others] += 1
            continue
        until = min(call.ended, call.began + _DISORDER)
        for later in range(place + 1, len(calls)):
            began = calls[later].began
            if began >= until:
                break
            others = max(others, before[later + 1] - bisect_right(ends, began))
        of_refused[others] += 1
    best, most = None, SURE
    for slots in sorted(of_refused):
        rightly = sum(number for others, number in of_refused.items() if others >= slots) / of_refused.total()
        let_in = sum(number for others, number in of_accepted.items() if others < slots) / of_accepted.total()
        if slots and min(rightly, let_in) > most:
            best, most = slots, min(rightly, let_in)
    return best


def _named_limit(refused: Sequence[ObservedCall]) -> tuple[str | None, int | None]:
    """Return the limit that the errors name: "requests" or "tokens", and its number."""
    for call in refused[:20]:
        found = _NAMED.search(call.error or "")
        if found is not None:
            unit = "tokens" if (found["unit"] or found["short"]).lower().startswith("t") else "requests"
            number = _NUMBER.search(call.error or "")
            digits = re.sub(r"\D", "", number["number"]) if number is not None else ""
            return unit, int(digits) if 0 < len(digits) < 12 and int(digits) else None
    return None, None


def _before(refused: Sequence[ObservedCall], accepted: Sequence[ObservedCall]) -> int:
    """Return how many calls were accepted before the first refusal."""
    first = min(call.began for call in refused)
    return sum(call.began < first for call in accepted)


def _per_minute(refused: Sequence[ObservedCall], taken: Sequence[tuple[float, int]]) -> int:
    """
    Return the amount that a minute has, of a bucket that is full at the beginning.

    Args:
        refused: The refused calls: the bucket was empty then.
        taken: When how much was taken.
    """
    start = min(began for began, _ in taken)
    first, last = (pick(call.began for call in refused) for pick in (min, max))
    if last - first >= _LONG:
        return max(
            1, round(60 * sum(amount for began, amount in taken if first < began <= last) / (last - first))
        )
    before = sum(amount for began, amount in taken if began <= first)
    return max(1, round(before / (1 + (first - start) / 60)))


def _retry_after(calls: Sequence[ObservedCall], wait_initial: float) -> float | None:
    """Return for how long a server wants not to be asked: longer than the library waits after a first refusal."""
    first = {call.call for call in calls if call.outcome == "refused" and call.attempt == 1}
    waits = [call.waited for call in calls if call.attempt == 2 and call.call in first]
    if not waits or min(waits) <= 1.05 * wait_initial:
        return None
    return round(median(waits) / _JITTER, 2)


def find_faults(
    calls: Sequence[ObservedCall], refused_share: float
) -> tuple[Mapping[SimulatedFault, float], float]:
    """
    Return the share of calls that met each fault, and the seconds until one without a response was given up.

    Args:
        calls: The calls.
        refused_share: Share of the calls that are refused for no reason that can be seen.
    """
    served = [call for call in calls if call.outcome in ("ok", "failed", "late")]
    met = Counter[SimulatedFault](fault for call in served if (fault := fault_of(call)) is not None)
    faults: dict[SimulatedFault, float] = {fault: number / len(served) for fault, number in met.items()}
    if refused_share:
        faults = {fault: share * (1 - refused_share) for fault, share in faults.items()}
        faults["rate_limited"] = refused_share
    silent = [call.ended - call.began for call in served if fault_of(call) == "no_response"]
    return faults, median(silent) if silent else 600.0


def fault_of(call: ObservedCall) -> SimulatedFault | None:
    """Return the fault that a call met; None for an answer, and for what is no matter of luck."""
    if call.finish_reason in ("length", "content_filter"):
        return "truncated" if call.finish_reason == "length" else "content_filter"
    if call.outcome == "late":
        return "no_response"
    if call.outcome != "failed":
        return None
    if call.error_type == "ContentRefused":
        return "content_filter"
    if call.error_type in ("PermanentBackendError", "SubmissionUnknown"):
        return "bad_request"
    if call.error_type == "TransientBackendError":
        if call.status is not None:
            return "server_error"
        return "no_response" if _SILENCE.search(call.error or "") else "reset"
    return None  # a prompt that is too long, a wrong key: it would be so again, or never
