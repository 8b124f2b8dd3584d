"""
Hand-out of items to processes: a state machine that knows which process has which items, and never waits.

Theory of operation. The waiting items are handed out in order, a few to each process, so that a slow item holds up no
other. How many a process may hold shrinks as the waiting items get fewer (guided self-scheduling), down to what keeps
it busy: so all processes end at about the same time.

If a process dies, any of its items may be why. Each becomes a *suspect*, and is handed out again alone, to a process
that holds nothing else and gets nothing else meanwhile. A suspect whose process dies too is the cause, and is given up;
all others succeed.

| an item is | it becomes |
|---|---|
| waiting | held, when a process takes it |
| held | ended, or a suspect if the process dies |
| a suspect | held alone, when a process without items takes it |
| held alone | ended, or given up if the process dies |
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from math import ceil


class HandOut:
    """
    Which process has which items.

    Args:
        items: The items, in the order in which they are handed out; each is a number of its own.
        processes: How many processes there are.
        most: Most items that a process holds.
        least: How many items keep a process busy.
    """

    def __init__(self, items: Iterable[int], processes: int, most: int, least: int) -> None:
        self._waiting = deque(items)
        self._suspects: deque[int] = deque()
        self._processes = processes
        self._most = max(1, most)
        self._least = max(1, min(least, self._most))
        self._held: dict[int, dict[int, None]] = {}
        self._alone: set[int] = set()  # processes that hold a suspect

    @property
    def left(self) -> int:
        """Number of items that no process holds and that have not ended."""
        return len(self._waiting) + len(self._suspects)

    @property
    def done(self) -> bool:
        """Whether all items have ended, or were given up."""
        return not self.left and not any(self._held.values())

    def held(self, process: int) -> list[int]:
        """Return the items that a process holds."""
        return list(self._held.get(process, ()))

    def take(self, process: int) -> list[int]:
        """Return the items that a process gets now; it holds them until they have ended."""
        held = self._held.setdefault(process, {})
        if held and process in self._alone:
            return []
        self._alone.discard(process)
        if self._suspects and not held:
            self._alone.add(process)
            taken = [self._suspects.popleft()]
        else:
            target = ceil(len(self._waiting) / (2 * self._processes))
            target = max(self._least, min(self._most, target))
            room = target - len(held)
            if room < max(1, target // 4):  # several at a time, so that there are few messages
                return []
            taken = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
        held.update(dict.fromkeys(taken))
        return taken

    def ended(self, process: int, item: int) -> bool:
        """Record that an item has an outcome; return whether the process held it."""
        return self._held.get(process, {}).pop(item, item) is None

    def lost(self, process: int) -> list[int]:
        """Record that a process died, and return the item that is given up, if there is one."""
        held = list(self._held.pop(process, ()))
        if process in self._alone:
            self._alone.discard(process)
            return held
        self._suspects.extend(held)
        return []
