"""`error_for_status`: the error that a backend of a user's own raises for a service's answer."""

from __future__ import annotations

from typing import Any

import pytest

from restaurant_llm_batch import errors
from restaurant_llm_batch.backends import error_for_status


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (429, "", errors.RateLimited),
        (529, b"overloaded", errors.RateLimited),
        (500, '{"error": {"message": "Too many requests in flight"}}', errors.RateLimited),
        (None, {"error": {"type": "overloaded_error", "message": "Overloaded"}}, errors.RateLimited),
        (500, "", errors.TransientBackendError),
        (408, b"\xff\xfe", errors.TransientBackendError),
        (400, '{"detail": "This model\'s maximum context length is 4096 tokens"}', errors.PromptTooLong),
        (413, "", errors.PromptTooLong),
        (400, {"error": {"code": "content_filter", "message": "no"}}, errors.ContentRefused),
        (401, "wrong key", errors.AuthenticationFailed),
        (402, "", errors.QuotaExhausted),
        (403, "<html><title>Forbidden</title></html>", errors.PermanentBackendError),
        (404, b'{"error": "no such model"}', errors.PermanentBackendError),
        (422, "[" * 5000, errors.PermanentBackendError),
    ],
)
def test_it_is_the_error_that_the_built_in_backends_raise(
    status: Any, body: Any, kind: type[Exception]
) -> None:
    error = error_for_status(status, body, backend="mine")

    assert type(error) is kind
    assert error.backend == "mine"
    assert len(str(error)) < 2000


@pytest.mark.parametrize("name", ["Retry-After", "retry-after", "RETRY-AFTER"])
def test_the_time_to_wait_is_read_whatever_the_case_of_the_header(name: str) -> None:
    error = error_for_status(503, "", headers={name: "7"})

    assert isinstance(error, errors.RateLimited)
    assert error.retry_after == 7.0


def test_the_key_is_removed_from_what_the_service_quotes() -> None:
    error = error_for_status(
        401, "Incorrect API key provided: sk-live-1234567890", api_key="sk-live-1234567890"
    )

    assert "1234567890" not in str(error)
