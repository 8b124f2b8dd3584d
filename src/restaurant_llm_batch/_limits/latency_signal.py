"""
Latency controller: an adaptive limit that also learns from how long calls take.

Theory of operation. A server that queues calls refuses none, so a limit that follows refusals alone grows without an
end. But with n calls in flight at a server that works on c, a call takes n / c times as long as at an idle server
(Little's law). So the *slowdown*, what calls take now by what they take without a queue (`CallTimes`), says how far the
limit is above the capacity, as the round-trip time does in TCP Vegas (Brakmo and Peterson, 1995) and BBR (Cardwell et
al., 2016). The limit is kept where calls take about `sqrt(factor)` times as long: as far from an idle slot as from the
factor. At a server that batches, each call takes longer the more there are, without a queue. With a factor of 2.0, the
limit is then where throughput by latency is greatest (the knee; Kleinrock, 1979): a call takes twice as long as alone.

    grow        in each round, while calls are faster than that; before the first decrease, the limit doubles in a round
    decrease    if they are clearly slower (`_most`), to where they should be; a new epoch begins
    dip         for some rounds, the limit is lowered below the capacity, and what calls take then corrects the bases.
                If it is clearly less than these, they were measured in a queue: the limit becomes what it should be,
                and another dip comes soon. Dips come after `FIRST_DIP` rounds, and then ever more rarely; soon, if the
                limit is not far above the one at which the first bases were measured; and at once, if a clear decrease
                did not help, because then it may be the server that is slower, not its queue

The slowdown is taken for less by its standard error before the limit is lowered. After a refusal, the limit grows by
the probes of `AIMDController` instead; it decreases the limit on refusals, and the lower limit holds.
"""

from __future__ import annotations

from math import exp, sqrt

from ..outcomes import Reason
from .aimd import SATURATION_THRESHOLD, AdaptiveLimit, AIMDController, CallResult, Timing
from .call_times import CallTimes
from .server_signal import ServerWord

MIN_ANSWERS, MAX_ANSWERS = 8, 32
"""Fewest and most answers that are taken in between two looks; of more, some are passed over, at nearly no cost."""
QUIET_LOOKS, MOST_PASSED = 8, 8
"""Looks that changed nothing, after which another answer is passed over for each that is taken in; and most of them."""
LONGEST_BEGINNING = 2
"""Rounds after which the limit begins to grow, whatever was measured."""
MIN_OF_DIP, LONGEST_DIP = 24, 12
"""Fewest calls of all cohorts of a dip, of which the fewer are enough the longer it takes; and its most rounds."""
SOON, FIRST_DIP, MAX_ROUNDS_BETWEEN_DIPS = 8, 32, 256
"""Rounds until a dip that is due soon, until the first one, and most between two; each that finds nothing new makes it
four times as many."""
DIP = 0.6
"""Share of the capacity, by what is known of it, that a dip leaves in use."""
LEAST_DECREASE, LEAST_DIP = 0.7, 0.4
"""Least share of the limit that a decrease leaves, and a dip."""
CLEAR_DECREASE = 0.8
"""Share of the calls in flight that a decrease has to leave at most, to tell anything if it does not help."""
_NO_DECREASE = (1, 1.0)
"""Calls in flight before a decrease, and how slow they were: there was none."""


class LatencyController(AIMDController):
    """The state machine of an adaptive limit with a `latency_factor`; see the module's docstring."""

    __slots__ = (
        "_before_dip",
        "_changed_at",
        "_deepest",
        "_dip_after",
        "_held",
        "_latest_decrease",
        "_left",
        "_measured_at",
        "_most",
        "_quiet",
        "_rounds",
        "_stride",
        "_taken",
        "_times",
        "_to_skip",
        "_wanted",
    )

    def __init__(self, bounds: AdaptiveLimit, factor: float, now: float) -> None:
        super().__init__(bounds, now)
        self._wanted = sqrt(factor)
        self._most = sqrt(factor * self._wanted)
        self._times = CallTimes()
        self._held = True  # until there is a base: it would be measured in a queue otherwise
        self._latest_decrease = _NO_DECREASE  # of which it is not known that it helped
        self._before_dip = 0  # the limit before the dip that is under way; 0 without one
        self._dip_after = FIRST_DIP  # rounds between two dips
        self._measured_at = bounds.start  # the limit at which the first bases are measured; 0 after a dip
        self._quiet = 0  # looks in a row that changed nothing
        self._rounds = 0.0  # since the latest dip
        self._deepest = 0  # most calls in flight at the admission of a call, since the latest look
        self._changed_at = now  # calls that began before say nothing about the limit
        self._stride = 1  # answers of which one is taken in
        self._to_skip = 0
        self._plan_look()

    def record(
        self, outcome: CallResult, depth: int, epoch: int, now: float, timing: Timing | None = None
    ) -> None:
        """Record the result of a call, and adapt the limit."""
        if epoch != self.epoch:
            return
        if outcome != "success":
            super().record(outcome, depth, epoch, now)
            return
        if timing is not None:
            self._to_skip -= 1
            if self._to_skip < 0:
                self._to_skip = self._stride - 1
                if timing[2] >= self._changed_at:
                    self._take(timing, depth, now)
                    if epoch != self.epoch:
                        return
        if self._may_probe():
            self._succeeded(depth, now)

    def set(self, limit: int, now: float) -> None:
        """Continue from a limit chosen by the user, which it does not exceed from then on."""
        super().set(limit, now)
        self._start_anew(now)

    def follow_server(self, word: ServerWord, in_flight: int, now: float) -> None:
        """Adapt the limit to what the server says of its load; it grows only if latency allows that too."""
        if self._held or self._before_dip or self._times.slowdown.times > self._wanted:
            word = word.without_step()
        epoch = self.epoch
        super().follow_server(word, in_flight, now)
        if self.epoch != epoch:
            self._start_anew(now)

    def _may_probe(self) -> bool:
        return (self._starting or self._refused) and not (self._held or self._before_dip)

    def _take(self, timing: Timing, depth: int, now: float) -> None:
        label, answer, began = timing
        self._times.take(label, answer, began, now - began)
        if depth > self._deepest:
            self._deepest = depth
        self._left -= 1
        if self._left <= 0:
            self._look(now)

    def _plan_look(self, needed: int = 0) -> None:
        """Plan the next look: after half a round, or as many answers as are needed for new medians."""
        answers = MIN_ANSWERS if self._before_dip else max(MIN_ANSWERS, self.limit // 2, needed // 4)
        self._stride = -(-answers // MAX_ANSWERS) * min(MOST_PASSED, 1 + self._quiet // QUIET_LOOKS)
        self._left = self._taken = min(answers, MAX_ANSWERS)

    def _look(self, now: float) -> None:
        """Compare what calls take with the bases, and change the limit if it says so."""
        depth, self._deepest = self._deepest, 0
        self._rounds += self._taken * self._stride / self.limit
        if self._before_dip:
            self._plan_look()
            self._continue_dip(now)
            return
        measured = self._times.look(now)
        self._plan_look(max((one.kind.latest.maxlen or 0 for one in measured), default=0))
        if not measured:
            return  # too many kinds for so few answers
        slowdown = self._times.slowdown
        self._quiet = self._quiet + 1 if slowdown.times <= self._most else 0
        knows_nothing = self._starting and not any(one.kind.base for one in measured)
        is_slow = slowdown.at_least > (self._most if self._starting else self._wanted)
        self._held = is_slow or (knows_nothing and self._rounds < LONGEST_BEGINNING)
        if slowdown.at_least > self._most:
            self._decrease(depth, now)
            return
        self._latest_decrease = _NO_DECREASE
        if is_slow:
            self._starting = False
        if depth < SATURATION_THRESHOLD * self.limit or (self._starting and self.limit < self._bounds.max):
            return
        is_near = self._wanted * self._measured_at > DIP * self.limit
        if self._rounds >= (min(SOON, self._dip_after) if is_near else self._dip_after):
            self._begin_dip(now)
        elif slowdown.times < self._wanted and not (self._refused or self._frozen):
            self._grow(sqrt(slowdown.share_for(self._wanted)), now)

    def _grow(self, times: float, now: float) -> None:
        before = self.limit
        self._change(int(before * times), "probe", now)
        if self.limit > before:
            self._start_windows(now)

    def _decrease(self, depth: int, now: float) -> None:
        slowdown, (before, slowest) = self._times.slowdown, self._latest_decrease
        left = depth / before
        if left <= CLEAR_DECREASE and slowdown.times > slowest * sqrt(left):
            self._begin_dip(now)
            return
        share = slowdown.share_for(self._wanted) * exp(slowdown.error)
        lower = int(min(depth, self.limit) * max(LEAST_DECREASE, share))
        if lower < self.limit:
            is_first = (before, slowest) == _NO_DECREASE and not self._starting
            if is_first or left <= CLEAR_DECREASE:
                self._latest_decrease = (depth, slowdown.times)
            self._begin_epoch(lower, "latency", now)

    def _begin_dip(self, now: float) -> None:
        """Lower the limit below the capacity for a while."""
        share = max(LEAST_DIP, DIP / max(1.0, self._times.slowdown.excess))
        lower = max(self._bounds.min, round(self.limit * share))
        self._rounds, self._latest_decrease = 0.0, _NO_DECREASE
        if lower < self.limit:
            self._before_dip = self.limit
            self._times.begin_dip()
            self._begin_epoch(lower, "latency_probe", now)

    def _continue_dip(self, now: float) -> None:
        """End a dip if enough calls were measured, or if it takes too long."""
        share = self._times.end_dip(now, int(MIN_OF_DIP * (1 - self._rounds / LONGEST_DIP)))
        if share is None:
            return
        limit, self._before_dip, self._measured_at = self._before_dip, 0, 0
        self._rounds, self._held = 0.0, False
        if share < 1:
            limit = max(self.limit, int(limit * share))
            self._dip_after = SOON
        else:
            self._dip_after = min(4 * max(self._dip_after, FIRST_DIP), MAX_ROUNDS_BETWEEN_DIPS)
        self._change(limit, "latency_probe", now)
        self._start_windows(now)

    def _begin_epoch(self, limit: int, reason: Reason, now: float) -> None:
        """Lower the limit; what is learned from calls that were admitted before is ignored from now on."""
        self.epoch += 1
        self._starting = self._probing = False
        self._calm = self._successes = 0
        self._change(limit, reason, now)
        self._start_windows(now)

    def _start_windows(self, now: float) -> None:
        self._quiet = 0
        self._changed_at = now
        self._times.start_windows(with_cohorts=self._before_dip > 0)
        self._plan_look()

    def _start_anew(self, now: float) -> None:
        """Leave a dip: the limit was changed by another signal."""
        self._before_dip, self._latest_decrease = 0, _NO_DECREASE
        self._start_windows(now)

    def _rate_limited(self, depth: int, now: float) -> None:
        super()._rate_limited(depth, now)
        self._start_anew(now)


def make_controller(limit: AdaptiveLimit, now: float) -> AIMDController:
    """Return the controller of an adaptive limit."""
    factor = limit.latency_factor
    return AIMDController(limit, now) if factor is None else LatencyController(limit, factor, now)
