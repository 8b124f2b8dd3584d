"""Exact counters of tokens: tiktoken, Hugging Face's tokenizers, and a vLLM server's own."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError

_PIECE = 100_000


class TiktokenCounter:
    """
    Counts as OpenAI's models do: ``pip install 'restaurant-llm-batch[tiktoken]'``.

        runner = BatchRunner(llm=OpenAILLM("gpt-4o-mini"), count_tokens=TiktokenCounter("gpt-4o-mini"))

    What looks like a special token, such as ``<|endoftext|>`` in a review, counts as the text it is. tiktoken
    fetches an encoding once, when this is made, and keeps it in the folder ``TIKTOKEN_CACHE_DIR`` names.

    Args:
        name: A model's name, an encoding's, such as "o200k_base", or a `tiktoken.Encoding`.

    Raises:
        ConfigurationError: When tiktoken is not installed, or the encoding is unknown or cannot be had.
    """

    def __init__(self, name: Any = "o200k_base") -> None:
        tiktoken = _needed("tiktoken")
        self._encoding = name if isinstance(name, tiktoken.Encoding) else _encoding(tiktoken, name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._encoding.name!r})"

    def __call__(self, text: str, /) -> int:
        """Return how many tokens a text has."""
        encode = self._encoding.encode_ordinary
        if len(text) <= _PIECE:
            return len(encode(text))
        # tiktoken panics, past any `except Exception`, when a million blanks follow each other. In pieces a text
        # may have a token or two more for each.
        return sum(len(encode(text[start : start + _PIECE])) for start in range(0, len(text), _PIECE))


class TokenizersCounter:
    """
    Counts as most open models do: ``pip install 'restaurant-llm-batch[tokenizers]'``.

        count = TokenizersCounter("Qwen/Qwen2.5-14B-Instruct-AWQ")

    What looks like a special token, such as ``<|im_end|>`` in a review, counts as the text it is, and none is
    added. A tokenizer's truncation and padding are left out.

    Args:
        source: A ``tokenizer.json`` or the folder it is in, a model's name on the Hugging Face hub, or a
            `tokenizers.Tokenizer`, which is copied.

    Raises:
        ConfigurationError: When tokenizers is not installed, or the tokenizer cannot be had.
    """

    def __init__(self, source: Any) -> None:
        tokenizers = _needed("tokenizers")
        self._name = type(source).__name__ if isinstance(source, tokenizers.Tokenizer) else str(source)
        self._tokenizer = _tokenizer(tokenizers, source)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name!r})"

    def __call__(self, text: str, /) -> int:
        """Return how many tokens a text has."""
        return len(self._tokenizer.encode(replace_surrogates(text), add_special_tokens=False))


def _encoding(tiktoken: Any, name: object) -> Any:
    if not isinstance(name, str):
        raise ConfigurationError(
            f'name must be a model or an encoding, got {name!r}; for example TiktokenCounter("o200k_base")'
        )
    try:
        if name in tiktoken.list_encoding_names():
            return tiktoken.get_encoding(name)
        return tiktoken.encoding_for_model(name)
    except KeyError:
        raise ConfigurationError(
            f"tiktoken knows no model or encoding {name!r}; write one of "
            f"{', '.join(map(repr, tiktoken.list_encoding_names()))}, or the name of a model of OpenAI's"
        ) from None
    except Exception as error:  # the disk's errors and its HTTP client's have nothing in common
        raise ConfigurationError(
            f"tiktoken cannot load {name!r}: {type(error).__name__}. It fetches an encoding once; without a way "
            "to it, set TIKTOKEN_CACHE_DIR to a folder that has it"
        ) from error


def _tokenizer(tokenizers: Any, source: Any) -> Any:
    kind = tokenizers.Tokenizer
    if isinstance(source, kind):
        return kind.from_str(source.to_str())
    if not (isinstance(source, (str, os.PathLike)) and os.fspath(source)):
        raise ConfigurationError(
            f"source must be a path, a model's name or a tokenizers.Tokenizer, got {source!r}; for example "
            'TokenizersCounter("models/qwen/tokenizer.json")'
        )
    path = Path(source)
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        if file.exists() or isinstance(source, os.PathLike) or file.suffix == ".json":
            return kind.from_file(str(file))
        return kind.from_pretrained(source)
    except Exception as error:  # tokenizers raises plain exceptions, the hub its own
        raise ConfigurationError(
            f"tokenizers cannot load {os.fspath(source)!r}: {error}. Name a tokenizer.json, the folder it is in, or "
            "a model on the Hugging Face hub"
        ) from error


def replace_surrogates(text: str) -> str:
    """Return a text with a question mark for each lone surrogate, which neither tokenizers nor JSON can carry."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _needed(package: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise ConfigurationError(
            f"this needs {package}; write pip install 'restaurant-llm-batch[{package}]'"
        ) from error
