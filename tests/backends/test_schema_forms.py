"""What a service is asked to write: labels keyed by number for grammar servers, no bounds for fine-tuned models."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from restaurant_llm_batch import AnalyzeSentiment, BatchRunner, LLMRequest, LLMResponse, SummarizeAspects
from restaurant_llm_batch.backends._schema_forms import SchemaForms, labels_by_number, without_bounds
from restaurant_llm_batch.backends.openai._codec import body_for
from restaurant_llm_batch.backends.openai._strict import StrictCache, is_strict
from restaurant_llm_batch.tasks._prompts.reviews import labels_schema
from restaurant_llm_batch.testing import FakeLLM, FakeSearch


def test_labels_are_an_object_keyed_by_number_from_1() -> None:
    labels = labels_by_number(labels_schema(3))["properties"]["labels"]

    assert list(labels["properties"]) == labels["required"] == ["1", "2", "3"]
    assert labels["properties"]["2"]["enum"] == ["positive", "negative", "neutral"]
    assert labels["additionalProperties"] is False


@pytest.mark.parametrize(
    "change",
    [{"minItems": 2}, {"maxItems": 4}, {"items": {"type": "string"}}, {"type": "string"}],
    ids=str,
)
def test_any_other_schema_is_sent_as_it_is(change: dict[str, Any]) -> None:
    schema = labels_schema(3)
    labels = {**schema["properties"]["labels"], **change}
    other = {**schema, "properties": {"labels": labels}}

    assert labels_by_number(other) is other
    assert labels_by_number({"type": "string"}) == {"type": "string"}


def test_a_request_without_labels_is_not_copied_and_equal_schemas_are_converted_once() -> None:
    forms = SchemaForms(labels_by_number)
    plain = LLMRequest("own", (), {"type": "object", "properties": {"a": {"type": "string"}}})
    first, second = (LLMRequest("sentiment", (), labels_schema(5)) for _ in range(2))

    assert forms.adapt(plain) is plain
    assert forms.adapt(LLMRequest("own", ())).schema is None
    assert forms.adapt(first).schema is forms.adapt(second).schema
    assert first.schema is labels_schema(5)  # what the store and the tasks see is the list


def test_more_schemas_than_are_kept_are_converted_as_well() -> None:
    forms = SchemaForms(labels_by_number)
    for count in range(1, 600):
        labels = forms.adapt(LLMRequest("sentiment", (), labels_schema(count))).schema
        assert labels is not None
        assert len(labels["properties"]["labels"]["properties"]) == count


def test_a_vllm_server_that_answers_by_number_labels_every_review() -> None:
    from restaurant_llm_batch.backends import VLLMServerLLM
    from restaurant_llm_batch.testing.server import Faults, FaultServer

    with FaultServer(Faults()) as server, closing(VLLMServerLLM(server.url)) as llm:
        report = BatchRunner(llm=llm).run(
            AnalyzeSentiment(), [{"restaurant_id": 1, "reviews": ["a", "b", "c", "d"]}]
        )
        calls = server.counts.answered
    (result,) = report.results

    assert (result.positive_count, result.failed_count, calls) == (4, 0, 1)


def every_schema() -> list[Any]:
    requests: list[LLMRequest] = []
    llm = FakeLLM(requests=requests)
    BatchRunner(llm=llm, search=FakeSearch({1: ["좋아요"]})).run(SummarizeAspects(), [1])
    BatchRunner(llm=llm).run(AnalyzeSentiment(), [{"restaurant_id": 1, "reviews": ["좋아요", "별로"]}])
    return [request.schema for request in requests]


def test_every_schema_of_ours_is_one_that_strict_mode_takes() -> None:
    assert all(is_strict(schema) for schema in every_schema())


@pytest.mark.parametrize(("model", "bounded"), [("gpt-4.1-mini", True), ("ft:gpt-4.1-mini:me", False)])
def test_a_fine_tuned_model_is_asked_without_bounds_which_it_refuses(model: str, bounded: bool) -> None:
    for schema in every_schema():
        body = body_for(
            LLMRequest("t", (), schema),
            model,
            max_tokens_field="max_tokens",
            send_temperature=True,
            extra_body={},
            strict=StrictCache(),
        )
        sent = str(body["response_format"])
        assert any(f"'{word}'" in sent for word in ("maxLength", "maxItems")) is bounded
        assert body["response_format"]["json_schema"]["strict"] is True


def test_a_field_may_have_the_name_of_a_bound() -> None:
    schema = {"type": "object", "properties": {"maxItems": {"type": "array", "maxItems": 3}}}

    assert without_bounds(schema) == {"type": "object", "properties": {"maxItems": {"type": "array"}}}


def test_the_double_of_the_smallest_answer_numbers_labels_as_asked() -> None:
    llm = FakeLLM()
    reply = llm.complete(LLMRequest("sentiment", (), labels_schema(3)))

    assert isinstance(reply, LLMResponse)
    assert [f'"id": {number}' in reply.text for number in (1, 2, 3)] == [True] * 3
