"""
Error classification: from status, codes and words of a service's error to one of our errors, for every backend.

Services disagree about numbers. A refusal comes as 429, 503, 529, or 200 with an error inside; a prompt that is too
long as 400, 413, 422 or 500. So the error's codes decide first, then its words, and the status last:

| what is said | error |
|---|---|
| code of exhausted credit or quota; 402; words of it with 400, 403, 429 and no time to wait | `QuotaExhausted` |
| "context length", `exceed_context_size_error` and the like; 413 | `PromptTooLong` |
| code or words of a content filter | `ContentRefused` |
| code or words of overload, "busy", "queue full"; 429, 498, 529; 503 with Retry-After | `RateLimited` |
| 401 | `AuthenticationFailed` |
| 408, 409, 425, 5xx; 444, 460, 499 of proxies | `TransientBackendError` |
| anything else | `PermanentBackendError`, with the names of unsupported fields |

Words count only where a service puts its own: an error may quote a review. So with a 4xx status they must be at the
beginning of the message, outside of quotation marks; and words that stop the run must be the message's own, not those
of a detail, and with 400 its first ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import (
    AuthenticationFailed,
    BackendError,
    ContentRefused,
    PermanentBackendError,
    PromptTooLong,
    QuotaExhausted,
    RateLimited,
    TransientBackendError,
)
from .error_body import ServiceError, read_error
from .fields import refused_fields
from .rate_limits import read_rate_limits
from .retry_after import retry_after
from .secrets import Secret, hide_userinfo

MAX_ERROR_TEXT = 500
"""Characters of a service's error message that are kept."""

_RETRYABLE_STATUSES = frozenset({408, 409, 425, 444, 460, 499})
"""The last three are proxies' words for a connection that was closed (nginx, AWS)."""
_REFUSAL_STATUSES = frozenset({429, 498, 529})
"""498: Groq's flex tier has no capacity. 529: Anthropic is overloaded."""
_BEGINNING = 300
"""Characters in which the words of a 4xx must stand."""

_QUOTED = re.compile(r"(?<!\w)(?:'[^']*(?:'|$)|\"[^\"]*(?:\"|$))")

_QUOTA_CODES = frozenset(
    {
        "insufficientquota",
        "creditbalanceexhausted",
        "organizationspendlimitexceeded",
        "projectspendlimitexceeded",
        "organizationusagelimitexceeded",
        "billinghardlimitreached",
        "billingnotactive",
        "billingerror",
        "insufficientcredits",
        "insufficientbalance",
        "insufficientfunds",
        "paymentrequired",
        "exceededcurrentquotaerror",
        "budgetexceeded",
        "creditlimit",
        "arrearage",
    }
)
"""
Codes and types that waiting does not resolve, without underscores.

Source: https://platform.openai.com/docs/guides/error-codes
"""
_QUOTA_WORDS = re.compile(
    r"exceeded your (?:current quota|monthly (?:included )?(?:credits?|quota|budget))|\bplan and billing\b"
    r"|credit balance is too low|billing (?:hard |soft )?limit|billing is not active"
    r"|insufficient (?:\w+ )?(?:balance|credits?|funds|quota)\b"
    r"|(?:balance|credits?|quota)\b(?: \w+){0,2} (?:insufficient|exhausted|depleted|used up|run out)"
    r"|(?:used all|out of|no)(?: \w+){0,2} credits?\b|(?:monthly|daily|weekly|total) (?:spending |usage )?limit\b"
    r"|spending limit|budget (?:has been |was |is )?exceeded|account is (?:suspended|overdue|in arrears)"
    r"|account balance|余额不足|欠费",
    re.IGNORECASE,
)
_PER_TIME = re.compile(r"\bper[ _-](?:second|minute|hour)|\b[rt]pm\b", re.IGNORECASE)
_QUOTA_WORD_STATUSES = frozenset({400, 403, 429})
_BEGINNING_OF_400 = 60
"""Characters in which the words of a 400 must stand that stop the run."""

_CONTEXT_CODES = re.compile(
    r"contextlength|contextsize|contextwindow|promptlong|prompttoolong|inputtoolong|toomanytokens"
)
_CONTEXT_WORDS = re.compile(
    r"maximum (?:context|model|input|sequence|prompt) length"
    r"|context[_ ](?:length|size|window)[_ ]exceeded"
    r"|(?:exceed\w*|larger than|longer than|greater than|over|beyond|outside)\b[^.]{0,60}"
    r"\b(?:context (?:length|size|window|limit)|context_length|(?:maximum|max)(?: allowed)?(?: \w+)? length"
    r"|max_model_len|n_ctx|max_seq_len|max_position|token limit|physical batch size|training context)"
    r"|too long to fit|too large to process\b.{0,40}\bbatch size|too many tokens\b.{0,60}\b(?:prompt|input|exceed)"
    r"|exceeds? the (?:maximum )?(?:allowed|available) (?:context|length|input|size)"
    r"|context (?:length|size|window)(?: of)?(?: only)? [^.]{0,20}\btokens\b[^.]{0,40}\b(?:not enough|exceed|too)"
    r"|(?:context (?:length|size|window)|n_ctx)\b[^.]{0,20}\bis (?:not enough|too small|exceeded)"
    r"|(?:prompt|input|request|message|sequence|conversation)s?\b(?: length)? (?:is|are|was) too (?:long|large)"
    r"|(?:prompt|input)s? too long"
    r"|(?:inputs?`?|prompt) tokens?`?[^.]{0,60}must (?:have|be) (?:less|fewer|<=|at most)"
    r"|inputs?`? must have less than [0-9]+ tokens|range of input length|text is too long|text too long"
    r"|(?:prompt|input|tokens?|length|count)\b[^.]{0,40} exceeds? (?:the )?(?:limit|max\w*)\b[^.]{0,30}\btokens"
    r"|too many (?:input |prompt )?tokens in"
    r"|reduce the length of (?:the|your) (?:messages|prompt|input)"
    r"|trying to keep the first|no room in the context|does not fit (?:in|into) the (?:model'?s )?context",
    re.IGNORECASE,
)
_CONTEXT_STATUSES = frozenset({400, 413, 422, 500})
_TOO_LARGE = re.compile(r"(?:\w+ ?: )?request too large\b", re.IGNORECASE)
"""OpenAI and Groq: the request exceeds the tokens of a whole minute, so it can never succeed."""

_CONTENT_CODES = re.compile(
    r"contentfilter|contentpolicy|contentmoderat|moderation|responsibleai|datainspection|sensitivecontent|promptblocked"
    r"|policyviolation|safetyviolation|prohibitedcontent|guardrail"
)
_CONTENT_WORDS = re.compile(
    r"\bmoderation\b|\bflagged\b|content[ _](?:management )?(?:polic|filter|moderat)|\bsafety\b|\busage polic"
    r"|data inspection|敏感内容|content exists risk|\bhigh[- ]risk\b"
    r"|(?:inappropriate|prohibited|harmful|sensitive|unsafe) content|responsible ai|guardrail",
    re.IGNORECASE,
)
_CONTENT_STATUSES = frozenset({400, 403, 422, 451})

_REFUSAL_CODES = re.compile(
    r"overload|slowdown|ratelimit|toomanyrequests|throttl|resourceexhausted|resourceunavailable|requestlimit"
    r"|(?:over|at|max|insufficient|no)capacity|capacity(?:exceeded|reached|exhausted|limit)|(?:server|engine|model)busy"
    r"|queuefull|queueisfull|concurrencylimit|backpressure"
)
_REFUSAL_WORDS = re.compile(
    r"overloaded|\boverload\b|slow[ _]down|rate[ _-]?limit|too many (?:\w+ ){0,3}requests|throttl"
    r"|resource[ _]?exhausted|(?:currently|temporarily|too) busy"
    r"|\b(?:server|service|engine|model|system|endpoint|worker|backend|api|node|gpu|upstream|cluster)s?"
    r"(?: is| are)?(?: all)? busy"
    r"|^\W*(?:busy|all \w+ (?:are )?busy)\b"
    r"|queue(?: \w+){0,3} (?:full|exceeded)|queue (?:size|limit|length)|maximum queue|full queue"
    r"|(?:maximum|max|too many|number of)(?: \w+){0,2} (?:pending|queued|concurrent|waiting)\b|concurrency limit"
    r"|(?:at|over|exceed\w*|reached|insufficient|no|not enough|lack of|limited|out of|maximum|max)"
    r"(?: \w+){0,3} capacity"
    r"|capacity (?:is |was |has been )?(?:exceeded|reached|exhausted|limit|constraint|unavailable)"
    r"|(?:high|heavy|peak|unusual)(?:ly)? (?:demand|load|traffic|usage)|back[ -]?pressure|backlog"
    r"|no (?:available |free |idle )?(?:slots?|workers?|instances?|gpus?)(?: is| are)? (?:available|free)"
    r"|no (?:available|free) (?:slots?|workers?|instances?|gpus?)|reject\w* .{0,30}\bload\b|load shed",
    re.IGNORECASE,
)

_TYPE_STATUSES = {
    "authenticationerror": 401,
    "invalidapikey": 401,
    "permissionerror": 403,
    "permissiondeniederror": 403,
    "notfounderror": 404,
    "modelnotfound": 404,
    "invalidrequesterror": 400,
    "badrequesterror": 400,
    "badrequest": 400,
    "validationerror": 400,
    "unprocessableentityerror": 422,
    "ratelimiterror": 429,
    "overloadederror": 529,
    "internalservererror": 500,
    "servererror": 500,
    "apierror": 500,
    "serviceunavailable": 503,
    "serviceunavailableerror": 503,
}
"""Statuses of error types, without underscores, for errors that come without a status."""


def service_error(
    status: int | None,
    body: Any,
    backend: str,
    *,
    headers: Mapping[str, str] | None = None,
    secret: Secret | None = None,
    default_status: int = 502,
) -> BackendError:
    """
    Return the error that a service reports.

    Args:
        status: The HTTP status of the error; None if it came with another status, such as inside a 200.
        body: The decoded body, or its text if it was not JSON.
        backend: The backend's name.
        headers: The response headers.
        secret: The key, to redact it in the message.
        default_status: The status to assume if neither `status` nor the body states one.
    """
    said = read_error(body)
    if status is None:
        status = said.status or _status_of_type(said.codes) or default_status
    return error_for(status, said, backend, headers=headers, secret=secret)


def error_for(
    status: int,
    said: ServiceError,
    backend: str,
    *,
    headers: Mapping[str, str] | None = None,
    secret: Secret | None = None,
) -> BackendError:
    """Return the error for a status and what the service said; see the table of this module."""
    codes = [_squeezed(code) for code in said.codes]
    code = next((one for one in said.codes if one != str(status)), "")
    message = _full_message(status, said, backend, code, headers, secret)
    code = code if secret is None else secret.redact(code)
    if status == 402 or any(one in _QUOTA_CODES for one in codes):
        return QuotaExhausted(message, backend=backend, status=status, code=code)
    if _is_too_long(status, said, codes):
        return PromptTooLong(message, backend=backend, status=status, code=code)
    if not said.is_page and _is_content_refused(status, said, codes):
        return ContentRefused(message, backend=backend, status=status, code=code)
    wait = retry_after(headers or {})
    wait = said.wait if wait is None else wait
    if wait is None and _is_quota_used_up(status, said):
        return QuotaExhausted(message, backend=backend, status=status, code=code)
    if status != 401 and is_refusal(status, said, headers):
        rate = read_rate_limits(headers or {})
        return RateLimited(
            message, rate_limit=rate, retry_after=wait, backend=backend, status=status, code=code
        )
    if status in _RETRYABLE_STATUSES or status >= 500:
        return TransientBackendError(message, retry_after=wait, backend=backend, status=status, code=code)
    if status == 401:
        return AuthenticationFailed(message, backend=backend, status=status, code=code)
    return PermanentBackendError(
        message, refused_fields=refused_fields(status, said), backend=backend, status=status, code=code
    )


def is_refusal(status: int, said: ServiceError, headers: Mapping[str, str] | None = None) -> bool:
    """Return whether a service refuses a call for now, because it is busy or the caller too fast."""
    if status in _REFUSAL_STATUSES or (headers or {}).get("x-envoy-overloaded"):
        return True
    if status == 503 and retry_after(headers or {}) is not None:
        return True  # it is there, and says when it will have time
    if any(_REFUSAL_CODES.search(_squeezed(code)) for code in said.codes):
        return True
    if status >= 500:
        return _REFUSAL_WORDS.search(said.text) is not None
    return status not in (404, 413) and _says_at_once(_REFUSAL_WORDS, said)


def is_prompt_too_long(text: str) -> bool:
    """Return whether the words of an error say that the prompt exceeds the model's context."""
    return _CONTEXT_WORDS.search(text) is not None


def says_busy(text: str) -> bool:
    """Return whether the words of an error say that the service is busy."""
    return _REFUSAL_WORDS.search(text) is not None


def _is_quota_used_up(status: int, said: ServiceError) -> bool:
    """Return whether the message says so; "quota" is also said of a limit per minute, which states how long to wait."""
    if status not in _QUOTA_WORD_STATUSES or said.is_page or _PER_TIME.search(said.text):
        return False
    message = said.message[: _BEGINNING_OF_400 if status == 400 else _BEGINNING]
    return _QUOTA_WORDS.search(_QUOTED.sub("", message)) is not None


def _is_too_long(status: int, said: ServiceError, codes: list[str]) -> bool:
    if any(_CONTEXT_CODES.search(code) for code in codes) or status == 413:
        return True
    if status == 429:
        return _TOO_LARGE.match(said.text) is not None
    return status in _CONTEXT_STATUSES and is_prompt_too_long(said.text)


def _is_content_refused(status: int, said: ServiceError, codes: list[str]) -> bool:
    if 400 <= status < 500 and any(_CONTENT_CODES.search(code) for code in codes):
        return True
    return status in _CONTENT_STATUSES and _says_at_once(_CONTENT_WORDS, said)


def _says_at_once(words: re.Pattern[str], said: ServiceError) -> bool:
    return words.search(_QUOTED.sub("", said.text[:_BEGINNING])) is not None


def _full_message(
    status: int,
    said: ServiceError,
    backend: str,
    code: str,
    headers: Mapping[str, str] | None,
    secret: Secret | None,
) -> str:
    # Redacted before it is cut: half a key would be no match.
    message = said.message if secret is None else secret.redact(said.message)
    message = message[:MAX_ERROR_TEXT].strip()
    code = code if secret is None else secret.redact(code)
    if code and code not in message:
        message = f"{message} ({code})".lstrip()
    message = f"{backend} answered {status}: {message}" if message else f"{backend} answered {status}"
    if 300 <= status < 400:
        location = hide_userinfo((headers or {}).get("location", "elsewhere"))
        location = (location if secret is None else secret.redact(location))[:MAX_ERROR_TEXT]
        message = f"{message} (it redirects to {location}; use the final address as the base URL)"
    return message


def _status_of_type(codes: tuple[str, ...]) -> int | None:
    return next((_TYPE_STATUSES[one] for one in map(_squeezed, codes) if one in _TYPE_STATUSES), None)


def _squeezed(code: str) -> str:
    """Return a code in lower case without separators: "rateLimitExceeded" and "rate_limit_exceeded" alike."""
    return "".join(filter(str.isalnum, code)).lower()
