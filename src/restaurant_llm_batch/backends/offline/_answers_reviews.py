"""Answers about reviews as a whole: what they praise and blame, and what sets a restaurant apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..._nlp.lexicon import WordReader
from ._clauses import split
from ._digests import Digester, both_sides
from ._joining import joined
from ._praise import strengths

_NO_STRENGTH = {
    "ko": "비교 대상보다 뚜렷이 나은 점을 리뷰에서 찾지 못했습니다.",
    "en": "The reviews name nothing that stands out against the others.",
}
# There are reviews, and nothing that can be seen in them.
_NOTHING = "…"
_EMPTY = frozenset((*_NO_STRENGTH.values(), _NOTHING))
_SIGNS = {"positive_summary": 1, "negative_summary": -1, "target_restaurant_strength": 1}


class ReviewAnswers:
    """The tasks "review_summary", "comparison_summary", "strength" and "merge_summaries"."""

    def __init__(self, words: WordReader) -> None:
        self._digester = Digester(words)

    def review_summary(self, inputs: Mapping[str, Any], language: str) -> dict[str, Any]:
        """Summarise the reviews of each kind, and both together."""
        contents: dict[str, list[str]] = {"positive": [], "negative": []}
        for review in inputs.get("reviews") or ():
            contents.setdefault(str(review.get("kind")), []).append(str(review["content"]))
        liked, blamed = contents["positive"], contents["negative"]
        praise = self._digester.of_side(self._digester.read(liked), language, 1)
        blame = self._digester.of_side(self._digester.read(blamed), language, -1)
        overall = both_sides(praise, blame, more_praise=len(liked) >= len(blamed))
        return {
            "positive_summary": joined(praise, ()),
            "negative_summary": joined(blame, ()),
            "overall_summary": overall or (_NOTHING if liked or blamed else ""),
        }

    def comparison_summary(self, inputs: Mapping[str, Any], language: str) -> dict[str, Any]:
        """Say what the reviews have in common."""
        contents = _contents(inputs)
        found = self._digester.of_all(self._digester.read(contents), language)
        return {"comparison_summary": joined(found, ()) or (_NOTHING if contents else "")}

    def strength(self, inputs: Mapping[str, Any], language: str) -> dict[str, Any]:
        """Say what the reviews praise and the summary of the others does not."""
        compared = str(inputs.get("comparison_summary") or "")
        reviews, others = self._digester.read(_contents(inputs)), self._digester.read([compared])
        found = strengths(self._digester, reviews, others, language)
        text = joined(found, ()) or _NO_STRENGTH.get(language, _NO_STRENGTH["en"])
        return {"target_restaurant_strength": text}

    def merge(self, inputs: Mapping[str, Any], language: str) -> dict[str, Any]:
        """Choose, of what the parts say under each key, what most of them say."""
        parts: Sequence[Mapping[str, Any]] = inputs.get("summaries") or ()
        texts: dict[str, list[str]] = {}
        for part in parts:
            for key, text in part.items():
                texts.setdefault(key, []).append(str(text or "").strip())
        merged = {key: self._merged(said, _SIGNS.get(key, 0), language) for key, said in texts.items()}
        praise, blame = split(merged.get("positive_summary", "")), split(merged.get("negative_summary", ""))
        if praise and blame and len(set(texts.get("overall_summary", ()))) > 1:
            # Of the overall texts alone, the side that speaks less would be lost.
            more_praise = 2 * sum(map(_opens_with_praise, parts)) >= len(parts)
            merged["overall_summary"] = both_sides(praise, blame, more_praise=more_praise)
        return merged

    def _merged(self, texts: Sequence[str], sign: int, language: str) -> str:
        """Return the sentences that most texts agree with; a fixed line if there is nothing else."""
        told = [text for text in texts if text and text not in _EMPTY]
        if len(set(told)) <= 1:
            return " ".join(split(next(filter(None, told or texts), "")))
        read = self._digester.read(told)
        if sign:
            return joined(self._digester.of_side(read, language, sign), ())
        return joined(self._digester.of_all(read, language), ())


def _opens_with_praise(part: Mapping[str, Any]) -> bool:
    praise, overall = (split(str(part.get(key) or ""))[:1] for key in ("positive_summary", "overall_summary"))
    return bool(praise) and praise == overall


def _contents(inputs: Mapping[str, Any]) -> list[str]:
    return [str(review["content"]) for review in inputs.get("reviews") or ()]
