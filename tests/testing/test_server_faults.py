"""The pure parts of `FaultServer`: who meets which fault, buckets, spoilt answers, and the lives of jobs."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from math import inf
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.examples import examples

from restaurant_llm_batch import LLMResponse
from restaurant_llm_batch.errors import ConfigurationError
from restaurant_llm_batch.tasks._replies import values_in
from restaurant_llm_batch.testing.server import Faults
from restaurant_llm_batch.testing.server._answers import corrupt
from restaurant_llm_batch.testing.server._chat_api import duration
from restaurant_llm_batch.testing.server._faults import TokenBucket
from restaurant_llm_batch.testing.server._jobs import ALIVE, JobQueue, ServerJob
from restaurant_llm_batch.testing.server._requests import ChatRequest, count_tokens, read_chat, read_job

DIGESTS = [f"{number:016x}" for number in range(2000)]
SHARES: Any = {"reset": 0.1, "server_error": 0.25, "truncated": 0.05}

texts = st.text(st.characters(codec="utf-8"))
names = texts.filter(lambda name: not name.isdigit())  # "missing_ids" leaves numbered entries out
answers = st.dictionaries(names, st.one_of(texts, st.integers(), st.lists(texts)), min_size=1)


def asked(digest: str = "0", attempt: int = 1, text: str = "맛은?", **more: Any) -> ChatRequest:
    return ChatRequest({"messages": [{"role": "user", "content": text}], **more}, digest, attempt)


def kinds(faults: Faults, seed: int, attempt: int = 1) -> list[str | None]:
    return [faults.kind(asked(digest, attempt), seed) for digest in DIGESTS]


def test_each_fault_befalls_its_share_of_the_requests() -> None:
    found = Counter(kinds(Faults(probabilities=SHARES), seed=7))

    assert set(found) == {*SHARES, None}
    for kind, share in SHARES.items():
        assert found[kind] / len(DIGESTS) == pytest.approx(share, abs=0.03)


def test_a_seed_names_the_same_requests_in_every_process_and_another_seed_others() -> None:
    first = [at for at, kind in enumerate(kinds(Faults(probabilities=SHARES), seed=7)) if kind == "truncated"]

    assert first[:5] == [42, 47, 58, 93, 129]
    assert kinds(Faults(probabilities=SHARES), seed=8) != kinds(Faults(probabilities=SHARES), seed=7)


def test_a_fault_is_met_by_as_many_tries_as_it_says() -> None:
    always = kinds(Faults(probabilities=SHARES, tries=None), seed=1)

    for attempt, tries in ((1, 1), (2, 2), (9, None)):
        assert kinds(Faults(probabilities=SHARES, tries=tries), 1, attempt) == always
    assert set(kinds(Faults(probabilities=SHARES, tries=2), seed=1, attempt=3)) == {None}


def test_a_plan_goes_before_shares_and_its_mistakes_are_named() -> None:
    faults = Faults(probabilities={"reset": 1.0}, plan=lambda asked: "empty" if asked.attempt == 2 else None)

    assert [faults.kind(asked(attempt=attempt), 0) for attempt in (1, 2)] == [None, "empty"]
    wrong: Any = lambda asked: "hangup"  # noqa: E731
    with pytest.raises(
        ConfigurationError, match=r"'hangup' is not a kind of fault; choose one of .*disconnect"
    ):
        Faults(plan=wrong).kind(asked(), 0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"probabilities": {"oops": 0.1}}, "'oops' is not a kind"),
        ({"probabilities": {"reset": 1.2}}, "from 0 to 1"),
        ({"probabilities": {"reset": 0.6, "empty": 0.6}}, "at most 1 together"),
        ({"limit": 0}, "Faults.limit must be a whole number of at least 1"),
        ({"limit": 2.5}, "Faults.limit"),
        ({"refusal": 500}, "429 or 503"),
        ({"requests_per_second": 0}, "above 0"),
        ({"retry_after": "soon"}, "Faults.retry_after"),
        ({"latency": -1}, "Faults.latency must be a number of seconds, 0 or more"),
        ({"context": True}, "Faults.context"),
    ],
)
def test_what_cannot_be_used_is_named(wrong: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Faults(**wrong)


def test_latencies_are_drawn_by_seed_request_and_attempt() -> None:
    faults = Faults(latency=lambda random: random.uniform(1, 2))
    drawn = [faults.seconds(asked(digest), 3) for digest in DIGESTS[:50]]

    assert drawn == [faults.seconds(asked(digest), 3) for digest in DIGESTS[:50]]
    assert len(set(drawn)) == 50
    assert all(1 <= seconds <= 2 for seconds in drawn)
    assert faults.seconds(asked(attempt=2), 3) != faults.seconds(asked(attempt=1), 3)


def test_faults_travel_to_other_processes() -> None:
    assert pickle.loads(pickle.dumps(Faults(probabilities=SHARES, limit=3))) == Faults(
        probabilities=SHARES, limit=3
    )


@given(
    st.floats(0.5, 1000),
    st.integers(1, 100),
    st.lists(st.tuples(st.floats(0, 0.2), st.integers(1, 20)), max_size=60),
)
def test_a_bucket_never_gives_more_than_its_rate_and_what_it_held(
    rate: float, holds: int, asks: list[tuple[float, int]]
) -> None:
    bucket, now, given_out = TokenBucket(), 100.0, 0
    for pause, amount in asks:
        now += pause
        wait = bucket.wait(amount, rate, holds, now)
        assert (wait == inf) == (amount > holds)
        if wait == 0:
            bucket.take(amount)
            given_out += amount
        elif wait < inf:
            assert bucket.wait(amount, rate, holds, now + wait) == 0  # what it asks to wait is enough
            now += wait
        assert given_out <= holds + rate * (now - 100.0) + 1e-3


@given(answers)
def test_spoilt_answers_are_spoilt_as_their_names_say(answer: dict[str, Any]) -> None:
    text = json.dumps(answer, ensure_ascii=False)

    def spoilt(kind: str | None, most: int | None = None) -> LLMResponse:
        return LLMResponse(*corrupt(kind, text, count_tokens, most)[:2])

    assert spoilt(None) == spoilt("server_error") == LLMResponse(text, "stop")
    assert spoilt("truncated").finish_reason == "length"
    assert text.startswith(spoilt("content_filter").text)
    assert next(values_in(spoilt("prose"))) == answer
    assert next(values_in(spoilt("missing_ids"))) == answer
    for kind in ("truncated", "content_filter", "malformed", "empty"):
        with pytest.raises(ValueError):
            json.loads(spoilt(kind).text)
    tokens = count_tokens(text)
    assert spoilt(None, tokens).text == text
    assert spoilt(None, max(1, tokens // 2)).finish_reason == ("length" if tokens > 1 else "stop")


def test_control_characters_break_strict_json_alone() -> None:
    text = corrupt("control_characters", '{"a":"좋아요"}', count_tokens, None).text

    assert json.loads(text, strict=False) == {"a": "\n\t좋아요"}
    with pytest.raises(ValueError, match="control character"):
        json.loads(text)


def test_every_other_numbered_entry_is_left_out() -> None:
    text = json.dumps({"labels": [{"id": n, "label": "neutral"} for n in range(1, 6)], "more": [1, 2]})

    answer = json.loads(corrupt("missing_ids", text, count_tokens, None).text)

    assert [entry["id"] for entry in answer["labels"]] == [2, 4]
    assert answer["more"] == [1, 2]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0115, "12ms"), (1, "1s"), (1.5, "1.5s"), (360, "6m0s"), (3661.25, "1h1m1.25s")]
)
def test_durations_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    "given",
    [
        {"openai_route": "/v1/chat/completions", "openai_input": {"messages": [{"content": "맛은?"}]}},
        {"messages": [{"content": "맛은?"}], "sampling_params": {"max_tokens": 5}},
    ],
)
def test_requests_are_the_same_over_every_api(given: Any) -> None:
    over_chat, over_jobs = read_chat({"messages": [{"content": "맛은?"}]}), read_job({"input": given})

    assert over_chat is not None
    assert over_jobs is not None
    assert over_jobs.digest == over_chat.digest
    assert over_jobs.text == "맛은?"


def test_native_prompts_of_jobs_are_read_too_and_other_inputs_are_not() -> None:
    found = read_job({"input": {"prompt": "맛은?", "sampling_params": {"max_tokens": 5}}})

    assert found is not None
    assert (found.text, found.max_tokens) == ("맛은?", 5)
    assert read_job({"input": []}) is None
    assert read_chat({"messages": []}) is None


@settings(max_examples=examples(200))
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["COMPLETED", "FAILED", "VANISHED", None]),
            st.floats(0, 3),
            st.booleans(),
            st.sampled_from([inf, 0.5, 2.0]),
            st.sampled_from([inf, 1.0, 4.0]),
            st.floats(0, 1),
        ),
        max_size=12,
    ),
    st.sampled_from([None, 1, 3]),
    st.randoms(use_true_random=False),
)
def test_how_often_jobs_are_looked_at_changes_nothing(
    plan: list[Any], workers: int | None, random: Random
) -> None:
    looked_at, left_alone = JobQueue(), JobQueue()
    for jobs in (looked_at, left_alone):
        now = 0.0
        for number, (end, seconds, starts, lasts, lives, pause) in enumerate(plan):
            job = ServerJob(
                f"job{number}", f"{number % 4}", end, {}, seconds, starts, None, now + lives, lasts
            )
            jobs.add(job, now, workers)
            now += pause
            if jobs is looked_at:
                for moment in sorted(random.uniform(now - pause, now) for _ in range(3)):
                    jobs.advance(moment, workers)
                    at_work = [job for job in jobs.alive.values() if job.status == "IN_PROGRESS"]
                    assert workers is None or len(at_work) <= workers
        jobs.advance(20.0, workers)

    statuses = {job.id: job.status for job in looked_at.all.values()}
    assert statuses == {job.id: job.status for job in left_alone.all.values()}
    assert looked_at.duplicates == left_alone.duplicates
    assert set(looked_at.alive) == {name for name, status in statuses.items() if status in ALIVE}


def test_workers_take_jobs_one_after_another_and_the_cancelled_ones_never() -> None:
    jobs = JobQueue()
    for number in range(4):
        jobs.add(ServerJob(str(number), "same", "COMPLETED", {}, 1.0), 0.0, workers=1)
    jobs.end(jobs.all["1"], "CANCELLED")

    jobs.advance(1.5, workers=1)

    assert [job.status for job in jobs.all.values()] == ["COMPLETED", "CANCELLED", "IN_PROGRESS", "IN_QUEUE"]
    assert (jobs.peak, jobs.duplicates) == (4, 3)
    assert jobs.purge() == 1
    jobs.advance(2.0, workers=1)
    assert not jobs.alive
