"""One item of a run, with what is behind its result: sentences, reviews, prompts, answers, and each attempt."""

from __future__ import annotations

import sqlite3
from typing import Any

from .._explain import ExplainedCall, Explanation, ShownReview, explain
from .overview import recorded_run
from .ranges import in_run


def item(connection: sqlite3.Connection, run: int, place: int) -> dict[str, Any]:
    """
    Return an item by its place in the input.

    Raises:
        LookupError: There is no such run, or no such item in it.
    """
    recorded = recorded_run(connection, run)
    row_id = (run << 32) + place + 1
    named = f"SELECT item_json FROM items WHERE {in_run('id')} AND id = ?2"  # nosec B608
    row = connection.execute(named, (run, row_id)).fetchone()
    if row is None:
        raise LookupError(f"run {run} has no item at place {place}")
    found = explain(connection, recorded, row_id)
    near = connection.execute(
        f"SELECT (SELECT max(place) FROM items WHERE {in_run('id')} AND id < ?2), "
        f"(SELECT min(place) FROM items WHERE {in_run('id')} AND id > ?2)",  # nosec B608
        (run, row_id),
    ).fetchone()
    return {**explanation_json(found), "id": row[0], "before": near[0], "after": near[1]}


def explanation_json(found: Explanation) -> dict[str, Any]:
    """Return an explanation as JSON can hold it; each review is there once, and referred to by its number."""
    numbers: dict[tuple[str | None, str], int] = {}
    reviews: list[dict[str, Any]] = []

    def number(review: ShownReview) -> int:
        key = (_name(review), review.content)  # a search's review may stand under several aspects
        if key not in numbers:
            numbers[key] = len(reviews)
            reviews.append(_review(review))
        parts = reviews[numbers[key]]["parts"]
        if review.part and review.part not in parts:
            parts.append(review.part)
        return numbers[key]

    calls = [_call(call, [number(review) for review in call.reviews]) for call in found.calls]
    sentences = [
        {
            "path": sentence.path,
            "text": sentence.text,
            "calls": sentence.calls,
            "reviews": list(dict.fromkeys(number(review) for review in sentence.reviews)),
        }
        for sentence in found.sentences
    ]
    recorded = {name: value for name, value in dict(found.item).items() if name != "item_id"}
    return {
        **recorded,
        "result": found.result,
        "sentences": sentences,
        "calls_made": calls,
        "reviews": reviews,
        "missing": found.missing,
    }


def _review(review: ShownReview) -> dict[str, Any]:
    return {"parts": [], "id": _name(review), "content": review.content}


def _name(review: ShownReview) -> str | None:
    """Return the id of a review, or the one in the prompt if its own is not known."""
    return review.shown_as if review.review_id is None else str(review.review_id)


_ATTEMPT = (
    *("attempt", "outcome", "queued", "started", "ended", "slot_seconds", "rate_seconds", "retry_seconds"),
    *(
        "prompt_tokens",
        "completion_tokens",
        "cached_tokens",
        "cost",
        "finish_reason",
        "error_type",
        "status",
        "error",
    ),
)


def _call(call: ExplainedCall, reviews: list[int]) -> dict[str, Any]:
    return {
        "stage": call.attempts[-1].stage,
        "label": call.label,
        "model": call.model,
        "attempts": [{name: getattr(attempt, name) for name in _ATTEMPT} for attempt in call.attempts],
        "messages": [dict(message) for message in call.messages],
        "answer": call.answer,
        "reviews": reviews,
        "made_for": None if call.made_for is None else str(call.made_for),
    }
