"""Command `serve`: an HTTP service for summaries, sentiment and strengths."""

from __future__ import annotations

import ipaddress
import json
import logging
import re
import shlex
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..._rows.columns import TableForm
from ..._runner import BatchRunner
from ..._settings import BatchSettings
from ..._settings.sources import is_named
from ..._text import error_text, escaped_json, terminal_text
from ...errors import BackendError, ConfigurationError
from ...models import SearchQuery
from ...protocols import AsyncLLMBackend, LLMBackend
from .. import _backends as services
from .. import _options as parameters
from .. import _reading as reading
from .. import _report as report
from .. import _settings as settings
from .._backends import MakeLLM
from .._listening import bind
from .._signals import terminated_like_interrupted
from .._sources import ReviewSource, open_source

if TYPE_CHECKING:
    from fastapi import APIRouter

_HELP = """
Serve summaries, sentiment and strengths over HTTP.

SOURCE is a file of reviews (CSV, JSON Lines, ...; indexed first) or a folder made by `index`; by default the
built-in sample. With --search qdrant there is no SOURCE: the reviews are those of the collection. All requests
share the limits.

Ctrl-C and SIGTERM let requests in flight finish, for --drain seconds; a second one cancels them.
"""

log = logging.getLogger("restaurant_llm_batch")

TOKEN_VARIABLE = "BATCH_SERVE_TOKEN"
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{1,1000}")
"""The token68 of RFC 7235, with all signs that RFC 6750 allows in a bearer token."""
_TASKS = ("serve", "summary", "aspects", "reviews", "sentiment", "strengths", "comparison")
"""Targets of the command's own settings."""
_SPARE_DESCRIPTORS = 300
"""File descriptors for other things than the connections of clients."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Values of the command's options; those of settings are in `settings`."""

    source: Path | None
    settings: BatchSettings
    form: TableForm = field(default_factory=TableForm)
    token: str | None = field(repr=False)

    @property
    def host(self) -> str:
        """The address to serve at."""
        return self.settings.batch_serve_host

    @property
    def hosts(self) -> Sequence[str]:
        """Names in the header ``Host`` that are answered; "*" for all."""
        if self.settings.batch_serve_allowed_hosts is not None:
            return self.settings.batch_serve_allowed_hosts
        return LOCAL_HOSTS if _is_local(self.host) else ("*",)

    def open_source(self) -> ReviewSource:
        """Open the reviews."""
        return open_source(self.source, report.console(stderr=True), self.settings, self.form)

    def runner(self, llm: LLMBackend | AsyncLLMBackend, source: ReviewSource) -> BatchRunner:
        """Return the runner."""
        return BatchRunner(llm=llm, search=source.search, **self.settings.runner_arguments(llm))

    def router(self, runner: BatchRunner) -> APIRouter:
        """Return the router with the endpoints."""
        from ...integrations.fastapi import batch_router

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
        )


def command(llms: Mapping[str, MakeLLM]) -> click.Command:
    """
    Build the command.

    Args:
        llms: Factories of LLM backends, by their names for ``--llm``; the first is the default.
    """
    options = [
        parameters.source(),
        _token_option(),
        *reading.options(),
        *settings.options(search=True, llm=True, batches=True, llms=[*llms], tasks=_TASKS),
    ]
    return settings.SectionedCommand("serve", params=options, callback=partial(_main, llms), help=_HELP)


def _main(llms: Mapping[str, MakeLLM], /, **values: Any) -> None:
    chosen = services.take_llm(llms, values)
    found = settings.take_settings(values)
    form = reading.take_form(values)
    options = ServeOptions(settings=found, form=form, token=_token(values.pop("token"), found), **values)
    try:
        from ...integrations._fastapi.connections import ServerLimits
        from ...integrations._fastapi.server import SignalAwareServer, application
    except ImportError as error:
        raise ConfigurationError(
            f"serve needs the package {error.name}: pip install 'restaurant-llm-batch[fastapi]'"
        ) from error
    name, llm = services.make_llm(llms, chosen, options.settings)
    limits = ServerLimits(
        connections=_possible(options.settings.batch_serve_connections),
        drain_seconds=options.settings.batch_serve_drain_seconds,
    )
    with (
        terminated_like_interrupted(),
        bind(options.host, options.settings.batch_serve_port, "--host and --port") as listener,
    ):
        source = options.open_source()
        with source.search:
            runner = options.runner(llm, source)
            _check_search(source)
            app = application(
                options.router(runner), runner, token=options.token, allowed_hosts=options.hosts
            )
            _announce(_address(options.host, listener), source, options, name)
            # uvicorn raises the signal again after a graceful shutdown.
            with suppress(KeyboardInterrupt):
                SignalAwareServer(app, limits).run(sockets=[listener])
    click.echo("stopped")


def _check_search(source: ReviewSource) -> None:
    """
    Search once, so that what no search can do without is missed now and not at the first request.

    A collection whose vectors are those of another embedder is an example. What may pass is only logged.
    """
    if not source.ids:
        return
    try:
        source.search.search(SearchQuery(source.ids[0], "service", limit=1))
    except BackendError as error:
        log.warning("the first search failed, as requests may until its cause is gone: %s", error_text(error))


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


def _address(host: str, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # nosec B104 (compares)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def _announce(address: str, source: ReviewSource, options: ServeOptions, llm: str) -> None:
    count = len(source.ids)
    click.echo(f"serving {count:,} restaurant{'s' * (count != 1)} of {terminal_text(source.label)}")
    if llm == "offline":
        click.echo("  no language model is used: responses are sentences picked from the reviews")
    click.echo(f"  {address}/docs describes the API, and lets you try it")
    if count:
        body = json.dumps({"restaurants": [{"restaurant_id": source.ids[0]}]}, ensure_ascii=False)
        path = f"{address}/api/v1/llm/summarize/batch"
        header = f'-H "Authorization: Bearer ${TOKEN_VARIABLE}" ' if options.token else ""
        click.echo(f"  curl {header}--json {terminal_text(shlex.quote(escaped_json(body)))} {path}")
    if options.token is None and not _is_local(options.host):
        click.echo(f"  everyone who reaches {options.host} can use it: set {TOKEN_VARIABLE}", err=True)
    click.echo("  Ctrl-C stops it")


def _is_local(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _token_option() -> click.Option:
    return click.Option(
        ["--token"],
        help="Bearer token that requests must have. Better set the variable "
        f"{TOKEN_VARIABLE}: options are shown to all users of this machine.",
    )


def _token(option: str | None, chosen: BatchSettings) -> str | None:
    """Return the token of the option, or of the settings; None if there is none."""
    token = option
    if token is None and chosen.batch_serve_token is not None:
        token = chosen.batch_serve_token.get_secret_value()
    # An empty variable counts as not set, but a service must not open for a secret that was lost.
    if token is None and is_named(BatchSettings, TOKEN_VARIABLE):
        token = ""
    if token is not None and not _TOKEN.fullmatch(token):
        # Without the value, which is a secret.
        raise ConfigurationError(
            f"{'--token' if option is not None else TOKEN_VARIABLE}: a token has 1 to 1000 letters, digits and signs "
            "of ._~+/=-; for example that of: openssl rand -hex 32"
        )
    return token
