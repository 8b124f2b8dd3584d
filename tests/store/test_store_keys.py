"""Keys of questions: equal exactly when what determines an answer is equal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restaurant_llm_batch import LLMRequest
from restaurant_llm_batch._store.keys import request_key
from restaurant_llm_batch.errors import ConfigurationError

ROOT = Path(__file__).parents[2]
SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 5}, "b": {"type": "number"}}}
QUESTION = LLMRequest(
    "aspect_summary",
    [{"role": "system", "content": "Summarise."}, {"role": "user", "content": "국물이 진하다"}],
    SCHEMA,
    max_tokens=300,
    temperature=0.1,
)
KNOWN = "52aba7d166a21c847690e6ed5ae353a9"


def key(**changes: Any) -> bytes:
    return request_key("vllm/qwen", replace(QUESTION, **changes))


def test_a_key_is_the_one_that_earlier_versions_of_the_library_made() -> None:
    assert request_key("vllm/qwen", QUESTION).hex() == KNOWN


@pytest.mark.slow
def test_a_key_is_the_same_in_another_process() -> None:
    script = (
        "from tests.store.test_store_keys import QUESTION, request_key;"
        "print(request_key('vllm/qwen', QUESTION).hex())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    found = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=ROOT, capture_output=True, check=True
    )

    assert found.stdout.decode().strip() == KNOWN


def test_what_a_model_never_sees_does_not_count() -> None:
    other = key(task="another", inputs={"reviews": [1, 2]}, priority=9)

    assert other == key()


def test_each_thing_that_determines_an_answer_counts() -> None:
    keys = [
        key(),
        request_key("vllm/llama", QUESTION),
        key(max_tokens=301),
        key(temperature=0.2),
        key(schema=None),
        key(schema={}),
        key(schema={**SCHEMA, "title": "x"}),
        key(messages=QUESTION.messages[:1]),
        key(messages=list(reversed(QUESTION.messages))),
        key(messages=[*QUESTION.messages, {"role": "assistant", "content": ""}]),
    ]

    assert len(set(keys)) == len(keys)


def test_the_order_of_a_schemas_names_does_not_count() -> None:
    turned = {name: SCHEMA[name] for name in reversed(SCHEMA)}

    assert list(turned) != list(SCHEMA)
    assert key(schema=turned) == key()


def test_a_schema_counts_as_it_is_now_and_not_as_it_was() -> None:
    schema: dict[str, Any] = json.loads(json.dumps(SCHEMA))
    before = key(schema=schema)
    schema["properties"]["a"]["maxLength"] = 6

    assert key(schema=schema) != before


def test_a_schema_may_be_any_mapping() -> None:
    assert key(schema=MappingProxyType(SCHEMA)) == key()


@pytest.mark.parametrize("text", ["\ud83d", "a\ud83db", "\x00", "😀"])
def test_any_text_has_a_key_of_its_own(text: str) -> None:
    def asking(content: str) -> bytes:
        return key(messages=[{"role": "user", "content": content}], schema={"title": content})

    assert asking(text) == asking(text)
    assert asking(text) != asking(text + " ")


def test_a_character_and_the_two_halves_of_it_differ() -> None:
    whole, halves = "😀", "\ud83d\ude00"

    assert key(schema={"title": whole}) != key(schema={"title": halves})
    assert key(messages=[{"role": "user", "content": whole}]) != key(
        messages=[{"role": "user", "content": halves}]
    )


def test_more_that_a_message_says_counts() -> None:
    plain = {"role": "user", "content": "hello"}
    written_out = '{"content":"hello","name":"kim","role":"user",}'

    keys = {
        key(messages=[plain]),
        key(messages=[{**plain, "name": "kim"}]),
        key(messages=[{"role": "", "content": written_out}]),
        key(messages=[{"role": "user", "content": [{"type": "text", "text": "hello"}]}]),
    }
    assert len(keys) == 4
    assert key(messages=[{"content": "hello", "name": "kim", "role": "user"}]) in keys


def test_numbers_count_by_value() -> None:
    assert key(temperature=0) == key(temperature=0.0) == key(temperature=-0.0)
    assert key(temperature=1) == key(temperature=1.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": {"x": object()}},
        {"schema": {1: "x"}},
        {"schema": {"x": b"bytes"}},
        {"max_tokens": None},
        {"max_tokens": 1.5},
        {"temperature": None},
    ],
)
def test_what_cannot_be_sent_is_refused_with_the_tasks_name(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="aspect_summary"):
        key(**changes)


texts = st.text(st.sampled_from("a1\x00:😀\ud83d"), max_size=3)
plain_json = st.recursive(
    st.none() | st.booleans() | st.integers(0, 1) | st.sampled_from([0.0, 1.0, 0.1]) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=3,
)
requests = st.builds(
    LLMRequest,
    task=texts,
    messages=st.lists(st.fixed_dictionaries({"role": texts, "content": texts}), max_size=2),
    schema=st.none() | st.dictionaries(texts, plain_json, max_size=2),
    max_tokens=st.integers(1, 2),
    temperature=st.sampled_from([0, 0.0, 0.1, 1]),
    priority=st.integers(0, 1),
)


def what_counts(identity: str, request: LLMRequest) -> tuple[Any, ...]:
    # json tells 1, 1.0 and True apart, which == does not; its escapes do not tell halves from characters.
    schema = json.dumps(request.schema, sort_keys=True, ensure_ascii=False)
    messages = [(message["role"], message["content"]) for message in request.messages]
    return identity, messages, schema, request.max_tokens, float(request.temperature)


@given(st.sampled_from(["", "a"]), requests, st.sampled_from(["", "a"]), requests)
def test_keys_are_equal_exactly_when_requests_are(
    identity: str, one: LLMRequest, other_identity: str, other: LLMRequest
) -> None:
    same = what_counts(identity, one) == what_counts(other_identity, other)

    assert (request_key(identity, one) == request_key(other_identity, other)) == same


@given(requests, st.data())
def test_a_small_change_makes_another_request(one: LLMRequest, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["messages", "schema", "max_tokens", "temperature", "task"]))
    other = replace(one, **{name: getattr(data.draw(requests), name)})
    same = what_counts("", one) == what_counts("", other)

    assert (request_key("", one) == request_key("", other)) == same
