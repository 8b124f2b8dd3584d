"""Run counters: calls, retries, tokens and peaks of one run."""

from __future__ import annotations

from collections import Counter

from .._llm_response import LLMResponse
from .._shortage import out_of_memory
from ..errors import RateLimited
from ..models import ServerLoad
from ..outcomes import EndpointStats, LimitChange, RunStats, ServerStats
from .latency import MAX_RECENT, LatencyHistogram
from .memory import MemoryWatch


class StageCounters:
    """
    The counters of one stage, "search", "llm" or "tokens"; or of one endpoint of a pool.

    Attributes:
        calls: Number of calls started; the queries of one round trip count one by one.
        open: The calls that the backend works on, and how many each counts as. Any thread may take one out, once.
        peak: Most calls at once.
        latency: Durations of the calls that were answered; one for each round trip.
    """

    __slots__ = ("_has_round_trips", "calls", "latency", "open", "peak")

    def __init__(self) -> None:
        self.calls: int = 0
        self.open: dict[object, int] = {}
        self.peak: int = 0
        self.latency: LatencyHistogram = LatencyHistogram()
        self._has_round_trips = False

    def start(self, call: object, permits: int) -> None:
        """Count a call that starts."""
        self.calls += permits
        self.open[call] = permits
        if permits != 1:
            self._has_round_trips = True
        in_flight = self.in_flight if self._has_round_trips else len(self.open)
        if in_flight > self.peak:
            self.peak = in_flight

    @property
    def in_flight(self) -> int:
        """Number of calls that the backend works on."""
        return sum(list(self.open.values()))  # a list: another thread may take one out meanwhile


class EndpointCounters:
    """
    The counters of one endpoint of a pool.

    Attributes:
        load: Its calls, by number.
    """

    __slots__ = (
        "_answered",
        "_cached_tokens",
        "_completion_tokens",
        "_failed",
        "_prompt_tokens",
        "_rate_limited",
        "load",
    )

    def __init__(self) -> None:
        self.load: StageCounters = StageCounters()
        self._answered = self._rate_limited = self._failed = 0
        self._prompt_tokens = self._completion_tokens = self._cached_tokens = 0

    def record_result(self, reply: LLMResponse | None, error: BaseException | None, seconds: float) -> None:
        """Count what became of a call, after some seconds."""
        if error is None:
            self._answered += 1
            latency = self.load.latency
            latency.recent.append(seconds)
            if len(latency.recent) >= MAX_RECENT:
                latency.sort_in()
        elif isinstance(error, RateLimited):
            self._rate_limited += 1
        else:
            self._failed += 1
        if reply is not None:
            self._prompt_tokens += reply.prompt_tokens
            self._completion_tokens += reply.completion_tokens
            self._cached_tokens += reply.cached_tokens

    def stats(self) -> EndpointStats:
        """Return the statistics so far."""
        load = self.load
        return EndpointStats(
            load.calls,
            self._answered,
            self._rate_limited,
            self._failed,
            self._prompt_tokens,
            self._completion_tokens,
            self._cached_tokens,
            load.peak,
            load.latency.summary(),
        )


class ServerCounters:
    """The readings of one server."""

    __slots__ = (
        "_failed",
        "_first",
        "_kv_tokens",
        "_kv_usage",
        "_last",
        "_readings",
        "_running",
        "_waiting",
    )

    def __init__(self) -> None:
        self._readings = self._failed = self._running = self._waiting = 0
        self._first = self._last = (
            0,
            0,
        )  # preemptions and rejections, at the first reading and at the latest
        self._kv_usage: float | None = None
        self._kv_tokens: int | None = None

    def record(self, load: ServerLoad | None, counted: tuple[int, int]) -> None:
        """Count a reading, and the preemptions and rejections that were ever seen; None for one that failed."""
        if load is None:
            self._failed += 1
            return
        self._last = counted
        if not self._readings:
            self._first = counted  # other runs have read it before
        self._readings += 1
        self._running = max(self._running, load.running)
        self._waiting = max(self._waiting, load.waiting)
        if load.kv_usage is not None:
            self._kv_usage = max(self._kv_usage or 0.0, load.kv_usage)
        self._kv_tokens = load.kv_tokens

    def stats(self) -> ServerStats:
        """Return the statistics so far."""
        return ServerStats(
            self._readings,
            self._failed,
            self._running,
            self._waiting,
            self._kv_usage,
            self._kv_tokens,
            self._last[0] - self._first[0],
            self._last[1] - self._first[1],
        )


class _Stages(dict[str, StageCounters]):
    """The counters by stage, made at the first call."""

    def __missing__(self, stage: str) -> StageCounters:
        return self.setdefault(stage, StageCounters())


class _Endpoints(dict[str, EndpointCounters]):
    """The counters by endpoint, made at the first call."""

    def __missing__(self, name: str) -> EndpointCounters:
        return self.setdefault(name, EndpointCounters())


class _Servers(dict[str, ServerCounters]):
    """The readings by server, made at the first one."""

    def __missing__(self, name: str) -> ServerCounters:
        return self.setdefault(name, ServerCounters())


class RunCounters:
    """
    The counters of one run.

    This is not an observer of events: creating and emitting two events for every call takes longer than counting it,
    and most runs have no observer. Nor can calls in flight be counted from events: a blocking call returns in its
    thread a moment before the run is notified.

    Attributes:
        reserved: Tokens in flight that the calls which were answered counted with: prompts and longest answers.
        used: Tokens that these calls took.
    """

    __slots__ = (
        "_cached_tokens",
        "_completion_tokens",
        "_memory",
        "_out_of_memory",
        "_prompt_tokens",
        "_rate_limited",
        "cache_hits",
        "endpoints",
        "failed",
        "latest",
        "replies",
        "reserved",
        "retries",
        "servers",
        "stages",
        "started_at",
        "succeeded",
        "used",
    )

    def __init__(self) -> None:
        self.started_at: float = 0.0
        self.latest: float = 0.0
        self.succeeded: int = 0
        self.failed: int = 0
        self.retries: int = 0
        self.cache_hits: int = 0
        self.replies: int = 0
        self.reserved: int = 0
        self.used: int = 0
        self.stages: _Stages = _Stages()
        self.endpoints: _Endpoints = _Endpoints()
        self.servers: _Servers = _Servers()
        self._rate_limited = 0
        self._out_of_memory: Counter[str] = Counter()
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._cached_tokens = 0
        self._memory = MemoryWatch()

    def call_started(self, call: object, stage: str, permits: int, endpoint: str | None = None) -> None:
        """Count a call that starts; the queries of one round trip count one by one. Where the run lives."""
        self.stages[stage].start(call, permits)
        if endpoint is not None:
            self.endpoints[endpoint].load.start(call, permits)

    def call_finished(self, call: object, stage: str, endpoint: str | None = None) -> None:
        """Count a call whose backend has returned. Thread-safe; counting it again does nothing."""
        self.stages[stage].open.pop(call, None)
        if endpoint is not None:
            self.endpoints[endpoint].load.open.pop(call, None)

    @property
    def activity_count(self) -> int:
        """A number that grows when a call starts or ends, and with an outcome."""
        # A call that starts adds one, and one that ends another.
        calls = sum(2 * stage.calls - stage.in_flight for stage in self.stages.copy().values())
        return calls + self.succeeded + self.failed

    def in_flight(self, stage: str) -> int:
        """Return the number of calls that the backend works on."""
        counters = self.stages.get(stage)
        return 0 if counters is None else counters.in_flight

    def record_reply(self, reply: LLMResponse) -> None:
        """Count a reply, and add its tokens."""
        self.replies += 1
        self._prompt_tokens += reply.prompt_tokens
        self._completion_tokens += reply.completion_tokens
        self._cached_tokens += reply.cached_tokens

    def sort_in(self, latency: LatencyHistogram) -> None:
        """Put the latest durations of a histogram into their buckets, and look at the process's memory now and then."""
        latency.sort_in()
        self._memory.look()

    def record_tokens(self, reply: LLMResponse) -> None:
        """Add the tokens of a reply that came late, or with an error."""
        self._prompt_tokens += reply.prompt_tokens
        self._completion_tokens += reply.completion_tokens
        self._cached_tokens += reply.cached_tokens

    def record_error(self, error: BaseException) -> None:
        """Count the exception of a call, if it is a refusal, or says that the server's memory is full."""
        self._rate_limited += isinstance(error, RateLimited)
        full = out_of_memory(error)
        if full is not None:
            self._out_of_memory[full] += 1

    def stats(
        self,
        stopped_because: str | None,
        limit_history: tuple[LimitChange, ...] = (),
        cost: float | None = None,
        estimated_cost: float | None = None,
    ) -> RunStats:
        """Return the statistics so far."""
        # Copied in one step each: the run may add to them in another thread.
        stages, endpoints, servers = self.stages.copy(), self.endpoints.copy(), self.servers.copy()
        return RunStats(
            wall_seconds=max(0.0, self.latest - self.started_at),
            succeeded=self.succeeded,
            failed=self.failed,
            calls={stage: counters.calls for stage, counters in stages.items()},
            retries=self.retries,
            rate_limited=self._rate_limited,
            cache_hits=self.cache_hits,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            cached_tokens=self._cached_tokens,
            peak_in_flight={stage: counters.peak for stage, counters in stages.items()},
            peak_memory_mib=self._memory.peak(),
            stopped_because=stopped_because,
            limit_history=limit_history,
            cost=cost,
            estimated_cost=estimated_cost,
            latency={stage: counters.latency.summary() for stage, counters in stages.items()},
            endpoints={name: counters.stats() for name, counters in endpoints.items()},
            servers={name: counters.stats() for name, counters in servers.items()},
            out_of_memory=self._out_of_memory.total(),
            out_of_memory_by_kind=dict(self._out_of_memory),
        )
