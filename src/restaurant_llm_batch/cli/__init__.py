"""Command-line interface: the entry point `main`; it needs the extra ``cli``."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from io import TextIOWrapper


def main() -> None:
    """Run the command line, and exit."""
    try:
        import click  # noqa: F401
        import rich  # noqa: F401
    except ImportError:
        sys.stderr.write(
            "The command line needs two more packages: pip install 'restaurant-llm-batch[cli]'\n"
        )
        sys.exit(2)
    from ._app import build

    for stream in (sys.stdout, sys.stderr):
        # A terminal or pipe that cannot encode Korean gets question marks; an encoding error would end the run.
        if isinstance(stream, TextIOWrapper):
            with suppress(OSError, ValueError):
                stream.reconfigure(errors="replace")
    if logging.lastResort is not None:  # the library only logs to its user's handlers; here it is the user
        logging.getLogger("restaurant_llm_batch").addHandler(logging.lastResort)
    build().main(prog_name="restaurant-llm-batch")
