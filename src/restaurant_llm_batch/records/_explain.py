"""
Explanation: the calls, prompts, answers and reviews behind each sentence of a result.

Theory of operation. The result of an item is JSON in the record. Its texts are split into sentences, and a sentence
came from the calls whose answer has it: the answer's own JSON is read, so that escapes do not matter, and blanks and
Unicode forms are evened out. A sentence that no answer of the item has may be from a call that was made once for
several items, which is looked for in the whole run; or the library wrote it. The reviews that it rests on are those
that the result cites beside it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from .._page.result_texts import result_texts
from .._text import message_text
from .._values import composed
from ..models import ItemId
from ..tokens.sentences import sentences
from ._recorded import (
    ITEM,
    RecordedCall,
    RecordedItem,
    RecordedRun,
    call_of,
    calls_of_run,
    item_of,
    read_id,
    read_json,
)

WITHOUT_TEXTS = (
    "the prompts, answers, reviews and results of this run are not recorded; "
    'BatchRunner(record=Recording("night.db", texts=True)) or --record-texts keeps them'
)


@dataclass(frozen=True, slots=True)
class ShownReview:
    """
    A review, or another text, that the model was shown.

    Attributes:
        part: The aspect or kind under which it stood; "" for none.
        place: Its position there, from 0.
        shown_as: Its id in the prompt, which usually is a number from 1.
        review_id: Its own id, if a search found it or the result cites it; otherwise None.
        content: Its text, as it was shown.
    """

    part: str
    place: int
    shown_as: str | None
    review_id: ItemId | None
    content: str


@dataclass(frozen=True, slots=True)
class ExplainedCall:
    """
    A call with all of its attempts.

    Attributes:
        attempts: Its attempts, or the one row of a reply that was found in the store.
        messages: Its prompt; empty without texts.
        answer: The model's answer; None if there is none, or without texts.
        reviews: The reviews that the prompt shows.
        made_for: Id of the other item that it was made for, if this item only shares its answer; otherwise None.
    """

    attempts: tuple[RecordedCall, ...]
    messages: tuple[Mapping[str, str], ...] = ()
    answer: str | None = None
    reviews: tuple[ShownReview, ...] = ()
    made_for: ItemId | None = None

    @property
    def label(self) -> str:
        """The aspect searched for, or the request's task."""
        return self.attempts[-1].label

    @property
    def model(self) -> str:
        """The model that answered; empty if none did."""
        return next((attempt.model for attempt in reversed(self.attempts) if attempt.model), "")

    @property
    def tries(self) -> int:
        """Number of attempts; 0 if the reply was found in the store."""
        return sum(attempt.attempt > 0 for attempt in self.attempts)

    @property
    def prompt_tokens(self) -> int:
        """Tokens read by the model, in all attempts."""
        return sum(attempt.prompt_tokens or 0 for attempt in self.attempts)

    @property
    def completion_tokens(self) -> int:
        """Tokens written by the model, in all attempts."""
        return sum(attempt.completion_tokens or 0 for attempt in self.attempts)

    @property
    def cost(self) -> float | None:
        """Cost of all attempts; None if it is unknown."""
        return _sum(attempt.cost for attempt in self.attempts)

    def __str__(self) -> str:
        last = self.attempts[-1]
        tries = (
            "found in the store"
            if not self.tries
            else f"{self.tries} {'try' if self.tries == 1 else 'tries'}"
        )
        cost = "" if self.cost is None else f", cost {self.cost:.3g}"
        tokens = f", {self.prompt_tokens} + {self.completion_tokens} tokens" if last.stage == "llm" else ""
        seconds = "" if last.seconds is None else f", {last.seconds:.2f} s"
        batch = " in a batch" if last.batched else ""
        shared = "" if self.made_for is None else f", made for item {self.made_for!r}"
        model = f" by {self.model}" if self.model else ""
        outcome = "" if last.outcome in ("ok", "stored") else f", {last.outcome or 'no end'}"
        return f"{last.label}{model}: {tries}{batch}{tokens}{cost}{seconds}{outcome}{shared}"


@dataclass(frozen=True, slots=True)
class ExplainedSentence:
    """
    A sentence of a result.

    Attributes:
        path: Where it stands in the result, for example "categories.food.summary".
        text: The sentence.
        calls: The calls whose answers have it, as indices in `Explanation.calls`; empty if the library wrote it.
        reviews: The reviews that the result cites for it.
    """

    path: str
    text: str
    calls: tuple[int, ...]
    reviews: tuple[ShownReview, ...]


@dataclass(frozen=True, slots=True, repr=False)
class Explanation:
    """
    What is behind the result of an item; ``str()`` returns it in words.

    Attributes:
        run: The run.
        item: The item: its outcome, times and cost.
        result: The result, as JSON is read; None if it failed, or without texts.
        calls: Its calls, in the order in which they began.
        sentences: The sentences of the result, in its order.
        missing: What the record does not have; empty if nothing is missing.
    """

    run: RecordedRun
    item: RecordedItem
    result: Any
    calls: tuple[ExplainedCall, ...]
    sentences: tuple[ExplainedSentence, ...]
    missing: str

    @property
    def item_id(self) -> ItemId | None:
        """The item's id."""
        return self.item.item_id

    @property
    def reviews(self) -> tuple[ShownReview, ...]:
        """The reviews that its calls showed to the model, each once."""
        return tuple(dict.fromkeys(review for call in self.calls for review in call.reviews))

    def __str__(self) -> str:
        return "\n".join(message_text(line, 2000) for line in _lines(self))

    def __repr__(self) -> str:
        calls = "1 call" if len(self.calls) == 1 else f"{len(self.calls)} calls"
        return f"<Explanation of item {self.item_id!r} in run {self.run.run}: {calls}>"

    def _repr_html_(self) -> str:
        return f"<pre style='white-space:pre-wrap'>{escape(str(self))}</pre>"


def explain(connection: sqlite3.Connection, run: RecordedRun, row_id: int) -> Explanation:
    """
    Explain the result of an item.

    Args:
        connection: The record.
        run: The run.
        row_id: The id of the item's row.
    """
    item = item_of(connection.execute(ITEM, (run.run, row_id)).fetchone())
    calls = list(_calls(connection, "calls.item = ?2", run.run, row_id))
    row = connection.execute("SELECT result FROM results WHERE id = ?", (row_id,)).fetchone()
    result = None if row is None else read_json(row[0])
    found: list[ExplainedSentence] = []
    answers = [_evened(_spoken(call.answer)) for call in calls]
    for path, text, cited in result_texts(result):
        for sentence in sentences(text):
            wanted = _evened(sentence)
            behind = [index for index, answer in enumerate(answers) if wanted in answer]
            if not behind and (shared := _shared_call(connection, run.run, sentence)) is not None:
                calls.append(shared)
                answers.append(_evened(_spoken(shared.answer)))
                behind = [len(calls) - 1]
            found.append(ExplainedSentence(path, sentence, tuple(behind), _cited(calls, behind, path, cited)))
    return Explanation(run, item, result, tuple(calls), tuple(found), "" if run.texts else WITHOUT_TEXTS)


def _calls(
    connection: sqlite3.Connection, which: str, run: int, value: object, made_for: ItemId | None = None
) -> Iterator[ExplainedCall]:
    order = f"{which} ORDER BY calls.prompt, attempt, calls.id"
    rows = connection.execute(f"{calls_of_run(connection)} AND {order}", (run, value)).fetchall()
    ids = connection.execute(f"{_IDS} AND {order}", (run, value)).fetchall()
    attempts: dict[int, list[tuple[int, RecordedCall]]] = {}
    for (row_id,), row in zip(ids, rows, strict=True):
        call = call_of(row)
        attempts.setdefault(call.call, []).append((row_id, call))
    for number, made in attempts.items():
        prompt = (run << 32) + number
        row = connection.execute("SELECT messages FROM prompts WHERE id = ?", (prompt,)).fetchone()
        shown = connection.execute(
            "SELECT part, place, shown_as, review_json, content FROM reviews WHERE prompt = ? ORDER BY id",
            (prompt,),
        )
        yield ExplainedCall(
            tuple(call for _, call in made),
            () if row is None else _messages(row[0]),
            _answer(connection, [row_id for row_id, _ in made]),
            tuple(
                ShownReview(part, place, shown_as, read_id(written), content)
                for part, place, shown_as, written, content in shown
            ),
            made_for,
        )


def _messages(written: str) -> tuple[Mapping[str, str], ...]:
    found = read_json(written)
    return tuple(one for one in found if isinstance(one, dict)) if isinstance(found, list) else ()


_IDS = "SELECT calls.id FROM calls WHERE calls.id >= ?1 << 32 AND calls.id < (?1 + 1) << 32"


def _answer(connection: sqlite3.Connection, ids: Sequence[int]) -> str | None:
    """Return the answer of the last attempt that has one."""
    for row_id in reversed(ids):
        row = connection.execute("SELECT text FROM answers WHERE id = ?", (row_id,)).fetchone()
        if row is not None:
            return str(row[0])
    return None


def _shared_call(connection: sqlite3.Connection, run: int, sentence: str) -> ExplainedCall | None:
    """Return the call of another item in the run whose answer has a sentence."""
    row = connection.execute(
        "SELECT calls.prompt, items.item_json FROM answers JOIN calls ON calls.id = answers.id "
        "LEFT JOIN items ON items.id = calls.item WHERE answers.id >= ?1 << 32 AND answers.id < (?1 + 1) << 32 "
        "AND (instr(text, ?2) OR instr(text, ?3)) LIMIT 1",
        (run, sentence, json.dumps(sentence)[1:-1]),
    ).fetchone()
    if row is None:
        return None
    return next(_calls(connection, "calls.prompt = ?2", run, row[0], read_id(row[1])), None)


def _cited(
    calls: Sequence[ExplainedCall], behind: Sequence[int], path: str, cited: Sequence[Any]
) -> tuple[ShownReview, ...]:
    """Return the shown reviews that citations name: by the review's id, or by the number that an own form has."""
    shown = [review for index in behind for review in calls[index].reviews]
    parts = path.replace("[", ".").split(".")
    under = [review for review in shown if review.part in parts] or shown
    found = [review for one in cited for review in _named(one, under)]
    return tuple(dict.fromkeys(found))


def _named(citation: Any, shown: Sequence[ShownReview]) -> Iterator[ShownReview]:
    """Yield the review that a citation names; a review that is not among those that were shown, as it is cited."""
    if not isinstance(citation, dict):
        yield from (review for review in shown if review.shown_as == str(citation))
        return
    review_id, snippet = citation.get("review_id"), str(citation.get("snippet", ""))
    start = _evened(snippet).rstrip("…. ")
    same_id = (review for review in shown if review.review_id == review_id)
    same_text = (review for review in shown if start and _evened(review.content).startswith(start))
    review = next(same_id, None) or next(same_text, None)
    yield (
        ShownReview("", 0, None, review_id, snippet)
        if review is None
        else replace(review, review_id=review_id)
    )


def _spoken(answer: str | None) -> str:
    """Return the words of an answer: the texts of its JSON if it is JSON, otherwise the answer itself."""
    if answer is None:
        return ""
    start, end = answer.find("{"), answer.rfind("}")
    try:
        return "\n".join(_words(json.loads(answer[start : end + 1])))
    except (ValueError, RecursionError):
        return answer


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, part in value.items():
            yield name
            yield from _words(part)
    elif isinstance(value, list):
        for part in value:
            yield from _words(part)


def _evened(text: str) -> str:
    return " ".join(composed(text).split())


def _sum(costs: Iterator[float | None]) -> float | None:
    known = [cost for cost in costs if cost is not None]
    return sum(known) if known else None


_MAX_LINES = 40
"""Most lines of a prompt or an answer that are printed; `Explanation.calls` has all of them."""


def _lines(explanation: Explanation) -> Iterator[str]:
    item, run = explanation.item, explanation.run
    yield f"item {item.item_id!r} in {run}"
    end = item.outcome or "no end: it was open when this was recorded"
    if item.error:
        end = f"failed at {item.stage}: {item.error}"
    cost = "" if item.cost is None else f", cost {item.cost:.3g}"
    seconds = "" if item.seconds is None else f" after {item.seconds:.2f} s"
    yield f"{end}{seconds}; {item.calls} calls, {item.prompt_tokens} + {item.completion_tokens} tokens{cost}"
    if explanation.missing:
        yield f"Missing: {explanation.missing}"
    for sentence in explanation.sentences:
        behind = (
            ", ".join(f"call {index + 1}" for index in sentence.calls)
            or "no answer has it: the library wrote it"
        )
        yield ""
        yield f"{sentence.path}: {sentence.text}  <- {behind}"
        for review in sentence.reviews:
            yield f"    cites {review.review_id!r}: {review.content}"
    for number, call in enumerate(explanation.calls, 1):
        yield ""
        yield f"Call {number}: {call}"
        for attempt in call.attempts:
            waited = attempt.slot_seconds, attempt.rate_seconds, attempt.retry_seconds
            waits = [
                f"{seconds:.2f} s for {what}"
                for seconds, what in zip(waited, _WAITS, strict=True)
                if seconds > 0.005
            ]
            if attempt.attempt and (len(call.attempts) > 1 or waits or attempt.error):
                error = f": {attempt.error}" if attempt.error else ""
                wait = f", waited {', '.join(waits)}" if waits else ""
                yield f"  attempt {attempt.attempt}: {attempt.outcome or 'no end'}{error}{wait}"
        for message in call.messages:
            yield from _indented(f"  {message.get('role', 'message')}:", str(message.get("content", "")))
        if call.answer is not None:
            yield from _indented("  answer:", call.answer)


_WAITS = ("a slot", "a limit per minute", "a retry")


def _indented(title: str, text: str) -> Iterator[str]:
    yield title
    lines = text.splitlines()
    yield from (f"    {line}" for line in lines[:_MAX_LINES])
    if len(lines) > _MAX_LINES:
        yield f"    ... {len(lines) - _MAX_LINES} more lines"
