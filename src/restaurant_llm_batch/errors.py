"""
Error tree: every error that the library raises or reports.

BatchError
├── ConfigurationError (ValueError)   invalid argument or item: raised before any call; the message gives an example;
│                                     stops the run if a backend raises it
├── RunStopped                        the run stopped before this item was finished
├── DeadlineExceeded                  a time limit passed: the item's, or that of a call that cannot be interrupted
├── StoreError                        the store cannot be read or written
├── BackendError                      .backend, .status, .code, .reply; __cause__ is the SDK's own error
│   ├── TransientBackendError         worth another attempt; .retry_after in seconds, or None
│   │   └── RateLimited               the service refused the call; does not count as an attempt
│   ├── PromptTooLong                 shrink or split the prompt, then ask again
│   └── PermanentBackendError         asking again will not help
│       ├── ContentRefused            a content filter rejected the prompt or the reply
│       ├── SubmissionUnknown         a paid job may or may not exist; never submitted again
│       ├── AuthenticationFailed      stops the run
│       └── QuotaExhausted            stops the run
└── OutputError                       the model's reply cannot be used; .reply is kept
    ├── OutputTruncated               cut off at its token limit
    └── OutputInvalid                 not the JSON that was asked for

All errors can be pickled, and none of them ever holds an API key.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ._text import message_text

if TYPE_CHECKING:
    from ._llm_response import LLMResponse, RateLimitInfo


class BatchError(Exception):
    """
    Base class of every error of this library.

    Attributes are passed as keyword arguments and survive pickling. A message is one line of at most 4,000 characters,
    without control characters, whatever a service or a review put into it.
    """

    def __init__(self, message: str = "") -> None:
        text: object = message
        super().__init__(message_text(text) if isinstance(text, str) else text)

    def __reduce__(self) -> tuple[Any, ...]:
        # By default an exception is unpickled from `args` alone, which would drop the keyword-only attributes.
        return (type(self), self.args, self.__dict__)


class ConfigurationError(BatchError, ValueError):
    """
    An argument, setting or item is invalid; the message names the field, what is expected, and an example.

    Attributes:
        of_one_item: Whether only the item is at fault. Any other one that a backend raises stops the run, because
            each further call would fail like it.
    """

    of_one_item: bool = False


class RunStopped(BatchError):
    """The run ended before this item did; ``__cause__`` is the error that stopped the run, if there was one."""


class DeadlineExceeded(BatchError):
    """The time limit of an item passed, or of a blocking call: that call continues in its thread, unretried."""


class StoreError(BatchError):
    """The store cannot be read or written; the message names the file and says what to do."""


# Not compiled at import: only errors need them, and `re` keeps what it has compiled.
_QUOTED = r"(?<!\w)(?:'[^']*'|\"[^\"]*\"|`[^`]*`|“[^”]*”)"
_NAMED_ID = r"\b(?:id|trace|ray|reference)\b[\s:=#]{1,3}[\w-]+"
_WITH_DIGIT = r"\S*\d\S*"
_SKELETON_LENGTH = 160


class BackendError(BatchError):
    """
    A search or LLM service failed.

    Attributes:
        backend: Name of the backend that raised the error, or "".
        status: HTTP status code, or None if there was no HTTP response.
        code: The service's own code or type of the error, such as "model_not_found", or "".
        reply: What the model had written when the call failed, with its tokens, which are paid for; or None.
    """

    def __init__(
        self,
        message: str = "",
        *,
        backend: str = "",
        status: int | None = None,
        code: str = "",
        reply: LLMResponse | None = None,
    ) -> None:
        super().__init__(message)
        self.backend = backend
        self.status = status
        self.code = code
        self.reply = reply

    @property
    def signature(self) -> tuple[str, str, int | None, str, str]:
        """
        What two errors with the same cause have in common: class, backend, status, code and reason.

        The reason is the message without quoted text, without words that contain a digit, and without what follows
        "id", because numbers, names and request ids differ from call to call.
        """
        text = re.sub(_NAMED_ID, "#", str(self)[:1000].lower())
        text = re.sub(_WITH_DIGIT, "#", re.sub(_QUOTED, "#", text))
        reason = " ".join(text.split())[:_SKELETON_LENGTH]
        return type(self).__name__, self.backend, self.status, self.code, reason


class TransientBackendError(BackendError):
    """
    A failure that may pass: a lost connection, a timeout, a 5xx.

    Attributes:
        retry_after: Minimum seconds to wait before the next attempt, as requested by the service; or None.
        local_shortage: Whether this process or machine lacked something, such as file descriptors. The request was
            not sent, so the service is not at fault; fewer calls in flight will help.
    """

    def __init__(
        self,
        message: str = "",
        *,
        retry_after: float | None = None,
        local_shortage: bool = False,
        backend: str = "",
        status: int | None = None,
        code: str = "",
        reply: LLMResponse | None = None,
    ) -> None:
        super().__init__(message, backend=backend, status=status, code=code, reply=reply)
        self.retry_after = retry_after
        self.local_shortage = local_shortage


class RateLimited(TransientBackendError):
    """
    The service refused the call for now: 429, or any status if it says that it is busy or overloaded.

    The call was not processed, so no attempt is used up.

    Attributes:
        rate_limit: Rate-limit status that the service reported with the refusal, or None.
    """

    def __init__(
        self,
        message: str = "",
        *,
        rate_limit: RateLimitInfo | None = None,
        retry_after: float | None = None,
        backend: str = "",
        status: int | None = None,
        code: str = "",
    ) -> None:
        super().__init__(message, retry_after=retry_after, backend=backend, status=status, code=code)
        self.rate_limit = rate_limit


class PromptTooLong(BackendError):
    """The prompt does not fit the model's context."""


class PermanentBackendError(BackendError):
    """
    A failure that a retry cannot fix: HTTP 400, 403, 404, 422 and similar.

    Attributes:
        refused_fields: Fields of the request that the service says it does not support.
    """

    def __init__(
        self,
        message: str = "",
        *,
        refused_fields: tuple[str, ...] = (),
        backend: str = "",
        status: int | None = None,
        code: str = "",
        reply: LLMResponse | None = None,
    ) -> None:
        super().__init__(message, backend=backend, status=status, code=code, reply=reply)
        self.refused_fields = refused_fields


class ContentRefused(PermanentBackendError):
    """A content filter of the service rejected the prompt, or cut the reply off; `reply` has what was written."""


class SubmissionUnknown(PermanentBackendError):
    """The connection was lost while a paid job was submitted; it may be running, so it is not sent again."""


class AuthenticationFailed(PermanentBackendError):
    """The service rejects the API key (HTTP 401); the run stops."""


class QuotaExhausted(PermanentBackendError):
    """The account has no credit or quota left; the run stops."""


class OutputError(BatchError):
    """
    The model answered, but its reply cannot be used.

    Attributes:
        reply: The unusable reply, so that paid output is not lost; or None.
    """

    def __init__(self, message: str = "", *, reply: LLMResponse | None = None) -> None:
        super().__init__(message)
        self.reply = reply


class OutputTruncated(OutputError):
    """The reply was cut off at its token limit."""


class OutputInvalid(OutputError):
    """The reply is not the JSON that was asked for."""


STOPS_THE_RUN = (AuthenticationFailed, QuotaExhausted)
"""Fatal errors: after one of them, no further call of the run can succeed."""
