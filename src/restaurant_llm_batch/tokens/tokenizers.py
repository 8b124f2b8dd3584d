"""Exact token counters: `TiktokenCounter` (OpenAI's models) and `TokenizersCounter` (Hugging Face tokenizers)."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError

_MAX_PIECE = 100_000
"""Characters that are encoded at once."""


class TiktokenCounter:
    """
    Exact token counter for OpenAI's models: ``pip install 'restaurant-llm-batch[tiktoken]'``.

        runner = BatchRunner(llm=OpenAILLM("gpt-4o-mini"), count_tokens=TiktokenCounter("gpt-4o-mini"))

    Special tokens in a text, such as ``<|endoftext|>`` in a review, count as ordinary text. The constructor downloads
    the encoding once, and caches it in the folder of ``TIKTOKEN_CACHE_DIR``.

    Args:
        name: A model's name, an encoding's name, such as "o200k_base", or a `tiktoken.Encoding`.

    Raises:
        ConfigurationError: If tiktoken is not installed, or the encoding is unknown or cannot be loaded.
    """

    def __init__(self, name: Any = "o200k_base") -> None:
        tiktoken = _import_package("tiktoken")
        self._encoding = name if isinstance(name, tiktoken.Encoding) else _load_encoding(tiktoken, name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._encoding.name!r})"

    def __call__(self, text: str, /) -> int:
        """Return the number of tokens of a text."""
        encode = self._encoding.encode_ordinary
        if len(text) <= _MAX_PIECE:
            return len(encode(text))
        # tiktoken panics on a million consecutive spaces, with an error that is not an Exception. Counting in pieces
        # may add a token or two per piece.
        return sum(len(encode(text[start : start + _MAX_PIECE])) for start in range(0, len(text), _MAX_PIECE))


class TokenizersCounter:
    """
    Exact token counter for most open models: ``pip install 'restaurant-llm-batch[tokenizers]'``.

        count = TokenizersCounter("Qwen/Qwen2.5-14B-Instruct-AWQ")

    Special tokens in a text, such as ``<|im_end|>`` in a review, count as ordinary text, and none are added. The
    tokenizer's truncation and padding are disabled.

    Args:
        source: A ``tokenizer.json`` or its folder, a model's name on the Hugging Face hub, or a
            `tokenizers.Tokenizer`, which is copied.

    Raises:
        ConfigurationError: If tokenizers is not installed, or the tokenizer cannot be loaded.
    """

    def __init__(self, source: Any) -> None:
        tokenizers = _import_package("tokenizers")
        self._name = type(source).__name__ if isinstance(source, tokenizers.Tokenizer) else str(source)
        self._tokenizer = _load_tokenizer(tokenizers, source)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name!r})"

    def __call__(self, text: str, /) -> int:
        """Return the number of tokens of a text."""
        return len(self._tokenizer.encode(replace_surrogates(text), add_special_tokens=False))


def _load_encoding(tiktoken: Any, name: object) -> Any:
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
            f"tiktoken knows no model or encoding {name!r}; use one of "
            f"{', '.join(map(repr, tiktoken.list_encoding_names()))}, or the name of an OpenAI model"
        ) from None
    except Exception as error:  # errors of the disk and the HTTP client have no common base class
        raise ConfigurationError(
            f"tiktoken cannot load {name!r}: {type(error).__name__}. It downloads an encoding once; without network, "
            "set TIKTOKEN_CACHE_DIR to a folder that has it"
        ) from error


def _load_tokenizer(tokenizers: Any, source: Any) -> Any:
    tokenizer_class = tokenizers.Tokenizer
    if isinstance(source, tokenizer_class):
        return tokenizer_class.from_str(source.to_str())
    if not (isinstance(source, (str, os.PathLike)) and os.fspath(source)):
        raise ConfigurationError(
            f"source must be a path, a model's name or a tokenizers.Tokenizer, got {source!r}; for example "
            'TokenizersCounter("models/qwen/tokenizer.json")'
        )
    path = Path(source)
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        if file.exists() or isinstance(source, os.PathLike) or file.suffix == ".json":
            return tokenizer_class.from_file(str(file))
        return tokenizer_class.from_pretrained(source)
    except Exception as error:  # tokenizers raises plain Exceptions, the hub its own errors
        raise ConfigurationError(
            f"tokenizers cannot load {os.fspath(source)!r}: {error}. Name a tokenizer.json, the folder it is in, or "
            "a model on the Hugging Face hub"
        ) from error


def replace_surrogates(text: str) -> str:
    """Replace each lone surrogate, which neither tokenizers nor JSON can encode, by a question mark."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _import_package(package: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise ConfigurationError(
            f"this needs {package}; install it with: pip install 'restaurant-llm-batch[{package}]'"
        ) from error
