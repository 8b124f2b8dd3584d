"""
Every error the library raises or reports.

BatchError
├── ConfigurationError (ValueError)   yours to mend: raised before any call, says what to write
├── RunStopped                        this item was not run, or not to its end, because the run stopped
├── DeadlineExceeded                  this item's time was up, or that of a call that cannot be ended
├── StoreError                        the store could not be read or written
├── BackendError                      .backend, .status; __cause__ is the SDK's own error
│   ├── TransientBackendError         worth another attempt; .retry_after in seconds, or None
│   │   └── RateLimited               the service refused the call; does not count as an attempt
│   ├── PromptTooLong                 shrink or split the prompt, then ask again
│   └── PermanentBackendError         asking again will not help
│       ├── SubmissionUnknown         a paid job may or may not exist; never submitted again
│       ├── AuthenticationFailed      stops the run
│       └── QuotaExhausted            stops the run
└── OutputError                       the model answered, but not usably; .reply is kept
    ├── OutputTruncated               cut off at its token limit
    └── OutputInvalid                 not the JSON that was asked for

All of them can be pickled, and none of them ever holds an API key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._llm_response import LLMResponse, RateLimitInfo


class BatchError(Exception):
    """
    Root of every error of this library.

    Attributes are given as keyword arguments and survive pickling.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are rebuilt from `args` alone, which would drop our keyword-only attributes.
        return (type(self), self.args, self.__dict__)


class ConfigurationError(BatchError, ValueError):
    """What was passed cannot work; the message names the field and what to write instead."""


class RunStopped(BatchError):
    """The run ended before this item did; ``__cause__`` is what stopped it, where something did."""


class DeadlineExceeded(BatchError):
    """An item's time was up, or that of a blocking call, which goes on in its thread and is not made again."""


class StoreError(BatchError):
    """The store could not be read or written; the message names the file and says what to do."""


class BackendError(BatchError):
    """
    A search or LLM service failed.

    Attributes:
        backend: Name of the backend that raised it, or "".
        status: HTTP status, where there is one.
    """

    def __init__(self, message: str = "", *, backend: str = "", status: int | None = None) -> None:
        super().__init__(message)
        self.backend = backend
        self.status = status


class TransientBackendError(BackendError):
    """
    A failure that may pass: a lost connection, a timeout, a 5xx.

    Attributes:
        retry_after: Seconds the service asked us to wait at least, or None.
    """

    def __init__(
        self,
        message: str = "",
        *,
        retry_after: float | None = None,
        backend: str = "",
        status: int | None = None,
    ) -> None:
        super().__init__(message, backend=backend, status=status)
        self.retry_after = retry_after


class RateLimited(TransientBackendError):
    """
    The service refused the call for now (429); the call was not tried, so no attempt is used up.

    Attributes:
        rate_limit: What the service said was left of its limits, or None.
    """

    def __init__(
        self,
        message: str = "",
        *,
        rate_limit: RateLimitInfo | None = None,
        retry_after: float | None = None,
        backend: str = "",
        status: int | None = None,
    ) -> None:
        super().__init__(message, retry_after=retry_after, backend=backend, status=status)
        self.rate_limit = rate_limit


class PromptTooLong(BackendError):
    """The prompt does not fit the model's context."""


class PermanentBackendError(BackendError):
    """A failure that asking again cannot mend: 400, 404, 422 and their like."""


class SubmissionUnknown(PermanentBackendError):
    """The connection was lost while a paid job was submitted; it may be running, so it is not sent again."""


class AuthenticationFailed(PermanentBackendError):
    """The service does not accept the key (401, 403); the run stops."""


class QuotaExhausted(PermanentBackendError):
    """The account has no credit or quota left; the run stops."""


class OutputError(BatchError):
    """
    The model answered, but the answer cannot be used.

    Attributes:
        reply: The reply as it came, so that what was paid for is not lost.
    """

    def __init__(self, message: str = "", *, reply: LLMResponse | None = None) -> None:
        super().__init__(message)
        self.reply = reply


class OutputTruncated(OutputError):
    """The answer was cut off at its token limit."""


class OutputInvalid(OutputError):
    """The answer is not the JSON that was asked for."""


STOPS_THE_RUN = (AuthenticationFailed, QuotaExhausted)
"""Errors after which no further call of the run can succeed."""
