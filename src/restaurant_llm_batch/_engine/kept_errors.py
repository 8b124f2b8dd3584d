"""
Kept errors: what failures keep of errors when their items have ended; equal errors are kept once.

While a service is down, a million items may fail alike. Each error takes half a kilobyte: so failures whose errors do
not differ in anything that can be seen share one. That is the type, the arguments, the attributes, the notes, the
causes and the place where the error was raised. An error with an attribute that is not a plain value is kept as it is,
except that its causes are shared.
"""

from __future__ import annotations

import marshal
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any, TypeVar

from .tracebacks import SharedTracebacks

MAX_KEPT = 256
"""Most errors that are remembered, to share them."""

MAX_CAUSES = 8
"""Most causes of causes that are looked at."""

_NO_STATE = frozenset({BaseException, Exception, object})

E = TypeVar("E", bound=BaseException)


class KeptErrors:
    """The errors that the failures of one run keep."""

    def __init__(self) -> None:
        self._tracebacks = SharedTracebacks()
        self._kept: dict[Any, BaseException] = {}
        self._fields: dict[type, tuple[str, ...]] = {}

    def keep(self, error: E) -> E:
        """Remove the locals from an error's traceback, and return it, or an equal error that was kept before."""
        self._tracebacks.strip(error)
        return self._shared(error, 0)

    def _shared(self, error: E, depth: int) -> E:
        cause, context = error.__cause__, error.__context__
        if (cause is not None or context is not None) and depth < MAX_CAUSES:
            suppressed = error.__suppress_context__
            error.__cause__ = None if cause is None else self._shared(cause, depth + 1)
            error.__context__ = None if context is None else self._shared(context, depth + 1)
            error.__suppress_context__ = suppressed  # which setting a cause has changed
        key = self._key(error)
        if key is None:
            return error
        kept = self._kept.get(key)
        if kept is not None and self._key(kept) == key:  # otherwise an observer has added a note to it
            return kept  # type: ignore[return-value]  # the type is part of the key
        if len(self._kept) >= MAX_KEPT:
            self._kept.clear()
            self._fields.clear()
        self._kept[key] = error
        return error

    def _key(self, error: BaseException) -> Any:
        """Return what equal errors have in common; None if an error has a value that is not plain."""
        kind = type(error)
        fields = self._fields.get(kind)
        if fields is None:
            fields = self._fields[kind] = _fields_of(kind)
        # The type, arguments and attributes; this does not make an empty `__dict__`.
        reduced: Any = BaseException.__reduce__(error)
        try:
            # Takes plain values only, and tells 1 from 1.0 and True. Version 2 does not depend on reference counts.
            plain = marshal.dumps((reduced[1:], [getattr(error, name, None) for name in fields]), 2)
        except ValueError:
            return None
        return (
            kind,
            plain,
            id(error.__cause__),  # causes and tracebacks are shared already
            id(error.__context__),
            error.__suppress_context__,
            id(error.__traceback__),
        )


def _fields_of(kind: type) -> tuple[str, ...]:
    """Return the attributes that an error of a type does not keep in its `__dict__`, such as `OSError.filename`."""
    return tuple(
        name
        for base in kind.__mro__
        if base not in _NO_STATE
        for name, found in vars(base).items()
        if isinstance(found, (GetSetDescriptorType, MemberDescriptorType))
        and name not in ("__dict__", "__weakref__")
    )
