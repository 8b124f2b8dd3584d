"""How long a service asks to wait: in headers, fields and sentences."""

from __future__ import annotations

from typing import Any

import pytest

from restaurant_llm_batch._http.classify import service_error
from restaurant_llm_batch._http.retry_after import retry_after, wait_in_text
from restaurant_llm_batch.errors import RateLimited


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Please try again in 20s. Visit the console", 20),
        ("Please retry after 7 seconds.", 7),
        ("try again in 6m0s", 360),
        ("Rate limit reached. Please try again in 1h2m3.5s.", 3723.5),
        ("Try again in 120ms", 0.12),
        ("retry in 1 minute and 5 seconds", 65),
        ("Please wait 5 seconds before the next call", 5),
        ("Retry-After: 30", 30),
        ("The limit resets in 12 hours", 43_200),
        ("Please retry in 17.3s", 17.3),
        ("try again in 99999999999999 seconds", 99_999_999_999_999),
        ("retry after -5 seconds", None),
        ("try again in nan seconds", None),
        ("try again later", None),
        ("try again in 2026-11-29", None),
        ("I waited in vain, for 3 hours", None),
        ("", None),
    ],
)
def test_a_sentence_may_say_it(text: str, seconds: float | None) -> None:
    assert wait_in_text(text) == seconds


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        ({"error": {"retry_after": 12}}, 12),
        ({"error": {"details": [{"@type": "google.rpc.RetryInfo", "retryDelay": "34s"}]}}, 34),
        ({"error": {"details": [{"retryDelay": {"seconds": "3", "nanos": 500_000_000}}]}}, 3.5),
        ({"retry_after_ms": "1500"}, 1.5),
        ({"retry_after": 1e300}, 1e300),
        ({"retry_after": -1}, None),
        ({"retry_after": float("nan")}, None),
        ({"retry_after": True}, None),
        ({"retry_after": "soon"}, None),
        ({"retry_after": [1]}, None),
    ],
)
def test_a_field_may_say_it(body: Any, seconds: float | None) -> None:
    error = service_error(429, body, "x")
    assert isinstance(error, RateLimited)
    assert error.retry_after == seconds


def test_the_header_goes_before_the_sentence() -> None:
    error = service_error(429, {"error": {"message": "try again in 20s"}}, "x", headers={"retry-after": "3"})
    assert isinstance(error, RateLimited)
    assert error.retry_after == 3


@pytest.mark.parametrize(
    "header",
    [
        "Wed, 99 Nov 2026",
        "29 Nov",
        "-3",
        "nan",
        "inf",
        "1e999",
        "9" * 500,
        "Mon, 01 Jan 99999 00:00:00 GMT",
        " ",
    ],
)
def test_a_header_that_says_nothing_is_none(header: str) -> None:
    assert retry_after({"retry-after": header}) is None


@pytest.mark.parametrize(
    ("header", "seconds"), [("30s", 30), (" 2 ", 2), ("1m30s", 90), ("99999999", 99_999_999)]
)
def test_a_header_may_be_written_in_other_ways(header: str, seconds: float) -> None:
    assert retry_after({"retry-after": header}) == seconds
