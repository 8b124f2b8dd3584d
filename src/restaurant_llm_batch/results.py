"""
Task results: one result class per task, and the parts they consist of.

All classes are frozen; only the tasks create them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ._shown import Shown
from .models import ItemId, Review

AspectStatus: TypeAlias = Literal["ok", "no_reviews", "failed"]
Sentiment: TypeAlias = Literal["positive", "negative", "neutral"]
VocabularyKind: TypeAlias = Literal["words", "phrases"]


@dataclass(frozen=True, slots=True, repr=False)
class Evidence(Shown):
    """A review that supports a summary; `rank` is its index, from 0, among the hits of the search."""

    review_id: ItemId
    snippet: str
    rank: int


@dataclass(frozen=True, slots=True, repr=False)
class AspectSummary(Shown):
    """
    Summary of the reviews about one aspect.

    Attributes:
        status: "ok"; "no_reviews" if the search found none; "failed" if the search or the LLM call failed.
        summary: One sentence; empty unless the status is "ok".
        bullets: Short points.
        evidence: The reviews that support the summary; each was returned by the search.
        invalid_citations: Number of citations that are dropped from `evidence`: those of no review that the model was
            shown, and all that it cited if it counted from 0, because these point at other reviews.
        error: Type and message of the error if the status is "failed" or reviews were left out, else None.
        failed_count: Number of reviews found that were left out, because every call with them failed.
        dropped: What the model's answer has and this summary has not, each with the reason, for people to read:
            ``evidence: "0" (numbered from 0)``. At most 20 are named. Not compared.
        replaced: Whether the model's summary and bullets were replaced by the sentence that the reviews hardly mention
            the price; `dropped` names them. See `SummarizeAspects.price_rule`.
    """

    status: AspectStatus
    summary: str = ""
    bullets: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    invalid_citations: int = 0
    error: str | None = None
    failed_count: int = 0
    dropped: tuple[str, ...] = field(default=(), compare=False)
    replaced: bool = False


@dataclass(frozen=True, slots=True, repr=False)
class RestaurantSummary(Shown):
    """
    Result of `SummarizeAspects` for one restaurant.

    Attributes:
        restaurant_id: The restaurant's id, as in the input.
        overall_summary: Two or three sentences; empty unless `overall_status` is "ok".
        model: Model that wrote the summary; empty if no call was made.
        categories: One entry for each aspect of the task, in the task's order.
        overall_status: "ok"; "no_reviews" if no review was found; "failed" if only the aspects could be summarised.
        overall_error: Type and message of the error if `overall_status` is "failed", else None.
        without_evidence: Number of aspects with a summary of the model for which it cited no review that it was shown.
    """

    restaurant_id: ItemId
    overall_summary: str
    model: str
    categories: Mapping[str, AspectSummary]
    overall_status: AspectStatus = "ok"
    overall_error: str | None = None
    without_evidence: int = 0


@dataclass(frozen=True, slots=True, repr=False)
class ReviewLabel(Shown):
    """
    Sentiment label of one review.

    Attributes:
        review_id: The review's id, or its position, from 0, if it has none.
        label: "positive", "negative" or "neutral"; None if the review was not labelled.
        error: Why the review was not labelled, else None.
    """

    review_id: ItemId
    label: Sentiment | None
    error: str | None = None


@dataclass(frozen=True, slots=True, repr=False)
class RestaurantSentiment(Shown):
    """
    Result of `AnalyzeSentiment` for one restaurant.

    The four counts add up to `total_count`. The ratios are whole percentages of the labelled reviews; they add
    up to 100, or are all 0 if no review was labelled.

    Attributes:
        restaurant_id: The restaurant's id, as in the input.
        positive_count: Number of reviews labelled positive.
        negative_count: Number of reviews labelled negative.
        neutral_count: Number of reviews labelled neutral.
        failed_count: Number of reviews without a label; `ReviewLabel.error` says why.
        total_count: Number of reviews in the input.
        positive_ratio: Positive reviews, in percent of the labelled ones.
        negative_ratio: Negative reviews, in percent of the labelled ones.
        neutral_ratio: Neutral reviews, in percent of the labelled ones.
        labels: One label for every review, in input order.
        model: Model that labelled the reviews; empty if no call was made.
    """

    restaurant_id: ItemId
    positive_count: int
    negative_count: int
    neutral_count: int
    failed_count: int
    total_count: int
    positive_ratio: int
    negative_ratio: int
    neutral_ratio: int
    labels: tuple[ReviewLabel, ...]
    model: str


@dataclass(frozen=True, slots=True, repr=False)
class FailedReview(Shown):
    """A review that a summary lacks: its id, or its index, from 0, if it has none; and the error."""

    review_id: ItemId
    error: str


@dataclass(frozen=True, slots=True, repr=False)
class ReviewSummary(Shown):
    """
    Result of `SummarizeReviews` for one restaurant.

    The three counts add up to the number of reviews in the input.

    Attributes:
        restaurant_id: The restaurant's id, as in the input.
        overall_summary: Two or three sentences; empty if the restaurant has no reviews.
        positive_summary: Summary of the positive reviews; empty if there are none.
        negative_summary: Summary of the negative reviews; empty if there are none.
        positive_count: Number of positive reviews that were summarised.
        negative_count: Number of negative reviews that were summarised.
        failed_count: Number of reviews that were not: blank ones, and those of failed calls.
        model: Model that wrote the summaries; empty if no call was made.
        failed_reviews: The reviews of failed calls, each with the error.
    """

    restaurant_id: ItemId
    overall_summary: str
    positive_summary: str
    negative_summary: str
    positive_count: int
    negative_count: int
    failed_count: int
    model: str
    failed_reviews: tuple[FailedReview, ...] = ()


@dataclass(frozen=True, slots=True, repr=False)
class RestaurantStrength(Shown):
    """
    Result of `ExtractStrengths` for one restaurant.

    Attributes:
        restaurant_id: The restaurant's id, as in the input.
        comparison_summary: Summary of the other restaurants' reviews; empty if there are none.
        target_restaurant_strength: What the restaurant does better than they do; empty if it has no reviews.
        target_reviews: The restaurant's reviews, from the input or found by search.
        comparison_reviews: The other restaurants' reviews, from the input or found by search.
        target_count: How many of `target_reviews` were used.
        comparison_count: How many of `comparison_reviews` were used.
        failed_count: How many of both were not: blank ones, and those of failed calls.
        model: Model that wrote the strength; empty if no call was made.
        failed_reviews: The reviews of failed calls, each with the error; those of the restaurant come first.
    """

    restaurant_id: ItemId
    comparison_summary: str
    target_restaurant_strength: str
    target_reviews: tuple[Review, ...]
    comparison_reviews: tuple[Review, ...]
    target_count: int
    comparison_count: int
    failed_count: int
    model: str
    failed_reviews: tuple[FailedReview, ...] = ()


@dataclass(frozen=True, slots=True, repr=False)
class AspectLift(Shown):
    """
    How satisfied a restaurant's guests are with one aspect, against the average of other restaurants.

    `satisfied`, `dissatisfied`, `mentions_nothing` and `failed` add up to the number of reviews that were found.

    Attributes:
        share: Share of the satisfied among the remarks about the aspect, 0 to 1; None if there is no remark.
        average: The same of the other restaurants, or as it was given; None if there is no remark about them.
        lift_percentage: How far `share` is from `average`, in percent of `average`; None if one of them is missing, or
            the average is 0.
        satisfied: Number of the restaurant's reviews whose guest is satisfied with the aspect.
        dissatisfied: Number of its reviews whose guest is dissatisfied with it.
        mentions_nothing: Number of its reviews that say nothing about it.
        failed: Number of its reviews without a label: blank ones, and those of failed calls.
        comparison_count: Number of remarks that the average is of; 0 if it was given.
        sentence: The comparison in a sentence: above, below or about the same as the average; empty without a lift.
        error: Type and message of the error if the search or the calls of either side failed, else None.
    """

    share: float | None
    average: float | None
    lift_percentage: float | None
    satisfied: int = 0
    dissatisfied: int = 0
    mentions_nothing: int = 0
    failed: int = 0
    comparison_count: int = 0
    sentence: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True, repr=False)
class AspectComparison(Shown):
    """
    Result of `CompareAspects` for one restaurant.

    Attributes:
        restaurant_id: The restaurant's id, as in the input.
        aspects: One entry for each aspect of the task, in the task's order.
        display: The sentences of the aspects that have one, in their order.
        total_candidates: Number of the restaurant's reviews that were found; one that is found for two aspects counts
            twice.
        validated_count: Number of aspects with a lift.
        model: Model that labelled the reviews; empty if no call was made.
    """

    restaurant_id: ItemId
    aspects: Mapping[str, AspectLift]
    display: tuple[str, ...]
    total_candidates: int
    validated_count: int
    model: str


@dataclass(frozen=True, slots=True, repr=False)
class Word(Shown):
    """A word's part of speech ("n", "v", "adj", "adv", or "" if unknown) and its meanings."""

    pos: str
    meanings: tuple[str, ...] = ()

    @property
    def synonyms(self) -> tuple[str, ...]:
        """Words that mean the same; those of an `ExtendedWord`, else none."""
        return ()

    @property
    def example(self) -> str:
        """A sentence of the text; that of an `ExtendedWord`, else ""."""
        return ""


@dataclass(frozen=True, slots=True, repr=False)
class ExtendedWord(Word):
    """
    A word of an `ExtractVocabulary` task that asks for synonyms or examples.

    Attributes:
        pos, meanings: As in `Word`.
        synonyms: Words that mean the same, which need not be in the text.
        example: The sentence of the text that the model gave as an example; "" for none.
    """

    synonyms: tuple[str, ...] = ()
    example: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class FailedChunk(Shown):
    """A chunk whose words or phrases are missing from a vocabulary: its index, from 0, and the error."""

    chunk: int
    kind: VocabularyKind
    error: str


@dataclass(frozen=True, slots=True, repr=False)
class Vocabulary(Shown):
    """
    Result of `ExtractVocabulary` for one document.

    Attributes:
        document_id: The document's id, as in the input.
        words: Each word once, in the order of the text, with part of speech and meanings.
        phrases: Each phrase once, in the order of the text, with its meaning.
        failed_chunks: Chunks without words or phrases because a call failed, in the order of the chunks.
        model: Model that answered; empty if no call was made.
        dropped_entries: Number of words and phrases in the answers that are dropped, because they have no name that
            can be used. Entries that are joined with an equal one do not count.
        dropped: The dropped entries, each with the reason, for people to read; at most 20 are named. Not compared.
    """

    document_id: ItemId
    words: Mapping[str, Word]
    phrases: Mapping[str, str]
    failed_chunks: tuple[FailedChunk, ...]
    model: str
    dropped_entries: int = 0
    dropped: tuple[str, ...] = field(default=(), compare=False)

    @property
    def phrase_examples(self) -> Mapping[str, str]:
        """For each phrase with an example, a sentence of the text; of an `ExtendedVocabulary`, else none."""
        return {}

    @property
    def dropped_examples(self) -> int:
        """Number of examples that are dropped; of an `ExtendedVocabulary`, else 0."""
        return 0


@dataclass(frozen=True, slots=True, repr=False)
class ExtendedVocabulary(Vocabulary):
    """
    Result of an `ExtractVocabulary` task that asks for synonyms or examples: its words are `ExtendedWord`s.

    Attributes:
        document_id, words, phrases, failed_chunks, model, dropped_entries, dropped: As in `Vocabulary`.
        phrase_examples: For each phrase with an example, the sentence of the text.
        dropped_examples: Number of examples of words and phrases that are dropped, because they are not in the text;
            `dropped` names them too.
    """

    phrase_examples: Mapping[str, str] = field(default_factory=dict)
    dropped_examples: int = 0
