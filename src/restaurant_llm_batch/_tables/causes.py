"""Causes of failures: messages that differ in numbers, ids and quoted texts only say the same."""

from __future__ import annotations

import re

_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|‘[^’]*’|“[^”]*”")
_MARKED = re.compile(r"\b(?=[0-9a-f-]*\d)[0-9a-f]{8,}(?:-[0-9a-f]+)*\b", re.IGNORECASE)
"""Ids as UUIDs and hashes are."""
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")


def without_details(message: str) -> str:
    """Return a message with ``'...'`` in place of quoted texts, and ``N`` in place of ids and numbers."""
    return _NUMBER.sub("N", _MARKED.sub("N", _QUOTED.sub("'...'", message)))
