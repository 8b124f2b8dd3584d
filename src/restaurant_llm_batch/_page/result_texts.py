"""Texts of a result that a model may have written, each with the citations beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

_NOT_TEXTS = frozenset(
    {
        *("model", "status", "overall_status", "error", "overall_error", "dropped", "kind", "pos", "snippet"),
        *("review_id", "restaurant_id", "document_id", "id"),
        *("target_reviews", "comparison_reviews", "failed_reviews"),
    }
)
"""Fields of results that are no words of a model."""


def result_texts(
    value: Any, path: str = "", cited: Sequence[Any] = ()
) -> Iterator[tuple[str, str, Sequence[Any]]]:
    """
    Yield the texts of a result: where each stands, the text, and its citations.

    Args:
        value: The result, as JSON is read.
        path: Where it stands itself.
        cited: The citations of what it is a part of.
    """
    if isinstance(value, str):
        if value.strip():
            yield path, value, cited
    elif isinstance(value, dict):
        evidence = value.get("evidence")
        cited = evidence if isinstance(evidence, list) else cited
        for name, part in value.items():
            if name not in _NOT_TEXTS and name != "evidence":
                yield from result_texts(part, f"{path}.{name}" if path else name, cited)
    elif isinstance(value, list):
        for place, part in enumerate(value):
            yield from result_texts(part, f"{path}[{place}]", cited)
