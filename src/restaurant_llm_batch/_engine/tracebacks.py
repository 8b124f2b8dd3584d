"""
Tracebacks without locals: what a failure keeps when its item has ended.

A traceback refers to frames, and a frame to all of its locals, even after it has ended, and to the frames that called
it: the item, its request, its reply. Ten thousand failures would keep all of that. So the traceback of an error, and
those of its causes, are replaced by ones of empty frames: file, line and function are as before, for `traceback`,
loggers and debuggers, and the locals are gone. Failures at the same place share them.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import FrameType, FunctionType, TracebackType

MAX_KEPT = 1000
"""Most tracebacks that are shared, for failures at so many places."""

MAX_ERRORS = 100
"""Most causes and members of groups that are looked at; a traceback beyond that is dropped with all of them."""

_STRIPPED = "__restaurant_llm_batch_stripped__"
"""Marks the globals of empty frames."""

Place = tuple[str, str, int]


class SharedTracebacks:
    """Empty tracebacks, by the places that they show."""

    def __init__(self) -> None:
        self._shared: dict[tuple[Place, ...], TracebackType | None] = {}

    def strip(self, error: BaseException) -> None:
        """Replace the tracebacks of an exception, its causes and its members by ones without locals."""
        for found in _chain(error):
            if found.__traceback__ is not None:
                found.__traceback__ = self._without_locals(found.__traceback__)

    def _without_locals(self, traceback: TracebackType) -> TracebackType | None:
        entries = list(_entries(traceback))
        if not entries:
            return traceback
        codes = [(entry.tb_frame.f_code, entry.tb_lineno) for entry in entries]
        key = tuple((code.co_filename, code.co_qualname, line) for code, line in codes)
        if key not in self._shared:
            if len(self._shared) >= MAX_KEPT:
                self._shared.clear()
            made: TracebackType | None = None
            for entry in reversed(entries):
                made = TracebackType(made, _empty_frame(entry.tb_frame), -1, entry.tb_lineno)
            self._shared[key] = made
        return self._shared[key]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, its causes, contexts and members; cut off what is not shown, or is too much."""
    pending, seen = [error], {id(error)}
    while pending:
        found = pending.pop()
        yield found
        if found.__suppress_context__:
            found.__context__ = None  # hidden by the cause, or by `from None`
        related = [found.__cause__, found.__context__]
        if isinstance(found, BaseExceptionGroup):
            related += found.exceptions
        for other in related:
            if other is None or id(other) in seen:
                continue
            if len(seen) >= MAX_ERRORS:
                found.__cause__ = found.__context__ = None
                break
            seen.add(id(other))
            pending.append(other)


def _entries(traceback: TracebackType) -> Iterator[TracebackType]:
    """Yield the entries of a traceback, but none of an earlier item, if a backend raises one instance for many."""
    entry: TracebackType | None = traceback
    while entry is not None and _STRIPPED not in entry.tb_frame.f_globals:
        yield entry
        entry = entry.tb_next


def _empty_frame(frame: FrameType) -> FrameType:
    """Return a frame of the same function, by name, file and module, without locals and without a caller."""
    shown = frame.f_code
    code = _nothing.__code__.replace(
        co_filename=shown.co_filename,
        co_name=shown.co_name,
        co_qualname=shown.co_qualname,
        co_firstlineno=shown.co_firstlineno,
    )
    # The frame of a generator that has not started has no caller.
    empty: FrameType = FunctionType(
        code, {"__name__": frame.f_globals.get("__name__"), _STRIPPED: True}
    )().gi_frame
    return empty


def _nothing() -> Iterator[None]:
    yield
