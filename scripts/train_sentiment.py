"""
Trains the offline sentiment classifier and writes its weights into the package.

    python scripts/train_sentiment.py --data FOLDER

Needs nothing but Python and this package (`pip install -e .`). FOLDER holds `sentiment_ko.jsonl`,
`items_ko.jsonl`, `restaurants_en.jsonl` and `aspects_en.jsonl`; docs/offline-sentiment.md says what is
in them. Writes `sentiment.json`, `sentiment_ko.bin` and `sentiment_en.bin` beside the package's other
data, and `sentiment_heldout.jsonl` for the tests; prints the accuracy on rows that had no part in it.
Takes about two minutes.

The same data give the same bytes on every machine: rows are split by their hash, order is drawn from
a fixed seed, and the learner only adds, subtracts, multiplies and divides, in a fixed order, which
IEEE 754 defines to the last bit. (What takes a logarithm is rounded.) Hence no numpy: the sums of a
linear algebra library depend on the processor.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from restaurant_llm_batch._nlp.sentiment_model import Language, SentimentReader, hashes, normal_form
from sentiment_rows import Row, english, korean

ROOT = Path(__file__).resolve().parents[1]
PACKAGE_DATA = ROOT / "src" / "restaurant_llm_batch" / "data"
HELD_OUT = ROOT / "tests" / "backends" / "offline" / "sentiment_heldout.jsonl"
SHOWN = {"nsmc": 1000, "cebab": 1000, "mams": 200}  # rows of the held-out part that are committed

BUCKETS = {"ko": 1 << 20, "en": 1 << 18}
COST = {"ko": 0.25, "en": 0.25}
# A MAMS sentence is labelled by what it says of its parts, which is not quite what it says.
WEIGHT = {"mams": 0.35, "written-ko": 4.0, "conjugated-ko": 1.0, "written-en": 2.0}
EPOCHS, SEED, LEAST_ROWS = 30, 17, 2


TRAINED_ON = (
    "NSMC (CC0 1.0); CEBaB v1.1 (CC BY 4.0); MAMS-ACSA (Apache-2.0); remarks written for this project (MIT)"
)


class Line(NamedTuple):
    """A row as the learner sees it: its buckets, what each counts, its label (1 or -1), its weight."""

    buckets: list[int]
    value: float
    sign: int
    weight: float


def prepare(rows: Sequence[Row], language: Language) -> list[Line]:
    """Hash the rows' runs of characters; those that only one row has teach nothing and are left out."""
    found = [hashes(normal_form(row.text), language) for row in rows]
    rows_with = Counter(code for codes in found for code in codes)
    mask = BUCKETS[language] - 1
    return [
        Line(
            sorted(code & mask for code in codes if rows_with[code] >= LEAST_ROWS),
            1 / math.sqrt(len(codes)),
            1 if row.positive else -1,
            WEIGHT.get(row.source, 1.0),
        )
        for row, codes in zip(rows, found, strict=True)
    ]


def ratios(lines: Sequence[Line], size: int) -> list[float]:
    """Return how much each bucket tells by itself: its log count ratio, squared (Wang & Manning, 2012)."""
    counts = {1: [1.0] * size, -1: [1.0] * size}
    for line in lines:
        count = counts[line.sign]
        for bucket in line.buckets:
            count[bucket] += line.weight
    praise, blame = (math.fsum(counts[sign]) for sign in (1, -1))
    ratio = [
        abs(round(math.log((p / praise) / (q / blame)), 6))
        for p, q in zip(counts[1], counts[-1], strict=True)
    ]
    used = {bucket for line in lines for bucket in line.buckets}
    mean = math.fsum(ratio[bucket] for bucket in sorted(used)) / len(used)
    return [(value / mean) ** 2 for value in ratio]


def learn(lines: Sequence[Line], size: int, cost: float) -> list[float]:
    """
    Fit a support vector machine with squared hinge loss by dual coordinate descent.

    The method is that of Hsieh et al. (2008), in which no step takes more than one row. There is no
    bias: what says nothing is to score nothing. (Accuracy is the same with one.)
    """
    scale = ratios(lines, size)
    weights = [0.0] * size
    alphas = [0.0] * len(lines)
    curves = [_curve(line, scale, cost) for line in lines]
    order = list(range(len(lines)))
    shuffle = random.Random(SEED).shuffle
    for _ in range(EPOCHS):
        shuffle(order)
        for at in order:
            buckets, value, sign, weight = lines[at]
            total = 0.0
            for bucket in buckets:
                total += weights[bucket]
            slope = sign * total * value - 1 + alphas[at] / (2 * cost * weight)
            alpha = max(alphas[at] - slope / curves[at], 0.0)
            step = (alpha - alphas[at]) * sign
            if step:
                alphas[at] = alpha
                step *= value
                for bucket in buckets:
                    weights[bucket] += step * scale[bucket]
    return weights


def _curve(line: Line, scale: Sequence[float], cost: float) -> float:
    norm = math.fsum(scale[bucket] for bucket in line.buckets)
    return norm * line.value * line.value + 1 / (2 * cost * line.weight)


def calibrate(scores: Sequence[float], signs: Sequence[int]) -> float:
    """Fit the slope that turns scores into log odds (Platt, 1999), by Newton's method."""
    slope = 1.0
    for _ in range(50):
        gradient = curve = 0.0
        for score, sign in zip(scores, signs, strict=True):
            chance = 1 / (1 + math.exp(-slope * score))
            gradient += (chance - (sign > 0)) * score
            curve += chance * (1 - chance) * score * score
        slope -= gradient / curve
    return round(slope, 3)


def print_bands(language: str, scores: Sequence[float], signs: Sequence[int]) -> None:
    """Print how often the sign of a score is right, by its size: what the neutral band is chosen by."""
    print(f"\n| {language}, validation: size of the score | rows | right |\n|---|---|---|")
    for low, high in (
        (0.0, 0.02),
        (0.02, 0.04),
        (0.04, 0.08),
        (0.08, 0.16),
        (0.16, 0.4),
        (0.4, 1.0),
        (0.0, 1.0),
    ):
        right = [
            (value > 0) == (sign > 0)
            for value, sign in zip(scores, signs, strict=True)
            if low <= abs(value) < high
        ]
        print(f"| {low} to {high} | {len(right)} | {sum(right) / max(1, len(right)):.3f} |", flush=True)


def score(line: Line, weights: Sequence[float]) -> float:
    """Return the distance of a row from the boundary."""
    return math.fsum(weights[bucket] for bucket in line.buckets) * line.value


def train(rows: Sequence[Row], language: Language) -> tuple[array[int], dict[str, Any]]:
    """
    Train a language: calibrate on the validation part, then learn from that part too.

    Returns:
        The weights as whole numbers from -127 to 127, and what belongs to them.
    """
    size = BUCKETS[language]
    lines = prepare(rows, language)
    taught, checked = (
        [x for x, row in zip(lines, rows, strict=True) if row.part == part]
        for part in ("train", "validation")
    )
    weights = learn(taught, size, COST[language])
    scores, signs = [score(line, weights) for line in checked], [line.sign for line in checked]
    slope = calibrate(scores, signs)
    print_bands(language, [math.tanh(slope * value / 2) for value in scores], signs)
    weights = learn(taught + checked, size, COST[language])
    # The few weights beyond the limit are cut, so that all others have finer steps.
    limit = sorted(map(abs, weights))[-max(1, size // 10_000)]
    whole = array("b", (max(-127, min(127, round(weight / limit * 127))) for weight in weights))
    about = {
        "file": f"sentiment_{language}.bin",
        "factor": float(f"{slope * limit / 127:.6g}"),
        "rows": dict(sorted(Counter(row.source for row in rows).items())),
    }
    return whole, about


def report(rows: Iterable[Row], title: str, of: Callable[[Row], str]) -> None:
    """Print how often the shipped reader is right, an answer of "neutral" counted as wrong."""
    reader = SentimentReader()
    told: dict[str, list[tuple[bool, bool, bool]]] = defaultdict(list)
    for row in rows:
        label, value = reader.judge(row.text)
        told[of(row)].append(
            (
                label == ("positive" if row.positive else "negative"),
                (value > 0) == row.positive,
                label == "neutral",
            )
        )
    print(f"\n| {title} | rows | right | right, neutral read by its score | neutral |\n|---|---|---|---|---|")
    for name, results in sorted(told.items()):
        shares = (f"{sum(column) / len(results):.3f}" for column in zip(*results, strict=True))
        print(f"| {name} | {len(results)} | {' | '.join(shares)} |")


def _length(row: Row) -> str:
    return "up to 100 characters" if len(row.text) <= 100 else "longer"


def write_held_out(rows: Iterable[Row], path: Path) -> None:
    """Write the first rows of each source's test part, for the tests."""
    left = dict(SHOWN)
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            source = row.source.removesuffix("-aspects")
            if left.get(source, 0) > 0:
                left[source] -= 1
                label = "positive" if row.positive else "negative"
                about = {"id": row.id, "content": row.text, "label": label, "source": row.source}
                file.write(json.dumps(about, ensure_ascii=False) + "\n")


def main() -> None:
    """Read, train, write, measure."""
    parser = argparse.ArgumentParser(description="Train the offline sentiment classifier.")
    parser.add_argument("--data", type=Path, required=True, help="folder with the four data files")
    data = parser.parse_args().data
    rows: dict[Language, list[Row]] = {"ko": list(korean(data)), "en": list(english(data))}
    models = {}
    for language, own in rows.items():
        weights, about = train([row for row in own if row.part != "test"], language)
        (PACKAGE_DATA / about["file"]).write_bytes(weights.tobytes())
        models[language] = about
    about_all = {
        "version": 1,
        "made_by": "scripts/train_sentiment.py",
        "trained_on": TRAINED_ON,
        "models": models,
    }
    (PACKAGE_DATA / "sentiment.json").write_text(json.dumps(about_all, indent=2) + "\n", encoding="utf-8")
    tests = {language: [row for row in own if row.part == "test"] for language, own in rows.items()}
    write_held_out([row for own in tests.values() for row in own], HELD_OUT)
    for language, own in tests.items():
        report(own, f"{language}, held out", lambda row: row.source)
    whole = [row for row in tests["en"] if row.source.startswith("cebab")]
    report(whole, "CEBaB together, by length", _length)


if __name__ == "__main__":
    main()
