"""`SummarizeAspects`: search a restaurant's reviews aspect by aspect, and have the model summarise them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import BatchError, ConfigurationError
from ..models import (
    AspectSummary,
    Hit,
    ItemId,
    LLMReply,
    LLMRequest,
    RestaurantRef,
    RestaurantSummary,
    SearchQuery,
    as_item_id,
)
from ..steps import Flow, complete, search_all, together
from . import prompts
from .aspects import Aspects, query_texts
from .language import language_of
from .parsing import read_aspect, read_object, read_overall
from .prompts import Language

Shown = Mapping[str, Sequence[Hit]]
"""The reviews that the model is shown, by aspect."""


@dataclass(frozen=True)
class SummarizeAspects:
    """
    Summarise restaurants aspect by aspect, and overall.

    Items are restaurant ids, or mappings ``{"restaurant_id", "limit"?, "priority"?, "query"?}`` (see
    `RestaurantRef`). For each aspect one search, restricted to the restaurant, finds the reviews that the
    model is shown. An aspect whose search or call fails is reported as failed while the others stand; the
    restaurant fails when nothing could be summarised. Without any review it succeeds, and no call is made.

    Attributes:
        limit: Most reviews shown per aspect.
        min_score: Least dense similarity of a review to the aspect's words, -1 to 1; 0.0 for no bound.
        mode: "single": one call for everything; "split": one per aspect, then one for the overall summary.
        language: What is searched in and answered in: "ko", "en", or "auto" for the words of both and the
            language of the reviews found.
        aspects: Names of aspects, or a mapping of aspect to seed words (for any language, or by language).
        max_tokens: The longest answer, in tokens.
        temperature: Sampling temperature.

    Raises:
        ConfigurationError: When a field is out of its bounds.
    """

    limit: int = 10
    min_score: float = 0.0
    mode: Literal["single", "split"] = "single"
    language: Literal["ko", "en", "auto"] = "ko"
    aspects: Aspects = ("service", "price", "food")
    max_tokens: int = 1500
    temperature: float = 0.1
    _texts: Mapping[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check(
            "limit",
            self.limit,
            1 <= self.limit <= 1000,
            "1 to 1000",
        )
        _check("min_score", self.min_score, -1 <= self.min_score <= 1, "-1 to 1")
        _check("mode", self.mode, self.mode in ("single", "split"), '"single" or "split"')
        languages = ("ko", "en", "auto")
        _check("language", self.language, self.language in languages, '"ko", "en" or "auto"')
        _check("max_tokens", self.max_tokens, self.max_tokens >= 1, "at least 1")
        _check("temperature", self.temperature, self.temperature >= 0, "at least 0")
        object.__setattr__(self, "_texts", query_texts(self.aspects, self.language))

    @property
    def name(self) -> str:
        """What the task is called."""
        return "SummarizeAspects"

    @property
    def needs_search(self) -> bool:
        """It always searches."""
        return True

    def read(self, raw: Any, /) -> RestaurantRef:
        """Check one item: an id, a mapping or a `RestaurantRef`."""
        if not isinstance(raw, (Mapping, RestaurantRef)):
            return RestaurantRef(as_item_id(raw, "restaurant_id"))
        from .forms import read_restaurant

        return read_restaurant(raw)

    def identify(self, item: RestaurantRef, /) -> tuple[ItemId, int]:
        """Return the restaurant's id and priority."""
        return item.restaurant_id, item.priority

    def flow(self, item: RestaurantRef, /) -> Flow[RestaurantSummary]:
        """Search, ask, read."""
        found = yield from search_all(self._queries(item))
        categories: dict[str, AspectSummary] = {}
        shown: dict[str, Sequence[Hit]] = {}
        errors: list[Exception] = []
        for aspect, hits in zip(self._texts, found, strict=True):
            if isinstance(hits, Exception):
                categories[aspect] = _failed(hits)
                errors.append(hits)
            elif hits:
                shown[aspect] = hits
            else:
                categories[aspect] = AspectSummary(status="no_reviews")
        overall = model = ""
        if shown:
            answer = self._single if self.mode == "single" else self._split
            overall, model = yield from answer(item, shown, categories, errors)
        elif errors:
            raise errors[0]
        ordered = {aspect: categories[aspect] for aspect in self._texts}
        return RestaurantSummary(item.restaurant_id, overall, model, ordered)

    def _queries(self, item: RestaurantRef) -> Iterable[SearchQuery]:
        for aspect, text in self._texts.items():
            yield SearchQuery(
                item.restaurant_id,
                f"{text} {item.query}" if item.query else text,
                item.limit or self.limit,
                self.min_score,
                aspect,
            )

    def _single(
        self,
        item: RestaurantRef,
        shown: Shown,
        categories: dict[str, AspectSummary],
        errors: list[Exception],
    ) -> Flow[tuple[str, str]]:
        """Ask about everything at once; fill in the categories, return the overall summary and the model."""
        language = self._language(shown)
        blocks = [prompts.reviews_block(aspect, hits, language) for aspect, hits in shown.items()]
        reviews = {aspect: _as_inputs(hits) for aspect, hits in shown.items()}
        schema = prompts.aspects_schema(tuple(shown))
        request = self._request(
            "aspect_summaries", item, language, "\n".join(blocks), schema, reviews=reviews
        )
        reply = yield from complete(request)
        answer = read_object(reply)
        parts = answer.get("categories")
        for aspect, hits in shown.items():
            part = parts.get(aspect) if isinstance(parts, Mapping) else None
            _read_into(categories, errors, aspect, part, hits, reply)
        _raise_if_nothing_stands(categories, errors)
        return read_overall(answer, reply), reply.model

    def _split(
        self,
        item: RestaurantRef,
        shown: Shown,
        categories: dict[str, AspectSummary],
        errors: list[Exception],
    ) -> Flow[tuple[str, str]]:
        """Ask about each aspect by itself, then for the overall summary."""
        language = self._language(shown)
        asked = [
            complete(
                self._request(
                    "aspect_summary",
                    item,
                    language,
                    prompts.reviews_block(aspect, hits, language),
                    prompts.aspect_schema(),
                    aspect=aspect,
                    reviews=_as_inputs(hits),
                )
            )
            for aspect, hits in shown.items()
        ]
        replies = yield from together(*asked)
        for (aspect, hits), reply in zip(shown.items(), replies, strict=True):
            if isinstance(reply, Exception):
                categories[aspect] = _failed(reply)
                errors.append(reply)
                continue
            try:
                part: Any = read_object(reply)
            except BatchError as error:
                categories[aspect] = _failed(error)
                errors.append(error)
            else:
                _read_into(categories, errors, aspect, part, hits, reply)
        _raise_if_nothing_stands(categories, errors)
        summaries = {a: categories[a].summary for a in shown if categories[a].status == "ok"}
        request = self._request(
            "overall_summary",
            item,
            language,
            prompts.summaries_block(summaries, language),
            prompts.overall_schema(),
            summaries=summaries,
        )
        reply = yield from complete(request)
        return read_overall(read_object(reply), reply), reply.model

    def _request(
        self,
        task: str,
        item: RestaurantRef,
        language: Language,
        data: str,
        schema: Mapping[str, Any],
        **inputs: Any,
    ) -> LLMRequest:
        return LLMRequest(
            task,
            (prompts.instructions(task, language), {"role": "user", "content": data}),
            schema,
            {"restaurant_id": item.restaurant_id, "language": language, **inputs},
            self.max_tokens,
            self.temperature,
            item.priority,
        )

    def _language(self, shown: Shown) -> Language:
        if self.language != "auto":
            return self.language
        return language_of(hit.content for hits in shown.values() for hit in hits)


def _as_inputs(hits: Sequence[Hit]) -> list[dict[str, Any]]:
    return [{"id": hit.review_id, "content": hit.content} for hit in hits]


def _read_into(
    categories: dict[str, AspectSummary],
    errors: list[Exception],
    aspect: str,
    part: Any,
    hits: Sequence[Hit],
    reply: LLMReply,
) -> None:
    try:
        categories[aspect] = read_aspect(part, hits, prompts.MOST_BULLETS, reply)
    except BatchError as error:
        categories[aspect] = _failed(error)
        errors.append(error)


def _failed(error: Exception) -> AspectSummary:
    return AspectSummary(status="failed", error=f"{type(error).__name__}: {error}")


def _raise_if_nothing_stands(categories: Mapping[str, AspectSummary], errors: Sequence[Exception]) -> None:
    if errors and not any(category.status == "ok" for category in categories.values()):
        raise errors[0]


def _check(name: str, value: object, fine: bool, bounds: str) -> None:
    if not fine:
        raise ConfigurationError(f"SummarizeAspects.{name} must be {bounds}, got {value!r}")
