"""
HTTP transport of the backends: sync and async requests over httpx or aiohttp.

Backends send their requests through a `Transport`. Their default is `HTTPTransport`: httpx for blocking calls
and on trio, aiohttp on asyncio, because above some 64 calls in flight httpx needs 5 to 50 times as much CPU time
(see the measurements). Pass ``transport=`` to replace it, or to set a proxy or your own certificate authority:

    VLLMServerLLM("https://llm.example", transport=HTTPTransport(ca_bundle="company.pem"))

The connection pools have no limit of their own: a runner's `Limits` bound the calls in flight, and each call
uses one connection.
"""

from __future__ import annotations

import os

from .._validation import is_number
from ..errors import ConfigurationError
from .body import DEFAULT_MAX_ANSWER, check_max_answer
from .client_lifetime import loop_is_trio
from .recipe import PickledAsRecipe, arguments_of
from .secrets import Secret
from .types import Headers, HTTPResponse, Timeout, load_ca_bundle


class HTTPTransport(PickledAsRecipe):
    """
    Transport over httpx for blocking calls and on trio, over aiohttp on asyncio.

    Args:
        proxy: The URL of an HTTP proxy, with user and password if it needs them. If None, the environment's
            ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` apply. SOCKS proxies are not supported.
        ca_bundle: A PEM file of certificate authorities to trust instead of the system's.
        keepalive_expiry: Seconds after which an idle connection is closed. Keep it below the server's own (5 in
            vLLM); otherwise a request may be sent on a connection that the server is closing.
        max_answer: Greatest size of an answer in bytes, after decompression; the default is 64 MiB. A longer one is
            not read further, and fails its call with a `PermanentBackendError`. Of an error only the first 128 KiB are
            read, whatever this is.

    Raises:
        ConfigurationError: If the file cannot be read, or an argument has the wrong type.
    """

    def __init__(
        self,
        *,
        proxy: str | None = None,
        ca_bundle: str | os.PathLike[str] | None = None,
        keepalive_expiry: float = 4.0,
        max_answer: int = DEFAULT_MAX_ANSWER,
    ) -> None:
        self._made_with = arguments_of(locals())
        from .aiohttp import AiohttpTransport
        from .httpx import HttpxTransport

        if proxy is not None and not str(proxy).startswith(("http://", "https://")):
            raise ConfigurationError('proxy must be a URL; for example proxy="http://proxy.example:3128"')
        if not is_number(keepalive_expiry) or keepalive_expiry < 0:
            raise ConfigurationError(
                f"keepalive_expiry must be a number of seconds of at least 0, got {keepalive_expiry!r}; "
                "for example keepalive_expiry=4.0"
            )
        check_max_answer(max_answer)
        context = load_ca_bundle(ca_bundle)
        self._httpx = HttpxTransport(
            proxy=proxy, ssl_context=context, keepalive_expiry=keepalive_expiry, max_answer=max_answer
        )
        self._aiohttp = AiohttpTransport(
            proxy=proxy, ssl_context=context, keepalive_expiry=keepalive_expiry, max_answer=max_answer
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"  # a proxy's URL may hold a password

    @property
    def proxy_secrets(self) -> tuple[Secret, ...]:
        """The passwords of the proxies, to redact them in errors."""
        return self._httpx.proxy_secrets

    def send(
        self, method: str, url: str, headers: Headers, body: bytes | None, timeout: Timeout
    ) -> HTTPResponse:
        """
        Send a request and wait for the response, blocking the thread.

        Raises:
            RunStopped: If the call was cancelled.
            TransportError: If no response came.
            ConfigurationError: If the environment names a proxy that cannot be used.
        """
        return self._httpx.send(method, url, headers, body, timeout)

    async def asend(
        self, method: str, url: str, headers: Headers, body: bytes | None, timeout: Timeout
    ) -> HTTPResponse:
        """
        Send a request and wait for the response on the running event loop.

        Raises:
            TransportError: If no response came.
            ConfigurationError: If the environment names a proxy that cannot be used.
        """
        if loop_is_trio():
            return await self._httpx.asend(method, url, headers, body, timeout)
        return await self._aiohttp.asend(method, url, headers, body, timeout)

    def close(self) -> None:
        """Close the connections of blocking calls."""
        self._httpx.close()

    async def aclose(self) -> None:
        """Close the running event loop's connections."""
        await self._aiohttp.aclose()
        await self._httpx.aclose()
