"""Rows of a record that hold texts: prompts, the reviews in them, answers and results. Made in the writing thread."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import count
from typing import Any, TypeAlias

from ..events import CacheHit, CallStarted
from ..models import ItemId, LLMRequest
from ..outcomes import Outcome
from ._shown import hit_ids, shown_texts
from ._statements import ANSWER, PROMPT, RESULT, REVIEW, Batch
from ._values import id_texts, sql_integer, sql_name, sql_text, to_json

log = logging.getLogger("restaurant_llm_batch")

AddTexts: TypeAlias = Callable[[Batch], object]
"""Adds rows of texts to those of a run."""


class TextRows:
    """Texts of one run, with what is known of its open items: the ids of the reviews that their searches found."""

    def __init__(self) -> None:
        self._next_review = count(1).__next__
        self._found: dict[ItemId, dict[str, ItemId]] = {}  # ids of the hits of open items, by their text

    def add_hits(self, item_id: ItemId, hits: Any, batch: Batch) -> None:
        """Remember what an item's search has found."""
        self._found.setdefault(item_id, {}).update(hit_ids(hits))

    def add_prompt(self, event: CallStarted | CacheHit, batch: Batch) -> None:
        """Add the prompt of a call to the model and the reviews in it; a search has none."""
        request: object = event.request
        if not isinstance(request, LLMRequest):
            return
        try:
            messages = to_json([dict(message) for message in request.messages])
            form = None if request.schema is None else to_json(request.schema)
            shown = list(shown_texts(request.inputs))
        except Exception:  # a user's own mapping may raise anything
            log.warning("a prompt of %r cannot be recorded", request.task, exc_info=True)
            return
        row = event.call, messages, sql_integer(int(request.max_tokens)), float(request.temperature), form
        batch.setdefault(PROMPT, []).append(row)
        found = self._found.get(event.item_id, {})
        reviews = batch.setdefault(REVIEW, [])
        for part, place, shown_as, content in shown:
            review_id = found.get(content)
            known = (None, None) if review_id is None else id_texts(review_id)
            named = sql_name(part), place, id_texts(shown_as)[0]
            reviews.append((self._next_review(), event.call, *named, *known, sql_text(content)))

    def add_answer(self, number: int, text: str, batch: Batch) -> None:
        """Add the answer of a call, by the number of its row."""
        batch.setdefault(ANSWER, []).append((number, sql_text(text)))

    def end_item(self, number: int, outcome: Outcome[object], batch: Batch) -> None:
        """Add the result of an item, by the number of its row, if it has one."""
        if outcome.item_id is not None:
            self._found.pop(outcome.item_id, None)
        if outcome.ok:
            batch.setdefault(RESULT, []).append((number, to_json(outcome.value)))
