"""Reviews in one line each, and an embedder whose vectors are written by hand."""

from __future__ import annotations

from collections.abc import Sequence

from restaurant_llm_batch.models import ItemId, Review
from restaurant_llm_batch.protocols import Embedding, SparseVector


def review(restaurant_id: ItemId, review_id: ItemId | None, content: str) -> Review:
    """Return a review."""
    return Review(content, review_id, restaurant_id)


class FlatEmbedder:
    """Vectors written by hand: a text is its dense direction, then its sparse terms."""

    name = "flat"
    size = 2

    def embed_documents(self, texts: Sequence[str], /) -> list[Embedding]:
        """Read ``"x y | term term"``."""
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str, /) -> Embedding:
        """Read ``"x y | term term"``."""
        dense, _, terms = text.partition("|")
        indices = [int(term) for term in terms.split()]
        sparse = SparseVector(indices, [1.0] * len(indices))
        return Embedding([float(x) for x in dense.split()], sparse)
