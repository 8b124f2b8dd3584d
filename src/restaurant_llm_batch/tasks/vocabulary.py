"""`ExtractVocabulary`: the words and phrases of a document, chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias
from unicodedata import normalize

from .._llm_response import LLMResponse
from ..errors import OutputTruncated, PromptTooLong
from ..models import Document, ItemId, LLMRequest
from ..results import FailedChunk, Vocabulary, VocabularyKind, Word
from ..steps import Flow, ResultOrError, gather
from ..tokens.chunking import split_in_two
from ._asking import complete_and_parse
from ._common import (
    LanguageOption,
    check,
    check_count,
    check_language,
    check_temperature,
    choose_language,
    describe_error,
    raise_first,
    reraise_fatal,
)
from ._prompts import vocabulary as prompts
from ._prompts.aspects import Language

_MAX_SPLITS = 3


@dataclass(frozen=True)
class ExtractVocabulary:
    """
    Extract the words and phrases of documents, each given as chunks.

    Items are mappings ``{"document_id", "chunks", "priority"?}`` (see `Document`); `split_text` makes chunks.
    The model is asked about each chunk twice, for its words and for its phrases, and the answers are merged in
    the order of the chunks, whatever order they came in. A chunk whose prompt or answer is too long is split
    in two and both halves are asked about, at most three levels deep. A chunk that fails is among the result's
    `failed_chunks` while the others stand; the document fails when all did. Blank chunks are not sent, and a
    document without any other succeeds, empty.

    Attributes:
        plan: "A": words and phrases of all chunks side by side; "B": all words, then all phrases; "C": as "A"
            if `parallel` is set and the chunks are known to fit, else as "B".
        parallel: Whether plan "C" may choose "A".
        max_safe_chunks: Most chunks that are taken to fit without knowing the GPU.
        max_concurrent_sequences: How many calls the GPU's memory holds at once, where that is known: what
            `limits.resident_sequences` computes. Chunks fit that make no more calls than this.
        language: What meanings are given in: "ko", "en", or "auto" for the language of the chunks.
        max_tokens: The longest answer, in tokens.
        temperature: Sampling temperature.

    Raises:
        ConfigurationError: When a field is out of its bounds.
    """

    plan: Literal["A", "B", "C"] = "C"
    parallel: bool = False
    max_safe_chunks: int = 4
    max_concurrent_sequences: int | None = None
    language: LanguageOption = "ko"
    max_tokens: int = 1500
    temperature: float = 0.0

    def __post_init__(self) -> None:
        check(self, "plan", self.plan in ("A", "B", "C"), '"A", "B" or "C"')
        check(self, "parallel", isinstance(self.parallel, bool), "True or False")
        for name in ("max_safe_chunks", "max_concurrent_sequences"):
            value = getattr(self, name)
            fine = isinstance(value, int) and not isinstance(value, bool) and value >= 0
            optional = name == "max_concurrent_sequences"
            bounds = "a whole number of at least 0" + (", or None" if optional else "")
            check(self, name, fine or (optional and value is None), bounds)
        check_language(self)
        check_count(self, "max_tokens")
        check_temperature(self)

    @property
    def name(self) -> str:
        """What the task is called."""
        return "ExtractVocabulary"

    @property
    def requires_search(self) -> bool:
        """It never searches."""
        return False

    def parse_item(self, raw: Any, /) -> Document:
        """Check one item: a mapping or a `Document`."""
        from ._schemas import read_document

        return read_document(raw)

    def item_key(self, item: Document, /) -> tuple[ItemId, int]:
        """Return the document's id and priority."""
        return item.document_id, item.priority

    def flow(self, item: Document, /) -> Flow[Vocabulary]:
        """Ask, split what is too long, merge."""
        places = [place for place, chunk in enumerate(item.chunks) if chunk.strip()]
        words, phrases = yield from self._ask_all(item, [item.chunks[place] for place in places])
        answers = [*words, *phrases]
        raise_if_nothing_stands(answers)
        return Vocabulary(
            item.document_id,
            merge_words(readings(words)),
            merge_phrases(readings(phrases)),
            tuple(failures(places, {"words": words, "phrases": phrases})),
            model_of(readings(answers)),
        )

    def is_parallel(self, chunks: int) -> bool:
        """Tell whether the words and the phrases of so many chunks are asked for at the same time."""
        if self.plan != "C":
            return self.plan == "A"
        resident = self.max_concurrent_sequences
        fits = chunks <= self.max_safe_chunks or (resident is not None and 2 * chunks <= resident)
        return self.parallel and fits

    def _ask_all(self, item: Document, chunks: Sequence[str]) -> Flow[tuple[Answers, Answers]]:
        """Ask for the words and for the phrases of all chunks, in the order that the plan says."""
        language = choose_language(self.language, chunks)
        words = [self._ask(item, language, "words", chunk) for chunk in chunks]
        phrases = [self._ask(item, language, "phrases", chunk) for chunk in chunks]
        if not chunks:
            return [], []
        if self.is_parallel(len(chunks)):
            both = yield from gather(*words, *phrases)
            return both[: len(chunks)], both[len(chunks) :]
        return (yield from gather(*words)), (yield from gather(*phrases))

    def _ask(
        self,
        item: Document,
        language: Language,
        kind: VocabularyKind,
        text: str,
        splits: int = _MAX_SPLITS,
    ) -> Flow[ChunkResult]:
        """Ask about one chunk, or about both halves of one that is too long."""
        from ._parsing import read_phrases, read_words

        def read(reply: LLMResponse) -> ChunkResult:
            return ChunkResult(read_words(reply) if kind == "words" else read_phrases(reply), reply.model)

        try:
            return (
                yield from complete_and_parse(self._request(item, language, kind, text), read, widen=False)
            )
        except (OutputTruncated, PromptTooLong):
            halves = split_in_two(text) if splits else None
            if halves is None:
                raise
        parts = yield from gather(*(self._ask(item, language, kind, half, splits - 1) for half in halves))
        return join(parts)

    def _request(self, item: Document, language: Language, kind: VocabularyKind, text: str) -> LLMRequest:
        return LLMRequest(
            kind,
            (
                prompts.instructions(kind, language),
                {"role": "user", "content": prompts.text_block(text)},
            ),
            prompts.schema(kind),
            {"document_id": item.document_id, "language": language, "chunk": text},
            self.max_tokens,
            self.temperature,
            item.priority,
        )


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """
    What was read in a chunk, or in a part of one.

    Attributes:
        entries: Words, or phrases and their meanings, in the order of the answer.
        model: The model that answered.
        error: Why a part of the chunk could not be read, else None.
    """

    entries: Sequence[tuple[str, Any]]
    model: str
    error: Exception | None = None


Answers: TypeAlias = Sequence[ResultOrError[ChunkResult]]
"""What came of each of a document's chunks, in their order."""


def join(parts: Sequence[ResultOrError[ChunkResult]]) -> ChunkResult:
    """Return the parts of one chunk as one; raise the first error where none was read."""
    raise_if_nothing_stands(parts)
    read = readings(parts)
    errors = [part if isinstance(part, Exception) else part.error for part in parts]
    return ChunkResult(
        [entry for reading in read for entry in reading.entries],
        model_of(read),
        next(filter(None, errors), None),
    )


def readings(answers: Iterable[ResultOrError[ChunkResult]]) -> list[ChunkResult]:
    """Return what was read, without what failed."""
    return [answer for answer in answers if isinstance(answer, ChunkResult)]


def model_of(read: Iterable[ChunkResult]) -> str:
    """Return the first model that is named, or ""."""
    return next((reading.model for reading in read if reading.model), "")


def raise_if_nothing_stands(answers: Sequence[ResultOrError[ChunkResult]]) -> None:
    """Raise the first error where nothing was read, or any error that stopped the run."""
    errors = [answer for answer in map(reraise_fatal, answers) if isinstance(answer, Exception)]
    if len(errors) == len(answers):
        raise_first(errors)


def failures(
    places: Sequence[int], answers: Mapping[VocabularyKind, Sequence[ResultOrError[ChunkResult]]]
) -> Iterator[FailedChunk]:
    """
    Return what could not be read, in the order of the chunks.

    Args:
        places: The places of the chunks that were asked about.
        answers: For each kind the answers about them.
    """
    for number, place in enumerate(places):
        for kind, answered in answers.items():
            answer = answered[number]
            if isinstance(answer, Exception):
                yield FailedChunk(place, kind, describe_error(answer))
            elif answer.error is not None:
                yield FailedChunk(place, kind, f"a part of it: {describe_error(answer.error)}")


def merge_words(read: Iterable[ChunkResult]) -> Mapping[str, Word]:
    """
    Return each word once: as it was first spelled, with the first part of speech named and all meanings.

    Args:
        read: What was read, in the order of the chunks.
    """
    spellings: dict[str, str] = {}
    parts_of_speech: dict[str, str] = {}
    meanings: dict[str, dict[str, str]] = {}
    for key, spelling, word in _keyed(read):
        spellings.setdefault(key, spelling)
        parts_of_speech[key] = parts_of_speech.get(key) or word.pos
        of_word = meanings.setdefault(key, {})
        for meaning in map(_tidy, word.meanings):
            of_word.setdefault(meaning.casefold(), meaning)
    return {
        spelling: Word(parts_of_speech[key], tuple(meanings[key].values()))
        for key, spelling in spellings.items()
    }


def merge_phrases(read: Iterable[ChunkResult]) -> Mapping[str, str]:
    """
    Return each phrase once, as it was first spelled, with the first meaning that is not empty.

    Args:
        read: What was read, in the order of the chunks.
    """
    spellings: dict[str, str] = {}
    meanings: dict[str, str] = {}
    for key, spelling, meaning in _keyed(read):
        spellings.setdefault(key, spelling)
        meanings[key] = meanings.get(key) or _tidy(meaning)
    return {spelling: meanings[key] for key, spelling in spellings.items()}


def _keyed(read: Iterable[ChunkResult]) -> Iterator[tuple[str, str, Any]]:
    for reading in read:
        for text, entry in reading.entries:
            spelling = _tidy(text)
            yield normalize("NFC", spelling.casefold()), spelling, entry


def _tidy(text: str) -> str:
    return normalize("NFC", " ".join(text.split()))
