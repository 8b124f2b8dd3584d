"""Service of `serve`: what its options make, in one process or in each of several."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._rows.columns import TableForm
from .._runner import BatchRunner
from .._settings import BatchSettings
from ..integrations._worker_metrics import WorkerMetrics
from ..integrations.metrics import RunMetrics
from ..protocols import AsyncLLMBackend, LLMBackend
from . import _report as report
from ._sources import Index, ReviewSource, open_source

if TYPE_CHECKING:
    from fastapi import APIRouter
    from starlette.types import ASGIApp

    from ..integrations._fastapi.connections import ServerLimits

LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
_SPARE_DESCRIPTORS = 300
"""File descriptors for other things than the connections of clients."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Values of the command's options; those of settings are in `settings`."""

    source: Path | None
    settings: BatchSettings
    form: TableForm = field(default_factory=TableForm)
    token: str | None = field(repr=False)
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def needs_key(self) -> bool:
        """Whether requests must have a token or a key."""
        return self.token is not None or bool(self.keys)

    @property
    def shares(self) -> Mapping[str, float] | None:
        """Shares of the clients by name; None if there is one client at most."""
        given = self.settings.batch_serve_shares or {}
        names = {*self.keys.values(), *(() if self.token is None else ("",))}
        return {name: given.get(name, 1.0) for name in names} if len(names) > 1 else None

    @property
    def host(self) -> str:
        """The address to serve at."""
        return self.settings.batch_serve_host

    @property
    def hosts(self) -> Sequence[str]:
        """Names in the header ``Host`` that are answered; "*" for all."""
        if self.settings.batch_serve_allowed_hosts is not None:
            return self.settings.batch_serve_allowed_hosts
        return LOCAL_HOSTS if is_local(self.host) else ("*",)

    def open_source(self, into: Path | None = None, *, read_only: bool = False) -> ReviewSource:
        """Open the reviews; those of a file are indexed into a folder, or in memory."""
        console = report.console(stderr=True)
        return open_source(self.source, console, self.settings, self.form, into, read_only=read_only)

    def runner(self, llm: LLMBackend | AsyncLLMBackend, search: Index, **arguments: Any) -> BatchRunner:
        """Return the runner, with these arguments in place of those of the settings."""
        return BatchRunner(
            **{**self.settings.runner_arguments(llm), "llm": llm, "search": search, **arguments}
        )

    def router(self, runner: BatchRunner) -> APIRouter:
        """Return the router with the endpoints."""
        from ..integrations.fastapi import batch_router

        chosen = self.settings
        return batch_router(
            runner,
            summary=chosen.summary(),
            review_summary=chosen.review_summary(),
            sentiment=chosen.sentiment(),
            strengths=chosen.strengths(),
            comparison=chosen.comparison(),
            uploads=chosen.batch_serve_uploads,
            max_items=chosen.batch_serve_max_items,
            max_reviews=chosen.batch_serve_max_reviews,
            max_calls=chosen.batch_serve_max_calls,
            max_jobs=chosen.batch_serve_max_jobs,
            job_days=chosen.batch_serve_job_days,
            shares=self.shares,
        )

    def application(
        self,
        llm: LLMBackend | AsyncLLMBackend,
        search: Index,
        *,
        folder: Path | None = None,
        **arguments: Any,
    ) -> ASGIApp:
        """
        Return the application: the router with its runner, and what stands around it.

        Args:
            llm: The LLM backend.
            search: The search backend.
            folder: Where the processes of the service leave their counts; None if there is one process.
            arguments: Arguments of the runner, in place of those of the settings.
        """
        from ..integrations._fastapi.application import application

        counts = RunMetrics()
        runner = self.runner(llm, search, observers=[counts], **arguments)
        return application(
            self.router(runner),
            runner,
            token=self.token,
            keys=self.keys,
            allowed_hosts=self.hosts,
            cors=self.settings.batch_serve_cors or (),
            metrics=WorkerMetrics(counts, folder),
        )

    @property
    def server_limits(self) -> ServerLimits:
        """The limits of a server."""
        from ..integrations._fastapi.connections import ServerLimits

        return ServerLimits(
            connections=_possible(self.settings.batch_serve_connections),
            drain_seconds=self.settings.batch_serve_drain_seconds,
        )


def is_local(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _possible(connections: int) -> int:
    """Return the number of connections, or fewer if this process may not open as many file descriptors."""
    try:
        import resource
    except ImportError:  # Windows
        return connections
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return connections
    return max(1, min(connections, max(limit - _SPARE_DESCRIPTORS, limit // 4)))
