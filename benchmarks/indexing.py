"""
Indexing speed: reviews per second of CPU time, and what its stages cost, over Korean reviews.

    python benchmarks/indexing.py --data reviews.jsonl [--rounds 5]

Each line of the file holds a review in ``content``; without a file, the reviews of `HELD_OUT` are repeated.

To compare two versions, run the script by turns with each on ``PYTHONPATH``, and take the median of the ratios:

    for i in 1 2 3 4 5; do
        PYTHONPATH=old/src python benchmarks/indexing.py; PYTHONPATH=src python benchmarks/indexing.py
    done
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

from restaurant_llm_batch.search import EmbeddedSearch
from restaurant_llm_batch.search.embedders import HashingEmbedder

HELD_OUT = Path(__file__).parent / "data" / "aspects_heldout.jsonl"
RESTAURANTS = 300


def index(texts: list[str]) -> float:
    """Return reviews per second of CPU time, with an embedder that has seen no review yet."""
    search = EmbeddedSearch(embedder=HashingEmbedder())
    search.index_reviews([{"restaurant_id": 0, "id": 0, "content": "준비"}])
    rows = [{"restaurant_id": i % RESTAURANTS, "id": i, "content": text} for i, text in enumerate(texts)]
    began = time.process_time()
    search.index_reviews(rows)
    return len(texts) / (time.process_time() - began)


def embed(texts: list[str]) -> float:
    """Return reviews per second of CPU time for the embedder alone."""
    embedder = HashingEmbedder()
    began = time.process_time()
    for start in range(0, len(texts), 256):
        embedder.embed_documents(texts[start : start + 256])
    return len(texts) / (time.process_time() - began)


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=HELD_OUT)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    texts = [json.loads(line)["content"] for line in options.data.read_text(encoding="utf-8").splitlines()]
    for name, measure in (("index_reviews", index), ("embedder alone", embed)):
        rates = [measure(texts) for _ in range(options.rounds)]
        print(f"{name:16} {statistics.median(rates):9,.0f} reviews/s of CPU ({len(texts):,} reviews)")


if __name__ == "__main__":
    main()
