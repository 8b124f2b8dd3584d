"""What services say is left of their limits: reading their headers, and passing it on in replies and refusals."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.calling import MODES, ask
from tests.support.local_server import LocalServer, Say, chat

from restaurant_llm_batch import LLMResponse
from restaurant_llm_batch._http.rate_limits import read_rate_limits
from restaurant_llm_batch._http.retry_after import duration
from restaurant_llm_batch._llm_response import RateLimitInfo, RateLimitStatus
from restaurant_llm_batch.backends import OpenAILLM, VLLMServerLLM
from restaurant_llm_batch.errors import RateLimited, TransientBackendError

REQUESTS = {
    "x-ratelimit-limit-requests": "500",
    "x-ratelimit-remaining-requests": "499",
    "x-ratelimit-reset-requests": "120ms",
}
TOKENS = {
    "x-ratelimit-limit-tokens": "200000",
    "x-ratelimit-remaining-tokens": "150000",
    "x-ratelimit-reset-tokens": "15s",
}
REPORT = RateLimitInfo(RateLimitStatus(500, 499, 0.12), RateLimitStatus(200_000, 150_000, 15.0))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("12ms", 0.012),
        ("0s", 0),
        ("0", 0),
        ("1s", 1),
        ("1.5", 1.5),
        ("55", 55),
        ("7.66s", 7.66),
        ("6m0s", 360),
        ("2m59.56s", 179.56),
        ("1h2m3.5s", 3723.5),
        ("1h0m12ms", 3600.012),
        ("1d", 86400),
        ("250us", 0.00025),
    ],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", " ", "s", "soon", "-1", "-1s", "1 s", "1s ", "nan", "inf", "1e3", "1.s", ".5s", "1s1", "٣s", "1x"],
)
def test_what_is_no_duration_is_none(text: str) -> None:
    assert duration(text) is None


@pytest.mark.parametrize("text", ["9" * 99, "2024-05-01T12:00:00Z", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_times_and_endless_numbers_are_no_durations(text: str) -> None:
    assert duration(text) is None


@given(st.text() | st.from_regex(r"([0-9.]+(h|m|s|ms|d)?)+", fullmatch=True))
def test_no_text_is_more_than_a_duration_or_none(text: str) -> None:
    seconds = duration(text)

    assert seconds is None or seconds >= 0


@pytest.mark.parametrize(
    ("headers", "report"),
    [
        ({}, None),
        ({**REQUESTS, **TOKENS}, REPORT),
        (REQUESTS, RateLimitInfo(requests=REPORT.requests)),
        (TOKENS, RateLimitInfo(tokens=REPORT.tokens)),
        ({**REQUESTS, **TOKENS, "x-ratelimit-reset-tokens": "soon"}, RateLimitInfo(requests=REPORT.requests)),
        ({**TOKENS, "x-ratelimit-remaining-requests": "79"}, RateLimitInfo(tokens=REPORT.tokens)),
        ({"x-ratelimit-remaining-requests": "79", "x-ratelimit-remaining-tokens": "61353"}, None),  # Azure's
        (
            {
                "x-ratelimit-limit-tokens": "-1",
                "x-ratelimit-remaining-tokens": "-1",
                "x-ratelimit-reset-tokens": "0",
            },
            None,  # Azure's too, at times
        ),
        ({**REQUESTS, "x-ratelimit-limit-requests": "500, 500;w=60"}, None),
        ({**REQUESTS, "x-ratelimit-limit-requests": "9" * 5000}, None),
        ({**REQUESTS, "x-ratelimit-remaining-requests": ""}, None),
        ({"x-ratelimit-limit": "5", "x-ratelimit-remaining": "4", "x-ratelimit-reset": "1"}, None),
    ],
)
def test_what_headers_say_is_left(headers: dict[str, str], report: RateLimitInfo | None) -> None:
    assert read_rate_limits(headers) == report
    assert read_rate_limits(httpx.Headers({name.title(): value for name, value in headers.items()})) == report


@given(st.fixed_dictionaries({}, optional={name: st.text() for name in {**REQUESTS, **TOKENS}}))
def test_whatever_headers_say_is_borne(headers: dict[str, str]) -> None:
    said = read_rate_limits(headers)
    assert said is None or isinstance(said, RateLimitInfo)


def test_where_nothing_is_said_it_costs_a_look_for_each_of_the_two() -> None:
    looked: list[str] = []

    class Watched(Mapping[str, str]):
        def __getitem__(self, name: str) -> str:
            looked.append(name)
            raise KeyError(name)

        def __iter__(self) -> Iterator[str]:
            raise AssertionError

        def __len__(self) -> int:
            raise AssertionError

    assert read_rate_limits(Watched()) is None
    assert looked == ["x-ratelimit-remaining-requests", "x-ratelimit-remaining-tokens"]


def openai(server: LocalServer) -> OpenAILLM:
    return OpenAILLM("tiny", base_url=f"{server.url}/v1", api_key="key")


def vllm(server: LocalServer) -> VLLMServerLLM:
    return VLLMServerLLM(server.url, "tiny")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model", [openai, vllm])
class TestBackends:
    def test_a_reply_says_what_is_left(self, model: Any, mode: str) -> None:
        with LocalServer(lambda seen: Say(chat("x"), headers={**REQUESTS, **TOKENS})) as server:
            assert ask(model(server), mode).rate_limit == REPORT

    def test_so_does_a_refusal(self, model: Any, mode: str) -> None:
        refusal = Say({"error": {"message": "slow down"}}, 429, {**TOKENS, "retry-after": "3"})
        with LocalServer(lambda seen: refusal) as server, pytest.raises(RateLimited) as caught:
            ask(model(server), mode)

        assert caught.value.rate_limit == RateLimitInfo(tokens=REPORT.tokens)
        assert caught.value.retry_after == 3

    def test_a_service_that_says_nothing_says_nothing(self, model: Any, mode: str) -> None:
        with LocalServer(lambda seen: Say(chat("x"))) as server:
            assert ask(model(server), mode).rate_limit is None

    def test_another_failure_is_what_it_was(self, model: Any, mode: str) -> None:
        with (
            LocalServer(lambda seen: Say(b"", 503, REQUESTS)) as server,
            pytest.raises(TransientBackendError) as caught,
        ):
            ask(model(server), mode)

        assert type(caught.value) is TransientBackendError


def test_replies_are_equal_whatever_was_left_and_do_not_show_it() -> None:
    told = LLMResponse("x", rate_limit=REPORT)

    assert told == LLMResponse("x")
    assert hash(told) == hash(LLMResponse("x"))
    assert repr(told) == repr(LLMResponse("x"))


def test_what_is_left_travels_with_replies_and_refusals() -> None:
    assert pickle.loads(pickle.dumps(LLMResponse("x", rate_limit=REPORT))).rate_limit == REPORT
    assert copy.deepcopy(LLMResponse("x", rate_limit=REPORT)).rate_limit == REPORT
    refusal = RateLimited("no", rate_limit=REPORT, retry_after=2.0, backend="b", status=429)
    for again in (pickle.loads(pickle.dumps(refusal)), copy.copy(refusal)):
        assert (again.rate_limit, again.retry_after, again.backend, again.status) == (REPORT, 2.0, "b", 429)
    assert RateLimited("no").rate_limit is None
