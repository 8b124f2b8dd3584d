"""What names a backend in the keys of a store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

_NO_MATTER = frozenset(
    ("service_tier", "prompt_cache_key", "prompt_cache_retention", "user", "metadata", "priority")
)
"""What a request may carry that does not change its answer."""


def backend_fingerprint(kind: str, place: str | None, model: str | None, more: Mapping[str, Any]) -> str:
    """
    Return the identity of a backend: who answers, and with what sampling.

    Args:
        kind: The backend.
        place: The address or endpoint; None for the service's own.
        model: The model; None for that of the place.
        more: What goes along with every request. Only a hash of it is used: a user's own fields may be secret.
    """
    matters = {name: value for name, value in more.items() if name not in _NO_MATTER}
    text = json.dumps(matters, sort_keys=True, default=repr, ensure_ascii=True)
    sampling = blake2b(text.encode(), digest_size=8).hexdigest() if matters else ""
    return " ".join((kind, place or "", model or "", sampling)).rstrip()
