"""What users import is there, complete, and light."""

from __future__ import annotations

import subprocess
import sys

import pytest

import restaurant_llm_batch
from restaurant_llm_batch import backends, search, tokens
from restaurant_llm_batch.search import embedders

CONTRACT = [
    "BatchRunner",
    "Strategy",
    "Limits",
    "RetryPolicy",
    "BatchSettings",
    "SummarizeAspects",
    "Review",
    "BatchReport",
    "Success",
    "Failure",
    "SearchBackend",
    "AsyncSearchBackend",
    "LLMBackend",
    "AsyncLLMBackend",
    "SearchQuery",
    "Hit",
    "LLMRequest",
    "LLMResponse",
    "ConcurrencyLimiter",
    "errors",
]


@pytest.mark.parametrize("module", [restaurant_llm_batch, backends, search, embedders, tokens])
def test_all_is_sorted_and_everything_in_it_exists(module: object) -> None:
    names = module.__all__  # type: ignore[attr-defined]

    assert names == sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name)), (
        "as ruff sorts"
    )
    assert all(getattr(module, name) is not None for name in names)


@pytest.mark.parametrize("name", CONTRACT)
def test_the_contract_is_importable(name: str) -> None:
    assert name in restaurant_llm_batch.__all__


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (backends, "OpenAILLM"),
        (backends, "VLLMServerLLM"),
        (backends, "VLLMEngineLLM"),
        (backends, "RunPodLLM"),
        (backends, "OfflineLLM"),
        (backends, "HTTPTransport"),
        (backends, "Timeout"),
        (search, "QdrantSearch"),
        (search, "EmbeddedSearch"),
        (embedders, "HashingEmbedder"),
    ],
)
def test_the_backends_of_the_contract_are_importable(module: object, name: str) -> None:
    assert name in module.__all__  # type: ignore[attr-defined]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Runner'"):
        _ = restaurant_llm_batch.Runner


def test_importing_brings_in_nothing_heavy() -> None:
    heavy = [
        "aiohttp",
        "httpx",
        "openai",
        "qdrant_client",
        "qdrant_edge",
        "numpy",
        "trio",
        "pydantic_settings",
        "click",
        "rich",
    ]
    code = (
        "import sys, restaurant_llm_batch, restaurant_llm_batch.backends;"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert said.stdout.strip() == "[]"
