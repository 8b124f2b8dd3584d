"""Whether the guests of a file recommend the place, as far as the file says it, in one of several ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError
from ..models import Review
from ..tasks.reviews import SummarizeReviews
from ._reading import FileError, ReviewLines

_SORTED = ("positive_reviews", "negative_reviews")
_LABELS = {"positive": True, "negative": False, "neutral": None}
_LOWEST, _HIGHEST = 1, 5
_WAYS = (
    '"is_recommended": true or false, "label": "positive" or "negative", or '
    f'"rating": {_LOWEST} to {_HIGHEST} (4 and 5 are positive, 1 and 2 negative, 3 is left out)'
)


class OpinionLines(ReviewLines):
    """
    The reviews of a file, each with `is_recommended`; None where the file says that it is neither, or nothing.

    A review says it by its ``is_recommended``, ``label`` or ``rating``, the first of them that is not null; a
    line by having ``positive_reviews`` and ``negative_reviews``, as the items of `SummarizeReviews` have. Some
    reviews may say nothing, as long as others do.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._told = False
        self._first_silence: FileError | None = None

    def __iter__(self) -> Iterator[Review]:
        yield from super().__iter__()
        if self._first_silence is not None and not self._told:
            raise self._first_silence

    def _reviews(self, record: dict[str, Any]) -> Iterator[Review]:
        if not record.keys().isdisjoint(_SORTED):
            yield from self._sorted(record)
            return
        listed = record.get("reviews")
        records = listed if isinstance(listed, list) else [record]
        found = super()._reviews(record)  # complains of what is no review before its opinion is looked for
        for position, review in enumerate(found):
            where = "" if listed is None else f"reviews[{position}]."
            yield replace(review, is_recommended=self._opinion(records[position], where))

    def _opinion(self, record: Mapping[str, Any], where: str) -> bool | None:
        for field, read in _FIELDS.items():
            value = record.get(field)
            if value is not None:
                self._told = True
                try:
                    return read(value)
                except ValueError as error:
                    raise ConfigurationError(f"{where}{field} must be {error}, got {value!r}") from None
        if self._first_silence is None:
            self._first_silence = self.complaint(f"nothing says which reviews are positive; write {_WAYS}")
        return None

    def _sorted(self, record: dict[str, Any]) -> Iterator[Review]:
        # The part without reviews checks the id, and takes note of the restaurant and its name.
        yield from super()._reviews({**record, "reviews": []})
        given = {name: record[name] for name in ("restaurant_id", *_SORTED) if name in record}
        item = SummarizeReviews().read(given)
        self._told = True
        for reviews, recommended in ((item.positive_reviews, True), (item.negative_reviews, False)):
            for review in reviews:
                yield replace(review, restaurant_id=item.restaurant_id, is_recommended=recommended)


def _recommended(value: Any) -> bool:
    if value in (True, False):  # 1 and 0 too, which databases have for them
        return bool(value)
    raise ValueError("true or false")


def _labelled(value: Any) -> bool | None:
    if isinstance(value, str) and value in _LABELS:
        return _LABELS[value]
    raise ValueError('"positive", "negative" or "neutral"')


def _rated(value: Any) -> bool | None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not _LOWEST <= value <= _HIGHEST:
        raise ValueError(f"a number from {_LOWEST} to {_HIGHEST}")
    return True if value >= 4 else False if value <= 2 else None


_FIELDS: Mapping[str, Callable[[Any], bool | None]] = {
    "is_recommended": _recommended,
    "label": _labelled,
    "rating": _rated,
}
