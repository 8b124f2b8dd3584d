"""
Threshold of CPython's garbage collector: raised while a runner is in use, and put back afterwards.

The collector runs each time that so many more objects were made than freed (700 by default), and looks at all young
ones; now and then at all there are. With a thousand calls in flight, it looks at the same living objects again and
again: up to a third of a run's time. The engine itself leaves no cycles behind, so it can be run less often.
"""

from __future__ import annotations

import gc

from ..errors import ConfigurationError


class GCThreshold:
    """
    A threshold for the garbage collector of this process.

    Args:
        threshold: The threshold; None to leave the collector as it is.

    Raises:
        ConfigurationError: If it is neither None nor a whole number of at least 1.
    """

    def __init__(self, threshold: int | None) -> None:
        given: object = threshold
        whole = isinstance(given, int) and not isinstance(given, bool) and 1 <= given < 2**31
        if given is not None and not whole:
            raise ConfigurationError(
                f"gc_threshold must be a whole number of at least 1, or None, got {given!r}; "
                "for example gc_threshold=50_000"
            )
        self._threshold = threshold
        self._found: tuple[int, int, int] | None = None
        self._set: tuple[int, int, int] | None = None

    def apply(self) -> None:
        """Raise the threshold, unless this has been done, it is higher already or the collector is off."""
        found = gc.get_threshold()
        if (
            self._found is None
            and self._threshold is not None
            and 0 < found[0] < self._threshold
            and gc.isenabled()
        ):
            self._found, self._set = found, (self._threshold, *found[1:])
            gc.set_threshold(*self._set)

    def restore(self) -> None:
        """Put back what `apply` found, unless other code has set another threshold since."""
        if self._found is not None and gc.get_threshold() == self._set:
            gc.set_threshold(*self._found)
        self._found = self._set = None
