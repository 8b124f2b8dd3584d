"""The command `view` in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Viewed:
    """A page that is served: the address, and the process."""

    address: str
    process: subprocess.Popen[str]


@contextmanager
def viewed(path: Path, *words: str) -> Iterator[Viewed]:
    """Serve the page of a record, and end the process at the end of the block."""
    command = [sys.executable, "-m", "restaurant_llm_batch", "view", str(path), "--no-browser", *words]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8", env=environment)
    assert process.stdout is not None
    try:
        said = ""
        while (found := re.search(r"http://\S+", said)) is None:
            line = process.stdout.readline()
            assert line, said
            said += line
        process.stdout.readline()  # "Ctrl-C ends it"
        yield Viewed(found.group(), process)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()
