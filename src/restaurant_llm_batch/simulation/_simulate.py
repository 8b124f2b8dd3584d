"""Simulates one runner (`BatchRunner.simulate`), or several that share a server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any, Protocol

from ..errors import ConfigurationError
from ..events import Event
from ..outcomes import BatchReport, Outcome
from ..protocols import LLMBackend, Observer
from ._play import Playback, RunnerParts
from .result import Simulation
from .server import SimulatedServer

OnOutcome = Callable[[Outcome[Any]], object]


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
    server: SimulatedServer,
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
    server: SimulatedServer = SimulatedServer(),
    *,
    seed: int = 0,
    answers: LLMBackend | None = None,
) -> list[Simulation[Any]]:
    """
    Simulate runs that begin together, at one server. Limiters that the runners share, they share here too.

    Args:
        runs: A runner, a task and the items, for each run.
        server: What the server is like.
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
    server: SimulatedServer,
    seed: int,
    answers: LLMBackend | None,
    on_outcome: OnOutcome | None,
    observers: Sequence[Observer],
) -> list[Simulation[Any]]:
    given: object = server
    if not isinstance(given, SimulatedServer):
        raise ConfigurationError(
            f"server must be a SimulatedServer, got {given!r}; "
            "for example server=SimulatedServer(latency=0.8, slots=24)"
        )
    if answers is not None and not callable(getattr(answers, "complete", None)):
        raise ConfigurationError(
            f"answers must be a backend with complete(), got {answers!r}; for example answers=OfflineLLM()"
        )
    parts = runs[0][0]
    playback = Playback(server, seed, answers, parts.count_tokens, parts.model)
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
        )
        for player, (outcomes, events) in zip(players, kept, strict=True)
    ]


def _calling(on_outcome: OnOutcome) -> OnOutcome:
    """Return a function that hands an outcome over, and returns None as the scheduler expects."""

    def deliver(outcome: Outcome[Any]) -> None:
        on_outcome(outcome)

    return deliver
