"""`ExtractVocabulary`: words and phrases of a document, extracted chunk by chunk and merged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from unicodedata import normalize

from .._llm_response import LLMResponse
from ..errors import OutputError, OutputTruncated, PromptTooLong
from ..models import Document, ItemId, LLMRequest
from ..results import ExtendedVocabulary, ExtendedWord, FailedChunk, Vocabulary, VocabularyKind, Word
from ..steps import Flow, ResultOrError, gather
from ..tokens.chunking import split_in_two, split_text
from ._asking import complete_and_parse
from ._citations import MAX_NAMED
from ._common import (
    check,
    check_count,
    check_temperature,
    check_wording,
    choose_wording,
    describe_error,
    raise_first,
    reraise_fatal,
)
from ._entries import Phrase, read_entries
from ._preview import Previewed
from ._prompts import words as prompts
from ._prompts.wording import Wording
from ._prompts.words import Extras
from ._replies import more_room_helps, unreadable

if TYPE_CHECKING:
    from .._rows.table import ItemTable

_MAX_SPLITS = 3
"""How many times a chunk may be halved, and its halves again: into 8 parts at most."""


Fits: TypeAlias = Callable[[Sequence[LLMRequest]], bool | None]
"""Returns whether calls fit into the model's memory side by side; None if that is unknown."""


def _unknown(requests: Sequence[LLMRequest]) -> None:
    """Say nothing of the model's memory."""


@dataclass(frozen=True)
class ExtractVocabulary(Previewed):
    """
    Extract the words and phrases of documents, each given as chunks.

    Items are mappings ``{"document_id", "chunks", "priority"?}`` (see `Document`); `split_text` makes chunks.
    Each chunk takes two calls, one for its words and one for its phrases; replies are merged in the order of the
    chunks, whatever order they came in. A chunk whose prompt or reply is too long is split in two, at most three
    levels deep; the entries that are whole in a reply stand, and only the text behind them is sent again. If a chunk
    fails, it is listed in the result's `failed_chunks` and the others stand; the document fails if all calls do. Blank
    chunks are not sent; a document of blank chunks succeeds without a call.

    Attributes:
        plan: "A": words and phrases of all chunks concurrently; "B": all words, then all phrases; "C": like "A"
            if `parallel` is set and the chunks fit, else like "B". Where the limit on tokens in flight is known, from
            `Limits.tokens_in_flight` or, with ``watch_server``, from the server, they fit if all their calls are within
            it; otherwise the two fields below say it.
        parallel: Whether plan "C" may choose "A".
        max_safe_chunks: Maximum number of chunks that are assumed to fit without knowing the GPU.
        max_concurrent_sequences: How many calls the GPU's memory holds at once, as computed by
            `max_concurrent_sequences`; None if unknown. Chunks fit if they need no more calls than this, whatever the
            limit on tokens says.
        language: Language of the meanings: "ko"; "en"; "auto" for the language of the chunks; or any other, by a code
            such as "ja" or a name.
        max_tokens: Maximum length of a reply, in tokens.
        temperature: Sampling temperature.
        instructions: Instructions of your own, which follow ours and come first where they differ; None for none.
        replace_instructions: Whether they stand in place of ours. Two things remain: that the text is data, and
            the form of the reply. `preview` shows the outcome.
        synonyms: Whether to ask for up to three synonyms of each word.
        examples: Whether to ask for an example of each word and phrase: a sentence of the text. What the model quotes
            is looked for in the chunk, and the sentence that it is, or is a part of, stands in the result; a quote
            that is not in the chunk is dropped and counted in `Vocabulary.dropped_examples`. Both make replies longer.

    Raises:
        ConfigurationError: A field is out of its bounds.
    """

    plan: Literal["A", "B", "C"] = "C"
    parallel: bool = False
    max_safe_chunks: int = 4
    max_concurrent_sequences: int | None = None
    language: str = "auto"
    max_tokens: int = 1500
    temperature: float = 0.0
    instructions: str | None = None
    replace_instructions: bool = False
    synonyms: bool = False
    examples: bool = False

    def __post_init__(self) -> None:
        check(self, "plan", self.plan in ("A", "B", "C"), '"A", "B" or "C"')
        for name in ("parallel", "synonyms", "examples"):
            check(self, name, isinstance(getattr(self, name), bool), "True or False")
        for name in ("max_safe_chunks", "max_concurrent_sequences"):
            value = getattr(self, name)
            valid = isinstance(value, int) and not isinstance(value, bool) and value >= 0
            optional = name == "max_concurrent_sequences"
            bounds = "a whole number of at least 0" + (", or None" if optional else "")
            check(self, name, valid or (optional and value is None), bounds)
        check_wording(self)
        check_count(self, "max_tokens")
        check_temperature(self)

    @property
    def name(self) -> str:
        """The task's name in events, errors and requests: ExtractVocabulary."""
        return "ExtractVocabulary"

    @property
    def requires_search(self) -> bool:
        """False: the items bring their reviews or texts."""
        return False

    def parse_item(self, raw: Any, /) -> Document:
        """
        Validate one item: a mapping or a `Document`.

        Raises:
            ConfigurationError: The item is invalid; the message names every wrong field.
        """
        from ._schemas import read_document

        return read_document(raw)

    def items_of_table(self, table: ItemTable, /) -> Iterable[Any]:
        """
        Return the items in the rows of a table; the runner calls it for a data frame and for what `read_items` returns.

        Rows are documents with ``chunks``, or texts (``text``, or reviews by restaurant), which are split.
        """
        from ._tables import grouped, has_reviews, rows_as_items

        if not has_reviews(table, "text"):
            return rows_as_items(table, Document, self.parse_item, self.item_key)
        return (
            Document(one, tuple(split_text("\n".join(text.content for text in texts))))
            for one, texts in grouped(table, restaurant_id="document_id", content="text")
        )

    def item_key(self, item: Document, /) -> tuple[ItemId, int]:
        """Return the document's id and priority."""
        return item.document_id, item.priority

    def flow(self, item: Document, /) -> Flow[Vocabulary]:
        """Return the flow of one item: extract from every chunk, split chunks that are too long, merge."""
        return self.flow_within(item, _unknown)

    def flow_within(self, item: Document, fits: Fits, /) -> Flow[Vocabulary]:
        """
        Return the flow of one item, at a model whose memory may be known.

        Args:
            item: The item.
            fits: Returns whether calls fit into the model's memory side by side, or None if that is unknown.
        """
        indices = [index for index, chunk in enumerate(item.chunks) if chunk.strip()]
        words, phrases = yield from self._extract_all(item, [item.chunks[index] for index in indices], fits)
        results = [*words, *phrases]
        raise_if_all_failed(results)
        good = without_errors(results)
        dropped = [name for result in good for name in result.dropped]
        dropped_examples = [name for result in good for name in result.dropped_examples]
        merged = merge_phrases(without_errors(phrases))
        found = Vocabulary(
            item.document_id,
            merge_words(without_errors(words)),
            {phrase: entry.meaning for phrase, entry in merged.items()},
            tuple(failures(indices, {"words": words, "phrases": phrases})),
            model_of(good),
            len(dropped),
            tuple([*dropped, *dropped_examples][:MAX_NAMED]),
        )
        if not any(self._extras):
            return found
        examples = {phrase: entry.example for phrase, entry in merged.items() if entry.example}
        fields_of = {one.name: getattr(found, one.name) for one in fields(found)}
        return ExtendedVocabulary(
            **fields_of, phrase_examples=examples, dropped_examples=len(dropped_examples)
        )

    def is_parallel(self, chunks: int) -> bool:
        """
        Return whether a document of `chunks` chunks has its words and its phrases extracted concurrently.

        This is what holds while no limit on tokens in flight is known.
        """
        if self.plan != "C":
            return self.plan == "A"
        resident = self.max_concurrent_sequences
        fits = chunks <= self.max_safe_chunks or (resident is not None and 2 * chunks <= resident)
        return self.parallel and fits

    def _runs_side_by_side(self, item: Document, wording: Wording, chunks: Sequence[str], fits: Fits) -> bool:
        """Return whether words and phrases are extracted concurrently; the model's memory decides if it is known."""
        if self.plan != "C" or not self.parallel or self.max_concurrent_sequences is not None:
            return self.is_parallel(len(chunks))
        kinds: tuple[VocabularyKind, ...] = ("words", "phrases")
        requests = [self._request(item, wording, kind, chunk) for kind in kinds for chunk in chunks]
        known = fits(requests)
        return self.is_parallel(len(chunks)) if known is None else known

    def _extract_all(
        self, item: Document, chunks: Sequence[str], fits: Fits
    ) -> Flow[tuple[ChunkResults, ChunkResults]]:
        """Extract the words and the phrases of all chunks, in the order of the plan."""
        wording = choose_wording(self, chunks)
        words = [self._extract(item, wording, "words", chunk) for chunk in chunks]
        phrases = [self._extract(item, wording, "phrases", chunk) for chunk in chunks]
        if not chunks:
            return [], []
        if self._runs_side_by_side(item, wording, chunks, fits):
            both = yield from gather(*words, *phrases)
            return both[: len(chunks)], both[len(chunks) :]
        return (yield from gather(*words)), (yield from gather(*phrases))

    def _extract(
        self,
        item: Document,
        wording: Wording,
        kind: VocabularyKind,
        text: str,
        splits: int = _MAX_SPLITS,
    ) -> Flow[ChunkResult]:
        """Extract from one chunk, or from both halves of one that is too long."""
        request = self._request(item, wording, kind, text)
        try:
            found = yield from complete_and_parse(request, partial(self._read, kind, text), widen=False)
        except (OutputTruncated, PromptTooLong) as error:
            found = ChunkResult((), "", error)
        if found.error is None:
            return found
        rest = self._rest(request, text, found, splits)
        if rest is None:
            if found.entries:
                return found
            raise found.error
        texts, splits = rest
        parts = yield from gather(*(self._extract(item, wording, kind, part, splits) for part in texts))
        whole = replace(found, error=None)
        return join([whole, *parts] if found.entries else parts)

    def _rest(
        self, request: LLMRequest, text: str, found: ChunkResult, splits: int
    ) -> tuple[Sequence[str], int] | None:
        """Return the parts of a chunk to ask about after a cut-off reply, and how often these may be split; or None."""
        if not splits:
            return None
        reply = found.error.reply if isinstance(found.error, OutputError) else None
        if reply is not None and not more_room_helps(request, reply):
            splits = (
                1  # a loop, or a full context: shorter texts may help once, but cost as much if they do not
            )
        elif reply is not None and (rest := text_behind(text, [name for name, _ in found.entries])):
            return (rest,), splits - 1
        halves = split_in_two(text)
        return None if halves is None else (halves, splits - 1)

    def _read(self, kind: VocabularyKind, text: str, reply: LLMResponse) -> ChunkResult:
        found = read_entries(kind, reply, text, self._extras)
        cut_off = unreadable(f"{kind}: the list is not complete", reply) if found.cut else None
        return ChunkResult(found.entries, reply.model, cut_off, found.dropped, found.dropped_examples)

    @property
    def _extras(self) -> Extras:
        return Extras(self.synonyms, self.examples)

    def _request(self, item: Document, wording: Wording, kind: VocabularyKind, text: str) -> LLMRequest:
        return LLMRequest(
            kind,
            (
                prompts.instructions(kind, wording, self._extras),
                {"role": "user", "content": prompts.text_block(text)},
            ),
            prompts.schema(kind, self._extras),
            {
                "document_id": item.document_id,
                "language": wording.language,
                "chunk": text,
                **dict.fromkeys(self._extras.fields(kind), True),
            },
            self.max_tokens,
            self.temperature,
            item.priority,
        )


_MIN_PLACED = 3


def text_behind(text: str, names: Sequence[str]) -> str | None:
    """
    Return the part of a text behind the entries of a reply that was cut off; None if it is not certain.

    It is certain if the entries that the text has verbatim are in its order, and there are at least three. The part
    begins with the last of them, because its sentence may hold more.
    """
    places = [place for place in (text.find(name) for name in names) if place >= 0]
    if len(places) < _MIN_PLACED or places != sorted(places) or places[-1] < len(text) // 4:
        return None
    return text[places[-1] :]


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """
    Words or phrases of a chunk, or of a part of one.

    Attributes:
        entries: Words with their `Word`, or phrases with their `Phrase`, in the order of the reply.
        model: Name of the model that answered.
        error: The first error of a part of the chunk, or that the reply was cut off; None if no part failed.
        dropped: The names of entries that are dropped.
        dropped_examples: The names of examples that are dropped.
    """

    entries: Sequence[tuple[str, Any]]
    model: str
    error: Exception | None = None
    dropped: Sequence[str] = ()
    dropped_examples: Sequence[str] = ()


ChunkResults: TypeAlias = Sequence[ResultOrError[ChunkResult]]
"""Results or errors of a document's chunks, in their order."""


def join(parts: ChunkResults) -> ChunkResult:
    """Join the results of the parts of one chunk; raise the first error if every part failed."""
    raise_if_all_failed(parts)
    results = without_errors(parts)
    errors = [part if isinstance(part, Exception) else part.error for part in parts]
    return ChunkResult(
        [entry for result in results for entry in result.entries],
        model_of(results),
        next(filter(None, errors), None),
        [name for result in results for name in result.dropped],
        [name for result in results for name in result.dropped_examples],
    )


def without_errors(results: Iterable[ResultOrError[ChunkResult]]) -> list[ChunkResult]:
    """Return the results that are not errors."""
    return [result for result in results if isinstance(result, ChunkResult)]


def model_of(results: Iterable[ChunkResult]) -> str:
    """Return the first model name that is not empty, or ""."""
    return next((result.model for result in results if result.model), "")


def raise_if_all_failed(results: ChunkResults) -> None:
    """Raise the first error if all results are errors, or any error that stops the run."""
    errors = [result for result in map(reraise_fatal, results) if isinstance(result, Exception)]
    if len(errors) == len(results):
        raise_first(errors)


def failures(indices: Sequence[int], results: Mapping[VocabularyKind, ChunkResults]) -> Iterator[FailedChunk]:
    """
    Yield the failed chunks, in the order of the chunks.

    Args:
        indices: Indices of the chunks in the document, of those that were sent.
        results: Results of these chunks by kind.
    """
    for number, index in enumerate(indices):
        for kind, results_of_kind in results.items():
            result = results_of_kind[number]
            if isinstance(result, Exception):
                yield FailedChunk(index, kind, describe_error(result))
            elif result.error is not None:
                yield FailedChunk(index, kind, f"a part of it: {describe_error(result.error)}")


def merge_words(results: Iterable[ChunkResult]) -> Mapping[str, Word]:
    """
    Merge words: each once, in its first spelling, with its first part of speech and example that are not empty, and all
    its meanings and synonyms.

    Args:
        results: Results of the chunks, in their order.
    """
    words: dict[str, list[tuple[str, Word]]] = {}
    for key, spelling, word in _keyed(results):
        words.setdefault(key, []).append((spelling, word))
    return {same[0][0]: _joined_word([word for _, word in same]) for same in words.values()}


def _joined_word(same: Sequence[Word]) -> Word:
    pos = next((word.pos for word in same if word.pos), "")
    meanings = _each_once(text for word in same for text in word.meanings)
    if not isinstance(same[0], ExtendedWord):
        return Word(pos, meanings)
    synonyms = _each_once(text for word in same for text in word.synonyms)
    return ExtendedWord(pos, meanings, synonyms, next((word.example for word in same if word.example), ""))


def _each_once(texts: Iterable[str]) -> tuple[str, ...]:
    """Return texts, each once in its first spelling, in their order."""
    found: dict[str, str] = {}
    for text in map(_normalized, texts):
        found.setdefault(text.casefold(), text)
    return tuple(found.values())


def merge_phrases(results: Iterable[ChunkResult]) -> Mapping[str, Phrase]:
    """
    Merge phrases: each once, in its first spelling, with its first meaning and example that are not empty.

    Args:
        results: Results of the chunks, in their order.
    """
    spellings: dict[str, str] = {}
    merged: dict[str, Phrase] = {}
    for key, spelling, phrase in _keyed(results):
        spellings.setdefault(key, spelling)
        known = merged.get(key, Phrase(""))
        meaning = known.meaning or _normalized(phrase.meaning)
        merged[key] = Phrase(meaning, known.example or phrase.example)
    return {spelling: merged[key] for key, spelling in spellings.items()}


def _keyed(results: Iterable[ChunkResult]) -> Iterator[tuple[str, str, Any]]:
    """Yield every entry with its merge key (case-folded) and its spelling."""
    for result in results:
        for text, entry in result.entries:
            spelling = _normalized(text)
            # Case folding may undo the composition of NFC.
            yield normalize("NFC", spelling.casefold()), spelling, entry


def _normalized(text: str) -> str:
    return normalize("NFC", " ".join(text.split()))
