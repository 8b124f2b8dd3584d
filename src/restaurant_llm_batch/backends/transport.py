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
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import inf, isfinite
from typing import Protocol, TypeAlias

from ..errors import ConfigurationError
from ._http.per_loop import loop_is_trio

Headers: TypeAlias = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What a server answered.

    Attributes:
        status: The HTTP status.
        headers: The headers; names compare without case.
        body: The body, decompressed.
    """

    status: int
    headers: Headers
    body: bytes


@dataclass(frozen=True, slots=True)
class Timeout:
    """
    How long to wait for a server, in seconds.

    Attributes:
        total: For the whole exchange, from the moment it is sent.
        connect: For a connection.
        read: For the next bytes of the answer; None for no bound but `total`. A model that does not stream
            sends nothing until it has finished, so this bounds its thinking.

    Raises:
        ConfigurationError: When one of them is not a positive number.
    """

    total: float = 600.0
    connect: float = 10.0
    read: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.name == "read":
                continue
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not isfinite(value) or value <= 0:
                raise ConfigurationError(
                    f"Timeout.{field.name} must be a number of seconds above 0, got {value!r}; "
                    f"write for example Timeout({field.name}=30)"
                )


def as_timeout(value: float | Timeout) -> Timeout:
    """
    Return a timeout; a number is the total.

    Raises:
        ConfigurationError: When it is neither, or not above 0.
    """
    return value if isinstance(value, Timeout) else Timeout(total=value)


class TransportError(Exception):
    """
    No answer came.

    Attributes:
        may_have_arrived: Whether the server may have read the request; False when no connection was made.
        timed_out: Whether it was the time that ran out.
    """

    def __init__(self, message: str, *, may_have_arrived: bool, timed_out: bool = False) -> None:
        super().__init__(message)
        self.may_have_arrived = may_have_arrived
        self.timed_out = timed_out


class Transport(Protocol):
    """
    Makes HTTP exchanges; redirects are answers like any other.

    Both methods raise `TransportError` when no answer came. Optional: ``close()`` and ``aclose()``, as for
    backends.
    """

    def send(self, method: str, url: str, headers: Headers, body: bytes | None, timeout: Timeout) -> Answer:
        """Send a request and wait for the answer, blocking the thread; any number of threads may."""
        ...

    async def asend(
        self, method: str, url: str, headers: Headers, body: bytes | None, timeout: Timeout
    ) -> Answer:
        """Send a request and wait for the answer; being cancelled closes the connection."""
        ...


class HTTPTransport:
    """
    httpx for blocking calls and on trio, aiohttp on asyncio.

    Args:
        proxy: A proxy's URL, with its user and password if it wants them; without one, the environment's
            ``HTTP_PROXY``, ``HTTPS_PROXY`` and ``NO_PROXY`` are followed.
        ca_bundle: A file of certificate authorities to trust instead of the system's.
        keep_alive: Seconds after which an idle connection is closed. Less than the server's own (5 in vLLM),
            or now and then a request is sent into a connection that is just being closed.

    Raises:
        ConfigurationError: When the file cannot be read, or an argument is of the wrong kind.
    """

    def __init__(
        self,
        *,
        proxy: str | None = None,
        ca_bundle: str | os.PathLike[str] | None = None,
        keep_alive: float = 4.0,
    ) -> None:
        from ._http.over_aiohttp import AiohttpTransport
        from ._http.over_httpx import HttpxTransport

        if proxy is not None and not str(proxy).startswith(("http://", "https://")):
            raise ConfigurationError(
                'proxy must be a URL; write for example proxy="http://proxy.example:3128"'
            )
        idle: object = keep_alive
        if not isinstance(idle, (int, float)) or isinstance(idle, bool) or not 0 <= idle < inf:
            raise ConfigurationError(
                f"keep_alive must be a number of seconds from 0, got {keep_alive!r}; write for example keep_alive=4.0"
            )
        context = trusting(ca_bundle)
        self._httpx = HttpxTransport(proxy=proxy, ssl_context=context, keep_alive=keep_alive)
        self._aiohttp = AiohttpTransport(proxy=proxy, ssl_context=context, keep_alive=keep_alive)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"  # a proxy's URL may hold a password

    def send(self, method: str, url: str, headers: Headers, body: bytes | None, timeout: Timeout) -> Answer:
        """Send a request and wait for the answer, blocking the thread."""
        return self._httpx.send(method, url, headers, body, timeout)

    async def asend(
        self, method: str, url: str, headers: Headers, body: bytes | None, timeout: Timeout
    ) -> Answer:
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


def trusting(ca_bundle: str | os.PathLike[str] | None) -> ssl.SSLContext | None:
    """
    Return a context that trusts the authorities in a file, or None for the system's.

    Raises:
        ConfigurationError: When the file cannot be read or holds none.
    """
    if ca_bundle is None:
        return None
    try:
        return ssl.create_default_context(cafile=os.fspath(ca_bundle))
    except (OSError, ssl.SSLError, TypeError) as error:
        raise ConfigurationError(
            f"ca_bundle={ca_bundle!r} is not a file of certificates in PEM form: {error}"
        ) from error


def system_trust() -> ssl.SSLContext:
    """Return a context that trusts the system's authorities, and certifi's where the system has none."""
    context = ssl.create_default_context()
    if not context.cert_store_stats()["x509_ca"]:  # a slim container, say
        import certifi

        context.load_verify_locations(certifi.where())
    return context
