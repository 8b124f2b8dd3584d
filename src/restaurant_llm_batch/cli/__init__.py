"""Command-line interface: the entry point `main`; it needs the extra ``cli``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, and exit."""
    try:
        _run()
    except KeyboardInterrupt:  # while it is loaded; a command says itself what it has done
        sys.stderr.write("interrupted\n")
        sys.exit(130)


def _run() -> None:
    try:
        import click  # noqa: F401
        import rich  # noqa: F401
    except ImportError:
        sys.stderr.write(
            "The command line needs two more packages: pip install 'restaurant-llm-batch[cli]'\n"
        )
        sys.exit(2)
    from ._app import build
    from ._process import prepare_process

    prepare_process()
    build().main(prog_name="restaurant-llm-batch")
