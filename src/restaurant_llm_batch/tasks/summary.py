"""`SummarizeAspects`: search a restaurant's reviews aspect by aspect, and have the model summarise them."""

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

Shown = Mapping[str, Sequence[Hit]]
"""The reviews that the model is shown, by aspect."""

_OVERALL = ""
"""Where the overall summary stands among the aspects; no aspect has this name."""


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
        score: object = self.min_score
        check(self, "limit", is_count(self.limit) and self.limit <= 1000, "1 to 1000")
        check(self, "min_score", isinstance(score, (int, float)) and -1 <= score <= 1, "-1 to 1")
        check(self, "mode", self.mode in ("single", "split"), '"single" or "split"')
        check_language(self)
        check_count(self, "max_tokens")
        check_temperature(self)
        object.__setattr__(self, "_texts", query_texts(self.aspects, self.language))

    @property
    def name(self) -> str:
        """What the task is called."""
        return "SummarizeAspects"

    @property
    def requires_search(self) -> bool:
        """It always searches."""
        return True

    def parse_item(self, raw: Any, /) -> RestaurantRef:
        """Check one item: an id, a mapping or a `RestaurantRef`."""
        if not isinstance(raw, (Mapping, RestaurantRef)):
            return RestaurantRef(as_item_id(raw, "restaurant_id"))
        from ._schemas import read_restaurant

        return read_restaurant(raw)

    def item_key(self, item: RestaurantRef, /) -> tuple[ItemId, int]:
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
        self, item: RestaurantRef, shown: Shown, categories: dict[str, AspectSummary], errors: list[Exception]
    ) -> Flow[tuple[str, str]]:
        """Ask about everything at once; fill in the categories, return the overall summary and the model."""
        language = self._language(shown)
        while True:
            request = self._about_all(item, shown, language)
            try:
                reply = yield from complete(request)
                break
            except PromptTooLong as error:
                shown = trimmed(shown, error)
        answer = _read(reply, shown)
        problem = next((part for part in answer.values() if isinstance(part, OutputError)), None)
        if problem is not None:
            again = yield from repair(request, reply, problem)
            if again is not None:
                better = _read(again, shown)
                answer = {
                    key: better[key] if isinstance(part, OutputError) else part
                    for key, part in answer.items()
                }
        overall = answer.pop(_OVERALL)
        for aspect, part in answer.items():
            _book(categories, errors, aspect, part)
        _raise_if_nothing_stands(categories, errors)
        if isinstance(overall, OutputError):
            raise overall
        return overall, reply.model

    def _about_all(self, item: RestaurantRef, shown: Shown, language: Language) -> LLMRequest:
        blocks = [prompts.reviews_block(aspect, hits, language) for aspect, hits in shown.items()]
        reviews = {aspect: _as_inputs(hits) for aspect, hits in shown.items()}
        schema = prompts.aspects_schema(tuple(shown))
        return self._request("aspect_summaries", item, language, "\n".join(blocks), schema, reviews=reviews)

    def _split(
        self, item: RestaurantRef, shown: Shown, categories: dict[str, AspectSummary], errors: list[Exception]
    ) -> Flow[tuple[str, str]]:
        """Ask about each aspect by itself, then for the overall summary."""
        language = self._language(shown)
        parts = yield from gather(*(self._aspect(item, *one, language) for one in shown.items()))
        for aspect, part in zip(shown, parts, strict=True):
            _book(categories, errors, aspect, reraise_fatal(part))
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
                return (yield from complete_and_parse(request, partial(_read_aspect, hits)))
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

    def _language(self, shown: Shown) -> Language:
        if self.language != "auto":
            return self.language
        return language_of(hit.content for hits in shown.values() for hit in hits)


def _as_inputs(hits: Sequence[Hit]) -> list[dict[str, Any]]:
    return [{"id": hit.review_id, "content": hit.content} for hit in hits]


def _read(reply: LLMResponse, shown: Shown) -> dict[str, Any]:
    """Return the parts of an answer by aspect, and the overall summary; an `OutputError` for what is not there."""
    try:
        answer = read_object(reply)
    except OutputError as error:
        return {**dict.fromkeys(shown, error), _OVERALL: error}
    found = answer.get("categories")
    given = found if isinstance(found, Mapping) else {}
    parts: dict[str, Any] = {}
    for aspect, hits in shown.items():
        try:
            parts[aspect] = read_aspect(given.get(aspect), hits, prompts.MAX_BULLETS, reply)
        except OutputError as error:
            parts[aspect] = error
    try:
        parts[_OVERALL] = read_overall(answer, reply)
    except OutputError as error:
        parts[_OVERALL] = error
    return parts


def _read_aspect(hits: Sequence[Hit], reply: LLMResponse) -> AspectSummary:
    return read_aspect(read_object(reply), hits, prompts.MAX_BULLETS, reply)


def _book(
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


def trimmed(shown: Shown, error: PromptTooLong) -> dict[str, Sequence[Hit]]:
    """
    Return the better half of the reviews of each aspect; of single reviews, the first half of the text.

    Raises:
        PromptTooLong: When nothing would be left of them.
    """
    if any(len(hits) > 1 for hits in shown.values()):
        return {aspect: list(hits[: (len(hits) + 1) // 2]) for aspect, hits in shown.items()}
    cut: dict[str, Sequence[Hit]] = {aspect: [_cut(hit) for hit in hits] for aspect, hits in shown.items()}
    if all(hits == cut[aspect] for aspect, hits in shown.items()):
        raise error
    return cut


def _cut(hit: Hit) -> Hit:
    half = truncate_to_half(hit.content)
    return hit if half is None else replace(hit, content=half)


def _failed(error: Exception) -> AspectSummary:
    return AspectSummary(status="failed", error=describe_error(error))


def _raise_if_nothing_stands(categories: Mapping[str, AspectSummary], errors: Sequence[Exception]) -> None:
    if errors and not any(category.status == "ok" for category in categories.values()):
        raise errors[0]
