"""Numbers of hypothesis examples, by profile."""

from __future__ import annotations

from hypothesis import settings


def examples(count: int) -> int:
    """Return the number of examples to try: `count` in the slow profile, a tenth of it by default."""
    return max(2, count * settings().max_examples // 100)
