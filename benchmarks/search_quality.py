"""
How good the default search is: precision at 5 for every aspect, hybrid beside its two halves.

    python benchmarks/search_quality.py
    python benchmarks/search_quality.py --language ko

Rows are dealt into pseudo-restaurants of 40 by the hash of their text, one source at a time. The
query of an aspect is the text the library searches with: its first ten seed words. A hit is
relevant if its row carries the aspect's label, whatever the polarity. CEBaB has no price labels,
so price is asked only where it has them.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from restaurant_llm_batch.models import SearchQuery
from restaurant_llm_batch.protocols import Embedding, SparseVector
from restaurant_llm_batch.search.embedded.search import EmbeddedSearch
from restaurant_llm_batch.search.embedders.hashing import HashingEmbedder
from restaurant_llm_batch.tasks.aspects import SEEDS

GROUP, TOP = 40, 5
LABELS = {
    "cebab": ("food", "service", "ambience"),
    "mams-acsa": ("food", "service", "price", "ambience"),
}
HELD_OUT = Path(__file__).parent / "data" / "aspects_heldout.jsonl"


class DenseOnly(HashingEmbedder):
    """Queries without their sparse half."""

    def embed_query(self, text: str, /) -> Embedding:
        """Embed a query as a dense vector only."""
        return Embedding(super().embed_query(text).dense, SparseVector([], []))


class SparseOnly(HashingEmbedder):
    """Queries without their dense half."""

    def embed_query(self, text: str, /) -> Embedding:
        """Embed a query as a sparse vector only."""
        return Embedding([0.0] * self.size, super().embed_query(text).sparse)


@dataclass(frozen=True, slots=True)
class Group:
    """A pseudo-restaurant."""

    name: str
    source: str
    rows: Sequence[dict[str, Any]]

    def relevant(self, aspect: str) -> set[str]:
        """Return the ids of the rows labelled with an aspect."""
        return {r["id"] for r in self.rows if any(name == aspect for name, _ in r["aspects"])}


def groups_of(rows: Sequence[dict[str, Any]]) -> Iterator[Group]:
    """Deal rows into groups; the last rows of a source that fill no group are left out."""
    for source in LABELS:
        own = [row for row in rows if row["source"] == source]
        own.sort(key=lambda row: (zlib.crc32(row["content"].encode()), row["id"]))
        for start in range(0, len(own) - GROUP + 1, GROUP):
            yield Group(f"{source}-{start // GROUP}", source, own[start : start + GROUP])


def precision(search: EmbeddedSearch, groups: Sequence[Group], aspect: str, text: str) -> float:
    """Return the share of relevant rows among the first five hits, averaged over groups."""
    asked = [group for group in groups if aspect in LABELS[group.source]]
    answers = search.search_many([SearchQuery(group.name, text, limit=TOP) for group in asked])
    shares = [
        sum(hit.review_id in group.relevant(aspect) for hit in hits) / TOP
        for group, hits in zip(asked, answers, strict=True)
    ]
    return sum(shares) / len(shares)


def bounds(groups: Sequence[Group], aspect: str) -> tuple[float, float]:
    """Return the share of relevant rows, which is chance, and the best precision there can be."""
    counts = [len(g.relevant(aspect)) for g in groups if aspect in LABELS[g.source]]
    base = sum(count / GROUP for count in counts) / len(counts)
    return base, sum(min(TOP, count) / TOP for count in counts) / len(counts)


def index(embedder: HashingEmbedder, groups: Sequence[Group]) -> EmbeddedSearch:
    """Return a search over all groups."""
    search = EmbeddedSearch(embedder=embedder)
    search.index_reviews(
        {"restaurant_id": group.name, "id": row["id"], "content": row["content"]}
        for group in groups
        for row in group.rows
    )
    return search


def measure(groups: Sequence[Group], language: str) -> list[tuple[str, list[float]]]:
    """Return hybrid, dense, sparse, chance and best for every aspect."""
    searches = [index(make(), groups) for make in (HashingEmbedder, DenseOnly, SparseOnly)]
    table = []
    for aspect, seeds in SEEDS[language].items():
        text = " ".join(seeds[:10])
        found = [precision(search, groups, aspect, text) for search in searches]
        table.append((aspect, [*found, *bounds(groups, aspect)]))
    return table


def main() -> None:
    """Read the options, measure, print the table."""
    parser = argparse.ArgumentParser(description="Precision at 5 of the default search.")
    parser.add_argument("--data", type=Path, default=HELD_OUT, help="labelled rows, JSON lines")
    parser.add_argument("--language", choices=sorted(SEEDS), default="en", help="of the seed words")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.data.read_text(encoding="utf-8").splitlines()]
    groups = list(groups_of(rows))
    table = measure(groups, options.language)
    columns = zip(*(numbers for _, numbers in table), strict=True)
    table.append(("mean", [sum(column) / len(table) for column in columns]))
    print(f"{len(rows)} rows, {len(groups)} groups of {GROUP}, seed words: {options.language}\n")
    print("| aspect | hybrid | dense only | sparse only | chance | best possible |")
    print("|---|---|---|---|---|---|")
    for aspect, numbers in table:
        print(f"| {aspect} | " + " | ".join(f"{number:.3f}" for number in numbers) + " |")


if __name__ == "__main__":
    main()
