"""
RunPod codec: job bodies, submission and status responses, outputs, and errors of failed jobs.

worker-vllm has two generations whose outputs and errors differ: up to 2.23 ("old", its own native form) and from 2.24
("new", which passes on the responses of vLLM's HTTP server). The functions read both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..._http import error_body
from ..._http.classify import MAX_ERROR_TEXT, error_for, is_prompt_too_long, is_refusal
from ..._http.error_body import parse_nested, read_error
from ..._http.event_stream import join_events, looks_like_events
from ..._http.openai_api import as_text, chat_error, finished, read_chat, token_counts
from ..._http.secrets import Secret
from ..._http.status import Unreadable, decode, parse_error_body
from ..._http.types import HTTPResponse
from ..._llm_response import LLMResponse
from ...errors import (
    BackendError,
    PermanentBackendError,
    RateLimited,
    SubmissionUnknown,
    TransientBackendError,
)

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
_GATEWAY_STATUSES = frozenset({502, 504, 520, 522, 524})
"""Statuses of a gateway that has forwarded the request; what it says of load is its own guess."""
_TRANSIENT_WORDS = re.compile(
    r"vLLM server process is not running|Request to vLLM failed"
    r"|out of memory|OutOfMemory|\bOOM\b"
    r"|EngineDead|engine (?:is |has |core )?(?:dead|died|loop)|AsyncEngineDead"
    r"|connection (?:refused|reset|aborted|closed)|cannot connect|temporarily unavailable",
    re.IGNORECASE,
)
"""What a worker says of its own state: another worker, or the same one later, may succeed."""


def chat_input(chat: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the input of a job of worker-vllm.

    Of its input forms, only this one supports structured output on both generations of worker-vllm: the old one
    has no schema in its native input. The new one fills in a missing model.

    Args:
        chat: The body of a chat completion.
    """
    return {"openai_route": ROUTE, "openai_input": dict(chat)}


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
    refused = isinstance(error, RateLimited) and status not in _GATEWAY_STATUSES
    if status >= 500 and status not in _NOT_SUBMITTED and not refused:
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
        if isinstance(job_id, str) and job_id and not secret.stands_in(job_id):
            return job_id
        if body.get("error"):  # an API error with HTTP status 2xx, which RunPod's own CLI reads likewise
            error = error_of_job(body["error"], secret, "runpod refused the job")
            raise error
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


MAX_STATUS = 40
"""Characters of a job's status that are kept; RunPod's longest has 11."""


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
            f"unexpected RunPod response without a job status: {redacted(body, secret)[:80]}",
            backend=BACKEND,
        )
    status = body.get("status")
    if isinstance(status, str) and status:
        return redacted(status, secret)[:MAX_STATUS], body
    message = redacted(body.get("error") or "no error either", secret)
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
    output = _joined(state.get("output"))
    items = _completions(output)
    error = next((item for item in items if not item.get("choices")), None)
    if error is not None:
        raise error_of_job(error.get("error") or error, secret, "runpod completed the job with an error")
    if not items:  # permanent, since another attempt would be paid for again
        words = error_in_words(output) or error_in_words(state.get("error"))
        if words:
            raise error_of_job(words, secret, "runpod completed the job with an error")
        raise PermanentBackendError(
            "runpod completed the job without a chat completion; its output was "
            f"{redacted(output, secret)!r}. Check that the endpoint runs worker-vllm; for a worker of your own that "
            'takes {"prompt": text}, pass input_form="prompt" (RUNPOD_INPUT=prompt). RunPod also drops outputs '
            "above its size limit",
            backend=BACKEND,
        )
    if _is_native(items[0]):
        return _read_native(items, model, max_tokens, secret)
    # Permanent as well: a completion that cannot be used has been paid for.
    return read_chat({"model": model, **items[0]}, BACKEND, secret, unusable=PermanentBackendError)


def _joined(output: Any) -> Any:
    """Return an output with streamed events joined, and with text that holds JSON parsed."""
    pieces = output if isinstance(output, list) else [output]
    if pieces and all(isinstance(piece, str) for piece in pieces):
        text = "".join(pieces)
        if looks_like_events(text):
            return join_events(text) or output
        return parse_nested(text) if len(pieces) == 1 else [parse_nested(piece) for piece in pieces]
    return output


def error_in_words(value: Any) -> str:
    """Return an output's text if it describes an error, such as "CUDA out of memory"; else ""."""
    if not isinstance(value, str):
        return ""
    said = read_error(value)
    is_error = is_prompt_too_long(said.text) or is_refusal(500, said) or _TRANSIENT_WORDS.search(said.text)
    return value if is_error else ""


def _completions(output: Any) -> list[dict[str, Any]]:
    """Return the completions and errors in an output, in a list or alone."""
    return list(_flattened(output, 0))


def _flattened(output: Any, depth: int) -> Iterator[dict[str, Any]]:
    if isinstance(output, list) and depth < 2:
        for item in output:
            yield from _flattened(item, depth + 1)
    elif isinstance(output, dict):
        is_error = output.get("error") or output.get("object") == "error" or output.get("error_message")
        if output.get("choices") or is_error:
            yield output


def _first_choice(item: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = item.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def _is_native(item: Mapping[str, Any]) -> bool:
    first = _first_choice(item)
    return "message" not in first and ("tokens" in first or "text" in first)


def _read_native(items: list[dict[str, Any]], model: str, max_tokens: int, secret: Secret) -> LLMResponse:
    """Parse the old generation's native output, or text completions; a streamed output has several items."""
    parts = [_first_choice(item) for item in items]
    prompt_tokens, completion_tokens, cached_tokens = token_counts(items[-1].get("usage"))
    truncated = completion_tokens >= max_tokens  # the native form has no finish reason
    reply = LLMResponse(
        text="".join(_native_text(part) for part in parts),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        model=secret.redact(str(items[-1].get("model") or model)),
        cached_tokens=cached_tokens,
    )
    reason = parts[-1].get("finish_reason") or ("length" if truncated else "stop")
    return finished(reply, reason, BACKEND, error=parts[-1].get("error"), secret=secret)


def _native_text(choice: Mapping[str, Any]) -> str:
    tokens = choice.get("tokens")
    return "".join(map(str, tokens)) if isinstance(tokens, list) else as_text(choice.get("text", tokens))


def error_for_failed_job(state: Mapping[str, Any], secret: Secret) -> BackendError:
    """Return the error for a job with status FAILED; see `error_of_job`."""
    return error_of_job(state.get("error") or state.get("output"), secret, "runpod: the job failed")


def error_of_job(raw_error: Any, secret: Secret, what: str) -> BackendError:
    """
    Return the error that a job reports, whatever the job's status.

    Errors of vLLM's server mean what they would mean over HTTP. Of other errors, a prompt that is too long, a refusal
    and a broken worker (out of memory, dead engine) are recognised by their words. Any other exception in the worker's
    code would most likely be raised, and paid for, again, so it is permanent.

    Args:
        raw_error: The error: text, JSON, or the repr of a Python object.
        secret: The key, to redact it in the message.
        what: What happened, for the message.
    """
    error = parse_nested(raw_error)
    details = error if isinstance(error, dict) else {}
    message = str(
        details.get("message") or details.get("error_message") or raw_error or "no reason was given"
    )
    vllm_status = _VLLM_STATUS.search(message)
    if vllm_status is not None:  # the new generation
        rest = parse_nested(message[vllm_status.end() :])
        return chat_error(int(vllm_status[1]), rest, {}, BACKEND, secret)
    said = read_error(error)
    if said.status is not None:  # the old generation
        return error_for(said.status, said, BACKEND, secret=secret)
    if said.codes or is_prompt_too_long(said.text) or is_refusal(500, said):
        known = error_for(400 if is_prompt_too_long(said.text) else 500, said, BACKEND, secret=secret)
        if type(known) is not TransientBackendError:  # nothing but the status that is assumed here
            return known
    shown = redacted(message, secret).partition("\ntraceback:")[0].strip()
    if _TRANSIENT_WORDS.search(message):
        return TransientBackendError(f"{what}: the worker is broken: {shown}", backend=BACKEND)
    error_type = details.get("error_type")
    reason = f"{error_type}: {shown}" if error_type else shown
    return PermanentBackendError(f"{what}: {reason}", backend=BACKEND)


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


def _body_or_text(response: HTTPResponse) -> Any:
    body = parse_error_body(response.body)
    return str(body) if isinstance(body, Unreadable) else body


def redacted(value: Any, secret: Secret) -> str:
    """Return a value as text for a message, without the key, of bounded length."""
    return secret.redact(error_body.as_text(value))[:MAX_ERROR_TEXT]
