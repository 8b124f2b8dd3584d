"""Polarity of reviews: whether a guest recommends the restaurant, by a flag, a label or a rating on any scale."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from ..errors import ConfigurationError
from .cells import as_number, is_missing, plain
from .columns import Advice

RatingScale = tuple[float, float]
"""The lowest and the highest rating."""

USUAL_SCALE: RatingScale = (1, 5)
POLARITY_FIELDS = ("is_recommended", "label", "rating")
"""Fields that say it, in order of precedence."""
_POSITIVE, _NEGATIVE = 0.75, 0.25
"""Shares of the scale: on 1 to 5, 4 and more are positive, 2 and less negative."""
_LABELS = {"positive": True, "negative": False, "neutral": None, "긍정": True, "부정": False, "중립": None}
_FLAGS: Mapping[str, bool] = {
    **dict.fromkeys(("true", "t", "yes", "y", "1", "1.0", "예"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0", "0.0", "아니오"), False),
}
"""How tables of texts write a flag."""
_SCALE = re.compile(r"\s*(-?[0-9.]+)\s*(?:-|to|\.\.|:|~|,)\s*(-?[0-9.]+)\s*")


def as_scale(value: object) -> RatingScale:
    """
    Return a scale of ratings: two numbers, or a text such as "1-10".

    Raises:
        ConfigurationError: It is no scale.
    """
    given: Any = value
    if isinstance(value, str):
        found = _SCALE.fullmatch(value)
        given = found.groups() if found else None
    try:
        low, high = map(float, given)
    except (TypeError, ValueError):
        low = high = 0.0
    if not (isfinite(low) and isfinite(high) and low < high):
        raise ConfigurationError(
            f"rating_scale must be the lowest and the highest rating, got {value!r}; for example (1, 10), or "
            "1-10 on the command line"
        )
    return low, high


@dataclass(frozen=True, slots=True)
class Polarity:
    """
    Reads whether a review is positive.

    Attributes:
        scale: The scale of its ratings.
        advice: Phrases for error messages.
        of_texts: Whether the table holds texts only.
    """

    scale: RatingScale = USUAL_SCALE
    advice: Advice = field(default_factory=Advice)
    of_texts: bool = False

    def read(self, record: Mapping[str, Any], prefix: str) -> tuple[bool, bool | None]:
        """
        Return whether anything says what a review is, and whether it is positive; None for neither.

        Args:
            record: The review.
            prefix: Where it is in its row, for error messages.

        Raises:
            ConfigurationError: The value of a field is invalid.
        """
        parsers = {"is_recommended": self._flag, "label": self._label, "rating": self._rating}
        for name in POLARITY_FIELDS:
            value = plain(record.get(name))
            if value is None or (self.of_texts and isinstance(value, str) and is_missing(value)):
                continue
            try:
                return True, parsers[name](value)
            except ValueError as error:
                expected, *hint = error.args
                raise ConfigurationError(
                    f"{prefix}{name} must be {expected}, got {value!r}{''.join(hint)}"
                ) from None
        return False, None

    @property
    def example(self) -> str:
        """How to say it."""
        low, high = self.scale
        bounds = "4 and 5 are positive, 1 and 2 negative, 3 is left out"
        if self.scale != USUAL_SCALE:
            bounds = f"from {self._at(_POSITIVE):g} positive, up to {self._at(_NEGATIVE):g} negative"
        return (
            '"is_recommended": true or false, "label": "positive" or "negative", or '
            f'"rating": {low:g} to {high:g} ({bounds})'
        )

    def _at(self, share: float) -> float:
        low, high = self.scale
        return low + share * (high - low)

    def _flag(self, value: Any) -> bool:
        if self.of_texts and isinstance(value, str):
            value = _FLAGS.get(value.strip().casefold(), value)
        if value in (True, False):  # also 1 and 0, as databases export booleans
            return bool(value)
        raise ValueError("true or false")

    def _label(self, value: Any) -> bool | None:
        label = value.strip().casefold() if isinstance(value, str) else None
        if label in _LABELS:
            return _LABELS[label]
        raise ValueError('"positive", "negative" or "neutral"')

    def _rating(self, value: Any) -> bool | None:
        low, high = self.scale
        try:
            number = as_number(value, of_texts=self.of_texts)
        except (TypeError, ValueError):
            number = None
        if number is None or not low <= number <= high:
            raise ValueError(f"a number from {low:g} to {high:g}", self._other_scale(number))
        share = (number - low) / (high - low)
        return True if share >= _POSITIVE else False if share <= _NEGATIVE else None

    def _other_scale(self, number: float | None) -> str:
        """Return how to name the scale that a rating beyond this one may be of, or ""."""
        low, high = self.scale
        wider = [bound for bound in (5, 10, 100) if bound >= high and number is not None and number <= bound]
        if number is None or number < 0 or not wider:
            return ""
        return f" (for another scale: {self.advice.rating_scale(min(low, 0) if number < low else low, wider[0])})"


def lenient_polarity(record: Mapping[str, Any], *, of_texts: bool) -> bool | None:
    """Return whether a review is positive by its flag or label; None if neither says so. Its rating is not read."""
    told = {name: record.get(name) for name in POLARITY_FIELDS if name != "rating"}
    try:
        return Polarity(of_texts=of_texts).read(told, "")[1]
    except ConfigurationError:
        return None
