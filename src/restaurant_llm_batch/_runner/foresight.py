"""What a runner says of a run that it does not make: simulations on virtual time, and plans."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from ..outcomes import Outcome
from ..protocols import LLMBackend, Observer, Task
from ..steps import Flow
from .checks import as_observers
from .given import open_recording

if TYPE_CHECKING:
    from ..records._record import Record
    from ..records._recording import Recording
    from ..simulation import Plan, SimulatedServer, Simulation
    from ..simulation._play import RunnerParts

R = TypeVar("R")


class Foresight(ABC):
    """The methods of `BatchRunner` that simulate or plan a run."""

    @property
    @abstractmethod
    def parts(self) -> RunnerParts:
        """The parts of the runner that a simulation takes."""

    @property
    @abstractmethod
    def recording(self) -> Recording | None:
        """The record of the runner's runs."""

    def simulate(
        self,
        task: Task[R] | Callable[[Any], Flow[R]],
        items: Iterable[Any],
        server: SimulatedServer | Sequence[SimulatedServer] | Mapping[str, SimulatedServer] | None = None,
        *,
        seed: int = 0,
        answers: LLMBackend | None = None,
        on_outcome: Callable[[Outcome[R]], object] | None = None,
        observers: Iterable[Observer] = (),
        record: str | os.PathLike[str] | Recording | None = None,
    ) -> Simulation[R]:
        """
        Play a run on virtual time, against a simulated server: an hour takes seconds, and no model is called.

        Scheduler, limits, retries, time limits, stop conditions and store are those of a real run. Limits begin as when
        the runner was created. Replies in the store are found; what is answered here does not get into it. Searches are
        made by the runner's own search if it has a blocking `search`, otherwise their hits are made up; on virtual
        time, a search takes `SimulatedServer.search_seconds`.

        Args:
            task: A task, or a generator function of one item.
            items: The items.
            server: What the server is like; None for `SimulatedServer()`. With an `LLMPool`: what each endpoint is
                like, or a list with one for each of them, or them by name.
            seed: Seed of all that is random: equal seeds give equal runs, to the event.
            answers: Answers the requests at once, for example `OfflineLLM`; None for answers made from the form of each
                request, whose texts say nothing.
            on_outcome: Takes each outcome, which is then not kept: for very many items. Events are not kept either.
            observers: Called with every event; those of the runner are not.
            record: The file in which the simulation is recorded, marked as one, in virtual seconds; the runner's own
                record does not get it.

        Returns:
            How the run went: virtual seconds, report, events, and what the server saw.

        Raises:
            ConfigurationError: The task, the items or an argument are invalid.
        """
        from ..simulation._simulate import simulate
        from ..simulation.simulated_server import SimulatedServer

        parts, watching, recording = self.parts, as_observers(observers), open_recording(record)
        if recording is not None:
            from ..records._recording import describe_runner

            facts = describe_runner(parts.llm, parts.strategy, parts.limits, parts.config)
            watching = (*watching, recording.observer(replace(facts, simulated=True)))
        try:
            return simulate(
                parts,
                task,
                items,
                SimulatedServer() if server is None else server,
                seed=seed,
                answers=answers,
                on_outcome=on_outcome,
                observers=watching,
            )
        finally:
            if recording is not None:
                recording.close()

    def plan(
        self,
        task: Task[R] | Callable[[Any], Flow[R]],
        items: Iterable[Any],
        sample: int | None = None,
        server: SimulatedServer | None = None,
        *,
        context: int | None = None,
        answers: LLMBackend | None = None,
        record: str | os.PathLike[str] | Record | None = None,
    ) -> Plan:
        """
        Say what a run comes to before its first paid call: calls, tokens, cost, time, and what will fail.

        No model is called. The task's flows run through the engine with likely answers in place of a model's; what a
        model may say differently makes a figure a range. Searches are made, by the runner's own blocking `search`.
        Replies in the store are found there, and nothing is written to it. All items are read to their end.

        If a record has earlier runs of the task with the same model, the figures rest on these: how long answers are,
        how often calls are made that answers decide, what prompts have in the tokens of the service, which share comes
        from its cache, how long calls take. The likely ranges are then those in which 19 of 20 such runs lie.
        `Plan.learned_from` says so. A record is only read.

        Args:
            task: A task, or a generator function of one item.
            items: The items. Those that cannot be read are reported, and not raised.
            sample: Look at so many items, evenly picked, and scale the figures; None for all of them.
            server: What the server is like, for the time; None for the one that a record has seen, or else for one that
                takes 0.8 s for every call.
            context: The context length of the model, in tokens; None if it is not known.
            answers: Answers the requests at once in place of made-up answers, for a task that reads answers without a
                form.
            record: The record with earlier runs; None for the runner's own, if it has one.

        Raises:
            ConfigurationError: The task or an argument is invalid, the items are not iterable, or the record is none.
        """
        from ..records._record import as_record
        from ..simulation._planning import make_plan

        return make_plan(
            self.parts,
            task,
            items,
            sample=sample,
            server=server,
            context=context,
            answers=answers,
            record=self._earlier_runs() if record is None else as_record(record),
            own_record=record is None,
        )

    def _earlier_runs(self) -> Record | None:
        """Return the record of the runner's own runs, with all that has happened so far."""
        if self.recording is None:
            return None
        from ..records._record import find_record

        self.recording.flush()
        return find_record(self.recording.path)
