"""
How true batches are to their token budget, for each way to count tokens.

    TIKTOKEN_CACHE_DIR=vocabularies python benchmarks/batches.py sentiment_ko.jsonl items_ko.jsonl

Each file has a review on each line (`content`), or a restaurant with its `reviews`; the latter are packed
once as one stream, and once restaurant by restaurant. A batch is rendered as lines and counted whole with the
exact tokenizer: that is what "over" and "fill" are about. The fill leaves out the last batch of a stream,
which has whatever is left. `--most` is large, so that the budget is what ends a batch: at the library's usual
100, a batch of short reviews is full before its budget is. All is done with the reviews in `--orders` orders,
of which the first is the file's, so that there are enough batches to speak of one in a hundred.

"learning" packs a batch, tells the counter what the server would have reported for it (with 14 tokens of chat
template), packs the next, and so on; the first `--replies` batches of a stream are left out of its figures.
"chars / 3.5" is what the source service did.

Needs `pip install tiktoken`. tiktoken fetches its two vocabularies, unless TIKTOKEN_CACHE_DIR names a folder
that has them. Where there is no way to them, they are in a wheel: `pip download --no-deps litellm`, unpack it,
and name its folder litellm/litellm_core_utils/tokenizers.
"""

from __future__ import annotations

import argparse
import json
import random
import timeit
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from restaurant_llm_batch.tokens.counting import CalibratedCounter
from restaurant_llm_batch.tokens.packing import PackedText, estimate_tokens, pack_texts
from restaurant_llm_batch.tokens.tokenizers import TiktokenCounter

Count: TypeAlias = Callable[[str], int]
ENCODINGS = ("cl100k_base", "o200k_base")
TEMPLATE = 14


@dataclass(frozen=True, slots=True)
class Batches:
    """The exact tokens and the sizes of batches; those of a stream's end are only in `tokens`."""

    tokens: Sequence[int]
    full: Sequence[int]
    sizes: Sequence[int]


def by_chars(text: str) -> int:
    """Count as the source service does."""
    return max(int(len(text) / 3.5), 1)


def line(text: str) -> str:
    """Render a review as a line of a prompt."""
    return text + "\n"


def whole(batch: Sequence[PackedText], exact: Count) -> int:
    """Count a batch as the model reads it."""
    return exact("".join(line(one.text) for one in batch))


def packed(streams: Sequence[Sequence[str]], budget: int, most: int, count: Count, exact: Count) -> Batches:
    """Pack each stream by itself."""
    tokens: list[int] = []
    full: list[int] = []
    sizes: list[int] = []
    for stream in streams:
        batches = pack_texts(stream, budget, max_texts=most, count=count, render=line)
        own = [whole(batch, exact) for batch in batches]
        tokens += own
        full += own[:-1]
        sizes += map(len, batches)
    return Batches(tokens, full, sizes)


def learning(
    streams: Sequence[Sequence[str]], budget: int, most: int, replies: int, exact: Count
) -> tuple[Batches, CalibratedCounter]:
    """Pack all streams one batch at a time, telling the counter of each; leave the first ones out."""
    counter = CalibratedCounter()
    tokens: list[int] = []
    full: list[int] = []
    sizes: list[int] = []
    for stream in streams:
        start = 0
        while start < len(stream):
            ahead = stream[start : start + budget // 8]
            (batch, *more) = pack_texts(ahead, budget, max_texts=most, count=counter, render=line)
            found = whole(batch, exact)
            counter.observe("".join(line(one.text) for one in batch), found + TEMPLATE)
            start += len(batch)
            tokens.append(found)
            sizes.append(len(batch))
            if more and len(tokens) > replies:
                full.append(found)
    return Batches(tokens[replies:], full, sizes[replies:]), counter


def row(name: Sequence[str], batches: Batches, budget: int, micros: float) -> str:
    """Render a row of the table."""
    if not batches.tokens:
        return "| " + " | ".join((*name, "0", *"-----")) + " |"
    over = sum(tokens > budget for tokens in batches.tokens) / len(batches.tokens)
    worst = max(batches.tokens) / budget - 1
    fill = f"{sum(batches.full) / len(batches.full) / budget:.1%}" if batches.full else "-"
    figures = (
        f"{len(batches.tokens)}",
        f"{over:.1%}",
        f"{worst:+.1%}" if worst > 0 else "-",
        fill,
        f"{max(batches.sizes)}",
        f"{micros:.1f}",
    )
    return "| " + " | ".join((*name, *figures)) + " |"


def micros(count: Count, texts: Sequence[str]) -> float:
    """Time a counter, in microseconds for each review."""
    some = texts[:300]
    return 1e6 * min(timeit.repeat(lambda: [count(text) for text in some], number=1, repeat=20)) / len(some)


def orders(streams: Sequence[Sequence[str]], number: int) -> list[Sequence[str]]:
    """Return the streams as they are, and shuffled, so that there are more batches to judge by."""
    return [
        random.Random(each).sample(stream, len(stream)) if each else stream
        for each in range(number)
        for stream in streams
    ]


def read(path: Path) -> Iterator[tuple[str, list[list[str]]]]:
    """Return the streams of a file, by name."""
    rows: list[dict[str, Any]] = [json.loads(text) for text in path.read_text("utf-8").splitlines()]
    groups = [[review["content"] for review in row["reviews"]] for row in rows if "reviews" in row]
    yield path.stem, [[one for group in groups for one in group] or [row["content"] for row in rows]]
    if groups:
        yield f"{path.stem}, each", groups


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--budget", type=int, nargs="+", default=[4000, 1000])
    parser.add_argument("--most", type=int, default=100_000)
    parser.add_argument("--orders", type=int, default=5)
    parser.add_argument("--replies", type=int, default=10)
    options = parser.parse_args()
    print("| data | budget | tokenizer | counter | batches | over | worst | fill | largest | µs |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for path in options.files:
        for name, given in read(path):
            streams = orders(given, options.orders)
            for encoding in ENCODINGS:
                exact = TiktokenCounter(encoding)
                counters: dict[str, Count] = {
                    "exact": exact,
                    "estimate": estimate_tokens,
                    "chars / 3.5": by_chars,
                }
                for budget in options.budget:
                    where = (name, str(budget), encoding.removesuffix("_base"))
                    for counter, count in counters.items():
                        made = packed(streams, budget, options.most, count, exact)
                        print(row((*where, counter), made, budget, micros(count, streams[0])))
                    made, taught = learning(streams, budget, options.most, options.replies, exact)
                    print(row((*where, "learning"), made, budget, micros(taught, streams[0])), flush=True)


if __name__ == "__main__":
    main()
