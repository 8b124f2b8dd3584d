"""Workers of `serve`: several processes at one port, with one set of limits, one index and one record for all."""

from __future__ import annotations

import logging
import multiprocessing
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click

from .._config.limits import Limits
from .._limits.limiters import as_pool
from .._text import terminal_text
from ..errors import BatchError, ConfigurationError
from ..integrations._worker_metrics import leave
from ..protocols import AsyncLLMBackend, LLMBackend
from ..search import EmbeddedSearch
from ..sharing import FileBroker, SharedLimiter
from ..sharing._limits import share_limits
from . import _backends as services
from ._listening import PORT_OPTIONS, listen
from ._objects import is_object_name
from ._process import prepare_process
from ._serving import ServeOptions
from ._sources import Index, ReviewSource
from ._supervisor import CANNOT_START, Supervisor

log = logging.getLogger("restaurant_llm_batch")

_EXIT_SECONDS = 20.0
"""Seconds that a worker may take to end, after the time that requests have."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """
    What each worker serves with. It is pickled.

    Attributes:
        options: The options of the command.
        llm: Name of the LLM backend that is not among the settings'; None for that of the settings.
        index: Folder of the index; None for a Qdrant server.
        folder: Private folder of the service, which is deleted when it ends.
    """

    options: ServeOptions
    llm: str | None
    index: Path | None
    folder: Path

    @property
    def broker(self) -> FileBroker:
        """Where the limits of all workers are kept."""
        return FileBroker(self.folder / "limits.db")

    def limits(self, llm: LLMBackend | AsyncLLMBackend) -> Limits:
        """Return the limits of a runner, which are those of all workers together."""
        return share_limits(
            self.options.settings.limits(),
            self.broker,
            search=self.index is None,
            pool=as_pool(llm) is not None,
        )

    def search(self) -> Index:
        """Return the search backend of a worker."""
        if self.index is None:
            return services.qdrant(self.options.settings)[0]
        return EmbeddedSearch(self.index, embedder=self.options.settings.embedder(), read_only=True)

    def __call__(self, started: Callable[[], object], listener: socket.socket) -> int:
        """Serve in this process until SIGTERM; return the exit status."""
        from ..integrations._fastapi.server import SignalAwareServer

        prepare_process()
        parent = multiprocessing.parent_process()
        tempfile.tempdir = str(self.folder)  # so that nothing is left of a worker that is killed
        try:
            _, llm = services.make_llm(services.models(), self.llm, self.options.settings)
            with self.search() as search:
                app = self.options.application(llm, search, folder=self.folder, limits=self.limits(llm))
                SignalAwareServer(app, self.options.server_limits, started).run(sockets=[listener])
        except BatchError as error:
            click.echo(f"Error: {terminal_text(str(error))}", err=True)
            return CANNOT_START
        finally:
            # If it was killed, it deletes nothing; the last worker does.
            if parent is not None and not parent.is_alive() and leave(self.folder):
                shutil.rmtree(self.folder, ignore_errors=True)
        return 0


def check_workers(options: ServeOptions, llm: str) -> None:
    """
    Check that a service may have several workers, before anything slow.

    Args:
        options: The options.
        llm: Name of the LLM backend.

    Raises:
        ConfigurationError: It may not.
    """
    if sys.platform == "win32":
        raise ConfigurationError("--workers needs Linux or macOS; start it there, or with --workers 1")
    if options.settings.batch_serve_uploads and options.settings.batch_search_backend != "qdrant":
        raise ConfigurationError(
            "--uploads writes to the index, which several workers only read; use --workers 1, or --search qdrant"
        )
    if llm == "vllm-engine":
        raise ConfigurationError(
            "--llm vllm-engine runs a model in each worker; use --workers 1, or a server: `vllm serve` and --llm vllm"
        )
    if llm not in services.LLMS and not is_object_name(llm):
        raise ConfigurationError(f"--llm {llm} cannot be made in a worker; name it as module:name")


@contextmanager
def private_folder() -> Iterator[Path]:
    """Return a folder that only this user may read, and that is deleted at the end of the block."""
    with tempfile.TemporaryDirectory(
        prefix="restaurant-llm-batch-serve-", ignore_cleanup_errors=True
    ) as path:
        yield Path(path)


def serve_by_workers(
    options: ServeOptions,
    llm: tuple[str | None, LLMBackend | AsyncLLMBackend],
    listener: socket.socket,
    announce: Callable[[ReviewSource, FileBroker], object],
    check: Callable[[ReviewSource], object],
) -> bool:
    """
    Serve by several processes until Ctrl-C or SIGTERM; return False if they could not start.

    Everything is made and checked once in this process, so that a mistake is one message.

    Args:
        options: The options.
        llm: The name of the LLM backend, if it is not that of the settings, and the backend.
        listener: The bound port.
        announce: Says that the service starts.
        check: Searches once.
    """
    name, backend = llm
    with ExitStack() as stack:
        folder = stack.enter_context(private_folder())
        with ExitStack() as opened:
            source = options.open_source(folder / "index", read_only=True)
            opened.enter_context(source.search)
            index = source.search.path if isinstance(source.search, EmbeddedSearch) else None
            worker = Worker(options=options, llm=name, index=index, folder=folder)
            runner = options.runner(backend, source.search, limits=worker.limits(backend))
            opened.callback(runner.close)
            options.router(runner)
            check(source)
            _warn_of_own_limits(backend)
        announce(source, worker.broker)
        listen(listener, PORT_OPTIONS)  # clients wait for a worker, also while one is made anew
        seconds = options.settings.batch_serve_drain_seconds + _EXIT_SECONDS
        workers = Supervisor(
            partial(worker, listener=listener),
            options.settings.batch_serve_workers,
            seconds,
            listener.close,
        )
        return workers.run()


def _warn_of_own_limits(llm: LLMBackend | AsyncLLMBackend) -> None:
    pool = as_pool(llm)
    if pool is None:
        return
    own = [
        name
        for name, limiter in pool.endpoint_limiter.limiters.items()
        if not isinstance(limiter, SharedLimiter)
    ]
    if own:
        log.warning(
            "each worker has the limits of the endpoints %s for itself; for one limit, make each a SharedLimiter",
            ", ".join(own),
        )
