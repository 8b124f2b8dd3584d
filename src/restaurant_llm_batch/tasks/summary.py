"""`SummarizeAspects`: summaries of a restaurant by aspect and overall, from reviews found by search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from .._llm_response import LLMResponse
from ..errors import OutputError, PromptTooLong
from ..models import Hit, ItemId, LLMRequest, RestaurantRef, SearchQuery, as_item_id
from ..results import AspectSummary, RestaurantSummary
from ..steps import Flow, complete, gather, search_all
from ..tokens.packing import truncate_to_half
from ._asking import complete_and_parse, repair
from ._common import (
    check,
    check_count,
    check_language,
    check_temperature,
    describe_error,
    is_count,
    language_of,
    reraise_fatal,
)
from ._parsing import read_aspect, read_object, read_overall
from ._prompts import aspects as prompts
from ._prompts.aspects import Language
from .aspects import Aspects, query_texts

HitsByAspect = Mapping[str, Sequence[Hit]]
"""The reviews in a prompt, by aspect; the model cites a review by its index in its aspect."""

_OVERALL = ""
"""Key of the overall summary among the parsed aspects; no aspect has this name."""


@dataclass(frozen=True)
class SummarizeAspects:
    """
    Summarise restaurants aspect by aspect, and overall.

    Items are restaurant ids, or mappings ``{"restaurant_id", "limit"?, "priority"?, "query"?}`` (see
    `RestaurantRef`). For each aspect, one search among the restaurant's reviews finds those for the prompt. If the
    search or the call of an aspect fails, that aspect is reported as failed and the others stand; the restaurant fails
    if every aspect does. A restaurant without any review succeeds without a call.

    Attributes:
        limit: Maximum number of reviews per aspect.
        min_score: Minimum dense cosine similarity of a review to the query text, -1 to 1; 0.0 for no bound.
        mode: "single": one call for everything; "split": one call per aspect, then one for the overall summary.
        language: Language of seed words and replies: "ko", "en", or "auto" for the seed words of both and the
            language of the reviews found.
        aspects: Names of aspects, or a mapping of aspect to seed words (for any language, or by language).
        max_tokens: Maximum length of a reply, in tokens.
        temperature: Sampling temperature.

    Raises:
        ConfigurationError: A field is out of its bounds.
    """

    limit: int = 10
    min_score: float = 0.0
    mode: Literal["single", "split"] = "single"
    language: Literal["ko", "en", "auto"] = "ko"
    aspects: Aspects = ("service", "price", "food")
    max_tokens: int = 1500
    temperature: float = 0.1
    _query_texts: Mapping[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        score: object = self.min_score
        check(self, "limit", is_count(self.limit) and self.limit <= 1000, "1 to 1000")
        check(self, "min_score", isinstance(score, (int, float)) and -1 <= score <= 1, "-1 to 1")
        check(self, "mode", self.mode in ("single", "split"), '"single" or "split"')
        check_language(self)
        check_count(self, "max_tokens")
        check_temperature(self)
        # Once per task and not per item: the texts are the same for every restaurant. A frozen dataclass sets a
        # derived field through `object`.
        object.__setattr__(self, "_query_texts", query_texts(self.aspects, self.language))

    @property
    def name(self) -> str:
        """The task's name in events, errors and requests: SummarizeAspects."""
        return "SummarizeAspects"

    @property
    def requires_search(self) -> bool:
        """True: each aspect's reviews are searched for."""
        return True

    def parse_item(self, raw: Any, /) -> RestaurantRef:
        """
        Validate one item: an id, a mapping or a `RestaurantRef`.

        Raises:
            ConfigurationError: The item is invalid; the message names every wrong field.
        """
        if not isinstance(raw, (Mapping, RestaurantRef)):
            return RestaurantRef(as_item_id(raw, "restaurant_id"))
        from ._schemas import read_restaurant

        return read_restaurant(raw)

    def item_key(self, item: RestaurantRef, /) -> tuple[ItemId, int]:
        """Return the restaurant's id and priority."""
        return item.restaurant_id, item.priority

    def flow(self, item: RestaurantRef, /) -> Flow[RestaurantSummary]:
        """Return the flow of one item: search for each aspect, then summarise in one call or one per aspect."""
        results = yield from search_all(self._queries(item))
        categories: dict[str, AspectSummary] = {}
        hits_by_aspect: dict[str, Sequence[Hit]] = {}
        errors: list[Exception] = []
        for aspect, hits in zip(self._query_texts, results, strict=True):
            if isinstance(hits, Exception):
                categories[aspect] = _failed(hits)
                errors.append(hits)
            elif hits:
                hits_by_aspect[aspect] = hits
            else:
                categories[aspect] = AspectSummary(status="no_reviews")
        overall = model = ""
        if hits_by_aspect:
            summarize = self._single if self.mode == "single" else self._split
            overall, model = yield from summarize(item, hits_by_aspect, categories, errors)
        elif errors:
            raise errors[0]
        ordered = {aspect: categories[aspect] for aspect in self._query_texts}
        return RestaurantSummary(item.restaurant_id, overall, model, ordered)

    def _queries(self, item: RestaurantRef) -> Iterable[SearchQuery]:
        for aspect, text in self._query_texts.items():
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
        hits_by_aspect: HitsByAspect,
        categories: dict[str, AspectSummary],
        errors: list[Exception],
    ) -> Flow[tuple[str, str]]:
        """Summarise all aspects in one call; fill in `categories`, return the overall summary and the model."""
        language = self._language(hits_by_aspect)
        while True:
            request = self._request_for_all(item, hits_by_aspect, language)
            try:
                reply = yield from complete(request)
                break
            except PromptTooLong as error:
                hits_by_aspect = trimmed(hits_by_aspect, error)
        parts = _parse_parts(reply, hits_by_aspect)
        problem = next((part for part in parts.values() if isinstance(part, OutputError)), None)
        if problem is not None:
            second_reply = yield from repair(request, reply, problem)
            if second_reply is not None:
                # Valid parts of the first reply stay: the second may have lost them.
                repaired = _parse_parts(second_reply, hits_by_aspect)
                parts = {
                    key: repaired[key] if isinstance(part, OutputError) else part
                    for key, part in parts.items()
                }
        overall = parts.pop(_OVERALL)
        for aspect, part in parts.items():
            _record(categories, errors, aspect, part)
        _raise_if_all_failed(categories, errors)
        if isinstance(overall, OutputError):
            raise overall
        return overall, reply.model

    def _request_for_all(
        self, item: RestaurantRef, hits_by_aspect: HitsByAspect, language: Language
    ) -> LLMRequest:
        blocks = [prompts.reviews_block(aspect, hits, language) for aspect, hits in hits_by_aspect.items()]
        reviews = {aspect: _as_inputs(hits) for aspect, hits in hits_by_aspect.items()}
        schema = prompts.aspects_schema(tuple(hits_by_aspect))
        return self._request("aspect_summaries", item, language, "\n".join(blocks), schema, reviews=reviews)

    def _split(
        self,
        item: RestaurantRef,
        hits_by_aspect: HitsByAspect,
        categories: dict[str, AspectSummary],
        errors: list[Exception],
    ) -> Flow[tuple[str, str]]:
        """Summarise each aspect in its own call; fill in `categories`, return the overall summary and the model."""
        language = self._language(hits_by_aspect)
        parts = yield from gather(
            *(self._aspect(item, aspect, hits, language) for aspect, hits in hits_by_aspect.items())
        )
        for aspect, part in zip(hits_by_aspect, parts, strict=True):
            _record(categories, errors, aspect, reraise_fatal(part))
        _raise_if_all_failed(categories, errors)
        summaries = {
            aspect: categories[aspect].summary
            for aspect in hits_by_aspect
            if categories[aspect].status == "ok"
        }
        request = self._request(
            "overall_summary",
            item,
            language,
            prompts.summaries_block(summaries, language),
            prompts.overall_schema(),
            summaries=summaries,
        )
        return (
            yield from complete_and_parse(
                request, lambda reply: (read_overall(read_object(reply), reply), reply.model)
            )
        )

    def _aspect(
        self, item: RestaurantRef, aspect: str, hits: Sequence[Hit], language: Language
    ) -> Flow[AspectSummary]:
        while True:
            request = self._request(
                "aspect_summary",
                item,
                language,
                prompts.reviews_block(aspect, hits, language),
                prompts.aspect_schema(),
                aspect=aspect,
                reviews=_as_inputs(hits),
            )
            try:
                return (yield from complete_and_parse(request, partial(_parse_aspect, hits)))
            except PromptTooLong as error:
                hits = trimmed({aspect: hits}, error)[aspect]

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

    def _language(self, hits_by_aspect: HitsByAspect) -> Language:
        if self.language != "auto":
            return self.language
        return language_of(hit.content for hits in hits_by_aspect.values() for hit in hits)


def _as_inputs(hits: Sequence[Hit]) -> list[dict[str, Any]]:
    return [{"id": hit.review_id, "content": hit.content} for hit in hits]


def _parse_parts(reply: LLMResponse, hits_by_aspect: HitsByAspect) -> dict[str, Any]:
    """Parse a reply about all aspects; return each aspect and `_OVERALL`, with an `OutputError` for an invalid part."""
    try:
        answer = read_object(reply)
    except OutputError as error:
        return {**dict.fromkeys(hits_by_aspect, error), _OVERALL: error}
    found = answer.get("categories")
    categories = found if isinstance(found, Mapping) else {}
    parts: dict[str, Any] = {}
    for aspect, hits in hits_by_aspect.items():
        try:
            parts[aspect] = read_aspect(categories.get(aspect), hits, prompts.MAX_BULLETS, reply)
        except OutputError as error:
            parts[aspect] = error
    try:
        parts[_OVERALL] = read_overall(answer, reply)
    except OutputError as error:
        parts[_OVERALL] = error
    return parts


def _parse_aspect(hits: Sequence[Hit], reply: LLMResponse) -> AspectSummary:
    return read_aspect(read_object(reply), hits, prompts.MAX_BULLETS, reply)


def _record(
    categories: dict[str, AspectSummary],
    errors: list[Exception],
    aspect: str,
    part: AspectSummary | Exception,
) -> None:
    if isinstance(part, Exception):
        categories[aspect] = _failed(part)
        errors.append(part)
    else:
        categories[aspect] = part


def trimmed(hits_by_aspect: HitsByAspect, error: PromptTooLong) -> dict[str, Sequence[Hit]]:
    """
    Return the better half of each aspect's hits; if no aspect has more than one, the first half of their texts.

    Raises:
        PromptTooLong: No text can be truncated further; raises `error` itself.
    """
    if any(len(hits) > 1 for hits in hits_by_aspect.values()):
        return {aspect: list(hits[: (len(hits) + 1) // 2]) for aspect, hits in hits_by_aspect.items()}
    truncated: dict[str, Sequence[Hit]] = {
        aspect: [_truncated(hit) for hit in hits] for aspect, hits in hits_by_aspect.items()
    }
    if all(hits == truncated[aspect] for aspect, hits in hits_by_aspect.items()):
        raise error
    return truncated


def _truncated(hit: Hit) -> Hit:
    half = truncate_to_half(hit.content)
    return hit if half is None else replace(hit, content=half)


def _failed(error: Exception) -> AspectSummary:
    return AspectSummary(status="failed", error=describe_error(error))


def _raise_if_all_failed(categories: Mapping[str, AspectSummary], errors: Sequence[Exception]) -> None:
    if errors and not any(category.status == "ok" for category in categories.values()):
        raise errors[0]
