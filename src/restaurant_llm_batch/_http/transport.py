"""
The seam to HTTP: one exchange, in both colours, on whichever client.

Backends that speak HTTP themselves do it through a `Transport`. The one they make is `HTTPTransport`: httpx
where the call blocks and on trio, aiohttp on asyncio, because above some 64 calls in flight httpx costs five
to fifty times as much of the processor (see the measurements). Pass another one to change that, or
`HTTPTransport(...)` for a proxy or a certificate authority of your own:

    VLLMServerLLM("https://llm.example", transport=HTTPTransport(ca_bundle="company.pem"))

A pool holds as many connections as there are calls in flight, and no limit of its own: how many calls that
may be is what a runner's `Limits` say.
"""

from __future__ import annotations

import os
from math import inf

from ..errors import ConfigurationError
from .client_lifetime import loop_is_trio
from .types import Headers, HTTPResponse, Timeout, trusting


class HTTPTransport:
    """
    httpx for blocking calls and on trio, aiohttp on asyncio.

    Args:
        proxy: A proxy's URL, with its user and password if it wants them; without one, the environment's
            ``HTTP_PROXY``, ``HTTPS_PROXY`` and ``NO_PROXY`` are followed.
        ca_bundle: A file of certificate authorities to trust instead of the system's.
        keepalive_expiry: Seconds after which an idle connection is closed. Less than the server's own (5 in vLLM),
            or now and then a request is sent into a connection that is just being closed.

    Raises:
        ConfigurationError: When the file cannot be read, or an argument is of the wrong kind.
    """

    def __init__(
        self,
        *,
        proxy: str | None = None,
        ca_bundle: str | os.PathLike[str] | None = None,
        keepalive_expiry: float = 4.0,
    ) -> None:
        from .aiohttp import AiohttpTransport
        from .httpx import HttpxTransport

        if proxy is not None and not str(proxy).startswith(("http://", "https://")):
            raise ConfigurationError(
                'proxy must be a URL; write for example proxy="http://proxy.example:3128"'
            )
        idle: object = keepalive_expiry
        if not isinstance(idle, (int, float)) or isinstance(idle, bool) or not 0 <= idle < inf:
            raise ConfigurationError(
                f"keepalive_expiry must be a number of seconds of at least 0, got {keepalive_expiry!r}; "
                "for example keepalive_expiry=4.0"
            )
        context = trusting(ca_bundle)
        self._httpx = HttpxTransport(proxy=proxy, ssl_context=context, keepalive_expiry=keepalive_expiry)
        self._aiohttp = AiohttpTransport(proxy=proxy, ssl_context=context, keepalive_expiry=keepalive_expiry)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"  # a proxy's URL may hold a password

    def send(
        self, method: str, url: str, headers: Headers, body: bytes | None, timeout: Timeout
    ) -> HTTPResponse:
        """Send a request and wait for the answer, blocking the thread."""
        return self._httpx.send(method, url, headers, body, timeout)

    async def asend(
        self, method: str, url: str, headers: Headers, body: bytes | None, timeout: Timeout
    ) -> HTTPResponse:
        """Send a request and wait for the answer on the running loop."""
        if loop_is_trio():
            return await self._httpx.asend(method, url, headers, body, timeout)
        return await self._aiohttp.asend(method, url, headers, body, timeout)

    def close(self) -> None:
        """Close the connections of blocking calls."""
        self._httpx.close()

    async def aclose(self) -> None:
        """Close the running loop's connections."""
        await self._aiohttp.aclose()
        await self._httpx.aclose()
