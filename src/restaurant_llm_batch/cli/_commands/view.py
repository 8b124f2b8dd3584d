"""Command `view`: a page on this machine that shows the runs of a record."""

from __future__ import annotations

import os
import secrets
import sys
import threading
import webbrowser
from contextlib import suppress
from pathlib import Path

import click

from ..._text import terminal_text
from ...errors import ConfigurationError
from ...records import Record, open_record
from .._listening import bind
from .._signals import terminated_like_interrupted

_HELP = """
Show the runs of a record in a browser.

FILE is what --record, or BatchRunner(record=...), writes or has written. A run that goes on is shown as it goes on.

The page is served on this machine only, under an address with a secret token in it, and loads nothing from a network.
On a machine without a screen, forward the port: ssh -L 8000:127.0.0.1:8000 HOST, with --port 8000. Ctrl-C ends it.
"""


def command() -> click.Command:
    """Build the command."""
    return click.Command(
        "view",
        params=[
            click.Argument(["file"], type=click.Path(path_type=Path)),
            click.Option(
                ["--port"],
                type=click.IntRange(0, 65535),
                default=0,
                help="Port; 0 for a free one.",
                show_default=True,
            ),
            click.Option(
                ["--run"],
                type=click.IntRange(1),
                help="Number of the run to show first; the latest by default.",
            ),
            click.Option(["--browser/--no-browser"], default=True, help="Open a browser.", show_default=True),
        ],
        callback=_main,
        help=_HELP,
    )


def _main(file: Path, port: int, run: int | None, browser: bool) -> None:
    record = open_record(file)
    if run is not None:
        record.run(run)
    serve_page(record, port, run, browser)
    click.echo("stopped")


def serve_page(record: Record, port: int, run: int | None, browser: bool) -> None:
    """
    Serve the page of a record until Ctrl-C or SIGTERM.

    Raises:
        ConfigurationError: FastAPI or uvicorn is not installed, or the port is taken.
    """
    try:
        import uvicorn

        from ...integrations._page_server import page_app
        from ...records._page.data import RecordData
    except ImportError as error:
        raise ConfigurationError(
            f"view needs the package {error.name}: pip install 'restaurant-llm-batch[fastapi]'"
        ) from error
    token = secrets.token_urlsafe(24)
    with terminated_like_interrupted(), bind("127.0.0.1", port, "--port") as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/{token}/"
        app = page_app(RecordData(record.path), token, run)
        # Connections of the browser stay open; they must not delay the end.
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            ws="none",
            lifespan="off",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
        )
        click.echo(f"showing {terminal_text(str(record.path))}\n  {address}\n  Ctrl-C ends it")
        sys.stdout.flush()
        if browser and _has_screen():
            listener.listen()
            threading.Thread(target=_open, args=[address], daemon=True).start()
        # uvicorn raises the signal again after a graceful shutdown.
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def _has_screen() -> bool:
    """Return whether a browser can be shown; without a screen, a browser of the terminal would take it over."""
    if sys.platform in ("win32", "darwin"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))


def _open(address: str) -> None:
    with suppress(Exception):  # the address is printed
        webbrowser.open(address)
