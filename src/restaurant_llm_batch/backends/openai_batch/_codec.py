"""
Batch file codec: requests and answers as lines of JSON, as OpenAI's batches and vLLM's ``run-batch`` have them.

Pure functions. API reference: https://platform.openai.com/docs/api-reference/batch
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..._engine.wave_service import BatchProblem, BatchState
from ..._http.border import reply_without
from ..._http.classify import service_error
from ..._http.openai_api import chat_error, read_chat
from ..._http.secrets import Secret
from ..._http.status import encode, parse_body
from ..._llm_response import LLMResponse
from ...errors import BackendError, PermanentBackendError, TransientBackendError
from ...models import LLMRequest

BACKEND = "openai-batch"
ENDPOINT = "/v1/chat/completions"
WAVE = "restaurant_llm_batch_wave"
"""Name of the wave in the metadata of its batch."""
_UNDONE = re.compile(
    r"expired|cancel|timeout|timed_out|not_executed|server|internal|unavailable", re.IGNORECASE
)
"""Matches codes of lines that were not answered although nothing was wrong with them."""
_QUOTA = re.compile(r"enqueued token|token_limit_exceeded|queue limit|enqueued limit", re.IGNORECASE)
_LIMIT = re.compile(r"\blimit:? {1,3}(\d[\d,]{0,20})", re.IGNORECASE)
_NOT_FOUND = re.compile(
    r"no such file|file\b.{0,80}\b(?:not|n't) (?:be )?(?:found|exist|visible|ready|available)", re.IGNORECASE
)
_MAX_PROBLEMS = 1000


def encode_line(custom_id: str, body: Mapping[str, Any], endpoint: str = ENDPOINT) -> bytes:
    """Return a line for the body of a chat completion, with its line break."""
    return encode({"custom_id": custom_id, "method": "POST", "url": endpoint, "body": body}) + b"\n"


def decode_line(raw: bytes) -> tuple[str, dict[str, Any]]:
    """Return the id and the body of a line that `encode_line` has written."""
    line = json.loads(raw)
    return line["custom_id"], line["body"]


def request_of(body: Mapping[str, Any], task: str) -> LLMRequest:
    """Return the request that a body was made from, but for its `inputs`, which are never sent."""
    form = body.get("response_format")
    described = form.get("json_schema") if isinstance(form, Mapping) else None
    numbers: dict[str, Any] = {
        "max_tokens": body.get("max_completion_tokens", body.get("max_tokens")),
        "temperature": body.get("temperature"),
    }
    return LLMRequest(
        task,
        tuple(body["messages"]),
        schema=described.get("schema") if isinstance(described, Mapping) else None,
        **{name: value for name, value in numbers.items() if value is not None},
    )


def read_answer(raw: bytes, secret: Secret | None = None) -> tuple[str, LLMResponse | Exception] | None:
    """
    Return the id and the answer of a line of an output or an error file.

    Args:
        raw: The line.
        secret: The key, to redact it in messages.

    Returns:
        None if the line is no answer, such as one that was cut off.
    """
    line = parse_body(raw)
    custom_id = line.get("custom_id") if isinstance(line, dict) else None
    if not isinstance(custom_id, str):
        return None
    try:
        return custom_id, _read(line, secret)
    except BackendError as error:
        if error.reply is not None:
            error.reply = reply_without((secret,), error.reply)
        return custom_id, error
    except Exception as error:
        return custom_id, PermanentBackendError(
            f"{BACKEND}: the answer cannot be used: {type(error).__name__}", backend=BACKEND
        )


def _read(line: Mapping[str, Any], secret: Secret | None) -> LLMResponse | Exception:
    response, error = line.get("response"), line.get("error")
    if isinstance(response, Mapping) and (response.get("body") is not None or not error):
        status, body = response.get("status_code"), response.get("body")
        body = parse_body(body.encode("utf-8", "replace")) if isinstance(body, str) else body
        if isinstance(status, int) and status >= 400:
            return chat_error(status, body, {}, BACKEND, secret)
        return replace(reply_without((secret,), read_chat(body, BACKEND, secret)), batched=True)
    code = str(error.get("code") or "") if isinstance(error, Mapping) else ""
    if _UNDONE.search(code):
        said = str(error.get("message") or code) if isinstance(error, Mapping) else code
        said = said if secret is None else secret.redact(said)
        return TransientBackendError(f"{BACKEND}: {said}", backend=BACKEND, code=code)
    return service_error(None, {"error": error or "a line without an answer"}, BACKEND, secret=secret)


def read_batch(body: Any, secret: Secret | None) -> BatchState:
    """
    Return a batch as the service describes it.

    Raises:
        BackendError: It is an error, or no batch.
    """
    if not isinstance(body, dict) or not isinstance(body.get("id"), str):
        if isinstance(body, dict) and body.get("error"):
            raise service_error(None, body, BACKEND, secret=secret)
        raise TransientBackendError(f"{BACKEND} sent something that is no batch", backend=BACKEND)
    errors = body.get("errors")
    listed = errors.get("data") if isinstance(errors, dict) else errors
    problems = [_problem(one, secret) for one in (listed if isinstance(listed, list) else [])[:_MAX_PROBLEMS]]
    return BatchState(
        body["id"],
        str(body.get("status") or ""),
        str(body.get("output_file_id") or ""),
        str(body.get("error_file_id") or ""),
        tuple(problems),
        str(body.get("input_file_id") or ""),
        *_counts(body.get("request_counts")),
    )


def _counts(counts: Any) -> tuple[int, int, int]:
    """Return the number of a batch's lines, of those that are done and of those answered, as the service says."""
    told = counts if isinstance(counts, dict) else {}
    total, completed, failed = (
        number if type(number := told.get(name)) is int and number >= 0 else 0
        for name in ("total", "completed", "failed")
    )
    return total, completed + failed, completed


def _problem(error: Any, secret: Secret | None) -> BatchProblem:
    said = error if isinstance(error, dict) else {"message": str(error)}
    code, message, line = str(said.get("code") or ""), str(said.get("message") or ""), said.get("line")
    if secret is not None:
        code, message = secret.redact(code), secret.redact(message)
    is_quota = _QUOTA.search(f"{code} {message}") is not None
    told = _LIMIT.search(message) if is_quota else None
    limit = 0 if told is None else int(told[1].replace(",", ""))
    return BatchProblem(code, message[:500], line if type(line) is int else None, is_quota, limit or None)


def says_file_is_missing(error: BackendError) -> bool:
    """Return whether an error says that the service does not find a file."""
    return error.status in (400, 404) and _NOT_FOUND.search(str(error)) is not None
