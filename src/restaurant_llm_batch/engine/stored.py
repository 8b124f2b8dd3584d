"""
Asking with a store: what is there is not asked again, and an answer is on disk before its flow goes on.

Equal questions of a run that are in flight at once are asked once; whoever asks meanwhile waits for the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..models import LLMReply
from ..steps import Complete, Flow
from .intake import Entry
from .once import Cell, Join, Release
from .run import Run
from .store import Store
from .store_keys import request_key

Ask = Callable[[Complete, Entry, Run], Flow[LLMReply]]


@dataclass(frozen=True, slots=True)
class Await:
    """
    Wait for something that calls back. Answered with what it is called back with.

    Attributes:
        begin: Begins it; its argument is to be called once, from any thread, with None or what went wrong.
    """

    begin: Callable[[Callable[[Exception | None], object]], object]


def ask_with_store(ask: Ask, step: Complete, entry: Entry, run: Run, store: Store) -> Flow[LLMReply]:
    """
    Answer a question from the store, or ask it and keep the answer.

    Args:
        ask: Asks the model.
        step: The question.
        entry: The item it is for.
        run: The run.
        store: The store.
    """
    key = request_key(run.identity, step.request)
    while True:
        found = store.get(key)
        if found is not None:
            run.found()
            entry.underway = True
            entry.kept.append((found, key))
            return found
        cell = run.asking.get(key)
        if cell is None:
            return (yield from _lead(ask, step, entry, run, store, key))
        yield Join(cell)  # then look again: the answer is there, or it is this one's turn to ask


def _lead(ask: Ask, step: Complete, entry: Entry, run: Run, store: Store, key: bytes) -> Flow[LLMReply]:
    cell = run.asking[key] = Cell()
    reply: LLMReply | None = None
    error: Exception | None = None
    try:
        reply = yield from ask(step, entry, run)
        yield from _keep(reply, entry, run, store, key)
    except Exception as raised:
        error = raised
    del run.asking[key]
    yield Release(cell)
    if error is not None or reply is None:
        raise error or RuntimeError("a call ended without an answer")
    return reply


def _keep(reply: LLMReply, entry: Entry, run: Run, store: Store, key: bytes) -> Flow[None]:
    """Put an answer into the store and wait until it is on disk."""
    if reply.finish_reason != "stop":
        return  # cut off or declined: asked again in other words now, and anew the next time
    entry.kept.append((reply, key))
    failure: Any = yield Await(partial(store.put, key, reply))
    if failure is not None:
        run.stop(f"the store cannot be written: {failure}")
