"""
The border of a backend: every error that leaves it is one of this library, and holds no secret.

An error tracker records more of an error than its message: its causes, and the local variables of every function that
it passed. Those are the request's headers with the key, and whatever the service sent back, the key perhaps among it.
So an error leaves a backend without the frames below its public method, and without a cause in which a key stands, and
a reply without a key in its text. An exception that is not ours, such as one for JSON that is nested too deeply,
becomes a `PermanentBackendError`: the answer came, and would be paid for again.

What is logged inside of a backend has not passed this border. There, a log line either has no text of a service in it,
or is written by a `SafeLog`; no other module of `_http` and `backends` logs what it received.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from .._foreign import describe
from .._llm_response import LLMResponse
from .._text import message_text
from ..errors import BackendError, BatchError, PermanentBackendError
from ..steps import adrive, drive
from .exchange import HTTPClient, HTTPFlow
from .secrets import Secret, causes, hide_userinfo, is_free_of

T = TypeVar("T")

_MIN_LENGTH_IN_REPLY = 8
"""Characters of the shortest secret that is hidden in what a model has written."""

log = logging.getLogger("restaurant_llm_batch")


def leaving(
    error: Exception, backend: str, secret: Secret | None, others: Iterable[Secret] = ()
) -> Exception:
    """
    Return the error with which a backend's method ends; raise it outside of the ``except`` that caught `error`.

    Args:
        error: What was raised inside.
        backend: The backend's name.
        secret: The key, or None.
        others: Further secrets, such as the passwords of proxies.
    """
    secrets = [one for one in (secret, *others) if one is not None]
    if not isinstance(error, BatchError):
        foreign, error = (
            error,
            PermanentBackendError(
                f"{backend}: the answer cannot be used: {describe(error)}", backend=backend
            ),
        )
        error.__cause__ = foreign
    _redact(error, secrets)
    for below in (error.__cause__, error.__context__):
        if below is not None and not is_free_of(below, *secrets):
            error.__cause__ = error.__context__ = None
            error.__suppress_context__ = True
            break
    for one in causes(error):
        one.__traceback__ = None
    return error


def _redact(error: BatchError, secrets: Sequence[Secret]) -> None:
    shown = tuple(_redacted(value, secrets) for value in error.args)
    if shown != error.args:
        error.args = shown
    if isinstance(error, BackendError):
        error.code = _redacted(error.code, secrets)
        if error.reply is not None:
            error.reply = reply_without(secrets, error.reply)


def _redacted(value: Any, secrets: Sequence[Secret]) -> Any:
    if not isinstance(value, str):
        return value
    if not value.isascii():
        value = value.encode("utf-8", "replace").decode()  # a lone surrogate could not be written anywhere
    value = hide_userinfo(value)
    for secret in secrets:
        value = secret.redact(value)
    return value


def reply_without(secrets: Iterable[Secret | None], reply: LLMResponse) -> LLMResponse:
    """
    Return a reply in whose text no secret stands: some services answer a wrong key with a text that repeats it.

    Nothing else is changed; a secret that is so short that a model may write it is left.
    """
    text = reply.text
    for secret in secrets:
        if secret is not None and len(secret.reveal()) >= _MIN_LENGTH_IN_REPLY and secret.stands_in(text):
            text = secret.redact(text)
    return reply if text is reply.text else replace(reply, text=text)


class SafeLog:
    """
    Logs what services sent to one backend, with its secrets hidden.

    Args:
        secret: The key, or None.
        client: Knows the passwords of the proxies that it goes through.
    """

    def __init__(self, secret: Secret | None, client: HTTPClient) -> None:
        self._secret = secret
        self._client = client

    def info(self, message: str, *args: object) -> None:
        """Log at level INFO; `message` is the library's own, and `args` may come from a service."""
        log.info(message, *map(self._shown, args), stacklevel=2)

    def warning(self, message: str, *args: object) -> None:
        """Log at level WARNING; see `info`."""
        log.warning(message, *map(self._shown, args), stacklevel=2)

    def _shown(self, value: object) -> str:
        secrets = () if self._secret is None else (self._secret,)
        return message_text(_redacted(str(value), (*secrets, *self._client.proxy_secrets)))


def call(flow: HTTPFlow[T], client: HTTPClient, backend: str, secret: Secret | None) -> T:
    """Run a backend's flow to its end in the calling thread; raises as `leaving` says."""
    try:
        return drive(flow, client.send)
    except Exception as error:
        failure = leaving(error, backend, secret, client.proxy_secrets)
    raise failure


async def acall(flow: HTTPFlow[T], client: HTTPClient, backend: str, secret: Secret | None) -> T:
    """Run a backend's flow to its end on the running event loop; see `call`."""
    try:
        return await adrive(flow, client.asend)
    except Exception as error:
        failure = leaving(error, backend, secret, client.proxy_secrets)
    raise failure
