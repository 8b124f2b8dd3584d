"""
RunPod codec: job bodies, submission and status responses, outputs, and errors of failed jobs.

worker-vllm has two generations whose outputs and errors differ: up to 2.23 ("old", its own native form) and from 2.24
("new", which passes on the responses of vLLM's HTTP server). The functions read both.
"""

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
"""Maximum size of ``/run``'s body: 10 MB, says https://docs.runpod.io/serverless/endpoints/send-requests."""

_NOT_SUBMITTED = frozenset({408, 409, 425, 429, 503, 521, 523, 525, 526})
"""
Statuses of a submission that prove that no job was made, so that it may be submitted again.

With 503 the server did not handle the request; with 521, 523, 525 and 526 the proxy did not reach a server. After any
other 5xx a job may exist: a gateway sends 502 and 504 after it has forwarded the request, and an application may
fail with 500 after it has queued the job.
"""
_VLLM_STATUS = re.compile(r"vLLM returned HTTP (\d{3})(?::\s*)?")
_WORKER_PROCESS_DEAD = re.compile(r"vLLM server process is not running|Request to vLLM failed")
_MAX_PARSED_ERROR = 100_000


def job_body(chat: Mapping[str, Any], policy: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the body of ``/run``.

    Of the input forms, only this one supports structured output on both generations of worker-vllm: the old one
    has no schema in its native input. The new one fills in a missing model.

    Args:
        chat: The body of a chat completion.
        policy: The job's execution policy, in milliseconds.
    """
    return {"input": {"openai_route": ROUTE, "openai_input": dict(chat)}, "policy": dict(policy)}


def read_submission(response: HTTPResponse, secret: Secret) -> str:
    """
    Return the id of the submitted job.

    Raises:
        BackendError: If no job was made.
        SubmissionUnknown: If a job may have been made.
    """
    status = response.status
    if 200 <= status < 300:
        return _job_id(response, secret)
    error = response_error(response, secret)
    if status >= 500 and status not in _NOT_SUBMITTED:
        raise submission_unknown(str(error), status)
    if status == 404:
        raise PermanentBackendError(
            f"{error}; check endpoint_id, and that the endpoint is a queue-based one",
            backend=BACKEND,
            status=status,
        )
    raise error


def _job_id(response: HTTPResponse, secret: Secret) -> str:
    try:
        body = decode(response, BACKEND, secret)
    except TransientBackendError:
        body = None
    if isinstance(body, dict):
        job_id = body.get("id")
        if isinstance(job_id, str) and job_id:
            return job_id
        if body.get("error"):  # an API error with HTTP status 2xx, which RunPod's own CLI reads likewise
            raise PermanentBackendError(
                f"runpod refused the job: {_redacted(body['error'], secret)}", backend=BACKEND
            )
    raise submission_unknown("RunPod accepted the job but returned no job id", response.status)


def submission_unknown(message: str, status: int | None = None) -> SubmissionUnknown:
    """Return the error for a submission that may or may not have made a job."""
    return SubmissionUnknown(
        f"{message}; a job may have been made, so it is not submitted again. If one was made, its ttl ends it",
        backend=BACKEND,
        status=status,
    )


def response_error(response: HTTPResponse, secret: Secret) -> BackendError:
    """Return the error for a response with an error status."""
    return chat_error(response.status, _body_or_text(response), response.headers, BACKEND, secret)


def read_state(response: HTTPResponse, secret: Secret) -> tuple[str, Mapping[str, Any]]:
    """
    Return a job's status and the whole body of ``/status``.

    Raises:
        TransientBackendError: If the body is not a JSON object; a proxy may have answered.
        PermanentBackendError: If the body has no status, but an error.
    """
    body = decode(response, BACKEND, secret)
    if not isinstance(body, dict):
        raise TransientBackendError(
            f"unexpected RunPod response without a job status: {str(body)[:80]}", backend=BACKEND
        )
    status = body.get("status")
    if isinstance(status, str) and status:
        return status, body
    message = _redacted(body.get("error") or "no error either", secret)
    raise PermanentBackendError(
        f"unexpected RunPod response without a job status: {message}", backend=BACKEND
    )


def read_output(state: Mapping[str, Any], model: str, max_tokens: int, secret: Secret) -> LLMResponse:
    """
    Return the reply in a completed job.

    Args:
        state: The body of ``/status``.
        model: The model's name, for outputs without one.
        max_tokens: The request's limit, to recognise truncated outputs of the old generation.
        secret: The key, to redact it in messages.

    Raises:
        BackendError: If the job's output is an error or no chat completion.
    """
    output = state.get("output")
    items = _completions(output)
    if not items:  # permanent, since another attempt would be paid for again
        raise PermanentBackendError(
            "runpod completed the job without a chat completion; its output was "
            f"{_redacted(output, secret)!r}. Check that the endpoint runs worker-vllm. RunPod also drops outputs "
            "above its size limit",
            backend=BACKEND,
        )
    if _is_native(items[0]):
        return _read_native(items, model, max_tokens)
    return read_chat({"model": model, **items[0]}, BACKEND, secret)


def _completions(output: Any) -> list[dict[str, Any]]:
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
    """Parse the old generation's native output, or text completions; a streamed output has several items."""
    parts = [_first_choice(item) for item in items]
    usage: Any = items[-1].get("usage")
    usage = usage if isinstance(usage, dict) else {}
    completion_tokens = count(usage.get("output", usage.get("completion_tokens")))
    truncated = completion_tokens >= max_tokens  # the native form has no finish reason
    return LLMResponse(
        text="".join(_native_text(part) for part in parts),
        finish_reason=str(parts[-1].get("finish_reason") or ("length" if truncated else "stop")),
        prompt_tokens=count(usage.get("input", usage.get("prompt_tokens"))),
        completion_tokens=completion_tokens,
        model=str(items[-1].get("model") or model),
    )


def _native_text(choice: Mapping[str, Any]) -> str:
    tokens = choice.get("tokens")
    return "".join(map(str, tokens)) if isinstance(tokens, list) else as_text(choice.get("text", tokens))


def error_for_failed_job(state: Mapping[str, Any], secret: Secret) -> BackendError:
    """
    Return the error for a job with status FAILED.

    Transient only if vLLM itself reports a transient status (429, 5xx), or if its process has died and another
    worker may have one. An exception in the worker's code would most likely be raised, and paid for, again.
    """
    raw_error = state.get("error")
    error = _parse_nested(raw_error)
    details = error if isinstance(error, dict) else {}
    message = str(
        details.get("message") or details.get("error_message") or raw_error or "no reason was given"
    )
    vllm_status = _VLLM_STATUS.search(message)
    if vllm_status is not None:  # the new generation
        rest = _parse_nested(message[vllm_status.end() :])
        return chat_error(int(vllm_status[1]), rest, {}, BACKEND, secret)
    code = details.get("code")
    if type(code) is int and 400 <= code < 600:  # the old generation
        return chat_error(code, {"error": details}, {}, BACKEND, secret)
    redacted = _redacted(message, secret)
    if _WORKER_PROCESS_DEAD.search(message):
        return TransientBackendError(f"runpod: the worker is broken: {redacted}", backend=BACKEND)
    error_type, redacted = details.get("error_type"), redacted.partition("\ntraceback:")[0].strip()
    return PermanentBackendError(
        f"runpod: the job failed: {f'{error_type}: ' if error_type else ''}{redacted}", backend=BACKEND
    )


def error_for_terminal_status(status: str, state: Mapping[str, Any], secret: Secret) -> BackendError:
    """
    Return the error for a job that ended with another status than COMPLETED.

    A job that timed out has been charged for its whole time, and another attempt would most likely be too, so the
    error is permanent.
    """
    if status == "FAILED":
        return error_for_failed_job(state, secret)
    if status == "TIMED_OUT":
        return PermanentBackendError(
            "runpod: the job timed out, in the queue or while running; increase execution_timeout or ttl, "
            "or give the endpoint more workers",
            backend=BACKEND,
        )
    return PermanentBackendError("runpod: another client cancelled the job", backend=BACKEND)


def _parse_nested(error: Any) -> Any:
    """Parse an error that is a string: the RunPod SDK sends JSON, worker-vllm the repr of a dict."""
    if not isinstance(error, str) or not error.lstrip().startswith("{") or len(error) > _MAX_PARSED_ERROR:
        return error
    try:
        return json.loads(error)
    except ValueError:
        pass
    try:
        return ast.literal_eval(error)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return error


def _body_or_text(response: HTTPResponse) -> Any:
    try:
        return decode(response, BACKEND)
    except TransientBackendError:
        return response.body[:MAX_ERROR_TEXT].decode("utf-8", "replace")


def _redacted(value: Any, secret: Secret) -> str:
    return secret.redact(str(value))[:MAX_ERROR_TEXT]
