"""Raises an exception at one line after the other that a thread executes, as a Ctrl-C may."""

from __future__ import annotations

import dis
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import CodeType, FrameType
from typing import Any, TypeAlias

FOLDERS = (
    "/restaurant_llm_batch/_engine/",
    "/restaurant_llm_batch/_limits/",
    "/restaurant_llm_batch/_store/",
    "/restaurant_llm_batch/_runner/runner.py",
    "/restaurant_llm_batch/_threads.py",
    "/threading.py",
)
"""The engine, and what Python has for threads."""

Trace: TypeAlias = Callable[..., Any]


@cache
def without_signals(code: CodeType) -> frozenset[int]:
    """
    Return the offsets of lines at which no signal handler is called, but a trace function is.

    One is where a `with` statement is left: CPython reports its line once more, and an exception raised there would
    keep `__exit__` from being called. The other is a `try:`, which does nothing, and which no handler around it covers
    (CPython 3.11).
    """
    found: set[int] = set()
    steps = [step for step in dis.get_instructions(code) if step.opname != "CACHE"]
    for index, step in enumerate(steps):
        names = [following.opname for following in steps[index : index + 6]]
        values = [following.argval for following in steps[index : index + 6]]
        for start in (0, 1, 2):
            if names[start : start + 3] == ["LOAD_CONST"] * 3 and values[start : start + 3] == [None] * 3:
                found.add(step.offset)
        if names[:2] == ["PUSH_EXC_INFO", "WITH_EXCEPT_START"] or step.opname == "NOP":
            found.add(step.offset)
    return frozenset(found)


class Raiser:
    """Raises an exception in this thread at the line with a number, of code in some folders, from 1; 0 for never."""

    def __init__(self, at: int, kind: type[BaseException], folders: Sequence[str] = FOLDERS) -> None:
        self.lines = 0
        self.folders = folders
        self.at = at
        self.kind = kind
        self.place = ""

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Trace | None:
        caller: FrameType | None = frame
        while caller is not None and caller.f_code.co_filename == threading.__file__:
            caller = caller.f_back  # other libraries start threads, too
        own = caller is not None and any(folder in caller.f_code.co_filename for folder in self.folders)
        return (
            self._line if own and any(folder in frame.f_code.co_filename for folder in self.folders) else None
        )

    def _line(self, frame: FrameType, event: str, arg: Any) -> Trace:
        if event == "line" and frame.f_lasti not in without_signals(frame.f_code):
            self.lines += 1
            if self.lines == self.at:
                self.place = f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}"
                raise self.kind
        return self._line

    @contextmanager
    def armed(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            yield
        finally:
            sys.settrace(before)
