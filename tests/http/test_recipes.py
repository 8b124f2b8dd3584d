"""Backends, searches and embedders are pickled as their class and arguments; a key or a password is in no pickle."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from restaurant_llm_batch import (
    AdaptiveLimit,
    AnalyzeSentiment,
    CompareAspects,
    ExtractStrengths,
    ExtractVocabulary,
    Limits,
    LLMRequest,
    SharedLimiter,
    StopConditions,
    Store,
    StoreFolder,
    Strategy,
    SummarizeAspects,
    SummarizeReviews,
    errors,
)
from restaurant_llm_batch.backends import (
    HTTPTransport,
    LLMPool,
    OfflineLLM,
    OpenAILLM,
    RunPodLLM,
    VLLMServerLLM,
)
from restaurant_llm_batch.backends.vllm._counter import VLLMTokenCounter
from restaurant_llm_batch.search import EmbeddedSearch, QdrantSearch
from restaurant_llm_batch.search.embedders import APIEmbedder, HashingEmbedder
from restaurant_llm_batch.sharing import FileBroker

KEY = "sk-0123456789abcdef-secret"
PASSWORD = "hunter2-password"
REQUEST = LLMRequest(
    "sentiment", (), inputs={"restaurant_id": 1, "reviews": [{"id": 1, "content": "맛있어요"}]}
)


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("RUNPOD_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def twin(made: Any) -> Any:
    written = pickle.dumps(made)
    assert KEY.encode() not in written
    return pickle.loads(written)


MAKERS: list[Callable[[], Any]] = [
    lambda: OpenAILLM("gpt", service_tier="flex", extra_body={"seed": 3}),
    lambda: OpenAILLM("gpt", base_url="http://here:1/v1", transport=HTTPTransport(keepalive_expiry=2.0)),
    lambda: VLLMServerLLM("http://gpu:8000", "qwen"),
    lambda: VLLMServerLLM("http://gpu:8000", sampling={}, timeout=3.0),
    lambda: RunPodLLM("abc", model="qwen", timeout=700.0),
    lambda: RunPodLLM("abc", input_form="prompt"),
    OfflineLLM,
    lambda: LLMPool(
        {"a": VLLMServerLLM("http://a:1"), "b": OpenAILLM("gpt")}, limits={"a": 3, "b": AdaptiveLimit()}
    ),
    lambda: LLMPool([OfflineLLM()], limits=2, fallback=[VLLMServerLLM("http://b:1", "m")]),
]


@pytest.mark.parametrize("make", MAKERS, ids=range(len(MAKERS)))
def test_a_backend_that_is_made_again_has_the_same_answers_in_a_store(make: Callable[[], Any]) -> None:
    made = make()

    again = twin(twin(made))

    assert type(again) is type(made)
    assert again.fingerprint == made.fingerprint
    assert (
        again.model == made.model
        if hasattr(made, "model")
        else again.complete(REQUEST) == made.complete(REQUEST)
    )


def test_a_key_of_the_environment_is_read_where_the_backend_is_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = pickle.dumps(OpenAILLM("gpt"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-other-machine")

    assert pickle.loads(written)._secret.reveal() == "sk-of-the-other-machine"
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(errors.ConfigurationError, match="OPENAI_API_KEY"):
        pickle.loads(written)


def test_the_address_is_that_of_the_process_in_which_it_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://proxy:4000/v1")
    written = pickle.dumps(OpenAILLM("gpt"))
    monkeypatch.delenv("OPENAI_BASE_URL")

    assert "http://proxy:4000/v1" in repr(pickle.loads(written))


KEPT: list[tuple[Callable[[], Any], str]] = [
    (lambda: OpenAILLM("gpt", api_key=KEY), "set OPENAI_API_KEY where it is used and leave api_key out"),
    (lambda: RunPodLLM("abc", api_key=KEY), "set RUNPOD_API_KEY where it is used and leave api_key out"),
    (lambda: VLLMServerLLM(api_key=KEY), "keys are never pickled; read it there"),
    (lambda: QdrantSearch("reviews", url="http://q:6333", api_key=KEY), "keys are never pickled"),
    (lambda: APIEmbedder("http://e:1", "m", api_key=KEY, size=3), "keys are never pickled"),
    (lambda: LLMPool([VLLMServerLLM(api_key=KEY)]), "keys are never pickled"),
    (
        lambda: VLLMServerLLM(transport=HTTPTransport(proxy=f"http://me:{PASSWORD}@proxy:1")),
        "its proxy holds a password, and passwords are never pickled",
    ),
    (EmbeddedSearch, "its index is a temporary one of this process; index into a folder"),
    (lambda: QdrantSearch("reviews", url=":memory:"), "in the memory of this process; name a server"),
]


@pytest.mark.parametrize(("make", "reason"), KEPT, ids=range(len(KEPT)))
def test_what_belongs_to_this_process_is_not_pickled_and_the_error_says_what_to_do(
    make: Callable[[], Any], reason: str
) -> None:
    with pytest.raises(errors.ConfigurationError, match=reason) as refused:
        pickle.dumps(make())

    assert str(refused.value).endswith("or pass a function that makes it")
    assert KEY not in str(refused.value)
    assert PASSWORD not in str(refused.value)
    with pytest.raises(TypeError):
        pickle.dumps(make())


def test_a_client_of_the_sdk_is_not_pickled() -> None:
    from openai import OpenAI

    with pytest.raises(errors.ConfigurationError, match="its client is open in this process"):
        pickle.dumps(OpenAILLM("gpt", client=OpenAI(api_key=KEY)))


class Chosen(VLLMServerLLM):
    """A subclass that has the constructor of its base."""


class Own(VLLMServerLLM):
    """A subclass whose constructor takes other arguments."""

    def __init__(self, host: str) -> None:
        super().__init__(f"http://{host}:8000")


def test_a_subclass_is_made_again_unless_its_constructor_differs() -> None:
    assert type(twin(Chosen("http://a:1", "m"))) is Chosen
    with pytest.raises(
        errors.ConfigurationError, match=r"this Own cannot be pickled: .* constructor of its own"
    ):
        pickle.dumps(Own("a"))


def test_searches_and_embedders_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    search = EmbeddedSearch("index", embedder=HashingEmbedder(64))
    search.index_reviews([{"restaurant_id": 1, "id": 7, "content": "맛있어요"}])
    search.close()
    written = pickle.dumps(search)
    monkeypatch.chdir("/")

    again = pickle.loads(written)

    assert again.count() == 1
    assert "hashing-v1-64" in repr(again)
    again.close()
    assert repr(twin(QdrantSearch("r", url="http://q:6333", where={"kind": 3}))).startswith(
        "QdrantSearch('r'"
    )
    assert twin(APIEmbedder("http://e:1", "m", size=3)).name == APIEmbedder("http://e:1", "m", size=3).name
    assert "http://a:1" in repr(twin(VLLMTokenCounter(VLLMServerLLM("http://a:1"), cache=3)))


def test_tasks_settings_and_shared_limits_are_pickled(tmp_path: Path) -> None:
    for task in (
        *(SummarizeAspects(aspects={"맛": ("맛", "국물")}), SummarizeReviews(), AnalyzeSentiment(query="맛")),
        *(ExtractStrengths(), ExtractVocabulary(), CompareAspects(), SummarizeAspects(mode="split")),
    ):
        assert twin(task) == task
    shared = SharedLimiter("gpu", 4, broker=FileBroker(tmp_path / "limits.db"))
    limits = twin(Limits(llm=shared, batches=shared, open_items=3))
    assert limits.llm is limits.batches
    assert (limits.llm.name, limits.llm.configured, limits.open_items) == ("gpu", 4, 3)
    for plain in (Strategy.stage(4), StopConditions(max_cost=1.0), AdaptiveLimit()):
        assert twin(plain) == plain
    assert twin(StoreFolder(tmp_path)).path == tmp_path
    assert isinstance(Store(tmp_path / "a.db"), Store)
