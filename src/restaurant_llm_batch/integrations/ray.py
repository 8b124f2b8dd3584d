"""Ray: `RayBatch` applies a task to the rows of a Ray dataset; `RayBroker` keeps limits for all of a cluster."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import anyio
import anyio.to_thread

from .._engine.items import as_task
from .._engine.loop_mailbox import EventLoopMailbox
from .._rows.columns import TableForm
from .._runner.runner import BatchRunner
from .._store.folder import StoreFolder
from .._validation import check_whole
from .._values import short
from ..errors import ConfigurationError
from ..protocols import Observer, Task
from ..records._recording import Recording, as_recording
from ..sharing.ray import RayBroker
from ..steps import Flow
from ._ray.batch_rows import RowTask, is_builtin, items_of, raw_rows
from ._ray.checks import check_function, check_pickled, check_runner, checked_record, tell_of_limits
from ._ray.events import EventMailbox, EventSender, Gathering
from ._ray.live import LiveRun
from ._ray.outcome_tables import OutcomeTables, check_keep
from ._ray.shared_limits import check_shareable, shared_limits

if TYPE_CHECKING:
    from .._config.limits import Limits

__all__ = ["RayBatch", "RayBroker"]


class RayBatch:
    """
    Applies a task to the rows of a Ray dataset, in a pool of actors with one runner each.

        def make_runner(**options):
            return BatchRunner(llm=VLLMServerLLM("http://gpu:8000"), strategy=Strategy.stage(4), **options)

        batch = RayBatch(make_runner, AnalyzeSentiment(), limits=Limits(llm=32), store="/mnt/shared/night")
        rows = batch.map(dataset, concurrency=4)

    Each row is one item: its columns are the fields of the item, as `read_items` reads them, and others are ignored.
    For each row there is one row back, in any order: its id, ``ok``, the fields of the result, ``error``, ``stage``,
    ``attempts``, ``tokens``, ``cost`` and ``spent.*``. A row that fails has ``ok`` false and the reason in ``error``;
    no row fails the job.

    An actor has one run, from its first batch to its end. The rows of all its batches share the runner's window and
    limits, and no batch waits for another. If a run stops by itself (`StopConditions`, a key that is refused), the
    actor's later rows fail with the reason.

    `map` makes actors with the options that suit. To choose them all yourself, pass the class:

        dataset.map_batches(
            RayBatch, fn_constructor_args=(make_runner, task), fn_constructor_kwargs={"limits": limits},
            compute=ray.data.ActorPoolStrategy(size=4), batch_size=64, max_concurrency=4,
        )

    An object in place of the class works too, in Ray tasks: each block of rows then has a runner of its own.

    Args:
        make_runner: Makes the runner, in the actor. It is called with ``limits``, ``store``, ``record`` and
            ``observers`` as keywords, those of them that are needed, and passes them on to `BatchRunner`.
        task: The task, or a generator function.
        limits: Limits of all actors together: each number is shared by them at a `RayBroker`. None to leave the limits
            to `make_runner`, where numbers hold in each actor. `open_items` holds in each actor anyway.
        store: Folder in which each actor keeps the replies that it has paid for, and finds those of the others: on a
            disk that all of them share, or on one of a single machine. See `StoreFolder`.
        record: The file of the record. With `map` it is in this process, and has a run for each actor. Otherwise each
            actor writes to that path.
        observers: Called with every event; with `map` those of all actors, in this process.
        columns: The dataset's names of columns by the task's, as in `read_items`.
        keep: Columns of the dataset that the rows have too.

    Raises:
        ConfigurationError: An argument is invalid.
    """

    def __init__(
        self,
        make_runner: Callable[..., BatchRunner],
        task: Task[Any] | Callable[[Any], Flow[Any]],
        *,
        limits: Limits | None = None,
        store: str | os.PathLike[str] | StoreFolder | None = None,
        record: str | os.PathLike[str] | Recording | None = None,
        observers: Iterable[Observer] = (),
        columns: Mapping[str, str] | None = None,
        keep: Sequence[str] = (),
    ) -> None:
        self._observers = tuple(observers)
        self._limits = check_shareable(limits)
        self._store = store if store is None or isinstance(store, StoreFolder) else StoreFolder(store)
        self._record = record
        kept = check_keep(keep)
        self._form = TableForm(columns)
        as_task(task)
        needed = {"limits": limits, "store": store, "record": record, "observers": self._observers or record}
        check_function(make_runner, [name for name, value in needed.items() if value])
        self._make_runner = make_runner
        self._task = task
        self._tables = OutcomeTables(kept, is_builtin(task))
        self._live: LiveRun | None = None
        self._gathering: Gathering | None = None
        self._sender: EventSender | None = None
        self._lock = threading.RLock()

    def map(
        self, dataset: Any, *, concurrency: int = 1, batch_size: int = 64, blocks: int = 4, **options: Any
    ) -> Any:
        """
        Return the dataset of outcomes. Ray computes it when it is read, as ``rows.write_parquet(...)`` does.

        Args:
            dataset: A ``ray.data.Dataset``.
            concurrency: Number of actors.
            batch_size: Rows that go to an actor, and come back, together.
            blocks: Blocks of the dataset that an actor works on at the same time. While the last rows of one are slow,
                those of the others keep its calls busy.
            options: Any arguments of ``Dataset.map_batches``; they take precedence.

        Raises:
            ConfigurationError: Ray is not installed or not running, an argument is invalid, or the function or the task
                cannot be pickled.
        """
        ray = _ray()
        check_whole("concurrency", concurrency, 1, "concurrency=4")
        check_whole("batch_size", batch_size, 1, "batch_size=64")
        check_whole("blocks", blocks, 1, "blocks=4")
        if not isinstance(dataset, ray.data.Dataset):
            raise ConfigurationError(
                f"RayBatch.map needs a ray.data.Dataset, got {short(dataset)}; for example ray.data.from_items(rows)"
            )
        given = (self._make_runner, self._task)
        arguments = {**self._arguments(), "record": None, "observers": ()}
        check_pickled(given, arguments)
        if self._record is not None or self._observers:
            arguments["observers"] = (self._begin_gathering(ray),)
        chosen: dict[str, Any] = {
            # No more blocks than it works on wait at an actor: the first that is ready would take those of the others.
            "compute": ray.data.ActorPoolStrategy(size=concurrency, max_tasks_in_flight_per_actor=blocks),
            "batch_size": batch_size,
            "batch_format": "pyarrow",
            "max_concurrency": blocks,
            "fn_constructor_args": given,
            "fn_constructor_kwargs": arguments,
            **_cpus(ray, concurrency),
            **options,
        }
        with warnings.catch_warnings():
            # Ray 2.60 wants named arguments, and has none for max_concurrency yet.
            warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
            return dataset.map_batches(RayBatch, **chosen)

    def _begin_gathering(self, ray: Any) -> EventSender:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if self._sender is not None:
            return self._sender
        recording = as_recording(self._record)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        mailbox = (
            ray.remote(EventMailbox).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here).remote()
        )

        def take() -> list[tuple[str, list[bytes]]]:
            taken: list[tuple[str, list[bytes]]] = ray.get(mailbox.take.remote(), timeout=30)
            return taken

        self._gathering = Gathering(take, self._observers, recording)
        texts = recording is not None and recording.texts
        wants = texts or any(getattr(one, "wants_requests", False) for one in self._observers)
        self._sender = EventSender(mailbox, wants)
        return self._sender

    async def __call__(self, batch: Any) -> AsyncIterator[Any]:
        """Yield the outcomes of a batch, as an Arrow table; Ray calls this."""
        rows = raw_rows(batch)
        items = items_of(rows, self._form)
        # In a thread: it may take minutes to make a runner, and Ray's loop has other batches.
        live = self._live
        if live is None:
            live = await anyio.to_thread.run_sync(self._begun)
        done = live.submit(items)
        finished, here = anyio.Event(), EventLoopMailbox()
        done.add_done_callback(lambda _: here.post_unattended(finished.set))
        await finished.wait()
        yield self._tables.table(batch, rows, items, done.result())

    def run(self, batch: Any) -> Any:
        """
        Return the outcomes of a batch, as an Arrow table, blocking the thread; for engines other than Ray.

        The first batch makes the runner, which `close` closes.

        Args:
            batch: A mapping of columns, a data frame or an Arrow table.

        Raises:
            ConfigurationError: The runner cannot be made, or a column that was named is not there.
        """
        rows = raw_rows(batch)
        items = items_of(rows, self._form)
        outcomes = self._begun().submit(items).result()
        with self._lock:
            return self._tables.table(batch, rows, items, outcomes)

    def _begun(self) -> LiveRun:
        with self._lock:
            if self._live is None:
                self._live = self._begin()
            return self._live

    def _begin(self) -> LiveRun:
        options: dict[str, Any] = {}
        task = RowTask(self._task)
        if self._limits is not None:
            options["limits"] = shared_limits(self._limits, _scope(task.name), RayBroker())
        if self._store is not None:
            options["store"] = self._store
        if self._record is not None:
            options["record"] = checked_record(self._record)
        if self._observers:
            options["observers"] = self._observers
        runner = check_runner(self._make_runner(**options), options)
        tell_of_limits(self._limits, runner)
        for observer in self._observers:
            if isinstance(observer, EventSender):
                observer.begin(runner)
        return LiveRun(runner, task)

    def close(self) -> None:
        """
        End the run of this process, and write what the actors have told.

        Call it, or leave the ``with`` block, when the rows of `map` have been read.
        """
        live, self._live = self._live, None
        if live is not None:
            live.close()
        for observer in self._observers:
            if isinstance(observer, EventSender):
                observer.close()
        gathering, self._gathering, self._sender = self._gathering, None, None
        if gathering is not None:
            gathering.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if (
            self.__dict__.get("_live") is not None
        ):  # Ray lets the object go when the actor is no longer needed
            self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _InTasks, (self._make_runner, self._task, self._arguments())

    def _arguments(self) -> dict[str, Any]:
        return {
            "limits": self._limits,
            "store": self._store,
            "record": self._record,
            "observers": self._observers,
            "columns": self._form.columns,
            "keep": self._tables.keep,
        }


class _InTasks:
    """A pickled `RayBatch`, in a Ray task, which has no event loop."""

    def __init__(self, make_runner: Any, task: Any, arguments: Mapping[str, Any]) -> None:
        self._batch = RayBatch(make_runner, task, **arguments)

    def __call__(self, batch: Any) -> Any:
        """Return the outcomes of a batch."""
        return self._batch.run(batch)


def _ray() -> Any:
    """
    Return the package ray, running.

    Raises:
        ConfigurationError: It is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ConfigurationError(
            "RayBatch needs the package ray: pip install 'restaurant-llm-batch[ray]'"
        ) from error
    if not ray.is_initialized():
        ray.init()
    return ray


def _cpus(ray: Any, actors: int) -> dict[str, float]:
    """
    Return the option ``num_cpus``: less than the one CPU that an actor has otherwise, if that would leave none.

    Without a CPU for the tasks that read the dataset, the job would wait for ever.
    """
    cpus = float(ray.cluster_resources().get("CPU", 0.0))
    share = max(cpus - 1, cpus / 2) / actors
    return {} if share >= 1 else {"num_cpus": int(100 * share) / 100}


def _scope(task: str) -> str:
    """Return what the limits of one task are for: those of this job of Ray."""
    import ray

    job = ray.get_runtime_context().get_job_id() if ray.is_initialized() else "none"
    return f"{task} of job {job}"
