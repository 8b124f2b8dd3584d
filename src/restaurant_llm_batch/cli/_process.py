"""A process that the command line has to itself: its standard streams and its log."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from io import TextIOWrapper


def prepare_process() -> None:
    """Have text that a stream cannot encode replaced, and the library's warnings shown."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal or pipe that cannot encode Korean gets question marks; an encoding error would end the run.
        if isinstance(stream, TextIOWrapper):
            with suppress(OSError, ValueError):
                stream.reconfigure(errors="replace")
    if logging.lastResort is not None:  # the library only logs to its user's handlers; here it is the user
        logging.getLogger("restaurant_llm_batch").addHandler(logging.lastResort)
