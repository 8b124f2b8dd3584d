"""Errors: what two of the same cause have in common, and what survives pickling."""

from __future__ import annotations

import copy
import pickle

import pytest

from restaurant_llm_batch import LLMResponse, errors


def permanent(message: str, status: int = 400, code: str = "") -> errors.PermanentBackendError:
    return errors.PermanentBackendError(message, backend="openai", status=status, code=code)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("openai answered 400: request req_8f3a1 failed", "openai answered 400: request req_77b2c failed"),
        ("no such model 'a'", "no such model 'b'"),
        ('field "x" has 12 items', 'field "something else" has 3 items'),
        ("blocked (Ray ID: 8c1f2e3d4a5b)", "blocked (Ray ID: 1a2b3c4d5e6f)"),
        ("Invalid   request", "invalid request"),
        ("denied, request id abcdefgh", "denied, request id hgfedcba"),
        ("denied. Trace: abc-def", "denied. Trace: fed-cba"),
    ],
)
def test_numbers_names_and_ids_do_not_tell_causes_apart(one: str, other: str) -> None:
    assert permanent(one).signature == permanent(other).signature


def test_class_status_code_and_words_do() -> None:
    base = permanent("no such model")
    others = [
        permanent("no such field"),
        permanent("no such model", 404),
        permanent("no such model", code="model_not_found"),
        errors.ContentRefused("no such model", backend="openai", status=400),
        errors.PermanentBackendError("no such model", backend="vllm", status=400),
    ]
    assert len({base.signature, *(other.signature for other in others)}) == 6


def test_a_signature_is_short_whatever_the_message() -> None:
    assert len(permanent("word " * 10_000).signature[-1]) <= 160


@pytest.mark.parametrize(
    "error",
    [
        errors.TransientBackendError(
            "x", retry_after=2.0, local_shortage=True, backend="b", status=503, code="c"
        ),
        errors.RateLimited("x", retry_after=2.0, backend="b", status=529, code="overloaded_error"),
        errors.PermanentBackendError("x", refused_fields=("temperature",), reply=LLMResponse("paid for")),
        errors.ContentRefused("x", reply=LLMResponse("half")),
        errors.PromptTooLong("x", code="context_length_exceeded"),
    ],
)
def test_everything_survives_pickling_and_copying(error: errors.BackendError) -> None:
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
