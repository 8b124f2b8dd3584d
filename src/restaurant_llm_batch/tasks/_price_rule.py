"""
The price rule: a summary of the price must rest on a review that speaks of it.

A search for reviews about the price finds the nearest ones, also if none is about it, and a model that must summarise
them invents something. The rule changes results only, not prompts: what a review says must not change a prompt outside
of its own place, and stored replies stay valid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from .._nlp.price_words import mentions_price
from ..results import AspectSummary
from ..tokens.sentences import sentences
from ._citations import MAX_NAMED, dropped_cell
from ._parsing import Shown
from ._prompts.wording import Language

PRICE = "price"
"""The name of the only aspect that the rule is for."""

HARDLY_MENTIONED: Mapping[Language, str] = {
    "ko": "가격을 언급한 리뷰가 거의 없습니다.",
    "en": "The reviews hardly mention the price.",
}


def with_basis(part: AspectSummary, shown: Shown, language: Language) -> AspectSummary:
    """
    Return a summary of the price if it has a basis, or the sentence that the reviews hardly mention the price.

    Args:
        part: The summary.
        shown: The reviews that it is about; looked at only if it cites none.
        language: Language of the sentence.
    """
    texts = [one.snippet for one in part.evidence] or [hit.content for _, hit in shown]
    sentence = HARDLY_MENTIONED[language]
    if part.summary == sentence or any(map(mentions_price, texts)):
        return part
    reason = "no review that it cites mentions the price" if part.evidence else "no review mentions the price"
    dropped = [dropped_cell("summary", part.summary, reason)]
    dropped += [dropped_cell("bullets", bullet, reason) for bullet in part.bullets]
    return replace(
        part,
        summary=sentence,
        bullets=(),
        evidence=(),
        dropped=tuple([*dropped, *part.dropped][:MAX_NAMED]),
        replaced=True,
    )


def without_price(
    overall: str, summaries: Iterable[AspectSummary], shown: Mapping[str, Shown], language: Language
) -> str:
    """
    Return an overall summary without its sentences about the price, if no review at all mentions the price.

    Args:
        overall: The overall summary.
        summaries: Those of the aspects; if no sentence is left, their texts stand in for the overall summary.
        shown: The reviews of all aspects.
        language: Language of the summary.
    """
    if not mentions_price(overall) or any(
        mentions_price(hit.content) for hits in shown.values() for _, hit in hits
    ):
        return overall
    left = [one for one in sentences(overall) if not mentions_price(one)]
    others = [part.summary for part in summaries if not (part.replaced or mentions_price(part.summary))]
    return " ".join(left or others) or HARDLY_MENTIONED[language]
