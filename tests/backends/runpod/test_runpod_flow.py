"""The flows alone, step by step: no network, no loop, no clock."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.runpod_server import KEY, completion

from restaurant_llm_batch import LLMResponse
from restaurant_llm_batch._http.border import SafeLog
from restaurant_llm_batch._http.exchange import HTTPClient
from restaurant_llm_batch._http.secrets import Secret
from restaurant_llm_batch._http.types import HTTPResponse, Timeout, TransportError
from restaurant_llm_batch.backends.runpod._flows import CANCEL_WAITS, TERMINAL, JobFlows
from restaurant_llm_batch.backends.runpod._job import GetTime, Job, JobFlow, Send
from restaurant_llm_batch.backends.runpod.llm import PollingPolicy
from restaurant_llm_batch.errors import (
    AuthenticationFailed,
    BackendError,
    ConfigurationError,
    PermanentBackendError,
    QuotaExhausted,
    RateLimited,
    SubmissionUnknown,
    TransientBackendError,
)
from restaurant_llm_batch.steps import Sleep

LOST = TransportError("connection reset", request_may_have_been_sent=True)
NEVER_SENT = TransportError("connection refused", request_may_have_been_sent=False)
URL = "https://api.example/v2/ep"


def flows(timeout: float = 1000.0, polling: PollingPolicy = PollingPolicy()) -> JobFlows:
    """Return the flows of an endpoint."""
    secret = Secret(KEY)
    log = SafeLog(secret, HTTPClient(None))
    return JobFlows(URL, "ep", secret, "qwen", timeout, Timeout(total=30), polling, log)


def says(body: Any, status: int = 200, **headers: str) -> HTTPResponse:
    """Return an answer."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HTTPResponse(status, {name.replace("_", "-"): value for name, value in headers.items()}, content)


def state(status: str, **more: Any) -> HTTPResponse:
    """Return an answer that tells of a job's status."""
    return says({"id": "j1", "status": status, **more})


class Played:
    """
    A flow played to its end with given answers; time passes only in its pauses.

    After the last answer has been given, it is given again.
    """

    def __init__(self, flow: JobFlow[Any], *answers: HTTPResponse | Exception, now: float = 500.0) -> None:
        self.asked: list[str] = []
        self.pauses: list[float] = []
        self.result: Any = None
        self.error: Exception | None = None
        left = list(answers)
        answer: Any = None
        try:
            while True:
                step = flow.throw(answer) if isinstance(answer, Exception) else flow.send(answer)
                answer = None
                if isinstance(step, Sleep):
                    self.pauses.append(step.seconds)
                    now += step.seconds
                elif isinstance(step, GetTime):
                    answer = now
                else:
                    assert isinstance(step, Send)
                    self.asked.append(f"{step.request.method} {step.request.url.removeprefix(URL)}")
                    assert not step.request.headers  # the key is added by whoever sends
                    answer = left.pop(0) if len(left) > 1 else left[0]
        except StopIteration as stop:
            self.result = stop.value
        except BackendError as error:
            self.error = error


def submitted(*answers: HTTPResponse | Exception) -> tuple[Job, Played]:
    """Submit a job."""
    job = Job()
    return job, Played(flows().submit(job, b"{}"), *answers)


def watched(*answers: HTTPResponse | Exception, timeout: float = 1000.0) -> tuple[Job, Played]:
    """Watch a job."""
    job = Job("j1")
    return job, Played(flows(timeout).watch(job, 100), *answers)


def cancelled(*answers: HTTPResponse | Exception) -> tuple[Job, Played]:
    """Cancel a job."""
    job = Job("j1")
    return job, Played(flows().cancel(job), *answers)


class TestSubmitting:
    """One request, never a second one."""

    def test_it_learns_the_id(self) -> None:
        job, played = submitted(says({"id": "abc-u1", "status": "IN_QUEUE"}))
        assert (job.id, job.alive, played.asked) == ("abc-u1", True, ["POST /run"])

    @pytest.mark.parametrize(
        ("answer", "kind"),
        [
            (NEVER_SENT, TransientBackendError),
            (says({"error": "slow down"}, 429), RateLimited),
            (says(b"busy", 503), RateLimited),
            (says(b"Service Unavailable", 503), TransientBackendError),
            (says({"error": "too many queued requests"}, 500), RateLimited),
            (says({"error": {"type": "overloaded_error"}}, 529), RateLimited),
            (says(b"origin down", 521), TransientBackendError),
            (says({"error": "bad"}, 400), PermanentBackendError),
            (says({"error": "no"}, 401), AuthenticationFailed),
            (says({"error": "no"}, 402), QuotaExhausted),
            (says({"error": "none"}, 404), PermanentBackendError),
            (says(b"", 302, location="https://elsewhere"), PermanentBackendError),
            (says({"error": "quota"}), PermanentBackendError),
        ],
    )
    def test_a_refusal_makes_no_job_and_says_whether_to_try_again(
        self, answer: HTTPResponse | Exception, kind: type[Exception]
    ) -> None:
        job, played = submitted(answer)
        assert type(played.error) is kind
        assert not job.alive
        assert len(played.asked) == 1

    @pytest.mark.parametrize(
        "answer",
        [
            LOST,
            TransportError("no answer within 30 seconds", request_may_have_been_sent=True, timed_out=True),
            says(b"<html>bad gateway</html>", 502),
            says(b"<html>the origin is overloaded</html>", 502),
            says(b"", 504),
            says({"error": "internal"}, 500),
            says(b"", 520),
            says(b"", 524),
            says(b"<html>ok?</html>"),
            says({}),
            says({"id": ""}),
            says({"id": 7}),
            says([]),
        ],
    )
    def test_what_may_have_made_a_job_is_not_tried_again(self, answer: HTTPResponse | Exception) -> None:
        _, played = submitted(answer)
        assert type(played.error) is SubmissionUnknown
        assert not isinstance(played.error, TransientBackendError)
        assert len(played.asked) == 1

    def test_a_refusal_keeps_retry_after(self) -> None:
        _, played = submitted(says({}, 429, retry_after="7"))
        assert isinstance(played.error, RateLimited)
        assert played.error.retry_after == 7


class TestWatching:
    """Polls until the end, through everything that may pass."""

    def test_it_polls_slower_and_slower(self) -> None:
        _, played = watched(*[state("IN_QUEUE")] * 8, state("COMPLETED", output=[completion()]))
        assert played.pauses == [0.5, 0.75, 1.125, 1.6875, 2.53125, 3.796875, 5, 5, 5]
        assert set(played.asked) == {"GET /status/j1"}

    def test_output_that_comes_early_is_not_the_answer(self) -> None:
        job, played = watched(
            state("IN_PROGRESS", output=[completion("half")]), state("COMPLETED", output=[completion("all")])
        )
        assert played.result.text == "all"
        assert job.finished

    def test_an_unknown_state_is_not_the_end(self) -> None:
        _, played = watched(
            state("RUNNING"), state("POSTPONED"), state("COMPLETED", output=completion("done"))
        )
        assert played.result.text == "done"

    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            (state("CANCELLED"), "another client cancelled"),
            (state("TIMED_OUT"), "execution_timeout"),
            (state("FAILED", error="boom"), "boom"),
            (state("FAILED"), "no reason"),
            (state("COMPLETED"), "without a chat completion"),
            (state("COMPLETED", output=[]), "without a chat completion"),
        ],
    )
    def test_every_other_end_is_an_error_for_good(self, answer: HTTPResponse, words: str) -> None:
        job, played = watched(answer)
        assert type(played.error) is PermanentBackendError
        assert words in str(played.error)
        assert job.finished

    @pytest.mark.parametrize(
        "passing",
        [
            LOST,
            NEVER_SENT,
            says({}, 429),
            says(b"bad gateway", 502),
            says({}, 500),
            says({}, 408),
            says(b"<html>not json</html>"),
            says(["neither"]),
        ],
    )
    def test_a_poll_that_fails_is_made_again(self, passing: HTTPResponse | Exception) -> None:
        _, played = watched(passing, passing, passing, state("COMPLETED", output=[completion("done")]))
        assert played.result.text == "done"
        assert len(played.asked) == 4

    def test_a_poll_waits_as_long_as_it_is_told_to(self) -> None:
        _, played = watched(
            says({}, 429, retry_after="11"), state("COMPLETED", output=[completion()]), timeout=60
        )
        assert played.pauses == [0.5, 11]

    @pytest.mark.parametrize(
        ("fatal", "kind"),
        [
            (says({}, 401), AuthenticationFailed),
            (says({}, 403), PermanentBackendError),
            (says({}, 404), PermanentBackendError),
            (says({}, 400), PermanentBackendError),
            (says({"error": "no such endpoint"}), PermanentBackendError),
            (says({"id": "j1", "status": ""}), PermanentBackendError),
            (says({}), PermanentBackendError),
        ],
    )
    def test_a_poll_that_cannot_succeed_ends_the_watch_and_leaves_the_job_to_be_cancelled(
        self, fatal: HTTPResponse, kind: type[Exception]
    ) -> None:
        job, played = watched(state("IN_PROGRESS"), fatal)
        assert type(played.error) is kind
        assert job.alive
        assert len(played.asked) == 2

    @pytest.mark.parametrize("answer", [state("IN_PROGRESS"), LOST, says({}, 503)])
    def test_it_ends_when_the_time_is_over(self, answer: HTTPResponse | Exception) -> None:
        job, played = watched(answer, timeout=12.0)
        assert type(played.error) is PermanentBackendError
        assert "timeout=12 seconds" in str(played.error)
        assert sum(played.pauses) == pytest.approx(12.0)
        assert job.alive

    @given(
        st.lists(
            st.one_of(
                st.sampled_from(
                    [LOST, NEVER_SENT, state("IN_QUEUE"), state("IN_PROGRESS"), state("WHO_KNOWS")]
                ),
                st.builds(says, st.just({}), st.sampled_from([408, 409, 425, 429, 500, 502, 503, 504, 524])),
            ),
            max_size=40,
        ),
        st.sampled_from(sorted(TERMINAL)),
        st.floats(0.1, 200),
    )
    def test_whatever_happens_it_ends_in_time_and_asks_only_about_its_job(
        self, answers: list[HTTPResponse | Exception], last: str, timeout: float
    ) -> None:
        job, played = watched(*answers, state(last, output=[completion()], error="e"), timeout=timeout)
        assert sum(played.pauses) <= timeout + 1e-6
        assert set(played.asked) <= {"GET /status/j1", "GET /health"}
        assert isinstance(played.result, LLMResponse) or isinstance(played.error, PermanentBackendError)
        assert job.finished == ("took longer" not in str(played.error))


class TestTheQueue:
    """A job that waits for long has the endpoint looked at."""

    def health(self, **workers: int) -> HTTPResponse:
        return says({"jobs": {"inQueue": 3}, "workers": {"idle": 0, "running": 0, **workers}})

    def watch(self, health: HTTPResponse, timeout: float = 200.0) -> Played:
        many = [state("IN_QUEUE")] * 10
        return Played(flows(timeout).watch(Job("j1"), 10), *many, health, state("IN_QUEUE"))

    def test_it_is_not_looked_at_early(self) -> None:
        _, played = watched(state("IN_QUEUE"), timeout=29)
        assert "GET /health" not in played.asked

    @pytest.mark.parametrize(
        ("workers", "words"),
        [({}, "no workers"), ({"throttled": 2}, "throttled"), ({"unhealthy": 1}, "unhealthy")],
    )
    def test_trouble_is_reported_once(
        self, caplog: pytest.LogCaptureFixture, workers: dict[str, int], words: str
    ) -> None:
        caplog.set_level(logging.WARNING, "restaurant_llm_batch")
        played = self.watch(self.health(**workers))
        assert [words in record.message for record in caplog.records] == [True]
        assert played.asked.count("GET /health") == 1

    @pytest.mark.parametrize(
        "health", [says({}, 500), says({}), says(b"x"), says({"workers": {"running": 1}})]
    )
    def test_nothing_is_reported_when_there_is_nothing_to_tell(
        self, caplog: pytest.LogCaptureFixture, health: HTTPResponse
    ) -> None:
        played = self.watch(health)
        assert not caplog.records
        assert "GET /health" in played.asked


class TestCancelling:
    """A few attempts, and no belief without evidence."""

    @pytest.mark.parametrize("answer", [state("CANCELLED"), state("COMPLETED"), says({}, 404)])
    def test_it_is_over_when_the_service_says_so(self, answer: HTTPResponse) -> None:
        job, played = cancelled(answer)
        assert (job.finished, played.asked, played.pauses) == (True, ["POST /cancel/j1"], [])

    @pytest.mark.parametrize("failing", [LOST, NEVER_SENT, says({}, 500), says({}, 429), says(b"?")])
    def test_an_attempt_that_fails_is_made_again(self, failing: HTTPResponse | Exception) -> None:
        job, played = cancelled(failing, failing, state("CANCELLED"))
        assert job.finished
        assert played.pauses == list(CANCEL_WAITS[:2])

    def test_an_error_in_the_clothes_of_a_success_is_none(self) -> None:
        job, played = cancelled(says({"error": "try later"}), state("CANCELLED"))
        assert job.finished
        assert played.asked == ["POST /cancel/j1"] * 2

    def test_a_job_that_cannot_be_cancelled_because_it_has_ended_is_over(self) -> None:
        job, played = cancelled(says({"error": "finished"}, 400), state("COMPLETED", output=1))
        assert job.finished
        assert played.asked == ["POST /cancel/j1", "GET /status/j1"]

    @pytest.mark.parametrize("answer", [LOST, says({}, 500), says({}, 401), says({}, 400)])
    def test_it_gives_up_in_the_end_and_does_not_claim_success(
        self, answer: HTTPResponse | Exception
    ) -> None:
        job, played = cancelled(answer)
        assert job.alive
        assert played.asked.count("POST /cancel/j1") == len(CANCEL_WAITS) + 1
        assert sum(played.pauses) < 5

    def test_an_id_cannot_leave_its_place_in_the_url(self) -> None:
        played = Played(flows().cancel(Job("../x?y")), state("CANCELLED"))
        assert played.asked == ["POST /cancel/..%2Fx%3Fy"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"wait_initial": 0},
        {"wait_initial": True},
        {"multiplier": 0.5},
        {"wait_max": 0.1},
        {"wait_max": float("inf")},
    ],
)
def test_waits_that_make_no_series_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="Polling"):
        PollingPolicy(**wrong)
