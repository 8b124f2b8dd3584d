"""Shares, lifts and sentences of `CompareAspects`: what the labels of reviews come to, without any call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .._values import composed
from ..models import ItemId, Review
from ..results import AspectLift, Sentiment
from ._common import describe_error, is_same_id
from ._prompts.aspects import ASPECT_NAMES
from ._prompts.wording import Language

FEW_REMARKS = 10
"""With fewer remarks on either side, the sentence is careful."""
SAME_PERCENT = 3
"""A lift that rounds to less than this, in percent, is called about the same as the average."""


@dataclass(frozen=True, slots=True)
class Opinions:
    """
    What reviews say of an aspect.

    Attributes:
        reviews: The reviews.
        labels: Their labels: "positive" if the guest is satisfied, "negative" if not, "neutral" if the review does not
            say; None if it was not labelled.
        model: Model that labelled them, or "".
    """

    reviews: Sequence[Review] = ()
    labels: Sequence[Sentiment | None] = ()
    model: str = ""

    def __len__(self) -> int:
        return len(self.reviews)

    @property
    def satisfied(self) -> int:
        """Number of satisfied remarks."""
        return self.labels.count("positive")

    @property
    def remarks(self) -> int:
        """Number of remarks, satisfied and dissatisfied."""
        return self.satisfied + self.labels.count("negative")

    @property
    def share(self) -> float | None:
        """Share of the satisfied among the remarks; None without any."""
        return self.satisfied / self.remarks if self.remarks else None

    def without(self, restaurant_id: ItemId) -> Opinions:
        """Return the opinions of other restaurants' reviews."""
        return self._only([not is_same_id(one.restaurant_id, restaurant_id) for one in self.reviews])

    def new_among(self, reviews: Sequence[Review]) -> list[Review]:
        """Return those of some reviews that are not among these."""
        known = {_identity(review) for review in self.reviews}
        return [review for review in reviews if _identity(review) not in known]

    def joined(self, other: Opinions) -> Opinions:
        """Return these opinions and those of other reviews."""
        model = self.model or other.model
        return Opinions([*self.reviews, *other.reviews], [*self.labels, *other.labels], model)

    def _only(self, kept: Sequence[bool]) -> Opinions:
        chosen = [place for place, keep in enumerate(kept) if keep]
        if len(chosen) == len(self.reviews):
            return self
        return Opinions([self.reviews[n] for n in chosen], [self.labels[n] for n in chosen], self.model)


def _identity(review: Review) -> tuple[str, str]:
    return composed(str(review.restaurant_id)), composed(str(review.id))


@dataclass(frozen=True, slots=True)
class Compared:
    """
    Both sides of the comparison of one aspect.

    Attributes:
        reviews: Number of the restaurant's reviews.
        own: What they say, or the error.
        others: What the others' reviews say, or the error; or the average share if it was given; None if not asked.
    """

    reviews: int
    own: Opinions | Exception
    others: Opinions | Exception | float | None

    @property
    def errors(self) -> list[Exception]:
        """The errors of both sides."""
        return [side for side in (self.own, self.others) if isinstance(side, Exception)]

    @property
    def model(self) -> str:
        """Name of the model that labelled the reviews, or ""."""
        return self.own.model if isinstance(self.own, Opinions) else ""

    def lift(self, aspect: str, language: str) -> AspectLift:
        """
        Return the result for the aspect.

        Args:
            aspect: The aspect's name.
            language: Language of the sentence: Korean if it is "ko", else English.
        """
        own = Opinions() if isinstance(self.own, Exception) else self.own
        count, average = 0, None
        if isinstance(self.others, Opinions):
            count, average = self.others.remarks, self.others.share
        elif isinstance(self.others, float):
            average = self.others
        share = own.share
        lift = (share - average) / average * 100 if share is not None and average else None
        is_few = own.remarks < FEW_REMARKS or (isinstance(self.others, Opinions) and count < FEW_REMARKS)
        return AspectLift(
            share,
            average,
            lift,
            own.satisfied,
            own.remarks - own.satisfied,
            own.labels.count("neutral"),
            self.reviews - len(own) + own.labels.count(None),
            count,
            "" if lift is None else sentence(aspect, lift, "ko" if language == "ko" else "en", is_few=is_few),
            describe_error(self.errors[0]) if self.errors else None,
        )


_SENTENCES: Mapping[Language, Mapping[tuple[str, bool], str]] = {
    "ko": {
        ("above", False): "{name} 만족도는 평균보다 약 {percent}% 높습니다.",
        ("below", False): "{name} 만족도는 평균보다 약 {percent}% 낮습니다.",
        ("same", False): "{name} 만족도는 평균과 비슷합니다.",
        ("above", True): "평이 많지 않지만, {name} 만족도는 평균보다 약 {percent}% 높은 편입니다.",
        ("below", True): "평이 많지 않지만, {name} 만족도는 평균보다 약 {percent}% 낮은 편입니다.",
        ("same", True): "평이 많지 않지만, {name} 만족도는 평균과 비슷해 보입니다.",
    },
    "en": {
        ("above", False): "Satisfaction with {name} is about {percent}% above the average.",
        ("below", False): "Satisfaction with {name} is about {percent}% below the average.",
        ("same", False): "Satisfaction with {name} is about the same as the average.",
        (
            "above",
            True,
        ): "By the few remarks, satisfaction with {name} seems about {percent}% above the average.",
        (
            "below",
            True,
        ): "By the few remarks, satisfaction with {name} seems about {percent}% below the average.",
        ("same", True): "By the few remarks, satisfaction with {name} seems about the same as the average.",
    },
}


def sentence(aspect: str, lift: float, language: Language, *, is_few: bool) -> str:
    """
    Return the sentence for people to read: above, below or about the same as the average, by whole percents.

    Args:
        aspect: The aspect's name.
        lift: How far its share is from the average, in percent of the average.
        language: Language of the sentence.
        is_few: Whether there are few remarks, so that the sentence is careful.
    """
    percent = round(abs(lift))
    way = "same" if percent < SAME_PERCENT else "above" if lift > 0 else "below"
    name = ASPECT_NAMES[language].get(aspect, aspect)
    # Not str.format of the whole: the name of an aspect is the user's, and may hold braces.
    return _SENTENCES[language][way, is_few].replace("{percent}", f"{percent:,}").replace("{name}", name)
