"""Command `serve`: an HTTP service for summaries, sentiment and strengths."""

from __future__ import annotations

import json
import logging
import shlex
import socket
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import click

from ..._text import error_text, escaped_json, terminal_text
from ...errors import BackendError, ConfigurationError
from ...models import SearchQuery
from ...sharing import FileBroker
from .. import _access as access
from .. import _backends as services
from .. import _options as parameters
from .. import _reading as reading
from .. import _settings as settings
from .._backends import MakeLLM
from .._listening import PORT_OPTIONS, bind, listen
from .._serving import LOCAL_HOSTS, ServeOptions, is_local
from .._signals import terminated_like_interrupted
from .._sources import ReviewSource

__all__ = ["LOCAL_HOSTS", "ServeOptions", "command"]

_HELP = """
Serve summaries, sentiment and strengths over HTTP.

SOURCE is a file of reviews (CSV, JSON Lines, ...; indexed first) or a folder made by `index`; by default the
built-in sample. With --search qdrant there is no SOURCE: the reviews are those of the collection. All requests
share the limits, also those of several --workers.

Ctrl-C and SIGTERM let requests in flight finish, for --drain seconds; a second one cancels them.
"""

log = logging.getLogger("restaurant_llm_batch")

_TASKS = ("serve", "summary", "aspects", "reviews", "sentiment", "strengths", "comparison")
"""Targets of the command's own settings."""


def command(llms: Mapping[str, MakeLLM]) -> click.Command:
    """
    Build the command.

    Args:
        llms: Factories of LLM backends, by their names for ``--llm``; the first is the default.
    """
    options = [
        parameters.source(),
        *access.options(),
        *reading.options(),
        *settings.options(search=True, llm=True, batches=True, llms=[*llms], tasks=_TASKS),
    ]
    return settings.SectionedCommand("serve", params=options, callback=partial(_main, llms), help=_HELP)


def _main(llms: Mapping[str, MakeLLM], /, **values: Any) -> None:
    chosen = services.take_llm(llms, values)
    found = settings.take_settings(values)
    form = reading.take_form(values)
    token, keys = access.take_keys(values, found)
    options = ServeOptions(settings=found, form=form, token=token, keys=keys, **values)
    try:
        from ...integrations._fastapi.application import check_origin
        from ...integrations._fastapi.server import SignalAwareServer
    except ImportError as error:
        raise ConfigurationError(
            f"serve needs the package {error.name}: pip install 'restaurant-llm-batch[fastapi]'"
        ) from error
    for origin in options.settings.batch_serve_cors or ():
        check_origin(origin)
    workers = options.settings.batch_serve_workers
    if workers > 1:
        from .._workers import check_workers, serve_by_workers

        check_workers(options, chosen or options.settings.batch_llm_backend)
    name, llm = services.make_llm(llms, chosen, options.settings)
    with (
        terminated_like_interrupted(),
        bind(options.host, options.settings.batch_serve_port, PORT_OPTIONS) as listener,
    ):
        address = _address(options.host, listener)
        if workers > 1:
            announce = partial(_announce, address, options, name)
            if not serve_by_workers(options, (chosen, llm), listener, announce, _check_search):
                raise ConfigurationError("the workers cannot start; the messages above say why")
        else:
            source = options.open_source()
            with source.search:
                app = options.application(llm, source.search)
                _check_search(source)
                listen(listener, PORT_OPTIONS)
                _announce(address, options, name, source)
                # uvicorn raises the signal again after a graceful shutdown.
                with suppress(KeyboardInterrupt):
                    SignalAwareServer(app, options.server_limits).run(sockets=[listener])
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


def _address(host: str, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # nosec B104 (compares)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def _announce(
    address: str, options: ServeOptions, llm: str, source: ReviewSource, broker: FileBroker | None = None
) -> None:
    count = len(source.ids)
    click.echo(f"serving {count:,} restaurant{'s' * (count != 1)} of {terminal_text(source.label)}")
    if llm == "offline":
        click.echo("  no language model is used: responses are sentences picked from the reviews")
    click.echo(f"  {address}/docs describes the API, and lets you try it")
    if count:
        body = json.dumps({"restaurants": [{"restaurant_id": source.ids[0]}]}, ensure_ascii=False)
        path = f"{address}/api/v1/llm/summarize/batch"
        key = access.TOKEN_VARIABLE if options.token else "KEY"
        header = f'-H "Authorization: Bearer ${key}" ' if options.needs_key else ""
        click.echo(f"  curl {header}--json {terminal_text(shlex.quote(escaped_json(body)))} {path}")
    if broker is not None:
        workers, file = options.settings.batch_serve_workers, broker.place.removeprefix("file:")
        click.echo(
            f"  {workers} workers share the limits: `restaurant-llm-batch limits {file}` shows and sets them"
        )
    if not options.needs_key and not is_local(options.host):
        click.echo(f"  everyone who reaches {options.host} can use it: set {access.TOKEN_VARIABLE}", err=True)
    click.echo("  Ctrl-C stops it")
