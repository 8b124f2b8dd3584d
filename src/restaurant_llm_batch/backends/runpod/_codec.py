"""RunPod's JSON: a request as a job, what the service answers, and what the job's end means."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from ..._http.openai_api import as_text, chat_error, count, read_chat
from ..._http.secrets import Secret
from ..._http.status import MAX_ERROR_TEXT, decode
from ..._http.types import HTTPResponse
from ..._llm_response import LLMResponse
from ...errors import BackendError, PermanentBackendError, SubmissionUnknown, TransientBackendError

BACKEND = "runpod"
ROUTE = "/v1/chat/completions"
MAX_BODY_BYTES = 10_000_000
"""Bytes that ``/run`` takes; docs.runpod.io/serverless/endpoints/send-requests says 10 MB."""

_REFUSED = frozenset({408, 409, 425, 429, 503, 521, 523, 525, 526})
"""
Answers to a submission that say it was not taken, and may be later.

503 is a server that does not handle the request, 521, 523, 525 and 526 are a proxy that never reached one. Of
all other 5xx nobody knows: a gateway says 502 and 504 after it has passed the request on, and an application
may fail with 500 after it has queued the job.
"""
_FROM_VLLM = re.compile(r"vLLM returned HTTP (\d{3})(?::\s*)?")
_WORKER_IS_GONE = re.compile(r"vLLM server process is not running|Request to vLLM failed")
_MAX_ERROR_TEXT = 100_000


def job_body(chat: Mapping[str, Any], policy: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the body of ``/run``.

    This shape of input is the one that gives structured output on both generations of worker-vllm. The old
    one (up to 2.23) knew no schema in its native input, the new one (from 2.24) fills in a missing model.
    """
    return {"input": {"openai_route": ROUTE, "openai_input": dict(chat)}, "policy": dict(policy)}


def read_submission(answer: HTTPResponse, secret: Secret) -> str:
    """
    Return the id of the job that was made.

    Raises:
        BackendError: When none was made.
        SubmissionUnknown: When nobody knows whether one was.
    """
    status = answer.status
    if 200 <= status < 300:
        return _job_id(answer, secret)
    error = answer_error(answer, secret)
    if status >= 500 and status not in _REFUSED:
        raise submission_unknown(str(error), status)
    if status == 404:
        raise PermanentBackendError(
            f"{error}; check endpoint_id, and that the endpoint is a queue-based one",
            backend=BACKEND,
            status=status,
        )
    raise error


def _job_id(answer: HTTPResponse, secret: Secret) -> str:
    try:
        body = decode(answer, BACKEND, secret)
    except TransientBackendError:
        body = None
    if isinstance(body, dict):
        job_id = body.get("id")
        if isinstance(job_id, str) and job_id:
            return job_id
        if body.get("error"):  # an API error in the clothes of a success, as RunPod's own CLI reads it
            raise PermanentBackendError(
                f"runpod refused the job: {_said(body['error'], secret)}", backend=BACKEND
            )
    raise submission_unknown("runpod took the submission but told no job id", answer.status)


def submission_unknown(message: str, status: int | None = None) -> SubmissionUnknown:
    """Return the error for a submission whose fate is unknown."""
    return SubmissionUnknown(
        f"{message}; a job may have been made, so none is submitted again. If one was, its ttl ends it",
        backend=BACKEND,
        status=status,
    )


def answer_error(answer: HTTPResponse, secret: Secret) -> BackendError:
    """Return what an answer with an error status means."""
    return chat_error(answer.status, _body_or_text(answer), answer.headers, BACKEND, secret)


def read_state(answer: HTTPResponse, secret: Secret) -> tuple[str, Mapping[str, Any]]:
    """
    Return a job's status, and all that was told with it.

    Raises:
        TransientBackendError: When something else than the service answered.
        PermanentBackendError: When the service tells of an error, and no status.
    """
    body = decode(answer, BACKEND, secret)
    if not isinstance(body, dict):
        raise TransientBackendError(f"runpod told no status but {str(body)[:80]}", backend=BACKEND)
    status = body.get("status")
    if isinstance(status, str) and status:
        return status, body
    words = _said(body.get("error") or "nothing", secret)
    raise PermanentBackendError(f"runpod told no status of the job but: {words}", backend=BACKEND)


def read_output(told: Mapping[str, Any], model: str, max_tokens: int, secret: Secret) -> LLMResponse:
    """
    Return the reply in a completed job.

    Raises:
        BackendError: When there is none.
    """
    output = told.get("output")
    items = _answers(output)
    if not items:  # asked again, it would be paid again
        raise PermanentBackendError(
            f"runpod completed the job without a chat completion, but with {_said(output, secret)!r}; is the "
            "endpoint's worker worker-vllm? An answer that is too large is lost too",
            backend=BACKEND,
        )
    if _is_native(items[0]):
        return _read_native(items, model, max_tokens)
    return read_chat({"model": model, **items[0]}, BACKEND, secret)


def _answers(output: Any) -> list[dict[str, Any]]:
    items = output if isinstance(output, list) else [output]
    return [
        item
        for item in items
        if isinstance(item, dict) and (item.get("choices") or item.get("error") or item.get("object"))
    ]


def _first_choice(item: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = item.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def _is_native(item: Mapping[str, Any]) -> bool:
    first = _first_choice(item)
    return "message" not in first and ("tokens" in first or "text" in first)


def _read_native(items: list[dict[str, Any]], model: str, max_tokens: int) -> LLMResponse:
    """Read the old generation's own form, and that of text completions; what was streamed comes in parts."""
    parts = [_first_choice(item) for item in items]
    usage: Any = items[-1].get("usage")
    usage = usage if isinstance(usage, dict) else {}
    written = count(usage.get("output", usage.get("completion_tokens")))
    cut = written >= max_tokens  # this form does not say why it ended
    return LLMResponse(
        text="".join(_native_text(part) for part in parts),
        finish_reason=str(parts[-1].get("finish_reason") or ("length" if cut else "stop")),
        prompt_tokens=count(usage.get("input", usage.get("prompt_tokens"))),
        completion_tokens=written,
        model=str(items[-1].get("model") or model),
    )


def _native_text(choice: Mapping[str, Any]) -> str:
    tokens = choice.get("tokens")
    return "".join(map(str, tokens)) if isinstance(tokens, list) else as_text(choice.get("text", tokens))


def failure(told: Mapping[str, Any], secret: Secret) -> BackendError:
    """
    Return why a job failed.

    Asked again is only what vLLM itself calls passing (429, 5xx), or when its process is gone and another
    worker may have one. An exception in the worker's code would most likely come again, and be paid again.
    """
    told_error = told.get("error")
    error = _unpacked(told_error)
    details = error if isinstance(error, dict) else {}
    words = str(details.get("message") or details.get("error_message") or told_error or "no reason was told")
    found = _FROM_VLLM.search(words)
    if found is not None:
        rest = _unpacked(words[found.end() :])
        return chat_error(int(found[1]), rest, {}, BACKEND, secret)
    code = details.get("code")
    if type(code) is int and 400 <= code < 600:  # the old generation's
        return chat_error(code, {"error": details}, {}, BACKEND, secret)
    said = _said(words, secret)
    if _WORKER_IS_GONE.search(words):
        return TransientBackendError(f"runpod: the worker is broken: {said}", backend=BACKEND)
    kind, said = details.get("error_type"), said.partition("\ntraceback:")[0].strip()
    return PermanentBackendError(
        f"runpod: the job failed: {f'{kind}: ' if kind else ''}{said}", backend=BACKEND
    )


def error_for_terminal_status(status: str, told: Mapping[str, Any], secret: Secret) -> BackendError:
    """
    Return what the end of a job means that did not complete.

    A job that timed out has cost its whole time, and the same request would most likely cost it again.
    """
    if status == "FAILED":
        return failure(told, secret)
    if status == "TIMED_OUT":
        return PermanentBackendError(
            "runpod: the job timed out, in the queue or at work; give it a longer execution_timeout or ttl, "
            "or the endpoint more workers",
            backend=BACKEND,
        )
    return PermanentBackendError("runpod: somebody else cancelled the job", backend=BACKEND)


def _unpacked(error: Any) -> Any:
    """Return what is in an error: the SDK sends JSON in a string, worker-vllm Python's repr of a dict."""
    if not isinstance(error, str) or not error.lstrip().startswith("{") or len(error) > _MAX_ERROR_TEXT:
        return error
    try:
        return json.loads(error)
    except ValueError:
        pass
    try:
        return ast.literal_eval(error)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return error


def _body_or_text(answer: HTTPResponse) -> Any:
    try:
        return decode(answer, BACKEND)
    except TransientBackendError:
        return answer.body[:MAX_ERROR_TEXT].decode("utf-8", "replace")


def _said(words: Any, secret: Secret) -> str:
    return secret.redact(str(words))[:MAX_ERROR_TEXT]
