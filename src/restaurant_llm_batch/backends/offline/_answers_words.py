"""Answers about the vocabulary of a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..._nlp.lexicon import WordReader
from ..._nlp.tokenizer import Tokenizer
from ._clauses import split
from ._phrases import PhraseFinder
from ._words import Glossary


class WordAnswers:
    """The tasks "words" and "phrases"."""

    def __init__(self, words: WordReader) -> None:
        self._tokenizer = Tokenizer()
        self._glossary, self._phrases = Glossary(words), PhraseFinder(words)

    def words(self, inputs: Mapping[str, Any], language: str) -> dict[str, Any]:
        """List the words of a chunk."""
        tokens = self._tokenizer.tokens(split(str(inputs.get("chunk") or "")))
        found = self._glossary.words(tokens, language)
        return {"words": [{"word": word, "pos": pos, "meanings": known} for word, pos, known in found]}

    def phrases(self, inputs: Mapping[str, Any], language: str) -> dict[str, Any]:
        """List the phrases of a chunk, each with a sentence that holds it, in whatever language."""
        sentences = split(str(inputs.get("chunk") or ""))
        found = self._phrases.phrases(sentences, self._tokenizer.tokens(sentences))
        return {"phrases": [{"phrase": phrase, "meaning": usage} for phrase, usage in found]}
