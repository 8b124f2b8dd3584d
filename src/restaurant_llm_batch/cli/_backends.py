"""The services that a command talks to: chosen by options, described by options and the environment."""

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
"""Makes a model, given the settings that options say; those left out are None."""

_NEEDED = {
    "openai": ("batch_llm_model", "--model", "gpt-5-mini"),
    "vllm": ("batch_llm_url", "--llm-url", "http://localhost:8000"),
}
"""What a model cannot do without: the setting, the option that says it, and an example."""

LLMS = ("offline", "openai", "vllm", "runpod")


def models() -> dict[str, MakeLLM]:
    """Return what makes a model, by the name to choose it by; the first is the default."""
    return {name: _maker(name) for name in LLMS}


def _maker(name: str) -> MakeLLM:
    def make(options: Mapping[str, Any]) -> LLMBackend | AsyncLLMBackend:
        settings = _settings(batch_llm_backend=name, **options)
        if name in _NEEDED:
            field, option, example = _NEEDED[name]
            if not getattr(settings, field):
                raise ConfigurationError(
                    f"--llm {name} needs {option}; write for example {option} {example}, "
                    f"or set {field.upper()}={example}"
                )
        return settings.llm()

    return make


def llm_parameters(llms: Mapping[str, MakeLLM]) -> list[click.Parameter]:
    """Return the options that choose a model; `llm_settings` reads what they say."""
    return [
        click.Option(
            ["--llm"],
            type=click.Choice([*llms]),
            default=next(iter(llms)),
            show_default=True,
            help='The model. "offline" needs no model at all, but only picks out what the reviews say; '
            "the others take their keys from OPENAI_API_KEY, VLLM_API_KEY or RUNPOD_API_KEY (and the "
            "endpoint from RUNPOD_ENDPOINT_ID).",
        ),
        click.Option(
            ["--model"], metavar="NAME", help="The model's name; or BATCH_LLM_MODEL, or the service's own."
        ),
        click.Option(
            ["--llm-url"],
            metavar="URL",
            help="The address of a vLLM server, or of one that speaks OpenAI's API; or BATCH_LLM_URL.",
        ),
    ]


def llm_settings(model: str | None, llm_url: str | None) -> dict[str, Any]:
    """Return the settings that the model's options say."""
    return {"batch_llm_model": model, "batch_llm_url": llm_url}


def search_parameters() -> list[click.Parameter]:
    """Return the options that choose a search; `qdrant` reads what they say."""
    return [
        click.Option(
            ["--search"],
            type=click.Choice(["embedded", "qdrant"]),
            default="embedded",
            show_default=True,
            help='Where the reviews are: "qdrant" is a server, at QDRANT_URL with the key QDRANT_API_KEY.',
        ),
        click.Option(["--qdrant-url"], metavar="URL", help="The Qdrant server, instead of QDRANT_URL."),
        click.Option(
            ["--collection"], metavar="NAME", help="Its collection, instead of QDRANT_COLLECTION or reviews."
        ),
    ]


def qdrant(qdrant_url: str | None, collection: str | None) -> tuple[QdrantSearch, str]:
    """
    Return the search in a Qdrant server, and what to call it.

    Raises:
        ConfigurationError: When neither an option nor the environment says where it is.
    """
    settings = _settings(batch_search_backend="qdrant", qdrant_url=qdrant_url, qdrant_collection=collection)
    label = f"the collection {settings.qdrant_collection!r} at {settings.qdrant_url}"
    return cast("QdrantSearch", settings.search()), label


def embedder() -> Embedder:
    """Return what makes vectors, as the environment says."""
    return _settings().embedder()


def _settings(**given: Any) -> BatchSettings:
    from .._settings import BatchSettings

    return BatchSettings(**{name: value for name, value in given.items() if value is not None})
