"""What a store knows a backend by: backends without a fingerprint do not share answers in silence."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from restaurant_llm_batch import BatchRunner, LLMRequest, LLMResponse
from restaurant_llm_batch._store.identity import fingerprint_of
from restaurant_llm_batch.backends import OpenAILLM
from restaurant_llm_batch.steps import Flow, complete
from restaurant_llm_batch.testing import FakeLLM


class Own:
    """A backend of a user's own that says which model it is only by its answers."""

    def __init__(self, model: str = "a", **more: Any) -> None:
        self._model = model
        self.calls = 0
        for name, value in more.items():
            setattr(self, name, value)

    def complete(self, request: LLMRequest) -> LLMResponse:
        self.calls += 1
        return LLMResponse(self._model)


class Named(Own):
    fingerprint = "my-service tiny"


class Slotted:
    __slots__ = ("model",)

    def __init__(self, model: str) -> None:
        self.model = model


class OfClass:
    model = "a"


def task(item: int) -> Flow[str]:
    reply = yield from complete(LLMRequest("t", ({"role": "user", "content": "?"},)))
    return reply.text


def run(llm: Any, store: Path) -> str:
    (answer,) = BatchRunner(llm=llm, store=store).run(task, [1]).results
    return answer


def test_answers_of_another_model_are_not_taken(tmp_path: Path) -> None:
    assert [run(Own(model), tmp_path / "run.db") for model in ("a", "b", "a")] == ["a", "b", "a"]


def test_answers_of_the_same_model_are_found_again(tmp_path: Path) -> None:
    first, again = Own("a"), Own("a")
    run(first, tmp_path / "run.db")
    run(first, tmp_path / "run.db")  # its own counter has changed
    run(again, tmp_path / "run.db")

    assert (first.calls, again.calls) == (1, 0)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Own("a"), Own("b")),
        (Own(url="http://x"), Own(url="http://y")),
        (Own(inner=OpenAILLM("a", api_key="k")), Own(inner=OpenAILLM("b", api_key="k"))),
        (Slotted("a"), Slotted("b")),
        (OfClass(), type("OfClass", (OfClass,), {"__module__": OfClass.__module__, "model": "b"})()),
    ],
)
def test_what_differs_in_a_text_is_another_model(one: Any, other: Any) -> None:
    assert fingerprint_of(one) != fingerprint_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Own(calls=1), Own(calls=9)),
        (Own(api_key="sk-one"), Own(api_key="sk-two")),
        (Own(access_token="one"), Own(access_token="two")),
        (Own(client=object()), Own(client=object())),
        (Named("a"), Named("b")),
    ],
)
def test_counters_keys_and_clients_do_not_count(one: Any, other: Any) -> None:
    assert fingerprint_of(one) == fingerprint_of(other)


def test_no_text_of_a_backend_can_be_read_from_its_fingerprint() -> None:
    fingerprint = fingerprint_of(Own("secret-model", url="http://user:password@host"))

    assert "secret" not in fingerprint
    assert "password" not in fingerprint


@pytest.mark.parametrize(
    ("llm", "store", "warned"),
    [(Own(), True, True), (Named(), True, False), (FakeLLM(), True, False), (Own(), False, False)],
    ids=["own", "named", "ours", "without a store"],
)
def test_a_missing_fingerprint_is_said_with_what_to_write(
    llm: Any, store: bool, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "restaurant_llm_batch"):
        runner = BatchRunner(llm=llm, store=tmp_path / "run.db" if store else None)
        for _ in range(2):
            runner.run(task, [1])

    said = [record.getMessage() for record in caplog.records if "fingerprint" in record.getMessage()]
    assert len(said) == warned
    assert all(
        "Own has no fingerprint" in text and 'fingerprint = "my-service my-model"' in text for text in said
    )
