"""Backend fingerprints: cache keys for the store, from service, model and sampling parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

_IGNORED_FIELDS = frozenset(
    ("service_tier", "prompt_cache_key", "prompt_cache_retention", "user", "metadata", "priority")
)
"""Request fields that do not change the reply."""


def backend_fingerprint(
    backend: str, address: str | None, model: str | None, extra_body: Mapping[str, Any]
) -> str:
    """
    Return a backend's fingerprint: two backends with equal fingerprints may share cached replies.

    Args:
        backend: The backend's name.
        address: Its base URL or endpoint id; None for the service's default.
        model: The model; None for the address's default model.
        extra_body: Fields sent with every request. Only their hash is used, since users' fields may be secret.
    """
    relevant = {name: value for name, value in extra_body.items() if name not in _IGNORED_FIELDS}
    text = json.dumps(relevant, sort_keys=True, default=repr, ensure_ascii=True)
    sampling = blake2b(text.encode(), digest_size=8).hexdigest() if relevant else ""
    return " ".join((backend, address or "", model or "", sampling)).rstrip()
