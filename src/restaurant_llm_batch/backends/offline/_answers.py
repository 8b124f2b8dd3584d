"""Offline answers to each task: aspect, review and comparison summaries, strengths, words and phrases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..._nlp.lexicon import WordAnalyzer
from ..._nlp.tokenizer import Tokenizer
from ...results import Sentiment
from ._clauses import Sentence, Topic, read_review, split
from ._digests import MultiReviewSummarizer, join_both_polarities
from ._extract import ExtractedSummary, extract, join_sentences, opinion_of
from ._phrases import PhraseFinder
from ._praise import strengths
from ._words import WordListBuilder

_NO_VISIBLE_TEXT = "…"
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
    """The tasks "aspect_summaries", "aspect_summary", "overall_summary" and "aspect_sentiment"."""

    def __init__(self, words: WordAnalyzer) -> None:
        self._words = words

    def summaries(self, inputs: Mapping[str, Any], language: str) -> dict[str, Any]:
        """Summarize all aspects, each from its own reviews."""
        summaries = self._summaries(inputs.get("reviews") or {}, language)
        shown = inputs.get("reviews") or {}
        return {
            "categories": {
                aspect: _as_answer(summary, shown[aspect]) for aspect, summary in summaries.items()
            },
            "overall_summary": _overall([*summaries.values()]),
        }

    def summary(self, inputs: Mapping[str, Any], language: str) -> dict[str, Any]:
        """Summarize one aspect."""
        aspect, reviews = str(inputs.get("aspect") or ""), inputs.get("reviews") or ()
        return _as_answer(self._summaries({aspect: reviews}, language)[aspect], reviews)

    def overall(self, inputs: Mapping[str, Any], language: str) -> dict[str, Any]:
        """Join the summaries of the aspects, in whatever language they are."""
        texts = [str(text) for text in (inputs.get("summaries") or {}).values()]
        texts_on_topic = [text for text in texts if text.strip() not in _ALL_NOT_MENTIONED]
        parts = [split(text) for text in texts_on_topic or texts]
        firsts = [part[0] for part in parts if part]
        more = [sentence for part in parts for sentence in part[1:]]
        return {"overall_summary": join_sentences(firsts, more) or _NO_VISIBLE_TEXT}

    def labels(self, inputs: Mapping[str, Any], language: str) -> dict[str, Any]:
        """Label what each review says of one aspect."""
        topic = Topic(str(inputs.get("aspect") or ""), self._words)
        shown = inputs.get("reviews") or ()
        return {
            "labels": [{"id": one["id"], "label": self._label(str(one["content"]), topic)} for one in shown]
        }

    def _label(self, content: str, topic: Topic) -> Sentiment:
        opinion = opinion_of(read_review(content, self._words), topic)
        return "positive" if opinion > 0 else "negative" if opinion < 0 else "neutral"

    def _summaries(self, reviews: Mapping[str, Sequence[Any]], language: str) -> dict[str, ExtractedSummary]:
        # Cache: the searches of different aspects often find the same reviews.
        parsed: dict[str, tuple[Sentence, ...]] = {}
        summaries = {}
        for aspect, shown in reviews.items():
            contents = [str(review["content"]) for review in shown]
            for content in contents:
                if content not in parsed:
                    parsed[content] = read_review(content, self._words)
            topic = Topic(aspect, self._words)
            found = extract([parsed[content] for content in contents], topic, language)
            summaries[aspect] = found or _not_mentioned(topic.family, language)
        return summaries


def _not_mentioned(family: str, language: str) -> ExtractedSummary:
    known = language if language in _NAMES else "en"
    return ExtractedSummary(_NOT_MENTIONED[known].format(_NAMES[known][family]), (), (), "", on_topic=False)


def _as_answer(summary: ExtractedSummary, reviews: Sequence[Any]) -> dict[str, Any]:
    """Return the answer about one aspect; it cites reviews by their numbers, which are their ids in the inputs."""
    return {
        "summary": summary.summary,
        "bullets": list(summary.bullets),
        "evidence": [reviews[index]["id"] for index in summary.evidence],
    }


def _overall(aspects: Sequence[ExtractedSummary]) -> str:
    on_topic = [aspect for aspect in aspects if aspect.on_topic]
    chosen = on_topic or [aspect for aspect in aspects if aspect.evidence] or aspects
    summaries, extra = [one.summary for one in chosen], [one.also for one in chosen]
    return join_sentences(summaries, extra) or _NO_VISIBLE_TEXT


_NO_STRENGTH = {
    "ko": "비교 대상보다 뚜렷이 나은 점을 리뷰에서 찾지 못했습니다.",
    "en": "The reviews name nothing that stands out against the others.",
}
_EMPTY = frozenset((*_NO_STRENGTH.values(), _NO_VISIBLE_TEXT))
_SIGNS = {"positive_summary": 1, "negative_summary": -1, "target_restaurant_strength": 1}


class ReviewAnswers:
    """The tasks "review_summary", "comparison_summary", "strength" and "merge_summaries"."""

    def __init__(self, words: WordAnalyzer) -> None:
        self._summarizer = MultiReviewSummarizer(words)

    def review_summary(self, inputs: Mapping[str, Any], language: str) -> dict[str, Any]:
        """Summarize the reviews of each polarity, and all together."""
        contents: dict[str, list[str]] = {"positive": [], "negative": []}
        for review in inputs.get("reviews") or ():
            contents.setdefault(str(review.get("kind")), []).append(str(review["content"]))
        liked, blamed = contents["positive"], contents["negative"]
        praise = self._summarizer.summarize_polarity(self._summarizer.analyze(liked), language, 1)
        blame = self._summarizer.summarize_polarity(self._summarizer.analyze(blamed), language, -1)
        overall = join_both_polarities(praise, blame, more_praise=len(liked) >= len(blamed))
        return {
            "positive_summary": join_sentences(praise, ()),
            "negative_summary": join_sentences(blame, ()),
            "overall_summary": overall or (_NO_VISIBLE_TEXT if liked or blamed else ""),
        }

    def comparison_summary(self, inputs: Mapping[str, Any], language: str) -> dict[str, Any]:
        """Summarize what the reviews have in common."""
        contents = _contents(inputs)
        found = self._summarizer.summarize_all(self._summarizer.analyze(contents), language)
        return {"comparison_summary": join_sentences(found, ()) or (_NO_VISIBLE_TEXT if contents else "")}

    def strength(self, inputs: Mapping[str, Any], language: str) -> dict[str, Any]:
        """Return what the reviews praise and the summary of the others does not."""
        compared = str(inputs.get("comparison_summary") or "")
        reviews, others = self._summarizer.analyze(_contents(inputs)), self._summarizer.analyze([compared])
        found = strengths(self._summarizer, reviews, others, language)
        text = join_sentences(found, ()) or _NO_STRENGTH.get(language, _NO_STRENGTH["en"])
        return {"target_restaurant_strength": text}

    def merge(self, inputs: Mapping[str, Any], language: str) -> dict[str, Any]:
        """Merge partial summaries: for each key, the sentences that agree with most parts."""
        parts: Sequence[Mapping[str, Any]] = inputs.get("summaries") or ()
        texts: dict[str, list[str]] = {}
        for part in parts:
            for key, text in part.items():
                texts.setdefault(key, []).append(str(text or "").strip())
        merged = {
            key: self._merged(versions, _SIGNS.get(key, 0), language) for key, versions in texts.items()
        }
        praise, blame = split(merged.get("positive_summary", "")), split(merged.get("negative_summary", ""))
        if praise and blame and len(set(texts.get("overall_summary", ()))) > 1:
            # Merging the overall texts alone would lose the polarity with fewer sentences.
            more_praise = 2 * sum(map(_opens_with_praise, parts)) >= len(parts)
            merged["overall_summary"] = join_both_polarities(praise, blame, more_praise=more_praise)
        return merged

    def _merged(self, texts: Sequence[str], sign: int, language: str) -> str:
        """Return the sentences that most texts agree with, or a fixed line if there are no other texts."""
        non_empty = [text for text in texts if text and text not in _EMPTY]
        if len(set(non_empty)) <= 1:
            return " ".join(split(next(filter(None, non_empty or texts), "")))
        parsed = self._summarizer.analyze(non_empty)
        if sign:
            return join_sentences(self._summarizer.summarize_polarity(parsed, language, sign), ())
        return join_sentences(self._summarizer.summarize_all(parsed, language), ())


def _opens_with_praise(part: Mapping[str, Any]) -> bool:
    praise, overall = (split(str(part.get(key) or ""))[:1] for key in ("positive_summary", "overall_summary"))
    return bool(praise) and praise == overall


def _contents(inputs: Mapping[str, Any]) -> list[str]:
    return [str(review["content"]) for review in inputs.get("reviews") or ()]


class WordAnswers:
    """The tasks "words" and "phrases"."""

    def __init__(self, words: WordAnalyzer) -> None:
        self._tokenizer = Tokenizer()
        self._word_list, self._phrases = WordListBuilder(words), PhraseFinder(words)

    def words(self, inputs: Mapping[str, Any], language: str) -> dict[str, Any]:
        """List the words of a chunk; if asked, with the first sentence that has each, and without synonyms."""
        sentences = split(str(inputs.get("chunk") or ""))
        found = self._word_list.words(self._tokenizer.tokens(sentences), language)
        return {
            "words": [
                {"word": word, "pos": pos, "meanings": known, **_extras(inputs, sentences[first])}
                for word, pos, known, first in found
            ]
        }

    def phrases(self, inputs: Mapping[str, Any], language: str) -> dict[str, Any]:
        """List the phrases of a chunk, each with a sentence that contains it."""
        sentences = split(str(inputs.get("chunk") or ""))
        found = self._phrases.phrases(sentences, self._tokenizer.tokens(sentences))
        return {
            "phrases": [
                {"phrase": phrase, "meaning": usage, **_extras(inputs, sentence)}
                for phrase, usage, sentence in found
            ]
        }


def _extras(inputs: Mapping[str, Any], sentence: str) -> dict[str, Any]:
    """Return the fields of an entry that are asked for beside the usual ones; no synonyms are known."""
    more: dict[str, Any] = {"synonyms": []} if inputs.get("synonyms") else {}
    return {**more, "example": sentence} if inputs.get("example") else more
