"""The rows that the offline sentiment classifier learns from and is measured on: their labels, their split."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32


class Row(NamedTuple):
    """A review or sentence that praises or complains."""

    id: str
    text: str
    positive: bool
    source: str
    part: str


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def deal(number: int, test: int, validation: int) -> str:
    """Name the part that a hash falls into: every so many-th row goes to the test."""
    if number % test == 0:
        return "test"
    return "validation" if number // test % validation == 0 else "train"


def korean(data: Path) -> Iterator[Row]:
    """Read NSMC; of the grouped reviews those rated as NSMC's own labels are: up to 4, and from 9 on."""
    rows = [
        (r["id"], r["content"], r["label"] == "positive", "nsmc")
        for r in lines_of(data / "sentiment_ko.jsonl")
    ]
    rows += [
        (f"nsmc-item:{review['review_id']}", review["content"], review["rating"] >= 9, "nsmc-items")
        for item in lines_of(data / "items_ko.jsonl")
        for review in item["reviews"]
        if review["rating"] <= 4 or review["rating"] >= 9
    ]
    seen = set()
    for id_, text, positive, source in rows:
        if text not in seen:
            seen.add(text)
            yield Row(id_, text, positive, source, deal(crc32(_letters(text).encode()), 10, 9))
    yield from written("ko")


def _letters(text: str) -> str:
    """Return what nearly equal texts have in common, so that they fall into one part."""
    return re.sub(r"(.)\1+", r"\1", re.sub(r"[\W_]+", "", text.lower())) or text


def english(data: Path) -> Iterator[Row]:
    """
    Read CEBaB and MAMS; the test part is the one that benchmarks/data holds out too.

    A CEBaB review is labelled by its stars, 4 and 5 or 1 and 2; without these by its aspects, where
    all agree. So is a MAMS sentence, neutral aspects left aside.
    """
    texts, stars, aspects = {}, {}, {}
    for restaurant in lines_of(data / "restaurants_en.jsonl"):
        for review in restaurant["reviews"]:
            id_ = f"cebab:{review['review_id']}"
            texts[id_], stars[id_] = review["content"], review.get("rating")
            aspects[id_] = set(review["aspects"].values())
    for row in lines_of(data / "aspects_en.jsonl"):
        texts[row["id"]] = row["content"]
        aspects[row["id"]] = {polarity for _, polarity in row["aspects"]} - {"neutral"}
    for id_, text in texts.items():
        rating = stars.get(id_)
        part = deal(crc32(id_.encode()), 5, 8)
        if rating and rating != 3:
            yield Row(id_, text, rating > 3, "cebab", part)
        elif len(aspects[id_]) == 1:
            source = "mams" if id_.startswith("mams") else "cebab-aspects"
            yield Row(id_, text, "positive" in aspects[id_], source, part)
    yield from written("en")


def written(language: str) -> Iterator[Row]:
    """Read the remarks that were written for this; none of them is in the test or validation part."""
    path = Path(__file__).with_name(f"sentiment_{language}_written.tsv")
    for at, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        sign, *told = line.split("\t")
        if sign not in ("+", "-"):
            continue
        source = f"{'conjugated' if len(told) > 1 else 'written'}-{language}"
        forms = conjugated(*told) if len(told) > 1 else [(told[0], False)]
        for number, (text, denied) in enumerate(forms):
            yield Row(f"{source}:{at}-{number}", text, (sign == "+") != denied, source, "train")


def conjugated(phrase: str, infinitive: str) -> Iterator[tuple[str, bool]]:
    """
    Put a Korean remark in its other forms.

    Args:
        phrase: The remark, its last word in the dictionary form (음식이 짜다).
        infinitive: The last word's form in 아 or 어 (짜).

    Yields:
        A form, and whether it denies the remark.
    """
    stem = phrase[:-1]
    before, _, bare = stem.rpartition(" ")
    start = f"{before} " if before else ""
    spoken = start + infinitive
    past = spoken[:-1] + _closed(spoken[-1], "ㅆ")
    formal = stem + "습니다" if _is_closed(stem[-1]) else stem[:-1] + _closed(stem[-1], "ㅂ") + "니다"
    said = [
        spoken + "요",
        f"{start}정말 {infinitive}요",
        f"{start}너무 {infinitive}요",
        spoken + "서",
        formal,
    ]
    said += [past + ending for ending in ("어요", "습니다", "음", "는데")]
    said += [stem + ending for ending in ("네요", "고", "더라구요")]
    if start and len(bare) > 1:
        said += [infinitive + "요", past[len(start) :] + "어요", bare + "네요"]
    denied = [
        f"{start}안 {infinitive}요",
        stem + "지 않아요",
        stem + "지 않았어요",
        f"{start}전혀 {bare}지 않아요",
    ]
    for form in said:
        yield form, False
    for form in denied:
        yield form, True


def _is_closed(syllable: str) -> bool:
    return (ord(syllable) - ord("가")) % 28 > 0


def _closed(syllable: str, consonant: str) -> str:
    return chr(ord(syllable) + {"ㅂ": 17, "ㅆ": 20}[consonant])
