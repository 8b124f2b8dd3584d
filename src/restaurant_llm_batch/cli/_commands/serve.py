"""Command `serve`: an HTTP service for summaries, sentiment and strengths."""

from __future__ import annotations

import json
import shlex
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..._runner import BatchRunner
from ..._settings import BatchSettings
from ...errors import ConfigurationError
from ...protocols import AsyncLLMBackend, LLMBackend
from ...tasks.reviews import SummarizeReviews
from ...tasks.sentiment import AnalyzeSentiment
from ...tasks.strengths import ExtractStrengths
from ...tasks.summary import SummarizeAspects
from .. import _backends as services
from .. import _options as parameters
from .. import _report as report
from .. import _settings as settings
from .._backends import MakeLLM
from .._options import Language
from .._sources import ReviewSource, open_source

if TYPE_CHECKING:
    from fastapi import APIRouter

_HELP = """
Serve summaries, sentiment and strengths over HTTP.

SOURCE is a file of reviews (JSON Lines, indexed in memory first) or a folder made by `index`; by default the
built-in sample. With --search qdrant there is no SOURCE: the reviews are those of the collection. All requests
share the limits.

Ctrl-C lets requests in flight finish; pressed again, it cancels them.
"""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Values of the command's options."""

    source: Path | None
    host: str
    port: int
    language: Language
    settings: BatchSettings

    def open_source(self) -> ReviewSource:
        """Open the reviews."""
        return open_source(self.source, report.console(stderr=True), self.settings)

    def router(self, llm: LLMBackend | AsyncLLMBackend, source: ReviewSource) -> APIRouter:
        """Return the router with its endpoints, and a runner for them."""
        from ...integrations.fastapi import batch_router

        runner = BatchRunner(llm=llm, search=source.search, **self.settings.runner_arguments())
        return batch_router(
            runner,
            summary=SummarizeAspects(language=self.language, aspects=self.settings.aspects()),
            review_summary=SummarizeReviews(language=self.language),
            sentiment=AnalyzeSentiment(language=self.language),
            strengths=ExtractStrengths(language=self.language),
        )


def command(llms: Mapping[str, MakeLLM]) -> click.Command:
    """
    Build the command.

    Args:
        llms: Factories of LLM backends, by their names for ``--llm``; the first is the default.
    """
    options = [
        parameters.source(),
        *_address_options(),
        *settings.options(search=True, llm=True, batches=True, llms=[*llms]),
        settings.option("aspect_seeds_file"),
        parameters.language("Language of search and replies; auto detects that of the reviews."),
    ]
    return settings.SectionedCommand("serve", params=options, callback=partial(_main, llms), help=_HELP)


def _main(llms: Mapping[str, MakeLLM], /, **values: Any) -> None:
    chosen = services.take_llm(llms, values)
    options = ServeOptions(settings=settings.take_settings(values), **values)
    try:
        from ...integrations._fastapi.server import SignalAwareServer, application
    except ImportError as error:
        raise ConfigurationError(
            f"serve needs the package {error.name}: pip install 'restaurant-llm-batch[fastapi]'"
        ) from error
    name, llm = services.make_llm(llms, chosen, options.settings)
    with _bind(options.host, options.port) as listener:
        source = options.open_source()
        with source.search:
            app = application(options.router(llm, source))
            _announce(_address(options.host, listener), source, name)
            # uvicorn raises the signal again after a graceful shutdown.
            with suppress(KeyboardInterrupt):
                SignalAwareServer(app).run(sockets=[listener])
    click.echo("stopped")


def _bind(host: str, port: int) -> socket.socket:
    """
    Bind the port, before anything slow: a port in use is reported at once, and not after indexing the reviews.

    Clients cannot connect until the server listens.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ConfigurationError(
            f"cannot serve at {host} port {port}: {error.strerror}; change them with --host and --port"
        ) from error
    return listener


def _address(host: str, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # nosec B104 (compares)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def _announce(address: str, source: ReviewSource, llm: str) -> None:
    count = len(source.ids)
    click.echo(f"serving {count:,} restaurant{'s' * (count != 1)} of {source.label}")
    if llm == "offline":
        click.echo("  no language model is used: responses are sentences picked from the reviews")
    click.echo(f"  {address}/docs describes the API, and lets you try it")
    if count:
        body = json.dumps({"restaurants": [{"restaurant_id": source.ids[0]}]}, ensure_ascii=False)
        path = f"{address}/api/v1/llm/summarize/batch"
        click.echo(f"  curl --json {shlex.quote(body)} {path}")
    click.echo("  Ctrl-C stops it")


def _address_options() -> list[click.Parameter]:
    return [
        click.Option(
            ["--host"],
            default="127.0.0.1",
            show_default=True,
            help="Address to serve at; 0.0.0.0 for all addresses of this machine. There is no authentication: "
            "put a proxy with authentication in front.",
        ),
        click.Option(
            ["--port"],
            type=click.IntRange(0, 65535),
            default=8000,
            show_default=True,
            help="Port to serve at; 0 for any free port.",
        ),
    ]
