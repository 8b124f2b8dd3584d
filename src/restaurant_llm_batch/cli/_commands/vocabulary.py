"""Command `vocabulary`: extract the words and phrases of documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import click
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..._text import terminal_text
from ...results import ExtendedVocabulary, Vocabulary, Word
from ...tasks.vocabulary import ExtractVocabulary
from ...tokens.chunking import split_text
from .. import _options as parameters
from .. import _reading as reading
from .. import _settings as settings
from .. import _tables as tables
from .._backends import MakeLLM
from .._options import LoadedInput, RunOptions
from .._running import command as run_command
from .._sources import NamedItems, read_documents
from .._views import ResultView

_HELP = """
Extract the words and phrases of documents.

SOURCE is a text file (.txt or .md), or several, each a document; or a file of reviews (CSV, JSON Lines, ...), where all
reviews of a restaurant are one document. The default is the built-in sample.

A document is split into chunks at the ends of sentences. Each chunk takes two calls, one for its words and one for
its phrases, in the order of --order: A: both concurrently; B: all words first; C: like A with --parallel for
documents of few chunks, otherwise like B. Results are the same.
"""
_MAX_WORDS, _MAX_PHRASES, _MAX_PHRASE_WIDTH = 20, 5, 22
"""What a table cell shows: numbers of words and phrases, and the width of the column of phrases, in characters."""


_ORDERS, _RUN = ("A", "B", "C"), "run"
"""Values of --plan: orders of the calls, and what it means without a value."""


@dataclass(frozen=True, kw_only=True)
class VocabularyOptions(RunOptions[Vocabulary]):
    """Values of the command's options."""

    sources: tuple[Path, ...]

    @property
    def task(self) -> ExtractVocabulary:
        """The task."""
        return self.settings.vocabulary(**({"plan": self.plan} if self.plan in _ORDERS else {}))

    @property
    def paths(self) -> Sequence[Path]:
        """The files."""
        return self.sources

    def load(self, progress: Console | None) -> LoadedInput:
        """Read the documents, and split them into chunks."""
        source = read_documents(self.sources, self.form, progress)
        size = self.settings.batch_chunk_tokens
        items = [
            {"document_id": item_id, "chunks": split_text(source.texts[str(item_id)], size)}
            for item_id in self.chosen(source)
        ]
        return LoadedInput(items=items, source=source)


def command(llms: Mapping[str, MakeLLM]) -> click.Command:
    """
    Build the command.

    Args:
        llms: Factories of LLM backends, by their names for ``--llm``; the first is the default.
    """
    options = [
        click.Argument(["sources"], nargs=-1, type=click.Path(path_type=Path), metavar="[SOURCE]..."),
        *settings.options(llm=True, llms=[*llms], tasks=["vocabulary", "chunks"]),
        *reading.options(),
        *parameters.which("documents"),
        *parameters.results(_plan_option()),
    ]
    view = ResultView(
        table=_table,
        record=_record,
        done="read",
        count_failed_parts=lambda vocabulary: len(vocabulary.failed_chunks),
        failed_part_phrases=("part of a document failed", "parts of documents failed"),
        parts=("words",),
        offline="words are chosen by frequency, and meanings are hints",
        what="document",
    )
    return run_command("vocabulary", _HELP, options, VocabularyOptions, view, llms)


def _plan_option() -> click.Option:
    """Return ``--plan``: alone it plans the run, as in every command; with a letter it is ``--order``."""
    return parameters.plan(
        is_flag=False,
        flag_value=_RUN,
        type=click.Choice([*_ORDERS, _RUN], case_sensitive=False),
        callback=lambda _ctx, _param, value: value == _RUN or value or False,
        metavar="[A|B|C]",
    )


def _table(vocabularies: Sequence[Vocabulary], source: NamedItems) -> Table:
    """Return a table of documents with their first words, and their first phrases with meanings."""
    table = tables.named_table("Document", "Words and phrases")
    table.columns[1].ratio = 1
    table.show_lines = True
    for vocabulary in vocabularies:
        table.add_row(tables.name_cell(source, vocabulary.document_id), _contents(vocabulary))
    return table


def _contents(vocabulary: Vocabulary) -> RenderableType:
    words = tables.counted(len(vocabulary.words), "word", "words")
    heading = f"{words}, {tables.counted(len(vocabulary.phrases), 'phrase', 'phrases')}"
    parts: list[RenderableType] = [tables.dim(heading)]
    if vocabulary.words:
        parts.append(_words(vocabulary.words))
    more = {
        word: text
        for word, entry in vocabulary.words.items()
        if (text := _joined(*entry.synonyms, entry.example))
    }
    if more:
        shown = {word: Text(terminal_text(text)) for word, text in islice(more.items(), _MAX_PHRASES)}
        parts.append(tables.labelled(shown, max_label_width=_MAX_PHRASE_WIDTH))
    if vocabulary.phrases:
        phrases = islice(vocabulary.phrases.items(), _MAX_PHRASES)
        examples = vocabulary.phrase_examples
        meanings = {
            phrase: Text(terminal_text(_joined(meaning, examples.get(phrase, ""))))
            for phrase, meaning in phrases
        }
        parts.append(tables.labelled(meanings, wrap=False, max_label_width=_MAX_PHRASE_WIDTH))
    parts += [
        tables.failed(f"{failed.kind} of chunk {failed.chunk + 1:,}: {failed.error}")
        for failed in vocabulary.failed_chunks
    ]
    return Group(*parts)


def _words(words: Mapping[str, Word]) -> Text:
    """Return words with their parts of speech, as in a dictionary: "soup(n), boil(v)"."""
    text = Text()
    for index, (word, entry) in enumerate(islice(words.items(), _MAX_WORDS)):
        text.append(", " if index else "").append(terminal_text(word), style="bold")
        text.append(f"({entry.pos})" if entry.pos else "", style="dim")
    return text


def _joined(*texts: str) -> str:
    return " - ".join(filter(None, dict.fromkeys(texts)))


def _record(vocabulary: Vocabulary) -> Mapping[str, Any]:
    return {
        "document_id": vocabulary.document_id,
        "words": {word: asdict(entry) for word, entry in vocabulary.words.items()},
        "phrases": dict(vocabulary.phrases),
        "failed_chunks": [asdict(chunk) for chunk in vocabulary.failed_chunks],
        "model": vocabulary.model,
        **_extra_fields(vocabulary),
    }


def _extra_fields(vocabulary: Vocabulary) -> Mapping[str, Any]:
    if not isinstance(vocabulary, ExtendedVocabulary):
        return {}
    return {
        "phrase_examples": dict(vocabulary.phrase_examples),
        "dropped_examples": vocabulary.dropped_examples,
    }
