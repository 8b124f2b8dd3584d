"""Whatever a service answers, a backend returns a reply or raises an error of this library, in every way alike."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from tests.http.test_secrets_everywhere import answer_for, http, outcome_of, quick, serve

from restaurant_llm_batch import BatchRunner, LLMResponse, RetryPolicy, Strategy, errors
from restaurant_llm_batch.backends.runpod.llm import PollingPolicy, RunPodLLM
from restaurant_llm_batch.protocols import Embedding
from restaurant_llm_batch.steps import Flow, complete

__all__ = ["quick"]  # a fixture

DEPTHS = (150, 250, 990, 5_000, 60_000)
NUMBERS = (
    "1" + "0" * 400,
    "1" * 5_000,
    "-" + "9" * 5_000,
    "1e999",
    "-1e999",
    "NaN",
    "Infinity",
    "1.5",
    "-3",
    "true",
)
DATES = (
    "Fri, 31 Dec 9999 23:59:59 -2359",
    "Mon, 01 Jan 0001 00:00:00 +2359",
    "Fri, 31 Dec 99999 23:59:59 GMT",
    "Sun, 00 Jan 2026 00:00:00 GMT",
    "Sun, 06 Nov 1994 08:49:37 +99999999999999",
    "9" * 400,
    "1e400",
    "-1",
    "nan",
    "١٢",
)
CHAT = (
    '{"choices": [{"message": {"content": "ok"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": %s}}'
)


def nested(depth: int, opening: str = "[", closing: str = "]") -> str:
    return opening * depth + "1" + closing * depth


def values() -> list[str]:
    """JSON values, or what looks like one, that are no completion, no error and no vector."""
    deep = [nested(depth) for depth in DEPTHS] + [nested(depth, '{"error":', "}") for depth in DEPTHS]
    found = [
        *deep,
        *NUMBERS,
        '"\\ud800"',
        '"\\udfff\\ud800"',
        "null",
        "{}",
        "[]",
        "[null]",
        '""',
        "\0",
        "\ufeff{}",
    ]
    shapes = (
        '{"choices": %s}', '{"choices": [%s]}', '{"choices": [{"message": %s}]}', '{"data": %s}', '{"data": [%s]}',
        '{"choices": [{"message": {"content": %s}}]}', '{"choices": [{"finish_reason": %s, "text": "x"}]}',
        '{"choices": [{"message": {"content": "x"}}], "usage": %s}', '{"error": %s}', '{"error": {"code": %s}}',
        '{"error": {"message": %s, "retry_after": %s}}', '{"detail": [{"loc": %s, "msg": "x"}]}', '{"result": %s}',
        '{"data": [{"embedding": %s}]}', '{"data": [{"embedding": [%s, 1]}]}', '{"data": [{"index": %s}]}',
        '{"result": {"config": %s}}', '{"status": {"error": %s}}', '{"model": %s, "choices": [{"text": "x"}]}',
    )  # fmt: skip
    parts = [nested(190), nested(900), *NUMBERS, '"\\ud800"', "null", "[1, [2]]", '{"a": {}}', '"text"']
    return found + [shape.replace("%s", part) for shape in shapes for part in parts]


VALUES = values()


def raw(status: str, head: bytes, body: bytes = b"{}") -> bytes:
    return (
        f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n".encode()
        + head
        + b"\r\n\r\n"
        + body
    )


ANSWERS = [
    *(
        http(status, value.encode("utf-8", "surrogatepass"))
        for status in ("200 OK", "400 X", "503 X")
        for value in VALUES
    ),
    *(http(status, b'{"error": "x"}', f"Retry-After: {date}\r\n") for status in ("429 X", "503 X") for date in DATES),
    *(http("200 OK", (CHAT % number).encode()) for number in NUMBERS),
    raw("302 X", b"Location: http://\xff\xfe/\xed\xa0\x80"),
    raw("429 X", b"x-ratelimit-remaining-requests: \xff1\r\nretry-after: \xed\xa0\x80"),
    raw("429 X", "x-ratelimit-limit-tokens: ٣\r\nx-ratelimit-remaining-tokens: ²".encode()),
    raw("500 X", b"Content-Type: text/plain; charset=\xff", b"\xff\xfe\x00\xd8"),
    raw("200 OK", b"X-A: 1", b"\xed\xa0\x80{"),
    b"HTTP/1.1 500 \xff\xfe\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 40 + b"\r\n{}",
]  # fmt: skip


@pytest.mark.hardening(small=20, full=1500)
def test_an_odd_answer_is_a_reply_or_an_error_of_ours_in_every_way_alike(
    trials: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = random.Random(11)
    for _ in range(trials):
        answer = chosen.choice(ANSWERS)
        kind = chosen.choice(["vllm", "openai", "submission", "job", "embeddings", "qdrant"])
        ways = ("blocking",) if kind == "embeddings" else ("blocking", "asyncio", "trio")
        with serve(answer_for(kind, answer)) as address:
            monkeypatch.setenv("http_proxy", f"http://{address}")
            outcomes: list[Any] = [outcome_of(kind, way, None) for way in ways]
        shown = [
            (type(one), getattr(one, "status", None), getattr(one, "retry_after", None) is None)
            for one in outcomes
        ]
        where = (kind, answer[:200], outcomes)
        assert len(set(shown)) == 1, where
        for one in outcomes:
            assert isinstance(one, (errors.BatchError, LLMResponse, Embedding, list)), where
            json.dumps(str(one), ensure_ascii=False).encode()


OUTPUTS = [
    *VALUES,
    *(f"[{value}]" for value in VALUES if len(value) < 2_000),
    '[{"choices": "abc"}]',
    '[{"choices": [7]}]',
    '{"choices": [null]}',
    '{"choices": {"0": 1}}',
    '"' + "x" * 100_000 + '"',
]


def asking(item: int) -> Flow[str]:
    from tests.http.test_secrets_everywhere import REQUEST

    return (yield from complete(REQUEST)).text


@pytest.mark.hardening(small=12, full=600)
def test_a_job_that_is_completed_and_unreadable_is_never_paid_for_again(
    trials: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = random.Random(12)
    submitted: list[bytes] = []
    for _ in range(trials):
        output = chosen.choice(OUTPUTS)
        state = b'{"id": "j", "status": "COMPLETED", "output": %s}' % output.encode("utf-8", "surrogatepass")

        def answer(line: bytes, state: bytes = state) -> bytes:
            if b"/run " in line:
                submitted.append(line)
                return http("200 OK", {"id": "j", "status": "IN_QUEUE"})
            return (
                http("200 OK", {"id": "j", "status": "CANCELLED"})
                if b"/cancel/" in line
                else http("200 OK", state)
            )

        submitted.clear()
        with serve(answer) as address:
            monkeypatch.setenv("http_proxy", f"http://{address}")
            llm = RunPodLLM(
                "ep",
                api_key="key-12345",
                base_url="http://r.example",
                timeout=0.3,
                polling=PollingPolicy(0.01, 1.0, 0.01),
            )
            strategy = Strategy.stage(chosen.choice([1, 2, 4]))
            with BatchRunner(llm=llm, strategy=strategy, llm_retry=RetryPolicy(wait_initial=0.0)) as runner:
                report = runner.run(asking, [1])
        said_by_the_worker = any(
            "completed the job with an error" in str(failure) for failure in report.failures
        )
        assert len(submitted) == 1 or said_by_the_worker, (output[:200], report.failures)
