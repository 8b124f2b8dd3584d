"""Texts that a model was shown, and the reviews that they are, from requests and from the hits of searches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .._values import composed
from ..models import Hit, ItemId


def hit_ids(answer: Any) -> Iterator[tuple[str, ItemId]]:
    """Yield the texts and the ids of a search's hits, or of the hits of several searches."""
    for hit in answer:
        if isinstance(hit, Hit):
            yield composed(hit.content), hit.review_id
        elif isinstance(hit, Sequence) and not isinstance(hit, str):
            yield from ((composed(one.content), one.review_id) for one in hit if isinstance(one, Hit))


def shown_texts(inputs: Mapping[str, Any]) -> Iterator[tuple[str, int, object, str]]:
    """
    Yield the texts that a request shows to the model: part, position, id in the prompt, and content of each.

    They stand in `LLMRequest.inputs`: reviews in a list, perhaps all of one aspect, or in a
    list for each aspect, and the chunk of a document.
    """
    given, aspect = inputs.get("reviews"), inputs.get("aspect")
    of_all = aspect if isinstance(aspect, str) else ""
    parts = given.items() if isinstance(given, Mapping) else [(of_all, given)]
    for part, reviews in parts:
        if not isinstance(reviews, Sequence) or isinstance(reviews, str | bytes):
            continue
        for place, review in enumerate(reviews):
            if isinstance(review, Mapping) and isinstance(review.get("content"), str):
                kind = review.get("kind")
                name = part or (kind if isinstance(kind, str) else "")
                yield str(name), place, review.get("id"), review["content"]
    chunk = inputs.get("chunk")
    if isinstance(chunk, str):
        yield "chunk", 0, None, chunk
