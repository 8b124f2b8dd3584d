"""LLM and search backends of the command line, built from options and environment variables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import click

from ..errors import ConfigurationError
from ..protocols import AsyncLLMBackend, Embedder, LLMBackend

if TYPE_CHECKING:
    from .._settings import BatchSettings
    from ..search import QdrantSearch

MakeLLM: TypeAlias = Callable[[Mapping[str, Any]], LLMBackend | AsyncLLMBackend]
"""Factory of an LLM backend; its argument maps settings to the values of options, None for an option not used."""

_REQUIRED = {
    "openai": ("batch_llm_model", "--model", "gpt-5-mini"),
    "vllm": ("batch_llm_url", "--llm-url", "http://localhost:8000"),
}
"""Required setting of a backend, with its option and an example."""

LLMS = ("offline", "openai", "vllm", "runpod")


def models() -> dict[str, MakeLLM]:
    """Return the factories of LLM backends, by their names for ``--llm``; the first is the default."""
    return {name: _factory(name) for name in LLMS}


def _factory(name: str) -> MakeLLM:
    def make(options: Mapping[str, Any]) -> LLMBackend | AsyncLLMBackend:
        settings = _settings(batch_llm_backend=name, **options)
        if name in _REQUIRED:
            field, option, example = _REQUIRED[name]
            if not getattr(settings, field):
                raise ConfigurationError(
                    f"--llm {name} needs {option}; for example {option} {example}, "
                    f"or set {field.upper()}={example}"
                )
        return settings.llm()

    return make


def llm_parameters(llms: Mapping[str, MakeLLM]) -> list[click.Parameter]:
    """Return the options that choose an LLM backend; `llm_settings` converts their values."""
    return [
        click.Option(
            ["--llm"],
            type=click.Choice([*llms]),
            default=next(iter(llms)),
            show_default=True,
            help='The LLM backend. "offline" uses no model and extracts sentences from the reviews; the others '
            "take their API keys from OPENAI_API_KEY, VLLM_API_KEY or RUNPOD_API_KEY (and the endpoint from "
            "RUNPOD_ENDPOINT_ID).",
        ),
        click.Option(
            ["--model"],
            metavar="NAME",
            help="Name of the model; by default BATCH_LLM_MODEL, or the service's own model.",
        ),
        click.Option(
            ["--llm-url"],
            metavar="URL",
            help="URL of a vLLM server or an OpenAI-compatible service; by default BATCH_LLM_URL.",
        ),
    ]


def llm_settings(model: str | None, llm_url: str | None) -> dict[str, Any]:
    """Return the settings for the values of the `llm_parameters`."""
    return {"batch_llm_model": model, "batch_llm_url": llm_url}


def search_parameters() -> list[click.Parameter]:
    """Return the options that choose a search backend; `qdrant` takes their values."""
    return [
        click.Option(
            ["--search"],
            type=click.Choice(["embedded", "qdrant"]),
            default="embedded",
            show_default=True,
            help='Where the reviews are: "qdrant" is a server, at QDRANT_URL with the key QDRANT_API_KEY.',
        ),
        click.Option(
            ["--qdrant-url"], metavar="URL", help="URL of the Qdrant server; by default QDRANT_URL."
        ),
        click.Option(
            ["--collection"],
            metavar="NAME",
            help="Name of its collection; by default QDRANT_COLLECTION, or reviews.",
        ),
    ]


def qdrant(qdrant_url: str | None, collection: str | None) -> tuple[QdrantSearch, str]:
    """
    Return the search backend for a Qdrant server, and its name for messages.

    Raises:
        ConfigurationError: Neither an option nor the environment has the server's URL.
    """
    settings = _settings(batch_search_backend="qdrant", qdrant_url=qdrant_url, qdrant_collection=collection)
    label = f"the collection {settings.qdrant_collection!r} at {settings.qdrant_url}"
    return cast("QdrantSearch", settings.search()), label


def embedder() -> Embedder:
    """Return the embedder that the environment variables select."""
    return _settings().embedder()


def _settings(**from_options: Any) -> BatchSettings:
    from .._settings import BatchSettings

    # An option that is not used is None: leave it out, so that the environment variable applies.
    return BatchSettings(**{name: value for name, value in from_options.items() if value is not None})
