"""Simulates one runner (`BatchRunner.simulate`), or several that share a server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any, Protocol, TypeAlias

from ..errors import ConfigurationError
from ..events import Event
from ..outcomes import BatchReport, Outcome
from ..protocols import LLMBackend, Observer
from ._play import Playback, RunnerParts
from .result import Simulation
from .simulated_server import SimulatedServer

OnOutcome = Callable[[Outcome[Any]], object]


Servers: TypeAlias = SimulatedServer | Sequence[SimulatedServer] | Mapping[str, SimulatedServer]


class Runner(Protocol):
    """The part of `BatchRunner` that a simulation uses."""

    @property
    def parts(self) -> RunnerParts:
        """What a simulation takes of it."""
        ...


def simulate(
    parts: RunnerParts,
    task: Any,
    items: Iterable[Any],
    server: Servers,
    *,
    seed: int,
    answers: LLMBackend | None,
    on_outcome: OnOutcome | None,
    observers: Sequence[Observer],
) -> Simulation[Any]:
    """Simulate one run; see `BatchRunner.simulate`."""
    return _simulate([(parts, task, items)], server, seed, answers, on_outcome, observers)[0]


def simulate_together(
    runs: Iterable[tuple[Any, Any, Iterable[Any]]],
    server: Servers = SimulatedServer(),
    *,
    seed: int = 0,
    answers: LLMBackend | None = None,
) -> list[Simulation[Any]]:
    """
    Simulate runs that begin together, at one server. Limiters that the runners share, they share here too.

    Args:
        runs: A runner, a task and the items, for each run.
        server: What the server is like; of an `LLMPool`, a list with one for each endpoint, or them by name.
        seed: Seed of all that is random: equal seeds give equal runs, to the event.
        answers: Answers the requests; see `BatchRunner.simulate`.

    Returns:
        How each run went, in order.

    Raises:
        ConfigurationError: There is no run, an argument is invalid, or two runners have ``Strategy.stage(1)``.
    """
    given = [(runner.parts, task, items) for runner, task, items in runs]
    if not given:
        raise ConfigurationError("runs must have at least one (runner, task, items)")
    return _simulate(given, server, seed, answers, None, ())


def _simulate(
    runs: Sequence[tuple[RunnerParts, Any, Iterable[Any]]],
    server: Servers,
    seed: int,
    answers: LLMBackend | None,
    on_outcome: OnOutcome | None,
    observers: Sequence[Observer],
) -> list[Simulation[Any]]:
    names = dict.fromkeys(name for parts, _, _ in runs for name in parts.endpoints)
    servers = _servers(server, list(names))
    if answers is not None and not callable(getattr(answers, "complete", None)):
        raise ConfigurationError(
            f"answers must be a backend with complete(), got {answers!r}; for example answers=OfflineLLM()"
        )
    parts = runs[0][0]
    playback = Playback(servers, seed, answers, parts.count_tokens, parts.model)
    kept: list[tuple[list[Outcome[Any]], list[Event]]] = []
    players = []
    for parts, task, items in runs:
        outcomes: list[Outcome[Any]] = []
        events: list[Event] = []
        kept.append((outcomes, events))
        deliver: OnOutcome = outcomes.append if on_outcome is None else _calling(on_outcome)
        watching = observers if on_outcome is not None else (events.append, *observers)
        players.append(playback.add(parts, task, items, deliver, watching))
    usage = playback.play()
    return [
        Simulation(
            player.stats.wall_seconds,
            BatchReport(sorted(outcomes, key=attrgetter("index")), player.stats),
            usage,
            tuple(events),
            {name: model.usage for name, model in playback.endpoints.items()},
        )
        for player, (outcomes, events) in zip(players, kept, strict=True)
    ]


def _servers(given: Any, endpoints: Sequence[str]) -> SimulatedServer | Mapping[str, SimulatedServer]:
    """Return one server, or the servers of the endpoints of a pool."""
    if isinstance(given, SimulatedServer):
        return given
    example = "for example server=SimulatedServer(latency=0.8, slots=24)"
    if isinstance(given, Mapping):
        found = dict(given)
    elif isinstance(given, Sequence) and not isinstance(given, str) and endpoints:
        if len(given) != len(endpoints):
            raise ConfigurationError(
                f"server has {len(given)} entries, but the pool has {len(endpoints)} endpoints; {example}, for each"
            )
        found = dict(zip(endpoints, given, strict=True))
    else:
        found = {"": given}
    if not all(isinstance(one, SimulatedServer) for one in found.values()):
        raise ConfigurationError(f"server must be a SimulatedServer, got {given!r}; {example}")
    if set(found) != set(endpoints):
        known = ", ".join(map(repr, endpoints)) or "the runner has no pool"
        raise ConfigurationError(
            f"server must have a SimulatedServer for each endpoint of the pool ({known}), got {given!r}; {example}"
        )
    return found


def _calling(on_outcome: OnOutcome) -> OnOutcome:
    """Return a function that hands an outcome over, and returns None as the scheduler expects."""

    def deliver(outcome: Outcome[Any]) -> None:
        on_outcome(outcome)

    return deliver
