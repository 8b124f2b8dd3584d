"""
How good the offline model is: aspects, polarity and quotations of the gold set, tuning and held-out parts apart.

    python benchmarks/quality.py
    python benchmarks/quality.py --wrong            # and the remarks of the tuning part that it gets wrong

`benchmarks/data/gold/README.md` describes the gold set. Each remark is asked about alone, as the only review of a
restaurant, through the tasks of `OfflineLLM`:

- aspect: the aspects under which it is quoted are those that it is about, no more and no fewer;
- label: the label of the task `sentiment`, of remarks whose parts agree;
- opinion: the sign of what the extraction reads, for each aspect of the remark that is not both praised and blamed;
- praised: a complaint that the task `strength` quotes as a strength (a fault);
- halves: a quotation that begins or ends where it turns the remark's meaning (a fault).

Below the gold set stand the rows that others have labelled: those held out from the training of the sentiment
classifier, and the opinions by aspect of `aspects_heldout.jsonl`.
"""

from __future__ import annotations

import argparse
import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from restaurant_llm_batch import LLMRequest
from restaurant_llm_batch._nlp import english_words, korean_words
from restaurant_llm_batch._nlp.lexicon import WordAnalyzer
from restaurant_llm_batch.backends.offline._clauses import Topic, read_review
from restaurant_llm_batch.backends.offline._extract import polarity_of
from restaurant_llm_batch.backends.offline.llm import OfflineLLM

DATA = Path(__file__).parent / "data"
LABELLED = Path(__file__).parents[1] / "tests" / "backends" / "offline" / "sentiment_heldout.jsonl"
ASPECTS = {"F": "food", "S": "service", "P": "price", "A": "ambience", "G": ""}
FAMILIES = tuple(filter(None, ASPECTS.values()))
LANGUAGES = ("ko", "en")

# What other reviews of the restaurant say, so that a remark is not the best sentence, and its clauses become bullets.
OTHERS = {
    "food": (
        "The soup, the bread and the dessert are excellent food.",
        "Excellent soup, excellent bread, dessert.",
    ),
    "service": (
        "The waiter, the hostess and the manager give excellent service.",
        "Excellent waiter and manager.",
    ),
    "price": (
        "The price, the bill and the discount are excellent.",
        "Excellent price and discount on the bill.",
    ),
    "ambience": (
        "The garden, the decor and the view are an excellent atmosphere.",
        "Excellent garden and decor.",
    ),
}
_PART = re.compile(r"((?:[FSPAG][+-])+) (.+)")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a remark that may be quoted alone: its text, and the sign of the opinion on each aspect."""

    text: str
    opinions: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Remark:
    """A remark of the gold set."""

    language: str
    pattern: str
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The remark as it is shown to the model."""
        return " ".join(part.text for part in self.parts)

    @property
    def held_out(self) -> bool:
        """Whether no rule may be written for it."""
        return zlib.crc32(self.text.encode()) % 3 == 0

    @property
    def signs(self) -> set[int]:
        """The polarities of its opinions."""
        return {sign for part in self.parts for sign in part.opinions.values()}

    @property
    def opinions(self) -> dict[str, set[int]]:
        """The polarities by aspect; "" is the place as a whole."""
        found: dict[str, set[int]] = {}
        for part in self.parts:
            for aspect, sign in part.opinions.items():
                found.setdefault(aspect, set()).add(sign)
        return found


def read_remarks(language: str) -> list[Remark]:
    """Return the gold set of a language."""
    lines = (DATA / "gold" / f"{language}.tsv").read_text(encoding="utf-8").splitlines()
    return [_read_remark(language, *line.split("\t")) for line in lines]


def _read_remark(language: str, pattern: str, text: str) -> Remark:
    parts = []
    for part in text.split(" | "):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"a part must open with its labels, got {part!r}; for example 'F+ Good soup.'")
        labels = match[1]
        opinions = {
            ASPECTS[labels[at]]: 1 if labels[at + 1] == "+" else -1 for at in range(0, len(labels), 2)
        }
        parts.append(Part(match[2], opinions))
    return Remark(language, pattern, tuple(parts))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What holds of the model's answers about a remark; None where a question does not apply."""

    aspect: bool
    label: bool | None
    opinion: bool | None
    praised: bool | None
    halves: tuple[str, ...]
    seen: str


class Judge:
    """Asks the offline model about remarks."""

    def __init__(self) -> None:
        self._llm = OfflineLLM()
        self._words = WordAnalyzer()
        self._topics = {name: Topic(name, self._words) for name in FAMILIES}

    def judge(self, remark: Remark) -> Verdict:
        """Return what holds of the model's answers about a remark."""
        alone = self._categories(dict.fromkeys(FAMILIES, (remark.text,)), remark.language)
        found = {name for name, answer in alone.items() if answer["evidence"]}
        label, opinion = self.label(remark.text), self._opinions(remark)
        one_sign = next(iter(remark.signs)) if len(remark.signs) == 1 else 0
        among = self._categories({name: (*OTHERS[name], remark.text) for name in found}, "") if found else {}
        quoted = [
            text for one in (*alone.values(), *among.values()) for text in (one["summary"], *one["bullets"])
        ]
        own = letters(remark.text)
        halves = [
            text for text in quoted if letters(text) and letters(text) in own and not is_whole(text, remark)
        ]
        return Verdict(
            aspect=found == set(remark.opinions) - {""},
            label=label == one_sign if one_sign else None,
            opinion=all(
                signs == {opinion[aspect]} for aspect, signs in remark.opinions.items() if len(signs) == 1
            ),
            praised=self._is_praised(remark) if remark.signs == {-1} else None,
            halves=tuple(halves),
            seen=f"{sorted(found)} label {label} opinion {opinion} halves {halves}",
        )

    def label(self, text: str) -> int:
        """Return the sign of the label of a review; 0 if it is neutral."""
        labels = self._ask("sentiment", "", reviews=[{"id": 1, "content": text}])["labels"]
        return {"positive": 1, "negative": -1, "neutral": 0}[labels[0]["label"]]

    def is_about(self, text: str, aspect: str, language: str) -> bool:
        """Return whether a review is quoted about an aspect."""
        return bool(self._about(aspect, [text], language)["evidence"])

    def opinion(self, text: str, aspect: str) -> int:
        """Return the sign of what the extraction reads about an aspect, or about all of them."""
        read = read_review(text, self._words)
        if not aspect:
            return _sign(sum(sentence.polarity for sentence in read))
        return _sign(sum(polarity_of(sentence, self._topics[aspect]) for sentence in read))

    def _opinions(self, remark: Remark) -> dict[str, int]:
        # What a remark of one polarity says is read from all of it, so that an aspect not found is not counted twice.
        mixed = len(remark.signs) > 1
        return {aspect: self.opinion(remark.text, aspect if mixed else "") for aspect in remark.opinions}

    def _is_praised(self, remark: Remark) -> bool:
        reviews = [{"id": 1, "content": remark.text}]
        answer = self._ask("strength", remark.language, comparison_summary="", reviews=reviews)
        return letters(answer["target_restaurant_strength"]) in letters(remark.text)

    def _about(self, aspect: str, contents: Sequence[str], language: str) -> Any:
        reviews = [{"id": number, "content": text} for number, text in enumerate(contents, 1)]
        return self._ask("aspect_summary", language, aspect=aspect, reviews=reviews)

    def _categories(self, contents: Mapping[str, Sequence[str]], language: str) -> Any:
        reviews = {
            aspect: [{"id": number, "content": text} for number, text in enumerate(texts, 1)]
            for aspect, texts in contents.items()
        }
        return self._ask("aspect_summaries", language, reviews=reviews)["categories"]

    def _ask(self, task: str, language: str, **inputs: Any) -> Any:
        request = LLMRequest(task, (), inputs={"restaurant_id": 1, "language": language, **inputs})
        return json.loads(self._llm.complete(request).text)


_LINK = re.compile(r"(?:but|yet|and|while|although|though|however|even though)\b", re.IGNORECASE)
"""What a part may be quoted without: the word that links it to the one before."""


def letters(text: str) -> str:
    """Return the letters and digits of a text, in lower case."""
    return "".join(c for c in text.lower() if c.isalnum())


def is_whole(quotation: str, remark: Remark) -> bool:
    """Return whether a quotation consists of whole parts of a remark, or of a whole sentence of it."""
    texts = [part.text for part in remark.parts]
    runs = [" ".join(texts[i:k]) for i in range(len(texts)) for k in range(i + 1, len(texts) + 1)]
    return letters(quotation) in {letters(text) for run in runs for text in (run, _LINK.sub("", run))}


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)


@dataclass(frozen=True, slots=True)
class Figures:
    """Shares and counts of a group of verdicts."""

    remarks: int
    aspect: float
    label: float
    opinion: float
    praised: int
    halves: int

    @classmethod
    def of(cls, verdicts: Sequence[Verdict]) -> Figures:
        """Count verdicts."""
        return cls(
            len(verdicts),
            share(one.aspect for one in verdicts),
            share(one.label for one in verdicts),
            share(one.opinion for one in verdicts),
            sum(bool(one.praised) for one in verdicts),
            sum(bool(one.halves) for one in verdicts),
        )

    def __str__(self) -> str:
        return (
            f"{self.remarks:8} {self.aspect:8.3f} {self.label:8.3f} {self.opinion:8.3f} "
            f"{self.praised:8} {self.halves:8}"
        )


def share(answers: Iterable[bool | None]) -> float:
    """Return the share of right answers among the questions that apply."""
    known = [answer for answer in answers if answer is not None]
    return sum(known) / len(known) if known else float("nan")


def print_gold(judge: Judge, *, wrong: bool) -> None:
    """Print the figures of the gold set."""
    print(
        f"{'gold set':28} {'remarks':>8} {'aspect':>8} {'label':>8} {'opinion':>8} {'praised':>8} {'halves':>8}"
    )
    for language in LANGUAGES:
        judged = [(remark, judge.judge(remark)) for remark in read_remarks(language)]
        for held_out, part in ((False, "tuning"), (True, "held out")):
            own = [one for one in judged if one[0].held_out == held_out]
            for pattern, rows in (("plain", [one for one in own if one[0].pattern == "plain"]), ("all", own)):
                print(f"{language}, {part}, {pattern:12}".ljust(28), Figures.of([one[1] for one in rows]))
        for pattern, rows in (
            ("plain", [one for one in judged if one[0].pattern == "plain"]),
            ("all", judged),
        ):
            print(f"{language}, both, {pattern:12}".ljust(28), Figures.of([one[1] for one in rows]))
        if wrong:
            print_wrong([(remark, verdict) for remark, verdict in judged if not remark.held_out])


def print_wrong(judged: Sequence[tuple[Remark, Verdict]]) -> None:
    """Print remarks with a wrong answer."""
    for remark, verdict in judged:
        faults = [name for name in ("aspect", "label", "opinion") if getattr(verdict, name) is False]
        faults += ["praised"] * bool(verdict.praised) + ["halves"] * bool(verdict.halves)
        if faults:
            print(f"  [{' '.join(faults)}] {remark.pattern}: {remark.text} | {verdict.seen}")


def print_labels(judge: Judge) -> None:
    """Print how often the label is right of rows held out from the training of the classifier."""
    rows = [json.loads(line) for line in LABELLED.read_text(encoding="utf-8").splitlines()]
    print(f"\n{'labels by others':28} {'rows':>8} {'label':>8} {'opinion':>8}")
    for source in dict.fromkeys(row["source"] for row in rows):
        own = [row for row in rows if row["source"] == source]
        signs = [1 if row["label"] == "positive" else -1 for row in own]
        label = share(judge.label(row["content"]) == sign for row, sign in zip(own, signs, strict=True))
        opinion = share(
            judge.opinion(row["content"], "") == sign for row, sign in zip(own, signs, strict=True)
        )
        print(f"{source:28} {len(own):8} {label:8.3f} {opinion:8.3f}")


def print_aspects(judge: Judge, path: Path) -> None:
    """Print how often the aspects, and the opinions on them, are right of rows that others have labelled."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    print(f"\n{'aspects by others':28} {'rows':>8} {'found':>8} {'precise':>8} {'mean':>8} {'opinion':>8}")
    for source in dict.fromkeys(row["source"] for row in rows):
        own = [row for row in rows if row["source"] == source]
        # CEBaB has no labels for the price.
        names = [name for name in FAMILIES if name != "price" or source != "cebab"]
        # An aspect that is labelled neutral is mentioned without an opinion: it may be quoted or not.
        asked = [(row, name) for row in own for name in names if _signs(row, name) != set()]
        about = [(_signs(row, name), judge.is_about(row["content"], name, "en")) for row, name in asked]
        found = share(is_about for signs, is_about in about if signs)
        precise = share(bool(signs) for signs, is_about in about if is_about)
        mean = 2 * found * precise / (found + precise)
        clear = [(row, name, signs) for row, name in asked if len(signs := _signs(row, name) or set()) == 1]
        opinion = share(judge.opinion(row["content"], name) in signs for row, name, signs in clear)
        print(f"{source:28} {len(own):8} {found:8.3f} {precise:8.3f} {mean:8.3f} {opinion:8.3f}")


def print_words() -> None:
    """Print how often verbs and adjectives pass as nouns, and nouns as nouns."""
    lines = (DATA / "gold" / "words.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines]
    print(f"\n{'words':28} {'forms':>8} {'verbs as nouns':>15} {'nouns as nouns':>15}")
    for language in LANGUAGES:
        for held_out, part in ((False, "tuning"), (True, "held out")):
            own = [
                row
                for row in rows
                if row[0] == language and (zlib.crc32(row[2].encode()) % 3 == 0) == held_out
            ]
            shares = [
                share(_is_noun(*row[:3]) for row in own if row[3] == kind) for kind in ("predicate", "noun")
            ]
            print(f"{language}, {part}".ljust(28), f"{len(own):8} {shares[0]:15.3f} {shares[1]:15.3f}")


def _is_noun(language: str, before: str, form: str) -> bool:
    found = korean_words.read(form)[1] if language == "ko" else english_words.read(form, before)[1]
    return found is not None and found.pos == "n"


def _signs(row: Mapping[str, Any], aspect: str) -> set[int] | None:
    """Return the polarities of an aspect other than neutral; None without a label of it."""
    found = [polarity for name, polarity in row["aspects"] if name == aspect]
    signs = {"positive": 1, "negative": -1}
    return {signs[polarity] for polarity in found if polarity in signs} if found else None


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wrong", action="store_true", help="print wrong answers about the tuning part")
    parser.add_argument("--aspects", type=Path, default=DATA / "aspects_heldout.jsonl", help="labelled rows")
    options = parser.parse_args()
    judge = Judge()
    print_gold(judge, wrong=options.wrong)
    print_labels(judge)
    print_aspects(judge, options.aspects)
    print_words()


if __name__ == "__main__":
    main()
