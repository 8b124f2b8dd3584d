"""How long a wave waits for the service of a provider's batches, and how often it asks."""

from __future__ import annotations

from collections.abc import Iterator

FIRST_LOOK, GROWTH, LONGEST = 1.0, 1.5, 60.0
"""Seconds until a batch is first looked at, how much longer each wait is than the one before, and the longest."""
SLICE = 200
"""Lines that are handed out, or written down, before other flows go on."""
MAX_TRIES = 10
"""Requests that may be made again, at a later wave, if all of them fail in passing ways."""
LONG_TRIES = 70
"""Requests of which money depends, about an hour of them: whether a batch was made, and what it has answered."""
FILE_TRIES = 16
"""Requests for a file that the service does not find, over some eight minutes."""
MISSED_LOOKS = 4
"""Looks in a row that do not find a batch, after which it has vanished; or that find it without its files."""
QUOTA_WAIT, MAX_QUOTA_WAIT, MAX_REFUSALS = 60.0, 900.0, 20
"""Seconds until a wave is sent again that the service had no room for; the longest; and how often in a row."""
GROW_AFTER = 4
"""Waves in a row that the service has had room for, after which it is sent twice as much as it was thought to take."""
CANCEL_WAIT = 900.0
"""Seconds until a batch that was cancelled is given up: the service says that it takes ten minutes at most."""
FOREIGN_WAIT, LOOK_AGAIN = 1800.0, 2.0
"""
Seconds for which another process is waited for that may still create its batch, as long as an upload may take; and
until an unknown batch is looked for again.
"""


def waits() -> Iterator[float]:
    """Yield the seconds to wait before each further look or try."""
    wait = FIRST_LOOK
    while True:
        yield wait
        wait = min(LONGEST, GROWTH * wait)
