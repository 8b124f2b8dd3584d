"""Answers about the aspects of a restaurant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..._nlp.lexicon import WordAnalyzer
from ..._nlp.tokenizer import Tokenizer
from ._clauses import Sentence, Topic, read_review, split
from ._digests import MultiReviewSummarizer, both_sides
from ._extract import ExtractedSummary, extract, joined
from ._phrases import PhraseFinder
from ._praise import strengths
from ._words import WordListBuilder

_NOTHING = "…"
_NOT_MENTIONED = {
    "ko": "{} 언급한 리뷰가 거의 없습니다.",
    "en": "The reviews hardly mention {}.",
}
_NAMES = {
    "ko": {
        "service": "서비스를",
        "price": "가격을",
        "food": "음식을",
        "ambience": "분위기를",
        "": "이 항목을",
    },
    "en": {
        "service": "service",
        "price": "the price",
        "food": "the food",
        "ambience": "the ambience",
        "": "this aspect",
    },
}
_ALL_NOT_MENTIONED = frozenset(
    line.format(name) for language, line in _NOT_MENTIONED.items() for name in _NAMES[language].values()
)


class AspectAnswers:
    """The tasks "aspect_summaries", "aspect_summary" and "overall_summary"."""

    def __init__(self, words: WordAnalyzer) -> None:
        self._words = words

    def summaries(self, inputs: Mapping[str, Any], language: str) -> dict[str, Any]:
        """Summarise all aspects, each from its own reviews."""
        picks = self._picks(inputs.get("reviews") or {}, language)
        return {
            "categories": {aspect: _as_answer(pick) for aspect, pick in picks.items()},
            "overall_summary": _overall([*picks.values()]),
        }

    def summary(self, inputs: Mapping[str, Any], language: str) -> dict[str, Any]:
        """Summarise one aspect."""
        aspect, reviews = str(inputs.get("aspect") or ""), inputs.get("reviews") or ()
        return _as_answer(self._picks({aspect: reviews}, language)[aspect])

    def overall(self, inputs: Mapping[str, Any], language: str) -> dict[str, Any]:
        """Join the summaries of the aspects; their own language is theirs."""
        texts = [str(text) for text in (inputs.get("summaries") or {}).values()]
        said = [text for text in texts if text.strip() not in _ALL_NOT_MENTIONED]
        parts = [split(text) for text in said or texts]
        firsts = [part[0] for part in parts if part]
        more = [sentence for part in parts for sentence in part[1:]]
        return {"overall_summary": joined(firsts, more) or _NOTHING}

    def _picks(self, reviews: Mapping[str, Sequence[Any]], language: str) -> dict[str, ExtractedSummary]:
        # The searches of the aspects often find the same reviews.
        read: dict[str, tuple[Sentence, ...]] = {}
        picks = {}
        for aspect, shown in reviews.items():
            contents = [str(review["content"]) for review in shown]
            for content in contents:
                if content not in read:
                    read[content] = read_review(content, self._words)
            topic = Topic(aspect, self._words)
            found = extract([read[content] for content in contents], topic, language)
            picks[aspect] = found or _not_mentioned(topic.family, language)
        return picks


def _not_mentioned(family: str, language: str) -> ExtractedSummary:
    known = language if language in _NAMES else "en"
    return ExtractedSummary(_NOT_MENTIONED[known].format(_NAMES[known][family]), (), (), "", on_topic=False)


def _as_answer(pick: ExtractedSummary) -> dict[str, Any]:
    return {
        "summary": pick.summary,
        "bullets": list(pick.bullets),
        "evidence": list(pick.evidence),
    }


def _overall(picks: Sequence[ExtractedSummary]) -> str:
    on_topic = [pick for pick in picks if pick.on_topic]
    chosen = on_topic or [pick for pick in picks if pick.evidence] or picks
    return joined([pick.summary for pick in chosen], [pick.also for pick in chosen]) or _NOTHING


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

    def __init__(self, words: WordAnalyzer) -> None:
        self._digester = MultiReviewSummarizer(words)

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


class WordAnswers:
    """The tasks "words" and "phrases"."""

    def __init__(self, words: WordAnalyzer) -> None:
        self._tokenizer = Tokenizer()
        self._glossary, self._phrases = WordListBuilder(words), PhraseFinder(words)

    def words(self, inputs: Mapping[str, Any], language: str) -> dict[str, Any]:
        """List the words of a chunk."""
        tokens = self._tokenizer.tokens(split(str(inputs.get("chunk") or "")))
        found = self._glossary.words(tokens, language)
        return {"words": [{"word": word, "pos": pos, "meanings": known} for word, pos, known in found]}

    def phrases(self, inputs: Mapping[str, Any], language: str) -> dict[str, Any]:
        """List the phrases of a chunk, each with a sentence that holds it, in whatever language."""
        sentences = split(str(inputs.get("chunk") or ""))
        found = self._phrases.phrases(sentences, self._tokenizer.tokens(sentences))
        return {"phrases": [{"phrase": phrase, "meaning": usage} for phrase, usage in found]}
