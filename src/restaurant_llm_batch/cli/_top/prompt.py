"""Prompt line of `top`: what is typed, and the keys of a terminal while the display is drawn."""

from __future__ import annotations

import codecs
import os
import re
import select
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

from ...errors import ConfigurationError

HELP = "set llm=16 changes a limit · q quits"
_ASSIGNMENT = re.compile(r"\s*=\s*")
_ESCAPE = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|O.|.)?")
"""What keys such as the arrows send."""
_MOST = 200
"""Most characters of a line."""


class Setting(NamedTuple):
    """A limit that is to be set, as it was typed."""

    name: str
    value: str


def parse_settings(words: Sequence[str]) -> list[Setting]:
    """
    Return the settings of a command, "set NAME=NUMBER", of which there may be several.

    Raises:
        ConfigurationError: It is another command, or something else stands there.
    """
    line = " ".join(words).split(maxsplit=1)
    if line[:1] != ["set"]:
        raise ConfigurationError(f"there is no command {' '.join(line)[:80]!r}; for example: set llm=16")
    found: list[Setting] = []
    for setting in _ASSIGNMENT.sub("=", "".join(line[1:])).replace(",", " ").split():
        name, sign, value = setting.partition("=")
        if not (name and sign and value):
            raise ConfigurationError(f"set takes NAME=NUMBER, got {setting[:80]!r}; for example: set llm=16")
        found.append(Setting(name, value))
    if not found:
        raise ConfigurationError("set needs a limit and a number; for example: set llm=16")
    return found


class PromptLine:
    """
    A line that is typed key by key.

    Attributes:
        text: What has been typed.
    """

    def __init__(self) -> None:
        self.text = ""

    def type(self, keys: str) -> Iterator[str]:
        """Add keys, and yield the lines that they complete; "q" as the first key of a line completes it."""
        for key in _ESCAPE.sub("", keys):
            if key in "\r\n":
                line, self.text = self.text.strip(), ""
                if line:
                    yield line
            elif key in "\x7f\b":
                self.text = self.text[:-1]
            elif key == "\x15":  # Ctrl-U
                self.text = ""
            elif (key == "\x04" and not self.text) or (key == "q" and not self.text):  # Ctrl-D
                yield "q"
            elif key.isprintable() and len(self.text) < _MOST:
                self.text += key


class Keys:
    """
    The keys that are pressed on a terminal.

    Args:
        descriptor: File descriptor of the terminal.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def read(self, seconds: float) -> str | None:
        """Return what is typed within so many seconds, "" if nothing is; None if the terminal is gone."""
        try:
            ready, _, _ = select.select([self._descriptor], [], [], seconds)
            if not ready:
                return ""
            data = os.read(self._descriptor, 1024)
        except (OSError, ValueError):
            return None
        return self._decoder.decode(data) if data else None

    @contextmanager
    def unbuffered(self) -> Iterator[None]:
        """Have the terminal pass on each key at once, and not show it, for a block."""
        import termios
        import tty

        before = termios.tcgetattr(self._descriptor)
        try:
            tty.setcbreak(self._descriptor)
            yield
        finally:
            with suppress(termios.error):
                termios.tcsetattr(self._descriptor, termios.TCSADRAIN, before)
