"""
Recording of a run: every request that a task makes, counted, and the order in which each item makes its calls.

Theory of operation. The run is a simulated one. `Watcher` stands in place of the task: it runs the task's flows and
notes their steps in scripts. `Recorder` stands in place of the model: it counts each request that gets so far (those
in the store do not) and writes a likely answer. A request finds its place in a script by its identity.

A call "follows an answer" if its flow had got one before: what such a call asks, and whether it is made, may depend on
what a model says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, Literal, TypeAlias

from .._engine.items import RunItem
from .._llm_response import LLMResponse
from ..errors import ConfigurationError
from ..events import CacheHit, CallStarted, Event
from ..models import Hit, ItemId, LLMRequest, Message, SearchQuery
from ..protocols import LLMBackend, Task, TokenCounter
from ..steps import (
    Ask,
    Complete,
    Flow,
    Gather,
    Once,
    Search,
    SearchAll,
    Sleep,
    intercept,
)
from ._lengths import Count, Length, LikelyAnswers, Size, whole
from ._script import Gathered, PlannedCall, Script, Tally, calls_of
from .latency import SampledNumbers

MESSAGE_TOKENS, REPLY_TOKENS = 4, 3
"""
Tokens of a chat template for each message, and for the beginning of the reply.

The sum for two messages, 11, is that of OpenAI's models; Qwen's is 13, Llama's 15. (The budget of a batch has 16, so
that none exceeds it.)
"""
UNREADABLE = "I cannot say."
MAX_STEPS, FEW_STEPS, MAX_MANY_STEPS = 2000, 100, 100_000
"""Most steps of a flow in sequence; and most of all flows together, of those beyond a few of each."""
_KEPT = 512
_QUERIES_KEPT = 5000

Variant: TypeAlias = Size | Literal["unreadable"]


@dataclass(frozen=True, slots=True)
class PrefixCache:
    """How a service caches the beginnings of prompts: in blocks of so many tokens, from a least number on."""

    block: int = 16
    least: int = 16

    def cached(self, prefix: int) -> int:
        """Return the tokens that are read from the cache, of a prefix that was seen before."""
        whole = prefix // self.block * self.block
        return whole if whole >= self.least else 0


@dataclass(slots=True)
class _FlowState:
    """Whether a flow that is being run has got an answer."""

    answered: bool = False


@dataclass(slots=True)
class ItemRecord:
    """
    What an item asks for.

    Attributes:
        item_id: Its id.
        priority: Its priority.
        script: Its steps.
        searched: Its searches among its own reviews.
        hits: What they found.
        calls: Its calls, by kind.
        tokens: Tokens of their prompts, by kind.
    """

    item_id: ItemId
    priority: int
    script: Script = field(default_factory=list)
    searched: int = 0
    hits: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)


class Recorder:
    """
    Stands in place of the model: counts requests, and answers them with likely answers. It is also an observer.

    Args:
        count: Counts the tokens of a text.
        variant: How long the answers are; "unreadable" for answers that no task can use.
        answers: Answers the requests instead; None for answers made from their forms.
        cache: How the service caches prompts.
        model: Name of the model in the answers.
        context: The context length of the model, in tokens; None if it is not known.
        lengths: How long answers were in earlier runs, by task name of their requests.

    Attributes:
        kinds: Sums by task name of the requests.
        stored: Replies found in the store, by task name.
        repeated: Requests whose equal was made before, or is being made, in this run, by task name.
        searches: Number of searches.
        over_context: Number of prompts that fill the context or more.
        no_room: Number of prompts that fit into it, but not with their longest answer.
        items: What each item asked for, in the order of their start.
        once: The scripts of flows that are run once, by their keys.
        once_uses: How many items wanted each of these.
    """

    def __init__(
        self,
        count: TokenCounter,
        variant: Variant = "likely",
        answers: LLMBackend | None = None,
        cache: PrefixCache = PrefixCache(),
        model: str = "",
        context: int | None = None,
        lengths: Mapping[str, SampledNumbers] = {},
    ) -> None:
        self.kinds: dict[str, Tally] = {}
        self.stored: Counter[str] = Counter()
        self.repeated: Counter[str] = Counter()
        self._made: set[bytes] = set()
        self.searches = 0
        self.over_context = self.no_room = 0
        self.items: list[ItemRecord] = []
        self.once: dict[Hashable, Script] = {}
        self.once_uses: Counter[Hashable] = Counter()
        self._count: Count = whole(count)
        self._count_fixed = lru_cache(_KEPT)(self._count)
        self._variant = variant
        self._answers = answers
        self._cache = cache
        self._model = model
        self._context = context
        self._pending: dict[int, list[tuple[PlannedCall, ItemRecord]]] = {}
        self._likely = LikelyAnswers(count)
        self._lengths = lengths
        self._latest: dict[Hashable, Sequence[Message]] = {}

    def __call__(self, event: Event) -> None:
        """Count a reply that is in the store: from before, or from an equal call of this run."""
        if isinstance(event, CallStarted) and event.key is not None:
            self._made.add(event.key)
        elif isinstance(event, CacheHit):
            (self.repeated if event.key in self._made else self.stored)[event.label] += 1

    def expect(self, request: LLMRequest, call: PlannedCall, item: ItemRecord) -> None:
        """Note that a request is about to be made, for a place in a script."""
        self._pending.setdefault(id(request), []).append((call, item))

    def forget(self, request: LLMRequest, call: PlannedCall) -> None:
        """Note that a request is over; it has not been made if its reply was in the store."""
        left = [entry for entry in self._pending.get(id(request), ()) if entry[0] is not call]
        if left:
            self._pending[id(request)] = left
        else:
            self._pending.pop(id(request), None)

    def complete(self, request: LLMRequest, /) -> LLMResponse:
        """Count a request, and answer it."""
        expected = self._pending.get(id(request)) or [
            (PlannedCall("llm", follows_answer=True), ItemRecord("", 0))
        ]
        call, item = next((entry for entry in expected if not entry[0].prompt), expected[0])
        call.kind, call.prompt = request.task, self._prompt_tokens(request)
        text, call.length = self._answer(request)
        seen = self._lengths.get(request.task)
        if seen is not None:
            likely = min(request.max_tokens, max(1, round(seen.mean(call.prompt))))
            call.length = Length(likely, likely, likely, request.max_tokens)
        tally = self.kinds.setdefault(request.task, Tally())
        tally.add(call, min(call.prompt - 1, self._cache.cached(self._known_prefix(request))))
        item.calls[request.task] += 1
        item.tokens[request.task] += call.prompt
        if self._context is not None:
            self.over_context += call.prompt >= self._context
            self.no_room += call.prompt < self._context < call.prompt + call.length.most
        return LLMResponse(text, "stop", call.prompt, call.length.likely, self._model)

    def shared(self) -> dict[str, Tally]:
        """Return the sums of the calls that several items share: more items make no more of them."""
        kinds: dict[str, Tally] = {}
        for key, script in self.once.items():
            if self.once_uses[key] > 1:
                for call in calls_of(script):
                    kinds.setdefault(call.kind, Tally()).add(call, 0)
        return kinds

    def _answer(self, request: LLMRequest) -> tuple[str, Length]:
        if self._variant == "unreadable":
            return UNREADABLE, Length(1, 5, 10, request.max_tokens)
        if self._answers is not None:
            given = self._answers.complete(request)
            tokens = min(given.completion_tokens or self._count(given.text) or 1, request.max_tokens)
            high = min(request.max_tokens, round(1.4 * tokens))
            return given.text, Length(max(1, tokens // 2), tokens, max(tokens, high), request.max_tokens)
        return self._likely.text(request, self._variant), self._likely.length(request)

    def _prompt_tokens(self, request: LLMRequest) -> int:
        return REPLY_TOKENS + sum(map(self._message_tokens, request.messages))

    def _message_tokens(self, message: Message) -> int:
        # System messages are those that most requests of a task share.
        count = self._count_fixed if message.get("role") == "system" else self._count
        return MESSAGE_TOKENS + count(_content(message))

    def _known_prefix(self, request: LLMRequest) -> int:
        """Return the tokens at the beginning of a prompt that an earlier one began with too."""
        messages = request.messages
        keys: list[Hashable] = [request.task]
        if messages:
            keys.append((messages[0].get("role"), _content(messages[0])))
        before = [self._latest.get(key) for key in keys]
        self._latest.update(dict.fromkeys(keys, messages))
        return max((self._common(messages, earlier) for earlier in before if earlier is not None), default=0)

    def _common(self, messages: Sequence[Message], earlier: Sequence[Message]) -> int:
        tokens = 0
        for message, other in zip(messages, earlier, strict=False):
            if message == other:
                tokens += self._message_tokens(message)
                continue
            if message.get("role") == other.get("role"):
                text, begins = _content(message), _content(other)
                length = next(
                    (place for place, (one, two) in enumerate(zip(text, begins, strict=False)) if one != two),
                    min(len(text), len(begins)),
                )
                tokens += self._count(text[:length])
            break
        return tokens


def _content(message: Message) -> str:
    content: object = message.get("content")
    if isinstance(content, str):
        return content
    # A task of the user's own may send contents of several parts.
    parts = content if isinstance(content, (list, tuple)) else ()
    return "\n".join(str(part["text"]) for part in parts if isinstance(part, Mapping) and "text" in part)


Perform: TypeAlias = Callable[[Any], Generator[Any, Any, Any]]


class Watcher:
    """
    A task in place of another one, whose flows it runs and watches. Its items are `RunItem`s of that task.

    Args:
        task: The task.
        recorder: Gets what is seen.
        ask: Returns the flow that performs an `Ask`.
    """

    def __init__(
        self, task: Task[Any], recorder: Recorder, ask: Callable[[Ask, int], Flow[Any]] | None
    ) -> None:
        self._task = task
        self._recorder = recorder
        self._ask = ask
        self._many_steps = 0
        self.name: str = task.name if hasattr(task, "name") else type(task).__name__
        self.requires_search: bool = task.requires_search

    def parse_item(self, raw: RunItem, /) -> RunItem:
        """Return the item, which is parsed already."""
        return raw

    def item_key(self, item: RunItem, /) -> tuple[ItemId, int]:
        """Return its id and priority."""
        return item.item_id, item.priority

    def flow(self, item: RunItem, /) -> Flow[Any]:
        """Return the flow of an item, which is watched."""
        flow = self._task.flow(item.item)
        if not isinstance(flow, Generator):
            return flow
        record = ItemRecord(item.item_id, item.priority)
        self._recorder.items.append(record)
        return self._watched(flow, record.script, _FlowState(), record)

    def _watched(self, flow: Flow[Any], script: Script, state: _FlowState, item: ItemRecord) -> Flow[Any]:
        return intercept(flow, partial(self._perform, script, state, item))

    def _perform(
        self, script: Script, state: _FlowState, item: ItemRecord, step: Any
    ) -> Generator[Any, Any, Any]:
        if len(script) >= FEW_STEPS:
            self._many_steps += 1
            if len(script) >= MAX_STEPS or self._many_steps > MAX_MANY_STEPS:
                raise _never_ends(len(script))
        kind = type(step)
        if kind is Complete:
            return (yield from self._complete(script, state, item, step))
        if kind is Ask and self._ask is not None:
            return (yield from self._watched(self._ask(step, item.priority), script, state, item))
        if kind is Search or kind is SearchAll:
            return (yield from self._search(script, item, step))
        if kind is Gather and all(isinstance(flow, Generator) for flow in step.flows):
            parts: list[Script] = [[] for _ in step.flows]
            states = [_FlowState(state.answered) for _ in step.flows]
            script.append(Gathered(parts))
            flows = zip(step.flows, parts, states, strict=True)
            found = yield Gather(tuple(self._watched(*one, item) for one in flows))
            state.answered = state.answered or any(one.answered for one in states)
            return found
        if kind is Once:
            return (yield from self._once(script, state, item, step))
        if kind is Sleep:
            script.append(step)
        return (yield step)

    def _complete(
        self, script: Script, state: _FlowState, item: ItemRecord, step: Complete
    ) -> Generator[Any, Any, Any]:
        call = PlannedCall(step.limiter, state.answered)
        script.append(call)
        self._recorder.expect(step.request, call, item)
        try:
            return (yield step)
        finally:
            self._recorder.forget(step.request, call)
            state.answered = True

    def _search(self, script: Script, item: ItemRecord, step: Search | SearchAll) -> Generator[Any, Any, Any]:
        script.append(step)
        queries = step.queries if isinstance(step, SearchAll) else (step.query,)
        self._recorder.searches += len(queries)
        found = yield step
        lists = found if isinstance(step, SearchAll) else [found]
        for query, hits in zip(queries, lists, strict=False):
            if query.scope == "restaurant" and not isinstance(hits, Exception):
                item.searched += 1
                item.hits += len(hits)
        return found

    def _once(
        self, script: Script, state: _FlowState, item: ItemRecord, step: Once
    ) -> Generator[Any, Any, Any]:
        script.append(step)
        self._recorder.once_uses[step.key] += 1

        def make() -> Flow[Any]:
            own: Script = []
            self._recorder.once[step.key] = own
            return self._watched(step.make(), own, _FlowState(state.answered), item)

        found = yield Once(step.key, make)
        state.answered = True
        return found


def _never_ends(steps: int) -> ConfigurationError:
    error = ConfigurationError(
        f"a flow of the task has taken {steps:,} steps, so it may wait for an answer that made-up ones do not give"
    )
    error.of_one_item = True
    return error


class RememberingSearch:
    """
    A search that makes no query twice, within the latest few thousand.

    Args:
        search: The search backend, with `search`.
    """

    def __init__(self, search: Any) -> None:
        self._search = search
        self.search: Callable[[SearchQuery], Sequence[Hit]] = lru_cache(_QUERIES_KEPT)(search.search)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._search, name)
