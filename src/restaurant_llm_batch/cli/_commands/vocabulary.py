"""The command `vocabulary`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import click
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ...results import Vocabulary, Word
from ...tasks.vocabulary import ExtractVocabulary
from ...tokens.chunking import split_text
from .. import _backends as services
from .. import _options as parameters
from .. import _tables as tables
from .._backends import MakeLLM
from .._options import Language, LoadedInput, RunOptions
from .._running import command as run_command
from .._sources import NamedItems, read_documents
from .._views import ResultView

_HELP = """
Extract the words and phrases of documents.

SOURCE is a text file (.txt or .md), or several, each a document; or a file of reviews (JSON Lines), where all
reviews of a restaurant are one document. Without it, the sample that is shipped.

A document is cut into chunks at the ends of its sentences, and the model is asked about each chunk twice, for
its words and for its phrases. --plan says in which order: A: both side by side; B: all words first; C: like A
with --parallel for documents of few chunks, otherwise like B. Results are the same.
"""
_CHUNK_TOKENS, _LEAST_CHUNK = 2000, 50
_MOST_WORDS, _MOST_PHRASES, _WIDEST_PHRASE = 20, 5, 22


@dataclass(frozen=True, kw_only=True)
class VocabularyOptions(RunOptions[Vocabulary]):
    """What was asked for on the command line."""

    sources: tuple[Path, ...]
    plan: Literal["A", "B", "C"]
    parallel: bool
    max_safe_chunks: int
    chunk_tokens: int
    language: Language

    @property
    def task(self) -> ExtractVocabulary:
        """The task."""
        return ExtractVocabulary(
            plan=self.plan,
            parallel=self.parallel,
            max_safe_chunks=self.max_safe_chunks,
            language=self.language,
        )

    @property
    def paths(self) -> Sequence[Path]:
        """The files."""
        return self.sources

    def work(self, progress: Console | None) -> LoadedInput:
        """Read the documents, and cut them into chunks."""
        known = read_documents(self.sources)
        items = [
            {"document_id": one, "chunks": split_text(known.texts[str(one)], self.chunk_tokens)}
            for one in self.chosen(known)
        ]
        return LoadedInput(items=items, known=known)


def command(llms: Mapping[str, MakeLLM]) -> click.Command:
    """
    Build the command.

    Args:
        llms: What makes a model, by the name to choose it by; the first is the default.
    """
    options = [
        click.Argument(["sources"], nargs=-1, type=click.Path(path_type=Path), metavar="[SOURCE]..."),
        *parameters.speed(llm=True, what="Documents"),
        *services.llm_parameters(llms),
        click.Option(
            ["--plan"],
            type=click.Choice(["A", "B", "C"], case_sensitive=False),
            default=ExtractVocabulary.plan,
            show_default=True,
            metavar="[A|B|C]",
            help="In which order the model is asked.",
        ),
        click.Option(["--parallel"], is_flag=True, help="Let plan C ask for words and phrases side by side."),
        parameters.count(
            "--max-safe-chunks",
            ExtractVocabulary.max_safe_chunks,
            "Most chunks of a document for which plan C does so.",
            least=0,
        ),
        parameters.count("--chunk-tokens", _CHUNK_TOKENS, "Most tokens of a chunk.", least=_LEAST_CHUNK),
        parameters.language("What meanings are given in; auto goes by the documents."),
        *parameters.which("documents"),
        *parameters.results(),
    ]
    view = ResultView(
        table=_table,
        record=_record,
        done="read",
        lost=lambda vocabulary: len(vocabulary.failed_chunks),
        lost_as=("part of a document failed", "parts of documents failed"),
        offline="words are chosen by frequency, and meanings are hints",
        what="document",
    )
    return run_command("vocabulary", _HELP, options, VocabularyOptions, view, llms)


def _table(vocabularies: Sequence[Vocabulary], known: NamedItems) -> Table:
    """Show documents: their first words, and their first phrases with what they mean."""
    table = tables.named_table("Document", "Words and phrases")
    table.columns[1].ratio = 1
    table.show_lines = True
    for vocabulary in vocabularies:
        table.add_row(tables.name_cell(known, vocabulary.document_id), _contents(vocabulary))
    return table


def _contents(vocabulary: Vocabulary) -> RenderableType:
    words = tables.counted(len(vocabulary.words), "word", "words")
    heading = f"{words}, {tables.counted(len(vocabulary.phrases), 'phrase', 'phrases')}"
    parts: list[RenderableType] = [tables.dim(heading)]
    if vocabulary.words:
        parts.append(_words(vocabulary.words))
    if vocabulary.phrases:
        phrases = islice(vocabulary.phrases.items(), _MOST_PHRASES)
        meanings = {phrase: Text(tables.clean(meaning)) for phrase, meaning in phrases}
        parts.append(tables.labelled(meanings, wrap=False, widest=_WIDEST_PHRASE))
    parts += [
        tables.failed(f"{lost.kind} of chunk {lost.chunk + 1:,}: {lost.error}")
        for lost in vocabulary.failed_chunks
    ]
    return Group(*parts)


def _words(words: Mapping[str, Word]) -> Text:
    """Show words and their parts of speech, like the entries of a dictionary."""
    text = Text()
    for place, (word, entry) in enumerate(islice(words.items(), _MOST_WORDS)):
        text.append(", " if place else "").append(tables.clean(word), style="bold")
        text.append(f"({entry.pos})" if entry.pos else "", style="dim")
    return text


def _record(vocabulary: Vocabulary) -> Mapping[str, Any]:
    return {
        "document_id": vocabulary.document_id,
        "words": {word: asdict(entry) for word, entry in vocabulary.words.items()},
        "phrases": dict(vocabulary.phrases),
        "failed_chunks": [asdict(chunk) for chunk in vocabulary.failed_chunks],
        "model": vocabulary.model,
    }
