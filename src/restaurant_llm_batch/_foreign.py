"""
Foreign exceptions: what a library or an extension module raises, as an exception of this library.

pyo3, on which tokenizers, pydantic and qdrant-edge are built, turns a panic of Rust code into a ``PanicException``,
which derives from `BaseException`. It says that one call failed, so it ends that call's item and not the run.
"""

from __future__ import annotations

from .errors import PermanentBackendError

_MAX_TEXT = 300
_END_THE_RUN = (KeyboardInterrupt, SystemExit, GeneratorExit)
_CANCELLATIONS = frozenset({"CancelledError", "Cancelled"})
"""Names of the cancellations of asyncio, concurrent.futures and trio, which may not all be installed."""


def is_panic(error: BaseException) -> bool:
    """Return whether an exception is one of an extension module that `except Exception` does not catch."""
    if isinstance(error, (Exception, *_END_THE_RUN)):
        return False
    if isinstance(error, BaseExceptionGroup):
        return not any(isinstance(one, _END_THE_RUN) or _is_cancellation(one) for one in _leaves(error, 0))
    return not _is_cancellation(error)


def own_exception(error: BaseException, where: str) -> Exception | None:
    """
    Return the exception that stands for a panic; None if `error` is no panic and has to pass.

    Args:
        error: What was raised.
        where: What raised it, for the message.
    """
    if not is_panic(error):
        return None
    own = PermanentBackendError(f"{where} failed inside an extension module: {describe(error)}")
    own.__cause__ = error
    return own


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first exception of a group that is not a group, one that is no error first."""
    found = _leaves(group, 0)
    return next((error for error in found if not isinstance(error, Exception)), found[0])


def describe(error: BaseException) -> str:
    """Return the type and the message of an exception; never raises, and is never long."""
    try:
        text = " ".join(str(error)[:4000].split())[:_MAX_TEXT]
    except Exception:  # such as the repr of something that is nested too deeply
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _is_cancellation(error: BaseException) -> bool:
    return any(base.__name__ in _CANCELLATIONS for base in type(error).__mro__)


def _leaves(group: BaseException, depth: int) -> list[BaseException]:
    if not isinstance(group, BaseExceptionGroup) or depth > 20:
        return [group]
    return [leaf for one in group.exceptions for leaf in _leaves(one, depth + 1)]
